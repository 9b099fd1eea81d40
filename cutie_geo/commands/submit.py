"""`cutie-geo submit`: the file that a benchmark's server wants, made of a folder of results and checked before."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from cutie_geo.config import require
from cutie_geo.data.background import map_ahead
from cutie_geo.data.index import VideoRecord
from cutie_geo.data.submission.archive import write_masks, write_visor
from cutie_geo.data.submission.check import folder_problems, video_problems
from cutie_geo.data.submission.servers import SERVERS, VISOR, Server, records
from cutie_geo.data.submission.visor import read_names
from cutie_geo.inference.results import DEPTH, OVERLAYS, PROBS, SUMMARY
from cutie_geo.progress import progress

HELP = "check results and pack them for a benchmark's server"
SHOWN = 20
"""Problems that are spelt out before the rest is counted."""
BESIDE = (OVERLAYS, PROBS, DEPTH, SUMMARY)
"""What infer writes beside the masks."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    splits = "; ".join(f"{server.name}: {', '.join(server.splits)}" for server in SERVERS.values())
    parser.add_argument("server", choices=list(SERVERS), help="whose server")
    parser.add_argument("--pred", type=Path, required=True, metavar="DIR", help="the folder of results of infer")
    parser.add_argument("--data-root", type=Path, required=True, metavar="DIR", help="where the benchmark's files are")
    parser.add_argument("--split", help=f"which part of the benchmark; the first is the usual one ({splits})")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the zip file to write")
    parser.add_argument("--workers", type=int, default=2, help="threads that check")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more")


def run(args: argparse.Namespace) -> int:
    """Check and, if nothing is wrong, write; returns 0, or 2 where something is."""
    server = SERVERS[args.server]
    split = server.split(args.split)
    _require_place(args.output, args.pred)
    require(args.workers >= 1, f"--workers: got {args.workers}, wanted 1 or more")
    found = sorted(records(server, args.data_root, split), key=lambda record: record.name)
    names = read_names(found, split) if server.name == VISOR else {}
    with logging_redirect_tqdm():
        if problems := _problems(server, found, args.pred, args.workers):
            return _complain(problems)
        watched = _watched(found, "writing")
        if server.name == VISOR:
            count = write_visor(args.output, server, watched, args.pred, names)
        else:
            count = write_masks(args.output, server, watched, args.pred)
    print(f"{server.title}, {split}: {len(found)} videos, {count} masks")
    print(f"written: {args.output.absolute()}")
    return 0


def _require_place(output: Path, results: Path) -> None:
    """Raises ValueError for a file that is none, or that would lie among what is to be packed."""
    require(output.suffix == ".zip", f"--output: got {output}, wanted the name of a .zip file")
    require(not output.is_dir(), f"--output: {output} is a folder, wanted the name of a .zip file")
    inside = output.resolve().is_relative_to(results.resolve())
    require(not inside, f"--output: {output} lies in the folder of results, wanted a place outside")


def _problems(server: Server, found: Sequence[VideoRecord], results: Path, workers: int) -> list[str]:
    """Everything that is wrong with the results."""
    problems = folder_problems(server, found, results, BESIDE)

    def check(record: VideoRecord) -> list[str]:
        return video_problems(server, record, results)

    for texts in map_ahead(check, _watched(found, "checking"), workers, 2 * workers):
        problems += texts
    return problems


def _watched(found: Sequence[VideoRecord], name: str) -> Iterator[VideoRecord]:
    """The videos, with a bar of those taken."""
    with progress(len(found), name, "video") as bar:
        for record in found:
            yield record
            bar.update()


def _complain(problems: Iterable[str]) -> int:
    """Say what is wrong."""
    problems = list(problems)
    for problem in problems[:SHOWN]:
        print(f"error: {problem}", file=sys.stderr)
    if len(problems) > SHOWN:
        print(f"error: and {len(problems) - SHOWN} more", file=sys.stderr)
    print(f"error: nothing written: {len(problems)} things are wrong with the results", file=sys.stderr)
    return 2
