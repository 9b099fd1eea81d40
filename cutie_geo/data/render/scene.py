"""A plan with colours, rendered one frame at a time."""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from cutie_geo.data.render.backdrop import Backdrop, draw_backdrop
from cutie_geo.data.render.compositing import blend, cast, claim
from cutie_geo.data.render.config import SceneConfig
from cutie_geo.data.render.layers import warp
from cutie_geo.data.render.lens import Lens, draw_lens
from cutie_geo.data.render.parts import Part
from cutie_geo.data.render.plan import Plan, arrange, layers_at
from cutie_geo.data.render.shapes import MARGIN, polar
from cutie_geo.data.render.surfaces import Colour, Palette, draw_palette, draw_surface, lit


class RenderedFrame(NamedTuple):
    """One frame; the fields are those of `RenderedClip` without the axis T."""

    image: UInt8[np.ndarray, "H W 3"]
    labels: UInt8[np.ndarray, "H W"]
    depth: Float32[np.ndarray, "H W"]


class Skin(NamedTuple):
    """Appearance of a part, on the sheet of its coverage."""

    surface: Colour
    soft: UInt8[np.ndarray, "h w"]  # blurred outline for the shadow


@dataclass(frozen=True)
class Scene:
    """A plan with its colours."""

    plan: Plan
    skins: dict[tuple[int, int], Skin]  # by the name of the layer
    backdrop: Backdrop
    lens: Lens
    shift: tuple[float, float]  # offset of shadows in pixels

    def frame(self, t: int) -> RenderedFrame:
        image, depth = self.backdrop.seen(self.plan.camera.at(t), self.plan.stage)
        labels = np.zeros(depth.shape, np.uint8)
        for layer in layers_at(self.plan, t):
            skin = self.skins[layer.name]
            if layer.shadow > 0:
                cast(image, warp(skin.soft, layer), layer, self.shift)
            seen = claim(layer, warp(layer.part.coverage, layer), labels, depth)
            blend(image, warp(skin.surface, layer), seen, layer.box)
        return RenderedFrame(self.lens.take(image, t), labels, depth)


def draw_skin(
    rng: np.random.Generator, part: Part, palette: Palette, richness: float, sun: Float[np.ndarray, "2"], relief: float
) -> Skin:
    h, w = part.coverage.shape
    surface = draw_surface(rng, h, w, palette, richness)
    soft = cv2.GaussianBlur(part.coverage, (0, 0), max(0.5 * MARGIN * part.density, 0.5))
    return Skin(lit(surface, part.coverage, sun, part.density, relief), soft)


def build_scene(seed: int, config: SceneConfig) -> Scene:
    """Build the scene of `seed`. Raises ValueError as `render_clip` does."""
    plan = arrange(seed, config)
    rng, stage, worn = plan.rng, plan.stage, [actor.palette for actor in plan.actors]
    sun, skins = polar(np.ones(1), rng.uniform(0, 2 * np.pi, 1))[0], {}
    for a, actor in enumerate(plan.actors):
        richness, relief = config.texture * rng.uniform(0.4, 1), rng.uniform(0, 1)
        for p, part in enumerate(actor.parts):
            skins[a, p] = draw_skin(rng, part, actor.palette, richness, sun, relief)
    palettes = [draw_palette(rng) for _ in range(4)]
    if rng.random() < config.lookalike_probability:
        palettes[rng.integers(4)] = worn[rng.integers(plan.num_objects)]
    dx, dy = (-0.035 * stage.pixels * rng.uniform(0.3, 1) * sun).tolist()
    return Scene(plan, skins, draw_backdrop(rng, stage, palettes), draw_lens(rng, stage), (dx, dy))
