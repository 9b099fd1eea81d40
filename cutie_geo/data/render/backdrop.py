"""The painted wall, floor and clutter behind all actors."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float32

from cutie_geo.data.render.camera import BACKDROP_DISTANCE, View, parallax
from cutie_geo.data.render.compositing import blend
from cutie_geo.data.render.config import Stage
from cutie_geo.data.render.grid import knots, to_pixels
from cutie_geo.data.render.motion import Bend, draw_bend, rotation
from cutie_geo.data.render.shapes import OUTLINES, Stroke, fill, half_extent
from cutie_geo.data.render.surfaces import RgbImage, draw_surface, like


@dataclass(frozen=True)
class Backdrop:
    """A large textured sheet that bends away from the camera, mirrored beyond its edges."""

    sheet: RgbImage
    horizon: float  # screen y where the floor meets the wall
    depths: tuple[float, float]  # of the wall, and of the floor at the lower edge
    slant: float
    relief: Bend

    def distance(self, points: Float[np.ndarray, "2 G G"]) -> Float[np.ndarray, "G G"]:
        fall = np.clip((points[1] - self.horizon) / 0.8, 0, 1)
        bumps = self.relief.at(points, 0).sum(0) + self.slant * points[0]
        return np.clip(self.depths[0] + (self.depths[1] - self.depths[0]) * fall + bumps, *BACKDROP_DISTANCE)

    def seen(self, view: View, stage: Stage) -> tuple[RgbImage, Float32[np.ndarray, "H W"]]:
        """Return the image and the distance of the backdrop without actors."""
        h, w = stage.config.height, stage.config.width
        screen = (knots((0, 0), (w, h)) - np.array([w - 1, h - 1])[:, None, None] / 2) / stage.pixels
        straight = np.tensordot(np.linalg.inv(view.matrix), screen - view.shake[:, None, None], 1)
        distance = self.distance(straight + view.pan[:, None, None])
        points = straight + view.pan[:, None, None] * parallax(distance)
        sheet = np.array(self.sheet.shape[1::-1])[:, None, None]
        x, y, depth = to_pixels(np.concatenate([points * stage.pixels + (sheet - 1) / 2, distance[None]]), h, w)
        return cv2.remap(self.sheet, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101), depth


def draw_clutter(rng: np.random.Generator, sheet: RgbImage, palettes: list[np.ndarray], richness: float) -> None:
    """Paste a random flat object on the backdrop."""
    h, w = sheet.shape[:2]
    size = float(np.exp(rng.uniform(np.log(0.05), np.log(0.3)))) * min(h, w)
    strokes = [
        Stroke(outline @ rotation(rng.normal(0, 0.4)).T, 255)
        for outline in [OUTLINES[rng.integers(len(OUTLINES))](rng)]
    ]
    coverage = fill(strokes, half_extent(strokes), size)
    ph, pw = min(coverage.shape[0], h), min(coverage.shape[1], w)
    y, x = rng.integers(0, h - ph + 1), rng.integers(0, w - pw + 1)
    box = (slice(y, y + ph), slice(x, x + pw))
    surface = draw_surface(rng, ph, pw, like(rng, palettes[rng.integers(len(palettes))]), richness)
    blend(sheet, surface, coverage[:ph, :pw], box)


def draw_backdrop(rng: np.random.Generator, stage: Stage, palettes: list[np.ndarray]) -> Backdrop:
    """Sample a wall, usually a floor, and clutter."""
    config = stage.config
    h, w = int(1.5 * config.height), int(1.5 * config.width)
    sheet = draw_surface(rng, h, w, palettes[0], config.texture)
    horizon = rng.uniform(-0.1, 0.4) if rng.random() < 0.7 else 2.0
    top = int(np.clip(h / 2 + horizon * stage.pixels, 0, h))
    if h - top >= 8:
        sheet[top:] = draw_surface(rng, h - top, w, palettes[1], config.texture)
    for _ in range(int(rng.integers(0, 1 + round(20 * config.texture)))):
        draw_clutter(rng, sheet, palettes, 0.7 * config.texture)
    softness = rng.uniform(0, 2.5) * stage.pixels / 256 if rng.random() < 0.6 else 0.0
    sheet = cv2.GaussianBlur(sheet, (0, 0), softness) if softness > 0.4 else sheet
    near, far = BACKDROP_DISTANCE
    depths = (rng.uniform(16, far), near + rng.uniform(0, 3))
    return Backdrop(sheet, horizon, depths, rng.uniform(-3, 3), draw_bend(rng, rng.uniform(0, 4), stage.cycle))
