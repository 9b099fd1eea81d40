"""Many videos into a folder of results: resumable, shared among processes, one bad video never spoils the others.

The folder holds `<video>/<frame>.png` for each video and, where asked for, `overlays/<video>.mp4` and
`probs/<video>/<frame>.npz`. `.cutie_geo/<video>.json` tells what was done with a video, and `run.json` sums them up.
"""

import json
import logging
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from cutie_geo.config import TrackerConfig, require, to_dict
from cutie_geo.data.background import Writer, atomic_write, read_ahead
from cutie_geo.data.index import VideoRecord, with_first_appearances
from cutie_geo.data.masks import MAX_PALETTE_ID, read_labels, write_labels, write_probs
from cutie_geo.data.overlay import OverlayWriter, draw
from cutie_geo.data.video import FrameFolder, VideoFile, open_source, read_frames
from cutie_geo.inference.segment import Segmented, segment_frames
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.network import CutieGeo
from cutie_geo.structures import Frame

try:
    import resource
except ImportError:  # Windows
    resource = None

log = logging.getLogger(__name__)

NOTES = ".cutie_geo"
"""Hidden folder of the reports, one file for each video."""
OVERLAYS, PROBS = "overlays", "probs"
DEFAULT_FPS = 24.0
"""Of overlays over folders of frames, which don't say."""

Report = dict[str, Any]


@dataclass(frozen=True)
class RunOptions:
    """What is done with each video."""

    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    size: int = -1
    """Frames whose shorter side is longer are shrunk to it; results are written at the files' size. -1 for never."""
    overlay: bool = False
    save_probs: bool = False
    fps: float | None = None
    """Of overlays; None for the video's own."""
    workers: int = 2
    """Threads that read and as many that write."""
    overwrite: bool = False
    """Segment complete videos again."""
    single_object: bool = False
    """All labels of a mask are one object."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else decides what the masks will be, such as model and weights."""

    def __post_init__(self) -> None:
        require(self.size == -1 or self.size >= 16, f"size: got {self.size}, wanted -1 or at least 16 pixels")
        require(self.workers >= 1, f"workers: got {self.workers}, wanted 1 or more")
        require(self.fps is None or self.fps > 0, f"fps: got {self.fps}, wanted a positive number")

    def fingerprint(self) -> Report:
        """All that decides what the masks will be, as it reads after a trip through JSON."""
        shown = {"size": self.size, "tracker": to_dict(self.tracker), "single_object": self.single_object}
        return json.loads(json.dumps({**self.settings, **shown}))


# ------------------------------------------------------------------------------------------------------ many videos
def run_videos(
    model: CutieGeo, records: Sequence[VideoRecord], output: Path, options: RunOptions, position: int = 0
) -> list[Report]:
    """Segment every video that isn't complete yet; return a report for each, in order.

    A video that fails is reported with its `error` and the next one begins. Raises ValueError if the output folder
    can't be written or holds results of other settings.
    """
    make_writable(output)
    refuse_other_settings(records, output, options)
    reports = []
    bar = tqdm(records, desc="videos", unit="video", position=position, disable=len(records) < 2)
    for record in bar:
        done = None if options.overwrite else completed(record, output, options)
        reports.append(done or _attempt(model, record, output, options, position + (len(records) > 1)))
        failed = sum("error" in report for report in reports)
        bar.set_postfix(failed=failed, refresh=False) if failed else None
    return reports


def make_writable(output: Path) -> None:
    """Make the output folder. Raises ValueError if that or writing into it fails."""
    try:
        (output / NOTES).mkdir(parents=True, exist_ok=True)
        with atomic_write(output / NOTES / "writable") as probe:
            probe.write_bytes(b"")
        (output / NOTES / "writable").unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(f"{output}: can't be written: {error.strerror or error}") from None


def refuse_other_settings(records: Iterable[VideoRecord], output: Path, options: RunOptions) -> None:
    """Raises ValueError if a video's results were made with other settings and are not to be overwritten."""
    wanted = options.fingerprint()
    for record in records:
        report = read_report(output, record.name)
        if options.overwrite or report is None or "error" in report or report.get("settings") == wanted:
            continue
        before = report.get("settings", {})
        changed = sorted(name for name in {*before, *wanted} if before.get(name) != wanted.get(name))
        raise ValueError(
            f"{output}: {record.name} was made with other {', '.join(changed)}; wanted the same settings, "
            "another --output, or --overwrite"
        )


def completed(record: VideoRecord, output: Path, options: RunOptions) -> Report | None:
    """The report of a video of which every file asked for is there."""
    report = read_report(output, record.name)
    if report is None or "error" in report:
        return None
    frames = report["frames"]
    wanted = [output / record.name / f"{name}.png" for name in frames]
    wanted += [output / PROBS / record.name / f"{name}.npz" for name in frames] if options.save_probs else []
    wanted += [output / OVERLAYS / f"{record.name}.mp4"] if options.overlay else []
    return report | {"skipped": True} if all(path.is_file() for path in wanted) else None


def read_report(output: Path, name: str) -> Report | None:
    """What is known of an earlier attempt at a video; None if nothing is."""
    try:
        return json.loads((output / NOTES / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    with atomic_write(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _attempt(model: CutieGeo, record: VideoRecord, output: Path, options: RunOptions, position: int) -> Report:
    note = output / NOTES / f"{record.name}.json"
    try:
        note.unlink(missing_ok=True)
        report = segment_record(model, record, output, options, position)
        write_json(note, report)
        return report
    except torch.OutOfMemoryError:
        reason = f"{record.name}: out of memory; a smaller --size or --chunk-size 1 needs less"
    except (ValueError, OSError) as error:
        reason = _one_line(error, record.name)
    log.error("%s", reason)
    report = {"video": record.name, "error": reason}
    try:
        write_json(note, report)
    except OSError as error:  # a full disk, perhaps; the report still reaches the caller
        log.debug("%s: %s", note, error)
    return report


def _one_line(error: Exception, name: str) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or name}: {error.strerror or error}"
    return " ".join(str(error).split())


# -------------------------------------------------------------------------------------------------------- one video
def segment_record(
    model: CutieGeo, record: VideoRecord, output: Path, options: RunOptions, position: int = 0
) -> Report:
    """Segment one video into `output`. Raises ValueError or OSError; frames already written stay."""
    require(record.problem is None, str(record.problem))
    _refuse_input_folders(record, output)
    record = with_first_appearances(record)
    if options.overwrite:
        _clear(output, record.name)
    source = open_source(record.source, options.workers)
    frames = read_frames(
        source, record.masks, options.size, record.long_ids, options.overlay, record.keep_ids, record.first_mask
    )
    tracker = Tracker(model, **to_dict(options.tracker))
    _reset_peak_memory(model.device)
    written, seconds, started = [], [], time.perf_counter()
    with ExitStack() as stack:
        # closed in reverse: first the reader stops, then the writers finish, then the film gets its name
        film = stack.enter_context(_film(source, record, output, options)) if options.overlay else None
        file_writer = stack.enter_context(Writer(options.workers))
        film_writer = stack.enter_context(Writer(1))
        ahead = stack.enter_context(closing(read_ahead(_merged(frames, options.single_object))))
        save = _Saver(output, record, options, file_writer)
        bar = stack.enter_context(_bar(source, record, position))
        last = time.perf_counter()
        for result in segment_frames(tracker, ahead):
            labels = result.labels.to("cpu", torch.int32).numpy()
            if record.saved is None or result.frame.name in record.saved:
                save(result, labels)
                written.append(result.frame.name)
            if film is not None:
                film_writer.submit(_draw_into, film, result.frame, labels)
            now = time.perf_counter()
            seconds.append(round(now - last, 5))
            last = now
            bar.update()
    require(bool(seconds), f"{record.source}: no frames")
    missing = sorted((record.saved or set()) - set(written))
    require(not missing, f"{record.source}: {len(missing)} listed frames are not there, {', '.join(missing[:5])}")
    return {
        "video": record.name,
        "frames": written,
        "objects": tracker.object_ids,
        "size": list(tracker.geometry.size) if tracker.geometry else None,
        "settings": options.fingerprint(),
        "seconds_per_frame": seconds,
        "seconds": round(time.perf_counter() - started, 3),
        "frames_per_second": round(len(seconds) / max(time.perf_counter() - started, 1e-9), 3),
        "memory_bytes": tracker.memory_report(),
        "peak_memory_bytes": peak_memory(model.device),
    }


class _Saver:
    """Hands one frame's files to the writer."""

    def __init__(self, output: Path, record: VideoRecord, options: RunOptions, writer: Writer) -> None:
        self.output, self.record, self.options, self.writer = output, record, options, writer
        self.palette = _palette(record)

    def __call__(self, result: Segmented, labels: np.ndarray) -> None:
        name, video = result.frame.name, self.record.name
        long_ids = self.record.long_ids or max(result.ids, default=0) > MAX_PALETTE_ID
        self.writer.submit(write_labels, self.output / video / f"{name}.png", labels, self.palette, long_ids)
        if self.options.save_probs:
            path = self.output / PROBS / video / f"{name}.npz"
            self.writer.submit(write_probs, path, result.probs.float().cpu(), result.ids)


def _palette(record: VideoRecord) -> bytes | None:
    """The palette of the first mask given, which the results reuse."""
    first = record.first_mask or next(iter(record.masks.values()), None)
    return None if first is None else read_labels(first, record.long_ids).palette


def _merged(frames: Iterable[Frame], single_object: bool) -> Iterator[Frame]:
    """Frames whose masks show one object, if that is asked for; its id is the mask's largest."""
    for frame in frames:
        given = frame.given
        if single_object and given is not None:
            object_id = max(given.ids)
            labels = np.where(given.labels > 0, object_id, 0)
            frame = frame._replace(given=given._replace(labels=labels, ids=(object_id,)))
        yield frame


def _refuse_input_folders(record: VideoRecord, output: Path) -> None:
    """Results must not land among the files that they are made from."""
    target = (output / record.name).resolve()
    masks = [record.first_mask, *record.masks.values()]
    inputs = {record.source.resolve(), *(path.resolve().parent for path in masks if path is not None)}
    require(target not in inputs, f"{output}: results would overwrite the input in {target}; wanted another --output")


def _clear(output: Path, name: str) -> None:
    """Remove what an earlier run wrote for a video, and nothing else."""
    for path in (output / name).glob("*.png"):
        path.unlink()
    shutil.rmtree(output / PROBS / name, ignore_errors=True)
    (output / OVERLAYS / f"{name}.mp4").unlink(missing_ok=True)


def _film(source: FrameFolder | VideoFile, record: VideoRecord, output: Path, options: RunOptions) -> OverlayWriter:
    return OverlayWriter(output / OVERLAYS / f"{record.name}.mp4", options.fps or source.fps or DEFAULT_FPS)


def _draw_into(film: OverlayWriter, frame: Frame, labels: np.ndarray) -> None:
    assert frame.source is not None, "overlays are drawn over the file's own pixels"
    film.write(draw(frame.source, labels))


def _bar(source: FrameFolder | VideoFile, record: VideoRecord, position: int) -> tqdm:
    return tqdm(total=source.frames, desc=record.name, unit="frame", position=position, leave=position == 0)


# ------------------------------------------------------------------------------------------------------ measurement
def _reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """Bytes: of a GPU, the most that was allocated since the last reset; of the CPU, the process's largest size, or
    None where the system doesn't say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
