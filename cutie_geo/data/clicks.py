"""Simulated clicks, as an annotator corrects a mask: in the middle of its largest error."""

import random

import cv2
import numpy as np
from jaxtyping import Bool, Float

Click = tuple[float, float, int]
"""(x, y, label) in pixels; label 1 is on the object, 0 beside it."""
Mask = Bool[np.ndarray, "H W"]
CORE = 0.5
"""A random click lies where the distance to the border of its region is at least this fraction of the largest."""


def next_click(truth: Mask, found: Mask, ignore: Mask | None = None, rng: random.Random | None = None) -> Click | None:
    """Return the click that corrects the largest error of the mask `found`; None if there is no error.

    The largest error is the region, missing or superfluous, with the pixel farthest from its border. The click is that
    pixel or, with `rng`, a random pixel of the region's core. Source: RITM (Sofiiuk et al., 2021).

    Args:
        ignore: pixels without a known truth, where nobody clicks.
    """
    missing, superfluous = truth & ~found, found & ~truth
    if ignore is not None:
        missing, superfluous = missing & ~ignore, superfluous & ~ignore
    depths = border_distance(missing), border_distance(superfluous)
    label = int(depths[0].max() >= depths[1].max())
    depth = depths[1 - label]
    deepest = float(depth.max())
    if deepest == 0:
        return None
    x, y = pick(depth, rng)
    return x, y, label


def border_distance(region: Mask) -> Float[np.ndarray, "H W"]:
    """Return the distance of each pixel of a region to the nearest pixel outside; the image's border is outside."""
    padded = np.pad(region.astype(np.uint8), 1)
    return cv2.distanceTransform(padded, cv2.DIST_L2, 0)[1:-1, 1:-1]


def pick(depth: Float[np.ndarray, "H W"], rng: random.Random | None = None) -> tuple[float, float]:
    """Return the centre of the pixel where `depth` is largest or, with `rng`, of a random one in the core."""
    if rng is None:
        place = int(depth.argmax())
    else:
        core = np.flatnonzero(depth >= CORE * depth.max())
        place = int(core[rng.randrange(len(core))])
    row, column = divmod(place, depth.shape[1])
    return column + 0.5, row + 0.5


def box_of(mask: Mask) -> tuple[float, float, float, float]:
    """Return the bounding box (x0, y0, x1, y1) of a mask, half open.

    Raises:
        ValueError: for an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise ValueError("box: got an empty mask, expected at least one pixel")
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
