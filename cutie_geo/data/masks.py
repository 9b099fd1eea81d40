"""Reading and writing of label maps and probabilities, with exact object ids.

OpenCV is not used to read masks, because it expands palettes to colours and loses the ids.
"""

import logging
import math
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Integer
from PIL import Image
from torch import Tensor
from torch.nn.functional import max_pool2d

from cutie_geo.data.images import open_image
from cutie_geo.data.io_threads import atomic_write, require_regular
from cutie_geo.errors import one_line
from cutie_geo.limits import max_probs
from cutie_geo.structures import MAX_OBJECT_ID, ObjectId

log = logging.getLogger(__name__)

MAX_LONG_ID = 2**24 - 1
"""Largest id of an RGB mask: r + 256 g + 65536 b."""
MAX_PALETTE_ID = 255
OBJECT_GREY = 128
"""Minimum grey value of the object in masks without ids."""

_GREY_STEP = {"L;2": 85, "L;4": 17}
"""Factors by which Pillow scales 2-bit and 4-bit greys to 0 to 255; ids are the unscaled numbers."""


SEVERAL_IDS, SEVERAL_SHADES = 8, 4
"""Minimum number of ids, and of bright ids among them, for which a mask is checked for antialiasing."""
MANY_IDS = 16
"""Minimum number of ids for which mostly tiny objects are an error."""
DARK = 32
"""Greys up to 1/DARK of the largest one count as background noise of JPEG."""
TINY_AREA = 16
"""Number of pixels below which an object counts as tiny."""
SOLID_SHARE = 0.3
"""Minimum fraction of an antialiased object's pixels that are near its largest grey."""
EDGE, EDGE_SHARE, AT_EDGE = 8, 0.02, 0.95
"""Width of a soft edge, in pixels (JPEG works in blocks of 8) and as a fraction of the shorter side, and the minimum
fraction of intermediate greys within it.
"""


class LabelFile(NamedTuple):
    """Content of a mask file."""

    labels: Int32[np.ndarray, "H W"]
    """Ids, 0 for background."""
    palette: bytes | None
    """Palette of the file, r g b r g b ... from id 0 on. None if the file has none."""
    long_ids: bool
    """The file is RGB, with ids r + 256 g + 65536 b."""


def object_ids(labels: Integer[np.ndarray, "H W"]) -> tuple[ObjectId, ...]:
    """Return the ids of a label map in ascending order, without 0."""
    if labels.size and labels.min() >= 0 and labels.max() < 2**8:  # Pillow counts bytes faster than numpy
        present = np.flatnonzero(Image.fromarray(labels.astype(np.uint8, copy=False)).histogram())
    elif labels.size and labels.min() >= 0 and labels.max() < 2**16:
        present = np.flatnonzero(np.bincount(labels.ravel()))  # several times faster than the sort of np.unique
    else:
        present = np.unique(labels)
    return tuple(int(i) for i in present if i != 0)


def resize_labels(labels: Integer[np.ndarray, "H W"], size: tuple[int, int]) -> Int32[np.ndarray, "H2 W2"]:
    """Resize `labels` to `size` (height, width) by nearest neighbour, as Pillow resizes 8-bit masks.

    Ids up to 2**31 - 1 are exact.

    Raises:
        ValueError: for ids outside that range.
    """
    _require_ids(labels, MAX_OBJECT_ID, "label map")
    labels = labels.astype(np.int32)
    if labels.shape == tuple(size):
        return labels
    return np.array(Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST))


def _require_ids(labels: np.ndarray, largest: int, where: object) -> None:
    """Raise ValueError unless all ids are in 0 to `largest`."""
    if labels.size == 0:
        raise ValueError(f"{where}: mask is empty, got shape {labels.shape}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > largest:
        raise ValueError(f"{where}: got ids from {low} to {high}, expected 0 to {largest}")


# -------------------------------------------------------------------------------------------------------- palettes
@lru_cache
def voc_palette() -> bytes:
    """Return the 256 colours of PASCAL VOC and DAVIS, as r g b r g b ...

    Bit 7-k of the (r, g, b) of entry i is bits (3k, 3k+1, 3k+2) of i.
    """
    index = np.arange(256)[:, None]
    channel = np.arange(3)[None]
    colours = sum(((index >> (3 * k + channel)) & 1) << (7 - k) for k in range(3))
    return np.asarray(colours, np.uint8).tobytes()


def _full_palette(palette: bytes | None) -> bytes:
    """Return `palette` padded to 256 entries, so that Pillow writes 8 bits per pixel and every id has a colour."""
    palette = palette or b""
    return palette[:768] + voc_palette()[len(palette) :]


# ----------------------------------------------------------------------------------------------------------- labels
def read_labels(path: str | Path, long_ids: bool = False) -> LabelFile:
    """Read the ids of a PNG mask: indexed, grey of 1 to 16 bits or, with `long_ids`, RGB.

    A 1-bit mask holds the ids 0 and 1. Indexed and grey masks are also accepted with `long_ids`.

    Raises:
        ValueError: with the file name, for other formats, RGB without `long_ids`, transparency and damage.
    """
    require_regular(path)
    try:
        with open_image(path) as image:
            wanted = "palette, grey (H, W) or RGB (H, W, 3)" if long_ids else "palette or grey (H, W)"
            _require_mask(image, path, wanted, long_ids)
            step = _GREY_STEP.get(_raw_mode(image), 1)
            pixels = np.array(image)
            palette = bytes(image.getpalette("RGB") or b"") if image.mode == "P" else None
    except (MaskError, MemoryError):
        raise
    except Exception as error:  # on damaged bytes Pillow's readers raise nearly anything
        raise ValueError(f"{path}: cannot be read as a mask: {_reason(error)}") from error
    if pixels.ndim == 3:
        return LabelFile(pixels.astype(np.int32) @ np.array([1, 256, 65536], np.int32), None, True)
    ids = pixels.astype(np.int32)
    return LabelFile(ids if step == 1 else ids // step, palette, False)


def read_input_labels(path: str | Path, long_ids: bool = False, warn: bool = True) -> LabelFile:
    """Read an input mask as `read_labels` does, and detect greys that are not ids.

    A grey mask of one object with soft edges, as drawing programs and lossy formats write it, is thresholded at half of
    its largest grey; the id is the largest value.

    Args:
        warn: log a warning if a mask is thresholded, or if its palette shows another background than id 0.

    Raises:
        ValueError: as `read_labels`, and for other masks with many ids of which most have very few pixels.
    """
    try:
        file = read_labels(path, long_ids)
    except ColourError as error:
        raise MaskError(
            f"{error}. Save it as a grey or an indexed PNG without transparency, whose values are object ids"
        ) from None
    if warn:
        _warn_of_palette(file, path)
    counts = np.bincount(file.labels.ravel()) if file.labels.max() < 2**16 else np.zeros(0, np.int64)
    areas = counts[1:][counts[1:] > 0]
    if len(areas) < SEVERAL_IDS or len(counts) > 256:  # more ids than 8 bits have shades
        return file
    if file.palette is None and _is_soft_object(file.labels):
        largest = len(counts) - 1
        if warn:
            log.warning(
                "%s: grey values with soft edges; read as one object, %d, from half of its grey on", path, largest
            )
        return file._replace(labels=np.where(2 * file.labels >= largest, np.int32(largest), np.int32(0)))
    tiny = int((areas < TINY_AREA).sum())
    if len(areas) >= MANY_IDS and 2 * tiny > len(areas):
        raise ValueError(
            f"{path}: got {len(areas)} ids, {tiny} of them with fewer than {TINY_AREA} pixels, expected an id for each "
            "object. Soft edges or a lossy format make ids of shades: save the mask as an indexed PNG, not antialiased"
        )
    return file


def _warn_of_palette(file: LabelFile, path: str | Path) -> None:
    """Warn if an indexed mask shows another id than 0 in black, and 0 in a colour.

    Drawing programs order the palette by frequency or brightness, so that the background may not be 0.
    """
    colours = np.frombuffer(file.palette or b"", np.uint8)
    colours = colours[: len(colours) // 3 * 3].reshape(-1, 3)
    if len(colours) < 2 or not colours[0].any():
        return
    black = [i for i in object_ids(file.labels) if i < len(colours) and not colours[i].any()]
    if black:
        log.warning(
            "%s: the palette shows id %d in black and id 0 in a colour; 0 is read as the background", path, black[0]
        )


def _is_soft_object(labels: Int32[np.ndarray, "H W"]) -> bool:
    """Return True if most bright pixels are near the largest grey, and all other greys are at its edge."""
    largest = int(labels.max())
    bright = labels > largest // DARK
    solid = labels >= largest * 7 // 8
    shades = bright & ~solid
    several = len(np.unique(labels[bright])) >= SEVERAL_SHADES
    if largest < 128 or not several or solid.sum() < SOLID_SHARE * bright.sum():
        return False
    reach = max(EDGE, round(EDGE_SHARE * min(labels.shape)))
    near = max_pool2d(torch.from_numpy(solid).float()[None], 2 * reach + 1, stride=1, padding=reach)[0].numpy() > 0
    return not shades.any() or bool(near[shades].mean() >= AT_EDGE)


class MaskError(ValueError):
    """A readable file that is not a mask of the expected kind."""


class ColourError(MaskError):
    """A mask in colours or with transparency."""


def _require_mask(image: Image.Image, path: str | Path, wanted: str, long_ids: bool) -> None:
    """Raise MaskError unless `image` is a PNG in one of the modes that hold ids."""
    if image.format != "PNG":
        raise MaskError(f"{path}: mask is a {image.format} file, expected PNG")
    known = ("1", "L", "P", "I", "I;16", "I;16B") + (("RGB",) if long_ids else ())
    if image.mode not in known:
        shape = (image.height, image.width, len(image.getbands()))
        raise ColourError(f"{path}: mask is {image.mode} {shape}, expected {wanted}")
    if _raw_mode(image) == "RGB;16B":  # Pillow would drop the lower bytes
        raise MaskError(f"{path}: mask is RGB of 16 bits a channel, expected 8")


def _raw_mode(image: Any) -> str:
    """Return the pixel layout of a PNG that is not loaded yet, in Pillow's terms."""
    return str(image.tile[0][3]) if image.tile else ""


def _reason(error: Exception) -> str:
    """Return the cause of an image error, without the file name."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    return one_line(error)


def write_labels(
    path: str | Path, labels: Integer[np.ndarray, "H W"], palette: bytes | None = None, long_ids: bool = False
) -> None:
    """Write ids to a PNG, atomically.

    Ids up to 255 make an indexed file, larger ids (up to 2**24 - 1) an RGB file with r + 256 g + 65536 b.

    Args:
        palette: colours of an indexed file. None: those of VOC and DAVIS, which also pad a short palette.
        long_ids: always write RGB, so that all masks of a video have one format.

    Raises:
        ValueError: for ids out of range, before anything is written.
        OSError: with the file name, if writing fails.
    """
    _require_ids(labels, MAX_LONG_ID, path)
    image = _long_image(labels) if long_ids or labels.max() > MAX_PALETTE_ID else _indexed_image(labels, palette)
    with atomic_write(path) as part:
        image.save(part, format="PNG")


def _indexed_image(labels: np.ndarray, palette: bytes | None) -> Image.Image:
    """Return ids up to 255 as an indexed image."""
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(_full_palette(palette))
    return image


def _long_image(labels: np.ndarray) -> Image.Image:
    """Return ids up to 2**24 - 1 as an RGB image."""
    labels = labels.astype(np.int32)
    return Image.fromarray(np.stack([(labels >> shift & 255).astype(np.uint8) for shift in (0, 8, 16)], axis=-1))


# ---------------------------------------------------------------------------------------------------- probabilities
def write_probs(
    path: str | Path, probs: Float[np.ndarray, "N1 H W"] | Float[Tensor, "N1 H W"], ids: Sequence[ObjectId]
) -> None:
    """Write the probabilities of one frame to a compressed `.npz`, atomically.

    The file holds `probs`, uint8 (N+1, H, W): round(255 p), background first; and `ids`, int64 (N,): the object of each
    further channel. The rounding error is at most 1/510.

    Raises:
        ValueError: if channels and ids do not match, or values are outside [0, 1].
        OSError: with the file name, if writing fails.
    """
    values = torch.as_tensor(probs).detach().float().mul(255).round().cpu().numpy()
    if len(values) != len(ids) + 1:
        raise ValueError(f"{path}: got {len(values)} channels for {len(ids)} ids, expected one more, the background")
    if not ((values >= 0) & (values <= 255)).all():  # NaN is neither
        raise ValueError(f"{path}: got probabilities that are not numbers from 0 to 1")
    with atomic_write(path) as part, part.open("wb") as file:
        np.savez_compressed(file, probs=values.astype(np.uint8), ids=np.asarray(ids, np.int64))


def read_probs(path: str | Path) -> tuple[Float32[np.ndarray, "N1 H W"], tuple[ObjectId, ...]]:
    """Read a file of `write_probs`: probabilities, background first, and the ids of the other channels.

    >>> import cutie_geo, pathlib, tempfile
    >>> image = sorted(cutie_geo.example_frames().glob("*.jpg"))[:1]
    >>> first_mask = cutie_geo.example_masks() / "00000.png"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = cutie_geo.segment(image, mask=first_mask, output=folder, save_probs=True, max_internal_size=96)
    ...     probs, ids = cutie_geo.read_probs(pathlib.Path(folder) / "probs" / "toy_wall" / "00000.npz")
    >>> probs.shape, probs.dtype, ids
    ((4, 180, 320), dtype('float32'), (1, 2, 3))

    Raises:
        ValueError: with the file name, for other content; pickled data is refused.
    """
    try:
        _require_small(path)
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as content:
            probs, ids = content["probs"], content["ids"]
    except Exception as error:  # damaged archives and headers raise nearly anything, even MemoryError
        raise ValueError(f"{path}: cannot be read as probabilities: {_reason(error)}") from error
    _require_probs(probs, ids, path)
    return probs.astype(np.float32) / 255, tuple(int(i) for i in ids)


def _require_small(path: str | Path) -> None:
    """Raise ValueError for arrays that exceed `limits.max_probs` or their declared size, before any array is read."""
    with zipfile.ZipFile(path) as file:
        for entry in file.infolist():
            if entry.file_size > max_probs():
                raise ValueError(
                    f"got {entry.filename} of {entry.file_size} bytes, expected at most {max_probs()}; "
                    "--max-pixels raises the limit"
                )
            with file.open(entry) as content:
                version = np.lib.format.read_magic(content)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, kind = read(content)
            if math.prod(shape) * kind.itemsize > entry.file_size:
                raise ValueError(f"got {entry.filename} of shape {shape} in {entry.file_size} bytes")


def _require_probs(probs: np.ndarray, ids: np.ndarray, path: str | Path) -> None:
    """Raise ValueError unless the arrays have the format of `write_probs`."""
    whole = probs.dtype == np.uint8 and probs.ndim == 3 and ids.ndim == 1 and np.issubdtype(ids.dtype, np.integer)
    if not whole or len(probs) != len(ids) + 1:
        got = f"probs {probs.dtype} {probs.shape}, ids {ids.dtype} {ids.shape}"
        raise ValueError(f"{path}: got {got}, expected probs uint8 (N+1, H, W) and ids (N,)")
    own = [int(i) for i in ids]
    if len(set(own)) < len(own) or not all(0 < i <= MAX_OBJECT_ID for i in own):
        raise ValueError(f"{path}: got ids {own[:8]}, expected different ones from 1 to {MAX_OBJECT_ID}")
    if probs.size == 0:
        raise ValueError(f"{path}: got probabilities of no pixels, {probs.shape}")
