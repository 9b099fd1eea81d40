"""The inverse of `to_segments`: polygons of VISOR's JSON files as masks."""

from collections.abc import Sequence

import numpy as np

from cutie_geo.data.convert.polygons import fill_polygons


def fill_segments(segments: Sequence[Sequence[Sequence[float]]], size: tuple[int, int]) -> np.ndarray:
    """Fill polygons together by the even-odd rule and return the mask of `size` (height, width).

    Coordinates are truncated toward zero, and edge pixels belong to the mask. Two points are a line, and one is a
    pixel. A polygon without points is the pixel (0, 0), as in VISOR's own conversion.
    """
    canvas = np.zeros(size, np.uint8)
    fill_polygons(canvas, [np.array(polygon or [(0, 0)], np.float64).astype(np.int32) for polygon in segments], 1)
    return canvas.astype(bool)
