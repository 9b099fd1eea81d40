"""Measures of MOSE v2: smoothed J, adaptive F for small objects, disappearance and reappearance."""

import math
from collections.abc import Sequence
from itertools import groupby

import cv2
import numpy as np

from cutie_geo.evaluation.metrics import BOUND, Pair, disk, matched_contours, overlap

SHARE = 0.1
"""Tolerance of the adaptive F, as a fraction of the square root of a true mask's area."""


def smoothed_region(masks: Pair) -> float:
    """Return J with one pixel added to intersection and union; 1 if both masks are empty."""
    shared, union = overlap(masks)
    return (shared + 1) / (union + 1) if union else 1.0


def contours(masks: Pair) -> tuple[float, float]:
    """Return F and the adaptive F. They are equal, with an asymmetric disk of a fractional radius, unless the
    object is small.
    """
    diagonal = math.hypot(*masks.size)
    area = cv2.countNonZero(masks.truth)
    widest, adapted = BOUND * diagonal, math.ceil(SHARE * (math.sqrt(area) if area else diagonal))
    if adapted < widest:
        return matched_contours(masks, disk(math.ceil(widest))), matched_contours(masks, disk(adapted))
    f = matched_contours(masks, disk(widest))
    return f, f


def disappearance(scores: Sequence[float], absent: Sequence[bool]) -> tuple[float | None, float | None]:
    """Return the mean scores of runs of frames on which an object is absent, and of runs after it reappears.

    These are means over runs of means over frames. A run at the start counts for neither; None if there is no such run.
    """
    runs = [(gone, [scores[t] for t, _ in run]) for gone, run in groupby(enumerate(absent), key=lambda pair: pair[1])]
    means = {kind: [float(np.mean(run)) for gone, run in runs[1:] if gone == kind] for kind in (True, False)}
    away, back = (float(np.mean(means[kind])) if means[kind] else None for kind in (True, False))
    return away, back
