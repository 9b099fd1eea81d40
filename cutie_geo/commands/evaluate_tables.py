"""What all protocols of `cutie-geo evaluate` share: tables, warnings, and how many processes score."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from cutie_geo.config import require

FEW = 8
"""Sequences up to which processes cost more than they save, unless asked for."""
SHOWN = 40
"""Sequences that the table has room for; of more, the lowest are shown."""
TOLD = 10
"""Warnings that are printed; the JSON file has all."""


def workers_for(asked: int | None, sequences: int) -> int:
    """How many processes score: as asked, else one for each core. Raises ValueError for less than one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = asked if asked is not None else cores if sequences > FEW else 1
    require(workers >= 1, f"--workers: got {workers}, wanted 1 or more")
    return workers


def print_table(columns: Iterable[str], rows: Mapping[str, Mapping[str, Any]], shape: str = ".1f") -> None:
    """One line for each row, numbers in one shape."""
    columns = list(columns)
    widths = [max(len(name), 6) for name in columns]
    first = max(len(name) for name in rows)
    print(" " * first, *(name.rjust(width) for name, width in zip(columns, widths)), sep="  ")
    for name, row in rows.items():
        cells = ["-" if row.get(column) is None else format(row[column], shape) for column in columns]
        print(name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, widths)), sep="  ")


def print_some(warnings: list[str]) -> None:
    """The first warnings, a line each, and how many more there are."""
    for text in warnings[:TOLD]:
        print(f"warning: {text}")
    if len(warnings) > TOLD:
        print(f"and {len(warnings) - TOLD} more warnings: see --json")
