"""`cutie-geo convert`: options in, folders and a few lines out."""

import json
from pathlib import Path

import pytest
from published import burst_content, jpeg, ovis_content, square, visor_frame, write_visor

from cutie_geo.__main__ import main
from cutie_geo.data.convert.run import parse_size

A = [square(10, 10, 300)]


def visor(root: Path, *more: str) -> list[str]:
    where = ["--annotations", f"{root}/annotations", "--frames", f"{root}/frames", "--output", f"{root}/out"]
    return ["convert", "visor", *where, "--split", "val", *more]


def test_visor_is_converted_and_what_was_dropped_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = [visor_frame(i, {"a": A}) for i in (1, 2)]
    empty_first = [visor_frame(i, {"a": [] if i == 3 else A}, 2) for i in (3, 4, 5)]
    too_short = [visor_frame(6, {"a": A}, 3), visor_frame(7, {"b": A}, 3)]
    write_visor(tmp_path, [*good, *empty_first, *too_short])
    assert main(visor(tmp_path, "--size", "64x36")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"visor val: 1 sequences, 2 frames of 1 videos -> {tmp_path / 'out' / 'VISOR_2022'}"
    assert lines[1] == "dropped 1 sequences, fewer than 2 frames with masks: P01_01_seq_00003"
    assert lines[2] == "dropped 1 sequences, no object in the first frame: P01_01_seq_00002"
    assert lines[3].startswith("dropped 1 frames, no object of the subsequence is visible: P01_01_seq_00003/")
    assert lines[4].startswith("2 frames in ")
    assert lines[4].endswith("frames/s")
    assert (tmp_path / "out/VISOR_2022/JPEGImages/36p/P01_01_seq_00001/P01_01_frame_0000000001.jpg").is_file()
    assert main(visor(tmp_path, "--size", "64x36")) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("2 were already there")
    assert main(visor(tmp_path, "--size", "64x36", "--official-quirks")) == 0
    assert capsys.readouterr().out.startswith("visor val: 2 sequences, 4 frames of 1 videos")


def test_ovis_and_burst_are_converted(tmp_path: Path) -> None:
    (tmp_path / "ovis.json").write_text(json.dumps(ovis_content()))
    (tmp_path / "burst.json").write_text(json.dumps(burst_content()))
    for i in (1, 2, 3):
        jpeg(tmp_path / "frames" / "abc" / f"img_{i:07d}.jpg", (4, 6))
        jpeg(tmp_path / "frames" / "AVA" / "film one" / f"f{i}.jpg", (4, 6))
    for name, more in (("ovis", ["--images", "copy"]), ("burst", ["--all-frames"])):
        where = ["--annotations", f"{tmp_path}/{name}.json", "--frames", f"{tmp_path}/frames"]
        assert main(["convert", name, *where, "--output", f"{tmp_path}/{name}", "--split", "train", *more]) == 0
    images = {name: sorted((tmp_path / name / "JPEGImages").rglob("*.jpg")) for name in ("ovis", "burst")}
    assert [len(files) for files in images.values()] == [3, 3]
    assert [files[0].is_symlink() for files in images.values()] == [False, True]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (
            ["visor", "--split", "val", "--images", "copy"],
            "--images: got visor, whose frames are resized; expected ovis or burst",
        ),
        (["visor", "--split", "val", "--all-frames"], "--all-frames: got visor, expected burst"),
        (["visor", "--split", "val", "--size", "854"], "--size: got '854', expected WIDTHxHEIGHT"),
        (["visor", "--split", "val", "--size", "1x1"], "size: got"),
        (["visor", "--split", "valid"], "split: got 'valid'"),
        (["visor", "--split", "val", "--workers", "0"], "workers: got 0"),
        (["ovis", "--split", "train", "--size", "854x480"], "--size: got ovis, expected visor"),
        (["ovis", "--split", "train", "--all-frames"], "--all-frames: got ovis, expected burst"),
        (["burst", "--split", "train", "--official-quirks"], "--official-quirks: got burst, expected visor"),
        (["burst", "--split", "valid"], "split: got 'valid'"),
    ],
)
def test_options_that_make_no_sense_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], what: str
) -> None:
    where = ["--annotations", str(tmp_path), "--frames", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main(["convert", *options, *where]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {what}")
    assert not (tmp_path / "out").exists()


def test_annotations_and_folders_that_lack_end_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = ["--frames", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main(["convert", "visor", "--split", "val", *frames]) == 2
    assert main(["convert", "visor", "--split", "val", "--annotations", str(tmp_path / "none"), *frames]) == 2
    assert main(["convert", "visor", "--split", "val", "--annotations", str(tmp_path), *frames]) == 2
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == "error: visor val: got no annotations, expected --annotations"
    assert second == f"error: {tmp_path / 'none'}: no such file or folder"
    assert third.startswith(f"error: {tmp_path}: no annotations, expected files <video>.json")


def test_sizes_are_width_by_height() -> None:
    assert parse_size("854x480") == (480, 854)
