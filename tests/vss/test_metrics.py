"""IoU, boundaries and consistency of semantic maps are the official ones where there are such, else as defined."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutie_geo.vss.metrics import (
    VOID,
    ClipScores,
    ClipTally,
    Consistency,
    added,
    band,
    boundary_score,
    confusion,
    ious,
    main_numbers,
    mean_iou,
    percent_mean,
    score_clip,
    weighted_iou,
)
from cutie_geo.vss.semantic_maps import find_predictions, find_vspw, read_semantic

LISTS = ("val.txt", "val_with_extras.txt")


# --------------------------------------------------------------------------------------------------- official numbers
@pytest.fixture(scope="module", params=LISTS)
def official(test_data: Path, request: pytest.FixtureRequest) -> tuple[list[ClipScores], dict[str, Any]]:
    """The scores of the clips of a list, and what the official programs said of them."""
    root = test_data / "metric_fixtures"
    clips = []
    predictions = find_predictions(root / "vss" / "predictions")
    home = root / "vss" / "VSPW_480p"
    for clip in find_vspw(home, home / request.param).clips:
        tally = ClipTally(clip.name, 124)
        for frame, path in clip.maps.items():
            labels = read_semantic(predictions.clip(clip.name).maps[frame])
            tally.add(frame, read_semantic(path, "vspw"), labels)
        clips.append(tally.scores())
    return clips, json.loads((root / "expected_vss.json").read_text())[request.param]


def test_consistency_is_that_of_vspws_script(official: tuple[list[ClipScores], dict[str, Any]]) -> None:
    clips, expected = official
    for n in (8, 16):
        script = expected[f"vspw_script_{n}"]
        assert main_numbers(clips)[f"mVC{n}"] == pytest.approx(100 * script[f"VC{n}"], abs=1e-9)
        assert sum(clip.official[n].windows for clip in clips) == script["n_windows"]


def test_clips_of_more_than_16_frames_score_as_by_cffms_script(
    official: tuple[list[ClipScores], dict[str, Any]],
) -> None:
    clips, expected = official
    script = expected["cffm_script"]
    numbers = main_numbers([clip for clip in clips if len(clip.frames) > 16])
    for name, theirs in (("mIoU", "mIoU"), ("wIoU", "FWIoU"), ("mVC8", "VC8"), ("mVC16", "VC16")):
        assert numbers[name] == pytest.approx(100 * script[theirs], abs=1e-9)


def test_classes_have_the_iou_that_mmseg_gives_them(official: tuple[list[ClipScores], dict[str, Any]]) -> None:
    clips, expected = official
    per_class = np.array([np.nan if v is None else v for v in expected["mmseg"]["IoU_per_class"]])
    assert np.allclose(ious(added(clips)), per_class, atol=1e-12, equal_nan=True)


def test_boundaries_and_strict_consistency_are_those_of_the_stated_definitions(
    official: tuple[list[ClipScores], dict[str, Any]],
) -> None:
    clips, expected = official
    own = expected["own_formulas"]
    assert main_numbers(clips)["mBIoU"] == pytest.approx(100 * own["mBIoU_paper_pixelwise"], abs=1e-9)
    by_class = percent_mean(score.classes for clip in clips for score in clip.boundary)
    assert by_class == pytest.approx(100 * own["mBIoU_per_image_class_mean"], abs=1e-9)
    assert mean_iou(added(clips, near=True)) == pytest.approx(own["mBIoU_dataset_confusion_class_mean"], abs=1e-11)
    for n in (8, 16):
        shares = [clip.strict[n] for clip in clips if clip.strict[n].windows]
        mean = np.mean([share.total / share.windows for share in shares])
        assert mean == pytest.approx(own["strict_paper_mVC"][f"mVC{n}_mean_of_clip_means"], abs=1e-11)


# ------------------------------------------------------------------------------------------------------------- classes
def grid(*rows: str) -> np.ndarray:
    """A map by digits; a dot is VOID."""
    return np.array([[VOID if c == "." else int(c) for c in row] for row in rows], np.uint8)


def test_void_in_truth_counts_nowhere_and_void_predicted_is_wrong_and_no_class_of_its_own() -> None:
    counts = confusion(grid("00.", "11."), grid("0.1", "10."), 3)
    assert counts.tolist() == [[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert ious(counts)[:2].tolist() == pytest.approx([1 / 3, 1 / 2])
    assert np.isnan(ious(counts)[2])


def test_classes_that_truth_lacks_are_no_part_of_the_mean() -> None:
    counts = confusion(grid("0000"), grid("0012"), 3)
    assert mean_iou(counts) == 0.5
    assert ious(counts).tolist() == [0.5, 0, 0]


def test_weights_are_the_shares_of_true_pixels() -> None:
    counts = confusion(grid("00001"), grid("00000"), 2)
    assert weighted_iou(counts) == pytest.approx(0.8 * 0.8)


def test_the_confusion_matrix_is_the_slow_count() -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice([*range(124), VOID], (40, 50)).astype(np.uint8)
    labels = rng.choice([*range(124), VOID], (40, 50)).astype(np.uint8)
    slow = np.zeros((124, 125), np.int64)
    for true, own in zip(truth.ravel().tolist(), labels.ravel().tolist()):
        if true != VOID:
            slow[true, min(own, 124)] += 1
    assert np.array_equal(confusion(truth, labels, 124), slow)


@pytest.mark.parametrize("classes", [1, 2, 254, 255])
def test_any_number_of_classes_that_8_bits_hold_can_be_counted(classes: int) -> None:
    truth = np.full((2, 3), classes - 1, np.uint8)
    counts = confusion(truth, truth, classes)
    assert counts[-1, classes - 1] == counts.sum() == 6


@pytest.mark.parametrize(
    ("truth", "labels", "classes", "complaint"),
    [
        (grid("00"), grid("000"), 3, r"got size \(1, 3\), expected \(1, 2\)"),
        (grid("00"), grid("03"), 3, "got label 3, expected 0 to 2, or 255"),
        (grid("00"), grid("00"), 256, "classes: got 256, expected 1 to 255"),
    ],
)
def test_maps_that_cannot_be_counted_are_refused(
    truth: np.ndarray, labels: np.ndarray, classes: int, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        confusion(truth, labels, classes)


# ---------------------------------------------------------------------------------------------------------- boundaries
def slow_band(truth: np.ndarray, kernel: int) -> np.ndarray:
    """By definition, class by class and pixel by pixel."""
    out, reach = np.zeros(truth.shape, bool), kernel // 2
    for c in set(truth.ravel().tolist()) - {VOID}:
        for y, x in np.argwhere(truth == c):
            around = truth[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
            out[y, x] |= bool((around != c).any())
    return out


@pytest.mark.parametrize("kernel", [3, 5])
def test_the_band_is_each_class_without_its_erosion(kernel: int) -> None:
    rng = np.random.default_rng(1)
    truth = np.kron(rng.choice([0, 1, 2, 123, VOID], (5, 6)), np.ones((7, 9))).astype(np.uint8)
    assert np.array_equal(band(truth, kernel), slow_band(truth, kernel))
    assert 0 < band(truth, kernel).mean() < 1


def test_the_frames_border_is_no_boundary_and_void_makes_one_without_being_in_it() -> None:
    assert not band(np.full((9, 9), 3, np.uint8)).any()
    truth = np.full((9, 9), 3, np.uint8)
    truth[:, 4] = VOID
    assert band(truth).any(0).tolist() == [False, False, True, True, False, True, True, False, False]


def test_the_boundary_score_is_equation_6_over_the_band() -> None:
    truth, labels = grid("0011"), grid("0111")
    counts = confusion(truth, labels, 2)
    score = boundary_score(counts)
    assert score is not None
    assert score.pixels == pytest.approx(3 / (4 + 4 - 3))
    assert score.classes == pytest.approx((1 / 2 + 2 / 3) / 2)
    empty = boundary_score(confusion(truth, grid("...."), 2))
    assert empty is not None
    assert empty.pixels == 0
    assert boundary_score(np.zeros((2, 3), np.int64)) is None


# --------------------------------------------------------------------------------------------------------- consistency
def slow_shares(truth: np.ndarray, labels: np.ndarray, n: int, windows: int) -> list[float]:
    """Of each window by definition."""
    found = []
    for i in range(windows):
        same = (truth[i : i + n] == truth[i]).all(0)
        kept = same & (labels[i : i + n] == labels[i]).all(0)
        found += [kept.sum() / same.sum()] if same.any() else []
    return found


@pytest.mark.parametrize("windows", [(1, 2, 5), (8, 16), (300,)])
def test_consistency_is_the_slow_count_of_windows(windows: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    frames = max(windows) + 7
    truth = np.where(rng.random((frames, 6, 6)) < 0.03, rng.choice([1, VOID], (frames, 6, 6)), 0).astype(np.uint8)
    truth[:, :3] = 1
    labels = np.where(rng.random((frames, 6, 6)) < 0.05, rng.choice([1, VOID], (frames, 6, 6)), 0).astype(np.uint8)
    consistency = Consistency(windows)
    for own in zip(truth, labels):
        consistency.add(*own)
    for n in windows:
        expected = slow_shares(truth, labels, n, frames - n)
        assert consistency.official[n].windows == len(expected)
        assert consistency.official[n].total == pytest.approx(sum(expected), abs=1e-9)


def test_the_last_window_is_left_out_as_in_the_official_scripts() -> None:
    steady = np.zeros((1, 4), np.uint8)
    odd = grid("0001")
    numbers = main_numbers([score_clip("c", [steady] * 5, [steady] * 4 + [odd], 2, (4,))])
    assert numbers["mVC4"] == 100  # the window that ends with the odd frame isn't there
    assert main_numbers([score_clip("c", [steady] * 4, [steady] * 4, 2, (4,))])["mVC4"] is None


def test_a_wrong_label_is_consistent_but_not_strictly_so() -> None:
    truth, wrong = np.zeros((1, 4), np.uint8), grid("0111")
    scores = score_clip("c", [truth] * 4, [wrong] * 4, 2, (2,))
    assert scores.official[2] == (2.0, 2)
    assert scores.strict[2] == (0.75, 3)


def test_constant_void_is_consistent_and_a_window_without_a_constant_pixel_does_not_count() -> None:
    void = grid("..")
    scores = score_clip("c", [void] * 3, [grid("00"), grid("01"), grid("00")], 2, (2,))
    assert scores.official[2] == (0.5, 1)
    assert scores.strict[2].windows == 0
    restless = score_clip("c", [grid("01"), grid("10"), grid("01")], [void] * 3, 2, (2,))
    assert restless.official[2].windows == 0


def test_consistency_is_pooled_over_windows_not_over_clips() -> None:
    one, other = grid("0"), grid("1")
    steady = score_clip("a", [one] * 5, [one] * 5, 2, (2,))
    restless = score_clip("b", [one] * 3, [one, other, one], 2, (2,))
    assert main_numbers([steady, restless])["mVC2"] == pytest.approx(100 * 3 / 4)


def test_a_clip_whose_frames_change_size_is_refused() -> None:
    tally = ClipTally("c", 2)
    tally.add("0", grid("00"), grid("00"))
    with pytest.raises(ValueError, match=r"clip: got a frame of size \(1, 3\), expected \(1, 2\)"):
        tally.add("1", grid("000"), grid("000"))
    for windows in ((), (0, 8)):
        with pytest.raises(ValueError, match="windows: got"):
            Consistency(windows)


def test_there_is_no_score_of_nothing() -> None:
    with pytest.raises(ValueError, match="no clips"):
        main_numbers([])
    numbers = main_numbers([score_clip("c", [grid(".")], [grid("0")], 2)])
    assert set(numbers.values()) == {None}
