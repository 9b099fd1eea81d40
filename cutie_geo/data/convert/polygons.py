"""Polygons of one entity, filled by OpenCV's even-odd rule as in VISOR; pycocotools treats edges differently."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Int32, UInt8

from cutie_geo.data.convert.records import Node

MAX_COORDINATE = 32767
"""Largest absolute coordinate in pixels; OpenCV's run time grows with a polygon's height."""
MAX_POINTS = 200_000
"""Maximum number of points of one entity."""

Polygon = Int32[np.ndarray, "_ 2"]


def parse_polygons(segments: Node) -> list[Polygon]:
    """Read polygons as integer pixels (x, y), truncated toward zero; an empty polygon becomes the point (0, 0).

    Raises:
        ValueError: for anything but lists of pairs of finite numbers, and for too large coordinates or too many points.
    """
    polygons = [_parse_polygon(polygon) for polygon in segments.elements()]
    points = sum(len(polygon) for polygon in polygons)
    if points > MAX_POINTS:
        raise ValueError(f"{segments.where}: got {points} points, expected at most {MAX_POINTS}")
    return polygons


def _parse_polygon(polygon: Node) -> Polygon:
    expected = f"a list of [x, y], finite numbers within {MAX_COORDINATE} of 0"
    if polygon.value == []:
        return np.zeros((1, 2), np.int32)
    if not isinstance(polygon.value, list):
        polygon.fail(expected)
    try:
        points = np.asarray(polygon.value)
    except (ValueError, OverflowError):  # rows of different lengths
        polygon.fail(expected)
    if points.dtype.kind not in "if" or points.ndim != 2 or points.shape[1] != 2:
        polygon.fail(expected)
    if not (np.abs(points) <= MAX_COORDINATE).all():  # false for NaN
        polygon.fail(expected)
    return points.astype(np.int32)


def fill_polygons(canvas: UInt8[np.ndarray, "H W"], polygons: Sequence[Polygon], label: int) -> None:
    """Paint all polygons of one entity in one even-odd fill, edge pixels included.

    A polygon inside another is a hole, 2 points are a line, and 1 point is a pixel.
    """
    if polygons:
        cv2.fillPoly(canvas, list(polygons), label)


def shrink_labels(labels: UInt8[np.ndarray, "H W"], size: tuple[int, int]) -> UInt8[np.ndarray, "H2 W2"]:
    """Resize labels to (height, width): pixel (y, x) is that at (floor(y H / H2), floor(x W / W2))."""
    (height, width), (rows, columns) = labels.shape, size
    return labels[np.arange(rows) * height // rows][:, np.arange(columns) * width // columns]
