"""infer.py as its users meet it: what is written, what is refused and in which words."""

import argparse
import errno
import io
import os
import pickle
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import av
import finished
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY_GEO_YAML
from toy_videos import (
    PALETTE,
    SIZE,
    contents,
    look,
    read_ids,
    regions,
    summary,
    tiny_options,
    torn_files,
    write_film,
    write_frames,
    write_mask,
    write_rgb_mask,
    write_videos,
)

from cutie_geo import progress
from cutie_geo.__main__ import main, run_one
from cutie_geo.checkpoints import load
from cutie_geo.checkpoints.saving import save_checkpoint
from cutie_geo.commands import infer
from cutie_geo.data.example import example_masks
from cutie_geo.data.masks import read_probs
from cutie_geo.data.video import open_source
from cutie_geo.inference import one_video
from cutie_geo.inference.postprocess import Cleaning
from cutie_geo.inference.results import Results
from cutie_geo.runs.infer import plan
from cutie_geo.runs.models import load_any

Run = Callable[..., int]
Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="session")
def load_once() -> Callable[..., object]:
    """`load_any`, which takes most of a short run, once for the small model."""
    models: dict[tuple[str, ...], object] = {}

    def cached(name: str, weights: str, *rest: object) -> object:
        key = (Path(name).read_text() if Path(name).is_file() else name, weights, *map(str, rest))
        if weights != "none" or key not in models:
            models[key] = load_any(name, weights, *rest)
        return models[key]

    return cached


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load_once: Callable[..., object]) -> Run:
    """infer.py in this process with a small model; results in `out` unless said otherwise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cutie_geo.runs.infer.load_any", load_once)
    options = tiny_options(tmp_path)

    def call(*argv: object) -> int:
        output = [] if "--output" in argv else ["--output", "out"]
        return run_one("infer", [*map(str, argv), *output, *options])

    return call


def only_error(said: Said) -> str:
    """The one line that a failure left on standard error."""
    lines = [line for line in said.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, lines
    return lines[0]


# --------------------------------------------------------------------------------------------------- what is written
@pytest.mark.slow
def test_a_folder_of_frames_becomes_masks_with_the_input_s_ids_size_and_palette(run: Run, tmp_path: Path, capsys: Said):
    frames = write_frames(tmp_path / "bear", 5, size=(66, 101))
    mask = write_mask(tmp_path / "mask.png", regions((3, 9), (66, 101)))

    assert run("--video", frames, "--mask", mask) == 0

    written = sorted((tmp_path / "out" / "Annotations" / "bear").iterdir())
    assert [path.name for path in written] == [f"{t:05d}.png" for t in range(5)]
    for path in written:
        assert look(path) == ("P", (66, 101), PALETTE)
        assert set(np.unique(read_ids(path))) <= {0, 3, 9}
    assert (read_ids(written[0]) == regions((3, 9), (66, 101))).mean() > 0.95
    assert capsys.readouterr().out.splitlines()[-1] == f"results: {tmp_path / 'out'}"


@pytest.mark.slow
def test_run_json_tells_how_the_results_came_about(run: Run, tmp_path: Path):
    videos, masks = write_videos(tmp_path, ["bear", "cat"])
    assert run("--video", videos, "--mask", masks, "--mem-every", 3, "long_term.num_prototypes=64") == 0

    told = summary(tmp_path / "out")
    assert told["command"][1:3] == ["--video", str(videos)]
    assert set(told["versions"]) >= {"python", "torch", "cutie_geo"}
    assert told["settings"]["tracker"]["mem_every"] == 3
    assert told["settings"]["tracker"]["long_term"]["num_prototypes"] == 64
    assert told["settings"]["model"]["value_dim"] == 32
    assert (told["settings"]["weights"], told["settings"]["precision"], told["device"]) == ("none", "float32", "cpu")
    bear = told["videos"]["bear"]
    assert set(told["videos"]) == {"bear", "cat"}
    assert (bear["objects"], bear["frames"]) == ([1, 2], [f"{t:05d}" for t in range(4)])
    assert len(bear["seconds_per_frame"]) == 4
    assert all(seconds > 0 for seconds in bear["seconds_per_frame"])
    assert bear["peak_memory_bytes"] > 0
    assert bear["frame_size"] == list(SIZE)


def test_cleaning_is_of_the_masks_that_are_written_and_of_nothing_else(run: Run, tmp_path: Path):
    given = ("--video", write_frames(tmp_path / "bear"), "--mask", write_mask(tmp_path / "m.png"), "--save-probs")
    assert run(*given) == 0
    presence = summary(tmp_path / "out")["videos"]["bear"]["presence"]
    assert {i: len(values) for i, values in presence.items()} == {"1": 4, "2": 4}
    floor = (presence["1"][3] + presence["2"][3]) / 2
    options = ("--min-confidence", floor, "--remove-small", 300, "--fill-holes", 200)
    assert run(*given, *options, "--output", "clean") == 0
    told = summary(tmp_path / "clean")
    assert told["settings"]["cleaning"] == {"min_confidence": floor, "small_components": 300, "holes": 200}
    assert told["videos"]["bear"]["presence"] == presence
    clean, changed = Cleaning(floor, 300, 200), 0
    for t in range(4):
        plain, ours = (read_ids(tmp_path / kind / "Annotations/bear" / f"{t:05d}.png") for kind in ("out", "clean"))
        sure = {int(i): values[t] for i, values in presence.items()}
        assert np.array_equal(ours, clean(plain.astype(np.int32), sure))
        changed += int((ours != plain).sum())
        probs = [read_probs(tmp_path / kind / "probs" / "bear" / f"{t:05d}.npz")[0] for kind in ("out", "clean")]
        assert np.array_equal(*probs)
    assert changed > 0


def test_run_json_keeps_videos_of_earlier_calls(run: Run, tmp_path: Path):
    videos, masks = write_videos(tmp_path, ["bear", "cat"])
    assert run("--video", videos, "--mask", masks, "--videos", "cat") == 0
    assert not (tmp_path / "out" / "Annotations" / "bear").exists()
    assert run("--video", videos, "--mask", masks, "--videos", "bear") == 0
    assert set(summary(tmp_path / "out")["videos"]) == {"bear", "cat"}


def test_forward_frames_before_the_first_mask_are_background(run: Run, tmp_path: Path):
    frames = write_frames(tmp_path / "bear", 4)
    write_mask(tmp_path / "masks" / "00002.png")
    assert run("--video", frames, "--mask", tmp_path / "masks", "--save-probs", "--direction", "forward") == 0
    shown = [read_ids(tmp_path / "out" / "Annotations" / "bear" / f"{t:05d}.png") for t in range(4)]
    assert [labels.any() for labels in shown[:3]] == [False, False, True]
    assert look(tmp_path / "out" / "Annotations" / "bear" / "00000.png").size == SIZE
    probs, ids = read_probs(tmp_path / "out" / "probs" / "bear" / "00000.npz")
    assert (probs.shape, ids) == ((1, *SIZE), ())


def reversed_frames(source: Path, folder: Path) -> Path:
    """The frames of a video as PNGs in reversed order, 00000.png first."""
    folder.mkdir()
    for t, (_, image) in enumerate(reversed(list(open_source(source)))):
        Image.fromarray(image).save(folder / f"{t:05d}.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("of_a_film", [False, True])
def test_backward_equals_forward_on_the_reversed_clip(run: Run, tmp_path: Path, of_a_film: bool):
    source = write_film(tmp_path / "bear.mp4", 5) if of_a_film else write_frames(tmp_path / "bear", 5)
    turned = reversed_frames(source, tmp_path / "turned")
    last = write_mask(tmp_path / "00004.png")
    assert run("--video", source, "--mask", last, "--direction", "backward", "--save-probs", "--overlay") == 0
    assert (
        run("--video", turned, "--mask", write_mask(tmp_path / "first.png"), "--output", "ahead", "--save-probs") == 0
    )
    for t in range(5):
        for kind, suffix in (("Annotations", "png"), ("probs", "npz")):
            found, expected = f"out/{kind}/bear/{t:05d}.{suffix}", f"ahead/{kind}/turned/{4 - t:05d}.{suffix}"
            assert (tmp_path / found).read_bytes() == (tmp_path / expected).read_bytes()
    told = [summary(tmp_path / name)["videos"][video] for name, video in (("out", "bear"), ("ahead", "turned"))]
    assert told[0]["frames"] == told[1]["frames"] == [f"{t:05d}" for t in range(5)]
    assert told[0]["presence"]["1"] == told[1]["presence"]["1"][::-1]
    with av.open(str(tmp_path / "out" / "overlays" / "bear.mp4")) as container:
        assert len(list(container.decode(video=0))) == 5


def test_a_mask_of_another_name_belongs_to_the_last_frame_of_a_video_that_runs_backward(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    frames, mask = write_frames(tmp_path / "bear", 3), write_mask(tmp_path / "first.png")
    assert run("--video", frames, "--mask", mask, "--direction", "backward") == 0
    assert read_ids(tmp_path / "out/Annotations/bear/00002.png").any()
    assert f"{mask}: taken for the mask of the last frame, 00002; frames are named 00002 to 00000" in caplog.messages


@pytest.mark.slow
def test_a_mask_in_mid_video_gives_every_frame(run: Run, tmp_path: Path):
    frames = write_frames(tmp_path / "bear", 6)
    mask = write_mask(tmp_path / "00003.png")
    assert run("--video", frames, "--mask", mask, "--overlay") == 0
    for direction in ("forward", "backward"):
        assert run("--video", frames, "--mask", mask, "--output", direction, "--direction", direction) == 0
    both, ahead, back = (contents(tmp_path / name / "Annotations") for name in ("out", "forward", "backward"))
    names = [f"bear/{t:05d}.png" for t in range(6)]
    assert sorted(both) == names
    assert [both[name] for name in names[3:]] == [ahead[name] for name in names[3:]]
    assert [both[name] for name in names[:3]] == [back[name] for name in names[:3]]
    assert all(read_ids(tmp_path / "out" / "Annotations" / name).any() for name in names)
    told = summary(tmp_path / "out")["videos"]["bear"]
    assert told["frames"] == [f"{t:05d}" for t in range(6)]
    assert all(sure is not None for sure in told["presence"]["1"])
    with av.open(str(tmp_path / "out" / "overlays" / "bear.mp4")) as container:
        assert len(list(container.decode(video=0))) == 6


def test_blank_masks_before_the_first_object_keep_their_frames_blank(run: Run, tmp_path: Path):
    """Annotation programs write one for each frame; the object enters later."""
    frames = write_frames(tmp_path / "bear", 4)
    for t in (0, 2):
        write_mask(tmp_path / "masks" / f"{t:05d}.png", regions() * int(t > 0))
    assert run("--video", frames, "--mask", tmp_path / "masks") == 0
    assert run("--video", frames, "--mask", tmp_path / "masks", "--direction", "both", "--output", "both") == 0
    seen = {
        name: [read_ids(tmp_path / name / "Annotations" / "bear" / f"{t:05d}.png").any() for t in range(4)]
        for name in ("out", "both")
    }
    assert seen == {"out": [False, False, True, True], "both": [True] * 4}


def test_every_mask_is_used_when_its_frame_comes(run: Run, tmp_path: Path):
    frames = write_frames(tmp_path / "bear", 4)
    write_mask(tmp_path / "masks" / "00000.png", regions((1,)))
    late = write_mask(tmp_path / "masks" / "00002.png", regions((0, 0, 5, 0)))
    assert run("--video", frames, "--mask", tmp_path / "masks") == 0
    shown = [np.unique(read_ids(tmp_path / "out" / "Annotations" / "bear" / f"{t:05d}.png")) for t in range(4)]
    assert 5 not in [*shown[0], *shown[1]]
    given = read_ids(late) == 5
    assert (read_ids(tmp_path / "out" / "Annotations" / "bear" / "00002.png")[given] == 5).mean() > 0.8
    assert summary(tmp_path / "out")["videos"]["bear"]["objects"] == [1, 5]


def test_a_video_file_s_frames_are_numbered(run: Run, tmp_path: Path):
    film = write_film(tmp_path / "clip.mp4", 5)
    assert run("--video", film, "--mask", write_mask(tmp_path / "first.png"), "--overlay", "--save-probs") == 0
    out = tmp_path / "out"
    assert sorted(contents(out / "Annotations" / "clip")) == [f"{t:05d}.png" for t in range(5)]
    with av.open(str(out / "overlays" / "clip.mp4")) as container:
        assert container.streams.video[0].average_rate == 10
        assert len(list(container.decode(video=0))) == 5
    probs, ids = read_probs(out / "probs" / "clip" / "00004.npz")
    assert (probs.shape, ids) == ((3, *SIZE), (1, 2))
    labels = np.array([0, *ids])[probs.argmax(0)]
    clear = np.diff(np.sort(probs, axis=0)[-2:], axis=0)[0] > 1 / 255  # rounding may turn what is as good as a tie
    assert (labels == read_ids(out / "Annotations" / "clip" / "00004.png"))[clear].all()


def test_size_and_overlay_leave_the_results_at_the_files_size(run: Run, tmp_path: Path):
    frames = write_frames(tmp_path / "bear", 3)
    arguments = ("--video", frames, "--mask", write_mask(tmp_path / "m.png"), "--size", 48, "--overlay", "--fps", 12.5)
    assert run(*arguments) == 0
    assert look(tmp_path / "out" / "Annotations" / "bear" / "00002.png").size == SIZE
    told = summary(tmp_path / "out")["videos"]["bear"]
    assert (told["frame_size"], told["processed_size"]) == ([64, 96], [48, 72])
    with av.open(str(tmp_path / "out" / "overlays" / "bear.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width, float(stream.average_rate or 0)) == (64, 96, 12.5)


def test_an_overlay_has_the_sound_and_the_times_of_its_film(run: Run, tmp_path: Path):
    times = [0.0, 0.1, 1.5, 1.6]
    film = finished.write_film(tmp_path / "film.mp4", "aac", 2.0, times)
    mask = write_mask(tmp_path / "m.png", finished.label_maps()["00000"])
    assert run("--video", film, "--mask", mask, "--overlay") == 0
    with av.open(str(tmp_path / "out" / "overlays" / "film.mp4")) as container:
        assert [frame.time for frame in container.decode(video=0)] == pytest.approx(times, abs=0.002)
    with av.open(str(tmp_path / "out" / "overlays" / "film.mp4")) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) > 1.4 * 16000


@pytest.mark.parametrize("ids", [(1, 300), (300, 65000)])
def test_ids_of_16_bits_come_out_as_long_ids_in_every_frame(run: Run, tmp_path: Path, ids: tuple[int, int]):
    frames = write_frames(tmp_path / "bear", 4)
    mask = write_mask(tmp_path / "masks" / "00001.png", regions(ids))
    assert run("--video", frames, "--mask", tmp_path / "masks") == 0
    assert {look(path).mode for path in (tmp_path / "out" / "Annotations" / "bear").iterdir()} == {"RGB"}
    labels = read_ids(tmp_path / "out" / "Annotations" / "bear" / "00001.png")
    assert (labels == read_ids(mask)).mean() > 0.95
    assert set(np.unique(labels)) <= {0, *ids}


def test_rgb_masks_of_long_ids_are_read_where_asked_for(run: Run, tmp_path: Path):
    frames = write_frames(tmp_path / "bear", 2)
    mask = write_rgb_mask(tmp_path / "m.png", regions((70000, 5)))
    assert run("--video", frames, "--mask", mask, "--long-ids") == 0
    assert (read_ids(tmp_path / "out" / "Annotations" / "bear" / "00000.png") == regions((70000, 5))).mean() > 0.95
    assert summary(tmp_path / "out")["videos"]["bear"]["objects"] == [5, 70000]


@pytest.mark.slow
def test_more_objects_than_a_palette_holds(run: Run, tmp_path: Path):
    ids = range(1, 261)
    frames = write_frames(tmp_path / "crowd", 2)
    mask = write_mask(tmp_path / "m.png", regions(tuple(ids)))
    assert run("--video", frames, "--mask", mask, "--chunk-size", 64) == 0
    assert summary(tmp_path / "out")["videos"]["crowd"]["objects"] == list(ids)
    assert look(tmp_path / "out" / "Annotations" / "crowd" / "00001.png").mode == "RGB"


@pytest.mark.slow
def test_results_are_the_same_bytes_for_any_number_of_workers_and_for_videos_alone(run: Run, tmp_path: Path):
    videos, masks = write_videos(tmp_path, ["bear", "cat"], frames=7)
    common = ("--video", videos, "--mask", masks, "--mem-every", 2)
    assert run(*common, "--workers", 1) == 0
    assert run(*common, "--workers", 4, "--output", "four") == 0
    alone = ("--video", videos / "cat", "--mask", masks / "cat", "--mem-every", 2)
    assert run(*alone, "--output", "alone") == 0
    assert len(contents(tmp_path / "out")) == 14
    assert contents(tmp_path / "out") == contents(tmp_path / "four")
    assert contents(tmp_path / "out" / "Annotations" / "cat") == contents(tmp_path / "alone" / "Annotations" / "cat")


# ---------------------------------------------------------------------------------------------------------- datasets
def davis_tree(root: Path, names: tuple[str, ...] = ("bear", "cat")) -> Path:
    for seed, name in enumerate(names):
        write_frames(root / "JPEGImages" / "480p" / name, 3, seed=seed)
        for t in range(3):
            write_mask(root / "Annotations" / "480p" / name / f"{t:05d}.png", regions((255,)))
    (root / "ImageSets" / "2016").mkdir(parents=True)
    (root / "ImageSets" / "2016" / "val.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def test_davis2016_is_run_by_its_own_settings(run: Run, tmp_path: Path):
    assert run("--dataset", "davis2016-val", "--data-root", davis_tree(tmp_path / "davis")) == 0
    told = summary(tmp_path / "out")
    assert told["settings"]["tracker"]["max_internal_size"] == 480
    assert not told["settings"]["tracker"]["use_long_term"]
    assert {name: video["objects"] for name, video in told["videos"].items()} == {"bear": [255], "cat": [255]}
    assert set(np.unique(read_ids(tmp_path / "out" / "Annotations" / "bear" / "00002.png"))) <= {0, 255}


@pytest.mark.slow
@pytest.mark.parametrize(("options", "every"), [([], 3), (["--mem-every", 2], 2), (["mem_every=4"], 4)])
def test_a_model_s_own_pace_of_memory_counts_unless_another_is_named(
    run: Run, tmp_path: Path, options: list[str | int], every: int
):
    root = davis_tree(tmp_path / "davis")
    model = tmp_path / "tiny.yaml"
    model.write_text(model.read_text() + "mem_every: 3\n")
    own = (*options, "--videos", "cat")
    assert run(*own, "--dataset", "davis2016-val", "--data-root", root) == 0
    assert summary(tmp_path / "out")["settings"]["tracker"]["mem_every"] == every


def test_options_win_over_a_dataset_s_settings(run: Run, tmp_path: Path):
    root = davis_tree(tmp_path / "davis")
    chosen = ("--videos", "cat", "--long-term", "--mem-every", 2, "--size", 48)
    assert run("--dataset", "davis2016-val", "--data-root", root, *chosen) == 0
    told = summary(tmp_path / "out")
    assert list(told["videos"]) == ["cat"]
    tracker = told["settings"]["tracker"]
    assert (tracker["max_internal_size"], tracker["mem_every"], tracker["use_long_term"]) == (48, 2, True)


def test_lvos_objects_start_at_their_first_appearance(run: Run, tmp_path: Path):
    root = tmp_path / "lvos" / "val"
    write_frames(root / "JPEGImages" / "bear", 3)
    write_mask(root / "Annotations" / "bear" / "00000.png", regions((1,)))
    write_mask(root / "Annotations" / "bear" / "00001.png", regions((1, 2)))
    assert run("--dataset", "lvos-valid", "--data-root", tmp_path / "lvos") == 0
    assert summary(tmp_path / "out")["videos"]["bear"]["objects"] == [1, 2]
    assert 2 not in read_ids(tmp_path / "out" / "Annotations" / "bear" / "00000.png")


# ---------------------------------------------------------------------------------------------------------- resuming
@pytest.mark.slow
def test_a_second_call_skips_what_is_complete(run: Run, tmp_path: Path, capsys: Said):
    videos, masks = write_videos(tmp_path, ["bear", "cat"])
    assert run("--video", videos, "--mask", masks) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    (tmp_path / "out" / "Annotations" / "cat" / "00001.png").unlink()
    capsys.readouterr()

    assert run("--video", videos, "--mask", masks) == 0

    assert "1 segmented" in (told := capsys.readouterr().out)
    assert "1 already complete" in told
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    assert set(after) == set(before)
    assert {path.parent.name for path in after if after[path] != before[path]} == {"cat"}


def test_files_asked_for_later_are_made(run: Run, tmp_path: Path):
    videos, masks = write_videos(tmp_path, ["bear"])
    assert run("--video", videos, "--mask", masks) == 0
    assert run("--video", videos, "--mask", masks, "--overlay", "--save-probs") == 0
    assert (tmp_path / "out" / "overlays" / "bear.mp4").is_file()
    assert len(list((tmp_path / "out" / "probs" / "bear").iterdir())) == 4


def change_setting(tmp_path: Path) -> list[str]:
    return ["--mem-every", "2"]


def change_mask(tmp_path: Path) -> list[str]:
    write_mask(tmp_path / "masks" / "bear" / "00000.png", regions((7,)))
    return []


def add_frame(tmp_path: Path) -> list[str]:
    shutil.copy(tmp_path / "videos" / "bear" / "00003.jpg", tmp_path / "videos" / "bear" / "00004.jpg")
    return []


@pytest.mark.parametrize(
    ("change", "named"), [(change_setting, "tracker.mem_every"), (change_mask, "masks"), (add_frame, "frames")]
)
def test_results_of_other_settings_are_refused_with_advice(
    run: Run, tmp_path: Path, capsys: Said, change: Callable[[Path], list[str]], named: str
):
    videos, masks = write_videos(tmp_path, ["bear"])
    assert run("--video", videos, "--mask", masks) == 0
    before = contents(tmp_path / "out")
    extra = change(tmp_path)
    capsys.readouterr()
    assert run("--video", videos, "--mask", masks, *extra) == 2
    said = only_error(capsys)
    assert f"made with other {named};" in said
    assert "--overwrite" in said
    assert "--output" in said
    assert contents(tmp_path / "out") == before
    assert run("--video", videos, "--mask", masks, *extra, "--overwrite") == 0
    assert contents(tmp_path / "out") != before


def test_a_mask_that_moves_to_another_frame_is_another_input(run: Run, tmp_path: Path, capsys: Said):
    frames = write_frames(tmp_path / "bear", 5)
    late, first = write_mask(tmp_path / "00003.png"), write_mask(tmp_path / "first" / "00000.png")
    assert run("--video", frames, "--mask", late) == 0
    capsys.readouterr()
    assert run("--video", frames, "--mask", first) == 2
    assert "made with other masks" in only_error(capsys)


def test_a_stray_file_among_the_frames_is_no_other_input(run: Run, tmp_path: Path, capsys: Said):
    frames, mask = write_frames(tmp_path / "bear", 4), write_mask(tmp_path / "m.png")
    assert run("--video", frames, "--mask", mask) == 0
    (frames / "Thumbs.db").write_bytes(b"x")
    capsys.readouterr()
    assert run("--video", frames, "--mask", mask) == 0
    assert "1 already complete" in capsys.readouterr().out


def test_a_mask_may_lie_where_the_results_go(run: Run, tmp_path: Path):
    frames, mask = write_frames(tmp_path / "bear", 2), write_mask(tmp_path / "out" / "m.png")
    assert run("--video", frames, "--mask", mask) == 0


def test_results_do_not_go_into_the_folder_of_the_frames(run: Run, tmp_path: Path, capsys: Said):
    frames, mask = write_frames(tmp_path / "bear", 4), write_mask(tmp_path / "m.png")
    assert run("--video", frames, "--mask", mask, "--output", frames) == 2
    assert "results would be inside the input" in only_error(capsys)
    assert not [path for path in frames.iterdir() if path.suffix != ".jpg"]


def test_overwrite_leaves_nothing_of_before(run: Run, tmp_path: Path):
    frames = write_frames(tmp_path / "bear", 5)
    mask = write_mask(tmp_path / "m.png")
    assert run("--video", frames, "--mask", mask, "--overlay", "--save-probs") == 0
    (frames / "00004.jpg").unlink()
    assert run("--video", frames, "--mask", mask, "--overwrite") == 0
    assert sorted(contents(tmp_path / "out")) == [f"Annotations/bear/{t:05d}.png" for t in range(4)]
    assert not (tmp_path / "out" / "overlays" / "bear.mp4").exists()
    assert not (tmp_path / "out" / "probs" / "bear").exists()


def test_an_unfinished_video_is_redone_whatever_its_settings_were(run: Run, tmp_path: Path):
    videos, masks = write_videos(tmp_path, ["bear"])
    damaged = videos / "bear" / "00002.jpg"
    sound = damaged.read_bytes()
    damaged.write_bytes(sound[:200])
    assert run("--video", videos, "--mask", masks) == 2
    damaged.write_bytes(sound)
    assert run("--video", videos, "--mask", masks, "--mem-every", 2) == 0
    assert len(contents(tmp_path / "out" / "Annotations" / "bear")) == 4
    assert "error" not in summary(tmp_path / "out")["videos"]["bear"]


@pytest.mark.slow
def test_a_damaged_note_makes_the_video_redone(run: Run, tmp_path: Path, capsys: Said):
    videos, masks = write_videos(tmp_path, ["bear"])
    assert run("--video", videos, "--mask", masks) == 0
    for damage in ("{", "[]", '{"video": "bear"}', ""):
        (tmp_path / "out" / ".cutie_geo" / "bear.json").write_text(damage)
        capsys.readouterr()
        assert run("--video", videos, "--mask", masks) == 0
        assert "1 segmented" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------- bad input
def empty_folder(root: Path) -> None:
    for path in (root / "videos" / "bad").iterdir():
        path.unlink()


def truncated_jpeg(root: Path) -> None:
    path = root / "videos" / "bad" / "00002.jpg"
    path.write_bytes(path.read_bytes()[:300])


def corrupt_film(root: Path) -> None:
    shutil.rmtree(root / "videos" / "bad")
    (root / "videos" / "bad.mp4").write_bytes(random.Random(0).randbytes(2000))  # some others pass for subtitles


def rgb_mask(root: Path) -> None:
    write_rgb_mask(root / "masks" / "bad" / "00000.png", regions())


def mask_of_another_size(root: Path) -> None:
    write_mask(root / "masks" / "bad" / "00000.png", regions(size=(32, 48)))


def mask_without_objects(root: Path) -> None:
    write_mask(root / "masks" / "bad" / "00000.png", np.zeros(SIZE, np.int32))


def mask_without_a_frame(root: Path) -> None:
    write_mask(root / "masks" / "bad" / "00009.png")


def no_mask(root: Path) -> None:
    shutil.rmtree(root / "masks" / "bad")


def damaged_mask(root: Path) -> None:
    path = root / "masks" / "bad" / "00000.png"
    path.write_bytes(path.read_bytes()[:-30])


def damaged_late_mask(root: Path) -> None:
    path = write_mask(root / "masks" / "bad" / "00002.png")
    path.write_bytes(path.read_bytes()[:-30])


def frames_of_two_sizes(root: Path) -> None:
    shutil.copy(write_frames(root / "other", 1, size=(48, 96)) / "00000.jpg", root / "videos" / "bad" / "00003.jpg")


def file_in_the_way_of_a_folder(root: Path) -> None:
    (root / "out" / "Annotations").mkdir(parents=True)
    (root / "out" / "Annotations" / "bad").write_text("mine")


def folder_in_the_way_of_a_file(root: Path) -> None:
    (root / "out" / "Annotations" / "bad" / "00001.png").mkdir(parents=True)


def folder_in_the_way_of_the_note(root: Path) -> None:
    (root / "out" / ".cutie_geo" / "bad.json" / "mine").mkdir(parents=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "words", "kept"),
    [
        (empty_folder, ["videos/bad: no frames"], 0),
        (truncated_jpeg, ["bad/00002.jpg: cannot be read as an image"], 2),
        (corrupt_film, ["bad.mp4: cannot be opened as a video"], 0),
        (rgb_mask, ["bad/00000.png: mask is RGB (64, 96, 3), expected palette or grey"], 0),
        (mask_of_another_size, ["bad/00000.png", "(32, 48), expected (64, 96)"], 0),
        (mask_without_objects, ["bad/00000.png: the mask has no objects"], 0),
        (mask_without_a_frame, ["masks/bad: no frame for the masks 00009"], 0),
        (no_mask, ["nothing for bad, expected bad.png or bad/"], 0),
        (damaged_mask, ["bad/00000.png: cannot be read as a mask"], 0),
        (damaged_late_mask, ["bad/00002.png: cannot be read as a mask"], 2),
        (frames_of_two_sizes, ["bad/00003.jpg: frame is (H, W) = (48, 96), expected (64, 96)"], 3),
        (file_in_the_way_of_a_folder, ["out/Annotations/bad"], 0),
        (folder_in_the_way_of_a_file, ["out/Annotations/bad/00001.png", "directory"], None),
        (folder_in_the_way_of_the_note, ["bad.json", "directory"], 0),
    ],
)
def test_a_bad_video_is_named_in_one_line_and_spoils_no_other(
    run: Run, tmp_path: Path, capsys: Said, spoil: Callable[[Path], None], words: list[str], kept: int | None
):
    videos, masks = write_videos(tmp_path, ["bad", "good"])
    spoil(tmp_path)
    assert run("--video", videos, "--mask", masks) == 2
    said = only_error(capsys)
    for word in words:
        assert word.lower() in said.lower()
    out = tmp_path / "out"
    assert len(contents(out / "Annotations" / "good")) == 4
    written = [path for path in (out / "Annotations" / "bad").glob("*.png") if path.is_file()]
    assert kept is None or len(written) == kept
    assert torn_files(out) == []
    told = summary(out)["videos"]
    assert f"error: {told['bad']['error']}" == said
    assert "error" not in told["good"]


def test_no_overlay_is_left_of_a_video_that_failed(run: Run, tmp_path: Path):
    videos, masks = write_videos(tmp_path, ["bad"])
    truncated_jpeg(tmp_path)
    assert run("--video", videos, "--mask", masks, "--overlay") == 2
    assert list((tmp_path / "out" / "overlays").iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--video", "nowhere", "--mask", "m.png"], "nowhere: no such file or folder"),
        (["--video", "bear", "--mask", "nowhere.png"], "nowhere.png: no such file or folder"),
        (["--video", "bear"], "bear: no mask given"),
        (["--video", "empty", "--mask", "m.png"], "empty: no frames"),
        (["--video", "m.png", "--mask", "m.png"], "m.png: got a .png file, expected a video"),
        (["--video", "bear", "--mask", "m.png", "--videos", "cat"], "--videos: no cat among 1 videos"),
        (["--video", "bear", "--mask", "m.png", "--output", "m.png"], "m.png: the folder is not writable"),
        (["--video", "bear", "--mask", "m.png", "--output", "m.png/out"], "m.png/out: the folder is not writable"),
        (["--video", "bear", "--mask", "m.png", "--size", "3"], "size: got 3"),
        (["--video", "bear", "--mask", "m.png", "--workers", "0"], "workers: got 0"),
        (["--video", "bear", "--mask", "m.png", "--overlay", "--fps", "nan"], "fps: got nan"),
        (["--video", "bear", "--mask", "m.png", "--fps", "3"], "--fps: expected --overlay"),
        (["--video", "bear", "--mask", "m.png", "--top-k", "0"], "top_k: got 0"),
        (["--video", "bear", "--mask", "m.png", "--device", "abacus"], "device abacus"),
        (["--video", "bear", "--mask", "m.png", "--precision", "fp8"], "precision: got 'fp8'"),
        (["--video", "bear", "--mask", "m.png", "--model", "cutie-huge"], "cutie-huge: no such model"),
        (["--video", "bear", "--mask", "m.png", "mem_evry=3"], "unknown mem_evry"),
        (["bear", "--video", "bear", "--mask", "m.png"], "bear: expected an option such as --mask before it"),
        (["--video", "bear", "--dataset", "davis2016-val"], "expected one of them"),
        (["--mask", "m.png"], "--mask: expected --video"),
        (["--dataset", "davis2016-val"], "expected --data-root"),
        (["--data-root", "."], "--data-root: expected --dataset"),
        (["--dataset", "davis2015", "--data-root", "."], "--dataset: got davis2015"),
        (["--dataset", "davis2016-val", "--data-root", "nowhere"], "nowhere: no such folder"),
        (["--dataset", "davis2016-val", "--data-root", "bear"], "bear: not the layout of this dataset"),
    ],
)
def test_arguments_that_make_no_sense_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said, argv: list[str], words: str
):
    monkeypatch.chdir(tmp_path)
    write_frames(tmp_path / "bear", 1)
    write_mask(tmp_path / "m.png")
    (tmp_path / "empty").mkdir()
    tiny = dict(zip(*[iter(tiny_options(tmp_path))] * 2))
    options = [word for name, value in tiny.items() if name not in argv for word in (name, value)]
    assert run_one("infer", [*argv, *options]) == 2
    assert words in only_error(capsys)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--vidoe", "x.mp4"], "did you mean --video?"),
        (["--overwite"], "did you mean --overwrite?"),
        (["--over"], "unrecognized arguments: --over"),
        (["--mem-every", "often"], "argument --mem-every: invalid int value: 'often'"),
        (["--video"], "argument --video: expected one argument"),
    ],
)
def test_misspelt_options_are_one_line_too(capsys: Said, argv: list[str], words: str):
    with pytest.raises(SystemExit) as left:
        main(["infer", *argv])
    assert left.value.code == 2
    assert words in only_error(capsys)


@pytest.mark.parametrize("output", ["videos", "masks", "link", "videos/out", "masks/bear", "videos/bear", "link/a/b"])
def test_results_never_land_in_the_input(run: Run, tmp_path: Path, capsys: Said, output: str):
    videos, masks = write_videos(tmp_path, ["bear"])
    (tmp_path / "link").symlink_to(masks)
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    assert run("--video", videos, "--mask", masks, "--output", output, "--overwrite") == 2
    assert (
        f"results would be inside the input, where the next call would read them as videos; got {output}, expected"
        in (only_error(capsys))
    )
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_results_never_land_in_a_benchmark_s_folder_of_videos(run: Run, tmp_path: Path, capsys: Said):
    what = ("--dataset", "davis2016-val", "--data-root", davis_tree(tmp_path / "davis"))
    for inside in ("JPEGImages/480p/out", "Annotations/480p"):
        assert run(*what, "--output", tmp_path / "davis" / inside) == 2
        assert "results would be inside the input" in only_error(capsys)
    assert not (tmp_path / "davis" / "Annotations" / "480p" / "run.json").exists()
    assert run(*what, "--output", tmp_path / "davis" / "out") == 0


def test_results_never_land_on_the_masks_that_they_are_made_from(run: Run, tmp_path: Path, capsys: Said):
    frames, masks = write_frames(tmp_path / "bear"), tmp_path / "out" / "Annotations" / "bear"
    before = write_mask(masks / "00000.png").read_bytes()
    assert run("--video", frames, "--mask", masks, "--overwrite") == 2
    assert "results would overwrite the input" in only_error(capsys)
    assert (masks / "00000.png").read_bytes() == before


def test_a_video_file_may_lie_beside_its_results(run: Run, tmp_path: Path):
    assert run("--video", write_film(tmp_path / "clip.mp4"), "--mask", write_mask(tmp_path / "m.png")) == 0
    assert len(contents(tmp_path / "out" / "Annotations" / "clip")) == 4


def test_evaluate_takes_what_infer_wrote_and_its_masks(run: Run, tmp_path: Path, capsys: Said):
    root = davis_tree(tmp_path / "davis")
    assert run("--dataset", "davis2016-val", "--data-root", root) == 0
    truth = ["evaluate", "--protocol", "davis2016", "--gt", str(root / "Annotations" / "480p"), "--pred"]
    tables = []
    for masks in ("out", "out/Annotations"):
        capsys.readouterr()
        assert main([*truth, str(tmp_path / masks)]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]
    assert "overall" in tables[0]
    for name in ("bear", "cat"):  # and what earlier versions wrote
        (tmp_path / "out" / "Annotations" / name).rename(tmp_path / "out" / name)
    (tmp_path / "out" / "Annotations").rmdir()
    assert main([*truth, str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == tables[0]


def test_only_folders_of_masks_lie_beside_each_other(run: Run, tmp_path: Path):
    videos, masks = write_videos(tmp_path, ["bear", "cat"])
    assert run("--video", videos, "--mask", masks, "--save-probs", "--overlay") == 0
    assert sorted(path.name for path in (tmp_path / "out" / "Annotations").iterdir()) == ["bear", "cat"]
    beside = {".cutie_geo", "Annotations", "overlays", "probs", "run.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == beside


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_console_that_lacks_a_letter_gets_an_escape(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
):
    console = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", console)
    root = davis_tree(tmp_path / "davis", ("\u8996\u983b", "bear"))
    assert run("--dataset", "davis2016-val", "--data-root", root, "--output", "\u8f93\u51fa") == 0
    words = ["--protocol", "davis2016", "--gt", root / "Annotations" / "480p", "--pred", tmp_path / "\u8f93\u51fa"]
    assert main(["evaluate", *map(str, words)]) == 0
    console.flush()
    said = console.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert "\\u8f93\\u51fa" in said
    assert "\\u8996\\u983b" in said
    assert "overall" in said


def test_an_overlay_never_lands_on_its_own_film(run: Run, tmp_path: Path, capsys: Said):
    film = write_film(tmp_path / "out" / "overlays" / "clip.mp4")
    before = film.read_bytes()
    assert run("--video", film, "--mask", write_mask(tmp_path / "m.png"), "--overlay", "--overwrite") == 2
    assert "results would overwrite the input" in only_error(capsys)
    assert film.read_bytes() == before


def test_overwrite_removes_no_png_that_this_program_did_not_write(run: Run, tmp_path: Path):
    videos, masks = write_videos(tmp_path, ["bear"])
    mine = write_mask(tmp_path / "out" / "Annotations" / "bear" / "mine.png")
    assert run("--video", videos, "--mask", masks, "--overwrite") == 0
    assert mine.is_file()


# ---------------------------------------------------------------------------------------------------------- the disk
@pytest.mark.slow
@pytest.mark.parametrize("what", ["write_labels", "write_probs", "_draw_into"])
def test_a_full_disk_is_an_error_and_no_hang(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said, what: str
):
    videos, masks = write_videos(tmp_path, ["bad", "good"], frames=30)
    original, calls = getattr(one_video, what), []

    def full(*args: object) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "that file")
        original(*args)

    monkeypatch.setattr(one_video, what, full)
    assert run("--video", videos, "--mask", masks, "--overlay", "--save-probs", "--workers", 1) == 2
    assert only_error(capsys) == "error: that file: No space left on device"
    assert len(contents(tmp_path / "out" / "Annotations" / "good")) == 30
    assert torn_files(tmp_path / "out") == []
    assert "error" in summary(tmp_path / "out")["videos"]["bad"]


def test_a_disk_too_full_for_run_json_is_an_error_after_all_has_been_said(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
):
    videos, masks = write_videos(tmp_path, ["bear"])

    def full(path: Path, content: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Results, "write_summary", lambda self, summarise: full(self.root / "run.json", summarise()))
    assert run("--video", videos, "--mask", masks) == 2
    said = capsys.readouterr()
    assert "1 segmented" in said.out
    assert "out/run.json: No space left on device" in said.err


# ----------------------------------------------------------------------------------------------------------- weights
class _Malice:
    """A pickle that makes a file when it is loaded without care."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (self.path, "w")


def one_video_of(tmp_path: Path) -> list[str]:
    frames, mask = write_frames(tmp_path / "bear", 1), write_mask(tmp_path / "m.png")
    return ["--video", str(frames), "--mask", str(mask), "--output", str(tmp_path / "out"), "--device", "cpu"]


@pytest.mark.slow
def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(tmp_path: Path, capsys: Said):
    weights, trap = tmp_path / "evil.pth", tmp_path / "trap"
    for content in (_Malice(str(trap)), {"model": _Malice(str(trap))}):
        torch.save(content, weights)
        assert run_one("infer", [*one_video_of(tmp_path), "--model", "cutie-small", "--weights", str(weights)]) == 2
        assert "evil.pth: holds pickled code or objects, refused" in only_error(capsys)
    weights.write_bytes(pickle.dumps(_Malice(str(trap))))
    assert run_one("infer", [*one_video_of(tmp_path), "--model", "cutie-small", "--weights", str(weights)]) == 2
    assert "evil.pth" in only_error(capsys)
    assert not trap.exists()
    pickle.loads(weights.read_bytes()).close()
    assert trap.exists(), "the trap works"


@pytest.mark.slow
def test_damaged_missing_and_foreign_checkpoints_are_refused(tmp_path: Path, capsys: Said):
    (tmp_path / "torn.pth").write_bytes(random.Random(0).randbytes(500))
    torch.save({"weight": torch.zeros(3)}, tmp_path / "foreign.pth")
    for name, words in (
        ("torn.pth", "torn.pth: "),
        ("nowhere.pth", "nowhere.pth: no such weights file"),
        ("foreign.pth", "entries do not fit a model"),
    ):
        argv = [*one_video_of(tmp_path), *tiny_options(tmp_path), "--weights", str(tmp_path / name)]
        assert run_one("infer", argv) == 2
        assert words in only_error(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_checkpoint_of_another_preset_is_recognised(tmp_path: Path, capsys: Said):
    torch.save(load.load_model("cutie-base", "none", "cpu", "fp32").state_dict(), tmp_path / "base.pth")
    argv = [*one_video_of(tmp_path), "--model", "cutie-small", "--weights", str(tmp_path / "base.pth")]
    assert run_one("infer", argv) == 2
    assert "the file looks like cutie-base" in only_error(capsys)


@pytest.mark.slow
def test_weights_are_known_by_their_content_not_their_place(tmp_path: Path, capsys: Said):
    options = tiny_options(tmp_path)
    model = load.load_model(options[1], "none", "cpu", "fp32")
    torch.save(model.state_dict(), tmp_path / "a.pth")
    shutil.copy(tmp_path / "a.pth", tmp_path / "b.pth")
    with torch.no_grad():
        model.pixel_projection.weight.add_(1)
    torch.save(model.state_dict(), tmp_path / "c.pth")
    arguments = [*one_video_of(tmp_path), "--output", str(tmp_path / "out"), *options]
    assert run_one("infer", [*arguments, "--weights", str(tmp_path / "a.pth")]) == 0
    assert run_one("infer", [*arguments, "--weights", str(tmp_path / "b.pth")]) == 0
    assert "1 already complete" in capsys.readouterr().out
    assert run_one("infer", [*arguments, "--weights", str(tmp_path / "c.pth")]) == 2
    assert "made with other weights" in only_error(capsys)


@pytest.mark.slow
def test_what_was_loaded_is_told_without_being_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    options = tiny_options(tmp_path)
    weights = load.load_model(options[1], "none", "cpu", "fp32").state_dict()
    torch.save(weights, tmp_path / "a.pth")
    caplog.clear()
    assert run_one("infer", [*one_video_of(tmp_path), *options, "--weights", str(tmp_path / "a.pth")]) == 0
    assert f"{options[1]}: {len(weights)} entries loaded from {tmp_path / 'a.pth'}" in caplog.messages


# ------------------------------------------------------------------------------------------------- geometry encoder
@pytest.fixture
def geo(tmp_path: Path) -> list[str]:
    """Options for a small model with a geometry encoder."""
    path = tmp_path / "geo.yaml"
    path.write_text(TINY_GEO_YAML)
    return [*tiny_options(tmp_path), "--model", str(path)]


@pytest.mark.slow
def test_depth_is_a_picture_of_every_frame_at_its_own_size(geo: list[str], tmp_path: Path, capsys: Said):
    frames = write_frames(tmp_path / "bear", 5)
    mask = write_mask(tmp_path / "masks" / "00002.png")  # what comes before has a depth too
    arguments = ["--video", str(frames), "--mask", str(mask.parent), "--output", str(tmp_path / "out"), *geo]
    assert run_one("infer", arguments) == 0
    assert run_one("infer", [*arguments, "--save-depth", "--lookahead", "3"]) == 0
    pictures = sorted((tmp_path / "out" / "depth" / "bear").iterdir())
    assert [path.name for path in pictures] == [f"{t:05d}.png" for t in range(5)]
    for path in pictures:
        picture = np.asarray(Image.open(path))
        assert picture.shape == (*SIZE, 3)
        assert (int(picture.max()), int(picture.min())) == (255, 0)  # near and far are there
    capsys.readouterr()
    assert run_one("infer", [*arguments, "--save-depth"]) == 0
    assert "1 already complete" in capsys.readouterr().out
    pictures[3].unlink()
    assert run_one("infer", [*arguments, "--save-depth"]) == 0
    assert pictures[3].is_file()


@pytest.mark.parametrize("without", [["--model", "cutie-small"], ["encoder.geometry=none"]])
def test_depth_of_a_model_that_has_none_is_refused_at_once(
    geo: list[str], tmp_path: Path, capsys: Said, without: list[str]
):
    output = ["--output", str(tmp_path / "out")]
    assert run_one("infer", [*one_video_of(tmp_path), *output, *geo, "--save-depth", *without]) == 2
    assert "--save-depth" in only_error(capsys)
    assert not (tmp_path / "out").exists()


def test_key_value_changes_the_model_or_the_tracker(geo: list[str], tmp_path: Path):
    changes = ["encoder.geometry=none", "long_term.num_prototypes=64"]
    assert run_one("infer", [*one_video_of(tmp_path), "--output", str(tmp_path / "out"), *geo, *changes]) == 0
    settings = summary(tmp_path / "out")["settings"]
    assert settings["model"]["encoder"]["geometry"] == "none"
    assert settings["tracker"]["long_term"]["num_prototypes"] == 64


@pytest.mark.slow
def test_a_model_saved_as_a_folder_is_a_model(geo: list[str], tmp_path: Path):
    save_checkpoint(load.load_model(geo[-1], "none", "cpu", "fp32"), tmp_path / "saved")
    arguments = [*one_video_of(tmp_path), "--precision", "fp32", "--device", "cpu"]
    saved = [*arguments, "--model", str(tmp_path / "saved"), "--output", str(tmp_path / "a")]
    assert run_one("infer", saved) == 0
    assert run_one("infer", [*arguments, *geo, "--output", str(tmp_path / "b")]) == 0
    assert contents(tmp_path / "a" / "Annotations" / "bear") == contents(tmp_path / "b" / "Annotations" / "bear")
    assert summary(tmp_path / "a")["settings"]["weights"].startswith("sha256 ")
    assert run_one("infer", saved) == 0  # known again


# ----------------------------------------------------------------------------------------------------------- example
def test_without_arguments_the_example_is_segmented_and_scored(
    run: Run, tmp_path: Path, capsys: Said, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    original = load_any

    def offline(name: str, weights: str, *rest: str) -> object:
        if weights == "auto":
            raise ValueError("cannot be downloaded")
        return original(name, weights, *rest)

    monkeypatch.setattr("cutie_geo.runs.infer.load_any", offline)
    small = ["--model", tiny_options(tmp_path)[1], "--device", "cpu", "--precision", "fp32", "--size", "48"]
    assert run_one("infer", [*small, "--output", "out"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["object 1", "object 2", "object 3"]
    assert lines[3].startswith("J&F 0.")
    assert lines[-1] == f"results: {tmp_path / 'out'}"
    assert "cannot be downloaded" in caplog.text
    assert "RANDOM weights" in caplog.text
    assert len(contents(tmp_path / "out" / "Annotations" / "toy_wall")) == len(list(example_masks().glob("*.png")))

    assert run_one("infer", [*small, "--output", "out"]) == 0
    again = capsys.readouterr().out.splitlines()
    assert again[:4] == lines[:4]
    assert "1 already complete" in again[4]

    # other settings: the demonstration is shown anew instead of being refused
    assert run_one("infer", [*small, "--output", "out", "--mem-every", "10"]) == 0
    assert "1 segmented" in capsys.readouterr().out


def test_weights_that_cannot_be_had_are_an_error_for_one_s_own_videos(
    tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
):
    def offline(*_: str) -> None:
        raise ValueError("cannot be downloaded")

    monkeypatch.setattr("cutie_geo.runs.infer.load_any", offline)
    assert run_one("infer", one_video_of(tmp_path)) == 2
    assert only_error(capsys) == "error: cannot be downloaded"


# -------------------------------------------------------------------------------------------------------- progress
@pytest.mark.slow
def test_a_log_gets_a_line_for_each_video_and_not_for_each_frame(run: Run, tmp_path: Path, capsys: Said):
    videos, masks = write_videos(tmp_path, ["bear", "cat"], frames=20)
    assert run("--video", videos, "--mask", masks) == 0
    said = capsys.readouterr().err
    assert "\r" not in said
    assert "\x1b" not in said
    lines = [line for line in said.splitlines() if "frame/s" in line or "video" in line]
    assert [line.split(":")[0] for line in lines] == ["bear", "cat", "videos"]
    assert lines[0].startswith("bear: 20/20 frames in 00:0")


@pytest.mark.slow
def test_a_long_video_shows_life_in_a_log(run: Run, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.05)
    videos, masks = write_videos(tmp_path, ["bear"], frames=30)
    assert run("--video", videos, "--mask", masks) == 0
    assert len([line for line in capsys.readouterr().err.splitlines() if line.startswith("bear: ")]) > 2


# ------------------------------------------------------------------------------------------------------ command line
def test_commands_and_their_options_are_listed(capsys: Said):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert not left.value.code
    listed = capsys.readouterr().out
    assert all(command in listed for command in ("infer", "bench", "download", "doctor"))
    with pytest.raises(SystemExit) as left:
        main(["infer", "--help-all"])
    assert not left.value.code
    told = capsys.readouterr().out
    assert "usage: cutie-geo infer" in told
    assert "--save-probs" in told


@pytest.mark.parametrize("argv", [[], ["segment"], ["--versions"]])
def test_no_command_and_unknown_ones_are_one_line(capsys: Said, argv: list[str]):
    with pytest.raises(SystemExit) as left:
        main(argv)
    assert left.value.code == 2
    assert only_error(capsys)


@pytest.mark.slow
def test_overrides_may_stand_anywhere(run: Run, tmp_path: Path):
    frames, mask = write_frames(tmp_path / "bear", 1), write_mask(tmp_path / "m.png")
    assert main(["infer", "top_k=7", "--video", str(frames), "mem_every=3", "--mask", str(mask), "--output", "out",
                 *tiny_options(tmp_path)]) == 0  # fmt: skip
    tracker = summary(tmp_path / "out")["settings"]["tracker"]
    assert (tracker["top_k"], tracker["mem_every"]) == (7, 3)


# ------------------------------------------------------------------------------------------------ inputs of all kinds
def written(tmp_path: Path) -> dict[str, list[str]]:
    """Stems of the masks in `out`, by video."""
    found: dict[str, list[str]] = {}
    for path in sorted((tmp_path / "out").rglob("*.png")):
        found.setdefault(path.parent.name, []).append(path.stem)
    return found


def test_a_folder_of_videos_and_their_masks_is_segmented_video_by_video(run: Run, tmp_path: Path, capsys: Said):
    for name in ("one", "two"):
        write_film(tmp_path / "in" / f"{name}.mp4", 2)
        write_mask(tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / "two.mp4").rename(tmp_path / "in" / "two.MTS")
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "in" / "Thumb.jpg")
    assert run("--video", tmp_path / "in") == 0
    assert written(tmp_path) == {"one": ["00000", "00001"], "two": ["00000", "00001"]}


def test_a_mask_among_unpadded_frames_is_that_of_the_lowest_number(run: Run, tmp_path: Path):
    frames = write_frames(tmp_path / "v", 4)
    for t, path in enumerate(sorted(frames.iterdir())):
        path.rename(frames / f"{t + 8}.jpg")
    write_mask(frames / "mask.png", regions((7,)))
    assert run("--video", frames, "--mask", frames / "mask.png") == 0
    assert sorted(written(tmp_path)["v"]) == ["10", "11", "8", "9"]
    assert summary(tmp_path / "out")["videos"]["v"]["frames"] == ["8", "9", "10", "11"]
    presence = summary(tmp_path / "out")["videos"]["v"]["presence"]["7"]
    assert presence[0] is not None, "given on frame 8, the first"


def test_a_blank_mask_before_the_first_object_stops_nothing(run: Run, tmp_path: Path):
    for kind in ("a", "b"):
        write_frames(tmp_path / "JPEGImages" / kind, 3)
    for t in range(3):
        write_mask(tmp_path / "Annotations" / "a" / f"{t:05d}.png", regions((1,)) * int(t > 0))
    write_mask(tmp_path / "Annotations" / "b" / "00000.png")
    assert run("--dataset", "generic", "--data-root", tmp_path) == 0
    assert summary(tmp_path / "out")["videos"]["a"]["presence"]["1"][0] is None
    assert summary(tmp_path / "out")["videos"]["a"]["presence"]["1"][1] is not None


def test_void_in_a_first_mask_of_davis_2017_is_not_tracked(run: Run, tmp_path: Path):
    write_frames(tmp_path / "JPEGImages" / "480p" / "a", 2)
    write_mask(tmp_path / "Annotations" / "480p" / "a" / "00000.png", regions((1, 255)))
    (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("a\n")
    assert run("--dataset", "davis2017-val", "--data-root", tmp_path) == 0
    assert summary(tmp_path / "out")["videos"]["a"]["objects"] == [1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--point", "-3,4"], "got (-3, 4), expected it within"),
        (["--mask", "first.png", "--max-internal-size", "1"], "max_internal_size: got 1, expected -1 or at least 16"),
    ],
)
def test_numbers_that_make_no_sense_are_named(run: Run, tmp_path: Path, capsys: Said, options: list[str], words: str):
    write_frames(tmp_path / "v", 1)
    write_mask(tmp_path / "first.png")
    prompting = ["--prompt-model", "sam2.1-hiera-tiny", "--prompt-weights", "none"] if "--point" in options else []
    assert run("--video", tmp_path / "v", *options, *prompting) == 2
    assert words in only_error(capsys)


def test_masks_of_a_users_own_video_are_corrections_and_those_of_benchmarks_are_not(tmp_path: Path) -> None:
    write_frames(tmp_path / "video")
    write_mask(tmp_path / "mask.png")
    parser = argparse.ArgumentParser()
    infer.add_arguments(parser)
    for own, arguments in (
        (True, ["--video", str(tmp_path / "video"), "--mask", str(tmp_path / "mask.png")]),
        (False, ["--dataset", "generic", "--data-root", str(tmp_path)]),
        (False, []),
    ):
        if not own and arguments:
            write_frames(tmp_path / "JPEGImages" / "a")
            write_mask(tmp_path / "Annotations" / "a" / "00000.png")
        args = parser.parse_args(arguments)
        args.command_line = ["infer"]
        assert plan(infer.options_of(args))[1].corrections is own
