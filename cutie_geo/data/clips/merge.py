"""Copy-paste of objects between clips, and the selection of a sample's objects. Source: Cutie specification, 8.2.2."""

import random
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Integer, UInt8
from torch import Tensor

from cutie_geo.data.masks import object_ids
from cutie_geo.structures import ObjectId

KERNEL, SIGMA = 5, 1.0
"""Kernel size and standard deviation, in pixels, of the blur of pasted edges."""
TWIN_SHIFT = (0.1, 0.35)
"""Range of the shift of a pasted twin from the flipped position of its object, as a share of each side."""
LAST_ID = 254
"""Largest id of a pasted object."""


def first_ids(labels: Integer[Tensor, "T H W"]) -> tuple[ObjectId, ...]:
    """Return the objects of a clip: the ids in its first frame, ascending."""
    return object_ids(labels[0].numpy())


def paste(
    images: UInt8[Tensor, "T 3 H W"],
    labels: Integer[Tensor, "T H W"],
    other_images: UInt8[Tensor, "T 3 H W"],
    other_labels: Integer[Tensor, "T H W"],
) -> tuple[UInt8[Tensor, "T 3 H W"], Integer[Tensor, "T H W"]]:
    """Paste all objects in another clip's first frame over a clip, with unused ids.

    Edges are blended over a few pixels. Ids count up from the clip's largest; Cutie takes them modulo 255, which
    sometimes turns an object into background. Objects beyond `LAST_ID` are not pasted.
    """
    pixels, ids = images.permute(0, 2, 3, 1).numpy().copy(), labels.numpy().copy()
    over, truth = other_images.permute(0, 2, 3, 1).numpy(), other_labels.numpy()
    fresh = range(int(ids.max()) + 1, LAST_ID + 1)
    for object_id, new in zip(first_ids(other_labels), fresh):
        for t in range(len(pixels)):
            _paste_one(pixels[t], ids[t], over[t], truth[t] == object_id, new)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(ids)


def paste_twin(
    images: UInt8[Tensor, "T 3 H W"], labels: Integer[Tensor, "T H W"], free_slots: int, rng: random.Random
) -> tuple[UInt8[Tensor, "T 3 H W"], Integer[Tensor, "T H W"]]:
    """Paste a clip's own objects into it again, flipped and shifted, as distractors of the same kind.

    With probability 0.5, if `free_slots` allows, the twins are objects of their own; else they are background.
    """
    height, width = labels.shape[1:]
    down, right = (round(rng.choice((-1, 1)) * rng.uniform(*TWIN_SHIFT) * side) for side in (height, width))
    twins = [x.flip(-1).roll((down, right), (-2, -1)) for x in (images, labels)]
    _clear_wrapped(twins[1], down, right)
    pasted, ids = paste(images, labels, *twins)
    count = len(first_ids(twins[1]))
    if count > free_slots or rng.random() < 0.5:
        ids = torch.where(ids > int(labels.max()), 0, ids)
    return pasted, ids


def _clear_wrapped(labels: Integer[Tensor, "T H W"], down: int, right: int) -> None:
    """Remove from rolled labels the parts that wrapped around."""
    labels[:, slice(0, down) if down >= 0 else slice(down, None)] = 0
    labels[..., slice(0, right) if right >= 0 else slice(right, None)] = 0


def _paste_one(image: np.ndarray, labels: np.ndarray, over: np.ndarray, mask: np.ndarray, new: ObjectId) -> None:
    """Change `labels` within `mask`, and `image` within and slightly beyond it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return
    box = _around(rows, mask.shape[0]), _around(columns, mask.shape[1])
    alpha = cv2.GaussianBlur(mask[box].astype(np.float32), (KERNEL, KERNEL), SIGMA)[..., None]
    image[box] = np.rint(image[box] * (1 - alpha) + over[box] * alpha).astype(np.uint8)
    labels[mask] = new


def _around(places: np.ndarray, size: int) -> slice:
    """Return the range of sorted positions, extended by the blur radius and clipped to `size`."""
    return slice(max(int(places[0]) - KERNEL, 0), min(int(places[-1]) + KERNEL + 1, size))


def to_slots(
    labels: Integer[Tensor, "T H W"], max_objects: int, rng: random.Random
) -> tuple[UInt8[Tensor, "T H W"], int]:
    """Map the objects in the first frame to slots 1 to n; everything else is background.

    If there are more than `max_objects`, a random subset is kept.

    Returns:
        The slots, and n.
    """
    ids: Sequence[ObjectId] = first_ids(labels)
    if len(ids) > max_objects:
        ids = sorted(rng.sample(ids, max_objects))
    numbers = labels.numpy()
    table = np.zeros(int(numbers.max()) + 1, np.uint8)
    table[list(ids)] = np.arange(1, len(ids) + 1)
    return torch.from_numpy(table[numbers]), len(ids)
