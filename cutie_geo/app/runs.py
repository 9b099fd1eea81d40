"""Label maps as runs of equal labels, the form in which the server and the page exchange masks.

Little-endian uint32 words: height, width, number n of ids, the n ids, then one word for each run of pixels in row
order: the upper 8 bits are 0 for background or the position of an id from 1 on, the lower 24 the length of the run.
"""

import base64
import binascii

import numpy as np
from jaxtyping import Integer, Shaped

from cutie_geo.config import require
from cutie_geo.data.masks import object_ids
from cutie_geo.structures import MAX_OBJECT_ID

MOST_IDS = 255
"""Largest number of objects on one frame."""
LONGEST_RUN = 2**24 - 1
HEAD = 3
"""Words before the ids."""


def encode_runs(labels: Integer[np.ndarray, "H W"]) -> bytes:
    """Return a label map as runs.

    Raises:
        ValueError: for more than 255 objects.
    """
    ids = object_ids(labels)
    require(len(ids) <= MOST_IDS, f"frame: got {len(ids)} objects, expected at most {MOST_IDS}")
    flat = labels.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(starts, append=flat.size)
    slots = np.searchsorted(np.array((0, *ids)), flat[starts])
    if lengths.max() > LONGEST_RUN:
        parts = -(-lengths // LONGEST_RUN)
        ends = np.cumsum(parts)
        slots, whole = np.repeat(slots, parts), np.full(int(ends[-1]), LONGEST_RUN)
        whole[ends - 1] = lengths - (parts - 1) * LONGEST_RUN
        lengths = whole
    words = [np.array([*labels.shape, len(ids), *ids]), (slots.astype(np.int64) << 24) | lengths]
    return np.concatenate(words).astype("<u4").tobytes()


def decode_runs(data: bytes, size: tuple[int, int], where: str) -> Shaped[np.ndarray, "H W"]:
    """Return the int32 label map that `encode_runs` wrote.

    Args:
        data: the runs.
        size: expected height and width.
        where: start of error messages.

    Raises:
        ValueError: for other content.
    """
    require(len(data) % 4 == 0 and len(data) >= 4 * HEAD, f"{where}: got {len(data)} bytes, expected words of 4")
    words = np.frombuffer(data, "<u4").astype(np.int64)
    height, width, count = (int(word) for word in words[:HEAD])
    require((height, width) == size, f"{where}: got {width}x{height} pixels, expected {size[1]}x{size[0]}")
    require(count <= MOST_IDS and len(words) > HEAD + count, f"{where}: cut off, expected ids and runs")
    ids, runs = words[HEAD : HEAD + count], words[HEAD + count :]
    valid = bool((ids > 0).all() and (ids <= MAX_OBJECT_ID).all())
    require(valid, f"{where}: expected object ids from 1 to {MAX_OBJECT_ID}")
    slots, lengths = runs >> 24, runs & LONGEST_RUN
    require(int(slots.max()) <= count, f"{where}: got an object without an id")
    require(
        int(lengths.sum()) == height * width, f"{where}: got {int(lengths.sum())} pixels, expected {height * width}"
    )
    table = np.concatenate([[0], ids]).astype(np.int32)
    return np.repeat(table[slots], lengths).reshape(height, width)


def from_base64(text: str, where: str) -> bytes:
    """Return the bytes of base64 text. Raises ValueError for other text."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{where}: expected base64") from None


def to_base64(data: bytes) -> str:
    """Return bytes as base64 text."""
    return base64.b64encode(data).decode("ascii")
