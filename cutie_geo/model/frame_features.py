"""One map of features of a frame, from which masklets are classified: SAM 2's own, or any encoder of `transformers`."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import MODEL_FOR_BACKBONE_MAPPING, AutoConfig, AutoModel

from cutie_geo.config import require
from cutie_geo.model.blocks import normalise
from cutie_geo.model.load import resolve_device, resolve_precision
from cutie_geo.model.masklet_classifier import FeatureSource
from cutie_geo.model.sam2 import Sam2Features, Sam2Model
from cutie_geo.model.tensor_files import state_digest

log = logging.getLogger(__name__)

PYRAMID = 32
"""Stride of the deepest map of encoders that shrink their maps step by step."""
OF_FEATURES = ("model.image_encoder.", "model.image_size=")
"""Changes of SAM 2's configuration that its features depend on."""
LEAST_PATCH = 8
"""Pixels: patches from here on are those of an encoder that keeps one size; pyramids begin with smaller ones."""


def sam2_map(features: Sam2Features, level: int = -1) -> Float[Tensor, "C h w"]:
    """One of SAM 2's maps of a frame. Raises ValueError for a level that isn't there."""
    maps = features.backbone["backbone_fpn"]
    require(-len(maps) <= level < len(maps), f"level: got {level}, wanted one of SAM 2's {len(maps)} maps")
    return maps[level][0]


def sam2_source(model: Sam2Model, level: int = -1) -> FeatureSource:
    """Whose features those of a SAM 2 are: of its image encoder, as it is configured, and nothing else of it."""
    weights = state_digest(model.network.image_encoder)  # type: ignore[arg-type]
    changes = sorted(item for item in model.overrides if item.lstrip("+~").startswith(OF_FEATURES))
    told = hashlib.sha256(f"{weights} {' '.join(changes)}".encode()).hexdigest()
    return FeatureSource(model.name, level, told)


class FrameEncoder(nn.Module):
    """An image encoder of `transformers`, which sees frames one by one.

    Frames are stretched to the nearest size that its patches fill without a rest, and have ImageNet's mean and
    deviation taken out.
    """

    def __init__(self, name: str, network: Any, level: int = -1, precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.name, self.network, self.level, self.precision = name, network, level, precision
        self.multiple = _patch(network.config) or PYRAMID
        """Sides of what it sees are multiples of this."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.device

    @torch.inference_mode()
    def forward(self, image: Float[Tensor, "3 H W"]) -> Float[Tensor, "C h w"]:
        """The features of an RGB frame in [0, 1]. Raises ValueError for an encoder that has no such map."""
        size = [max(round(side / self.multiple), 1) * self.multiple for side in image.shape[1:]]
        pixels = normalise(image[None].to(self.device, torch.float32))
        stretched = interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        half = self.precision != torch.float32
        with torch.autocast(self.device.type, dtype=self.precision if half else None, enabled=half):
            return self._map(self.network(pixel_values=stretched, output_hidden_states=True))

    def _map(self, said: Any) -> Float[Tensor, "C h w"]:
        """The map of `level`: a backbone was asked for that one alone, others tell of all their stages."""
        maps = getattr(said, "feature_maps", None)
        stages = getattr(said, "reshaped_hidden_states", None) or said.hidden_states or ()
        found, level = (list(stages), self.level) if maps is None else (list(maps), 0)
        require(-len(found) <= level < len(found), f"level: got {self.level}, wanted one of {self.name}'s {len(found)}")
        shape = tuple(found[level].shape)
        require(len(shape) == 4, f"{self.name}: its features are {shape}, wanted a map (1, C, h, w)")
        return found[level][0]

    def source(self) -> FeatureSource:
        """Whose features these are."""
        return FeatureSource(self.name, self.level, state_digest(self.network))


def _patch(config: Any) -> int | None:
    """Pixels of a patch, of an encoder that keeps one size; None of a pyramid."""
    patch = getattr(config, "patch_size", None)
    return patch if isinstance(patch, int) and patch >= LEAST_PATCH else None


def load_frame_encoder(
    name: str, level: int = -1, device: str | torch.device = "auto", precision: str = "auto"
) -> FrameEncoder:
    """An encoder by its folder or its name on the hub, without any head; device and precision: as of `load_model`.

    Raises ValueError for anything else, and if a tensor is missing.
    """
    place = Path(name).expanduser()
    where = str(place) if place.is_dir() else name
    try:
        config = AutoConfig.from_pretrained(where)
        # a pyramid's stages are maps already, and its backbone wants norms that published weights haven't got
        if _patch(config) and type(config) in MODEL_FOR_BACKBONE_MAPPING:
            backbone: Any = MODEL_FOR_BACKBONE_MAPPING[type(config)]
            loaded: Any = backbone.from_pretrained(where, out_indices=[level], output_loading_info=True)
        else:
            loaded = AutoModel.from_pretrained(where, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"{name}: can't be loaded as an image encoder: {' '.join(str(error).split())}") from None
    network, told = loaded
    kind = type(network).__name__
    require(network.main_input_name == "pixel_values", f"{name}: wanted an image encoder, got a {kind}")
    missing = sorted(told["missing_keys"])
    require(not missing, f"{name}: no weights for {', '.join(missing[:3])}, wanted those of the whole encoder")
    target = resolve_device(device)
    encoder = FrameEncoder(name, network.eval().to(target), level, resolve_precision(precision, target))
    log.info("%s: features are taken from level %d", name, level)
    return encoder
