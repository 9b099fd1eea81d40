"""Two reports of the same masks' protocol, paired: how much better the second is, and how sure that is."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SEED = 0
"""Of the resampling, so that a comparison gives the same numbers every time."""
RESAMPLES = 10_000
CONFIDENCE = 0.95
MEASURES = ("J&F", "J", "F")


class Interval(NamedTuple):
    """A mean difference in points of percent, the second minus the first."""

    mean: float
    low: float
    high: float


def read_report(path: Path) -> dict[str, Any]:
    """A report as `evaluate --json` wrote it. Raises ValueError for anything else."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        known = isinstance(report["sequences"], dict) and isinstance(report["protocol"], str)
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise ValueError(f"{path}: can't be read as a report, wanted a file written by evaluate --json")
    return report


def compare_reports(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Differences of two reports, second minus first, ready for JSON.

    Of every object and sequence that both have, and overall: the mean over those objects, with an interval from
    resampling sequences, since objects of one sequence share its fate. Raises ValueError for two protocols or
    for no object in common.
    """
    for key in ("protocol", "all_frames"):
        if first.get(key) != second.get(key):
            raise ValueError(f"compare: got {key} {first.get(key)} and {second.get(key)}, wanted one for both")
    differences = {
        sequence: {i: _differences(own, others[i]) for i, own in entry["objects"].items() if i in others}
        for sequence, entry in first["sequences"].items()
        if (others := second["sequences"].get(sequence, {}).get("objects"))
    }
    differences = {sequence: own for sequence, own in differences.items() if own}
    if not differences:
        raise ValueError("compare: the two reports have no object in common")
    overall = {name: _interval(differences, name)._asdict() for name in MEASURES}
    return {
        "protocol": first["protocol"],
        "lenient": bool(first.get("lenient") or second.get("lenient")),
        "difference": overall,
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "resampled": "sequences",
        "seed": SEED,
        "sequences": {
            sequence: {**{name: _mean(own, name) for name in MEASURES}, "objects": own}
            for sequence, own in differences.items()
        },
        "counts": {"sequences": len(differences), "objects": sum(map(len, differences.values()))},
        "warnings": _warnings(first, second, differences),
    }


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, float]:
    return {name: second[name] - first[name] for name in MEASURES}


def _mean(objects: Mapping[str, Mapping[str, float]], name: str) -> float:
    return float(np.mean([own[name] for own in objects.values()]))


def _interval(differences: Mapping[str, Mapping[str, Mapping[str, float]]], name: str) -> Interval:
    """The mean over objects and its percentile bootstrap interval over sequences."""
    sums = np.array([sum(own[name] for own in objects.values()) for objects in differences.values()])
    counts = np.array([len(objects) for objects in differences.values()])
    means = resampled_means(sums, counts)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))


def resampled_means(sums: Sequence[float] | np.ndarray, counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """RESAMPLES means over objects, each of as many sequences as there are, drawn with replacement.

    sums, counts: of the objects' values in each sequence.
    """
    sums, counts = np.asarray(sums, np.float64), np.asarray(counts)
    rng = np.random.default_rng(SEED)
    means = np.empty(RESAMPLES)
    for k in range(RESAMPLES):  # one at a time: all at once would hold RESAMPLES times the sequences
        chosen = rng.integers(len(sums), size=len(sums))
        means[k] = sums[chosen].sum() / counts[chosen].sum()
    return means


def _warnings(
    first: Mapping[str, Any], second: Mapping[str, Any], shared: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    told = []
    for name, report in (("first", first), ("second", second)):
        total = sum(len(entry["objects"]) for entry in report["sequences"].values())
        rest = total - sum(map(len, shared.values()))
        told += [f"{rest} objects are in the {name} report only and left out"] if rest else []
        told += [f"the {name} report was made with --lenient"] if report.get("lenient") else []
    return told
