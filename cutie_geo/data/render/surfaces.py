"""Palettes, coloured patterns, and shading of curved surfaces."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from cutie_geo.data.render.patterns import PATTERNS, Field, gradient
from cutie_geo.data.render.shapes import HALF

RgbImage = UInt8[np.ndarray, "H W 3"]  # a whole frame or backdrop, RGB
Colour = UInt8[np.ndarray, "h w 3"]  # a piece
Palette = UInt8[np.ndarray, "4 3"]


def draw_palette(rng: np.random.Generator) -> Palette:
    """Sample four RGB colours that match: shades of one hue, neighbours or complements.

    Half of the palettes are muted, with tones of wood, stone and skin as indoors; the others may be saturated.
    """
    muted = rng.random() < 0.5
    hue = rng.normal(0.09, 0.07) if muted and rng.random() < 0.6 else rng.random()
    hue = (hue + rng.choice([0.02, 0.08, 0.5]) * rng.uniform(-1, 1, 4)) % 1
    saturation = np.clip(rng.uniform(0.03, 0.4 if muted else 0.95) + rng.normal(0, 0.1, 4), 0, 1)
    darkest = rng.uniform(0.15, 0.7)
    value = rng.permutation(np.linspace(darkest, min(darkest + rng.uniform(0.15, 0.7), 1), 4))
    hsv = np.stack([hue * 179, saturation * 255, value * 255], 1).astype(np.uint8)
    return np.asarray(cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0], np.uint8)


def like(rng: np.random.Generator, palette: Palette) -> Palette:
    """Return a slightly changed palette."""
    return np.clip(palette + rng.normal(0, 9, (4, 3)), 0, 255).astype(np.uint8)


def colour(field: Field, palette: Palette) -> Colour:
    """Map `field` to a colour ramp over the palette."""
    levels = np.linspace(0, 3, 256)
    ramp = np.stack([np.interp(levels, np.arange(4), channel) for channel in palette.T.astype(float)], 1)
    return np.take(ramp.astype(np.uint8), np.clip(field * 255, 0, 255).astype(np.uint8), axis=0)


def draw_surface(rng: np.random.Generator, h: int, w: int, palette: Palette, richness: float) -> Colour:
    """Return one or more patterns in the palette's colours; `richness` (0 to 1) is the probability of each further
    layer.
    """
    pattern = PATTERNS[rng.integers(len(PATTERNS))] if rng.random() < richness else gradient
    field = pattern(rng, h, w)
    if rng.random() < richness:
        share = np.float32(rng.uniform(0.15, 0.5))
        field = (1 - share) * field + share * PATTERNS[rng.integers(len(PATTERNS))](rng, h, w)
    surface = colour(field, palette)
    if rng.random() < 0.5 * richness:  # a second print over part of the first
        cover = PATTERNS[rng.integers(len(PATTERNS))](rng, h, w) > rng.uniform(0.5, 0.8)
        surface[cover] = palette[rng.integers(4)] // 2 + surface[cover] // 2
    return surface


def lit(
    surface: Colour, coverage: UInt8[np.ndarray, "h w"], sun: Float[np.ndarray, "2"], density: float, relief: float
) -> Colour:
    """Shade `surface` as a curved shape with relief `relief` (0 to 1), lit from `sun`."""
    inside = cv2.distanceTransform((coverage >= HALF).astype(np.uint8), cv2.DIST_L2, 3) / np.float32(0.3 * density)
    height = cv2.blur(np.sqrt(np.minimum(inside, 1)), (5, 5))
    slope = sun[0] * cv2.Sobel(height, cv2.CV_32F, 1, 0) + sun[1] * cv2.Sobel(height, cv2.CV_32F, 0, 1)
    shade = np.clip(0.92 + 0.12 * height - slope * (relief * density / 100), 0.35, 1.5) * 128
    return cv2.multiply(surface, cv2.merge([shade.astype(np.uint8)] * 3), scale=1 / 128)
