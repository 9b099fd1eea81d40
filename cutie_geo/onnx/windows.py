"""Parts of a frame in which exported graphs decode and encode objects."""

from collections.abc import Sequence

import numpy as np

from cutie_geo.regions import COARSE_PROBABILITY, LAST_SHARE, SMALLEST, STRIDE, Window, windows_around


def choose_windows(last_mask: np.ndarray, coarse: np.ndarray) -> list[Window | None]:
    """Return a window for each object around its last and its coarse mask, or None for the whole frame.

    Args:
        last_mask: Probabilities of the objects in the frame before, (N, H, W) at the padded size.
        coarse: Probabilities of the object transformer's masks in this frame, (N, h, w) at stride 16.
    """
    return windows_around((_cells(last_mask) > LAST_SHARE) | (coarse > COARSE_PROBABILITY))


def mask_windows(masks: np.ndarray) -> list[Window | None]:
    """Return the window in which each object's mask (N, H, W) is encoded, or None for the whole frame."""
    return windows_around(_cells(masks) > LAST_SHARE, empty=SMALLEST)


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
