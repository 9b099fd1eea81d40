"""Masks from clicks and boxes by an exported prompt head, as `cutie_geo.inference.head_prompter` predicts them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cutie_geo.onnx.folder import OnnxModel
from cutie_geo.onnx.frames import Geometry

ZOOM_MARGIN = 1.4
"""Size of the enlarged view relative to the object."""
ZOOM_SIDE = 256
"""Longer side of the enlarged view at the encoder, in pixels."""
ZOOM_GAIN = 1.25
"""A view is enlarged only if the object appears at least this many times larger than in the frame."""
ZOOM_LEAST = 32
"""Shortest side of an enlarged view, in pixels of the frame."""
SAME_VIEW = 0.8
"""An enlarged view is used again if its IoU with the next one is at least this."""


class PromptedMask(NamedTuple):
    """Prediction for the prompts of one object."""

    logits: np.ndarray
    """Mask logits (H, W) at the size of the frame; the mask is where they are positive."""
    quality: float
    """Estimate of the mask's IoU with the object, 0 to 1."""


class Prompt(NamedTuple):
    """Clicks and box of one object, in pixels of the frame."""

    points: tuple[tuple[float, float, int], ...]
    """(x, y, label); label 1 is on the object, 0 is not."""
    box: tuple[float, float, float, float] | None
    """(x0, y0, x1, y1)."""


class Region(NamedTuple):
    """Rectangle of a frame, in whole pixels; half open."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.y1 - self.y0, self.x1 - self.x0

    def crop(self, x: np.ndarray) -> np.ndarray:
        """Return the part of a map (..., H, W), as a view."""
        return x[..., self.y0 : self.y1, self.x0 : self.x1]

    def iou(self, other: "Region") -> float:
        """Return the intersection over union with another rectangle."""
        wide = min(self.x1, other.x1) - max(self.x0, other.x0)
        high = min(self.y1, other.y1) - max(self.y0, other.y0)
        both = max(wide, 0) * max(high, 0)
        areas = [one.size[0] * one.size[1] for one in (self, other)]
        return both / (sum(areas) - both)


class EncodedView(NamedTuple):
    """An encoded part of a frame."""

    region: Region
    geometry: Geometry
    """From the region to the encoder's input."""
    features: Mapping[str, np.ndarray]
    """`f16`, `f8` and `f4`."""


class Prompter:
    """Predictor of masks with the graphs `prompt` and, for enlarged views of small objects, `look`.

    Raises:
        ValueError: If the export has no prompt head.
    """

    def __init__(self, model: OnnxModel) -> None:
        self.model, self.about = model, model.description
        if "prompt" not in self.about.raw["graphs"]:
            raise ValueError(
                f"prompt: {self.about.model} was exported without a prompt head, expected a model that has one, such "
                "as cutie-geo-tiny"
            )

    def predict(
        self,
        picture: np.ndarray,
        whole: EncodedView,
        zoomed: list[EncodedView],
        prompt: Prompt,
        mask: np.ndarray | None,
        zoom: bool,
    ) -> PromptedMask:
        """Return the mask of one object.

        Args:
            picture: Frame (3, H, W) in [0, 1].
            whole: The encoded frame.
            zoomed: The last enlarged view, if any; replaced if another is encoded.
            prompt: All clicks on the object so far, and its box.
            mask: Probabilities (H, W) of the object so far.
            zoom: Refine small objects on an enlarged view, if the export has `look`.

        Raises:
            ValueError: If there are more clicks than the export takes.
        """
        found = connected(self._look(whole, prompt, mask), prompt, mask)
        if not zoom or "look" not in self.about.raw["graphs"]:
            return found
        region = enlarged_region(found.logits > 0, prompt, whole.geometry.internal[0] / picture.shape[1])
        if region is None:
            return found
        view = self._zoomed(picture, zoomed, region)
        closer = self._look(view, prompt, sigmoid(found.logits))
        logits = found.logits.copy()
        view.region.crop(logits)[:] = closer.logits
        return connected(PromptedMask(logits, closer.quality), prompt, mask)

    def _zoomed(self, picture: np.ndarray, zoomed: list[EncodedView], region: Region) -> EncodedView:
        """Return the enlarged view of a region; the last one again if it is nearly the same."""
        for view in zoomed:
            if view.region.iou(region) >= SAME_VIEW:
                return view
        scale, multiple = ZOOM_SIDE / max(region.size), self.about.prompt_multiple
        size = (max(round(region.size[0] * scale), 1), max(round(region.size[1] * scale), 1))
        high, wide = (-size[0]) % multiple, (-size[1]) % multiple
        padding = (high // 2, high - high // 2, wide // 2, wide - wide // 2)
        geometry = Geometry(region.size, size, padding, antialias=True)
        image = np.ascontiguousarray(geometry.pad(geometry.shrink(region.crop(picture))))[None]
        names: list[str] = list(self.about.graph("look")["outputs"])
        features = dict(zip(names, self.model.run("look", {"image": image})))
        zoomed[:] = [EncodedView(region, geometry, features)]
        return zoomed[0]

    def _look(self, view: EncodedView, prompt: Prompt, mask: np.ndarray | None) -> PromptedMask:
        """Predict on one view; logits have the size of its region."""
        region, geometry, slots = view.region, view.geometry, self.about.prompt_points
        (height, width), (high, wide) = geometry.internal, geometry.size
        corner = np.array([region.x0, region.y0], np.float32)
        scale = np.array([width / wide, height / high], np.float32)
        offset = np.array([geometry.padding[2], geometry.padding[0]], np.float32)
        clicks = [(x, y, label) for x, y, label in prompt.points
                  if region.x0 <= x <= region.x1 and region.y0 <= y <= region.y1]  # fmt: skip
        if len(clicks) > slots:
            raise ValueError(
                f"points: got {len(clicks)}, expected at most {slots}, the capacity of the export; "
                "cutie-geo export onnx --prompt-points changes it"
            )
        points, labels = np.zeros((1, slots, 2), np.float32), np.full((1, slots), -1, np.float32)
        for slot, (x, y, label) in enumerate(clicks):
            points[0, slot] = (np.array([x, y], np.float32) - corner) * scale + offset
            labels[0, slot] = label
        box = np.zeros((1, 4), np.float32)
        if prompt.box is not None:
            corners = np.array(prompt.box, np.float32).reshape(2, 2)
            box = ((corners - corner) * scale + offset).reshape(1, 4)
        top, bottom, left, right = geometry.padding
        before = np.zeros((1, height + top + bottom, width + left + right), np.float32)
        if mask is not None:
            before = np.ascontiguousarray(geometry.pad(geometry.shrink(region.crop(mask)[None])))
        logits, quality = self.model.run("prompt", {
            **view.features, "points": points, "labels": labels, "box": box, "mask": before,
            "filled": np.array([prompt.box is not None, mask is not None]),
        })  # fmt: skip
        return PromptedMask(geometry.leave(logits)[0], float(quality[0]))


def read_prompt(points: Any, labels: Any, box: Any, size: tuple[int, int], corrects: bool) -> Prompt:
    """Check clicks and a box on frames of `size` (H, W).

    Args:
        points: (x, y) of each click.
        labels: 1 for clicks on the object, 0 for others; None: all on it.
        box: (x0, y0, x1, y1), or None.
        size: Height and width of the frame.
        corrects: True if there is a mask so far, which clicks beside the object alone may correct.

    Raises:
        ValueError: For prompts of other shapes or values, and for those that do not say where the object is.
    """
    places = _numbers("points", points, (-1, 2)) if len(points) else np.zeros((0, 2))
    marks = [1] * len(places) if labels is None else list(np.asarray(labels).reshape(-1).tolist())
    if len(marks) != len(places) or not set(marks) <= {0, 1}:
        raise ValueError(f"labels: got {marks}, expected 1 or 0 for each of the {len(places)} points")
    corners = None
    if box is not None:
        corners = _numbers("box", box, (4,))
        if not (corners[0] < corners[2] and corners[1] < corners[3]):
            raise ValueError(f"box: got {corners.tolist()}, expected (x0, y0, x1, y1) with x0 < x1 and y0 < y1")
    height, width = size
    for name, pairs in (("points", places), ("box", np.zeros((0, 2)) if corners is None else corners.reshape(2, 2))):
        for x, y in pairs.tolist():
            if not (0 <= x <= width and 0 <= y <= height):
                raise ValueError(f"{name}: got ({x:g}, {y:g}), expected it within {width}x{height}")
    if not len(places) and corners is None:
        raise ValueError("prompt: got neither points nor a box, expected one")
    if corners is None and not corrects and not any(marks):
        raise ValueError("points: got negative points only, expected a positive point, a box or a mask to correct")
    clicks = tuple((x, y, int(mark)) for (x, y), mark in zip(places.tolist(), marks))
    return Prompt(clicks, None if corners is None else tuple(corners.tolist()))


def _numbers(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return finite numbers of a shape in which -1 is any length."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.zeros(0)
    fits = array.ndim == len(shape) and all(want in (-1, got) for got, want in zip(array.shape, shape))
    if not fits or not np.isfinite(array).all():
        expected = "(x, y) of each click" if name == "points" else "(x0, y0, x1, y1)"
        raise ValueError(f"{name}: got {value!r}, expected finite numbers {expected}")
    return array


def read_probabilities(mask: Any, size: tuple[int, int]) -> np.ndarray:
    """Convert logits or a mask (H, W) to probabilities. Raises ValueError for another size."""
    mask = np.asarray(mask)
    if mask.shape != size or mask.dtype.kind not in "bf":
        raise ValueError(f"mask: got {mask.shape} of {mask.dtype}, expected {size} of bool or floats")
    mask = mask.astype(np.float32)
    if not np.isfinite(mask).all():
        raise ValueError("mask: got non-finite values, expected probabilities or logits")
    return mask if mask.min() >= 0 and mask.max() <= 1 else sigmoid(mask)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return probabilities of logits, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def enlarged_region(mask: np.ndarray, prompt: Prompt, scale: float) -> Region | None:
    """Return the region around a mask (H, W) and its prompts to enlarge; None if it would gain little.

    Args:
        mask: Where the object is in the frame.
        prompt: Clicks and box.
        scale: Pixels of the encoder's input per pixel of the frame.
    """
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    places = [(x, y) for x, y, label in prompt.points if label == 1]
    if len(rows):
        places += [(float(columns[0]), float(rows[0])), (float(columns[-1]) + 1, float(rows[-1]) + 1)]
    if prompt.box is not None:
        places += [prompt.box[:2], prompt.box[2:]]
    if not places:
        return None
    spans = []
    for values, whole in zip(zip(*places), (width, height)):
        middle, span = (min(values) + max(values)) / 2, max(values) - min(values)
        half = max(span * ZOOM_MARGIN, ZOOM_LEAST) / 2
        spans.append((max(int(middle - half), 0), min(int(middle + half) + 1, whole)))
    (x0, x1), (y0, y1) = spans
    region = Region(x0, y0, x1, y1)
    return region if (ZOOM_SIDE / max(region.size)) / scale >= ZOOM_GAIN else None


def connected(found: PromptedMask, prompt: Prompt, before: np.ndarray | None) -> PromptedMask:
    """Remove components that no prompt points at: a click adds only what is connected to it.

    Components stay that hold a positive click or a pixel of the mask so far, or of which at least half lies in the box.
    If none stays, all do.
    """
    labels, count = components(found.logits > 0)
    height, width = labels.shape
    kept = {
        int(labels[min(max(int(y), 0), height - 1), min(max(int(x), 0), width - 1)])
        for x, y, label in prompt.points
        if label == 1
    }
    if before is not None:
        kept |= set(np.unique(labels[before > 0.5]).tolist())
    if prompt.box is not None:
        x0, y0, x1, y1 = (max(round(side), 0) for side in prompt.box)
        inside = np.bincount(labels[y0:y1, x0:x1].ravel(), minlength=count + 1)
        kept |= set(np.flatnonzero(2 * inside >= np.bincount(labels.ravel(), minlength=count + 1)).tolist())
    kept.discard(0)
    if not kept or len(kept) == count:
        return found
    stays = np.isin(labels, [0, *kept])
    return found._replace(logits=np.where(stays, found.logits, -found.logits))


def components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Label the 8-connected components of a mask (H, W) from 1 on; return the labels and their number."""
    height, width = mask.shape
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]  # exclusive
    # runs of neighbouring rows touch if one begins at or before the other's end, diagonals included
    place = rows * (width + 2)
    first = np.searchsorted(place + ends, place - (width + 2) + starts, side="left")
    stop = np.searchsorted(place + starts, place - (width + 2) + ends, side="right")
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    for run, (low, high) in enumerate(zip(first.tolist(), stop.tolist())):
        for above in range(low, min(high, run)):
            parent[root(run)] = root(above)
    _, numbers = np.unique([root(run) for run in range(len(rows))], return_inverse=True)
    change = np.zeros((height, width + 1), np.int64)
    np.add.at(change, (rows, starts), numbers + 1)
    np.add.at(change, (rows, ends), -(numbers + 1))
    return change.cumsum(axis=1)[:, :width], int(numbers.max(initial=-1)) + 1
