"""Losses of a clip: cross-entropy and dice at sampled points, matching of keys, and scale-and-shift-invariant depth.

Source: Cutie specification, section 8.4 (the point sampling is PointRend's, Kirillov et al., CVPR 2020).
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
"""Offset of probabilities before the logarithm, which keeps the matching loss finite."""
FLAT = 1e-6
"""Offset of the product of variances, which keeps the correlation of constant depth maps finite."""

Losses = dict[str, Tensor]
"""Weighted losses by name; `total` is their sum."""


class Drawn(NamedTuple):
    """Random points (x, y) in [0, 1] for one logit map of a clip, S frames."""

    many: Float[Tensor, "*clips S M 2"]
    """Candidate points, of which the most uncertain are selected."""
    few: Float[Tensor, "*clips S F 2"]
    """Points that are always used."""


class _Part(NamedTuple):
    """One of the network's logit maps for all clips."""

    name: str
    weight: float
    logits: Float[Tensor, "B S N1 h w"]


def batch_losses(
    outputs: Unrolled, batch: ClipBatch, config: LossConfig, generators: Sequence[torch.Generator]
) -> tuple[Losses, Float[Tensor, "B"]]:
    """Return the losses of a batch, averaged over its clips, and the total of each clip.

    A clip's losses do not depend on the other clips. Clips with the same number of objects are batched.

    Args:
        generators: One random generator per clip, for the points.
    """
    queries = outputs.query_logits.unbind(3)
    parts = [
        _Part("mask", 1.0, outputs.logits),
        _Part("sensory", config.sensory_weight, outputs.sensory_logits),
        *(_Part(f"query{level}", config.query_weight, logits) for level, logits in enumerate(queries)),
    ]
    frames = outputs.logits.shape[1]
    drawn = [[draw_points(frames, config, generator) for _ in parts] for generator in generators]
    members = _by_objects(batch)
    found = [_group_losses(outputs, batch, parts, drawn, clips, config) for clips in members]
    places = torch.tensor([b for clips in members for b in clips], device=outputs.logits.device).argsort()
    losses = {name: torch.cat([each[name] for each in found])[places] for name in found[0]}
    if outputs.depth is not None:
        losses["depth"] = config.depth_weight * _depth_by_clip(outputs.depth.float(), batch)
    totals = torch.stack(list(losses.values())).sum(0)
    return {name: each.mean() for name, each in losses.items()} | {"total": totals.mean()}, totals


def _by_objects(batch: ClipBatch) -> list[list[int]]:
    """Group the clips of a batch by their number of objects."""
    counts = batch.num_objects.tolist()
    return [[b for b, count in enumerate(counts) if count == each] for each in sorted(set(counts))]


def _group_losses(
    outputs: Unrolled,
    batch: ClipBatch,
    parts: Sequence[_Part],
    drawn: Sequence[Sequence[Drawn]],
    clips: list[int],
    config: LossConfig,
) -> dict[str, Float[Tensor, "G"]]:
    """Return the weighted losses, by name, of clips with the same number of objects, without empty slots."""
    channels = int(batch.num_objects[clips[0]]) + 1
    everyone = len(clips) == len(batch.num_objects)
    chosen = torch.tensor(clips, device=outputs.logits.device)

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
        keys = of_group(outputs.key), of_group(outputs.shrinkage), of_group(outputs.selection)
        losses["match"] = config.match_weight * match_loss(*keys, masks)
    return losses


def match_loss(
    key: Float[Tensor, "G T P CK"],
    shrinkage: Float[Tensor, "G T P 1"],
    selection: Float[Tensor, "G T P CK"],
    truth: Float[Tensor, "G T N1 H W"],
) -> Float[Tensor, "G"]:
    """Return the cross-entropy of masks read from the true masks of all previous frames by key similarity alone.

    Summed over frames, averaged over positions. The mask losses reach keys only through all later layers: if these are
    random too, the network learns to repeat the last mask, and keys remain uninformative.
    """
    side = round((truth.shape[-2] * truth.shape[-1] / key.shape[2]) ** 0.5)
    masks = area(truth, side).flatten(3).transpose(2, 3)  # (G, T, P, N1)
    with full_precision(key):
        losses = []
        for t in range(1, key.shape[1]):
            past = (key[:, :t].flatten(1, 2).float(), shrinkage[:, :t].flatten(1, 2).float())
            weight = similarity(key[:, t].float(), selection[:, t].float(), *past).softmax(dim=-1)
            readout = weight @ masks[:, :t].flatten(1, 2)
            losses.append(-(masks[:, t] * (readout + NEVER).log()).sum(-1).mean(-1))
        return torch.stack(losses).sum(0)


def _depth_by_clip(depth: Float[Tensor, "K h w"], batch: ClipBatch) -> Float[Tensor, "B"]:
    """Return the depth loss of each clip; `depth` has the clips of `with_distance`, other clips get 0."""
    if batch.distance is None:
        return torch.cat([0 * depth.sum((1, 2)), depth.new_zeros(len(batch.num_objects) - 1)])
    clips = torch.tensor(with_distance(batch), device=depth.device)
    return depth.new_zeros(len(batch.num_objects)).index_add(0, clips, depth_loss(depth, batch.distance[clips, 0]))


def depth_loss(depth: Float[Tensor, "K h w"], distance: Float[Tensor, "K H W"]) -> Float[Tensor, "K"]:
    """Return 1 - r, with Pearson's correlation r of relative inverse depth and 1 / distance.

    Pixels with NaN distance are ignored. The loss is 0 for depth that is correct up to scale and shift, 1 for
    uncorrelated depth, and 0 for frames without distances.
    """
    wanted = F.interpolate(1 / distance[:, None], size=tuple(depth.shape[1:]), mode="nearest")[:, 0]
    known = ~wanted.isnan()
    count = known.sum((1, 2))

    def mean(x: Tensor) -> Tensor:
        return x.where(known, 0).sum((1, 2)) / count.clamp(min=1)

    given, truth = ((x - mean(x)[:, None, None]).where(known, 0) for x in (depth, wanted))
    correlation = mean(given * truth) / (mean(given.square()) * mean(truth.square()) + FLAT).sqrt()
    return (1 - correlation).where(count > 0, 0 * correlation)


def _channels(labels: Integer[Tensor, "*lead H W"], channels: int) -> Float[Tensor, "*lead N1 H W"]:
    """Convert label maps to one channel per slot, background first; slots from `channels` on become background."""
    known = torch.where(labels < channels, labels, 0)
    return torch.stack([known == slot for slot in range(channels)], dim=-3).float()


def point_losses(
    logits: Float[Tensor, "G S N1 h w"], truth: Float[Tensor, "G S N1 H W"], config: LossConfig, drawn: Drawn
) -> tuple[Float[Tensor, "G"], Float[Tensor, "G"]]:
    """Return cross-entropy and dice of each clip at points selected from `drawn`."""
    with torch.no_grad():
        points = uncertain_points(logits, config, drawn)
        wanted = sample(truth, points)
    given = sample(logits, points)
    return cross_entropy_loss(given, wanted), dice_loss(given, wanted)


def cross_entropy_loss(
    logits: Float[Tensor, "*clips S N1 K"], truth: Float[Tensor, "*clips S N1 K"]
) -> Float[Tensor, "*clips"]:
    """Return the cross-entropy with soft targets, summed over frames and averaged over points."""
    return -(truth * F.log_softmax(logits, dim=-2)).sum(dim=-2).mean(dim=-1).sum(dim=-1)


def dice_loss(logits: Float[Tensor, "*clips S N1 K"], truth: Float[Tensor, "*clips S N1 K"]) -> Float[Tensor, "*clips"]:
    """Return the dice loss of the objects' probabilities, summed over frames and averaged over objects."""
    probs, truth = F.softmax(logits, dim=-2)[..., 1:, :], truth[..., 1:, :]
    overlap = 2 * (probs * truth).sum(dim=-1)
    return (1 - (overlap + 1) / (probs.sum(dim=-1) + truth.sum(dim=-1) + 1)).mean(dim=-1).sum(dim=-1)


# ------------------------------------------------------------------------------------------------------------ points
def draw_points(frames: int, config: LossConfig, generators: torch.Generator) -> Drawn:
    """Sample the points for one logit map of one clip."""
    few = config.points - _chosen_points(config)
    return Drawn(
        _anywhere(frames, int(config.oversample * config.points), generators), _anywhere(frames, few, generators)
    )


def _chosen_points(config: LossConfig) -> int:
    return int(config.importance * config.points)


def _anywhere(frames: int, count: int, generators: torch.Generator) -> Float[Tensor, "S K 2"]:
    return torch.rand(frames, count, 2, generator=generators, device=generators.device)


def uncertain_points(
    logits: Float[Tensor, "*clips S N1 h w"], config: LossConfig, drawn: Drawn
) -> Float[Tensor, "*clips S K 2"]:
    """Return points (x, y) in [0, 1]: the most uncertain candidates, followed by the uniformly sampled points."""
    best = uncertainty(sample(logits, drawn.many)).topk(_chosen_points(config), dim=-1).indices
    near = drawn.many.gather(-2, best.unsqueeze(-1).expand(*best.shape, 2))
    return torch.cat([near, drawn.few], dim=-2)


def uncertainty(logits: Float[Tensor, "*frames N1 K"]) -> Float[Tensor, "*frames K"]:
    """Return the uncertainty, which is at most 0, and 0 where two classes are equally likely.

    For one object it is the negative absolute logit, for several the second largest minus the largest logit.
    """
    if logits.shape[-2] == 2:
        return -logits[..., 1, :].abs()
    first, second = logits.topk(2, dim=-2).values.unbind(-2)
    return second - first


def sample(x: Float[Tensor, "*frames C h w"], points: Float[Tensor, "*frames K 2"]) -> Float[Tensor, "*frames C K"]:
    """Sample `x` bilinearly at points (x, y) in [0, 1], with zero padding."""
    grid = 2 * points.flatten(0, -3).unsqueeze(1) - 1
    found = F.grid_sample(x.flatten(0, -4), grid, mode="bilinear", align_corners=False).squeeze(2)
    return found.unflatten(0, x.shape[:-3])
