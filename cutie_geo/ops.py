"""Pure tensor functions: resizing, soft aggregation, object chunks, dense and top-k memory reading."""

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
    """Numbers of pixels added around an image."""

    top: int
    bottom: int
    left: int
    right: int

    def pad(self, x: Tensor) -> Tensor:
        """Pad `x` (..., H, W) with zeros."""
        return F.pad(x, (self.left, self.right, self.top, self.bottom))

    def crop(self, x: Tensor) -> Tensor:
        """Remove the padding of `x` (..., H, W)."""
        height, width = x.shape[-2:]
        return x[..., self.top : height - self.bottom, self.left : width - self.right]


def padding_to(size: tuple[int, int], multiple: int) -> Padding:
    """Return the padding of (H, W) to a multiple; bottom and right get the extra pixel of odd padding."""
    high, wide = (-size[0]) % multiple, (-size[1]) % multiple
    return Padding(high // 2, high - high // 2, wide // 2, wide - wide // 2)


def bilinear(x: Float[Tensor, "B C H W"], size: tuple[int, int], antialias: bool = False) -> Float[Tensor, "B C H2 W2"]:
    """Resize bilinearly with aligned pixel centres (`align_corners=False`)."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=antialias)


def nearest_labels(labels: Int[Tensor, "H W"], size: tuple[int, int]) -> Int[Tensor, "H2 W2"]:
    """Resize a label map by the nearest pixel centre ("nearest-exact"), with exact ids of any size."""
    rows, columns = (
        # integer arithmetic: no rounding where a centre lies between two pixels
        ((2 * torch.arange(new, device=labels.device) + 1) * old) // (2 * new)
        for old, new in zip(labels.shape, size)
    )
    return labels[rows[:, None], columns]


def upsample(x: Float[Tensor, "B C H W"], factor: int) -> Float[Tensor, "B C H2 W2"]:
    """Upsample bilinearly by an integer factor."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def area(x: Float[Tensor, "*lead H W"], factor: int) -> Float[Tensor, "*lead h w"]:
    """Average over cells of `factor` x `factor` pixels."""
    if x.ndim <= 4:
        return F.avg_pool2d(x, factor)
    return F.avg_pool2d(x.flatten(0, -4), factor).unflatten(0, x.shape[:-3])


# --------------------------------------------------------------------------------------------------------- objects
def full_precision(x: Tensor) -> torch.autocast:
    """Return a context without autocast, for operations that need float32."""
    return torch.autocast(x.device.type, enabled=False)


def quick_gradients(device: torch.device) -> AbstractContextManager[object]:
    """Return a context with the fastest attention kernel for training.

    On a CPU the fused kernel has a slow backward pass; plain matrix products shorten a training step by a quarter.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def strongest(x: Float[Tensor, "..."], dim: int = 0) -> Int[Tensor, "..."]:
    """Return the argmax over `dim`, the first of equal values.

    On a CPU `torch.argmax` takes forty times as long over channels that lie far apart in memory. Two channels are
    compared, which takes a tenth of the time of a maximum.
    """
    if x.shape[dim] == 2:
        return (x.select(dim, 1) > x.select(dim, 0)).long()
    return x.max(dim=dim).indices


def soft_aggregate(probs: Float[Tensor, "B N *rest"]) -> Float[Tensor, "B N1 *rest"]:
    """Return logits of background and objects from independent object probabilities.

    The background probability is the product of the objects' complements. Logits are computed from clamped float32
    probabilities, as in training: the rounding near 1 must match. Their softmax gives the aggregated probabilities.
    Source: Cutie specification, section 1.6 (STM's soft aggregation).
    """
    with full_precision(probs):
        probs = probs.float()
        background = (1 - probs).prod(dim=1, keepdim=True)
        everything = torch.cat([background, probs], dim=1).clamp(1e-7, 1 - 1e-7)
        return (everything / (1 - everything)).log()


def others(masks: Float[Tensor, "B N *rest"]) -> Float[Tensor, "B N *rest"]:
    """Return the sum of all other objects' masks for each object, clamped to [0, 1]."""
    return (masks.sum(dim=1, keepdim=True) - masks).clamp(0, 1)


def in_object_chunks(fn: Callable[..., tuple[Tensor, ...]], *per_object: Tensor, chunk: int) -> tuple[Tensor, ...]:
    """Call `fn` on chunks of at most `chunk` objects along axis 1 and concatenate the outputs.

    Bounds memory; changes values by rounding only. `chunk` below 1 means all objects at once.
    """
    count = per_object[0].shape[1]
    if chunk < 1 or chunk >= count:
        return fn(*per_object)
    parts = [fn(*part) for part in zip(*(x.split(chunk, dim=1) for x in per_object))]
    return tuple(_joined(outputs) for outputs in zip(*parts))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate `parts` along the object axis.

    Feature maps (B, N, C, h, w) stay channels-last in memory: another layout would select other kernels, with other
    rounding, than without chunks.
    """
    if parts[0].ndim < 5:
        return torch.cat(list(parts), dim=1)
    return rearrange(
        torch.cat([rearrange(part, "b n c h w -> b n h w c") for part in parts], 1), "b n h w c -> b n c h w"
    )


def grouped(fn: Callable[[Tensor], Tensor], x: Float[Tensor, "B N C H W"]) -> Float[Tensor, "B N C2 H2 W2"]:
    """Apply `fn` to every object: merge the object axis into the batch and restore it."""
    return fn(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def to_tokens(x: Float[Tensor, "*lead C h w"]) -> Float[Tensor, "*lead P C"]:
    """Flatten a feature map to P = h * w rows."""
    return rearrange(x, "... c h w -> ... (h w) c")


def to_map(x: Float[Tensor, "*lead P C"], size: tuple[int, int]) -> Float[Tensor, "*lead C h w"]:
    """Reshape P = h * w rows to a feature map."""
    return rearrange(x, "... (h w) c -> ... c h w", h=size[0])


# ------------------------------------------------------------------------------------------------------- positions
@functools.lru_cache(maxsize=32)
def sine_positions(
    size: tuple[int, int], channels: int, scale: float, temperature: float, device: torch.device
) -> Float[Tensor, "P C"]:
    """Return sinusoidal position encodings of a (h, w) grid, x in the first half of the channels, y in the second.

    Source: Cutie specification, section 2; positions range from 0 to `scale`.
    """
    # all callers share the result, and training cannot use an inference tensor
    with torch.inference_mode(False), torch.no_grad():
        frequency = inverse_frequencies(channels // 2, temperature)
        y, x = _axis_sines(size[0], frequency, scale), _axis_sines(size[1], frequency, scale)
        grid = torch.cat([x.expand(size[0], -1, -1), y[:, None].expand(-1, size[1], -1)], dim=-1)
        return grid.flatten(0, 1).to(device)


def _axis_sines(count: int, frequency: Float[Tensor, "F"], scale: float) -> Float[Tensor, "n C"]:
    """Return interleaved sines and cosines of every frequency at `count` positions from 0 to `scale`."""
    position = torch.arange(count, dtype=torch.float32) / (count - 1 + 1e-6) * scale
    angle = position[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def inverse_frequencies(half: int, temperature: float) -> Float[Tensor, "F"]:
    """Return the angular frequencies of `sine_positions` for one axis with `half` channels."""
    return 1.0 / temperature ** (torch.arange(0, half, 2, dtype=torch.float32) / half)


# ---------------------------------------------------------------------------------------------------------- memory
def similarity(
    query: Float[Tensor, "B P CK"],
    selection: Float[Tensor, "B P CK"],
    key: Float[Tensor, "B M CK"],
    shrinkage: Float[Tensor, "B M 1"],
) -> Float[Tensor, "B P M"]:
    """Return the similarity of query position p and memory token m, `-s_m sum_c e_pc (k_mc - q_pc)^2 / sqrt(CK)`.

    Call it without autocast: the expanded square suffers from cancellation in half precision.
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
    """Return two matrices whose product is the similarity.

    The terms of the expanded square are concatenated along the inner dimension, so the large P x M result is written
    only once.
    """
    scale = shrinkage / math.sqrt(query.shape[-1])
    weighted = query * selection
    asked = torch.cat([-selection, 2 * weighted, -(weighted * query).sum(-1, keepdim=True)], dim=-1)
    return asked, torch.cat([key.square() * scale, key * scale, scale], dim=-1)


def read_dense(
    affinity: Float[Tensor, "B P M"], value: Float[Tensor, "B N M CV"]
) -> tuple[Float[Tensor, "B N P CV"], Float[Tensor, "B M"]]:
    """Return values weighted by affinity, and the affinity of each token summed over positions."""
    return affinity.unsqueeze(1) @ value, affinity.sum(dim=1)


SCORES_AT_ONCE = {"cpu": 2**21, "cuda": 2**28}
"""Number of similarities computed at a time, by device type; on a CPU they fit its cache."""


def top_k_affinity(
    query: Float[Tensor, "B P CK"],
    selection: Float[Tensor, "B P CK"],
    key: Float[Tensor, "B M CK"],
    shrinkage: Float[Tensor, "B M 1"],
    k: int,
) -> tuple[Float[Tensor, "B P K"], Int[Tensor, "B P K"]]:
    """Return softmax weights and indices of the `k` most similar tokens of each position.

    All tokens are returned if there are fewer than `k`. Positions are processed in blocks, so the P x M similarities
    are never held at once. The maximum is subtracted before the softmax, so low similarities do not underflow.
    Source: Cutie specification, section 4.2.
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
    """Return the same as `read_dense` from the output of `top_k_affinity`.

    Only P * K rows per object are gathered, instead of a product with a sparse P x M matrix.
    """
    read = [
        torch.stack([F.embedding_bag(i, v, per_sample_weights=w, mode="sum") for v in values])
        for i, w, values in zip(index, weight, value)
    ]
    tokens = value.shape[-2]
    usage = torch.stack([_sum_by_index(i.flatten(), w.flatten(), tokens) for i, w in zip(index, weight)])
    return torch.stack(read), usage


def _sum_by_index(index: Int[Tensor, "K"], weight: Float[Tensor, "K"], count: int) -> Float[Tensor, "M"]:
    """Sum weights by index, in a deterministic order."""
    total = weight.new_zeros(count)
    if weight.is_cuda:  # on CUDA index_add_ uses atomics and index_put_ sorts; on a CPU the reverse holds
        return total.index_put_((index,), weight, accumulate=True)
    return total.index_add_(0, index, weight)
