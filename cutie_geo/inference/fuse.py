"""Runs that saved their probabilities, put together afterwards: an ensemble of any models and views.

The sum is the one that a live ensemble takes, but for the rounding of files to 1/255.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from cutie_geo.config import require, to_dict
from cutie_geo.data.background import map_ahead
from cutie_geo.data.masks import read_labels, read_probs, write_labels, write_probs
from cutie_geo.inference.clean import Cleaning
from cutie_geo.inference.results import Report, Results, refuse_others
from cutie_geo.inference.segment import presence
from cutie_geo.progress import progress
from cutie_geo.structures import ObjectId


class FuseOptions(NamedTuple):
    """How runs are put together."""

    weights: tuple[float, ...]
    """Of each run; they sum to 1."""
    cleaning: Cleaning = Cleaning()
    save_probs: bool = False
    """Write the mean probabilities too."""
    workers: int = 2
    """Threads."""
    overwrite: bool = False
    """Fuse again what is complete or was made with other settings."""


class Fusion:
    """One video in several runs. Raises ValueError, naming the run, where they don't fit together."""

    def __init__(self, runs: Sequence[Results], video: str) -> None:
        self.runs, self.video = list(runs), video
        reports = [_report(run, video) for run in runs]
        self.frames: list[str] = reports[0]["frames"]
        for run, report in zip(runs[1:], reports[1:]):
            other = next((a for a, b in zip(self.frames, report["frames"]) if a != b), "the number of them")
            same = report["frames"] == self.frames
            require(same, f"{run.root}: {video}: other frames than in {runs[0].root}, from {other} on")
        require(bool(self.frames), f"{runs[0].root}: {video}: no frames")
        first = read_labels(runs[0].labels(video, self.frames[0]), long_ids=True)
        self.palette, self.long_ids = first.palette, first.long_ids
        told = [{name: report.get(name) for name in ("settings", "input", "frames")} for report in reports]
        self.input = {"runs": hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()}

    def frame(self, name: str, weights: Sequence[float]) -> tuple[Float32[np.ndarray, "N1 H W"], tuple[ObjectId, ...]]:
        """The weighted mean of a frame's probabilities in all runs, and the objects of its channels after the first.

        Raises ValueError naming the file that is missing, damaged, or of other objects or another size.
        """
        first = self.runs[0].probs(self.video, name)
        total, ids = read_probs(first)
        total *= weights[0]
        for run, weight in zip(self.runs[1:], weights[1:]):
            path = run.probs(self.video, name)
            probs, own = read_probs(path)
            require(set(own) == set(ids), f"{path}: objects {list(own)}, wanted {list(ids)} as in {first}")
            size, wanted = probs.shape[1:], total.shape[1:]
            require(size == wanted, f"{path}: size {size}, wanted {wanted} as in {first}")
            total += weight * probs[[0, *(1 + own.index(i) for i in ids)]]
        return total, ids


def fuse_video(fusion: Fusion, results: Results, options: FuseOptions, line: int = 0, leave: bool = True) -> Report:
    """Put a video of several runs together; `line` and `leave` are those of its progress bar. A complete one is left.

    Raises ValueError, before anything is written, if it was made with other settings, and as `Fusion.frame` does.
    """
    settings = {"weights": list(options.weights)} | (
        {"cleaning": to_dict(options.cleaning)} if options.cleaning else {}
    )
    report = results.done(fusion.video)
    if report is not None and not options.overwrite:
        refuse_others(results, fusion.video, report, settings | fusion.input)
        if results.has_all(report, probs=options.save_probs):
            return report | {"skipped": True}
    started = time.perf_counter()
    results.begin(fusion.video)

    def one(name: str) -> tuple[Int32[np.ndarray, "H W"], dict[ObjectId, float]]:
        probs, ids = fusion.frame(name, options.weights)
        sure = {i: round(value, 4) for i, value in presence(probs, ids).items()}
        labels = np.array([0, *ids], np.int32)[probs.argmax(axis=0)]
        labels = options.cleaning(labels, sure) if options.cleaning else labels
        write_labels(results.labels(fusion.video, name), labels, fusion.palette, fusion.long_ids)
        if options.save_probs:
            write_probs(results.probs(fusion.video, name), probs / probs.sum(axis=0), ids)
        return labels, sure

    seen: list[Mapping[ObjectId, float]] = []
    size: list[int] = []
    with progress(len(fusion.frames), fusion.video, "frame", line, leave) as bar:
        for labels, sure in map_ahead(one, fusion.frames, options.workers, 2 * options.workers):
            seen.append(sure)
            size = list(labels.shape)
            bar.update()
    ids = list(dict.fromkeys(i for sure in seen for i in sure))
    seconds = time.perf_counter() - started
    report = {
        "video": fusion.video,
        "frames": fusion.frames,
        "objects": ids,
        "frame_size": size,
        "presence": {str(i): [sure.get(i) for sure in seen] for i in ids},
        "settings": settings,
        "input": fusion.input,
        "seconds": round(seconds, 3),
        "frames_per_second": round(len(seen) / max(seconds, 1e-9), 3),
    }
    results.keep(report)
    return report


def _report(run: Results, video: str) -> dict[str, Any]:
    """What a run says of a video that it has completed, with its probabilities. Raises ValueError if it has not."""
    report = run.done(video)
    require(report is not None, f"{run.root}: {video} is not complete there")
    assert report is not None
    missing = next((name for name in report["frames"] if not run.probs(video, name).is_file()), None)
    require(
        missing is None, f"{run.root}: {video}: no probabilities of frame {missing}, wanted a run with --save-probs"
    )
    return report


def open_runs(roots: Sequence[Path]) -> list[Results]:
    """Folders of results. Raises ValueError for one that isn't, or that is there twice."""
    runs = [Results(root) for root in roots]
    for run in runs:
        require(run.root.is_dir(), f"{run.root}: no such folder")
        require(bool(run.reports()), f"{run.root}: not a folder of results, wanted what infer --save-probs wrote")
    places = [run.root.resolve() for run in runs]
    twice = next((run.root for i, run in enumerate(runs) if places[i] in places[:i]), None)
    require(twice is None, f"{twice}: given twice; a weight counts a run for more")
    return runs
