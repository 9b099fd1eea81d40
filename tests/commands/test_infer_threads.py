"""Threads that encode ahead: which commands have them, and that their masks are those of commands that have none."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_videos import read_ids, tiny_options, write_frames, write_mask

from cutie_geo.__main__ import run_one
from cutie_geo.inference import run as inference_run
from cutie_geo.inference.options import RunOptions
from cutie_geo.runs import threads


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """infer.py on a small video, with the number of threads that it has its frames encoded by."""
    video, mask = write_frames(tmp_path / "bear", 6), write_mask(tmp_path / "first.png")
    seen: list[RunOptions] = []
    run_videos = inference_run.run_videos

    def watched(run, records, process):
        seen.append(run.options)
        return run_videos(run, records, process)

    monkeypatch.setattr("cutie_geo.runs.infer.run_videos", watched)

    def call(output: str, *argv: object) -> int:
        words = ["--video", video, "--mask", mask, "--output", tmp_path / output, *tiny_options(tmp_path)]
        words += ["--cpu-threads", 4, *argv]
        assert run_one("infer", [str(word) for word in words]) == 0
        return seen[-1].encode_threads

    return call


@pytest.mark.slow
def test_a_small_network_on_a_cpu_has_half_of_the_threads_encode_ahead_and_its_masks_stay(run, tmp_path: Path):
    assert run("ahead") == 2
    assert torch.get_num_threads() == 4
    assert run("apart", "--encode-threads", 1, "--lookahead", 2) == 1
    assert run("in_turn", "--encode-threads", 0) == 0
    ahead, apart, in_turn = (sorted((tmp_path / name).rglob("*.png")) for name in ("ahead", "apart", "in_turn"))
    assert len(in_turn) == 6
    for ours, too, wanted in zip(ahead, apart, in_turn, strict=True):
        for path in (ours, too):
            assert path.name == wanted.name
            assert np.mean(read_ids(path) != read_ids(wanted)) < 0.01  # rounding


@pytest.mark.slow
def test_others_encode_in_turn(run, monkeypatch: pytest.MonkeyPatch):
    assert run("ensemble", "--flip") == 0
    assert run("one_thread", "--cpu-threads", 1) == 0
    monkeypatch.setattr(threads, "SMALL", 1000)
    assert run("large") == 0


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--encode-threads", -1], "--encode-threads: got -1, expected 0 to 3 of 4 threads"),
        (["--encode-threads", 4], "--encode-threads: got 4, expected 0 to 3 of 4 threads"),
        (["--encode-threads", 2, "--flip", "--ms-workers", 2], "got 2 with --ms-workers, expected one of them"),
        (["--encode-threads", 2, "--compile"], "got 2 with --compile, expected one of them"),
    ],
)
def test_threads_that_are_not_there_are_refused_before_a_model_is_loaded(
    argv: list[object], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cutie_geo.runs.infer.load_any", lambda *_, **__: pytest.fail("loaded"))
    video, mask = write_frames(tmp_path / "bear", 2), write_mask(tmp_path / "first.png")
    words = ["--video", video, "--mask", mask, "--output", tmp_path / "out", *tiny_options(tmp_path)]
    words += ["--cpu-threads", 4, *argv]
    assert run_one("infer", [str(word) for word in words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("count", ["0", "1000000"])
def test_more_threads_than_a_machine_holds_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], count: str
) -> None:
    video, mask = write_frames(tmp_path / "bear", 1), write_mask(tmp_path / "first.png")
    words = ["--video", video, "--mask", mask, "--output", tmp_path / "out", "--cpu-threads", count]
    assert run_one("infer", [str(word) for word in words]) == 2
    assert f"--cpu-threads: got {count}, expected 1 to " in capsys.readouterr().err
