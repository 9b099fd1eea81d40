"""Who learns how fast, and how that changes."""

import pytest
import torch
from tiny import tiny_config, tiny_geo_config

from cutie_geo.config import OptimiserConfig, train_config
from cutie_geo.model.network import CutieGeo
from cutie_geo.training.optimiser import MovingAverage, build_optimiser, groups, learning_rate_at, set_learning_rate


def test_every_trained_weight_is_in_one_group_and_frozen_ones_in_none() -> None:
    model = CutieGeo(tiny_geo_config())
    model.decoder.predict.weight.requires_grad_(False)
    found = {group.name: group for group in groups(model, OptimiserConfig())}
    names = [name for group in found.values() for name in group.weights]
    wanted = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert sorted(names) == sorted(wanted)
    assert "decoder.predict.weight" not in names
    assert all(name.startswith(("encoder.vision.", "encoder.geometry.")) for name in found["encoder"].weights)
    assert any(name.startswith("encoder.fusion.") for name in found["rest"].weights), "fusion learns at full speed"


def test_groups_are_those_of_the_recipe() -> None:
    found = {group.name: group for group in groups(CutieGeo(tiny_config()), OptimiserConfig(weight_decay=0.5))}
    assert (found["encoder"].factor, found["encoder"].decay) == (0.1, 0.5)
    assert (found["rest"].factor, found["rest"].decay) == (1.0, 0.5)
    assert (found["queries"].factor, found["queries"].decay) == (1.0, 0.0)
    assert sorted(found["queries"].weights) == [
        "object_transformer.query.weight",
        "object_transformer.query_position.weight",
        "object_transformer.summary_to_position.weight",
        "object_transformer.summary_to_query.weight",
    ]
    assert any("mask_encoder.features" in name for name in found["rest"].weights), "the mask encoder is no backbone"


def test_a_model_without_trained_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="no weights to train"):
        groups(CutieGeo(tiny_config()).requires_grad_(False), OptimiserConfig())


def test_adam_has_the_recipes_epsilon() -> None:
    found = groups(CutieGeo(tiny_config()), OptimiserConfig())
    assert build_optimiser(found, OptimiserConfig(), half=True).defaults["eps"] == 1e-6
    assert build_optimiser(found, OptimiserConfig(), half=False).defaults["eps"] == 1e-8
    assert build_optimiser(found, OptimiserConfig(epsilon=1e-3), half=True).defaults["eps"] == 1e-3


def test_the_mega_schedule_drops_where_cutie_drops() -> None:
    config = train_config("stage1")
    rates = [
        learning_rate_at(step, config.steps, config.optimiser)
        for step in (0, 139_999, 140_000, 159_999, 160_000, 174_999)
    ]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6])
    mose = train_config("cutie_mose")
    assert [learning_rate_at(step, mose.steps, mose.optimiser) for step in (14_999, 15_000)] == pytest.approx(
        [1e-4, 1e-5]
    )
    lsvos = train_config("cutie_lsvos")
    assert [source.name for source in lsvos.data] == ["mose-train", "lvos-train"]
    assert (lsvos.steps, lsvos.batch, lsvos.optimiser, lsvos.start) == (20_000, 16, mose.optimiser, "published")


def test_the_papers_second_stage_is_as_it_says() -> None:
    config = train_config("stage2")
    assert (config.steps, config.batch, config.optimiser.learning_rate) == (100_000, 8, 5e-5)
    assert (config.optimiser.weight_decay, config.clips.skip_at(0.5), config.after) == (0.5, 1, "stage1")
    assert [source.name for source in config.data] == ["visor-train", "visor-val"]
    ablation = train_config("stage2_ablation")
    assert (ablation.steps, ablation.batch, [source.name for source in ablation.data]) == (50_000, 4, ["visor-train"])
    assert (ablation.optimiser, ablation.clips) == (config.optimiser, config.clips)


def test_warm_up_rises_and_cosine_falls() -> None:
    config = OptimiserConfig(learning_rate=1.0, schedule="cosine", warm_up=4)
    rates = [learning_rate_at(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.2, abs=0.01)
    assert rates[:5] == sorted(rates[:5])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 1e-3


def test_a_rate_is_shared_out_by_factor() -> None:
    optimiser = build_optimiser(groups(CutieGeo(tiny_config()), OptimiserConfig()), OptimiserConfig(), half=False)
    set_learning_rate(optimiser, 2.0)
    assert {group["name"]: group["lr"] for group in optimiser.param_groups} == {
        "encoder": pytest.approx(0.2), "queries": 2.0, "rest": 2.0,
    }  # fmt: skip


def test_the_moving_average_follows_and_smooths() -> None:
    weight = torch.zeros(1)
    average = MovingAverage({"w": weight}, 0.9)
    for step in range(400):
        weight.fill_(1.0 if step % 2 else 3.0)
        average.update({"w": weight}, step + 1)
    assert float(average.average["w"]) == pytest.approx(2.0, abs=0.15)
