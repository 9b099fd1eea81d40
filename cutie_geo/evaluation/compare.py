"""Paired comparison of two reports: mean differences with bootstrap confidence intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cutie_geo.config import read_json

SEED = 0
"""Seed of the resampling."""
RESAMPLES = 10_000
CONFIDENCE = 0.95
MEASURES = ("J&F", "J", "F")


class Interval(NamedTuple):
    """Mean difference in percentage points, second minus first, with its confidence interval."""

    mean: float
    low: float
    high: float


def read_report(path: Path) -> dict[str, Any]:
    """Read a report that `evaluate --json` wrote. Raises ValueError for anything else."""
    try:
        report = read_json(path)
        known = isinstance(report["sequences"], dict) and isinstance(report["protocol"], str)
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise ValueError(f"{path}: cannot be read as a report, expected a file written by evaluate --json")
    return report


def compare_reports(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return the differences of two reports, second minus first, ready for JSON.

    Only objects in both reports count. The interval comes from resampling sequences, because objects of one sequence
    are not independent.

    Raises:
        ValueError: for two protocols, or no object in common.
    """
    for key in ("protocol", "all_frames"):
        if first.get(key) != second.get(key):
            raise ValueError(f"compare: got {key} {first.get(key)} and {second.get(key)}, expected one for both")
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
    """Return the mean over objects and its percentile bootstrap interval over sequences."""
    sums = np.array([sum(own[name] for own in objects.values()) for objects in differences.values()])
    counts = np.array([len(objects) for objects in differences.values()])
    means = resampled_means(sums, counts)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))


def resampled_means(sums: Sequence[float] | np.ndarray, counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return RESAMPLES means over objects of sequences that are drawn with replacement.

    Args:
        sums: sum of the objects' values in each sequence.
        counts: number of objects in each sequence.
    """
    sums, counts = np.asarray(sums, np.float64), np.asarray(counts)
    rng = np.random.default_rng(SEED)
    means = np.empty(RESAMPLES)
    for k in range(RESAMPLES):  # one at a time to save memory
        chosen = rng.integers(len(sums), size=len(sums))
        means[k] = sums[chosen].sum() / counts[chosen].sum()
    return means


def _warnings(
    first: Mapping[str, Any], second: Mapping[str, Any], shared: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    lines = []
    for name, report in (("first", first), ("second", second)):
        total = sum(len(entry["objects"]) for entry in report["sequences"].values())
        rest = total - sum(map(len, shared.values()))
        lines += [f"{rest} objects are in the {name} report only and left out"] if rest else []
        lines += [f"the {name} report was made with --lenient"] if report.get("lenient") else []
    return lines
