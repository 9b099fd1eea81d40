"""Label maps and probabilities to and from files; ids survive every trip unchanged.

OpenCV never reads a mask here: it expands palettes to colours, and so loses the ids.
"""

import zipfile
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Integer
from PIL import Image
from torch import Tensor

from cutie_geo.data.background import atomic_write
from cutie_geo.structures import MAX_OBJECT_ID, ObjectId

MAX_LONG_ID = 2**24 - 1
"""The largest id that an RGB mask holds: r + 256 g + 65536 b."""
MAX_PALETTE_ID = 255

_GREY_STEP = {"L;2": 85, "L;4": 17}
"""Pillow spreads greys of 2 and 4 bits over 0 to 255; an id is the number in the file."""


class LabelFile(NamedTuple):
    """A mask as read from a file."""

    labels: Int32[np.ndarray, "H W"]
    """Ids, 0 for background."""
    palette: bytes | None
    """The file's own palette, r g b r g b ... from id 0 on; None where it has none."""
    long_ids: bool
    """The file is RGB, its ids r + 256 g + 65536 b."""


def object_ids(labels: Integer[np.ndarray, "H W"]) -> tuple[ObjectId, ...]:
    """The ids in a label map, ascending, without 0."""
    if labels.size and labels.min() >= 0 and labels.max() < 2**16:
        present = np.flatnonzero(np.bincount(labels.ravel()))  # several times faster than the sort of np.unique
    else:
        present = np.unique(labels)
    return tuple(int(i) for i in present if i != 0)


def resize_labels(labels: Integer[np.ndarray, "H W"], size: tuple[int, int]) -> Int32[np.ndarray, "H2 W2"]:
    """`labels` at `size` (height, width) by nearest neighbour, the same pixels as Pillow picks from an 8-bit mask.

    Ids up to 2**31 - 1 are exact: Pillow copies whole 32-bit pixels. Raises ValueError for ids outside that range.
    """
    _require_ids(labels, MAX_OBJECT_ID, "label map")
    labels = labels.astype(np.int32)
    if labels.shape == tuple(size):
        return labels
    return np.array(Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST))


def _require_ids(labels: np.ndarray, largest: int, where: object) -> None:
    """Raise ValueError unless every id is in 0 ... `largest`."""
    if labels.size == 0:
        raise ValueError(f"{where}: mask is empty, got shape {labels.shape}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > largest:
        raise ValueError(f"{where}: got ids from {low} to {high}, wanted 0 to {largest}")


# -------------------------------------------------------------------------------------------------------- palettes
@lru_cache
def voc_palette() -> bytes:
    """The 256 colours of PASCAL VOC and DAVIS, as r g b r g b ...

    Bit 7-k of the (r, g, b) of entry i is bits (3k, 3k+1, 3k+2) of i.
    """
    index = np.arange(256)[:, None]
    channel = np.arange(3)[None]
    colours = sum(((index >> (3 * k + channel)) & 1) << (7 - k) for k in range(3))
    return np.asarray(colours, np.uint8).tobytes()


def _full_palette(palette: bytes | None) -> bytes:
    """`palette` filled up to 256 entries, so that Pillow always writes 8 bits a pixel and every id has a colour."""
    palette = palette or b""
    return palette[:768] + voc_palette()[len(palette) :]


# ----------------------------------------------------------------------------------------------------------- labels
def read_labels(path: str | Path, long_ids: bool = False) -> LabelFile:
    """The ids in a PNG mask: indexed, grey of 1 to 16 bits or, where `long_ids` allows it, RGB.

    A 1-bit mask holds the ids 0 and 1. Indexed and grey masks are read as such with `long_ids` too. Raises ValueError
    naming the file for anything that isn't such a mask: other formats, RGB not asked for, transparency, damage.
    """
    try:
        with Image.open(path) as image:
            wanted = "palette, grey (H, W) or RGB (H, W, 3)" if long_ids else "palette or grey (H, W)"
            _require_mask(image, path, wanted, long_ids)
            step = _GREY_STEP.get(_raw_mode(image), 1)
            pixels = np.array(image)
            palette = bytes(image.getpalette("RGB") or b"") if image.mode == "P" else None
    except (MaskError, MemoryError):
        raise
    except Exception as error:  # on damaged bytes Pillow's readers raise nearly anything
        raise ValueError(f"{path}: can't be read as a mask: {_reason(error)}") from error
    if pixels.ndim == 3:
        return LabelFile(pixels.astype(np.int32) @ np.array([1, 256, 65536], np.int32), None, True)
    return LabelFile(pixels.astype(np.int32) // step, palette, False)


class MaskError(ValueError):
    """A file that can be read but isn't a mask of the kind wanted."""


def _require_mask(image: Image.Image, path: str | Path, wanted: str, long_ids: bool) -> None:
    """Raise MaskError unless `image` is a PNG in one of the modes that hold ids."""
    if image.format != "PNG":
        raise MaskError(f"{path}: mask is a {image.format} file, wanted PNG")
    known = ("1", "L", "P", "I", "I;16", "I;16B") + (("RGB",) if long_ids else ())
    if image.mode not in known:
        shape = (image.height, image.width, len(image.getbands()))
        raise MaskError(f"{path}: mask is {image.mode} {shape}, wanted {wanted}")
    if _raw_mode(image) == "RGB;16B":  # Pillow would drop the lower byte of each
        raise MaskError(f"{path}: mask is RGB of 16 bits a channel, wanted 8")


def _raw_mode(image: Any) -> str:
    """How a PNG that isn't loaded yet stores its pixels, in Pillow's terms."""
    return str(image.tile[0][3]) if image.tile else ""


def _reason(error: Exception) -> str:
    """What an exception says, on one line, without the file's name that the caller puts before it."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def write_labels(
    path: str | Path, labels: Integer[np.ndarray, "H W"], palette: bytes | None = None, long_ids: bool = False
) -> None:
    """Write ids to a PNG, whole or not at all.

    Ids up to 255 make an indexed file with `palette` (that of VOC and DAVIS by default; a short one is filled up from
    it). Larger ids, up to 2**24 - 1, make an RGB file, r + 256 g + 65536 b; `long_ids` asks for that whatever the ids,
    so that all frames of a video can be of one kind. Raises ValueError for ids that don't fit, before anything is
    written, and OSError naming the file if writing fails.
    """
    _require_ids(labels, MAX_LONG_ID, path)
    image = _long_image(labels) if long_ids or labels.max() > MAX_PALETTE_ID else _indexed_image(labels, palette)
    with atomic_write(path) as part:
        image.save(part, format="PNG")


def _indexed_image(labels: np.ndarray, palette: bytes | None) -> Image.Image:
    """Ids up to 255 as an indexed image."""
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(_full_palette(palette))
    return image


def _long_image(labels: np.ndarray) -> Image.Image:
    """Ids up to 2**24 - 1 as an RGB image."""
    labels = labels.astype(np.int32)
    return Image.fromarray(np.stack([(labels >> shift & 255).astype(np.uint8) for shift in (0, 8, 16)], axis=-1))


# ---------------------------------------------------------------------------------------------------- probabilities
def write_probs(
    path: str | Path, probs: Float[np.ndarray, "N1 H W"] | Float[Tensor, "N1 H W"], ids: Sequence[ObjectId]
) -> None:
    """Write one frame's probabilities to a compressed `.npz`, whole or not at all.

    The file holds `probs`, uint8 (N+1, H, W): round(255 p), background first; and `ids`, int64 (N,): the object of each
    further channel. So a probability read back is within 1/510 of the one written. Raises ValueError for a channel
    without an id or the reverse and for values outside [0, 1], OSError naming the file if writing fails.
    """
    values = torch.as_tensor(probs).detach().float().mul(255).round().cpu().numpy()
    if len(values) != len(ids) + 1:
        raise ValueError(f"{path}: got {len(values)} channels for {len(ids)} ids, wanted one more, the background")
    if not ((values >= 0) & (values <= 255)).all():  # NaN is neither
        raise ValueError(f"{path}: got probabilities that are not numbers from 0 to 1")
    with atomic_write(path) as part, part.open("wb") as file:
        np.savez_compressed(file, probs=values.astype(np.uint8), ids=np.asarray(ids, np.int64))


def read_probs(path: str | Path) -> tuple[Float32[np.ndarray, "N1 H W"], tuple[ObjectId, ...]]:
    """What `write_probs` wrote: probabilities, background first, and the ids of the channels after it.

    Raises ValueError naming the file if it holds anything else; pickled data is refused.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as content:
            probs, ids = content["probs"], content["ids"]
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(f"{path}: can't be read as probabilities: {_reason(error)}") from error
    _require_probs(probs, ids, path)
    return probs.astype(np.float32) / 255, tuple(int(i) for i in ids)


def _require_probs(probs: np.ndarray, ids: np.ndarray, path: str | Path) -> None:
    """Raise ValueError unless the arrays are those of a file that `write_probs` wrote."""
    whole = probs.dtype == np.uint8 and probs.ndim == 3 and ids.ndim == 1 and np.issubdtype(ids.dtype, np.integer)
    if not whole or len(probs) != len(ids) + 1:
        got = f"probs {probs.dtype} {probs.shape}, ids {ids.dtype} {ids.shape}"
        raise ValueError(f"{path}: got {got}, wanted probs uint8 (N+1, H, W) and ids (N,)")
