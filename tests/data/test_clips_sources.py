"""Clips of videos, still images and rendered scenes."""

import logging
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_files import blob, small, video_at, write_image, write_mask, write_video
from PIL import Image

from cutie_geo.config import SourceConfig, VideoAugmentConfig
from cutie_geo.data.clips import build_sources
from cutie_geo.data.clips.frame_readers import DecodedCache, FileFootage, number_ids, read_still_mask
from cutie_geo.data.clips.sources import (
    HELD_OUT_SEEDS,
    ImageSource,
    RenderedSource,
    UnusableFile,
    VideoSource,
    stills_of_pairs,
    stills_of_videos,
)
from cutie_geo.data.index import ImagePair
from cutie_geo.data.masks import write_labels
from cutie_geo.data.render import SceneConfig

SIZE = (80, 96)
SHOWN = blob(SIZE, {1: (20, 20, 60, 70)})
NOTHING = blob(SIZE, {})
PLAIN = VideoAugmentConfig(kind="none")


def stems(name: str) -> list[int]:
    return [int(stem) for stem in name.split(": ")[1].split()]


# -------------------------------------------------------------------------------------------------------------- videos
def test_an_item_is_a_masked_frame_and_is_part_of_its_clip(tmp_path: Path):
    videos = [write_video(tmp_path, name, [SHOWN] * 8) for name in "ab"]
    videos[1] = replace(videos[1], masks={stem: path for stem, path in videos[1].masks.items() if int(stem) % 2})
    source = VideoSource(videos, small(video=PLAIN), name="set")
    assert len(source) == 8 + 4
    for item in (0, 5, 7):
        clip = source.draw(item, 0.0, random.Random(item))
        assert clip.name.startswith("set/a: ")
        assert item in stems(clip.name)
        assert [round(blue / 10) for blue in clip.images[:, 2, 5, 5].tolist()] == stems(clip.name)
    for item in range(8, 12):
        times = stems(source.draw(item, 0.0, random.Random(item)).name)
        assert all(t % 2 for t in times)  # frames without a mask don't count
        assert max(abs(b - a) for a, b in pairwise(times)) <= 4


@pytest.mark.slow
def test_skips_are_divided_by_the_frame_interval(tmp_path: Path):
    video = write_video(tmp_path, "a", [SHOWN] * 30)
    config = small(video=PLAIN, max_skip=((0.0, 4), (0.5, 8)))

    def widest(progress: float, interval: int) -> int:
        source = VideoSource([video], config, frame_interval=interval)
        names = [source.draw(15, progress, random.Random(i)).name for i in range(60)]
        return max(abs(b - a) for name in names for a, b in pairwise(stems(name)))

    assert widest(0.0, 1) == 4
    assert widest(0.0, 2) == 2
    assert widest(0.0, 9) == 1
    assert widest(0.5, 2) == 4


def test_the_first_frame_shows_an_object(tmp_path: Path):
    video = write_video(tmp_path, "a", [NOTHING] * 5 + [SHOWN] + [NOTHING] * 5)
    source = VideoSource([video], small())
    for item in range(11):
        clip = source.draw(item, 0.0, random.Random(item))
        assert clip.labels[0].any()
        assert not clip.labels[1:].any()
        assert stems(clip.name)[0] == 5


@pytest.mark.slow
def test_a_video_without_objects_gives_way_to_another_and_alone_gives_an_empty_clip(tmp_path: Path):
    empty = write_video(tmp_path, "empty", [NOTHING] * 3)
    full = write_video(tmp_path, "full", [SHOWN] * 3)
    clip = VideoSource([empty, full], small()).draw(0, 0.0, random.Random(0))
    assert clip.name.startswith("videos/full")
    assert not VideoSource([empty], small()).draw(0, 0.0, random.Random(0)).labels.any()


def test_what_a_draw_gives_does_not_hang_on_earlier_draws(tmp_path: Path):
    videos = [write_video(tmp_path, "a", [NOTHING, SHOWN, SHOWN, NOTHING, SHOWN])]
    used, fresh = VideoSource(videos, small()), VideoSource(videos, small())
    for item in range(5):
        used.draw(item, 0.0, random.Random(item))
    a, b = used.draw(0, 0.0, random.Random(9)), fresh.draw(0, 0.0, random.Random(9))
    assert a.name == b.name
    assert torch.equal(a.images, b.images)


def test_short_videos_are_left_out_or_walked_forth_and_back(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    videos = [write_video(tmp_path, "short", [SHOWN] * 2), write_video(tmp_path, "long", [SHOWN] * 3)]
    with caplog.at_level(logging.WARNING):
        assert [video.name for video in VideoSource(videos, small()).videos] == ["long"]
    assert "1 of 2 videos left out, with fewer than 3 masks" in caplog.text
    source = VideoSource(videos, small(short_videos="bounce", video=PLAIN))
    assert sorted(stems(source.draw(0, 0.0, random.Random(0)).name))[::2] in ([0, 0], [0, 1])
    with pytest.raises(ValueError, match="videos: no usable video among 1: 0 with problems, 1 with fewer than 3"):
        VideoSource(videos[:1], small())


def test_videos_with_problems_are_left_out_with_a_warning_each(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    good = write_video(tmp_path, "good", [SHOWN] * 3)
    bad = [replace(good, name=name, problem=f"{name} is broken") for name in ("x", "y")]
    with caplog.at_level(logging.WARNING):
        assert VideoSource([good, *bad], small()).videos == [good]
    assert [record.getMessage() for record in caplog.records] == [f"{n}: left out: {n} is broken" for n in ("x", "y")]


def test_all_labels_of_a_single_object_are_one_and_255_is_background_else(tmp_path: Path):
    mask = blob(SIZE, {1: (10, 20, 40, 40), 255: (40, 20, 70, 70)})
    video = write_video(tmp_path, "a", [mask] * 3)
    config = small(video=PLAIN)
    several = VideoSource([video], config).draw(0, 0.0, random.Random(0)).labels
    single = VideoSource([replace(video, single_object=True)], config).draw(0, 0.0, random.Random(0)).labels
    assert set(several.unique().tolist()) == {0, 1}
    assert set(single.unique().tolist()) == {0, 1}
    assert (single > 0).sum() > 2 * (several > 0).sum()


def test_long_ids_are_told_apart(tmp_path: Path):
    video = write_video(tmp_path, "a", [SHOWN] * 3)
    labels = np.zeros(SIZE, np.int32)
    labels[10:30, 20:40], labels[40:70, 20:70] = 70_000, 70_256
    for path in video.masks.values():
        write_labels(path, labels, long_ids=True)
    clip = VideoSource([replace(video, long_ids=True)], small(video=PLAIN)).draw(0, 0.0, random.Random(0))
    assert set(clip.labels.unique().tolist()) == {0, 1, 2}


def test_ids_keep_their_numbers_from_frame_to_frame():
    numbers = [0]
    assert number_ids(np.array([[0, 9, 4]]), numbers).tolist() == [[0, 2, 1]]
    assert number_ids(np.array([[3, 9, 4]]), numbers).tolist() == [[3, 2, 1]]
    many = np.arange(300).reshape(1, -1)
    assert number_ids(many, [0]).tolist() == many.tolist()


def test_unusable_files_are_named(tmp_path: Path):
    video = write_video(tmp_path, "a", [SHOWN] * 3)
    video.frames["00001"].write_bytes(b"nothing")
    with pytest.raises(UnusableFile, match=r"00001\.png: cannot be read"):
        VideoSource([video], small()).draw(0, 0.0, random.Random(0))
    write_image(video.frames["00001"], SHOWN[:, :90])
    with pytest.raises(UnusableFile, match=r"00001\.png: \(H, W\) = \(80, 90\), expected \(80, 96\)"):
        VideoSource([video], small()).draw(0, 0.0, random.Random(0))
    write_image(video.frames["00001"], SHOWN)
    write_mask(video.masks["00002"], SHOWN[:70])
    with pytest.raises(UnusableFile, match=r"0000\d\.png: \(H, W\) = "):
        VideoSource([video], small()).draw(0, 0.0, random.Random(0))


def test_a_mask_is_read_once_to_see_whether_it_is_empty(tmp_path: Path):
    shows: dict[Path, bool] = {}
    video = write_video(tmp_path, "a", [NOTHING, SHOWN])
    assert [FileFootage(video, "", shows).shows_object(t) for t in (0, 1)] == [False, True]
    for path in video.masks.values():
        path.unlink()
    again = FileFootage(replace(video), "", shows)
    assert [again.shows_object(t) for t in (0, 1)] == [False, True]


# -------------------------------------------------------------------------------------------------------- still images
def still(root: Path, name: str, mask: np.ndarray) -> ImagePair:
    write_image(root / f"{name}.png", mask)
    write_mask(root / "masks" / f"{name}.png", mask)
    return ImagePair(name, root / f"{name}.png", root / "masks" / f"{name}.png")


def test_a_still_image_becomes_a_clip_of_one_object(tmp_path: Path):
    source = ImageSource(stills_of_pairs([replace(still(tmp_path, "a", SHOWN), times=3)]), small(max_objects=1))
    assert len(source) == 3
    clip = source.draw(2, 0.0, random.Random(1))
    assert clip.images.shape == (3, 3, 64, 64)
    assert clip.name == "a"
    assert set(clip.labels.unique().tolist()) <= {0, 1}


def test_where_several_objects_fit_others_are_pasted(tmp_path: Path):
    source = ImageSource(stills_of_pairs([still(tmp_path, name, SHOWN) for name in "ab"]), small(max_objects=3))
    names = [source.draw(0, 0.0, random.Random(i)).name for i in range(30)]
    counts = [name.count("+") for name in names]
    assert set(counts) == {0, 1, 2}


def test_instances_keep_their_ids_and_greys_are_cut_at_half(tmp_path: Path):
    write_mask(tmp_path / "ids.png", np.array([[0, 1, 2, 255]], np.uint8))
    write_mask(tmp_path / "one.png", np.array([[0, 255]], np.uint8))
    Image.fromarray(np.array([[0, 3, 127, 128, 255]], np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(np.array([[0, 1, 5]], np.uint8)).save(tmp_path / "few.png")
    Image.fromarray(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)).save(tmp_path / "rgb.png")
    found = {name: read_still_mask(tmp_path / f"{name}.png").tolist() for name in ("ids", "one", "grey", "few", "rgb")}
    assert found == {
        "ids": [[0, 1, 2, 0]],
        "one": [[0, 1]],
        "grey": [[0, 0, 0, 1, 1]],
        "few": [[0, 1, 2]],
        "rgb": [[0, 1]],
    }


def test_a_still_image_whose_mask_does_not_fit_is_named(tmp_path: Path):
    pair = still(tmp_path, "a", SHOWN)
    write_mask(pair.mask, SHOWN[:40])
    with pytest.raises(UnusableFile, match=r"a\.png: mask is \(H, W\) = \(40, 96\), expected \(80, 96\)"):
        ImageSource(stills_of_pairs([pair]), small()).draw(0, 0.0, random.Random(0))


@pytest.mark.parametrize(("single", "objects"), [(False, 2), (True, 1)])
def test_frames_of_a_video_are_stills_that_read_masks_as_the_video_does(tmp_path: Path, single: bool, objects: int):
    two = blob((80, 96), {3: (20, 20, 60, 45), 9: (20, 55, 60, 80)})
    video = replace(write_video(tmp_path, "a", [two, two, np.zeros_like(two)]), single_object=single)
    damaged = replace(write_video(tmp_path, "b", [two]), problem="no such folder")
    stills = stills_of_videos([video, damaged], "some")
    assert [still.name for still in stills] == [f"some/a/{stem}" for stem in video.masks]
    image, labels = stills[1].read()
    assert image.shape == (80, 96, 3)
    assert labels.max() == objects
    clip = ImageSource(stills, small(max_objects=1)).draw(0, 0.0, random.Random(0))
    assert clip.images.shape == (3, 3, 64, 64)
    assert not torch.equal(clip.images[0], clip.images[1]), "each frame is moved by itself"
    next(iter(video.frames.values())).write_bytes(b"no image")
    with pytest.raises(UnusableFile, match="00000"):
        stills[0].read()


# ------------------------------------------------------------------------------------------------------------ rendered
@pytest.mark.slow
def test_rendered_clips_never_use_held_out_seeds_and_differ():
    source = RenderedSource(5, small())
    assert len(source) == 5
    clips = [source.draw(0, 0.0, random.Random(i)) for i in range(3)]
    seeds = [int(clip.name.split("/")[1].split()[0]) for clip in clips]
    assert min(seeds) >= HELD_OUT_SEEDS == 10_000
    assert len(set(seeds)) == 3
    assert all(clip.labels[0].any() for clip in clips)
    assert clips[0].images.shape == (3, 3, 64, 64)
    again = source.draw(0, 0.0, random.Random(0))
    assert torch.equal(again.images, clips[0].images)
    assert torch.equal(again.labels, clips[0].labels)


# ----------------------------------------------------------------------------------------------------------- real data
def test_a_real_video_is_read_back_in_order(test_data: Path):
    root = test_data / "data/clips/penguins"
    video = video_at(root, next((root / "JPEGImages").iterdir()).name)
    clip = VideoSource([video], small(length=8), frame_interval=5).draw(3, 0.0, random.Random(0))
    assert clip.images.shape == (8, 3, 64, 64)
    assert clip.labels[0].any()


# ------------------------------------------------------------------------------------------------------------ distances
def test_rendered_clips_know_distances_and_these_move_with_the_picture() -> None:
    source = RenderedSource(10, small(crop=64, length=3), SceneConfig(cycle=12, max_objects=3, max_occluders=0))
    nearer = 0
    for item in range(6):
        clip = source.draw(item, 0.0, random.Random(item))
        assert clip.distance is not None
        assert clip.distance.shape == clip.labels.shape
        known = ~clip.distance.isnan()
        assert float(clip.distance[known].min()) > 0
        assert float(known.float().mean()) > 0.5
        assert not bool((clip.labels[~known] > 0).any()), "objects are inside the scene, where distances are known"
        objects, rest = clip.labels > 0, (clip.labels == 0) & known
        nearer += float(clip.distance[objects].mean()) < float(clip.distance[rest].mean())
    assert nearer >= 5, "objects are nearer than the backdrop, wherever the view has moved them"


def test_clips_of_files_know_no_distances(tmp_path: Path) -> None:
    video = write_video(tmp_path, "a", [SHOWN] * 6)
    assert VideoSource([video], small()).draw(0, 0.0, random.Random(0)).distance is None


# ---------------------------------------------------------------------------------------------------- without objects
def write_mose(root: Path, videos: dict[str, int]) -> None:
    """MOSE's layout: of each video three frames, the object's id in all of their masks."""
    for name, object_id in videos.items():
        mask = np.zeros((40, 50), np.uint8)
        mask[10:30, 10:30] = object_id
        write_video(root / "train", name, [mask] * 3, ".jpg")


def test_videos_without_an_object_are_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_mose(tmp_path, {"bear": 1, "cat": 0, "dog": 255})
    for still in (False, True):
        caplog.clear()
        (source,) = build_sources([SourceConfig("mose-train", still=still)], small(), tmp_path)
        assert all("bear" in line for line in source.contents())
        told = "mose-train: 2 videos left out, cat, dog: no mask shows an object, in 1 of them nothing but 0 and 255"
        assert told in caplog.text


@pytest.mark.parametrize("still", [False, True])
def test_a_set_whose_masks_are_all_0_and_255_is_an_error_that_says_so(tmp_path: Path, still: bool):
    write_mose(tmp_path, {"bear": 255, "cat": 255})
    with pytest.raises(
        ValueError, match=r"mose-train: none of its 2 videos.*255 marks pixels to ignore.*write it as 1"
    ):
        build_sources([SourceConfig("mose-train", still=still)], small(), tmp_path)


def test_a_set_without_any_object_is_an_error(tmp_path: Path):
    write_mose(tmp_path, {"bear": 0})
    with pytest.raises(ValueError, match="mose-train: none of its 1 videos can be trained on: no mask shows an object"):
        build_sources([SourceConfig("mose-train")], small(), tmp_path)


def test_an_object_that_comes_late_is_found_and_unreadable_masks_are_left_to_their_draw(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    write_mose(tmp_path, {"bear": 0, "cat": 0})
    late = np.full((40, 50), 3, np.uint8)
    write_mask(tmp_path / "train/Annotations/bear/00002.png", late)
    (tmp_path / "train/Annotations/cat/00001.png").write_bytes(b"no mask")
    (source,) = build_sources([SourceConfig("mose-train")], small(), tmp_path)
    assert len(source.contents()) == 2
    assert not caplog.text


def test_decoded_files_are_kept_until_they_change_or_the_room_ends(tmp_path: Path):
    cache, reads = DecodedCache(250), list[Path]()
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_bytes(b"1")

    def fetch(path: Path) -> np.ndarray:
        def read() -> tuple[np.ndarray, ...]:
            reads.append(path)
            return (np.zeros(100, np.uint8),)

        return cache.fetch("form", (path,), read)[0]

    assert fetch(paths[0]) is fetch(paths[0])
    assert not fetch(paths[0]).flags.writeable
    fetch(paths[1]), fetch(paths[0]), fetch(paths[2])  # the second was used least recently
    assert cache.size == 200
    fetch(paths[0])
    assert reads == paths
    fetch(paths[1])
    paths[1].write_bytes(b"22")
    fetch(paths[1])
    assert reads == [*paths, paths[1], paths[1]]
