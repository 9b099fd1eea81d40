"""SAM 2 in training: its own forward pass, its authors' losses, and gradients where they belong."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from stock_sam2 import tiny_sam2
from torch import Tensor

from cutie_geo.config import ClipConfig, OptimiserConfig, Sam2Config, SourceConfig, TrainConfig, UnrollConfig
from cutie_geo.data.clips import ClipDataset, build_sources, collate
from cutie_geo.model.blocks import normalise
from cutie_geo.runs.trainables import trainable_for
from cutie_geo.sam2.losses import sam2_losses
from cutie_geo.sam2.networks import Sam2Model
from cutie_geo.sam2.trainable import OF_CLICKS, Sam2Trainable, freeze_parts, sam2_groups
from cutie_geo.sam2.unroll import Sam2ClipUnroll, Sam2Unrolled, unroll_sam2
from cutie_geo.structures import ClipBatch, ClipKey
from cutie_geo.training.optimiser import build_optimiser
from cutie_geo.training.stage import unreached
from cutie_geo.training.trainable import CutieTrainable

NO_DROPOUT = tuple(
    f"++model.memory_attention.layer.{name}=0"
    for name in ("dropout", "self_attention.dropout", "cross_attention.dropout")
)
RENDERED = SourceConfig("rendered", clips=8, scene=("max_objects=2", "min_size=0.2"))
CLIPS = ClipConfig(length=3, crop=64, max_objects=2, max_skip=((0.0, 2),))
CONFIG = TrainConfig(stage="s", model="sam2.1-hiera-tiny", data=(RENDERED,), steps=1, batch=2, clips=CLIPS)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def batch() -> ClipBatch:
    """Two procedural clips."""
    dataset = ClipDataset(build_sources((RENDERED,), CLIPS), CLIPS, seed=1)
    return collate([dataset[ClipKey(0, i, 0.0)] for i in range(2)])


def row(batch: ClipBatch, k: int) -> ClipBatch:
    """One of its clips."""
    one = slice(k, k + 1)
    return ClipBatch(batch.images[one], batch.labels[one], batch.num_objects[one], batch.seeds[one], batch.names[one])


# ------------------------------------------------------------------------------------------------------ forward pass
@torch.no_grad()
def test_training_says_what_the_packages_own_steps_say(batch: ClipBatch) -> None:
    """Object by object, through the one function of the package that runs a whole step."""
    model = tiny_sam2()
    said, network, row = unroll_sam2(model, batch, UnrollConfig()), model.network, 0
    for b, count in enumerate(batch.num_objects.tolist()):
        found = network.forward_image(normalise(batch.images[b].float() / 255))
        _, features, positions, sizes = network._prepare_backbone_features(found)
        for slot in range(1, count + 1):
            memory: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
            for t in range(3):
                mask = (batch.labels[b, 0] == slot).float()[None, None] if t == 0 else None
                output = network.track_step(
                    t, t == 0, [x[:, t : t + 1] for x in features], [x[:, t : t + 1] for x in positions], sizes,
                    None, mask, memory, 3,
                )  # fmt: skip
                memory["cond_frame_outputs" if t == 0 else "non_cond_frame_outputs"][t] = output
                if t > 0:
                    masks = said.best[t - 1, row], output["pred_masks_high_res"][0, 0]
                    torch.testing.assert_close(*masks, atol=1e-4, rtol=1e-4)
                    torch.testing.assert_close(said.scores[t - 1, row], output["object_score_logits"][0, 0])
            row += 1
    assert row == said.best.shape[1] == int(batch.num_objects.sum())
    assert said.candidates.shape[2] == 3


@torch.no_grad()
def test_a_clip_does_not_depend_on_those_beside_it(batch: ClipBatch) -> None:
    model = tiny_sam2()
    together = unroll_sam2(model, batch, UnrollConfig())
    _, totals = sam2_losses(together, batch, Sam2Config())
    for k in range(2):
        alone = unroll_sam2(model, row(batch, k), UnrollConfig())
        torch.testing.assert_close(alone.candidates, together.candidates[:, together.clips == k], atol=1e-3, rtol=1e-4)
        losses, _ = sam2_losses(alone, row(batch, k), Sam2Config())
        torch.testing.assert_close(losses["total"], totals[k], atol=1e-3, rtol=1e-4)


def test_encoding_in_parts_and_computing_again_change_no_gradient(batch: ClipBatch) -> None:
    found = []
    for config in (UnrollConfig(), UnrollConfig(checkpointing=True, encode_at_once=2)):
        model = tiny_sam2(overrides=NO_DROPOUT)
        losses, _ = sam2_losses(unroll_sam2(model.train(), batch, config), batch, Sam2Config())
        losses["total"].backward()
        found.append([w.grad for w in model.parameters() if w.grad is not None])
    for plain, again in zip(*found, strict=True):
        # single numbers are sums with much cancellation: how they are rounded is the processor's business
        assert (again - plain).norm() <= 1e-3 * plain.norm() + 1e-4


def test_pictures_get_the_masks_of_each_clips_slots(batch: ClipBatch) -> None:
    best = torch.stack([torch.full((3, 2, 2), value) for value in (1.0, -1.0)])
    said = Sam2Unrolled(best[:, :, None], best[:, :, :1, 0], best[:, :, 0, 0], best,
                        torch.tensor([0, 1, 1]), torch.tensor([1, 1, 2]))  # fmt: skip
    assert said.logits.shape == (2, 2, 3, 2, 2)
    assert said.logits[0, 0].argmax(0).unique().tolist() == [1]
    assert said.logits[0, 1].argmax(0).unique().tolist() == [0]
    assert said.logits[0, :, 2].isneginf().all(), "a slot that holds no object"


# ------------------------------------------------------------------------------------------------------------ losses
def made_up(truth: Tensor, candidates: Tensor, ious: Tensor, scores: Tensor) -> tuple[Sam2Unrolled, ClipBatch]:
    """What is said of a clip's one object, whose masks are `truth` (S, H, W): `candidates` (S, M, H, W)."""
    labels = torch.cat([torch.ones_like(truth[:1]), truth])[None].long()
    batch = ClipBatch(
        torch.zeros(1, len(truth) + 1, 3, *truth.shape[1:]), labels, torch.tensor([1]), torch.tensor([0]), ("a",)
    )
    one = torch.ones(1, dtype=torch.long)
    return Sam2Unrolled(candidates[:, None], ious[:, None], scores[:, None], candidates[:, :1], one - 1, one), batch


def test_the_losses_are_those_of_the_paper_by_hand() -> None:
    from torchvision.ops import sigmoid_focal_loss

    torch.manual_seed(0)
    truth = torch.zeros(2, 8, 8)
    truth[0, 2:6, 2:6] = 1  # on the second frame there is no object
    candidates = torch.randn(2, 3, 8, 8)
    candidates[0, 1] += 3 * (2 * truth[0] - 1)  # the best of three
    ious, scores = torch.rand(2, 3), torch.tensor([0.7, -0.3])
    losses, totals = sam2_losses(*made_up(truth, candidates, ious, scores), Sam2Config())
    chosen, wanted = candidates[0, 1], truth[0]
    focal = sigmoid_focal_loss(chosen, wanted, alpha=0.25, gamma=2, reduction="mean")
    torch.testing.assert_close(losses["mask_focal"], 20 * focal)
    probs = chosen.sigmoid()
    dice = 1 - (2 * (probs * wanted).sum() + 1) / (probs.sum() + wanted.sum() + 1)
    torch.testing.assert_close(losses["mask_dice"], dice)
    masks = candidates[0] > 0
    true = (masks & (wanted > 0)).sum((1, 2)) / (masks | (wanted > 0)).sum((1, 2))
    torch.testing.assert_close(losses["iou"], (ious[0] - true).abs().mean())
    torch.testing.assert_close(losses["score"], -torch.tensor(0.7).sigmoid().log() - torch.tensor(0.3).sigmoid().log())
    total = sum(loss for name, loss in losses.items() if name != "total")
    torch.testing.assert_close(losses["total"], total)
    torch.testing.assert_close(totals, losses["total"][None])


def test_only_the_best_candidate_is_drawn_to_the_truth_and_none_where_nothing_is() -> None:
    truth = torch.zeros(2, 4, 4)
    truth[0, :2] = 1
    candidates = torch.stack([8 * (2 * truth - 1), torch.zeros(2, 4, 4), -8 * (2 * truth - 1)], 1).requires_grad_()
    losses, _ = sam2_losses(*made_up(truth, candidates, torch.rand(2, 3), torch.zeros(2)), Sam2Config())
    losses["total"].backward()
    assert candidates.grad is not None
    assert candidates.grad[0, 0].abs().sum() > 0
    assert candidates.grad[0, 1:].abs().sum() == 0
    assert candidates.grad[1].abs().sum() == 0


# --------------------------------------------------------------------------------------------------------- gradients
def step_loss(model: Sam2Model, batch: ClipBatch) -> Tensor:
    losses, _ = Sam2Trainable(CONFIG).losses(Sam2ClipUnroll(model, UnrollConfig())(batch, [True] * 3), batch, CPU)
    return losses["total"]


@pytest.mark.parametrize("freeze", [(), ("image_encoder.trunk", "maskmem_tpos_enc")])
def test_gradients_reach_all_that_is_trained_and_nothing_else(batch: ClipBatch, freeze: tuple[str, ...]) -> None:
    model = tiny_sam2(overrides=NO_DROPOUT).train()
    freeze_parts(model, Sam2Config(freeze=freeze))
    left = {name.removeprefix("network.") for name in unreached(model, partial(step_loss, model, batch))}
    assert left == {"no_mem_embed", "no_mem_pos_enc"}, "those of frames without memory"
    for name in left:
        model.network.get_parameter(name).requires_grad_(False)
    score = model.network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias  # type: ignore[union-attr, index]
    others = batch._replace(labels=(batch.labels == 0).to(batch.labels.dtype), num_objects=torch.ones(2).long())
    for clips in (batch, others):  # for which another of the three candidates is the best
        step_loss(model, clips).backward()
    with torch.no_grad():
        score -= 2.0  # so that objects are taken to be gone, which has weights of its own
    step_loss(model, batch).backward()
    still = [n for n, w in model.network.named_parameters() if w.grad is not None and not w.grad.abs().sum() > 0]
    assert still == []
    frozen = {name for name, weight in model.network.named_parameters() if not weight.requires_grad}
    names = {name for name, _ in model.network.named_parameters()}
    assert frozen == left | {name for name in names if name.startswith((*freeze, *OF_CLICKS))}
    assert {name for name, weight in model.network.named_parameters() if weight.grad is None} == frozen


@pytest.mark.slow
def test_the_loss_falls_on_procedural_clips(batch: ClipBatch) -> None:
    model = tiny_sam2(overrides=NO_DROPOUT).train()
    config = OptimiserConfig(learning_rate=2e-3, encoder_factor=0.6)
    optimiser = build_optimiser(sam2_groups(model.network, config, 0.9), config, half=False)
    seen = []
    for _ in range(20):
        loss = step_loss(model, batch)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        seen.append(float(loss.detach()))
    assert seen[-1] < 0.5 * seen[0]


# ------------------------------------------------------------------------------------------------------------ groups
def test_rates_fall_towards_the_first_layer_and_biases_do_not_decay() -> None:
    network = tiny_sam2().network
    config = OptimiserConfig(learning_rate=5e-6, encoder_factor=0.6, weight_decay=0.1)
    found = sam2_groups(network, config, 0.9)
    of = {name: group for group in found for name in group.weights}
    assert of.keys() == dict(network.named_parameters()).keys()
    blocks = len(network.image_encoder.trunk.blocks)  # type: ignore[arg-type]
    assert of["memory_encoder.out_proj.weight"].factor == 1.0
    assert of["image_encoder.neck.convs.0.conv.weight"].factor == 0.6
    assert of["image_encoder.trunk.pos_embed"].factor == 0.6
    trunk = "image_encoder.trunk"
    assert of[f"{trunk}.patch_embed.proj.weight"].factor == pytest.approx(0.6 * 0.9 ** (blocks + 1))
    for block in range(blocks):
        assert of[f"{trunk}.blocks.{block}.attn.qkv.weight"].factor == pytest.approx(0.6 * 0.9 ** (blocks - block))
    assert of[f"{trunk}.blocks.0.attn.qkv.weight"].decay == 0.1
    assert of[f"{trunk}.blocks.0.attn.qkv.bias"].decay == of[f"{trunk}.blocks.0.norm1.weight"].decay == 0.0
    network.requires_grad_(False)
    with pytest.raises(ValueError, match="no weights to train"):
        sam2_groups(network, config, 0.9)


def test_settings_of_sam2_are_for_sam2() -> None:
    assert isinstance(trainable_for(CONFIG), Sam2Trainable)
    assert isinstance(trainable_for(replace(CONFIG, model="cutie-base", sam2=None)), CutieTrainable)
    with pytest.raises(ValueError, match="sam2: got settings with the model cutie-base"):
        trainable_for(TrainConfig(stage="s", model="cutie-base", data=(RENDERED,), steps=1, sam2=Sam2Config()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"focal_weight": -1.0}, "focal_weight: got -1.0"),
        ({"focal_weight": 0.0, "dice_weight": 0.0}, "expected one above 0"),
        ({"focal_alpha": 1.5}, "focal_alpha: got 1.5"),
        ({"layer_decay": 0.0}, "layer_decay: got 0.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sam2Config(**change)  # type: ignore[arg-type]
