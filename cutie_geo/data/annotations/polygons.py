"""Masks as polygons and back, without loss.

There are two conventions. In the *outline* of a mask points are corners of pixels: its polygon covers exactly the
mask's area, as COCO, CVAT and every vector program read it. In its *chain* points are the pixels at its edge:
OpenCV's `fillPoly` gives the mask back, and that is how YOLO's programs rasterise.

A polygon cannot have a hole. Each hole is joined to its part by a cut of no width, so that both an even-odd and a
non-zero fill leave it empty.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Integer
from pycocotools import mask as coco_mask

from cutie_geo.config import require
from cutie_geo.data.convert.records import Node
from cutie_geo.data.convert.rle import decode_rle

Ring = Integer[np.ndarray, "_ 2"]
"""Closed line of (x, y) points; the last point is joined to the first."""
MAX_COORDINATE = 100_000
"""Largest absolute coordinate in pixels; the time to rasterise grows with the length of edges."""
MAX_POINTS = 500_000
"""Maximum number of points of one object on one frame."""


def outlines(mask: Bool[np.ndarray, "H W"], tolerance: float = 0.0) -> list[Float[np.ndarray, "_ 2"]]:
    """Return one polygon for each part of a mask, along the edges of its pixels.

    Args:
        mask: the pixels of an object.
        tolerance: largest distance, in pixels, of a simplified polygon from the mask's edge; 0 keeps every corner.
    """
    twice = np.repeat(np.repeat(mask.view(np.uint8), 2, axis=0), 2, axis=1)
    # the contour of the doubled mask runs through half pixels: rounding them up gives the corners
    parts = [[(ring + 1) // 2 for ring in rings] for rings in _contours(twice)]
    return [_simplified(_joined(rings), tolerance).astype(np.float64) for rings in parts]


def chains(mask: Bool[np.ndarray, "H W"], tolerance: float = 0.0) -> list[Integer[np.ndarray, "_ 2"]]:
    """Return one polygon for each part of a mask, through the pixels at its edge; a single pixel has one point."""
    return [_simplified(_joined(rings), tolerance) for rings in _contours(mask.view(np.uint8))]


def fill_outlines(polygons: Sequence[Float[np.ndarray, "_ 2"]], size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Return the union of the pixels that polygons cover, as COCO rasterises them.

    Raises:
        ValueError: for polygons of fewer than three points, and for coordinates that are not finite or far outside.
    """
    require_polygons(polygons, least=3)
    flat = [polygon.ravel().tolist() for polygon in polygons]
    if not flat:
        return np.zeros(size, bool)
    merged: Any = coco_mask.merge(coco_mask.frPyObjects(flat, *size))  # the stubs declare counts as str
    counts = merged["counts"].decode("ascii")
    # pycocotools' own decoder uses an array protocol that numpy warns of
    return decode_rle(Node(counts, "polygons"), size).reshape(size[1], size[0]).T


def fill_chains(polygons: Sequence[Float[np.ndarray, "_ 2"]], size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Return the union of the pixels that polygons cover, as YOLO's programs rasterise them: coordinates are truncated
    to whole pixels, and edges belong to the object.

    Raises:
        ValueError: for polygons without a point, and for coordinates that are not finite or far outside.
    """
    require_polygons(polygons, least=1)
    canvas = np.zeros(size, np.uint8)
    for polygon in polygons:
        cv2.fillPoly(canvas, [polygon.astype(np.int32)], 1)
    return canvas.astype(bool)


def require_polygons(polygons: Sequence[Float[np.ndarray, "_ 2"]], least: int) -> None:
    """Raise ValueError for polygons that cannot be rasterised; the caller adds the place."""
    points = sum(len(polygon) for polygon in polygons)
    require(points <= MAX_POINTS, f"polygons: got {points} points, expected at most {MAX_POINTS}")
    for polygon in polygons:
        require(len(polygon) >= least, f"polygon: got {len(polygon)} points, expected at least {least}")
        inside = bool((np.abs(polygon) <= MAX_COORDINATE).all())  # False for NaN
        require(inside, f"polygon: got a coordinate beyond {MAX_COORDINATE}, or not finite")


def _contours(mask: np.ndarray) -> list[list[Ring]]:
    """Return the outer contour and the contours of the holes of each part of a mask, with every pixel on them."""
    contours, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if tree is None:
        return []
    rings = [np.asarray(contour).reshape(-1, 2) for contour in contours]
    parents = np.asarray(tree).reshape(-1, 4)[:, 3].tolist()
    parts = {i: [ring] for i, ring in enumerate(rings) if parents[i] < 0}
    for ring, parent in zip(rings, parents):
        if parent >= 0:
            parts[parent].append(ring)
    return list(parts.values())


def _joined(rings: list[Ring]) -> Ring:
    """Join an outer ring and its holes to one ring by a cut from the leftmost point of each hole to the left.

    The cut ends at the outer ring, or at a hole that extends further left and is therefore joined already.
    """
    outer, *holes = rings
    for hole in sorted(holes, key=lambda ring: int(ring[:, 0].min())):
        start = int(hole[:, 0].argmin())
        x, y = hole[start]
        beside = np.flatnonzero((outer[:, 1] == y) & (outer[:, 0] <= x))
        end = int(beside[outer[beside, 0].argmax()])
        turned = np.concatenate([hole[start:], hole[: start + 1]])
        outer = np.concatenate([outer[: end + 1], turned, outer[end:]])
    return outer


def _simplified(ring: Ring, tolerance: float) -> Ring:
    """Remove repeated points and points on straight lines, and simplify the ring within `tolerance`."""
    ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)] if len(ring) > 1 else ring
    if len(ring) > 2:
        before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
        turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
        back = (before * after).sum(axis=1) < 0  # True at the tip of a line, and at the end of a cut
        ring = ring[turns | back]
    if tolerance > 0 and len(ring) > 3:
        simple = cv2.approxPolyDP(ring.astype(np.int32)[:, None], tolerance, True).reshape(-1, 2)
        ring = simple if len(simple) >= 3 else ring
    return ring
