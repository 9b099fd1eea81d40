"""`cutie-geo submit`, and the program inside VISOR's container, as their users meet them."""

import json
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_videos import contents, look, read_ids, regions, tiny_options, torn_files, write_frames, write_mask
from visor_polygons import fill_segments

from cutie_geo.__main__ import main
from cutie_geo.runs import submit

Said = pytest.CaptureFixture[str]
Submit = Callable[..., int]

REPOSITORY = Path(__file__).parents[2]
DOCKER = REPOSITORY / "docker" / "visor"
SIZE = (480, 854)
SEQUENCES = ("P01_107_seq_00001", "P09_02_seq_00003")


def write_visor(root: Path, split: str = "val", frames: int = 2) -> Path:
    """VISOR in the layout of DAVIS, with two sequences and their first masks."""
    for sequence in SEQUENCES:
        folder = write_frames(root / "JPEGImages" / "480p" / sequence, frames, SIZE)
        film = sequence.split("_seq_")[0]
        stems = [f"{film}_frame_{t * 60 + 7:010d}" for t in range(frames)]
        for path, stem in zip(sorted(folder.iterdir()), stems):
            path.rename(folder / f"{stem}.jpg")
        write_mask(root / "Annotations" / "480p" / sequence / f"{stems[0]}.png", regions((1, 2), SIZE))
    (root / "ImageSets" / "2022").mkdir(parents=True)
    (root / "ImageSets" / "2022" / f"{split}.txt").write_text("\n".join(reversed(SEQUENCES)))
    names = {sequence: {"1": "board", "2": "left hand"} for sequence in SEQUENCES}
    (root / f"{split}_data_mapping.json").write_text(json.dumps(names))
    return root


def write_results(folder: Path, root: Path) -> Path:
    """Masks with holes and single pixels for every frame of VISOR."""
    random = np.random.default_rng(0)
    for path in sorted((root / "JPEGImages" / "480p").rglob("*.jpg")):
        labels = np.kron(random.integers(0, 3, (60, 107)), np.ones((8, 8), np.int32))[: SIZE[0], : SIZE[1]]
        labels[random.random(SIZE) < 0.01] = 0
        write_mask(folder / path.parent.name / f"{path.stem}.png", labels)
    return folder


@pytest.fixture
def visor(tmp_path: Path) -> Path:
    return write_visor(tmp_path / "VISOR_2022")


@pytest.fixture
def send(tmp_path: Path, visor: Path) -> Submit:
    """`submit visor` of the folder `out` into `val.zip`."""
    options = ["--pred", tmp_path / "out", "--data-root", visor, "--output", tmp_path / "val.zip"]
    return lambda *argv: main(["submit", "visor", *map(str, options), *map(str, argv)])


def errors(said: Said) -> list[str]:
    return [line for line in said.readouterr().err.splitlines() if line.startswith("error:")]


# -------------------------------------------------------------------------------------------------------------- submit
@pytest.mark.slow
def test_every_mask_of_visor_can_be_filled_back_from_the_zip(send: Submit, tmp_path: Path, visor: Path, capsys: Said):
    results = write_results(tmp_path / "out", visor)
    assert send() == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"written: {tmp_path / 'val.zip'}"
    with zipfile.ZipFile(tmp_path / "val.zip") as file:
        entries = json.loads(file.read("val.json"))["video_annotations"]
    assert [entry["image"]["subsequence"] for entry in entries] == [SEQUENCES[0]] * 2 + [SEQUENCES[1]] * 2
    for entry in entries:
        labels = np.zeros(SIZE, np.int32)
        for item in entry["annotations"]:
            labels[fill_segments(item["segments"], SIZE)] = {"board": 1, "left hand": 2}[item["name"]]
        path = results / entry["image"]["subsequence"] / entry["image"]["name"]
        assert (labels == read_ids(path)).all()


def test_what_infer_wrote_is_taken_with_its_masks_and_by_them(send: Submit, tmp_path: Path, visor: Path):
    results = write_results(tmp_path / "out" / "Annotations", visor)
    (tmp_path / "out" / "run.json").write_text("{}")
    (tmp_path / "out" / "scores.txt").write_text("mine")
    assert send() == 0
    first = (tmp_path / "val.zip").read_bytes()
    assert send("--pred", results) == 0
    assert (tmp_path / "val.zip").read_bytes() == first


@pytest.mark.slow
def test_the_same_results_make_the_same_bytes(send: Submit, tmp_path: Path, visor: Path):
    write_results(tmp_path / "out", visor)
    assert send() == 0
    first = (tmp_path / "val.zip").read_bytes()
    assert send("--workers", 4) == 0
    assert (tmp_path / "val.zip").read_bytes() == first


def test_all_problems_are_named_and_nothing_is_written(send: Submit, tmp_path: Path, visor: Path, capsys: Said):
    results = write_results(tmp_path / "out", visor)
    last = sorted((results / SEQUENCES[0]).iterdir())[-1]
    write_mask(last, regions((1,)))
    write_mask(results / "stray" / "00000.png")
    sorted((results / SEQUENCES[1]).iterdir())[-1].unlink()
    assert send() == 2
    lines = errors(capsys)
    assert len(lines) == 4
    assert "stray" in lines[0]
    assert "96x64 pixels, expected 854x480" in lines[1]
    assert lines[2].endswith("missing")
    assert lines[3] == "error: nothing written: 3 things are wrong with the results"
    assert not (tmp_path / "val.zip").exists()
    assert torn_files(tmp_path) == []


def test_many_problems_are_counted(send: Submit, tmp_path: Path, visor: Path, capsys: Said):
    results = write_results(tmp_path / "out", visor)
    for i in range(30):
        write_mask(results / f"stray{i:02d}" / "00000.png")
    assert send() == 2
    lines = errors(capsys)
    assert len(lines) == submit.LISTED_PROBLEMS + 2
    assert lines[submit.LISTED_PROBLEMS] == "error: and 10 more"


def test_unnamed_objects_are_skipped_with_a_warning(
    send: Submit, tmp_path: Path, visor: Path, caplog: pytest.LogCaptureFixture
):
    write_results(tmp_path / "out", visor)
    (visor / "val_data_mapping.json").write_text(json.dumps({SEQUENCES[0]: {"1": "board"}}))
    assert send() == 0
    told = [record.getMessage().split(":")[0:2] for record in caplog.records]
    assert [(name, text.split()[1]) for name, text in told] == [
        (SEQUENCES[0], "2"),
        (SEQUENCES[1], "1"),
        (SEQUENCES[1], "2"),
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--split", "test"], "visor: no split test, expected one of val"),
        (["--output", "val.json"], "expected the name of a .zip file"),
        (["--output", "folder.zip"], "is a folder"),
        (["--output", "out/val.zip"], "is in the folder of results"),
        (["--pred", "nowhere"], "nowhere: no such folder, expected results"),
        (["--data-root", "nowhere"], "nowhere: no such folder"),
        (["--workers", "0"], "--workers: got 0"),
    ],
)
def test_arguments_without_sense_are_one_line(
    send: Submit, tmp_path: Path, visor: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch, options: list, said: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.zip").mkdir()
    write_results(tmp_path / "out", visor)
    assert send(*options) == 2
    (line,) = errors(capsys)
    assert said in line
    assert not (tmp_path / "val.zip").exists()


@pytest.mark.slow
def test_what_infer_writes_can_be_submitted(tmp_path: Path):
    root, out = tmp_path / "MOSE", tmp_path / "out"
    for name in ("bear", "cat"):
        write_frames(root / "valid" / "JPEGImages" / name, 3)
        write_mask(root / "valid" / "Annotations" / name / "00000.png")
    benchmark = ["--data-root", str(root)]
    extras = ["--overlay", "--save-probs"]
    options = [*benchmark, *extras, *tiny_options(tmp_path)]
    assert main(["infer", "--dataset", "mose-valid", "--output", str(out), *options]) == 0
    assert main(["submit", "mose", "--pred", str(out), *benchmark, "--output", str(tmp_path / "m.zip")]) == 0
    with zipfile.ZipFile(tmp_path / "m.zip") as file:
        assert file.namelist() == [f"{name}/{t:05d}.png" for name in ("bear", "cat") for t in range(3)]


def test_the_official_predictions_make_the_official_file(test_data: Path, tmp_path: Path):
    given = test_data / "metric_fixtures" / "visor"
    root, predictions = tmp_path / "VISOR_2022", given / "submission" / "predictions"
    shutil.copytree(given / "expected" / "VISOR_2022", root)
    names = sorted(path.name for path in predictions.iterdir())
    (root / "ImageSets" / "2022" / "val.txt").write_text("\n".join(names))
    for path in predictions.rglob("*.png"):
        frame = root / "JPEGImages" / "480p" / path.parent.name / f"{path.stem}.jpg"
        frame.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1]).save(frame)
    output = tmp_path / "val.zip"
    assert main(["submit", "visor", "--pred", str(predictions), "--data-root", str(root), "--output", str(output)]) == 0
    with zipfile.ZipFile(output) as file:
        assert file.namelist() == ["val.json"]
        assert file.read("val.json") == (given / "submission" / "expected_val.json").read_bytes()


# ------------------------------------------------------------------------------------------------------- the container
@pytest.fixture
def entry() -> Callable[[list[str]], int]:
    """The `main` of the container's program."""
    return runpy.run_path(str(DOCKER / "run.py"))["main"]


@pytest.mark.slow
def test_the_container_writes_infer_s_mask_for_each_frame_and_nothing_else(
    entry: Callable[[list[str]], int], tmp_path: Path, capsys: Said
):
    data, options = write_visor(tmp_path / "data", "test"), tiny_options(tmp_path)
    assert entry(["--data", str(data), *options]) == 0
    assert "2 sequences, 0 problems" in capsys.readouterr().out
    written = contents(data / "results")
    frames = {f"{p.parent.name}/{p.stem}.png" for p in (data / "JPEGImages" / "480p").rglob("*.jpg")}
    assert set(written) == frames
    assert {p for p in (data / "results").rglob("*") if p.is_file()} == {data / "results" / name for name in frames}
    for name in frames:
        assert look(data / "results" / name)[:2] == ("P", SIZE)
        assert set(np.unique(read_ids(data / "results" / name))) <= {0, 1, 2}
    benchmark = ["--dataset", "visor-test", "--data-root", str(data)]
    assert main(["infer", *benchmark, "--output", str(tmp_path / "out"), *options]) == 0
    assert written == contents(tmp_path / "out" / "Annotations")


@pytest.mark.slow
def test_the_container_delivers_what_it_can_and_says_what_it_could_not(
    entry: Callable[[list[str]], int], tmp_path: Path, capsys: Said
):
    data = write_visor(tmp_path / "data", "test")
    for path in (data / "Annotations" / "480p" / SEQUENCES[0]).iterdir():
        path.unlink()
    assert entry(["--data", str(data), *tiny_options(tmp_path)]) == 2
    assert {name.split("/")[0] for name in contents(data / "results")} == {SEQUENCES[1]}
    assert any(SEQUENCES[0] in line for line in errors(capsys))


def test_the_container_says_what_it_lacks(entry: Callable[[list[str]], int], tmp_path: Path, capsys: Said):
    assert entry(["--data", str(tmp_path), *tiny_options(tmp_path)]) == 2
    assert "not the layout of this dataset" in errors(capsys)[0]
    assert entry(["--data", str(write_visor(tmp_path / "data", "test"))]) == 2
    assert "neither model.safetensors nor preset.txt" in errors(capsys)[0]


def copied() -> list[tuple[str, str]]:
    """What the Dockerfile copies: from where in the repository to where below /app."""
    lines = (DOCKER / "Dockerfile").read_text().splitlines()
    words = [line.split()[1:] for line in lines if line.startswith("COPY ")]
    return [(source, target) for *sources, target in words for source in sources]


def test_everything_that_the_dockerfile_copies_is_there_and_let_in():
    assert len(copied()) == 7
    allowed = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    for source, _ in copied():
        assert (REPOSITORY / source).exists(), source
        assert f"!{source.rstrip('/')}" in allowed


@pytest.mark.slow
def test_the_container_s_files_are_enough_to_run(tmp_path: Path):
    (app := tmp_path / "app").mkdir()
    for source, target in copied():
        if (REPOSITORY / source).is_dir():
            shutil.copytree(REPOSITORY / source, app / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(REPOSITORY / source, app / target if target != "./" else app / Path(source).name)
    tiny = tiny_options(tmp_path)
    (app / "model" / "preset.txt").write_text(f"{tiny[1]}\n")  # as the build leaves the name of a preset
    data = write_visor(tmp_path / "data", "test")
    program = re.search(r'ENTRYPOINT \["python", "/app/(.*)"\]', (DOCKER / "Dockerfile").read_text())
    assert program
    run, home = str(app / program[1]), str(app)
    code = (
        f"import runpy, sys; sys.path[0] = {home!r}; sys.argv[0] = {run!r}; import cutie_geo.config as config; "
        f"assert config.__file__.startswith({home!r}); assert 'cutie-base' in config.preset_names(); "
        f"runpy.run_path({run!r}, run_name='__main__')"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, "--data", str(data), *tiny[2:]]
    done = subprocess.run(command, cwd=app, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(contents(data / "results")) == 4
