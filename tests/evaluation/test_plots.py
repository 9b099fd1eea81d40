"""Pictures of a report show its numbers."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cutie_geo.data.masks import write_labels
from cutie_geo.data.overlay import COLOURS
from cutie_geo.evaluation.plots import CHART, bars, best_and_worst, curves, side_by_side, write_plots


def of(frames: str, *values: float) -> dict[str, list]:
    return {"frames": list(frames), "J_per_frame": list(values)}


def widths(picture: Image.Image, colour: tuple[int, int, int]) -> set[int]:
    """Of each row's run of a colour, the length; without the small squares of the legend."""
    found = (np.asarray(picture) == colour).all(axis=2).sum(axis=1)
    return {int(width) for width in found if width > 15}


def test_a_bar_is_as_long_as_its_score() -> None:
    picture = bars({"one": {"J": 50.0, "F": 25.0, "J&F": 37.5}, "two": {"J": 100.0, "F": 0.0, "J&F": 50.0}})
    assert widths(picture, COLOURS[0]) == {CHART // 2 + 1, CHART + 1}
    assert widths(picture, COLOURS[1]) == {CHART // 4 + 1}


def test_best_and_worst_are_of_the_mean_over_objects_scored_there() -> None:
    objects = {"1": of("abc", 90, 40, 90), "2": of("bc", 80, 90)}
    assert best_and_worst(objects) == (("a", 90), ("b", 60))


def test_a_curve_goes_up_where_the_score_does() -> None:
    picture = np.asarray(curves("one", {"1": of("abc", 0, 50, 100)}))
    rows, columns = np.nonzero((picture == COLOURS[0]).all(axis=2)[:360])
    order = np.argsort(columns)
    assert rows[order[0]] > rows[order[-1]] + 300
    assert curves("one", {"1": of("a", 50)}).size == curves("one", {"1": of("abc", 1, 2, 3)}).size


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
