"""J and F of one object on one frame, and their statistics over frames, as the official DAVIS 2017 program has them.

Masks are binary, or soft: floats, of which those above SOFT_THRESHOLD are the object. Label maps hold many objects;
`score_frames` and `pair` take them apart.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

from cutie_geo.data.masks import read_labels

BOUND = 0.008
"""A boundary pixel counts as found within this share of the image's diagonal."""
SOFT_THRESHOLD = 0.5
"""A soft mask's pixels strictly above it are the object."""
RECALLED = 0.5
"""A frame's score counts as recalled strictly above it."""

Mask = Bool[np.ndarray, "H W"] | Float[np.ndarray, "H W"]
"""Binary, or soft."""


class Pair(NamedTuple):
    """One object's true and predicted mask, 0 and 1, cut to what either covers and a rim of one pixel."""

    truth: UInt8[np.ndarray, "h w"]
    mask: UInt8[np.ndarray, "h w"]
    size: tuple[int, int]
    """Height and width of the whole frame."""


def binary(mask: Mask) -> UInt8[np.ndarray, "H W"]:
    """A mask as zeros and ones; a soft one is cut at SOFT_THRESHOLD."""
    return (mask if mask.dtype == bool else mask > SOFT_THRESHOLD).view(np.uint8)


def crop(truth: UInt8[np.ndarray, "H W"], mask: UInt8[np.ndarray, "H W"]) -> Pair:
    """Two masks of zeros and ones as a pair; nothing that J or F count is cut off. Raises ValueError for two sizes."""
    if truth.shape != mask.shape:
        raise ValueError(f"masks: got size {mask.shape}, wanted {truth.shape}, that of the true one")
    boxes = [box for box in (cv2.boundingRect(truth), cv2.boundingRect(mask)) if box[2]]
    height, width = truth.shape
    top = max(min((y for _, y, _, _ in boxes), default=0) - 1, 0)
    left = max(min((x for x, _, _, _ in boxes), default=0) - 1, 0)
    bottom = max((y + h for _, y, _, h in boxes), default=0) + 1  # the rim: boundaries reach out by one to the upper
    right = max((x + w for x, _, w, _ in boxes), default=0) + 1  # left, and look one further to the lower right
    window = np.s_[top:bottom, left:right]
    return Pair(truth[window], mask[window], (height, width))


def pair(truth: Integer[np.ndarray, "H W"], labels: Integer[np.ndarray, "H W"], object_id: int) -> Pair:
    """The masks of one object of two label maps."""
    return crop((truth == object_id).view(np.uint8), (labels == object_id).view(np.uint8))


# ----------------------------------------------------------------------------------------------------------- J and F
def region_similarity(truth: Mask, mask: Mask, void: Bool[np.ndarray, "H W"] | None = None) -> float:
    """J: intersection over union, without `void` pixels; 1 where both are empty."""
    return pair_region(_without(void, truth, mask))


def contour_accuracy(
    truth: Mask, mask: Mask, void: Bool[np.ndarray, "H W"] | None = None, bound: int | float = BOUND
) -> float:
    """F: harmonic mean of the shares of each boundary that lie near the other.

    `void` pixels are cut out of both masks first. bound: as BOUND, or from 1 on in pixels.
    """
    return pair_contour(_without(void, truth, mask), bound)


def _without(void: Bool[np.ndarray, "H W"] | None, truth: Mask, mask: Mask) -> Pair:
    truth, mask = binary(truth), binary(mask)
    return crop(truth, mask) if void is None else crop(truth & ~void, mask & ~void)


def pair_region(masks: Pair) -> float:
    """J of a pair."""
    shared, union = overlap(masks)
    return shared / union if union else 1.0


def overlap(masks: Pair) -> tuple[int, int]:
    """Pixels of intersection and union."""
    shared = cv2.countNonZero(cv2.bitwise_and(masks.truth, masks.mask))
    return shared, cv2.countNonZero(masks.truth) + cv2.countNonZero(masks.mask) - shared


def pair_contour(masks: Pair, bound: int | float = BOUND) -> float:
    """F of a pair."""
    return matched_contours(masks, disk(tolerance(masks.size, bound)))


def tolerance(size: tuple[int, int], bound: int | float = BOUND) -> int:
    """Pixels within which a boundary pixel counts as found, in a frame of this height and width."""
    return math.ceil(bound if bound >= 1 else bound * math.hypot(*size))


@lru_cache(maxsize=64)
def disk(radius: int | float) -> UInt8[np.ndarray, "k k"]:
    """Ones within `radius` of the middle, on a grid that starts at -radius; so a fraction makes it lopsided.

    The array is shared: leave it as it is.
    """
    steps = np.arange(-radius, radius + 1)
    return (steps[:, None] ** 2 + steps**2 <= radius**2).astype(np.uint8)


def matched_contours(masks: Pair, near: UInt8[np.ndarray, "k k"]) -> float:
    """F of a pair whose boundary pixels are found if the other boundary's lie in `near` around them."""
    true_edge, edge = _edge(masks.truth), _edge(masks.mask)
    true_length, length = cv2.countNonZero(true_edge), cv2.countNonZero(edge)
    if not length or not true_length:
        return float(length == true_length)
    precision = cv2.countNonZero(edge & cv2.dilate(true_edge, near)) / length
    recall = cv2.countNonZero(true_edge & cv2.dilate(edge, near)) / true_length
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: Mask) -> Bool[np.ndarray, "H W"]:
    """Pixels that differ from their right, lower or lower right neighbour; the image's border makes no boundary."""
    return _edge(binary(mask)).view(bool)


def _edge(mask: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """As `boundary`, in zeros and ones."""
    edge = np.zeros(mask.shape, np.uint8)
    edge[:, :-1] = mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


# -------------------------------------------------------------------------------------------------------- statistics
class Statistics(NamedTuple):
    """What is said of an object's scores over its frames."""

    mean: float
    recall: float
    """Share of frames whose score is above RECALLED."""
    decay: float
    """How much lower the mean of the last quarter is than that of the first; the quarters share their ends."""


def statistics(values: Sequence[float]) -> Statistics:
    """Mean, recall and decay. Raises ValueError for no values.

    The quarters' ends are integers, as the official program means them; its own wrap around after 256 frames.
    """
    if not len(values):
        raise ValueError("statistics: no scored frames")
    scores = np.asarray(values, np.float64)
    cuts = np.round(np.linspace(1, len(scores), 5) + 1e-10).astype(int) - 1
    first, last = scores[cuts[0] : cuts[1] + 1], scores[cuts[3] : cuts[4] + 1]
    return Statistics(float(scores.mean()), float((scores > RECALLED).mean()), float(first.mean() - last.mean()))


# ------------------------------------------------------------------------------------------------------- one sequence
VOID = 255
"""In true masks: background, where a prediction counts as wrong."""


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
    """Each object's score over frames. The objects are those of the first true frame, which is not scored itself, nor
    is the last (DAVIS 2017, semi-supervised)."""
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
    """As `score_frames`, of two folders of PNGs with the same names.

    Raises ValueError naming a file that is missing or of another size.
    """
    names = sorted(path.name for path in truth.glob("*.png"))
    if len(names) < 3:
        raise ValueError(f"{truth}: got {len(names)} masks, wanted at least 3: the first and the last are not scored")
    pairs = [(read_labels(truth / name).labels, read_labels(masks / name).labels) for name in names]
    for name, (true_labels, labels) in zip(names, pairs):
        if true_labels.shape != labels.shape:
            raise ValueError(f"{masks / name}: got size {labels.shape}, wanted {true_labels.shape}")
    return score_frames(*zip(*pairs))


def mean_score(scores: Mapping[int, Score]) -> Score:
    """The mean over objects. Raises ValueError if there are none."""
    if not scores:
        raise ValueError("score: no objects in the first true frame")
    return Score(*(float(np.mean(column)) for column in zip(*scores.values())))
