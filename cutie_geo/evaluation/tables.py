"""Terminal tables of reports, and the number of scoring processes."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from cutie_geo.config import require
from cutie_geo.evaluation.compare import MEASURES
from cutie_geo.evaluation.report import MAIN, Report

FEW = 8
"""Number of sequences up to which starting processes costs more than it saves."""
SHOWN = 40
"""Maximum number of rows; of more sequences, those with the lowest scores are shown."""
LISTED_WARNINGS = 10
"""Maximum number of printed warnings; the JSON report has all."""


def workers_for(asked: int | None, sequences: int) -> int:
    """Return the number of scoring processes: `asked`, or one for each core. Raises ValueError below 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = asked if asked is not None else cores if sequences > FEW else 1
    require(workers >= 1, f"--workers: got {workers}, expected 1 or more")
    return workers


def table_lines(columns: Iterable[str], rows: Mapping[str, Mapping[str, Any]], form: str = ".1f") -> list[str]:
    """Return a heading and one line for each row, with all numbers in one format; None is "-"."""
    columns = list(columns)
    widths = [max(len(name), 6) for name in columns]
    first = max(len(name) for name in rows)
    lines = ["  ".join([" " * first, *(name.rjust(width) for name, width in zip(columns, widths))])]
    for name, row in rows.items():
        cells = ["-" if row.get(column) is None else format(row[column], form) for column in columns]
        lines.append("  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, widths))]))
    return lines


def warning_lines(warnings: list[str]) -> list[str]:
    """Return the first warnings, one per line, and the number of the others."""
    lines = [f"warning: {text}" for text in warnings[:LISTED_WARNINGS]]
    rest = len(warnings) - LISTED_WARNINGS
    return [*lines, f"and {rest} more warnings: see --json"] if rest > 0 else lines


def treated_lines(report: Mapping[str, Any]) -> list[str]:
    """Return the faults that were scored nevertheless, one per line."""
    return [
        f"{item['sequence']}/{item['frame'] or '*'}: {item['reason']}: {item['treated_as']}"
        for item in report["treated"]
    ]


def report_lines(report: Report) -> list[str]:
    """Return a report's table, counts and warnings."""
    extra = [name for name, value in report.items() if name not in MAIN and isinstance(value, float)]
    rows = {name: entry for name, entry in report["sequences"].items() if entry["objects"]}
    shown, lines = list(rows), []
    if len(shown) > SHOWN:
        shown = sorted(rows, key=lambda name: rows[name]["J&F"])[:SHOWN]
        lines.append(f"the {SHOWN} lowest of {len(rows)} sequences")
    whole = {name: rows[name] for name in shown} | report.get("groups", {}) | {"overall": report}
    lines += table_lines((*MAIN, *extra), whole)
    counts = report["counts"]
    mark = ", LENIENT: not comparable with official scores" if report["lenient"] else ""
    lines.append(
        f"protocol {report['protocol']}: {counts['sequences']} sequences, {counts['objects']} objects, "
        f"{counts['frames']} frames{mark}"
    )
    return [*lines, *warning_lines([*report["warnings"], *treated_lines(report)])]


def comparison_lines(outcome: Mapping[str, Any]) -> list[str]:
    """Return the differences of two reports as lines, largest first."""
    rows = outcome["sequences"]
    shown = sorted(rows, key=lambda name: -abs(rows[name]["J&F"]))[:SHOWN]
    lines = [
        f"{outcome['second']} minus {outcome['first']}, protocol {outcome['protocol']}, "
        f"{outcome['counts']['objects']} objects",
        *table_lines(MEASURES, {name: rows[name] for name in shown}, "+.1f"),
    ]
    for name in MEASURES:
        found = outcome["difference"][name]
        lines.append(f"{name}: {found['mean']:+.2f}, from {found['low']:+.2f} to {found['high']:+.2f}")
    lines.append(
        f"from ... to: {100 * outcome['confidence']:.0f}% interval of {outcome['resamples']} bootstrap resamples of "
        f"sequences, seed {outcome['seed']}"
    )
    return [*lines, *warning_lines(outcome["warnings"])]
