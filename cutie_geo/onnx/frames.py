"""Frames and masks as numpy arrays: checks, resizing and padding, as the torch tracker does them."""

import operator
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from cutie_geo.regions import SLACK

MAX_OBJECT_ID = 2**31 - 1


class Taps(NamedTuple):
    """Linear resampling of one axis: each output is a weighted sum of a few inputs."""

    index: np.ndarray
    """Input positions, (taps, outputs)."""
    weight: np.ndarray
    """Weights, (taps, outputs) in float32; they sum to 1 over the taps."""


@lru_cache(maxsize=32)
def taps(length: int, target: int, antialias: bool) -> Taps:
    """Return the taps of bilinear resizing with aligned pixel centres.

    With `antialias` the triangle is as wide as an output pixel, as in torch and Pillow.
    """
    scale = length / target
    centre = (np.arange(target) + 0.5) * scale
    if not antialias:
        position = np.maximum(centre - 0.5, 0)
        low = np.minimum(position.astype(np.int64), length - 1)
        share = position - low
        index = np.stack([low, np.minimum(low + 1, length - 1)])
        return Taps(index, np.stack([1 - share, share]).astype(np.float32))
    support = max(scale, 1.0)
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), length)
    index = first + np.arange(int((last - first).max()))[:, None]
    weight = np.maximum(1 - np.abs(index - centre + 0.5) / support, 0) * (index < last)
    return Taps(np.minimum(index, length - 1), (weight / weight.sum(axis=0)).astype(np.float32))


def resize(x: np.ndarray, size: tuple[int, int], antialias: bool = False) -> np.ndarray:
    """Resize `x` (C, H, W) bilinearly to `size`, in float32."""
    x = np.asarray(x, dtype=np.float32)
    if x.shape[1:] == size:
        return x
    index, weight = taps(x.shape[1], size[0], antialias)
    x = _weighted(x, index, weight[:, None, :, None], axis=1)
    index, weight = taps(x.shape[2], size[1], antialias)
    return _weighted(x, index, weight, axis=2)


def _weighted(x: np.ndarray, index: np.ndarray, weight: np.ndarray, axis: int) -> np.ndarray:
    total = np.take(x, index[0], axis=axis)
    total *= weight[0]
    for rows, share in zip(index[1:], weight[1:]):
        part = np.take(x, rows, axis=axis)
        part *= share
        total += part
    return total


def nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a label map by the nearest pixel centre, in integer arithmetic."""
    rows, columns = (((2 * np.arange(new) + 1) * old) // (2 * new) for old, new in zip(labels.shape, size))
    return labels[rows[:, None], columns]


def padded(x: np.ndarray, padding: tuple[int, int, int, int]) -> np.ndarray:
    """Pad the last two axes with zeros, at the top, bottom, left and right."""
    top, bottom, left, right = padding
    return np.pad(x, [(0, 0)] * (x.ndim - 2) + [(top, bottom), (left, right)]) if any(padding) else x


class Geometry(NamedTuple):
    """Resizing and padding between a video's frames and the graphs."""

    size: tuple[int, int]
    """Height and width of the frames."""
    internal: tuple[int, int]
    """Height and width that the graphs take."""
    padding: tuple[int, int, int, int]
    """Pixels that are added at the top, bottom, left and right."""
    antialias: bool

    def shrink(self, image: np.ndarray) -> np.ndarray:
        """Resize an image (3, H, W) for the encoder."""
        return resize(image, self.internal, self.antialias)

    def pad(self, x: np.ndarray) -> np.ndarray:
        """Pad the last two axes with zeros."""
        return padded(x, self.padding)

    def leave(self, x: np.ndarray) -> np.ndarray:
        """Remove the padding of `x` (C, H, W) and resize to the frame's size, as a new array."""
        top, bottom, left, right = self.padding
        cropped = x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]
        out = resize(cropped, self.size)
        return out.copy() if np.shares_memory(out, x) else out


class InputMask(NamedTuple):
    """Input mask at the padded size, one channel for each object."""

    masks: np.ndarray
    """(n, H, W) in [0, 1]."""
    ids: tuple[int, ...]
    erased: np.ndarray
    """(H, W), True where the predictions of other objects are set to 0."""


def read_image(image: Any) -> np.ndarray:
    """Return an RGB image as (3, H, W) float32 in [0, 1].

    Args:
        image: uint8 (H, W, 3), or floats (3, H, W) in [0, 1].

    Raises:
        ValueError: For other types, shapes and values.
    """
    image = np.asarray(image)
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
        return np.multiply(image.transpose(2, 0, 1), np.float32(1 / 255), dtype=np.float32, order="C")
    if image.ndim != 3 or image.shape[0] != 3 or not np.issubdtype(image.dtype, np.floating) or not image.size:
        raise ValueError(
            f"image: got {image.shape} of {image.dtype}, expected uint8 (H, W, 3) or floats (3, H, W) in [0, 1]"
        )
    low, high = float(image.min()), float(image.max())
    if not (low >= -SLACK and high <= 1 + SLACK):  # also refuses NaN
        raise ValueError(f"image: got values from {low:g} to {high:g}, expected 0 to 1")
    return np.ascontiguousarray(image, dtype=np.float32)


def read_mask(mask: Any, objects: Iterable[Any] | None, geometry: Geometry) -> InputMask | None:
    """Check an input mask and resize it to the padded size; None without a mask or with an empty one.

    Raises:
        ValueError: For invalid masks and ids.
    """
    if mask is None:
        if objects is not None:
            raise ValueError("objects: got ids without a mask, expected both")
        return None
    mask = np.asarray(mask)
    if mask.ndim not in (2, 3) or mask.dtype.kind not in "biuf":
        raise ValueError(f"mask: got {mask.shape} of {mask.dtype}, expected (H, W) of ids or (N, H, W) in [0, 1]")
    if mask.shape[-2:] != geometry.size:
        raise ValueError(f"mask: got size {mask.shape[-2:]}, expected the image's {geometry.size}")
    ids = None if objects is None else tuple(object_ids(objects))
    if ids is not None and len(set(ids)) != len(ids):
        raise ValueError(f"objects: got {list(ids)}, expected each id once")
    given = _read_labels(mask, ids, geometry) if mask.ndim == 2 else _read_soft(mask, ids, geometry)
    return given if given.ids else None


def _read_labels(labels: np.ndarray, ids: tuple[int, ...] | None, geometry: Geometry) -> InputMask:
    if labels.dtype.kind not in "biu":
        raise ValueError(f"label map: got {labels.shape} of {labels.dtype}, expected (H, W) of integers")
    labels = labels.astype(np.int64)
    if ids is None:
        ids = tuple(object_ids(i for i in np.unique(labels).tolist() if i != 0))
    labels = geometry.pad(nearest(labels, geometry.internal))
    masks = (labels == np.array(ids, dtype=np.int64).reshape(-1, 1, 1)).astype(np.float32)
    return InputMask(masks, ids, labels > 0)


def _read_soft(mask: np.ndarray, ids: tuple[int, ...] | None, geometry: Geometry) -> InputMask:
    if mask.dtype.kind not in "bf":
        raise ValueError(f"mask: got {mask.shape} of {mask.dtype}, expected (N, H, W) of floats in [0, 1]")
    ids = tuple(range(1, mask.shape[0] + 1)) if ids is None else ids
    if len(ids) != mask.shape[0]:
        raise ValueError(f"mask: got {mask.shape[0]} channels, expected one for each of the {len(ids)} objects")
    mask = mask.astype(np.float32)
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError("mask: got values outside [0, 1]")
    masks = geometry.pad(geometry.shrink(mask))
    return InputMask(masks, ids, masks.max(axis=0, initial=0) > 0.5)


def object_ids(ids: Any) -> list[int]:
    """Convert ids to Python ints.

    Raises:
        ValueError: Unless they are whole numbers from 1 to 2**31 - 1.
    """
    try:
        numbers = [operator.index(i) for i in ids]
    except TypeError:
        raise ValueError(f"object ids: got {ids!r}, expected a list of whole numbers") from None
    for number in numbers:
        if not 1 <= number <= MAX_OBJECT_ID:
            raise ValueError(f"object id: got {number}, expected 1 to {MAX_OBJECT_ID}")
    return numbers


def soft_aggregate(masks: np.ndarray) -> np.ndarray:
    """Return probabilities (N + 1, H, W) of background and objects from independent masks (N, H, W)."""
    everything = np.concatenate([(1 - masks).prod(axis=0, keepdims=True), masks])
    everything = everything.clip(np.float32(1e-7), np.float32(1 - 1e-7))
    odds = everything / (1 - everything)
    return odds / odds.sum(axis=0, keepdims=True)
