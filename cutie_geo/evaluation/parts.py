"""Parts of an evaluation: the scores of one shard of the sequences as JSON, and the report of all parts together."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cutie_geo.config import Shard, parse_shard, read_json
from cutie_geo.evaluation.folders import Treatment
from cutie_geo.evaluation.protocols import Settings
from cutie_geo.evaluation.report import Report, build_report
from cutie_geo.evaluation.scoring import ObjectScores, SequenceScores

Part = dict[str, Any]
SAME = ("protocol", "lenient", "all_frames", "unseen", "gt", "pred", "sequences", "digest")
"""Entries that all parts of an evaluation share."""


def part_of(
    shard: Shard, names: Sequence[str], scores: Iterable[SequenceScores], settings: Settings, gt: Path, pred: Path
) -> Part:
    """Return the scores of a shard, ready for JSON.

    Args:
        shard: The shard.
        names: Sequences of all shards, in order.
        scores: Scores of the shard's sequences, in order.
        settings: Settings of the evaluation.
        gt: Folder of the ground truth.
        pred: Folder of the predictions.
    """
    own = shard.of(names)
    return {
        "part": str(shard),
        "protocol": settings.protocol,
        "lenient": settings.lenient,
        "all_frames": settings.all_frames,
        "unseen": sorted(settings.unseen),
        "gt": str(gt),
        "pred": str(pred),
        "sequences": len(names),
        "digest": hashlib.sha256("\n".join(names).encode()).hexdigest(),
        "meta": {name: settings.meta[name] for name in own if name in settings.meta},
        "scores": [asdict(each) | {"treated": [fault._asdict() for fault in each.treated]} for each in scores],
    }


def merge_parts(paths: Sequence[Path]) -> Report:
    """Return the report of all parts, equal to that of one call without shards.

    Raises:
        ValueError: for files that are no parts, parts of different evaluations, and missing or repeated parts.
    """
    parts = [_read(path) for path in paths]
    first, shards = parts[0], [parse_shard(part["part"]) for part in parts]
    for path, part in zip(paths[1:], parts[1:]):
        differing = [name for name in SAME if part[name] != first[name]]
        if differing:
            raise ValueError(
                f"{path}: other {', '.join(differing)} than in {paths[0]}; expected parts of one evaluation"
            )
    count = shards[0].count
    found = sorted(shard.index + 1 for shard in shards if shard.count == count)
    if found != list(range(1, count + 1)) or len(found) != len(shards):
        got = ", ".join(map(str, shards))
        raise ValueError(f"--merge: got parts {got}; expected each of 1/{count} to {count}/{count} once")
    scores: list[SequenceScores | None] = [None] * first["sequences"]
    meta: dict[str, Any] = {}
    for path, part, shard in zip(paths, parts, shards):
        own = [_scores(entry, path) for entry in part["scores"]]
        places = shard.of(range(len(scores)))
        if len(own) != len(places):
            raise ValueError(f"{path}: got {len(own)} sequences, expected {len(places)} of {len(scores)}")
        for place, each in zip(places, own):
            scores[place] = each
        meta |= part["meta"]
    settings = Settings(first["protocol"], first["lenient"], first["all_frames"], meta, frozenset(first["unseen"]))
    complete = [each for each in scores if each is not None]
    _require_names(complete, first["digest"], paths[0])
    return {**build_report(complete, settings), "gt": first["gt"], "pred": first["pred"]}


def _require_names(scores: Sequence[SequenceScores], digest: str, path: Path) -> None:
    names = "\n".join(each.sequence for each in scores)
    if hashlib.sha256(names.encode()).hexdigest() != digest:
        raise ValueError(f"{path}: its sequences are not those of all parts; expected parts of one evaluation")


def _read(path: Path) -> Part:
    """Read a part and check its entries. Raises ValueError for anything but a part."""
    types: dict[str, type] = {
        "part": str,
        "protocol": str,
        "lenient": bool,
        "all_frames": bool,
        "unseen": list,
        "gt": str,
        "pred": str,
        "sequences": int,
        "digest": str,
        "meta": dict,
        "scores": list,
    }
    content = read_json(path)
    wrong = not isinstance(content, dict) or any(type(content.get(name)) is not kind for name, kind in types.items())
    if wrong or not all(isinstance(name, str) for name in content["unseen"]):
        raise ValueError(f"{path}: not a part of an evaluation, expected a file of evaluate --shard I/N --json")
    parse_shard(content["part"], f"{path}: part")
    return content


def _scores(entry: Any, path: Path) -> SequenceScores:
    """Return the scores of one sequence from their JSON. Raises ValueError naming the file."""
    try:
        objects = {int(i): ObjectScores(**own) for i, own in entry["objects"].items()}
        treated = tuple(Treatment(**fault) for fault in entry["treated"])
        scores = SequenceScores(entry["sequence"], objects, entry["frames"], tuple(entry["warnings"]), treated)
        numbers = [value for own in objects.values() for value in (*own.j, *own.f, *own.f_adaptive)]
        valid = isinstance(scores.sequence, str) and all(isinstance(v, float) and 0 <= v <= 1 for v in numbers)
        valid = valid and all(len(own.j) == len(own.f) for own in objects.values())
    except (KeyError, TypeError, ValueError, AttributeError):
        valid = False
    if not valid:
        raise ValueError(f"{path}: damaged scores, expected a file of evaluate --shard I/N --json")
    return scores
