"""How wrong the masks of a clip are: cross-entropy and dice at points, most of them where the network is unsure.

Source: Cutie specification, section 8.4 (the point sampling is PointRend's, Kirillov et al., CVPR 2020). Depth,
for a geometry encoder that starts at random, is right up to scale and shift.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
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


class Drawn(NamedTuple):
    """Random places (x, y) in [0, 1] of one map of logits of a clip, S frames."""

    many: Float[Tensor, "*clips S M 2"]
    """Those of which the least certain count."""
    few: Float[Tensor, "*clips S F 2"]
    """Those that count in any case."""


class _Part(NamedTuple):
    """One of the network's answers about all clips."""

    name: str
    weight: float
    logits: Float[Tensor, "B S N1 h w"]


def batch_losses(
    said: Unrolled, batch: ClipBatch, config: LossConfig, draws: Sequence[torch.Generator]
) -> tuple[Losses, Float[Tensor, "B"]]:
    """The losses of a batch, means over its clips, and the total of each clip. `draws` are one generator a clip.

    A clip's losses are what they would be without the others. Clips of as many objects are computed together.
    """
    queries = said.query_logits.unbind(3)
    parts = [
        _Part("mask", 1.0, said.logits),
        _Part("sensory", config.sensory_weight, said.sensory_logits),
        *(_Part(f"query{level}", config.query_weight, logits) for level, logits in enumerate(queries)),
    ]
    frames = said.logits.shape[1]
    drawn = [[draw_points(frames, config, generator) for _ in parts] for generator in draws]
    members = _by_objects(batch)
    found = [_group_losses(said, batch, parts, drawn, clips, config) for clips in members]
    places = torch.tensor([b for clips in members for b in clips], device=said.logits.device).argsort()
    losses = {name: torch.cat([each[name] for each in found])[places] for name in found[0]}
    if said.depth is not None:
        losses["depth"] = config.depth_weight * _depth_by_clip(said.depth.float(), batch)
    totals = torch.stack(list(losses.values())).sum(0)
    return {name: each.mean() for name, each in losses.items()} | {"total": totals.mean()}, totals


def _by_objects(batch: ClipBatch) -> list[list[int]]:
    """The clips of a batch, those with as many objects in one list."""
    counts = batch.num_objects.tolist()
    return [[b for b, count in enumerate(counts) if count == each] for each in sorted(set(counts))]


def _group_losses(
    said: Unrolled,
    batch: ClipBatch,
    parts: Sequence[_Part],
    drawn: Sequence[Sequence[Drawn]],
    clips: list[int],
    config: LossConfig,
) -> dict[str, Float[Tensor, "G"]]:
    """By name, the weighted losses of each of some clips of as many objects, without slots that they have none for."""
    channels = int(batch.num_objects[clips[0]]) + 1
    everyone = len(clips) == len(batch.num_objects)
    chosen = torch.tensor(clips, device=said.logits.device)

    def of_group(x: Tensor) -> Tensor:
        return x if everyone else x[chosen]

    masks = _channels(of_group(batch.labels), channels)
    losses: dict[str, Tensor] = {}
    for index, (name, weight, logits) in enumerate(parts):
        places = Drawn(*(torch.stack(each) for each in zip(*(drawn[b][index] for b in clips))))
        given = of_group(logits)[:, :, :channels].float()
        cross_entropy, dice = point_losses(given, masks[:, 1:], config, places)
        losses |= {f"{name}_ce": weight * cross_entropy, f"{name}_dice": weight * dice}
    if config.match_weight:
        keys = of_group(said.key), of_group(said.shrinkage), of_group(said.selection)
        losses["match"] = config.match_weight * match_loss(*keys, masks)
    return losses


def match_loss(
    key: Float[Tensor, "G T P CK"],
    shrinkage: Float[Tensor, "G T P 1"],
    selection: Float[Tensor, "G T P CK"],
    truth: Float[Tensor, "G T N1 H W"],
) -> Float[Tensor, "G"]:
    """How well keys alone tell who is where: the true masks of all frames before, read as memory is read, against the
    true mask of a frame. Cross-entropy; summed over frames, mean over positions.

    The gradients of masks reach keys only through all else, and pass over them where all else is random too: it learns
    to repeat the last mask, and keys that tell nothing are then as good as any.
    """
    side = round((truth.shape[-2] * truth.shape[-1] / key.shape[2]) ** 0.5)
    masks = area(truth, side).flatten(3).transpose(2, 3)  # (G, T, P, N1)
    with full_precision(key):
        losses = []
        for t in range(1, key.shape[1]):
            past = (key[:, :t].flatten(1, 2).float(), shrinkage[:, :t].flatten(1, 2).float())
            weight = similarity(key[:, t].float(), selection[:, t].float(), *past).softmax(dim=-1)
            told = weight @ masks[:, :t].flatten(1, 2)
            losses.append(-(masks[:, t] * (told + NEVER).log()).sum(-1).mean(-1))
        return torch.stack(losses).sum(0)


def _depth_by_clip(depth: Float[Tensor, "K h w"], batch: ClipBatch) -> Float[Tensor, "B"]:
    """The loss of depth in each clip, of which `depth` has those that `with_distance` names; 0 for the others."""
    if batch.distance is None:
        return torch.cat([0 * depth.sum((1, 2)), depth.new_zeros(len(batch.num_objects) - 1)])
    clips = torch.tensor(with_distance(batch), device=depth.device)
    return depth.new_zeros(len(batch.num_objects)).index_add(0, clips, depth_loss(depth, batch.distance[clips, 0]))


def depth_loss(depth: Float[Tensor, "K h w"], distance: Float[Tensor, "K H W"]) -> Float[Tensor, "K"]:
    """1 - r, with Pearson's correlation r of relative inverse depth and 1 / distance over the pixels whose distance is
    known (no NaN): 0 for depth that is right up to scale and shift, 1 for depth that says nothing; 0 where no distance
    is known."""
    wanted = F.interpolate(1 / distance[:, None], size=tuple(depth.shape[1:]), mode="nearest")[:, 0]
    known = ~wanted.isnan()
    count = known.sum((1, 2))

    def mean(x: Tensor) -> Tensor:
        return x.where(known, 0).sum((1, 2)) / count.clamp(min=1)

    given, truth = ((x - mean(x)[:, None, None]).where(known, 0) for x in (depth, wanted))
    correlation = mean(given * truth) / (mean(given.square()) * mean(truth.square()) + FLAT).sqrt()
    return (1 - correlation).where(count > 0, 0 * correlation)


def _channels(labels: Integer[Tensor, "*lead H W"], channels: int) -> Float[Tensor, "*lead N1 H W"]:
    """Label maps as one channel a slot, background first; slots beyond `channels` count as background."""
    known = torch.where(labels < channels, labels, 0)
    return torch.stack([known == slot for slot in range(channels)], dim=-3).float()


def point_losses(
    logits: Float[Tensor, "G S N1 h w"], truth: Float[Tensor, "G S N1 H W"], config: LossConfig, drawn: Drawn
) -> tuple[Float[Tensor, "G"], Float[Tensor, "G"]]:
    """Cross-entropy and dice of each clip at points chosen among `drawn`."""
    with torch.no_grad():
        points = uncertain_points(logits, config, drawn)
        wanted = sample(truth, points)
    given = sample(logits, points)
    return cross_entropy_loss(given, wanted), dice_loss(given, wanted)


def cross_entropy_loss(
    logits: Float[Tensor, "*clips S N1 K"], truth: Float[Tensor, "*clips S N1 K"]
) -> Float[Tensor, "*clips"]:
    """Against soft targets; summed over frames, mean over points."""
    return -(truth * F.log_softmax(logits, dim=-2)).sum(dim=-2).mean(dim=-1).sum(dim=-1)


def dice_loss(logits: Float[Tensor, "*clips S N1 K"], truth: Float[Tensor, "*clips S N1 K"]) -> Float[Tensor, "*clips"]:
    """Of the objects' probabilities; summed over frames, mean over objects."""
    probs, truth = F.softmax(logits, dim=-2)[..., 1:, :], truth[..., 1:, :]
    overlap = 2 * (probs * truth).sum(dim=-1)
    return (1 - (overlap + 1) / (probs.sum(dim=-1) + truth.sum(dim=-1) + 1)).mean(dim=-1).sum(dim=-1)


# ------------------------------------------------------------------------------------------------------------ points
def draw_points(frames: int, config: LossConfig, draws: torch.Generator) -> Drawn:
    """The points of one map of logits of one clip."""
    few = config.points - _chosen_points(config)
    return Drawn(_anywhere(frames, int(config.oversample * config.points), draws), _anywhere(frames, few, draws))


def _chosen_points(config: LossConfig) -> int:
    return int(config.importance * config.points)


def _anywhere(frames: int, count: int, draws: torch.Generator) -> Float[Tensor, "S K 2"]:
    return torch.rand(frames, count, 2, generator=draws, device=draws.device)


def uncertain_points(
    logits: Float[Tensor, "*clips S N1 h w"], config: LossConfig, drawn: Drawn
) -> Float[Tensor, "*clips S K 2"]:
    """Places (x, y) in [0, 1]: the least certain of many, and some from anywhere."""
    best = uncertainty(sample(logits, drawn.many)).topk(_chosen_points(config), dim=-1).indices
    near = drawn.many.gather(-2, best.unsqueeze(-1).expand(*best.shape, 2))
    return torch.cat([near, drawn.few], dim=-2)


def uncertainty(logits: Float[Tensor, "*frames N1 K"]) -> Float[Tensor, "*frames K"]:
    """At most 0, and 0 where two classes are equally likely: of one object its logit, of several the lead of the best
    over the second."""
    if logits.shape[-2] == 2:
        return -logits[..., 1, :].abs()
    first, second = logits.topk(2, dim=-2).values.unbind(-2)
    return second - first


def sample(x: Float[Tensor, "*frames C h w"], points: Float[Tensor, "*frames K 2"]) -> Float[Tensor, "*frames C K"]:
    """`x` at places (x, y) in [0, 1], bilinear between pixel centres, 0 beyond the border."""
    grid = 2 * points.flatten(0, -3).unsqueeze(1) - 1
    found = F.grid_sample(x.flatten(0, -4), grid, mode="bilinear", align_corners=False).squeeze(2)
    return found.unflatten(0, x.shape[:-3])
