"""Pictures bent and moved."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from cutie_geo.data.clips.warp import (
    MEAN_COLOUR,
    bend_image,
    bend_labels,
    crop_box,
    draw_bend,
    mirror,
    shift_image,
    shift_labels,
    spline,
    turn_and_shear,
)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9) + np.cos(y / 7), np.sin((x + y) / 11) * 2, np.cos((x - 2 * y) / 13) * 2]
    return np.stack([(127 + 60 * wave).astype(np.uint8) for wave in waves], axis=-1)


@pytest.mark.parametrize(("degrees", "scale", "shear"), [(20, 1, 0), (0, 0.9, 0), (0, 1, 15), (-17, 1.4, 8)])
def test_the_affine_map_is_torchvisions(degrees: float, scale: float, shear: float):
    image = smooth(60, 90)
    ours = shift_image(image, turn_and_shear((60, 90), degrees, scale, shear), (60, 90))
    theirs = F.affine(
        torch.from_numpy(image).permute(2, 0, 1),
        degrees,
        [0, 0],
        scale,
        [shear, 0],
        interpolation=F.InterpolationMode.BILINEAR,
        fill=[float(c) for c in MEAN_COLOUR],
    )
    difference = np.abs(ours.astype(int) - theirs.permute(1, 2, 0).numpy())
    assert np.mean(difference > 3) < 0.04  # at the frame's edge, fill is blended in differently
    assert np.median(difference) <= 1


def test_a_crop_is_torchvisions():
    image = smooth(60, 90)
    ours = shift_image(image, crop_box(10, 20, 30, 40, 64), (64, 64))
    theirs = F.resized_crop(torch.from_numpy(image).permute(2, 0, 1), 10, 20, 30, 40, [64, 64], antialias=True)
    inner = np.abs(ours.astype(int) - theirs.permute(1, 2, 0).numpy())[2:-2, 2:-2]  # ours sees beyond the box
    assert inner.max() <= 3


def test_one_warp_goes_where_flip_turn_and_crop_in_a_row_go():
    image = smooth(80, 120)
    view = mirror((80, 120)) @ turn_and_shear((80, 120), 12, 1, 9) @ crop_box(20, 30, 48, 48, 48)
    pixels = F.horizontal_flip(torch.from_numpy(image).permute(2, 0, 1))
    pixels = F.affine(pixels, 12, [0, 0], 1, [9, 0], interpolation=F.InterpolationMode.BILINEAR)
    theirs = F.resized_crop(pixels, 20, 30, 48, 48, [48, 48]).permute(1, 2, 0).numpy()
    assert np.abs(shift_image(image, view, (48, 48)).astype(int) - theirs).max() <= 4


def test_labels_keep_their_values_and_outside_is_background():
    labels = np.full((20, 30), 254, np.uint8)
    moved = shift_labels(labels, turn_and_shear((20, 30), 25, 0.7, 10), (20, 30))
    assert set(np.unique(moved)) == {0, 254}
    many = np.full((20, 30), 300, np.uint16)
    assert set(np.unique(shift_labels(many, turn_and_shear((20, 30), 25, 0.7, 10), (20, 30)))) == {0, 300}
    image = shift_image(np.zeros((20, 30, 3), np.uint8), turn_and_shear((20, 30), 0, 0.5, 0), (20, 30))
    assert tuple(image[0, 0]) == MEAN_COLOUR


def test_fine_patterns_are_averaged_where_they_shrink_much():
    board = ((np.indices((96, 96)).sum(0) % 2) * 255).astype(np.uint8)[..., None].repeat(3, -1)
    assert shift_image(board, crop_box(0, 0, 96, 96, 24), (24, 24)).std() < 3


def test_a_bend_of_strength_zero_changes_nothing():
    image, labels = smooth(40, 56), (smooth(40, 56)[..., 0] > 127).astype(np.uint8)
    x, y = draw_bend((40, 56), 12, 0.0, np.random.default_rng(0))
    assert np.array_equal(bend_image(image, x, y), image)
    assert np.array_equal(bend_labels(labels, x, y), labels)


def test_a_bend_moves_image_and_mask_alike():
    labels = np.zeros((64, 64), np.uint8)
    labels[20:44, 16:50] = 1
    x, y = draw_bend((64, 64), 12, 0.05, np.random.default_rng(1))
    red = bend_image(labels[..., None].repeat(3, -1) * 255, x, y)[..., 0]
    bent = bend_labels(labels, x, y)
    assert (bent != labels).sum() > 50
    assert np.abs((red > 127).astype(int) - bent).mean() < 0.01


def test_the_spline_passes_through_its_points_and_reproduces_planes():
    rng = np.random.default_rng(0)
    places, values = rng.random((9, 2)), rng.normal(size=(9, 2))
    x, y = places[:, :1].astype(np.float32), places[:, 1:].astype(np.float32)
    np.testing.assert_allclose(spline(places, values, x, y)[:, :, 0].T, values, atol=1e-3)
    plane = places @ np.array([[2.0, -1.0], [0.5, 3.0]]) + 1
    there = spline(places, plane, np.float32([[0.3]]), np.float32([[0.8]]))[:, 0, 0]
    np.testing.assert_allclose(there, [2 * 0.3 + 0.5 * 0.8 + 1, -0.3 + 3 * 0.8 + 1], atol=1e-4)


def test_a_bend_between_its_grid_is_the_spline_itself():
    size, rng = (90, 131), np.random.default_rng(2)
    x, y = draw_bend(size, 12, 0.03, np.random.default_rng(1))
    again = np.random.default_rng(1)
    places = np.stack([again.choice(131, 12, replace=False) / 131, again.choice(90, 12, replace=False) / 90], axis=1)
    moved = again.normal(0, 0.03, (12, 2))
    for row, column in zip(rng.integers(0, 90, 50), rng.integers(0, 131, 50)):
        at = np.float32(column / 130), np.float32(row / 89)
        dx, dy = spline(places, moved, np.full((1, 1), at[0], np.float32), np.full((1, 1), at[1], np.float32))
        assert abs(x[row, column] - (column + 131 * dx[0, 0])) < 0.3
        assert abs(y[row, column] - (row + 90 * dy[0, 0])) < 0.3


def test_only_the_shown_part_of_a_large_image_is_shrunk():
    ramp = np.linspace(0, 255, 400)[:, None, None] * [1, 0, 0] + np.linspace(0, 255, 600)[:, None] * [0, 1, 0]
    image = ramp.round().astype(np.uint8)
    shown = shift_image(image, crop_box(100, 200, 200, 200, 50), (50, 50))
    wanted = image[100:300, 200:400].reshape(50, 4, 50, 4, 3).mean((1, 3))
    assert np.abs(shown - wanted).max() <= 1
    beyond = shift_image(image, crop_box(300, 500, 200, 200, 50), (50, 50))
    assert (beyond[30:, 30:] == MEAN_COLOUR).all()
    assert (shift_image(image, crop_box(900, 900, 200, 200, 50), (50, 50)) == MEAN_COLOUR).all()
