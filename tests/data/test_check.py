"""What the check of a data set counts, and which faults it names."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cutie_geo.data.check import Findings, check, checkable_names, subjects_of
from cutie_geo.data.masks import write_labels

SIZE = (6, 8)


def put_image(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(noise).save(path)


def put_mask(path: Path, *ids: int, size: tuple[int, int] = SIZE, dtype: type = np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.zeros(size, dtype)
    labels[0, : len(ids)] = ids
    Image.fromarray(labels).save(path)


def put_video(
    home: Path, name: str, frames: int = 3, masks: int = 3, ids: Iterable[int] = (1, 2), level: str = ""
) -> None:
    for i in range(frames):
        put_image(home / "JPEGImages" / level / name / f"{i:05d}.jpg")
    for i in range(masks):
        put_mask(home / "Annotations" / level / name / f"{i:05d}.png", *ids)


def put_text(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def found(name: str, root: Path, deep: bool = True) -> Findings:
    return check([name], root, deep)[name]


def only_problem(name: str, root: Path, deep: bool = True) -> str:
    (problem,) = found(name, root, deep).problems
    return problem


# ----------------------------------------------------------------------------------------------------------- counting
@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_training_set_is_counted_and_has_no_problems(tmp_path: Path, deep: bool):
    put_video(tmp_path / "train", "a")
    put_video(tmp_path / "train", "b", 2, 2, [7])
    findings = found("mose-train", tmp_path, deep)
    assert (findings.videos, findings.frames, findings.masks, findings.objects) == (2, 5, 5, 3)
    assert findings.problems == []
    assert findings.folders == {tmp_path / "train/JPEGImages/a", tmp_path / "train/JPEGImages/b"}


def test_objects_that_appear_later_are_counted_where_every_mask_is_read(tmp_path: Path):
    put_video(tmp_path / "train", "a")
    put_mask(tmp_path / "train/Annotations/a/00002.png", 9)
    assert found("mose-train", tmp_path, deep=False).objects == 2
    assert found("mose-train", tmp_path, deep=True).objects == 3


def test_every_name_can_be_checked_and_an_unknown_one_is_an_error(tmp_path: Path):
    findings = check(checkable_names(), tmp_path)
    assert len(findings) == 27
    assert all(len(each.problems) == 1 and "not the layout" in each.problems[0] for each in findings.values())
    with pytest.raises(ValueError, match="nope: no such dataset; expected one of davis2016-train"):
        check(["nope"], tmp_path)


def test_a_file_that_several_readings_share_is_looked_at_once(tmp_path: Path):
    put_video(tmp_path, "a")
    totals = []

    def watch(looks: Iterable, total: int) -> Iterable:
        totals.append(total)
        return looks

    check(["generic", "mose-train", "mose-valid"], tmp_path, deep=True, workers=2, watch=watch)
    assert totals == [6]


def test_several_workers_find_the_same(tmp_path: Path):
    for i in range(6):
        put_video(tmp_path, f"v{i}")
    damage(tmp_path / "JPEGImages/v3/00001.jpg")
    assert check(["generic"], tmp_path, True, workers=4) == check(["generic"], tmp_path, True, workers=1)


# ------------------------------------------------------------------------------------------------------- broken files
def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("kind", ["JPEGImages/a/00002.jpg", "Annotations/a/00002.png"])
def test_a_truncated_file_is_named_by_a_deep_check(tmp_path: Path, kind: str):
    put_video(tmp_path, "a")
    damage(tmp_path / kind)
    assert found("generic", tmp_path, deep=False).problems == []
    assert only_problem("generic", tmp_path).startswith(f"a: {tmp_path / kind}: cannot be read as")


@pytest.mark.parametrize("kind", ["JPEGImages/a/00000.jpg", "Annotations/a/00000.png"])
def test_a_first_file_that_is_no_image_is_named_by_every_check(tmp_path: Path, kind: str):
    put_video(tmp_path, "a")
    (tmp_path / kind).write_bytes(b"not a picture")
    for deep in (False, True):
        assert f"{kind}: cannot be read as" in only_problem("generic", tmp_path, deep)


def test_files_without_a_byte_are_named_without_decoding(tmp_path: Path):
    put_video(tmp_path, "a")
    (tmp_path / "JPEGImages/a/00001.jpg").write_bytes(b"")
    (tmp_path / "Annotations/a/00002.png").write_bytes(b"")
    problem = only_problem("generic", tmp_path, deep=False)
    assert problem.startswith("a: 2 files are empty: ")
    assert "00001.jpg" in problem
    assert "00002.png" in problem
    assert len(found("generic", tmp_path).problems) == 2, "a deep check says it of each file, once"


def test_rgb_masks_are_no_masks_except_where_they_are_the_format(tmp_path: Path):
    put_video(tmp_path / "train", "a")
    write_labels(tmp_path / "train/Annotations/a/00001.png", np.full(SIZE, 70_000), long_ids=True)
    assert "00001.png: mask is RGB (6, 8, 3), expected palette or grey" in only_problem("mose-train", tmp_path)
    assert found("burst-train", tmp_path).problems == []
    assert found("burst-train", tmp_path).objects == 3
    assert found("burst-val", tmp_path / "train").problems == []


# ------------------------------------------------------------------------------------------------- frames and masks
def test_frames_without_masks_are_a_problem_of_training_sets_alone(tmp_path: Path):
    put_video(tmp_path, "a", masks=1)
    for deep in (False, True):
        assert only_problem("ovis-train", tmp_path, deep) == "a: 2 of 3 frames without a mask: 00001, 00002"
    assert found("generic", tmp_path).problems == []
    assert found("burst-train", tmp_path).problems == [], "of which only some frames are annotated"


@pytest.mark.parametrize("name", ["mose-train", "mose-valid", "generic"])
def test_masks_without_a_frame_are_named_also_behind_the_first(tmp_path: Path, name: str):
    put_video(tmp_path, "a")
    put_mask(tmp_path / "Annotations/a/00007.png", 1)
    assert "Annotations/a: no frame for the masks 00007" in only_problem(name, tmp_path, deep=False)


def test_masks_of_another_size_than_their_frames_are_counted(tmp_path: Path):
    put_video(tmp_path, "a")
    for i in (1, 2):
        put_mask(tmp_path / f"Annotations/a/0000{i}.png", 1, size=(3, 4))
    wanted = "00001.png: got (H, W) = (3, 4), expected (6, 8), its frame's size (2 of 3 masks looked at)"
    assert wanted in only_problem("generic", tmp_path)


def test_the_first_mask_is_held_against_its_frame_without_decoding_all(tmp_path: Path):
    put_video(tmp_path, "a", masks=0)
    put_mask(tmp_path / "Annotations/a/00001.png", 1, size=(3, 4))
    assert "00001.png: got (H, W) = (3, 4), expected (6, 8)" in only_problem("generic", tmp_path, deep=False)


def test_frames_of_different_sizes_are_counted(tmp_path: Path):
    put_video(tmp_path, "a", masks=1)
    put_image(tmp_path / "JPEGImages/a/00002.jpg", (3, 4))
    wanted = "00002.jpg: got (H, W) = (3, 4), expected (6, 8), the first frame's size (1 of 3 frames looked at)"
    assert wanted in only_problem("generic", tmp_path)


def test_two_files_for_one_frame_are_a_problem(tmp_path: Path):
    put_video(tmp_path, "a")
    put_image(tmp_path / "JPEGImages/a/00001.png")
    for name in ("generic", "ovis-train"):
        assert "JPEGImages/a: two files for 00001" in only_problem(name, tmp_path, deep=False)


# ---------------------------------------------------------------------------------------------------------------- ids
def test_ids_out_of_range_are_named(tmp_path: Path):
    put_video(tmp_path, "a")
    put_mask(tmp_path / "Annotations/a/00002.png", 1, 300, dtype=np.uint16)
    wanted = "00002.png: ids 300, expected 1 to 254 (1 of 3 masks looked at)"
    assert wanted in only_problem("mose-train", tmp_path)
    assert wanted in only_problem("mose-valid", tmp_path)
    assert found("generic", tmp_path).problems == [], "users number as they like"


def test_255_is_void_to_train_on_and_to_track(tmp_path: Path):
    put_video(tmp_path, "a", ids=[1, 255])
    findings = found("mose-train", tmp_path)
    assert (findings.problems, findings.objects) == ([], 1)
    assert found("mose-valid", tmp_path).problems == []
    put_text(tmp_path / "ImageSets/2017/train.txt", "a")
    assert found("davis2017-train", tmp_path).problems == []
    assert found("davis2017-train", tmp_path).objects == 1


def test_255_is_the_object_of_davis_2016(tmp_path: Path):
    put_video(tmp_path, "a", ids=[255], level="480p")
    put_text(tmp_path / "ImageSets/2016/train.txt", "a")
    put_text(tmp_path / "ImageSets/2016/val.txt", "a")
    assert found("davis2016-train", tmp_path).problems == []
    assert found("davis2016-val", tmp_path).problems == []
    assert found("davis2016-train", tmp_path).objects == 1


def put_meta(split: Path, objects: dict[str, list[str]]) -> None:
    listed = {object_id: {"frames": stems} for object_id, stems in objects.items()}
    put_text(split / "meta.json", {"videos": {"a": {"objects": listed}}})


@pytest.mark.parametrize(("name", "split"), [("youtubevos-train", "train"), ("youtubevos2019-valid", "valid")])
def test_ids_that_meta_json_does_not_have_are_named(tmp_path: Path, name: str, split: str):
    put_video(tmp_path / split, "a")
    put_meta(tmp_path / split, {"1": ["00000", "00002"], "2": ["00000"]})
    findings = found(name, tmp_path)
    assert (findings.problems, findings.objects) == ([], 2)
    put_mask(tmp_path / split / "Annotations/a/00001.png", 1, 5)
    assert "00001.png: ids 5, expected those listed, 1, 2" in only_problem(name, tmp_path)


def test_what_is_ignored_or_out_of_range_is_not_unlisted_as_well(tmp_path: Path):
    put_video(tmp_path / "train", "a", ids=[1, 255])
    put_meta(tmp_path / "train", {"1": ["00000"]})
    assert found("youtubevos-train", tmp_path).problems == []
    put_mask(tmp_path / "train/Annotations/a/00001.png", 1, 300, dtype=np.uint16)
    assert "ids 300, expected 1 to 254" in only_problem("youtubevos-train", tmp_path)


def test_frames_that_meta_json_lists_and_the_folder_lacks_are_named(tmp_path: Path):
    put_video(tmp_path / "valid", "a")
    put_meta(tmp_path / "valid", {"1": ["00000", "00009"], "2": ["00000"]})
    assert "1 listed frames are missing: 00009" in only_problem("youtubevos2019-valid", tmp_path, deep=False)


def test_an_object_that_is_not_where_meta_json_starts_it_is_named(tmp_path: Path):
    put_video(tmp_path / "valid", "a", masks=1)
    put_mask(tmp_path / "valid/Annotations/a/00001.png", 2)
    put_meta(tmp_path / "valid", {"1": ["00000"], "2": ["00000"], "3": ["00001"]})
    wanted = "00001.png: no object 3, which is listed to start here"
    assert wanted in only_problem("youtubevos2019-valid", tmp_path)


def test_listed_starts_without_a_mask_are_named(tmp_path: Path):
    put_video(tmp_path / "valid", "a", masks=1)
    put_meta(tmp_path / "valid", {"1": ["00000"], "2": ["00002"]})
    assert "no mask where listed objects start: 00002" in only_problem("youtubevos2019-valid", tmp_path)


def test_objects_are_counted_as_listed_where_a_list_is_there(tmp_path: Path):
    put_video(tmp_path / "valid", "a", masks=1, ids=[1])
    put_mask(tmp_path / "valid/Annotations/a/00002.png", 2)
    put_meta(tmp_path / "valid", {"1": ["00000"], "2": ["00002"]})
    assert found("youtubevos2019-valid", tmp_path, deep=False).objects == 2


def test_ids_of_visor_are_those_of_its_mapping(tmp_path: Path):
    put_video(tmp_path / "VISOR_2022", "P01_01_seq_00001", level="480p")
    put_text(tmp_path / "VISOR_2022/ImageSets/2022/val.txt", "P01_01_seq_00001")
    mapping = tmp_path / "VISOR_2022/val_data_mapping.json"
    put_text(mapping, {"P01_01_seq_00001": {"1": "bowl", "2": "left hand"}})
    assert found("visor-val", tmp_path).problems == []
    put_text(mapping, {"P01_01_seq_00001": {"1": "bowl"}})
    assert "ids 2, expected those listed, 1 (3 of 3" in only_problem("visor-val", tmp_path)


def test_ids_of_lvos_are_those_of_its_meta_file(tmp_path: Path):
    put_video(tmp_path / "val", "a")
    put_text(tmp_path / "val_meta.json", {"videos": {"a": {"objects": {"1": {}}}}})
    assert "ids 2, expected those listed, 1" in only_problem("lvos-valid", tmp_path)


# -------------------------------------------------------------------------------------------------------- empty masks
@pytest.mark.parametrize("deep", [False, True])
def test_an_empty_first_mask_leaves_nothing_to_track_unless_a_later_one_shows_an_object(tmp_path: Path, deep: bool):
    put_video(tmp_path, "a")
    put_mask(tmp_path / "Annotations/a/00000.png")
    assert found("mose-valid", tmp_path, deep).problems == []
    put_video(tmp_path / "blank", "a", ids=[])
    if deep:
        assert "a/00000.png: no mask shows an object" in only_problem("mose-valid", tmp_path / "blank", deep)
    assert found("mose-train", tmp_path, deep).problems == [], "training may start where objects do"
    assert found("lvos-test", tmp_path, deep).problems == [], "where each object starts at its own mask"


def test_masks_that_are_all_empty_are_a_problem_everywhere(tmp_path: Path):
    put_video(tmp_path, "a", ids=[])
    for name in ("mose-train", "lvos-test"):
        assert "Annotations/a: no mask shows anything" in only_problem(name, tmp_path)
        assert found(name, tmp_path, deep=False).problems == []


# -------------------------------------------------------------------------------------------------------------- lists
def put_davis(root: Path, listed: str) -> None:
    put_video(root, "bear", level="480p")
    put_text(root / "ImageSets/2017/val.txt", listed)
    put_text(root / "ImageSets/2017/train.txt", listed)


@pytest.mark.parametrize("name", ["davis2017-val", "davis2017-train"])
@pytest.mark.parametrize(
    ("listed", "says"),
    [
        ("bear\ngone\n", "gone: {frames}: no folder for this listed video"),
        ("bear\nbear\n", "bear: {frames}: listed twice"),
        ("bear\n../bear\n", "../bear: {frames}: expected a plain folder name"),
    ],
)
def test_what_is_wrong_with_a_list_is_named_and_the_rest_is_checked(tmp_path: Path, name: str, listed: str, says: str):
    put_davis(tmp_path, listed)
    findings = found(name, tmp_path)
    assert findings.problems == [says.format(frames=tmp_path / "JPEGImages/480p")]
    assert findings.frames == (0 if "twice" in says else 3)


def test_videos_without_frames_or_masks_are_named(tmp_path: Path):
    put_video(tmp_path, "good")
    put_video(tmp_path, "unmasked", masks=0)
    (tmp_path / "JPEGImages/empty").mkdir()
    for name in ("generic", "mose-train"):
        findings = found(name, tmp_path)
        assert [line.split(":")[0] for line in findings.problems] == ["empty", "unmasked"]
        assert (findings.videos, findings.usable) == (3, 1)


# ------------------------------------------------------------------------------------------------------- still images
def put_still(root: Path) -> None:
    for stem, size in {"one": (6, 8), "two": (9, 5)}.items():
        put_image(root / f"static/ecssd/{stem}.jpg", size)
        put_mask(root / f"static/ecssd/{stem}.png", 255, size=size)


@pytest.mark.parametrize("deep", [False, True])
def test_still_images_are_counted_and_may_differ_in_size(tmp_path: Path, deep: bool):
    put_still(tmp_path)
    findings = found("static", tmp_path, deep)
    assert (findings.videos, findings.frames, findings.masks, findings.objects) == (1, 2, 2, 2)
    assert findings.problems == []


def test_masks_of_still_images_are_white_in_any_form(tmp_path: Path):
    put_still(tmp_path)
    Image.new("RGB", (8, 6), "white").save(tmp_path / "static/ecssd/one.png")
    assert found("static", tmp_path).problems == []
    for stem, size in {"one": (6, 8), "two": (9, 5)}.items():
        put_mask(tmp_path / f"static/ecssd/{stem}.png", 100, size=size)
    assert "no mask shows anything" in only_problem("static", tmp_path)


def test_images_without_masks_and_masks_without_images_are_named(tmp_path: Path):
    put_still(tmp_path)
    (tmp_path / "static/ecssd/one.png").unlink()
    (tmp_path / "static/ecssd/two.jpg").unlink()
    lines = found("static", tmp_path, deep=False).problems
    assert [line.split(": ", 2)[2] for line in lines] == ["1 images without a mask: one", "1 masks alone: two"]


def test_a_mask_of_another_size_than_its_still_image_is_named(tmp_path: Path):
    put_still(tmp_path)
    put_mask(tmp_path / "static/ecssd/two.png", 255, size=(4, 4))
    assert "two.png: got (H, W) = (4, 4), expected (9, 5)" in only_problem("static", tmp_path)


def test_what_holds_for_a_video_is_open_to_other_checks(tmp_path: Path):
    put_video(tmp_path, "a")
    (subject,) = subjects_of("generic", tmp_path)
    assert (list(subject.frames), subject.first_must_show) == (["00000", "00001", "00002"], True)


def test_masks_of_0_and_255_show_no_object_to_train_on(tmp_path: Path):
    put_video(tmp_path / "train", "a", ids=[255])
    problem = only_problem("mose-train", tmp_path)
    assert "Annotations/a: no mask shows an object, nothing but 0 and 255, which marks pixels to ignore" in problem
    put_video(tmp_path / "train", "a", ids=[1, 255])
    assert found("mose-train", tmp_path).problems == []
