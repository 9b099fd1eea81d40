"""Networks learn real clips, whatever the rounding of the processor."""

from pathlib import Path

import pytest
import timm
import torch

from cutie_geo.config import train_config
from cutie_geo.data.clips import ClipDataset, build_sources, collate
from cutie_geo.runs.trainables import trainable_for
from cutie_geo.structures import ClipKey
from cutie_geo.training.optimiser import build_optimiser

CPU = torch.device("cpu")
STEPS = 24


def learn(data: Path, backbone: Path, precision: str, seed: int) -> tuple[float, float]:
    """Train on the same two clips over and over; return the loss of masks before and after."""
    changes = ["clips.length=3", "clips.crop=64", "loss.points=512", f"seed={seed}"]
    config = train_config("tiny_short", changes)
    dataset = ClipDataset(build_sources(config.data, config.clips, data), config.clips, config.seed)
    batch = collate([dataset[ClipKey(0, index, 0.0)] for index in (0, len(dataset) - 1)])
    trainable = trainable_for(config)
    model = trainable.load("encoders", CPU, precision, [*config.model_options, f"weights.vision={backbone}"])
    optimiser = build_optimiser(trainable.groups(model), config.optimiser, precision != "fp32")
    module, dice = trainable.module(model.train()), list[float]()
    for _ in range(STEPS):
        with model.autocast():
            outputs = module(batch, [True] * config.clips.length)
        losses, _ = trainable.losses(outputs, batch, CPU)
        losses["total"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimiser.clip_norm)
        optimiser.step()
        optimiser.zero_grad()
        dice.append(float(losses["mask_dice"].detach()))
    return dice[0], sum(dice[-3:]) / 3


@pytest.mark.slow
def test_the_first_stage_of_the_recipe_learns_two_real_clips(test_data: Path, tmp_path: Path) -> None:
    """The backbone has random weights. The loss ends at two thirds of the first, in fp32 on one machine."""
    backbone = tmp_path / "backbone.pth"
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), backbone)
    before, after = learn(test_data / "data", backbone, "fp32", seed=0)
    assert after < 0.85 * before


@pytest.mark.slow
def test_depth_is_learnt_from_the_distances_of_rendered_clips() -> None:
    """The smallest geometry encoder, from random weights, on two clips over and over."""
    config = train_config("tiny_rendered", ["clips.crop=64", "loss.points=64", "loss.depth_weight=1.0", "seed=0"])
    dataset = ClipDataset(build_sources(config.data, config.clips, None), config.clips, config.seed)
    batch = collate([dataset[ClipKey(0, index, 0.0)] for index in range(2)])
    torch.manual_seed(0)
    trainable = trainable_for(config)
    model = trainable.load("none", CPU, "fp32", config.model_options)
    parameters = model.encoder.geometry.parameters()
    optimiser, module = torch.optim.AdamW(parameters, 1e-3), trainable.module(model.train())
    depth = []
    for _ in range(STEPS):
        losses, _ = trainable.losses(module(batch, [True] * config.clips.length), batch, CPU)
        losses["depth"].backward()
        optimiser.step()
        optimiser.zero_grad()
        depth.append(float(losses["depth"].detach()))
    assert sum(depth[-3:]) / 3 < 0.8 * depth[0]
