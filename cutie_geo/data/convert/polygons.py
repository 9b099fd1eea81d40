"""Polygons of one entity onto a canvas, by OpenCV's even-odd fill; other libraries have other rules for edges."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Int32, UInt8

from cutie_geo.data.convert.records import Node

MAX_COORDINATE = 32767
"""In pixels, either sign: far outside any canvas, and OpenCV walks every row of a polygon."""
MAX_POINTS = 200_000
"""Of one entity."""

Polygon = Int32[np.ndarray, "_ 2"]


def parse_polygons(segments: Node) -> list[Polygon]:
    """A list of polygons as whole pixels (x, y), truncated toward zero; an empty polygon becomes the point (0, 0).

    Raises ValueError for anything but lists of pairs of finite numbers, and for coordinates or numbers of points
    beyond all reason.
    """
    polygons = [_parse_polygon(polygon) for polygon in segments.elements()]
    points = sum(len(polygon) for polygon in polygons)
    if points > MAX_POINTS:
        raise ValueError(f"{segments.where}: got {points} points, wanted at most {MAX_POINTS}")
    return polygons


def _parse_polygon(polygon: Node) -> Polygon:
    wanted = f"a list of [x, y], finite numbers within {MAX_COORDINATE} of 0"
    if polygon.value == []:
        return np.zeros((1, 2), np.int32)
    if not isinstance(polygon.value, list):
        polygon.fail(wanted)
    try:
        points = np.asarray(polygon.value)
    except (ValueError, OverflowError):  # rows of different lengths
        polygon.fail(wanted)
    if points.dtype.kind not in "if" or points.ndim != 2 or points.shape[1] != 2:
        polygon.fail(wanted)
    if not (np.abs(points) <= MAX_COORDINATE).all():  # NaN is not
        polygon.fail(wanted)
    return points.astype(np.int32)


def fill_polygons(canvas: UInt8[np.ndarray, "H W"], polygons: Sequence[Polygon], label: int) -> None:
    """Paint one entity: all its polygons in one even-odd fill, their edge pixels always.

    So a polygon inside another is a hole, a polygon of 2 points a line, of 1 point a pixel.
    """
    if polygons:
        cv2.fillPoly(canvas, list(polygons), label)


def shrink_labels(labels: UInt8[np.ndarray, "H W"], size: tuple[int, int]) -> UInt8[np.ndarray, "H2 W2"]:
    """`labels` at `size` (height, width): pixel y, x is that at floor(y H / H2), floor(x W / W2)."""
    (height, width), (rows, columns) = labels.shape, size
    return labels[np.arange(rows) * height // rows][:, np.arange(columns) * width // columns]
