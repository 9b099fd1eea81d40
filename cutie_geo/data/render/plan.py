"""Geometry of a clip, sampled until every object is visible."""

from dataclasses import dataclass, replace

import numpy as np

from cutie_geo.data.render.actors import Actor, draw_distractor, draw_object, draw_occluder
from cutie_geo.data.render.camera import Camera, draw_camera
from cutie_geo.data.render.compositing import claim
from cutie_geo.data.render.config import SceneConfig, Stage, draw_stage
from cutie_geo.data.render.layers import Layer, lay, warp
from cutie_geo.data.render.surfaces import like

ATTEMPTS = 64  # maximum number of arrangements tried for a config
PREVIEWS = 8  # frames in which `shows_every_object` looks for late objects


@dataclass(frozen=True)
class Plan:
    """The geometry of a clip. Colours are sampled later, once the plan is known to show its objects."""

    stage: Stage
    camera: Camera
    actors: tuple[Actor, ...]
    num_objects: int
    on_time: frozenset[int]  # ids that must be visible in frame 0
    rng: np.random.Generator  # state from which colours are sampled


def draw_plan(rng: np.random.Generator, config: SceneConfig) -> Plan:
    stage = draw_stage(rng, config)
    camera = draw_camera(rng, config.camera, stage.cycle)
    num_objects = int(rng.integers(config.min_objects, config.max_objects + 1))
    ids = range(1, num_objects + 1)
    some_late = rng.random() < config.late_probability
    late = (
        set(rng.permutation(ids)[: rng.integers(1, num_objects)].tolist()) if some_late and num_objects > 1 else set()
    )
    objects = [draw_object(rng, stage, i, rng.random() < config.leave_probability, i in late) for i in ids]
    objects = [wear(rng, actor, objects, config.lookalike_probability / 2) for actor in objects]
    distractors = [
        draw_distractor(rng, stage, objects[rng.integers(num_objects)])
        for _ in range(draw_count(rng, config.max_distractors))
    ]
    occluders = [draw_occluder(rng, stage) for _ in range(draw_count(rng, config.max_occluders))]
    return Plan(stage, camera, (*objects, *distractors, *occluders), num_objects, frozenset(ids) - late, rng)


def wear(rng: np.random.Generator, actor: Actor, others: list[Actor], probability: float) -> Actor:
    """Return `actor`, with this probability in the colours of one of the others."""
    palette = like(rng, others[rng.integers(len(others))].palette)
    return replace(actor, palette=palette) if rng.random() < probability else actor


def draw_count(rng: np.random.Generator, most: int) -> int:
    """Sample a number of actors; 0 in about half of the clips."""
    return int(rng.integers(0, most + 1)) if rng.random() < 0.6 else 0


def layers_at(plan: Plan, t: int) -> list[Layer]:
    """Return the layers of frame `t`, farthest first."""
    view, posed = plan.camera.at(t), []
    for a, actor in enumerate(plan.actors):
        pose = actor.pose(t, view)
        for p, part in enumerate(actor.parts):
            posed.append((pose.distance * part.offset, lay(actor, (a, p), pose, t, plan.stage)))
    return [layer for _, layer in sorted(posed, key=lambda pair: -pair[0]) if layer is not None]


def arrange(seed: int, config: SceneConfig) -> Plan:
    """Return the first plan of this seed that shows all its objects. Raises ValueError after `ATTEMPTS` plans."""
    if seed < 0:
        raise ValueError(f"render seed: got {seed}, expected 0 or more")
    for attempt in range(ATTEMPTS):
        plan = draw_plan(np.random.default_rng([seed, attempt]), config)
        if shows_every_object(plan):
            return plan
    raise ValueError(
        f"render seed {seed}: got {ATTEMPTS} arrangements that do not show all their objects, "
        "expected a config with fewer objects, larger ones or more frames"
    )


def shows_every_object(plan: Plan) -> bool:
    """Return True if frame 0 shows the objects that start there, and the previewed frames show all objects."""
    config = plan.stage.config
    enough = max(config.height * config.width // 2000, 1)
    seen = visible(plan, 0, enough)
    if not plan.on_time <= seen:
        return False
    last = min(config.frames, 4 * config.cycle) - 1
    times = sorted({round(last * k / PREVIEWS) for k in range(1, PREVIEWS + 1)}, reverse=True)
    while len(seen) < plan.num_objects and times:
        seen |= visible(plan, times.pop(), enough)
    return len(seen) == plan.num_objects


def visible(plan: Plan, t: int, enough: int) -> set[int]:
    """Return the ids with at least `enough` pixels in frame `t`."""
    shape = (plan.stage.config.height, plan.stage.config.width)
    labels, depth = np.zeros(shape, np.uint8), np.full(shape, np.inf, np.float32)
    for layer in layers_at(plan, t):
        claim(layer, warp(layer.part.coverage, layer), labels, depth)
    counts = np.bincount(labels.ravel(), minlength=plan.num_objects + 1)
    return set((np.flatnonzero(counts[1:] >= enough) + 1).tolist())
