"""Report of semantic scores, ready for JSON: percentages of all clips, of each class and of each clip."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cutie_geo.config.choices import SEMANTIC_MEASURES as MAIN
from cutie_geo.vss.metrics import (
    ClipScores,
    Confusion,
    added,
    ious,
    main_numbers,
    mean_iou,
    percent_mean,
)
from cutie_geo.vss.scoring import Rules, ScoredClip

Report = dict[str, Any]

LONG = 16
"""CFFM's script scores only clips with more frames than this."""
HEIGHT = 480
"""Height, in pixels, of the maps of published results on VSPW."""


def build_report(clips: Sequence[ScoredClip], names: Sequence[str], protocol: str, rules: Rules) -> Report:
    """Return the report of scored clips.

    Args:
        clips: the clips.
        names: class names.
        protocol: name of the protocol.
        rules: options of scoring.

    Raises:
        ValueError: if there is no clip, or no pixel with a true class.
    """
    scores = [clip.scores for clip in clips]
    numbers = main_numbers(scores)
    if numbers["mIoU"] is None:
        raise ValueError(f"score: no pixel of {len(scores)} clips has a true class")
    counts = added(scores)
    return {
        **numbers,
        "protocol": protocol,
        "lenient": rules.lenient,
        "allow_void": rules.allow_void,
        "treated": [treatment._asdict() for clip in clips for treatment in clip.treated],
        "warnings": _warnings(clips, protocol),
        "counts": {
            "clips": len(clips),
            "frames": sum(len(item.frames) for item in scores),
            "classes": int((counts.sum(1) > 0).sum()),
            "pixels": int(counts.sum()),
            "windows": {str(n): sum(item.official[n].windows for item in scores) for n in rules.windows},
        },
        "variants": variants(scores),
        "classes": class_table(counts, names),
        "clips": {item.clip: _clip(item) for item in scores},
    }


def variants(scores: Sequence[ClipScores]) -> Report:
    """Return pixel accuracy, and the scores by other programs' conventions and other readings of the paper."""
    counts = added(scores)
    right, true = np.diagonal(counts), counts.sum(1)
    near = added(scores, near=True)
    own = [[item.strict[n] for item in scores if item.strict[n].windows] for n in scores[0].strict]
    return {
        "accuracy": 100 * float(right.sum() / true.sum()),
        "mAcc": 100 * float((right[true > 0] / true[true > 0]).mean()),
        "mIoU_with_predicted": 100 * float(np.nanmean(ious(counts))),
        "mBIoU_frame_classes": percent_mean(score.classes for item in scores for score in item.boundary),
        "mBIoU_classes": 100 * mean_iou(near) if near.any() else None,
        **{
            f"mVC{n}_strict": percent_mean(share.total / share.windows for share in shares)
            for n, shares in zip(scores[0].strict, own)
        },
        f"clips_over_{LONG}_frames": _long(scores),
    }


def _long(scores: Sequence[ClipScores]) -> Report | None:
    kept = [item for item in scores if len(item.frames) > LONG]
    return {**main_numbers(kept), "clips": len(kept)} if kept else None


def class_table(counts: Confusion, names: Sequence[str]) -> Report:
    """Return name, IoU, accuracy and pixel shares of each class that is true or predicted, by its number."""
    right, true, predicted = np.diagonal(counts), counts.sum(1), counts[:, :-1].sum(0)
    total = int(true.sum())
    return {
        str(i): {
            "name": names[i],
            "IoU": 100 * float(iou),
            "accuracy": 100 * float(right[i] / true[i]) if true[i] else None,
            "true_share": 100 * float(true[i] / total),
            "predicted_share": 100 * float(predicted[i] / total),
        }
        for i, iou in enumerate(ious(counts))
        if not np.isnan(iou)
    }


def _clip(item: ClipScores) -> Report:
    return {
        **main_numbers([item]),
        "windows": {str(n): share.windows for n, share in item.official.items()},
        "frames": list(item.frames),
        "accuracy_per_frame": [None if value is None else 100 * value for value in item.accuracy],
    }


def _warnings(clips: Sequence[ScoredClip], protocol: str) -> list[str]:
    warnings = []
    odd = [clip.scores.clip for clip in clips if clip.size[0] != HEIGHT]
    if odd and protocol == "vspw":
        warnings.append(
            f"true masks of {len(odd)} clips are not {HEIGHT} pixels high, the first is {odd[0]}: "
            "not comparable with published numbers"
        )
    for n in clips[0].scores.official:
        short = sum(len(clip.scores.frames) <= n for clip in clips)
        warnings += [f"{short} clips of {n} frames or fewer do not count for mVC{n}"] if short else []
    return warnings


def gains(before: Report, after: Report) -> Report:
    """Return the differences of two reports in percentage points, without numbers that either lacks."""
    names = [name for name in before if name in MAIN or name.startswith("mVC")]
    return {name: after[name] - before[name] for name in names if None not in (before[name], after[name])}


def add_base(report: Report, base: Report) -> Report:
    """Return a report with the numbers of the base predictions, and the gain over them."""
    names = [name for name in base if name in MAIN or name.startswith("mVC")]
    own = {name: base[name] for name in names}
    clips = {
        clip: {
            **entry,
            "base": {name: base["clips"][clip][name] for name in names},
            "gain": gains(base["clips"][clip], entry),
        }
        for clip, entry in report["clips"].items()
    }
    classes = {
        i: {**entry, "base_IoU": base["classes"].get(i, {}).get("IoU")} for i, entry in report["classes"].items()
    }
    return {**report, "base": own, "gain": gains(base, report), "classes": classes, "clips": clips}
