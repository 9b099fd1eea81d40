"""Label maps lose what users don't want, and nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cutie_geo.config import to_dict
from cutie_geo.inference.postprocess import Cleaning
from cutie_geo.inference.results import Results, refuse_others
from cutie_geo.inference.segment import Segmented
from cutie_geo.structures import Frame

SURE = {1: 0.9, 2: 0.4}


def labels() -> np.ndarray:
    """Object 1: a block of 20 with a hole of 2, and a speck of 3. Object 2: one of 4 pixels, in a corner."""
    shown = np.zeros((12, 16), np.int32)
    shown[2:6, 2:8] = 1
    shown[3, 4:6] = 0
    shown[9, 2:5] = 1
    shown[10:, 14:] = 2
    return shown


def test_nothing_is_done_unless_asked_for() -> None:
    assert not Cleaning()
    assert np.array_equal(Cleaning()(labels(), SURE), labels())
    assert all((Cleaning(min_confidence=0.1), Cleaning(small_components=1), Cleaning(holes=1)))


def test_unsure_objects_are_left_out() -> None:
    assert np.array_equal(np.unique(Cleaning(min_confidence=0.5)(labels(), SURE)), [0, 1])
    assert np.array_equal(Cleaning(min_confidence=0.4)(labels(), SURE), labels())


def test_specks_go_but_not_an_object_s_largest_part() -> None:
    wanted = labels()
    wanted[9] = 0
    assert np.array_equal(Cleaning(small_components=4)(labels(), SURE), wanted)
    assert np.array_equal(Cleaning(small_components=3)(labels(), SURE), labels())  # fewer than, not as few as
    assert np.array_equal(Cleaning(small_components=1000)(labels(), SURE), wanted)


def test_diagonal_neighbours_are_one_part_of_an_object() -> None:
    shown = np.zeros((6, 6), np.int32)
    shown[1, 1] = shown[2, 2] = shown[4, 4] = 5
    cleaned = Cleaning(small_components=2)(shown, {5: 1.0})
    assert cleaned[1, 1] == cleaned[2, 2] == 5
    assert cleaned[4, 4] == 0


def test_holes_within_one_object_are_filled() -> None:
    wanted = labels()
    wanted[3, 4:6] = 1
    assert np.array_equal(Cleaning(holes=3)(labels(), SURE), wanted)
    assert np.array_equal(Cleaning(holes=2)(labels(), SURE), labels())


def test_gaps_at_the_edge_and_between_objects_are_no_holes() -> None:
    shown = np.zeros((7, 9), np.int32)
    shown[:, :4] = 1
    shown[0, 1] = 0  # at the edge
    shown[2:5, 4:8] = 1
    shown[3, 6] = 0
    shown[3, 7] = 2  # one side of this gap is another object's
    assert np.array_equal(Cleaning(holes=20)(shown, {1: 1.0, 2: 1.0}), shown)


def test_the_input_stays_as_it_was() -> None:
    shown = labels()
    Cleaning(0.5, 4, 3)(shown, SURE)
    assert np.array_equal(shown, labels())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_confidence": 1.5}, "min_confidence: got 1.5, expected 0 to 1"),
        ({"min_confidence": float("nan")}, "min_confidence: got nan"),
        ({"small_components": -1}, "small_components: got -1"),
        ({"holes": -3}, "holes: got -3"),
    ],
)
def test_numbers_that_cannot_work_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Cleaning(**options)


def test_presence_is_the_mean_probability_of_an_object_s_own_pixels() -> None:
    probs = torch.tensor(
        [[[0.5, 0.1, 0.2]], [[0.3, 0.7, 0.6]], [[0.2, 0.2, 0.2]]]
    )  # (background, 4, 9) of three pixels
    shown = Segmented(Frame("0", torch.zeros(3, 1, 3)), probs, (4, 9))
    assert shown.presence == {4: pytest.approx(0.65), 9: 0.0}


def test_results_cleaned_by_an_earlier_version_are_known_again() -> None:
    """The reports have the setting under its earlier name."""
    earlier = {"settings": {"cleaning": {"min_confidence": 0.0, "specks": 4, "holes": 0}}}
    now = {"cleaning": to_dict(Cleaning(small_components=4))}
    refuse_others(Results(Path("out")), "bear", earlier, now)
    with pytest.raises(ValueError, match=r"other cleaning\.small_components"):
        refuse_others(Results(Path("out")), "bear", earlier, {"cleaning": to_dict(Cleaning(small_components=5))})
