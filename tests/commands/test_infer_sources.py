"""infer.py with sources that are no files: what is written, counted, refused, and in which words."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from servers import half_served, served
from toy_videos import (
    SIZE,
    contents,
    pictures,
    read_ids,
    tiny_options,
    write_film,
    write_frames,
    write_mask,
    write_mjpeg,
)

from cutie_geo.__main__ import run_one
from cutie_geo.commands import infer
from cutie_geo.runs import viewer

Said = pytest.CaptureFixture[str]


def run(folder: Path, *words: object, output: str = "out") -> int:
    return run_one("infer", ["--output", str(folder / output), *tiny_options(folder), *map(str, words)])


def report(folder: Path, video: str, output: str = "out") -> dict[str, Any]:
    return json.loads((folder / output / "run.json").read_text())["videos"][video]


def said(capsys: Said) -> list[str]:
    """The lines on standard error, without those of progress bars and of the loader."""
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return [line for line in lines if line.startswith(("error", "WARNING: ")) and "random weights" not in line]


@pytest.mark.slow
def test_a_url_and_a_live_file_equal_the_file(tmp_path: Path, capsys: Said) -> None:
    film, mask = write_film(tmp_path / "film.mp4", 4), write_mask(tmp_path / "first.png")
    assert run(tmp_path, "--video", film, "--mask", mask) == 0
    expected = contents(tmp_path / "out" / "Annotations")
    assert run(tmp_path, "--video", film, "--mask", mask, "--live", output="live") == 0
    assert contents(tmp_path / "live" / "Annotations") == expected
    live = report(tmp_path, "film", "live")["live"]
    assert (live["captured"], live["dropped"], live["lost"]) == (4, 0, None)
    assert 0 < live["latency_seconds"]["p50"] <= live["latency_seconds"]["p99"]
    assert live["queue"]["longest"] <= 4
    with served(tmp_path) as url:
        secret = f"{url.replace('//', '//me:secret@')}/film.mp4?token=secret"
        assert run(tmp_path, "--video", secret, "--mask", mask, output="url") == 0
        capsys.readouterr()
        assert run(tmp_path, "--video", secret, "--mask", mask, output="url") == 2
    assert "holds results of an earlier film, which cannot be read again" in said(capsys)[0]
    assert contents(tmp_path / "url" / "Annotations") == expected
    assert all("secret" not in path.read_text() for path in (tmp_path / "url").rglob("*.json"))


@pytest.mark.slow
def test_standard_input_of_a_program_equals_the_file(tmp_path: Path) -> None:
    mask = write_mask(tmp_path / "first.png")
    frames = np.stack(pictures(3))
    with av.open(str(tmp_path / "stdin.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "bgr0"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    assert run(tmp_path, "--video", tmp_path / "stdin.mkv", "--mask", mask) == 0
    raw = f"{SIZE[1]}x{SIZE[0]},bgr24,10"
    for name, content, words in (
        ("container", (tmp_path / "stdin.mkv").read_bytes(), []),
        ("raw", frames[..., ::-1].tobytes(), ["--raw", raw]),
    ):
        given = ["--video", "-", "--mask", str(mask), "--output", str(tmp_path / name), *words, *tiny_options(tmp_path)]
        done = subprocess.run([sys.executable, "-m", "cutie_geo", "infer", *given], input=content, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert contents(tmp_path / name / "Annotations") == contents(tmp_path / "out" / "Annotations")


@pytest.mark.slow
def test_patterns_and_repeated_options_are_lists(tmp_path: Path) -> None:
    frames, mask = write_frames(tmp_path / "clip", 3), write_mask(tmp_path / "first.png")
    assert run(tmp_path, "--video", frames / "*.jpg", "--mask", mask) == 0
    twice = ("--video", frames / "00000.jpg", "--video", frames / "00002.jpg")
    assert run(tmp_path, *twice, "--mask", mask, output="two") == 0
    assert report(tmp_path, "clip")["frames"] == ["00000", "00001", "00002"]
    assert report(tmp_path, "clip", "two")["frames"] == ["00000", "00002"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--video", "93"], "camera 93: cannot be opened; no such camera, or another program uses it"),
        (["--video", "http://127.0.0.1:9/a.mp4"], "cannot be opened as a video: Connection refused"),
        (["--video", "gopher://x/y"], "gopher://x/y: got gopher://, expected rtsp, rtsps, http, https"),
        (["--video", "absent*.mp4"], "absent*.mp4: no such file or folder, and no match as a pattern"),
        (["--video", "0", "--video", "1"], "--video: got 2 sources with a stream, expected it alone"),
        (["--video", "clip.mp4", "--raw", "4x4"], "--raw: got 4x4 for clip.mp4, expected - (standard input)"),
        (["--video", "clip", "--drop-frames"], "--drop-frames, --queue, --reconnect, --show: expected --live"),
        (["--video", "clip", "--live"], "--live: got the images"),
        (["--video", "0", "--queue", "0"], "--queue: got 0, expected 1 or more"),
        (["--video", "0", "--reconnect", "-1"], "--reconnect: got -1.0, expected 0 or more seconds"),
    ],
)
def test_bad_sources_are_one_line(
    words: list[str], problem: str, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_frames(tmp_path / "clip", 2)
    assert run(tmp_path, *words, "--mask", write_mask(tmp_path / "m.png")) == 2
    (line,) = said(capsys)
    assert problem in line


@pytest.mark.slow
def test_a_server_that_breaks_off_loses_no_frame(tmp_path: Path, capsys: Said) -> None:
    film, mask = write_mjpeg(tmp_path / "film.mkv", 12), write_mask(tmp_path / "first.png")
    with half_served(film) as url:
        assert run(tmp_path, "--video", f"{url}", "--mask", mask) == 2
    (line,) = said(capsys)
    assert re.fullmatch(
        r"error: http://127.0.0.1:\d+/film.mkv: cannot be decoded near frame \d+: Input/output error", line
    )
    written = sorted(path.name for path in (tmp_path / "out" / "Annotations" / "film").iterdir())
    assert 3 <= len(written) < 12
    assert written == [f"{t:05d}.png" for t in range(len(written))]
    assert report(tmp_path, "film")["error"] in line


def test_a_window_needs_an_opencv_that_has_one(tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a model is loaded or a stream is opened."""
    words = ["--video", "0", "--show", "--mask", str(write_mask(tmp_path / "m.png"))]
    monkeypatch.setattr(viewer.cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n")
    assert run(tmp_path, *words) == 2
    assert said(capsys) == [
        "error: --show: this OpenCV has no windows; install opencv-python in place of opencv-python-headless"
    ]
    monkeypatch.setattr(viewer.cv2, "getBuildInformation", lambda: "  GUI:                           QT5\n")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if sys.platform.startswith("linux"):
        assert run(tmp_path, *words) == 2
        assert "--show: no display" in said(capsys)[0]


def test_help_lists_the_live_options() -> None:
    import argparse

    parser = argparse.ArgumentParser()
    infer.add_arguments(parser)
    text = parser.format_help()
    assert all(option in text for option in ("--live", "--drop-frames", "--queue", "--reconnect", "--show", "--raw"))


@pytest.mark.slow
def test_ctrl_c_ends_a_live_run_with_complete_results(tmp_path: Path) -> None:
    """A camera at 30 frames a second that never ends, through a pipe."""
    mask = write_mask(tmp_path / "first.png")
    raw = f"{SIZE[1]}x{SIZE[0]},rgb24,30"
    words = [
        "--video",
        "-",
        "--raw",
        raw,
        "--live",
        "--drop-frames",
        "--mask",
        str(mask),
        "--output",
        str(tmp_path / "o"),
    ]
    program = [sys.executable, "-m", "cutie_geo", "infer", *words, *tiny_options(tmp_path)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        frame, interrupted, end = pictures(1)[0].tobytes(), False, time.monotonic() + 240
        while process.poll() is None and time.monotonic() < end:
            try:
                process.stdin.write(frame)
                process.stdin.flush()
            except BrokenPipeError:
                break
            time.sleep(1 / 30)
            if not interrupted and len(list((tmp_path / "o" / "Annotations" / "stdin").glob("*.png"))) >= 5:
                os.kill(process.pid, signal.SIGINT)
                interrupted = True
        with suppress(BrokenPipeError):  # bytes that nobody reads any more
            process.stdin.close()
        assert process.wait(60) == 0
        assert process.stderr is not None
        errors = process.stderr.read().decode()
    assert "stopping after the frames that wait" in errors
    assert "Traceback" not in errors
    done = report(tmp_path, "stdin", "o")
    assert len(done["frames"]) >= 5
    assert sorted(path.stem for path in (tmp_path / "o" / "Annotations" / "stdin").iterdir()) == done["frames"]
    assert np.array_equal(read_ids(tmp_path / "o" / "Annotations" / "stdin" / "00000.png"), read_ids(mask))
    assert done["live"]["captured"] >= len(done["frames"]) + done["live"]["dropped"]


@pytest.mark.slow
def test_a_camera_faster_than_the_model_keeps_memory_flat_over_3000_frames(tmp_path: Path) -> None:
    """Ten times as fast as a camera of 30 frames a second, so that a small model drops frames."""
    model = tiny_options(tmp_path)[1]
    program = Path(__file__).parents[1] / "helpers" / "camera.py"
    words = [sys.executable, str(program), str(tmp_path / "out"), "3000", "300", "32", "48", model, "none"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    memory, live, frames = found["memory"], found["report"]["live"], found["report"]["frames"]
    assert len(memory) == 30
    assert max(memory[15:]) - max(memory[5:15]) < 8 * 2**20
    assert live["captured"] == 3000
    assert live["dropped"] == 3000 - len(frames) > 0
    assert live["queue"] == {"size": 4, "longest": 4}
    assert frames == sorted(frames)
    assert len(list((tmp_path / "out" / "Annotations" / "video").iterdir())) == len(frames)
    latency = live["latency_seconds"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
