"""Promises of COCO's run lengths: every mask comes back, and nothing that doesn't fill a mask is believed."""

import re

import numpy as np
import pytest

from cutie_geo.data.convert.records import Node
from cutie_geo.data.convert.rle import decode_rle


def runs_of(mask):
    """Run lengths, counted pixel by pixel."""
    runs, value = [0], 0
    for pixel in mask.T.ravel():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return [int(run) for run in runs]


def compressed(runs):
    """The string form, one bit group at a time."""
    text = ""
    for i, run in enumerate(runs):
        rest = run - runs[i - 2] if i > 2 else run
        while True:
            bits, rest = rest & 31, rest >> 5
            done = rest == (-1 if bits & 16 else 0)
            text += chr(48 + bits + (0 if done else 32))
            if done:
                break
    return text


def decoded(counts, size):
    return decode_rle(Node(counts, "a.json: counts"), size).reshape(size[1], size[0]).T


def random_mask(rng):
    mask = rng.random(rng.integers(1, 70, 2)) < rng.choice([0, 0.02, 0.5, 0.98, 1])
    if rng.random() < 0.5:
        (top, bottom), (left, right) = (sorted(rng.integers(0, side + 1, 2)) for side in mask.shape)
        mask[:] = False
        mask[top:bottom, left:right] = True
    return mask


@pytest.mark.slow
def test_every_mask_comes_back_from_both_forms():
    rng = np.random.default_rng(0)
    for _ in range(300):
        mask = random_mask(rng)
        runs = runs_of(mask)
        assert np.array_equal(decoded(runs, mask.shape), mask)
        assert np.array_equal(decoded(compressed(runs), mask.shape), mask)


def test_strings_that_pycocotools_wrote_are_read():
    mask = np.zeros((5, 7), bool)
    mask[1:4, 2:5] = mask[4, 6] = True
    mask[2, 3] = False
    assert np.array_equal(decoded(";32NO0128N", (5, 7)), mask)
    mask = np.zeros((200, 300), bool)
    mask[:, 40:290] = True
    mask[77, 100] = False
    assert np.array_equal(decoded("Pj7]i;1eWi0_n1", (200, 300)), mask)


@pytest.mark.parametrize(
    ("counts", "what"),
    [
        ([3, 4], "runs have 7 pixels, expected 12"),
        ([3, 10], "runs have 13 pixels"),
        ([], "runs have 0 pixels"),
        ("", "runs have 0 pixels"),
        ([-1, 13], "outside 0 to 12"),
        ([2**62, 2**62, 2**62, 2**62], "outside 0 to 12"),
        ([2**70], "run lengths"),
        ([12.0], "run lengths"),
        ([True] * 12, "run lengths"),
        (["12"], "run lengths"),
        (None, "run lengths"),
        ({"a": 1}, "run lengths"),
        ("\N{GREEK SMALL LETTER ALPHA}", "characters '0' to 'o'"),
        ("!", "characters '0' to 'o'"),
        ("p", "characters '0' to 'o'"),
        ("0\x00", "characters '0' to 'o'"),
        ("<o", "the last one complete"),
        ("o" * 40 + "0", "at most 6 characters"),
        ("oooooO", "outside 0 to 12"),
    ],
)
def test_runs_that_fill_no_mask_are_refused_with_their_place(counts, what):
    with pytest.raises(ValueError, match=re.escape(what)) as error:
        decode_rle(Node(counts, "a.json: counts"), (3, 4))
    assert "a.json: counts" in str(error.value)


def test_pycocotools_makes_the_same_masks():
    from pycocotools import mask as coco

    rng = np.random.default_rng(1)
    for _ in range(100):
        mask = random_mask(rng)
        text = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        assert np.array_equal(decoded(text, mask.shape), mask)
        assert compressed(runs_of(mask)) == text
