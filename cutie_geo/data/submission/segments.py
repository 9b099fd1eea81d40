"""Conversion between masks and the polygons of VISOR's JSON files.

All contours of a mask, outer ones and holes, form one list. Filled together by the even-odd rule, edges included, they
reproduce any mask exactly, including noise and single pixels.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool

from cutie_geo.data.convert.polygons import Polygon, fill_polygons

Point = Sequence[int | float]
Segments = list[list[list[int]]]
"""Polygons, each a list of [x, y]."""


def to_segments(mask: Bool[np.ndarray, "H W"]) -> Segments:
    """Return the contours of a mask in integer pixels; empty for an empty mask."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    return [contour[:, 0].tolist() for contour in contours]


def fill_segments(segments: Sequence[Sequence[Point]], size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Fill polygons together by the even-odd rule and return the mask of `size` (height, width).

    Coordinates are truncated toward zero, and edge pixels belong to the mask. Two points are a line, and one is a
    pixel. A polygon without points is the pixel (0, 0), as in VISOR's own conversion.
    """
    canvas = np.zeros(size, np.uint8)
    fill_polygons(canvas, [_corners(polygon) for polygon in segments], 1)
    return canvas.astype(bool)


def _corners(polygon: Sequence[Point]) -> Polygon:
    return np.array(polygon or [(0, 0)], np.float64).astype(np.int32)
