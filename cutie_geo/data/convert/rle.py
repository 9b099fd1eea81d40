"""Masks as COCO's run lengths: pixels column by column, runs of 0 and 1 in turn, 0 first."""

import numpy as np
from jaxtyping import Bool, Int64

from cutie_geo.data.convert.records import Node

MAX_CHARACTERS = 6
"""Of one compressed run, 5 bits each: 2**29 pixels are more than any mask has."""


def decode_rle(counts: Node, size: tuple[int, int]) -> Bool[np.ndarray, "P"]:
    """The mask of `size` (height, width) as P = H W pixels, column by column (the transpose is `reshape(W, H)`).

    counts: a list of run lengths, or COCO's compressed string. Raises ValueError unless the runs fill the mask exactly;
    nothing of the mask's size is made before that is known.
    """
    runs = _compressed(counts) if isinstance(counts.value, str) else _listed(counts)
    pixels = size[0] * size[1]
    if (runs < 0).any() or (runs > pixels).any():
        raise ValueError(f"{counts.where}: got a run outside 0 to {pixels}, the pixels of a mask (H, W) = {size}")
    if runs.sum() != pixels:
        raise ValueError(f"{counts.where}: runs have {runs.sum()} pixels, wanted {pixels}, a mask (H, W) = {size}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs)


def _listed(counts: Node) -> Int64[np.ndarray, "R"]:
    """Run lengths that are written out."""
    wanted = "run lengths: a list of whole numbers, or a string"
    if not isinstance(counts.value, list) or not all(type(run) is int for run in counts.value):
        counts.fail(wanted)
    try:
        return np.array(counts.value, np.int64)
    except OverflowError:
        counts.fail(wanted)


def _compressed(counts: Node) -> Int64[np.ndarray, "R"]:
    """Run lengths of the string form: 6 bits a character from '0' on, of which 5 are digits, lowest first, and one
    says that more follow; signed; from the fourth on as differences to the run before the last.
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
