"""A folder of results: which file lies where, what was done with each video, and what that was made from.

It holds `<video>/<frame>.png` for each video and, where asked for, `overlays/<video>.mp4`, `probs/<video>/<frame>.npz`
and `depth/<video>/<frame>.png`. `.cutie_geo/<video>.json` tells what was done with a video, `run.json` sums them up.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutie_geo.config import require
from cutie_geo.data.background import write_json
from cutie_geo.data.index import VideoRecord
from cutie_geo.data.video import IMAGE_SUFFIXES
from cutie_geo.inference.options import RunOptions

NOTES = ".cutie_geo"
"""Hidden folder of the reports, one file for each video."""
OVERLAYS, PROBS, DEPTH = "overlays", "probs", "depth"
SUMMARY = "run.json"
SHOWN = 5
"""Changed settings that an error names."""

Report = dict[str, Any]
"""What was done with a video: `error` if it failed, `unfinished` if it was begun, all else if it is done."""


@dataclass(frozen=True)
class Results:
    """The files under `root`."""

    root: Path

    # ------------------------------------------------------------------------------------------------------- places
    def labels(self, video: str, frame: str) -> Path:
        """The label map of a frame."""
        return self.root / video / f"{frame}.png"

    def probs(self, video: str, frame: str) -> Path:
        """The probabilities of a frame."""
        return self.root / PROBS / video / f"{frame}.npz"

    def depth(self, video: str, frame: str) -> Path:
        """The depth picture of a frame."""
        return self.root / DEPTH / video / f"{frame}.png"

    def overlay(self, video: str) -> Path:
        """The film of a video with its masks drawn in."""
        return self.root / OVERLAYS / f"{video}.mp4"

    def note(self, video: str) -> Path:
        """The file of a video's report."""
        return self.root / NOTES / f"{video}.json"

    # ------------------------------------------------------------------------------------------------------ reports
    def report(self, video: str) -> Report | None:
        """What is known of an earlier attempt at a video; None if nothing is."""
        try:
            report = json.loads(self.note(video).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return report if isinstance(report, dict) and report.get("video") == video else None

    def reports(self) -> dict[str, Report]:
        """What is known of every video, by name."""
        found = {path.stem: self.report(path.stem) for path in sorted((self.root / NOTES).glob("*.json"))}
        return {video: report for video, report in found.items() if report is not None}

    def keep(self, report: Report) -> None:
        """Write a video's report. Raises OSError."""
        write_json(self.note(report["video"]), report)

    def done(self, video: str) -> Report | None:
        """The report of a video that an earlier call came to the end of; files may have gone missing since."""
        report = self.report(video)
        finished = report is not None and "error" not in report and isinstance(report.get("frames"), list)
        return report if finished else None

    def complete(self, video: str, options: RunOptions) -> Report | None:
        """The report of a video of which every file that `options` ask for is there; else None."""
        report = self.done(video)
        kinds = (options.save_probs, options.save_depth, options.overlay)
        return report if report is not None and self.has_all(report, *kinds) else None

    def has_all(self, report: Report, probs: bool = False, depth: bool = False, overlay: bool = False) -> bool:
        """Whether the label maps of a finished video are there, and its other files of the kinds asked for."""
        video, frames = report["video"], report["frames"]
        wanted = [self.labels(video, frame) for frame in frames]
        wanted += [self.probs(video, frame) for frame in frames] if probs else []
        wanted += [self.depth(video, frame) for frame in frames] if depth else []
        wanted += [self.overlay(video)] if overlay else []
        return all(path.is_file() for path in wanted)

    # ------------------------------------------------------------------------------------------------------ writing
    def make_writable(self) -> None:
        """Make the folder. Raises ValueError if that or writing into it fails."""
        try:
            (self.root / NOTES).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root / NOTES) as probe:
                probe.write(b"writable")
        except OSError as error:
            raise ValueError(f"{self.root}: results can't be written there: {error.strerror or error}") from None

    def begin(self, video: str) -> None:
        """Note that a video is unfinished, and remove what an earlier attempt left of it. Raises OSError.

        Without a note of an earlier attempt nothing is removed: the files may be somebody else's.
        """
        if self.report(video) is not None:
            for path in (self.root / video).glob("*.png"):
                path.unlink()
            for kind in (PROBS, DEPTH):
                shutil.rmtree(self.root / kind / video, ignore_errors=True)
            self.overlay(video).unlink(missing_ok=True)
        self.keep({"video": video, "unfinished": True})


# --------------------------------------------------------------------------------------------------- what came before
def refuse_other_settings(results: Results, records: Iterable[VideoRecord], options: RunOptions) -> None:
    """Raises ValueError if a finished video was made with other settings or from other files, unless `overwrite`."""
    for record in records:
        if not options.overwrite and (report := results.done(record.name)) is not None:
            refuse_others(results, record.name, report, _now(record, options))


def refuse_others(results: Results, video: str, report: Report, now: Mapping[str, Any]) -> None:
    """Raises ValueError if a finished video's settings or input aren't `now`."""
    if changed := _differences(report, now):
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise ValueError(
            f"{results.root}: {video} was made with other {', '.join(changed[:SHOWN])}{more}; "
            "wanted the same, another --output, or --overwrite"
        )


def changes(results: Results, record: VideoRecord, options: RunOptions) -> list[str]:
    """Names of what differs between a finished video and what would be made of it now; none if it isn't finished."""
    report = results.done(record.name)
    return [] if report is None else _differences(report, _now(record, options))


def _now(record: VideoRecord, options: RunOptions) -> Report:
    """What a video's report would say of its settings and its input."""
    return {**options.fingerprint(), **input_digests(record)}


def _differences(report: Report, now: Mapping[str, Any]) -> list[str]:
    """Names of the settings, and parts of the input, that are no longer what a report says."""
    before, after = (dict(_flat(x)) for x in ({**report.get("settings", {}), **report.get("input", {})}, now))
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings with the names of nested ones joined by dots."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def input_digests(record: VideoRecord) -> dict[str, str]:
    """What tells one input from another: names and sizes of the frames' files, contents of the masks.

    Files that can't be read count as empty: what is wrong with them is said once they are needed.
    """
    frames, masks = hashlib.sha256(), hashlib.sha256()
    for name, size in _frame_files(record.source):
        frames.update(f"{name} {size}\n".encode())
    frames.update(repr(None if record.saved is None else sorted(record.saved)).encode())
    # a single mask's own name may say which frame it belongs to
    named = [*record.masks.items(), *([(record.first_mask.stem, record.first_mask)] if record.first_mask else [])]
    for stem, path in named:
        keep = None if record.keep_ids is None else sorted(record.keep_ids.get(stem, ()))
        masks.update(f"{stem} {keep} {record.long_ids}\n".encode())
        masks.update(_bytes(path))
    digests = {"frames": frames.hexdigest(), "masks": masks.hexdigest()}
    if record.prompts:
        pointed = json.dumps(record.prompts, sort_keys=True)
        digests["prompts"] = hashlib.sha256(pointed.encode()).hexdigest()
    return digests


def _frame_files(source: Path) -> list[tuple[str, int]]:
    """Name and size of a video file, or of each image in a folder."""
    try:
        if source.is_dir():
            images = (path for path in sorted(source.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES)
            found = [path for path in images if not path.name.startswith(".") and path.is_file()]
            return [(path.name, path.stat().st_size) for path in found]
        return [(source.name, source.stat().st_size)]
    except OSError:
        return []


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def refuse_inputs(results: Results, record: VideoRecord, options: RunOptions) -> None:
    """Raises ValueError if results would land among the files that they are made from."""
    masks = [record.first_mask, *record.masks.values()]
    folders = {path.resolve().parent for path in masks if path is not None}
    inputs = folders | {record.source.resolve()}
    targets = [results.root / record.name]
    targets += [results.root / PROBS / record.name] if options.save_probs else []
    targets += [results.root / DEPTH / record.name] if options.save_depth else []
    targets += [results.overlay(record.name)] if options.overlay else []
    for target in targets:
        clash = target.resolve() in inputs or results.root.resolve() == record.source.resolve()
        require(not clash, f"{results.root}: results would overwrite the input in {target}; wanted another --output")
