"""Colour jitter with torchvision's random parameters, applied to uint8 pixels as one affine map of colours.

Brightness, contrast, saturation and grey are affine in RGB, so any sequence of them costs as much as one. Values are
clipped once, at the end; torchvision clips them after each change.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from torchvision import transforms as v1

from cutie_geo.config.training import Jitter

GREY = np.array([0.2989, 0.587, 0.114])
"""Weights of red, green and blue in grey. Source: torchvision (ITU-R BT.601)."""
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

Image = UInt8[np.ndarray, "_ _ 3"]


class Light(NamedTuple):
    """Colour changes in the order of their application: kind and factor."""

    changes: tuple[tuple[int, float], ...] = ()
    grey: bool = False
    """Convert to grey at the end."""


def draw_light(jitter: Jitter, grey_probability: float = 0.0) -> Light:
    """Sample changes from torch's generator, as torchvision's ColorJitter and RandomGrayscale do."""
    ranges = v1.ColorJitter(*jitter)
    order, *factors = v1.ColorJitter.get_params(ranges.brightness, ranges.contrast, ranges.saturation, ranges.hue)  # type: ignore[arg-type]
    changes = tuple((int(which), float(factor)) for which in order if (factor := factors[which]) is not None)
    return Light(changes, bool(grey_probability) and torch.rand(()).item() < grey_probability)


def shine(image: Image, lights: Sequence[Light]) -> UInt8[np.ndarray, "H W 3"]:
    """Return the image with the changes of `lights` in order."""
    matrix, offset, mean = np.eye(3), np.zeros(3), None
    for light in lights:
        for which, factor in light.changes:
            if which == BRIGHTNESS:
                matrix, offset = factor * matrix, factor * offset
            elif which == CONTRAST:
                mean = np.array(cv2.mean(image)[:3]) if mean is None else mean
                level = GREY @ (matrix @ mean + offset)
                matrix, offset = factor * matrix, factor * offset + (1 - factor) * level
            elif which == SATURATION:
                blend = factor * np.eye(3) + (1 - factor) * GREY
                matrix, offset = blend @ matrix, blend @ offset
            else:  # hue is not affine
                image = _turn_hue(_apply(image, matrix, offset), factor)
                matrix, offset, mean = np.eye(3), np.zeros(3), None
        if light.grey:
            matrix, offset = np.tile(GREY @ matrix, (3, 1)), np.full(3, GREY @ offset)
    return _apply(image, matrix, offset)


def _apply(image: Image, matrix: np.ndarray, offset: np.ndarray) -> Image:
    if np.array_equal(matrix, np.eye(3)) and not offset.any():
        return image
    return cv2.transform(image, np.column_stack([matrix, offset]).astype(np.float32))  # type: ignore[return-value]


def _turn_hue(image: Image, turns: float) -> Image:
    """Return the image with its hue rotated by a share of a full turn."""
    shades = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    shades[..., 0] += np.uint8(round(turns * 256) % 256)  # uint8 wraps around as hue does
    return cv2.cvtColor(shades, cv2.COLOR_HSV2RGB_FULL)  # type: ignore[return-value]
