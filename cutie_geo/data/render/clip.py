"""Rendering of clips, frame streams and the layers of a frame."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from cutie_geo.data.render.config import SceneConfig
from cutie_geo.data.render.layers import warp
from cutie_geo.data.render.plan import arrange, layers_at
from cutie_geo.data.render.scene import RenderedFrame, build_scene

DEFAULTS = SceneConfig()


class RenderedClip(NamedTuple):
    """T frames with ground truth."""

    images: UInt8[np.ndarray, "T H W 3"]
    """RGB."""
    labels: UInt8[np.ndarray, "T H W"]
    """Object at each pixel, 1 to N; 0 for backdrop, occluders and distractors."""
    depth: Float32[np.ndarray, "T H W"]
    """Distance of the visible surface, within `camera.DEPTH_RANGE`; smaller is nearer.

    Objects and distractors are nearer than the backdrop, and occluders are nearer than both.
    """


def render_clip(seed: int, config: SceneConfig = DEFAULTS) -> RenderedClip:
    """Render the clip of `seed`, with identical bytes for identical arguments.

    Each id from 1 to N is visible in some frame, and frame 0 shows an object.

    Raises:
        ValueError: for a negative seed, and for a config under which no arrangement shows all its objects.
    """
    scene = build_scene(seed, config)
    shape = (config.frames, config.height, config.width)
    clip = RenderedClip(np.empty((*shape, 3), np.uint8), np.empty(shape, np.uint8), np.empty(shape, np.float32))
    for t in range(config.frames):
        clip.images[t], clip.labels[t], clip.depth[t] = scene.frame(t)
    return clip


def render_frames(seed: int, config: SceneConfig = DEFAULTS) -> Iterator[RenderedFrame]:
    """Yield the frames of `render_clip(seed, config)`. Raises ValueError at the call, as `render_clip` does."""
    scene = build_scene(seed, config)
    return (scene.frame(t) for t in range(config.frames))


def frame_layers(
    seed: int, config: SceneConfig, t: int
) -> list[tuple[int, UInt8[np.ndarray, "H W"], Float32[np.ndarray, "H W"]]]:
    """Return label, coverage (255 is full) and distance (inf outside) of each layer of frame `t` without occlusion.

    Use it for amodal masks and tests.
    """
    alone = []
    for layer in layers_at(arrange(seed, config), t):
        coverage = np.zeros((config.height, config.width), np.uint8)
        distance = np.full(coverage.shape, np.inf, np.float32)
        coverage[layer.box] = warp(layer.part.coverage, layer)
        distance[layer.box] = layer.distance
        alone.append((layer.object_id, coverage, distance))
    return alone
