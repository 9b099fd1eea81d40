"""The vote repairs a damaged prediction where masklets are right, and the documentation shows what it says."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "vss.md"
NUMBERS = ("mIoU", "wIoU", "mBIoU", "mVC8", "mVC16")


def rows(text: str) -> dict[str, list[float]]:
    """The table's rows of five numbers by their names."""
    found = re.findall(r"^\| ([a-z][^|]*?) \|((?: +\d+\.\d \|){5})$", text, re.MULTILINE)
    return {name: [float(value) for value in cells.replace("|", " ").split()] for name, cells in found}


@pytest.fixture(scope="module")
def printed() -> dict[str, list[float]]:
    """What the documentation's own program prints."""
    text = DOCS.read_text(encoding="utf-8")
    program = next(code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "mislabel" in code)
    lines: list[str] = []
    exec(program, {"print": lambda *words: lines.append(" ".join(words))})
    return rows("\n".join(lines))


def test_every_number_rises_with_the_vote_and_none_falls_with_the_window(printed: dict[str, list[float]]) -> None:
    base, one, eight, whole = (dict(zip(NUMBERS, own)) for own in printed.values())
    for name in NUMBERS:
        assert base[name] < one[name] <= eight[name] <= whole[name]
    assert whole["mIoU"] > base["mIoU"] + 5
    assert whole["mBIoU"] > base["mBIoU"] + 10


def test_the_table_in_the_documentation_is_what_its_program_prints(printed: dict[str, list[float]]) -> None:
    told = rows(DOCS.read_text(encoding="utf-8"))
    assert list(told) == list(printed)
    for name, own in told.items():
        assert own == pytest.approx(printed[name], abs=0.3)  # edges may round elsewhere on another processor
