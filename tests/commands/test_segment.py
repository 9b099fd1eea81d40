"""`train --config configs/vss/...` and `cutie-geo segment` on rendered clips, from files to scores."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from programs import LAUNCHER, finish, start
from safetensors.torch import load_file, save_file
from stock_sam2 import TINY, tiny_sam2
from tinted import CLASSES as TINTED
from tinted import write_vspw
from toy_videos import contents, read_ids, summary
from transformers import Dinov2Config, Dinov2Model, SegformerConfig, SegformerForSemanticSegmentation

from cutie_geo.__main__ import run_one
from cutie_geo.config import config_root
from cutie_geo.data.example import example_frames, example_masks
from cutie_geo.data.render import SceneConfig
from cutie_geo.structures import VOID
from cutie_geo.training.state import Checkpoints
from cutie_geo.vss import classifier_training as masklets
from cutie_geo.vss.classifier import load_classifier
from cutie_geo.vss.config import classifier_config, is_classifier
from cutie_geo.vss.index import CLASSES

Said = pytest.CaptureFixture[str]
NAME = "sam2.1-hiera-tiny"
SCENE = SceneConfig(height=48, width=64, frames=3, min_objects=2, max_objects=2, min_size=0.25, max_occluders=0)
ODD = ("--grid", 3, "--predicted-iou", 0, "--stability", 0, "--window", 2)
"""Keep all masks: random weights give arbitrary ones."""
HOW = ("--device", "cpu", "--cpu-threads", 1)
RUN: dict[str, Any] = {
    "base": str(config_root() / "vss" / "tiny_cpu.yaml"),
    "stage": "toy",
    "model_options": list(TINY),
    "window": 2,
    "scope": "frame",
    "epochs": 24,
    "batch": 24,
    "optimiser": {"learning_rate": 1e-2},
    "validation": {"every": 10},
    "save_every": 10,
    "log_every": 2,
}
TRAIN = Path(__file__).parents[2] / "train.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of coloured classes in VSPW's layout, and the weights of a tiny SAM 2."""
    root = tmp_path_factory.mktemp("data")
    write_vspw(root / "VSPW_480p", {"train.txt": range(6), "val.txt": range(6, 8)}, SCENE)
    tensors = {name: value.contiguous() for name, value in tiny_sam2().network.state_dict().items()}
    save_file(tensors, root / "tiny.safetensors")
    return root


def arguments(root: Path, folder: Path, *argv: object, **changes: Any) -> list[str]:
    """Return arguments of `train` with runs in `folder`/runs and masklets in one folder for all."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "toy.yaml").write_text(yaml.safe_dump(RUN | changes))
    what = ["--config", folder / "toy.yaml", "--data-root", root, "--weights", root / "tiny.safetensors"]
    where = ["--output", folder / "runs", "--cache-features", root / "masklets", "--tracker", "none"]
    return [str(word) for word in [*what, *where, *HOW, *argv]]


def train(root: Path, folder: Path, *argv: object, **changes: Any) -> int:
    return run_one("train", arguments(root, folder, *argv, **changes))


def run_folder(folder: Path, stage: str = "toy") -> Path:
    return folder / "runs" / NAME / stage


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training."""
    folder = tmp_path_factory.mktemp("trained")
    assert train(data, folder) == 0
    return folder


def segment(data: Path, trained: Path, output: Path, *argv: object) -> int:
    """Run the command on the held-out clips."""
    what = ["--output", output, "--classifier", run_folder(trained) / "final", "--scope", "frame"]
    model = ["--model", NAME, "--weights", data / "tiny.safetensors", "--precision", "fp32", *HOW, *TINY]
    words = argv if "--video" in argv or "--dataset" in argv else ("--dataset", "vspw-val", "--data-root", data, *argv)
    return run_one("segment", [str(word) for word in [*what, *ODD, *model, *words]])


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_folder(folder) / "log.jsonl").read_text().splitlines()]


# ----------------------------------------------------------------------------------------------------------- training
@pytest.mark.slow
def test_the_loss_falls_and_top1_rises_far_above_chance(trained: Path) -> None:
    lines = lines_of(trained)
    steps = [line for line in lines if "loss" in line]
    assert steps[-1]["loss"] < 0.2 * steps[0]["loss"]
    told = yaml.safe_load((run_folder(trained) / "config.yaml").read_text())["run"]
    assert steps[-1]["top1"] > told["masklets"]["commonest"] + 25
    scores = [line for line in lines if "validation/top1" in line]
    assert scores[-1]["validation/top1"] > told["held_out"]["commonest"] + 10
    assert scores[0].keys() == {"step", "validation/top1", "validation/mIoU"}
    assert 0 <= scores[-1]["validation/mIoU"] <= 100
    assert told["masklets"]["count"] > 50
    assert 1 < told["masklets"]["classes"] <= len(TINTED)
    final = json.loads((run_folder(trained) / "final" / "config.json").read_text())["classifier"]
    assert len(final["classes"]) == CLASSES
    assert final["encoder"]["model"] == NAME


@pytest.mark.slow
def test_masklets_are_made_once_for_all_runs(data: Path, trained: Path, tmp_path: Path, capsys: Said) -> None:
    files = sorted((data / "masklets").glob("*/*.safetensors"))
    assert [path.stem for path in files] == [f"clip{seed}" for seed in range(8)]
    assert json.loads((files[0].parent / "settings.json").read_text())["window"] == 2
    before = {path: path.stat().st_mtime_ns for path in files}
    torn = files[3].read_bytes()
    files[3].write_bytes(torn[:-9])
    assert train(data, tmp_path, stage="other", hidden=[], epochs=1) == 0
    after = {path: path.stat().st_mtime_ns for path in files}
    assert [path for path in files if after[path] != before[path]] == [files[3]]
    assert files[3].read_bytes() == torn
    weights = load_file(run_folder(tmp_path, "other") / "final" / "model.safetensors")
    assert {name: tuple(value.shape) for name, value in weights.items()} == {
        "layers.0.weight": (124, 64),
        "layers.0.bias": (124,),
    }


@pytest.mark.slow
def test_an_interrupted_run_resumes_to_the_same_weights(
    data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_file(run_folder(trained) / "final" / "model.safetensors")
    step = masklets.ClassifierTraining._step

    def killed(training: masklets.ClassifierTraining) -> None:
        if training.state.step == 13:
            raise KeyboardInterrupt
        step(training)

    with monkeypatch.context() as patch:
        patch.setattr(masklets.ClassifierTraining, "_step", killed)
        assert train(data, tmp_path) == 130
    latest = Checkpoints(run_folder(tmp_path) / "checkpoints").latest()
    assert latest is not None and latest.name == "step-00000010"
    assert not (run_folder(tmp_path) / "final").exists()
    assert train(data, tmp_path) == 0
    again = load_file(run_folder(tmp_path) / "final" / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    assert lines_of(tmp_path) == lines_of(trained)


def test_a_finished_run_is_kept_and_other_settings_are_refused(data: Path, trained: Path, capsys: Said) -> None:
    before = contents(run_folder(trained) / "final")
    assert train(data, trained) == 0
    assert "all steps are done" in capsys.readouterr().out
    assert train(data, trained, "batch=25") == 2
    assert "got batch 24, expected 25" in capsys.readouterr().err
    assert contents(run_folder(trained) / "final") == before


@pytest.mark.slow
def test_a_signal_while_masklets_are_made_loses_no_complete_file(data: Path, tmp_path: Path) -> None:
    """As a program of its own, ended by Ctrl-C, with scalars for W&B kept on the disk."""
    pytest.importorskip("wandb")
    cache = tmp_path / "cache"
    words = arguments(data, tmp_path, "--cache-features", cache, "--tracker", "wandb", epochs=1)
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    program = start(TRAIN, *words, env=environment)
    while not list(cache.glob("*/clip0.safetensors")):
        assert program.poll() is None
    program.send_signal(2)
    status, said = finish(program)
    assert status == 130
    assert "the same command resumes" in said
    (first,) = cache.glob("*/clip0.safetensors")
    before = first.stat().st_mtime_ns
    status, said = finish(start(TRAIN, *words, env=environment))
    assert status == 0, said
    assert first.stat().st_mtime_ns == before
    assert list(run_folder(tmp_path).glob("wandb/offline-run-*"))


@pytest.mark.parametrize(
    ("argv", "changes", "words"),
    [
        (("--dry-run",), {}, "--dry-run: got"),
        (("--compile",), {}, "--compile: got"),
        ((), {"window": 0}, "window: got 0"),
        ((), {"model": "cutie-base"}, "model: got cutie-base, expected one of sam2.1-hiera-tiny"),
        ((), {"data": {"clips": "nowhere.txt"}}, "no list nowhere.txt of vspw"),
        ((), {"encoder": "no/such/folder"}, "no/such/folder: cannot be loaded as an image encoder"),
        ((), {"level": 7}, "level: got 7, expected one of SAM 2's 3 maps"),
        ((), {"colour": 1}, "unknown colour"),
    ],
)
def test_invalid_trainings_are_refused(
    data: Path, tmp_path: Path, capsys: Said, argv: tuple[object, ...], changes: dict, words: str
) -> None:
    assert train(data, tmp_path, *argv, **changes) == 2
    assert words in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------- segmenting
@pytest.mark.slow
def test_clips_are_segmented_and_scored(data: Path, trained: Path, tmp_path: Path, capsys: Said) -> None:
    out = tmp_path / "out"
    assert segment(data, trained, out) == 0
    said = capsys.readouterr().out
    assert "2 segmented" in said
    assert "frames/s" in said
    assert "MiB at most" in said
    told = summary(out)
    assert told["encoder"] == "sam2"
    assert told["settings"]["encoder"]["model"] == NAME
    maps = [read_ids(out / name) for name in contents(out)]
    assert len(maps) == 6
    assert {int(number) for labels in maps for number in np.unique(labels)} <= {*range(CLASSES), VOID}
    words = ["--protocol", "vspw", "--gt", str(data), "--pred", str(out), "--json", str(tmp_path / "r.json")]
    assert run_one("evaluate", [*words, "--allow-void"]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["wIoU"] > 0

    assert segment(data, trained, out) == 0
    assert "0 segmented; 2 already complete" in capsys.readouterr().out
    assert segment(data, trained, out, "--order", "score") == 2
    assert "was made with other order" in capsys.readouterr().err


@pytest.mark.slow
def test_a_base_fills_only_pixels_without_a_mask(data: Path, trained: Path, tmp_path: Path) -> None:
    """Maps of a folder, and those of a SegFormer, which are the same ones."""
    torch.manual_seed(0)
    sizes = {"depths": [1] * 4, "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 1, 2, 2]}
    config = SegformerConfig.from_dict(sizes | {"num_labels": 124})
    SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "segformer")
    few = ("--grid", 1)  # one point covers little
    assert segment(data, trained, tmp_path / "alone", *few) == 0
    assert segment(data, trained, tmp_path / "computed", *few, "--segformer", tmp_path / "segformer") == 0
    shutil.copytree(tmp_path / "computed", tmp_path / "base", ignore=shutil.ignore_patterns("run.json", ".*"))
    assert segment(data, trained, tmp_path / "filled", *few, "--base", tmp_path / "base") == 0
    names = list(contents(tmp_path / "alone"))
    holes = 0
    for name in names:
        alone, computed, filled = (read_ids(tmp_path / kind / name) for kind in ("alone", "computed", "filled"))
        np.testing.assert_array_equal(computed[alone != VOID], alone[alone != VOID])
        assert (computed != VOID).all()
        np.testing.assert_array_equal(filled, computed)
        holes += int((alone == VOID).sum())
    assert holes > 0


@pytest.mark.slow
def test_the_bundled_clip_is_segmented(data: Path, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "wall").mkdir()
    for path in sorted(example_frames().iterdir())[:3]:
        shutil.copy(path, tmp_path / "wall")
    base = tmp_path / "base"
    shutil.copytree(example_masks(), base)
    assert segment(data, trained, tmp_path / "out", "--video", tmp_path / "wall", "--base", base) == 0
    assert len(contents(tmp_path / "out" / "Annotations" / "wall")) == 3


@pytest.mark.slow
def test_another_encoder_can_be_used(data: Path, tmp_path: Path, capsys: Said) -> None:
    """The paper's other experiment: the classifier names its encoder, and another is refused."""
    torch.manual_seed(0)
    narrow: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    for name in ("one", "two"):
        Dinov2Model(Dinov2Config(**narrow, image_size=70, patch_size=14)).save_pretrained(tmp_path / name)
    assert train(data, tmp_path, encoder=str(tmp_path / "one"), epochs=2) == 0
    assert load_classifier(run_folder(tmp_path) / "final", CLASSES, torch.device("cpu")).described.dim == 32
    assert segment(data, tmp_path, tmp_path / "out", "--videos", "clip6") == 0
    assert summary(tmp_path / "out")["encoder"] == str(tmp_path / "one")
    capsys.readouterr()
    for name in (str(tmp_path / "two"), "sam2"):
        assert segment(data, tmp_path, tmp_path / "out", "--videos", "clip6", "--encoder", name) == 2
        assert "expected those that it was trained with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--base", "a", "--segformer", "b"), "--base and --segformer: expected one of them, or none"),
        (("--video", "a", "--dataset", "vspw-val"), "--video and --dataset: expected one of them"),
        (("--dataset", "vspw-val"), "--dataset and --data-root: expected both or none"),
        (("--base", "nowhere"), "nowhere: no such folder"),
        (("--classifier", "nowhere"), "nowhere: no such folder, expected a masklet classifier"),
        (("--scope", "window", "--window", 0), "window: got 0"),
        (("--weights", "none"), "expected those that it was trained with"),
        (("model.image_encoder.neck.fpn_interp_model=bicubic",), "expected those that it was trained with"),
    ],
)
def test_invalid_options_are_refused(
    data: Path, trained: Path, tmp_path: Path, capsys: Said, argv: tuple[object, ...], words: str
) -> None:
    assert segment(data, trained, tmp_path / "out", *argv) == 2
    assert words in capsys.readouterr().err


def test_classifiers_of_too_many_classes_are_refused(data: Path, trained: Path, tmp_path: Path, capsys: Said) -> None:
    final = run_folder(trained) / "final"
    told = json.loads((final / "config.json").read_text())
    told["classifier"]["classes"].append("one more")
    tensors = load_file(final / "model.safetensors")
    for name in ("layers.2.weight", "layers.2.bias"):
        tensors[name] = torch.cat([tensors[name], tensors[name][:1]])
    save_file(tensors, tmp_path / "more.safetensors", metadata={"cutie_geo": json.dumps(told)})
    assert segment(data, trained, tmp_path / "out", "--classifier", tmp_path / "more.safetensors") == 2
    assert "has 125 classes, expected at most 124" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ configurations
@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("isam2_vspw", lambda c: (c.window, c.grid.points, c.grid.predicted_iou, c.encoder) == (32, 16, 0.6, "sam2")),
        ("icffm_vspw", lambda c: (c.grid.stability, c.encoder) == (0.8, "nvidia/mit-b1")),
        ("tiny_cpu", lambda c: (c.window, c.model) == (4, NAME)),
    ],
)
def test_configurations_are_what_their_files_say(name: str, check: Callable[[Any], bool]) -> None:
    path = str(config_root() / "vss" / f"{name}.yaml")
    assert is_classifier(path)
    config = classifier_config(path, ["epochs=3", "model.image_size=128"])
    assert check(config)
    assert (config.epochs, config.model_options[-1], config.stage) == (3, "model.image_size=128", name)


@pytest.mark.slow
def test_processes_share_the_masklets_and_one_of_them_trains(data: Path, trained: Path, tmp_path: Path) -> None:
    """Two processes give the same weights as one."""
    words = arguments(data, tmp_path, "--cache-features", tmp_path / "cache")
    status, said = finish(start(*LAUNCHER, TRAIN, *words))
    assert status == 0, said
    assert len(list((tmp_path / "cache").glob("*/*.safetensors"))) == 8
    one, two = (load_file(run_folder(folder) / "final" / "model.safetensors") for folder in (trained, tmp_path))
    assert all(torch.equal(two[name], value) for name, value in one.items())
