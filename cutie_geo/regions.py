"""Parts of a frame, in numpy: prompts, rectangles around objects, and the components of a mask that prompts point at.

The trackers of torch and of exported graphs share these rules, so nothing here may import torch.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

STRIDE = 16
"""Pixels of a network's input per position of its feature maps."""
ABSENT = -20.0
"""Logit of an object outside the window in which it is decoded."""
SLACK = 0.05
"""Tolerance outside [0, 1] for image values, since cubic resizing and noise overshoot slightly."""

LAST_SHARE = 0.02
"""Share of a 16x16 cell that the last mask covers where the object was."""
COARSE_PROBABILITY = 0.2
"""Probability, in the object transformer's coarse mask, at which the object may be in a cell."""
MARGIN, MARGIN_SHARE = 1, 0.125
"""Margin around the object: cells, and share of its height and width."""
LARGEST_SHARE = 0.7
"""Share of the frame above which a window saves too little."""

AFRESH_POINTS = 4
"""Up to this many clicks, a mask that came from clicks alone is also predicted afresh."""
MOST_ENLARGED = 4
"""Largest factor by which a small frame is enlarged for the network."""
ZOOM_MARGIN = 1.4
"""Size of the enlarged view relative to the object, as in RITM's zoom-in."""
ZOOM_SIDE = 256
"""Longer side of the enlarged view at the encoder, in pixels."""
ZOOM_GAIN = 1.25
"""A view is enlarged only if the object appears at least this many times larger than in the frame."""
ZOOM_LEAST = 32
"""Shortest side of an enlarged view, in pixels of the frame."""
SAME_VIEW = 0.8
"""An enlarged view is used again if its IoU with the next one is at least this."""


@runtime_checkable
class Sliceable(Protocol):
    """An array or a tensor."""

    def __getitem__(self, key: Any, /) -> Any: ...


Map = TypeVar("Map", bound=Sliceable)


class Prompt(NamedTuple):
    """Point and box prompts of one object on a frame, in pixels of the original frame; x to the right, y down."""

    points: tuple[tuple[float, float, int], ...] = ()
    """(x, y, label) triples; label 1 is foreground, 0 background."""
    box: tuple[float, float, float, float] | None = None
    """Bounding box (x0, y0, x1, y1)."""


def internal_size(size: tuple[int, int], most: int, least: int = -1) -> tuple[int, int]:
    """Resize (H, W) so that the shorter side is at most `most` and at least `least`, each if it is positive.

    Frames are enlarged MOST_ENLARGED times at most. Sides are rounded down, as in Cutie.
    """
    shorter = min(size)
    wanted = most if 0 < most < shorter else max(shorter, min(least, MOST_ENLARGED * shorter))
    return size if wanted == shorter else (int(size[0] / shorter * wanted), int(size[1] / shorter * wanted))


# --------------------------------------------------------------------------------------------------------- windows
class Window(NamedTuple):
    """Part of a feature map in which an object is decoded, in positions of stride 16; ends are exclusive."""

    top: int
    bottom: int
    left: int
    right: int

    def crop(self, x: Map, scale: int = 1) -> Map:
        """Return the part of a map (..., H, W) with `scale` positions per position of stride 16, as a view."""
        return x[..., self.top * scale : self.bottom * scale, self.left * scale : self.right * scale]


SMALLEST = Window(0, 1, 0, 1)
"""Window of an object that is not in the frame, where its mask is encoded."""


def windows_around(objects: Iterable[np.ndarray], empty: Window | None = None) -> list[Window | None]:
    """Return a window with a margin for each object, or None for the whole frame.

    Args:
        objects: True in the cells (h, w) of stride 16 where each object may be.
        empty: Window of an object without cells.
    """
    return [_around(cells) if cells.any() else empty for cells in objects]


def _around(cells: np.ndarray) -> Window | None:
    height, width = cells.shape
    top, bottom = _extended(np.flatnonzero(cells.any(axis=1)), height)
    left, right = _extended(np.flatnonzero(cells.any(axis=0)), width)
    if (bottom - top) * (right - left) > LARGEST_SHARE * height * width:
        return None
    return Window(top, bottom, left, right)


def _extended(places: np.ndarray, count: int) -> tuple[int, int]:
    """Return start and end of positions in ascending order with the margin, within `count` positions."""
    start, end = int(places[0]), int(places[-1]) + 1
    margin = MARGIN + round(MARGIN_SHARE * (end - start))
    return max(start - margin, 0), min(end + margin, count)


# -------------------------------------------------------------------------------------------------- enlarged views
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

    def crop(self, x: Map) -> Map:
        """Return the part of a map (..., H, W), as a view."""
        return x[..., self.y0 : self.y1, self.x0 : self.x1]

    def iou(self, other: "Region") -> float:
        """Return the intersection over union with another rectangle."""
        wide = min(self.x1, other.x1) - max(self.x0, other.x0)
        high = min(self.y1, other.y1) - max(self.y0, other.y0)
        both = max(wide, 0) * max(high, 0)
        areas = [one.size[0] * one.size[1] for one in (self, other)]
        return both / (sum(areas) - both)

    def enlarged(self) -> tuple[int, int]:
        """Return the height and width of the enlarged view."""
        scale = ZOOM_SIDE / max(self.size)
        return max(round(self.size[0] * scale), 1), max(round(self.size[1] * scale), 1)


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


class ViewPrompt(NamedTuple):
    """Prompts of one object in pixels of a view's input, in float32; clicks outside of the view are dropped."""

    points: np.ndarray
    """(n, 2): x and y."""
    labels: np.ndarray
    """(n,) of int64."""
    box: np.ndarray | None
    """(4,)."""


def on_view(
    prompt: Prompt, region: Region, size: tuple[int, int], internal: tuple[int, int], corner: tuple[int, int]
) -> ViewPrompt:
    """Convert prompts on a frame to pixels of a view's input.

    Args:
        prompt: Clicks and box, in pixels of the frame.
        region: Part of the frame that the view shows.
        size: Height and width of the region.
        internal: Height and width to which the view resizes it.
        corner: Pixels that are added at the left and at the top.
    """
    origin = np.array([region.x0, region.y0], np.float32)
    scale = np.array([internal[1] / size[1], internal[0] / size[0]], np.float32)
    offset = np.array(corner, np.float32)
    clicks = [(x, y, label) for x, y, label in prompt.points
              if region.x0 <= x <= region.x1 and region.y0 <= y <= region.y1]  # fmt: skip
    points = np.array([click[:2] for click in clicks], np.float32).reshape(-1, 2)
    box = None
    if prompt.box is not None:
        box = ((np.array(prompt.box, np.float32).reshape(2, 2) - origin) * scale + offset).reshape(4)
    labels = np.array([click[2] for click in clicks], np.int64)
    return ViewPrompt((points - origin) * scale + offset, labels, box)


# ------------------------------------------------------------------------------------------------------ components
def pointed_at(labels: np.ndarray, count: int, prompt: Prompt, before: np.ndarray | None = None) -> np.ndarray | None:
    """Return where a mask may stay, so that a click adds only what is connected to it; None: everywhere.

    Components stay that hold a positive click or a pixel of the mask so far, or of which at least half lies in the box.
    If none stays, all do.

    Args:
        labels: Connected components (H, W) of the predicted mask, from 1 on.
        count: Number of components.
        prompt: Clicks and box.
        before: Mask so far, if any.
    """
    height, width = labels.shape
    kept = {
        int(labels[min(max(int(y), 0), height - 1), min(max(int(x), 0), width - 1)])
        for x, y, label in prompt.points
        if label == 1
    }
    if before is not None:
        kept |= set(np.unique(labels[before]).tolist())
    if prompt.box is not None:
        x0, y0, x1, y1 = (max(round(side), 0) for side in prompt.box)
        inside = np.bincount(labels[y0:y1, x0:x1].ravel(), minlength=count + 1)
        kept |= set(np.flatnonzero(2 * inside >= np.bincount(labels.ravel(), minlength=count + 1)).tolist())
    kept.discard(0)
    return np.isin(labels, [0, *kept]) if 0 < len(kept) < count else None
