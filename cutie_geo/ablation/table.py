"""The table of an ablation: scores of its rows, beside a paper's if there are any, as text, Markdown, JSON, PNG."""

import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from cutie_geo.data.io_threads import atomic_write
from cutie_geo.evaluation.compare import MEASURES
from cutie_geo.evaluation.plots import INSTALL, bar_chart, has_matplotlib, rendered

log = logging.getLogger(__name__)

Status = Literal["scored", "submission", "failed", "not done"]
MISSING = "n/a"
MARKDOWN, DATA, PICTURE = "table.md", "table.json", "table.png"


@dataclass(frozen=True)
class TableRow:
    """Result of a row."""

    name: str
    paper: dict[str, float] = field(default_factory=dict)
    """Percent by measure, as the paper reports; empty for an experiment of your own."""
    ours: dict[str, float] | None = None
    """Percent by measure, as far as the protocol defines them for these videos. None: not scored."""
    submission: Path | None = None
    error: str = ""

    @property
    def status(self) -> Status:
        """Progress of the row."""
        if self.error:
            return "failed"
        if self.ours is not None:
            return "scored"
        return "submission" if self.submission is not None else "not done"

    def difference(self) -> dict[str, float] | None:
        """Return ours minus the paper's for measures that both have; None without ours."""
        if self.ours is None:
            return None
        return {name: self.ours[name] - value for name, value in self.paper.items() if name in self.ours}


def lines(rows: Sequence[TableRow], measures: Sequence[str] = MEASURES) -> list[str]:
    """Return the table for a terminal, with notes on submissions and failures below.

    Args:
        measures: the columns.
    """
    table = _table(rows, measures)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    shown = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in table
    ]
    return [*shown, *_notes(rows)]


def markdown(title: str, note: str, rows: Sequence[TableRow], measures: Sequence[str] = MEASURES) -> str:
    """Return the table as a Markdown page."""
    header, *body = ([cell.replace("|", "\\|") for cell in row] for row in _table(rows, measures))
    rule = ["---"] + ["---:"] * (len(header) - 1)
    table = [f"| {' | '.join(row)} |" for row in (header, rule, *body)]
    notes = [f"- {text}" for text in _notes(rows)]
    parts = [f"# {title}", "\n".join(table), "\n".join(notes), note]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(rows: Sequence[TableRow], measures: Sequence[str]) -> list[list[str]]:
    """Return all cells, headings first; without the paper's columns if no row has its figures."""
    paper = any(row.paper for row in rows)
    heading = ["row", *(name for measure in measures for name in (measure, *(("paper", "diff") if paper else ())))]
    return [heading, *(_cells(row, paper, measures) for row in rows)]


def _cells(row: TableRow, paper: bool, measures: Sequence[str]) -> list[str]:
    difference = row.difference() or {}
    cells = [row.name]
    for measure in measures:
        cells.append("submission" if row.status == "submission" else _shown((row.ours or {}).get(measure), ".2f"))
        if paper:
            cells += [_shown(row.paper.get(measure), ".2f"), _shown(difference.get(measure), "+.2f")]
    return cells


def _shown(value: float | None, form: str) -> str:
    return MISSING if value is None else f"{value:{form}}"


def _notes(rows: Sequence[TableRow]) -> list[str]:
    handed = [f"submission of {row.name}: {row.submission}" for row in rows if row.status == "submission"]
    return handed + [f"failed: {row.name}: {row.error}" for row in rows if row.error]


def to_json(title: str, note: str, rows: Sequence[TableRow]) -> dict[str, Any]:
    """Return all numbers, unrounded."""
    return {
        "title": title,
        "note": note,
        "rows": [
            {
                "name": row.name,
                "status": row.status,
                "ours": row.ours,
                "paper": row.paper,
                "difference": row.difference(),
                "submission": None if row.submission is None else str(row.submission),
                "error": row.error,
            }
            for row in rows
        ],
    }


# ------------------------------------------------------------------------------------------------------------- figure
def bars(rows: Sequence[TableRow], measures: Sequence[str] = MEASURES) -> Image.Image:
    """Draw each row's scores, above the paper's where there are any, as bars from 0 to 100 with their numbers."""
    pairs = [(row, measure) for row in rows for measure in measures]
    ours = [(row.ours or {}).get(measure) for row, measure in pairs]
    groups = {"ours": ours}
    numbers = [_shown(value, ".2f") for value in ours]
    if any(row.paper for row in rows):
        groups["paper"] = [row.paper.get(measure) for row, measure in pairs]
        numbers = [f"{own} ({_shown(paper, '.2f')})" for own, paper in zip(numbers, groups["paper"])]
    return rendered(bar_chart(groups, [f"{row.name}  {measure}" for row, measure in pairs], numbers))


# --------------------------------------------------------------------------------------------------------------- files
def write_table(
    folder: Path, title: str, note: str, rows: Sequence[TableRow], measures: Sequence[str] = MEASURES
) -> None:
    """Write `table.md`, `table.json` and, with matplotlib, `table.png`; unchanged files are kept. Raises OSError."""
    write_changed(folder / MARKDOWN, markdown(title, note, rows, measures).encode())
    write_changed(folder / DATA, (json.dumps(to_json(title, note, rows), indent=1) + "\n").encode())
    if not has_matplotlib():
        log.warning("%s: not drawn, matplotlib is not installed; %s", folder / PICTURE, INSTALL)
        return
    picture = io.BytesIO()
    bars(rows, measures).save(picture, format="PNG")
    write_changed(folder / PICTURE, picture.getvalue())


def write_changed(path: Path, content: bytes) -> None:
    """Write a file atomically unless it has this content already. Raises OSError."""
    if path.is_file() and path.read_bytes() == content:
        return
    with atomic_write(path) as part:
        part.write_bytes(content)
