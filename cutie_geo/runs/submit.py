"""Validation and packing of results for a benchmark's server, as called by `submit`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cutie_geo.config import require
from cutie_geo.data.index import VideoRecord, masks_root
from cutie_geo.data.io_threads import map_ahead
from cutie_geo.data.submission.archive import write_masks, write_visor
from cutie_geo.data.submission.check import folder_problems, video_problems
from cutie_geo.data.submission.servers import SERVERS, VISOR, Server, records
from cutie_geo.data.submission.visor import read_names
from cutie_geo.inference.results import DEPTH, OVERLAYS, PROBS, SUMMARY
from cutie_geo.progress import watched

LISTED_PROBLEMS = 20
BESIDE = (OVERLAYS, PROBS, DEPTH, SUMMARY)
"""Results of `infer` that are not masks."""


@dataclass(frozen=True)
class PackOptions:
    """Results to pack, and their server."""

    server: str
    results: Path
    """The folder that `infer` wrote, or its masks."""
    data_root: Path
    output: Path
    """The zip file."""
    split: str | None = None
    """None: the server's default split."""
    workers: int = 2
    """Number of checking threads."""


@dataclass(frozen=True)
class Packed:
    """Result of packing: counts, or problems."""

    title: str
    split: str
    videos: int
    masks: int = 0
    problems: tuple[str, ...] = ()
    """Problems; if there are any, nothing was written."""


def pack(options: PackOptions) -> Packed:
    """Check all masks and, if nothing is wrong, write the zip file.

    Raises:
        ValueError: for unknown servers and splits, and for an unusable output path.
    """
    require(options.server in SERVERS, f"server: got {options.server}, expected one of {', '.join(SERVERS)}")
    server = SERVERS[options.server]
    split = server.split(options.split)
    results = masks_root(options.results)
    _require_output(options.output, results)
    require(options.workers >= 1, f"--workers: got {options.workers}, expected 1 or more")
    found = sorted(records(server, options.data_root, split), key=lambda record: record.name)
    names = read_names(found, split) if server.name == VISOR else {}
    if problems := _problems(server, found, results, options.workers):
        return Packed(server.title, split, len(found), problems=tuple(problems))
    videos = watched("writing", "video")(found, len(found))
    if server.name == VISOR:
        masks = write_visor(options.output, server, videos, results, names)
    else:
        masks = write_masks(options.output, server, videos, results)
    return Packed(server.title, split, len(found), masks)


def _require_output(output: Path, results: Path) -> None:
    require(output.suffix == ".zip", f"--output: got {output}, expected the name of a .zip file")
    require(not output.is_dir(), f"--output: {output} is a folder, expected the name of a .zip file")
    inside = output.resolve().is_relative_to(results.resolve())
    require(not inside, f"--output: got {output}, which is in the folder of results; expected a path outside of it")


def _problems(server: Server, found: Sequence[VideoRecord], results: Path, workers: int) -> list[str]:
    """Return everything that is wrong with the results."""
    problems = folder_problems(server, found, results, BESIDE)

    def check(record: VideoRecord) -> list[str]:
        return video_problems(server, record, results)

    for texts in map_ahead(check, watched("checking", "video")(found, len(found)), workers, 2 * workers):
        problems += texts
    return problems


def problem_lines(problems: Sequence[str]) -> list[str]:
    """Return the first problems, how many more there are, and that nothing was written; nothing without problems."""
    if not problems:
        return []
    lines = [f"error: {problem}" for problem in problems[:LISTED_PROBLEMS]]
    if len(problems) > LISTED_PROBLEMS:
        lines.append(f"error: and {len(problems) - LISTED_PROBLEMS} more")
    return [*lines, f"error: nothing written: {len(problems)} things are wrong with the results"]
