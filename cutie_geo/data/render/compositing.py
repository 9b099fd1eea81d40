"""Compositing of a layer: visibility, shadow and colour."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from cutie_geo.data.render.layers import Layer
from cutie_geo.data.render.shapes import HALF
from cutie_geo.data.render.surfaces import Colour, RgbImage


def claim(
    layer: Layer,
    coverage: UInt8[np.ndarray, "h w"],
    labels: UInt8[np.ndarray, "H W"],
    depth: Float32[np.ndarray, "H W"],
):
    """Assign the pixels of a layer that it covers at least half and in front of all others.

    Returns:
        The coverage of the layer, 0 where it is occluded.
    """
    seen = coverage * (layer.distance < depth[layer.box])
    owned = seen >= HALF
    np.copyto(labels[layer.box], layer.object_id, where=owned)
    np.copyto(depth[layer.box], layer.distance, where=owned)
    return seen


def cast(image: RgbImage, soft: UInt8[np.ndarray, "h w"], layer: Layer, shift: tuple[float, float]) -> None:
    """Darken `image` under the blurred outline `soft`, moved by `shift`."""
    h, w = soft.shape
    moved = cv2.warpAffine(
        soft, np.array([[1.0, 0, shift[0]], [0, 1, shift[1]]]), (w, h), borderMode=cv2.BORDER_REPLICATE
    )
    light = 255 - (moved * np.float32(layer.shadow)).astype(np.uint8)
    image[layer.box] = cv2.multiply(image[layer.box], cv2.merge([light] * 3), scale=1 / 255)


def blend(image: RgbImage, surface: Colour, seen: UInt8[np.ndarray, "h w"], box: tuple[slice, slice]) -> None:
    """Blend `surface` over `image` with weight `seen`."""
    below = image[box].astype(np.int16)
    weight = cv2.merge([(seen.astype(np.int16) + 1) >> 1] * 3)  # 0 to 128, so that the product fits 16 bits
    image[box] = below + np.right_shift((surface.astype(np.int16) - below) * weight, 7)
