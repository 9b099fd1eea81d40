"""What a run promises about its folder of results, whatever happens to one of its videos."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_videos import contents, read_ids, regions, torn_files, write_frames, write_mask, write_videos

from cutie_geo.config import TrackerConfig
from cutie_geo.data.index import VideoRecord, discover
from cutie_geo.inference import one_video, run
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.results import Report, Results, changes, input_digests
from cutie_geo.inference.run import open_results, run_videos
from cutie_geo.model.network import CutieGeo


@pytest.fixture
def records(tmp_path: Path) -> list[VideoRecord]:
    return discover(*write_videos(tmp_path, ["bear", "cat"]))


def go(
    model: CutieGeo, records: list[VideoRecord], output: Path, options: RunOptions | None = None
) -> tuple[Results, list[Report]]:
    """Segment `records` as the command does."""
    options = options or RunOptions()
    results = open_results(output, records, options)
    return results, run_videos([model], records, results, options)


def failing(original: Callable[..., Report], video: str, error: BaseException) -> Callable[..., Report]:
    """`segment_record`, but for one video that raises."""

    def call(models: list[CutieGeo], record: VideoRecord, *rest: object) -> Report:
        if record.name == video:
            raise error
        return original(models, record, *rest)

    return call


# ---------------------------------------------------------------------------------------------------------- failures
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("x.png:\n  bad"), "x.png: bad"),
        (OSError(28, "No space left on device", "x.png"), "x.png: No space left on device"),
        (OSError("odd"), "bear: odd"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "bear: out of memory; a smaller --size"),
        (MemoryError(), "bear: out of memory; a smaller --size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "bear: out of memory; a smaller --size"),
        (TypeError("a fault"), "bear: TypeError: a fault"),
    ],
)
def test_whatever_goes_wrong_with_a_video_is_reported_and_the_next_begins(
    tiny_model: CutieGeo, records: list[VideoRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, error: Exception, told: str,
):  # fmt: skip
    monkeypatch.setattr(run, "segment_record", failing(run.segment_record, "bear", error))
    results, (bear, cat) = go(tiny_model, records, tmp_path / "out")
    assert bear["error"].startswith(told)
    assert "\n" not in bear["error"]
    assert results.report("bear") == bear
    assert results.done("bear") is None
    assert results.done("cat") == cat
    with_trace = [record for record in caplog.records if record.exc_info]
    assert bool(with_trace) == isinstance(error, TypeError), "only a fault of the program needs one"


def test_an_interruption_passes_through_and_leaves_the_video_unfinished(
    tiny_model: CutieGeo, records: list[VideoRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    segment_frames = one_video.segment_frames

    def interrupted(*args: object):
        for t, result in enumerate(segment_frames(*args)):
            if t == 2:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(one_video, "segment_frames", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(tiny_model, records, tmp_path / "out", RunOptions(overlay=True, save_probs=True))
    results = Results(tmp_path / "out")
    assert results.report("bear") == {"video": "bear", "unfinished": True}
    assert results.report("cat") is None
    assert torn_files(results.root) == []
    assert list((results.root / "overlays").iterdir()) == []

    monkeypatch.undo()
    _, reports = go(tiny_model, records, tmp_path / "out", RunOptions(size=48))
    assert not any("error" in report or "skipped" in report for report in reports)
    assert len(contents(results.root)) == 8


def test_frames_before_a_bad_one_are_written_however_slow_the_disk(
    tiny_model: CutieGeo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    records = discover(*write_videos(tmp_path, ["bear"], frames=12))
    (records[0].source / "00010.jpg").write_bytes(b"no picture")
    write_labels = one_video.write_labels

    def slowly(*args: object) -> None:
        time.sleep(0.05)
        write_labels(*args)

    monkeypatch.setattr(one_video, "write_labels", slowly)
    results, (report,) = go(tiny_model, records, tmp_path / "out", RunOptions(workers=1))
    assert "00010.jpg" in report["error"]
    assert sorted(contents(results.root)) == [f"bear/{t:05d}.png" for t in range(10)]


def test_a_write_that_fails_last_is_noticed(
    tiny_model: CutieGeo, records: list[VideoRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_labels = one_video.write_labels

    def fails_at_the_end(path: Path, *args: object) -> None:
        if path.name == "00003.png":
            raise OSError(5, "Input/output error", str(path))
        write_labels(path, *args)

    monkeypatch.setattr(one_video, "write_labels", fails_at_the_end)
    _, reports = go(tiny_model, records, tmp_path / "out", RunOptions(overlay=True))
    assert ["00003.png: Input/output error" in report["error"] for report in reports] == [True, True]
    assert list((tmp_path / "out" / "overlays").iterdir()) == []


# -------------------------------------------------------------------------------------------------- what is written
def test_only_listed_frames_are_written(tiny_model: CutieGeo, records: list[VideoRecord], tmp_path: Path):
    bear = replace(records[0], saved=frozenset({"00000", "00003"}))
    results, (report,) = go(tiny_model, [bear], tmp_path / "out", RunOptions(save_probs=True))
    assert sorted(contents(results.root)) == ["bear/00000.png", "bear/00003.png"]
    assert report["frames"] == ["00000", "00003"]
    assert len(report["seconds_per_frame"]) == 4


def test_listed_frames_that_are_not_there_are_an_error(
    tiny_model: CutieGeo, records: list[VideoRecord], tmp_path: Path
):
    bear = replace(records[0], saved=frozenset({"00000", "00007"}))
    _, (report,) = go(tiny_model, [bear], tmp_path / "out")
    assert report["error"].endswith("1 listed frames are not there, 00007")


def test_a_single_object_has_the_largest_id_of_its_mask(tiny_model: CutieGeo, tmp_path: Path):
    frames = write_frames(tmp_path / "bear", 2)
    record = VideoRecord("bear", frames, first_mask=write_mask(tmp_path / "m.png", regions((4, 9))))
    results, (report,) = go(tiny_model, [record], tmp_path / "out", RunOptions(single_object=True))
    assert report["objects"] == [9]
    assert set(np.unique(read_ids(results.labels("bear", "00000")))) == {0, 9}


def test_many_processes_may_open_one_folder_at_once(tmp_path: Path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: Results(tmp_path / "out").make_writable(), range(200)))
    assert list((tmp_path / "out" / ".cutie_geo").iterdir()) == []


def test_a_video_without_a_note_is_not_cleared(tmp_path: Path):
    results = Results(tmp_path)
    mine = write_mask(tmp_path / "bear" / "00000.png")
    results.begin("bear")
    assert mine.is_file()
    results.begin("bear")
    assert not mine.exists()


# ---------------------------------------------------------------------------------------------------------- settings
def test_changes_are_named_and_a_few_stand_for_many(tiny_model: CutieGeo, records: list[VideoRecord], tmp_path: Path):
    results, _ = go(tiny_model, records, tmp_path / "out")
    other = RunOptions(tracker=TrackerConfig(mem_every=2, top_k=9), size=32)
    assert changes(results, records[0], other) == ["size", "tracker.mem_every", "tracker.top_k"]
    assert changes(results, records[0], RunOptions(workers=7, fps=3.0, overlay=True)) == []
    many = replace(other, settings={"model": {f"width_{i}": i for i in range(9)}})
    with pytest.raises(ValueError, match=r"bear was made with other model\.width_0, .*width_4 and 7 more; wanted"):
        open_results(tmp_path / "out", records, many)
    assert open_results(tmp_path / "out", records, replace(many, overwrite=True))


def test_input_is_known_by_its_frames_and_masks(records: list[VideoRecord], tmp_path: Path):
    bear = records[0]
    before = input_digests(bear)
    assert input_digests(bear) == before
    assert input_digests(replace(bear, keep_ids={"00000": frozenset({1})}))["masks"] != before["masks"]
    assert input_digests(replace(bear, long_ids=True))["masks"] != before["masks"]
    assert input_digests(replace(bear, saved=frozenset({"00000"})))["frames"] != before["frames"]
    bear.source.rename(tmp_path / "elsewhere")
    assert input_digests(replace(bear, source=tmp_path / "elsewhere")) == before
    assert input_digests(replace(bear, source=tmp_path / "nowhere"))["frames"] != before["frames"]


@pytest.mark.parametrize(
    "wrong", [{"size": 3}, {"size": 0}, {"workers": 0}, {"fps": 0.0}, {"fps": float("inf")}, {"fps": float("nan")}]
)
def test_options_that_cannot_work_are_refused(wrong: dict):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: got"):
        RunOptions(**wrong)


# ---------------------------------------------------------------------------------------------------------- progress
def test_failures_are_told_when_they_happen_where_there_are_several_videos(
    tiny_model: CutieGeo, records: list[VideoRecord], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    bad = replace(records[0], problem="bear: no good")
    go(tiny_model, [bad, records[1]], tmp_path / "out")
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == ["bear: no good"]
    caplog.clear()
    go(tiny_model, [bad], tmp_path / "out")
    assert caplog.records == []
