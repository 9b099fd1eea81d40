"""Configuration of the network: encoders, sizes and initial weights."""

from dataclasses import dataclass, field
from typing import Literal

from cutie_geo.config.loading import require
from cutie_geo.config.memory import LongTermConfig

RESNETS = ("resnet50", "resnet18")
HIERAS = ("hiera-large", "hiera-base-plus", "hiera-small", "hiera-tiny", "hiera-nano")
VISION = (*RESNETS, *HIERAS)
"""Backbones other than timm's: Cutie's ResNets and SAM 2's Hiera trunks."""
TIMM = "timm/"
"""Prefix of the name of a backbone of timm."""


@dataclass(frozen=True)
class EncoderConfig:
    """Configuration of the pixel encoder."""

    vision: str = "resnet50"
    """Backbone of the image features: one of `VISION`, or `timm/<name>` for a backbone of timm."""
    vision_init: Literal["sam2.1", "sam2", "mae", "imagenet", "none"] = "sam2.1"
    """Initial weights of a Hiera trunk: SAM 2.1, SAM 2, Hiera's masked autoencoder, or random. Of a backbone of timm:
    its ImageNet weights, or random.
    """
    vision_features: Literal["trunk", "fpn"] = "trunk"
    """Features of a Hiera trunk: its stages' outputs, or SAM 2's feature pyramid on top of them. Of a backbone of timm:
    its stages' outputs, or with the stage at stride 32 added to that at stride 16.
    """
    geometry: Literal[
        "none", "depth-anything-v2-large", "depth-anything-v2-base", "depth-anything-v2-small", "depth-nano"
    ] = "none"
    """Depth network whose features are fused with those of a Hiera trunk."""
    geometry_init: Literal["depth-anything-v2", "none"] = "depth-anything-v2"
    """Initial weights of the depth network: Depth Anything V2, or random."""
    freeze: bool = True
    """Freeze encoders with published weights. Randomly initialised encoders are always trained."""
    channels: tuple[int, int, int] = (1024, 512, 256)
    """Numbers of channels of the fused features at strides 16, 8 and 4; not used by ResNets."""

    def __post_init__(self) -> None:
        require(min(self.channels) > 0, f"channels: got {self.channels}, expected positive numbers")
        known = self.vision in VISION or (self.is_timm and len(self.vision) > len(TIMM))
        names = ", ".join(map(repr, VISION))
        require(known, f"vision: got {self.vision!r}, expected one of {names} or 'timm/<name>'")
        require(
            self.is_fused or self.geometry == "none",
            f"geometry: got {self.geometry} with {self.vision}, expected it with a Hiera trunk or timm/<name>",
        )
        if self.is_timm:
            start = self.vision_init in ("imagenet", "none")
            require(start, f"vision_init: got {self.vision_init} with {self.vision}, expected imagenet or none")
        else:
            start = self.vision_init != "imagenet"
            require(start, f"vision_init: got imagenet with {self.vision}, expected it with timm/<name>")
        published = self.vision != "hiera-nano" or self.vision_init == "none"
        require(
            published,
            f"vision_init: got {self.vision_init} with {self.vision}, which is not published; expected none",
        )
        published = self.geometry != "depth-nano" or self.geometry_init == "none"
        require(
            published,
            f"geometry_init: got {self.geometry_init} with {self.geometry}, which is not published; expected none",
        )
        require(
            self.vision_features == "trunk" or self.vision_init != "mae",
            "vision_features: got fpn with vision_init mae, which has no feature pyramid; expected trunk",
        )

    @property
    def is_timm(self) -> bool:
        """True if `vision` is a backbone of timm."""
        return self.vision.startswith(TIMM)

    @property
    def is_fused(self) -> bool:
        """True if `vision` goes through the fusion MLP, as all but Cutie's ResNets do."""
        return self.vision not in RESNETS

    @property
    def starts(self) -> dict[str, str]:
        """Sources of published weights of the parts `vision` and `geometry`, without randomly initialised parts."""
        vision = {"vision": self.vision_init} if self.is_fused and self.vision_init != "none" else {}
        has_geometry = self.geometry != "none" and self.geometry_init != "none"
        return vision | ({"geometry": self.geometry_init} if has_geometry else {})

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the frozen parts."""
        return tuple(self.starts) if self.freeze else ()


@dataclass(frozen=True)
class WeightsConfig:
    """Files of initial weights. Empty means the catalogue's file."""

    vision: str = ""
    """SAM 2 checkpoint in any format or, with `vision_init=mae`, timm's checkpoint of Hiera's masked autoencoder. For a
    backbone of timm: timm's file, or one whose tensors have the same order and shapes. `package:NAME` is the weights
    file of the installed Python package NAME.
    """
    geometry: str = ""
    """Depth Anything V2 checkpoint, in the original format or that of transformers."""
    warm_start: str = ""
    """Cutie checkpoint for all parts after the encoder."""
    pixel_encoder: str = ""
    """ImageNet weights of a ResNet pixel encoder: a file in torchvision's format, or `imagenet` for the catalogue's."""
    mask_encoder: str = ""
    """ImageNet weights of the mask encoder; the mask channels are initialised orthogonally."""
    prompt_head: str = ""
    """Checkpoint whose prompt head is used instead of the model's own, or of random weights."""


@dataclass(frozen=True)
class ModelConfig:
    """Configuration of the network; the defaults are those of Cutie's base model.

    >>> from cutie_geo import ModelConfig
    >>> ModelConfig(num_blocks=2).num_blocks, ModelConfig().mask_encoder
    (2, 'resnet18')
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    mask_encoder: Literal["resnet50", "resnet18", "resnet-nano"] = "resnet18"
    """Backbone of the mask encoder."""
    key_dim: int = 64
    """Number of channels CK of keys and selections."""
    value_dim: int = 256
    """Number of channels of pixel features, mask values, sensory memory and object queries."""
    num_queries: int = 16
    """Number of object queries Q: the first half attends to the foreground, the second to the background."""
    num_heads: int = 8
    num_blocks: int = 3
    """Number of blocks of the object transformer."""
    feedforward_dim: int = 2048
    decoder_dim: int = 128
    """Number of channels of the decoder at strides 8 and 4."""
    position_scale: float = 32.0
    """Largest position across the feature map, for sinusoidal encodings."""
    position_temperature: float = 128.0
    single_object: bool = False
    """Omit the channels for other objects, as in static pre-training."""
    max_internal_size: int | None = None
    """Default of a tracker's `max_internal_size` for this model, in pixels. None means no default."""
    min_internal_size: int | None = None
    """Default of a tracker's `min_internal_size` for this model, in pixels. None means no default."""
    mem_every: int | None = None
    """Default of a tracker's `mem_every` for this model. None uses Cutie's."""
    top_k: int | None = None
    """Default of a tracker's `top_k` for this model. None uses Cutie's."""
    full_frame_every: int | None = None
    """Default of a tracker's `full_frame_every` for this model. None decodes every frame as a whole."""
    long_term: LongTermConfig | None = None
    """Default of a tracker's `long_term` for this model. None uses Cutie's."""
    prompt_channels: int = 0
    """Number of channels of the prompt head, a multiple of 32; 0 for a model without one. Checkpoints set it."""

    def __post_init__(self) -> None:
        for name in (
            "key_dim",
            "value_dim",
            "num_queries",
            "num_heads",
            "num_blocks",
            "feedforward_dim",
            "decoder_dim",
        ):
            require(getattr(self, name) > 0, f"{name}: got {getattr(self, name)}, expected a positive number")
        for name in ("max_internal_size", "min_internal_size"):
            size = getattr(self, name)
            require(size is None or size >= 32, f"{name}: got {size}, expected at least 32 pixels")
        for name in ("mem_every", "top_k", "full_frame_every"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name}: got {value}, expected 1 or more")
        head = self.prompt_channels
        require(head >= 0 and head % 32 == 0, f"prompt_channels: got {head}, expected 0 or a multiple of 32")
        require(self.position_scale > 0, f"position_scale: got {self.position_scale}, expected more than 0")
        temperature = self.position_temperature
        require(temperature > 1, f"position_temperature: got {temperature}, expected more than 1")
        nano = self.mask_encoder == "resnet-nano"
        require(
            not (nano and self.weights.mask_encoder), "weights.mask_encoder: no file fits resnet-nano, expected none"
        )
        require(self.num_queries % 2 == 0, f"num_queries: got {self.num_queries}, expected an even number")
        require(
            self.value_dim % self.num_heads == 0,
            f"value_dim: got {self.value_dim}, expected a multiple of num_heads={self.num_heads}",
        )
        require(
            self.value_dim % 4 == 0, f"value_dim: got {self.value_dim}, expected a multiple of 4 (2-D sine positions)"
        )
