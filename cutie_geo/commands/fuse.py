"""`cutie-geo fuse`: fuse runs of infer that saved their probabilities."""

import argparse
import sys
from pathlib import Path

from cutie_geo.commands.help import Renamed
from cutie_geo.commands.infer import add_cleaning, cleaning_of

HELP = "fuse runs that saved their probabilities"
RESUMES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of results of infer --save-probs")
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="DIR", help="folder of the new results")
    parser.add_argument(
        "--coefficients",
        nargs="+",
        type=float,
        metavar="C",
        help="coefficients of the runs in their mean (default: equal)",
    )
    parser.add_argument("--weights", dest="coefficients", action=Renamed, now="--coefficients", nargs="+", type=float)
    parser.add_argument(
        "--videos", nargs="+", default=[], metavar="NAME", help="videos to fuse (default: those of the first run)"
    )
    parser.add_argument("--save-probs", action="store_true", help="also save the mean probabilities of each frame")
    parser.add_argument("--overwrite", action="store_true", help="fuse complete videos again")
    parser.add_argument("--workers", type=int, default=2, help="threads (default: 2)")
    add_cleaning(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")


def run(args: argparse.Namespace) -> int:
    """Fuse; return 0, or 2 if a video failed. Raises ValueError."""
    from cutie_geo.runs.fuse import FuseRunsOptions, fuse_runs

    coefficients = None if args.coefficients is None else tuple(args.coefficients)
    options = FuseRunsOptions(
        tuple(args.runs), args.output, coefficients, tuple(args.videos), cleaning_of(args),
        args.save_probs, args.overwrite, args.workers, args.command_line,
    )  # fmt: skip
    outcome = fuse_runs(options)
    for error in outcome.errors:
        print(f"error: {error}", file=sys.stderr)
    failed, total = len(outcome.errors), outcome.fused + outcome.skipped + len(outcome.errors)
    done = f"{outcome.fused} fused" + (f"; {outcome.skipped} already complete" if outcome.skipped else "")
    print(f"videos: {done}" + (f"; {failed} of {total} FAILED" if failed else ""))
    print(f"results: {outcome.output}")
    return 2 if failed else 0
