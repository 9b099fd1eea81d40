"""`cutie-geo bench`: the rows that it measures, and what it says about how."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_videos import tiny_options

from cutie_geo.__main__ import main
from cutie_geo.commands.bench import WARM_UP

Bench = Callable[..., int]
Said = pytest.CaptureFixture[str]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """`cutie-geo bench` with a small model."""
    options = tiny_options(tmp_path)
    return lambda *argv: main(["bench", *map(str, argv), *options])


def test_every_combination_is_measured_and_written_with_what_it_was_measured_on(
    bench: Bench, tmp_path: Path, capsys: Said
):
    file = tmp_path / "deep" / "bench.json"
    arguments = ("mem_every=2", "--objects", 1, 3, "--frames", 5, 8, "--size", "48x64", "--json", file)
    assert bench(*arguments) == 0

    told = json.loads(file.read_text())
    assert told["command"][:4] == ["cutie-geo bench", "mem_every=2", "--objects", "1"]
    assert set(told["machine"]) == {"device", "cpu", "system"}
    assert "torch" in told["versions"]
    assert told["options"]["mem_every"] == 2
    assert [(row["objects"], row["frames"]) for row in told["rows"]] == [(1, 5), (1, 8), (3, 5), (3, 8)]
    for row in told["rows"]:
        assert len(row["seconds"]) == row["frames"]
        assert row["first_frame_seconds"] == row["seconds"][0]
        steady = row["seconds"][1 + WARM_UP :]
        assert min(steady) <= row["median_seconds"] <= row["p95_seconds"] <= max(steady)
        assert min(steady) <= row["seconds_per_frame"] <= max(steady)
        assert row["peak_memory_bytes"] > 0
        assert row["held_bytes"] > 0
    assert told["rows"][3]["held_bytes"] > told["rows"][1]["held_bytes"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"results: {file}"
    assert sum(line.lstrip().startswith("float32") for line in printed) == 4


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--frames", 3], "--frames: got 3, wanted at least 4"),
        (["--objects", 0], "--objects: got 0"),
        (["--objects", 900, "--size", "32x32"], "--objects: got 900, of which 32x32 pixels show"),
        (["--size", "480"], "--size: got '480', wanted HEIGHTxWIDTH"),
        (["--size", "8x8"], "--size: got '8x8', wanted at least 32"),
        (["--cpu-threads", 0], "--cpu-threads: got 0"),
        (["mem_every"], "wanted name=value"),
        (["use_longterm=true"], "unknown use_longterm"),
    ],
)
def test_arguments_that_cannot_be_measured_are_refused_at_once(
    tmp_path: Path, capsys: Said, argv: list[object], words: str
):
    threads = [] if "--cpu-threads" in argv else ["--cpu-threads", "1"]
    options = [*tiny_options(tmp_path)[:4], *threads]
    assert main(["bench", *map(str, argv), *options]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""


def test_an_unknown_precision_is_refused_before_others_are_measured(tmp_path: Path, capsys: Said):
    argv = ["bench", "--precision", "fp32", "fp8", "--size", "32x32", "--device", "cpu", *tiny_options(tmp_path)[:4]]
    assert main(argv) == 2
    said = capsys.readouterr()
    assert "precision: got 'fp8'" in said.err
    assert "float32" not in said.out
