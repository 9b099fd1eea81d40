"""Score folders of semantic maps as one library call."""

from collections.abc import Callable
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from cutie_geo.evaluation.tables import SHOWN, table_lines, treated_lines, warning_lines, workers_for
from cutie_geo.progress import progress
from cutie_geo.vss.config import EvaluateOptions
from cutie_geo.vss.metrics import WINDOWS
from cutie_geo.vss.plots import choose_frames, write_bars, write_pictures
from cutie_geo.vss.report import MAIN, Report, add_base, build_report
from cutie_geo.vss.scoring import Rules, score_clips, semantic_jobs
from cutie_geo.vss.semantic_maps import Predictions, SemanticSet, find_predictions, find_vipseg, find_vspw

PROTOCOLS: dict[str, Callable[[Path, Path | None], SemanticSet]] = {"vspw": find_vspw, "vipseg": find_vipseg}
"""Functions that find the true maps, by protocol."""


def evaluate(options: EvaluateOptions) -> Report:
    """Score predictions, and with `base` those before refinement; write the plots that are asked for.

    Raises:
        ValueError: if files are missing or cannot be scored.
        OSError: if plots cannot be written.
    """
    truth = PROTOCOLS[options.protocol](options.truth, options.sequences)
    rules = Rules(tuple(sorted({*WINDOWS, *options.consistency})), options.allow_void, options.lenient)
    after = find_predictions(options.predictions)
    before = find_predictions(options.base) if options.base else None
    report = _score(options, truth, after, rules, "scoring")
    base = _score(options, truth, before, rules, "scoring --base") if before else None
    whole = {
        **(add_base(report, base) if base else report),
        "gt": str(options.truth),
        "pred": str(options.predictions),
        **({"base_pred": str(options.base)} if base else {}),
    }
    if options.plots:
        write_bars(options.plots, whole)
        write_pictures(options.plots, choose_frames(report, base, options.pictures or 0), truth.clips, after, before)
    return whole


def _score(options: EvaluateOptions, truth: SemanticSet, predictions: Predictions, rules: Rules, name: str) -> Report:
    jobs = semantic_jobs(truth.clips, predictions, rules)
    workers = workers_for(options.workers, len(jobs))
    clips = []
    with logging_redirect_tqdm(), progress(len(jobs), name, "clip") as bar:
        for clip in score_clips(jobs, workers):
            clips.append(clip)
            bar.update()
    return build_report(clips, truth.names, options.protocol, rules)


def report_lines(report: Report) -> list[str]:
    """Return a report as a table of clips with totals, base and gain, followed by its warnings."""
    columns = [*MAIN, *(name for name in report if name.startswith("mVC") and name not in MAIN)]
    clips, lines = report["clips"], []
    shown = list(clips)
    if len(shown) > SHOWN:
        shown = sorted(clips, key=lambda name: (clips[name]["mIoU"] is None, clips[name]["mIoU"]))[:SHOWN]
        lines.append(f"the {SHOWN} lowest of {len(clips)} clips")
    rows = {name: clips[name] for name in shown} | {"overall": report}
    if "base" in report:
        rows |= {"base": report["base"], "gain": report["gain"]}
    counts = report["counts"]
    mark = ", LENIENT: not comparable with official scores" if report["lenient"] else ""
    return [
        *lines,
        *table_lines(columns, rows),
        f"protocol {report['protocol']}: {counts['clips']} clips, {counts['frames']} frames, "
        f"{counts['classes']} classes in truth{mark}",
        *warning_lines([*report["warnings"], *treated_lines(report)]),
    ]
