"""J and F are those of the official DAVIS 2017 program."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cutie_geo.data.masks import read_labels, voc_palette
from cutie_geo.evaluation.metrics import (
    BOUND,
    Score,
    boundary,
    contour_accuracy,
    mean_score,
    region_similarity,
    score_folders,
    score_frames,
)

SEQUENCES = ("bowl-vanish", "apple-peel", "cup-three", "glass-half", "dish-odd", "egg-missed", "fork-thin")


@pytest.fixture(scope="module")
def fixtures(test_data: Path) -> Path:
    return test_data / "metric_fixtures"


@pytest.fixture(scope="module")
def official(fixtures: Path) -> dict[str, Any]:
    return json.loads((fixtures / "expected.json").read_text())


def binary(rows: list[str]) -> np.ndarray:
    return np.array([[character == "1" for character in row] for row in rows])


def square(size: tuple[int, int], top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def write(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(voc_palette())
    image.save(path)


# --------------------------------------------------------------------------------------------------- official numbers
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_every_frame_of_every_object_has_the_official_j_and_f(
    fixtures: Path, official: dict[str, Any], sequence: str
) -> None:
    root = fixtures / "vos" / "main"
    names = sorted(path.name for path in (root / "Annotations" / "480p" / sequence).glob("*.png"))[1:-1]
    truth = [read_labels(root / "Annotations" / "480p" / sequence / name).labels for name in names]
    masks = [read_labels(root / "predictions" / "noisy" / sequence / name).labels for name in names]
    objects = {k: v for k, v in official["main"]["davis2017"]["per_object"].items() if k.rsplit("_", 1)[0] == sequence}
    assert objects
    for key, numbers in objects.items():
        i = int(key.rsplit("_", 1)[1])
        j = [region_similarity(t == i, m == i) for t, m in zip(truth, masks)]
        f = [contour_accuracy(t == i, m == i) for t, m in zip(truth, masks)]
        assert j == pytest.approx(numbers["J"]["per_frame"], abs=1e-9)
        assert f == pytest.approx(numbers["F"]["per_frame"], abs=1e-9)


def test_folders_score_as_the_official_program_says(fixtures: Path, official: dict[str, Any]) -> None:
    root, expected, scores = fixtures / "vos" / "main", official["main"]["davis2017"], {}
    for sequence in (root / "ImageSets" / "2017" / "val.txt").read_text().split():
        found = score_folders(root / "Annotations" / "480p" / sequence, root / "predictions" / "noisy" / sequence)
        scores |= {f"{sequence}_{i}": score for i, score in found.items()}
    assert scores.keys() == expected["per_object"].keys()
    for key, score in scores.items():
        assert score.j == pytest.approx(expected["per_object"][key]["J"]["mean"], abs=1e-9)
        assert score.f == pytest.approx(expected["per_object"][key]["F"]["mean"], abs=1e-9)
    mean = mean_score(dict(enumerate(scores.values())))
    assert mean.j == pytest.approx(expected["global"]["J-Mean"], abs=1e-9)
    assert mean.f == pytest.approx(expected["global"]["F-Mean"], abs=1e-9)
    assert mean.j_and_f == pytest.approx(expected["global"]["J&F-Mean"], abs=1e-9)


@pytest.mark.parametrize(
    "sequence",
    ["late-object-unpredicted", "first-frame-only-object", "first-and-last-only-object", "empty-first-frame"],
)
def test_objects_that_come_and_go_score_as_the_official_program_says(
    fixtures: Path, official: dict[str, Any], sequence: str
) -> None:
    assert_official(fixtures, official, sequence)


def test_void_in_the_truth_is_background(fixtures: Path, official: dict[str, Any]) -> None:
    assert_official(fixtures, official, "void-region")


def assert_official(fixtures: Path, official: dict[str, Any], sequence: str) -> None:
    root = fixtures / "vos" / "quirks"
    scores = score_folders(root / "Annotations" / "480p" / sequence, root / "predictions" / "p" / sequence)
    expected = official["quirks"][sequence]["davis2017"]["per_object"]
    assert {f"{sequence}_{i}" for i in scores} == expected.keys()
    for i, score in scores.items():
        numbers = expected[f"{sequence}_{i}"]
        assert tuple(score) == pytest.approx((numbers["J"]["mean"], numbers["F"]["mean"]), abs=1e-9)


def test_boundaries_are_the_official_ones(official: dict[str, Any]) -> None:
    for case in official["functions"]["seg2bmap"]:
        assert np.array_equal(boundary(binary(case["mask"])), binary(case["boundary"]))


def test_single_pairs_of_masks_score_as_the_official_functions_say(official: dict[str, Any]) -> None:
    cases = official["functions"]["frame_metrics"]
    assert any(case["bound_th"] == BOUND for case in cases)
    for case in cases:
        truth, mask = binary(case["gt"]), binary(case["pred"])
        assert region_similarity(truth, mask) == pytest.approx(case["J"], abs=1e-9)
        if case["bound_th"] == BOUND:
            assert contour_accuracy(truth, mask) == pytest.approx(case["F"], abs=1e-9)


def test_the_tolerance_is_the_official_disk_at_every_size(official: dict[str, Any]) -> None:
    """Two lone edges count as one exactly up to the official distance."""
    for case in official["functions"]["bound_pix"]:
        size, radius = tuple(case["shape"]), int(case["bound_pix"])
        truth = square(size, 20, 10, 1)
        # the edge of a pixel is 2 x 2 pixels, so the facing columns of two are one pixel nearer than the pixels
        assert contour_accuracy(truth, square(size, 20, 10 + radius + 1, 1)) > 0
        assert contour_accuracy(truth, square(size, 20, 10 + radius + 2, 1)) == 0


# --------------------------------------------------------------------------------------------------------- hand cases
def test_two_empty_masks_agree() -> None:
    empty = np.zeros((8, 9), bool)
    assert region_similarity(empty, empty) == 1
    assert contour_accuracy(empty, empty) == 1


def test_a_mask_where_there_should_be_none_scores_nothing_and_the_other_way_round() -> None:
    empty, some = np.zeros((8, 9), bool), square((8, 9), 2, 2, 3)
    for truth, mask in ((empty, some), (some, empty)):
        assert region_similarity(truth, mask) == 0
        assert contour_accuracy(truth, mask) == 0


def test_a_full_frame_has_no_boundary() -> None:
    full, part = np.ones((8, 9), bool), square((8, 9), 2, 2, 3)
    assert not boundary(full).any()
    assert region_similarity(full, full) == contour_accuracy(full, full) == 1
    assert contour_accuracy(full, part) == 0
    assert region_similarity(full, part) == 9 / 72
    assert contour_accuracy(full, np.zeros((8, 9), bool)) == 1


def test_a_boundary_lies_half_a_pixel_to_the_upper_left() -> None:
    expected = binary(["000000", "011100", "010100", "011100", "000000"])
    assert np.array_equal(boundary(square((5, 6), 2, 2, 2)), expected)
    corner = binary(["0000", "0001", "0010"])
    assert np.array_equal(boundary(square((3, 4), 2, 3, 1)), corner | binary(["0000", "0010", "0000"]))


def test_a_shift_of_one_pixel_costs_area_and_no_contour() -> None:
    truth, mask = square((100, 100), 30, 30, 20), square((100, 100), 30, 31, 20)
    assert region_similarity(truth, mask) == pytest.approx(19 / 21)
    assert contour_accuracy(truth, mask) == 1


def test_a_shift_beyond_the_tolerance_costs_contour_too() -> None:
    """In a frame of 60 x 80 the tolerance is one pixel: of 16 edge pixels those on rows that both masks share meet."""
    truth, mask = square((60, 80), 10, 10, 4), square((60, 80), 10, 12, 4)
    edge, other = boundary(truth), boundary(mask)
    near = [
        sum(any(a[y + dy, x + dx] for dy, dx in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))) for y, x in np.argwhere(b))
        for a, b in ((edge, other), (other, edge))
    ]
    precision, recall = near[0] / 16, near[1] / 16
    assert edge.sum() == other.sum() == 16
    assert 0 < precision < 1
    assert contour_accuracy(truth, mask) == pytest.approx(2 * precision * recall / (precision + recall))


def test_j_does_not_care_which_is_the_truth_and_f_neither() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = rng.random((2, 30, 40)) < 0.3
        assert region_similarity(a, b) == region_similarity(b, a)
        assert contour_accuracy(a, b) == pytest.approx(contour_accuracy(b, a))
        assert 0 <= contour_accuracy(a, b) <= 1


# --------------------------------------------------------------------------------------------------- frames and folders
def frames(count: int, ids: tuple[int, ...] = (1, 2)) -> list[np.ndarray]:
    """Label maps with a square for each id, drifting to the right."""
    maps = []
    for t in range(count):
        labels = np.zeros((40, 50), np.int32)
        for place, i in enumerate(ids):
            labels[square((40, 50), 2 + 12 * place, 3 + t, 8)] = i
        maps.append(labels)
    return maps


def test_the_first_and_the_last_frame_are_not_scored() -> None:
    truth, masks = frames(5), frames(5)
    masks[0], masks[4] = np.zeros_like(masks[0]), np.zeros_like(masks[0])
    assert score_frames(truth, masks) == {1: Score(1, 1), 2: Score(1, 1)}
    masks[3] = np.zeros_like(masks[0])
    assert score_frames(truth, masks) == {1: Score(2 / 3, 2 / 3), 2: Score(2 / 3, 2 / 3)}


def test_the_objects_are_those_of_the_first_true_frame() -> None:
    truth = [*frames(1, (1, 5)), *frames(3, (1, 5, 7))]
    assert score_frames(truth, truth).keys() == {1, 5}


def test_an_object_that_is_lost_scores_nothing_but_where_it_is_absent() -> None:
    truth = [*frames(3), *frames(2, (1,))]
    masks = frames(5, (1,))
    masks[3] = truth[3]
    scores = score_frames(truth, masks)
    assert scores[2] == Score(1 / 3, 1 / 3)


def test_results_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        score_frames(frames(5), frames(4))


def test_the_mean_is_over_objects() -> None:
    mean = mean_score({1: Score(1.0, 0.5), 7: Score(0.5, 0.0)})
    assert mean == Score(0.75, 0.25)
    assert mean.j_and_f == 0.5
    with pytest.raises(ValueError, match="no objects in the first true frame"):
        mean_score({})


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for t, labels in enumerate(frames(4)):
        write(tmp_path / "truth" / f"{t:05d}.png", labels)
        write(tmp_path / "masks" / f"{t:05d}.png", labels)
    return tmp_path / "truth", tmp_path / "masks"


def test_folders_are_paired_by_name(folders: tuple[Path, Path]) -> None:
    truth, masks = folders
    (masks / "00009.png").write_bytes((masks / "00000.png").read_bytes())
    (truth / "notes.txt").write_text("not a mask")
    assert score_folders(truth, masks) == {1: Score(1, 1), 2: Score(1, 1)}
    write(masks / "00001.png", frames(4, (1, 3))[1])
    assert score_folders(truth, masks)[2] == Score(0.5, 0.5)


def test_a_missing_mask_is_named(folders: tuple[Path, Path]) -> None:
    truth, masks = folders
    (masks / "00002.png").unlink()
    with pytest.raises(ValueError, match=r"masks.00002\.png"):
        score_folders(truth, masks)


def test_a_mask_of_another_size_is_named(folders: tuple[Path, Path]) -> None:
    truth, masks = folders
    write(masks / "00002.png", np.zeros((50, 40)))
    with pytest.raises(ValueError, match=r"masks.00002\.png: got size \(50, 40\), expected \(40, 50\)"):
        score_folders(truth, masks)


@pytest.mark.parametrize("count", [0, 2])
def test_too_few_frames_are_refused(tmp_path: Path, count: int) -> None:
    for t, labels in enumerate(frames(count)):
        write(tmp_path / f"{t:05d}.png", labels)
    with pytest.raises(ValueError, match=rf"got {count} masks, expected at least 3"):
        score_folders(tmp_path, tmp_path)
