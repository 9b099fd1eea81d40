"""Losses of SAM 2: masks, predicted IoUs, and object scores.

Source: the SAM 2 paper (Ravi et al., 2024), its appendix on training, and the values in
sam2.1_hiera_b+_MOSE_finetune.yaml of the package. Losses are averaged over the objects of a clip, then over clips; the
original averages over all objects of a batch.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from cutie_geo.config import Sam2Config
from cutie_geo.sam2.unroll import Sam2Unrolled, masks_of
from cutie_geo.structures import ClipBatch
from cutie_geo.training.losses import Losses


def sam2_losses(outputs: Sam2Unrolled, batch: ClipBatch, config: Sam2Config) -> tuple[Losses, Float[Tensor, "B"]]:
    """Return the losses of a batch, averaged over its clips, and the total of each clip; summed over frames.

    The mask losses apply to the candidate with the lowest loss, the IoU loss to all candidates. For an object that is
    not in the frame only the score loss applies.
    """
    truth = masks_of(batch.labels[:, 1:], outputs.clips, outputs.slots)
    there = truth.flatten(2).amax(-1)  # (S, O)
    focal = config.focal_weight * focal_loss(outputs.candidates, truth, config.focal_alpha, config.focal_gamma)
    dice = config.dice_weight * dice_loss(outputs.candidates, truth)
    least = (focal + dice).detach().argmin(-1, keepdim=True)
    wrong = (outputs.ious - true_ious(outputs.candidates, truth)).abs().mean(-1)
    each = {
        "mask_focal": there * focal.gather(-1, least)[..., 0],
        "mask_dice": there * dice.gather(-1, least)[..., 0],
        "iou": config.iou_weight * there * wrong,
        "score": config.score_weight * F.binary_cross_entropy_with_logits(outputs.scores, there, reduction="none"),
    }
    counts = batch.num_objects.tolist()
    clips = {name: torch.stack([part.mean(1).sum() for part in x.split(counts, 1)]) for name, x in each.items()}
    totals = torch.stack(list(clips.values())).sum(0)
    return {name: loss.mean() for name, loss in clips.items()} | {"total": totals.mean()}, totals


def focal_loss(
    logits: Float[Tensor, "S O M H W"], truth: Float[Tensor, "S O H W"], alpha: float, gamma: float
) -> Float[Tensor, "S O M"]:
    """Return the focal loss, averaged over pixels.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
    """
    wanted = truth[:, :, None].expand_as(logits)
    probs = logits.sigmoid()
    missed = torch.where(wanted > 0, 1 - probs, probs)
    side = torch.where(wanted > 0, alpha, 1 - alpha)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (side * missed**gamma * cross_entropy).flatten(3).mean(-1)


def dice_loss(logits: Float[Tensor, "S O M H W"], truth: Float[Tensor, "S O H W"]) -> Float[Tensor, "S O M"]:
    """Return the dice loss, with 1 added to numerator and denominator."""
    probs, wanted = logits.sigmoid().flatten(3), truth[:, :, None].flatten(3)
    overlap = 2 * (probs * wanted).sum(-1)
    return 1 - (overlap + 1) / (probs.sum(-1) + wanted.sum(-1) + 1)


@torch.no_grad()
def true_ious(logits: Float[Tensor, "S O M H W"], truth: Float[Tensor, "S O H W"]) -> Float[Tensor, "S O M"]:
    """Return the IoUs of thresholded logits with the truth; 0 where both are empty."""
    found, wanted = (logits > 0).flatten(3), (truth[:, :, None] > 0).flatten(3)
    return (found & wanted).sum(-1) / (found | wanted).sum(-1).clamp(min=1)
