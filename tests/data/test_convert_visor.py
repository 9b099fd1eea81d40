"""Promises of the VISOR converter: the official tool's masks to the pixel, what is dropped told, runs that go on."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published import jpeg, square, visor_content, visor_frame, write_visor

from cutie_geo.data.convert.frames import find_frames, find_videos
from cutie_geo.data.convert.polygons import fill_polygons, parse_polygons, shrink_labels
from cutie_geo.data.convert.records import Node
from cutie_geo.data.convert.visor import (
    VisorOptions,
    convert_visor,
    number_objects,
    paint_frame,
    read_annotations,
    visor_palette,
)

SMALL = (36, 64)
A, B = [square(10, 10, 300)], [square(200, 200, 300)]


def convert(root, split="val", **changes):
    given = {"annotations": root / "annotations", "size": SMALL} | changes
    return convert_visor(VisorOptions(root / "frames", root / "out", split, **given))


def tree(root):
    """All files with their content."""
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def labels_in(file):
    with Image.open(file) as image:
        return np.array(image)


def painted(*polygons, size=(12, 12)):
    canvas = np.zeros(size, np.uint8)
    fill_polygons(canvas, parse_polygons(Node(list(polygons), "x")), 1)
    return canvas


# --------------------------------------------------------------------------------------------------- official numbers
@pytest.mark.parametrize("split", ["train", "val"])
def test_the_official_converters_tree_comes_out_to_the_pixel(test_data, tmp_path, split):
    visor = test_data / "metric_fixtures" / "visor"
    options = VisorOptions(visor / "images", tmp_path, split, visor / "annotations", official_quirks=True)
    convert_visor(options)
    wanted, got = visor / "expected" / "VISOR_2022", tmp_path / "VISOR_2022"
    names = (wanted / "ImageSets" / "2022" / f"{split}.txt").read_text().splitlines()
    masks = {file.relative_to(wanted) for name in names for file in (wanted / "Annotations/480p" / name).iterdir()}
    assert masks == {file.relative_to(got) for file in (got / "Annotations").rglob("*.png")}
    assert len(masks) == {"train": 6, "val": 11}[split]
    for mask in masks:
        with Image.open(wanted / mask) as theirs, Image.open(got / mask) as ours:
            assert theirs.mode == ours.mode == "P"
            assert theirs.getpalette() == ours.getpalette()
            assert np.array_equal(np.array(theirs), np.array(ours)), mask
    for file in (wanted / "ImageSets/2022").glob(f"{split}*.txt"):
        assert (got / file.relative_to(wanted)).read_bytes() == file.read_bytes()
    mapping = f"{split}_data_mapping.json"
    assert json.loads((got / mapping).read_text()) == json.loads((wanted / mapping).read_text())
    kept = json.loads((visor / "expected_visor.json").read_text())["kept_images"]
    images = {name: sorted(file.name for file in (got / "JPEGImages/480p" / name).iterdir()) for name in names}
    assert images == {name: kept[name] for name in names}


def test_without_the_quirks_only_the_subsequence_of_senseless_ids_is_lacking(test_data, tmp_path):
    visor = test_data / "metric_fixtures" / "visor"
    report = convert_visor(VisorOptions(visor / "images", tmp_path, "val", visor / "annotations"))
    lists = tmp_path / "VISOR_2022" / "ImageSets" / "2022"
    assert lists.joinpath("val.txt").read_text().split() == [
        "P01_107_seq_00001",
        "P01_107_seq_00005",
        "P09_02_seq_00001",
    ]
    assert not (tmp_path / "VISOR_2022" / "Annotations" / "480p" / "P01_107_seq_00002").exists()
    assert {"sequence": "P01_107_seq_00002", "frames": 3, "reason": "no object in the first frame"} in report[
        "dropped_sequences"
    ]


def test_the_palette_is_that_of_the_release(test_data):
    expected = json.loads((test_data / "metric_fixtures/visor/expected_visor.json").read_text())
    first = expected["palette_first_24"]
    assert list(visor_palette()) == [value for i in range(256) for value in (first[i] if i < 24 else (i, i, i))]


# ----------------------------------------------------------------------------------------------------------- polygons
def test_the_edge_of_a_polygon_is_painted():
    canvas = painted(square(2, 2, 4))
    assert canvas.sum() == 25
    assert canvas[2:7, 2:7].all()


def test_coordinates_are_cut_toward_zero():
    assert np.array_equal(painted([[2.9, 2.9], [6.99, 2.2], [6.1, 6.9], [2.0, 6.5]]), painted(square(2, 2, 4)))
    assert np.array_equal(painted([[-0.9, -0.9]]), painted([[0, 0]]))


def test_a_polygon_inside_another_is_a_hole_with_its_edge_painted():
    canvas = painted(square(0, 0, 10), square(3, 3, 4))
    assert not canvas[4:7, 4:7].any()
    assert canvas.sum() == 121 - 9


def test_points_lines_and_nothing_are_drawn_as_the_official_tool_does():
    assert np.argwhere(painted([[3, 5]])).tolist() == [[5, 3]]
    assert painted([[1, 1], [6, 1]]).sum() == 6
    assert np.argwhere(painted([])).tolist() == [[0, 0]]
    assert not painted().any()


def test_labels_shrink_by_whole_number_arithmetic():
    canvas = np.random.default_rng(0).integers(0, 9, (1080, 1920)).astype(np.uint8)
    small = shrink_labels(canvas, (480, 854))
    assert small.shape == (480, 854)
    assert all(small[y, x] == canvas[y * 1080 // 480, x * 1920 // 854] for y in range(0, 480, 7) for x in range(854))


# ------------------------------------------------------------------------------------------------------------ objects
def read(tmp_path, frames):
    write_visor(tmp_path, frames)
    return read_annotations(tmp_path / "annotations" / "val" / "P01_01.json")


def test_frames_go_in_the_order_of_their_paths_not_of_the_file(tmp_path):
    frames = read(tmp_path, [visor_frame(number, {"a": A}) for number in (30, 4, 200)])
    assert [int(frame.stem[-10:]) for frame in frames] == [4, 30, 200]


def test_objects_of_val_are_those_of_the_first_frame_by_code_point(tmp_path):
    first = {"left hand": A, "bowl": B, "Bowl": A, "none": [], "empty polygon": [[]]}
    frames = read(tmp_path, [visor_frame(1, first), visor_frame(2, {"new": A})])
    ids = {"Bowl": 1, "bowl": 2, "empty polygon": 3, "left hand": 4}
    assert number_objects(frames, "val") == {"P01_01_seq_00001": ids}
    with_new = {"Bowl": 1, "bowl": 2, "empty polygon": 3, "left hand": 4, "new": 5}
    assert number_objects(frames, "train") == {"P01_01_seq_00001": with_new}


def test_a_subsequence_that_is_entered_again_takes_its_objects_from_there(tmp_path):
    frames = read(
        tmp_path,
        [visor_frame(1, {"a": A}), visor_frame(2, {"x": A}, 2), visor_frame(3, {"b": A}), visor_frame(4, {"c": A})],
    )
    assert number_objects(frames, "val")["P01_01_seq_00001"] == {"b": 1}
    assert number_objects(frames, "train")["P01_01_seq_00001"] == {"a": 1, "b": 2, "c": 3}


def test_later_entities_are_painted_over_earlier_ones(tmp_path):
    (frame,) = read(tmp_path, [visor_frame(1, {"b": A, "a": B, "other": A})])
    canvas = paint_frame(frame, {"a": 1, "b": 2})
    assert (canvas[250, 250], canvas[100, 100], canvas[450, 450]) == (1, 2, 1)
    by_place = paint_frame(frame, None)
    assert (by_place[250, 250], by_place[450, 450]) == (3, 2)


def test_entities_of_one_name_are_one_object(tmp_path):
    frame = visor_frame(1, {"a": A, "b": B})
    frame["annotations"][1]["name"] = "a"
    (frame,) = read(tmp_path, [frame])
    canvas = paint_frame(frame, {"a": 1})
    assert canvas[250, 250] == canvas[450, 450] == canvas[100, 100] == 1  # not even-odd between the two


# --------------------------------------------------------------------------------------------------- what is dropped
def test_what_is_dropped_is_told_with_its_reason(tmp_path):
    write_visor(
        tmp_path,
        [
            visor_frame(1, {"a": A}),
            visor_frame(2, {"b": A}),
            visor_frame(3, {"a": A}),
            visor_frame(4, {"a": A}, 2),
            visor_frame(5, {"a": []}, 3),
            visor_frame(6, {"a": A}, 3),
            visor_frame(7, {"a": A}, 3),
        ],
    )
    report = convert(tmp_path)
    assert (report["sequences"], report["frames"], report["written"]) == (1, 2, 2)
    reasons = {each["sequence"]: each["reason"] for each in report["dropped_sequences"]}
    assert reasons == {
        "P01_01_seq_00002": "fewer than 2 frames with masks",
        "P01_01_seq_00003": "no object in the first frame",
    }
    (frame,) = report["dropped_frames"]
    assert frame["frame"] == "P01_01_seq_00001/P01_01_frame_0000000002"
    out = tmp_path / "out" / "VISOR_2022"
    written = json.loads((out / "val_report.json").read_text())
    assert written.items() <= report.items()
    assert sorted(file.name for file in (out / "JPEGImages" / "36p").iterdir()) == ["P01_01_seq_00001"]
    assert len(list(out.rglob("*.jpg"))) == len(list(out.rglob("*.png"))) == 2


def test_a_mask_that_vanishes_when_shrunk_still_makes_a_frame(tmp_path):
    write_visor(tmp_path, [visor_frame(1, {"a": A}), visor_frame(2, {"a": [[[1201, 601]]]})])
    convert(tmp_path)
    mask = tmp_path / "out/VISOR_2022/Annotations/36p/P01_01_seq_00001/P01_01_frame_0000000002.png"
    assert not labels_in(mask).any()


def test_train_needs_three_frames_and_keeps_objects_that_come_later(tmp_path):
    frames = [visor_frame(i, {"ab"[i > 1]: A}) for i in (1, 2, 3)] + [visor_frame(i, {"a": A}, 2) for i in (4, 5)]
    write_visor(tmp_path, frames, split="train")
    report = convert(tmp_path, "train")
    assert [each["sequence"] for each in report["dropped_sequences"]] == ["P01_01_seq_00002"]
    masks = sorted((tmp_path / "out/VISOR_2022/Annotations/36p/P01_01_seq_00001").iterdir())
    assert [int(labels_in(mask).max()) for mask in masks] == [1, 2, 2]


# --------------------------------------------------------------------------------------------------------- test split
def test_images_of_test_need_no_annotations(tmp_path):
    for number in (1, 2):
        jpeg(tmp_path / "frames" / "test" / "P07" / "P07_01" / f"P07_01_frame_{number:010d}.jpg")
    report = convert(tmp_path, "test", annotations=None)
    out = tmp_path / "out" / "VISOR_2022"
    assert (report["sequences"], report["frames"]) == (1, 2)
    assert (out / "ImageSets/2022/test.txt").read_text() == "P07_01"
    assert len(list(out.rglob("*.jpg"))) == 2
    assert not list(out.rglob("*.png"))


def test_reference_masks_of_test_are_written_and_no_frame_is_dropped(tmp_path):
    write_visor(tmp_path, [visor_frame(1, {"a": A}), visor_frame(2, {}), visor_frame(3, {}, 2)], split="test")
    report = convert(tmp_path, "test")
    out = tmp_path / "out" / "VISOR_2022"
    assert (report["sequences"], report["frames"]) == (2, 3)
    assert [file.stem[-1] for file in out.rglob("*.png")] == ["1"]
    assert len(list(out.rglob("*.jpg"))) == 3


def test_videos_of_train_are_not_taken_for_those_of_a_test_split_that_lacks(tmp_path):
    jpeg(tmp_path / "frames" / "train" / "P07_01" / "P07_01_frame_0000000001.jpg")
    with pytest.raises(ValueError, match="no frames for test"):
        convert(tmp_path, "test", annotations=None)


# ------------------------------------------------------------------------------------------------------------- frames
@pytest.mark.parametrize(
    "place",
    ["P01_01", "P01/P01_01", "val/P01_01", "val/P01/P01_01", "rgb_frames/val/P01/P01_01", "rgb_frames/val/P01_01"],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_frames_are_found_flat_and_by_participant_and_zipped(tmp_path, place, zipped):
    write_visor(tmp_path, [visor_frame(i, {"a": A}) for i in (1, 2)])
    plain = convert(tmp_path)
    before = tree(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    folder = tmp_path / "moved" / place
    folder.parent.mkdir(parents=True)
    if zipped:
        with zipfile.ZipFile(folder.with_name("P01_01.zip"), "w") as archive:
            for file in (tmp_path / "frames" / "P01_01").iterdir():
                archive.write(file, f"inside/{file.name}")
    else:
        shutil.copytree(tmp_path / "frames" / "P01_01", folder)
    shutil.rmtree(tmp_path / "frames")
    (tmp_path / "moved").rename(tmp_path / "frames")
    assert convert(tmp_path) == plain
    assert tree(tmp_path / "out") == before


def test_an_image_that_lacks_is_named_with_the_record_that_wants_it(tmp_path):
    write_visor(tmp_path, [visor_frame(i, {"a": A}) for i in (1, 2)])
    (tmp_path / "frames/P01_01/P01_01_frame_0000000002.jpg").unlink()
    with pytest.raises(ValueError, match=r"P01_01.json.video_annotations\[1\]: no image P01_01_frame_0000000002.jpg"):
        convert(tmp_path)


@pytest.mark.parametrize("harm", ["cut", "text", "empty", "square", "bomb"])
def test_a_damaged_image_is_named(tmp_path, harm):
    write_visor(tmp_path, [visor_frame(i, {"a": A}) for i in (1, 2)])
    image = tmp_path / "frames/P01_01/P01_01_frame_0000000002.jpg"
    data = image.read_bytes()
    at = data.index(b"\xff\xc0") + 5
    harmed = {
        "cut": data[: len(data) // 2],
        "text": b"hello" + b"\xff\xd9",
        "empty": b"",
        "bomb": data[:at] + (36000).to_bytes(2) + (64000).to_bytes(2) + data[at + 4 :],
    }
    if harm == "square":
        jpeg(image, (64, 64))
    else:
        image.write_bytes(harmed[harm])
    with pytest.raises(ValueError, match=r"P01_01_frame_0000000002\.jpg: (cannot be read as an image|frame is)"):
        convert(tmp_path)


# ------------------------------------------------------------------------------------------------------------ going on
def two_videos(root):
    for video in ("P01_01", "P01_02"):
        write_visor(root, [visor_frame(i, {"a": A, "b": B}, 1 + i // 3, video) for i in range(6)], video)


def test_a_run_that_was_interrupted_ends_with_the_same_files(tmp_path):
    two_videos(tmp_path)
    report = convert(tmp_path)
    whole = tree(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    last = tmp_path / "frames/P01_02/P01_02_frame_0000000005.jpg"
    data = last.read_bytes()
    last.write_bytes(b"")
    with pytest.raises(ValueError, match="P01_02_frame_0000000005"):
        convert(tmp_path)
    half = tree(tmp_path / "out")
    assert any("P01_02" in name for name in half)  # it stopped inside this video
    assert not any("ImageSets" in name or name.endswith(".part") for name in half)
    last.write_bytes(data)
    masks = tmp_path / "out/VISOR_2022/Annotations/36p/P01_02_seq_00001"
    (masks / ".P01_02_frame_0000000000.png.part").write_bytes(b"half")
    again = convert(tmp_path)
    assert again == report | {"written": 6}
    assert tree(tmp_path / "out") == whole
    assert convert(tmp_path) == report | {"written": 0}


def test_a_video_with_a_lost_file_is_converted_anew(tmp_path):
    two_videos(tmp_path)
    convert(tmp_path)
    whole = tree(tmp_path / "out")
    next((tmp_path / "out/VISOR_2022/Annotations").rglob("P01_02*.png")).unlink()
    assert convert(tmp_path)["written"] == 6
    assert tree(tmp_path / "out") == whole


def test_other_settings_or_annotations_leave_nothing_of_the_old(tmp_path):
    frames = [visor_frame(1, {"a": []}, 1), *(visor_frame(i, {"a": A}, 1 + i // 5) for i in range(2, 8))]
    write_visor(tmp_path, frames)
    convert(tmp_path)
    plain = tree(tmp_path / "out")
    assert convert(tmp_path, official_quirks=True)["written"] == 6
    assert len(list(tmp_path.rglob("*.png"))) == 6
    convert(tmp_path)
    assert tree(tmp_path / "out") == plain
    file = tmp_path / "annotations/val/P01_01.json"
    file.write_text(json.dumps(visor_content([visor_frame(i, {"a": A}, 9) for i in (2, 3)])))
    convert(tmp_path)
    folders = {path.parent.name for path in (tmp_path / "out").rglob("*.png")}
    assert folders == {"P01_01_seq_00009"}


def test_workers_change_nothing(tmp_path):
    two_videos(tmp_path)
    convert(tmp_path, workers=1)
    one = tree(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    convert(tmp_path, workers=3)
    assert tree(tmp_path / "out") == one


def test_a_video_of_two_splits_is_refused(tmp_path):
    two_videos(tmp_path)
    convert(tmp_path)
    with pytest.raises(ValueError, match="P01_01 is there already as val"):
        convert(tmp_path, "train", annotations=tmp_path / "annotations" / "val")


def test_unseen_kitchens_have_a_list_of_their_own(tmp_path):
    for video in ("P01_01", "P09_02"):
        write_visor(tmp_path, [visor_frame(i, {"a": A}, 1, video) for i in (1, 2)], video)
    convert(tmp_path)
    lists = tmp_path / "out/VISOR_2022/ImageSets/2022"
    assert lists.joinpath("val.txt").read_text() == "P01_01_seq_00001\nP09_02_seq_00001"
    assert lists.joinpath("val_unseen.txt").read_text() == "P09_02_seq_00001"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"split": "valid"}, "split: got 'valid'"),
        ({"size": (0, 854)}, "size: got"),
        ({"workers": 0}, "workers: got 0"),
        ({"annotations": None}, "annotations: got none"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes, what):
    given = {"split": "val", "annotations": Path("a")} | changes
    with pytest.raises(ValueError, match=what):
        VisorOptions(Path("f"), Path("o"), **given)


@pytest.mark.parametrize("packed", [False, True])
def test_frames_without_annotations_run_in_natural_order(tmp_path, packed):
    names = ["10.jpg", "8.JPG", "9.jpeg", "notes.txt"]
    for name in names:
        (tmp_path / "P01_01").mkdir(exist_ok=True)
        (tmp_path / "P01_01" / name).write_bytes(b"x")
    place = tmp_path / "P01_01"
    if packed:
        place = tmp_path / "P01_02.ZIP"
        with zipfile.ZipFile(place, "w") as archive:
            for name in names:
                archive.writestr(name, b"x")
        assert "P01_02" in find_videos(tmp_path, "test")
    with find_frames(tmp_path, "test", place.stem) as store:
        assert store.images() == ["8.JPG", "9.jpeg", "10.jpg"]
