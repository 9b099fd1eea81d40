"""Parts of a frame in which objects are decoded and encoded, chosen as `cutie_geo.inference.windows` does."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

STRIDE = 16
"""Stride of windows, in pixels."""
LAST_SHARE = 0.02
"""Share of a 16x16 cell that the last mask covers where the object was."""
COARSE_PROBABILITY = 0.2
"""Probability of the coarse mask at which the object may be in a cell."""
MARGIN, MARGIN_SHARE = 1, 0.125
"""Margin around the object: cells, and share of its height and width."""
LARGEST_SHARE = 0.7
"""Share of the frame above which a window saves too little."""
ABSENT = -20.0
"""Logit of an object outside the window in which it is decoded."""


class Window(NamedTuple):
    """Part of a map in positions of stride 16; ends are exclusive."""

    top: int
    bottom: int
    left: int
    right: int

    def crop(self, x: np.ndarray, scale: int = 1) -> np.ndarray:
        """Return the part of a map (..., H, W) with `scale` positions per position of stride 16, as a view."""
        return x[..., self.top * scale : self.bottom * scale, self.left * scale : self.right * scale]


def choose_windows(last_mask: np.ndarray, coarse: np.ndarray) -> list[Window | None]:
    """Return a window for each object around its last and its coarse mask, or None for the whole frame.

    Args:
        last_mask: Probabilities of the objects in the frame before, (N, H, W) at the padded size.
        coarse: Probabilities of the object transformer's masks in this frame, (N, h, w) at stride 16.
    """
    return [_around(cells) for cells in (_cells(last_mask) > LAST_SHARE) | (coarse > COARSE_PROBABILITY)]


def mask_windows(masks: np.ndarray) -> list[Window | None]:
    """Return the window in which each object's mask (N, H, W) is encoded, or None for the whole frame.

    An object that is not in the frame has the smallest window.
    """
    return [_around(cells) if cells.any() else Window(0, 1, 0, 1) for cells in _cells(masks) > LAST_SHARE]


def insides(windows: Sequence[Window | None], size: tuple[int, int]) -> np.ndarray:
    """Return 1 in the window of each object and 0 around it, (N, h, w)."""
    inside = np.ones((len(windows), *size), np.float32)
    for own, window in zip(inside, windows):
        if window is not None:
            own[:] = 0
            window.crop(own)[:] = 1
    return inside


def _cells(masks: np.ndarray) -> np.ndarray:
    """Average (N, H, W) over cells of 16x16 pixels."""
    count, height, width = masks.shape
    columns = masks.reshape(count, height, width // STRIDE, STRIDE).mean(axis=-1)
    return columns.reshape(count, height // STRIDE, STRIDE, width // STRIDE).mean(axis=2)


def _around(cells: np.ndarray) -> Window | None:
    """Return the window of the True cells (h, w) of an object."""
    height, width = cells.shape
    if not cells.any():
        return None
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
