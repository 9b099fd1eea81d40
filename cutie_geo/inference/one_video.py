"""One video's files in, its results out: reading ahead of the tracker, writing behind it."""

import errno
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from av.error import FFmpegError
from jaxtyping import Int32
from PIL import Image
from tqdm import tqdm

from cutie_geo.config import require
from cutie_geo.data.background import Writer, read_ahead
from cutie_geo.data.index import VideoRecord, with_first_appearances
from cutie_geo.data.masks import MAX_PALETTE_ID, read_labels, write_labels, write_probs
from cutie_geo.data.overlay import OverlayWriter, draw, write_depth
from cutie_geo.data.video import FrameFolder, VideoFile, open_source, read_frames
from cutie_geo.inference.methods import VideoModel, method_for
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.prompts import Prompter
from cutie_geo.inference.results import Report, Results, input_digests, refuse_inputs
from cutie_geo.inference.segment import Method, Segmented, segment_frames
from cutie_geo.progress import progress
from cutie_geo.structures import Frame, GivenMask, ObjectId

try:
    import resource
except ImportError:  # Windows
    resource = None

DEFAULT_FPS = 24.0
"""Of overlays over folders of frames, which don't say."""
READ_AHEAD = 4
"""Frames read before they are needed; as many as are encoded together, where those are more."""
PENDING, PENDING_PROBS = 16, 4
"""Frames that wait to be written; fewer where each holds its probabilities, which are large."""


class _Done(NamedTuple):
    """What came of one frame."""

    name: str
    size: tuple[int, int]
    saved: bool
    seconds: float
    """Since the frame before, whatever was waited for."""
    presence: dict[ObjectId, float]
    """Of each object, as `Segmented.presence`."""


def segment_record(
    models: Sequence[VideoModel],
    record: VideoRecord,
    results: Results,
    options: RunOptions,
    line: int = 0,
    leave: bool = True,
    prompter: Prompter | None = None,
) -> Report:
    """Segment one video into `results`, with one model or several together; `line` and `leave` are those of its bar.

    Raises ValueError or OSError; frames before the one that failed are written then.
    """
    require(record.problem is None, str(record.problem))
    refuse_inputs(results, record, options)
    inputs, record = input_digests(record), with_first_appearances(record)
    source = open_source(record.source, options.workers)
    frames = read_frames(
        source,
        record.masks,
        options.size,
        record.long_ids,
        options.overlay,
        record.keep_ids,
        record.first_mask,
        record.prompts,
    )
    results.begin(record.name)
    device = models[0].device
    reset_peak_memory(device)
    # a video file only claims a number of frames
    method = method_for(models, options, source.frames if isinstance(source, FrameFolder) else None)
    started = time.perf_counter()
    with _film(source, record, results, options) as film:
        save = _Saver(results, record, options, film)
        bar = progress(source.frames, record.name, "frame", line, leave)
        frames = _visible(_merged(frames, options.single_object), record, options)
        # around all frames, so that weights are converted to half precision once and not for each of them
        with _precisions(models):
            done = _segment(method, frames, options, save, bar, prompter, partial(_precisions, models))
        _require_all(record, done)
    seconds = time.perf_counter() - started
    return {
        "video": record.name,
        "frames": [frame.name for frame in done if frame.saved],
        "objects": method.object_ids,
        "frame_size": list(done[0].size),
        "processed_size": list(method.frame_size) if method.frame_size else None,
        "presence": _presence(done, method.object_ids),
        "settings": options.fingerprint(),
        "input": inputs,
        "seconds_per_frame": [round(frame.seconds, 5) for frame in done],
        "seconds": round(seconds, 3),
        "frames_per_second": round(len(done) / max(seconds, 1e-9), 3),
        "memory_bytes": method.memory_report(),
        "peak_memory_bytes": peak_memory(device),
    }


@contextmanager
def _precisions(models: Sequence[VideoModel]) -> Iterator[None]:
    """Each model's own, for what this thread computes."""
    with ExitStack() as precisions:
        for model in models:
            precisions.enter_context(model.autocast())
        yield


def _presence(done: list["_Done"], ids: list[ObjectId]) -> dict[str, list[float | None]]:
    """By object, its presence in each frame that is written; None before it was given."""
    return {str(i): [frame.presence.get(i) for frame in done if frame.saved] for i in ids}


def _segment(
    method: Method,
    frames: Iterable[Frame],
    options: RunOptions,
    save: "_Saver",
    bar: tqdm,
    prompter: Prompter | None,
    around: Callable[[], AbstractContextManager[None]],
) -> list[_Done]:
    """Segment and save frame by frame; `around` is for a thread that encodes. Raises what reading, tracking or writing
    raises, writing's failures first."""
    done: list[_Done] = []
    lookahead, depth, threads = options.lookahead, options.save_depth, options.encode_threads
    with ExitStack() as opened:
        opened.enter_context(save)
        if not threads:  # or those that encode ahead read ahead too
            frames = opened.enter_context(closing(read_ahead(frames, max(READ_AHEAD, lookahead))))
        results = segment_frames(method, frames, lookahead, depth, prompter, threads, around)
        opened.enter_context(closing(results))
        opened.enter_context(bar)
        segmented = _UntilFailure(results)
        last = time.perf_counter()
        for result in segmented:
            presence = {i: round(sure, 4) for i, sure in result.presence.items()}
            saved = save(result, presence)
            now = time.perf_counter()
            size = (result.labels.shape[0], result.labels.shape[1])
            done.append(_Done(result.frame.name, size, saved, now - last, presence))
            last = now
            bar.update()
    if segmented.error is not None:
        raise segmented.error
    return done


class _UntilFailure:
    """Frames up to the first that fails. The error is kept for later, so that those before it are written first."""

    def __init__(self, frames: Iterable[Segmented]) -> None:
        self.frames = frames
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[Segmented]:
        try:
            yield from self.frames
        except Exception as error:
            self.error = error


def _require_all(record: VideoRecord, done: list[_Done]) -> None:
    """Raise ValueError unless there were frames, and all those among them whose results are asked for."""
    require(bool(done), f"{record.source}: no frames")
    missing = sorted((record.saved or set()) - {frame.name for frame in done})
    require(not missing, f"{record.source}: {len(missing)} listed frames are not there, {', '.join(missing[:5])}")


def _merged(frames: Iterable[Frame], single_object: bool) -> Iterator[Frame]:
    """Frames whose masks show one object, if that is asked for; its id is the mask's largest."""
    for frame in frames:
        given = frame.given
        if single_object and isinstance(given, GivenMask):
            object_id = max(given.ids)
            labels = np.where(given.labels > 0, object_id, 0)
            frame = frame._replace(given=given._replace(labels=labels, ids=(object_id,)))
        yield frame


def _visible(frames: Iterable[Frame], record: VideoRecord, options: RunOptions) -> Iterator[Frame]:
    """The same frames. Raises ValueError, naming the video, for those that a view shrinks too much."""
    for frame in frames:
        try:
            for view in options.views:
                view.size((frame.image.shape[-2], frame.image.shape[-1]))
        except ValueError as error:
            raise ValueError(f"{record.name}: {error}") from None
        yield frame


# ---------------------------------------------------------------------------------------------------------- writing
class _Saver:
    """Hands a frame's files to threads that write them, and waits for these at the end of its block."""

    def __init__(self, results: Results, record: VideoRecord, options: RunOptions, film: OverlayWriter | None) -> None:
        self.results, self.record, self.film, self.save_probs = results, record, film, options.save_probs
        self.cleaning = options.cleaning
        self.palette, self.long_ids = _palette(record), _holds_long_ids(record)
        self.files = Writer(options.workers, PENDING_PROBS if options.save_probs else PENDING)
        self.pictures = Writer(1)  # one thread, since a film's pictures have an order
        self.stack = ExitStack()

    def __enter__(self) -> "_Saver":
        self.stack.enter_context(self.files)
        self.stack.enter_context(self.pictures)
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.__exit__(*error)  # type: ignore[arg-type]

    def __call__(self, result: Segmented, presence: Mapping[ObjectId, float]) -> bool:
        """Write a frame's results; whether it is one of those asked for."""
        video, frame = self.record.name, result.frame
        labels = result.labels.to("cpu", torch.int32).numpy()
        if self.cleaning:
            labels = self.cleaning(labels, presence)
        wanted = self.record.saved is None or frame.name in self.record.saved
        if wanted:
            path = self.results.labels(video, frame.name)
            self.files.submit(write_labels, path, labels, self.palette, self.long_ids)
            if self.save_probs:
                path = self.results.probs(video, frame.name)
                self.files.submit(write_probs, path, result.probs.float().cpu(), result.ids)
            if result.depth is not None:
                path = self.results.depth(video, frame.name)
                self.files.submit(write_depth, path, result.depth.float().cpu().numpy())
        if self.film is not None:
            self.pictures.submit(_draw_into, self.film, frame, labels)
        return wanted


def _palette(record: VideoRecord) -> bytes | None:
    """The palette of the first mask given, which the results reuse."""
    first = record.first_mask or next(iter(record.masks.values()), None)
    return None if first is None else read_labels(first, record.long_ids).palette


def _holds_long_ids(record: VideoRecord) -> bool:
    """Whether any mask or prompt has an id that only an RGB file can hold: all results of a video are of one kind."""
    if record.long_ids or any(i > MAX_PALETTE_ID for objects in record.prompts.values() for i in objects):
        return True
    paths = [*record.masks.values(), *([record.first_mask] if record.first_mask else [])]
    return any(_largest_id(path) > MAX_PALETTE_ID for path in paths)


def _largest_id(path: Path) -> int:
    """The largest id in a 16-bit mask; 0 for other files, of which nothing more than the head is read."""
    try:
        with Image.open(path) as image:
            deep = image.mode[0] == "I"
    except Exception:  # a damaged file is reported by name when its frame comes
        return 0
    return int(read_labels(path).labels.max()) if deep else 0


@contextmanager
def _film(
    source: FrameFolder | VideoFile, record: VideoRecord, results: Results, options: RunOptions
) -> Iterator[OverlayWriter | None]:
    """The overlay if one is asked for. It appears when the block ends, and not at all if that fails."""
    if not options.overlay:
        yield None
        return
    with OverlayWriter(results.overlay(record.name), options.fps or source.fps or DEFAULT_FPS) as film:
        yield film


def _draw_into(film: OverlayWriter, frame: Frame, labels: Int32[np.ndarray, "H W"]) -> None:
    """Append one picture. Raises OSError naming the film."""
    assert frame.source is not None, "overlays are drawn over the file's own pixels"
    try:
        film.write(draw(frame.source, labels))
    except FFmpegError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(film.path)) from error


# ------------------------------------------------------------------------------------------------------ measurement
def reset_peak_memory(device: torch.device) -> None:
    """Start measuring a GPU's peak memory anew; the CPU's can't be."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """Bytes: of a GPU, the most that was allocated since the last reset; of the CPU, the process's largest size so
    far, or None where the system doesn't say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
