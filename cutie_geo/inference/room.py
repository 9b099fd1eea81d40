"""How much memory several views of a video will need, and whether there is that much."""

from collections.abc import Sequence

import psutil
import torch

from cutie_geo.config import TrackerConfig, require
from cutie_geo.model.network import STRIDE, CutieGeo

FLOAT = 4
"""Bytes of a number in memory, whatever the network's precision."""
MASK_COPIES = 4
"""How often a frame's masks of all objects exist at once: logits, probabilities, these at the frame's size, the sum."""


def held_bytes(model: CutieGeo, padded: tuple[int, int], objects: int, config: TrackerConfig) -> int:
    """The most that a tracker of one view holds between two frames, however long the video, if all objects join on one
    frame and no frame is pinned. `padded` is what the network sees."""
    network, tokens = model.config, padded[0] * padded[1] // STRIDE**2
    frames = config.long_term.max_mem_frames if config.use_long_term else config.max_mem_frames
    rows = max(frames, 1) * tokens + (config.long_term.max_num_tokens if config.use_long_term else 0)
    shared = 2 * network.key_dim + 3  # key, selection; shrinkage, use, life
    table = rows * (shared + objects * network.value_dim)
    state = objects * (tokens * network.value_dim + network.num_queries * (network.value_dim + 1))
    return FLOAT * (table + state + objects * padded[0] * padded[1])


def passing_bytes(model: CutieGeo, padded: tuple[int, int], objects: int) -> int:
    """What one frame of a view adds while it is segmented: its features and masks. What the network needs within itself
    is not counted."""
    (height, width), network = padded, model.config
    tokens = height * width // STRIDE**2
    c16, c8, c4 = model.encoder.channels
    features = tokens * (c16 + 4 * c8 + 16 * c4 + network.value_dim + 2 * network.key_dim + 1) + 3 * height * width
    return FLOAT * (features + MASK_COPIES * (objects + 1) * height * width)


def free_bytes(device: torch.device) -> int:
    """Memory that a device, or for the CPU this machine, has left."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return psutil.virtual_memory().available


def require_room(
    model: CutieGeo, sizes: Sequence[tuple[int, int]], objects: int, config: TrackerConfig, held: int = 0
) -> None:
    """Raise ValueError if views that the network sees at `sizes` will need more memory on the model's device than there
    is. `held` of that is taken already."""
    held_later = sum(held_bytes(model, size, objects, config) for size in sizes)
    # all views of a frame are encoded before the first of them is segmented
    needed = held_later + sum(passing_bytes(model, size, objects) for size in sizes) - held
    free = free_bytes(model.device)
    what = f"{len(sizes)} view{'s' * (len(sizes) > 1)} of {objects} object{'s' * (objects > 1)}"
    require(
        needed <= free,
        f"{what}: need about {needed / 2**30:.1f} GiB more on {model.device}, which has {free / 2**30:.1f} GiB; "
        "wanted fewer views or a smaller size, or a run for each view with --save-probs and then cutie-geo fuse",
    )
