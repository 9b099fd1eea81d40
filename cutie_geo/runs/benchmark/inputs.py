"""Inputs of benchmarks: rendered frames and masks with a given number of objects."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cutie_geo.config import require
from cutie_geo.data.render import SceneConfig, render_frames

SHOWN = 8
"""Number of different frames in an endless video."""


def parse_size(text: str) -> tuple[int, int]:
    """Return (height, width) of HEIGHTxWIDTH. Raises ValueError."""
    height, x, width = text.lower().partition("x")
    require(bool(x) and height.isdecimal() and width.isdecimal(), f"--size: got {text!r}, expected HEIGHTxWIDTH")
    require(min(int(height), int(width)) >= 32, f"--size: got {text!r}, expected at least 32 pixels a side")
    return int(height), int(width)


def rendered_images(size: tuple[int, int], frames: int) -> Iterator[Float[Tensor, "3 H W"]]:
    """Yield the frames of a rendered video, in [0, 1], on the CPU."""
    scene = SceneConfig(height=size[0], width=size[1], frames=frames)
    for frame in render_frames(0, scene):
        yield torch.from_numpy(frame.image).permute(2, 0, 1).float() / 255


def endless_images(size: tuple[int, int], device: torch.device) -> Iterator[Float[Tensor, "3 H W"]]:
    """Repeat SHOWN rendered frames for ever, on `device`: speed does not depend on the content."""
    return itertools.cycle([image.to(device) for image in rendered_images(size, SHOWN)])


def disc_labels(size: tuple[int, int], objects: int) -> Int64[Tensor, "H W"]:
    """Return a label map with `objects` discs. Raises ValueError if some have no pixel in a frame of this size."""
    columns = int(np.ceil(np.sqrt(objects)))
    rows = -(-objects // columns)
    y, x = np.mgrid[: size[0], : size[1]]
    labels = np.zeros(size, np.int64)
    for i in range(objects):
        cy, cx = (i // columns + 0.5) * size[0] / rows, (i % columns + 0.5) * size[1] / columns
        labels[(y - cy) ** 2 + (x - cx) ** 2 < (0.35 * min(size[0] / rows, size[1] / columns)) ** 2] = i + 1
    shown = len(np.unique(labels)) - 1
    require(shown == objects, f"--objects: got {objects}; {size[0]}x{size[1]} pixels fit {shown} discs")
    return torch.from_numpy(labels)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def dtype_name(dtype: torch.dtype) -> str:
    """Return "bfloat16" of torch.bfloat16."""
    return str(dtype).removeprefix("torch.")
