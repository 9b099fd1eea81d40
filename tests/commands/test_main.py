"""The command line before any command: what becomes of words that begin with a minus."""

import pytest

from cutie_geo.__main__ import join_negative


@pytest.mark.parametrize(
    ("argv", "joined"),
    [
        (["--point", "-3,4"], ["--point=-3,4"]),
        (["--box", "-3.5,4,-.5,1e3", "--overlay"], ["--box=-3.5,4,-.5,1e3", "--overlay"]),
        (["--point", "3,-4"], ["--point", "3,-4"]),
        (["--size", "-1", "-v"], ["--size", "-1", "-v"]),
        (["--point=1,2", "-3,4"], ["--point=1,2", "-3,4"]),
        (["-3,4"], ["-3,4"]),
        (["--ms", "-1", "-2"], ["--ms", "-1", "-2"]),
    ],
)
def test_lists_of_numbers_that_begin_with_a_minus_are_values(argv: list[str], joined: list[str]) -> None:
    assert join_negative(argv) == joined
