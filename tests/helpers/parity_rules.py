"""Weights, videos and runs of the parity fixtures, by the rule of the Cutie specification, section 12.

The numbers in the fixtures came from the official program, fed with exactly these.
"""

import math
import zlib
from dataclasses import dataclass

import numpy as np

GAINS = {"key_proj.key_proj.weight": 2.0, "mask_encoder.conv1.weight": 2.0}
MASK_BIAS = {"base": -4.5, "small": -10.0}


def official_weights(shapes: dict[str, list[int]], variant: str) -> dict[str, np.ndarray]:
    """Deterministic weights under official names; computed buffers are left out."""
    computed = (".num_batches_tracked", ".inv_freq")
    return {key: _weight(key, shape, variant) for key, shape in shapes.items() if not key.endswith(computed)}


def _weight(key: str, shape: list[int], variant: str) -> np.ndarray:
    noise = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(tuple(shape), dtype=np.float32)
    tenth, one = np.float32(0.1), np.float32(1)
    if key.endswith(".running_mean"):
        return tenth * noise
    if key.endswith(".running_var"):
        return one + tenth * np.abs(noise)
    if len(shape) > 1:
        return noise * np.float32(GAINS.get(key, 1.0) / math.sqrt(math.prod(shape[1:])))
    if key.endswith("bias"):
        return tenth * noise + np.float32(MASK_BIAS[variant] if key == "mask_decoder.pred.bias" else 0)
    return one + tenth * noise


@dataclass(frozen=True)
class Disc:
    cy: float
    cx: float
    vy: float
    vx: float
    radius: float
    aspect: float
    colour: tuple[float, float, float]


DISCS = (
    Disc(0.35, 0.25, 0.010, 0.020, 0.20, 1, (0.9, 0.1, 0.2)),
    Disc(0.60, 0.60, -0.012, -0.015, 0.18, 2, (0.1, 0.8, 0.2)),
    Disc(0.30, 0.75, 0.015, -0.010, 0.15, 1, (0.2, 0.3, 0.95)),
)


def synthetic_video(height: int, width: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (T, 3, H, W) float32 in [0, 1] and labels (T, H, W) int64 in 0..3."""
    cells = np.random.default_rng(26).random((3, -(-height // 8), -(-width // 8)))
    texture = np.kron(cells, np.ones((1, 8, 8)))[:, :height, :width]
    rows = np.arange(height)[:, None] / height
    columns = np.arange(width)[None, :] / width
    images = np.empty((frames, 3, height, width), np.float32)
    labels = np.zeros((frames, height, width), np.int64)
    for t in range(frames):
        image = 0.25 + 0.5 * np.roll(texture, (t, 2 * t), axis=(1, 2))
        for number, disc in enumerate(DISCS, start=1):
            dy, dx = rows - disc.cy - disc.vy * t, columns - disc.cx - disc.vx * t
            inside = disc.aspect * dy**2 + dx**2 < disc.radius**2
            image = np.where(inside, 0.3 * image + 0.7 * np.array(disc.colour)[:, None, None], image)
            labels[t][inside] = number
        images[t] = image
    return images, labels


SMALL_LONG_TERM = {
    "max_mem_frames": 3, "min_mem_frames": 2, "num_prototypes": 16, "max_num_tokens": 48, "buffer_tokens": 8,
}  # fmt: skip
OPTIONS = {"mem_every": 3, "stagger_updates": 5, "max_mem_frames": 3, "top_k": 30, "long_term": SMALL_LONG_TERM}


@dataclass(frozen=True)
class Run:
    """One engine run of the fixtures."""

    frames: int = 12
    size: tuple[int, int] = (91, 121)
    options: tuple[tuple[str, object], ...] = ()
    story: str = "plain"
    flip: bool = False
    delete: int = 1
    stride: int = 3


RUNS = {
    "work": Run(),
    "long": Run(frames=18, options=(("use_long_term", True),)),
    "addel_fixed": Run(story="add and delete"),
    "dellast": Run(story="add and delete", delete=9),
    "flip": Run(frames=5, options=(("mem_every", 2),), flip=True),
    "resize": Run(frames=5, size=(137, 181), options=(("mem_every", 2), ("max_internal_size", 96)), stride=5),
    "soft": Run(frames=8, options=(("max_mem_frames", 2),), story="soft"),
    "stagger": Run(frames=13, options=(("mem_every", 10),)),
}
