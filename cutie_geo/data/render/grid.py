"""Coarse grid for geometry, and its interpolation to pixels."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float32

GRID = 9  # knots per axis


@lru_cache(maxsize=2048)
def spread(size: int) -> Float[np.ndarray, "size G"]:
    """Return piecewise cubic weights from GRID evenly spaced knots to `size` pixels."""
    at = np.linspace(0, GRID - 1, size)
    knots = np.clip(at.astype(int) - 1, 0, GRID - 4)[:, None] + np.arange(4)
    weights = np.ones((size, 4))
    for j in range(4):
        for k in set(range(4)) - {j}:
            weights[:, j] *= (at - knots[:, k]) / (j - k)
    matrix = np.zeros((size, GRID))
    np.put_along_axis(matrix, knots, weights, 1)
    return matrix


def to_pixels(controls: Float[np.ndarray, "C G G"], h: int, w: int) -> Float32[np.ndarray, "C h w"]:
    """Interpolate fields on the coarse grid to pixels.

    Computed in blocks of rows, because OpenBLAS uses all threads for products above 2**18. These are too small to
    benefit, and ten times slower when other cores are busy, for example in training.
    """
    down, across = spread(h) @ controls, spread(w).T
    fields, rows = np.empty((len(controls), h, w), np.float32), max(2**17 // (GRID * w), 1)
    for i in range(0, h, rows):
        fields[:, i : i + rows] = down[:, i : i + rows] @ across
    return fields


def knots(start: tuple[int, int], stop: tuple[int, int]) -> Float[np.ndarray, "2 G G"]:
    """Return the pixel positions (x, y) of the coarse grid from `start` to before `stop`, both (x, y)."""
    x, y = (np.linspace(a, b - 1, GRID) for a, b in zip(start, stop, strict=True))
    return np.stack(np.broadcast_arrays(x[None, :], y[:, None]))
