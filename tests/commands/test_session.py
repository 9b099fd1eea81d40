"""`cutie-geo session` and the interactive benchmark as their users meet them."""

import doctest
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_videos import SIZE, contents, write_frames, write_mask

import cutie_geo
from cutie_geo.__main__ import main
from cutie_geo.config import TrackerConfig
from cutie_geo.data.masks import read_labels
from cutie_geo.inference.prompting import PromptedMask
from cutie_geo.runs import interactive
from cutie_geo.runs.interactive import InteractiveOptions, measure

Said = pytest.CaptureFixture[str]


def moving(index: int) -> np.ndarray:
    """Two blocks that drift to the right, as label map."""
    labels = np.zeros(SIZE, np.int32)
    labels[8:30, 6 + 2 * index : 30 + 2 * index] = 1
    labels[36:58, 40 + 2 * index : 64 + 2 * index] = 5
    return labels


@pytest.fixture
def worked(tmp_path, tiny_model):
    """A session with two objects, a correction and a locked frame."""
    frames = write_frames(tmp_path / "drift", 6)
    session = cutie_geo.Session(frames, tiny_model, tmp_path / "work", tracker=TrackerConfig(max_internal_size=-1))
    for i in (1, 5):
        session.set_mask(0, i, moving(0) == i)
    session.rename(5, "cup")
    for _ in session.propagate(stop=4):
        pass
    session.set_mask(2, 1, moving(2) == 1)
    session.lock(3)
    session.close()
    return tmp_path / "work"


def test_a_session_is_listed_and_exported(worked: Path, tmp_path: Path, capsys: Said, caplog, monkeypatch):
    monkeypatch.setattr("cutie_geo.runs.session.load_any", lambda *_: pytest.fail("no model is needed"))
    assert main(["session", str(worked)]) == 0
    shown = capsys.readouterr().out
    for line in (
        "video: drift, 6 frames of 96x64",
        "object 1 (object 1): prompted on 0, 2",
        "object 5 (cup): prompted on 0",
        "locked: 1 frames, 3",
        "stale: 1 frames, 1",
        "missing: 2 frames, 4-5",
        "actions: 6",
        "  propagate start 0, stop 4, direction both",
    ):
        assert line in shown.splitlines(), line
    assert main(["session", str(worked), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["locked"] == [3] and listed["objects"] == {"1": "object 1", "5": "cup"}
    assert main(["session", str(worked), "--export", "davis", "-o", str(tmp_path / "masks")]) == 0
    assert "masks of 1 frames are stale" in caplog.text
    assert sorted(contents(tmp_path / "masks")) == [f"drift/{i:05d}.png" for i in range(4)]
    session = cutie_geo.Session.load(worked)
    assert np.array_equal(read_labels(tmp_path / "masks/drift/00002.png").labels, session.labels(2))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--export", "davis"], "--output: expected with --export or --replay"),
        (["--output", "x"], "--output: expected with --export or --replay"),
        (["--model", "cutie-small"], "--model, --weights: expected --replay with them"),
        (["--export", "gif", "-o", "x"], "format: got gif, expected one of"),
        (["--video", "nowhere.mp4"], "its video nowhere.mp4 is missing"),
    ],
)
def test_what_cannot_be_is_one_line(worked: Path, capsys: Said, words, message):
    assert main(["session", str(worked), *words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and message in lines[0]
    assert main(["session", str(worked.parent / "nothing")]) == 2


def test_a_session_is_replayed(worked: Path, tmp_path: Path, tiny_model):
    session = cutie_geo.Session.load(worked, model=tiny_model)
    with session.replay(tmp_path / "again") as copy:
        assert copy.history() == session.history()
        assert copy.status() == session.status()
        assert all(np.array_equal(copy.labels(i), session.labels(i)) for i in range(6))
    with pytest.raises(ValueError, match="there is a session already"):
        session.replay(tmp_path / "again")


@pytest.mark.slow
def test_the_examples_of_the_page_are_true(tmp_path: Path):
    masks = [read_labels(cutie_geo.example_masks() / f"{i:05d}.png").labels for i in (0, 2)]
    names = {"clip": cutie_geo.example_frames(), "folder": tmp_path / "work", "first": masks[0], "second": masks[1]}
    page = Path(__file__).parents[2] / "docs" / "session.md"
    outcome = doctest.testfile(str(page), module_relative=False, globs=names)
    assert outcome.attempted > 10 and outcome.failed == 0


# ----------------------------------------------------------------------------------------------------------- benchmark
class WrongPrompter:
    """Boxes are taken as they are; every click makes the mask empty but for its place."""

    def encode(self, image):
        return image.shape[-2:]

    def predict(self, encoded, prompt, mask=None, from_prompts=False):
        found = torch.full(encoded, -5.0)
        if prompt.points:
            x, y, _ = prompt.points[-1]
            found[int(y), int(x)] = 5
        else:
            x0, y0, x1, y1 = map(int, prompt.box)
            found[y0:y1, x0:x1] = 5
        return PromptedMask(found, 1.0)


def sequence(folder: Path, frames: int = 6) -> tuple[Path, dict[str, Path]]:
    write_frames(folder / "JPEGImages" / "drift", frames)
    root = folder / "Annotations" / "drift"
    return folder / "JPEGImages" / "drift", {
        f"{i:05d}": write_mask(root / f"{i:05d}.png", moving(i)) for i in range(frames)
    }


@pytest.mark.slow
def test_corrections_never_lower_a_frame(tmp_path: Path, tiny_model):
    frames, masks = sequence(tmp_path)
    options = InteractiveOptions(tmp_path / "Annotations", corrections="masks", max_internal_size=-1)
    rows = measure(frames, masks, tiny_model, options, None)
    assert len(rows) == 4
    assert [row["after"] for row in rows[1:]] == [1, 1, 1], "true masks"
    assert all(row["after"] >= row["before"] for row in rows[1:])
    assert len({row["frame"] for row in rows[1:]}) == 3
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
    assert rows[3]["j_and_f"] > rows[0]["j_and_f"]


def test_clicks_that_make_a_frame_worse_are_undone(tmp_path: Path, tiny_model):
    frames, masks = sequence(tmp_path, 4)
    options = InteractiveOptions(tmp_path / "Annotations", max_internal_size=-1, rounds=2, round_clicks=2)
    rows = measure(frames, masks, tiny_model, options, WrongPrompter())
    assert [row["after"] >= row["before"] for row in rows[1:]] == [True, True]


def test_the_benchmark_is_a_protocol_of_evaluate(tmp_path: Path, capsys: Said, tiny_model, monkeypatch):
    sequence(tmp_path, 4)
    monkeypatch.setattr(interactive, "load_any", lambda *_: tiny_model)
    words = ["evaluate", "--protocol", "interactive", "--gt", str(tmp_path / "Annotations"), "--corrections", "masks"]
    assert main([*words, "--rounds", "1", "--max-internal-size", "64", "--json", str(tmp_path / "r.json")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("interactive, masks, cutie-geo-tiny")
    assert "0 corrections" in shown[1] and "1 corrections" in shown[1]
    assert shown[2].startswith("drift") and shown[3].startswith("mean")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["mean"][1]["j_and_f"] == report["sequences"]["drift"][1]["j_and_f"]
    assert main([*words, "--pred", str(tmp_path)]) == 2
    assert "--pred: got protocol interactive" in capsys.readouterr().err
    assert main(["evaluate", "--gt", "x", "--pred", "y", "--rounds", "2"]) == 2
    assert "--rounds: expected --protocol interactive" in capsys.readouterr().err
    assert main([*words, "--frames", str(tmp_path / "nothing")]) == 2
    assert "no frames of drift" in capsys.readouterr().err
