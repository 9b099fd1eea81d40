"""No byte of a checkpoint changes unnoticed; a damaged one is named, and the one before it is used."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import tiny_config

from cutie_geo.config import OptimiserConfig, SourceConfig, TrainConfig
from cutie_geo.model.network import CutieGeo
from cutie_geo.training.optimiser import MovingAverage, build_optimiser, groups
from cutie_geo.training.state import (
    DIGESTS_FILE,
    STATE_FILE,
    TRAINED_FILE,
    Checkpoints,
    TrainState,
    read_state,
    resumed,
)
from cutie_geo.training.trainable import CutieTrainable

CONFIG = TrainConfig(stage="s", model="m", steps=9, data=(SourceConfig("rendered"),))
FILES = (STATE_FILE, TRAINED_FILE, "model.safetensors", "config.json")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's checkpoints of two steps, with a moving average."""
    torch.manual_seed(0)
    model = CutieGeo(tiny_config())
    state = TrainState(model, build_optimiser(groups(model, OptimiserConfig()), OptimiserConfig(), half=False))
    state.trainable = CutieTrainable(CONFIG)
    state.average = MovingAverage(state.trained(), 0.9)
    checkpoints = Checkpoints(tmp_path_factory.mktemp("run") / "checkpoints")
    for state.step in (2, 4):
        checkpoints.save(state, CONFIG)
    return checkpoints.root


@pytest.fixture
def checkpoints(good: Path, tmp_path: Path) -> Checkpoints:
    shutil.copytree(good, tmp_path / "checkpoints")
    return Checkpoints(tmp_path / "checkpoints")


def flip_first(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[20] ^= 0x55
    path.write_bytes(content)


def flip_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flip_first, flip_middle, halve, empty, Path.unlink], ids=lambda fn: fn.__name__)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_named_and_the_checkpoint_before_is_used(
    name: str, damage: Callable[[Path], None], checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    older, newest = checkpoints.steps().values()
    damage(newest / name)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        read_state(newest)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        resumed(str(newest), checkpoints)
    with caplog.at_level(logging.WARNING):
        path, content = resumed("auto", checkpoints)
    assert (path, content and content["step"]) == (older, 2)
    assert str(newest) in caplog.text
    assert "using the checkpoint before it" in caplog.text


def test_nothing_undamaged_is_an_error_and_not_a_fresh_start(checkpoints: Checkpoints) -> None:
    for folder in checkpoints.steps().values():
        flip_middle(folder / STATE_FILE)
    with pytest.raises(ValueError, match="every checkpoint is damaged"):
        resumed("auto", checkpoints)


def test_a_checkpoint_without_digests_is_damaged_unless_it_is_of_the_time_before_them(checkpoints: Checkpoints) -> None:
    newest = checkpoints.latest()
    assert newest is not None
    (newest / DIGESTS_FILE).unlink()
    with pytest.raises(ValueError, match=f"no {DIGESTS_FILE} in it"):
        read_state(newest)
    content = torch.load(newest / STATE_FILE, weights_only=True)
    torch.save(content | {"format": 1}, newest / STATE_FILE)
    assert read_state(newest)["step"] == 4
    (newest / TRAINED_FILE).unlink()
    with pytest.raises(ValueError, match=f"no {TRAINED_FILE} in it, expected the trained weights beside their moving"):
        read_state(newest)


@pytest.mark.parametrize("content", ["[]", "{}", "[" * 5000, '{"training.pt": 3}', '{"training.pt": "", "../x": ""}'])
def test_digests_that_are_none_are_damage(content: str, checkpoints: Checkpoints) -> None:
    newest = checkpoints.latest()
    assert newest is not None
    (newest / DIGESTS_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"step-00000004.*(damaged|nested|plain name)"):
        read_state(newest)


@pytest.mark.parametrize(("entry", "value"), [("step", "4"), ("optimiser", []), ("average", 3), ("window", None)])
def test_entries_of_other_types_are_damage(entry: str, value: object, checkpoints: Checkpoints) -> None:
    newest = checkpoints.latest()
    assert newest is not None
    content = torch.load(newest / STATE_FILE, weights_only=True)
    torch.save(content | {entry: value, "format": 1}, newest / STATE_FILE)
    (newest / DIGESTS_FILE).unlink()
    with pytest.raises(ValueError, match=f"damaged, its entry {entry} is missing or of another type"):
        read_state(newest)


def test_an_undamaged_checkpoint_is_taken(checkpoints: Checkpoints) -> None:
    path, content = resumed("auto", checkpoints)
    assert (path, content and content["step"]) == (checkpoints.latest(), 4)
    assert json.loads((path / DIGESTS_FILE).read_text()).keys() == set(FILES)  # type: ignore[operator]
    assert resumed("auto", Checkpoints(checkpoints.root / "none")) == (None, None)
    with pytest.raises(ValueError, match="a run with a checkpoint is here"):
        resumed("never", checkpoints)
