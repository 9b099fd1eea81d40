"""train.py fine-tunes a SAM 2: the whole run, its way on after it was killed, and what others load of it."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import programs
import pytest
import torch
import yaml
from programs import finish, wait_for
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sam2.build_sam import build_sam2_video_predictor
from stock_sam2 import TINY, Stock, tiny_sam2, video
from toy_videos import read_ids, summary, write_frames, write_mask
from training import same

from cutie_geo.__main__ import run_one
from cutie_geo.checkpoints.load import load_model
from cutie_geo.config import config_root, train_config
from cutie_geo.sam2.networks import SAM2_MODELS, load_sam2
from cutie_geo.sam2.tracker import Sam2Tracker

TRAIN = Path(__file__).parents[2] / "train.py"
NAME = "sam2.1-hiera-tiny"
BICUBIC = "model.image_encoder.neck.fpn_interp_model=bicubic"
STAGE: dict[str, Any] = {
    "stage": "toy",
    "model": NAME,
    "start": "none",
    "epochs": 2,
    "batch": 2,
    "precision": "fp32",
    "data": [{"name": "rendered", "clips": 6, "scene": ["max_objects=2", "min_size=0.2"]}],
    "clips": {"length": 3, "crop": 64, "max_objects": 2, "max_skip": [[0.0, 2]]},
    "optimiser": {"learning_rate": 1e-3, "encoder_factor": 0.6, "schedule": "cosine", "floor": 0.1},
    "model_options": [*TINY, BICUBIC],
    "save_every": 2,
    "log_every": 1,
    "images_every": 3,
}
SHARED = ["--device", "cpu", "--cpu-threads", "1", "--workers", "0", "--tracker", "none"]


def write_stage(folder: Path, **changes: Any) -> list[str]:
    """Write a stage; return the arguments of `train` for it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "toy.yaml").write_text(yaml.safe_dump(STAGE | changes))
    return ["--config", str(folder / "toy.yaml"), *SHARED]


def run_folder(output: Path) -> Path:
    """Where a run lies: the dot in the model's name is no file's ending."""
    return output / NAME / "toy"


def outcome(output: Path) -> tuple[Any, ...]:
    """Weights, the newest checkpoint's state, and the log."""
    folder = run_folder(output)
    state = torch.load(max((folder / "checkpoints").iterdir()) / "training.pt", weights_only=True)
    return load_file(folder / "final" / "model.safetensors"), state, (folder / "log.jsonl").read_text()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """A run to its end, with dropout: its arguments and its output."""
    folder = tmp_path_factory.mktemp("undisturbed")
    arguments = write_stage(folder)
    assert run_one("train", [*arguments, "--output", str(folder / "runs")]) == 0
    return arguments, folder / "runs"


@pytest.fixture(scope="module")
def final(undisturbed: tuple[list[str], Path]) -> Path:
    """The model that it left."""
    return run_folder(undisturbed[1]) / "final"


# --------------------------------------------------------------------------------------------------------------- runs
@pytest.mark.slow
def test_epochs_are_steps_and_a_run_leaves_a_log_images_and_a_model(final: Path) -> None:
    lines = [json.loads(line) for line in (final.parent / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6], "2 epochs of 6 clips, 2 at a time"
    assert {"loss/mask_focal", "loss/mask_dice", "loss/iou", "loss/score", "loss/total"} <= lines[0].keys()
    assert lines[0]["rate"] == 1e-3
    assert [path.name for path in sorted((final.parent / "images").iterdir())] == ["00000003.jpg", "00000006.jpg"]
    assert json.loads((final / "config.json").read_text())["sam2"] == {"name": NAME, "overrides": [*TINY, BICUBIC]}
    assert yaml.safe_load((final.parent / "config.yaml").read_text())["steps"] == 6


@pytest.mark.slow
def test_a_run_that_lost_its_last_steps_goes_on_to_the_bit(
    undisturbed: tuple[list[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped after its first checkpoint, with dropout to come."""
    arguments, output = undisturbed
    first = run_folder(output) / "checkpoints" / "step-00000002"
    half = run_folder(tmp_path) / "checkpoints" / first.name
    half.parent.mkdir(parents=True)
    half.symlink_to(first)
    (run_folder(tmp_path) / "log.jsonl").write_text((run_folder(output) / "log.jsonl").read_text())
    assert run_one("train", [*arguments, "--output", str(tmp_path)]) == 0
    assert "resuming from step 2" in caplog.text
    assert same(outcome(tmp_path), outcome(output))


def test_a_dry_run_prints_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_one("train", [*write_stage(tmp_path), "--dry-run"]) == 0
    told = capsys.readouterr().out
    for words in ("steps: 6 of 2 clips", "rest: ", "rate x0.6, decay 0", "encoder.block0: ", "not counted"):
        assert words in told
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    arguments = write_stage(tmp_path, epochs=8)
    assert run_one("train", [*arguments, "--output", str(tmp_path / "whole")]) == 0
    process = programs.start(TRAIN, *arguments, "--output", tmp_path / "killed")
    wait_for(run_folder(tmp_path / "killed") / "checkpoints" / "step-00000004", process)
    time.sleep(0.2)
    process.kill()
    finish(process)
    assert not (run_folder(tmp_path / "killed") / "final").exists(), "it was faster than the signal"
    assert run_one("train", [*arguments, "--output", str(tmp_path / "killed")]) == 0
    assert same(outcome(tmp_path / "killed"), outcome(tmp_path / "whole"))


def test_a_stage_goes_on_from_the_one_before_and_is_validated(
    undisturbed: tuple[list[str], Path], tmp_path: Path
) -> None:
    validation = {"every": 1, "size": 64, "length": 3, "data": [{"name": "rendered", "clips": 1}]}
    arguments = write_stage(
        tmp_path, stage="next", after="toy", epochs=None, steps=1, validation=validation, model_options=[]
    )
    assert run_one("train", [*arguments, "--output", str(undisturbed[1])]) == 0
    folder = undisturbed[1] / NAME / "next"
    told = yaml.safe_load((folder / "config.yaml").read_text())
    assert told["run"]["started_from"] == str(run_folder(undisturbed[1]) / "final" / "model.safetensors")
    assert "validation/J&F" in (folder / "log.jsonl").read_text()
    assert json.loads((folder / "final" / "config.json").read_text())["sam2"]["overrides"] == [*TINY, BICUBIC]


# -------------------------------------------------------------------------------------------------------------- export
def test_the_package_loads_what_was_trained_and_gives_the_same_masks(final: Path, tmp_path: Path) -> None:
    tuned = load_sam2(NAME, final, "cpu", "fp32")
    assert tuned.network.image_encoder.neck.fpn_interp_model == "bicubic"  # type: ignore[union-attr]
    start = load_sam2(NAME, "none", "cpu", "fp32", [*TINY, BICUBIC])
    changed = [k for k, x in tuned.network.state_dict().items() if not torch.equal(x, start.network.state_dict()[k])]
    assert len(changed) > 100, "training has changed it"
    theirs = build_sam2_video_predictor(
        SAM2_MODELS[NAME], str(final / "sam2.pt"), device="cpu", hydra_overrides_extra=[*TINY, BICUBIC]
    )  # which raises for any missing or unexpected entry
    images, labels = video(4, tmp_path)
    stock = Stock(tiny_sam2(), tmp_path)
    stock.network = theirs
    stock.see(tuned.encode(image[None])[0].image for image in images)
    stock.give(0, labels[0], [1, 2])
    tracker = Sam2Tracker(tuned, num_frames=4)
    given = torch.where(labels[0] <= 2, labels[0], 0)
    for t, wanted in enumerate(stock.follow(0, 4)):
        found = tracker.step_logits(images[t], given if t == 0 else None)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
        assert wanted.std() > 0.01, "masks that say nothing are all the same"


@pytest.mark.slow
def test_infer_takes_the_folder_or_the_file(final: Path, tmp_path: Path) -> None:
    write_frames(tmp_path / "bear", 2)
    write_mask(tmp_path / "masks" / "00000.png", np.pad(np.full((20, 20), 3, np.uint8), ((10, 34), (10, 66))))
    places = {
        "folder": (NAME, "--weights", final), "model": (final,),
        "file": (NAME, "--weights", final / "model.safetensors"),
    }  # fmt: skip
    for name, model in places.items():
        words = ["--video", tmp_path / "bear", "--mask", tmp_path / "masks", "--output", tmp_path / name]
        words += ["--model", *model, "--precision", "fp32", "--cpu-threads", 1, "--device", "cpu"]
        assert run_one("infer", [str(word) for word in words]) == 0
    folder, *others = (read_ids(tmp_path / name / "Annotations" / "bear" / "00001.png") for name in places)
    assert all(np.array_equal(folder, other) for other in others)
    assert folder.shape == (64, 96)
    settings = [summary(tmp_path / name)["settings"] for name in places]
    assert settings[0] == settings[1] == settings[2]


def test_a_fine_tuned_one_is_summed_with_another_and_brings_its_own_weights(
    final: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_frames(tmp_path / "bear", 2)
    write_mask(tmp_path / "masks" / "00000.png", np.pad(np.full((20, 20), 3, np.uint8), ((10, 34), (10, 66))))
    words = ["--video", tmp_path / "bear", "--mask", tmp_path / "masks", "--output", tmp_path / "out"]
    words += ["--models", "cutie-geo-tiny", final, "--precision", "fp32", "--cpu-threads", 1, "--device", "cpu"]
    assert run_one("infer", [str(word) for word in words]) == 0
    first, second = summary(tmp_path / "out")["settings"]["members"]
    assert "key_dim" in first["model"] and second["model"]["name"] == NAME
    assert second["weights"].startswith("sha256 ")
    words[words.index("--models")] = "--model"
    words.remove("cutie-geo-tiny")
    assert run_one("infer", [str(word) for word in [*words, "--weights", "none"]]) == 2
    assert "which has its own weights; expected auto" in capsys.readouterr().err


def test_a_folder_of_another_network_is_refused(final: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"trained weights of sam2\.1-hiera-tiny, expected those of sam2\.1-"):
        load_sam2("sam2.1-hiera-small", final, "cpu")
    with pytest.raises(ValueError, match="a checkpoint of sam2; expected a Cutie model"):
        load_model(str(final), device="cpu")
    with pytest.raises(ValueError, match=r"no model\.safetensors in this folder"):
        load_sam2(NAME, tmp_path, "cpu")


@pytest.mark.parametrize(
    "override",
    ["model._target_=os.system", "+model.x={_target_:os.system}", "model.x=${oc.env:HOME}", "x=1", "model.a.__b=1"],
)
def test_a_file_can_not_ask_hydra_to_call_anything(final: Path, tmp_path: Path, override: str) -> None:
    with safe_open(final / "model.safetensors", "pt") as file:
        told = json.loads(file.metadata()["cutie_geo"])
    told["sam2"]["overrides"].append(override)
    bad = tmp_path / "bad.safetensors"
    save_file(load_file(final / "model.safetensors"), bad, metadata={"cutie_geo": json.dumps(told)})
    with pytest.raises(ValueError, match=r"bad\.safetensors: .*got .*, expected model\.name=value"):
        load_sam2(NAME, bad, "cpu")


# ------------------------------------------------------------------------------------------------------ configurations
def test_the_papers_three_steps_are_configurations() -> None:
    folder = config_root() / "sam2"
    wanted = {
        "visor_finetune_train": ("", 80, 5e-6, 3e-6, ["visor-train"]),
        "visor_finetune_continue": ("visor_finetune_train", 20, 1e-6, 1e-6, ["visor-train"]),
        "visor_finetune_trainval_bicubic": ("visor_finetune_continue", 40, 5e-6, 3e-6, ["visor-train", "visor-val"]),
    }
    assert {path.stem for path in folder.glob("*.yaml")} == wanted.keys()
    for name, (after, epochs, rate, vision, data) in wanted.items():
        config = train_config(str(folder / f"{name}.yaml"))
        assert (config.stage, config.after, config.epochs, config.batch) == (name, after, epochs, 2)
        assert (config.clips.length, config.clips.max_objects, config.clips.crop) == (3, 3, 1024)
        assert config.optimiser.learning_rate == rate
        assert config.optimiser.learning_rate * config.optimiser.encoder_factor == pytest.approx(vision)
        assert [source.name for source in config.data] == data
        assert config.model_options == ((BICUBIC,) if "bicubic" in name else ())
        assert config.with_steps(7).steps == 3 * epochs
    assert train_config(str(folder / "visor_finetune_train.yaml"), ["steps=9"]).steps == 9


# ----------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("changes", "extra", "message"),
    [
        ({}, ["clips.crop=96"], "clips.crop: got 96, expected 64"),
        ({}, ["--weights", "encoders"], "sam2.1-hiera-tiny is only published as a whole"),
        ({}, ["--compile"], "compile: this model has no parts that torch can compile"),
        ({}, ["--weights", "nowhere.pt"], "nowhere.pt: no such weights file"),
        ({}, ["model.image_encoder._target_=os.system"], "expected model.name=value"),
        ({"epochs": 0.1}, [], "epochs: got 0.1 of 6 clips with a batch of 2, which is less than one step"),
        ({"steps": 3}, [], "steps, epochs: got 3 and 2, expected one of them"),
        ({"sam2": {"freeze": ["encoder"]}}, [], "sam2.freeze: sam2.1-hiera-tiny has no weights encoder"),
        ({"sam2": {"freeze": [""]}}, [], "but then no weights are trained"),
        ({"sam2": {}, "model": "cutie-base"}, [], "sam2: got settings with the model cutie-base"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], extra: list[str], message: str
) -> None:
    assert run_one("train", [*write_stage(tmp_path, **changes), "--output", str(tmp_path / "runs"), *extra]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
