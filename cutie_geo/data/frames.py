"""Images in memory as frames: numpy arrays, PIL images and tensors."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from cutie_geo.config import require
from cutie_geo.data.video import pil_rgb, to_tensor
from cutie_geo.limits import require_pixels

EXPECTED = (
    "expected a tensor (3, H, W) of floats in [0, 1] or uint8, an array (H, W, 3) of uint8, or a PIL image; "
    "grey and RGBA are accepted"
)
CHANNELS = (1, 3, 4)
"""Grey, colours, colours with transparency."""


def image_tensor(image: Any, color: str = "rgb") -> Float[Tensor, "3 H W"]:
    """Return a frame as an RGB tensor (3, H, W) with values in [0, 1].

    Grey is repeated over the channels, and transparency is dropped. Float tensors (3, H, W) in RGB order are returned
    unchanged; their range is not checked.

    Args:
        image: numpy array (H, W, 3) of uint8, PIL image, or tensor (3, H, W) of floats in [0, 1] or uint8; also grey
            ((H, W), or one channel) and RGBA (four channels). PIL images are rotated by their EXIF orientation.
        color: order of the channels of arrays and tensors, "rgb" or "bgr". PIL images know their own.

    Raises:
        ValueError: For other types and shapes.
    """
    require(color in ("rgb", "bgr"), f"color: got {color!r}, expected 'rgb' or 'bgr'")
    if isinstance(image, Tensor):
        return _of_tensor(image, color)
    return to_tensor(_of_pixels(image, color))


def image_pixels(image: Any, color: str = "rgb") -> UInt8[np.ndarray, "H W 3"]:
    """Return a frame as an RGB array; arguments and errors are those of `image_tensor`.

    Floats are rounded to 8 bits.
    """
    require(color in ("rgb", "bgr"), f"color: got {color!r}, expected 'rgb' or 'bgr'")
    if not isinstance(image, Tensor):
        return _of_pixels(image, color)
    rgb = _of_tensor(image.detach().cpu(), color)
    return np.ascontiguousarray(rgb.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy())


def _of_tensor(image: Tensor, color: str) -> Tensor:
    channels = image if image.ndim == 3 else image[None] if image.ndim == 2 else None
    require(
        channels is not None
        and channels.shape[0] in CHANNELS
        and (channels.is_floating_point() or channels.dtype == torch.uint8),
        f"image: got {tuple(image.shape)} of {image.dtype}, {EXPECTED}",
    )
    assert channels is not None
    if channels.dtype == torch.uint8:
        channels = channels.float().div(255)
    if channels.shape[0] == 1:
        return channels.expand(3, -1, -1)
    colours = channels if channels.shape[0] == 3 else channels[:3]
    return colours.flip(0) if color == "bgr" else colours


def _of_pixels(image: Any, color: str) -> UInt8[np.ndarray, "H W 3"]:
    if isinstance(image, Image.Image):
        require_pixels(image.width, image.height)
        try:
            return pil_rgb(image)
        except ValueError as error:
            raise ValueError(f"image: {error}, {EXPECTED}") from None
    require(isinstance(image, np.ndarray), f"image: got {type(image).__name__}, {EXPECTED}")
    pixels = image[..., None] if image.ndim == 2 else image
    require(
        pixels.ndim == 3 and pixels.shape[2] in CHANNELS and pixels.dtype == np.uint8 and pixels.size > 0,
        f"image: got {tuple(image.shape)} of {image.dtype}, {EXPECTED}",
    )
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    colours = pixels[..., :3]
    return np.ascontiguousarray(colours[..., ::-1] if color == "bgr" else colours)
