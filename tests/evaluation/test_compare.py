"""Two reports are paired object by object, and their difference comes with an interval that never changes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutie_geo.evaluation.compare import RESAMPLES, compare_reports, read_report, resampled_means


def report(scores: dict[str, dict[str, float]], protocol: str = "davis2017", lenient: bool = False) -> dict[str, Any]:
    entries = {
        name: {"objects": {i: {"J&F": value, "J": value - 1, "F": value + 1} for i, value in objects.items()}}
        for name, objects in scores.items()
    }
    return {"protocol": protocol, "lenient": lenient, "sequences": entries}


FIRST = {"a": {"1": 50.0, "2": 60.0}, "b": {"1": 70.0}, "c": {"1": 80.0}}


@pytest.mark.slow
def test_differences_are_of_objects_and_their_mean_is_over_objects() -> None:
    second = {"a": {"1": 53.0, "2": 61.0}, "b": {"1": 68.0}, "c": {"1": 80.0}}
    found = compare_reports(report(FIRST), report(second))
    assert found["sequences"]["a"]["objects"]["1"] == {"J&F": 3, "J": 3, "F": 3}
    assert found["sequences"]["a"]["J&F"] == 2
    assert found["difference"]["J&F"]["mean"] == pytest.approx(2 / 4)
    assert found["difference"]["J&F"]["low"] < 0.5 < found["difference"]["J&F"]["high"]
    assert found["counts"] == {"sequences": 3, "objects": 4}
    assert found["warnings"] == []
    assert found == compare_reports(report(FIRST), report(second))
    assert (found["seed"], found["resamples"], found["resampled"]) == (0, RESAMPLES, "sequences")


def test_the_order_of_the_two_is_the_sign() -> None:
    better = {name: {i: value + 2 for i, value in objects.items()} for name, objects in FIRST.items()}
    assert compare_reports(report(FIRST), report(better))["difference"]["J"] == {"mean": 2, "low": 2, "high": 2}
    assert compare_reports(report(better), report(FIRST))["difference"]["J"] == {"mean": -2, "low": -2, "high": -2}


def test_the_interval_is_as_wide_as_the_scatter_of_sequences_says() -> None:
    """Of one object each, the means scatter by the standard error; of many objects in few sequences, no less."""
    values = np.random.default_rng(1).normal(1, 5, 100)
    means = resampled_means(values, np.ones(100, int))
    assert means.mean() == pytest.approx(values.mean(), abs=0.05)
    assert means.std() == pytest.approx(values.std() / 10, rel=0.05)
    assert resampled_means(4 * values, np.full(100, 4)).std() == pytest.approx(means.std())


def test_objects_of_one_report_only_are_left_out_and_counted() -> None:
    found = compare_reports(report(FIRST), report({"a": {"1": 51.0, "9": 0.0}}, lenient=True))
    assert found["difference"]["J&F"]["mean"] == 1
    assert found["lenient"] is True
    assert found["warnings"] == [
        "3 objects are in the first report only and left out",
        "1 objects are in the second report only and left out",
        "the second report was made with --lenient",
    ]


def test_reports_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(ValueError, match="got protocol davis2017 and visor"):
        compare_reports(report(FIRST), report(FIRST, "visor"))
    with pytest.raises(ValueError, match="no object in common"):
        compare_reports(report(FIRST), report({"d": {"1": 1.0}}))


@pytest.mark.parametrize("text", ["no json", "[]", "{}", '{"sequences": [], "protocol": "visor"}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"r\.json: cannot be read as a report"):
        read_report(path)
    path.write_text(json.dumps(report(FIRST)))
    assert read_report(path) == report(FIRST)
