"""`cutie-geo submit`: validate results and pack them for a benchmark's server."""

import argparse
import sys
from pathlib import Path

from cutie_geo.config.choices import SERVER_SPLITS

HELP = "validate results and pack them for a benchmark's server"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    splits = "; ".join(f"{server}: {', '.join(names)}" for server, names in SERVER_SPLITS.items())
    parser.add_argument("server", choices=list(SERVER_SPLITS), help="the benchmark's server")
    parser.add_argument("--pred", type=Path, required=True, metavar="DIR", help="output of infer, or its masks")
    parser.add_argument("--data-root", type=Path, required=True, metavar="DIR", help="folder of the benchmark's files")
    parser.add_argument("--split", help=f"part of the benchmark, by default the first ({splits})")
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="FILE", help="the zip file to write")
    parser.add_argument("--workers", type=int, default=2, help="number of checking threads (default: 2)")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")


def run(args: argparse.Namespace) -> int:
    """Validate and pack the results; return 0, or 2 if there are problems. Raises ValueError."""
    from cutie_geo.runs.submit import PackOptions, pack, problem_lines

    packed = pack(PackOptions(args.server, args.pred, args.data_root, args.output, args.split, args.workers))
    for line in problem_lines(packed.problems):
        print(line, file=sys.stderr)
    if packed.problems:
        return 2
    print(f"{packed.title}, {packed.split}: {packed.videos} videos, {packed.masks} masks")
    print(f"written: {args.output.absolute()}")
    return 0
