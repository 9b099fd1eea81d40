"""Score folders of masks against the true ones by a benchmark's own rules, or compare two such scores."""

import argparse
import logging
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from cutie_geo.commands.evaluate_semantic import (
    SEMANTIC,
    add_semantic_arguments,
    refuse_semantic_options,
    run_semantic,
)
from cutie_geo.commands.evaluate_tables import SHOWN, TOLD, print_some, print_table, workers_for
from cutie_geo.config import require
from cutie_geo.data.background import write_json
from cutie_geo.evaluation.compare import MEASURES, compare_reports, read_report
from cutie_geo.evaluation.folders import listed_names, sequence_names
from cutie_geo.evaluation.plots import write_plots
from cutie_geo.evaluation.protocols import (
    PROTOCOLS,
    WITH_META,
    Settings,
    find_meta,
    find_unseen,
    read_meta,
)
from cutie_geo.evaluation.report import MAIN, Report, build_report
from cutie_geo.evaluation.scoring import SequenceScores, jobs, score_sequences
from cutie_geo.progress import progress

log = logging.getLogger(__name__)

HELP = "score masks against the true ones by a benchmark's rules, or compare two scores"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    what = parser.add_argument_group("what to score")
    what.add_argument("--gt", type=Path, metavar="MASK_ROOT", help="true masks: one folder of PNGs for each sequence")
    what.add_argument("--pred", type=Path, metavar="MASK_ROOT", help="predicted masks, in folders of the same names")
    what.add_argument("--sequences", type=Path, metavar="LIST", help="a text file of the sequences to score")
    what.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"), help="instead: two reports, B minus A")

    how = parser.add_argument_group("how")
    known = ", ".join((*PROTOCOLS, *SEMANTIC))
    how.add_argument("--protocol", default="davis2017", help=f"{known} (default: davis2017)")
    how.add_argument("--lenient", action="store_true", help="score missing, odd-sized and unknown instead of stopping")
    how.add_argument("--all-frames", action="store_true", help="vos-benchmark: first and last frame too")
    how.add_argument("--meta", type=Path, metavar="FILE", help="the dataset's meta file (default: looked for at --gt)")
    how.add_argument("--unseen", type=Path, metavar="LIST", help="unseen sequences (youtubevos: categories)")
    how.add_argument("--workers", type=int, metavar="N", help="processes (default: one for each core)")

    add_semantic_arguments(parser)

    where = parser.add_argument_group("what to write")
    where.add_argument("--json", type=Path, metavar="FILE", help="all numbers, those of each frame included")
    where.add_argument("--plots", type=Path, metavar="DIR", help="pictures: bars, J over time, best and worst frames")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more")


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit status, 0. Raises ValueError for what can't be scored."""
    if args.protocol in SEMANTIC and not args.compare:
        return run_semantic(args)
    refuse_semantic_options(args)
    if args.compare:
        require(args.gt is None and args.pred is None, "--compare: wanted without --gt and --pred")
        require(args.plots is None, "--plots: wanted with --gt and --pred, not with --compare")
        return _compare(args)
    for name, root in (("--gt", args.gt), ("--pred", args.pred)):
        require(root is not None, f"{name}: wanted a folder of masks, or --compare A.json B.json")
        require(root.is_dir(), f"{name} {root}: no such folder")
    settings = _settings(args)
    names = sequence_names(args.gt) if args.sequences is None else listed_names(args.sequences)
    missing = [name for name in names if not (args.gt / name).is_dir()]
    require(not missing, f"{args.sequences}: no true masks of {', '.join(missing[:TOLD])} in {args.gt}")
    scores = _score(args, names, settings)
    report = {**build_report(scores, settings), "gt": str(args.gt), "pred": str(args.pred)}
    if args.json:
        write_json(args.json, report)
    if args.plots:
        write_plots(args.plots, report, args.gt, args.pred)
    _print(report)
    for name, path in (("results", args.json), ("pictures", args.plots)):
        if path:
            print(f"{name}: {path}")
    return 0


def _settings(args: argparse.Namespace) -> Settings:
    """What decides the scores; files of the dataset that lie where they are published are used without being asked."""
    known = ", ".join((*PROTOCOLS, *SEMANTIC))
    require(args.protocol in PROTOCOLS, f"--protocol: got {args.protocol}, wanted one of {known}")
    wants_meta = args.meta is None or args.protocol in WITH_META
    require(wants_meta, f"--meta: got protocol {args.protocol}, wanted one of {', '.join(WITH_META)}")
    meta = args.meta or find_meta(args.gt, args.protocol)
    unseen = args.unseen or find_unseen(args.gt, args.protocol)
    for what, path in (("objects and frames", meta), ("unseen sequences", unseen)):
        if path is not None:
            log.info("%s: %s", what, path)
    return Settings(
        args.protocol,
        args.lenient,
        args.all_frames,
        read_meta(meta) if meta else {},
        frozenset(listed_names(unseen)) if unseen else frozenset(),
    )


def _score(args: argparse.Namespace, names: list[str], settings: Settings) -> list[SequenceScores]:
    """The scores of all sequences, under a bar."""
    workers = workers_for(args.workers, len(names))
    scores = []
    with logging_redirect_tqdm(), progress(len(names), "scoring", "sequence") as bar:
        for item in score_sequences(jobs(args.gt, args.pred, names, settings), workers):
            scores.append(item)
            bar.update()
    return scores


# ------------------------------------------------------------------------------------------------------------- tables
def _print(report: Report) -> None:
    """The table, then what deserves a word."""
    extra = [name for name, value in report.items() if name not in MAIN and isinstance(value, float)]
    columns = (*MAIN, *extra)
    rows = {name: entry for name, entry in report["sequences"].items() if entry["objects"]}
    shown = list(rows)
    if len(shown) > SHOWN:
        shown = sorted(rows, key=lambda name: rows[name]["J&F"])[:SHOWN]
        print(f"the {SHOWN} lowest of {len(rows)} sequences")
    print_table(columns, {name: rows[name] for name in shown} | report.get("groups", {}) | {"overall": report})
    counts = report["counts"]
    mark = ", LENIENT: not comparable with official scores" if report["lenient"] else ""
    print(
        f"protocol {report['protocol']}: {counts['sequences']} sequences, {counts['objects']} objects, "
        f"{counts['frames']} frames{mark}"
    )
    told = [
        f"{item['sequence']}/{item['frame'] or '*'}: {item['reason']}: {item['treated_as']}"
        for item in report["treated"]
    ]
    print_some([*report["warnings"], *told])


def _compare(args: argparse.Namespace) -> int:
    """Print the differences of two reports, and write them if asked to."""
    first, second = args.compare
    outcome = {**compare_reports(read_report(first), read_report(second)), "first": str(first), "second": str(second)}
    if args.json:
        write_json(args.json, outcome)
    rows = outcome["sequences"]
    shown = sorted(rows, key=lambda name: -abs(rows[name]["J&F"]))[:SHOWN]
    print(f"{second} minus {first}, protocol {outcome['protocol']}, {outcome['counts']['objects']} objects")
    print_table(MEASURES, {name: rows[name] for name in shown}, "+.1f")
    for name in MEASURES:
        found = outcome["difference"][name]
        print(f"{name}: {found['mean']:+.2f}, from {found['low']:+.2f} to {found['high']:+.2f}")
    print(
        f"from ... to: {100 * outcome['confidence']:.0f}% interval of {outcome['resamples']} bootstrap resamples of "
        f"sequences, seed {outcome['seed']}"
    )
    print_some(outcome["warnings"])
    if args.json:
        print(f"results: {args.json}")
    return 0
