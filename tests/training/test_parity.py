"""Training gives the official program's losses and gradients. Limits: Cutie specification, section 12.4."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
import torch
from parity_rules import synthetic_video
from torch import Tensor

from cutie_geo.checkpoints.cutie import our_name
from cutie_geo.config import LossConfig, UnrollConfig
from cutie_geo.model.network import CutieGeo
from cutie_geo.structures import ClipBatch
from cutie_geo.training.losses import (
    Losses,
    batch_losses,
    cross_entropy_loss,
    dice_loss,
    sample,
    uncertainty,
)
from cutie_geo.training.unroll import Unrolled, unroll

GRADIENTS = [
    "pixel_encoder.conv1.weight",
    "pixel_encoder.layer3.0.conv1.weight",
    "pix_feat_proj.weight",
    "key_proj.key_proj.weight",
    "key_proj.d_proj.weight",
    "key_proj.e_proj.weight",
    "mask_encoder.conv1.weight",
    "mask_encoder.bn1.weight",
    "mask_encoder.fuser.block2.conv.weight",
    "mask_encoder.sensory_update.transform.weight",
    "mask_decoder.sensory_update.transform.weight",
    "mask_decoder.sensory_update.g4_conv.weight",
    "mask_decoder.pred.weight",
    "pixel_fuser.sensory_compress.weight",
    "object_transformer.query_init.weight",
    "object_transformer.query_emb.weight",
    "object_transformer.summary_to_query_init.weight",
    "object_transformer.pixel_emb_proj.weight",
    "object_transformer.mask_pred.0.1.weight",
    "object_transformer.mask_pred.3.1.weight",
    "object_transformer.blocks.2.read_from_query.cross_attn.in_proj_weight",
    "object_summarizer.weights_pred.2.weight",
    "aux_computer.sensory_aux.projection.weight",
]
"""The parameters whose gradients the fixtures hold, in their order."""

OFFICIAL_LOSSES = {
    "mask_ce": "loss_ce",
    "mask_dice": "loss_dice",
    "sensory_ce": "aux_sensory_ce",
    "sensory_dice": "aux_sensory_dice",
    **{f"query{level}_{kind}": f"aux_query_{kind}_l{level}" for level in range(4) for kind in ("ce", "dice")},
    "total": "total_loss",
}


class Pass(NamedTuple):
    """One forward and backward pass over the fixtures' clips."""

    said: Unrolled
    losses: Losses
    gradients: dict[str, float]
    """Norms, by our names."""


def official_clips() -> ClipBatch:
    """Two clips of four frames, the second backwards and without object 3."""
    images, labels = (torch.from_numpy(x) for x in synthetic_video(96, 128, 8))
    order = torch.tensor([[0, 1, 2, 3], [7, 6, 5, 4]])
    labels = labels[order]
    labels[1][labels[1] == 3] = 0
    return ClipBatch(images[order], labels, torch.tensor([3, 2]), torch.tensor([0, 1]), ("first", "second"))


@pytest.fixture(scope="module", params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["kept", "recomputed"])
def official_pass(parity_model: CutieGeo, request: pytest.FixtureRequest) -> Iterator[Pass]:
    batch, model = official_clips(), parity_model.train()
    said = unroll(model, batch, UnrollConfig(reference_frames=3, checkpointing=request.param), [True, True, False])
    # the official program draws the points of all clips from one stream
    stream = torch.Generator().manual_seed(0)
    losses, _ = batch_losses(said, batch, LossConfig(points=512), [stream, stream])
    losses["total"].backward()
    gradients = {
        name: float(weight.grad.norm()) for name, weight in model.named_parameters() if weight.grad is not None
    }
    yield Pass(said, losses, gradients)
    model.zero_grad(set_to_none=True)
    model.eval()


def test_losses_are_the_official_ones(official_pass: Pass, parity_numbers: dict[str, np.ndarray]) -> None:
    assert set(official_pass.losses) == set(OFFICIAL_LOSSES)
    for ours, theirs in OFFICIAL_LOSSES.items():
        wanted = float(parity_numbers[f"train_{theirs}"])
        assert float(official_pass.losses[ours].detach()) == pytest.approx(wanted, abs=1e-5 * max(1, wanted)), ours


def test_gradients_are_the_official_ones(
    official_pass: Pass, parity_numbers: dict[str, np.ndarray], parity_model: CutieGeo
) -> None:
    for name, wanted in zip(GRADIENTS, parity_numbers["train_grad_l2"], strict=True):
        assert official_pass.gradients[our_name(name)] == pytest.approx(float(wanted), rel=1e-3), name
    total = sum(norm**2 for norm in official_pass.gradients.values()) ** 0.5
    assert total == pytest.approx(float(parity_numbers["train_grad_total_l2"]), rel=1e-3)
    assert len(official_pass.gradients) == len(list(parity_model.parameters())), "every weight has a gradient"


def test_predictions_are_the_official_ones(official_pass: Pass, parity_numbers: dict[str, np.ndarray]) -> None:
    said = official_pass.said
    ours = {
        **{f"train_logits_{t}": said.logits[:, t - 1, :, ::6, ::6] for t in (1, 2, 3)},
        "train_sensory_logits_2": said.sensory_logits[:, 1],
        "train_q_logits_2": said.query_logits[:, 1],
    }
    for name, tensor in ours.items():
        wanted = torch.from_numpy(parity_numbers[name])
        limit = 5e-5 * max(1.0, float(wanted.abs().max()))
        assert tensor.shape == wanted.shape, name
        assert float((tensor.detach() - wanted).abs().max()) <= limit, name


@pytest.fixture(scope="module")
def given_points() -> tuple[Tensor, Tensor]:
    """Logits of three classes and the truth, at the fixtures' points."""
    rng = np.random.default_rng(5)
    logits = torch.from_numpy(rng.standard_normal((2, 3, 12, 16)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 3, (2, 1, 12, 16)))
    points = torch.from_numpy(rng.random((2, 40, 2)).astype(np.float32))
    truth = torch.cat([labels == i for i in range(3)], dim=1).float()
    return sample(logits, points), sample(truth, points)


def test_losses_at_given_points_are_the_official_ones(
    given_points: tuple[Tensor, Tensor], parity_numbers: dict[str, np.ndarray]
) -> None:
    assert float(cross_entropy_loss(*given_points)) == pytest.approx(float(parity_numbers["loss_ce"]), abs=1e-5)
    assert float(dice_loss(*given_points)) == pytest.approx(float(parity_numbers["loss_dice"]), abs=1e-5)


@pytest.mark.parametrize("channels", [2, 3])
def test_the_uncertainty_of_points_is_the_official_one(
    given_points: tuple[Tensor, Tensor], parity_numbers: dict[str, np.ndarray], channels: int
) -> None:
    ours = uncertainty(given_points[0][:, :channels]).numpy()
    assert np.abs(ours - parity_numbers[f"loss_uncertainty{channels}"][:, 0]).max() < 1e-6
