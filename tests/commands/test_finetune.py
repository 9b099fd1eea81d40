"""`cutie-geo train --finetune`: one command from own videos to a model that is no worse than before."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import TINY_YAML
from toy_videos import regions, write_frames, write_mask

from cutie_geo import Session
from cutie_geo.__main__ import main
from cutie_geo.checkpoints.load import load_model
from cutie_geo.checkpoints.saving import save_checkpoint
from cutie_geo.export.masks import export_masks
from cutie_geo.model.network import CutieGeo
from cutie_geo.runs.training_run import ScoreHistory

ROOT = Path(__file__).parents[2]
FAST = ["--device", "cpu", "--cpu-threads", "1", "--workers", "0", "--tracker", "none", "batch=1", "clips.length=2",
        "clips.crop=32", "validation.size=64", "optimiser.warm_up=0", "precision=fp32"]  # fmt: skip
FRAMES = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own")
    for n in range(3):
        write_frames(root / "videos" / f"v{n}", FRAMES, seed=n)
        for time in (0, 1, 2, 4):
            write_mask(root / "masks" / f"v{n}" / f"{time:05d}.png", np.roll(regions(), 2 * time, axis=1))
    (root / "val.txt").write_text("v1\n")
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "tiny.yaml").write_text(TINY_YAML)
    save_checkpoint(load_model(str(folder / "tiny.yaml"), "none", "cpu", "fp32"), folder / "start")
    return folder / "start"


def run_of(output: Path, data: Path) -> Path:
    return output / "start" / f"finetune-{data.name}"


def weights(folder: Path) -> CutieGeo:
    return load_model(str(folder), "auto", "cpu", "fp32")


def equal(a: CutieGeo, b: CutieGeo) -> bool:
    return all(np.array_equal(x.numpy(), y.numpy()) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


@pytest.mark.slow
def test_a_run_ends_with_a_table_images_and_the_line_to_use(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--finetune", str(data), "--model", str(model), "--output", str(tmp_path), *FAST]
    changes = ["steps=4", "validation.every=2", "validation.patience=0", "optimiser.learning_rate=0.01"]
    assert main([*arguments, *changes]) == 0
    said = capsys.readouterr().out
    folder = run_of(tmp_path, data)
    history = ScoreHistory(folder / "scores.json", 4)
    assert [step for step, _, _ in history.scores] == [0, 2, 4]
    assert history.finished
    assert "training    2 videos, 8 masks: v0, v2" in said
    assert "validation  1 video, 4 masks: v1" in said
    table = [line.split() for line in said.splitlines() if line.startswith(("v1", "mean"))]
    expected = [f"{history.start[1]:.2f}", f"{history.best[1]:.2f}"]
    assert table == [["v1", *expected], ["mean", *expected]]
    assert f"--model {folder / 'final'} --video clip.mp4" in said
    picture = np.asarray(Image.open(folder / "images" / "own-v1.jpg"))
    assert picture.shape[0] == 3 * 240, "truth, before, after"
    assert equal(weights(folder / "final"), weights(folder / "best"))
    capsys.readouterr()
    assert main([*arguments, *changes]) == 0, "the same command again has nothing to do"
    assert f"{history.start[1]:.2f}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_makes_the_model_worse_keeps_the_start_and_stops_early(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cutie_geo.runs import training_run

    scores = iter([50.0, 40.0, 41.0, 42.0, 43.0])
    summary = training_run.summary
    monkeypatch.setattr(training_run, "summary", lambda found: summary(found)._replace(j_and_f=next(scores)))
    arguments = ["train", "--finetune", str(data), "--model", str(model), "--output", str(tmp_path), *FAST]
    assert main([*arguments, "steps=9", "validation.every=1", "validation.patience=2"]) == 0
    said = capsys.readouterr()
    folder = run_of(tmp_path, data)
    assert "fine-tuning did not help" in said.out
    assert re.search(r"9 steps of about .* minutes? on this machine, less if", said.out)
    assert equal(weights(folder / "final"), weights(model))
    steps = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert max(steps) <= 4, "two validations without a better score end the run"


@pytest.mark.slow
def test_the_estimate_leaves_out_the_first_step_and_validations_that_were_not_timed(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cutie_geo.runs import training_run
    from cutie_geo.training import trainable

    validations, steps = list[int](), list[float]()
    summary, compute = training_run.summary, trainable.batch_losses

    def interrupt(found: Any) -> Any:
        validations.append(1)
        if len(validations) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return summary(found)

    def slow_at_first(*arguments: Any) -> Any:
        if not steps:
            sleep(8)
        steps.append(1)
        return compute(*arguments)

    monkeypatch.setattr(training_run, "summary", interrupt)
    monkeypatch.setattr(trainable, "batch_losses", slow_at_first)
    arguments = ["train", "--finetune", str(data), "--model", str(model), "--output", str(tmp_path), *FAST]
    arguments += ["steps=4", "validation.every=2"]
    assert main(arguments) == 130
    found = re.search(r"4 steps of about ([\d.]+) s and 2 validations of \d+ s: about", capsys.readouterr().out)
    assert found is not None
    assert float(found[1]) < 3
    assert main(arguments) == 0
    assert re.search(r"1 step of about [\d.]+ s, 1 validation not counted: about", capsys.readouterr().out)


@pytest.mark.slow
def test_the_encoder_is_frozen_at_first(data: Path, model: Path, tmp_path: Path) -> None:
    start = weights(model).state_dict()
    changed = {}
    for share in (0.0, 1.0):
        output = tmp_path / str(share)
        arguments = ["train", "--finetune", str(data), "--model", str(model), "--output", str(output), *FAST]
        changes = ["steps=2", "validation.every=0", "validation.keep_best=false", "validation.patience=0",
                   f"optimiser.encoder_from={share}", "optimiser.encoder_factor=1"]  # fmt: skip
        assert main([*arguments, *changes]) == 0
        final = weights(run_of(output, data) / "final").state_dict()
        moved = {name for name, value in final.items() if not np.array_equal(value.numpy(), start[name].numpy())}
        changed[share] = {name.startswith("encoder.features.") for name in moved}
    assert changed == {0.0: {True, False}, 1.0: {False}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--finetune", "nowhere"], "nowhere: no such folder"),
        (["--finetune", "DATA", "--stage", "1"], "--stage: expected either it or --finetune"),
        (["--finetune", "DATA", "--weights", "none"], "--weights: --finetune starts from"),
        (["--finetune", "DATA", "--model", "sam2.1-hiera-tiny"], "expected a Cutie model"),
        (["--finetune", "DATA", "--model", "."], "no model in it"),
        (["--stage", "1", "--val", "0.2"], "--val: expected --finetune"),
        (["--finetune", "DATA", "--val", "2"], "expected a file or a share"),
    ],
)
def test_wrong_options_are_one_line(
    data: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["train", *(str(data) if word == "DATA" else word for word in arguments)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["png", "cvat", "session"])
def test_the_bundled_model_learns_from_real_videos(test_data: Path, tmp_path: Path, kind: str) -> None:
    """Few steps on shortened sequences, as a program of its own, with W&B offline."""
    source, root = test_data / "data/davis2016-train-270p", tmp_path / "six"
    for name in ("dance-jump", "drift-turn", "hike"):
        for folder, suffix, place in (
            ("JPEGImages", "jpg", root / "videos"),
            ("Annotations", "png", tmp_path / "run/Annotations"),
        ):
            (place / name).mkdir(parents=True)
            for n in range(6):
                file = source / folder / "480p" / name / f"{n:05d}.{suffix}"
                (place / name / file.name).write_bytes(file.read_bytes())
    if kind == "png":
        (tmp_path / "run/Annotations").rename(root / "masks")
    elif kind == "cvat":
        export_masks(tmp_path / "run", "cvat", root / "masks")
    else:
        for video in (root / "videos").iterdir():
            with Session(video, folder=root / "sessions" / f"{video.name}-0a1b2c") as session:
                for n in (0, 2, 3, 5):
                    mask = np.asarray(Image.open(tmp_path / "run/Annotations" / video.name / f"{n:05d}.png"))
                    session.set_mask(n, object=1, mask=mask > 0)
                    session.lock(n)
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    command = [sys.executable, str(ROOT / "train.py"), "--finetune", str(root), "--output", str(tmp_path / "runs"),
               "--tracker", "wandb", "--cpu-threads", "1", "steps=2", "validation.every=1", "clips.crop=128", "batch=1",
               "validation.size=128", "save_every=2"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "cutie-geo-tiny" / "finetune-six"
    history = ScoreHistory(folder / "scores.json", 2)
    assert history.start[1] > 30
    assert history.best[1] >= history.start[1]
    assert list((folder / "wandb").glob("offline-run-*"))
    assert "use it:   python infer.py --model" in done.stdout
    assert list((folder / "images").glob("own-*.jpg"))
    assert (folder / "final" / "config.json").is_file()
