"""SegFormer of `transformers`: semantic segmentation of single frames."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import SegformerForSemanticSegmentation

from cutie_geo.checkpoints.load import resolve_device, resolve_precision
from cutie_geo.checkpoints.tensor_files import state_digest
from cutie_geo.config import require
from cutie_geo.model.blocks import normalise
from cutie_geo.ops import strongest

log = logging.getLogger(__name__)

STRIDE = 32
"""Stride of the deepest features, and minimum side of frames in pixels."""


class Segformer(nn.Module):
    """SegFormer that segments frames at their own size."""

    def __init__(self, network: SegformerForSemanticSegmentation, precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network = network
        config: Any = network.config
        self.classes: int = config.num_labels
        """Number of classes."""
        self.precision = precision
        """Precision of the forward pass; weights stay float32."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.network.device

    def autocast(self) -> torch.autocast:
        """Return the autocast context of this network's precision."""
        half = self.precision != torch.float32
        return torch.autocast(self.device.type, dtype=self.precision if half else None, enabled=half)

    @torch.inference_mode()
    def forward(self, image: Float[Tensor, "3 H W"]) -> UInt8[np.ndarray, "H W"]:
        """Return the most probable class of each pixel of an RGB frame in [0, 1].

        Logits are resized to the frame bilinearly.

        Raises:
            ValueError: if the frame is too small.
        """
        size = (image.shape[-2], image.shape[-1])
        require(min(size) >= STRIDE, f"SegFormer: got a frame of {size}, expected at least {STRIDE} pixels a side")
        with self.autocast():
            logits = self.network(pixel_values=normalise(image[None].to(self.device, torch.float32))).logits
        full = interpolate(logits.float(), size, mode="bilinear", align_corners=False)
        return strongest(full[0]).to(torch.uint8).cpu().numpy()

    def digest(self) -> str:
        """Return a digest of the weights."""
        return state_digest(self.network)


def load_segformer(name: str, classes: int, device: str | torch.device = "auto", precision: str = "auto") -> Segformer:
    """Load a SegFormer.

    Args:
        name: a folder, or a name on the hub.
        classes: maximum number of classes.
        device: see `load_model`.
        precision: see `load_model`.

    Raises:
        ValueError: if it cannot be loaded, lacks a tensor, or has too many classes.
    """
    try:
        place = Path(name).expanduser()
        loaded: Any = SegformerForSemanticSegmentation.from_pretrained(
            str(place) if place.is_dir() else name, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: cannot be loaded as a SegFormer: {' '.join(str(error).split())}") from None
    network, details = loaded
    missing = sorted(details["missing_keys"])
    require(not missing, f"{name}: no weights for {', '.join(missing[:3])}, expected a SegFormer with its decode head")
    known = network.config.num_labels
    require(known <= min(classes, 255), f"{name}: has {known} classes, expected at most {classes}")
    where = resolve_device(device)
    log.info("%s: %d classes", name, known)
    return Segformer(network.eval().to(where), resolve_precision(precision, where))
