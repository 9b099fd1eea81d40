"""What users hand in: images, label maps, soft masks and ids, checked and brought to the network's size."""

import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutie_geo.ops import Padding, bilinear, nearest_labels
from cutie_geo.structures import MAX_OBJECT_ID, ObjectId, as_labels

SLACK = 0.05
"""By how much values may leave [0, 1]: resizing with cubic filters and noise overshoot a little."""


class Geometry(NamedTuple):
    """How a video's frames become what the network sees, and back."""

    size: tuple[int, int]
    """Height and width of the frames."""
    internal: tuple[int, int]
    """The same after shrinking for the network."""
    padding: Padding
    antialias: bool = False
    """Whether frames are smoothed before they are shrunk."""

    @property
    def padded(self) -> tuple[int, int]:
        """The size of what the network sees."""
        (height, width), padding = self.internal, self.padding
        return height + padding.top + padding.bottom, width + padding.left + padding.right

    def enter(self, x: Float[Tensor, "C H W"]) -> Float[Tensor, "1 C H2 W2"]:
        """Frame size to padded size, bilinear."""
        return self.padding.pad(bilinear(x[None], self.internal, self.antialias))

    def leave(self, x: Float[Tensor, "C H W"]) -> Float[Tensor, "C H2 W2"]:
        """Padded size to frame size, bilinear."""
        return bilinear(self.padding.crop(x)[None], self.size)[0]


class GivenChannels(NamedTuple):
    """A user's mask at the padded size, one channel for each object that it names."""

    masks: Float[Tensor, "n H W"]
    ids: tuple[ObjectId, ...]
    erased: Bool[Tensor, "H W"]
    """Where other objects' predictions are wiped out."""


def image_size(image: Any, look_inside: bool = True) -> tuple[int, int]:
    """Height and width of an RGB image. Raises ValueError unless it is a tensor (3, H, W) of floats in [0, 1].

    look_inside: check the values too, which takes time and makes a GPU wait.
    """
    if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
        shape = f"{tuple(image.shape)} of {image.dtype}" if hasattr(image, "shape") else type(image).__name__
        raise ValueError(f"image: got {shape}, wanted a tensor (3, H, W) of floats in [0, 1]")
    if image.numel() == 0:
        raise ValueError(f"image: got size {tuple(image.shape[1:])}, wanted at least one pixel")
    if not look_inside:
        return image.shape[1], image.shape[2]
    low, high = (float(x) for x in image.detach().aminmax())
    if not (low >= -SLACK and high <= 1 + SLACK):  # so written that NaN fails
        raise ValueError(f"image: got values from {low:g} to {high:g}, wanted 0 to 1")
    return image.shape[1], image.shape[2]


def acceptable(
    images: Iterable[Any], size_of: Callable[[Any], tuple[int, int]]
) -> tuple[list[Tensor], tuple[int, int] | None]:
    """Images up to the first that is refused, all of one size, and that size; None if there are none.

    size_of: an image's height and width. Raises ValueError for what can't be the video's next frame.
    """
    size, valid = None, []
    for image in images:
        try:
            got = size_of(image)
        except ValueError:
            break
        size = size or got
        if got != size:
            break
        valid.append(image)
    return valid, size


def read_mask(
    mask: Any, objects: Iterable[Any] | None, geometry: Geometry, device: torch.device
) -> GivenChannels | None:
    """A user's mask at the padded size; None where nothing is given. Raises ValueError for what is no mask."""
    if mask is None:
        if objects is not None:
            raise ValueError("objects: given without a mask")
        return None
    mask = mask_tensor(mask)
    if tuple(mask.shape[-2:]) != geometry.size:
        raise ValueError(f"mask: got size {tuple(mask.shape[-2:])}, wanted the image's {geometry.size}")
    ids = None if objects is None else tuple(object_ids(objects))
    if ids is not None and len(set(ids)) != len(ids):
        raise ValueError(f"objects: got {list(ids)}, wanted each id once")
    read = _read_soft if mask.ndim == 3 else _read_labels
    given = read(mask.to(device), ids, geometry)
    return given if given.ids else None


def mask_tensor(mask: Any) -> Tensor:
    """Tensors as they are, arrays of any memory order and byte order copied. Raises ValueError for anything else."""
    if isinstance(mask, Tensor):
        return mask
    try:
        array = np.asarray(mask)
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    except (TypeError, ValueError):
        raise ValueError(f"mask: got {type(mask).__name__}, wanted a tensor or an array of numbers") from None


def _read_labels(labels: Tensor, ids: tuple[ObjectId, ...] | None, geometry: Geometry) -> GivenChannels:
    labels = as_labels(labels)
    if ids is None:
        ids = tuple(object_ids(i for i in labels.unique().tolist() if i != 0))
    labels = geometry.padding.pad(nearest_labels(labels, geometry.internal))
    channels = [labels == i for i in ids]
    masks = torch.stack(channels).float() if ids else labels.new_zeros(0, *labels.shape, dtype=torch.float32)
    return GivenChannels(masks, ids, labels > 0)


def _read_soft(mask: Tensor, ids: tuple[ObjectId, ...] | None, geometry: Geometry) -> GivenChannels:
    if not mask.is_floating_point() and mask.dtype != torch.bool:
        raise ValueError(f"mask: got {tuple(mask.shape)} of {mask.dtype}, wanted (N, H, W) of floats in [0, 1]")
    ids = tuple(range(1, mask.shape[0] + 1)) if ids is None else ids
    if len(ids) != mask.shape[0]:
        raise ValueError(f"mask: got {mask.shape[0]} channels, wanted one for each of the {len(ids)} objects")
    mask = mask.to(torch.float32)
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError("mask: got values outside [0, 1]")
    if not ids:
        return GivenChannels(mask, ids, mask.new_zeros(mask.shape[1:], dtype=torch.bool))
    masks = geometry.enter(mask)[0]
    return GivenChannels(masks, ids, masks.amax(dim=0) > 0.5)


def object_ids(ids: Any) -> list[ObjectId]:
    """Ids as Python ints. Raises ValueError unless they are whole numbers from 1 to 2**31 - 1."""
    try:
        return [_object_id(i) for i in ids]
    except TypeError:
        raise ValueError(f"object ids: got {ids!r}, wanted a list of whole numbers") from None


def _object_id(value: Any) -> ObjectId:
    try:
        plain: Any = value.item() if isinstance(value, Tensor) else value
        number = operator.index(plain)
    except (TypeError, AttributeError, RuntimeError):
        raise ValueError(f"object id: got {value!r}, wanted a whole number") from None
    if not 1 <= number <= MAX_OBJECT_ID:
        raise ValueError(f"object id: got {number}, wanted 1 to {MAX_OBJECT_ID}")
    return number
