"""Semantic maps of videos from masklets.

Masks are found on the first frame of each window and propagated through it. Each masklet takes the class that most
of the base prediction has inside it or, with a `SemanticSegmenter`, the class that a classifier predicts.

Source: "Evaluating SAM2 for Video Semantic Segmentation", SAM 2 as a refiner and as a segmentor. What the paper leaves
open is documented in `voting` and `semantic_segmenter`.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from cutie_geo.config import require
from cutie_geo.data.index import VideoRecord
from cutie_geo.data.index.records import some
from cutie_geo.data.io_threads import Writer, read_ahead
from cutie_geo.data.video import FrameFolder, VideoFile, open_source, to_tensor
from cutie_geo.inference.one_video import peak_memory, reset_peak_memory
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.results import Report, Results, input_digests, refuse_inputs, refuse_others
from cutie_geo.inference.run import attempt
from cutie_geo.progress import progress
from cutie_geo.structures import VOID
from cutie_geo.vss.config import RefineOptions
from cutie_geo.vss.index import CLASSES
from cutie_geo.vss.masklet_tracking import Finder, Image, Propagator, propagate_windows
from cutie_geo.vss.segformer import Segformer
from cutie_geo.vss.semantic_maps import SemanticClip, read_semantic, write_semantic
from cutie_geo.vss.semantic_segmenter import SemanticSegmenter, WindowFeatures
from cutie_geo.vss.voting import Labels, Window

Base = Callable[[str, Image], Labels]
"""Returns the base prediction of a frame, given its name and pixels. Raises ValueError if there is none."""
PENDING = 16
"""Maximum number of frames that wait to be written."""


class Job(NamedTuple):
    """A video and its base predictions."""

    record: VideoRecord
    """The masks are the base predictions, so the digest of inputs includes them."""
    clip: SemanticClip | None
    """Base predictions in files. None: they are computed, or there are none."""


class Refiner(NamedTuple):
    """The loaded networks, used for all videos."""

    find: Finder
    propagator: Propagator
    base: Base | None
    """Computes base predictions. None: they are in files."""
    models: Sequence[Any]
    """All networks, for precision and memory; first the one that finds masks."""
    segmenter: SemanticSegmenter | None = None
    """Predicts the masklets' classes. None: the base predictions vote."""


# --------------------------------------------------------------------------------------------------------- one window
class Refined(NamedTuple):
    """Result of one frame."""

    name: str
    labels: Labels
    masklets: int
    """Number of masklets in its window."""
    first: bool
    """True for the first frame of a window."""


def refine_frames(
    frames: Iterable[tuple[str, Image]],
    base: Base,
    find: Finder,
    propagator: Propagator,
    options: RefineOptions,
    segmenter: SemanticSegmenter | None = None,
) -> Iterator[Refined]:
    """Yield the map of each frame, in order. Memory does not grow with the number of windows.

    Args:
        frames: names and RGB images. Images are not kept; a window's maps follow its last frame.
        base: returns base predictions.
        find: finds the masks of a window's first frame.
        propagator: propagates them through the window.
        options: window, scope and order.
        segmenter: predicts the masklets' classes; None for the vote of the base predictions.
    """
    for found, scores, frames_of_window in propagate_windows(frames, find, propagator, options.window, options.order):
        window, names = Window(CLASSES), []
        features = None if segmenter is None else WindowFeatures(segmenter.encode, options.scope)
        for name, image, masks in frames_of_window:
            window.add(base(name, image), masks)
            names.append(name)
            if features is not None:
                features.add(image, masks)
        if segmenter is None or features is None:
            painted = window.refined(scores, options.scope)
        else:
            painted = window.painted([segmenter.classes(own) for own in features.means()], scores)
        for k, (name, labels) in enumerate(zip(names, painted)):
            yield Refined(name, labels, len(found.masks), k == 0)


def no_base(name: str, image: Image) -> Labels:
    """Return VOID everywhere: the base prediction where there is none."""
    return np.full(image.shape[:2], VOID, np.uint8)


class SavedBase:
    """Base predictions from files, one for each frame."""

    def __init__(self, clip: SemanticClip) -> None:
        self.clip = clip

    def __call__(self, name: str, image: Image) -> Labels:
        """Return the map of a frame. Raises ValueError if it is missing, of another size, or holds other values."""
        path = self.clip.maps.get(name)
        if path is None:
            raise ValueError(f"{self.clip.folder}: no map for frame {name}; expected {name}.png")
        segments = (self.clip.segments or {}).get(name)
        labels = read_semantic(path, self.clip.kind, segments)
        got, wanted = labels.shape, image.shape[:2]
        require(got == wanted, f"{path}: map is (H, W) = {got}, expected {wanted}, the size of the frame")
        return labels

    def require_all(self, names: Sequence[str]) -> None:
        """Raise ValueError unless every frame has a map. Further maps are ignored."""
        missing = [name for name in names if name not in self.clip.maps]
        count = f"{len(missing)} of {len(names)} frames"
        require(not missing, f"{self.clip.folder}: no map for {count}: {some(missing)}")


class ComputedBase:
    """Base predictions of a SegFormer, computed on demand."""

    def __init__(self, model: Segformer) -> None:
        self.model = model

    def __call__(self, name: str, image: Image) -> Labels:
        """Return the map of a frame. Raises ValueError if the frame is too small."""
        return self.model(to_tensor(image))


# ---------------------------------------------------------------------------------------------------------- one video
def refine_video(
    job: Job, refiner: Refiner, results: Results, options: RefineOptions, line: int, leave: bool
) -> Report:
    """Process one video and return its report.

    Args:
        job: the video and its base predictions.
        refiner: the loaded networks.
        results: folder that the maps are written to.
        options: how the video is processed.
        line: line of the progress bar on the terminal.
        leave: keep the progress bar at the end.

    Raises:
        ValueError: if the video or its base predictions are invalid.
        OSError: if files cannot be read or written.
    """
    record = job.record
    require(record.problem is None, str(record.problem))
    refuse_inputs(results, record, RunOptions())
    inputs = input_of(job)
    source = open_source(record.source, options.workers)
    base = refiner.base if job.clip is None else SavedBase(job.clip)
    assert base is not None, "find_jobs gives every job base predictions unless they are computed"
    if isinstance(base, SavedBase) and source.names is not None:
        base.require_all(source.names)
    results.begin(record.name, options.overwrite)
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
    """Facts about a processed video."""

    frames: list[str]
    size: list[int]
    masklets: list[int]
    """Number of masklets in each window."""
    held: dict[str, int]
    """Maximum memory of the propagator at the end of a window, in bytes by kind."""


def _refine_and_save(
    video: str,
    source: FrameFolder | VideoFile,
    base: Base,
    refiner: Refiner,
    results: Results,
    options: RefineOptions,
    bar: tqdm,
) -> _Done:
    """Process a video and write its maps frame by frame."""
    done = _Done([], [], [], {})
    with bar, Writer(options.workers, PENDING) as files, closing(read_ahead(source)) as frames:
        for one in refine_frames(frames, base, refiner.find, refiner.propagator, options, refiner.segmenter):
            files.submit(results.write, video, results.labels(video, one.name), write_semantic, one.labels)
            if one.first:
                done.size[:] = one.labels.shape
                done.masklets.append(one.masklets)
                for kind, held in refiner.propagator.memory_report().items():
                    done.held[kind] = max(held, done.held.get(kind, 0))
            done.frames.append(one.name)
            bar.update()
    require(bool(done.frames), f"{source.path}: no frames")
    return done


def input_of(job: Job, known: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return digests of a job's input: names, sizes and contents of frames, contents of base predictions.

    Args:
        known: earlier digests, as for `input_digests`.
    """
    digests = input_digests(job.record, known)
    if job.clip is not None and job.clip.segments is not None:
        text = json.dumps({frame: sorted(own.items()) for frame, own in sorted(job.clip.segments.items())})
        digests["segments"] = hashlib.sha256(text.encode()).hexdigest()
    return digests


# -------------------------------------------------------------------------------------------------------- many videos
def refuse_other_settings(results: Results, jobs: Iterable[Job], options: RefineOptions) -> None:
    """Raise ValueError if a complete video was made with other settings or files, unless `overwrite` is set."""
    for job in jobs:
        if not options.overwrite and (report := results.done(job.record.name)) is not None:
            refuse_others(
                results, job.record.name, report, {**options.fingerprint(), **input_of(job, report.get("input"))}
            )


def refine_videos(
    jobs: Sequence[Job], refiner: Refiner, results: Results, options: RefineOptions, process: int = 0
) -> list[Report]:
    """Process every video that is not complete yet.

    Args:
        jobs: the videos.
        refiner: the loaded networks.
        results: folder that the maps are written to.
        options: how each video is processed.
        process: index of this process, which decides the line of its progress bar.

    Returns:
        A report for each video, in order. That of a video that failed has an `error`.
    """
    reports: list[Report] = []
    several = len(jobs) > 1
    with progress(len(jobs), "videos", "video", 2 * process, show=several) as bar:
        for job in jobs:
            report = None if options.overwrite else results.done(job.record.name)
            if report is not None and results.has_all(report):
                reports.append(report | {"skipped": True})
            else:
                refine = partial(refine_video, job, refiner, results, options, 2 * process + several, not several)
                reports.append(attempt(refine, results, job.record.name, refiner.models))
            bar.update()
    return reports
