"""Pixel encoders: features at strides 16, 8 and 4 of an image."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutie_geo.config import EncoderConfig
from cutie_geo.config.model import TIMM
from cutie_geo.model.blocks import ResNetFeatures

if TYPE_CHECKING:  # imports transformers, which takes seconds and which other encoders do not need
    from cutie_geo.model.depth_anything import DepthAnythingFeatures
    from cutie_geo.model.hiera import HieraFeatures
    from cutie_geo.model.timm_backbone import TimmFeatures, TopDown

MAE_GRID = 56
"""Side of the position table of Hiera's masked autoencoder: 224 pixels at stride 4."""


class Encoded(NamedTuple):
    """Features of a frame by stride, with optional depth."""

    f16: Float[Tensor, "B C16 h w"]
    f8: Float[Tensor, "B C8 h8 w8"]
    f4: Float[Tensor, "B C4 h4 w4"]
    depth: Float[Tensor, "B H1 W1"] | None = None
    """Relative inverse depth, larger is nearer, at the geometry encoder's output size; None unless requested."""


class ResNetEncoder(nn.Module):
    """Cutie's ResNet encoder. Source: Cutie specification, section 3.1."""

    multiple = 16
    """Divisor, in pixels, of both sides of a padded frame."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.features = ResNetFeatures(name)
        c4, c8, c16 = self.features.channels
        self.channels = (c16, c8, c4)

    def compilable(self) -> tuple[nn.Module, ...]:
        """Return no parts: torch cannot trace the folded batch normalisation."""
        return ()

    def forward(self, image: Float[Tensor, "B 3 H W"], with_depth: bool = False) -> Encoded:
        """Encode a normalised image.

        Raises:
            ValueError: If depth is requested.
        """
        refuse_depth(with_depth)
        f4, f8, f16 = self.features(image)
        return Encoded(f16, f8, f4)


class ScaleFusion(nn.Module):
    """Fusion of vision and geometry features at one scale: layer norm of each source, concatenation, MLP.

    The norms balance sources of different magnitude. The hidden layer has as many channels as the vision features.
    Source: section 2 of the paper ("concatenated at matching scales and fused by an MLP").
    """

    def __init__(self, sources: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in sources)
        self.hidden = nn.Conv2d(sum(sources), sources[0], 1)
        self.activation = nn.GELU()
        self.out = nn.Conv2d(sources[0], out_channels, 1)

    def forward(self, *features: Float[Tensor, "B _ h w"]) -> Float[Tensor, "B C h w"]:
        """Fuse the features of one scale, one argument per source."""
        # channels-last for the norm, and kept so in memory, which suits both encoders and the convolutions
        normed = [norm(x.permute(0, 2, 3, 1)) for norm, x in zip(self.norms, features)]
        stacked = torch.cat(normed, dim=-1).permute(0, 3, 1, 2)
        return self.out(self.activation(self.hidden(stacked)))


class FusedEncoder(nn.Module):
    """Encoder of the paper: SAM 2's Hiera (or a backbone of timm) and, optionally, Depth Anything V2, fused per scale.

    The parts in `config.frozen` get no gradients and stay in evaluation mode; `cast` converts them to the run's
    precision. Source: section 2 of the paper.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.vision: HieraFeatures | TimmFeatures = _build_vision(config)
        self.geometry: DepthAnythingFeatures | None = _build_geometry(config)
        self.top_down: TopDown | None = _build_top_down(self.vision)
        self.multiple = self.vision.multiple
        self.channels = tuple(config.channels)
        sources = [self.vision.channels] + ([] if self.geometry is None else [self.geometry.channels])
        self.fusion = nn.ModuleList(ScaleFusion(own, out) for own, out in zip(zip(*sources), self.channels))
        self.config = config
        self.frozen = config.frozen
        for name in self.frozen:
            self.part(name).requires_grad_(False)
        self.train()

    def compilable(self) -> tuple[nn.Module, ...]:
        """Return the parts that torch can compile."""
        parts = (self.vision, self.geometry, *self.fusion)
        return tuple(part for part in parts if part is not None)

    def part(self, name: str) -> nn.Module:
        """Return the encoder `vision` or `geometry`."""
        return getattr(self, name)

    def train(self, mode: bool = True) -> "FusedEncoder":
        """Set the mode of all parts but the frozen ones, which stay in evaluation mode."""
        super().train(mode)
        for name in self.frozen:
            self.part(name).eval()
        return self

    def cast(self, dtype: torch.dtype) -> None:
        """Convert the weights of the frozen parts to `dtype` once, instead of on every frame.

        Raises:
            ValueError: If `dtype` is wider than the weights' type, since the rounding cannot be undone.
        """
        for name in self.frozen:
            now = next(self.part(name).parameters()).dtype
            if now != dtype and now != torch.float32:
                raise ValueError(f"precision: the {name} encoder is in {now}; load the model again for {dtype}")
            self.part(name).to(dtype)

    def forward(self, image: Float[Tensor, "B 3 H W"], with_depth: bool = False) -> Encoded:
        """Encode a normalised image whose sides are multiples of `multiple`, with optional depth.

        Raises:
            ValueError: If depth is requested and there is no geometry encoder.
        """
        refuse_depth(with_depth and self.geometry is None)
        vision, depth = self._run("vision", self.vision, image), None
        if self.top_down is not None:
            f16, f8, f4, f32 = vision
            vision = self.top_down(f16, f32), f8, f4
        sources = [vision]
        if self.geometry is not None:
            features, depth = self._run("geometry", self.geometry, image, with_depth)
            sources.append(features)
        f16, f8, f4 = (fuse(*scale) for fuse, scale in zip(self.fusion, zip(*sources)))
        return Encoded(f16, f8, f4, None if depth is None else depth.float())

    def _run(self, name: str, part: nn.Module, image: Tensor, *options: bool):
        """Run a part: a frozen one in the precision of its weights, others under autocast."""
        if name not in self.frozen:
            return part(image, *options)
        dtype = next(part.parameters()).dtype
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            return part(image.to(dtype), *options)


PixelEncoder = ResNetEncoder | FusedEncoder


def refuse_depth(refused: bool) -> None:
    """Raise ValueError if `refused` is True, for networks without depth."""
    if refused:
        raise ValueError("depth: this model has no geometry encoder, expected one such as cutie-geo-small")


def _build_vision(config: EncoderConfig) -> "HieraFeatures | TimmFeatures":
    if config.is_timm:
        from cutie_geo.model.timm_backbone import TimmFeatures

        return TimmFeatures(config.vision.removeprefix(TIMM), config.vision_features)
    from cutie_geo.model.hiera import HIERA_SIZES, HieraFeatures

    background = MAE_GRID if config.vision_init == "mae" else 0
    return HieraFeatures(HIERA_SIZES[config.vision], config.vision_features, background)


def _build_top_down(vision: "HieraFeatures | TimmFeatures") -> "TopDown | None":
    if not getattr(vision, "deepest", 0):
        return None
    from cutie_geo.model.timm_backbone import TopDown

    return TopDown(vision.deepest, vision.channels[0])  # type: ignore[union-attr]


def _build_geometry(config: EncoderConfig) -> "DepthAnythingFeatures | None":
    if config.geometry == "none":
        return None
    from cutie_geo.model.depth_anything import DEPTH_SIZES, DepthAnythingFeatures

    return DepthAnythingFeatures(DEPTH_SIZES[config.geometry], config.geometry_init == "none")


def build_encoder(config: EncoderConfig) -> PixelEncoder:
    """Build the encoder of a configuration, with random weights."""
    return FusedEncoder(config) if config.is_fused else ResNetEncoder(config.vision)
