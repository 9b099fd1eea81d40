"""Figures of a report show its numbers."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cutie_geo.data.masks import write_labels
from cutie_geo.data.overlay import COLOURS
from cutie_geo.evaluation.plots import (
    bar_chart,
    bars,
    best_and_worst,
    find_frames,
    frame_of,
    j_over_time,
    rendered,
    side_by_side,
    write_plots,
)


def of(frames: str, *values: float) -> dict[str, list]:
    return {"frames": list(frames), "J_per_frame": list(values)}


@pytest.mark.slow
def test_a_bar_is_as_long_as_its_score() -> None:
    figure = bar_chart({"J": [50.0, 100.0], "F": [25.0, None]}, ["one", "two"], ["37.5", ""])
    (axes,) = figure.axes
    bars_of = {container.get_label(): [bar.get_width() for bar in container] for container in axes.containers}
    assert bars_of == {"J": [50, 100], "F": [25]}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]
    assert axes.texts[0].get_text() == "37.5"
    first, second = (container[0].get_y() for container in axes.containers)
    assert first < second < axes.containers[0][1].get_y()  # the axis goes down: J above F, the next row below both


def test_bars_are_drawn_in_the_colours_of_the_legend() -> None:
    picture = np.asarray(bars({"one": {"J": 50.0, "F": None, "J&F": None}}))
    lengths = [(picture == colour).all(axis=2).sum(axis=1).max() for colour in COLOURS[:2]]
    assert lengths[0] > 250 > 100 > lengths[1] > 0  # F has only its mark in the legend


def test_without_matplotlib_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"matplotlib is not installed; pip install 'cutie_geo\[plots\]'"):
        bars({"one": {"J": 50.0, "F": 25.0, "J&F": 37.5}})


def test_best_and_worst_are_of_the_mean_over_objects_scored_there() -> None:
    objects = {"1": of("abc", 90, 40, 90), "2": of("bc", 80, 90)}
    assert best_and_worst(objects) == (("a", 90), ("b", 60))


def test_a_curve_has_the_scores_at_their_frames() -> None:
    figure = j_over_time("one", {"1": of("abc", 0, 50, 100), "2": of("c", 70)})
    (axes,) = figure.axes
    first, second = axes.lines
    assert first.get_xydata().tolist() == [[0, 0], [1, 50], [2, 100]]
    assert second.get_xydata().tolist() == [[2, 70]]
    assert second.get_marker() == "o"  # a single point would not be seen
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "c"]
    assert rendered(figure).size == (800, 400)


@pytest.mark.parametrize("size", [(20, 30), (10, 15)])
def test_the_prediction_lies_beside_the_truth_at_its_size(tmp_path: Path, size: tuple[int, int]) -> None:
    truth, mask = np.zeros((20, 30), np.int32), np.zeros(size, np.int32)
    truth[:, :15] = 1
    write_labels(tmp_path / "truth.png", truth)
    write_labels(tmp_path / "mask.png", mask)
    picture = np.asarray(side_by_side(tmp_path / "truth.png", tmp_path / "mask.png"))
    assert picture.shape == (20, 64, 3)
    assert (picture[:, 34:] == 70).all()
    assert not (picture[:, :15] == 70).all()
    missing = np.asarray(side_by_side(tmp_path / "truth.png", tmp_path / "lost.png"))
    assert np.array_equal(picture, missing)


def test_every_sequence_with_objects_gets_its_pictures(tmp_path: Path) -> None:
    labels = np.kron(np.eye(4, dtype=np.int32), np.ones((8, 8), np.int32))
    for root in ("truth", "masks"):
        for frame in "abc":
            write_labels(tmp_path / root / "one" / f"{frame}.png", labels)
    numbers = {"J": 50.0, "F": 50.0, "J&F": 50.0}
    entries = {"one": {**numbers, "objects": {"1": of("abc", 1, 2, 3)}}, "none": {"objects": {}}}
    written = write_plots(tmp_path / "plots", {"sequences": entries}, tmp_path / "truth", tmp_path / "masks")
    names = ["sequences.png", "one/j_over_time.png", "one/best.png", "one/worst.png"]
    assert [str(path.relative_to(tmp_path / "plots")) for path in written] == names
    assert all(path.is_file() for path in written)


def test_best_and_worst_are_drawn_over_the_video_s_own_frames(tmp_path: Path) -> None:
    labels = np.zeros((40, 60), np.int32)
    labels[5:20, 5:20] = 1
    truth, frames = tmp_path / "Annotations" / "480p", tmp_path / "JPEGImages" / "480p"
    for k, frame in enumerate("abc"):
        for root in (truth, tmp_path / "masks"):
            write_labels(root / "one" / f"{frame}.png", labels)
        (frames / "one").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (120, 80), (10, 40 * k, 200)).save(frames / "one" / f"{frame}.jpg", quality=95)
    assert find_frames(truth) == frames
    assert find_frames(tmp_path / "masks") is None
    entries = {"one": {"J": 50.0, "F": 50.0, "J&F": 50.0, "objects": {"1": of("abc", 1, 2, 3)}}}
    write_plots(tmp_path / "plots", {"sequences": entries}, truth, tmp_path / "masks", frames)
    for kind, k in (("best", 2), ("worst", 0)):
        picture = np.asarray(Image.open(tmp_path / "plots" / "one" / f"{kind}.png")).astype(int)[-40:]
        for left in (0, 64):
            assert (abs(picture[25:, left + 25 : left + 60] - (10, 40 * k, 200)) < 12).all()
    assert frame_of(frames / "one", "lost") is None
