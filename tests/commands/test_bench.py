"""`cutie-geo bench`: the rows that it measures, and what it says about how."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import TINY_GEO_YAML
from torch._subclasses.fake_tensor import FakeTensorMode
from toy_videos import tiny_options
from training import write_stage

from cutie_geo.__main__ import main, run_one
from cutie_geo.checkpoints.load import load_model
from cutie_geo.config import model_config
from cutie_geo.flops import flop_counter
from cutie_geo.model.network import CutieGeo
from cutie_geo.runs.benchmark.frames import WARM_UP
from cutie_geo.runs.benchmark.parts import Tally
from cutie_geo.runs.benchmark.throughput import ensemble, plain

Bench = Callable[..., int]
Said = pytest.CaptureFixture[str]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """`cutie-geo bench` with a small model."""
    options = tiny_options(tmp_path)
    return lambda *argv: main(["bench", *map(str, argv), *options])


@pytest.mark.slow
def test_every_combination_is_measured_and_written_with_what_it_was_measured_on(
    bench: Bench, tmp_path: Path, capsys: Said
):
    file = tmp_path / "deep" / "bench.json"
    arguments = ("mem_every=2", "--objects", 1, 3, "--frames", 5, 8, "--size", "48x64", "--json", file)
    assert bench(*arguments) == 0

    told = json.loads(file.read_text())
    assert told["command"].startswith("cutie-geo bench mem_every=2 --objects 1 3 --frames 5 8 --size 48x64 --json ")
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
    said = {line.split(": ")[0] for line in printed[:5]}
    assert said == {"device", "cpu", "system", "versions", "command"}
    assert printed[-1] == f"results: {file}"
    assert sum(line.lstrip().startswith("float32") for line in printed) == 4


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--frames", 3], "--frames: got 3, expected at least 4"),
        (["--objects", 0], "--objects: got 0"),
        (["--objects", 900, "--size", "32x32"], "--objects: got 900; 32x32 pixels fit"),
        (["--size", "480"], "--size: got '480', expected HEIGHTxWIDTH"),
        (["--size", "8x8"], "--size: got '8x8', expected at least 32"),
        (["--cpu-threads", 0], "--cpu-threads: got 0"),
        (["mem_every"], "expected name=value"),
        (["use_longterm=true"], "unknown use_longterm"),
        (["--flops", "--suite", "gpu"], "--flops and --suite: expected only one of them"),
        (["--suite", "gpu", "--lookahead", 0, "--device", "cpu"], "--lookahead: got 0"),
        (["--suite", "gpu", "--peak-tflops", 0, "--device", "cpu"], "--peak-tflops: got 0"),
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


# -------------------------------------------------------------------------------------------------------------- parts
@pytest.fixture
def geo(tmp_path: Path) -> list[str]:
    path = tmp_path / "geo.yaml"
    path.write_text(TINY_GEO_YAML)
    return [*tiny_options(tmp_path), "--model", str(path)]


@pytest.mark.slow
def test_parts_are_counted_and_timed_beside_a_limit(geo: list[str], tmp_path: Path, capsys: Said):
    file = tmp_path / "flops.json"
    arguments = ["bench", "--flops", "mem_every=2", "--objects", "1", "3", "--size", "48x64", "--json", str(file)]
    assert main([*arguments, *geo]) == 0
    one, three = json.loads(file.read_text())["rows"]
    gflop = {part["part"]: part["gflop"] for part in one["parts"]}
    more = {part["part"]: part["gflop"] for part in three["parts"]}
    for part in ("vision (Hiera)", "geometry (DINOv2)", "geometry (DPT)", "fusion", "keys and projections"):
        assert gflop[part] == more[part] > 0  # whatever the number of objects
    for part in ("pixel fusion", "mask encoder"):
        assert 2 < more[part] / gflop[part] < 3.001  # some of it is done once for all objects
    assert all(part["seconds"] > 0 for part in one["parts"])
    assert one["limit_gflop_per_second"] > 0
    model = load_model(geo[-1], "none", "cpu", "fp32")
    assert sum(part["parameters"] for part in one["parts"]) == sum(p.numel() for p in model.parameters())
    said = capsys.readouterr().out
    assert "geometry (DPT)" in said
    assert "command: cutie-geo bench --flops" in said


def encoder_cost(preset: str, *overrides: str) -> dict[str, float]:
    """GFLOP of each part that sees a 480x864 frame alone, counted without computing anything."""
    model = CutieGeo(model_config(preset, overrides)).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), flop_counter() as counter, torch.no_grad():
        tally = Tally(model, lambda: counter.get_total_flops() / 1e9)
        with tally.watch():
            model.encode(torch.rand(1, 3, 480, 864))
    return tally.spent


@pytest.mark.slow
def test_the_paper_s_encoder_costs_what_its_design_says():
    cost = encoder_cost("cutie-geo-large")
    assert cost["vision (Hiera)"] == pytest.approx(676, rel=0.03)  # without the stage of stride 32
    assert cost["geometry (DINOv2)"] == pytest.approx(1239, rel=0.03)
    # 123 with the finest map, which only the fusion stage that is left out would read
    tokens, pixels = 30 * 54, 120 * 216
    finest = 2 * (tokens * 1024 * 256 + pixels * 256 * 256 + pixels * 256 * 256 * 9) / 1e9
    assert cost["geometry (DPT)"] + finest == pytest.approx(123, rel=0.03)
    assert cost["fusion"] == pytest.approx(12, rel=0.03)


@pytest.mark.slow
def test_without_geometry_only_vision_and_its_fusion_cost_anything():
    cost = encoder_cost("cutie-geo-small", "encoder.geometry=none")
    assert "geometry (DINOv2)" not in cost
    assert cost["vision (Hiera)"] > 20 * cost["fusion"] > 0


# -------------------------------------------------------------------------------------------------------------- suite
@pytest.mark.slow
def test_the_table_of_a_gpu_is_rehearsed_on_a_cpu(geo: list[str], tmp_path: Path, capsys: Said):
    file = tmp_path / "suite.json"
    arguments = ["bench", "mem_every=2", "max_mem_frames=2", "--suite", "gpu", "--frames", "4", "--objects", "1", "2"]
    assert main([*arguments, "--size", "48x64", "--lookahead", "2", "--json", str(file), *geo]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [(row["views"], row["objects"]) for row in rows] == [(1, 1), (1, 2), (6, 1)]
    assert all(row["frames_per_second"] > 0 for row in rows)
    assert rows[1]["gflop"] > rows[0]["gflop"] > 0
    assert rows[2]["gflop"] > 6 * rows[0]["gflop"]  # six views, each of a larger frame
    assert rows[0]["utilisation"] == pytest.approx(rows[0]["gflop"] * rows[0]["frames_per_second"] / 790e3)
    assert "of peak" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_table_of_a_gpu_wants_one(capsys: Said):
    assert main(["bench", "--suite", "gpu"]) == 2
    assert "no GPU here" in capsys.readouterr().err


def test_views_of_an_ensemble_are_undone():
    probs = torch.rand(3, 48, 64).softmax(0)
    for view in [*plain((48, 64)), *ensemble((48, 64), [1.0])]:
        torch.testing.assert_close(view.back(view.of(probs), (48, 64)), probs)
    assert [view.size((480, 854)) for view in ensemble((480, 854))][::2] == [(576, 1025), (624, 1110), (672, 1196)]


@pytest.mark.slow
def test_clicks_are_timed_with_a_head_of_random_weights(
    bench: Bench, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cutie_geo.runs.benchmark.prompts.measure_prompts.__defaults__", (2,))
    file = tmp_path / "clicks.json"
    assert bench("--prompts", "--size", "48x64", "--json", file) == 0

    (row,) = json.loads(file.read_text())["rows"]
    assert row["size"] == [48, 64]
    for name in ("encode", "first_click", "next_click", "with_encoding", "encode_cpu", "first_click_cpu"):
        assert row[f"{name}_seconds"] > 0
    assert row["with_encoding_seconds"] >= max(row["encode_seconds"], row["first_click_seconds"])
    printed = capsys.readouterr().out.splitlines()
    assert {line.split(": ")[0] for line in printed[:5]} == {"device", "cpu", "system", "versions", "command"}
    assert printed[-2].split()[:2] == ["float32", "48x64"]


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_said_of_random_weights_which_are_as_fast_as_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, training: bool
) -> None:
    write_stage(tmp_path, start="published")
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("cutie_geo.runs.benchmark.training.measure_training", lambda *_: {})
    monkeypatch.setattr("cutie_geo.runs.benchmark.training.row_text", lambda *_: "")
    monkeypatch.setattr("cutie_geo.runs.benchmark.frames.measure_frames", lambda *_: {})
    monkeypatch.setattr("cutie_geo.runs.benchmark.frames.row_text", lambda *_: "")
    which = ["--training", str(tmp_path / "toy.yaml")] if training else ["--model", str(tmp_path / "tiny.yaml")]
    assert run_one("bench", [*which, "--device", "cpu"]) == 0
    assert "random weights" not in caplog.text


@pytest.mark.slow
def test_training_is_measured_on_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_stage(tmp_path, TINY_GEO_YAML)
    report = tmp_path / "report.json"
    options = ["--training", str(tmp_path / "toy.yaml"), "--steps", "2", "--device", "cpu", "--json", str(report)]
    assert run_one("bench", [*options, "batch=2"]) == 0
    assert "2 clips of 3 frames at 32x32, 2 objects, float32" in capsys.readouterr().out
    row = json.loads(report.read_text())["row"]
    assert 0 < row["share_of_encoders"] < 1
    assert row["clips_per_second"] == pytest.approx(2 / row["seconds_per_step"])
    assert row["kept_gib"] > 0
