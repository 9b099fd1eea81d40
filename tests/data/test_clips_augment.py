"""How frames are varied."""

import random

import numpy as np
import pytest
import torch
from clip_files import STILL, blob

from cutie_geo.config import ImageAugmentConfig, VideoAugmentConfig
from cutie_geo.data.clips.augment import StillAugment, VideoAugment, torch_draws_from
from cutie_geo.data.clips.warp import MEAN_COLOUR

MASK = blob((80, 120), {1: (20, 40, 60, 90)})
IMAGE = np.stack([MASK * 255, np.broadcast_to(np.linspace(0, 255, 120).astype(np.uint8), (80, 120)), MASK * 0], -1)


def plain(**changes: object) -> VideoAugmentConfig:
    return VideoAugmentConfig(**({"jitter": STILL, "grey_probability": 0.0, "frame_jitter": STILL} | changes))  # type: ignore[arg-type]


def disagreement(images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of pixels where the red, which was painted from the mask, and the mask differ."""
    inside = (images[:, 1:].sum(1) - sum(MEAN_COLOUR[1:])).abs() > 2  # not fill
    return (((images[:, 0] > 127) != (labels > 0)) & inside).float().mean().item()


def test_image_and_mask_of_a_video_stay_aligned():
    augment, rng = VideoAugment(plain(), 64), random.Random(0)
    for _ in range(20):
        view, shows = augment.view(MASK, rng)
        images, labels = augment.apply([IMAGE, IMAGE], [MASK, MASK], view, rng)
        assert shows
        assert labels[0].any()
        assert disagreement(images, labels) < 0.02
        assert torch.equal(images[0], images[1])


def test_image_and_mask_of_a_still_stay_aligned_and_its_frames_differ():
    config = ImageAugmentConfig(clip_jitter=STILL, jitter=STILL, grey_probability=0.0, warp_probability=0.5)
    augment, rng = StillAugment(config, 64), random.Random(0)
    for _ in range(10):
        images, labels = augment.apply(IMAGE, MASK, 3, rng)
        assert images.shape == (3, 3, 64, 64)
        assert disagreement(images, labels) < 0.03
        assert not torch.equal(images[0], images[1])


def test_flips_and_greys_are_as_frequent_as_asked_for():
    augment, rng = VideoAugment(plain(degrees=0.0, shear=0.0, grey_probability=0.2), 64), random.Random(0)
    flips = greys = 0
    for _ in range(300):
        view, _ = augment.view(MASK, rng)
        images, _ = augment.apply([IMAGE], [MASK], view, rng)
        flips += bool(view[0, 0] < 0)
        greys += bool((images[0, 0] == images[0, 1]).all())
    assert 120 < flips < 180
    assert 35 < greys < 90


def test_crops_cover_the_share_asked_for():
    augment, rng = VideoAugment(plain(degrees=0.0, shear=0.0), 64), random.Random(0)
    views = [augment.view(MASK, rng)[0] for _ in range(200)]
    shares = [abs(np.linalg.det(view)) * 64 * 64 / MASK.size for view in views]
    ratios = [abs(view[0, 0] / view[1, 1]) for view in views]
    assert 0.33 < min(shares) < 0.45
    assert 0.75 < max(shares) <= 1.01
    assert 0.7 < min(ratios) < 0.85
    assert 1.2 < max(ratios) < 1.4


def test_a_view_without_object_is_told():
    view, shows = VideoAugment(plain(), 64).view(np.zeros_like(MASK), random.Random(0))
    assert not shows
    assert view.shape == (3, 3)


def test_few_views_miss_even_a_small_object_at_the_edge():
    corner = blob((80, 120), {1: (0, 0, 12, 12)})
    augment, rng = VideoAugment(plain(degrees=0.0, shear=0.0), 64), random.Random(0)
    assert sum(augment.view(corner, rng)[1] for _ in range(40)) > 20  # one try alone finds it less often


def test_without_variation_the_middle_is_cut_out():
    augment = VideoAugment(plain(kind="none", jitter=(0.5, 0.5, 0.5, 0.1)), 40)
    state = random.Random(0)
    view, shows = augment.view(MASK, state)
    images, labels = augment.apply([IMAGE], [MASK], view, state)
    assert shows
    assert np.array_equal(labels[0].numpy(), MASK[1:80:2, 21:100:2])
    assert images[0, 1, 0].float().diff().gt(0).all()
    assert state.getstate() == random.Random(0).getstate()


@pytest.mark.parametrize("varies", [False, True])
def test_the_last_jitter_is_that_of_the_clip_unless_it_is_to_vary(varies: bool):
    augment = VideoAugment(plain(frame_jitter=(0.5, 0.0, 0.0, 0.0), frame_jitter_varies=varies), 64)
    rng = random.Random(0)
    images, _ = augment.apply([IMAGE] * 3, [MASK] * 3, augment.view(MASK, rng)[0], rng)
    assert torch.equal(images[0], images[1]) != varies


def test_torch_goes_on_as_if_nothing_had_been_drawn():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    with torch_draws_from(random.Random(1)):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), wanted)
    with torch_draws_from(random.Random(1)):
        assert torch.equal(torch.rand(3), first)
