"""Colour changes on bytes, beside torchvision's own on floats."""

import random

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from cutie_geo.data.clips.augment import torch_draws_from
from cutie_geo.data.clips.light import BRIGHTNESS, CONTRAST, HUE, SATURATION, Light, draw_light, shine


def colours(low: int = 60, high: int = 180) -> np.ndarray:
    """Colours in the middle of the range, where nothing is cut off."""
    return np.random.default_rng(0).integers(low, high, (40, 50, 3), dtype=np.uint8)


def torchvisions(image: np.ndarray, light: Light) -> np.ndarray:
    pixels = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    change = {
        BRIGHTNESS: F.adjust_brightness,
        CONTRAST: F.adjust_contrast,
        SATURATION: F.adjust_saturation,
        HUE: F.adjust_hue,
    }
    for which, factor in light.changes:
        pixels = change[which](pixels, factor)
    if light.grey:
        pixels = F.rgb_to_grayscale(pixels, 3)
    return (255 * pixels).permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    "light",
    [
        Light(((BRIGHTNESS, 1.2),)),
        Light(((CONTRAST, 0.7), (BRIGHTNESS, 0.9), (SATURATION, 1.3))),
        Light(((SATURATION, 0.2), (CONTRAST, 1.2)), grey=True),
        Light(),
    ],
)
def test_colours_are_torchvisions_to_one_level(light: Light) -> None:
    image = colours()
    assert np.abs(shine(image, (light,)) - torchvisions(image, light)).max() <= 1.01


def test_hue_is_torchvisions_to_a_few_levels() -> None:
    image, light = colours(), Light(((BRIGHTNESS, 0.9), (HUE, 0.08), (CONTRAST, 1.1)))
    assert np.abs(shine(image, (light,)) - torchvisions(image, light)).mean() < 2


def test_lights_in_a_row_are_one_after_the_other_without_rounding_between() -> None:
    image, light, other = colours(), Light(((CONTRAST, 0.8),)), Light(((BRIGHTNESS, 1.1), (CONTRAST, 0.9)))
    both = Light((*light.changes, *other.changes))
    assert np.array_equal(shine(image, (light, other)), shine(image, (both,)))


def test_bright_colours_are_cut_off_and_the_image_stays() -> None:
    image = np.full((2, 2, 3), 250, np.uint8)
    assert (shine(image, (Light(((BRIGHTNESS, 1.5),)),)) == 255).all()
    assert (image == 250).all()


def test_lights_are_drawn_within_their_ranges_and_follow_from_the_generator() -> None:
    def draw(seed: int) -> list[Light]:
        with torch_draws_from(random.Random(seed)):
            return [draw_light((0.1, 0.2, 0.3, 0.0), 0.3) for _ in range(200)]

    lights = draw(1)
    assert lights == draw(1) != draw(2)
    for which, strength in ((BRIGHTNESS, 0.1), (CONTRAST, 0.2), (SATURATION, 0.3)):
        factors = [factor for light in lights for name, factor in light.changes if name == which]
        assert 1 - strength <= min(factors) < 1 - 0.8 * strength
        assert 1 + 0.8 * strength < max(factors) <= 1 + strength
    assert all(which != HUE for light in lights for which, _ in light.changes)
    assert 35 < sum(light.grey for light in lights) < 85
