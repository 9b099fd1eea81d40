"""A camera that moves through a clip."""

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
from clip_files import STILL, blob, small, write_image, write_mask, write_video

from cutie_geo.config import ImageAugmentConfig, VideoAugmentConfig
from cutie_geo.data.clips.camera import draw_camera
from cutie_geo.data.clips.sources import ImageSource, VideoSource, stills_of_pairs
from cutie_geo.data.index import ImagePair

SIZE = (80, 96)
SHOWN = blob(SIZE, {1: (30, 36, 50, 60)})


def test_the_first_frame_is_as_it_was_and_the_path_follows_from_the_generator():
    path = draw_camera(5, 64, 0.0, random.Random(1))
    assert np.array_equal(path[0], np.eye(3))
    assert all(np.array_equal(a, b) for a, b in zip(path, draw_camera(5, 64, 0.0, random.Random(1))))
    steps = [np.abs(b - a).max() for a, b in pairwise(path)]
    assert 0 < min(steps) < max(steps) < 20  # it doesn't jump
    assert not np.array_equal(path[4], draw_camera(5, 64, 0.0, random.Random(2))[4])


def test_a_camera_that_looks_away_comes_back_before_the_end():
    for seed in range(20):
        path = draw_camera(6, 64, 1.0, random.Random(seed))
        far = [np.linalg.norm(back[:2] @ [32, 32, 1] - 32) > 0.3 * 64 for back in path]
        assert any(far[1:-1])
        assert not far[0]


def test_objects_of_videos_and_of_images_leave_and_come_back(tmp_path: Path):
    video = write_video(tmp_path, "a", [SHOWN] * 6)
    write_image(tmp_path / "still.png", SHOWN)
    write_mask(tmp_path / "mask.png", SHOWN)
    pair = ImagePair("set/a", tmp_path / "still.png", tmp_path / "mask.png", 1)
    still = ImageAugmentConfig((1.0, 1.0), 0.0, STILL, 0.0, 0.0, (1.0, 1.0), 0.0, STILL, 0.0)
    config = small(
        length=5, camera_probability=1.0, away_probability=1.0, video=VideoAugmentConfig(kind="none"), image=still,
        max_objects=1,
    )  # fmt: skip
    for source in (VideoSource([video], config), ImageSource(stills_of_pairs([pair]), config)):
        gone = 0
        for seed in range(12):
            clip = source.draw(0, 0.0, random.Random(seed))
            shown = clip.labels.flatten(1).any(1).tolist()
            assert shown[0]
            red = (clip.images[:, 0] > 127) & (clip.images[:, 1] != 116)  # what is beside a frame isn't red enough
            assert (red == (clip.labels > 0)).float().mean() > 0.97  # mask and image move alike
            gone += not all(shown)
        assert gone >= 4


def test_without_a_camera_nothing_is_drawn_for_one(tmp_path: Path):
    video = write_video(tmp_path, "a", [SHOWN] * 6)
    still = small(video=VideoAugmentConfig(kind="none"))
    never = small(video=VideoAugmentConfig(kind="none"), camera_probability=0.0, away_probability=1.0)
    draws = [VideoSource([video], config).draw(2, 0.0, random.Random(3)) for config in (still, never)]
    assert draws[0].name == draws[1].name
    assert np.array_equal(draws[0].images.numpy(), draws[1].images.numpy())
