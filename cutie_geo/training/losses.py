"""How wrong the masks of a clip are: cross-entropy and dice at points, most of them where the network is unsure.

Source: Cutie specification, section 8.4 (the point sampling is PointRend's, Kirillov et al., CVPR 2020). Depth,
for a geometry encoder that starts at random, is right up to scale and shift.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from cutie_geo.config import LossConfig
from cutie_geo.ops import area, full_precision, similarity
from cutie_geo.structures import ClipBatch
from cutie_geo.training.unroll import Unrolled, with_distance

NEVER = 1e-3
"""What is added to a share of memory before its logarithm, so that a mask from nowhere costs a finite amount."""
FLAT = 1e-6
"""Product of variances below which maps of depth count as flat."""

Losses = dict[str, Tensor]
"""By name, weighted: their sum is `total`."""


def batch_losses(
    said: Unrolled, batch: ClipBatch, config: LossConfig, draws: Sequence[torch.Generator]
) -> tuple[Losses, Float[Tensor, "B"]]:
    """The losses of a batch, means over its clips, and the total of each clip. `draws` are one generator a clip."""
    clips = [clip_losses(said, batch, index, config, draws[index]) for index in range(len(batch.num_objects))]
    if said.depth is not None:
        depths = dict(zip(with_distance(batch), said.depth.float()))
        for b, losses in enumerate(clips):
            losses["depth"] = config.depth_weight * _depth_of(depths.get(b), batch, b, losses["mask_ce"])
    totals = torch.stack([torch.stack(list(losses.values())).sum() for losses in clips])
    means = {name: torch.stack([losses[name] for losses in clips]).mean() for name in clips[0]}
    return means | {"total": totals.mean()}, totals


def clip_losses(said: Unrolled, batch: ClipBatch, index: int, config: LossConfig, draws: torch.Generator) -> Losses:
    """The losses of clip `index`, without slots that it has no object for."""
    channels = int(batch.num_objects[index]) + 1
    truth = _channels(batch.labels[index, 1:], channels)
    queries = said.query_logits[index, :, :channels].unbind(2)
    parts = [
        ("mask", said.logits[index, :, :channels], 1.0),
        ("sensory", said.sensory_logits[index, :, :channels], config.sensory_weight),
        *((f"query{level}", logits, config.query_weight) for level, logits in enumerate(queries)),
    ]
    losses: Losses = {}
    for name, logits, weight in parts:
        cross_entropy, dice = point_losses(logits.float(), truth, config, draws)
        losses |= {f"{name}_ce": weight * cross_entropy, f"{name}_dice": weight * dice}
    if config.match_weight:
        keys = (said.key[index], said.shrinkage[index], said.selection[index])
        losses["match"] = config.match_weight * match_loss(*keys, _channels(batch.labels[index], channels))
    return losses


def match_loss(
    key: Float[Tensor, "T P CK"],
    shrinkage: Float[Tensor, "T P 1"],
    selection: Float[Tensor, "T P CK"],
    truth: Float[Tensor, "T N1 H W"],
) -> Float[Tensor, ""]:
    """How well keys alone tell who is where: the true masks of all frames before, read as memory is read, against the
    true mask of a frame. Cross-entropy; summed over frames, mean over positions.

    The gradients of masks reach keys only through all else, and pass over them where all else is random too: it learns
    to repeat the last mask, and keys that tell nothing are then as good as any.
    """
    side = round((truth.shape[-2] * truth.shape[-1] / key.shape[1]) ** 0.5)
    masks = area(truth, side).flatten(2).transpose(1, 2)  # (T, P, N1)
    with full_precision(key):
        losses = []
        for t in range(1, len(key)):
            past = (key[:t].flatten(0, 1)[None].float(), shrinkage[:t].flatten(0, 1)[None].float())
            weight = similarity(key[t][None].float(), selection[t][None].float(), *past).softmax(dim=-1)[0]
            told = weight @ masks[:t].flatten(0, 1)
            losses.append(-(masks[t] * (told + NEVER).log()).sum(-1).mean())
        return torch.stack(losses).sum()


def _depth_of(depth: Tensor | None, batch: ClipBatch, index: int, like: Tensor) -> Float[Tensor, ""]:
    """The loss of depth in clip `index`; 0 where its distances aren't known, with a gradient of 0 if it has a depth."""
    if depth is None:
        return like.new_zeros(())
    if batch.distance is None:
        return 0 * depth.sum()
    return depth_loss(depth, batch.distance[index, 0])


def depth_loss(depth: Float[Tensor, "h w"], distance: Float[Tensor, "H W"]) -> Float[Tensor, ""]:
    """1 - r, with Pearson's correlation r of relative inverse depth and 1 / distance over the pixels whose distance is
    known (no NaN): 0 for depth that is right up to scale and shift, 1 for depth that says nothing."""
    wanted = F.interpolate(1 / distance[None, None], size=tuple(depth.shape), mode="nearest")[0, 0]
    known = ~wanted.isnan()
    if not known.any():
        return 0 * depth.sum()
    given, truth = (x[known] - x[known].mean() for x in (depth, wanted))
    return 1 - (given * truth).mean() / (given.square().mean() * truth.square().mean() + FLAT).sqrt()


def _channels(labels: Tensor, channels: int) -> Float[Tensor, "S N1 H W"]:
    """Label maps as one channel a slot, background first; slots beyond `channels` count as background."""
    known = torch.where(labels < channels, labels, 0).long()
    return F.one_hot(known, channels).movedim(-1, 1).float()


def point_losses(
    logits: Float[Tensor, "S N1 h w"],
    truth: Float[Tensor, "S N1 H W"],
    config: LossConfig,
    draws: torch.Generator,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Cross-entropy and dice at points drawn by `draws`."""
    with torch.no_grad():
        points = uncertain_points(logits, config, draws)
        wanted = sample(truth, points)
    given = sample(logits, points)
    return cross_entropy_loss(given, wanted), dice_loss(given, wanted)


def cross_entropy_loss(logits: Float[Tensor, "S N1 K"], truth: Float[Tensor, "S N1 K"]) -> Float[Tensor, ""]:
    """Against soft targets; summed over frames, mean over points."""
    return -(truth * F.log_softmax(logits, dim=1)).sum(dim=1).mean(dim=-1).sum()


def dice_loss(logits: Float[Tensor, "S N1 K"], truth: Float[Tensor, "S N1 K"]) -> Float[Tensor, ""]:
    """Of the objects' probabilities; summed over frames, mean over objects."""
    probs, truth = F.softmax(logits, dim=1)[:, 1:], truth[:, 1:]
    overlap = 2 * (probs * truth).sum(dim=-1)
    return (1 - (overlap + 1) / (probs.sum(dim=-1) + truth.sum(dim=-1) + 1)).mean(dim=-1).sum()


# ------------------------------------------------------------------------------------------------------------ points
def uncertain_points(
    logits: Float[Tensor, "S N1 h w"], config: LossConfig, draws: torch.Generator
) -> Float[Tensor, "S K 2"]:
    """Places (x, y) in [0, 1]: the least certain of many, and some from anywhere."""
    frames, chosen = len(logits), int(config.importance * config.points)
    many = _anywhere(frames, int(config.oversample * config.points), draws)
    best = uncertainty(sample(logits, many)).topk(chosen, dim=-1).indices
    near = many.gather(1, best.unsqueeze(-1).expand(-1, -1, 2))
    return torch.cat([near, _anywhere(frames, config.points - chosen, draws)], dim=1)


def _anywhere(frames: int, count: int, draws: torch.Generator) -> Float[Tensor, "S K 2"]:
    return torch.rand(frames, count, 2, generator=draws, device=draws.device)


def uncertainty(logits: Float[Tensor, "S N1 K"]) -> Float[Tensor, "S K"]:
    """At most 0, and 0 where two classes are equally likely: of one object its logit, of several the lead of the best
    over the second."""
    if logits.shape[1] == 2:
        return -logits[:, 1].abs()
    first, second = logits.topk(2, dim=1).values.unbind(1)
    return second - first


def sample(x: Float[Tensor, "S C h w"], points: Float[Tensor, "S K 2"]) -> Float[Tensor, "S C K"]:
    """`x` at places (x, y) in [0, 1], bilinear between pixel centres, 0 beyond the border."""
    return F.grid_sample(x, 2 * points.unsqueeze(1) - 1, mode="bilinear", align_corners=False).squeeze(2)
