"""The network: its encoders, its sizes, and the files that parts of it start from."""

from dataclasses import dataclass, field
from typing import Literal

from cutie_geo.config.loading import require


@dataclass(frozen=True)
class EncoderConfig:
    """The pixel encoder: one image in, features at strides 16, 8 and 4 out."""

    vision: Literal[
        "resnet50", "resnet18", "hiera-large", "hiera-base-plus", "hiera-small", "hiera-tiny", "hiera-nano"
    ] = "resnet50"
    """Backbone of the image features: Cutie's ResNets, or SAM 2's Hiera trunks."""
    vision_init: Literal["sam2.1", "sam2", "mae", "none"] = "sam2.1"
    """What a Hiera trunk starts from: SAM 2.1, SAM 2, Hiera's own masked autoencoder, or random weights."""
    vision_features: Literal["trunk", "fpn"] = "trunk"
    """Of a Hiera trunk: the ends of its stages, or the feature pyramid that SAM 2 puts behind them."""
    geometry: Literal[
        "none", "depth-anything-v2-large", "depth-anything-v2-base", "depth-anything-v2-small", "depth-nano"
    ] = "none"
    """The depth network whose features are fused with those of a Hiera trunk."""
    geometry_init: Literal["depth-anything-v2", "none"] = "depth-anything-v2"
    """What the depth network starts from: Depth Anything V2, or random weights."""
    freeze: bool = True
    """Keep a network that starts from published weights as it is. One that starts at random is always trained."""
    channels: tuple[int, int, int] = (1024, 512, 256)
    """What vision and geometry are fused to, at strides 16, 8 and 4; a ResNet brings its own."""

    def __post_init__(self) -> None:
        require(min(self.channels) > 0, f"channels: got {self.channels}, wanted positive numbers")
        require(
            self.is_hiera or self.geometry == "none",
            f"geometry: got {self.geometry} with {self.vision}, wanted it with one of the Hiera trunks",
        )
        published = self.vision != "hiera-nano" or self.vision_init == "none" or not self.is_hiera
        require(published, f"vision_init: got {self.vision_init} with {self.vision}, of which only none exists")
        published = self.geometry != "depth-nano" or self.geometry_init == "none"
        require(published, f"geometry_init: got {self.geometry_init} with {self.geometry}, of which only none exists")
        require(
            self.vision_features == "trunk" or self.vision_init != "mae",
            "vision_features: got fpn with vision_init mae, which has no feature pyramid; wanted trunk",
        )

    @property
    def is_hiera(self) -> bool:
        """Whether vision is a Hiera trunk and not one of Cutie's ResNets."""
        return self.vision.startswith("hiera")

    @property
    def starts(self) -> dict[str, str]:
        """Of the parts `vision` and `geometry` that this encoder has from published weights: where these come from."""
        vision = {"vision": self.vision_init} if self.is_hiera and self.vision_init != "none" else {}
        has_geometry = self.geometry != "none" and self.geometry_init != "none"
        return vision | ({"geometry": self.geometry_init} if has_geometry else {})

    @property
    def frozen(self) -> tuple[str, ...]:
        """The parts that training leaves as they are."""
        return tuple(self.starts) if self.freeze else ()


@dataclass(frozen=True)
class WeightsConfig:
    """Files that parts of a network start from. Empty: what the catalogue has for the part."""

    vision: str = ""
    """A SAM 2 file in any of its forms, or, with `vision_init=mae`, timm's file of Hiera's masked autoencoder."""
    geometry: str = ""
    """A Depth Anything V2 file, in its authors' form or that of transformers."""
    warm_start: str = ""
    """A Cutie checkpoint for all that lies behind the encoder."""
    pixel_encoder: str = ""
    """Of a ResNet as pixel encoder: a file of ImageNet weights in torchvision's form, or `imagenet`, to be had from the
    catalogue."""
    mask_encoder: str = ""
    """The same for the mask encoder; channels beyond the image's start orthogonal."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the network; the defaults are those of Cutie's base model."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    mask_encoder: Literal["resnet50", "resnet18", "resnet-nano"] = "resnet18"
    """Backbone of the mask encoder."""
    key_dim: int = 64
    """Channels CK of keys and selections."""
    value_dim: int = 256
    """Channels of pixel features, mask values, sensory memory and object queries alike."""
    num_queries: int = 16
    """Object queries Q: the first half looks at foreground, the second at background."""
    num_heads: int = 8
    num_blocks: int = 3
    """Blocks of the object transformer."""
    feedforward_dim: int = 2048
    decoder_dim: int = 128
    """Channels of the decoder at strides 8 and 4."""
    position_scale: float = 32.0
    """Positions run from 0 to this value across the feature map before they become sines."""
    position_temperature: float = 128.0
    single_object: bool = False
    """No "other objects" channels: the network of still-image pre-training."""
    frame_size: int | None = None
    """Shorter side, in pixels, of frames that it segments best, where that isn't what a benchmark or `infer.py` takes:
    those and `Tracker` shrink frames to it."""
    memory_interval: int | None = None
    """A tracker's `mem_every` with which it is best, where that isn't Cutie's or the benchmark's."""
    tokens_read: int | None = None
    """A tracker's `top_k` with which it is best, where that isn't Cutie's."""

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
            require(getattr(self, name) > 0, f"{name}: got {getattr(self, name)}, wanted a positive number")
        size = self.frame_size
        require(size is None or size >= 32, f"frame_size: got {size}, wanted at least 32 pixels")
        for name in ("memory_interval", "tokens_read"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name}: got {value}, wanted 1 or more")
        require(self.position_scale > 0, f"position_scale: got {self.position_scale}, wanted more than 0")
        temperature = self.position_temperature
        require(temperature > 1, f"position_temperature: got {temperature}, wanted more than 1")
        nano = self.mask_encoder == "resnet-nano"
        require(not (nano and self.weights.mask_encoder), "weights.mask_encoder: no file fits resnet-nano, wanted none")
        require(self.num_queries % 2 == 0, f"num_queries: got {self.num_queries}, wanted an even number")
        require(
            self.value_dim % self.num_heads == 0,
            f"value_dim: got {self.value_dim}, wanted a multiple of num_heads={self.num_heads}",
        )
        require(
            self.value_dim % 4 == 0, f"value_dim: got {self.value_dim}, wanted a multiple of 4 (2-D sine positions)"
        )
