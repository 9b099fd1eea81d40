"""Points and boxes are read as they are meant, or refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest
from toy_videos import SIZE, write_film, write_frames, write_mask

from cutie_geo.data.prompts import FIRST, prompts_of_words, read_prompts
from cutie_geo.data.video import read_video
from cutie_geo.structures import Prompt

BOX = (1.0, 2.0, 30.0, 40.0)


def test_words_belong_to_the_object_and_frame_named_before_them() -> None:
    words = [("point", "3,4"), ("object", "7"), ("box", "1,2,30,40"), ("point", "5,6,0"), ("frame", "00002"),
             ("point", "8,9"), ("object", "7"), ("point", "1.5,2")]  # fmt: skip
    assert prompts_of_words(words) == {
        FIRST: {1: Prompt(((3.0, 4.0, 1),)), 7: Prompt(((5.0, 6.0, 0),), BOX)},
        "00002": {1: Prompt(((8.0, 9.0, 1),)), 7: Prompt(((1.5, 2.0, 1),))},
    }
    assert prompts_of_words([]) == {}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([("point", "3;4")], "--point: got '3;4', expected numbers"),
        ([("point", "3")], "--point 3: expected x,y or x,y,label"),
        ([("point", "3,4,2")], "--point 3,4,2: got label 2, expected 1 for positive or 0 for negative"),
        ([("point", "nan,4")], "--point nan,4: expected finite numbers"),
        ([("point", "3,4,0")], "--object 1: got negative points only"),
        ([("box", "1,2,3")], "--box 1,2,3: expected x0,y0,x1,y1"),
        ([("box", "5,2,3,9")], "--box 5,2,3,9: expected the upper left corner first"),
        ([("box", "1,2,3,4"), ("box", "1,2,3,5")], "--object 1: got 2 boxes"),
        ([("object", "0"), ("point", "3,4")], "--object: got object '0', expected a number from 1"),
        ([("object", "x")], "--object: got object 'x'"),
        ([("object", "2"), ("point", "3,4"), ("object", "2")], "--object: got 2 twice, expected each once"),
        ([("object", "2")], "--object 2: got no prompt"),
        ([("point", "3,4"), ("frame", "5")], "--frame 5: got no --point or --box after it; expected --frame before"),
        ([("box", "1,2,3,4"), ("frame", "5")], "--frame 5: got no --point or --box after it"),
        ([("frame", "4"), ("frame", "5"), ("point", "3,4")], "--frame 4: got no --point or --box after it"),
        ([("frame", "5")], "--frame 5: got no --point or --box after it"),
        ([("frame", "5"), ("object", "2")], "--object 2 on frame 5: got no prompt"),
    ],
)
def test_words_that_mean_nothing_are_refused(words: list[tuple[str, str]], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        prompts_of_words(words)


def test_a_file_says_the_same_by_frame_and_object(tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps({"00001": {"1": {"points": [[3, 4], [5, 6.5, 0]], "box": [1, 2, 30, 40]}}}))
    assert read_prompts(file) == {"00001": {1: Prompt(((3.0, 4.0, 1), (5.0, 6.5, 0)), BOX)}}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "cannot be read as prompts"),
        ("[]", "expected an object of frames"),
        ("{}", "expected an object of frames"),
        ('{"0": {}}', "0: expected an object of object ids"),
        ('{"0": {"1": {"points": [[1, 2]]}, "1": {"points": [[1, 2]]}}}', "got 1 twice"),
        ('{"0": {"1": {"points": [[1, 2]]}}, "0": {"2": {"points": [[1, 2]]}}}', "got 0 twice"),
        ('{"0": {"1": {"points": [[1, 2]]}, "01": {"points": [[1, 2]]}}}', "0: got object 1 twice"),
        ('{"0": {"1": {"dots": [[1, 2]]}}}', "0: 1: unknown dots; expected points and box"),
        ('{"0": {"1": {"points": [[1, "2"]]}}}', "0: 1: points: got .* expected a list of numbers"),
        ('{"0": {"1": {"points": 3}}}', "points: expected a list of"),
        ('{"0": {"1": {}}}', "0: 1: got no prompt"),
        ('{"0": {"1": {"points": [[1, 1' + "0" * 400 + "]]}}}", "0: 1: points: expected finite numbers"),
        ('{"0": {"-1": {"points": [[1, 2]]}}}', "got object '-1'"),
    ],
)
def test_files_that_mean_nothing_are_refused_by_name(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "prompts.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"prompts.json.*{told}"):
        read_prompts(file)
    with pytest.raises(ValueError, match=r"nowhere.json: cannot be read as prompts: No such file"):
        read_prompts(tmp_path / "nowhere.json")


@pytest.mark.parametrize("kind", ["folder", "film"])
def test_frames_come_with_their_prompts(tmp_path: Path, kind: str) -> None:
    source = write_frames(tmp_path / "bear", 3) if kind == "folder" else write_film(tmp_path / "bear.mp4", 3)
    here, later = {1: Prompt(((3.0, 4.0, 1),))}, {2: Prompt((), BOX)}
    for last in ("00002", "2"):
        frames = list(read_video(source, prompts={FIRST: here, last: later}))
        assert [frame.prompts for frame in frames] == [here, None, later]


@pytest.mark.parametrize("kind", ["folder", "film"])
@pytest.mark.parametrize("frame", ["00009", "3", "last"])
def test_a_prompt_of_a_missing_frame_is_an_error_before_a_frame_is_read(tmp_path: Path, kind: str, frame: str) -> None:
    source = write_frames(tmp_path / "bear", 3) if kind == "folder" else write_film(tmp_path / "bear.mp4", 3)
    with pytest.raises(ValueError, match=rf"prompts: no frame {frame} in .*bear.*; frames .*00000 to 00002"):
        read_video(source, prompts={frame: {1: Prompt((), BOX)}})


@pytest.mark.parametrize(
    ("prompts", "told"),
    [
        ({"00009": {1: Prompt(((3.0, 4.0, 1),))}}, "prompts: no frame 00009"),
        ({FIRST: {1: Prompt(((3.0, 4.0, 1),))}, "00000": {2: Prompt((), BOX)}}, "frame 00000 of .* twice"),
        ({"00002": {3: Prompt(((float(SIZE[1]) + 1, 4.0, 1),))}}, r"object 3 on frame 00002: got \(97, 4\)"),
        (
            {FIRST: {3: Prompt((), (0.0, 0.0, 5.0, 65.0))}},
            r"object 3 on frame 00000: got \(5, 65\), expected it within 96x64",
        ),
    ],
)
def test_prompts_without_a_place_are_refused(tmp_path: Path, prompts: dict, told: str) -> None:
    """Before a frame is segmented, even those of later frames."""
    frames = write_frames(tmp_path / "bear", 3)
    with pytest.raises(ValueError, match=told):
        next(read_video(frames, prompts=prompts))


def test_masks_and_prompts_share_a_video(tmp_path: Path) -> None:
    frames, mask = write_frames(tmp_path / "bear", 2), np.zeros(SIZE, np.uint8)
    mask[5:20, 5:20] = 4
    write_mask(tmp_path / "first.png", mask)
    first, second = read_video(frames, tmp_path / "first.png", prompts={"00001": {1: Prompt((), BOX)}})
    assert first.given is not None
    assert (first.prompts, second.given, second.prompts) == (None, None, {1: Prompt((), BOX)})


def test_negative_points_alone_correct_an_object_that_another_frame_shows(tmp_path: Path) -> None:
    words = [("point", "3,4"), ("frame", "00002"), ("point", "5,6,0")]
    assert prompts_of_words(words)["00002"] == {1: Prompt(((5.0, 6.0, 0),))}
    with pytest.raises(ValueError, match="--object 2 on frame 00002: got negative points only"):
        prompts_of_words([*words[:2], ("object", "2"), *words[2:]])
    file = tmp_path / "prompts.json"
    file.write_text('{"0": {"1": {"box": [1, 1, 9, 9]}}, "1": {"1": {"points": [[5, 6, 0]]}}}')
    assert read_prompts(file)["1"] == {1: Prompt(((5.0, 6.0, 0),))}
