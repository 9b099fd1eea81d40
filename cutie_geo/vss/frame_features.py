"""Feature maps of frames for the classification of masklets: of SAM 2, or of an encoder of `transformers`."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import MODEL_FOR_BACKBONE_MAPPING, AutoConfig, AutoModel

from cutie_geo.checkpoints.load import resolve_device, resolve_precision
from cutie_geo.checkpoints.tensor_files import state_digest
from cutie_geo.config import require
from cutie_geo.model.blocks import normalise
from cutie_geo.sam2.networks import Sam2Features, Sam2Model
from cutie_geo.vss.classifier import FeatureSource

log = logging.getLogger(__name__)

PYRAMID = 32
"""Stride of the deepest map of pyramid encoders."""
OF_FEATURES = ("model.image_encoder.", "model.image_size=")
"""Prefixes of overrides that SAM 2's features depend on."""
LEAST_PATCH = 8
"""Minimum patch size, in pixels, of encoders with one scale; pyramids begin with smaller patches."""


def sam2_map(features: Sam2Features, level: int = -1) -> Float[Tensor, "C h w"]:
    """Return one of SAM 2's feature maps of a frame. Raises ValueError for a level that does not exist."""
    maps = features.backbone["backbone_fpn"]
    require(-len(maps) <= level < len(maps), f"level: got {level}, expected one of SAM 2's {len(maps)} maps")
    return maps[level][0]


def sam2_source(model: Sam2Model, level: int = -1) -> FeatureSource:
    """Return the source of a SAM 2's features: its image encoder and that encoder's configuration."""
    weights = state_digest(model.network.image_encoder)  # type: ignore[arg-type]
    changes = sorted(item for item in model.overrides if item.lstrip("+~").startswith(OF_FEATURES))
    digest = hashlib.sha256(f"{weights} {' '.join(changes)}".encode()).hexdigest()
    return FeatureSource(model.name, level, digest)


class FrameEncoder(nn.Module):
    """Image encoder of `transformers`.

    Frames are resized to the nearest multiples of its patch size and normalised with ImageNet's statistics.
    """

    def __init__(self, name: str, network: Any, level: int = -1, precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.name, self.network, self.level, self.precision = name, network, level, precision
        self.multiple = _patch(network.config) or PYRAMID
        """Sides of resized frames are multiples of this."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.network.device

    @torch.inference_mode()
    def forward(self, image: Float[Tensor, "3 H W"]) -> Float[Tensor, "C h w"]:
        """Return the features of an RGB frame in [0, 1]. Raises ValueError if the encoder has no such map."""
        size = [max(round(side / self.multiple), 1) * self.multiple for side in image.shape[1:]]
        pixels = normalise(image[None].to(self.device, torch.float32))
        stretched = interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        half = self.precision != torch.float32
        with torch.autocast(self.device.type, dtype=self.precision if half else None, enabled=half):
            return self._map(self.network(pixel_values=stretched, output_hidden_states=True))

    def _map(self, said: Any) -> Float[Tensor, "C h w"]:
        """Return the map of `level`. Backbones return only that one, other encoders all stages."""
        maps = getattr(said, "feature_maps", None)
        stages = getattr(said, "reshaped_hidden_states", None) or said.hidden_states or ()
        found, level = (list(stages), self.level) if maps is None else (list(maps), 0)
        require(
            -len(found) <= level < len(found), f"level: got {self.level}, expected one of {self.name}'s {len(found)}"
        )
        shape = tuple(found[level].shape)
        require(len(shape) == 4, f"{self.name}: its features are {shape}, expected a map (1, C, h, w)")
        return found[level][0]

    def source(self) -> FeatureSource:
        """Return the source of the features."""
        return FeatureSource(self.name, self.level, state_digest(self.network))


def _patch(config: Any) -> int | None:
    """Return the patch size of an encoder with one scale; None for a pyramid."""
    patch = getattr(config, "patch_size", None)
    return patch if isinstance(patch, int) and patch >= LEAST_PATCH else None


def load_frame_encoder(
    name: str, level: int = -1, device: str | torch.device = "auto", precision: str = "auto"
) -> FrameEncoder:
    """Load an image encoder without its head.

    Code that comes with an encoder is never run.

    Args:
        name: a folder, or a name on the hub.
        level: index of the feature map.
        device: see `load_model`.
        precision: see `load_model`.

    Raises:
        ValueError: if it cannot be loaded, is no image encoder, or lacks a tensor.
    """
    place = Path(name).expanduser()
    where = str(place) if place.is_dir() else name
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        # stages of a pyramid are maps already, and its backbone has norms that published weights lack
        if _patch(config) and type(config) in MODEL_FOR_BACKBONE_MAPPING:
            backbone: Any = MODEL_FOR_BACKBONE_MAPPING[type(config)]
            loaded: Any = backbone.from_pretrained(where, out_indices=[level], output_loading_info=True)
        else:
            loaded = AutoModel.from_pretrained(where, output_loading_info=True, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"{name}: cannot be loaded as an image encoder: {' '.join(str(error).split())}") from None
    network, details = loaded
    kind = type(network).__name__
    require(network.main_input_name == "pixel_values", f"{name}: got a {kind}, expected an image encoder")
    missing = sorted(details["missing_keys"])
    require(not missing, f"{name}: no weights for {', '.join(missing[:3])}, expected those of the whole encoder")
    target = resolve_device(device)
    encoder = FrameEncoder(name, network.eval().to(target), level, resolve_precision(precision, target))
    log.info("%s: features are taken from level %d", name, level)
    return encoder
