"""The table of an ablation: its rows' scores, beside a paper's if it has any, as text, Markdown, JSON, a picture."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageDraw, ImageFont

from cutie_geo.data.background import atomic_write
from cutie_geo.data.overlay import COLOURS
from cutie_geo.evaluation.compare import MEASURES
from cutie_geo.evaluation.plots import CHART, GRID, INK, MARGIN, PAPER, ROW, TICKS

Status = Literal["scored", "submission", "failed", "not done"]
MISSING = "n/a"
BAR, GAP = 9, 3
"""Pixels: height of a bar, and the room between two pairs of them."""
MARKDOWN, DATA, PICTURE = "table.md", "table.json", "table.png"


@dataclass(frozen=True)
class TableRow:
    """What is known of a row."""

    name: str
    paper: dict[str, float] = field(default_factory=dict)
    """Percent by measure, those that it tells; nothing for an experiment of one's own."""
    ours: dict[str, float] | None = None
    """Percent by measure, those that the protocol has for these frames."""
    submission: Path | None = None
    error: str = ""

    @property
    def status(self) -> Status:
        """How far it came."""
        if self.error:
            return "failed"
        if self.ours is not None:
            return "scored"
        return "submission" if self.submission is not None else "not done"

    def difference(self) -> dict[str, float] | None:
        """Ours minus the paper's, of the measures that both tell; None without ours."""
        if self.ours is None:
            return None
        return {name: self.ours[name] - value for name, value in self.paper.items() if name in self.ours}


def lines(rows: Sequence[TableRow], measures: Sequence[str] = MEASURES) -> list[str]:
    """The table for a terminal, and below it what its cells have no room for. measures: its columns."""
    table = _table(rows, measures)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    shown = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in table
    ]
    return [*shown, *_notes(rows)]


def markdown(title: str, note: str, rows: Sequence[TableRow], measures: Sequence[str] = MEASURES) -> str:
    """The table as a page."""
    header, *body = ([cell.replace("|", "\\|") for cell in row] for row in _table(rows, measures))
    rule = ["---"] + ["---:"] * (len(header) - 1)
    table = [f"| {' | '.join(row)} |" for row in (header, rule, *body)]
    notes = [f"- {text}" for text in _notes(rows)]
    parts = [f"# {title}", "\n".join(table), "\n".join(notes), note]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(rows: Sequence[TableRow], measures: Sequence[str]) -> list[list[str]]:
    """The cells, headings first; without columns of a paper where no row has its figures."""
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
    """All numbers, unrounded."""
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


# ------------------------------------------------------------------------------------------------------------- picture
def bars(rows: Sequence[TableRow], measures: Sequence[str] = MEASURES) -> Image.Image:
    """For each row and measure our score, above the paper's if it gives one, as bars from 0 to 100 with numbers."""
    font = ImageFont.load_default()
    labels = [f"{row.name}  {measure}" for row in rows for measure in measures]
    left = 16 + max(int(font.getlength(label)) for label in labels)
    pair = 2 * BAR + GAP
    height = len(rows) * (len(measures) * pair + ROW)
    picture = Image.new("RGB", (left + CHART + MARGIN, height + MARGIN), PAPER)
    pen = ImageDraw.Draw(picture)
    for tick in TICKS:
        x = left + tick * CHART // 100
        pen.line([(x, 0), (x, height)], GRID)
        pen.text((x, height + 4), str(tick), INK, font, anchor="ma")
    for place, row in enumerate(rows):
        for line, measure in enumerate(measures):
            top = ROW // 2 + place * (len(measures) * pair + ROW) + line * pair
            pen.text((left - 6, top + BAR), f"{row.name}  {measure}", INK, font, anchor="rm")
            _bar(pen, (left, top), (row.ours or {}).get(measure), 0)
            if row.paper:
                _bar(pen, (left, top + BAR), row.paper.get(measure), 1)
    for k, name in enumerate(("ours", "paper") if any(row.paper for row in rows) else ()):
        x = left + k * 80
        pen.rectangle([x, height + 24, x + 10, height + 34], COLOURS[k])
        pen.text((x + 14, height + 29), name, INK, font, anchor="lm")
    return picture


def _bar(pen: ImageDraw.ImageDraw, corner: tuple[int, int], value: float | None, colour: int) -> None:
    """A bar with its number at the end; without a value the word for that."""
    left, top = corner
    end = left + round((value or 0.0) * CHART / 100)
    if value is not None:
        pen.rectangle([left, top, end, top + BAR - 2], COLOURS[colour])
    text = MISSING if value is None else f"{value:.2f}"
    pen.text((end + 4, top + BAR // 2), text, INK, ImageFont.load_default(size=9), anchor="lm")


# --------------------------------------------------------------------------------------------------------------- files
def write_table(
    folder: Path, title: str, note: str, rows: Sequence[TableRow], measures: Sequence[str] = MEASURES
) -> None:
    """`table.md`, `table.json` and `table.png`; a file that would not change is left alone. Raises OSError."""
    picture = io.BytesIO()
    bars(rows, measures).save(picture, format="PNG")
    write_changed(folder / MARKDOWN, markdown(title, note, rows, measures).encode())
    write_changed(folder / DATA, (json.dumps(to_json(title, note, rows), indent=1) + "\n").encode())
    write_changed(folder / PICTURE, picture.getvalue())


def write_changed(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, unless it holds just that. Raises OSError."""
    if path.is_file() and path.read_bytes() == content:
        return
    with atomic_write(path) as part:
        part.write_bytes(content)
