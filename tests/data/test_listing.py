"""Promises of data/listing.py: natural order, frames apart from masks, suffixes in any case, names that are numbers."""

import logging
from pathlib import Path

import pytest

from cutie_geo.data.listing import (
    MASK_SUFFIXES,
    FrameNames,
    files_by_stem,
    frame_files,
    left_out,
    mask_path,
    natural_order,
    read_text,
)


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (["10", "11", "8", "9"], ["8", "9", "10", "11"]),
        (["f10", "f9", "e11"], ["e11", "f9", "f10"]),
        (["1_10", "1_9", "01_9"], ["01_9", "1_9", "1_10"]),
        (["00010", "00009"], ["00009", "00010"]),
        (["b", "", "a1", "a"], ["", "a", "a1", "b"]),
        (["9" * 5000, "1" * 5000, "7"], ["7", "1" * 5000, "9" * 5000]),
    ],
)
def test_numbers_in_names_compare_as_numbers(names: list[str], ordered: list[str]) -> None:
    assert natural_order(names) == ordered
    assert natural_order(reversed(names)) == ordered


def test_names_with_numbers_of_one_length_keep_the_order_of_text() -> None:
    names = [f"P01_107_frame_{n:010d}" for n in (800, 45, 12000)] + [f"img_{n:07d}" for n in (9, 10, 100)]
    assert natural_order(names) == sorted(names)


def test_an_order_that_differs_from_that_of_text_is_said_once_for_folders_beside_each_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for video in ("a", "b"):
        files = frame_files(touch(tmp_path / "videos" / video, "9.jpg", "10.JPG", "11.Ppm"))
        assert list(files) == ["9", "10", "11"]
    frame_files(touch(tmp_path / "padded" / "c", "09.jpg", "10.jpg"))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "in the order of their numbers, 9 before 10" in record.message


@pytest.mark.parametrize(
    ("given", "names", "frames"),
    [
        ("mask.png", ["00000.jpg", "00001.jpg"], ["00000", "00001"]),
        ("00000.png", ["00000.jpg", "00001.jpg"], ["00000", "00001"]),
        ("00000_mask.png", ["00000.jpg", "00000_mask.png", "00001.jpg", "00001_mask.png"], ["00000", "00001"]),
        ("00000_mask.png", ["00000.png", "00000_mask.png", "00001.png", "00001_mask.png"], ["00000", "00001"]),
        ("mask_1.png", ["1.png", "2.png", "mask_1.png", "mask_2.png"], ["1", "2"]),
        ("first.PNG", ["0.png", "1.png"], ["0", "1"]),
    ],
)
def test_a_given_mask_is_never_a_frame_nor_are_files_like_it(
    tmp_path: Path, given: str, names: list[str], frames: list[str]
) -> None:
    folder = touch(tmp_path / "v", *names, given)
    assert list(frame_files(folder, masks=[folder / given])) == frames
    elsewhere = touch(tmp_path / "m", given)
    if given not in names:
        stem = Path(given).stem
        assert stem in frames or stem in frame_files(folder, masks=[elsewhere / given]), (
            "a mask elsewhere hides nothing"
        )


def test_a_link_to_a_file_among_the_frames_is_that_file(tmp_path: Path) -> None:
    folder = touch(tmp_path / "v", "0.png", "1.png", "m.png")
    (tmp_path / "first.png").symlink_to(folder / "m.png")
    assert list(frame_files(folder, masks=[tmp_path / "first.png"])) == ["0", "1"]


def test_what_is_left_out_is_named_but_for_the_system_s_own(tmp_path: Path) -> None:
    folder = touch(tmp_path, "0.jpg", "notes.txt", "Thumbs.db", ".DS_Store", "m.png", "a.heic")
    files = frame_files(folder, masks=[folder / "m.png"])
    assert left_out(folder, files.values(), [folder / "m.png"]) == ["a.heic", "notes.txt"]


def test_suffixes_count_in_any_case(tmp_path: Path) -> None:
    folder = touch(tmp_path, "2.PNG", "1.png", "10.Png")
    assert list(files_by_stem(folder, MASK_SUFFIXES)) == ["1", "2", "10"]
    assert mask_path(folder, "10") == folder / "10.Png"
    assert mask_path(folder, "3") == folder / "3.png"
    touch(folder, "1.PNG")
    with pytest.raises(ValueError, match="two files for 1"):
        files_by_stem(folder, MASK_SUFFIXES)


def test_a_name_finds_its_frame_by_number() -> None:
    plain, long = FrameNames(["00000", "00005", "00010"]), FrameNames([f"frame_{i:04d}" for i in range(3)])
    assert [plain.find(name) for name in ("00005", "5", "000005", "6", "x5", "")] == ["00005"] * 3 + [None] * 3
    assert [long.find(name) for name in ("2", "frame_2", "00002", "f_2", "3")] == ["frame_0002"] * 3 + [None] * 2
    assert FrameNames(["a1", "b1"]).find("1") is None
    assert FrameNames(["1", "01"]).find("001") is None, "two frames of one number"
    assert plain.find("9" * 5000) is None


def test_text_is_read_without_its_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("bear\n", encoding="utf-8-sig")
    assert read_text(tmp_path / "list.txt") == "bear\n"
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"list\.txt: cannot be read: not UTF-8"):
        read_text(tmp_path / "list.txt")
