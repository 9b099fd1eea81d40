"""Two processes in one folder of results: each video has one writer, and nothing is torn."""

import logging
import multiprocessing
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from toy_videos import torn_files, write_videos

from cutie_geo.data.index import VideoRecord, discover
from cutie_geo.inference.one_video import VideoRun
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.results import NOTES, Report, Results
from cutie_geo.inference.run import BUSY, open_results, run_videos
from cutie_geo.model.network import CutieGeo


def hold(root: Path, video: str, held: Event, done: Event) -> None:
    """Another process in the middle of a video."""
    results = Results(root)
    with results.lock(video):
        results.begin(video)
        held.set()
        done.wait(60)


@pytest.fixture
def records(tmp_path: Path) -> list[VideoRecord]:
    return discover(*write_videos(tmp_path, ["bear", "cat"]))


def go(model: CutieGeo, records: list[VideoRecord], output: Path) -> list[Report]:
    results = open_results(output, records, RunOptions())
    return run_videos(VideoRun([model], results, RunOptions()), records)


@pytest.mark.slow
def test_a_video_that_another_process_writes_is_left_and_the_others_are_done(
    tiny_model: CutieGeo, records: list[VideoRecord], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(out, "bear", held, done))
    other.start()
    try:
        assert held.wait(60)
        with caplog.at_level(logging.WARNING):
            bear, cat = go(tiny_model, records, out)
    finally:
        done.set()
        other.join()
    told = f"{out}: bear: another process is writing it: pid {other.pid} on "
    assert bear[BUSY]
    assert bear["error"].startswith(told)
    assert told in caplog.text
    assert len(cat["frames"]) > 0
    assert Results(out).report("bear") == {"video": "bear", "unfinished": True}  # the other's note is untouched
    bear, cat = go(tiny_model, records, out)
    assert cat["skipped"]
    assert "error" not in bear


@pytest.mark.slow
def test_a_video_that_becomes_free_meanwhile_is_done_at_the_end(
    tiny_model: CutieGeo, records: list[VideoRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(out, "bear", held, done))
    other.start()
    assert held.wait(60)
    keep = Results.keep

    def kept(results: Results, report: Report) -> None:
        keep(results, report)
        if report["video"] == "cat" and "frames" in report:
            done.set()
            other.join()

    monkeypatch.setattr(Results, "keep", kept)
    bear, cat = go(tiny_model, records, out)
    assert "error" not in bear
    assert "error" not in cat


def test_what_a_killed_process_left_half_written_is_removed(
    tiny_model: CutieGeo, records: list[VideoRecord], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    left = [out / "Annotations" / "bear" / ".00000.png.0123abcd.part", out / NOTES / ".bear.json.0123abcd.part"]
    mine = out / "Annotations" / "bear" / ".mine.part"
    for path in (*left, mine):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    go(tiny_model, records, out)
    assert [path for path in left if path.exists()] == []
    assert mine.exists()
    mine.unlink()
    assert torn_files(out) == []


def write(path: Path, content: bytes, seconds: float) -> None:
    """Write a file again and again."""
    from cutie_geo.data.io_threads import write_bytes

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        write_bytes(path, content)


@pytest.mark.slow
def test_a_file_that_two_processes_write_is_never_torn(tmp_path: Path) -> None:
    path, contents = tmp_path / "x.bin", [b"a" * 200_000, b"b" * 200_000]
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write, args=(path, content, 1.0)) for content in contents]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            assert path.read_bytes() in contents
            reads += 1
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert reads > 10
    assert [other.name for other in tmp_path.iterdir()] == ["x.bin"]
