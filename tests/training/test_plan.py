"""What a plan says is what happens."""

from dataclasses import replace

import pytest
import torch
from tiny import tiny_geo_config
from torch._subclasses.fake_tensor import FakeTensor

from cutie_geo.config import ClipConfig, OptimiserConfig, SourceConfig, TrainConfig, UnrollConfig
from cutie_geo.flops import flop_counter
from cutie_geo.model.network import CutieGeo
from cutie_geo.ops import sine_positions
from cutie_geo.structures import ClipBatch
from cutie_geo.training.cost import clip_cost
from cutie_geo.training.plan import make_plan, sections
from cutie_geo.training.trainable import CutieTrainable
from cutie_geo.training.unroll import unroll

CONFIG = TrainConfig(
    stage="s", model="m", steps=100, data=(SourceConfig("rendered"),), batch=8, accumulate=2,
    clips=ClipConfig(length=3, crop=64, max_objects=2),
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> CutieGeo:
    torch.manual_seed(0)
    model = CutieGeo(tiny_geo_config())
    assert model.encoder is not None
    model.encoder.part("vision").requires_grad_(False)  # type: ignore[operator]
    return model


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_memory_kept_for_gradients_is_what_a_real_pass_keeps(model: CutieGeo, checkpointing: bool) -> None:
    config = replace(CONFIG, unroll=UnrollConfig(checkpointing=checkpointing))
    storages: dict[int, int] = {}
    held = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not (tensor.is_leaf and tensor.requires_grad):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            held.append(tensor)
        return tensor

    labels = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    batch = ClipBatch(
        torch.zeros(1, 3, 3, 64, 64, dtype=torch.uint8), labels, torch.tensor([2]), torch.tensor([0]), ("a",)
    )
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        unroll(model.train(), batch, config.unroll, [True] * 3)
    assert clip_cost(model, config).kept == pytest.approx(sum(storages.values()), rel=0.02)


@pytest.mark.slow
def test_checkpointing_keeps_less(model: CutieGeo) -> None:
    plain, recomputed = (
        clip_cost(model, replace(CONFIG, unroll=UnrollConfig(checkpointing=on))).kept for on in (False, True)
    )
    assert recomputed < plain / 2


@pytest.mark.slow
def test_a_plan_counts_weights_steps_and_clips(model: CutieGeo) -> None:
    plan = make_plan(CutieTrainable(CONFIG), model, processes=2)
    frozen = sum(weight.numel() for weight in model.parameters() if not weight.requires_grad)
    assert sum(plan.frozen.values()) == frozen > 0
    assert set(plan.frozen) == {"encoder.vision"}
    assert sum(group.count for group in plan.groups) == sum(w.numel() for w in model.parameters()) - frozen
    assert plan.clips_at_once == plan.memory.clips == 2
    assert plan.memory.total > plan.memory.trained == 16 * sum(group.count for group in plan.groups)
    told = "\n".join(plan.lines())
    assert "100 of 8 clips = 2 processes x 2 parts x 2; 800 clips in all" in told
    assert "0.0001 from step 0, 1e-05 from step 80, 1e-06 from step 92" in told


def test_sections_name_where_the_rate_changes() -> None:
    falling = replace(CONFIG, optimiser=OptimiserConfig(schedule="cosine", warm_up=10))
    assert [step for step, _ in sections(falling)] == [0, 10, 25, 50, 75, 99]


@pytest.mark.slow
def test_arithmetic_is_counted_with_the_way_back(model: CutieGeo) -> None:
    labels = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    images = torch.zeros(1, 3, 3, 64, 64, dtype=torch.uint8)
    batch = ClipBatch(images, labels, torch.tensor([2]), torch.tensor([0]), ("a",))
    with flop_counter() as counter, torch.no_grad():
        unroll(model.train(), batch, CONFIG.unroll, [True] * 3)
    forward = counter.get_total_flops()
    assert 2 * forward < clip_cost(model, CONFIG).flop < 3 * forward, "frozen parts have no way back"
    assert all(weight.grad is None for weight in model.parameters())
    assert make_plan(CutieTrainable(CONFIG), model).flop_per_step == 8 * clip_cost(model, CONFIG).flop


@pytest.mark.slow
def test_a_plan_leaves_no_fake_tensors_behind() -> None:
    """A frozen trunk caches its position table, which the pass on fake tensors must not fill."""
    model = CutieGeo(tiny_geo_config())
    assert model.encoder is not None
    model.encoder.part("vision").requires_grad_(False)  # type: ignore[operator]
    sine_positions.cache_clear()
    clip_cost(model, CONFIG)
    labels = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    images = torch.zeros(1, 3, 3, 64, 64, dtype=torch.uint8)
    with torch.no_grad():
        said = unroll(
            model.train(), ClipBatch(images, labels, torch.tensor([2]), torch.tensor([0]), ("a",)), CONFIG.unroll,
            [True] * 3,
        )  # fmt: skip
    assert not any(isinstance(field, FakeTensor) for field in said if field is not None)
