"""Estimate of the memory that views of a video need."""

from collections.abc import Sequence

import psutil
import torch

from cutie_geo.config import TrackerConfig, require
from cutie_geo.model.network import CutieGeo
from cutie_geo.regions import STRIDE

FLOAT = 4
"""Bytes per float32 value: memory is float32 in every precision of the network."""
MASK_COPIES = 4
"""Number of copies of all masks at once: logits, probabilities, probabilities at the frame's size, sum of views."""


def held_bytes(model: CutieGeo, padded: tuple[int, int], objects: int, config: TrackerConfig) -> int:
    """Return the maximum number of bytes that one view's tracker holds between two frames, for any video length.

    Assumes that all objects are added on one frame and that there is no permanent memory beyond it. `padded` is the
    size of the network's input.
    """
    network, tokens = model.config, padded[0] * padded[1] // STRIDE**2
    frames = config.long_term.max_mem_frames if config.use_long_term else config.max_mem_frames
    rows = max(frames, 1) * tokens + (config.long_term.max_num_tokens if config.use_long_term else 0)
    shared = 2 * network.key_dim + 3  # key, selection; shrinkage, use, life
    table = rows * (shared + objects * network.value_dim)
    # sensory memory, the mask of a prompt frame and summaries: one more channel than the values, for the masks of
    # prompt frames and the weights of summaries
    state = objects * (network.value_dim + 1) * (tokens + network.num_queries)
    return FLOAT * (table + state + objects * padded[0] * padded[1])


def passing_bytes(model: CutieGeo, padded: tuple[int, int], objects: int) -> int:
    """Return the bytes of one frame's features and masks, without activations inside the network."""
    (height, width), network = padded, model.config
    tokens = height * width // STRIDE**2
    c16, c8, c4 = model.encoder.channels
    features = tokens * (c16 + 4 * c8 + 16 * c4 + network.value_dim + 2 * network.key_dim + 1) + 3 * height * width
    return FLOAT * (features + MASK_COPIES * (objects + 1) * height * width)


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device, in bytes; that of the machine for the CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return psutil.virtual_memory().available


def require_memory(
    model: CutieGeo, sizes: Sequence[tuple[int, int]], objects: int, config: TrackerConfig, held: int = 0
) -> None:
    """Check that views at the padded `sizes` fit in the memory of the model's device.

    Args:
        held: Bytes of the estimate that are allocated already.

    Raises:
        ValueError: If they need more memory than is free.
    """
    held_later = sum(held_bytes(model, size, objects, config) for size in sizes)
    # all views of a frame are encoded before the first one is segmented
    needed = held_later + sum(passing_bytes(model, size, objects) for size in sizes) - held
    free = free_bytes(model.device)
    what = f"{len(sizes)} view{'s' * (len(sizes) > 1)} of {objects} object{'s' * (objects > 1)}"
    require(
        needed <= free,
        f"{what}: need about {needed / 2**30:.1f} GiB more on {model.device}, which has {free / 2**30:.1f} GiB; "
        "expected fewer views or a smaller size, or a run for each view with --save-probs and then cutie-geo fuse",
    )
