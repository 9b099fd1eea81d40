"""Synthetic camera motion through a clip: rotation, zoom, pan, and frames that look away."""

import random

import numpy as np

from cutie_geo.data.clips.warp import Affine, turn_and_shear

TURN, ZOOM, PAN = 25.0, 0.4, 0.2
"""Standard deviations from first to last frame: degrees, logarithm of the scale, share of the frame's side."""
SHAKE = 0.01
"""Standard deviation of each frame's jitter, as a share of the side."""
AWAY = (0.7, 1.2)
"""Range of the shift of frames that look away, as a share of the side."""


def draw_camera(length: int, crop: int, away_probability: float, rng: random.Random) -> list[Affine]:
    """Return for each frame the map from crop pixels with the motion to crop pixels without it.

    The first frame's is the identity. With `away_probability`, some frames in the middle look away, so that objects
    leave and return.
    """
    numbers = np.random.default_rng(rng.getrandbits(63))
    turn, zoom = numbers.normal(0, (TURN, ZOOM))
    pan, bow = numbers.normal(0, PAN, 2), numbers.normal(0, PAN / 2, 2)
    gone, beside = range(0), np.zeros(2)
    if length > 2 and numbers.random() < away_probability:
        begin = int(numbers.integers(1, length - 1))
        gone = range(begin, int(numbers.integers(begin + 1, length)))
        angle = numbers.uniform(0, 2 * np.pi)
        beside = numbers.uniform(*AWAY) * np.array([np.cos(angle), np.sin(angle)])
    path = [np.eye(3)]
    for t in range(1, length):
        part = t / (length - 1)
        moved = part * pan + np.sin(np.pi * part) * bow + numbers.normal(0, SHAKE, 2) + (t in gone) * beside
        back = turn_and_shear((crop, crop), part * turn, float(np.exp(part * zoom)), 0.0)
        back[:2, 2] += moved * crop
        path.append(back)
    return path
