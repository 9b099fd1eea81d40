"""How good and how steady semantic maps are: IoU by class, at boundaries, and the share of pixels that don't flicker.

A clip is handed over frame by frame to a `ClipTally`, which holds nothing but counts and the last frame. Truth and
prediction are (H, W) uint8, classes from 0 on; VOID in truth is scored by nothing but consistency, VOID in a prediction
is no label, so it is wrong wherever truth has a class.

Sources: confusion, weighted IoU and consistency as the evaluation scripts of VSPW and CFFM compute them; boundaries by
equations 5 and 6 of "Evaluating SAM2 for Video Semantic Segmentation", for which no program is public.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8, UInt16

from cutie_geo.data.index.labelled import VOID

WINDOWS = (8, 16)
"""Frames over which consistency is published."""
KERNEL = 5
"""Pixels: side of the square that a boundary's band is as wide as half of."""

Labels = UInt8[np.ndarray, "H W"]
Confusion = Int64[np.ndarray, "C C1"]
"""Pixels by true class (rows) and predicted class; the last column is of pixels without a label."""


# -------------------------------------------------------------------------------------------------------- one frame
def joint(truth: Labels, labels: UInt8[np.ndarray, "H2 W2"], classes: int) -> UInt16[np.ndarray, "H W"]:
    """Truth and prediction in one number: a place in the rows of a confusion matrix that has a row for each byte.

    Raises ValueError for maps of two sizes, for predicted labels that are neither classes nor VOID, and for more
    classes than 8 bits hold beside VOID.
    """
    if truth.shape != labels.shape:
        raise ValueError(f"semantic map: got size {labels.shape}, wanted {truth.shape}, that of the true one")
    if not 1 <= classes <= VOID:
        raise ValueError(f"classes: got {classes}, wanted 1 to {VOID}")
    column = np.minimum(labels, np.uint8(classes))
    if ((column == classes) & (labels != VOID)).any():
        worst = int(labels[labels != VOID].max())
        raise ValueError(f"semantic map: got label {worst}, wanted 0 to {classes - 1}, or {VOID} for none")
    return truth.astype(np.uint16) * np.uint16(classes + 1) + column


def count(joined: UInt16[np.ndarray, "*pixels"], classes: int) -> Confusion:
    """The confusion matrix of what `joint` made, or of some of its pixels."""
    width = classes + 1
    counts = np.bincount(joined.ravel(), minlength=256 * width).astype(np.int64)
    return counts.reshape(256, width)[:classes]


def confusion(truth: Labels, labels: UInt8[np.ndarray, "H2 W2"], classes: int) -> Confusion:
    """The confusion matrix of one frame, of pixels whose truth is a class. Raises ValueError as `joint` does."""
    return count(joint(truth, labels, classes), classes)


def band(truth: Labels, kernel: int = KERNEL) -> Bool[np.ndarray, "H W"]:
    """Pixels near a boundary: of each class its mask without that mask's erosion by a square of side `kernel`, all
    classes together. Beyond the frame everything counts as inside, so its border is no boundary. VOID has no band, but
    other classes have one beside it.
    """
    square = np.ones((kernel, kernel), np.uint8)
    # eroding one class removes what sees another label: where the least and the largest label around differ
    return (cv2.erode(truth, square) != cv2.dilate(truth, square)) & (truth != VOID)


class BoundaryScore(NamedTuple):
    """One frame's agreement in the band of its boundaries, from 0 to 1."""

    pixels: float
    """Equation 6: over all pixels of the band."""
    classes: float
    """Another reading: the mean of IoU within the band over the classes that truth has there."""


def boundary_score(counts: Confusion) -> BoundaryScore | None:
    """From the confusion matrix within a frame's band; None where that is empty."""
    total = int(counts.sum())
    if not total:
        return None
    right, labelled = int(np.trace(counts)), int(counts[:, :-1].sum())
    return BoundaryScore(right / (total + labelled - right), mean_iou(counts))


# ------------------------------------------------------------------------------------------------------------ classes
def ious(counts: Confusion) -> Float64[np.ndarray, "C"]:
    """IoU of each class: right / (true + predicted - right); NaN where a class is neither true nor predicted."""
    right, true = np.diagonal(counts), counts.sum(1)
    union = true + counts[:, :-1].sum(0) - right
    return np.divide(right, union, out=np.full(len(counts), np.nan), where=union > 0)


def mean_iou(counts: Confusion) -> float:
    """The mean over the classes that occur in truth, of which there must be one."""
    return float(ious(counts)[counts.sum(1) > 0].mean())


def weighted_iou(counts: Confusion) -> float:
    """The mean over classes, weighted by their share of true pixels."""
    weights = counts.sum(1)
    return float((weights[weights > 0] * ious(counts)[weights > 0]).sum() / weights.sum())


# -------------------------------------------------------------------------------------------------------- consistency
class Share(NamedTuple):
    """A mean in the making."""

    total: float = 0.0
    windows: int = 0

    def plus(self, stable: int, kept: int) -> "Share":
        """With one more window: of `stable` pixels, those `kept`. A window without any doesn't count."""
        return Share(self.total + kept / stable, self.windows + 1) if stable else self


class Consistency:
    """VC_n of one clip: of the pixels whose truth stays the same for n frames, the share whose prediction does too.

    It never asks whether the prediction is right, and VOID is a label like any other. The official scripts leave a
    clip's last window out (C - n windows of C frames), and so a clip of n frames or fewer; so does `official`. `strict`
    is equation 4: all C - n + 1 windows, only pixels with a class, and the prediction must be right as well.
    """

    def __init__(self, windows: Sequence[int] = WINDOWS) -> None:
        if not windows or min(windows) < 1:
            raise ValueError(f"windows: got {list(windows)}, wanted numbers of frames from 1 on")
        self.official = dict.fromkeys(windows, Share())
        self.strict = dict.fromkeys(windows, Share())
        self._longest = max(windows)
        self._kind = np.uint8 if self._longest < 256 else np.uint16
        self._before: tuple[Labels, Labels] | None = None
        self._runs: list[np.ndarray] = []  # of truth and prediction: for how many frames a pixel is what it is
        self._last: dict[int, tuple[int, int]] = {}

    def add(self, truth: Labels, labels: Labels) -> None:
        """The next frame. Raises ValueError for another size than before."""
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
                        f"clip: got a frame of size {now.shape}, wanted {before.shape}, that of the others"
                    )
                run = np.minimum(self._runs[place], self._kind(self._longest - 1))
                self._runs[place] = run * (now == before) + self._kind(1)
        self._before = (truth, labels)


# --------------------------------------------------------------------------------------------------------- one clip
class Cells(NamedTuple):
    """A confusion matrix as the places that aren't empty: a clip shows few of all classes."""

    place: Int64[np.ndarray, "cells"]
    pixels: Int64[np.ndarray, "cells"]


class ClipScores(NamedTuple):
    """What a clip contributes to the scores of all."""

    clip: str
    classes: int
    frames: tuple[str, ...]
    accuracy: tuple[float | None, ...]
    """Of each frame, the share of right pixels among those with a class; None where there is none."""
    boundary: tuple[BoundaryScore, ...]
    """Of the frames that have a band."""
    cells: Cells
    band_cells: Cells
    """Within the bands of all frames."""
    official: dict[int, Share]
    strict: dict[int, Share]


class ClipTally:
    """The scores of one clip, frame by frame. classes: how many there are; windows: the n of VC_n."""

    def __init__(self, clip: str, classes: int, windows: Sequence[int] = WINDOWS) -> None:
        self.clip, self.classes = clip, classes
        self._consistency = Consistency(windows)
        self._counts, self._band_counts = (np.zeros((classes, classes + 1), np.int64) for _ in range(2))
        self._frames: list[tuple[str, float | None]] = []
        self._boundary: list[BoundaryScore] = []

    def add(self, frame: str, truth: Labels, labels: Labels) -> None:
        """The next frame. Raises ValueError for another size and for labels that are none."""
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
        """All of what was added."""
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
    """The scores of a clip whose maps are at hand. Raises ValueError for unequal numbers of frames, and as `add`."""
    tally = ClipTally(clip, classes, windows)
    for t, (true_labels, own) in enumerate(zip(truth, labels, strict=True)):
        tally.add(f"{t:05d}", true_labels, own)
    return tally.scores()


# ------------------------------------------------------------------------------------------------------ many clips
def added(clips: Sequence[ClipScores], near: bool = False) -> Confusion:
    """The confusion matrix of all clips; near: within the bands of boundaries. Raises ValueError for no clip."""
    if not clips:
        raise ValueError("score: no clips")
    classes = clips[0].classes
    counts = np.zeros(classes * (classes + 1), np.int64)
    for clip in clips:
        cells = clip.band_cells if near else clip.cells
        counts[cells.place] += cells.pixels  # each place once
    return counts.reshape(classes, classes + 1)


def main_numbers(clips: Sequence[ClipScores]) -> dict[str, float | None]:
    """mIoU, wIoU, mBIoU and each mVC of all clips as percentages; None where there is nothing to score.

    Pixels of all clips go into one confusion matrix; mBIoU is the mean over frames, mVC over windows, of all clips.
    Raises ValueError for no clip.
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
    """The mean of values from 0 to 1 as a percentage; None of none."""
    values = list(values)
    return 100 * float(np.mean(values)) if values else None


def pooled_share(shares: Sequence[Share]) -> float | None:
    """The mean over the windows of all clips as a percentage; None where there is no window."""
    windows = sum(share.windows for share in shares)
    return 100 * sum(share.total for share in shares) / windows if windows else None
