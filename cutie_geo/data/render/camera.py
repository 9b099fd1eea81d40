"""Camera motion and distance ranges."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from cutie_geo.data.render.motion import Wave, draw_wave, rotation

DEPTH_RANGE = (0.5, 32.0)  # all depths of a frame are strictly inside
OCCLUDER_DISTANCE = (0.8, 1.3)  # the three ranges never overlap, with a margin for each layer's relief
OBJECT_DISTANCE = (1.6, 8.0)
BACKDROP_DISTANCE = (11.0, 28.0)


class View(NamedTuple):
    """Camera at one frame.

    A point `p` of the screen plane at distance D is projected to `matrix (p - pan parallax(D)) + shake`.
    """

    matrix: Float[np.ndarray, "2 2"]  # zoom and roll
    pan: Float[np.ndarray, "2"]
    shake: Float[np.ndarray, "2"]


@dataclass(frozen=True)
class Camera:
    """Hand-held camera motion as a set of waves."""

    pan: Wave
    zoom: Wave  # logarithm
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
    """Return the displacement of a surface relative to a camera pan: 1 for the nearest backdrop.

    The square root, which a real camera lacks, keeps near objects in view longer.
    """
    return np.sqrt(BACKDROP_DISTANCE[0] / distance)
