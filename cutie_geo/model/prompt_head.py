"""Prompt head: clicks, a box and the mask so far to a mask, from the features of the tracker's encoder."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cutie_geo.model.blocks import Attention, ResidualBlock
from cutie_geo.ops import area, full_precision

REACHES = (8.0, 32.0, 128.0)
"""Lengths, in pixels of the input, over which the influence of a click decays on the prompt maps."""
MATCH_GROUPS = 8
"""Number of groups of channels whose similarity to the clicked places is compared separately."""
STRIDE = 4
"""Stride of masks, in pixels."""
MAPS = 2 * len(REACHES) + 3
"""Number of prompt maps: decays of positive and of negative clicks, two of the box, and the mask so far."""
HEADS, BLOCKS, EXPANSION = 4, 4, 2
"""Attention heads, number and width factor of the blocks at stride 16."""
OUTSIDE = -1.0
"""Similarity, and value of the maps, if there is nothing to compare with."""
Size = tuple[int | torch.SymInt, int | torch.SymInt]
"""Height and width; symbols while graphs of any size are exported."""


class PromptFeatures(NamedTuple):
    """Features of frames, which do not depend on prompts."""

    f16: Float[Tensor, "B C h w"]
    f8: Float[Tensor, "B C2 h8 w8"]
    f4: Float[Tensor, "B C4 h4 w4"]
    match: Float[Tensor, "B G D h8 w8"]
    """Features of unit length in each group, whose products are similarities."""

    def rows(self, index: Int[Tensor, "R"]) -> "PromptFeatures":
        """Return the features of the frames `index`, one for each prompt."""
        return PromptFeatures(*(field.index_select(0, index) for field in self))


class PromptBatch(NamedTuple):
    """Prompts of R objects, in pixels of the encoder's input."""

    points: Float[Tensor, "R K 2"]
    """(x, y) of clicks."""
    labels: Int[Tensor, "R K"]
    """1 for clicks on the object, 0 for others, -1 for unused entries."""
    boxes: Float[Tensor, "R 4"]
    """(x0, y0, x1, y1), NaN without a box."""
    masks: Float[Tensor, "R h4 w4"]
    """Probability of the object so far, at stride 4; NaN everywhere without a mask."""


class PromptedMasks(NamedTuple):
    """Masks of R objects."""

    logits: Float[Tensor, "R h4 w4"]
    quality: Float[Tensor, "R"]
    """Logit of the estimated IoU."""


class ContextBlock(nn.Module):
    """Block of a depthwise convolution, attention over all positions, and a two-layer perceptron, each residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.local = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm1 = nn.LayerNorm(channels)
        self.attention = Attention(channels, HEADS)
        self.norm2 = nn.LayerNorm(channels)
        self.perceptron = nn.Sequential(
            nn.Linear(channels, EXPANSION * channels), nn.GELU(), nn.Linear(EXPANSION * channels, channels)
        )

    def forward(self, x: Float[Tensor, "R C h w"]) -> Float[Tensor, "R C h w"]:
        height = x.shape[-2]
        tokens = rearrange(x + self.local(x), "b c h w -> b (h w) c")
        normed = self.norm1(tokens)
        tokens = tokens + self.attention(normed, normed, normed)
        tokens = tokens + self.perceptron(self.norm2(tokens))
        return rearrange(tokens, "b (h w) c -> b c h w", h=height)


class _Projection(nn.Module):
    """Layer norm over channels and a 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_channels)
        self.project = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class PromptHead(nn.Module):
    """Predictor of an object's mask from clicks, a box and the mask so far.

    `prepare` is run once for each frame, `forward` for each prompt. Clicks enter as maps of their distance and as the
    similarity of every position to the clicked ones; a box and a mask so far as maps, and by their mean features.
    Positions exchange information at stride 16; two more stages refine the mask to stride 4.

    Args:
        sources: Numbers of channels of the encoder's features at strides 16, 8 and 4.
        channels: Number of channels at stride 16, a multiple of 32. Strides 8 and 4 have a half and a quarter of them.
    """

    def __init__(self, sources: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.in16, self.in8, self.in4 = (
            _Projection(source, width) for source, width in zip(sources, (channels, half, quarter))
        )
        self.match16, self.match8 = (_Projection(source, channels) for source in sources[:2])
        similarities = 4 * MATCH_GROUPS
        self.maps4 = nn.Conv2d(MAPS, quarter, 3, padding=1)
        self.maps8 = nn.Conv2d(quarter, half, 3, stride=2, padding=1)
        self.similar = nn.Conv2d(similarities, half, 1)
        self.maps16 = nn.Conv2d(half, channels, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(ContextBlock(channels) for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(channels)
        self.up8 = nn.Conv2d(channels, half, 1)
        self.refine8 = nn.Sequential(ResidualBlock(half, half), ResidualBlock(half, half))
        self.up4 = nn.Conv2d(half, quarter, 1)
        self.refine4 = nn.Sequential(ResidualBlock(quarter, quarter), ResidualBlock(quarter, quarter))
        self.predict = nn.Conv2d(quarter, 1, 3, padding=1)
        self.quality = nn.Sequential(nn.Linear(2 * channels, half), nn.GELU(), nn.Linear(half, 1))
        self.trained = False
        """True if a checkpoint provided the weights."""

    def prepare(
        self, f16: Float[Tensor, "B _ h w"], f8: Float[Tensor, "B _ h8 w8"], f4: Float[Tensor, "B _ h4 w4"]
    ) -> PromptFeatures:
        """Project the encoder's features of frames, independently of prompts."""
        matched = self.match8(f8) + F.interpolate(self.match16(f16), size=f8.shape[-2:], mode="bilinear")
        groups = rearrange(matched.float(), "b (g d) h w -> b g d h w", g=MATCH_GROUPS)
        return PromptFeatures(self.in16(f16), self.in8(f8), self.in4(f4), F.normalize(groups, dim=2))

    def forward(self, features: PromptFeatures, prompts: PromptBatch) -> PromptedMasks:
        """Predict masks; `features` have one row for each object."""
        size = (features.f4.shape[-2], features.f4.shape[-1])
        with full_precision(features.f4):
            maps = prompt_maps(prompts, size)
            similar = similarities(features.match, prompts)
        m4 = self.maps4(maps)
        m8 = self.maps8(F.relu(m4)) + self.similar(similar)
        x16 = features.f16 + self.maps16(F.relu(m8))
        for block in self.blocks:
            x16 = block(x16)
        x16 = self.norm(x16.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x8 = self.refine8(features.f8 + m8 + _to_size_of(features.f8, self.up8(x16)))
        x4 = self.refine4(features.f4 + m4 + _to_size_of(features.f4, self.up4(x8)))
        logits = self.predict(F.relu(x4)).squeeze(1).float()
        return PromptedMasks(logits, self._quality(x16, logits))

    def _quality(self, x16: Float[Tensor, "R C h w"], logits: Float[Tensor, "R h4 w4"]) -> Float[Tensor, "R"]:
        """Estimate the IoU from the mean features of the frame and of the mask."""
        inside = area(logits.detach().sigmoid()[:, None], 16 // STRIDE).to(x16.dtype)
        whole = x16.mean(dim=(-2, -1))
        own = (x16 * inside).sum(dim=(-2, -1)) / inside.sum(dim=(-2, -1)).clamp(min=1e-3)
        return self.quality(torch.cat([whole, own], dim=1)).squeeze(1).float()


def _to_size_of(target: Tensor, x: Tensor) -> Tensor:
    return F.interpolate(x, size=target.shape[-2:], mode="bilinear", align_corners=False)


def prompt_maps(prompts: PromptBatch, size: Size) -> Float[Tensor, "R M h4 w4"]:
    """Return maps of prompts at stride 4.

    Decays of the distance to the nearest positive and the nearest negative click; 1 inside of the box and -1 outside,
    and the signed distance to its border up to 32 pixels; the mask so far, from -1 to 1. Absent prompts are 0.
    """
    y, x = ((torch.arange(count, device=prompts.points.device, dtype=torch.float32) + 0.5) * STRIDE for count in size)
    dx = x[None, None, None, :] - prompts.points[..., 0, None, None]  # (R, K, 1, w4)
    dy = y[None, None, :, None] - prompts.points[..., 1, None, None]
    distance = (dx.square() + dy.square()).clamp(min=1e-6).sqrt()
    clicks = [
        (-distance.masked_fill((prompts.labels != label)[..., None, None], float("inf")).amin(dim=1) / reach).exp()
        for label in (1, 0)
        for reach in REACHES
    ]
    x0, y0, x1, y1 = (side[:, None, None] for side in prompts.boxes.nan_to_num(0.0).unbind(1))
    columns, rows = x[None, None, :], y[None, :, None]
    depth = torch.minimum(torch.minimum(columns - x0, x1 - columns), torch.minimum(rows - y0, y1 - rows))
    known = ~prompts.boxes.isnan().any(dim=1)[:, None, None]
    box = torch.where(known, depth.sign(), 0.0), torch.where(known, (depth / 32).clamp(-1, 1), 0.0)  # positive inside
    mask = torch.where(prompts.masks.isnan(), 0.0, 2 * prompts.masks - 1)
    return torch.stack([*clicks, *box, mask], dim=1)


def similarities(match: Float[Tensor, "R G D h8 w8"], prompts: PromptBatch) -> Float[Tensor, "R S h8 w8"]:
    """Return cosine similarities in each group: to the most similar positive click, to the most similar negative one,
    and to the mean features inside and outside of the mask so far, or else of the box.
    """
    height, width = match.shape[-2:]
    if prompts.points.shape[1]:
        at = clicked(match, prompts.points)  # (R, K, G, D)
        pairs = torch.einsum("rkgd,rgdhw->rkghw", at, match)
        found = [
            pairs.masked_fill((prompts.labels != label)[..., None, None, None], OUTSIDE).amax(dim=1) for label in (1, 0)
        ]
    else:
        found = [match.new_full((len(match), MATCH_GROUPS, height, width), OUTSIDE)] * 2
    inside, known = region(prompts, (height, width))
    for weight in (inside, 1 - inside):
        mean = torch.einsum("rgdhw,rhw->rgd", match, weight * known[:, None, None])
        found.append(torch.einsum("rgd,rgdhw->rghw", F.normalize(mean, dim=-1), match))
    return torch.cat(found, dim=1)


def clicked(match: Float[Tensor, "R G D h8 w8"], points: Float[Tensor, "R K 2"]) -> Float[Tensor, "R K G D"]:
    """Return the features at clicks, interpolated and of unit length."""
    height, width = match.shape[-2:]
    x, y = points.unbind(dim=-1)
    grid = torch.stack([x / (width * STRIDE) - 1, y / (height * STRIDE) - 1], dim=-1)
    at = F.grid_sample(
        rearrange(match, "r g d h w -> r (g d) h w"), grid[:, None], mode="bilinear", padding_mode="border",
        align_corners=False,
    )  # fmt: skip
    return F.normalize(rearrange(at, "r (g d) 1 k -> r k g d", g=match.shape[1]), dim=-1)


def region(prompts: PromptBatch, size: Size) -> tuple[Float[Tensor, "R h8 w8"], Bool[Tensor, "R"]]:
    """Return the probable region of each object at `size`, and whether there is a mask or a box that says so."""
    height, width = size
    has_mask, has_box = ~prompts.masks.isnan().flatten(1).any(1), ~prompts.boxes.isnan().any(1)
    masks = F.interpolate(
        prompts.masks.nan_to_num(0.0)[:, None],
        size=size,  # type: ignore[arg-type]
        mode="bilinear",
        align_corners=False,
    )[:, 0]
    x0, y0, x1, y1 = (side[:, None, None] for side in prompts.boxes.unbind(1))
    x = (torch.arange(width, device=masks.device)[None, None, :] + 0.5) * 2 * STRIDE
    y = (torch.arange(height, device=masks.device)[None, :, None] + 0.5) * 2 * STRIDE
    boxes = ((x > x0) & (x < x1) & (y > y0) & (y < y1)).to(masks.dtype)
    return torch.where(has_mask[:, None, None], masks, boxes), has_mask | has_box
