"""Random object outlines of about radius 1, and their 8-bit coverage."""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from cutie_geo.data.render.motion import rotation

MARGIN = 0.12  # empty border around an outline for its soft shadow, in its own units
HALF = 128  # minimum 8-bit coverage of a visible layer

Outline = Float[np.ndarray, "P 2"]


class Stroke(NamedTuple):
    """An outline to fill (255) or to cut out (0)."""

    outline: Outline
    value: int


def turns(n: int) -> Float[np.ndarray, "n"]:
    return np.linspace(0, 2 * np.pi, n, endpoint=False)


def polar(radius: np.ndarray, angle: np.ndarray) -> Outline:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def ellipse(rng: np.random.Generator) -> Outline:
    return polar(np.ones(48), turns(48)) * [1, rng.uniform(0.45, 1)]


def rounded_box(rng: np.random.Generator) -> Outline:
    """Return a superellipse, between a pillow and a box."""
    unit = polar(np.ones(64), turns(64))
    return np.sign(unit) * np.abs(unit) ** rng.uniform(0.15, 0.6) * [0.85, rng.uniform(0.35, 0.85)]


def polygon(rng: np.random.Generator) -> Outline:
    corners = int(rng.integers(3, 8))
    angle = turns(corners) + rng.uniform(-0.6, 0.6, corners) * np.pi / corners
    return polar(rng.uniform(0.6, 1, corners), angle)


def star(rng: np.random.Generator) -> Outline:
    points = int(rng.integers(4, 9))
    return polar(np.tile([1.0, rng.uniform(0.35, 0.75)], points), turns(2 * points))


def blob(rng: np.random.Generator) -> Outline:
    """Return a smooth random curve from Fourier radii."""
    angle, order = turns(72), np.arange(1, 7)
    size = rng.normal(0, 0.28, 6) / order**0.8
    radius = 1 + (size[:, None] * np.cos(order[:, None] * angle + rng.uniform(0, 2 * np.pi, (6, 1)))).sum(0)
    radius = np.maximum(radius, 0.25)
    return polar(radius / radius.max(), angle) * [1, rng.uniform(0.6, 1)]


def vase(rng: np.random.Generator) -> Outline:
    """Return a random profile and its mirror image, such as a bottle, cup or bell."""
    height = np.linspace(-1, 1, 24)
    profile = np.interp(height, np.linspace(-1, 1, 5), rng.uniform(0.15, 0.62, 5))
    profile = np.convolve(np.pad(profile, 2, mode="edge"), np.ones(5) / 5, "valid")
    return np.concatenate([np.stack([profile, height], 1), np.stack([-profile, height], 1)[::-1]]) * 0.9


def leaf(rng: np.random.Generator) -> Outline:
    along = np.linspace(0, np.pi, 24)
    width = rng.uniform(0.2, 0.5) * np.sin(along) ** rng.uniform(0.6, 1.4)
    curve = rng.uniform(-0.3, 0.3) * np.sin(along)
    return np.concatenate(
        [np.stack([-np.cos(along), curve + width], 1), np.stack([-np.cos(along), curve - width], 1)[::-1]]
    )


def oval(centre: tuple[float, float], half: tuple[float, float], angle: float = 0.0) -> Outline:
    return (polar(np.ones(32), turns(32)) * half) @ rotation(angle).T + centre


def creature(rng: np.random.Generator) -> list[Stroke]:
    """Return a body with a head, legs and a tail."""
    body = (rng.uniform(0.5, 0.65), rng.uniform(0.25, 0.4))
    head = oval((rng.uniform(0.5, 0.65), rng.uniform(-0.5, -0.2)), (rng.uniform(0.2, 0.3), rng.uniform(0.16, 0.26)))
    tail = oval((-0.7, rng.uniform(-0.35, 0.0)), (0.3, 0.07), rng.uniform(-0.2, 1.0))
    legs = [
        oval((x, 0.5), (0.09, rng.uniform(0.25, 0.4)), rng.uniform(-0.25, 0.25))
        for x in rng.uniform(-0.5, 0.5, rng.integers(2, 5))
    ]
    return [Stroke(outline, 255) for outline in (oval((0.0, 0.0), body), head, tail, *legs)]


def mug(rng: np.random.Generator) -> list[Stroke]:
    """Return a cup with an open handle."""
    half = (rng.uniform(0.4, 0.55), rng.uniform(0.5, 0.75))
    taper = rng.uniform(0.7, 1.1)
    cup = np.array([[-half[0], -half[1]], [half[0], -half[1]], [half[0] * taper, half[1]], [-half[0] * taper, half[1]]])
    outer, inner = oval((0.55, 0.0), (0.35, 0.42)), oval((0.57, 0.0), (0.22, 0.28))
    return [Stroke(outer, 255), Stroke(inner, 0), Stroke(cup - [0.1, 0], 255)]


OUTLINES: tuple[Callable[[np.random.Generator], Outline], ...] = (
    ellipse,
    rounded_box,
    polygon,
    star,
    blob,
    blob,
    vase,
    leaf,
)


COMPOUNDS: tuple[Callable[[np.random.Generator], list[Stroke]], ...] = (creature, mug)


def draw_shape(rng: np.random.Generator, hole_probability: float) -> list[Stroke]:
    """Sample the strokes of an object's body."""
    if rng.random() < 0.25:
        return COMPOUNDS[rng.integers(len(COMPOUNDS))](rng)
    strokes = [Stroke(OUTLINES[rng.integers(len(OUTLINES))](rng), 255)]
    if rng.random() < hole_probability:
        for _ in range(rng.integers(1, 3)):
            hole = OUTLINES[rng.integers(len(OUTLINES))](rng) * rng.uniform(0.15, 0.4) + rng.uniform(-0.2, 0.2, 2)
            strokes.append(Stroke(hole, 0))
    return strokes


def half_extent(strokes: list[Stroke]) -> Float[np.ndarray, "2"]:
    """Return half the size of the smallest centred box around the filled outlines, plus the margin, (x, y)."""
    return np.max([np.abs(s.outline).max(0) for s in strokes if s.value], axis=0) + MARGIN


def fill(strokes: list[Stroke], half: np.ndarray, density: float) -> UInt8[np.ndarray, "h w"]:
    """Rasterise `strokes` in order on a sheet from `-half` to `half` with `density` pixels per unit."""
    w, h = np.maximum(np.ceil(2 * half * density).astype(int), 8)
    sheet = np.zeros((h, w), np.uint8)
    for outline, value in strokes:
        pixels = ((outline / half + 1) * [w, h] / 2 - 0.5) * 16  # fillPoly takes fixed point, here with 4 binary places
        cv2.fillPoly(sheet, [np.rint(pixels).astype(np.int32)], value, cv2.LINE_AA, 4)
    return sheet
