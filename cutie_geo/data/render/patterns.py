"""Random greyscale patterns with values from 0 to 1."""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float32

from cutie_geo.data.render.motion import rotation

Field = Float32[np.ndarray, "h w"]  # a pattern, values 0 to 1


def plane(h: int, w: int) -> tuple[Float32[np.ndarray, "1 w"], Float32[np.ndarray, "h 1"]]:
    """Return centred x and y; the shorter side is 1."""
    unit = min(h, w)
    return (np.arange(w, dtype=np.float32)[None] - w / 2) / unit, (
        np.arange(h, dtype=np.float32)[:, None] - h / 2
    ) / unit


def stretch(field: np.ndarray) -> Field:
    """Normalise `field` to the range 0 to 1."""
    low, high, _, _ = cv2.minMaxLoc(field)
    return (field - np.float32(low)) * np.float32(1 / max(high - low, 1e-6))


def noise(rng: np.random.Generator, h: int, w: int, cells: float = 0.0, octaves: int = 0) -> Field:
    """Return value noise.

    Args:
        cells: cells along the shorter side of the coarsest octave; 0 samples it.
        octaves: layers, each twice as fine and half as strong as the one before; 0 samples it.
    """
    cells, octaves = cells or rng.uniform(1.5, 7), octaves or int(rng.integers(2, 5))
    total = np.zeros((h, w), np.float32)
    for octave in range(octaves):
        scale = cells * 2**octave / min(h, w)
        coarse = rng.random((int(h * scale) + 2, int(w * scale) + 2), np.float32) * np.float32(0.5**octave)
        total += cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC)
    return stretch(total)


def ridges(rng: np.random.Generator, phase: np.ndarray) -> Field:
    """Return waves of `phase`, from soft to hard-edged."""
    hardness = np.float32(rng.choice([0.3, 1.5, 8.0]))
    return (0.5 + 0.5 * np.tanh(hardness * np.sin(phase)) / np.tanh(hardness)).astype(np.float32)


def stripes(rng: np.random.Generator, h: int, w: int) -> Field:
    x, y = plane(h, w)
    angle, rate = rng.uniform(0, np.pi), rng.uniform(10, 50)
    phase = np.float32(rate * np.cos(angle)) * x + np.float32(rate * np.sin(angle)) * y
    return ridges(rng, phase + np.float32(rng.choice([0, 0, 2, 6])) * noise(rng, h, w, 3.0, 2))


def checks(rng: np.random.Generator, h: int, w: int) -> Field:
    x, y = plane(h, w)
    (c, s), rate = rotation(rng.uniform(0, np.pi))[:, 0].astype(np.float32), np.float32(rng.uniform(8, 35))
    return stretch(
        ridges(rng, rate * (c * x + s * y)) + ridges(rng, rate * (c * y - s * x)) * np.float32(rng.choice([0.5, 1]))
    )


def rings(rng: np.random.Generator, h: int, w: int) -> Field:
    x, y = plane(h, w)
    cx, cy = rng.uniform(-0.6, 0.6, 2).astype(np.float32)
    return ridges(
        rng, np.hypot(x - cx, y - cy) * np.float32(rng.uniform(10, 45)) + np.float32(4) * noise(rng, h, w, 3.0, 2)
    )


def gradient(rng: np.random.Generator, h: int, w: int) -> Field:
    x, y = plane(h, w)
    cx, cy, c, s = rng.uniform(-1, 1, 4).astype(np.float32)
    return stretch(np.hypot(x - cx, y - cy) if rng.random() < 0.4 else c * x + s * y)


def cells(rng: np.random.Generator, h: int, w: int) -> Field:
    """Return the distance to the nearest of random points: pebbles, scales or spots."""
    sheet = np.full((h, w), 255, np.uint8)
    count = int(rng.integers(8, 60) * max(h, w) / min(h, w))
    sheet[rng.integers(0, h, count), rng.integers(0, w, count)] = 0
    near = cv2.distanceTransform(sheet, cv2.DIST_L2, 3)
    return stretch(near if rng.random() < 0.4 else np.clip(near - 0.35 * near.mean() * rng.uniform(1, 2.5), 0, 2))


def bricks(rng: np.random.Generator, h: int, w: int) -> Field:
    """Return rows of staggered tiles with individual shades."""
    x, y = plane(h, w)
    rows = np.float32(rng.uniform(4, 14))
    row = np.floor(y * rows)
    across = x * rows * np.float32(rng.uniform(0.3, 1)) + np.float32(0.5) * (row % 2)
    shade = rng.random((32, 32), np.float32)[(row % 32).astype(int), (np.floor(across) % 32).astype(int)]
    joint = np.minimum(np.minimum(across % 1, y * rows % 1) * 12, 1)
    return (0.15 + 0.85 * shade) * joint


def patches(rng: np.random.Generator, h: int, w: int) -> Field:
    """Return noise quantised to a few levels: maps, camouflage or cow hide."""
    steps = int(rng.integers(2, 5))
    return np.floor(noise(rng, h, w) * np.float32(steps - 0.01)) / np.float32(steps - 1)


PATTERNS: tuple[Callable[[np.random.Generator, int, int], Field], ...]


PATTERNS = (noise, noise, stripes, checks, rings, gradient, cells, bricks, patches)
