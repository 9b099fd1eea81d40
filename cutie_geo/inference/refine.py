"""Semantic maps of a video from masklets: masks found at the start of each window are followed through it, and each
takes the class that most of the base prediction has inside it, or, with a `Segmentor`, the one that a classifier gives
it.

Source: "Evaluating SAM2 for Video Semantic Segmentation", SAM 2 as a refiner and as a segmentor. What the paper leaves
open is decided in `voting` and `segmentor`.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from av.error import FFmpegError
from tqdm import tqdm

from cutie_geo.config import require
from cutie_geo.data.background import Writer, read_ahead
from cutie_geo.data.index import VideoRecord
from cutie_geo.data.index.labelled import CLASSES, VOID
from cutie_geo.data.index.records import some
from cutie_geo.data.semantic import SemanticClip, read_semantic, write_semantic
from cutie_geo.data.video import FrameFolder, VideoFile, open_source, to_tensor
from cutie_geo.errors import reason
from cutie_geo.inference.masklets import Finder, Image, Order, Propagator, follow_windows
from cutie_geo.inference.one_video import peak_memory, reset_peak_memory
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.results import Report, Results, input_digests, refuse_inputs, refuse_others
from cutie_geo.inference.segmentor import Segmentor, WindowFeatures
from cutie_geo.inference.voting import Labels, Scope, Window
from cutie_geo.model.segformer import Segformer
from cutie_geo.progress import progress

log = logging.getLogger(__name__)

Base = Callable[[str, Image], Labels]
"""Gives the base prediction of a frame, by its name and pixels. Raises ValueError where there is none."""
PENDING = 16
"""Frames that wait to be written."""


@dataclass(frozen=True)
class RefineOptions:
    """What is done with each video. Raises ValueError for numbers that can't work."""

    window: int = 32
    """Frames through which masks are followed before they are found anew."""
    scope: Scope = "window"
    order: Order = "size"
    workers: int = 2
    """Threads that read and as many that write."""
    overwrite: bool = False
    """Do complete videos again, and those of other settings."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else decides what the maps will be, such as models and thresholds."""

    def __post_init__(self) -> None:
        require(self.window >= 1, f"window: got {self.window}, wanted 1 frame or more")
        require(self.workers >= 1, f"workers: got {self.workers}, wanted 1 or more")

    def fingerprint(self) -> dict[str, Any]:
        """All that decides what the maps will be, but for the video itself, as it reads after a trip through JSON."""
        shown = {"window": self.window, "scope": self.scope, "order": self.order}
        return json.loads(json.dumps({**self.settings, **shown}))


class Job(NamedTuple):
    """A video and its base predictions."""

    record: VideoRecord
    """Its masks are the base predictions, so that what tells inputs apart looks at them."""
    clip: SemanticClip | None
    """Saved base predictions; None where they are computed, or there are none."""


class Refiner(NamedTuple):
    """The models at work, which go from video to video."""

    find: Finder
    propagator: Propagator
    base: Base | None
    """Computes base predictions; None where they are saved."""
    models: Sequence[Any]
    """Whose precision everything runs in, and whose device is measured: the one that finds masks first."""
    segmentor: Segmentor | None = None
    """Tells the masklets' classes; None where the base predictions vote."""


# --------------------------------------------------------------------------------------------------------- one window
class Refined(NamedTuple):
    """One frame of a window."""

    name: str
    labels: Labels
    masklets: int
    """Of its window."""
    first: bool
    """Of its window."""


def refine_frames(
    frames: Iterable[tuple[str, Image]],
    base: Base,
    find: Finder,
    propagator: Propagator,
    options: RefineOptions,
    segmentor: Segmentor | None = None,
) -> Iterator[Refined]:
    """The map of each frame, a window at a time: what is held doesn't grow with the number of windows.

    frames: names and RGB pictures. A window's pictures are not kept, its maps come once its last frame was seen.
    segmentor: tells the masklets' classes in place of the vote.
    """
    for found, scores, followed in follow_windows(frames, find, propagator, options.window, options.order):
        window, names = Window(CLASSES), []
        features = None if segmentor is None else WindowFeatures(segmentor.encode, options.scope)
        for name, image, masks in followed:
            window.add(base(name, image), masks)
            names.append(name)
            if features is not None:
                features.add(image, masks)
        if segmentor is None or features is None:
            painted = window.refined(scores, options.scope)
        else:
            painted = window.painted([segmentor.classes(own) for own in features.means()], scores)
        for k, (name, labels) in enumerate(zip(names, painted)):
            yield Refined(name, labels, len(found.masks), k == 0)


def no_base(name: str, image: Image) -> Labels:
    """The base prediction of a frame where there is none: VOID everywhere."""
    return np.full(image.shape[:2], VOID, np.uint8)


class SavedBase:
    """Base predictions in files, one for each frame."""

    def __init__(self, clip: SemanticClip) -> None:
        self.clip = clip

    def __call__(self, name: str, image: Image) -> Labels:
        """The map of a frame. Raises ValueError if it is missing, of another size, or holds what is no class."""
        path = self.clip.maps.get(name)
        if path is None:
            raise ValueError(f"{self.clip.folder}: no map for frame {name}, wanted {name}.png")
        segments = (self.clip.segments or {}).get(name)
        labels = read_semantic(path, self.clip.kind, segments)
        got, wanted = labels.shape, image.shape[:2]
        require(got == wanted, f"{path}: map is (H, W) = {got}, wanted {wanted}, the size of the frame")
        return labels

    def require_all(self, names: Sequence[str]) -> None:
        """Raises ValueError unless every frame has its map; maps beyond those are nobody's concern."""
        missing = [name for name in names if name not in self.clip.maps]
        count = f"{len(missing)} of {len(names)} frames"
        require(not missing, f"{self.clip.folder}: no map for {count}: {some(missing)}")


class ComputedBase:
    """Base predictions of a SegFormer, made as they are needed."""

    def __init__(self, model: Segformer) -> None:
        self.model = model

    def __call__(self, name: str, image: Image) -> Labels:
        """The map of a frame. Raises ValueError if the frame is too small."""
        return self.model(to_tensor(image))


# ---------------------------------------------------------------------------------------------------------- one video
def refine_video(
    job: Job, refiner: Refiner, results: Results, options: RefineOptions, line: int, leave: bool
) -> Report:
    """Refine one video into `results`; `line` and `leave` are those of its bar. Raises ValueError or OSError."""
    record = job.record
    require(record.problem is None, str(record.problem))
    refuse_inputs(results, record, RunOptions())
    inputs = input_of(job)
    source = open_source(record.source, options.workers)
    base = refiner.base if job.clip is None else SavedBase(job.clip)
    assert base is not None, "planned without base predictions"
    if isinstance(base, SavedBase) and source.names is not None:
        base.require_all(source.names)
    results.begin(record.name)
    device = refiner.models[0].device
    reset_peak_memory(device)
    started = time.perf_counter()
    with ExitStack() as precisions:
        for model in refiner.models:
            precisions.enter_context(model.autocast())
        bar = progress(source.frames, record.name, "frame", line, leave)
        done = _refine_and_save(record.name, source, base, refiner, results, options, bar)
    seconds = time.perf_counter() - started
    return {
        "video": record.name,
        "frames": done.frames,
        "frame_size": done.size,
        "masklets": done.masklets,
        "settings": options.fingerprint(),
        "input": inputs,
        "seconds": round(seconds, 3),
        "frames_per_second": round(len(done.frames) / max(seconds, 1e-9), 3),
        "memory_bytes": done.held,
        "peak_memory_bytes": peak_memory(device),
    }


class _Done(NamedTuple):
    """What came of a video."""

    frames: list[str]
    size: list[int]
    masklets: list[int]
    """Of each window."""
    held: dict[str, int]
    """Most bytes that the propagator held at the end of a window, by kind."""


def _refine_and_save(
    video: str,
    source: FrameFolder | VideoFile,
    base: Base,
    refiner: Refiner,
    results: Results,
    options: RefineOptions,
    bar: tqdm,
) -> _Done:
    """Refine and write frame by frame. Raises what reading, the networks or writing raise."""
    done = _Done([], [], [], {})
    with bar, Writer(options.workers, PENDING) as files, closing(read_ahead(source)) as frames:
        for one in refine_frames(frames, base, refiner.find, refiner.propagator, options, refiner.segmentor):
            files.submit(write_semantic, results.labels(video, one.name), one.labels)
            if one.first:
                done.size[:] = one.labels.shape
                done.masklets.append(one.masklets)
                for kind, held in refiner.propagator.memory_report().items():
                    done.held[kind] = max(held, done.held.get(kind, 0))
            done.frames.append(one.name)
            bar.update()
    require(bool(done.frames), f"{source.path}: no frames")
    return done


def input_of(job: Job) -> dict[str, str]:
    """What tells one input from another: the frames' names and sizes, the base predictions' contents."""
    digests = input_digests(job.record)
    if job.clip is not None and job.clip.segments is not None:
        told = json.dumps({frame: sorted(own.items()) for frame, own in sorted(job.clip.segments.items())})
        digests["segments"] = hashlib.sha256(told.encode()).hexdigest()
    return digests


# -------------------------------------------------------------------------------------------------------- many videos
def refuse_other_refinements(results: Results, jobs: Iterable[Job], options: RefineOptions) -> None:
    """Raises ValueError if a finished video was made with other settings or from other files, unless `overwrite`."""
    for job in jobs:
        if not options.overwrite and (report := results.done(job.record.name)) is not None:
            refuse_others(results, job.record.name, report, {**options.fingerprint(), **input_of(job)})


def refine_videos(
    jobs: Sequence[Job], refiner: Refiner, results: Results, options: RefineOptions, process: int = 0
) -> list[Report]:
    """Refine every video that isn't complete yet; return a report for each, in order. A video that fails is reported
    with its `error` and the next one begins. process: which of several this is, for its progress bar's sake."""
    reports: list[Report] = []
    several = len(jobs) > 1
    with progress(len(jobs), "videos", "video", 2 * process, show=several) as bar:
        for job in jobs:
            report = None if options.overwrite else results.done(job.record.name)
            if report is not None and results.has_all(report):
                reports.append(report | {"skipped": True})
            else:
                reports.append(_attempt(job, refiner, results, options, 2 * process + several, not several))
            bar.update()
    return reports


def _attempt(job: Job, refiner: Refiner, results: Results, options: RefineOptions, line: int, leave: bool) -> Report:
    """Refine a video and note what came of it."""
    name = job.record.name
    try:
        report = refine_video(job, refiner, results, options, line, leave)
        results.keep(report)
        return report
    except Exception as error:
        report = {"video": name, "error": reason(error, name)}
        if not isinstance(error, (ValueError, OSError, FFmpegError, MemoryError, torch.cuda.OutOfMemoryError)):
            log.exception("%s: this looks like a fault of the program", name)
    if any(model.device.type == "cuda" for model in refiner.models):
        torch.cuda.empty_cache()
    try:
        results.keep(report)
    except OSError as error:  # a full disk, perhaps; the report still reaches the caller
        log.debug("%s: %s", results.note(name), error)
    return report
