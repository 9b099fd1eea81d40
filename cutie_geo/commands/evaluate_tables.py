"""Tables of scores on the terminal, for commands with their own reports."""

from collections.abc import Iterable, Mapping
from typing import Any

SHOWN = 40
"""Maximum number of rows; of more sequences, those with the lowest scores are shown."""


def workers_for(asked: int | None, sequences: int) -> int:
    """Return the number of scoring processes. Raises ValueError below 1."""
    from cutie_geo.evaluation import tables

    return tables.workers_for(asked, sequences)


def print_table(columns: Iterable[str], rows: Mapping[str, Mapping[str, Any]], form: str = ".1f") -> None:
    """Print a heading and one line for each row."""
    from cutie_geo.evaluation.tables import table_lines

    print("\n".join(table_lines(columns, rows, form)))


def print_some(warnings: list[str]) -> None:
    """Print the first warnings and how many more there are."""
    from cutie_geo.evaluation.tables import warning_lines

    for line in warning_lines(warnings):
        print(line)
