"""What separate runs saved adds up to what one run would have said."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from toy_videos import PALETTE, contents, read_ids, summary

from cutie_geo import example_frames, example_masks
from cutie_geo.__main__ import run_one
from cutie_geo.checkpoints.load import load_model
from cutie_geo.checkpoints.saving import save_checkpoint
from cutie_geo.data.masks import read_labels, read_probs, write_labels, write_probs

Said = pytest.CaptureFixture[str]
VIDEOS = ("bear", "cat")


def infer(folder: Path, output: str, *argv: object) -> None:
    """infer.py in this process on two videos of the bundled clip, with the bundled model, which is sure of most pixels;
    in the first an object comes later."""
    if not (folder / "videos").exists():
        for name in VIDEOS:
            (folder / "videos" / name).mkdir(parents=True)
            (folder / "masks" / name).mkdir(parents=True)
            for frame in sorted(example_frames().iterdir())[:4]:
                shutil.copy(frame, folder / "videos" / name)
            labels = read_labels(example_masks() / "00000.png").labels
            later = np.isin(labels, 3) & (name == "bear")
            write_labels(folder / "masks" / name / "00000.png", np.where(later, 0, labels), PALETTE)
        labels = read_labels(example_masks() / "00001.png").labels
        write_labels(folder / "masks" / "bear" / "00001.png", np.where(labels == 3, 7, 0), PALETTE)
    what = ["--video", folder / "videos", "--mask", folder / "masks", "--output", folder / output, "--save-probs"]
    how = ["--precision", "fp32", "--size", 96, "--cpu-threads", 1]
    assert run_one("infer", [str(word) for word in [*what, *how, *argv]]) == 0


def fuse(folder: Path, *argv: object) -> int:
    words = [folder / word if word in ("a", "b", "c", "out", "nowhere") else word for word in argv]
    return run_one("fuse", [str(word) for word in words])


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    infer(tmp_path, "a")
    infer(tmp_path, "b", "--ms", 1.5)
    return tmp_path


@pytest.mark.slow
def test_runs_may_be_named_by_their_masks_and_earlier_layouts_are_refused(runs: Path, capsys: Said) -> None:
    assert fuse(runs, "a", "b", "--output", "out") == 0
    capsys.readouterr()
    again = [runs / name / "Annotations" for name in ("a", "b")]
    assert fuse(runs, *again, "--output", runs / "out" / "Annotations") == 0
    assert "2 already complete" in capsys.readouterr().out
    for path in (runs / "a" / "Annotations").iterdir():
        path.rename(runs / "a" / path.name)
    (runs / "a" / "Annotations").rmdir()
    assert fuse(runs, "a", "b", "--output", runs / "more") == 2
    assert "masks have the layout of an earlier version" in capsys.readouterr().err


@pytest.mark.slow
def test_fused_runs_are_the_live_ensemble(runs: Path) -> None:
    """Its labels but for one pixel in a thousand, its probabilities but for rounding, its ids, its colours."""
    infer(runs, "live", "--ms", 1.0, 1.5)
    assert fuse(runs, "a", "b", "--output", "out", "--save-probs") == 0
    for name in VIDEOS:
        ours, theirs = contents(runs / "out/Annotations" / name), contents(runs / "live/Annotations" / name)
        assert list(ours) == list(theirs) == [f"{t:05d}.png" for t in range(4)]
        pixels = [[read_ids(runs / run / "Annotations" / name / frame) for frame in ours] for run in ("out", "live")]
        assert np.mean(np.array(pixels[0]) == np.array(pixels[1])) >= 0.999
        for frame in range(4):
            file = f"{name}/{frame:05d}.npz"
            (mean, ids), (live, live_ids) = (read_probs(runs / run / "probs" / file) for run in ("out", "live"))
            assert ids == live_ids
            assert np.abs(mean - live).max() <= 2.01 / 255
    told = summary(runs / "out")
    assert told["weights"] == [0.5, 0.5]
    assert told["videos"]["bear"]["objects"] == [1, 2, 7]
    assert told["videos"]["bear"]["presence"]["7"][0] is None
    assert 0 <= told["videos"]["bear"]["presence"]["7"][3] <= 1


@pytest.mark.slow
def test_a_run_that_counts_for_all_but_nothing_decides_alone(runs: Path) -> None:
    assert fuse(runs, "a", "b", "--output", "out", "--coefficients", 1e6, 1) == 0
    for name in VIDEOS:
        for frame in contents(runs / "a" / name):
            ours, alone = (read_ids(runs / run / "Annotations" / name / frame) for run in ("out", "a"))
            assert np.mean(ours == alone) >= 0.99  # but for ties that rounding made


@pytest.mark.slow
def test_three_maps_by_hand(runs: Path) -> None:
    """With channels in different orders; the largest weighted sum wins."""
    infer(runs, "c", "--flip")
    shape = read_ids(runs / "a" / "Annotations" / "cat" / "00000.png").shape
    maps = {  # of background and three objects
        "a": ([0.4, 0.6, 0.0, 0.0], (1, 2, 3)),
        "b": ([0.4, 0.6, 0.0, 0.0], (2, 1, 3)),  # here 2 comes first
        "c": ([0.2, 0.3, 0.5, 0.0], (1, 2, 3)),
    }
    for run, (values, ids) in maps.items():
        probs = np.broadcast_to(np.array(values, np.float32)[:, None, None], (4, *shape)).copy()
        write_probs(runs / run / "probs" / "cat" / "00000.npz", probs, ids)
    # sums over background, objects 1 and 2: of weights 2, 1, 1 they are 1.4, 1.5, 1.1; of 1, 2, 2 1.6, 1.2, 2.2
    assert fuse(runs, "a", "b", "c", "--output", "out", "--coefficients", 2, 1, 1, "--videos", "cat") == 0
    assert set(read_ids(runs / "out" / "Annotations" / "cat" / "00000.png").flat) == {1}
    again = ("--coefficients", 1, 2, 2, "--videos", "cat", "--overwrite")
    assert fuse(runs, "a", "b", "c", "--output", "out", *again) == 0
    assert set(read_ids(runs / "out" / "Annotations" / "cat" / "00000.png").flat) == {2}


@pytest.mark.slow
def test_what_is_complete_is_left_and_other_settings_are_refused(runs: Path, capsys: Said) -> None:
    assert fuse(runs, "a", "b", "--output", "out") == 0
    written = contents(runs / "out" / "Annotations" / "bear")
    (runs / "out" / "Annotations" / "cat" / "00002.png").unlink()
    capsys.readouterr()
    assert fuse(runs, "a", "b", "--output", "out") == 0
    assert "1 fused; 1 already complete" in capsys.readouterr().out
    assert (runs / "out" / "Annotations" / "cat" / "00002.png").is_file()
    assert fuse(runs, "a", "b", "--output", "out", "--coefficients", 1, 2) == 2
    assert "bear was made with other weights" in capsys.readouterr().err
    assert contents(runs / "out" / "Annotations" / "bear") == written
    assert fuse(runs, "a", "b", "--output", "out", "--remove-small", 5, "--overwrite") == 0


@pytest.mark.slow
def test_runs_that_do_not_fit_are_named(runs: Path, capsys: Said) -> None:
    whole = runs / "b" / "probs" / "bear" / "00002.npz"
    probs, ids = read_probs(whole)
    for values, own, words in (
        (probs, (1, 2, 9), "00002.npz: objects [1, 2, 9], expected [1, 2, 7]"),
        (probs[:, :5], ids, "00002.npz: size (5,"),
    ):
        write_probs(whole, values, own)
        assert fuse(runs, "a", "b", "--output", "out") == 2
        told = capsys.readouterr()
        assert words in told.err
        assert "1 of 2 FAILED" in told.out  # the other video is put together all the same
    whole.write_bytes(whole.read_bytes()[:-40])
    assert fuse(runs, "a", "b", "--output", "out") == 2
    told = capsys.readouterr()
    assert "00002.npz: cannot be read as probabilities" in told.err
    assert "1 of 2 FAILED" in told.out
    note = runs / "b" / ".cutie_geo" / "bear.json"
    report = json.loads(note.read_text())
    note.write_text(json.dumps(report | {"frames": [*report["frames"][:3], "00009"]}))
    whole.with_name("00003.npz").rename(whole.with_name("00009.npz"))
    assert fuse(runs, "a", "b", "--output", "out") == 2
    assert "bear: frames differ from those in" in capsys.readouterr().err
    note.write_text(json.dumps(report))
    whole.unlink()
    assert fuse(runs, "a", "b", "--output", "out") == 2
    assert "no probabilities of frame 00002, expected a run with --save-probs" in capsys.readouterr().err


@pytest.mark.slow
def test_calls_that_make_no_sense_are_refused(runs: Path, capsys: Said) -> None:
    for argv, words in (
        (("a", "--output", "out"), "fuse: got 1 run, expected two or more"),
        (("a", "nowhere", "--output", "out"), "nowhere: no such folder"),
        (("a", "a", "--output", "out"), "repeated; expected each run once"),
        (("a", "b", "--output", "a"), "a is one of the runs"),
        (("a", "b", "--output", "out", "--coefficients", 1), "--coefficients: got 1, expected one for each of 2 runs"),
        (("a", "b", "--output", "out", "--coefficients", 1, -1), "--coefficients: got -1, expected positive numbers"),
        (("a", "b", "--output", "out", "--videos", "dog"), "--videos: no dog in"),
        (("a", "b", "--output", "out", "--workers", 0), "--workers: got 0"),
    ):
        assert fuse(runs, *argv) == 2
        assert words in capsys.readouterr().err
        assert not (runs / "out" / "Annotations" / "bear").exists()


@pytest.mark.slow
def test_several_models_are_run_together_and_apart(tmp_path: Path) -> None:
    """`--models` with weights is the sum of what each model saves alone, live and from files."""
    other = tmp_path / "other"
    save_checkpoint(load_model("cutie-geo-tiny", "none"), other)  # random, in a folder of its own
    infer(tmp_path, "a")
    infer(tmp_path, "b", "--model", other)
    infer(tmp_path, "live", "--models", "cutie-geo-tiny", other, "--coefficients", 4, 1)
    assert fuse(tmp_path, "a", "b", "--output", "out", "--coefficients", 4, 1) == 0
    for name in VIDEOS:
        for frame in contents(tmp_path / "live" / name):
            ours, live = (read_ids(tmp_path / run / "Annotations" / name / frame) for run in ("out", "live"))
            assert np.mean(ours == live) >= 0.999
    told = summary(tmp_path / "live")
    assert told["model"] == ["cutie-geo-tiny", str(other)]
    assert told["settings"]["models"] == {"weights": [4.0, 1.0]}
    digests = [member["weights"] for member in told["settings"]["members"]]
    assert digests[0] == "auto"
    assert digests[1].startswith("sha256 ")
