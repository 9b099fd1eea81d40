"""Validation and resizing of user inputs: images, label maps, soft masks and object ids."""

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutie_geo.data.frames import image_tensor
from cutie_geo.ops import Padding, bilinear, nearest_labels
from cutie_geo.regions import SLACK
from cutie_geo.structures import MAX_OBJECT_ID, ObjectId, as_labels


class Geometry(NamedTuple):
    """Resizing and padding from a video's frames to the network's input, and back."""

    size: tuple[int, int]
    """Height and width of the frames."""
    internal: tuple[int, int]
    """Height and width after resizing for the network."""
    padding: Padding
    antialias: bool = False
    """True if frames are downscaled with antialiasing."""

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        (height, width), padding = self.internal, self.padding
        return height + padding.top + padding.bottom, width + padding.left + padding.right

    def enter(self, x: Float[Tensor, "C H W"]) -> Float[Tensor, "1 C H2 W2"]:
        """Resize from frame size to padded size, bilinearly."""
        return self.padding.pad(bilinear(x[None], self.internal, self.antialias))

    def leave(self, x: Float[Tensor, "C H W"]) -> Float[Tensor, "C H2 W2"]:
        """Resize from padded size to frame size, bilinearly."""
        return bilinear(self.padding.crop(x)[None], self.size)[0]


class MaskChannels(NamedTuple):
    """Input mask at the padded size, one channel per annotated object."""

    masks: Float[Tensor, "n H W"]
    ids: tuple[ObjectId, ...]
    erased: Bool[Tensor, "H W"]
    """Pixels where the predictions of other objects are set to 0."""


def image_size(image: Any, check_values: bool = True, expected: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return height and width of an RGB image.

    Args:
        image: Float tensor (3, H, W) in [0, 1].
        check_values: Also check the range of the values, which synchronises with a GPU.
        expected: Size of the video's earlier frames, if any.

    Raises:
        ValueError: If the image has another type, shape, range or size.
    """
    size = _checked_size(image, check_values)
    if expected not in (None, size):
        raise ValueError(
            f"image: the size changed within a video; got (H, W) = {size}, expected {expected}. "
            "Call reset() before another video"
        )
    return size


def _checked_size(image: Any, check_values: bool) -> tuple[int, int]:
    if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
        shape = f"{tuple(image.shape)} of {image.dtype}" if hasattr(image, "shape") else type(image).__name__
        raise ValueError(f"image: got {shape}, expected a tensor (3, H, W) of floats in [0, 1]")
    if image.numel() == 0:
        raise ValueError(f"image: got size {tuple(image.shape[1:])}, expected at least one pixel")
    if not check_values:
        return image.shape[1], image.shape[2]
    low, high = (float(x) for x in image.detach().aminmax())
    if not (low >= -SLACK and high <= 1 + SLACK):  # also refuses NaN
        raise ValueError(f"image: got values from {low:g} to {high:g}, expected 0 to 1")
    return image.shape[1], image.shape[2]


def acceptable(
    images: Iterable[Any], size_of: Callable[[Any], tuple[int, int]]
) -> tuple[list[Tensor], tuple[int, int] | None]:
    """Return the images before the first invalid one as tensors of one size, and that size; None if there are none.

    Args:
        images: Next frames of a video.
        size_of: Function that returns an image's height and width, or raises ValueError for invalid images.
    """
    size, valid = None, []
    for frame in images:
        try:
            image = image_tensor(frame)
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
) -> MaskChannels | None:
    """Validate an input mask and resize it to the padded size; None without a mask or with an empty one.

    Raises:
        ValueError: If the mask or the ids are invalid.
    """
    if mask is None:
        if objects is not None:
            raise ValueError("objects: got ids without a mask, expected both")
        return None
    mask = mask_tensor(mask)
    if tuple(mask.shape[-2:]) != geometry.size:
        raise ValueError(f"mask: got size {tuple(mask.shape[-2:])}, expected the image's {geometry.size}")
    ids = None if objects is None else tuple(object_ids(objects))
    if ids is not None and len(set(ids)) != len(ids):
        raise ValueError(f"objects: got {list(ids)}, expected each id once")
    read = _read_soft if mask.ndim == 3 else _read_labels
    given = read(mask.to(device), ids, geometry)
    return given if given.ids else None


def corrected_ids(correction: bool, given: MaskChannels | None, known: Sequence[ObjectId]) -> list[ObjectId]:
    """Return the tracked objects that a mask corrects, none if it is not a correction.

    Raises:
        ValueError: For a correction without a mask.
    """
    if not correction:
        return []
    if given is None:
        raise ValueError("correction: got no mask that names an object, expected the corrected mask")
    return [i for i in given.ids if i in known]


def mask_tensor(mask: Any) -> Tensor:
    """Return a tensor unchanged, or copy an array of any memory order and byte order to one.

    Raises:
        ValueError: For other types.
    """
    if isinstance(mask, Tensor):
        return mask
    try:
        array = np.asarray(mask)
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    except (TypeError, ValueError):
        raise ValueError(f"mask: got {type(mask).__name__}, expected a tensor or an array of numbers") from None


def _read_labels(labels: Tensor, ids: tuple[ObjectId, ...] | None, geometry: Geometry) -> MaskChannels:
    labels = as_labels(labels)
    if ids is None:
        ids = tuple(object_ids(i for i in labels.unique().tolist() if i != 0))
    labels = geometry.padding.pad(nearest_labels(labels, geometry.internal))
    channels = [labels == i for i in ids]
    masks = torch.stack(channels).float() if ids else labels.new_zeros(0, *labels.shape, dtype=torch.float32)
    return MaskChannels(masks, ids, labels > 0)


def _read_soft(mask: Tensor, ids: tuple[ObjectId, ...] | None, geometry: Geometry) -> MaskChannels:
    if not mask.is_floating_point() and mask.dtype != torch.bool:
        raise ValueError(f"mask: got {tuple(mask.shape)} of {mask.dtype}, expected (N, H, W) of floats in [0, 1]")
    ids = tuple(range(1, mask.shape[0] + 1)) if ids is None else ids
    if len(ids) != mask.shape[0]:
        raise ValueError(f"mask: got {mask.shape[0]} channels, expected one for each of the {len(ids)} objects")
    mask = mask.to(torch.float32)
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError("mask: got values outside [0, 1]")
    if not ids:
        return MaskChannels(mask, ids, mask.new_zeros(mask.shape[1:], dtype=torch.bool))
    masks = geometry.enter(mask)[0]
    return MaskChannels(masks, ids, masks.amax(dim=0) > 0.5)


def object_ids(ids: Any) -> list[ObjectId]:
    """Convert ids to Python ints.

    Raises:
        ValueError: Unless they are whole numbers from 1 to 2**31 - 1.
    """
    try:
        return [_object_id(i) for i in ids]
    except TypeError:
        raise ValueError(f"object ids: got {ids!r}, expected a list of whole numbers") from None


def _object_id(value: Any) -> ObjectId:
    try:
        plain: Any = value.item() if isinstance(value, Tensor) else value
        number = operator.index(plain)
    except (TypeError, AttributeError, RuntimeError):
        raise ValueError(f"object id: got {value!r}, expected a whole number") from None
    if not 1 <= number <= MAX_OBJECT_ID:
        raise ValueError(f"object id: got {number}, expected 1 to {MAX_OBJECT_ID}")
    return number
