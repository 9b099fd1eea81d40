"""Segmentation of one video's files, with reading and writing in background threads."""

import errno
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from av.error import FFmpegError
from jaxtyping import Int32
from tqdm import tqdm

from cutie_geo.config import require
from cutie_geo.data.images import open_image
from cutie_geo.data.index import VideoRecord, with_first_appearances
from cutie_geo.data.io_threads import Writer, read_ahead
from cutie_geo.data.listing import FrameNames, is_number, natural_order
from cutie_geo.data.live import LiveVideo
from cutie_geo.data.masks import MAX_PALETTE_ID, read_labels, write_labels, write_probs
from cutie_geo.data.overlay import OverlayWriter, draw, write_depth
from cutie_geo.data.random_access import backward
from cutie_geo.data.sound import original_sound, original_times
from cutie_geo.data.sources import NumberedVideo, open_any
from cutie_geo.data.video import FrameFolder, VideoFile, first_prompted, read_frames, to_tensor
from cutie_geo.inference.factory import method_for, reading_size
from cutie_geo.inference.families import VideoModel
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.prefetch import Prefetch
from cutie_geo.inference.results import Report, Results, input_digests, refuse_inputs
from cutie_geo.inference.segment import Segmented, segment_frames
from cutie_geo.inference.segmenter import Method, PromptMasks
from cutie_geo.progress import progress
from cutie_geo.structures import Frame, GivenMask, ObjectId

try:
    import resource
except ImportError:  # Windows
    resource = None

DEFAULT_FPS = 24.0
"""Frame rate of overlay videos of frame folders."""
READ_AHEAD = 4
"""Number of frames read ahead; the batch size of encoding if that is larger."""
UNFINISHED = 2
"""Maximum number of segmented frames whose label maps wait to be computed."""
PENDING, PENDING_PROBS = 16, 4
"""Maximum number of frames waiting to be written, without and with probabilities, which are large."""


class _Done(NamedTuple):
    """Result of one frame."""

    name: str
    size: tuple[int, int]
    saved: bool
    seconds: float
    """Time since the previous frame, including waiting."""
    presence: dict[ObjectId, float]
    """Presence of each object; see `Segmented.presence`."""


@dataclass(frozen=True)
class VideoRun:
    """Settings and models shared by all videos of a run."""

    models: Sequence[VideoModel]
    """Networks; several are ensembled."""
    results: Results
    options: RunOptions
    prompter: PromptMasks | None = None
    """Converts point and box prompts to masks."""
    viewer: Callable[[np.ndarray, np.ndarray], bool] | None = None
    """Shows a frame's RGB image and label map; returns False if the user ends the video."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Ends a live source after the frames that wait."""

    @contextmanager
    def precision(self) -> Iterator[None]:
        """Enter the autocast of every model, in this thread."""
        with ExitStack() as precisions:
            for model in self.models:
                precisions.enter_context(model.autocast())
            yield


def segment_record(run: VideoRun, record: VideoRecord, line: int = 0, leave: bool = True) -> Report:
    """Segment one video and write its results.

    Args:
        run: Models, options and the folder of results.
        record: Video with its masks and prompts.
        line: Position of the progress bar.
        leave: Keep the progress bar at the end.

    Returns:
        Report of the video, for the folder of results.

    Raises:
        ValueError, OSError: If a frame fails; the frames before it are written.
    """
    models, results, options = run.models, run.results, run.options
    require(record.problem is None, str(record.problem))
    refuse_inputs(results, record, options)
    inputs, record = input_digests(record), with_first_appearances(record)
    masks = [*record.masks.values(), *([record.first_mask] if record.first_mask else [])]
    source = live_or_file(open_any(record.source, record.reader, options.workers, masks), record, options, run.stop)
    live = source if isinstance(source, LiveVideo) else None
    legs = [_Leg(source, record)] if live is not None else _legs(source, record, options.direction)
    results.begin(record.name, options.overwrite)
    device = models[0].device
    reset_peak_memory(device)
    started = time.perf_counter()
    done: list[_Done] = []
    ids: dict[ObjectId, None] = {}
    in_order = len(legs) == 1 and not legs[0].backward
    with _overlay(source, record, results, options) as overlay, run.precision():
        # autocast around all frames converts the weights once instead of on every frame
        for leg in legs:
            shown = (options.overlay and in_order) or run.viewer is not None
            frames = read_record(leg.record, leg.source, reading_size(models, options), shown)
            # the number of frames in a video file's header is unreliable
            length = leg.source.frames if isinstance(leg.source, FrameFolder) else None
            method = method_for(models, options, length)
            save = _Saver(results, record, options, overlay if in_order else None, leg.skipped)
            bar = progress(leg.source.frames, record.name, "frame", line, leave)
            part = _segment(run, method, _prepared(frames, record, options), save, bar, live)
            part = [frame for frame in part if frame.name not in leg.skipped]
            done += part[::-1] if leg.backward else part
            ids |= dict.fromkeys(method.object_ids)
        _require_all(record, done)
        if overlay is not None and not in_order:
            _draw_finished(overlay, source, results, record.name)
    seconds = time.perf_counter() - started
    return {
        "video": record.name,
        "frames": [frame.name for frame in done if frame.saved],
        "objects": list(ids),
        "frame_size": list(done[0].size),
        "processed_size": list(method.frame_size) if method.frame_size else None,
        "presence": _presence(done, list(ids)),
        "settings": options.fingerprint(),
        "input": inputs,
        "seconds_per_frame": [round(frame.seconds, 5) for frame in done],
        "seconds": round(seconds, 3),
        "frames_per_second": round(len(done) / max(seconds, 1e-9), 3),
        "memory_bytes": method.memory_report(),
        "peak_memory_bytes": peak_memory(device),
    } | ({} if live is None else {"live": live.report()})


def read_record(record: VideoRecord, source: FrameFolder | VideoFile, size: int, keep_source: bool) -> Iterator[Frame]:
    """Yield the frames of a record's opened source with the record's masks and prompts; see `read_frames`."""
    return read_frames(
        source,
        record.masks,
        size,
        record.long_ids,
        keep_source,
        record.keep_ids,
        record.first_mask,
        record.prompts,
        record.void,
    )


def live_or_file(
    source: FrameFolder | VideoFile, record: VideoRecord, options: RunOptions, stop: threading.Event | None = None
) -> FrameFolder | VideoFile:
    """Return the live video of an opened source, or the source itself if the run is not live."""
    if options.live is None:
        return source
    kept = {f"{int(name):05d}" for name in (*record.masks, *record.prompts) if is_number(name)}
    return LiveVideo(source, options.live, record.reader, kept, stop)


class _Leg(NamedTuple):
    """Frames of a video that are segmented in one order."""

    source: FrameFolder | VideoFile
    record: VideoRecord
    """The video with the masks and prompts of these frames."""
    backward: bool = False
    skipped: frozenset[str] = frozenset()
    """Frames that are not saved, because another leg saves them."""


def _legs(source: FrameFolder | VideoFile, record: VideoRecord, direction: str) -> list[_Leg]:
    """Return the parts of a video, each with its order. Raises ValueError as `read_frames` does."""
    if isinstance(source, NumberedVideo):  # read once, in order
        require(
            direction in ("auto", "forward"),
            f"{source.path}: got direction {direction}, expected forward for a source that is read once",
        )
        return [_Leg(source, record)]
    if direction == "backward":
        return [_Leg(backward(source), record, backward=True)]
    first = None
    if direction in ("both", "auto"):
        found = first_prompted(
            source, record.masks, record.long_ids, record.keep_ids, record.first_mask, record.prompts, record.void
        )
        if found is not None and not (found.after_blank and direction == "auto"):
            first = found.name
    if first is None or first == (source.names[0] if source.names is not None else "00000"):
        return [_Leg(source, record)]
    before = backward(source, first)
    assert before.names is not None, "frames that run backward are known"
    # only the masks and prompts of the first frame with any: others belong to frames behind it
    masks = {stem: path for stem, path in record.masks.items() if _is_frame(source, stem, first)}
    prompts = {stem: given for stem, given in record.prompts.items() if _is_frame(source, stem, first)}
    single = record.first_mask
    own = replace(
        record,
        masks=masks,
        prompts=prompts,
        first_mask=single if single is not None and _is_frame(source, single.stem, first) else None,
    )
    return [
        _Leg(before, own, backward=True, skipped=frozenset([first])),
        _Leg(source, record, skipped=frozenset(before.names[1:])),
    ]


def _is_frame(source: FrameFolder | VideoFile, stem: str, name: str) -> bool:
    """Return True if a mask or prompt with this stem belongs to the frame `name`."""
    if stem == name or (isinstance(source, VideoFile) and is_number(stem) and int(stem) == int(name)):
        return True
    return isinstance(source, FrameFolder) and FrameNames(source.names).find(stem) == name


def _draw_finished(overlay: OverlayWriter, source: FrameFolder | VideoFile, results: Results, video: str) -> None:
    """Draw the overlay of frames that were not segmented in their order, from the written label maps."""
    for name, pixels in source:
        path = results.labels(video, name)
        labels = read_labels(path, long_ids=True).labels if path.is_file() else np.zeros(pixels.shape[:2], np.int32)
        _draw_into(overlay, Frame(name, to_tensor(pixels[:1, :1]), pixels.shape[:2], source=pixels), labels)


def _presence(done: list["_Done"], ids: list[ObjectId]) -> dict[str, list[float | None]]:
    """Return each object's presence on the saved frames, None before the object was added."""
    return {str(i): [frame.presence.get(i) for frame in done if frame.saved] for i in ids}


def _segment(
    run: VideoRun, method: Method, frames: Iterable[Frame], save: "_Saver", bar: tqdm, live: LiveVideo | None
) -> list[_Done]:
    """Segment and save frame by frame. Errors of writing take precedence over those of reading and tracking."""
    done: list[_Done] = []
    prefetch = Prefetch(run.options.lookahead, run.options.save_depth, run.options.encode_threads)
    with ExitStack() as opened:
        opened.enter_context(save)
        # an encoding thread reads the frames itself, and a live source has a queue of its own
        if not prefetch.threads and live is None:
            frames = opened.enter_context(closing(read_ahead(frames, max(READ_AHEAD, prefetch.batch))))
        results = segment_frames(
            method, frames, prefetch, run.prompter, run.precision, corrections=run.options.corrections
        )
        opened.enter_context(closing(results))
        opened.enter_context(bar)
        segmented = _UntilFailure(results)
        # a window belongs to the main thread, and a live result is due at once
        aside = prefetch.threads > 0 and live is None and run.viewer is None
        finish = opened.enter_context(_in_order(aside))
        last = time.perf_counter()

        def finished(result: Segmented, seconds: float) -> None:
            presence = {i: round(sure, 4) for i, sure in result.presence.items()}
            size = (result.labels.shape[0], result.labels.shape[1])
            done.append(_Done(result.frame.name, size, save(result, presence), seconds, presence))
            bar.update()

        for result in segmented:
            now = time.perf_counter()
            finish(finished, result, now - last)
            last = now
            if live is not None:
                live.finished(result.frame.name)
            _show(run, result)
    if segmented.error is not None:
        raise segmented.error
    return done


@contextmanager
def _in_order(aside: bool) -> Iterator[Callable[..., None]]:
    """Yield a function that makes calls in their order, in a thread aside or at once."""
    if not aside:
        yield lambda call, *args: call(*args)
        return
    with Writer(1, UNFINISHED) as thread:
        yield thread.submit


def _show(run: VideoRun, result: Segmented) -> None:
    """Show a frame if the run has a viewer, and stop a live video if its user ends it."""
    if run.viewer is None:
        return
    assert result.frame.source is not None, "requested by segment_record"
    if not run.viewer(result.frame.source, result.labels.to("cpu", torch.int32).numpy()):
        run.stop.set()


class _UntilFailure:
    """Iterator that ends at the first error and stores it, so that earlier frames are written before it is raised."""

    def __init__(self, frames: Iterable[Segmented]) -> None:
        self.frames = frames
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[Segmented]:
        try:
            yield from self.frames
        except Exception as error:
            self.error = error


def _require_all(record: VideoRecord, done: list[_Done]) -> None:
    """Raise ValueError if there were no frames or if a requested frame is missing."""
    require(bool(done), f"{record.reader or record.source}: no frames")
    missing = natural_order((record.saved or set()) - {frame.name for frame in done})
    require(not missing, f"{record.source}: {len(missing)} listed frames are missing, {', '.join(missing[:5])}")


def _prepared(frames: Iterable[Frame], record: VideoRecord, options: RunOptions) -> Iterator[Frame]:
    """Merge the objects of masks if the run has a single object, under the mask's largest id.

    Raises:
        ValueError: If a view makes a frame too small; the message begins with the video's name.
    """
    for frame in frames:
        try:
            for view in options.views:
                view.size((frame.image.shape[-2], frame.image.shape[-1]))
        except ValueError as error:
            raise ValueError(f"{record.name}: {error}") from None
        given = frame.given
        if options.single_object and isinstance(given, GivenMask):
            object_id = max(given.ids)
            labels = np.where(given.labels > 0, object_id, 0)
            frame = frame._replace(given=given._replace(labels=labels, ids=(object_id,)))
        yield frame


# ---------------------------------------------------------------------------------------------------------- writing
class _Saver:
    """Writer of results in background threads; leaving its context waits for them."""

    def __init__(
        self,
        results: Results,
        record: VideoRecord,
        options: RunOptions,
        overlay: OverlayWriter | None,
        skipped: frozenset[str] = frozenset(),
    ) -> None:
        self.results, self.record, self.overlay, self.save_probs = results, record, overlay, options.save_probs
        self.skipped = skipped
        self.cleaning = options.cleaning
        self.palette, self.long_ids = _palette(record), _holds_long_ids(record)
        self.files = Writer(options.workers, PENDING_PROBS if options.save_probs else PENDING)
        self.overlay_frames = Writer(1)  # one thread, since the frames of a video are ordered
        self.stack = ExitStack()

    def __enter__(self) -> "_Saver":
        self.stack.enter_context(self.files)
        self.stack.enter_context(self.overlay_frames)
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.__exit__(*error)  # type: ignore[arg-type]

    def __call__(self, result: Segmented, presence: Mapping[ObjectId, float]) -> bool:
        """Write a frame's results; return True if they were requested."""
        video, frame = self.record.name, result.frame
        labels = result.labels.to("cpu", torch.int32).numpy()
        if self.cleaning:
            labels = self.cleaning(labels, presence)
        wanted = (self.record.saved is None or frame.name in self.record.saved) and frame.name not in self.skipped
        write = self.results.write
        if wanted:
            path = self.results.labels(video, frame.name)
            self.files.submit(write, video, path, write_labels, labels, self.palette, self.long_ids)
            if self.save_probs:
                path = self.results.probs(video, frame.name)
                self.files.submit(write, video, path, write_probs, result.probs.float().cpu(), result.ids)
            if result.depth is not None:
                path = self.results.depth(video, frame.name)
                self.files.submit(write, video, path, write_depth, result.depth.float().cpu().numpy())
        if self.overlay is not None:
            self.overlay_frames.submit(_draw_into, self.overlay, frame, labels)
        return wanted


def _palette(record: VideoRecord) -> bytes | None:
    """Return the palette of the first input mask, which the results reuse."""
    first = record.first_mask or next(iter(record.masks.values()), None)
    return None if first is None else read_labels(first, record.long_ids).palette


def _holds_long_ids(record: VideoRecord) -> bool:
    """Return True if any mask or prompt has an id that requires RGB files; all results of a video have one format."""
    if record.long_ids or any(i > MAX_PALETTE_ID for objects in record.prompts.values() for i in objects):
        return True
    paths = [*record.masks.values(), *([record.first_mask] if record.first_mask else [])]
    return any(_largest_id(path) > MAX_PALETTE_ID for path in paths)


def _largest_id(path: Path) -> int:
    """Return the largest id in a 16-bit mask; 0 for other files, of which only the header is read."""
    try:
        with open_image(path) as image:
            deep = image.mode[0] == "I"
    except Exception:  # a damaged file is reported when its frame is read
        return 0
    return int(read_labels(path).labels.max()) if deep else 0


@contextmanager
def _overlay(
    source: FrameFolder | VideoFile, record: VideoRecord, results: Results, options: RunOptions
) -> Iterator[OverlayWriter | None]:
    """Open the overlay video if requested. The file appears when the block ends without an error."""
    if not options.overlay:
        yield None
        return
    results.list_file(record.name, results.overlay(record.name))
    path, fps = results.overlay(record.name), options.fps
    with ExitStack() as opened:
        sound = original_sound(source, fps, opened)
        writer = OverlayWriter(path, fps or source.fps or DEFAULT_FPS, sound, original_times(source, fps))
        yield opened.enter_context(writer)


def _draw_into(overlay: OverlayWriter, frame: Frame, labels: Int32[np.ndarray, "H W"]) -> None:
    """Append one frame to the overlay. Raises OSError with the overlay's path."""
    assert frame.source is not None, "overlays are drawn over the file's own pixels"
    try:
        overlay.write(draw(frame.source, labels))
    except FFmpegError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(overlay.path)) from error


# ------------------------------------------------------------------------------------------------------ measurement
def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak memory statistics of a GPU; no effect for the CPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """Return the peak memory in bytes.

    For a GPU, this is the largest allocation since the last reset; for the CPU, the largest resident size of the
    process, or None if the system does not provide it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
