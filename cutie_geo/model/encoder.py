"""The pixel encoder: one image in, features at strides 16, 8 and 4 out."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutie_geo.config import EncoderConfig
from cutie_geo.model.blocks import ResNetFeatures
from cutie_geo.model.feature_cache import FeatureCache

if TYPE_CHECKING:  # each of these imports a package that takes seconds and that other encoders don't need
    from cutie_geo.model.depth_anything import DepthAnythingFeatures

MAE_GRID = 56
"""Side of the position table of Hiera's masked autoencoder: stride 4 of 224 pixels."""


class Encoded(NamedTuple):
    """Features by stride, and what else an encoder can tell about a frame."""

    f16: Float[Tensor, "B C16 h w"]
    f8: Float[Tensor, "B C8 h8 w8"]
    f4: Float[Tensor, "B C4 h4 w4"]
    depth: Float[Tensor, "B H1 W1"] | None = None
    """Relative inverse depth, larger is nearer, at a size of its own; None unless it was asked for."""


class ResNetEncoder(nn.Module):
    """Cutie's own encoder. Source: Cutie specification, section 3.1."""

    multiple = 16
    """Both sides of a frame are padded to a multiple of this many pixels."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.features = ResNetFeatures(name)
        c4, c8, c16 = self.features.channels
        self.channels = (c16, c8, c4)

    def compilable(self) -> tuple[nn.Module, ...]:
        """None: on a CPU its normalisations are folded already, which torch can't trace."""
        return ()

    def forward(self, image: Float[Tensor, "B 3 H W"], with_depth: bool = False) -> Encoded:
        """Features of a normalised image. Raises ValueError if depth is asked for."""
        refuse_depth(with_depth)
        f4, f8, f16 = self.features(image)
        return Encoded(f16, f8, f4)


class ScaleFusion(nn.Module):
    """Vision and geometry at one scale: each normalised over its channels, put together, sent through a small network.

    Normalising first keeps the source with the larger numbers from drowning the other. The hidden layer is as wide as
    the vision features. Source: section 2 of the paper ("concatenated at matching scales and fused by an MLP").
    """

    def __init__(self, sources: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in sources)
        self.hidden = nn.Conv2d(sum(sources), sources[0], 1)
        self.activation = nn.GELU()
        self.out = nn.Conv2d(sources[0], out_channels, 1)

    def forward(self, *features: Float[Tensor, "B _ h w"]) -> Float[Tensor, "B C h w"]:
        """The fused features of a scale, one argument for each source."""
        # channels go last for the norm and stay there in memory, which is what both encoders and the convolutions like
        normed = [norm(x.permute(0, 2, 3, 1)) for norm, x in zip(self.norms, features)]
        stacked = torch.cat(normed, dim=-1).permute(0, 3, 1, 2)
        return self.out(self.activation(self.hidden(stacked)))


class FusedEncoder(nn.Module):
    """The paper's encoder: SAM 2's Hiera and, unless there is no geometry, Depth Anything V2, fused scale by scale.

    Parts that `config.frozen` names get no gradients and stay in evaluation mode; `cast` puts them into the run's
    precision. Source: section 2 of the paper.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        from cutie_geo.model.hiera import HIERA_SIZES, HieraFeatures

        background = MAE_GRID if config.vision_init == "mae" else 0
        self.vision = HieraFeatures(HIERA_SIZES[config.vision], config.vision_features, background)
        self.geometry: DepthAnythingFeatures | None = _build_geometry(config)
        self.multiple = self.vision.multiple
        self.channels = tuple(config.channels)
        sources = [self.vision.channels] + ([] if self.geometry is None else [self.geometry.channels])
        self.fusion = nn.ModuleList(ScaleFusion(own, out) for own, out in zip(zip(*sources), self.channels))
        self.cache: FeatureCache | None = None
        """Where training keeps what the frozen parts say of each frame, if it does."""
        self.cache_owners: dict[str, str] = {}
        """By part, what its features are kept under."""
        self.frozen = config.frozen
        for name in self.frozen:
            self.part(name).requires_grad_(False)
        self.train()

    def compilable(self) -> tuple[nn.Module, ...]:
        """What torch may compile."""
        parts = (self.vision, self.geometry, *self.fusion)
        return tuple(part for part in parts if part is not None)

    def part(self, name: str) -> nn.Module:
        """The encoder `vision` or `geometry`."""
        return getattr(self, name)

    def train(self, mode: bool = True) -> "FusedEncoder":
        """Frozen parts stay in evaluation mode whatever is asked."""
        super().train(mode)
        for name in self.frozen:
            self.part(name).eval()
        return self

    def cast(self, dtype: torch.dtype) -> None:
        """Keep the frozen parts' weights in `dtype`: nothing is converted frame by frame then.

        Raises ValueError for a wider type than they are in: what was rounded away can only be loaded again.
        """
        for name in self.frozen:
            now = next(self.part(name).parameters()).dtype
            if now != dtype and now != torch.float32:
                raise ValueError(f"precision: the {name} encoder is in {now}; load the model again for {dtype}")
            self.part(name).to(dtype)

    def forward(self, image: Float[Tensor, "B 3 H W"], with_depth: bool = False) -> Encoded:
        """Features of a normalised image whose sides are multiples of 32, and depth if it is asked for.

        Raises ValueError if depth is asked for and there is no geometry encoder.
        """
        refuse_depth(with_depth and self.geometry is None)
        sources, depth = [self._run("vision", self.vision, image)], None
        if self.geometry is not None:
            features, depth = self._run("geometry", self.geometry, image, with_depth)
            sources.append(features)
        f16, f8, f4 = (fuse(*scale) for fuse, scale in zip(self.fusion, zip(*sources)))
        return Encoded(f16, f8, f4, None if depth is None else depth.float())

    def _run(self, name: str, part: nn.Module, image: Tensor, *options: bool):
        """What a part says: a frozen one in the precision of its weights, another as autocast wants it."""
        if name not in self.frozen:
            return part(image, *options)
        dtype = next(part.parameters()).dtype
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            if self.cache is None or any(options):
                return part(image.to(dtype), *options)
            if name == "vision":
                return self.cache.fetch(self.cache_owners[name], image.to(dtype), part)
            return self.cache.fetch(self.cache_owners[name], image.to(dtype), lambda x: part(x)[0]), None


PixelEncoder = ResNetEncoder | FusedEncoder


def refuse_depth(refused: bool) -> None:
    """Raise ValueError if depth was asked of a network that has none."""
    if refused:
        raise ValueError("depth: this model has no geometry encoder, wanted one such as cutie-geo-small")


def _build_geometry(config: EncoderConfig) -> "DepthAnythingFeatures | None":
    if config.geometry == "none":
        return None
    from cutie_geo.model.depth_anything import DEPTH_SIZES, DepthAnythingFeatures

    return DepthAnythingFeatures(DEPTH_SIZES[config.geometry], config.geometry_init == "none")


def build_encoder(config: EncoderConfig) -> PixelEncoder:
    """The encoder that a configuration names, with random weights."""
    return FusedEncoder(config) if config.is_hiera else ResNetEncoder(config.vision)
