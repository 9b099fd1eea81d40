"""The measures of MOSE v2: a smoothed J, an F that is stricter with small objects, disappearance and reappearance."""

import math
from collections.abc import Sequence
from itertools import groupby

import cv2
import numpy as np

from cutie_geo.evaluation.metrics import BOUND, Pair, disk, matched_contours, overlap

SHARE = 0.1
"""Of a true mask's root area: the tolerance of the adaptive F."""


def smoothed_region(masks: Pair) -> float:
    """J with one pixel added to intersection and union; 1 where both masks are empty."""
    shared, union = overlap(masks)
    return (shared + 1) / (union + 1) if union else 1.0


def contours(masks: Pair) -> tuple[float, float]:
    """F and the adaptive F. They are one, with a lopsided disk of a broken radius, unless the object is small."""
    diagonal = math.hypot(*masks.size)
    area = cv2.countNonZero(masks.truth)
    widest, adapted = BOUND * diagonal, math.ceil(SHARE * (math.sqrt(area) if area else diagonal))
    if adapted < widest:
        return matched_contours(masks, disk(math.ceil(widest))), matched_contours(masks, disk(adapted))
    f = matched_contours(masks, disk(widest))
    return f, f


def disappearance(scores: Sequence[float], absent: Sequence[bool]) -> tuple[float | None, float | None]:
    """Mean score of the runs of frames on which an object is absent, and of those after it has come back.

    Means over runs of means over frames. A run at the start is of neither kind; None where there is no such run.
    """
    runs = [(gone, [scores[t] for t, _ in run]) for gone, run in groupby(enumerate(absent), key=lambda pair: pair[1])]
    means = {kind: [float(np.mean(run)) for gone, run in runs[1:] if gone == kind] for kind in (True, False)}
    away, back = (float(np.mean(means[kind])) if means[kind] else None for kind in (True, False))
    return away, back
