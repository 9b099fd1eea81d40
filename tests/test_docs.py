"""The pages of documentation show what they should."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RULE = re.compile(r"\|( *:?-+:? *\|)+")
"""The second line of a table."""


def tables(text: str) -> list[list[str]]:
    """Runs of lines that begin with a bar, outside of code."""
    found: list[list[str]] = [[]]
    for line in re.sub(r"(?ms)^```.*?^```", "", text).splitlines():
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_table_is_whole(page: Path) -> None:
    for table in tables(page.read_text(encoding="utf-8")):
        assert len(table) > 2, table
        assert RULE.fullmatch(table[1].strip()), f"rows without a head: {table[0]}"
        columns = len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", table[1])))
        assert all(len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", row))) == columns for row in table), table[0]


def test_a_split_table_is_noticed() -> None:
    head = "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    assert [len(table) for table in tables(f"{head}\n| 3 | 4 |\n")] == [3, 1]
