"""Interactive benchmark: a box on the first frame, then corrections of the worst frames, as an annotator makes them."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32

from cutie_geo.config import TrackerConfig, require
from cutie_geo.config.choices import DEFAULT_MODEL
from cutie_geo.data.clicks import box_of, next_click
from cutie_geo.data.index import mask_files
from cutie_geo.data.masks import object_ids, read_labels
from cutie_geo.evaluation.folders import listed_names, sequence_names
from cutie_geo.evaluation.metrics import pair, pair_contour, pair_region
from cutie_geo.evaluation.plots import find_frames
from cutie_geo.inference.prompting import FramePrompter
from cutie_geo.runs.models import VideoModel, load_any
from cutie_geo.runs.prompts import load_frame_prompter
from cutie_geo.runs.session import Session
from cutie_geo.structures import VOID, ObjectId

Corrections = Literal["clicks", "masks"]
CORRECTIONS: tuple[Corrections, ...] = ("clicks", "masks")
Labels = Int32[np.ndarray, "H W"]
Scores = dict[int, dict[ObjectId, tuple[float, float]]]
"""J and F by frame and object."""


@dataclass(frozen=True)
class InteractiveOptions:
    """Options of the interactive benchmark, named as on the command line."""

    gt: Path
    """Folder of true masks, a folder of PNGs for each sequence."""
    frames: Path | None = None
    """Folder of the frames, in folders of the same names. None: `JPEGImages` beside the `Annotations` of `gt`."""
    sequences: Path | None = None
    """Text file with the sequences. None: all."""
    model: str = DEFAULT_MODEL
    weights: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    max_internal_size: int | None = None
    """Shorter side at which the network sees the frames. None: the model's."""
    corrections: Corrections = "clicks"
    """`clicks`: a box, then simulated clicks; `masks`: true masks, which needs no prompter."""
    rounds: int = 3
    """Number of corrected frames."""
    round_clicks: int = 3
    """Maximum number of clicks on an object of a corrected frame."""

    def __post_init__(self) -> None:
        require(self.corrections in CORRECTIONS, f"--corrections: expected {' or '.join(CORRECTIONS)}")
        require(self.rounds >= 0, f"--rounds: got {self.rounds}, expected 0 or more")
        require(self.round_clicks >= 1, f"--round-clicks: got {self.round_clicks}, expected 1 or more")


@runtime_checkable
class BenchmarkSession(Protocol):
    """Protocol of the methods of `Session` that the benchmark calls."""

    @property
    def names(self) -> tuple[str, ...]: ...
    def prompt(self, frame: int, object: ObjectId, points: Any = (), labels: Any = None, box: Any = None) -> Any: ...
    def set_mask(self, frame: int, object: ObjectId, mask: Any) -> None: ...
    def labels(self, index: int) -> Labels: ...
    def undo(self) -> Any: ...
    def propagate(self) -> Iterable[Any]: ...


def interactive(
    options: InteractiveOptions, watch: Callable[[Iterable[str], int], Iterator[str]] = lambda names, _: iter(names)
) -> dict[str, Any]:
    """Run the benchmark; return J&F by corrections and by seconds of computing, of each sequence and their mean.

    The objects are those of the first true mask. Each correction is on the frame with the lowest J&F among those that
    were not corrected yet. A corrected frame is never worse than before: clicks that make it worse are undone.

    Raises:
        ValueError: For missing folders, sequences without frames, and invalid options.
    """
    frames = options.frames or find_frames(options.gt)
    if frames is None:
        raise ValueError(f"--frames: no JPEGImages beside {options.gt}, expected the folder of the frames")
    names = sequence_names(options.gt) if options.sequences is None else listed_names(options.sequences)
    require(bool(names), f"{options.gt}: no sequences, expected a folder of masks for each")
    for name in names:
        require((options.gt / name).is_dir(), f"{options.gt}: no ground truth for {name}")
        require((frames / name).is_dir(), f"{frames}: no frames of {name}")
    model = load_any(options.model, options.weights, options.device, options.precision)
    prompter = load_frame_prompter(model) if options.corrections == "clicks" else None
    results = {
        name: measure(frames / name, mask_files(options.gt / name), model, options, prompter)
        for name in watch(names, len(names))
    }
    rounds = range(options.rounds + 1)
    mean = [
        {
            key: float(np.mean([result[min(k, len(result) - 1)][key] for result in results.values()]))
            for key in ("j", "f", "j_and_f", "seconds")
        }
        for k in rounds
    ]
    return {
        "protocol": "interactive",
        "model": options.model,
        "weights": options.weights,
        "max_internal_size": options.max_internal_size,
        "corrections": options.corrections,
        "round_clicks": options.round_clicks,
        "mean": mean,
        "sequences": results,
    }


def measure(
    frames: Path,
    masks: Mapping[str, Path],
    model: VideoModel,
    options: InteractiveOptions,
    prompter: FramePrompter | None,
) -> list[dict[str, Any]]:
    """Return the scores of one sequence after the first prompt and after each correction.

    Args:
        frames: Video.
        masks: True masks by frame name; frames without one are not scored.
        model: Network that propagates.
        options: Options of the benchmark.
        prompter: Predictor of masks from boxes and clicks.
    """
    with Session(
        frames, model, prompter=prompter, tracker=TrackerConfig(max_internal_size=options.max_internal_size)
    ) as session:
        return measure_session(session, masks, options)


def measure_session(
    session: BenchmarkSession, masks: Mapping[str, Path], options: InteractiveOptions
) -> list[dict[str, Any]]:
    """Prompt, propagate and correct a video that has no prompts yet; return scores as `measure`."""
    places = {name: index for index, name in enumerate(session.names)}
    unknown = [name for name in masks if name not in places]
    require(not unknown, f"frames: got none named {', '.join(unknown[:5])}, which have true masks")
    truth = {places[name]: read_labels(path, long_ids=True).labels for name, path in masks.items()}
    start = min(truth)
    objects = [i for i in object_ids(truth[start]) if i != VOID]
    require(bool(objects), f"{masks[session.names[start]]}: the first true mask shows no object")
    clock = _Clock()
    with clock:
        for object_id in objects:
            first = truth[start] == object_id
            if options.corrections == "masks":
                session.set_mask(start, object_id, first)
            else:
                session.prompt(start, object_id, box=box_of(first))
        _propagate(session)
    scores = _scores(session, truth, objects)
    rounds = [_row(scores, clock.seconds)]
    corrected: set[int] = set()
    for _ in range(min(options.rounds, len(truth))):
        worst = min((k for k in scores if k not in corrected), key=lambda k: (_frame_mean(scores[k]), k))
        corrected.add(worst)
        before = _frame_mean(scores[worst])
        with clock:
            _correct(session, worst, truth[worst], objects, options)
            _propagate(session)
        scores = _scores(session, truth, objects)
        row = {"frame": session.names[worst], "before": before, "after": _frame_mean(scores[worst])}
        rounds.append(_row(scores, clock.seconds) | row)
    return rounds


def _correct(
    session: BenchmarkSession, frame: int, truth: Labels, objects: Sequence[ObjectId], options: InteractiveOptions
) -> None:
    """Correct all objects of a frame; undo clicks after which the frame is worse."""
    for object_id in objects:
        true = truth == object_id
        if options.corrections == "masks":
            session.set_mask(frame, object_id, true)
            continue
        best, kept, made = _scored(session.labels(frame), truth, objects), 0, 0
        for _ in range(options.round_clicks):
            click = next_click(true, session.labels(frame) == object_id)
            if click is None:
                break
            x, y, label = click
            try:
                session.prompt(frame, object_id, points=[(x, y)], labels=[label])
            except ValueError:  # the predicted mask is empty, or only negative clicks are left
                break
            made += 1
            score = _scored(session.labels(frame), truth, objects)
            if score >= best:
                best, kept = score, made
        for _ in range(made - kept):
            session.undo()


class _Clock:
    """Counts the seconds within its blocks."""

    seconds = 0.0

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.perf_counter() - self._since


def _propagate(session: BenchmarkSession) -> None:
    for _ in session.propagate():
        pass


def _scores(session: BenchmarkSession, truth: Mapping[int, Labels], objects: Sequence[ObjectId]) -> Scores:
    return {index: _frame_scores(session.labels(index), labels, objects) for index, labels in truth.items()}


def _frame_scores(labels: Labels, truth: Labels, objects: Sequence[ObjectId]) -> dict[ObjectId, tuple[float, float]]:
    pairs = {i: pair(truth, labels, i) for i in objects}
    return {i: (pair_region(masks), pair_contour(masks)) for i, masks in pairs.items()}


def _scored(labels: Labels, truth: Labels, objects: Sequence[ObjectId]) -> float:
    return _frame_mean(_frame_scores(labels, truth, objects))


def _frame_mean(scores: Mapping[ObjectId, tuple[float, float]]) -> float:
    """Return J&F of a frame, the mean over its objects."""
    return float(np.mean([(j + f) / 2 for j, f in scores.values()]))


def _row(scores: Scores, seconds: float) -> dict[str, Any]:
    every = [pair for frame in scores.values() for pair in frame.values()]
    j, f = float(np.mean([j for j, _ in every])), float(np.mean([f for _, f in every]))
    return {"j": j, "f": f, "j_and_f": (j + f) / 2, "seconds": round(seconds, 3)}


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """Return the report as a table."""
    lines = [f"interactive, {report['corrections']}, {report['model']}: J&F (seconds of computing)"]
    count = len(report["mean"])
    lines.append("".join(["sequence".ljust(24), *(f"{k} corrections".rjust(18) for k in range(count))]))
    for name, rows in [*report["sequences"].items(), ("mean", report["mean"])]:
        cells = [f"{100 * row['j_and_f']:.1f} ({row['seconds']:.1f})".rjust(18) for row in rows]
        lines.append("".join([str(name)[:23].ljust(24), *cells]))
    return lines
