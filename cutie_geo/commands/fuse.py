"""`cutie-geo fuse`: runs of infer that saved their probabilities, put together into one."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

from cutie_geo.commands.infer import add_cleaning, cleaning_of
from cutie_geo.commands.models import versions
from cutie_geo.config import require
from cutie_geo.data.background import write_json
from cutie_geo.errors import reason
from cutie_geo.inference.fuse import FuseOptions, Fusion, fuse_video, open_runs
from cutie_geo.inference.model_ensemble import shares_of
from cutie_geo.inference.results import SUMMARY, Results
from cutie_geo.progress import progress

log = logging.getLogger(__name__)

HELP = "put runs that saved their probabilities together"
RESUMES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of results of infer --save-probs")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the new results")
    parser.add_argument("--weights", nargs="+", type=float, metavar="W", help="of the runs (default: all the same)")
    parser.add_argument("--videos", nargs="+", metavar="NAME", help="only these (default: all of the first run)")
    parser.add_argument("--save-probs", action="store_true", help="also each frame's mean probabilities")
    parser.add_argument("--overwrite", action="store_true", help="put videos together again that are complete")
    parser.add_argument("--workers", type=int, default=2, help="threads")
    add_cleaning(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="say more")


def run(args: argparse.Namespace) -> int:
    """Do it; returns 0, or 2 where a video could not be put together."""
    require(args.workers >= 1, f"--workers: got {args.workers}, wanted 1 or more")
    require(len(args.runs) > 1, f"fuse: got {len(args.runs)} run, wanted two or more")
    runs = open_runs(args.runs)
    weights = shares_of(args.weights, len(runs), "--weights", "runs")
    output = Results(args.output)
    require(
        output.root.resolve() not in {run.root.resolve() for run in runs}, f"--output: {output.root} is one of the runs"
    )
    options = FuseOptions(weights, cleaning_of(args), args.save_probs, args.workers, args.overwrite)
    videos = _videos(runs[0], args.videos)
    output.make_writable()
    reports, failed = {}, []
    with logging_redirect_tqdm(), progress(len(videos), "videos", "video", show=len(videos) > 1) as bar:
        for video in videos:
            try:
                several = len(videos) > 1
                reports[video] = fuse_video(Fusion(runs, video), output, options, int(several), not several)
            except (ValueError, OSError) as error:
                failed.append(reason(error, video))
            bar.update()
    write_json(output.root / SUMMARY, _summary(args, weights, output.reports() | reports))
    for error in failed:
        print(f"error: {error}", file=sys.stderr)
    skipped = sum("skipped" in report for report in reports.values())
    told = f"{len(reports) - skipped} put together" + (f"; {skipped} already complete" if skipped else "")
    print(f"videos: {told}" + (f"; {len(failed)} of {len(videos)} FAILED" if failed else ""))
    print(f"results: {output.root.resolve()}")
    return 2 if failed else 0


def _videos(first: Results, names: Sequence[str] | None) -> list[str]:
    """Those asked for, else all that the first run has. Raises ValueError for one that it hasn't."""
    known = list(first.reports())
    unknown = [name for name in names or () if name not in known]
    require(not unknown, f"--videos: no {', '.join(unknown)} in {first.root}")
    return list(names or known)


def _summary(args: argparse.Namespace, weights: Sequence[float], videos: dict[str, Any]) -> dict[str, Any]:
    return {
        "command": args.command_line,
        "runs": [str(root) for root in args.runs],
        "weights": list(weights),
        "versions": versions(),
        "videos": videos,
    }
