"""J and F of one object on one frame and their statistics over frames, equal to the official DAVIS 2017 program.

Masks are binary, or soft: float masks, thresholded at SOFT_THRESHOLD. `score_frames` and `pair` split label maps into
objects.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

from cutie_geo.data.listing import MASK_SUFFIXES, files_by_stem, mask_path
from cutie_geo.data.masks import read_labels
from cutie_geo.structures import VOID

BOUND = 0.008
"""Distance within which a boundary pixel matches, as a fraction of the image's diagonal."""
SOFT_THRESHOLD = 0.5
"""Threshold above which a pixel of a soft mask belongs to the object."""
RECALLED = 0.5
"""Threshold above which a frame's score counts as recalled."""

Mask = Bool[np.ndarray, "H W"] | Float[np.ndarray, "H W"]
"""Binary or soft mask."""


class Pair(NamedTuple):
    """One object's true and predicted mask, 0 and 1, cropped to their union and a border of one pixel."""

    truth: UInt8[np.ndarray, "h w"]
    mask: UInt8[np.ndarray, "h w"]
    size: tuple[int, int]
    """Height and width of the whole frame."""


def binary(mask: Mask) -> UInt8[np.ndarray, "H W"]:
    """Return a mask as zeros and ones; a soft mask is thresholded at SOFT_THRESHOLD."""
    return (mask if mask.dtype == bool else mask > SOFT_THRESHOLD).view(np.uint8)


def crop(truth: UInt8[np.ndarray, "H W"], mask: UInt8[np.ndarray, "H W"]) -> Pair:
    """Crop two masks of zeros and ones without changing J or F. Raises ValueError if sizes differ."""
    if truth.shape != mask.shape:
        raise ValueError(f"masks: got size {mask.shape}, expected {truth.shape}, the size of the true mask")
    boxes = [box for box in (cv2.boundingRect(truth), cv2.boundingRect(mask)) if box[2]]
    height, width = truth.shape
    top = max(min((y for _, y, _, _ in boxes), default=0) - 1, 0)
    left = max(min((x for x, _, _, _ in boxes), default=0) - 1, 0)
    bottom = max((y + h for _, y, _, h in boxes), default=0) + 1  # border: boundaries extend by one pixel to the upper
    right = max((x + w for x, _, w, _ in boxes), default=0) + 1  # left and read one pixel to the lower right
    window = np.s_[top:bottom, left:right]
    return Pair(truth[window], mask[window], (height, width))


def pair(truth: Integer[np.ndarray, "H W"], labels: Integer[np.ndarray, "H W"], object_id: int) -> Pair:
    """Return the masks of one object in two label maps."""
    return crop((truth == object_id).view(np.uint8), (labels == object_id).view(np.uint8))


# ----------------------------------------------------------------------------------------------------------- J and F
def region_similarity(truth: Mask, mask: Mask, void: Bool[np.ndarray, "H W"] | None = None) -> float:
    """Return J: intersection over union without `void` pixels; 1 if both masks are empty."""
    return pair_region(_without(void, truth, mask))


def contour_accuracy(
    truth: Mask, mask: Mask, void: Bool[np.ndarray, "H W"] | None = None, bound: int | float = BOUND
) -> float:
    """Return F: harmonic mean of the fractions of each boundary that are near the other boundary.

    Args:
        void: pixels removed from both masks.
        bound: tolerance as in BOUND, or in pixels from 1 on.
    """
    return pair_contour(_without(void, truth, mask), bound)


def _without(void: Bool[np.ndarray, "H W"] | None, truth: Mask, mask: Mask) -> Pair:
    truth, mask = binary(truth), binary(mask)
    return crop(truth, mask) if void is None else crop(truth & ~void, mask & ~void)


def pair_region(masks: Pair) -> float:
    """Return J of a pair."""
    shared, union = overlap(masks)
    return shared / union if union else 1.0


def overlap(masks: Pair) -> tuple[int, int]:
    """Return the number of pixels of intersection and union."""
    shared = cv2.countNonZero(cv2.bitwise_and(masks.truth, masks.mask))
    return shared, cv2.countNonZero(masks.truth) + cv2.countNonZero(masks.mask) - shared


def pair_contour(masks: Pair, bound: int | float = BOUND) -> float:
    """Return F of a pair."""
    return matched_contours(masks, disk(tolerance(masks.size, bound)))


def tolerance(size: tuple[int, int], bound: int | float = BOUND) -> int:
    """Return the tolerance in pixels of boundaries in a frame of this height and width."""
    return math.ceil(bound if bound >= 1 else bound * math.hypot(*size))


@lru_cache(maxsize=64)
def disk(radius: int | float) -> UInt8[np.ndarray, "k k"]:
    """Return a disk of ones within `radius` of the middle, on a grid that starts at -radius.

    A fractional radius makes it asymmetric. The array is cached: do not modify it.
    """
    steps = np.arange(-radius, radius + 1)
    return (steps[:, None] ** 2 + steps**2 <= radius**2).astype(np.uint8)


def matched_contours(masks: Pair, near: UInt8[np.ndarray, "k k"]) -> float:
    """Return F of a pair; a boundary pixel matches if the other boundary has a pixel in `near` around it."""
    true_edge, edge = _edge(masks.truth), _edge(masks.mask)
    true_length, length = cv2.countNonZero(true_edge), cv2.countNonZero(edge)
    if not length or not true_length:
        return float(length == true_length)
    precision = cv2.countNonZero(edge & cv2.dilate(true_edge, near)) / length
    recall = cv2.countNonZero(true_edge & cv2.dilate(edge, near)) / true_length
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: Mask) -> Bool[np.ndarray, "H W"]:
    """Return the pixels that differ from their right, lower or lower right neighbour; the image border is no
    boundary.
    """
    return _edge(binary(mask)).view(bool)


def _edge(mask: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Return `boundary` as zeros and ones."""
    edge = np.zeros(mask.shape, np.uint8)
    edge[:, :-1] = mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


# -------------------------------------------------------------------------------------------------------- statistics
class Statistics(NamedTuple):
    """Statistics of an object's scores over its frames."""

    mean: float
    recall: float
    """Fraction of frames with a score above RECALLED."""
    decay: float
    """Mean of the first quarter minus mean of the last quarter; adjacent quarters share their end frames."""


def statistics(values: Sequence[float]) -> Statistics:
    """Return mean, recall and decay. Raises ValueError for no values.

    The ends of the quarters are integers, as the official program intends; its uint8 values overflow after 256 frames.
    """
    if not len(values):
        raise ValueError("statistics: no scored frames")
    scores = np.asarray(values, np.float64)
    cuts = np.round(np.linspace(1, len(scores), 5) + 1e-10).astype(int) - 1
    first, last = scores[cuts[0] : cuts[1] + 1], scores[cuts[3] : cuts[4] + 1]
    return Statistics(float(scores.mean()), float((scores > RECALLED).mean()), float(first.mean() - last.mean()))


# ------------------------------------------------------------------------------------------------------- one sequence


class Score(NamedTuple):
    """Means over objects of means over frames, from 0 to 1."""

    j: float
    f: float

    @property
    def j_and_f(self) -> float:
        return (self.j + self.f) / 2


def score_frames(
    truth: Sequence[Integer[np.ndarray, "H W"]], masks: Sequence[Integer[np.ndarray, "H W"]]
) -> dict[int, Score]:
    """Return each object's score over frames (DAVIS 2017, semi-supervised).

    Objects are those of the first true frame. The first and the last frame are not scored.
    """
    scored = list(zip(truth, masks, strict=True))[1:-1]
    scores = {}
    for i in (int(i) for i in np.unique(truth[0]) if i not in (0, VOID)):
        pairs = [pair(t, m, i) for t, m in scored]
        scores[i] = Score(
            float(np.mean([pair_region(masks) for masks in pairs])),
            float(np.mean([pair_contour(masks) for masks in pairs])),
        )
    return scores


def score_folders(truth: Path, masks: Path) -> dict[int, Score]:
    """Score two folders of PNGs with the same names, as `score_frames` does.

    Raises:
        ValueError: with the name of a file that is missing or of another size.
    """
    files = files_by_stem(truth, MASK_SUFFIXES)
    if len(files) < 3:
        raise ValueError(f"{truth}: got {len(files)} masks, expected at least 3: the first and the last are not scored")
    pairs = [(read_labels(path).labels, read_labels(mask_path(masks, stem)).labels) for stem, path in files.items()]
    for stem, (true_labels, labels) in zip(files, pairs):
        if true_labels.shape != labels.shape:
            raise ValueError(f"{mask_path(masks, stem)}: got size {labels.shape}, expected {true_labels.shape}")
    return score_frames(*zip(*pairs))


def mean_score(scores: Mapping[int, Score]) -> Score:
    """Return the mean over objects. Raises ValueError if there are none."""
    if not scores:
        raise ValueError("score: no objects in the first true frame")
    return Score(*(float(np.mean(column)) for column in zip(*scores.values())))
