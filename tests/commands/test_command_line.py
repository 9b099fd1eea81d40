"""The command line of infer and train: the source without an option, short and complete help, earlier names."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from toy_videos import SIZE, contents, read_ids, summary, tiny_options, write_film, write_frames, write_mask

from cutie_geo import __version__
from cutie_geo.__main__ import main, run_one

Said = pytest.CaptureFixture[str]
COMMON = {
    "infer": "--mask --point --box --dataset --data-root --output --overlay --model --device --max-internal-size",
    "train": "--stage --recipe --config --finetune --model --weights --data-root --output --resume --dry-run",
}
"""The ten options that --help shows."""


def infer(folder: Path, *argv: object) -> int:
    return run_one("infer", [*map(str, argv), *tiny_options(folder)])


def status_of(command: str, argv: list[str]) -> object:
    """Run a command; return its exit status, also that of argparse's errors."""
    try:
        return run_one(command, argv)
    except SystemExit as left:
        return left.code


def printed(capsys: Said, *argv: str) -> str:
    with pytest.raises(SystemExit) as left:
        main(argv)
    assert left.value.code == 0
    return capsys.readouterr().out


def names(text: str) -> list[str]:
    """Return the long option at the start of each entry of a help text."""
    found = (re.match(r"  (?:-\w(?: \S+)?, )?(--[a-z][a-z-]*)", line) for line in text.splitlines())
    return [match[1] for match in found if match]


# ---------------------------------------------------------------------------------------------------------- the source
@pytest.mark.slow
@pytest.mark.parametrize("source", ["clip.mp4", "frames", "./a=b.mp4"])
def test_the_source_needs_no_option(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_film(tmp_path / "clip.mp4", 2)
    (tmp_path / "a=b.mp4").symlink_to(tmp_path / "clip.mp4")
    write_frames(tmp_path / "frames", 2)
    write_mask(tmp_path / "first.png")
    assert infer(tmp_path, source, "--mask", "first.png", "-o", "short", "mem_every=3") == 0
    assert infer(tmp_path, "mem_every=3", "--video", source, "--mask", "first.png", "--output", "long") == 0
    assert contents(tmp_path / "short" / "Annotations") == contents(tmp_path / "long" / "Annotations")
    assert len(contents(tmp_path / "short" / "Annotations")) == 2
    assert summary(tmp_path / "short")["settings"]["tracker"]["mem_every"] == 3


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["clip.mp4", "first.png"], "first.png: expected an option such as --mask before it, or key=value"),
        (["--video", "clip.mp4", "first.png"], "first.png: expected an option such as --mask before it"),
        (["clip.mp4", "--dataset", "davis2016-val"], "--video and --dataset: expected one of them"),
        (["nowhere.mp4", "--mask", "first.png"], "nowhere.mp4: no such file or folder"),
        (["clip.mp4", "--mask", "first.png", "mem_evry=3"], "unknown mem_evry"),
    ],
)
def test_words_without_an_option_that_make_no_sense_are_one_line(
    argv: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    monkeypatch.chdir(tmp_path)
    write_film(tmp_path / "clip.mp4", 1)
    write_mask(tmp_path / "first.png")
    assert infer(tmp_path, *argv, "-o", "out") == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("error:") == 1


# ---------------------------------------------------------------------------------------------------------------- help
@pytest.mark.parametrize("command", sorted(COMMON))
def test_help_shows_the_common_options_and_where_the_others_are(command: str, capsys: Said) -> None:
    short = printed(capsys, command, "--help")
    complete = printed(capsys, command, "--help-all")
    shown = names(short[short.index("common options:") :])
    assert set(shown) == set(COMMON[command].split())
    assert len(shown) == 10
    always = {"--help", "--help-all"}
    others = [name for name in names(complete[complete.index("common options:") :]) if name not in shown]
    others += sorted(set(names(complete)) - set(shown) - set(others) - always)
    assert len(others) > 8
    assert f"{len(others)} more options: cutie-geo {command} --help-all" in short
    assert complete.index("common options:") < complete.index(f"  {others[0]}")
    assert "key=value" in short


def test_every_program_tells_its_version(capsys: Said) -> None:
    for name in ("infer", "train", "evaluate", "export"):
        with pytest.raises(SystemExit) as left:
            run_one(name, ["--version"])
        assert left.value.code == 0
        assert capsys.readouterr().out == f"cutie-geo {__version__}\n"


# ------------------------------------------------------------------------------------------------------- earlier names
@pytest.mark.slow
def test_coefficients_go_by_their_earlier_names_with_a_warning(tmp_path: Path, capsys: Said) -> None:
    frames, mask = write_frames(tmp_path / "bear", 1), write_mask(tmp_path / "m.png")
    first, options = tiny_options(tmp_path)[1], tiny_options(tmp_path)[2:]
    second = str(tmp_path / "other.yaml")
    Path(second).write_text(Path(first).read_text())
    common = [str(frames), "--mask", str(mask), *options]
    both = ["-o", str(tmp_path / "out"), "--models", first, second, "--model-weights", "3", "1"]
    assert run_one("infer", [*common, *both]) == 0
    warning = "WARNING: --model-weights is now --coefficients; the earlier name will be removed\n"
    assert capsys.readouterr().err.count(warning) == 1
    assert summary(tmp_path / "out")["settings"]["models"] == {"weights": [3.0, 1.0]}
    runs = [str(tmp_path / "a"), str(tmp_path / "b")]
    for model, folder in zip((first, second), runs):
        assert run_one("infer", [*common, "-o", folder, "--model", model, "--save-probs"]) == 0
    assert run_one("fuse", [*runs, "-o", str(tmp_path / "fused"), "--weights", "3", "1"]) == 0
    assert "WARNING: --weights is now --coefficients" in capsys.readouterr().err
    assert summary(tmp_path / "fused")["weights"] == [0.75, 0.25]


def test_earlier_names_are_not_in_the_help(capsys: Said) -> None:
    for command, name in (("infer", "--model-weights"), ("fuse", "--weights")):
        assert name not in names(printed(capsys, command, "--help" if command == "fuse" else "--help-all"))


# ------------------------------------------------------------------------------------- annotations of other programs
SQUARE = (30.0, 10.0, 60.0, 40.0)
"""x0, y0, x1, y1 of the object in frame 00001."""


def write_annotations(form: str, folder: Path) -> Path:
    """Write one square in frame 00001 in the form of another program; return its path."""
    x0, y0, x1, y1 = SQUARE
    height, width = SIZE
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    if form == "coco":
        path = folder / "objects.json"
        annotation = {"id": 1, "image_id": 1, "category_id": 1, "track_id": 7}
        annotation |= {"segmentation": [[value for corner in corners for value in corner]]}
        content = {
            "images": [{"id": 1, "file_name": "00001.jpg", "width": width, "height": height}],
            "annotations": [annotation],
            "categories": [{"id": 1, "name": "knife"}],
        }
        path.write_text(json.dumps(content))
        return path
    if form == "cvat":
        path = folder / "objects.xml"
        points = ";".join(f"{x},{y}" for x, y in corners)
        size = f"<original_size><width>{width}</width><height>{height}</height></original_size>"
        shape = f'<polygon frame="1" outside="0" keyframe="1" points="{points}"/>'
        track = f'<track id="0" label="knife" group_id="7">{shape}</track>'
        path.write_text(f"<annotations><meta><task>{size}</task></meta>{track}</annotations>")
        return path
    path = folder / "labels"
    path.mkdir()
    line = " ".join(f"{x / width} {y / height}" for x, y in corners)
    (path / "00001.txt").write_text(f"0 {line}\n")
    return path


@pytest.mark.parametrize("form", ["coco", "cvat", "yolo"])
def test_annotations_of_other_programs_are_prompts(form: str, tmp_path: Path) -> None:
    frames, annotations = write_frames(tmp_path / "bear", 3), write_annotations(form, tmp_path)
    assert infer(tmp_path, frames, "--mask", annotations, "--direction", "forward", "-o", tmp_path / "out") == 0
    masks = [read_ids(tmp_path / "out" / "Annotations" / "bear" / f"{t:05d}.png") for t in range(3)]
    assert not masks[0].any()  # before the first annotated frame
    (object_id,) = set(np.unique(masks[1])) - {0}
    assert object_id == (1 if form == "yolo" else 7)
    x0, y0, x1, y1 = map(int, SQUARE)
    square = np.zeros(SIZE, bool)
    square[y0:y1, x0:x1] = True
    overlap = (masks[1] > 0) & square
    assert overlap.sum() / ((masks[1] > 0) | square).sum() > 0.9
    assert set(np.unique(masks[2])) <= {0, object_id}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "{}", "categories"),
        ("a.json", "[" * 5000, "nested"),
        ("a.xml", "<annotations>", "XML"),
    ],
)
def test_annotations_that_are_none_are_one_line(name: str, text: str, words: str, tmp_path: Path, capsys: Said) -> None:
    frames = write_frames(tmp_path / "bear", 1)
    (tmp_path / name).write_text(text)
    assert infer(tmp_path, frames, "--mask", tmp_path / name, "-o", tmp_path / "out") == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(said) == 1
    assert name in said[0]
    assert words.lower() in said[0].lower()


# ------------------------------------------------------------------------------------------- texts that name nothing
@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([""], "source: got an empty text"),
        (["", "--mask", "first.png"], "source: got an empty text, expected a path, a camera's number or a URL"),
        (["--video", "", "--mask", "first.png"], "source: got an empty text, expected a path"),
        (["frames", "--mask", ""], "argument --mask: got an empty text, expected a path"),
        (["frames", "--mask", "first.png", "-o", ""], "argument --output/-o: got an empty text, expected a path"),
    ],
)
def test_an_unset_variable_of_the_shell_is_not_the_current_folder(
    argv: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    write_frames(tmp_path / "frames", 2)
    write_mask(tmp_path / "first.png")
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    assert status_of("infer", argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert contents(tmp_path) == before


@pytest.mark.parametrize("which", ["source", "mask", "output", "frame"])
def test_links_that_lead_to_themselves_are_one_line(which: str, tmp_path: Path, capsys: Said) -> None:
    frames, mask = write_frames(tmp_path / "clip", 2), write_mask(tmp_path / "first.png")
    loop = frames / "00009.jpg" if which == "frame" else tmp_path / "loop.png"
    loop.symlink_to(loop)
    given = {"source": frames, "mask": mask, "output": tmp_path / "out"}
    if which != "frame":
        given[which] = loop
    assert infer(tmp_path, given["source"], "--mask", given["mask"], "--output", given["output"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert str(loop) in line


def test_an_option_with_a_wrong_value_is_not_called_misspelt(capsys: Said) -> None:
    assert status_of("infer", ["clip.mp4", "--direction", "up"]) == 2
    said = capsys.readouterr().err
    assert "argument --direction: invalid choice: 'up'" in said
    assert "did you mean" not in said
