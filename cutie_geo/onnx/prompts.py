"""Masks from clicks and boxes by an exported prompt head."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cutie_geo.onnx.folder import OnnxModel
from cutie_geo.onnx.frames import Geometry
from cutie_geo.regions import AFRESH_POINTS, SAME_VIEW, Prompt, Region, enlarged_region, on_view, pointed_at

EPS = 1e-6
"""Smallest probability of averaged masks, which keeps their logits finite."""


class PromptedMask(NamedTuple):
    """Prediction for the prompts of one object."""

    logits: np.ndarray
    """Mask logits (H, W) at the size of the frame; the mask is where they are positive."""
    quality: float
    """Estimate of the mask's IoU with the object, 0 to 1."""


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
        from_prompts: bool = False,
    ) -> PromptedMask:
        """Return the mask of one object.

        Args:
            picture: Frame (3, H, W) in [0, 1].
            whole: The encoded frame.
            zoomed: The last enlarged view, if any; replaced if another is encoded.
            prompt: All clicks on the object so far, and its box.
            mask: Probabilities (H, W) of the object so far.
            zoom: Refine small objects on an enlarged view, if the export has `look`.
            from_prompts: `mask` was predicted from earlier points of this prompt; see `HeadPrompter.predict`.

        Raises:
            ValueError: If there are more clicks than the export takes.
        """
        if mask is not None and from_prompts and len(prompt.points) <= AFRESH_POINTS:
            found, afresh = (self.predict(picture, whole, zoomed, prompt, before, zoom) for before in (mask, None))
            mean = (sigmoid(found.logits) + sigmoid(afresh.logits)) / 2
            return PromptedMask(logits_of(mean), (found.quality + afresh.quality) / 2)
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
        size, multiple = region.enlarged(), self.about.prompt_multiple
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
        height, width = geometry.internal
        top, bottom, left, right = geometry.padding
        asked = on_view(prompt, region, geometry.size, geometry.internal, (left, top))
        count = len(asked.points)
        if count > slots:
            raise ValueError(
                f"points: got {count}, expected at most {slots}, the capacity of the export; "
                "cutie-geo export onnx --prompt-points changes it"
            )
        points, labels = np.zeros((1, slots, 2), np.float32), np.full((1, slots), -1, np.float32)
        points[0, :count], labels[0, :count] = asked.points, asked.labels
        box = np.zeros((1, 4), np.float32) if asked.box is None else asked.box[None]
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


def logits_of(probabilities: np.ndarray) -> np.ndarray:
    """Return finite logits of probabilities."""
    clipped = probabilities.clip(EPS, 1 - EPS)
    return np.log(clipped / (1 - clipped))


def connected(found: PromptedMask, prompt: Prompt, before: np.ndarray | None) -> PromptedMask:
    """Remove components that no prompt points at; `before` are the probabilities of the mask so far."""
    labels, count = components(found.logits > 0)
    stays = pointed_at(labels, count, prompt, None if before is None else before > 0.5)
    return found if stays is None else found._replace(logits=np.where(stays, found.logits, -found.logits))


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
