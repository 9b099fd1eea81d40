"""How wrong SAM 2's masks of a clip are, how wrong it is about their quality, and about objects being there.

Source: the SAM 2 paper (Ravi et al., 2024), its appendix on training, and the values that its authors published with
sam2.1_hiera_b+_MOSE_finetune.yaml of the package. A clip counts as the mean over its objects, a batch as the mean over
its clips; there all objects of a batch count alike.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from cutie_geo.config import Sam2Config
from cutie_geo.structures import ClipBatch
from cutie_geo.training.losses import Losses
from cutie_geo.training.sam2_unroll import Sam2Unrolled, masks_of


def sam2_losses(said: Sam2Unrolled, batch: ClipBatch, config: Sam2Config) -> tuple[Losses, Float[Tensor, "B"]]:
    """The losses of a batch, means over its clips, and the total of each clip; summed over frames.

    Of the candidates of an object only the one with the least loss is drawn to the truth; all are to know their IoU.
    Where the object isn't in the frame, only its score counts.
    """
    truth = masks_of(batch.labels[:, 1:], said.clips, said.slots)
    there = truth.flatten(2).amax(-1)  # (S, O)
    focal = config.focal_weight * focal_loss(said.candidates, truth, config.focal_alpha, config.focal_gamma)
    dice = config.dice_weight * dice_loss(said.candidates, truth)
    least = (focal + dice).detach().argmin(-1, keepdim=True)
    wrong = (said.ious - true_ious(said.candidates, truth)).abs().mean(-1)
    each = {
        "mask_focal": there * focal.gather(-1, least)[..., 0],
        "mask_dice": there * dice.gather(-1, least)[..., 0],
        "iou": config.iou_weight * there * wrong,
        "score": config.score_weight * F.binary_cross_entropy_with_logits(said.scores, there, reduction="none"),
    }
    counts = batch.num_objects.tolist()
    clips = {name: torch.stack([part.mean(1).sum() for part in x.split(counts, 1)]) for name, x in each.items()}
    totals = torch.stack(list(clips.values())).sum(0)
    return {name: loss.mean() for name, loss in clips.items()} | {"total": totals.mean()}, totals


def focal_loss(
    logits: Float[Tensor, "S O M H W"], truth: Float[Tensor, "S O H W"], alpha: float, gamma: float
) -> Float[Tensor, "S O M"]:
    """Cross-entropy of pixels, weighted by how far from right they are; mean over pixels.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
    """
    wanted = truth[:, :, None].expand_as(logits)
    probs = logits.sigmoid()
    missed = torch.where(wanted > 0, 1 - probs, probs)
    side = torch.where(wanted > 0, alpha, 1 - alpha)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (side * missed**gamma * cross_entropy).flatten(3).mean(-1)


def dice_loss(logits: Float[Tensor, "S O M H W"], truth: Float[Tensor, "S O H W"]) -> Float[Tensor, "S O M"]:
    """1 minus the overlap, twice, over the sum of both areas, with 1 added to each."""
    probs, wanted = logits.sigmoid().flatten(3), truth[:, :, None].flatten(3)
    overlap = 2 * (probs * wanted).sum(-1)
    return 1 - (overlap + 1) / (probs.sum(-1) + wanted.sum(-1) + 1)


@torch.no_grad()
def true_ious(logits: Float[Tensor, "S O M H W"], truth: Float[Tensor, "S O H W"]) -> Float[Tensor, "S O M"]:
    """The IoUs of the masks where logits are above 0; 0 where both are empty."""
    found, wanted = (logits > 0).flatten(3), (truth[:, :, None] > 0).flatten(3)
    return (found & wanted).sum(-1) / (found | wanted).sum(-1).clamp(min=1)
