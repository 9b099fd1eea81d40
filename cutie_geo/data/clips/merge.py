"""Objects of one clip in another, and which objects a sample keeps. Source: Cutie specification, section 8.2.2."""

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
"""Of the blur that softens the edges of pasted objects, in pixels."""
LAST_ID = 254
"""The largest id that a pasted object gets."""


def first_ids(labels: Integer[Tensor, "T H W"]) -> tuple[ObjectId, ...]:
    """The objects of a clip: the ids that its first frame shows, ascending."""
    return object_ids(labels[0].numpy())


def paste(
    images: UInt8[Tensor, "T 3 H W"],
    labels: Integer[Tensor, "T H W"],
    other_images: UInt8[Tensor, "T 3 H W"],
    other_labels: Integer[Tensor, "T H W"],
) -> tuple[UInt8[Tensor, "T 3 H W"], Integer[Tensor, "T H W"]]:
    """A clip with all objects of another's first frame pasted over it, under ids that it doesn't use itself.

    Edges are blended over a few pixels. Ids count up from the clip's largest; the original takes one modulo 255 and so
    now and then makes an object background. What no id up to `LAST_ID` is left for is not pasted.
    """
    pixels, ids = images.permute(0, 2, 3, 1).numpy().copy(), labels.numpy().copy()
    over, truth = other_images.permute(0, 2, 3, 1).numpy(), other_labels.numpy()
    fresh = range(int(ids.max()) + 1, LAST_ID + 1)
    for object_id, new in zip(first_ids(other_labels), fresh):
        for t in range(len(pixels)):
            _paste_one(pixels[t], ids[t], over[t], truth[t] == object_id, new)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(ids)


def _paste_one(image: np.ndarray, labels: np.ndarray, over: np.ndarray, mask: np.ndarray, new: ObjectId) -> None:
    """Change `image` and `labels` where `mask` is, and the image a little beyond."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return
    box = _around(rows, mask.shape[0]), _around(columns, mask.shape[1])
    alpha = cv2.GaussianBlur(mask[box].astype(np.float32), (KERNEL, KERNEL), SIGMA)[..., None]
    image[box] = np.rint(image[box] * (1 - alpha) + over[box] * alpha).astype(np.uint8)
    labels[mask] = new


def _around(places: np.ndarray, size: int) -> slice:
    """The range of sorted places, wider by the blur's reach so that its border is background, within `size`."""
    return slice(max(int(places[0]) - KERNEL, 0), min(int(places[-1]) + KERNEL + 1, size))


def to_slots(
    labels: Integer[Tensor, "T H W"], max_objects: int, rng: random.Random
) -> tuple[UInt8[Tensor, "T H W"], int]:
    """Slots 1 to n of the objects that the first frame shows, and n; all else is background.

    Of more than `max_objects`, so many are chosen at random.
    """
    ids: Sequence[ObjectId] = first_ids(labels)
    if len(ids) > max_objects:
        ids = sorted(rng.sample(ids, max_objects))
    numbers = labels.numpy()
    table = np.zeros(int(numbers.max()) + 1, np.uint8)
    table[list(ids)] = np.arange(1, len(ids) + 1)
    return torch.from_numpy(table[numbers]), len(ids)
