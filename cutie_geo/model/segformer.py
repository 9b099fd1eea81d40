"""SegFormer, as `transformers` has it: a class for every pixel of a single frame."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import SegformerForSemanticSegmentation

from cutie_geo.config import require
from cutie_geo.model.blocks import normalise
from cutie_geo.model.load import resolve_device, resolve_precision
from cutie_geo.model.tensor_files import state_digest
from cutie_geo.ops import strongest

log = logging.getLogger(__name__)

STRIDE = 32
"""Of the deepest features: frames have at least this many pixels a side."""


class Segformer(nn.Module):
    """A SegFormer that sees frames at their own size, one by one."""

    def __init__(self, network: SegformerForSemanticSegmentation, precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network = network
        config: Any = network.config
        self.classes: int = config.num_labels
        """How many it knows."""
        self.precision = precision
        """What the network runs in; weights stay float32."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.device

    def autocast(self) -> torch.autocast:
        """The context of this network's precision."""
        half = self.precision != torch.float32
        return torch.autocast(self.device.type, dtype=self.precision if half else None, enabled=half)

    @torch.inference_mode()
    def forward(self, image: Float[Tensor, "3 H W"]) -> UInt8[np.ndarray, "H W"]:
        """The most probable class of each pixel of an RGB frame in [0, 1]; logits are brought to its size, bilinear.

        Raises ValueError for a frame that is too small.
        """
        size = (image.shape[-2], image.shape[-1])
        require(min(size) >= STRIDE, f"SegFormer: got a frame of {size}, wanted at least {STRIDE} pixels a side")
        with self.autocast():
            logits = self.network(pixel_values=normalise(image[None].to(self.device, torch.float32))).logits
        full = interpolate(logits.float(), size, mode="bilinear", align_corners=False)
        return strongest(full[0]).to(torch.uint8).cpu().numpy()

    def digest(self) -> str:
        """What tells these weights from others."""
        return state_digest(self.network)


def load_segformer(name: str, classes: int, device: str | torch.device = "auto", precision: str = "auto") -> Segformer:
    """A SegFormer by its folder or its name on the hub; device and precision: as of `load_model`.

    classes: it may know no more than these. Raises ValueError for anything else, and if a tensor is missing.
    """
    try:
        place = Path(name).expanduser()
        loaded: Any = SegformerForSemanticSegmentation.from_pretrained(
            str(place) if place.is_dir() else name, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: can't be loaded as a SegFormer: {' '.join(str(error).split())}") from None
    network, told = loaded
    missing = sorted(told["missing_keys"])
    require(not missing, f"{name}: no weights for {', '.join(missing[:3])}, wanted a SegFormer with its decode head")
    known = network.config.num_labels
    require(known <= min(classes, 255), f"{name}: knows {known} classes, wanted at most {classes}")
    where = resolve_device(device)
    log.info("%s: %d classes", name, known)
    return Segformer(network.eval().to(where), resolve_precision(precision, where))
