"""Moving actors: labelled objects, and unlabelled distractors and occluders."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from cutie_geo.data.render.camera import OBJECT_DISTANCE, OCCLUDER_DISTANCE, View, parallax
from cutie_geo.data.render.config import Stage
from cutie_geo.data.render.motion import Absence, Wave, draw_bend, draw_wave, rotation
from cutie_geo.data.render.parts import Part, draw_body, draw_part
from cutie_geo.data.render.shapes import Stroke, blob, leaf
from cutie_geo.data.render.surfaces import Palette, draw_palette, like


class Pose(NamedTuple):
    """Pose of an actor: `matrix u + centre` is the screen position of its point u."""

    matrix: Float[np.ndarray, "2 2"]
    centre: Float[np.ndarray, "2"]
    distance: float


@dataclass(frozen=True)
class Actor:
    """An object (id 1 to N), or an unlabelled distractor or occluder (id 0)."""

    object_id: int
    parts: tuple[Part, ...]
    radius: float  # screen units, at `distance`
    distance: float
    band: tuple[float, float]  # range of distances
    home: Float[np.ndarray, "2"]  # screen
    wander: Wave
    roam: Float[np.ndarray, "2"]  # maximum distance of its path from the centre
    approach: Wave  # logarithm of distance
    heading: float
    spin: float  # radians per frame
    turn: Wave
    squash: Wave  # logarithm of its width: rotation out of the plane
    stands: float  # 1: fixed in the scene, moves with the pan; 0: followed by the camera
    absence: Absence
    palette: Palette
    shadow: float  # darkness, 0 to 1

    def pose(self, t: int, view: View) -> Pose:
        distance = float(np.clip(self.distance * np.exp(self.approach.at(t)[0]), *self.band))
        path = self.roam * np.tanh((self.home + self.wander.at(t)) / self.roam)
        seen = view.matrix @ (path - self.stands * view.pan * parallax(distance)) + view.shake
        away = self.absence.at(t)
        squash = np.exp(self.squash.at(t)[0])
        turn = rotation(self.heading + self.spin * t + self.turn.at(t)[0])
        scale = self.radius * self.distance / distance
        return Pose(scale * view.matrix @ turn * [squash, 1.0], (1 - away) * seen + away * self.absence.waits, distance)


def draw_absence(rng: np.random.Generator, stage: Stage, reach: float, leaves: bool, late: bool) -> Absence:
    """Sample when an actor of screen radius `reach` is away, beyond a random point of the frame's edge."""
    side = rng.integers(2)
    waits = stage.corner * rng.uniform(-0.8, 0.8, 2)
    waits[side] = rng.choice([-1, 1]) * (stage.corner[side] + reach)
    crossing, first = 0.2 * stage.cycle, rng.uniform(0.1, 0.25) * stage.cycle
    leave = first if leaves and stage.cycle >= 12 else np.inf
    back = leave + crossing + rng.uniform(0.08, 0.2) * stage.cycle
    enter = rng.uniform(0.25, 0.6) * stage.cycle if late else 0.0
    return Absence(waits, enter, leave, back, crossing, stage.cycle * rng.uniform(1, 1.4))


def draw_object(rng: np.random.Generator, stage: Stage, object_id: int, leaves: bool, late: bool) -> Actor:
    """Sample an object."""
    config, cycle = stage.config, stage.cycle
    radius = float(np.exp(rng.uniform(np.log(config.min_size), np.log(config.max_size))))
    slow, motion = (0.8 * cycle, 2.2 * cycle), stage.motion * rng.uniform(0.2, 1)
    spins = rng.random() < 0.4
    return Actor(
        object_id=object_id,
        parts=draw_body(rng, stage, radius),
        radius=radius,
        distance=rng.uniform(2.2, 6.5),
        band=OBJECT_DISTANCE,
        home=stage.corner * rng.uniform(-0.75, 0.75, 2),
        wander=draw_wave(rng, 0.8 * motion, slow, 2),
        roam=0.95 * stage.corner,
        approach=draw_wave(rng, 0.9 * stage.depth_motion, slow),
        heading=rng.uniform(0, 2 * np.pi) if spins else rng.normal(0, 0.25),
        spin=rng.normal(0, 1) * motion * 2 * np.pi / cycle if spins else 0.0,
        turn=draw_wave(rng, 0.6 * motion, slow),
        squash=draw_wave(rng, 0.4 * stage.deformation, slow),
        stands=float(rng.choice([0.0, 0.3, 1.0])),
        absence=draw_absence(rng, stage, 2.2 * radius, leaves, late),
        palette=draw_palette(rng),
        shadow=stage.shadow,
    )


def draw_occluder(rng: np.random.Generator, stage: Stage) -> Actor:
    """Sample an occluder: a post across the frame, or a leaf or blob that enters from an edge."""
    post = rng.random() < 0.4
    actor = draw_object(rng, stage, 0, False, False)
    outline = (
        np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [rng.uniform(0.03, 0.08), 1]
        if post
        else (leaf, blob)[rng.integers(2)](rng)
    )
    radius = float(2 * stage.corner.max()) if post else rng.uniform(0.15, 0.35)
    density = float(np.clip(radius * stage.pixels, 8, 512)) * (0.5 if post else 1)
    bend = draw_bend(rng, 0.0 if post else 0.2 * stage.deformation, stage.cycle)
    edge = stage.corner * rng.uniform(-0.9, 0.9, 2)
    edge[0 if post else rng.integers(2)] *= 1.1
    return replace(
        actor,
        parts=(draw_part(rng, [Stroke(outline, 255)], density, bend),),
        radius=radius,
        distance=rng.uniform(*OCCLUDER_DISTANCE),
        band=OCCLUDER_DISTANCE,
        home=edge,
        heading=rng.normal(0, 0.3) + (np.pi / 2) * (post and rng.random() < 0.25),
        spin=0.0,
        approach=draw_wave(rng, 0.1 * stage.depth_motion, (20.0, 40.0)),
        stands=0.6,
        shadow=0.0,
    )


def draw_distractor(rng: np.random.Generator, stage: Stage, model: Actor) -> Actor:
    """Sample an unlabelled actor in the colours of `model`; half of them also have its shape."""
    actor = replace(draw_object(rng, stage, 0, False, False), palette=like(rng, model.palette))
    same = rng.random() < 0.5
    return replace(actor, parts=model.parts, radius=model.radius * rng.uniform(0.7, 1.1)) if same else actor
