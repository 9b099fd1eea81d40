"""infer.py as a program of its own: signals, limits of the system, several processes, and real clips."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from programs import LAUNCHER, PATIENCE, finish, small_disk, start, wait_for
from tiny import TINY_GEO_YAML
from toy_videos import contents, read_ids, summary, tiny_options, torn_files, write_mask, write_videos

from cutie_geo.__main__ import run_one
from cutie_geo.data.masks import object_ids, read_labels, read_probs
from cutie_geo.runs.compiling import CPP_COMPILERS

INFER = Path(__file__).parent.parent / "infer.py"
LONG = 2000
"""Frames of a video that is not over before a signal comes."""
LIMIT = 2000
"""Bytes that a label map of a small video fits in, and its probabilities don't."""


def many_frames(folder: Path) -> None:
    """Make a video LONG frames long, of links to its first."""
    for t in range(LONG):
        if not (folder / f"{t:05d}.jpg").exists():
            (folder / f"{t:05d}.jpg").symlink_to(folder / "00000.jpg")


def keep_frames(folder: Path, frames: int) -> None:
    """Make a video short again, as no test has time for all of a long one."""
    for path in sorted(folder.iterdir())[frames:]:
        path.unlink()


# ----------------------------------------------------------------------------------------------------------- signals
@pytest.mark.slow
def test_after_an_interruption_the_same_command_goes_on_where_it_stopped(tmp_path: Path):
    videos, masks = write_videos(tmp_path, ["a_done", "b_long", "c_todo"])
    many_frames(videos / "b_long")
    out = tmp_path / "out"
    options = ["--video", videos, "--mask", masks, "--output", out, "--overlay", "--save-probs"]
    arguments = [str(word) for word in [*options, *tiny_options(tmp_path)]]

    process = start(INFER, *arguments)
    wait_for(out / "Annotations" / "b_long" / "00003.png", process)
    process.send_signal(signal.SIGINT)
    status, said = finish(process)

    assert status == 130, said
    assert "interrupted; the same command resumes" in said
    assert "Traceback" not in said
    assert torn_files(out) == []
    assert not (out / "overlays" / "b_long.mp4").exists()
    before = {path: path.stat().st_mtime_ns for path in (out / "Annotations" / "a_done").iterdir()}
    assert len(before) == 4

    keep_frames(videos / "b_long", 6)
    assert run_one("infer", arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "Annotations" / "a_done").iterdir()} == before
    told = summary(out)["videos"]
    assert {name: video.get("skipped", False) for name, video in told.items()} == {
        "a_done": True, "b_long": False, "c_todo": False,
    }  # fmt: skip
    assert sorted(contents(out / "Annotations" / "b_long")) == [f"{t:05d}.png" for t in range(6)]
    assert (out / "overlays" / "b_long.mp4").is_file()


@pytest.mark.slow
def test_sigterm_leaves_as_cleanly(tmp_path: Path):
    videos, masks = write_videos(tmp_path, ["bear"])
    many_frames(videos / "bear")
    out = tmp_path / "out"
    process = start(INFER, "--video", videos, "--mask", masks, "--output", out, "--overlay", *tiny_options(tmp_path))
    wait_for(out / "Annotations" / "bear" / "00003.png", process)
    process.terminate()
    status, said = finish(process)
    assert status == 143, said
    assert "Traceback" not in said
    assert torn_files(out) == []


# ---------------------------------------------------------------------------------------------------------- the disk
@pytest.mark.slow
def test_a_disk_that_is_really_full_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    videos, masks = write_videos(tmp_path, ["bear"], frames=40)
    disk = tmp_path / "disk"
    if not small_disk(disk, "64k"):
        pytest.skip("no right to mount a file system")
    try:
        argv = ["--video", videos, "--mask", masks, "--output", disk / "out", "--save-probs", *tiny_options(tmp_path)]
        assert run_one("infer", [str(word) for word in argv]) == 2
        said = capsys.readouterr().err
        assert "No space left on device" in said
        assert torn_files(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of processes are a matter of POSIX")
def test_a_file_that_may_not_grow_is_one_line(tmp_path: Path):
    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))

    videos, masks = write_videos(tmp_path, ["bear"])
    out = tmp_path / "out"
    argv = ["--video", videos, "--mask", masks, "--output", out, "--save-probs", *tiny_options(tmp_path)]
    status, said = finish(start(INFER, *argv, preexec_fn=limit))
    assert status == 2, said
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert any("probs/bear" in line and "File too large" in line for line in errors), said
    assert "Traceback" not in said
    assert torn_files(out) == []


# --------------------------------------------------------------------------------------------------------- processes
def launch(*argv: object) -> tuple[int, str]:
    """infer.py in two processes on the CPU."""
    return finish(start(*LAUNCHER, INFER, *argv))


@pytest.mark.slow
def test_processes_share_the_videos_and_write_what_one_would(tmp_path: Path):
    videos, masks = write_videos(tmp_path)
    common = [str(word) for word in ["--video", videos, "--mask", masks, *tiny_options(tmp_path)]]
    assert run_one("infer", [*common, "--output", str(tmp_path / "one")]) == 0

    status, said = launch(*common, "--output", tmp_path / "two")
    assert status == 0, said
    assert said.count("results: ") == 1
    assert "\r" not in said
    assert len(contents(tmp_path / "one")) == 12
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert set(summary(tmp_path / "two")["videos"]) == {"bear", "cat", "dog"}

    # one process's video fails, the others' are completed, and all are told of
    broken = videos / "cat" / "00002.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    status, said = launch(*common, "--output", tmp_path / "three")
    assert status != 0
    assert "cat/00002.jpg: cannot be read as an image" in said
    told = summary(tmp_path / "three")["videos"]
    assert {name: "error" in video for name, video in told.items()} == {"bear": False, "cat": True, "dog": False}
    assert sorted(contents(tmp_path / "three" / "Annotations" / "cat")) == ["00000.png", "00001.png"]
    for name in ("bear", "dog"):
        assert contents(tmp_path / "three/Annotations" / name) == contents(tmp_path / "one/Annotations" / name)


def test_the_package_is_a_program_too():
    status, said = finish(start("-m", "cutie_geo", "--help"))
    assert status == 0
    assert "usage: cutie-geo" in said


# -------------------------------------------------------------------------------------------------------- real clips
@pytest.mark.slow
def test_a_davis_sequence(test_data: Path, tmp_path: Path):
    real = test_data / "data" / "davis2016-train-270p"
    name = sorted(path.name for path in (real / "JPEGImages" / "480p").iterdir())[0]
    root = tmp_path / "davis"
    for kind in ("JPEGImages", "Annotations"):
        folder = root / kind / "480p" / name
        folder.mkdir(parents=True)
        for path in sorted((real / kind / "480p" / name).iterdir())[:4]:
            (folder / path.name).symlink_to(path)
    (root / "ImageSets" / "2016").mkdir(parents=True)
    (root / "ImageSets" / "2016" / "train.txt").write_text(f"{name}\n")

    out = tmp_path / "out"
    argv = ["--dataset", "davis2016-train", "--data-root", root, "--output", out, *tiny_options(tmp_path)]
    assert run_one("infer", [str(word) for word in argv]) == 0
    first = read_labels(next(iter(sorted((root / "Annotations" / "480p" / name).iterdir())))).labels
    assert summary(out)["videos"][name]["objects"] == list(object_ids(first)) != []
    assert len(contents(out / "Annotations" / name)) == 4
    assert (read_ids(sorted((out / "Annotations" / name).iterdir())[0]) == first).mean() > 0.95


@pytest.mark.slow
def test_a_clip_of_five_animals(test_data: Path, tmp_path: Path):
    real = test_data / "data" / "clips" / "penguins"
    name = "003234408d"
    frames, mask = tmp_path / name, sorted((real / "Annotations" / name).iterdir())[0]
    frames.mkdir()
    for path in sorted((real / "JPEGImages" / name).iterdir())[:3]:
        (frames / path.name).symlink_to(path)
    out = tmp_path / "out"
    argv = ["--video", frames, "--mask", mask, "--output", out, "--overlay", "--size", 96, *tiny_options(tmp_path)]
    assert run_one("infer", [str(word) for word in argv]) == 0
    labels = read_labels(mask)
    written = sorted((out / "Annotations" / name).iterdir())
    assert summary(out)["videos"][name]["objects"] == list(object_ids(labels.labels))
    assert len(summary(out)["videos"][name]["objects"]) == 5
    assert (read_ids(written[0]) == labels.labels).mean() > 0.9
    palette = read_labels(written[0]).palette
    assert palette is not None
    assert labels.palette is not None
    assert palette[: len(labels.palette)] == labels.palette


@pytest.mark.slow
def test_a_first_mask_named_after_a_later_frame_belongs_to_it(tmp_path: Path):
    videos, _ = write_videos(tmp_path, ["bear"])
    mask = write_mask(tmp_path / "00002.png")
    argv = ["--video", videos / "bear", "--mask", mask, "--output", tmp_path / "out", *tiny_options(tmp_path)]
    assert run_one("infer", [str(word) for word in argv]) == 0
    shown = [read_ids(tmp_path / "out" / "Annotations" / "bear" / f"{t:05d}.png").any() for t in range(4)]
    assert shown[2]
    assert run_one("infer", [*map(str, argv), "--direction", "forward", "--overwrite"]) == 0
    shown = [read_ids(tmp_path / "out" / "Annotations" / "bear" / f"{t:05d}.png").any() for t in range(4)]
    assert shown[:3] == [False, False, True]


# ----------------------------------------------------------------------------------------------------------- compiled
@pytest.mark.slow(longest=True)
@pytest.mark.skipif(not any(map(shutil.which, CPP_COMPILERS)), reason="no C++ compiler")
def test_a_compiled_network_computes_the_same(tmp_path: Path):
    videos, masks = write_videos(tmp_path, ["bear"])
    keep_frames(videos / "bear", 3)
    # the compiler takes its time for each block, and blocks are alike
    small = TINY_GEO_YAML.replace("num_blocks: 2", "num_blocks: 1") + "mask_encoder: resnet-nano\n"
    (tmp_path / "geo.yaml").write_text(small)
    model = [*tiny_options(tmp_path), "--model", tmp_path / "geo.yaml", "--save-probs"]
    common = ["--video", videos, "--mask", masks, *model]
    assert run_one("infer", [*map(str, common), "--output", str(tmp_path / "plain")]) == 0
    program = start(INFER, *common, "--output", tmp_path / "compiled", "--compile")
    status, said = finish(program, patience=5 * PATIENCE)
    assert status == 0, said
    plain, compiled = (sorted((tmp_path / name / "probs" / "bear").iterdir()) for name in ("plain", "compiled"))
    assert len(plain) == len(compiled) == 3
    for one, other in zip(plain, compiled):
        np.testing.assert_allclose(read_probs(other)[0], read_probs(one)[0], atol=0.02)


@pytest.mark.slow
def test_compiling_on_a_cpu_without_a_compiler_is_refused_at_once(tmp_path: Path):
    videos, masks = write_videos(tmp_path, ["bear"])
    options = [*tiny_options(tmp_path), "--compile", "--output", tmp_path / "out"]
    environment = {**os.environ, "PATH": str(tmp_path)}
    status, said = finish(start(INFER, "--video", videos, "--mask", masks, *options, env=environment))
    assert status == 2
    assert "compile: no C++ compiler found" in said
    assert not (tmp_path / "out").exists()
