"""Which videos, frames and masks the index finds, in the layouts that benchmarks and users have."""

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_videos import write_film

from cutie_geo.data.index import (
    ImagePair,
    LabelledVideo,
    VideoRecord,
    dataset,
    dataset_names,
    dataset_spec,
    discover,
    first_appearances,
    frame_stems,
    index_static,
    labelled,
    labelled_names,
    labelled_spec,
    with_first_appearances,
)
from cutie_geo.data.index import records as reading
from cutie_geo.regions import Prompt


def touch(*paths: Path) -> None:
    """Empty files: proof that the index opens no picture."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def put_frames(folder: Path, stems: Iterable[str], suffix: str = ".jpg") -> None:
    touch(*(folder / f"{stem}{suffix}" for stem in stems))


def put_mask(path: Path, *ids: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array([[0, *ids]], np.uint8)).save(path)


def put_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def put_videos(home: Path, names: Iterable[str], level: str = "", masks: int = 2, stems: int = 3) -> None:
    for name in names:
        put_frames(home / "JPEGImages" / level / name, [f"{i:05d}" for i in range(stems)])
        put_frames(home / "Annotations" / level / name, [f"{i:05d}" for i in range(masks)], ".png")


def names_of(records: list[VideoRecord]) -> list[str]:
    return [record.name for record in records]


def put_youtube(valid: Path, videos: Mapping[str, Mapping[str, list[str]]], frames: Path | None = None) -> None:
    meta = {
        name: {"objects": {i: {"frames": stems} for i, stems in objects.items()}} for name, objects in videos.items()
    }
    put_text(valid / "meta.json", json.dumps({"videos": meta}))
    for name, objects in videos.items():
        put_frames(valid / "JPEGImages" / name, ["00000", "00005", "00010"])
        if frames:
            put_frames(frames / name, [f"{i:05d}" for i in range(12)])
        put_frames(valid / "Annotations" / name, {stems[0] for stems in objects.values()}, ".png")


TWO_OBJECTS = {"abc": {"1": ["00000", "00005"], "2": ["00005", "00010"]}}


# ------------------------------------------------------------------------------------------------------- the settings
@pytest.mark.parametrize(
    ("name", "size", "mem_every", "long_term", "masks", "saved"),
    [
        ("davis2016-val", 480, None, False, "first", "all"),
        ("davis2017-val", 480, None, False, "first", "all"),
        ("davis2017-test-dev", 480, None, False, "first", "all"),
        ("youtubevos2018-valid", 480, None, False, "first_appearance", "listed"),
        ("youtubevos2019-valid", 480, None, False, "first_appearance", "listed"),
        ("mose-valid", 480, None, False, "first", "all"),
        ("lvos-valid", 480, None, True, "first_appearance", "all"),
        ("lvos-test", 480, None, True, "first_appearance", "all"),
        ("lsvos2024-valid", 480, None, True, "first_appearance", "all"),
        ("generic", -1, None, True, "first", "all"),
    ],
)
def test_each_dataset_has_its_published_settings(
    name: str, size: int, mem_every: int | None, long_term: bool, masks: str, saved: str
):
    spec = dataset_spec(name)
    assert (spec.size, spec.mem_every, spec.use_long_term, spec.masks, spec.saved) == (
        size,
        mem_every,
        long_term,
        masks,
        saved,
    )


def test_only_davis_2016_is_about_a_single_object():
    single = {name for name in dataset_names() if dataset_spec(name).single_object}
    assert single == {"davis2016-train", "davis2016-val"}


def test_an_unknown_dataset_is_an_error_that_lists_the_known_ones(tmp_path: Path):
    with pytest.raises(ValueError, match=r"davis: no such dataset; expected one of davis2016-train, .*generic"):
        dataset("davis", tmp_path)


def test_every_dataset_refuses_a_root_that_is_not_there_or_holds_something_else(tmp_path: Path):
    for name in dataset_names():
        with pytest.raises(ValueError, match=r"nothere: no such folder, expected a dataset's root"):
            dataset(name, tmp_path / "nothere")
        with pytest.raises(ValueError, match="not the layout of this dataset"):
            dataset(name, tmp_path)


# --------------------------------------------------------------------------------------------------------------- DAVIS
@pytest.mark.parametrize("place", ["", "trainval", "2017/trainval", "DAVIS/2017/trainval", "DAVIS"])
def test_davis_2017_is_found_where_people_keep_it(tmp_path: Path, place: str):
    put_videos(tmp_path / place, ["bear", "bus", "car"], "480p")
    put_text(tmp_path / place / "ImageSets/2017/val.txt", "car\nbear\n")
    spec, records = dataset("davis2017-val", tmp_path)
    assert spec.name == "davis2017-val"
    assert names_of(records) == ["car", "bear"]
    assert records[1].source == tmp_path / place / "JPEGImages/480p/bear"
    assert records[1].masks == {"00000": tmp_path / place / "Annotations/480p/bear/00000.png"}
    assert records[1].problem is None
    assert records[1].saved is None


def test_full_resolution_serves_where_there_is_no_480p(tmp_path: Path):
    put_videos(tmp_path, ["bear"], "Full-Resolution")
    put_text(tmp_path / "ImageSets/2017/val.txt", "bear")
    assert dataset("davis2017-val", tmp_path)[1][0].source.parent.name == "Full-Resolution"


def test_test_dev_is_its_own_archive(tmp_path: Path):
    put_videos(tmp_path / "trainval", ["bear"], "480p")
    put_videos(tmp_path / "test-dev", ["aerobatics"], "480p", masks=1)
    put_text(tmp_path / "test-dev/ImageSets/2017/test-dev.txt", "aerobatics\n")
    assert names_of(dataset("davis2017-test-dev", tmp_path)[1]) == ["aerobatics"]


def test_a_list_with_a_byte_order_mark_and_windows_line_ends_is_read(tmp_path: Path):
    put_videos(tmp_path, ["bear", "bus"], "480p")
    put_text(tmp_path / "ImageSets/2017/val.txt", "\ufeffbear\r\nbus\r\n\r\n")
    assert names_of(dataset("davis2017-val", tmp_path)[1]) == ["bear", "bus"]


def test_without_lists_every_folder_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    put_videos(tmp_path, ["bus", "bear"], "480p")
    put_frames(tmp_path / "JPEGImages/480p/.hidden", ["00000"])
    assert names_of(dataset("davis2017-val", tmp_path)[1]) == ["bear", "bus"]
    assert "no ImageSets folder" in caplog.text


def test_a_missing_list_among_others_is_an_error(tmp_path: Path):
    put_videos(tmp_path, ["bear"], "480p")
    put_text(tmp_path / "ImageSets/2017/train.txt", "bear")
    with pytest.raises(ValueError, match=r"no list of this split, expected .*ImageSets/2017/val\.txt"):
        dataset("davis2017-val", tmp_path)


def test_listed_videos_without_a_folder_are_counted_and_named(tmp_path: Path):
    put_videos(tmp_path, ["bear"], "480p")
    put_text(tmp_path / "ImageSets/2017/val.txt", "\n".join(["bear", *(f"gone{i}" for i in range(7))]))
    wanted = r"no folder for 7 of 8 listed videos: gone0, gone1, gone2, gone3, gone4 and 2 more"
    with pytest.raises(ValueError, match=wanted):
        dataset("davis2017-val", tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n\n", "empty, expected one video"),
        ("bear\nbear\n", "bear listed twice"),
        ("../bear\n", "expected a plain folder name"),
    ],
)
def test_a_list_that_makes_no_sense_is_an_error(tmp_path: Path, text: str, says: str):
    put_videos(tmp_path, ["bear"], "480p")
    put_text(tmp_path / "ImageSets/2017/val.txt", text)
    with pytest.raises(ValueError, match=says):
        dataset("davis2017-val", tmp_path)


def test_missing_annotations_are_an_error(tmp_path: Path):
    put_frames(tmp_path / "JPEGImages/480p/bear", ["00000"])
    with pytest.raises(ValueError, match=r"Annotations/480p: no such folder, expected the masks of"):
        dataset("davis2017-val", tmp_path)


def test_davis_2016_takes_its_list_from_its_own_tree(tmp_path: Path):
    put_videos(tmp_path, ["bear", "bus"], "480p")
    put_text(tmp_path / "ImageSets/2016/val.txt", "bus\n")
    assert names_of(dataset("davis2016-val", tmp_path)[1]) == ["bus"]


def test_davis_2016_reads_lists_of_frames(tmp_path: Path):
    put_videos(tmp_path, ["bear", "bus"], "480p")
    lines = [f"/JPEGImages/480p/bus/{i:05d}.jpg /Annotations/480p/bus/{i:05d}.png" for i in range(3)]
    put_text(tmp_path / "ImageSets/480p/val.txt", "\n".join(lines))
    assert names_of(dataset("davis2016-val", tmp_path)[1]) == ["bus"]


def test_davis_2016_finds_its_list_in_the_2017_tree_beside_it(tmp_path: Path):
    put_videos(tmp_path / "2016", ["bear", "bus"], "480p")
    put_text(tmp_path / "2017/trainval/ImageSets/2016/val.txt", "bus\n")
    assert names_of(dataset("davis2016-val", tmp_path / "2016")[1]) == ["bus"]


def test_the_id_255_of_davis_2016_is_an_object(tmp_path: Path):
    put_mask(tmp_path / "00000.png", 255)
    assert first_appearances({"00000": tmp_path / "00000.png"}) == {"00000": frozenset({255})}


# --------------------------------------------------------------------------------------------------------- YouTube-VOS
def test_youtube_saves_the_union_of_listed_frames_and_starts_each_object_at_its_first(tmp_path: Path):
    put_youtube(tmp_path / "valid", TWO_OBJECTS)
    (record,) = dataset("youtubevos2019-valid", tmp_path)[1]
    assert record.source == tmp_path / "valid/JPEGImages/abc"
    assert list(record.masks) == ["00000", "00005"]
    assert record.keep_ids == {"00000": frozenset({1}), "00005": frozenset({2})}
    assert record.saved == frozenset({"00000", "00005", "00010"})
    assert not record.first_appearances_only


@pytest.mark.parametrize("place", ["valid_all_frames", "all_frames/valid_all_frames"])
def test_youtube_prefers_all_frames(tmp_path: Path, place: str):
    put_youtube(tmp_path / "valid", TWO_OBJECTS, tmp_path / place / "JPEGImages")
    (record,) = dataset("youtubevos2019-valid", tmp_path)[1]
    assert record.source == tmp_path / place / "JPEGImages/abc"
    assert len(frame_stems(record.source)) == 12
    assert record.saved == frozenset({"00000", "00005", "00010"})
    assert record.masks["00005"] == tmp_path / "valid/Annotations/abc/00005.png"


def test_the_folder_valid_itself_is_a_root_of_youtube(tmp_path: Path):
    put_youtube(tmp_path / "valid", TWO_OBJECTS, tmp_path / "valid_all_frames/JPEGImages")
    (record,) = dataset("youtubevos2019-valid", tmp_path / "valid")[1]
    assert record.source.parts[-3] == "valid_all_frames"


def test_the_years_of_youtube_keep_apart(tmp_path: Path):
    put_youtube(tmp_path / "YouTube2018/valid", {"old": TWO_OBJECTS["abc"]})
    put_youtube(tmp_path / "YouTube/valid", {"new": TWO_OBJECTS["abc"]})
    assert names_of(dataset("youtubevos2018-valid", tmp_path)[1]) == ["old"]
    assert names_of(dataset("youtubevos2019-valid", tmp_path)[1]) == ["new"]


def test_a_mask_in_which_nothing_starts_is_left_out(tmp_path: Path):
    put_youtube(tmp_path / "valid", TWO_OBJECTS)
    touch(tmp_path / "valid/Annotations/abc/00010.png")
    (record,) = dataset("youtubevos2019-valid", tmp_path)[1]
    assert list(record.masks) == ["00000", "00005"]


def test_where_lists_and_masks_disagree_the_masks_decide(tmp_path: Path):
    put_youtube(tmp_path / "valid", TWO_OBJECTS)
    folder = tmp_path / "valid/Annotations/abc"
    (folder / "00005.png").unlink()
    put_mask(folder / "00000.png", 1)
    put_mask(folder / "00010.png", 1, 2)
    (record,) = dataset("youtubevos2019-valid", tmp_path)[1]
    assert record.first_appearances_only
    assert with_first_appearances(record).keep_ids == {"00000": frozenset({1}), "00010": frozenset({2})}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "no videos, expected"),
        ('{"videos": {}}', "no videos, expected"),
        ('{"videos": {"abc": {"objects": {"1": {}}}}}', 'abc: expected {"objects"'),
        ('{"videos": {"abc": {"objects": {"cat": {"frames": ["00000"]}}}}}', 'abc: expected {"objects"'),
        ('{"videos": {"abc": {"objects": {"1": {"frames": [0, 5]}}}}}', 'abc: expected {"objects"'),
    ],
)
def test_a_broken_meta_json_is_named(tmp_path: Path, text: str, says: str):
    put_youtube(tmp_path / "valid", TWO_OBJECTS)
    put_text(tmp_path / "valid/meta.json", text)
    with pytest.raises(ValueError, match=r"meta\.json: ") as caught:
        dataset("youtubevos2019-valid", tmp_path)
    assert says in str(caught.value)


def test_a_missing_meta_json_is_named(tmp_path: Path):
    put_youtube(tmp_path / "valid", TWO_OBJECTS)
    (tmp_path / "valid/meta.json").unlink()
    with pytest.raises(ValueError, match=r"meta\.json: cannot be read: .*No such file"):
        dataset("youtubevos2019-valid", tmp_path)


# -------------------------------------------------------------------------------------------------------- MOSE, LVOS
@pytest.mark.parametrize("place", ["valid", "MOSE/valid", "MOSEv2/valid", ""])
def test_mose_takes_the_first_mask_of_every_folder(tmp_path: Path, place: str):
    put_videos(tmp_path / place, ["b1", "a0"], masks=3)
    records = dataset("mose-valid", tmp_path)[1]
    assert names_of(records) == ["a0", "b1"]
    assert list(records[0].masks) == ["00000"]


def put_lvos(split: Path) -> None:
    put_frames(split / "JPEGImages/v", ["00000001", "00000006", "00000011"])
    for stem, ids in {"00000001": (1,), "00000006": (1, 2), "00000011": (1, 2)}.items():
        put_mask(split / "Annotations/v" / f"{stem}.png", *ids)


@pytest.mark.parametrize("spelling", ["val", "valid"])
def test_lvos_reads_pixels_only_when_asked_and_then_keeps_first_appearances(
    tmp_path: Path, spelling: str, monkeypatch: pytest.MonkeyPatch
):
    put_lvos(tmp_path / spelling)
    with monkeypatch.context() as patch:
        patch.setattr(reading, "read_labels", lambda *args: pytest.fail("the index read a mask"))
        (record,) = dataset("lvos-valid", tmp_path)[1]
    assert len(record.masks) == 3
    assert record.keep_ids is None
    reduced = with_first_appearances(record)
    assert list(reduced.masks) == ["00000001", "00000006"]
    assert reduced.keep_ids == {"00000001": frozenset({1}), "00000006": frozenset({2})}
    assert with_first_appearances(reduced) is reduced


def test_a_mixture_of_mose_and_lvos_has_objects_that_come_later(tmp_path: Path):
    put_lvos(tmp_path / "valid")
    put_videos(tmp_path / "valid", ["b1"], masks=0)
    put_mask(tmp_path / "valid" / "Annotations" / "b1" / "00000.png", 1, 2)
    records = dataset("lsvos2024-valid", tmp_path)[1]
    assert names_of(records) == ["b1", "v"]
    assert [list(with_first_appearances(record).masks) for record in records] == [["00000"], ["00000001", "00000006"]]


def test_lvos_takes_the_videos_of_its_meta_file(tmp_path: Path):
    put_lvos(tmp_path / "test")
    put_videos(tmp_path / "test", ["extra"])
    put_text(tmp_path / "test_meta.json", '{"videos": {"v": {}}}')
    assert names_of(dataset("lvos-test", tmp_path)[1]) == ["v"]


def test_a_mask_whose_frame_is_missing_is_a_problem_of_that_video_alone(tmp_path: Path):
    put_lvos(tmp_path / "test")
    put_videos(tmp_path / "test", ["w"])
    touch(tmp_path / "test/Annotations/v/00000003.png")
    by_name = {record.name: record for record in dataset("lvos-test", tmp_path)[1]}
    assert "no frame for the masks 00000003; frames are named 00000001 to 00000011" in (by_name["v"].problem or "")
    assert by_name["w"].problem is None


def test_a_damaged_mask_is_named_when_its_turn_comes(tmp_path: Path):
    put_lvos(tmp_path / "test")
    (tmp_path / "test/Annotations/v/00000006.png").write_bytes(b"no")
    (record,) = dataset("lvos-test", tmp_path)[1]
    with pytest.raises(ValueError, match=r"00000006\.png"):
        with_first_appearances(record)


# -------------------------------------------------------------------------------------------------------------- generic
@pytest.mark.parametrize("level", ["", "480p"])
def test_generic_takes_any_tree_with_or_without_a_level(tmp_path: Path, level: str):
    put_videos(tmp_path, ["a", "b"], level)
    records = dataset("generic", tmp_path)[1]
    assert names_of(records) == ["a", "b"]
    assert records[0].source == tmp_path / "JPEGImages" / level / "a"
    assert list(records[0].masks) == ["00000"]


def test_a_video_that_is_called_480p_is_a_video(tmp_path: Path):
    put_videos(tmp_path, ["480p"])
    assert names_of(dataset("generic", tmp_path)[1]) == ["480p"]


def test_an_empty_tree_is_an_error(tmp_path: Path):
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "Annotations").mkdir()
    with pytest.raises(ValueError, match="JPEGImages: no videos"):
        dataset("generic", tmp_path)


def test_videos_without_frames_or_masks_have_a_problem(tmp_path: Path):
    put_videos(tmp_path, ["good"])
    put_frames(tmp_path / "JPEGImages/unmasked", ["00000"])
    (tmp_path / "JPEGImages/empty").mkdir()
    problems = {record.name: record.problem for record in dataset("generic", tmp_path)[1]}
    assert problems["good"] is None
    assert "Annotations/unmasked: no masks" in (problems["unmasked"] or "")
    assert "JPEGImages/empty: no frames" in (problems["empty"] or "")


def test_two_files_for_one_frame_are_a_problem(tmp_path: Path):
    put_videos(tmp_path, ["a"])
    touch(tmp_path / "JPEGImages/a/00000.png")
    assert "two files for 00000" in (dataset("generic", tmp_path)[1][0].problem or "")


@pytest.mark.slow
def test_thousands_of_videos_are_indexed_without_opening_a_picture(tmp_path: Path):
    put_videos(tmp_path, (f"{i:04d}" for i in range(500)), masks=1)
    assert len(dataset("generic", tmp_path)[1]) == 500  # every file is empty: opening one would fail


# -------------------------------------------------------------------------------------------------------------- VISOR
def put_visor(home: Path, names: Iterable[str], split: str, masks: int = 3) -> None:
    put_videos(home, names, "480p", masks=masks)
    put_text(home / f"ImageSets/2022/{split}.txt", "\n".join(names))


@pytest.mark.parametrize("place", ["", "VISOR_2022", "VISOR/VISOR_2022"])
@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("visor-train", "train"),
        ("visor-val", "val"),
        ("visor-val-unseen", "val_unseen"),
        ("visor-test", "test"),
    ],
)
def test_visor_is_found_by_its_lists_and_starts_from_first_masks(tmp_path: Path, place: str, name: str, split: str):
    put_videos(tmp_path / place, ["P09_02_seq_00009"], "480p")
    put_visor(tmp_path / place, ["P01_01_seq_00001", "P01_01_seq_00002"], split)
    spec, records = dataset(name, tmp_path)
    assert (spec.size, spec.mem_every, spec.use_long_term, spec.masks, spec.saved) == (480, None, False, "first", "all")
    assert names_of(records) == ["P01_01_seq_00001", "P01_01_seq_00002"]
    assert records[0].source == tmp_path / place / "JPEGImages/480p/P01_01_seq_00001"
    assert list(records[0].masks) == ["00000"]
    assert records[0].keep_ids is None


def test_visor_without_its_list_is_an_error_since_splits_share_folders(tmp_path: Path):
    put_visor(tmp_path, ["P01_01_seq_00001"], "train")
    with pytest.raises(ValueError, match=r"2022/val\.txt: cannot be read: .*No such file"):
        dataset("visor-val", tmp_path)


def test_visor_knows_its_ids_from_the_mapping_of_its_split(tmp_path: Path):
    put_visor(tmp_path, ["P09_02_seq_00001", "P09_02_seq_00002"], "val_unseen")
    put_text(tmp_path / "val_data_mapping.json", '{"P09_02_seq_00001": {"1": "bowl", "2": "knife"}}')
    first, second = dataset("visor-val-unseen", tmp_path)[1]
    assert first.listed == {1: [], 2: []}
    assert second.listed is None
    put_text(tmp_path / "val_data_mapping.json", "[]")
    with pytest.raises(ValueError, match=r"val_data_mapping\.json: expected \{video: "):
        dataset("visor-val-unseen", tmp_path)


# -------------------------------------------------------------------------------------------------------------- BURST
@pytest.mark.parametrize("place", ["val", "BURST/val", "BURST", ""])
def test_burst_starts_each_track_at_its_first_mask_and_may_have_long_ids(tmp_path: Path, place: str):
    put_videos(tmp_path / place, ["LaSOT_-_bear-2"])
    spec, (record,) = dataset("burst-val", tmp_path)
    assert (spec.size, spec.mem_every, spec.use_long_term) == (600, 10, True)
    assert record.first_appearances_only
    assert record.long_ids
    assert list(record.masks) == ["00000", "00001"]


# ------------------------------------------------------------------------------------------------------ training sets
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("youtubevos-train", "train"),
        ("youtubevos-train", "YouTube/train"),
        ("mose-train", "MOSE/train"),
        ("lvos-train", "LVOS/train"),
        ("ovis-train", "OVIS/train"),
        ("ovis-train", ""),
        ("burst-train", "BURST/train"),
    ],
)
def test_training_sets_have_all_frames_and_all_masks(tmp_path: Path, name: str, place: str):
    put_videos(tmp_path / place, ["b", "a"], masks=3)
    videos = labelled(name, tmp_path)
    assert [video.name for video in videos] == ["a", "b"]
    assert videos[0].frames == {f"{i:05d}": tmp_path / place / f"JPEGImages/a/{i:05d}.jpg" for i in range(3)}
    assert videos[0].masks == {f"{i:05d}": tmp_path / place / f"Annotations/a/{i:05d}.png" for i in range(3)}
    assert videos[0].encoding is None
    assert videos[0].long_ids == (name == "burst-train")
    assert videos[0].problem is None


@pytest.mark.parametrize(("name", "year"), [("davis2016-train", "2016"), ("davis2017-train", "2017")])
def test_davis_to_train_on_is_the_listed_videos_with_all_masks(tmp_path: Path, name: str, year: str):
    put_videos(tmp_path, ["bear", "bus"], "480p", masks=3)
    put_text(tmp_path / f"ImageSets/{year}/train.txt", "bus")
    (video,) = labelled(name, tmp_path)
    assert (video.name, len(video.masks), video.single_object) == ("bus", 3, year == "2016")


def test_visor_to_train_on_has_all_masks_and_takes_val_too(tmp_path: Path):
    put_visor(tmp_path, ["P01_01_seq_00001"], "train")
    put_visor(tmp_path, ["P01_02_seq_00001"], "val")
    assert [len(video.masks) for video in labelled("visor-train", tmp_path)] == [3]
    assert [video.name for video in labelled("visor-val", tmp_path)] == ["P01_02_seq_00001"]


def test_objects_start_where_meta_json_lists_them_without_a_look_at_the_masks(tmp_path: Path):
    put_youtube(tmp_path / "train", TWO_OBJECTS)
    (video,) = labelled("youtubevos-train", tmp_path)
    assert video.starts == {1: "00000", 2: "00005"}  # the masks are empty files


def test_objects_start_where_masks_show_them_and_these_are_read_when_asked_for(tmp_path: Path):
    put_lvos(tmp_path / "train")
    put_text(tmp_path / "train_meta.json", '{"videos": {"v": {"objects": {"1": {}, "2": {}}}}}')
    (video,) = labelled("lvos-train", tmp_path)
    assert video.listed == {1: [], 2: []}
    assert video.starts == {1: "00000001", 2: "00000006"}
    for path in video.masks.values():
        path.unlink()
    assert video.starts == {1: "00000001", 2: "00000006"}, "read once"
    with pytest.raises(ValueError, match=r"00000001\.png"):
        _ = LabelledVideo("v", {}, video.masks).starts


def test_the_single_object_of_davis_2016_is_number_1(tmp_path: Path):
    for stem, ids in {"0": (), "1": (4, 9), "2": (255,)}.items():
        put_mask(tmp_path / f"{stem}.png", *ids)
    masks = {stem: tmp_path / f"{stem}.png" for stem in "012"}
    assert LabelledVideo("v", {}, masks, single_object=True).starts == {1: "1"}
    assert LabelledVideo("v", {}, {"0": masks["0"]}, single_object=True).starts == {}


def test_what_concerns_one_video_to_train_on_is_its_problem(tmp_path: Path):
    put_videos(tmp_path / "train", ["good", "unmasked"])
    for path in (tmp_path / "train/Annotations/unmasked").iterdir():
        path.unlink()
    (tmp_path / "train/JPEGImages/empty").mkdir()
    put_videos(tmp_path / "train", ["strange"], masks=4)
    problems = {video.name: video.problem or "" for video in labelled("mose-train", tmp_path)}
    assert problems["good"] == ""
    assert "Annotations/unmasked: no masks" in problems["unmasked"]
    assert "JPEGImages/empty: no frames" in problems["empty"]
    assert "no frame for the masks 00003" in problems["strange"]


def test_listed_videos_without_a_folder_stop_training_before_it_starts(tmp_path: Path):
    put_videos(tmp_path, ["bear"], "480p")
    put_text(tmp_path / "ImageSets/2017/train.txt", "bear\ngone")
    with pytest.raises(ValueError, match="no folder for 1 of 2 listed videos: gone"):
        labelled("davis2017-train", tmp_path)
    bear, gone = labelled_spec("davis2017-train").index(tmp_path, strict=False)
    assert bear.problem is None
    assert "no folder for this listed video" in (gone.problem or "")


def test_an_unknown_training_set_is_an_error_that_lists_the_known_ones(tmp_path: Path):
    with pytest.raises(ValueError, match=r"mega: no such dataset; expected one of davis2016-train, .*visor-val"):
        labelled("mega", tmp_path)


def test_every_training_set_refuses_a_root_that_holds_something_else(tmp_path: Path):
    for name in labelled_names():
        with pytest.raises(ValueError, match=r"nothere: no such folder, expected a dataset's root"):
            labelled(name, tmp_path / "nothere")
        with pytest.raises(ValueError, match="not the layout of this dataset"):
            labelled(name, tmp_path)


# ------------------------------------------------------------------------------------------------------- still images
@pytest.mark.parametrize("place", ["", "static"])
def test_still_images_lie_beside_their_masks_also_in_folders_of_classes(tmp_path: Path, place: str):
    home = tmp_path / place
    touch(home / "fss/cat/1.JPG", home / "fss/cat/1.png", home / "fss/dog/1.jpg", home / "fss/dog/1.png")
    touch(home / "ecssd/0001.jpg", home / "ecssd/0001.png", home / "ecssd/unmasked.jpg", home / "ecssd/alone.png")
    touch(home / "BIG_small/x.jpg", home / "BIG_small/x.png", home / "other/y.jpg", home / "other/y.png")
    assert index_static(tmp_path) == [
        ImagePair("fss/cat/1", home / "fss/cat/1.JPG", home / "fss/cat/1.png"),
        ImagePair("fss/dog/1", home / "fss/dog/1.jpg", home / "fss/dog/1.png"),
        ImagePair("ecssd/0001", home / "ecssd/0001.jpg", home / "ecssd/0001.png"),
        ImagePair("BIG_small/x", home / "BIG_small/x.jpg", home / "BIG_small/x.png", times=5),
    ]


def test_still_images_may_lie_in_a_folder_of_images_and_one_of_masks(tmp_path: Path):
    home = tmp_path / "static"
    touch(home / "mine/images/b.png", home / "mine/images/a.jpg", home / "mine/images/bare.jpg")
    touch(home / "mine/masks/b.png", home / "mine/masks/a.png", home / "mine/masks/alone.png")
    touch(home / "ecssd/images/1.jpg", home / "ecssd/masks/1.png", home / "BIG_small/x.jpg", home / "BIG_small/x.png")
    mine = [ImagePair(f"mine/{stem}", home / f"mine/images/{name}", home / f"mine/masks/{stem}.png")
            for stem, name in (("a", "a.jpg"), ("b", "b.png"))]  # fmt: skip
    ecssd = ImagePair("ecssd/1", home / "ecssd/images/1.jpg", home / "ecssd/masks/1.png")
    big = ImagePair("BIG_small/x", home / "BIG_small/x.jpg", home / "BIG_small/x.png", times=5)
    assert index_static(tmp_path) == [ecssd, big]
    assert index_static(tmp_path, ["mine"]) == mine
    assert index_static(tmp_path, ["BIG_small", "mine"]) == [big, *mine]


def test_still_images_that_are_asked_for_by_name_have_to_be_there(tmp_path: Path):
    touch(tmp_path / "mine/images/a.jpg", tmp_path / "mine/masks/b.png", tmp_path / "ecssd/1.jpg")
    with pytest.raises(ValueError, match="expected the folders mine, yours there or in static; there are ecssd, mine"):
        index_static(tmp_path, ["mine", "yours"])
    with pytest.raises(ValueError, match=r"mine: no image with a mask, expected .* or images/<name>"):
        index_static(tmp_path, ["mine"])
    with pytest.raises(ValueError, match="expected the folders"):
        index_static(tmp_path / "mine", ["../mine"])


def test_a_folder_without_still_images_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match="not the layout of this dataset, expected one of the folders fss, DUTS-TR"):
        index_static(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        index_static(tmp_path / "nothere")
    touch(tmp_path / "ecssd/alone.jpg")
    with pytest.raises(ValueError, match="no image with a mask"):
        index_static(tmp_path)


# ---------------------------------------------------------------------------------------------------------------- size
@pytest.mark.slow
def test_fifty_thousand_frames_are_indexed_within_seconds(tmp_path: Path):
    """To track and to train on. Every file is empty: opening one as a picture would fail."""
    for i in range(500):
        touch(tmp_path / f"Annotations/{i:03d}/00000.png")
        folder = tmp_path / f"JPEGImages/{i:03d}"
        folder.mkdir(parents=True)
        for stem in range(100):
            os.close(os.open(folder / f"{stem:05d}.jpg", os.O_CREAT | os.O_WRONLY))
    started = time.process_time()
    assert len(dataset("lvos-valid", tmp_path)[1]) == 500
    tracked = time.process_time()
    videos = labelled("mose-train", tmp_path)
    assert sum(len(video.frames) for video in videos) == 50_000
    assert tracked - started < 10
    assert time.process_time() - tracked < 10


# ------------------------------------------------------------------------------------------------------- any folders
def test_a_video_file_and_a_mask_make_one_record(tmp_path: Path):
    touch(tmp_path / "clip.mp4", tmp_path / "first.png")
    (record,) = discover(tmp_path / "clip.mp4", tmp_path / "first.png")
    assert record == VideoRecord("clip", tmp_path / "clip.mp4", first_mask=tmp_path / "first.png")


def test_a_folder_of_frames_takes_every_mask_named_after_a_frame(tmp_path: Path):
    put_frames(tmp_path / "frames", ["a", "b", "c"], ".PNG")
    put_frames(tmp_path / "masks", ["b", "c"], ".png")
    (record,) = discover(tmp_path / "frames", tmp_path / "masks")
    assert record.name == "frames"
    assert list(record.masks) == ["b", "c"]
    assert record.keep_ids is None
    assert not record.first_appearances_only


def test_a_folder_of_frames_takes_one_mask_of_any_name(tmp_path: Path):
    put_frames(tmp_path / "frames", ["a"])
    touch(tmp_path / "whatever.png")
    (record,) = discover(tmp_path / "frames", tmp_path / "whatever.png")
    assert record.first_mask == tmp_path / "whatever.png"
    assert record.masks == {}


def test_one_video_of_a_dataset_finds_its_folder_of_masks(tmp_path: Path):
    put_videos(tmp_path, ["a", "b"])
    (record,) = discover(tmp_path / "JPEGImages/a", tmp_path / "Annotations")
    assert record.masks["00000"] == tmp_path / "Annotations/a/00000.png"


def test_several_videos_find_folders_and_single_masks(tmp_path: Path):
    put_frames(tmp_path / "in/frames", ["0"])
    touch(tmp_path / "in/clip.mp4", tmp_path / "in/.hidden.mp4", tmp_path / "in/notes.txt", tmp_path / "masks/clip.png")
    put_frames(tmp_path / "masks/frames", ["0"], ".png")
    clip, frames = discover(tmp_path / "in", tmp_path / "masks")
    assert (clip.name, clip.first_mask) == ("clip", tmp_path / "masks/clip.png")
    assert (frames.name, list(frames.masks)) == ("frames", ["0"])


def test_a_video_file_takes_named_masks(tmp_path: Path):
    touch(tmp_path / "clip.mp4", tmp_path / "masks/00000.png", tmp_path / "masks/00007.png")
    assert list(discover(tmp_path / "clip.mp4", tmp_path / "masks")[0].masks) == ["00000", "00007"]


def test_a_video_without_a_mask_is_named_and_the_others_go_on(tmp_path: Path):
    put_videos(tmp_path, ["a", "b", "c"])
    for path in (tmp_path / "Annotations/b").iterdir():
        path.unlink()
    (tmp_path / "Annotations/b").rmdir()
    records = discover(tmp_path / "JPEGImages", tmp_path / "Annotations")
    assert [record.problem is None for record in records] == [True, False, True]
    assert "nothing for b, expected b.png or b/ with masks" in (records[1].problem or "")


@pytest.mark.parametrize("several", [False, True])
def test_without_any_mask_every_video_has_a_problem(tmp_path: Path, several: bool):
    put_frames(tmp_path / "in/a", ["0"])
    (record,) = discover(tmp_path / "in" if several else tmp_path / "in/a")
    assert "no mask given" in (record.problem or "")


def test_masks_that_belong_to_no_frame_are_a_problem(tmp_path: Path):
    put_frames(tmp_path / "frames", ["0", "1"])
    put_frames(tmp_path / "masks", ["1", "2"], ".png")
    assert "no frame for the masks 2" in (discover(tmp_path / "frames", tmp_path / "masks")[0].problem or "")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system")
def test_a_pipe_in_place_of_a_mask_is_a_problem(tmp_path: Path):
    put_frames(tmp_path / "frames", ["0", "1"])
    os.mkfifo(tmp_path / "m.png")
    assert "m.png: no mask; got a pipe" in (discover(tmp_path / "frames", tmp_path / "m.png")[0].problem or "")
    with pytest.raises(ValueError, match=r"m\.png: not a regular file; got a pipe"):
        discover(tmp_path / "m.png")


def test_an_empty_folder_of_masks_is_a_problem_of_a_video_file_too(tmp_path: Path):
    touch(tmp_path / "clip.mp4", tmp_path / "masks/readme.txt")
    assert "no masks, expected PNG" in (discover(tmp_path / "clip.mp4", tmp_path / "masks")[0].problem or "")


def test_a_mask_and_a_folder_for_one_video_are_a_problem(tmp_path: Path):
    put_frames(tmp_path / "in/a", ["0"])
    touch(tmp_path / "masks/a.png", tmp_path / "masks/a/0.png")
    assert "both a/ and a.png" in (discover(tmp_path / "in", tmp_path / "masks")[0].problem or "")


def test_an_empty_folder_among_videos_is_a_problem(tmp_path: Path):
    touch(tmp_path / "in/clip.mp4", tmp_path / "masks/clip.png", tmp_path / "masks/empty.png")
    (tmp_path / "in/empty").mkdir()
    clip, empty = discover(tmp_path / "in", tmp_path / "masks")
    assert clip.problem is None
    assert "in/empty: no frames" in (empty.problem or "")


def test_one_mask_for_several_videos_is_an_error(tmp_path: Path):
    touch(tmp_path / "in/a.mp4", tmp_path / "in/b.mp4", tmp_path / "m.png")
    with pytest.raises(ValueError, match=r"m\.png: one mask for 2 videos, expected a folder"):
        discover(tmp_path / "in", tmp_path / "m.png")


def test_two_videos_of_one_name_are_an_error(tmp_path: Path):
    touch(tmp_path / "in/a.mp4", tmp_path / "in/a.avi")
    with pytest.raises(ValueError, match="two videos named a"):
        discover(tmp_path / "in", tmp_path)


def test_paths_that_make_no_sense_are_errors(tmp_path: Path):
    touch(tmp_path / "clip.mp4", tmp_path / "notes.txt", tmp_path / "m.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"gone: no such file or folder, expected a video"):
        discover(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"notes\.txt: got a \.txt file, expected a video"):
        discover(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match=r"empty: no frames and no videos"):
        discover(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"gone: no such file or folder, expected a mask"):
        discover(tmp_path / "clip.mp4", tmp_path / "gone")
    with pytest.raises(ValueError, match=r"m\.jpg: got a \.jpg file, expected a PNG"):
        discover(tmp_path / "clip.mp4", tmp_path / "m.jpg")


def test_a_relative_folder_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    put_frames(tmp_path / "holiday", ["0"])
    monkeypatch.chdir(tmp_path / "holiday")
    assert discover(Path("."))[0].name == "holiday"


def test_a_link_has_its_own_name(tmp_path: Path):
    put_frames(tmp_path / "store/run_001", ["0"])
    (tmp_path / "current").symlink_to(tmp_path / "store/run_001")
    put_mask(tmp_path / "masks/current.png", 1)
    (record,) = discover(tmp_path / "current", tmp_path / "masks")
    assert (record.name, record.first_mask) == ("current", tmp_path / "masks/current.png")


def test_videos_win_over_pictures_beside_them_which_may_be_their_masks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    videos = tmp_path / "in"
    touch(*(videos / name for name in ("one.mp4", "one.png", "two.MTS", "two.PNG", "Thumb.jpg", "Thumbs.db")))
    for mask in (None, videos):
        one, two = discover(videos, mask)
        assert (one.first_mask, two.first_mask) == (videos / "one.png", videos / "two.PNG")
        assert caplog.messages.pop() == f"{videos}: neither videos nor their masks, ignored: Thumb.jpg"
        caplog.clear()
    put_mask(tmp_path / "m/one.png", 1)
    one, two = discover(videos, tmp_path / "m")
    assert one.first_mask == tmp_path / "m/one.png"
    assert "nothing for two" in (two.problem or "")
    assert caplog.messages[-1].endswith("ignored: Thumb.jpg, one.png, two.PNG")


@pytest.mark.parametrize("mask", ["one.png", "one.PNG"])
def test_the_mask_beside_a_video_file_is_its_first_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mask: str
) -> None:
    touch(*(tmp_path / name for name in ("one.mp4", mask, "one.txt", "two.mp4", "other.png")))
    caplog.set_level("INFO")
    (one,) = discover(tmp_path / "one.mp4")
    assert (one.first_mask, one.problem) == (tmp_path / mask, None)
    assert caplog.messages[-1].endswith(f"no mask given; the first mask is {mask} beside it")
    (two,) = discover(tmp_path / "two.mp4")
    assert "no mask given" in (two.problem or "")
    (given,) = discover(tmp_path / "one.mp4", tmp_path / "other.png")
    assert given.first_mask == tmp_path / "other.png"
    (prompted,) = discover(tmp_path / "one.mp4", prompts={"0": {1: Prompt(((1.0, 1.0, 1),))}})
    assert prompted.first_mask is None


def test_folders_of_frames_win_over_pictures_beside_them_if_masks_are_named_after_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    videos = tmp_path / "in"
    for name in ("one", "two"):
        put_frames(videos / name, ["0", "1"])
    touch(videos / "Thumb.jpg")
    put_mask(tmp_path / "m/one.png", 1)
    put_mask(tmp_path / "m/two/0.png", 1)
    one, two = discover(videos, tmp_path / "m")
    assert (one.first_mask, two.masks) == (tmp_path / "m/one.png", {"0": tmp_path / "m/two/0.png"})
    assert caplog.messages == [f"{videos}: neither videos nor their masks, ignored: Thumb.jpg"]
    put_mask(videos / "one.png", 1)
    one, two = discover(videos)
    assert (one.first_mask, two.name) == (videos / "one.png", "two")
    assert f"{videos / 'two'}: no masks" in (two.problem or "")


def test_folders_of_images_among_frames_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    put_frames(tmp_path / "v", ["0", "1"])
    put_frames(tmp_path / "v/more", ["2", "3"])
    put_mask(tmp_path / "v/masks/0.png", 1)
    touch(tmp_path / "v/notes/text.txt")
    (record,) = discover(tmp_path / "v", tmp_path / "v/masks")
    assert (record.name, record.problem) == ("v", None)
    assert caplog.messages == [f"{tmp_path / 'v'}: read as the frames of one video; folders with images, ignored: more"]


def test_files_with_unknown_suffixes_are_videos_if_they_decode(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_film(tmp_path / "in/one.mp4", 2)
    (tmp_path / "in/one.mp4").rename(tmp_path / "in/one.clip")
    touch(tmp_path / "in/two.3GP", tmp_path / "in/__MACOSX/._one.mp4")
    put_text(tmp_path / "in/notes.txt", "words\n" * 50)
    assert names_of(discover(tmp_path / "in")) == ["one", "two"]
    assert caplog.messages == [f"{tmp_path / 'in'}: neither videos nor their masks, ignored: notes.txt"]
    assert names_of(discover(tmp_path / "in/one.clip")) == ["one"]


def test_masks_find_frames_by_number_and_in_natural_order(tmp_path: Path):
    put_frames(tmp_path / "v", [f"frame_{i}" for i in range(8, 12)])
    for stem in ("00010", "9", "frame_11"):
        put_mask(tmp_path / "m" / f"{stem}.png", 1)
    (record,) = discover(tmp_path / "v", tmp_path / "m")
    assert record.problem is None
    assert list(record.masks) == ["frame_9", "frame_10", "frame_11"]
    put_mask(tmp_path / "m/00009.png", 1)
    assert "second mask for frame frame_9" in (discover(tmp_path / "v", tmp_path / "m")[0].problem or "")


def test_frames_and_masks_may_share_a_folder_unless_both_are_png(tmp_path: Path):
    put_frames(tmp_path / "v", ["0", "1"])
    put_mask(tmp_path / "v/0.png", 1)
    (record,) = discover(tmp_path / "v", tmp_path / "v")
    assert (record.problem, record.masks) == (None, {"0": tmp_path / "v/0.png"})
    put_mask(tmp_path / "p/0.png", 1)
    assert "frames and masks are PNG files of one folder" in (discover(tmp_path / "p", tmp_path / "p")[0].problem or "")


def test_unpadded_frames_are_trained_on_in_natural_order(tmp_path: Path):
    put_frames(tmp_path / "JPEGImages/v", ["8", "9", "10"])
    put_frames(tmp_path / "Annotations/v", ["8", "9", "10"], ".PNG")
    (video,) = labelled("mose-train", tmp_path)
    assert (list(video.frames), list(video.masks), video.problem) == (["8", "9", "10"], ["8", "9", "10"], None)


@pytest.mark.parametrize("name", ["davis2017-val", "mose-valid", "lvos-valid", "youtubevos2019-valid", "visor-val"])
def test_void_is_no_object_of_a_benchmark(tmp_path: Path, name: str):
    put_frames(tmp_path / "JPEGImages/a", ["00000", "00001"])
    put_mask(tmp_path / "Annotations/a/00000.png", 1, 255)
    for path in ("ImageSets/2017/val.txt", "ImageSets/2022/val.txt"):
        put_text(tmp_path / path, "a\n")
    put_text(tmp_path / "meta.json", '{"videos": {"a": {"objects": {"1": {"frames": ["00000", "00001"]}}}}}')
    (record,) = dataset(name, tmp_path)[1]
    assert record.void == 255
    assert with_first_appearances(record).keep_ids in (None, {"00000": frozenset({1})})


@pytest.mark.parametrize("name", ["generic", "mose-valid", "lvos-valid", "youtubevos2019-valid", "davis2017-val"])
def test_a_blank_first_mask_gives_way_to_the_first_that_shows_an_object(tmp_path: Path, name: str):
    put_frames(tmp_path / "JPEGImages/a", ["00000", "00001", "00002"])
    for stem, ids in (("00000", (0,)), ("00001", (1,)), ("00002", (1,))):
        put_mask(tmp_path / "Annotations/a" / f"{stem}.png", *ids)
    put_text(tmp_path / "ImageSets/2017/val.txt", "a\n")
    put_text(tmp_path / "meta.json", '{"videos": {"a": {"objects": {"1": {"frames": ["00000", "00001", "00002"]}}}}}')
    (record,) = dataset(name, tmp_path)[1]
    found = with_first_appearances(record)
    assert found.masks == {"00001": tmp_path / "Annotations/a/00001.png"}
    assert found.keep_ids in (None, {"00001": frozenset({1})})
    assert not found.later


def test_an_empty_list_of_visor_has_no_sequences(tmp_path: Path):
    put_visor(tmp_path, ["P01_01_seq_00001"], "val")
    put_text(tmp_path / "ImageSets/2022/val_unseen.txt", "")
    assert dataset("visor-val-unseen", tmp_path)[1] == []


def test_long_ids_are_passed_on(tmp_path: Path):
    touch(tmp_path / "clip.mp4", tmp_path / "m.png")
    assert discover(tmp_path / "clip.mp4", tmp_path / "m.png", long_ids=True)[0].long_ids


# ------------------------------------------------------------------------------------------------------------ real data
@pytest.fixture
def real_data() -> Path:
    """The folder `data` of real clips; the test is skipped where there is none."""
    root = os.environ.get("CUTIE_GEO_TEST_DATA")
    if not root:
        pytest.skip("CUTIE_GEO_TEST_DATA is not set")
    return Path(root) / "data"


def test_real_davis_2016(real_data: Path):
    records = dataset("davis2016-train", real_data / "davis2016-train-270p")[1]
    assert len(records) == 30
    assert not any(record.problem for record in records)
    assert all(list(record.masks) == ["00000"] for record in records)
    assert sum(len(frame_stems(record.source)) for record in records) == 2079
    assert first_appearances(records[0].masks) == {"00000": frozenset({1})}


def test_real_youtube_clip(real_data: Path):
    (record,) = dataset("generic", real_data / "clips/penguins")[1]
    assert len(frame_stems(record.source)) == 15
    assert first_appearances(record.masks) == {"00000": frozenset({1, 2, 3, 4, 5})}
    (given,) = discover(real_data / "clips/penguins/JPEGImages", real_data / "clips/penguins/Annotations")
    assert len(given.masks) == 15
