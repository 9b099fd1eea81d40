"""`cutie-geo evaluate --protocol vspw` and `vipseg`: semantic maps of videos against the true ones."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

from cutie_geo.commands.evaluate_tables import SHOWN, print_some, print_table, workers_for
from cutie_geo.config import require
from cutie_geo.data.background import write_json
from cutie_geo.data.semantic import Predictions, SemanticSet, find_predictions, find_vipseg, find_vspw
from cutie_geo.evaluation.semantic.metrics import WINDOWS
from cutie_geo.evaluation.semantic.plots import choose_frames, write_bars, write_pictures
from cutie_geo.evaluation.semantic.report import MAIN, Report, add_base, build_report
from cutie_geo.evaluation.semantic.scoring import Rules, score_clips, semantic_jobs
from cutie_geo.progress import progress

SEMANTIC: dict[str, Callable[[Path, Path | None], SemanticSet]] = {"vspw": find_vspw, "vipseg": find_vipseg}
"""Protocols of semantic maps, and how their truth is found."""


def add_semantic_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that only these protocols have."""
    classes = parser.add_argument_group(", ".join(SEMANTIC))
    classes.add_argument("--base", type=Path, metavar="MASK_ROOT", help="predictions before: scored too, and the gain")
    classes.add_argument("--allow-void", action="store_true", help="255 in predictions is no label, and wrong")
    classes.add_argument("--vc", type=int, nargs="+", metavar="N", help="further n of mVC, beside 8 and 16")
    classes.add_argument(
        "--pictures", type=int, metavar="N", help="with --plots: up to N frames, before, after, truth, difference"
    )


def refuse_semantic_options(args: argparse.Namespace) -> None:
    """Raises ValueError for an option that only semantic protocols have."""
    given = {"--base": args.base, "--allow-void": args.allow_void, "--vc": args.vc, "--pictures": args.pictures}
    got = "--compare" if args.compare else f"protocol {args.protocol}"
    for name, value in given.items():
        require(value in (None, False), f"{name}: got {got}, wanted one of {', '.join(SEMANTIC)}")


def run_semantic(args: argparse.Namespace) -> int:
    """Score, print, write; return the exit status, 0. Raises ValueError for what can't be scored."""
    _require_sense(args)
    truth = SEMANTIC[args.protocol](args.gt, args.sequences)
    rules = Rules(tuple(sorted({*WINDOWS, *(args.vc or ())})), args.allow_void, args.lenient)
    after = find_predictions(args.pred)
    before = find_predictions(args.base) if args.base else None
    report = _score(args, truth, after, rules, "scoring")
    base = _score(args, truth, before, rules, "scoring --base") if before else None
    whole = {**(add_base(report, base) if base else report), "gt": str(args.gt), "pred": str(args.pred)}
    whole |= {"base_pred": str(args.base)} if base else {}
    if args.json:
        write_json(args.json, whole)
    if args.plots:
        write_bars(args.plots, whole)
        choices = choose_frames(report, base, args.pictures or 0)
        write_pictures(args.plots, choices, truth.clips, after, before)
    _print(whole)
    for name, path in (("results", args.json), ("pictures", args.plots)):
        if path:
            print(f"{name}: {path}")
    return 0


def _require_sense(args: argparse.Namespace) -> None:
    """Raises ValueError for roots that are missing and for options of other protocols."""
    for name, root in (("--gt", args.gt), ("--pred", args.pred)):
        require(root is not None, f"{name}: wanted a folder of masks")
    for name, root in (("--gt", args.gt), ("--pred", args.pred), ("--base", args.base)):
        require(root is None or root.is_dir(), f"{name} {root}: no such folder")
    others = {"--all-frames": args.all_frames, "--meta": args.meta, "--unseen": args.unseen}
    for name, value in others.items():
        require(value in (None, False), f"{name}: got protocol {args.protocol}, which has no such option")
    require(args.pictures is None or args.pictures >= 1, f"--pictures: got {args.pictures}, wanted 1 or more")
    require(args.pictures is None or args.plots is not None, "--pictures: wanted --plots DIR with it")
    odd = [n for n in args.vc or () if not 1 <= n <= 2**15]
    require(not odd, f"--vc: got {odd}, wanted numbers of frames from 1 on")


def _score(args: argparse.Namespace, truth: SemanticSet, predictions: Predictions, rules: Rules, name: str) -> Report:
    """The report of one folder of predictions, under a bar."""
    todo = semantic_jobs(truth.clips, predictions, rules)
    workers = workers_for(args.workers, len(todo))
    clips = []
    with logging_redirect_tqdm(), progress(len(todo), name, "clip") as bar:
        for clip in score_clips(todo, workers):
            clips.append(clip)
            bar.update()
    return build_report(clips, truth.names, args.protocol, rules)


def _print(report: Report) -> None:
    """The table of clips, what all have, what --base had and the gain; then what deserves a word."""
    columns = [*MAIN, *(name for name in report if name.startswith("mVC") and name not in MAIN)]
    clips: dict[str, Any] = report["clips"]
    shown = list(clips)
    if len(shown) > SHOWN:
        shown = sorted(clips, key=lambda name: (clips[name]["mIoU"] is None, clips[name]["mIoU"]))[:SHOWN]
        print(f"the {SHOWN} lowest of {len(clips)} clips")
    rows = {name: clips[name] for name in shown} | {"overall": report}
    if "base" in report:
        rows |= {"base": report["base"], "gain": report["gain"]}
    print_table(columns, rows)
    counts = report["counts"]
    mark = ", LENIENT: not comparable with official scores" if report["lenient"] else ""
    print(
        f"protocol {report['protocol']}: {counts['clips']} clips, {counts['frames']} frames, "
        f"{counts['classes']} classes in truth{mark}"
    )
    told = [
        f"{item['sequence']}/{item['frame'] or '*'}: {item['reason']}: {item['treated_as']}"
        for item in report["treated"]
    ]
    print_some([*report["warnings"], *told])
