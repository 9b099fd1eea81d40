"""What is checked before anything is sent, and what the zip files hold."""

import json
import logging
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_videos import SIZE, regions, torn_files, write_frames, write_mask, write_rgb_mask

from cutie_geo.data.index import VideoRecord
from cutie_geo.data.submission.archive import write_masks, write_visor
from cutie_geo.data.submission.check import folder_problems, given_ids, video_problems
from cutie_geo.data.submission.servers import SERVERS, records
from cutie_geo.data.submission.visor import INFO, read_names

VISOR_SIZE = (480, 854)
SEQUENCE = "P01_107_seq_00001"


def write_mose(root: Path, names: tuple[str, ...] = ("bear", "cat"), frames: int = 3) -> list[VideoRecord]:
    """MOSE with a few small videos, each with its first mask."""
    for name in names:
        write_frames(root / "valid" / "JPEGImages" / name, frames)
        write_mask(root / "valid" / "Annotations" / name / "00000.png")
    return records(SERVERS["mose"], root, "valid")


def write_results(folder: Path, found: list[VideoRecord]) -> Path:
    """A mask for every frame of every video."""
    for record in found:
        for path in sorted(record.source.iterdir()):
            write_mask(folder / record.name / f"{path.stem}.png")
    return folder


@pytest.fixture
def mose(tmp_path: Path) -> tuple[list[VideoRecord], Path]:
    found = write_mose(tmp_path / "MOSE")
    return found, write_results(tmp_path / "out", found)


def only_problem(found: list[VideoRecord], results: Path) -> str:
    """What is wrong with the first video, which is one thing."""
    (problem,) = video_problems(SERVERS["mose"], found[0], results)
    return problem


# -------------------------------------------------------------------------------------------------------------- a video
def test_complete_results_have_no_problems(mose: tuple[list[VideoRecord], Path]):
    found, results = mose
    assert [text for record in found for text in video_problems(SERVERS["mose"], record, results)] == []
    assert folder_problems(SERVERS["mose"], found, results) == []


def test_a_missing_mask_is_named(mose: tuple[list[VideoRecord], Path]):
    found, results = mose
    path = results / "bear" / "00001.png"
    path.unlink()
    assert only_problem(found, results) == f"{path}: missing"


def test_the_reference_mask_may_not_be_left_out_but_for_visor(mose: tuple[list[VideoRecord], Path]):
    found, results = mose
    (results / "bear" / "00000.png").unlink()
    assert only_problem(found, results).endswith("00000.png: missing")


def test_a_missing_folder_is_named(mose: tuple[list[VideoRecord], Path]):
    found, results = mose
    (results / "bear").rename(results.parent / "elsewhere")
    assert only_problem(found, results) == f"{results / 'bear'}: no such folder, expected the masks of this video"


def test_a_mask_of_another_size_is_named(mose: tuple[list[VideoRecord], Path]):
    found, results = mose
    path = write_mask(results / "bear" / "00001.png", regions(size=(32, 48)))
    assert only_problem(found, results) == f"{path}: mask is 48x32 pixels, expected {SIZE[1]}x{SIZE[0]}"


def test_ids_that_were_not_given_are_named(mose: tuple[list[VideoRecord], Path]):
    found, results = mose
    path = write_mask(results / "bear" / "00002.png", regions((1, 2, 7, 255)))
    assert only_problem(found, results) == f"{path}: ids 7, 255, expected prompted ids: 1, 2"


def test_void_in_the_given_mask_is_no_object(mose: tuple[list[VideoRecord], Path]):
    found, _ = mose
    write_mask(found[0].masks["00000"], regions((1, 255)))
    assert given_ids(found[0]) == {1}


@pytest.mark.parametrize(("kind", "named"), [("RGB", "RGB"), ("bits", "1"), ("16", "I;16"), ("grey", "")])
def test_masks_that_servers_misread_are_named(mose: tuple[list[VideoRecord], Path], kind: str, named: str):
    found, results = mose
    path, labels = results / "bear" / "00001.png", regions()
    if kind == "RGB":
        write_rgb_mask(path, labels)
    else:
        dtype = {"bits": bool, "16": np.uint16, "grey": np.uint8}[kind]
        Image.fromarray((labels == 1 if kind == "bits" else labels).astype(dtype)).save(path)
    if kind == "grey":
        assert video_problems(SERVERS["mose"], found[0], results) == []
    else:
        assert f"{path}: mask is {named}" in only_problem(found, results)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n"])
def test_a_damaged_mask_is_named(mose: tuple[list[VideoRecord], Path], content: bytes):
    found, results = mose
    path = results / "bear" / "00001.png"
    path.write_bytes(content)
    assert only_problem(found, results).startswith(f"{path}: cannot be read as a mask")


def test_a_mask_cut_off_in_the_middle_is_named(mose: tuple[list[VideoRecord], Path]):
    found, results = mose
    path = results / "bear" / "00001.png"
    path.write_bytes(path.read_bytes()[:-40])
    assert only_problem(found, results).startswith(f"{path}: cannot be read as a mask")


def test_greys_of_few_bits_are_named_since_others_read_them_otherwise(mose: tuple[list[VideoRecord], Path]):
    found, results = mose
    path = results / "bear" / "00001.png"
    path.write_bytes(grey_of_four_bits(regions()))
    assert only_problem(found, results).startswith(f"{path}: mask is L;4")


def grey_of_four_bits(labels: np.ndarray) -> bytes:
    """A PNG that Pillow can read and not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", labels.shape[1], labels.shape[0], 4, 0, 0, 0, 0)
    packed = (labels[:, ::2] << 4 | labels[:, 1::2]).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_files_that_no_frame_has_are_named(mose: tuple[list[VideoRecord], Path]):
    found, results = mose
    path = write_mask(results / "bear" / "00009.png")
    assert only_problem(found, results) == f"{path}: not expected, the benchmark has no such frame"
    path.rename(path.with_name(".hidden.png"))
    assert video_problems(SERVERS["mose"], found[0], results) == []


def test_a_video_that_could_not_be_segmented_says_why(tmp_path: Path):
    found = write_mose(tmp_path, ("bear",))
    (tmp_path / "valid" / "Annotations" / "bear" / "00000.png").unlink()
    (found,) = records(SERVERS["mose"], tmp_path, "valid")
    (problem,) = video_problems(SERVERS["mose"], found, tmp_path)
    assert problem.startswith("bear: ")
    assert "no masks" in problem


# ----------------------------------------------------------------------------------------------------------- the folder
def test_folders_and_files_that_no_video_has_are_named(mose: tuple[list[VideoRecord], Path]):
    found, results = mose
    write_mask(results / "dog" / "00000.png")
    write_mask(results / "00000.png")
    for name in ("run.json", "scores.csv", ".cutie_geo"):
        (results / name).touch()
    (results / "probs").mkdir()
    problems = folder_problems(SERVERS["mose"], found, results, known=("probs",))
    assert problems == [
        f"{results / name}: not expected, the benchmark has no such video" for name in ("00000.png", "dog")
    ]


def test_davis_is_told_that_its_server_refuses_a_single_folder(tmp_path: Path):
    write_frames(tmp_path / "JPEGImages" / "480p" / "bear")
    write_mask(tmp_path / "Annotations" / "480p" / "bear" / "00000.png")
    (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2017" / "test-dev.txt").write_text("bear\n")
    found = records(SERVERS["davis"], tmp_path, "test-dev")
    (problem,) = folder_problems(SERVERS["davis"], found, write_results(tmp_path / "out", found))
    assert "a zip with a single folder" in problem


def test_davis_at_full_resolution_is_refused(tmp_path: Path):
    write_frames(tmp_path / "JPEGImages" / "Full-Resolution" / "bear")
    write_mask(tmp_path / "Annotations" / "Full-Resolution" / "bear" / "00000.png")
    (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("bear\n")
    with pytest.raises(ValueError, match="no frames at 480p"):
        records(SERVERS["davis"], tmp_path, "val")


# -------------------------------------------------------------------------------------------------------------- layouts
def listed(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert {entry.date_time for entry in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        return file.namelist()


def test_mose_has_the_videos_at_the_top(mose: tuple[list[VideoRecord], Path], tmp_path: Path):
    found, results = mose
    assert write_masks(tmp_path / "m.zip", SERVERS["mose"], found, results) == 6
    names = listed(tmp_path / "m.zip")
    assert names == [f"{video}/{t:05d}.png" for video in ("bear", "cat") for t in range(3)]
    with zipfile.ZipFile(tmp_path / "m.zip") as file:
        assert all(file.read(name) == (results / name).read_bytes() for name in names)


def test_youtubevos_has_the_frames_of_its_list_below_annotations(tmp_path: Path):
    frames = write_frames(tmp_path / "valid" / "JPEGImages" / "a1", 5)
    write_mask(tmp_path / "valid" / "Annotations" / "a1" / "00000.png", regions((1,)))
    write_mask(tmp_path / "valid" / "Annotations" / "a1" / "00002.png", regions((1, 5, 9)))
    objects = {"1": {"frames": ["00000", "00002"]}, "5": {"frames": ["00002", "00004"]}}
    (tmp_path / "valid" / "meta.json").write_text(json.dumps({"videos": {"a1": {"objects": objects}}}))
    found = records(SERVERS["youtubevos"], tmp_path, "valid")
    for stem in ("00000", "00002", "00004"):
        write_mask(tmp_path / "out" / "a1" / f"{stem}.png", regions((1, 5)))
    assert video_problems(SERVERS["youtubevos"], found[0], tmp_path / "out") == []
    write_masks(tmp_path / "y.zip", SERVERS["youtubevos"], found, tmp_path / "out")
    assert listed(tmp_path / "y.zip") == [f"Annotations/a1/{stem}.png" for stem in ("00000", "00002", "00004")]
    write_mask(tmp_path / "out" / "a1" / "00004.png", regions((1, 5, 9)))
    (problem,) = video_problems(SERVERS["youtubevos"], found[0], tmp_path / "out")
    assert problem.endswith("ids 9, expected prompted ids: 1, 5"), "the list has no object 9, whatever a mask shows"
    (frames / "00000.jpg").unlink()
    (problem,) = video_problems(SERVERS["youtubevos"], found[0], tmp_path / "out")
    assert problem.endswith("no frame 00000, which the benchmark lists")


def test_lvos_has_the_videos_below_annotations(tmp_path: Path):
    frames = tmp_path / "val" / "JPEGImages" / "v"
    write_frames(frames, 2)
    for path in sorted(frames.iterdir()):
        path.rename(frames / f"{int(path.stem) * 5 + 1:08d}.jpg")
    for stem in ("00000001", "00000006"):
        write_mask(tmp_path / "val" / "Annotations" / "v" / f"{stem}.png")
    found = records(SERVERS["lvos"], tmp_path, "valid")
    results = write_results(tmp_path / "out", found)
    assert video_problems(SERVERS["lvos"], found[0], results) == []
    write_masks(tmp_path / "l.zip", SERVERS["lvos"], found, results)
    assert listed(tmp_path / "l.zip") == ["Annotations/v/00000001.png", "Annotations/v/00000006.png"]


def test_the_same_masks_make_the_same_bytes(mose: tuple[list[VideoRecord], Path], tmp_path: Path):
    found, results = mose
    write_masks(tmp_path / "1.zip", SERVERS["mose"], found, results)
    for path in results.rglob("*.png"):
        path.write_bytes(path.read_bytes())  # a later time, the same content
    write_masks(tmp_path / "2.zip", SERVERS["mose"], found, results)
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


def test_a_zip_that_fails_half_way_leaves_what_was_there(mose: tuple[list[VideoRecord], Path], tmp_path: Path):
    found, results = mose
    (tmp_path / "m.zip").write_bytes(b"before")
    (results / "cat" / "00001.png").unlink()
    with pytest.raises(OSError, match=r"00001\.png"):
        write_masks(tmp_path / "m.zip", SERVERS["mose"], found, results)
    assert (tmp_path / "m.zip").read_bytes() == b"before"
    assert torn_files(tmp_path) == []


# ---------------------------------------------------------------------------------------------------------------- VISOR
def write_visor_tree(root: Path, names: dict[str, str], size: tuple[int, int] = VISOR_SIZE) -> list[VideoRecord]:
    """VISOR in the layout of DAVIS, with one sequence of two frames."""
    stems = ["P01_107_frame_0000000140", "P01_107_frame_0000000190"]
    for stem in stems:
        path = root / "JPEGImages" / "480p" / SEQUENCE / f"{stem}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size[::-1]).save(path)
    write_mask(root / "Annotations" / "480p" / SEQUENCE / f"{stems[0]}.png", regions((1, 2), size))
    (root / "ImageSets" / "2022").mkdir(parents=True)
    (root / "ImageSets" / "2022" / "val.txt").write_text(SEQUENCE)
    (root / "val_data_mapping.json").write_text(json.dumps({SEQUENCE: names}))
    return records(SERVERS["visor"], root, "val")


def visor_json(path: Path) -> dict:
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == ["val.json"]
        return json.loads(file.read("val.json"))


def test_visor_is_one_json_file_of_named_polygons(tmp_path: Path):
    found = write_visor_tree(tmp_path / "V", {"1": "board", "2": "left hand"})
    results = tmp_path / "out"
    for path in sorted(found[0].source.iterdir()):
        write_mask(results / SEQUENCE / f"{path.stem}.png", regions((1, 2), VISOR_SIZE))
    assert video_problems(SERVERS["visor"], found[0], results) == []
    names = read_names(found, "val")
    assert write_visor(tmp_path / "val.zip", SERVERS["visor"], found, results, names) == 2
    content = visor_json(tmp_path / "val.zip")
    assert list(content) == ["info", "video_annotations"]
    assert content["info"] == INFO
    first = content["video_annotations"][0]
    assert first["image"] == {
        "image_path": "P01_107/P01_107_frame_0000000140.png",
        "name": "P01_107_frame_0000000140.png",
        "video": "P01_107",
        "subsequence": SEQUENCE,
    }
    assert [item["name"] for item in first["annotations"]] == ["board", "left hand"]


def test_visor_s_reference_may_be_left_out_and_nothing_else(tmp_path: Path):
    found = write_visor_tree(tmp_path / "V", {"1": "board", "2": "left hand"})
    first, second = sorted(path.stem for path in found[0].source.iterdir())
    path = write_mask(tmp_path / "out" / SEQUENCE / f"{second}.png", regions((1,), VISOR_SIZE))
    assert video_problems(SERVERS["visor"], found[0], tmp_path / "out") == []
    names = read_names(found, "val")
    assert write_visor(tmp_path / "val.zip", SERVERS["visor"], found, tmp_path / "out", names) == 1
    path.rename(path.with_name(f"{first}.png"))
    (problem,) = video_problems(SERVERS["visor"], found[0], tmp_path / "out")
    assert problem == f"{path}: missing"


def test_visor_wants_its_own_size_whatever_the_frames_have(tmp_path: Path):
    found = write_visor_tree(tmp_path / "V", {"1": "board"}, SIZE)
    results = write_results(tmp_path / "out", found)
    problems = video_problems(SERVERS["visor"], found[0], results)
    assert len(problems) == 2
    assert all(text.endswith("mask is 96x64 pixels, expected 854x480") for text in problems)


def test_what_visor_s_mapping_does_not_name_is_skipped_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    found = write_visor_tree(tmp_path / "V", {"1": "board"})
    results = tmp_path / "out"
    for path in sorted(found[0].source.iterdir()):
        write_mask(results / SEQUENCE / f"{path.stem}.png", regions((1, 2, 9), VISOR_SIZE))
    assert video_problems(SERVERS["visor"], found[0], results) == []
    with caplog.at_level(logging.WARNING):
        write_visor(tmp_path / "val.zip", SERVERS["visor"], found, results, read_names(found, "val"))
    assert [record.getMessage() for record in caplog.records] == [
        f"{SEQUENCE}: object {label} skipped in 2 frames: the mapping has no name for it" for label in (2, 9)
    ]
    for entry in visor_json(tmp_path / "val.zip")["video_annotations"]:
        assert [item["name"] for item in entry["annotations"]] == ["board"]


def test_a_frame_without_objects_still_gets_its_entry(tmp_path: Path):
    found = write_visor_tree(tmp_path / "V", {"1": "board"})
    for path in sorted(found[0].source.iterdir()):
        write_mask(tmp_path / "out" / SEQUENCE / f"{path.stem}.png", np.zeros(VISOR_SIZE, np.int32))
    write_visor(tmp_path / "val.zip", SERVERS["visor"], found, tmp_path / "out", read_names(found, "val"))
    assert [entry["annotations"] for entry in visor_json(tmp_path / "val.zip")["video_annotations"]] == [[], []]


@pytest.mark.parametrize("content", ["[]", '{"a": 3}', "{"])
def test_a_mapping_that_is_none_is_refused(tmp_path: Path, content: str):
    found = write_visor_tree(tmp_path, {})
    (tmp_path / "val_data_mapping.json").write_text(content)
    with pytest.raises(ValueError, match=r"val_data_mapping\.json: "):
        read_names(found, "val")


def test_a_missing_mapping_is_named(tmp_path: Path):
    found = write_visor_tree(tmp_path, {})
    (tmp_path / "val_data_mapping.json").unlink()
    with pytest.raises(ValueError, match=r"val_data_mapping\.json: not found"):
        read_names(found, "val")
