"""What a run promises about its folder of results, whatever happens to one of its videos."""

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_videos import contents, pictures, read_ids, regions, torn_files, write_frames, write_mask, write_videos

from cutie_geo.config import TrackerConfig
from cutie_geo.data.index import VideoRecord, discover
from cutie_geo.inference import one_video, run
from cutie_geo.inference import results as results_module
from cutie_geo.inference.one_video import VideoRun
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
    return results, run_videos(VideoRun([model], results, options), records)


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

    def interrupted(*args: object, **options: object):
        for t, result in enumerate(segment_frames(*args, **options)):
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
    _, reports = go(tiny_model, records, tmp_path / "out", RunOptions(default_size=48))
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
    assert sorted(contents(results.root)) == [f"Annotations/bear/{t:05d}.png" for t in range(10)]


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
    assert sorted(contents(results.root)) == ["Annotations/bear/00000.png", "Annotations/bear/00003.png"]
    assert report["frames"] == ["00000", "00003"]
    assert len(report["seconds_per_frame"]) == 4


def test_listed_frames_that_are_not_there_are_an_error(
    tiny_model: CutieGeo, records: list[VideoRecord], tmp_path: Path
):
    bear = replace(records[0], saved=frozenset({"00000", "00007"}))
    _, (report,) = go(tiny_model, [bear], tmp_path / "out")
    assert report["error"].endswith("1 listed frames are missing, 00007")


def test_a_single_object_has_the_largest_id_of_its_mask(tiny_model: CutieGeo, tmp_path: Path):
    frames = write_frames(tmp_path / "bear", 2)
    record = VideoRecord("bear", frames, first_mask=write_mask(tmp_path / "m.png", regions((4, 9))))
    results, (report,) = go(tiny_model, [record], tmp_path / "out", RunOptions(single_object=True))
    assert report["objects"] == [9]
    assert set(np.unique(read_ids(results.labels("bear", "00000")))) == {0, 9}


@pytest.mark.parametrize("name", ["a:b", "a\\b"])
def test_a_video_whose_name_cannot_be_noted_is_refused_before_anything_is_written(
    records: list[VideoRecord], tmp_path: Path, name: str
):
    with pytest.raises(ValueError, match=r"name of the video, which its results get: got 'a.*expected a plain name"):
        open_results(tmp_path / "out", [replace(records[0], name=name)], RunOptions())
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text on this system")
def test_names_that_are_not_utf8_are_segmented_and_known_again(tiny_model: CutieGeo, tmp_path: Path):
    (tmp_path / "a").mkdir()
    frames = write_frames(tmp_path / "a" / os.fsdecode(b"caf\xe9"), 2)
    (frames / "00001.jpg").rename(frames / os.fsdecode(b"caf\xe9.jpg"))
    (record,) = discover(frames, write_mask(tmp_path / "first.png"))
    for skipped in (None, True):
        results, (report,) = go(tiny_model, [record], tmp_path / "out")
        assert (report.get("error"), report.get("skipped")) == (None, skipped)
    assert len(list(results.folder(record.name).iterdir())) == 2


def test_many_processes_may_open_one_folder_at_once(tmp_path: Path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: Results(tmp_path / "out").make_writable(), range(200)))
    assert list((tmp_path / "out" / ".cutie_geo").iterdir()) == []


def test_only_files_that_were_written_are_ever_removed(
    tiny_model: CutieGeo, records: list[VideoRecord], tmp_path: Path
):
    every = RunOptions(save_probs=True, overlay=True)
    results, _ = go(tiny_model, records[:1], tmp_path / "videos" / ".." / "out", every)
    mine = [results.root / kind / "bear" / "mine.png" for kind in ("Annotations", "probs", "depth")]
    mine += [results.root / "probs" / "bear" / "00000.backup.npz", results.root / "overlays" / "mine.mp4"]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    written = [path for path in results.written("bear") if path.is_file()]
    assert len(written) == 4 + 4 + 1
    results.begin("bear", overwrite=True)
    assert not any(path.exists() for path in written)
    assert [path.read_text() for path in mine] == ["mine"] * 5
    results.begin("bear")  # of an attempt that wrote nothing
    assert all(path.is_file() for path in mine)


def test_what_an_attempt_wrote_before_it_stopped_is_removed_too(
    tiny_model: CutieGeo, records: list[VideoRecord], tmp_path: Path
):
    (records[0].source / "00002.jpg").write_bytes(b"no picture")
    results, (report,) = go(tiny_model, records[:1], tmp_path / "out")
    assert "error" in report
    part = results.folder("bear") / ".00001.png.part"
    part.write_text("of a run that was killed")
    other = results.folder("bear") / ".mine.png.part"
    other.write_text("mine")
    assert len(contents(results.root)) == 2
    results.begin("bear")
    assert contents(results.root) == {}
    assert other.is_file()
    assert not part.exists()


def test_a_list_of_files_that_was_tampered_with_removes_nothing_elsewhere(tmp_path: Path):
    results = Results(tmp_path / "out")
    results.begin("bear")
    mine = [tmp_path / "mine.png", tmp_path / "out" / "Annotations" / "cat" / "mine.png", tmp_path / "out" / "mine.png"]
    for path in mine:
        write_mask(path)
    names = ["../mine.png", "Annotations/cat/mine.png", "Annotations/bear/../../mine.png", str(mine[0]), "mine.png", 7]
    results.list_of_files("bear").write_text("".join(json.dumps([name, None]) + "\n" for name in names) + '["cut o')
    assert results.written("bear") == {}
    results.begin("bear")
    assert all(path.is_file() for path in mine)


@pytest.mark.slow
def test_a_mask_that_was_changed_by_hand_is_made_anew_only_on_demand(
    tiny_model: CutieGeo, records: list[VideoRecord], tmp_path: Path
):
    results, _ = go(tiny_model, records, tmp_path / "out")
    mine = write_mask(results.labels("bear", "00001"), regions((9,))).read_bytes()
    _, (bear, cat) = go(tiny_model, records, tmp_path / "out", RunOptions(overlay=True))
    assert "Annotations/bear/00001.png: the mask was changed since it was written" in bear["error"]
    assert "error" not in cat
    assert results.labels("bear", "00001").read_bytes() == mine
    assert results.labels("bear", "00000").is_file()
    _, reports = go(tiny_model, records, tmp_path / "out")  # still complete, as far as it goes
    assert all(report.get("skipped") for report in reports)
    _, (bear, _) = go(tiny_model, records, tmp_path / "out", RunOptions(overlay=True, overwrite=True))
    assert "error" not in bear
    assert results.labels("bear", "00001").read_bytes() != mine


def test_nothing_is_written_or_removed_behind_a_link(tiny_model: CutieGeo, records: list[VideoRecord], tmp_path: Path):
    mine = write_mask(tmp_path / "mine" / "00000.png").read_bytes()
    (tmp_path / "out" / "Annotations").mkdir(parents=True)
    (tmp_path / "out" / "Annotations" / "bear").symlink_to(tmp_path / "mine")
    for _ in range(2):
        _, (report,) = go(tiny_model, records[:1], tmp_path / "out")
        assert "out/Annotations/bear: is a link" in report["error"]
    assert contents(tmp_path / "mine") == {"00000.png": mine}


def test_files_are_on_the_disk_before_a_video_counts_as_done(
    tiny_model: CutieGeo, records: list[VideoRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    synced: list[Path] = []
    fsync = os.fsync

    def told(handle: int) -> None:
        assert Results(tmp_path / "out").done("bear") is None
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", told)
    results, _ = go(tiny_model, records[:1], tmp_path / "out", RunOptions(save_probs=True, overlay=True))
    wanted = {path for path in results.root.rglob("*") if path.suffix in (".png", ".npz", ".mp4")}
    assert len(wanted) == 9
    assert wanted | {path.parent for path in wanted} <= set(synced)


# ------------------------------------------------------------------------------------------------------------ layout
def to_old_layout(results: Results) -> None:
    """As earlier versions of the program left a folder."""
    for path in results.folder("bear").parent.iterdir():
        path.rename(results.root / path.name)
    results.folder("bear").parent.rmdir()
    for path in (results.root / ".cutie_geo").glob("*.files"):
        path.unlink()
    for note in (results.root / ".cutie_geo").glob("*.json"):
        report = json.loads(note.read_text())
        report["input"] = {name: report["input"][name] for name in ("frames", "masks")}
        note.write_text(json.dumps(report))


@pytest.mark.skipif(not shutil.which("bash"), reason="the advice is for a shell")
@pytest.mark.parametrize("names", [["bear"], ["bear", "cat and dog"]])
def test_the_layout_of_earlier_versions_is_refused_with_the_command_that_moves_it(
    tiny_model: CutieGeo, tmp_path: Path, names: list[str]
):
    records = discover(*write_videos(tmp_path, names))
    results, _ = go(tiny_model, records, tmp_path / "out")
    to_old_layout(results)
    before = contents(results.root)
    with pytest.raises(ValueError, match=r"masks have the layout of an earlier version; got .*out/bear, expected .*"
                                         r"out/Annotations/bear\. Choose another folder, or: ") as refused:  # fmt: skip
        open_results(tmp_path / "out", records, RunOptions(overwrite=True))
    assert contents(results.root) == before
    subprocess.run(["bash", "-ec", str(refused.value).split(", or: ")[1]], check=True)
    _, reports = go(tiny_model, records, tmp_path / "out")
    assert all(report.get("skipped") for report in reports)
    assert len(results.written("bear")) > 4


def test_results_are_found_by_their_folder_of_masks_too(tiny_model: CutieGeo, records: list[VideoRecord],
                                                        tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # fmt: skip
    results, _ = go(tiny_model, records, tmp_path / "out")
    assert Results.at(tmp_path / "out" / "Annotations") == Results.at(tmp_path / "out") == results
    _, reports = go(tiny_model, records, tmp_path / "out" / "Annotations")
    assert all(report.get("skipped") for report in reports)
    assert not (tmp_path / "out" / "Annotations" / ".cutie_geo").exists()
    monkeypatch.chdir(tmp_path / "out" / "Annotations")
    assert Results.at(Path(".")).root.resolve() == results.root
    fresh = tmp_path / "fresh" / "Annotations"
    assert Results.at(fresh).root == fresh


# ---------------------------------------------------------------------------------------------------------- settings
def test_changes_are_named_and_a_few_stand_for_many(tiny_model: CutieGeo, records: list[VideoRecord], tmp_path: Path):
    results, _ = go(tiny_model, records, tmp_path / "out")
    other = RunOptions(tracker=TrackerConfig(mem_every=2, top_k=9), default_size=32)
    assert changes(results, records[0], other) == ["default_size", "tracker.mem_every", "tracker.top_k"]
    assert changes(results, records[0], RunOptions(workers=7, fps=3.0, overlay=True)) == []
    many = replace(other, settings={"model": {f"width_{i}": i for i in range(9)}})
    with pytest.raises(
        ValueError, match=r"bear was made with other default_size, model\.width_0, .*width_3 and 7 more; expected"
    ):
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


@pytest.mark.parametrize("suffix", ["bmp", "tif"])
def test_frames_that_were_replaced_by_others_of_equal_size_are_noticed(
    tiny_model: CutieGeo, tmp_path: Path, suffix: str
):
    (tmp_path / "bear").mkdir()
    files = [tmp_path / "bear" / f"{t:05d}.{suffix}" for t in range(2)]
    images = pictures(4)
    for path, image in zip(files, images):
        Image.fromarray(image).save(path)
    record = VideoRecord("bear", tmp_path / "bear", first_mask=write_mask(tmp_path / "m.png"))
    results, _ = go(tiny_model, [record], tmp_path / "out")
    sizes = [path.stat() for path in files]
    for path in files:  # copied, as onto another disk
        shutil.copy(path, tmp_path / "copy")
        (tmp_path / "copy").replace(path)
    assert changes(results, record, RunOptions()) == []
    for path, image, old in zip(files, images[2:], sizes):
        Image.fromarray(image).save(path)
        os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert [path.stat().st_size for path in files] == [old.st_size for old in sizes]
    assert changes(results, record, RunOptions()) == ["frame_contents"]
    with pytest.raises(ValueError, match="bear was made with other frames; expected the same"):
        go(tiny_model, [record], tmp_path / "out")


def test_frames_are_read_again_only_if_they_were_touched(records: list[VideoRecord], monkeypatch: pytest.MonkeyPatch):
    before = input_digests(records[0])
    monkeypatch.setattr(results_module, "_contents", lambda paths: "read again")
    assert input_digests(records[0], before) == before
    os.utime(records[0].source / "00000.jpg", ns=(1, 1))
    assert input_digests(records[0], before)["frame_contents"] == "read again"


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"fps": 0.0}, {"fps": float("inf")}, {"fps": float("nan")}])
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
