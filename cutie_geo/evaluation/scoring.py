"""Scoring of sequences, sequentially or in parallel processes with identical results."""

import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
from jaxtyping import UInt8

from cutie_geo.evaluation.folders import Reader, Treatment, labels_in
from cutie_geo.evaluation.metrics import (
    Pair,
    disk,
    matched_contours,
    pair,
    pair_region,
    tolerance,
)
from cutie_geo.evaluation.mosev2 import contours, smoothed_region
from cutie_geo.evaluation.protocols import Plan, Settings, plan
from cutie_geo.multiprocessing import clean_processes, uninterrupted
from cutie_geo.structures import VOID

AHEAD = 16
"""Jobs per process submitted ahead, so that a long job does not block others."""
NO_FOLDERS: Mapping[str, Path] = MappingProxyType({})
Scores = TypeVar("Scores")


@dataclass
class ObjectScores:
    """One object's scores from 0 to 1 on its scored frames, in frame order."""

    frames: list[str] = field(default_factory=list)
    j: list[float] = field(default_factory=list)
    f: list[float] = field(default_factory=list)
    f_adaptive: list[float] = field(default_factory=list)
    """MOSE v2 only."""
    absent: list[bool] = field(default_factory=list)
    """The true mask is empty."""


@dataclass
class SequenceScores:
    """Scores of one sequence."""

    sequence: str
    objects: dict[int, ObjectScores]
    frames: int
    """Number of frames with scores."""
    warnings: tuple[str, ...]
    treated: tuple[Treatment, ...]
    """Faults that were scored nevertheless."""


# ---------------------------------------------------------------------------------------------------- one sequence
def score_sequence(sequence: str, truth: Path, masks: Path, settings: Settings) -> SequenceScores:
    """Score one sequence from its two folders. Raises EvaluationError."""
    reader = Reader(sequence, truth, masks, settings.lenient)
    todo = plan(reader, settings)
    objects = {i: ObjectScores() for i in todo.objects or ()}
    mosev2 = settings.protocol == "mosev2"
    lost = mosev2 and settings.lenient and not masks.is_dir()
    for frame in todo.frames:
        raise_if_stopped(sequence)
        true_labels, labels = _read(reader, todo, frame)
        _add_frame(objects, todo, frame, true_labels, labels, mosev2, lost)
    for i, count in todo.zeros.items():
        objects[i].j += [0.0] * count
        objects[i].f += [0.0] * count
    if todo.objects is None:  # labels without a true mask are not objects
        objects = {i: own for i, own in sorted(objects.items()) if not all(own.absent)}
    return SequenceScores(sequence, objects, len(todo.frames), todo.warnings, tuple(reader.treated))


def _read(reader: Reader, todo: Plan, frame: str) -> tuple[UInt8[np.ndarray, "H W"], UInt8[np.ndarray, "H W"]]:
    """Return true and predicted labels of a frame, converted as the plan requires."""
    true_labels = reader.true_labels(frame)
    labels = reader.labels(frame, true_labels.shape, todo.known)
    if todo.single:
        return (true_labels > 0).view(np.uint8), (labels > 0).view(np.uint8)
    if todo.void and true_labels.max() == VOID:
        true_labels = np.where(true_labels == VOID, np.uint8(0), true_labels)
    return true_labels, labels


def _add_frame(
    objects: dict[int, ObjectScores],
    todo: Plan,
    frame: str,
    true_labels: UInt8[np.ndarray, "H W"],
    labels: UInt8[np.ndarray, "H W"],
    mosev2: bool,
    lost: bool,
) -> None:
    """Score all objects of a frame. If `lost`, scores are 0, as MOSE v2 does for a missing sequence."""
    if todo.objects is None:
        for i in (*labels_in(true_labels), *labels_in(labels)):
            objects.setdefault(i, ObjectScores())
        due = list(objects)
    else:
        due = [i for i, own in todo.objects.items() if frame in own]
    near = disk(tolerance(true_labels.shape))
    for i in due:
        scores = objects[i]
        masks = pair(true_labels, labels, i)
        j, f, adaptive = _mosev2(masks) if mosev2 else (pair_region(masks), matched_contours(masks, near), 0.0)
        scores.frames.append(frame)
        scores.absent.append(not masks.truth.any())
        scores.j.append(0.0 if lost else j)
        scores.f.append(0.0 if lost else f)
        if mosev2:
            scores.f_adaptive.append(0.0 if lost else adaptive)


def _mosev2(masks: Pair) -> tuple[float, float, float]:
    return smoothed_region(masks), *contours(masks)


# --------------------------------------------------------------------------------------------------- many sequences
class Job(NamedTuple):
    """One sequence to be scored."""

    sequence: str
    truth: Path
    masks: Path
    settings: Settings


class Stopped(Exception):
    """Scoring of a sequence was stopped."""


_stop: Any = None
"""Event that stops a worker, checked after each frame."""


def jobs(
    truth: Path,
    masks: Path,
    sequences: Sequence[str],
    settings: Settings,
    folders: Mapping[str, Path] = NO_FOLDERS,
) -> list[Job]:
    """Return one job for each sequence, each with its own part of the meta file only.

    Args:
        folders: folders of true masks by sequence, where they are not in `truth`.
    """
    found = []
    for name in sequences:
        meta = {name: settings.meta[name]} if name in settings.meta else {}
        own = Settings(settings.protocol, settings.lenient, settings.all_frames, meta, settings.unseen)
        found.append(Job(name, folders.get(name, truth / name), masks / name, own))
    return found


def score_sequences(todo: Sequence[Job], workers: int = 1) -> Iterator[SequenceScores]:
    """Yield the scores of each job in order, computed by `workers` processes. Raises the first EvaluationError in
    order.

    When the generator is closed, all processes end within a frame.
    """
    yield from in_processes(score_sequence, todo, workers)


def in_processes(score: Callable[..., Scores], todo: Sequence[tuple[Any, ...]], workers: int = 1) -> Iterator[Scores]:
    """Yield `score(*job)` of each job in order, computed by `workers` processes with a bounded queue of results.

    When the generator is closed, each process ends as soon as `score` calls `raise_if_stopped`.

    Raises:
        ValueError: for less than one process.
        Exception: the error of the first failing job in order.
    """
    if workers < 1:
        raise ValueError(f"workers: got {workers}, expected 1 or more")
    if min(workers, len(todo)) <= 1:
        yield from (score(*job) for job in todo)
        return
    context = clean_processes(__name__)
    stop = context.Event()
    pool = ProcessPoolExecutor(min(workers, len(todo)), context, _enter, (stop,))
    waiting: deque[Future[Scores]] = deque()
    try:
        for job in todo:
            with uninterrupted():  # the first of these start the processes
                waiting.append(pool.submit(score, *job))
            if len(waiting) >= AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def raise_if_stopped(sequence: str) -> None:
    """Raise Stopped in a worker whose parent is about to exit. Call it after each frame."""
    if _stop is not None and _stop.is_set():
        raise Stopped(f"{sequence}: stopped")


def _enter(stop: Any) -> None:
    """Initialise a worker with one thread; the parent handles SIGINT."""
    global _stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    _stop = stop
