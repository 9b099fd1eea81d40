"""Layers: parts of actors as visible in one frame."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from cutie_geo.data.render.actors import Actor, Pose
from cutie_geo.data.render.config import Stage
from cutie_geo.data.render.grid import knots, to_pixels
from cutie_geo.data.render.parts import Part


class Layer(NamedTuple):
    """A part in one frame, within its bounding box of pixels."""

    object_id: int
    name: tuple[int, int]  # indices of the actor in the plan and of the part in the actor
    part: Part
    box: tuple[slice, slice]
    map_x: Float32[np.ndarray, "h w"]  # position on the part's sheet for each pixel
    map_y: Float32[np.ndarray, "h w"]
    distance: Float32[np.ndarray, "h w"]
    shadow: float


def lay(actor: Actor, name: tuple[int, int], pose: Pose, t: int, stage: Stage) -> Layer | None:
    """Return the layer of one part of an actor; None if it is outside the frame."""
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


def warp(sheet: UInt8[np.ndarray, "a b *c"], layer: Layer) -> UInt8[np.ndarray, "h w *c"]:
    """Warp a sheet of the layer's part to the frame."""
    return cv2.remap(sheet, layer.map_x, layer.map_y, cv2.INTER_LINEAR)
