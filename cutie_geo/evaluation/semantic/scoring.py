"""Scores of whole clips of semantic maps from files, one after the other or many at a time in processes."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cutie_geo.data.index.labelled import CLASSES, VOID
from cutie_geo.data.masks import read_labels, resize_labels
from cutie_geo.data.semantic import UNKNOWN, Predictions, SemanticClip, to_classes, unknown_values
from cutie_geo.evaluation.folders import EvaluationError, Treatment, read_bytes_mask
from cutie_geo.evaluation.scoring import in_processes, leave_if_told
from cutie_geo.evaluation.semantic.metrics import WINDOWS, ClipScores, ClipTally, Labels

BYTES = ("classes", "vspw")
"""Kinds of maps that are published with 8 bits a pixel."""


class Rules(NamedTuple):
    """What decides the scores, beside the maps."""

    windows: tuple[int, ...] = WINDOWS
    """The n of VC_n."""
    allow_void: bool = False
    """Predictions may have no label, VOID, somewhere, which is wrong wherever truth has a class."""
    lenient: bool = False
    """Score what is wrong as no label, resized or ignored instead of raising."""


class SemanticJob(NamedTuple):
    """One clip to be scored."""

    truth: SemanticClip
    predicted: SemanticClip
    rules: Rules


class ScoredClip(NamedTuple):
    """What a clip scored, and what was wrong and scored nevertheless."""

    scores: ClipScores
    size: tuple[int, int]
    """Height and width of its first true map."""
    treated: tuple[Treatment, ...]


def semantic_jobs(clips: Sequence[SemanticClip], predictions: Predictions, rules: Rules) -> list[SemanticJob]:
    """One job for each clip. Raises EvaluationError, unless lenient, if the frames predicted are not those of truth:
    before any clip is scored, since that may take minutes.
    """
    found = [SemanticJob(clip, predictions.clip(clip.name), rules) for clip in clips]
    for job in found:
        for wrong in unequal_frames(job.truth, job.predicted):
            if not rules.lenient:
                raise EvaluationError(*wrong[:3])
    return found


def unequal_frames(truth: SemanticClip, predicted: SemanticClip) -> Iterator[Treatment]:
    """Predictions that are missing or too many, with what becomes of them if lenient."""
    if not predicted.maps:
        text = f"the folder of predictions is missing or empty, wanted {predicted.folder} with {len(truth.maps)} masks"
        yield Treatment(truth.name, None, text, "no label")
        return
    counts = f"got {len(predicted.maps)} predictions for {len(truth.maps)} true masks"
    for frame in truth.maps:
        if frame not in predicted.maps:
            text = f"the prediction is missing, wanted {predicted.folder / frame}.png; {counts}"
            yield Treatment(truth.name, frame, text, "no label")
    for frame, path in predicted.maps.items():
        if frame not in truth.maps:
            text = (
                f"there is no true mask for the prediction {path}, wanted none or {truth.folder / frame}.png; {counts}"
            )
            yield Treatment(truth.name, frame, text, "ignored")


def score_clip_files(truth: SemanticClip, predicted: SemanticClip, rules: Rules) -> ScoredClip:
    """The scores of one clip from its files. Raises EvaluationError."""
    reader = SemanticReader(truth, predicted, rules)
    tally = ClipTally(truth.name, CLASSES, rules.windows)
    size = (0, 0)
    for frame in truth.maps:
        leave_if_told(truth.name)
        true_labels = reader.true_labels(frame)
        size = true_labels.shape if size == (0, 0) else size
        if true_labels.shape != size:
            text = f"the true mask is {true_labels.shape}, wanted {size}, as the clip's first"
            raise EvaluationError(truth.name, frame, text)
        tally.add(frame, true_labels, reader.labels(frame, size))
    return ScoredClip(tally.scores(), size, tuple(reader.treated))


def score_clips(todo: Sequence[SemanticJob], workers: int = 1) -> Iterator[ScoredClip]:
    """The scores of each clip, in order, by as many processes. Raises the EvaluationError of the first that has one."""
    yield from in_processes(score_clip_files, todo, workers)


# ------------------------------------------------------------------------------------------------------------ reading
class SemanticReader:
    """Pairs of semantic maps of one clip. `treated` lists what was wrong and read nevertheless, if lenient."""

    def __init__(self, truth: SemanticClip, predicted: SemanticClip, rules: Rules) -> None:
        self.truth, self.predicted, self.rules = truth, predicted, rules
        self.treated = list(unequal_frames(truth, predicted)) if rules.lenient else []

    def true_labels(self, frame: str) -> Labels:
        """The true map of a frame. Raises EvaluationError."""
        raw = self._read(self.truth, frame, "the true mask")
        classes = to_classes(raw, self.truth.kind, (self.truth.segments or {}).get(frame))
        if (classes == UNKNOWN).any():
            self._refuse(
                frame, f"the true mask, {self.truth.maps[frame]}: {unknown_values(raw, classes, self.truth.kind)}"
            )
        return classes

    def labels(self, frame: str, size: tuple[int, int]) -> Labels:
        """The predicted map of a frame, which is at `size`. Raises EvaluationError.

        If lenient, a missing map has no label anywhere, one of another size is resized, and unknown values are none.
        """
        path = self.predicted.maps.get(frame)
        if path is None:
            if not self.rules.lenient:
                self._refuse(frame, f"the prediction is missing, wanted {self.predicted.folder / frame}.png")
            return np.full(size, VOID, np.uint8)
        raw = self._read(self.predicted, frame, "the prediction")
        classes = to_classes(raw, self.predicted.kind, (self.predicted.segments or {}).get(frame))
        if classes.shape != size:
            self._treat(
                frame, f"the prediction, {path}, is {classes.shape}, wanted {size}, the true mask's size", "resized"
            )
            raw, classes = resize_labels(raw, size), resize_labels(classes, size).astype(np.uint8)
        if (classes == UNKNOWN).any():
            text = f"the prediction, {path}: {unknown_values(raw, classes, self.predicted.kind)}"
            self._treat(frame, text, "no label")
            classes = np.where(classes == UNKNOWN, np.uint8(VOID), classes)
        elif not (self.rules.allow_void or self.rules.lenient) and (classes == VOID).any():
            share = np.count_nonzero(classes == VOID) / classes.size
            text = (
                f"the prediction, {path}, has no label ({VOID}) on {share:.1%} of its pixels, wanted a class everywhere"
            )
            self._refuse(frame, f"{text}, or --allow-void to count them as wrong")
        return classes

    def _read(self, clip: SemanticClip, frame: str, what: str) -> np.ndarray:
        """A mask's own values. Raises EvaluationError."""
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
