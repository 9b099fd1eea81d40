"""Semantic maps from every layout become classes from 0 on, and what isn't one is named."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cutie_geo.data.masks import read_labels, write_labels
from cutie_geo.vss.mislabel import Mistakes, mislabel
from cutie_geo.vss.semantic_maps import (
    CLASSES,
    VOID,
    Kind,
    class_names,
    find_predictions,
    find_vipseg,
    find_vspw,
    read_panoptic,
    read_semantic,
    to_classes,
    write_semantic,
)


def put(path: Path, values: list[list[int]]) -> Path:
    """A grey PNG, of 16 bits where the values need it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8 if np.max(values) < 256 else np.uint16)).save(path)
    return path


def put_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def put_panoptic(path: Path, clip: str = "v", segments: tuple[tuple[int, int], ...] = ((1, 0), (70_000, 60))) -> None:
    """A panoptic JSON of one clip with the frames 00000 and 00001."""
    own = [{"id": i, "category_id": c, "iscrowd": 0} for i, c in segments]
    frames = [{"file_name": f"{t:05d}.png", "image_id": f"{t:05d}", "segments_info": own} for t in range(2)]
    content = {"videos": [{"video_id": clip}], "annotations": [{"video_id": clip, "annotations": frames}]}
    put_text(path, json.dumps(content))


# ------------------------------------------------------------------------------------------------------------ one map
@pytest.mark.parametrize(
    ("kind", "raw", "classes"),
    [
        ("classes", [0, 123, 255], [0, 123, VOID]),
        ("vspw", [0, 1, 124, 255], [VOID, 0, 123, VOID]),
        ("vipseg", [0, 1, 124, 6100, 12499], [VOID, 0, 123, 60, 123]),
    ],
)
def test_classes_count_from_0_whatever_the_data_set_does(
    tmp_path: Path, kind: Kind, raw: list[int], classes: list[int]
) -> None:
    found = read_semantic(put(tmp_path / "m.png", [raw]), kind)
    assert found.dtype == np.uint8
    assert found.tolist() == [classes]


def test_every_value_means_what_the_data_set_documents(tmp_path: Path) -> None:
    values = np.arange(12_500)
    vipseg = np.where(values > CLASSES, values // 100, values) - 1
    assert np.array_equal(read_semantic(put(tmp_path / "b.png", [values]), "vipseg")[0], np.where(values, vipseg, VOID))
    values = np.array([*range(CLASSES + 1), 255])
    vspw = np.where((values == 0) | (values == 255), VOID, values - 1)
    assert np.array_equal(read_semantic(put(tmp_path / "a.png", [values]), "vspw")[0], vspw)


@pytest.mark.parametrize(
    ("kind", "value", "wanted"),
    [
        ("classes", 124, "expected classes 0 to 123, and 255 where there is none"),
        ("vspw", 125, "expected classes 1 to 124, and 0 or 255 where there is none"),
        ("vipseg", 12_500, "expected classes 1 to 124, and 0 where there is none"),
        ("panoptic", 9, "expected ids that the panoptic JSON lists for this frame, or 0"),
    ],
)
def test_a_value_that_is_no_class_is_named_with_its_file(tmp_path: Path, kind: Kind, value: int, wanted: str) -> None:
    with pytest.raises(ValueError, match=rf"m\.png: got values {value}, {wanted}"):
        read_semantic(put(tmp_path / "m.png", [[0, value]]), kind, {1: 0})


def test_panoptic_ids_become_the_classes_of_their_segments(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 70_000]], np.int32)
    write_labels(tmp_path / "m.png", ids, long_ids=True)
    assert read_semantic(tmp_path / "m.png", "panoptic", {1: 0, 70_000: 60}).tolist() == [[VOID, 0, 60]]
    assert to_classes(ids, "panoptic", {1: 0, 70_000: 60, 2**24: 3, -1: 5}).tolist() == [[VOID, 0, 60]]


def test_a_map_survives_its_file_as_8_bits_a_pixel(tmp_path: Path) -> None:
    classes = np.array([[0, 1, 123, VOID]], np.uint8)
    write_semantic(tmp_path / "m.png", classes)
    assert np.array_equal(read_semantic(tmp_path / "m.png"), classes)
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == "P"
    for wrong in (124, 254, -1, 300):
        with pytest.raises(ValueError, match=rf"w\.png: got values \[{wrong}\], expected classes 0 to 123"):
            write_semantic(tmp_path / "w.png", np.array([[0, wrong]]))
    assert not (tmp_path / "w.png").exists()


# ---------------------------------------------------------------------------------------------------------- data sets
def put_vspw(home: Path, clips: tuple[str, ...] = ("a", "b")) -> None:
    for clip in clips:
        put(home / "data" / clip / "mask" / "00000001.png", [[1, 2]])
    put_text(home / "val.txt", "\n".join(clips))


@pytest.mark.parametrize("place", ["", "VSPW_480p", "VSPW/VSPW_480p"])
def test_vspw_is_found_with_its_list_and_needs_no_images(tmp_path: Path, place: str) -> None:
    put_vspw(tmp_path / place)
    clips, names = find_vspw(tmp_path)
    assert [clip.name for clip in clips] == ["a", "b"]  # the list has no newline at its end
    assert clips[0].maps == {"00000001": tmp_path / place / "data/a/mask/00000001.png"}
    assert (clips[0].kind, clips[0].images) == ("vspw", None)
    assert names == tuple(map(str, range(CLASSES)))


def test_another_list_chooses_the_clips_and_images_are_found_where_they_are(tmp_path: Path) -> None:
    put_vspw(tmp_path)
    put_text(tmp_path / "mine.txt", "b\n")
    put_text(tmp_path / "data/b/origin/00000001.jpg", "")
    (clip,) = find_vspw(tmp_path, tmp_path / "mine.txt").clips
    assert clip.name == "b"
    assert clip.images == {"00000001": tmp_path / "data/b/origin/00000001.jpg"}


def test_what_a_root_of_vspw_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none: no such folder, expected a dataset's root"):
        find_vspw(tmp_path / "none")
    with pytest.raises(ValueError, match=r"expected one of the folders data, VSPW_480p/data"):
        find_vspw(tmp_path)
    put_vspw(tmp_path)
    (tmp_path / "val.txt").unlink()
    with pytest.raises(ValueError, match=r"val\.txt: cannot be read"):
        find_vspw(tmp_path)
    put_text(tmp_path / "val.txt", "a\nlost")
    with pytest.raises(ValueError, match=r"no folder for 1 of 2 listed videos: lost"):
        find_vspw(tmp_path)
    put_text(tmp_path / "val.txt", "a\nbare")
    (tmp_path / "data/bare").mkdir()
    with pytest.raises(ValueError, match=r"bare/mask: no masks, expected PNG files"):
        find_vspw(tmp_path)


def test_vipseg_is_read_from_its_own_masks_with_the_list_above_the_reduced_copy(tmp_path: Path) -> None:
    put(tmp_path / "VIPSeg/VIPSeg_720P/panomasks/v/00000.png", [[0, 6100, 14]])
    put_text(tmp_path / "VIPSeg/val.txt", "v\n")
    (clip,) = find_vipseg(tmp_path).clips
    assert (clip.name, clip.kind, clip.segments) == ("v", "vipseg", None)
    assert read_semantic(clip.maps["00000"], clip.kind).tolist() == [[VOID, 60, 13]]


def test_vipseg_is_listed_by_its_panoptic_json_too(tmp_path: Path) -> None:
    put(tmp_path / "panomasks/v/00000.png", [[6100]])
    put(tmp_path / "panomasks/train/00000.png", [[6100]])
    put_panoptic(tmp_path / "panoptic_gt_VIPSeg_val.json")
    assert [(clip.name, clip.kind) for clip in find_vipseg(tmp_path).clips] == [("v", "vipseg")]


def test_vipseg_in_colours_takes_its_classes_from_the_json(tmp_path: Path) -> None:
    path = tmp_path / "panomasksRGB/v/00001.png"
    path.parent.mkdir(parents=True)
    write_labels(path, np.array([[0, 1, 70_000]]), long_ids=True)
    put_panoptic(tmp_path / "panoptic_gt_VIPSeg_val.json")
    (clip,) = find_vipseg(tmp_path).clips
    assert clip.segments is not None
    assert read_semantic(path, clip.kind, clip.segments["00001"]).tolist() == [[VOID, 0, 60]]
    put_text(tmp_path / "val.txt", "v\nw")
    (tmp_path / "panomasksRGB/w").mkdir()
    write_labels(tmp_path / "panomasksRGB/w/00000.png", np.array([[1]]), long_ids=True)
    with pytest.raises(ValueError, match="the panoptic JSON has no segments of w"):
        find_vipseg(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["[]", '{"annotations": 3}', '{"annotations": [{"video_id": "v", "annotations": [{"file_name": "1.png"}]}]}'],
)
def test_a_panoptic_json_of_another_form_is_named(tmp_path: Path, content: str) -> None:
    put_text(tmp_path / "p.json", content)
    with pytest.raises(ValueError, match=r"p\.json: not a panoptic JSON of videos; expected"):
        read_panoptic(tmp_path / "p.json")


def test_a_panoptic_json_with_a_class_that_is_none_is_named(tmp_path: Path) -> None:
    put_panoptic(tmp_path / "p.json", segments=((1, 124),))
    with pytest.raises(ValueError, match=r"p\.json: got category_id \[124\], expected 0 to 123"):
        read_panoptic(tmp_path / "p.json")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("label_num_dic_final.json", '{"others": "0", "wall": "1", "train": "124"}'),
        ("panoVIPSeg_categories.json", '[{"id": 0, "name": "wall"}, {"id": 123, "name": "train"}]'),
    ],
)
def test_classes_are_called_as_the_data_sets_files_do(tmp_path: Path, file: str, content: str) -> None:
    put_text(tmp_path / file, content)
    (tmp_path / "below").mkdir()
    for home in (tmp_path, tmp_path / "below"):
        names = class_names(home)
        assert (names[0], names[1], names[123], len(names)) == ("wall", "1", "train", CLASSES)
    put_text(tmp_path / file, "[3]")
    with pytest.raises(ValueError, match=rf"{file}: expected"):
        class_names(tmp_path)


# -------------------------------------------------------------------------------------------------------- predictions
def test_predictions_are_folders_of_maps_or_panoptic_results(tmp_path: Path) -> None:
    put(tmp_path / "plain/v/00000.png", [[5]])
    clip = find_predictions(tmp_path / "plain").clip("v")
    assert (clip.kind, list(clip.maps)) == ("classes", ["00000"])
    assert find_predictions(tmp_path / "plain").clip("lost").maps == {}
    put_panoptic(tmp_path / "panoptic/pred.json")
    (tmp_path / "panoptic/pan_pred/v").mkdir(parents=True)
    write_labels(tmp_path / "panoptic/pan_pred/v/00001.png", np.array([[70_000, 1]]), long_ids=True)
    clip = find_predictions(tmp_path / "panoptic").clip("v")
    assert clip.segments is not None
    classes = read_semantic(clip.maps["00001"], clip.kind, clip.segments["00001"])
    assert classes.tolist() == [[60, 0]]
    with pytest.raises(ValueError, match=r"none: no such folder"):
        find_predictions(tmp_path / "none")


# ----------------------------------------------------------------------------------------------------------- mistakes
def test_mistakes_are_the_same_every_time_and_as_large_as_asked_for() -> None:
    labels = np.zeros((6, 60, 80), np.uint8)
    labels[:, 15:45, 20:60] = 1
    first, again = mislabel(labels, 4, 0), mislabel(labels, 4, 0)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, mislabel(labels, 4, 1))
    assert np.array_equal(mislabel(labels, 4, 0, Mistakes(jitter=0.0, flicker=0.0)), labels)
    jittered = mislabel(labels, 4, 0, Mistakes(flicker=0.0))
    wrong = jittered != labels
    assert set(np.unique(jittered)) == {0, 1}
    assert 0 < wrong.mean() < 0.2
    assert not wrong[:, 27:33, 35:45].any()  # edges only
    flickering = mislabel(labels, 4, 0, Mistakes(jitter=0.0, flicker=1.0, patch=0.5))
    assert (flickering < 4).all()
    shares = [(flickering[t] != labels[t])[labels[t] == 1].mean() for t in range(6)]
    assert max(shares) <= 0.51
    assert len(set(shares)) > 1
    assert np.array_equal(mislabel(labels, 1, 0, Mistakes(jitter=0.0, flicker=1.0)), labels)


def test_mistakes_of_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Mistakes\.flicker: got 1\.5, expected 0 to 1"):
        Mistakes(flicker=1.5)


def test_labels_of_a_written_map_are_its_classes(tmp_path: Path) -> None:
    write_semantic(tmp_path / "m.png", np.array([[7, VOID]], np.uint8))
    assert read_labels(tmp_path / "m.png").labels.tolist() == [[7, VOID]]
