"""Evaluation report, ready for JSON: percentages overall and by sequence, object and frame."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cutie_geo.evaluation.folders import WHITE
from cutie_geo.evaluation.metrics import statistics
from cutie_geo.evaluation.mosev2 import disappearance
from cutie_geo.evaluation.protocols import GROUPED, Settings
from cutie_geo.evaluation.scoring import ObjectScores, SequenceScores

Report = dict[str, Any]
Numbers = dict[str, float | None]

MAIN = ("J&F", "J", "F", "J_recall", "J_decay", "F_recall", "F_decay")
"""Numbers reported overall, by sequence and by object, from 0 to 100."""


def build_report(scores: Sequence[SequenceScores], settings: Settings) -> Report:
    """Return the report. Raises ValueError if there are no objects."""
    sequences = {item.sequence: _sequence(item, settings) for item in scores}
    objects = [(name, i, own) for name, entry in sequences.items() for i, own in entry["objects"].items()]
    if not objects:
        white = any(warning.endswith(WHITE) for item in scores for warning in item.warnings)
        raise ValueError(f"score: no object to score in {len(scores)} sequences{WHITE if white else ''}")
    overall, groups, notes = _overall(objects, settings)
    warnings = [f"{item.sequence}: {text}" for item in scores for text in item.warnings] + notes
    return {
        **overall,
        "protocol": settings.protocol,
        "lenient": settings.lenient,
        "treated": [treatment._asdict() for item in scores for treatment in item.treated],
        "warnings": warnings,
        "counts": {
            "sequences": len(sequences),
            "objects": len(objects),
            "frames": sum(item.frames for item in scores),
            "without_objects": [name for name, entry in sequences.items() if not entry["objects"]],
        },
        **({"all_frames": settings.all_frames} if settings.protocol == "vos-benchmark" else {}),
        **({"groups": groups} if groups else {}),
        "sequences": sequences,
    }


def _sequence(scores: SequenceScores, settings: Settings) -> Report:
    objects = {str(i): _object(own, settings) for i, own in scores.objects.items()}
    return {**mean_numbers(objects.values()), "frames": scores.frames, "objects": objects}


def _object(scores: ObjectScores, settings: Settings) -> Report:
    j, f = statistics(scores.j), statistics(scores.f)
    numbers: dict[str, Any] = {
        "J&F": 50 * (j.mean + f.mean),
        "J": 100 * j.mean,
        "F": 100 * f.mean,
        "J_recall": 100 * j.recall,
        "J_decay": 100 * j.decay,
        "F_recall": 100 * f.recall,
        "F_decay": 100 * f.decay,
    }
    if settings.protocol == "lvos":
        numbers["V"] = 100 * stability(scores)
    frames: dict[str, Any] = {"frames": scores.frames, "J_per_frame": _percent(scores.j)}
    frames |= {"F_per_frame": _percent(scores.f)}
    if settings.protocol == "mosev2":
        adaptive = np.asarray(scores.f_adaptive)
        both = (np.asarray(scores.j) + adaptive) / 2
        away, back = disappearance(both.tolist(), scores.absent)
        numbers["F_new"] = 100 * float(adaptive.mean())
        numbers["J&F_new"] = 50 * (j.mean + float(adaptive.mean()))
        numbers["disappear_J&F_new"] = None if away is None else 100 * away
        numbers["reappear_J&F_new"] = None if back is None else 100 * back
        frames["F_new_per_frame"] = _percent(scores.f_adaptive)
    return numbers | frames


def _percent(values: Iterable[float]) -> list[float]:
    return [100 * value for value in values]


def stability(scores: ObjectScores) -> float:
    """Return V of LVOS: the deviation of J&F over frames, its square rounded to 4 digits as in the official program."""
    both = (np.asarray(scores.j) + np.asarray(scores.f)) / 2
    return float(np.sqrt(np.round(np.mean((both - both.mean()) ** 2), 4)))


# ------------------------------------------------------------------------------------------------------------- means
def mean_numbers(entries: Iterable[Mapping[str, Any]]) -> Numbers:
    """Return the mean of each number over the entries that have it; None (never NaN) if none has."""
    entries = list(entries)
    names = dict.fromkeys(name for entry in entries for name, value in entry.items() if _is_number(value))
    means: Numbers = dict.fromkeys(MAIN)
    for name in names:
        values = [entry[name] for entry in entries if entry.get(name) is not None]
        means[name] = float(np.mean(values)) if values else None
    return means


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, float)


def _overall(
    objects: Sequence[tuple[str, str, Report]], settings: Settings
) -> tuple[Numbers, dict[str, Report], list[str]]:
    """Return the overall numbers, those of groups, and warnings."""
    pooled = mean_numbers(own for _, _, own in objects)
    groups = {kind: [own for name, i, own in objects if _group(name, i, settings) == kind] for kind in GROUPS}
    reports: dict[str, Report] = {
        kind: {**mean_numbers(own), "objects": len(own)} for kind, own in groups.items() if own and settings.unseen
    }
    if settings.protocol not in GROUPED:
        return pooled, reports, []
    if not settings.unseen:
        return pooled, reports, ["seen and unseen are not separated: the numbers are means over all objects"]
    notes = [f"no {kind} objects: the numbers are those of the others" for kind in GROUPS if kind not in reports]
    columns = {
        name: [reports[kind][name] for kind in reports if reports[kind].get(name) is not None] for name in pooled
    }
    return {name: float(np.mean(own)) if own else None for name, own in columns.items()}, reports, notes


GROUPS = ("seen", "unseen")


def _group(sequence: str, object_id: str, settings: Settings) -> str:
    """Return the group of a sequence or, for YouTube-VOS, of an object's category: seen or unseen."""
    name = sequence
    if settings.protocol == "youtubevos":
        objects = settings.meta.get(sequence, {}).get("objects", {})
        name = objects.get(object_id, {}).get("category", "") if isinstance(objects, dict) else ""
    return GROUPS[name in settings.unseen]
