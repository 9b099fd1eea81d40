"""Scoring of clips of semantic maps from files, in one or several processes."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cutie_geo.data.masks import read_labels, resize_labels
from cutie_geo.evaluation.folders import EvaluationError, Treatment, read_bytes_mask
from cutie_geo.evaluation.scoring import in_processes, raise_if_stopped
from cutie_geo.structures import VOID
from cutie_geo.vss.index import CLASSES
from cutie_geo.vss.metrics import WINDOWS, ClipScores, ClipTally, Labels
from cutie_geo.vss.semantic_maps import UNKNOWN, Predictions, SemanticClip, to_classes, unknown_values

BYTES = ("classes", "vspw")
"""Kinds of maps with 8 bits per pixel."""


class Rules(NamedTuple):
    """Options of scoring."""

    windows: tuple[int, ...] = WINDOWS
    """Window lengths n of VC_n."""
    allow_void: bool = False
    """Accept VOID, no label, in predictions; it is wrong wherever truth has a class."""
    lenient: bool = False
    """Score invalid predictions as no label, resized or ignored, instead of raising."""


class SemanticJob(NamedTuple):
    """One clip to score."""

    truth: SemanticClip
    predicted: SemanticClip
    rules: Rules


class ScoredClip(NamedTuple):
    """Scores of a clip, with the invalid predictions that were scored leniently."""

    scores: ClipScores
    size: tuple[int, int]
    """(H, W) of its first true map."""
    treated: tuple[Treatment, ...]


def semantic_jobs(clips: Sequence[SemanticClip], predictions: Predictions, rules: Rules) -> list[SemanticJob]:
    """Return one job for each clip.

    Raises:
        EvaluationError: unless lenient, if the predicted frames are not those of truth.
    """
    found = [SemanticJob(clip, predictions.clip(clip.name), rules) for clip in clips]
    for job in found:
        for wrong in unequal_frames(job.truth, job.predicted):
            if not rules.lenient:
                raise EvaluationError(*wrong[:3])
    return found


def unequal_frames(truth: SemanticClip, predicted: SemanticClip) -> Iterator[Treatment]:
    """Yield missing and surplus predictions, with their lenient treatment."""
    if not predicted.maps:
        text = f"no predictions, expected {len(truth.maps)} masks in {predicted.folder}"
        yield Treatment(truth.name, None, text, "no label")
        return
    counts = f"got {len(predicted.maps)} predictions for {len(truth.maps)} true masks"
    for frame in truth.maps:
        if frame not in predicted.maps:
            text = f"the prediction is missing, expected {predicted.folder / frame}.png; {counts}"
            yield Treatment(truth.name, frame, text, "no label")
    for frame, path in predicted.maps.items():
        if frame not in truth.maps:
            text = f"no true mask for the prediction {path}, expected {truth.folder / frame}.png; {counts}"
            yield Treatment(truth.name, frame, text, "ignored")


def score_clip_files(truth: SemanticClip, predicted: SemanticClip, rules: Rules) -> ScoredClip:
    """Score one clip from its files. Raises EvaluationError."""
    reader = SemanticReader(truth, predicted, rules)
    tally = ClipTally(truth.name, CLASSES, rules.windows)
    size = (0, 0)
    for frame in truth.maps:
        raise_if_stopped(truth.name)
        true_labels = reader.true_labels(frame)
        size = true_labels.shape if size == (0, 0) else size
        if true_labels.shape != size:
            text = f"the true mask is {true_labels.shape}, expected {size}, as the first of the clip"
            raise EvaluationError(truth.name, frame, text)
        tally.add(frame, true_labels, reader.labels(frame, size))
    return ScoredClip(tally.scores(), size, tuple(reader.treated))


def score_clips(todo: Sequence[SemanticJob], workers: int = 1) -> Iterator[ScoredClip]:
    """Yield the scores of each clip, in order. Raises the first EvaluationError."""
    yield from in_processes(score_clip_files, todo, workers)


# ------------------------------------------------------------------------------------------------------------ reading
class SemanticReader:
    """Reader of true and predicted maps of one clip. `treated` lists predictions that were accepted leniently."""

    def __init__(self, truth: SemanticClip, predicted: SemanticClip, rules: Rules) -> None:
        self.truth, self.predicted, self.rules = truth, predicted, rules
        self.treated = list(unequal_frames(truth, predicted)) if rules.lenient else []

    def true_labels(self, frame: str) -> Labels:
        """Return the true map of a frame. Raises EvaluationError."""
        raw = self._read(self.truth, frame, "the true mask")
        classes = to_classes(raw, self.truth.kind, (self.truth.segments or {}).get(frame))
        if (classes == UNKNOWN).any():
            self._refuse(
                frame, f"the true mask, {self.truth.maps[frame]}: {unknown_values(raw, classes, self.truth.kind)}"
            )
        return classes

    def labels(self, frame: str, size: tuple[int, int]) -> Labels:
        """Return the predicted map of a frame.

        If lenient, a missing map has no labels, a map of another size is resized, and unknown values are no label.

        Raises:
            EvaluationError: if the map is invalid and scoring is not lenient.
        """
        path = self.predicted.maps.get(frame)
        if path is None:
            if not self.rules.lenient:
                self._refuse(frame, f"the prediction is missing, expected {self.predicted.folder / frame}.png")
            return np.full(size, VOID, np.uint8)
        raw = self._read(self.predicted, frame, "the prediction")
        classes = to_classes(raw, self.predicted.kind, (self.predicted.segments or {}).get(frame))
        if classes.shape != size:
            self._treat(
                frame,
                f"the prediction, {path}, is {classes.shape}, expected {size}, the size of the true mask",
                "resized",
            )
            raw, classes = resize_labels(raw, size), resize_labels(classes, size).astype(np.uint8)
        if (classes == UNKNOWN).any():
            text = f"the prediction, {path}: {unknown_values(raw, classes, self.predicted.kind)}"
            self._treat(frame, text, "no label")
            classes = np.where(classes == UNKNOWN, np.uint8(VOID), classes)
        elif not (self.rules.allow_void or self.rules.lenient) and (classes == VOID).any():
            share = np.count_nonzero(classes == VOID) / classes.size
            text = f"the prediction, {path}, has no label ({VOID}) on {share:.1%} of its pixels"
            self._refuse(frame, f"{text}, expected a class everywhere, or --allow-void to count them as wrong")
        return classes

    def _read(self, clip: SemanticClip, frame: str, what: str) -> np.ndarray:
        """Return the values of a mask. Raises EvaluationError."""
        path = clip.maps[frame]
        if clip.kind in BYTES:
            return read_bytes_mask(path, clip.name, frame, what)
        try:
            return read_labels(path, long_ids=clip.kind == "panoptic").labels
        except ValueError as error:
            raise EvaluationError(clip.name, frame, f"{what}, {error}") from error

    def _treat(self, frame: str, reason: str, treated_as: str) -> None:
        if not self.rules.lenient:
            self._refuse(frame, reason)
        self.treated.append(Treatment(self.truth.name, frame, reason, treated_as))

    def _refuse(self, frame: str, reason: str) -> None:
        raise EvaluationError(self.truth.name, frame, reason)
