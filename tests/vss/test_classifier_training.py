"""The classifier's training: what it draws, weighs, counts, and how it goes on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from classifying import Hooks, state_of

from cutie_geo.config import OptimiserConfig
from cutie_geo.training.state import TrainState, read_state, require_same, restore
from cutie_geo.vss.classifier import ClassifierDescription, FeatureSource, MaskletClassifier, load_classifier
from cutie_geo.vss.classifier_training import (
    ClassifierTraining,
    class_weights,
    confusion_of,
    new_classifier,
    rows_of,
    steps_of,
    top1,
)
from cutie_geo.vss.config import ClassifierConfig, MaskletValidation
from cutie_geo.vss.masklet_files import MaskletTable

CONFIG = ClassifierConfig(
    "toy", epochs=4, batch=16, save_every=3, log_every=2, optimiser=OptimiserConfig(learning_rate=5e-2)
)
DESCRIBED = ClassifierDescription(("a", "b", "c"), 6, (6,), FeatureSource("none", -1, "0"))


def table_of(count: int = 50) -> MaskletTable:
    """Masklets of three classes, the third rare, whose features lie around a place of each class."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 10 // 4
    places = torch.eye(3, 6)
    features = places[labels] + 0.2 * torch.randn(count, 6, generator=draws)
    votes = torch.randint(0, 5, (count, 3), generator=draws)
    votes[torch.arange(count), labels] += 10
    return MaskletTable(features, votes)


def fresh() -> TrainState:
    return state_of(new_classifier(MaskletClassifier(DESCRIBED), 0), CONFIG)


def trained(hooks: Hooks, state: TrainState, config: ClassifierConfig = CONFIG) -> bool:
    return ClassifierTraining(config, state, table_of(), hooks).train()


# ------------------------------------------------------------------------------------------------------------- pieces
def test_a_masklet_s_label_is_its_commonest_true_class_the_smallest_of_equals() -> None:
    votes = torch.tensor([[0, 5, 5, 1], [2, 0, 0, 3], [1, 1, 1, 1]])
    assert MaskletTable(torch.zeros(3, 2), votes).labels().tolist() == [1, 3, 0]


def test_weights_of_classes_make_the_mean_over_masklets_one() -> None:
    labels = torch.tensor([0] * 8 + [2] * 2)
    assert class_weights(labels, 4, "none").tolist() == [1, 0, 1, 0]
    balanced = class_weights(labels, 4, "balanced")
    torch.testing.assert_close(balanced, torch.tensor([10 / 16, 0, 10 / 4, 0]))
    for kind in ("balanced", "sqrt"):
        torch.testing.assert_close(class_weights(labels, 4, kind)[labels].mean(), torch.tensor(1.0))
    ratio = class_weights(labels, 4, "sqrt")
    assert float(ratio[2] / ratio[0]) == pytest.approx(2.0)


def test_an_epoch_sees_every_masklet_once_in_an_order_of_its_own() -> None:
    assert steps_of(CONFIG, 50) == 16
    epochs = [torch.cat([rows_of(4 * epoch + step, CONFIG, 50) for step in range(4)]) for epoch in range(2)]
    assert all(sorted(epoch.tolist()) == list(range(50)) for epoch in epochs)
    assert not torch.equal(*epochs)
    assert torch.equal(rows_of(5, CONFIG, 50), rows_of(5, CONFIG, 50))


def test_pixels_inside_masklets_are_counted_by_true_class_and_given_class() -> None:
    model, table = new_classifier(MaskletClassifier(DESCRIBED), 0), table_of()
    given = model(table.features).argmax(1)
    wanted = np.zeros((3, 4), np.int64)
    for number, votes in zip(given.tolist(), table.votes.tolist()):
        for true, count in enumerate(votes):
            wanted[true, number] += count
    np.testing.assert_array_equal(confusion_of(model, table, 7).numpy(), wanted)
    assert top1(model, table, 7) == pytest.approx(100 * float((given == table.labels()).float().mean()))


# ---------------------------------------------------------------------------------------------------------- the loop
def test_loss_falls_and_top1_rises(tmp_path: Path) -> None:
    state, hooks = fresh(), Hooks(tmp_path, CONFIG)
    assert trained(hooks, state)
    assert state.step == 16
    (first, before), (last, after) = hooks.lines[0], hooks.lines[-1]
    assert (first, last) == (2, 16)
    assert after["loss"] < 0.6 * before["loss"]
    assert after["top1"] > 90 > before["top1"]
    assert hooks.validated == []


@pytest.mark.parametrize("stop", [5, 6])
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: Path, stop: int) -> None:
    """Stopped between two checkpoints and at one, the lines of the log are the same too."""
    whole, straight = Hooks(tmp_path / "whole", CONFIG), fresh()
    assert trained(whole, straight)
    halted = Hooks(tmp_path / "halted", CONFIG, stop)
    assert not trained(halted, fresh())
    folder = halted.checkpoints.latest()
    assert folder is not None
    content = read_state(folder)
    require_same(content["config"], CONFIG, folder)
    state, rest = state_of(load_classifier(folder, 3, torch.device("cpu")), CONFIG), Hooks(tmp_path / "halted", CONFIG)
    restore(state, content, folder)
    assert state.step == stop
    assert trained(rest, state)
    assert halted.lines + rest.lines == whole.lines
    ours, theirs = state.model.state_dict(), straight.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_other_settings_do_not_go_on(tmp_path: Path) -> None:
    hooks = Hooks(tmp_path, CONFIG)
    trained(hooks, fresh())
    folder = hooks.checkpoints.latest()
    assert folder is not None
    config = ClassifierConfig("toy", epochs=4, batch=17, save_every=3, validation=MaskletValidation(every=1))
    with pytest.raises(ValueError, match=r"got batch 16, expected 17; optimiser\.learning_rate 0\.05, expected"):
        require_same(read_state(folder)["config"], config, folder)


def test_scores_come_when_they_are_due(tmp_path: Path) -> None:
    config = ClassifierConfig("toy", epochs=1, batch=10, validation=MaskletValidation(every=2))
    hooks = Hooks(tmp_path, CONFIG)
    trained(hooks, fresh(), config)
    assert hooks.validated == [2, 4]


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    state = fresh()
    with torch.no_grad():
        state.model.layers[0].weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="step 1: got loss nan"):
        trained(Hooks(tmp_path, CONFIG), state)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: ClassifierConfig("toy", window=0), "window: got 0"),
        (lambda: ClassifierConfig("a b"), "stage: got 'a b'"),
        (lambda: ClassifierConfig("toy", hidden=(0,)), "hidden: got"),
        (lambda: ClassifierConfig("toy", chunk_size=0), "chunk_size: got 0"),
        (lambda: ClassifierConfig("toy", optimiser=OptimiserConfig(ema=0.9)), r"optimiser\.ema: got 0\.9"),
        (lambda: MaskletValidation(every=-1), "every: got -1"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        change()
