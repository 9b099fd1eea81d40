"""Layout and bookkeeping of a folder of results.

It contains `Annotations/<video>/<frame>.png` and, if requested, `overlays/<video>.mp4`, `probs/<video>/<frame>.npz` and
`depth/<video>/<frame>.png`. `.cutie_geo/<video>.json` is the report of a video, `.cutie_geo/<video>.files` the list of
its files, and `run.json` the summary.
"""

import hashlib
import json
import logging
import os
import shlex
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutie_geo.config import HIDDEN, flatten, read_json, require, require_name, require_small
from cutie_geo.data.index import ANNOTATIONS, NOTES, VideoRecord, with_first_appearances
from cutie_geo.data.io_threads import append_text, require_regular, sync_files, write_json
from cutie_geo.data.listing import real_path
from cutie_geo.data.locks import Busy, exclusive
from cutie_geo.data.video import IMAGE_SUFFIXES
from cutie_geo.inference.options import RunOptions

log = logging.getLogger(__name__)

LOCKS = "locks"
"""Folder of the locks in `NOTES`."""
CONVERTED_MASKS = "masks"
"""Folder in `NOTES` of the masks made from annotations of other programs."""
OVERLAYS, PROBS, DEPTH = "overlays", "probs", "depth"
SUMMARY = "run.json"
SUMMARY_PATIENCE = 60.0
"""Seconds to wait for another process that writes the summary."""
RENAMED_SETTINGS = {"cleaning.specks": "cleaning.small_components"}
"""Settings that reports of earlier versions have under another name."""
MAPPINGS = ("settings", "input", "presence")
"""Entries of a report that are mappings."""
SHOWN = 5
"""Maximum number of changed settings in an error message."""

Report = dict[str, Any]
"""Report of a video: with `error` if it failed, `unfinished` if it was begun, and all other entries if it is done."""
CONTENTS, STAMPS = "frame_contents", "stamps"
"""Input entries of a report: digests of the frame files' contents and of their modification times. Unchanged times save
reading the files again."""

_noting = threading.Lock()
"""Lock for the list of files, which all writing threads of a video append to."""


@dataclass(frozen=True)
class Results:
    """Folder of results at `root`."""

    root: Path

    @classmethod
    def at(cls, folder: Path) -> "Results":
        """Return the results in a folder; for a folder of masks, those in its parent."""
        place = Path(os.path.abspath(folder))
        inner = place.name == ANNOTATIONS and (place.parent / NOTES).is_dir() and not (place / NOTES).is_dir()
        return cls(folder if not inner else folder.parent if folder.name == ANNOTATIONS else place.parent)

    # ------------------------------------------------------------------------------------------------------- places
    def folder(self, video: str) -> Path:
        """Return the folder of a video's label maps."""
        return self.root / ANNOTATIONS / video

    def labels(self, video: str, frame: str) -> Path:
        """Return the path of a frame's label map."""
        return self.folder(video) / f"{frame}.png"

    def probs(self, video: str, frame: str) -> Path:
        """Return the path of a frame's probabilities."""
        return self.root / PROBS / video / f"{frame}.npz"

    def depth(self, video: str, frame: str) -> Path:
        """Return the path of a frame's depth map."""
        return self.root / DEPTH / video / f"{frame}.png"

    def homes(self, video: str) -> tuple[Path, ...]:
        """Return the folders of a video's per-frame files."""
        return self.folder(video), self.root / PROBS / video, self.root / DEPTH / video

    def overlay(self, video: str) -> Path:
        """Return the path of a video's overlay."""
        return self.root / OVERLAYS / f"{video}.mp4"

    def note(self, video: str) -> Path:
        """Return the path of a video's report."""
        return self.root / NOTES / f"{video}.json"

    def list_of_files(self, video: str) -> Path:
        """Return the path of the list of a video's files, one line of JSON per file."""
        return self.root / NOTES / f"{video}.files"

    # ------------------------------------------------------------------------------------------------------ reports
    def report(self, video: str) -> Report | None:
        """Return the report of an earlier attempt at a video, or None.

        Raises:
            ValueError: If the report has entries of other types, or names of files outside the folder.
        """
        path = self.note(video)
        try:
            report = read_json(path)
        except (OSError, ValueError):
            return None
        if not isinstance(report, dict) or report.get("video") != video:
            return None
        require_valid(report, path)
        return report

    def reports(self) -> dict[str, Report]:
        """Return the valid reports of all videos, by name."""
        found = {video: self._report_or_warning(video) for video in self.noted()}
        return {video: report for video, report in found.items() if report is not None}

    def noted(self) -> list[str]:
        """Return the names of the videos with a report, valid or not."""
        return sorted(path.stem for path in (self.root / NOTES).glob("*.json"))

    def _report_or_warning(self, video: str) -> Report | None:
        """Return the report of a video; log a warning and return None if it is damaged."""
        try:
            return self.report(video)
        except ValueError as error:
            log.warning("%s", error)
            return None

    def keep(self, report: Report) -> None:
        """Write a video's report; that of a finished video after its files are on disk. Raises OSError."""
        if "frames" in report:
            sync_files(self.written(report["video"]))
        write_json(self.note(report["video"]), report)

    def keep_failure(self, report: Report) -> None:
        """Write the report of a failed attempt, unless finished results remain untouched. Raises OSError."""
        if self.done(report["video"]) is None:
            self.keep(report)

    def done(self, video: str) -> Report | None:
        """Return the report of a finished video, or None. Its files may have been removed since."""
        report = self.report(video)
        finished = report is not None and "error" not in report and isinstance(report.get("frames"), list)
        return report if finished else None

    def complete(self, video: str, options: RunOptions) -> Report | None:
        """Return the report of a video whose requested files all exist, else None."""
        report = self.done(video)
        kinds = (options.save_probs, options.save_depth, options.overlay)
        return report if report is not None and self.has_all(report, *kinds) else None

    def has_all(self, report: Report, probs: bool = False, depth: bool = False, overlay: bool = False) -> bool:
        """Return True if the label maps and the requested other files of a finished video exist."""
        video, frames = report["video"], report["frames"]
        wanted = [self.labels(video, frame) for frame in frames]
        wanted += [self.probs(video, frame) for frame in frames] if probs else []
        wanted += [self.depth(video, frame) for frame in frames] if depth else []
        wanted += [self.overlay(video)] if overlay else []
        return all(path.is_file() for path in wanted)

    # ------------------------------------------------------------------------------------------------------ writing
    @contextmanager
    def lock(self, video: str) -> Iterator[None]:
        """Lock a video against other processes within the block. Raises `Busy` if another process holds the lock."""
        with exclusive(self.root / NOTES / LOCKS / f"{video}.lock", f"{self.root}: {video}"):
            self._remove_leftovers(video)
            yield

    def write_summary(self, summarise: Callable[[], Report]) -> None:
        """Write `run.json` with the result of `summarise`, called under a lock.

        Of several processes that end at the same time, the last to write has read the reports of all.

        Raises:
            OSError: If the file cannot be written.
        """
        with ExitStack() as stack:
            try:
                where = self.root / NOTES / LOCKS / f".{SUMMARY}.lock"
                stack.enter_context(exclusive(where, f"{self.root / SUMMARY}", SUMMARY_PATIENCE))
            except Busy as error:
                log.warning("%s", error)
            write_json(self.root / SUMMARY, summarise())

    def _remove_leftovers(self, video: str) -> None:
        """Remove partial files of killed processes; the lock excludes other writers."""
        folders = {self.labels(video, "x").parent, self.probs(video, "x").parent, self.depth(video, "x").parent}
        hidden = [path for folder in folders for path in folder.glob(".*.part")]
        for path in (self.overlay(video), self.note(video)):
            hidden += [other for other in path.parent.glob(".*.part") if other.name.startswith(f".{path.name}.")]
        for path in hidden:
            if HIDDEN.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def make_writable(self) -> None:
        """Create the folder.

        Raises:
            ValueError: If the folder is not writable or has the layout of an earlier version.
        """
        self.refuse_old_layout()
        try:
            (self.root / NOTES).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root / NOTES) as probe:
                probe.write(b"writable")
        except OSError as error:
            raise ValueError(f"{self.root}: the folder is not writable: {error.strerror or error}") from None

    def refuse_old_layout(self) -> None:
        """Raise ValueError if masks are in `<video>/` instead of `Annotations/<video>/`."""
        old = [v for v in self.reports() if not self.folder(v).is_dir() and any((self.root / v).glob("*.png"))]
        if old:
            root, inner = shlex.quote(str(self.root)), shlex.quote(str(self.root / ANNOTATIONS))
            videos = (
                f"{root}/{{{','.join(map(shlex.quote, old))}}}" if len(old) > 1 else f"{root}/{shlex.quote(old[0])}"
            )
            raise ValueError(
                f"{self.root}: masks have the layout of an earlier version; got {self.root / old[0]}, "
                f"expected {self.folder(old[0])}. Choose another folder, or: mkdir -p {inner} && mv {videos} {inner}/"
            )

    def write(self, video: str, path: Path, save: Callable[..., Any], *args: Any) -> None:
        """List a file of a video and write it with `save(path, *args)`. Only listed files are ever removed.

        Raises:
            OSError: If a file cannot be written; also the errors of `save`.
        """
        self.list_file(video, path)
        save(path, *args)
        if path.parent == self.folder(video):
            self.list_file(video, path, _digest(path))

    def list_file(self, video: str, path: Path, digest: str | None = None) -> None:
        """Append a file to a video's list. Raises OSError."""
        line = json.dumps([path.relative_to(self.root).as_posix(), digest]) + "\n"
        with _noting:
            append_text(self.list_of_files(video), line)

    def written(self, video: str) -> dict[Path, str | None]:
        """Return the files on a video's list with the digests of label maps; files in other folders are skipped.

        Without a list, as with results of earlier versions, the files are those of the video's report.
        """
        homes = self.homes(video)
        found: dict[Path, str | None] = {}
        try:
            lines = self.list_of_files(video).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            frames = (self.done(video) or {}).get("frames", [])
            named = [where(video, str(frame)) for frame in frames for where in (self.labels, self.probs, self.depth)]
            lines = [json.dumps([path.relative_to(self.root).as_posix(), None]) for path in named]
            lines += [json.dumps([self.overlay(video).relative_to(self.root).as_posix(), None])] if frames else []
        for line in lines:
            try:
                name, digest = json.loads(line)
                path, plain = self.root / name, ".." not in Path(name).parts
            except (ValueError, TypeError):  # the last line of a run that was killed
                continue
            if plain and (path.parent in homes or path == self.overlay(video)):
                found[path] = digest
        return found

    def begin(self, video: str, overwrite: bool = False) -> None:
        """Mark a video as unfinished, and remove the listed files of an earlier attempt.

        Raises:
            ValueError: If a mask was changed since, unless `overwrite` is set, or if a folder is a link; nothing is
                removed.
            OSError: If a file cannot be removed or written.
        """
        for home in self.homes(video):
            require(not home.is_symlink(), f"{home}: is a link, so files would be written and removed at its target; "
                    "remove it or choose another --output")  # fmt: skip
        files = self.written(video)
        for path, digest in files.items():
            same = overwrite or digest is None or not path.is_file() or _digest(path) == digest
            require(same, f"{path}: the mask was changed since it was written and would be overwritten; move it "
                    "away, choose another --output, or give --overwrite")  # fmt: skip
        for path in files:
            path.unlink(missing_ok=True)
        self._remove_parts(files)
        for home in self.homes(video):
            with suppress(OSError):  # missing, or with other files
                home.rmdir()
        self.list_of_files(video).unlink(missing_ok=True)
        self.keep({"video": video, "unfinished": True})

    @staticmethod
    def _remove_parts(files: Iterable[Path]) -> None:
        """Remove partial files of a killed run. Raises OSError."""
        names: dict[Path, set[str]] = {}
        for path in files:
            names.setdefault(path.parent, set()).add(path.name)
        for folder, own in names.items():
            for part in folder.glob(".*.part"):
                begun = part.name[1:].removesuffix(".part")
                if begun in own or begun.rpartition(".")[0] in own:
                    part.unlink(missing_ok=True)


def require_valid(report: Report, path: Path) -> None:
    """Raise ValueError if the report at `path` has an entry of another type or a name outside its folder."""
    advice = "; remove the file, or run again with --overwrite"
    require_small({name: report.get(name) for name in MAPPINGS}, str(path))
    for name in MAPPINGS:
        got = report.get(name, {})
        require(isinstance(got, dict), f"{path}: {name}: got {type(got).__name__}, expected an object{advice}")
    frames = report.get("frames", [])
    require(isinstance(frames, list), f"{path}: frames: got {type(frames).__name__}, expected a list{advice}")
    require_name(report["video"], f"{path}: video")
    for frame in frames:
        require_name(frame, f"{path}: frames")


# ------------------------------------------------------------------------------------------------------ earlier results
def refuse_other_settings(results: Results, records: Iterable[VideoRecord], options: RunOptions) -> None:
    """Raise ValueError if a finished video has other settings or inputs, unless `overwrite` is set."""
    for record in records:
        if record.is_stream or options.live is not None:
            fresh = options.overwrite or not results.written(record.name)
            require(fresh, f"{results.root}: holds results of an earlier {record.name}, which cannot be read again; "
                    "expected another --output, or --overwrite")  # fmt: skip
        elif not options.overwrite and (report := results.done(record.name)) is not None:
            refuse_others(results, record.name, report, _now(record, options, report))


def refuse_others(results: Results, video: str, report: Report, now: Mapping[str, Any]) -> None:
    """Raise ValueError if a finished video's settings or inputs differ from `now`."""
    if changed := _differences(report, now):
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        named = ", ".join("frames" if name == CONTENTS else name for name in changed[:SHOWN])
        raise ValueError(
            f"{results.root}: {video} was made with other {named}{more}; "
            "expected the same, another --output, or --overwrite"
        )


def changes(results: Results, record: VideoRecord, options: RunOptions) -> list[str]:
    """Return the names of changed settings and inputs of a finished video; an empty list if it is not finished."""
    report = results.done(record.name)
    return [] if report is None else _differences(report, _now(record, options, report))


def _now(record: VideoRecord, options: RunOptions, report: Report) -> Report:
    """Return the current settings and inputs of a video, as in its report."""
    return {**options.fingerprint(), **input_digests(record, report.get("input"))}


def _differences(report: Report, now: Mapping[str, Any]) -> list[str]:
    """Return the names of the settings and inputs that differ from a report."""
    before, after = (flatten(x) for x in ({**report.get("settings", {}), **report.get("input", {})}, now))
    before = {RENAMED_SETTINGS.get(name, name): value for name, value in before.items()}
    ignored = {STAMPS} if CONTENTS in before else {STAMPS, CONTENTS}  # earlier versions used names and sizes only
    changed = {name for name in {*before, *after} - ignored if before.get(name) != after.get(name)}
    return sorted(changed - {CONTENTS} if "frames" in changed else changed)  # other files have other contents


def input_digests(record: VideoRecord, known: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return digests of a video's inputs: names, sizes and contents of the frame files, contents of the masks.

    Unreadable files count as empty; their errors are raised when they are needed.

    Args:
        record: Video with its masks and prompts.
        known: Earlier digests. If no frame file was modified since, their digest of contents is reused.
    """
    frames, stamps, masks = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    with suppress(ValueError):
        record = with_first_appearances(record) if record.later else record  # blank masks are not tracked
    files = _frame_files(record.source) if record.reader is None else [(f, f.stat()) for f in record.reader.files]
    for path, state in files:
        # names of files need not be UTF-8
        frames.update(f"{path.name} {state.st_size}\n".encode(errors="surrogateescape"))
        stamps.update(f"{path.name} {state.st_mtime_ns} {state.st_ctime_ns}\n".encode(errors="surrogateescape"))
    frames.update(repr(None if record.saved is None else sorted(record.saved)).encode())
    # the name of a single mask may be that of its frame
    named = [*record.masks.items(), *([(record.first_mask.stem, record.first_mask)] if record.first_mask else [])]
    for stem, path in named:
        keep = None if record.keep_ids is None else sorted(record.keep_ids.get(stem, ()))
        masks.update(f"{stem} {keep} {record.long_ids}\n".encode(errors="surrogateescape"))
        masks.update(_bytes(path))
    digests = {"frames": frames.hexdigest(), "masks": masks.hexdigest(), STAMPS: stamps.hexdigest()}
    untouched = known is not None and known.get(STAMPS) == digests[STAMPS] and isinstance(known.get(CONTENTS), str)
    digests[CONTENTS] = known[CONTENTS] if known is not None and untouched else _contents(path for path, _ in files)
    if record.prompts:
        pointed = json.dumps(record.prompts, sort_keys=True)
        digests["prompts"] = hashlib.sha256(pointed.encode()).hexdigest()
    return digests


def _frame_files(source: Path) -> list[tuple[Path, os.stat_result]]:
    """Return a video file, or each image in a folder, with its file status."""
    try:
        if source.is_dir():
            images = (path for path in sorted(source.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES)
            found = [path for path in images if not path.name.startswith(".") and path.is_file()]
            return [(path, path.stat()) for path in found]
        return [(source, source.stat())]
    except OSError:
        return []


def _contents(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of the files' SHA-256 digests. Reading files takes far less time than decoding them."""
    contents = hashlib.sha256()
    for path in paths:
        try:
            require_regular(path)
            with path.open("rb") as file:
                contents.update(hashlib.file_digest(file, "sha256").digest())
        except (OSError, ValueError):
            contents.update(b"unreadable")
    return contents.hexdigest()


def _digest(path: Path) -> str:
    """Return the BLAKE2b digest of a small file."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _bytes(path: Path) -> bytes:
    try:
        require_regular(path)
        return path.read_bytes()
    except (OSError, ValueError):
        return b""


def refuse_inputs(results: Results, record: VideoRecord, options: RunOptions) -> None:
    """Raise ValueError if results would be written into the folders of their inputs."""
    masks = [record.first_mask, *record.masks.values()]
    folders = {real_path(path).parent for path in masks if path is not None}
    source = real_path(record.source)
    inputs = folders | {source}
    targets = [results.folder(record.name)]
    targets += [results.root / PROBS / record.name] if options.save_probs else []
    targets += [results.root / DEPTH / record.name] if options.save_depth else []
    targets += [results.overlay(record.name)] if options.overlay else []
    for target in targets:
        clash = real_path(target) in inputs or real_path(results.root) == source
        require(not clash, f"{results.root}: results would overwrite the input in {target}; expected another --output")


def refuse_output(output: Path, folders: Iterable[Path | None]) -> None:
    """Check that the output is outside the folders that are searched for frames and masks.

    Raises:
        ValueError: If it is inside one, since the next call would read results as videos.
    """
    place = real_path(output)
    for folder in folders:
        inside = folder is not None and folder.is_dir() and place.is_relative_to(real_path(folder))
        require(not inside, f"--output: results would be inside the input, where the next call would read "
                f"them as videos; got {output}, expected a folder outside {folder}")  # fmt: skip


def listed_folders(records: Iterable[VideoRecord], sources: bool = True) -> list[Path]:
    """Return the parents of the folders of masks and, with `sources`, of frames, as in benchmarks."""
    found: dict[Path, None] = {}
    for record in records:
        masks = [path for path in (record.first_mask, *record.masks.values()) if path is not None]
        found |= dict.fromkeys(path.parent.parent for path in masks)
        found |= {record.source.parent: None} if sources else {}
    return list(found)
