"""A checkpoint holds all that changes, comes whole or not at all, and is refused by other runs."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from early_names import name_as_early
from tiny import tiny_config

from cutie_geo.checkpoints.load import load_model
from cutie_geo.config import OptimiserConfig, SourceConfig, TrainConfig, model_config
from cutie_geo.model.network import CutieGeo
from cutie_geo.training.optimiser import MovingAverage, build_optimiser, groups
from cutie_geo.training.state import (
    DIGESTS_FILE,
    STATE_FILE,
    Checkpoints,
    TrainState,
    checkpoint_bytes,
    read_state,
    require_same,
    restore,
    take_trained,
)
from cutie_geo.training.trainable import CutieTrainable

CONFIG = TrainConfig(stage="s", model="m", steps=9, data=(SourceConfig("rendered"),))
CPU = torch.device("cpu")


def fresh(seed: int = 0, ema: bool = False) -> TrainState:
    torch.manual_seed(seed)
    model = CutieGeo(tiny_config())
    state = TrainState(
        model,
        build_optimiser(groups(model, OptimiserConfig()), OptimiserConfig(), half=False),
        trainable=CutieTrainable(CONFIG),
    )
    if ema:
        state.average = MovingAverage(state.trained(), 0.9)
    return state


def trained(ema: bool = False) -> TrainState:
    """After two made-up steps."""
    state = fresh(ema=ema)
    for step in range(2):
        for weight in state.trained().values():
            weight.grad = torch.randn_like(weight)
        state.optimiser.step()
        if state.average is not None:
            state.average.update(state.trained(), step + 1)
    state.step, state.skipped, state.bad_files, state.window = (
        2,
        1,
        ["a.jpg: broken"],
        {"total": 0.1 + 0.2, "count": 1.0},
    )
    return state


def same_moments(a: TrainState, b: TrainState) -> bool:
    ours, theirs = a.optimiser.state_dict()["state"], b.optimiser.state_dict()["state"]
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[i][name], theirs[i][name]) for i in ours for name in ours[i]
    )


@pytest.mark.slow
@pytest.mark.parametrize("ema", [False, True])
def test_what_is_saved_comes_back_to_the_bit(tmp_path: Path, ema: bool) -> None:
    state = trained(ema)
    folder = Checkpoints(tmp_path).save(state, CONFIG)
    content = read_state(folder)
    model = load_model(str(folder), "auto", CPU, "fp32")
    take_trained(model, folder)
    again = TrainState(
        model,
        build_optimiser(groups(model, OptimiserConfig()), OptimiserConfig(), half=False),
        trainable=CutieTrainable(CONFIG),
    )
    if ema:
        again.average = MovingAverage(again.trained(), 0.9)
    restore(again, content, folder)
    assert all(torch.equal(weight, state.trained()[name]) for name, weight in again.trained().items())
    assert same_moments(state, again)
    assert (again.step, again.skipped, again.bad_files, again.window) == (
        state.step, state.skipped, state.bad_files, state.window,
    )  # fmt: skip
    if ema:
        assert state.average is not None
        assert again.average is not None
        assert all(torch.equal(x, again.average.average[name]) for name, x in state.average.average.items())


@pytest.mark.slow
@pytest.mark.parametrize("saved_early", [False, True])
def test_a_run_goes_on_under_a_library_that_names_tensors_otherwise(tmp_path: Path, saved_early: bool) -> None:
    def state_of(early: bool) -> TrainState:
        torch.manual_seed(int(early))
        model = CutieGeo(model_config("cutie-geo-nano"))
        if early:
            for layer in model.encoder.geometry.model.backbone.encoder.layer:  # type: ignore[union-attr]
                name_as_early(layer.attention)
        state = TrainState(
            model,
            build_optimiser(groups(model, OptimiserConfig()), OptimiserConfig(), half=False),
            trainable=CutieTrainable(CONFIG),
        )
        state.average = MovingAverage(state.trained(), 0.9)
        return state

    state, again = state_of(saved_early), state_of(not saved_early)
    for weight in state.trained().values():
        weight.grad = torch.ones_like(weight)
    state.optimiser.step()
    folder = Checkpoints(tmp_path).save(state, CONFIG)
    take_trained(again.model, folder)
    restore(again, read_state(folder), folder)
    assert all(torch.equal(weight, state.trained()[name]) for name, weight in again.trained().items())
    assert same_moments(state, again)
    assert state.average is not None
    assert again.average is not None
    assert all(torch.equal(x, again.average.average[name]) for name, x in state.average.average.items())


def test_a_checkpoint_is_a_model_with_the_average_where_there_is_one(tmp_path: Path) -> None:
    state = trained(ema=True)
    offered = load_model(str(Checkpoints(tmp_path).save(state, CONFIG)), device="cpu", precision="fp32")
    assert state.average is not None
    for name, weight in offered.named_parameters():
        assert torch.equal(weight, state.average.average[name]), name
    assert not torch.equal(state.trained()["decoder.predict.weight"], state.average.average["decoder.predict.weight"])


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    checkpoints, state = Checkpoints(tmp_path, keep=2), trained()
    for step in (3, 12, 7):
        state.step = step
        checkpoints.save(state, CONFIG)
    assert list(checkpoints.steps()) == [7, 12]
    assert checkpoints.latest() == tmp_path / "step-00000012"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000007", "step-00000012"]


def test_what_a_killed_run_left_of_a_checkpoint_is_removed_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".step-00000002.part"
    left.mkdir()
    (left / "training.pt").write_bytes(b"half")
    (tmp_path / ".mine.part").mkdir()
    Checkpoints(tmp_path).save(trained(), CONFIG)
    assert not left.exists()
    assert (tmp_path / ".mine.part").is_dir()


def test_all_files_of_a_checkpoint_are_for_whom_the_user_s_files_are(tmp_path: Path) -> None:
    folder = Checkpoints(tmp_path).save(trained(ema=True), CONFIG)
    (tmp_path / "plain").touch()
    modes = {path.name: path.stat().st_mode for path in folder.iterdir()}
    assert "trained.safetensors" in modes
    assert set(modes.values()) == {(tmp_path / "plain").stat().st_mode}


def test_half_a_checkpoint_is_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    good = checkpoints.save(trained(), CONFIG)
    shutil.copytree(good, tmp_path / ".step-00000099.part")
    assert checkpoints.latest() == good


def test_low_disk_space_is_noticed_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints, state = Checkpoints(tmp_path), trained()
    good = checkpoints.save(state, CONFIG)
    free = SimpleNamespace(total=0, used=0, free=checkpoint_bytes(state) // 2)
    monkeypatch.setattr("cutie_geo.training.state.shutil.disk_usage", lambda _: free)
    state.step = 5
    with pytest.raises(OSError, match=r"checkpoint not written: .* MiB free, expected .* MiB"):
        checkpoints.save(state, CONFIG)
    assert list(tmp_path.iterdir()) == [good]


@pytest.mark.parametrize("failing", ["trainable.save_checkpoint", "state.torch.save"])
def test_a_disk_that_fills_up_leaves_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    checkpoints, state = Checkpoints(tmp_path), trained()
    good = checkpoints.save(state, CONFIG)

    def full(*_: object) -> None:
        raise (
            OSError(28, "No space left on device")
            if failing == "trainable.save_checkpoint"
            else RuntimeError("write failed")
        )

    monkeypatch.setattr(f"cutie_geo.training.{failing}", full)
    state.step = 5
    with pytest.raises(OSError, match="checkpoint not written") as caught:
        checkpoints.save(state, CONFIG)
    assert "step-00000005" in str(caught.value)
    assert list(tmp_path.iterdir()) == [good]
    assert read_state(good)["step"] == 2


def test_the_estimate_of_a_checkpoints_size_is_near(tmp_path: Path) -> None:
    for ema in (False, True):
        state = trained(ema)
        folder = Checkpoints(tmp_path / str(ema)).save(state, CONFIG)
        size = sum(path.stat().st_size for path in folder.iterdir())
        assert checkpoint_bytes(state) == pytest.approx(size, rel=0.05)


def test_another_configuration_is_refused_with_what_differs(tmp_path: Path) -> None:
    content = read_state(Checkpoints(tmp_path).save(trained(), CONFIG))
    require_same(content["config"], CONFIG, tmp_path)
    require_same(content["config"], replace(CONFIG, save_every=7, log_every=3, keep=9), tmp_path)
    other = replace(CONFIG, batch=4, optimiser=OptimiserConfig(learning_rate=2e-4))
    with pytest.raises(ValueError, match=r"another configuration: got .*batch 16, expected 4") as caught:
        require_same(content["config"], other, tmp_path)
    assert "optimiser.learning_rate 0.0001, expected 0.0002" in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "missing", "pickled", "later"])
def test_a_damaged_state_is_one_clear_line(tmp_path: Path, damage: str) -> None:
    folder = Checkpoints(tmp_path).save(trained(), CONFIG)
    path = folder / STATE_FILE
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "missing":
        path.unlink()
    elif damage == "pickled":
        torch.save({"format": 1, "config": SimpleNamespace()}, path)
    else:
        torch.save({"format": 9}, path)
        (folder / DIGESTS_FILE).unlink()
    wanted = {"cut": "damaged", "missing": f"no {STATE_FILE}", "pickled": "damaged", "later": "format 9, expected"}
    with pytest.raises(ValueError, match=wanted[damage]):
        read_state(folder)


def test_an_optimiser_of_other_weights_is_refused(tmp_path: Path) -> None:
    folder = Checkpoints(tmp_path).save(trained(), CONFIG)
    state = fresh()
    state.model.decoder.predict.weight.requires_grad_(False)
    found = groups(state.model, OptimiserConfig())
    state.optimiser = build_optimiser(found, OptimiserConfig(), half=False)
    with pytest.raises(ValueError, match=r"decoder\.predict\.weight, which this run does not train"):
        restore(state, read_state(folder), folder)
