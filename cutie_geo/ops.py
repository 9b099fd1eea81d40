"""Pure tensor functions: sizes, soft aggregation, chunks of objects, and the two ways to read memory."""

import functools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


# ----------------------------------------------------------------------------------------------------------- sizes
class Padding(NamedTuple):
    """Pixels added around an image."""

    top: int
    bottom: int
    left: int
    right: int

    def pad(self, x: Tensor) -> Tensor:
        """`x` (..., H, W) inside a border of zeros."""
        return F.pad(x, (self.left, self.right, self.top, self.bottom))

    def crop(self, x: Tensor) -> Tensor:
        """The inverse of `pad`."""
        height, width = x.shape[-2:]
        return x[..., self.top : height - self.bottom, self.left : width - self.right]


def padding_to(size: tuple[int, int], multiple: int) -> Padding:
    """The border that brings (H, W) to a multiple; of an odd border the bottom and the right get one pixel more."""
    high, wide = (-size[0]) % multiple, (-size[1]) % multiple
    return Padding(high // 2, high - high // 2, wide // 2, wide - wide // 2)


def internal_size(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """(H, W) with its shorter side cut to `shorter`; as it is when `shorter` is not positive or not smaller."""
    least = min(size)
    if shorter <= 0 or least <= shorter:
        return size
    return int(size[0] / least * shorter), int(size[1] / least * shorter)


def bilinear(x: Float[Tensor, "B C H W"], size: tuple[int, int], antialias: bool = False) -> Float[Tensor, "B C H2 W2"]:
    """Bilinear resize between pixel centres."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=antialias)


def nearest_labels(labels: Int[Tensor, "H W"], size: tuple[int, int]) -> Int[Tensor, "H2 W2"]:
    """Nearest resize of a label map by pixel centres ("nearest-exact"); ids of any size stay exact."""
    rows, columns = (
        # whole numbers: where a centre lies between two pixels, rounding must not decide
        ((2 * torch.arange(new, device=labels.device) + 1) * old) // (2 * new)
        for old, new in zip(labels.shape, size)
    )
    return labels[rows[:, None], columns]


def upsample(x: Float[Tensor, "B C H W"], factor: int) -> Float[Tensor, "B C H2 W2"]:
    """Bilinear enlargement by an integer factor."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def area(x: Float[Tensor, "*lead H W"], factor: int) -> Float[Tensor, "*lead h w"]:
    """Means over cells of `factor` x `factor` pixels."""
    if x.ndim <= 4:
        return F.avg_pool2d(x, factor)
    return F.avg_pool2d(x.flatten(0, -4), factor).unflatten(0, x.shape[:-3])


# --------------------------------------------------------------------------------------------------------- objects
def full_precision(x: Tensor) -> torch.autocast:
    """A context without autocast, for what half precision would spoil."""
    return torch.autocast(x.device.type, enabled=False)


def quick_gradients(device: torch.device) -> AbstractContextManager[object]:
    """A context for attention that is trained. On a CPU the fused kernel is slow backwards: plain products take a
    quarter off a whole step of training (docs/experiments.md)."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def strongest(x: Float[Tensor, "..."], dim: int = 0) -> Int[Tensor, "..."]:
    """The channel with the largest value at each position, the first of equals: `argmax`, which on a CPU takes forty
    times as long over channels that lie far apart in memory."""
    return x.max(dim=dim).indices


def soft_aggregate(probs: Float[Tensor, "B N *rest"]) -> Float[Tensor, "B N1 *rest"]:
    """Logits of background and objects from independent object probabilities; their softmax sums to 1.

    The background's probability is that no object is there. The odds are taken from clamped float32 probabilities,
    not from logits: weights are trained and evaluated with exactly this rounding near 1.
    Source: Cutie specification, section 1.6 (STM's soft aggregation).
    """
    with full_precision(probs):
        probs = probs.float()
        background = (1 - probs).prod(dim=1, keepdim=True)
        everything = torch.cat([background, probs], dim=1).clamp(1e-7, 1 - 1e-7)
        return (everything / (1 - everything)).log()


def others(masks: Float[Tensor, "B N *rest"]) -> Float[Tensor, "B N *rest"]:
    """For each object the sum of all other objects' masks, in [0, 1]."""
    return (masks.sum(dim=1, keepdim=True) - masks).clamp(0, 1)


def in_object_chunks(fn: Callable[..., tuple[Tensor, ...]], *per_object: Tensor, chunk: int) -> tuple[Tensor, ...]:
    """`fn(*per_object)`, `chunk` objects at a time along axis 1. Bounds memory; changes values by rounding only."""
    count = per_object[0].shape[1]
    if chunk < 1 or chunk >= count:
        return fn(*per_object)
    parts = [_chunk(fn, part) for part in zip(*(x.split(chunk, dim=1) for x in per_object))]
    return tuple(_joined(outputs) for outputs in zip(*parts))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """`parts` one after another along the object axis. Feature maps (B, N, C, h, w) keep their channels last in memory:
    another order would mean other kernels, and other rounding, than without chunks."""
    if parts[0].ndim < 5:
        return torch.cat(list(parts), dim=1)
    return rearrange(
        torch.cat([rearrange(part, "b n c h w -> b n h w c") for part in parts], 1), "b n h w c -> b n c h w"
    )


LONE_CONVOLUTION = 20480
"""PyTorch leaves oneDNN for a convolution of one image with at most this many numbers, and rounds differently then."""


def _chunk(fn: Callable[..., tuple[Tensor, ...]], part: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """`fn(*part)`; a small object that is alone goes in twice, to meet the kernels that it would meet in company."""
    first = part[0]
    if first.shape[:2] == (1, 1) and not first.is_cuda and first.numel() <= LONE_CONVOLUTION:
        return tuple(output[:, :1] for output in fn(*(_joined([x, x]) for x in part)))
    return fn(*part)


def grouped(fn: Callable[[Tensor], Tensor], x: Float[Tensor, "B N C H W"]) -> Float[Tensor, "B N C2 H2 W2"]:
    """`fn` on every object by itself: the object axis is merged into the batch and taken out again."""
    return fn(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def to_tokens(x: Float[Tensor, "*lead C h w"]) -> Float[Tensor, "*lead P C"]:
    """A feature map as P = h * w rows."""
    return rearrange(x, "... c h w -> ... (h w) c")


def to_map(x: Float[Tensor, "*lead P C"], size: tuple[int, int]) -> Float[Tensor, "*lead C h w"]:
    """The inverse of `to_tokens`."""
    return rearrange(x, "... (h w) c -> ... c h w", h=size[0])


# ------------------------------------------------------------------------------------------------------- positions
@functools.lru_cache(maxsize=32)
def sine_positions(
    size: tuple[int, int], channels: int, scale: float, temperature: float, device: torch.device
) -> Float[Tensor, "P C"]:
    """Sines and cosines of where each cell of a (h, w) grid lies, x in the first half of the channels, y in the second.

    Source: Cutie specification, section 2; positions run from 0 to `scale`.
    """
    # the result is shared by all callers, so it must not be an inference tensor, which training couldn't use
    with torch.inference_mode(False), torch.no_grad():
        frequency = inverse_frequencies(channels // 2, temperature)
        y, x = _axis_sines(size[0], frequency, scale), _axis_sines(size[1], frequency, scale)
        grid = torch.cat([x.expand(size[0], -1, -1), y[:, None].expand(-1, size[1], -1)], dim=-1)
        return grid.flatten(0, 1).to(device)


def _axis_sines(count: int, frequency: Float[Tensor, "F"], scale: float) -> Float[Tensor, "n C"]:
    """Sine and cosine of every frequency, in turns, at `count` places from 0 to `scale`."""
    position = torch.arange(count, dtype=torch.float32) / (count - 1 + 1e-6) * scale
    angle = position[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def inverse_frequencies(half: int, temperature: float) -> Float[Tensor, "F"]:
    """Angular frequencies of `sine_positions` along one axis that has `half` channels."""
    return 1.0 / temperature ** (torch.arange(0, half, 2, dtype=torch.float32) / half)


# ---------------------------------------------------------------------------------------------------------- memory
def similarity(
    query: Float[Tensor, "B P CK"],
    selection: Float[Tensor, "B P CK"],
    key: Float[Tensor, "B M CK"],
    shrinkage: Float[Tensor, "B M 1"],
) -> Float[Tensor, "B P M"]:
    """How well memory token m matches query position p: `-s_m sum_c e_pc (k_mc - q_pc)^2 / sqrt(CK)`, at most 0.

    To be run without autocast: the expanded square cancels badly in half precision.
    Source: XMem's anisotropic L2 (Cheng and Schwing, ECCV 2022); Cutie specification, section 4.1.
    """
    asked, stored = similarity_factors(query, selection, key, shrinkage)
    return asked @ stored.transpose(-1, -2)


def similarity_factors(
    query: Float[Tensor, "B P CK"],
    selection: Float[Tensor, "B P CK"],
    key: Float[Tensor, "B M CK"],
    shrinkage: Float[Tensor, "B M 1"],
) -> tuple[Float[Tensor, "B P F"], Float[Tensor, "B M F"]]:
    """Two matrices whose product is the similarity: the square is expanded and each of its terms is a share of the
    inner dimension, so that nothing is done to the large P x M result but to write it once."""
    scale = shrinkage / math.sqrt(query.shape[-1])
    weighted = query * selection
    asked = torch.cat([-selection, 2 * weighted, -(weighted * query).sum(-1, keepdim=True)], dim=-1)
    return asked, torch.cat([key.square() * scale, key * scale, scale], dim=-1)


def read_dense(
    affinity: Float[Tensor, "B P M"], value: Float[Tensor, "B N M CV"]
) -> tuple[Float[Tensor, "B N P CV"], Float[Tensor, "B M"]]:
    """Every token's value weighted by its affinity, and each token's affinity summed over positions."""
    return affinity.unsqueeze(1) @ value, affinity.sum(dim=1)


SCORES_AT_ONCE = {"cpu": 2**21, "cuda": 2**28}
"""Similarities held at a time, by device: on a CPU they stay in its cache between being computed and being ranked."""


def top_k_affinity(
    query: Float[Tensor, "B P CK"],
    selection: Float[Tensor, "B P CK"],
    key: Float[Tensor, "B M CK"],
    shrinkage: Float[Tensor, "B M 1"],
    k: int,
) -> tuple[Float[Tensor, "B P K"], Int[Tensor, "B P K"]]:
    """Each position's `k` most similar tokens, or all if there are fewer: the softmax over their similarities, and
    which they are. Positions are taken in blocks, so that the P x M similarities are never all there.

    Source: Cutie specification, section 4.2; the maximum is subtracted, so no similarity is too low.
    """
    asked, stored = similarity_factors(query, selection, key, shrinkage)
    tokens = stored.shape[-2]
    block = max(SCORES_AT_ONCE.get(query.device.type, 2**26) // (tokens * len(query)), 1)
    best = [
        (rows @ stored.transpose(-1, -2)).topk(min(k, tokens), dim=-1, sorted=False) for rows in asked.split(block, 1)
    ]
    weight = torch.cat([scores for scores, _ in best], dim=1).softmax(dim=-1)
    return weight, torch.cat([index for _, index in best], dim=1)


def read_sparse(
    weight: Float[Tensor, "B P K"], index: Int[Tensor, "B P K"], value: Float[Tensor, "B N M CV"]
) -> tuple[Float[Tensor, "B N P CV"], Float[Tensor, "B M"]]:
    """As `read_dense`, of `top_k_affinity`: only the kept rows are gathered, P * K of them an object, instead of a
    product with a P x M matrix of zeros."""
    read = [
        torch.stack([F.embedding_bag(i, v, per_sample_weights=w, mode="sum") for v in values])
        for i, w, values in zip(index, weight, value)
    ]
    tokens = value.shape[-2]
    usage = torch.stack([_sum_by_index(i.flatten(), w.flatten(), tokens) for i, w in zip(index, weight)])
    return torch.stack(read), usage


def _sum_by_index(index: Int[Tensor, "K"], weight: Float[Tensor, "K"], count: int) -> Float[Tensor, "M"]:
    """Weights summed by index, in an order that is the same on every run."""
    total = weight.new_zeros(count)
    if weight.is_cuda:  # index_add_ uses atomics there, index_put_ sorts; on the CPU it's the other way round
        return total.index_put_((index,), weight, accumulate=True)
    return total.index_add_(0, index, weight)
