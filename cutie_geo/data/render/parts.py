"""Flat parts of an actor: its body and its swinging limbs."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, UInt8

from cutie_geo.data.render.config import Stage
from cutie_geo.data.render.motion import Bend, Wave, draw_bend, draw_wave, rotation
from cutie_geo.data.render.shapes import Stroke, draw_shape, fill, half_extent, oval, rounded_box


@dataclass(frozen=True)
class Part:
    """A flat part of an actor: the body, or a limb that swings about a joint."""

    coverage: UInt8[np.ndarray, "h w"]  # its sheet, from -half to half
    half: Float[np.ndarray, "2"]
    density: float  # sheet pixels per unit
    bend: Bend
    tilt: Float[np.ndarray, "2"]  # relative change of distance per unit
    joint: Float[np.ndarray, "2"]  # position on the body of this part's point `pivot`
    pivot: Float[np.ndarray, "2"]
    angle: float
    swing: Wave
    offset: float  # distance relative to the actor's

    def place(self, t: int) -> tuple[Float[np.ndarray, "2 2"], Float[np.ndarray, "2"]]:
        """Return the affine map from this part's plane to the actor's."""
        turn = rotation(self.angle + self.swing.at(t)[0])
        return turn, self.joint - turn @ self.pivot


def draw_part(rng: np.random.Generator, strokes: list[Stroke], density: float, bend: Bend) -> Part:
    """Sample the body of an actor."""
    half, nowhere = half_extent(strokes), np.zeros(2)
    still = draw_wave(rng, 0.0, (10.0, 20.0))
    return Part(
        fill(strokes, half, density),
        half,
        density,
        bend,
        rng.uniform(-0.03, 0.03, 2),
        nowhere,
        nowhere,
        0.0,
        still,
        1.0,
    )


def draw_limb(rng: np.random.Generator, strength: float, density: float, bend: Bend, cycle: float) -> Part:
    """Sample a long thin part that is attached to the body at one end."""
    thick, angle = rng.uniform(0.12, 0.25), rng.uniform(0, 2 * np.pi)
    outline = rounded_box(rng) * [0.7, thick] if rng.random() < 0.5 else oval((0.0, 0.0), (0.65, thick))
    limb = draw_part(rng, [Stroke(outline, 255)], density, bend)
    joint = rng.uniform(0.25, 0.5) * np.array([np.cos(angle), np.sin(angle)])
    swing = draw_wave(rng, 2.5 * strength, (0.25 * cycle, 0.8 * cycle))
    return replace(
        limb, joint=joint, pivot=np.array([-0.5, 0.0]), angle=angle, swing=swing, offset=rng.choice([0.985, 1.015])
    )


def draw_body(rng: np.random.Generator, stage: Stage, radius: float) -> tuple[Part, ...]:
    """Sample the parts of an object, including limbs."""
    config, density = stage.config, float(np.clip(1.15 * radius * stage.pixels, 8, 512))
    bend = draw_bend(rng, 0.45 * stage.deformation * rng.random(), stage.cycle)
    body = draw_part(rng, draw_shape(rng, config.hole_probability), density, bend)
    limbs = rng.integers(1, 3) if rng.random() < config.limb_probability else 0
    return (body, *(draw_limb(rng, stage.deformation, density, bend, stage.cycle) for _ in range(limbs)))
