"""`cutie-geo curves`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cutie_geo.__main__ import main
from cutie_geo.runs.curves import points


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs, of which one validated."""
    monkeypatch.chdir(tmp_path)
    for name, height in (("a", 1.0), ("b", 2.0)):
        lines = [{"step": step, "loss/total": height - step / 100} for step in range(10, 60, 10)]
        lines += [{"step": 50, "validation/J&F": 40.0}] if name == "a" else []
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_values_are_means_at_the_steps_of_those_who_have_them() -> None:
    log = [{"step": 1, "x": 1.0}, {"step": 2, "y": 9.0}, {"step": 3, "x": 3.0}, {"step": 4, "x": 5.0}]
    assert points(log, "x") == ([1, 3, 4], [1.0, 3.0, 5.0])
    assert points(log, "x", 2) == ([3, 4], [2.0, 5.0])
    assert points(log, "z") == ([], [])


def test_a_picture_has_a_line_for_each_run(runs: Path) -> None:
    both = ["curves", "first=a", "b", "--values", "loss/total", "validation/J&F", "--output", "both.png"]
    assert main(both) == 0
    assert main(["curves", "a", "--values", "loss/total", "--output", "one.png"]) == 0
    pictures = [np.asarray(Image.open(name).convert("RGB")) for name in ("both.png", "one.png")]
    assert pictures[0].shape[1] > 1.9 * pictures[1].shape[1]

    def colours(picture: np.ndarray) -> set[tuple[int, ...]]:
        lively = picture[np.ptp(picture.astype(int), axis=2) > 120]
        return {tuple(int(v) // 64 for v in pixel) for pixel in lively}

    assert len(colours(pictures[0])) > len(colours(pictures[1])) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--output", "x.png"], "nowhere/log.jsonl: no such log"),
        (["a", "--values", "colour", "--output", "x.png"], "no run logged colour, expected one of loss/total, step"),
        (["a", "--output", "x.jpg"], "--output: got x.jpg, expected a name with .png or .svg"),
        (["a", "--smooth", "0", "--output", "x.png"], "--smooth: got 0"),
    ],
)
def test_what_makes_no_sense_is_said(
    runs: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["curves", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (runs / "x.png").exists()
