"""Masks as VISOR's polygons and back: not a pixel changes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from visor_polygons import fill_segments

from cutie_geo.data.submission.segments import to_segments
from cutie_geo.data.submission.visor import video_annotations


def ring(size: tuple[int, int] = (20, 30)) -> np.ndarray:
    """A rectangle with a hole, in which a single pixel lies."""
    mask = np.zeros(size, bool)
    mask[3:17, 4:26] = True
    mask[6:14, 8:22] = False
    mask[10, 15] = True
    return mask


@pytest.mark.parametrize("density", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98])
def test_noise_of_any_density_comes_back_pixel_by_pixel(density: float):
    random = np.random.default_rng(int(density * 100))
    for _ in range(60):
        height, width = (int(n) for n in random.integers(1, 40, 2))
        coarse = random.random((height, width)) < density
        for mask in (coarse, np.kron(coarse, np.ones((3, 2), bool)).astype(bool)):
            assert (fill_segments(to_segments(mask), mask.shape) == mask).all()


def test_holes_islands_and_lines_of_one_pixel_come_back():
    masks = [ring(), np.eye(9, dtype=bool), np.ones((1, 1), bool), np.ones((4, 7), bool), ~np.eye(9, dtype=bool)]
    for mask in masks:
        assert (fill_segments(to_segments(mask), mask.shape) == mask).all()
    assert len(to_segments(ring())) == 3


@pytest.mark.slow
def test_a_full_size_frame_of_noise_comes_back():
    mask = np.random.default_rng(0).random((480, 854)) < 0.4
    assert (fill_segments(to_segments(mask), mask.shape) == mask).all()


def test_an_empty_mask_has_no_polygons_and_no_polygons_are_an_empty_mask():
    assert to_segments(np.zeros((4, 5), bool)) == []
    assert not fill_segments([], (4, 5)).any()


def test_polygons_are_filled_as_visor_fills_them():
    square = [[2.9, 2.1], [6.9, 2.0], [6.0, 6.99], [2.0, 6.0]]
    assert fill_segments([square], (10, 10)).sum() == 25, "edges belong to it, fractions do not count"
    within = [[3, 3], [5, 3], [5, 5], [3, 5]]
    hole = fill_segments([square, within], (10, 10))
    assert not hole[4, 4], "a polygon inside another is a hole"
    assert hole.sum() == 24
    assert np.argwhere(fill_segments([[]], (3, 3))).tolist() == [[0, 0]]
    assert fill_segments([[[1, 2]]], (3, 3)).sum() == 1
    assert fill_segments([[[0, 1], [4, 1]]], (3, 5)).sum() == 5


def test_corners_are_pairs_of_whole_numbers_x_first():
    mask = np.zeros((5, 9), bool)
    mask[1:3, 4:8] = True
    assert sorted(to_segments(mask)[0]) == [[4, 1], [4, 2], [7, 1], [7, 2]]


# ------------------------------------------------------------------------------------------------ against the official
def test_the_official_file_is_made_of_the_official_predictions(test_data: Path):
    folder = test_data / "metric_fixtures" / "visor"
    official = json.loads((folder / "submission" / "expected_val.json").read_text())
    names = json.loads((folder / "expected" / "VISOR_2022" / "val_data_mapping.json").read_text())
    entries = []
    for video in sorted((folder / "submission" / "predictions").iterdir()):
        files = {path.stem: path for path in sorted(video.iterdir())}
        found, skipped = video_annotations(files, video.name, names)
        entries += found
        assert not skipped
    assert json.dumps(entries) == json.dumps(official["video_annotations"])


def test_the_official_polygons_fill_to_the_official_predictions(test_data: Path):
    folder = test_data / "metric_fixtures" / "visor"
    official = json.loads((folder / "submission" / "expected_val.json").read_text())
    names = json.loads((folder / "expected" / "VISOR_2022" / "val_data_mapping.json").read_text())
    assert len(official["video_annotations"]) == 9
    for entry in official["video_annotations"]:
        image = entry["image"]
        ids = {name: int(label) for label, name in names[image["subsequence"]].items()}
        labels = np.zeros((480, 854), np.uint8)
        for item in entry["annotations"]:
            labels[fill_segments(item["segments"], labels.shape)] = ids[item["name"]]
        path = folder / "submission" / "predictions" / image["subsequence"] / image["name"]
        with Image.open(path) as true:
            assert (labels == np.array(true)).all()
