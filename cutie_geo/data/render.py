"""Procedural clips with exact labels and depth: textured things move before a camera that moves too.

A clip is a pure function of `(seed, config)`, and each of its frames a pure function of the scene and the frame
number, so a stream of any length costs the memory of one frame. The scene is a small 2.5-D world:

    screen     x right, y down, origin at the frame's centre; the unit is the frame's shorter side
    own plane  the flat coordinates in which a part is drawn; the outline of an object fits in about radius 1
    distance   of a surface from the camera, in a unit of about a metre; smaller is nearer

Every part of every actor is a layer with its own distance at each pixel. The nearest layer that covers at least half
of a pixel owns it: it gives the pixel its label and its depth. So occlusion, labels and depth agree by construction.

Geometry is computed in float64 on a coarse grid and only then spread to pixels, and pixel values are 8-bit: the labels
of a seed do not hang on the rounding of one processor.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float32, Shaped, UInt8

__all__ = ["RenderedClip", "RenderedFrame", "SceneConfig", "frame_layers", "render_clip", "render_frames"]

DEPTH_RANGE = (0.5, 32.0)  # every depth a frame can hold lies strictly inside
OCCLUDER_DISTANCE = (0.8, 1.3)  # the three bands leave room for each layer's own relief and never meet
OBJECT_DISTANCE = (1.6, 8.0)
BACKDROP_DISTANCE = (11.0, 28.0)
GRID = 9  # knots per axis of the coarse grid on which geometry is computed
MARGIN = 0.12  # empty border around an outline, in its own units: room for the soft edge of its shadow
HALF = 128  # 8-bit coverage from which a layer owns a pixel
ATTEMPTS = 64  # arrangements tried before a config is called unfit
PREVIEWS = 8  # frames in which `shows_every_object` looks for late comers
MAX_ID = 254  # 255 is the ignore label


# ---- what a caller sees --------------------------------------------------------------------------


@dataclass(frozen=True)
class SceneConfig:
    """What a scene may contain. Knobs from 0 to 1 that are not chances are upper bounds: each clip draws its own
    strength below them, so that clips differ.
    """

    height: int = 256
    """Pixels, at least 16."""
    width: int = 256
    """Pixels, at least 16."""
    frames: int = 24
    """Frames of a clip; a stream may be as long as one likes."""
    cycle: int = 48
    """Frames over which things come, go and swap places; at most `frames` is used. Longer streams repeat, varied."""
    min_objects: int = 1
    """Fewest labelled objects."""
    max_objects: int = 6
    """Most labelled objects, at most 254."""
    min_size: float = 0.07
    """Smallest object radius at its mean distance, in screen units."""
    max_size: float = 0.26
    """Largest object radius at its mean distance, in screen units."""
    texture: float = 0.8
    """Richness of surfaces and backdrop: 0 plain gradients, 1 layered patterns and clutter."""
    motion: float = 0.6
    """How far objects wander and turn."""
    depth_motion: float = 0.5
    """How far objects come and go in distance; this changes their size and who hides whom."""
    deformation: float = 0.5
    """How far outlines bend and limbs swing."""
    camera: float = 0.5
    """Pan, zoom, roll and shake."""
    light: float = 0.5
    """Changes of exposure and colour, vignette, passing shade."""
    shadow: float = 0.6
    """Darkness of the soft shadow below an object."""
    noise: float = 0.4
    """Sensor noise; 1 is a standard deviation of about 12 of 255."""
    blur: float = 0.4
    """Lens blur; 1 is a Gaussian of 1.2 pixels at 256 lines."""
    leave_probability: float = 0.35
    """Chance that an object leaves the frame and returns (clips of 12 frames or more)."""
    late_probability: float = 0.3
    """Chance that a clip starts with some objects still out of view. Otherwise all of them show in its first frame."""
    lookalike_probability: float = 0.25
    """Chance that an object wears the colours of another object or of the backdrop."""
    hole_probability: float = 0.2
    """Chance that an object has holes."""
    limb_probability: float = 0.3
    """Chance that an object has one or two swinging limbs."""
    max_occluders: int = 2
    """Most unlabelled things that stand close to the camera."""
    max_distractors: int = 3
    """Most unlabelled things among the objects; they wear an object's colours, some its shape."""

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is float and not 0 <= value <= 1:
                raise ValueError(f"SceneConfig.{field.name}: got {value}, wanted 0 to 1")
        least = {
            "height": 16,
            "width": 16,
            "frames": 1,
            "cycle": 1,
            "min_objects": 1,
            "max_occluders": 0,
            "max_distractors": 0,
        }
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"SceneConfig.{name}: got {getattr(self, name)}, wanted at least {bound}")
        if not self.min_objects <= self.max_objects <= MAX_ID:
            raise ValueError(
                f"SceneConfig.max_objects: got {self.max_objects}, wanted {self.min_objects} (min_objects) to {MAX_ID}"
            )
        if not 0.01 <= self.min_size <= self.max_size:
            raise ValueError(f"SceneConfig.min_size: got {self.min_size}, wanted 0.01 to {self.max_size} (max_size)")


class RenderedFrame(NamedTuple):
    """One frame; the fields are those of `RenderedClip` without the axis T."""

    image: UInt8[np.ndarray, "H W 3"]
    labels: UInt8[np.ndarray, "H W"]
    depth: Float32[np.ndarray, "H W"]


class RenderedClip(NamedTuple):
    """T frames with the truth about them."""

    images: UInt8[np.ndarray, "T H W 3"]
    """RGB."""
    labels: UInt8[np.ndarray, "T H W"]
    """The object that owns each pixel, 1 to N; 0 for the backdrop, for occluders and for distractors."""
    depth: Float32[np.ndarray, "T H W"]
    """Distance of the surface that owns each pixel, smaller is nearer, within `DEPTH_RANGE`; its inverse is inverse
    depth. Objects and distractors are nearer than the backdrop, occluders nearer than both."""


def render_clip(seed: int, config: SceneConfig = SceneConfig()) -> RenderedClip:
    """The clip of `seed`: the same bytes for the same arguments. Each id from 1 to N owns pixels somewhere, and some
    object does in frame 0.
    Raises ValueError for a negative seed, and for a config under which no arrangement shows all its objects.
    """
    scene = build_scene(seed, config)
    shape = (config.frames, config.height, config.width)
    clip = RenderedClip(np.empty((*shape, 3), np.uint8), np.empty(shape, np.uint8), np.empty(shape, np.float32))
    for t in range(config.frames):
        clip.images[t], clip.labels[t], clip.depth[t] = scene.frame(t)
    return clip


def render_frames(seed: int, config: SceneConfig = SceneConfig()) -> Iterator[RenderedFrame]:
    """The frames of `render_clip(seed, config)`, one at a time. Raises what `render_clip` does, at the call."""
    scene = build_scene(seed, config)
    return (scene.frame(t) for t in range(config.frames))


def frame_layers(
    seed: int, config: SceneConfig, t: int
) -> list[tuple[int, UInt8[np.ndarray, "H W"], Float32[np.ndarray, "H W"]]]:
    """What frame `t` would show of each layer if it were alone: its label, its coverage (255 is whole) and its distance
    (inf outside). The truth behind `RenderedClip.labels` and `depth`, with what is hidden (amodal masks, tests).
    """
    alone = []
    for layer in layers_at(arrange(seed, config), t):
        coverage = np.zeros((config.height, config.width), np.uint8)
        distance = np.full(coverage.shape, np.inf, np.float32)
        coverage[layer.box] = warp(layer.part.coverage, layer)
        distance[layer.box] = layer.distance
        alone.append((layer.object_id, coverage, distance))
    return alone


# ---- motion: smooth functions of the frame number ------------------------------------------------


@dataclass(frozen=True)
class Wave:
    """A sum of K sinusoids in D coordinates, a function of the frame number."""

    amplitude: Float[np.ndarray, "K D"]
    rate: Float[np.ndarray, "K D"]  # radians a frame
    phase: Float[np.ndarray, "K D"]

    def at(self, t: int) -> Float[np.ndarray, "D"]:
        return (self.amplitude * np.sin(self.rate * t + self.phase)).sum(0)


def draw_wave(rng: np.random.Generator, size: float, periods: tuple[float, float], dims: int = 1) -> Wave:
    """A wave within `size` of 0, made of a slow term and a weaker one, with periods in frames drawn from `periods`."""
    shares = np.array([[0.7], [0.3]])
    period = rng.uniform(*periods, (2, dims)) * np.array([[1.0], [0.5]])
    return Wave(
        size * shares * rng.uniform(0.5, 1, (2, dims)), 2 * np.pi / period, rng.uniform(0, 2 * np.pi, (2, dims))
    )


def ease(x: float) -> float:
    """0 before 0, 1 after 1, smooth between."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3 - 2 * x)


@dataclass(frozen=True)
class Absence:
    """When an actor is out of view, and where it waits. Times are in frames; inf in `leave` for an actor that stays."""

    waits: Float[np.ndarray, "2"]  # screen
    enter: float  # out of view before; 0 for an actor that is there from the start
    leave: float  # within each cycle
    back: float
    crossing: float  # how long the way in or out takes
    cycle: float

    def at(self, t: int) -> float:
        """0 when the actor is on its path, 1 when it waits outside."""
        late = 1 - ease((t - self.enter) / self.crossing + 1) if self.enter > 0 else 0.0
        now = t % self.cycle
        gone = ease((now - self.leave) / self.crossing) * (1 - ease((now - self.back) / self.crossing))
        return max(late, gone)


@dataclass(frozen=True)
class Bend:
    """A travelling wave of K terms that shifts the points of a part's own plane."""

    shift: Float[np.ndarray, "K 2"]
    wave: Float[np.ndarray, "K 2"]
    rate: Float[np.ndarray, "K"]
    phase: Float[np.ndarray, "K"]

    @property
    def limit(self) -> float:
        return float(np.abs(self.shift).sum(0).max())

    def at(self, points: Float[np.ndarray, "2 G G"], t: int) -> Float[np.ndarray, "2 G G"]:
        angle = np.tensordot(self.wave, points, 1) + (self.rate * t + self.phase)[:, None, None]
        return np.tensordot(self.shift.T, np.sin(angle), 1)


def draw_bend(rng: np.random.Generator, size: float, cycle: float) -> Bend:
    """Three terms that together shift no point by more than about `size`, in the part's own units."""
    direction = rng.uniform(0, 2 * np.pi, 3)
    shift = size / 3 * np.stack([np.cos(direction), np.sin(direction)], 1)
    return Bend(
        shift, rng.normal(0, 1.8, (3, 2)), 2 * np.pi / (cycle * rng.uniform(0.3, 1, 3)), rng.uniform(0, 2 * np.pi, 3)
    )


def rotation(angle: float) -> Float[np.ndarray, "2 2"]:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


class View(NamedTuple):
    """A camera at one moment. What is at `p` of the screen plane, at distance D, is seen at
    `matrix (p - pan parallax(D)) + shake`.
    """

    matrix: Float[np.ndarray, "2 2"]  # zoom and roll
    pan: Float[np.ndarray, "2"]
    shake: Float[np.ndarray, "2"]


@dataclass(frozen=True)
class Camera:
    """Waves for each thing a hand-held camera does."""

    pan: Wave
    zoom: Wave  # of the logarithm
    roll: Wave  # radians
    shake: Wave

    def at(self, t: int) -> View:
        zoom, roll = np.exp(self.zoom.at(t)[0]), self.roll.at(t)[0]
        return View(zoom * rotation(roll), self.pan.at(t), self.shake.at(t))


def draw_camera(rng: np.random.Generator, strength: float, cycle: float) -> Camera:
    pan, zoom, roll, shake = strength * rng.uniform(0, 1, 4) ** 1.5 * np.array([0.6, 0.35, 0.3, 0.03])
    slow = (1.2 * cycle, 3 * cycle)
    return Camera(
        draw_wave(rng, pan, slow, 2),
        draw_wave(rng, zoom, slow),
        draw_wave(rng, roll, slow),
        draw_wave(rng, shake, (5.0, 13.0), 2),
    )


def parallax(distance):
    """How much a surface slides when the camera pans: 1 for the nearest backdrop.
    The square root, which a real camera lacks, keeps near things in view longer.
    """
    return np.sqrt(BACKDROP_DISTANCE[0] / distance)


# ---- outlines: closed curves of about radius 1 ---------------------------------------------------

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
    """A superellipse: from a pillow to nearly a box."""
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
    """A smooth random curve, by its Fourier radii."""
    angle, order = turns(72), np.arange(1, 7)
    size = rng.normal(0, 0.28, 6) / order**0.8
    radius = 1 + (size[:, None] * np.cos(order[:, None] * angle + rng.uniform(0, 2 * np.pi, (6, 1)))).sum(0)
    radius = np.maximum(radius, 0.25)
    return polar(radius / radius.max(), angle) * [1, rng.uniform(0.6, 1)]


def vase(rng: np.random.Generator) -> Outline:
    """A random profile and its mirror image: bottles, cups, bells."""
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
    """A body with a head, legs and a tail."""
    body = (rng.uniform(0.5, 0.65), rng.uniform(0.25, 0.4))
    head = oval((rng.uniform(0.5, 0.65), rng.uniform(-0.5, -0.2)), (rng.uniform(0.2, 0.3), rng.uniform(0.16, 0.26)))
    tail = oval((-0.7, rng.uniform(-0.35, 0.0)), (0.3, 0.07), rng.uniform(-0.2, 1.0))
    legs = [
        oval((x, 0.5), (0.09, rng.uniform(0.25, 0.4)), rng.uniform(-0.25, 0.25))
        for x in rng.uniform(-0.5, 0.5, rng.integers(2, 5))
    ]
    return [Stroke(outline, 255) for outline in (oval((0.0, 0.0), body), head, tail, *legs)]


def mug(rng: np.random.Generator) -> list[Stroke]:
    """A cup with a handle one can see through."""
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
    """The strokes of one object's body."""
    if rng.random() < 0.25:
        return COMPOUNDS[rng.integers(len(COMPOUNDS))](rng)
    strokes = [Stroke(OUTLINES[rng.integers(len(OUTLINES))](rng), 255)]
    if rng.random() < hole_probability:
        for _ in range(rng.integers(1, 3)):
            hole = OUTLINES[rng.integers(len(OUTLINES))](rng) * rng.uniform(0.15, 0.4) + rng.uniform(-0.2, 0.2, 2)
            strokes.append(Stroke(hole, 0))
    return strokes


def half_extent(strokes: list[Stroke]) -> Float[np.ndarray, "2"]:
    """Half the size of the smallest centred box around the filled outlines, plus the margin; (x, y)."""
    return np.max([np.abs(s.outline).max(0) for s in strokes if s.value], axis=0) + MARGIN


def fill(strokes: list[Stroke], half: np.ndarray, density: float) -> UInt8[np.ndarray, "h w"]:
    """The coverage of `strokes`, in order, on a sheet from `-half` to `half` with `density` pixels a unit."""
    w, h = np.maximum(np.ceil(2 * half * density).astype(int), 8)
    sheet = np.zeros((h, w), np.uint8)
    for outline, value in strokes:
        pixels = ((outline / half + 1) * [w, h] / 2 - 0.5) * 16  # fillPoly takes fixed point, here with 4 binary places
        cv2.fillPoly(sheet, [np.rint(pixels).astype(np.int32)], value, cv2.LINE_AA, 4)
    return sheet


# ---- surfaces: patterns, colours, light ----------------------------------------------------------

Field = Float32[np.ndarray, "h w"]  # a pattern, values 0 to 1
Picture = UInt8[np.ndarray, "H W 3"]  # a whole frame or backdrop, RGB
Colour = UInt8[np.ndarray, "h w 3"]  # a piece
Palette = UInt8[np.ndarray, "4 3"]


def plane(h: int, w: int) -> tuple[Float32[np.ndarray, "1 w"], Float32[np.ndarray, "h 1"]]:
    """Centred x and y; the shorter side is 1."""
    unit = min(h, w)
    return (np.arange(w, dtype=np.float32)[None] - w / 2) / unit, (
        np.arange(h, dtype=np.float32)[:, None] - h / 2
    ) / unit


def stretch(field: np.ndarray) -> Field:
    """`field` shifted and scaled to cover 0 to 1."""
    low, high, _, _ = cv2.minMaxLoc(field)
    return (field - np.float32(low)) * np.float32(1 / max(high - low, 1e-6))


def noise(rng: np.random.Generator, h: int, w: int, cells: float = 0.0, octaves: int = 0) -> Field:
    """Value noise: `octaves` layers, each twice as fine and half as strong, from about `cells` cells along the shorter
    side. Zeros are drawn at random.
    """
    cells, octaves = cells or rng.uniform(1.5, 7), octaves or int(rng.integers(2, 5))
    total = np.zeros((h, w), np.float32)
    for octave in range(octaves):
        scale = cells * 2**octave / min(h, w)
        coarse = rng.random((int(h * scale) + 2, int(w * scale) + 2), np.float32) * np.float32(0.5**octave)
        total += cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC)
    return stretch(total)


def ridges(rng: np.random.Generator, phase: np.ndarray) -> Field:
    """Waves of `phase`, from soft to hard-edged."""
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
    """Distance to the nearest of some random points: pebbles, scales, or with a threshold, spots."""
    sheet = np.full((h, w), 255, np.uint8)
    count = int(rng.integers(8, 60) * max(h, w) / min(h, w))
    sheet[rng.integers(0, h, count), rng.integers(0, w, count)] = 0
    near = cv2.distanceTransform(sheet, cv2.DIST_L2, 3)
    return stretch(near if rng.random() < 0.4 else np.clip(near - 0.35 * near.mean() * rng.uniform(1, 2.5), 0, 2))


def bricks(rng: np.random.Generator, h: int, w: int) -> Field:
    """Rows of staggered tiles, each with its own shade."""
    x, y = plane(h, w)
    rows = np.float32(rng.uniform(4, 14))
    row = np.floor(y * rows)
    across = x * rows * np.float32(rng.uniform(0.3, 1)) + np.float32(0.5) * (row % 2)
    shade = rng.random((32, 32), np.float32)[(row % 32).astype(int), (np.floor(across) % 32).astype(int)]
    joint = np.minimum(np.minimum(across % 1, y * rows % 1) * 12, 1)
    return (0.15 + 0.85 * shade) * joint


def patches(rng: np.random.Generator, h: int, w: int) -> Field:
    """Noise in a few flat steps: maps, camouflage, cow hide."""
    steps = int(rng.integers(2, 5))
    return np.floor(noise(rng, h, w) * np.float32(steps - 0.01)) / np.float32(steps - 1)


PATTERNS: tuple[Callable[[np.random.Generator, int, int], Field], ...]
PATTERNS = (noise, noise, stripes, checks, rings, gradient, cells, bricks, patches)


def draw_palette(rng: np.random.Generator) -> Palette:
    """Four RGB colours that go together: shades of one hue, neighbours or opposites. Half of the palettes are muted and
    lean to wood, stone and skin, as indoors; the others may be as loud as toys.
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
    """Nearly the same colours."""
    return np.clip(palette + rng.normal(0, 9, (4, 3)), 0, 255).astype(np.uint8)


def colour(field: Field, palette: Palette) -> Colour:
    """`field` through a ramp over the palette's colours."""
    levels = np.linspace(0, 3, 256)
    ramp = np.stack([np.interp(levels, np.arange(4), channel) for channel in palette.T.astype(float)], 1)
    return np.take(ramp.astype(np.uint8), np.clip(field * 255, 0, 255).astype(np.uint8), axis=0)


def draw_surface(rng: np.random.Generator, h: int, w: int, palette: Palette, richness: float) -> Colour:
    """A pattern or two in the palette's colours; `richness` in 0 to 1 is the chance of each further layer."""
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
    """`surface` shaded as if the shape bulged, `relief` in 0 to 1, and the light came from `sun`."""
    inside = cv2.distanceTransform((coverage >= HALF).astype(np.uint8), cv2.DIST_L2, 3) / np.float32(0.3 * density)
    height = cv2.blur(np.sqrt(np.minimum(inside, 1)), (5, 5))
    slope = sun[0] * cv2.Sobel(height, cv2.CV_32F, 1, 0) + sun[1] * cv2.Sobel(height, cv2.CV_32F, 0, 1)
    shade = np.clip(0.92 + 0.12 * height - slope * (relief * density / 100), 0.35, 1.5) * 128
    return cv2.multiply(surface, cv2.merge([shade.astype(np.uint8)] * 3), scale=1 / 128)


# ---- actors: the things that move ----------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A flat piece of an actor: the body, or a limb that swings about a joint."""

    coverage: UInt8[np.ndarray, "h w"]  # its sheet, from -half to half
    half: Float[np.ndarray, "2"]
    density: float  # sheet pixels a unit
    bend: Bend
    tilt: Float[np.ndarray, "2"]  # relative change of distance per unit
    joint: Float[np.ndarray, "2"]  # where on the body the point `pivot` of this part sits
    pivot: Float[np.ndarray, "2"]
    angle: float
    swing: Wave
    offset: float  # distance relative to the actor's

    def place(self, t: int) -> tuple[Float[np.ndarray, "2 2"], Float[np.ndarray, "2"]]:
        """The affine map from this part's plane to the actor's."""
        turn = rotation(self.angle + self.swing.at(t)[0])
        return turn, self.joint - turn @ self.pivot


class Pose(NamedTuple):
    """Where an actor is: `matrix u + centre` is the screen position of its point u."""

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
    band: tuple[float, float]  # distances it keeps to
    home: Float[np.ndarray, "2"]  # screen
    wander: Wave
    roam: Float[np.ndarray, "2"]  # how far from the centre its path may lead
    approach: Wave  # of the logarithm of distance
    heading: float
    spin: float  # radians a frame
    turn: Wave
    squash: Wave  # of the logarithm of its width: it turns out of the plane
    stands: float  # 1: stands in the scene and slides with the pan; 0: the camera follows it
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


def draw_part(rng: np.random.Generator, strokes: list[Stroke], density: float, bend: Bend) -> Part:
    """The body of an actor."""
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
    """A long thin part whose end hangs on the body."""
    thick, angle = rng.uniform(0.12, 0.25), rng.uniform(0, 2 * np.pi)
    outline = rounded_box(rng) * [0.7, thick] if rng.random() < 0.5 else oval((0.0, 0.0), (0.65, thick))
    limb = draw_part(rng, [Stroke(outline, 255)], density, bend)
    joint = rng.uniform(0.25, 0.5) * np.array([np.cos(angle), np.sin(angle)])
    swing = draw_wave(rng, 2.5 * strength, (0.25 * cycle, 0.8 * cycle))
    return replace(
        limb, joint=joint, pivot=np.array([-0.5, 0.0]), angle=angle, swing=swing, offset=rng.choice([0.985, 1.015])
    )


@dataclass(frozen=True)
class Stage:
    """What the actors of one clip share."""

    config: SceneConfig
    cycle: float  # frames
    corner: Float[np.ndarray, "2"]  # half the frame, screen units
    pixels: float  # a screen unit
    motion: float  # this clip's strengths, each within the config's
    depth_motion: float
    deformation: float
    shadow: float


def draw_stage(rng: np.random.Generator, config: SceneConfig) -> Stage:
    size = np.array([config.width, config.height])
    strengths = rng.uniform(0.2, 1, 4) * [config.motion, config.depth_motion, config.deformation, config.shadow]
    return Stage(
        config, float(min(config.cycle, config.frames)), size / size.min() / 2, float(size.min()), *strengths.tolist()
    )


def draw_absence(rng: np.random.Generator, stage: Stage, reach: float, leaves: bool, late: bool) -> Absence:
    """When an actor of screen radius `reach` is away. It waits beyond a random point of the frame's edge."""
    side = rng.integers(2)
    waits = stage.corner * rng.uniform(-0.8, 0.8, 2)
    waits[side] = rng.choice([-1, 1]) * (stage.corner[side] + reach)
    crossing, first = 0.2 * stage.cycle, rng.uniform(0.1, 0.25) * stage.cycle
    leave = first if leaves and stage.cycle >= 12 else np.inf
    back = leave + crossing + rng.uniform(0.08, 0.2) * stage.cycle
    enter = rng.uniform(0.25, 0.6) * stage.cycle if late else 0.0
    return Absence(waits, enter, leave, back, crossing, stage.cycle * rng.uniform(1, 1.4))


def draw_body(rng: np.random.Generator, stage: Stage, radius: float) -> tuple[Part, ...]:
    """The parts of an object, limbs included."""
    config, density = stage.config, float(np.clip(1.15 * radius * stage.pixels, 8, 512))
    bend = draw_bend(rng, 0.45 * stage.deformation * rng.random(), stage.cycle)
    body = draw_part(rng, draw_shape(rng, config.hole_probability), density, bend)
    limbs = rng.integers(1, 3) if rng.random() < config.limb_probability else 0
    return (body, *(draw_limb(rng, stage.deformation, density, bend, stage.cycle) for _ in range(limbs)))


def draw_object(rng: np.random.Generator, stage: Stage, object_id: int, leaves: bool, late: bool) -> Actor:
    """An actor among the objects, with all it does."""
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
    """A post across the frame, or a leaf or blob that reaches in from an edge."""
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
    """An unlabelled thing in the colours of `model`; half of them have its shape too."""
    actor = replace(draw_object(rng, stage, 0, False, False), palette=like(rng, model.palette))
    same = rng.random() < 0.5
    return replace(actor, parts=model.parts, radius=model.radius * rng.uniform(0.7, 1.1)) if same else actor


@dataclass(frozen=True)
class Plan:
    """The geometry of a clip: who is where when. Colours come later, once the plan is known to show its objects."""

    stage: Stage
    camera: Camera
    actors: tuple[Actor, ...]
    num_objects: int
    on_time: frozenset[int]  # ids that must show in frame 0
    rng: np.random.Generator  # in the state that the colours are drawn from


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
    """`actor`, with this probability in the colours of one of the others."""
    palette = like(rng, others[rng.integers(len(others))].palette)
    return replace(actor, palette=palette) if rng.random() < probability else actor


def draw_count(rng: np.random.Generator, most: int) -> int:
    """None in about half of the clips."""
    return int(rng.integers(0, most + 1)) if rng.random() < 0.6 else 0


def arrange(seed: int, config: SceneConfig) -> Plan:
    """The first plan of this seed that shows all its objects. Raises ValueError when `ATTEMPTS` plans do not."""
    if seed < 0:
        raise ValueError(f"render seed: got {seed}, wanted 0 or more")
    for attempt in range(ATTEMPTS):
        plan = draw_plan(np.random.default_rng([seed, attempt]), config)
        if shows_every_object(plan):
            return plan
    raise ValueError(
        f"render seed {seed}: got {ATTEMPTS} arrangements that do not show all their objects, "
        "wanted a config with fewer objects, larger ones or more frames"
    )


def shows_every_object(plan: Plan) -> bool:
    """Whether frame 0 shows the objects that are on time, and the previewed frames show all."""
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
    """Ids that own at least `enough` pixels of frame `t`."""
    shape = (plan.stage.config.height, plan.stage.config.width)
    labels, depth = np.zeros(shape, np.uint8), np.full(shape, np.inf, np.float32)
    for layer in layers_at(plan, t):
        claim(layer, warp(layer.part.coverage, layer), labels, depth)
    counts = np.bincount(labels.ravel(), minlength=plan.num_objects + 1)
    return set((np.flatnonzero(counts[1:] >= enough) + 1).tolist())


# ---- layers: parts spread to pixels --------------------------------------------------------------


class Layer(NamedTuple):
    """A part in one frame, within the box of pixels that it may touch."""

    object_id: int
    name: tuple[int, int]  # the places of its actor in the plan and of its part in the actor
    part: Part
    box: tuple[slice, slice]
    map_x: Float32[np.ndarray, "h w"]  # the point of the part's sheet that each pixel shows
    map_y: Float32[np.ndarray, "h w"]
    distance: Float32[np.ndarray, "h w"]
    shadow: float


@lru_cache(maxsize=2048)
def spread(size: int) -> Float[np.ndarray, "size G"]:
    """Weights that carry values on GRID evenly spaced knots to `size` pixels, first knot to last: piecewise cubic."""
    at = np.linspace(0, GRID - 1, size)
    knots = np.clip(at.astype(int) - 1, 0, GRID - 4)[:, None] + np.arange(4)
    weights = np.ones((size, 4))
    for j in range(4):
        for k in set(range(4)) - {j}:
            weights[:, j] *= (at - knots[:, k]) / (j - k)
    matrix = np.zeros((size, GRID))
    np.put_along_axis(matrix, knots, weights, 1)
    return matrix


def to_pixels(controls: Float[np.ndarray, "C G G"], h: int, w: int) -> Float32[np.ndarray, "C h w"]:
    """Smooth fields from their values on the coarse grid.

    In blocks of rows, since OpenBLAS wakes all its threads for products above 2**18: too small to gain from them, and
    ten times slower when the other cores are busy, as they are under a training run.
    """
    down, across = spread(h) @ controls, spread(w).T
    fields, rows = np.empty((len(controls), h, w), np.float32), max(2**17 // (GRID * w), 1)
    for i in range(0, h, rows):
        fields[:, i : i + rows] = down[:, i : i + rows] @ across
    return fields


def knots(start: tuple[int, int], stop: tuple[int, int]) -> Float[np.ndarray, "2 G G"]:
    """The pixel positions (x, y) of the coarse grid over the pixels from `start` to before `stop`, both (x, y)."""
    x, y = (np.linspace(a, b - 1, GRID) for a, b in zip(start, stop, strict=True))
    return np.stack(np.broadcast_arrays(x[None, :], y[:, None]))


def lay(actor: Actor, name: tuple[int, int], pose: Pose, t: int, stage: Stage) -> Layer | None:
    """The layer of one of the actor's parts, None when it is out of the frame."""
    part = actor.parts[name[1]]
    size = np.array([stage.config.width, stage.config.height])
    turn, offset = part.place(t)
    matrix = stage.pixels * pose.matrix @ turn
    origin = stage.pixels * (pose.matrix @ offset + pose.centre) + (size - 1) / 2
    reach = np.abs(matrix) @ (part.half + part.bend.limit)
    x0, y0 = np.clip(np.floor(origin - reach), 0, size).astype(int).tolist()
    x1, y1 = np.clip(np.ceil(origin + reach) + 1, 0, size).astype(int).tolist()
    if x0 >= x1 or y0 >= y1:
        return None
    own = np.tensordot(np.linalg.inv(matrix), knots((x0, y0), (x1, y1)) - origin[:, None, None], 1)
    own = own + part.bend.at(own, t)
    sheet = np.array(part.coverage.shape[::-1])
    relief = np.clip(np.tensordot(part.tilt, own, 1), -0.06, 0.06) - 0.04 * np.exp(-(own**2).sum(0))
    (x, y), depth = (
        (own / part.half[:, None, None] + 1) * sheet[:, None, None] / 2 - 0.5,
        pose.distance * part.offset * (1 + relief),
    )
    maps = to_pixels(np.stack([x, y, depth]), y1 - y0, x1 - x0)
    return Layer(actor.object_id, name, part, (slice(y0, y1), slice(x0, x1)), maps[0], maps[1], maps[2], actor.shadow)


def layers_at(plan: Plan, t: int) -> list[Layer]:
    """The layers of frame `t`, farthest first."""
    view, posed = plan.camera.at(t), []
    for a, actor in enumerate(plan.actors):
        pose = actor.pose(t, view)
        for p, part in enumerate(actor.parts):
            posed.append((pose.distance * part.offset, lay(actor, (a, p), pose, t, plan.stage)))
    return [layer for _, layer in sorted(posed, key=lambda pair: -pair[0]) if layer is not None]


def warp(sheet: UInt8[np.ndarray, "a b *c"], layer: Layer) -> UInt8[np.ndarray, "h w *c"]:
    """A sheet of the layer's part as the frame sees it."""
    return cv2.remap(sheet, layer.map_x, layer.map_y, cv2.INTER_LINEAR)


def claim(
    layer: Layer,
    coverage: UInt8[np.ndarray, "h w"],
    labels: UInt8[np.ndarray, "H W"],
    depth: Float32[np.ndarray, "H W"],
):
    """Give the layer the pixels where it is in front and covers at least half.
    Returns its coverage, 0 where something is in front of it.
    """
    seen = coverage * (layer.distance < depth[layer.box])
    owned = seen >= HALF
    np.copyto(labels[layer.box], layer.object_id, where=owned)
    np.copyto(depth[layer.box], layer.distance, where=owned)
    return seen


def cast(image: Picture, soft: UInt8[np.ndarray, "h w"], layer: Layer, shift: tuple[float, float]) -> None:
    """Darken `image` where the blurred outline `soft`, moved by `shift`, falls."""
    h, w = soft.shape
    moved = cv2.warpAffine(
        soft, np.array([[1.0, 0, shift[0]], [0, 1, shift[1]]]), (w, h), borderMode=cv2.BORDER_REPLICATE
    )
    light = 255 - (moved * np.float32(layer.shadow)).astype(np.uint8)
    image[layer.box] = cv2.multiply(image[layer.box], cv2.merge([light] * 3), scale=1 / 255)


def blend(image: Picture, surface: Colour, seen: UInt8[np.ndarray, "h w"], box: tuple[slice, slice]) -> None:
    """Paint `surface` over `image` with weight `seen`."""
    below = image[box].astype(np.int16)
    weight = cv2.merge([(seen.astype(np.int16) + 1) >> 1] * 3)  # 0 to 128, so that the product fits 16 bits
    image[box] = below + np.right_shift((surface.astype(np.int16) - below) * weight, 7)


# ---- backdrop, light and lens --------------------------------------------------------------------


@dataclass(frozen=True)
class Backdrop:
    """A large painted sheet that bends away from the camera; mirrored beyond its edges."""

    sheet: Picture
    horizon: float  # screen y where the floor meets the wall
    depths: tuple[float, float]  # of the wall, and of the floor at the lower edge
    slant: float
    relief: Bend

    def distance(self, points: Float[np.ndarray, "2 G G"]) -> Float[np.ndarray, "G G"]:
        fall = np.clip((points[1] - self.horizon) / 0.8, 0, 1)
        bumps = self.relief.at(points, 0).sum(0) + self.slant * points[0]
        return np.clip(self.depths[0] + (self.depths[1] - self.depths[0]) * fall + bumps, *BACKDROP_DISTANCE)

    def seen(self, view: View, stage: Stage) -> tuple[Picture, Float32[np.ndarray, "H W"]]:
        """The image and the distance of the bare backdrop."""
        h, w = stage.config.height, stage.config.width
        screen = (knots((0, 0), (w, h)) - np.array([w - 1, h - 1])[:, None, None] / 2) / stage.pixels
        straight = np.tensordot(np.linalg.inv(view.matrix), screen - view.shake[:, None, None], 1)
        distance = self.distance(straight + view.pan[:, None, None])
        points = straight + view.pan[:, None, None] * parallax(distance)
        sheet = np.array(self.sheet.shape[1::-1])[:, None, None]
        x, y, depth = to_pixels(np.concatenate([points * stage.pixels + (sheet - 1) / 2, distance[None]]), h, w)
        return cv2.remap(self.sheet, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101), depth


def draw_clutter(rng: np.random.Generator, sheet: Picture, palettes: list[np.ndarray], richness: float) -> None:
    """Paste one flat thing somewhere on the backdrop."""
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
    """A wall, most often a floor, and clutter."""
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


@dataclass(frozen=True)
class Lens:
    """Light, lens and sensor: what lies between the scene and the file."""

    exposure: Wave  # of the logarithm
    cast: Wave  # of the logarithm, for R, G, B
    step: tuple[float, float]  # a sudden change of exposure: its frame, its logarithm
    gamma: float
    vignette: float
    shade: Bend  # passing shade, summed over its two coordinates
    sigma: float  # blur, pixels
    grain: Shaped[np.ndarray, "a b 3"]  # int16, larger than the frame: each frame takes a window of it
    seed: int

    def tone(self, t: int) -> UInt8[np.ndarray, "1 256 3"]:
        """The table from scene to sensor values."""
        gain = np.exp(self.exposure.at(t) + self.cast.at(t) + self.step[1] * (t >= self.step[0]))
        curve = (np.arange(256) / 255) ** self.gamma
        return np.clip(255 * curve[:, None] * gain, 0, 255).astype(np.uint8)[None]

    def light(self, t: int, h: int, w: int) -> UInt8[np.ndarray, "H W"]:
        """How much of the light arrives where; 255 is all of it."""
        unit = np.stack(np.meshgrid(np.linspace(-1, 1, GRID), np.linspace(-1, 1, GRID)))
        shade = self.shade.at(unit, t).sum(0)
        light = (1 - self.vignette * (unit**2).sum(0) / 2) * (1 - np.clip(shade, 0, 0.7))
        return cv2.resize((255 * light).astype(np.uint8), (w, h), interpolation=cv2.INTER_LINEAR)

    def take(self, image: Picture, t: int) -> Picture:
        """The picture that the sensor makes of `image`."""
        h, w = image.shape[:2]
        if self.sigma > 0.25:
            image = cv2.GaussianBlur(image, (0, 0), self.sigma)
        image = cv2.LUT(image, self.tone(t))
        image = cv2.multiply(image, cv2.merge([self.light(t, h, w)] * 3), scale=1 / 255)
        y, x = np.random.default_rng([self.seed, t]).integers(0, np.array(self.grain.shape[:2]) - (h, w) + 1)
        return cv2.add(image, self.grain[y : y + h, x : x + w], dtype=cv2.CV_8U)


def draw_lens(rng: np.random.Generator, stage: Stage) -> Lens:
    config, slow = stage.config, (0.6 * stage.cycle, 2 * stage.cycle)
    light, noise_level, blur = rng.uniform(0, 1, 3) * [config.light, config.noise, config.blur]
    sudden = rng.random() < 0.3 * config.light
    grain = rng.standard_normal((config.height + 64, config.width + 64, 3), np.float32) * np.float32(12 * noise_level)
    return Lens(
        exposure=draw_wave(rng, 0.5 * light, slow),
        cast=draw_wave(rng, 0.15 * light, slow, 3),
        step=(rng.uniform(0.2, 0.8) * stage.cycle, rng.uniform(-0.5, 0.4)) if sudden else (0.0, 0.0),
        gamma=float(np.exp(rng.normal(0, 0.25 * config.light))),
        vignette=rng.uniform(0, 0.7) * config.light,
        shade=draw_bend(rng, 0.8 * light, stage.cycle),
        sigma=1.2 * blur * stage.pixels / 256,
        grain=np.rint(grain).astype(np.int16),
        seed=int(rng.integers(2**32)),
    )


# ---- the scene -----------------------------------------------------------------------------------


class Skin(NamedTuple):
    """What a part looks like, on the sheet of its coverage."""

    surface: Colour
    soft: UInt8[np.ndarray, "h w"]  # the blurred outline, for the shadow


@dataclass(frozen=True)
class Scene:
    """A plan with its colours."""

    plan: Plan
    skins: dict[tuple[int, int], Skin]  # by the name of the layer
    backdrop: Backdrop
    lens: Lens
    shift: tuple[float, float]  # how far shadows fall, pixels

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
    """The scene of `seed`. Raises what `render_clip` does."""
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
