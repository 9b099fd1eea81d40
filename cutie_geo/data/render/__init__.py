"""Procedural clips with exact labels and depth: textured objects before a moving camera.

A clip is a pure function of `(seed, config)`, and a frame is a pure function of the scene and the frame number, so
streams of any length need the memory of one frame. The scene is a 2.5-D world with these coordinates:

    screen     x right, y down, origin at the frame's centre; the unit is the frame's shorter side
    own plane  flat coordinates of a part; an object's outline has a radius of about 1
    distance   of a surface from the camera, in a unit of about a metre; smaller is nearer

Every part of an actor is a layer with a distance at each pixel. The nearest layer that covers at least half of a pixel
determines its label and depth. Occlusion, labels and depth are therefore consistent.

Geometry is computed in float64 on a coarse grid and then interpolated to pixels, and pixel values are 8-bit. Labels of
a seed therefore do not depend on the rounding of a processor.
"""

from cutie_geo.data.render.clip import RenderedClip, frame_layers, render_clip, render_frames
from cutie_geo.data.render.config import SceneConfig
from cutie_geo.data.render.scene import RenderedFrame

__all__ = ["RenderedClip", "RenderedFrame", "SceneConfig", "frame_layers", "render_clip", "render_frames"]
