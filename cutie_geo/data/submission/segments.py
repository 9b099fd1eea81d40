"""Conversion of masks to the polygons of VISOR's JSON files.

All contours of a mask, outer ones and holes, form one list. Filled together by the even-odd rule, edges included, they
reproduce any mask exactly, including noise and single pixels.
"""

import cv2
import numpy as np
from jaxtyping import Bool

Segments = list[list[list[int]]]
"""Polygons, each a list of [x, y]."""


def to_segments(mask: Bool[np.ndarray, "H W"]) -> Segments:
    """Return the contours of a mask in integer pixels; empty for an empty mask."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    return [contour[:, 0].tolist() for contour in contours]
