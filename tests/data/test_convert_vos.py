"""Promises of the converters of OVIS and BURST: labels, order of painting, names, images linked, runs that go on."""

import json
import os
import re

import numpy as np
import pytest
from PIL import Image
from published import burst_content, jpeg, ovis_content

from cutie_geo.data.convert.burst import convert_burst
from cutie_geo.data.convert.ovis import convert_ovis
from cutie_geo.data.convert.vos import VosOptions
from cutie_geo.data.masks import read_labels


def setup_ovis(root, content=None):
    (root / "annotations_train.json").write_text(json.dumps(content or ovis_content()))
    for i in (1, 2, 3):
        jpeg(root / "frames" / "train" / "abc" / f"img_{i:07d}.jpg", (4, 6), i)


def setup_burst(root, content=None):
    (root / "train").mkdir(exist_ok=True)
    (root / "train" / "all_classes.json").write_text(json.dumps(content or burst_content()))
    for i in (1, 2, 3):
        jpeg(root / "frames" / "train" / "AVA" / "film one" / f"f{i}.jpg", (4, 6), i)


def ovis(root, **changes):
    return convert_ovis(VosOptions(root, root / "frames", root / "out", "train", **changes))


def burst(root, **changes):
    return convert_burst(VosOptions(root, root / "frames", root / "out", "train", **changes))


def labels(root, video, stem):
    return read_labels(root / "out" / "Annotations" / video / f"{stem}.png").labels


def columns(*values):
    """A 4 x 6 label map from its columns' values."""
    return np.repeat(np.array([values]), 4, axis=0)


def tree(root):
    """All files with their content."""
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def test_objects_of_ovis_are_numbered_by_their_place_and_later_ones_are_on_top(tmp_path):
    setup_ovis(tmp_path)
    report = ovis(tmp_path)
    assert (report["sequences"], report["frames"], report["dropped_sequences"]) == (1, 3, [])
    assert np.array_equal(labels(tmp_path, "abc", "img_0000001"), columns(0, 1, 1, 0, 0, 0))
    assert np.array_equal(labels(tmp_path, "abc", "img_0000002"), columns(1, 2, 0, 0, 0, 0))
    assert np.array_equal(labels(tmp_path, "abc", "img_0000003"), columns(0, 0, 0, 0, 0, 2))


def test_labels_of_burst_are_track_ids_and_later_keys_are_on_top(tmp_path):
    setup_burst(tmp_path)
    report = burst(tmp_path)
    video = "AVA_-_film one"
    assert (report["sequences"], report["frames"]) == (1, 2)
    assert np.array_equal(labels(tmp_path, video, "f1"), columns(3, 1, 1, 0, 0, 0))
    assert np.array_equal(labels(tmp_path, video, "f3"), columns(0, 1, 0, 0, 0, 0))
    assert sorted(file.name for file in (tmp_path / "out/JPEGImages" / video).iterdir()) == ["f1.jpg", "f3.jpg"]


def test_frames_of_burst_without_annotations_come_on_request(tmp_path):
    setup_burst(tmp_path)
    burst(tmp_path, all_frames=True)
    video = "AVA_-_film one"
    assert len(list((tmp_path / "out/JPEGImages" / video).iterdir())) == 3
    assert len(list((tmp_path / "out/Annotations" / video).iterdir())) == 2


def test_tracks_beyond_255_make_all_masks_of_their_video_rgb(tmp_path):
    content = burst_content()
    content["sequences"][0]["segmentations"][1] = {"70000": {"rle": "44`0"}}
    setup_burst(tmp_path, content)
    burst(tmp_path)
    masks = sorted((tmp_path / "out/Annotations/AVA_-_film one").iterdir())
    found = [read_labels(mask, long_ids=True) for mask in masks]
    assert [file.long_ids for file in found] == [True, True]
    assert [int(file.labels.max()) for file in found] == [3, 70000]


@pytest.mark.parametrize("images", ["symlink", "hardlink", "copy"])
def test_images_are_linked_or_copied(tmp_path, images):
    setup_ovis(tmp_path)
    ovis(tmp_path, images=images)
    source = tmp_path / "frames/train/abc/img_0000002.jpg"
    target = tmp_path / "out/JPEGImages/abc/img_0000002.jpg"
    assert target.read_bytes() == source.read_bytes()
    assert target.is_symlink() == (images == "symlink")
    assert os.path.samefile(source, target) == (images != "copy")
    ovis(tmp_path, images="copy")
    assert not target.is_symlink()
    assert source.stat().st_nlink == 1
    source.unlink()
    with Image.open(target) as image:
        assert image.size == (6, 4)


def test_a_video_without_masks_is_dropped_and_told(tmp_path):
    content = ovis_content()
    content["annotations"] = [content["annotations"][0] | {"segmentations": [None] * 3}]
    setup_ovis(tmp_path, content)
    report = ovis(tmp_path)
    assert report["dropped_sequences"] == [{"sequence": "abc", "frames": 3, "reason": "no masks"}]
    assert not (tmp_path / "out" / "JPEGImages").exists()


def test_a_run_that_was_interrupted_ends_with_the_same_files(tmp_path):
    setup_ovis(tmp_path)
    report = ovis(tmp_path)
    whole = tree(tmp_path / "out")
    last = tmp_path / "frames/train/abc/img_0000003.jpg"
    data = last.read_bytes()
    (tmp_path / "out").rename(tmp_path / "first")
    last.write_bytes(data[:20])
    with pytest.raises(ValueError, match=r"videos\[0\]: .*img_0000003.jpg cannot be read"):
        ovis(tmp_path)
    assert not any(name.endswith((".part", "report.json")) for name in tree(tmp_path / "out"))
    last.write_bytes(data)
    assert ovis(tmp_path) == report
    assert tree(tmp_path / "out") == whole
    assert ovis(tmp_path) == report | {"written": 0}


def test_other_annotations_leave_nothing_of_the_old(tmp_path):
    setup_ovis(tmp_path)
    ovis(tmp_path)
    content = ovis_content()
    content["videos"][0] |= {"file_names": ["abc/img_0000001.jpg"], "length": 1}
    for annotation in content["annotations"]:
        annotation["segmentations"] = annotation["segmentations"][:1]
    setup_ovis(tmp_path, content)
    ovis(tmp_path)
    assert [file.name for file in (tmp_path / "out/JPEGImages/abc").iterdir()] == ["img_0000001.jpg"]
    assert [file.name for file in (tmp_path / "out/Annotations/abc").iterdir()] == ["img_0000001.png"]


def change(content, path, value):
    *parents, last = path
    for key in parents:
        content = content[key]
    content[last] = value


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        (["videos", 0, "width"], 10**9, "videos[0].width: got int 1000000000"),
        (["videos", 0, "width"], 8, "segmentations[0].size: got list [4, 6], expected [4, 8]"),
        (["videos", 0, "height"], True, "videos[0].height: got bool True"),
        (["videos", 0, "length"], 5, "videos[0].length: got int 5, expected 3"),
        (
            ["videos", 0, "file_names", 1],
            "../img_2.jpg",
            "file_names[1]: got str '../img_2.jpg', expected a relative path",
        ),
        (["videos", 0, "file_names", 1], "/img_2.jpg", "file_names[1]"),
        (["videos", 0, "file_names", 1], "other/img_2.jpg", "file_names: got list"),
        (["videos", 0, "file_names", 1], "abc/img_2.txt", "expected an image"),
        (["videos", 0, "file_names", 1], "abc/img_0000001.png", "file_names: second 'img_0000001'"),
        (["videos", 0, "file_names", 1], "abc/img_0000009.jpg", "img_0000009.jpg cannot be read as an image"),
        (["videos", 0, "file_names"], [], "file_names: got list []"),
        (["videos", 0, "id"], 8, "annotations[0].video_id: got int 7, expected the id of a video"),
        (["annotations", 1, "id"], 1, "annotations[1].id: second '1'"),
        (["annotations", 1, "segmentations"], [], "annotations[1]: got 0 segmentations for 3 frames"),
        (["annotations", 1, "segmentations", 1, "size"], [6, 4], "segmentations[1].size: got list [6, 4]"),
        (["annotations", 1, "segmentations", 1, "counts"], "44", "segmentations[1].counts: runs have 8 pixels"),
        (["annotations"], None, "no masks; only the training split has them"),
    ],
)
def test_what_is_wrong_in_ovis_is_named(tmp_path, path, value, what):
    content = ovis_content()
    change(content, path, value)
    setup_ovis(tmp_path, content)
    with pytest.raises(ValueError, match=re.escape(what)) as error:
        ovis(tmp_path)
    assert "annotations_train.json" in str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        (["dataset"], "..", "sequences[0].dataset: got str '..'"),
        (["seq_name"], "a/b", "sequences[0].seq_name: got str 'a/b'"),
        (["seq_name"], "lost", "sequences[0]: no frames; looked for"),
        (["segmentations"], [{}], "got 1 segmentations for 2 annotated images"),
        (["segmentations", 0], {"0": {"rle": "44`0"}}, "got track '0'"),
        (["segmentations", 0], {"-1": {"rle": "44`0"}}, "got track '-1'"),
        (["segmentations", 0], {"1": {}}, "segmentations[0]['1']: no field 'rle'"),
        (["segmentations", 0], [], "segmentations[0]: got list [], expected an object"),
        (["annotated_image_paths", 1], "f1.jpg", "second 'f1'"),
    ],
)
def test_what_is_wrong_in_burst_is_named(tmp_path, path, value, what):
    content = burst_content()
    change(content["sequences"][0], path, value)
    setup_burst(tmp_path, content)
    with pytest.raises(ValueError, match=re.escape(what)) as error:
        burst(tmp_path)
    assert "all_classes.json" in str(error.value)


def test_names_too_long_together_are_refused(tmp_path):
    content = burst_content()
    content["sequences"][0] |= {"dataset": "d" * 150, "seq_name": "s" * 150}
    setup_burst(tmp_path, content)
    (tmp_path / "frames" / ("d" * 150) / ("s" * 150)).mkdir(parents=True)
    with pytest.raises(ValueError, match="too long"):
        burst(tmp_path)


def test_sequences_of_one_name_are_refused(tmp_path):
    content = burst_content()
    content["sequences"] *= 2
    setup_burst(tmp_path, content)
    with pytest.raises(ValueError, match=r"sequences\[1\]: second 'AVA_-_film one'"):
        burst(tmp_path)


def test_a_split_or_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="no annotations, expected a JSON file or a folder with"):
        ovis(tmp_path)
    with pytest.raises(ValueError, match="split: got 'val'"):
        convert_ovis(VosOptions(tmp_path, tmp_path, tmp_path, "val"))
    with pytest.raises(ValueError, match="split: got 'valid'"):
        convert_burst(VosOptions(tmp_path, tmp_path, tmp_path, "valid"))
