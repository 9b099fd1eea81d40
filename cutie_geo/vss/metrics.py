"""Metrics of semantic maps: IoU by class and at boundaries, and temporal consistency.

`ClipTally` accumulates a clip frame by frame; it holds counts and the last frame. Truth and prediction are (H, W)
uint8 with classes from 0 on. Only consistency counts VOID in truth. VOID in a prediction is no label: it is wrong
wherever truth has a class.

Sources: confusion, weighted IoU and consistency follow the evaluation scripts of VSPW and CFFM; boundaries follow
equations 5 and 6 of "Evaluating SAM2 for Video Semantic Segmentation", for which no program is public.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8, UInt16

from cutie_geo.structures import VOID

WINDOWS = (8, 16)
"""Window lengths, in frames, of published consistency scores."""
KERNEL = 5
"""Side, in pixels, of the square that erodes masks to their boundary band."""

Labels = UInt8[np.ndarray, "H W"]
Confusion = Int64[np.ndarray, "C C1"]
"""Pixel counts by true class (rows) and predicted class; the last column counts pixels without a label."""


# -------------------------------------------------------------------------------------------------------- one frame
def joint(truth: Labels, labels: UInt8[np.ndarray, "H2 W2"], classes: int) -> UInt16[np.ndarray, "H W"]:
    """Return the flat index of each pixel in a confusion matrix with a row for each of 256 labels.

    Raises:
        ValueError: if the sizes differ, a predicted label is neither a class nor VOID, or there are too many classes.
    """
    if truth.shape != labels.shape:
        raise ValueError(f"semantic map: got size {labels.shape}, expected {truth.shape}, that of the true map")
    if not 1 <= classes <= VOID:
        raise ValueError(f"classes: got {classes}, expected 1 to {VOID}")
    column = np.minimum(labels, np.uint8(classes))
    if ((column == classes) & (labels != VOID)).any():
        worst = int(labels[labels != VOID].max())
        raise ValueError(f"semantic map: got label {worst}, expected 0 to {classes - 1}, or {VOID} for none")
    return truth.astype(np.uint16) * np.uint16(classes + 1) + column


def count(joined: UInt16[np.ndarray, "*pixels"], classes: int) -> Confusion:
    """Return the confusion matrix of some or all pixels of `joint`."""
    width = classes + 1
    counts = np.bincount(joined.ravel(), minlength=256 * width).astype(np.int64)
    return counts.reshape(256, width)[:classes]


def confusion(truth: Labels, labels: UInt8[np.ndarray, "H2 W2"], classes: int) -> Confusion:
    """Return the confusion matrix of one frame, over pixels with a true class. Raises ValueError; see `joint`."""
    return count(joint(truth, labels, classes), classes)


def band(truth: Labels, kernel: int = KERNEL) -> Bool[np.ndarray, "H W"]:
    """Return the pixels near boundaries: of each class, its mask minus the erosion of that mask.

    The frame's border is no boundary. VOID has no band; other classes have one beside it.

    Args:
        truth: true map.
        kernel: side of the square that erodes the masks, in pixels.
    """
    square = np.ones((kernel, kernel), np.uint8)
    # erosion removes pixels that see another label: those where the smallest and the largest label around differ
    return (cv2.erode(truth, square) != cv2.dilate(truth, square)) & (truth != VOID)


class BoundaryScore(NamedTuple):
    """Agreement of one frame within its boundary band, from 0 to 1."""

    pixels: float
    """Equation 6, over all pixels of the band."""
    classes: float
    """Alternative reading: mean IoU within the band, over the true classes there."""


def boundary_score(counts: Confusion) -> BoundaryScore | None:
    """Return the score of a frame from the confusion matrix within its band; None for an empty band."""
    total = int(counts.sum())
    if not total:
        return None
    right, labelled = int(np.trace(counts)), int(counts[:, :-1].sum())
    return BoundaryScore(right / (total + labelled - right), mean_iou(counts))


# ------------------------------------------------------------------------------------------------------------ classes
def ious(counts: Confusion) -> Float64[np.ndarray, "C"]:
    """Return the IoU of each class, NaN for classes that are neither true nor predicted."""
    right, true = np.diagonal(counts), counts.sum(1)
    union = true + counts[:, :-1].sum(0) - right
    return np.divide(right, union, out=np.full(len(counts), np.nan), where=union > 0)


def mean_iou(counts: Confusion) -> float:
    """Return the mean IoU over the true classes, of which there must be one."""
    return float(ious(counts)[counts.sum(1) > 0].mean())


def weighted_iou(counts: Confusion) -> float:
    """Return the mean IoU over classes, weighted by their share of true pixels."""
    weights = counts.sum(1)
    return float((weights[weights > 0] * ious(counts)[weights > 0]).sum() / weights.sum())


# -------------------------------------------------------------------------------------------------------- consistency
class Share(NamedTuple):
    """Running mean over windows."""

    total: float = 0.0
    windows: int = 0

    def plus(self, stable: int, kept: int) -> "Share":
        """Add a window in which `kept` of `stable` pixels are consistent; those without stable pixels do not count."""
        return Share(self.total + kept / stable, self.windows + 1) if stable else self


class Consistency:
    """VC_n of one clip: of the pixels with constant truth over n frames, the share with constant prediction.

    A constant prediction need not be correct, and VOID is a label like any other. The official scripts use C - n
    windows of C frames, without the last one, so clips of n frames or fewer do not count; so does `official`. `strict`
    is equation 4: all C - n + 1 windows, only pixels with a class, and predictions must be correct.
    """

    def __init__(self, windows: Sequence[int] = WINDOWS) -> None:
        if not windows or min(windows) < 1:
            raise ValueError(f"windows: got {list(windows)}, expected window lengths from 1 on")
        self.official = dict.fromkeys(windows, Share())
        self.strict = dict.fromkeys(windows, Share())
        self._longest = max(windows)
        self._kind = np.uint8 if self._longest < 256 else np.uint16
        self._before: tuple[Labels, Labels] | None = None
        self._runs: list[np.ndarray] = []  # for how many frames pixels of truth and prediction are constant
        self._last: dict[int, tuple[int, int]] = {}

    def add(self, truth: Labels, labels: Labels) -> None:
        """Add the next frame. Raises ValueError if its size differs from the others."""
        self._count_runs(truth, labels)
        for n, counts in self._last.items():  # no longer the clip's last
            self.official[n] = self.official[n].plus(*counts)
        self._last = {}
        right = (truth == labels) & (truth != VOID)
        for n in self.official:
            stable = self._runs[0] >= n
            if not stable.any():
                continue
            kept = stable & (self._runs[1] >= n)
            self._last[n] = (int(np.count_nonzero(stable)), int(np.count_nonzero(kept)))
            classed = int(np.count_nonzero(stable & (truth != VOID)))
            self.strict[n] = self.strict[n].plus(classed, int(np.count_nonzero(kept & right)))

    def _count_runs(self, truth: Labels, labels: Labels) -> None:
        if self._before is None:
            self._runs = [np.ones(truth.shape, self._kind) for _ in range(2)]
        else:
            for place, (now, before) in enumerate(zip((truth, labels), self._before)):
                if now.shape != before.shape:
                    raise ValueError(
                        f"clip: got a frame of size {now.shape}, expected {before.shape}, that of the others"
                    )
                run = np.minimum(self._runs[place], self._kind(self._longest - 1))
                self._runs[place] = run * (now == before) + self._kind(1)
        self._before = (truth, labels)


# --------------------------------------------------------------------------------------------------------- one clip
class Cells(NamedTuple):
    """Sparse confusion matrix: a clip shows few of all classes."""

    place: Int64[np.ndarray, "cells"]
    pixels: Int64[np.ndarray, "cells"]


class ClipScores(NamedTuple):
    """Contribution of a clip to the total scores."""

    clip: str
    classes: int
    frames: tuple[str, ...]
    accuracy: tuple[float | None, ...]
    """Share of correct pixels of each frame, among those with a class; None without any."""
    boundary: tuple[BoundaryScore, ...]
    """Scores of the frames that have a boundary band."""
    cells: Cells
    band_cells: Cells
    """Confusion within the boundary bands of all frames."""
    official: dict[int, Share]
    strict: dict[int, Share]


class ClipTally:
    """Scores of one clip, accumulated frame by frame.

    Args:
        clip: name of the clip.
        classes: number of classes.
        windows: window lengths n of VC_n.
    """

    def __init__(self, clip: str, classes: int, windows: Sequence[int] = WINDOWS) -> None:
        self.clip, self.classes = clip, classes
        self._consistency = Consistency(windows)
        self._counts, self._band_counts = (np.zeros((classes, classes + 1), np.int64) for _ in range(2))
        self._frames: list[tuple[str, float | None]] = []
        self._boundary: list[BoundaryScore] = []

    def add(self, frame: str, truth: Labels, labels: Labels) -> None:
        """Add the next frame. Raises ValueError for another size or invalid labels."""
        joined = joint(truth, labels, self.classes)
        counts, near = count(joined, self.classes), count(joined[band(truth)], self.classes)
        total = int(counts.sum())
        self._frames.append((frame, int(np.trace(counts)) / total if total else None))
        score = boundary_score(near)
        self._boundary += [] if score is None else [score]
        self._counts += counts
        self._band_counts += near
        self._consistency.add(truth, labels)

    def scores(self) -> ClipScores:
        """Return the scores of all frames so far."""
        frames, accuracy = zip(*self._frames) if self._frames else ((), ())
        return ClipScores(
            self.clip,
            self.classes,
            frames,
            accuracy,
            tuple(self._boundary),
            _cells(self._counts),
            _cells(self._band_counts),
            dict(self._consistency.official),
            dict(self._consistency.strict),
        )


def _cells(counts: Confusion) -> Cells:
    place = np.flatnonzero(counts)
    return Cells(place.astype(np.int64), counts.ravel()[place])


def score_clip(
    clip: str,
    truth: Iterable[Labels],
    labels: Iterable[Labels],
    classes: int,
    windows: Sequence[int] = WINDOWS,
) -> ClipScores:
    """Return the scores of a clip whose maps are in memory. Raises ValueError for unequal lengths and invalid maps."""
    tally = ClipTally(clip, classes, windows)
    for t, (true_labels, own) in enumerate(zip(truth, labels, strict=True)):
        tally.add(f"{t:05d}", true_labels, own)
    return tally.scores()


# ------------------------------------------------------------------------------------------------------ many clips
def added(clips: Sequence[ClipScores], near: bool = False) -> Confusion:
    """Return the confusion of all clips, or with `near` within their boundary bands. Raises ValueError for none."""
    if not clips:
        raise ValueError("score: no clips")
    classes = clips[0].classes
    counts = np.zeros(classes * (classes + 1), np.int64)
    for clip in clips:
        cells = clip.band_cells if near else clip.cells
        counts[cells.place] += cells.pixels  # each place once
    return counts.reshape(classes, classes + 1)


def main_numbers(clips: Sequence[ClipScores]) -> dict[str, float | None]:
    """Return mIoU, wIoU, mBIoU and each mVC of all clips in percent; None where nothing can be scored.

    IoU is computed from one confusion matrix of all clips, mBIoU is the mean over their frames, mVC over their windows.

    Raises:
        ValueError: if there is no clip.
    """
    counts = added(clips)
    any_class = bool(counts.any())
    boundary = [score.pixels for clip in clips for score in clip.boundary]
    return {
        "mIoU": 100 * mean_iou(counts) if any_class else None,
        "wIoU": 100 * weighted_iou(counts) if any_class else None,
        "mBIoU": percent_mean(boundary),
        **{f"mVC{n}": pooled_share([clip.official[n] for clip in clips]) for n in clips[0].official},
    }


def percent_mean(values: Iterable[float]) -> float | None:
    """Return the mean of values from 0 to 1 in percent; None without values."""
    values = list(values)
    return 100 * float(np.mean(values)) if values else None


def pooled_share(shares: Sequence[Share]) -> float | None:
    """Return the mean over the windows of all clips in percent; None without windows."""
    windows = sum(share.windows for share in shares)
    return 100 * sum(share.total for share in shares) / windows if windows else None
