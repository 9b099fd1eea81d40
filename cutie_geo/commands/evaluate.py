"""`cutie-geo evaluate`: score masks by a benchmark's protocol, or compare two reports."""

import argparse
from pathlib import Path
from typing import Any

from cutie_geo.commands.evaluate_clicks import add_click_arguments, refuse_click_options, run_clicks
from cutie_geo.commands.evaluate_interactive import (
    INTERACTIVE,
    MODEL_OPTIONS,
    add_interactive_arguments,
    add_model_arguments,
    refuse_interactive_options,
    run_interactive,
)
from cutie_geo.commands.evaluate_semantic import add_semantic_arguments, refuse_semantic_options, run_semantic
from cutie_geo.commands.help import add_shard
from cutie_geo.config import parse_shard, require
from cutie_geo.config.choices import CLICK_PROTOCOL, PROTOCOLS, SEMANTIC_PROTOCOLS

HELP = "score masks by a benchmark's protocol, or compare two reports"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to score")
    what.add_argument("--gt", type=Path, metavar="MASK_ROOT", help="ground truth: a folder of PNGs for each sequence, "
                      "or a set of own videos")  # fmt: skip
    what.add_argument("--pred", type=Path, metavar="MASK_ROOT", help="predictions in folders of the same names, or the "
                      "output of infer")  # fmt: skip
    what.add_argument("--sequences", type=Path, metavar="LIST", help="text file of the sequences to score")
    add_shard(what, "of the sequences, written to --json")
    what.add_argument(
        "--merge", type=Path, nargs="+", metavar="PART", help="merge parts to a report, instead of scoring"
    )
    what.add_argument(
        "--compare", type=Path, nargs=2, metavar=("A", "B"), help="compare two reports, B minus A, instead of scoring"
    )

    how = parser.add_argument_group("how")
    known = ", ".join((*PROTOCOLS, *SEMANTIC_PROTOCOLS, INTERACTIVE, CLICK_PROTOCOL))
    how.add_argument("--protocol", default="davis2017", help=f"{known} (default: davis2017)")
    how.add_argument(
        "--lenient", action="store_true", help="score missing, resized and unknown masks instead of stopping"
    )
    how.add_argument("--all-frames", action="store_true", help="vos-benchmark: also score the first and last frame")
    how.add_argument("--meta", type=Path, metavar="FILE", help="the data set's meta file (default: beside --gt)")
    how.add_argument("--unseen", type=Path, metavar="LIST", help="unseen sequences (youtubevos: categories)")
    how.add_argument("--workers", type=int, metavar="N", help="processes (default: one for each core)")

    add_semantic_arguments(parser)
    add_interactive_arguments(parser)
    add_model_arguments(parser)
    add_click_arguments(parser)

    where = parser.add_argument_group("what to write")
    where.add_argument("--json", type=Path, metavar="FILE", help="report with all numbers, also of each frame")
    where.add_argument("--plots", type=Path, metavar="DIR", help="figures: bars, J over time, best and worst frames")
    where.add_argument("--frames", type=Path, metavar="DIR", help="with --plots: the videos' frames, in folders of the "
                       "same names (default: JPEGImages beside the Annotations of --gt)")  # fmt: skip
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")


def run(args: argparse.Namespace) -> int:
    """Score or compare, print and write; return 0. Raises ValueError."""
    if args.protocol == INTERACTIVE and not args.compare:
        return run_interactive(args)
    refuse_interactive_options(args)
    if args.protocol != CLICK_PROTOCOL or args.compare:
        refuse_click_options(args)
        refuse_interactive_options(args, tuple(MODEL_OPTIONS))
    if args.frames is not None:
        objects = args.plots is not None and args.protocol not in SEMANTIC_PROTOCOLS and not args.compare
        require(objects, "--frames: expected --plots with it, and a protocol that scores objects")
        require(args.frames.is_dir(), f"--frames {args.frames}: no such folder")
    require(not args.merge or not args.compare, "--merge and --compare: expected one of them")
    if args.protocol in SEMANTIC_PROTOCOLS and not args.compare:
        only = f"got protocol {args.protocol}, expected one that scores objects; --workers N scores clips in parallel"
        require(args.shard is None and args.merge is None, f"--shard, --merge: {only}")
        return run_semantic(args)
    refuse_semantic_options(args)
    if args.protocol == CLICK_PROTOCOL and not args.compare:
        return run_clicks(args)
    if args.compare:
        return _compare(args)
    if args.merge:
        return _merge(args)
    from cutie_geo.data.io_threads import write_json
    from cutie_geo.evaluation.plots import require_matplotlib
    from cutie_geo.evaluation.run import EvaluateOptions, evaluate
    from cutie_geo.progress import watched

    for name, root in (("--gt", args.gt), ("--pred", args.pred)):
        require(root is not None, f"{name}: expected a folder of masks, or --compare A.json B.json")
    shard = None if args.shard is None else parse_shard(args.shard)
    require(shard is None or args.json is not None, "--shard: expected --json with it, for the part")
    require(shard is None or args.plots is None, "--plots: expected no --shard with it; --merge takes it")
    if args.plots:
        require_matplotlib("--plots")
    options = EvaluateOptions(
        args.gt, args.pred, args.protocol, args.sequences, args.lenient, args.all_frames, args.meta, args.unseen,
        args.workers, shard,
    )  # fmt: skip
    report = evaluate(options, watched("scoring", "sequence"))
    if shard is not None:
        assert args.json is not None, "required above"
        write_json(args.json, report)
        print(f"part {shard}: {len(report['scores'])} of {report['sequences']} sequences\nresults: {args.json}")
        return 0
    return _deliver(args, report)


def _merge(args: argparse.Namespace) -> int:
    from cutie_geo.evaluation.parts import merge_parts
    from cutie_geo.evaluation.plots import require_matplotlib

    others = {"--gt": args.gt, "--pred": args.pred, "--sequences": args.sequences, "--shard": args.shard,
              "--meta": args.meta, "--unseen": args.unseen, "--lenient": args.lenient or None,
              "--all-frames": args.all_frames or None}  # fmt: skip
    given = [name for name, value in others.items() if value is not None]
    require(not given, f"{', '.join(given)}: expected without --merge, whose parts have these settings")
    if args.plots:
        require_matplotlib("--plots")
    report = merge_parts(args.merge)
    return _deliver(args, report)


def _deliver(args: argparse.Namespace, report: dict[str, Any]) -> int:
    """Write and print a report."""
    from cutie_geo.data.io_threads import write_json
    from cutie_geo.evaluation.plots import find_frames, write_plots
    from cutie_geo.evaluation.tables import report_lines

    if args.json:
        write_json(args.json, report)
    if args.plots:
        gt = Path(report["gt"])
        write_plots(args.plots, report, gt, Path(report["pred"]), args.frames or find_frames(gt))
    print("\n".join(report_lines(report)))
    for name, path in (("results", args.json), ("figures", args.plots)):
        if path:
            print(f"{name}: {path}")
    return 0


def _compare(args: argparse.Namespace) -> int:
    from cutie_geo.data.io_threads import write_json
    from cutie_geo.evaluation.run import compare
    from cutie_geo.evaluation.tables import comparison_lines

    require(args.gt is None and args.pred is None, "--compare: expected no --gt and --pred with it")
    require(args.plots is None, "--plots: expected --gt and --pred with it, not --compare")
    outcome = compare(*args.compare)
    if args.json:
        write_json(args.json, outcome)
    print("\n".join(comparison_lines(outcome)))
    if args.json:
        print(f"results: {args.json}")
    return 0
