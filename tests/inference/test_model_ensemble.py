"""Different models, one answer."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from parity_rules import synthetic_video
from tiny import randomised, tiny_config, tiny_geo_config

from cutie_geo.config import TrackerConfig
from cutie_geo.data.video import resize_shorter
from cutie_geo.inference.baselines import CopyMask
from cutie_geo.inference.ensemble import Ensemble
from cutie_geo.inference.factory import internal_size, method_for, reading_size
from cutie_geo.inference.model_ensemble import ModelEnsemble, normalise_weights
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.segmenter import Method
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.network import CutieGeo
from cutie_geo.runs.calls import segment_video
from cutie_geo.structures import Frame

SIZE = (50, 67)
OPTIONS: dict[str, Any] = {"mem_every": 2}


@pytest.fixture(scope="module")
def models() -> list[CutieGeo]:
    """Two networks with nothing in common."""
    return [randomised(CutieGeo(tiny_config()), seed=1).eval(), randomised(CutieGeo(tiny_geo_config()), seed=2).eval()]


def video(length: int = 4) -> tuple[list[torch.Tensor], np.ndarray]:
    images, labels = synthetic_video(*SIZE, length)
    return [torch.from_numpy(image) for image in images], labels


def steps(method: Method, images: list[torch.Tensor], masks: dict[int, np.ndarray]) -> list[torch.Tensor]:
    return [method.step(image, masks.get(t)) for t, image in enumerate(images)]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_probabilities_are_the_weighted_mean_of_what_each_model_says_alone(
    models: list[CutieGeo], workers: int
) -> None:
    images, labels = video()
    alone = [steps(Tracker(model, **OPTIONS), images, {0: labels[0]}) for model in models]
    together = ModelEnsemble([Tracker(model, **OPTIONS) for model in models], (3.0, 1.0), workers)
    assert isinstance(together, Method)
    for ours, first, second in zip(steps(together, images, {0: labels[0]}), *alone):
        assert torch.allclose(ours, 0.75 * first + 0.25 * second, atol=1e-6)
        assert torch.allclose(ours.sum(dim=0), torch.ones(SIZE), atol=1e-5)
    assert together.object_ids == [1, 2, 3]
    assert together.labels(ours).shape == SIZE


def test_one_model_alone_is_that_model(models: list[CutieGeo]) -> None:
    images, labels = video()
    wanted = steps(Tracker(models[0], **OPTIONS), images, {0: labels[0]})
    ours = steps(ModelEnsemble([Tracker(models[0], **OPTIONS)]), images, {0: labels[0]})
    assert all(torch.equal(a, b) for a, b in zip(ours, wanted))


def test_three_fixed_maps_are_summed_and_the_largest_sum_wins() -> None:
    """By hand: of three pixels and objects 1 and 2, with weights of 1/2, 1/4, 1/4."""

    class Fixed(CopyMask):
        def __init__(self, maps: list[list[float]]) -> None:
            super().__init__()
            self.maps = torch.tensor(maps)[:, None]

        gives_depth, frame_size = False, (1, 3)

        def step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            super().step(*args, **kwargs)
            return self.maps

        def remove(self, ids: Any) -> None:
            raise ValueError("not here")

        def reset(self) -> None: ...

        def memory_report(self) -> dict[str, int]:
            return {"working": 1}

    members = [
        Fixed([[0.6, 0.2, 0.1], [0.3, 0.5, 0.4], [0.1, 0.3, 0.5]]),
        Fixed([[0.1, 0.2, 0.5], [0.8, 0.1, 0.5], [0.1, 0.7, 0.0]]),
        Fixed([[0.2, 0.4, 0.3], [0.8, 0.0, 0.6], [0.0, 0.6, 0.1]]),
    ]
    together = ModelEnsemble(members, (2.0, 1.0, 1.0))
    probs = together.step(torch.zeros(3, 1, 3), torch.tensor([[0, 1, 2]]))
    wanted = [[0.375, 0.25, 0.25], [0.55, 0.275, 0.475], [0.075, 0.475, 0.275]]
    assert torch.allclose(probs, torch.tensor(wanted)[:, None])
    assert together.labels(probs).tolist() == [[1, 2, 1]]
    assert together.memory_report() == {"working": 3}


def test_channels_are_matched_by_object(models: list[CutieGeo]) -> None:
    """A member that met the objects in another order says the same of each of them."""
    images, labels = video()
    given = [np.where(labels[0] == i, i, 0) for i in (1, 2, 3)]
    one, other = Tracker(models[0], **OPTIONS), Tracker(models[0], **OPTIONS)
    one.step(images[0], np.stack([given[0], given[1]]) > 0, [1, 2])
    other.step(images[0], np.stack([given[1], given[0]]) > 0, [2, 1])
    alone = Tracker(models[0], **OPTIONS)
    alone.step(images[0], np.stack([given[0], given[1]]) > 0, [1, 2])
    together = ModelEnsemble([one, other])
    assert together.object_ids == [1, 2]
    assert torch.allclose(together.step(images[1]), alone.step(images[1]), atol=1e-5)


def test_objects_come_and_go_in_all_models(models: list[CutieGeo]) -> None:
    images, labels = video()
    first, second = np.where(labels[0] == 2, 2, 0), np.where(labels[1] == 1, 1, 0)
    together = ModelEnsemble([Tracker(models[0]), Ensemble(models[1], flip=True)])
    steps(together, images[:2], {0: first, 1: second})
    assert [member.object_ids for member in together.members] == [[2, 1], [2, 1]]
    together.remove([2])
    assert together.step(images[2]).shape == (2, *SIZE)
    together.reset()
    assert together.object_ids == []
    assert together.frame_size is None


@pytest.mark.parametrize("change", ["size", "mask", "ids"])
def test_what_one_member_would_refuse_changes_none(models: list[CutieGeo], change: str) -> None:
    images, labels = video()
    together = ModelEnsemble([Tracker(model) for model in models])
    together.step(images[0], labels[0])
    image, mask, ids = images[1], labels[1], None
    if change == "size":
        image, mask = torch.rand(3, 32, 32), None
    elif change == "mask":
        mask = labels[1][:10]
    else:
        ids = [0]
    with pytest.raises(ValueError, match=r"image: the size changed|mask: got size|object id: got 0"):
        together.step(image, mask, ids)
    alone = [Tracker(model) for model in models]
    for tracker in alone:
        tracker.step(images[0], labels[0])
    wanted = sum(tracker.step(images[1]) for tracker in alone) / 2
    assert torch.allclose(together.step(images[1]), wanted, atol=1e-6)


@pytest.mark.parametrize("lookahead", [1, 3])
def test_a_video_is_segmented_as_by_one_method(models: list[CutieGeo], lookahead: int) -> None:
    images, labels = video(5)
    frames = [Frame(f"{t}", image, given=labels[t] if t == 1 else None) for t, image in enumerate(images)]
    together = ModelEnsemble([Tracker(model) for model in models])
    wanted = [together.labels(together.step(image, labels[1] if t == 1 else None)) for t, image in enumerate(images)]
    together.reset()
    found = [labels for _, labels in segment_video(together, frames, lookahead)]
    assert all(torch.equal(a, b) for a, b in zip(found, wanted))


def test_depth_is_that_of_the_first_model_that_has_any(models: list[CutieGeo]) -> None:
    images, _ = video(1)
    together = ModelEnsemble([Tracker(model) for model in models])
    seen = together.encode_ahead(images, with_depth=True)[0]
    for member in together.members:
        member.reset()
    alone = Tracker(models[1])
    wanted = alone.encode(images[0], with_depth=True)
    together.step(images[0], features=seen)
    assert torch.equal(together.restore_depth(seen), alone.restore_depth(wanted))
    with pytest.raises(ValueError, match="no model here has a geometry encoder"):
        ModelEnsemble([Tracker(models[0])]).encode_ahead(images, with_depth=True)


def test_each_of_several_models_keeps_its_own_pace_of_memory(
    models: list[CutieGeo], monkeypatch: pytest.MonkeyPatch
) -> None:
    for model, (every, tokens) in zip(models, ((2, 9), (3, None))):
        monkeypatch.setattr(model, "config", replace(model.config, mem_every=every, top_k=tokens))
    together = method_for(models, RunOptions(default_size=48))
    assert isinstance(together, ModelEnsemble)
    trackers = [member for member in together.members if isinstance(member, Tracker)]
    assert [(tracker.config.mem_every, tracker.config.top_k) for tracker in trackers] == [(2, 9), (3, 30)]


def test_models_of_different_sizes_see_what_each_would_see_alone(
    models: list[CutieGeo], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, frame = (48, 80), torch.rand(3, 150, 225)
    for model, size in zip(models, sizes):
        monkeypatch.setattr(model, "config", replace(model.config, max_internal_size=size))
    options = RunOptions(default_size=480)
    assert reading_size(models, options) == -1
    together = method_for(models, options)
    assert isinstance(together, ModelEnsemble)
    seen = together.encode_ahead([frame])[0]
    for model, size, features in zip(models, sizes, seen):
        alone = Tracker(model).encode(resize_shorter(frame, size))
        torch.testing.assert_close(features.image, alone.image, atol=1e-6, rtol=0)
    monkeypatch.setattr(models[1], "config", replace(models[1].config, min_internal_size=96))
    together = method_for(models, options)
    small = [features.image.shape[-2] for features in together.encode_ahead([torch.rand(3, 40, 60)])[0]]
    assert small == [48, 96]  # 40 rows padded to a multiple of 16, and enlarged


def test_the_size_of_frames_is_the_user_s_then_the_model_s_then_the_run_s(
    models: list[CutieGeo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models[0], "config", replace(models[0].config, max_internal_size=48))
    wanted = RunOptions(TrackerConfig(max_internal_size=96), default_size=480)
    assert [internal_size(model, wanted) for model in models] == [96, 96]
    assert [internal_size(model, RunOptions(default_size=480)) for model in models] == [48, 480]
    assert reading_size(models, wanted) == 96


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ((1.0,), "got 1, expected one for each of 2 models"),
        ((1.0, 0.0), "got 0, expected positive"),
        ((1.0, float("nan")), "got nan"),
    ],
)
def test_weights_that_cannot_work_are_refused(weights: tuple[float, ...], words: str) -> None:
    with pytest.raises(ValueError, match=f"--coefficients: {words}"):
        normalise_weights(weights, 2, "--coefficients")


def test_an_ensemble_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="members: got none"):
        ModelEnsemble([])


def test_models_share_corrections_and_old_probabilities_keep_their_ids(models: list[CutieGeo]) -> None:
    images, labels = video(6)
    members = [Tracker(model, **OPTIONS) for model in models]
    together = ModelEnsemble(members)
    together.step(images[0], labels[0], [1, 2])
    old = together.step(images[1])
    before = together.labels(old)
    together.step(images[2], labels[2] == 1, [1], correction=True)
    assert all([1] in [bank.ids for bank in member.memory.banks] for member in members)
    together.remove([1])
    together.step(images[3], labels[3] == 3, [1])
    assert together.object_ids == [2, 1]
    assert torch.equal(together.labels(old), before)
