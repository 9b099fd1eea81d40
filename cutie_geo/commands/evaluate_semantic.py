"""`cutie-geo evaluate --protocol vspw` and `vipseg`: score semantic maps of videos."""

import argparse
from pathlib import Path

from cutie_geo.config import require
from cutie_geo.config.choices import SEMANTIC_PROTOCOLS as SEMANTIC
from cutie_geo.vss.config import EvaluateOptions


def add_semantic_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that only these protocols have."""
    group = parser.add_argument_group(", ".join(SEMANTIC))
    group.add_argument(
        "--base", type=Path, metavar="MASK_ROOT", help="predictions before refinement, to report the gain"
    )
    group.add_argument(
        "--allow-void", action="store_true", help="accept 255 in predictions: no label, counted as wrong"
    )
    group.add_argument("--vc", type=int, nargs="+", metavar="N", help="further window lengths of mVC, beside 8 and 16")
    group.add_argument(
        "--pictures", type=int, metavar="N", help="with --plots: N figures of before, after, ground truth, difference"
    )


def refuse_semantic_options(args: argparse.Namespace) -> None:
    """Raise ValueError for an option that only semantic protocols have."""
    given = {"--base": args.base, "--allow-void": args.allow_void, "--vc": args.vc, "--pictures": args.pictures}
    got = "--compare" if args.compare else f"protocol {args.protocol}"
    for name, value in given.items():
        require(value in (None, False), f"{name}: got {got}, expected one of {', '.join(SEMANTIC)}")


def run_semantic(args: argparse.Namespace) -> int:
    """Score, print and write the report; return 0. Raises ValueError for files that cannot be scored."""
    from cutie_geo.data.io_threads import write_json
    from cutie_geo.vss.evaluate import evaluate, report_lines

    for name, root in (("--gt", args.gt), ("--pred", args.pred)):
        require(root is not None, f"{name}: expected a folder of masks")
    for name, value in {"--all-frames": args.all_frames, "--meta": args.meta, "--unseen": args.unseen}.items():
        require(value in (None, False), f"{name}: got protocol {args.protocol}, which has no such option")
    options = EvaluateOptions(
        protocol=args.protocol,
        truth=args.gt,
        predictions=args.pred,
        base=args.base,
        sequences=args.sequences,
        consistency=tuple(args.vc or ()),
        allow_void=args.allow_void,
        lenient=args.lenient,
        workers=args.workers,
        plots=args.plots,
        pictures=args.pictures,
    )
    report = evaluate(options)
    if args.json:
        write_json(args.json, report)
    print("\n".join(report_lines(report)))
    for name, path in (("results", args.json), ("pictures", args.plots)):
        if path:
            print(f"{name}: {path}")
    return 0
