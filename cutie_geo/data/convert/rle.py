"""COCO run-length masks: pixels column by column, alternating runs of 0 and 1, starting with 0.

pycocotools decodes truncated strings to masks with uninitialised pixels without an error; this decoder rejects them.
"""

import numpy as np
from jaxtyping import Bool, Int64

from cutie_geo.data.convert.records import Node

MAX_CHARACTERS = 6
"""Maximum number of characters of one compressed run, 5 bits each: 2**29 pixels exceed any mask."""


def decode_rle(counts: Node, size: tuple[int, int]) -> Bool[np.ndarray, "P"]:
    """Decode a mask to P = H W pixels, column by column: its transpose is `reshape(W, H)`.

    Args:
        counts: a list of run lengths, or COCO's compressed string.
        size: height and width.

    Raises:
        ValueError: unless the runs fill the mask exactly. Nothing of the mask's size is allocated before that.
    """
    runs = _compressed(counts) if isinstance(counts.value, str) else _listed(counts)
    pixels = size[0] * size[1]
    if (runs < 0).any() or (runs > pixels).any():
        raise ValueError(f"{counts.where}: got a run outside 0 to {pixels}, the pixels of a mask (H, W) = {size}")
    if runs.sum() != pixels:
        raise ValueError(f"{counts.where}: runs have {runs.sum()} pixels, expected {pixels}, a mask (H, W) = {size}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs)


def _listed(counts: Node) -> Int64[np.ndarray, "R"]:
    """Return run lengths from a list."""
    expected = "run lengths: a list of whole numbers, or a string"
    if not isinstance(counts.value, list) or not all(type(run) is int for run in counts.value):
        counts.fail(expected)
    try:
        return np.array(counts.value, np.int64)
    except OverflowError:
        counts.fail(expected)


def _compressed(counts: Node) -> Int64[np.ndarray, "R"]:
    """Return run lengths from COCO's string.

    A character holds 6 bits, counted from '0': 5 bits of the number, lowest first, and one if more follow. Numbers are
    signed; from the fourth on they are differences to the run before the last.
    """
    try:
        code = np.frombuffer(counts.value.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        counts.fail("run lengths in the characters '0' to 'o'")
    if not code.size:
        return np.zeros(0, np.int64)
    last = (code & 32) == 0
    if (code < 0).any() or (code > 63).any() or not last[-1]:
        counts.fail("run lengths in the characters '0' to 'o', the last one complete")
    begin = np.flatnonzero(np.concatenate(([True], last[:-1])))
    length = np.diff(begin, append=code.size)
    if length.max() > MAX_CHARACTERS:
        counts.fail(f"run lengths of at most {MAX_CHARACTERS} characters")
    digit = np.arange(code.size) - np.repeat(begin, length)
    runs = np.add.reduceat((code & 31) << (5 * digit), begin)
    runs -= np.where(code[last] & 16, np.int64(1) << (5 * length), 0)  # the highest digit has the sign
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
