"""J and F of one object on one frame, as the official DAVIS 2017 program computes them.

Source: evaluation specification, sections 2.1 and 2.3.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Integer

from cutie_geo.data.masks import read_labels

BOUND = 0.008
"""A boundary pixel counts as found within this share of the image's diagonal."""


def region_similarity(truth: Bool[np.ndarray, "H W"], mask: Bool[np.ndarray, "H W"]) -> float:
    """J: intersection over union; 1 where both are empty."""
    union = np.count_nonzero(truth | mask)
    return np.count_nonzero(truth & mask) / union if union else 1.0


def boundary(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Pixels that differ from their right, lower or lower right neighbour; the image's border makes no boundary."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, diagonal = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (mask != right) | (mask != below) | (mask != diagonal)


def contour_accuracy(truth: Bool[np.ndarray, "H W"], mask: Bool[np.ndarray, "H W"]) -> float:
    """F: harmonic mean of the shares of each boundary that lie near the other."""
    true_edge, edge = boundary(truth), boundary(mask)
    if not edge.any() or not true_edge.any():
        return float(edge.any() == true_edge.any())
    radius = math.ceil(BOUND * math.hypot(*truth.shape))
    precision = np.count_nonzero(edge & _dilated(true_edge, radius)) / np.count_nonzero(edge)
    recall = np.count_nonzero(true_edge & _dilated(edge, radius)) / np.count_nonzero(true_edge)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _dilated(edge: Bool[np.ndarray, "H W"], radius: int) -> Bool[np.ndarray, "H W"]:
    """Pixels within `radius` of an edge pixel."""
    steps = np.arange(-radius, radius + 1)
    disk = (steps[:, None] ** 2 + steps**2 <= radius**2).astype(np.uint8)
    return cv2.dilate(edge.astype(np.uint8), disk).astype(bool)


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
    return {
        int(i): Score(
            float(np.mean([region_similarity(t == i, m == i) for t, m in scored])),
            float(np.mean([contour_accuracy(t == i, m == i) for t, m in scored])),
        )
        for i in np.unique(truth[0])
        if i not in (0, VOID)
    }


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
