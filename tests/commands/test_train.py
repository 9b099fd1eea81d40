"""train.py from the first word typed to the finished model, and through everything that may happen in between."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import programs
import psutil
import pytest
import timm
import torch
import yaml
from programs import LAUNCHER, PATIENCE, finish, small_disk, wait_for
from tiny import TINY_GEO_YAML
from training import outcome, run_folder, same, without_weights, write_stage

from cutie_geo.__main__ import run_one
from cutie_geo.checkpoints.load import load_model
from cutie_geo.config import recipe_stages
from cutie_geo.data.example import example_frames, example_masks
from cutie_geo.data.locks import exclusive
from cutie_geo.progress import begin_at, progress
from cutie_geo.runs.training_run import LOCK_FILE, StopSignal

TRAIN = Path(__file__).parents[2] / "train.py"


def start(*argv: object, processes: int = 1, **options: Any) -> subprocess.Popen[str]:
    """train.py as a program of its own, in one process or in two."""
    return programs.start(*(LAUNCHER if processes == 2 else []), TRAIN, *argv, **options)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """A run to its end: its arguments and its output."""
    folder = tmp_path_factory.mktemp("undisturbed")
    arguments = write_stage(folder)
    assert run_one("train", [*arguments, "--output", str(folder / "runs")]) == 0
    return arguments, folder / "runs"


# ------------------------------------------------------------------------------------------------------ the whole run
def test_a_run_leaves_a_model_that_loads_a_log_and_its_configuration(undisturbed: tuple[list[str], Path]) -> None:
    folder = run_folder(undisturbed[1])
    model = load_model(str(folder / "final"), device="cpu", precision="fp32")
    assert model.config.value_dim == 32
    steps = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert steps == [3, 6, 9, 12]
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == [
        "step-00000008", "step-00000010", "step-00000012",
    ]  # fmt: skip
    told = yaml.safe_load((folder / "config.yaml").read_text())
    assert told["steps"] == 12
    assert told["run"]["processes"] == 1
    assert "--workers 0" in told["run"]["command"]
    assert told["run"]["data"]["sources"], "what was trained on"


def test_a_finished_run_is_not_trained_again(
    undisturbed: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, output = undisturbed
    before = (run_folder(output) / "final" / "model.safetensors").stat().st_mtime_ns
    assert run_one("train", [*arguments, "--output", str(output)]) == 0
    assert "all 12 steps are done" in capsys.readouterr().out
    assert (run_folder(output) / "final" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_same_run_again_is_the_same_to_the_bit(undisturbed: tuple[list[str], Path], tmp_path: Path) -> None:
    arguments, output = undisturbed
    assert run_one("train", [*arguments, "--output", str(tmp_path), "--workers", "1"]) == 0
    assert same(outcome(tmp_path), outcome(output)), "workers or a second run change something"


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(2))
def test_a_killed_run_goes_on_to_the_bit(undisturbed: tuple[list[str], Path], tmp_path: Path, attempt: int) -> None:
    arguments, output = undisturbed
    process = start(*arguments, "--output", tmp_path)
    wait_for(run_folder(tmp_path) / "checkpoints" / f"step-{random.choice((2, 4)):08d}", process)
    time.sleep(random.uniform(0, 1.0))
    process.kill()
    finish(process)
    assert not (run_folder(tmp_path) / "final").exists(), "it was faster than the signal"
    assert run_one("train", [*arguments, "--output", str(tmp_path)]) == 0
    assert same(outcome(tmp_path), outcome(output))


@pytest.mark.slow
def test_two_processes_that_are_killed_go_on_to_the_bit(tmp_path: Path) -> None:
    arguments = write_stage(tmp_path, steps=20)
    status, said = finish(start(*arguments, "--output", tmp_path / "whole", processes=2))
    assert status == 0, said
    process = start(*arguments, "--output", tmp_path / "killed", processes=2)
    wait_for(run_folder(tmp_path / "killed") / "checkpoints" / "step-00000004", process)
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.kill()  # the launcher's children are in sessions of their own
    finish(process)
    assert not (run_folder(tmp_path / "killed") / "final").exists(), "it was faster than the signal"
    status, said = finish(start(*arguments, "--output", tmp_path / "killed", processes=2))
    assert status == 0, said
    assert "resuming from step" in said
    assert same(outcome(tmp_path / "killed"), outcome(tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_leaves_and_the_same_command_goes_on(
    undisturbed: tuple[list[str], Path], tmp_path: Path, number: signal.Signals, status: int
) -> None:
    arguments, output = undisturbed
    process = start(*arguments, "save_every=100", "--output", tmp_path)
    wait_for(run_folder(tmp_path) / "log.jsonl", process)
    process.send_signal(number)
    left, said = finish(process)
    assert left == status, said
    assert "stopped and saved at step" in said
    assert "Traceback" not in said
    assert run_one("train", [*arguments, "save_every=100", "--output", str(tmp_path)]) == 0
    weights, state, log = outcome(tmp_path)
    wanted = outcome(output)
    assert same((weights, log), (wanted[0], wanted[2]))
    assert same(state["optimiser"], wanted[1]["optimiser"])


@pytest.mark.slow
def test_two_processes_of_two_clips_are_one_of_four(tmp_path: Path) -> None:
    """Gradients, and the clips that made them."""
    script = Path(__file__).parents[1] / "helpers" / "dump_gradients.py"
    arguments = write_stage(tmp_path)
    for processes in (1, 2):
        command = [
            sys.executable,
            *(LAUNCHER if processes == 2 else []),
            str(script),
            str(tmp_path / f"{processes}.pt"),
            *arguments,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr
    one, two = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in (1, 2))
    assert one["names"] == two["names"]
    assert len(one["names"]) == 8
    assert len(set(one["names"])) == 8
    assert one["gradients"].keys() == two["gradients"].keys()
    for name, gradient in one["gradients"].items():
        scale = max(1.0, float(gradient.abs().max()))
        assert float((gradient - two["gradients"][name]).abs().max()) < 1e-6 * scale, name
    assert max(float(gradient.abs().max()) for gradient in one["gradients"].values()) > 1e-2


@pytest.mark.slow
def test_the_bar_tells_loss_speed_and_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_one("train", [*write_stage(tmp_path, steps=2), "--output", str(tmp_path / "runs")]) == 0
    last = [line for line in capsys.readouterr().err.splitlines() if line.startswith("toy: 2/2 steps in")][-1]
    assert re.search(r", \d\d:\d\d left, .*(s/step|step/s), loss=\d+\.\d+, clips/s=\d+", last), last


@pytest.mark.slow
def test_accumulated_parts_make_the_same_step(undisturbed: tuple[list[str], Path], tmp_path: Path) -> None:
    arguments, output = undisturbed
    assert run_one("train", [*arguments, "accumulate=2", "--output", str(tmp_path)]) == 0
    parts, whole = outcome(tmp_path)[2], outcome(output)[2]
    assert parts[0]["loss/total"] == pytest.approx(whole[0]["loss/total"], rel=1e-3)
    assert parts[0]["grad_norm"] == pytest.approx(whole[0]["grad_norm"], rel=1e-2)


@pytest.mark.slow(longest=True)
def test_the_bundled_stage_learns(tmp_path: Path) -> None:
    """A fifth of `tiny_rendered`, on smaller clips: masks of new scenes get better, by the command that users type."""
    short = ["steps=120", "clips.crop=64", "loss.points=256", "optimiser.learning_rate=1.0e-3", "optimiser.warm_up=5"]
    short += ["log_every=30", "validation.every=0", "images_every=0", "save_every=120", "--tracker", "none"]
    short += ["--workers", "0"]  # processes that draw stand back, and beside other tests they would never come
    short += ["--cpu-threads", "1"]  # threads wait for each other on a busy machine
    assert run_one("train", ["--stage", "tiny_rendered", "--device", "cpu", "--output", str(tmp_path), *short]) == 0
    folder = tmp_path / "cutie-geo-nano" / "tiny_rendered"
    losses = [json.loads(line)["loss/mask_dice"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 4
    assert losses[-1] < 0.9 * losses[0]  # means over 120 clips


@pytest.mark.slow(longest=True)
def test_a_recipe_runs_its_stages_and_resumes(
    test_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe from a published backbone on the real data, a few steps of each stage; the backbone is random.

    tests/training/test_learning.py shows that it learns.
    """
    backbone = tmp_path / "backbone.pth"
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), backbone)
    root = tmp_path / "data"
    root.mkdir()
    for name in ("davis2016-train-270p", "static"):
        (root / name).symlink_to(test_data / "data" / name)
    (root / "davis2016-train-480p").symlink_to(test_data / "data" / "davis2016-train-270p")
    short = ["steps=2", "batch=2", "clips.length=3", "clips.crop=64", "loss.points=128", "optimiser.warm_up=1"]
    short += ["validation.every=0", "log_every=1", "save_every=1"]
    arguments = ["--recipe", "tiny", "--data-root", str(root), "--output", str(tmp_path / "runs"), "--device", "cpu"]
    arguments += ["--tracker", "none", "--workers", "0", *short, f"weights.vision={backbone}"]
    assert run_one("train", arguments) == 0
    folder, stages = tmp_path / "runs" / "cutie-geo-tiny", recipe_stages("tiny")
    assert stages == ["tiny_short", "tiny_long", "tiny_mixed", "tiny_large"]
    for stage, before in zip(stages, ("", *stages)):
        run = yaml.safe_load((folder / stage / "config.yaml").read_text())["run"]
        assert run["started_from"] == (str(folder / before / "final" / "model.safetensors") if before else "")
        losses = [json.loads(line)["loss/total"] for line in (folder / stage / "log.jsonl").read_text().splitlines()]
        assert len(losses) == 2
        assert all(0 < loss < 100 for loss in losses)
    assert load_model(str(folder / "tiny_large" / "final"), device="cpu").config.encoder.is_timm
    shutil.rmtree(folder / "tiny_large" / "final")
    shutil.rmtree(folder / "tiny_large" / "checkpoints" / "step-00000002")
    capsys.readouterr()
    assert run_one("train", arguments) == 0
    printed = capsys.readouterr().out
    assert printed.count("all 2 steps are done") == 3
    assert "tiny_large: 2 steps done" in printed


def test_recipes_that_can_not_be_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, problem in (
        (["--recipe", "huge"], "--recipe: got huge, expected one of tiny"),
        (["--recipe", "tiny", "--stage", "1"], "--recipe: got --stage or --config too, expected neither"),
        (["--recipe", "tiny", "--resume", "never"], "--recipe: got --resume never, expected auto"),
    ):
        assert run_one("train", arguments) == 2
        assert problem in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------- stages and starts
@pytest.mark.slow
def test_a_stage_starts_from_the_one_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_stage(tmp_path / "a", steps=1)
    second = write_stage(tmp_path / "b", steps=1, after="toy", stage="next", optimiser={"learning_rate": 1e-12})
    second = without_weights(second)
    output = ["--output", str(tmp_path / "runs")]
    assert run_one("train", [*second, *output]) == 2
    assert "starts from the weights of toy; got none in" in capsys.readouterr().err
    assert run_one("train", [*first, *output]) == 0
    assert run_one("train", [*second, *output]) == 0
    models = [load_model(str(tmp_path / "runs" / "tiny" / s / "final"), device="cpu") for s in ("toy", "next")]
    a, b = (dict(model.named_parameters()) for model in models)
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)


@pytest.mark.slow
def test_a_single_object_network_becomes_one_for_several(tmp_path: Path) -> None:
    alone = ["single_object=true"]
    first = write_stage(tmp_path / "a", steps=1, stage="still", model_options=alone)
    assert run_one("train", [*first, "clips.max_objects=1", "--output", str(tmp_path / "runs")]) == 0
    second = write_stage(tmp_path / "b", steps=1, after="still")
    second = without_weights(second)
    assert run_one("train", [*second, "--output", str(tmp_path / "runs")]) == 0
    model = load_model(str(run_folder(tmp_path / "runs") / "final"), device="cpu")
    assert not model.config.single_object


@pytest.mark.slow
def test_frozen_parts_stay_and_what_features_do_not_need_is_left_out(tmp_path: Path) -> None:
    arguments = write_stage(tmp_path, TINY_GEO_YAML, steps=1)
    assert run_one("train", [*arguments, "--output", str(tmp_path / "runs")]) == 0
    before = load_model(str(tmp_path / "tiny.yaml"), "none", "cpu", "fp32")
    after = load_model(str(run_folder(tmp_path / "runs") / "final"), device="cpu", precision="fp32")
    changed = {name for name, w in after.named_parameters() if not torch.equal(w, before.get_parameter(name))}
    assert not any(name.startswith("encoder.geometry.model.head.") for name in changed), "depth itself isn't trained"
    assert any(name.startswith("encoder.geometry.") for name in changed)
    assert any(name.startswith("encoder.vision.") for name in changed)


@pytest.mark.slow
def test_the_moving_average_is_what_a_run_offers(tmp_path: Path) -> None:
    arguments = write_stage(tmp_path, steps=3, optimiser={"learning_rate": 1e-3, "ema": 0.9})
    assert run_one("train", [*arguments, "--output", str(tmp_path / "runs")]) == 0
    weights, state, _ = outcome(tmp_path / "runs")
    assert all(torch.equal(weights[name], value) for name, value in state["average"].items())


@pytest.mark.slow
@pytest.mark.parametrize("options", [["precision=bf16"], ["unroll.checkpointing=true"], ["unroll.encode_at_once=2"]])
def test_ways_to_run_all_learn(tmp_path: Path, options: list[str]) -> None:
    arguments = write_stage(tmp_path, steps=2, log_every=1)
    assert run_one("train", [*arguments, *options, "--output", str(tmp_path / "runs")]) == 0
    assert all(0 < line["loss/total"] < 100 for line in outcome(tmp_path / "runs")[2])


# --------------------------------------------------------------------------------------------------------- what is seen
@pytest.mark.slow
def test_validation_scores_videos_against_copying_their_first_mask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    validation = {"every": 2, "size": 64, "length": 4, "data": [{"name": "rendered", "clips": 2,
                  "scene": ["height=64", "width=64", "max_objects=2", "min_size=0.2"]}]}  # fmt: skip
    arguments = write_stage(tmp_path, steps=2, validation=validation)
    assert run_one("train", [*arguments, "--output", str(tmp_path / "runs")]) == 0
    lines = [line for line in outcome(tmp_path / "runs")[2] if "validation/J&F" in line]
    assert len(lines) == 1
    assert 0 <= lines[0]["validation/J&F"] <= 100
    assert 20 < lines[0]["validation/J&F_copied"] < 100
    assert 20 < lines[0]["validation/J&F_flow"] < 100
    assert set(lines[0]["videos"]) == {"rendered/0", "rendered/1"}
    captured = capsys.readouterr()
    assert "copying the first mask" in captured.out + captured.err


@pytest.mark.slow
def test_images_show_what_is_predicted(tmp_path: Path) -> None:
    arguments = write_stage(tmp_path, steps=2, images_every=2)
    assert run_one("train", [*arguments, "--output", str(tmp_path / "runs")]) == 0
    assert [path.name for path in (run_folder(tmp_path / "runs") / "images").iterdir()] == ["00000002.jpg"]


@pytest.mark.slow
def test_w_and_b_offline_gets_curves_images_and_the_configuration(tmp_path: Path) -> None:
    arguments = write_stage(tmp_path, log_every=2, images_every=3)
    arguments[arguments.index("--tracker") + 1] = "wandb"
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    status, said = finish(start(*arguments, "steps=4", "--output", tmp_path / "runs", env=environment))
    assert status == 0, said
    folder = run_folder(tmp_path / "runs")
    runs = list((folder / "wandb").glob("offline-run-*"))
    assert len(runs) == 1
    assert runs[0].name.endswith((folder / "wandb_id").read_text().strip())
    record = next(runs[0].glob("*.wandb")).read_bytes()
    for word in (b"toy/loss/total", b"toy/speed/clips_per_second", b"toy/predictions", b"training.batch"):
        assert word in record, word


@pytest.mark.slow
def test_tensorboard_is_an_alternative(tmp_path: Path) -> None:
    arguments = write_stage(tmp_path, steps=2, log_every=1, images_every=2)
    arguments[arguments.index("--tracker") + 1] = "tensorboard"
    status, said = finish(start(*arguments, "--output", tmp_path / "runs"))
    assert status == 0, said
    assert list(run_folder(tmp_path / "runs").rglob("events.out.tfevents.*"))


# -------------------------------------------------------------------------------------------------------------- plans
@pytest.mark.slow
def test_a_dry_run_prints_the_plan_without_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = write_stage(tmp_path, TINY_GEO_YAML, data=[{"name": "davis2017-train"}])
    assert run_one("train", [*arguments, "--dry-run", "--processes", "2"]) == 0
    told = capsys.readouterr().out
    for words in ("4 clips = 2 processes x 1 parts x 2", "learning rate: 0.001 from step 0", "memory: ", "trained: "):
        assert words in told
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"data": [{"name": "nothing"}]}, "data: got 'nothing', expected one of backgrounds"),
        ({"data": [{"name": "rendered", "scene": ["width=3"]}]}, "rendered: scene has width"),
        ({"validation": {"every": 2, "data": [{"name": "mose-test"}]}}, "mose-test: no such dataset"),
        ({"validation": {"every": 2, "data": [{"name": "vspw-val"}]}}, "vspw-val: no such dataset"),
        ({"precision": "fp16"}, "precision: got fp16 on a CPU"),
    ],
)
def test_a_dry_run_refuses_what_can_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], problem: str
) -> None:
    assert run_one("train", [*write_stage(tmp_path, **changes), "--dry-run"]) == 2
    assert problem in capsys.readouterr().err


@pytest.mark.slow
def test_a_dry_run_says_nothing_of_weights_that_it_does_not_need(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run_one("train", [*write_stage(tmp_path, start="published"), "--dry-run"]) == 0
    assert "random weights" not in caplog.text


def test_the_bar_of_a_resumed_run_counts_the_steps_of_this_call(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    bar = progress(4000, "stage", "step", show=True)
    monkeypatch.setattr(bar, "_time", lambda: now[0])
    begin_at(bar, 2000)
    for _ in range(10):
        now[0] += 1.25
        bar.update()
    shown = bar.format_dict
    assert (shown["n"], shown["initial"], shown["elapsed"]) == (2010, 2000, 12.5)
    assert "2010/4000 steps in 00:12, 41:27 left" in str(bar)
    bar.close()


@pytest.mark.slow(longest=True)
def test_the_papers_second_stage_is_planned_and_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_one("train", ["--stage", "2", "--dry-run", "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert "steps: 100,000 of 8 clips = 1 processes x 1 parts x 8; 800,000 clips in all" in told
    assert "learning rate: 5e-05 from step 0, 5e-06 from step 80,000" in told
    assert "encoder.vision: 149," in told
    assert "encoder.geometry: 335," in told
    assert "decay 0.5" in told
    options = ["--weights", "none", "--device", "cpu", "--workers", "0", "--tracker", "none"]
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": [{"name": "rendered", "clips": 16}], "log_every": 1}))
    small = ["steps=2", "clips.crop=64", "clips.length=3", "precision=fp32", "loss.points=128", "save_every=2"]
    small += ["encoder.vision=hiera-tiny", "encoder.geometry=depth-anything-v2-small"]  # 1.3 GB less to save
    arguments = ["--stage", "2", "--config", str(tmp_path / "data.yaml"), *options, *small, "--output", str(tmp_path)]
    assert run_one("train", arguments) == 0
    lines = (tmp_path / "cutie-geo-large" / "stage2" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


# ---------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--resume", "nowhere"], "--resume: no folder nowhere"),
        (["--stage", "9"], "--stage: got 9, expected 0, 1, 2 or one of"),
        (["steps=0"], "steps: got 0, expected a positive number"),
        (["batch=3", "accumulate=2"], "batch: got 3, expected a multiple of 2"),
        (["batch=99"], "got 40 items an epoch, expected at least one batch of 99"),
        (["clips.crop=40"], "crop: got 40, expected a multiple of 16"),
        (["nonsense=1"], "unknown nonsense"),
        (["encoder.vision=vgg"], "vgg"),
        (["precision=fp16"], "precision: got fp16 on a CPU"),
        (["--cache-features", "x"], "only training of a masklet classifier keeps features"),
        (["stray"], "stray: expected an option such as --stage"),
        (["--weights", "nowhere.pth"], "nowhere.pth: no such weights file"),
    ],
)
def test_invalid_arguments_give_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    assert run_one("train", [*write_stage(tmp_path), "--output", str(tmp_path / "runs"), *extra]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_a_missing_data_root_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*write_stage(tmp_path, data=[{"name": "davis2017-train"}]), "--output", str(tmp_path / "runs")]
    assert run_one("train", arguments) == 2
    assert "davis2017-train" in capsys.readouterr().err
    assert run_one("train", [*arguments, "--data-root", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_checkpoint_of_another_configuration_is_refused(
    undisturbed: tuple[list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, output = undisturbed
    assert run_one("train", [*arguments, "--output", str(output), "batch=2"]) == 2
    assert "a checkpoint of another configuration: got batch 4, expected 2" in capsys.readouterr().err
    assert run_one("train", [*arguments, "--output", str(output), "--resume", "never"]) == 2
    assert "a run with a checkpoint is here" in capsys.readouterr().err


def example_root(folder: Path) -> Path:
    """The bundled clip as a data set of two videos."""
    for kind, files in (("JPEGImages", example_frames()), ("Annotations", example_masks())):
        for video in ("one", "two"):
            target = folder / kind / "480p" / video
            target.mkdir(parents=True)
            for path in sorted(files.iterdir())[:12]:
                (target / path.name).write_bytes(path.read_bytes())
    lists = folder / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("one\ntwo\n")
    return folder


@pytest.mark.slow
def test_a_broken_picture_is_skipped_named_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = example_root(tmp_path / "data")
    broken = root / "JPEGImages" / "480p" / "two" / "00005.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    stage = {"data": [{"name": "davis2017-train"}], "steps": 6}
    arguments = [*write_stage(tmp_path, **stage), "--data-root", str(root), "--output", str(tmp_path / "runs")]
    assert run_one("train", arguments) == 0
    said = capsys.readouterr().err
    assert said.count("two/00005.jpg") == 1
    assert "(1 so far)" in said
    assert len(outcome(tmp_path / "runs")[1]["bad_files"]) == 1
    arguments[arguments.index("--output") + 1] = str(tmp_path / "strict")
    assert run_one("train", [*arguments, "max_bad_files=0"]) == 2
    said = capsys.readouterr().err
    assert "1 files could not be read, expected at most max_bad_files=0" in said
    assert (run_folder(tmp_path / "strict") / "checkpoints").is_dir(), "what was learnt until then is kept"


@pytest.mark.slow
def test_non_finite_losses_never_reach_the_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cutie_geo.training.trainable import CutieTrainable

    real, calls = CutieTrainable.losses, [0]

    def sometimes(*args: Any) -> Any:
        losses, totals = real(*args)
        calls[0] += args[2].names != ("probe",)  # which is no step
        if calls[0] == 2:
            losses["total"] = losses["total"] * float("nan")
            totals = torch.cat([totals[:1] * float("nan"), totals[1:]])
        return losses, totals

    monkeypatch.setattr(CutieTrainable, "losses", sometimes)
    arguments = [*write_stage(tmp_path, steps=3, log_every=1), "--output", str(tmp_path / "runs")]
    assert run_one("train", arguments) == 0
    assert "step 2 skipped: non-finite loss for rendered" in capsys.readouterr().err
    weights, state, lines = outcome(tmp_path / "runs")
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    assert state["skipped"] == 1
    assert [line["skipped"] for line in lines] == [0, 1, 1]

    monkeypatch.setattr(CutieTrainable, "losses", lambda *args: tuple(
        {name: x * float("nan") for name, x in part.items()} if isinstance(part, dict) else part * float("nan")
        for part in real(*args)
    ))  # fmt: skip
    arguments[-1] = str(tmp_path / "hopeless")
    assert run_one("train", [*arguments, "max_bad_steps=1"]) == 2
    assert "2 steps skipped because of a non-finite loss or gradient, expected at most max_bad_steps=1" in (
        capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_disk_that_fills_up_is_said_and_the_run_goes_on_or_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cutie_geo.training.state import Checkpoints

    real, fail_at = Checkpoints.save, {4}

    def sometimes(self: Checkpoints, state: Any, config: Any) -> Path:
        if state.step in fail_at:
            raise OSError(28, "checkpoint not written: No space left on device", str(self.root))
        return real(self, state, config)

    monkeypatch.setattr(Checkpoints, "save", sometimes)
    arguments = [*write_stage(tmp_path, steps=7), "--output", str(tmp_path / "runs")]
    assert run_one("train", arguments) == 0
    said = capsys.readouterr().err
    assert "No space left on device; the last good checkpoint is" in said
    assert "step-00000002; training continues, and the next save is attempted" in said
    fail_at.add(6)
    arguments[-1] = str(tmp_path / "twice")
    assert run_one("train", arguments) == 2
    assert "step-00000002" in capsys.readouterr().err
    assert sorted(p.name for p in (run_folder(tmp_path / "twice") / "checkpoints").iterdir()) == ["step-00000002"]


@pytest.mark.slow
@pytest.mark.parametrize("noticed", [True, False], ids=["before writing", "while writing"])
def test_a_disk_that_is_really_full_leaves_the_last_good_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, noticed: bool
) -> None:
    if not small_disk(tmp_path / "disk", "110m"):  # room for one checkpoint of 70 MB
        pytest.skip("no right to mount a file system")
    try:
        if not noticed:
            monkeypatch.setattr("cutie_geo.training.state.SPACE_FACTOR", 0.0)
        assert run_one("train", [*write_stage(tmp_path), "--output", str(tmp_path / "disk")]) == 2
        said = capsys.readouterr().err
        assert ("MiB free, expected" in said) == noticed
        assert "the last good checkpoint is" in said
        folder = run_folder(tmp_path / "disk") / "checkpoints"
        assert [path.name for path in folder.iterdir()] == ["step-00000002"]
        assert load_model(str(folder / "step-00000002"), device="cpu").config.value_dim == 32
    finally:
        subprocess.run(["umount", str(tmp_path / "disk")], check=True)


def test_the_readmes_command_finds_its_stages(capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run([sys.executable, str(TRAIN), "--help"], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0
    assert "stage2_ablation" in done.stdout


def test_a_finished_run_without_checkpoints_is_finished_still(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*write_stage(tmp_path, steps=2), "--output", str(tmp_path / "runs")]
    assert run_one("train", arguments) == 0
    shutil.rmtree(run_folder(tmp_path / "runs") / "checkpoints")
    assert run_one("train", arguments) == 0
    assert "all 2 steps are done" in capsys.readouterr().out
    assert run_one("train", [*arguments, "seed=5"]) == 2
    assert "another configuration: got seed 14159265, expected 5" in capsys.readouterr().err


def test_an_echo_of_a_signal_is_no_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("cutie_geo.runs.training_run.time.monotonic", lambda: clock[0])
    stop = StopSignal()
    for _ in range(2):
        stop._note(signal.SIGTERM, None)
    assert stop.status == 143
    clock[0] += 10
    with pytest.raises(KeyboardInterrupt):
        stop._note(signal.SIGINT, None)


def test_a_run_that_another_process_writes_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*write_stage(tmp_path, steps=1), "--output", str(tmp_path / "runs")]
    folder = run_folder(tmp_path / "runs")
    with exclusive(folder / LOCK_FILE, "the first"):
        before = sorted(folder.iterdir())
        assert run_one("train", arguments) == 2
        assert sorted(folder.iterdir()) == before
    said = capsys.readouterr().err
    assert f"error: {folder}: another process is writing it: pid {os.getpid()} on " in said
