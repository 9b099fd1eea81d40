"""What a caller asks for: whole clips, streams of frames, and the layers of one frame."""

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
    """T frames with the truth about them."""

    images: UInt8[np.ndarray, "T H W 3"]
    """RGB."""
    labels: UInt8[np.ndarray, "T H W"]
    """The object that owns each pixel, 1 to N; 0 for the backdrop, for occluders and for distractors."""
    depth: Float32[np.ndarray, "T H W"]
    """Distance of the surface that owns each pixel, smaller is nearer, within `camera.DEPTH_RANGE`; its inverse is
    inverse depth. Objects and distractors are nearer than the backdrop, occluders nearer than both."""


def render_clip(seed: int, config: SceneConfig = DEFAULTS) -> RenderedClip:
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


def render_frames(seed: int, config: SceneConfig = DEFAULTS) -> Iterator[RenderedFrame]:
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
