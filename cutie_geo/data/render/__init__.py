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

from cutie_geo.data.render.clip import RenderedClip, frame_layers, render_clip, render_frames
from cutie_geo.data.render.config import SceneConfig
from cutie_geo.data.render.scene import RenderedFrame

__all__ = ["RenderedClip", "RenderedFrame", "SceneConfig", "frame_layers", "render_clip", "render_frames"]
