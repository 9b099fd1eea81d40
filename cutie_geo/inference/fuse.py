"""Ensemble of finished runs from their saved probabilities.

The result equals that of a live ensemble, except for the rounding of files to 1/255.
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
from cutie_geo.data.io_threads import map_ahead
from cutie_geo.data.masks import read_labels, read_probs, write_labels, write_probs
from cutie_geo.inference.postprocess import Cleaning
from cutie_geo.inference.results import Report, Results, refuse_others
from cutie_geo.inference.segment import presence
from cutie_geo.progress import progress
from cutie_geo.structures import ObjectId


class FuseOptions(NamedTuple):
    """Options of the fusion of runs."""

    weights: tuple[float, ...]
    """Weight of each run; the sum is 1."""
    cleaning: Cleaning = Cleaning()
    save_probs: bool = False
    """Write the mean probabilities as well."""
    workers: int = 2
    """Number of threads."""
    overwrite: bool = False
    """Repeat the fusion of complete videos and of those with other settings."""


class Fusion:
    """One video in several runs.

    Raises:
        ValueError: If a run is incomplete, lacks probabilities or has other frames; the message contains its folder.
    """

    def __init__(self, runs: Sequence[Results], video: str) -> None:
        self.runs, self.video = list(runs), video
        reports = [_report(run, video) for run in runs]
        self.frames: list[str] = reports[0]["frames"]
        for run, report in zip(runs[1:], reports[1:]):
            other = next((f"from {a} on" for a, b in zip(self.frames, report["frames"]) if a != b), "in number")
            same = report["frames"] == self.frames
            require(same, f"{run.root}: {video}: frames differ from those in {runs[0].root}, {other}")
        require(bool(self.frames), f"{runs[0].root}: {video}: no frames")
        first = read_labels(runs[0].labels(video, self.frames[0]), long_ids=True)
        self.palette, self.long_ids = first.palette, first.long_ids
        facts = [{name: report.get(name) for name in ("settings", "input", "frames")} for report in reports]
        self.input = {"runs": hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()}

    def frame(self, name: str, weights: Sequence[float]) -> tuple[Float32[np.ndarray, "N1 H W"], tuple[ObjectId, ...]]:
        """Return the weighted mean of a frame's probabilities, and the object ids of its channels after the first.

        Raises:
            ValueError: If a file is missing, damaged, or of other objects or another size.
        """
        first = self.runs[0].probs(self.video, name)
        total, ids = read_probs(first)
        total *= weights[0]
        for run, weight in zip(self.runs[1:], weights[1:]):
            path = run.probs(self.video, name)
            probs, own = read_probs(path)
            require(set(own) == set(ids), f"{path}: objects {list(own)}, expected {list(ids)} as in {first}")
            size, wanted = probs.shape[1:], total.shape[1:]
            require(size == wanted, f"{path}: size {size}, expected {wanted} as in {first}")
            total += weight * probs[[0, *(1 + own.index(i) for i in ids)]]
        return total, ids


def fuse_video(fusion: Fusion, results: Results, options: FuseOptions, line: int = 0, leave: bool = True) -> Report:
    """Fuse one video of several runs, unless it is complete; `line` and `leave` are options of its progress bar.

    Raises:
        ValueError: If the video was fused with other settings, before anything is written; for invalid files, as
            `Fusion.frame` does.
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
    results.begin(fusion.video, options.overwrite)

    def one(name: str) -> tuple[Int32[np.ndarray, "H W"], dict[ObjectId, float]]:
        probs, ids = fusion.frame(name, options.weights)
        sure = {i: round(value, 4) for i, value in presence(probs, ids).items()}
        labels = np.array([0, *ids], np.int32)[probs.argmax(axis=0)]
        labels = options.cleaning(labels, sure) if options.cleaning else labels
        video = fusion.video
        results.write(video, results.labels(video, name), write_labels, labels, fusion.palette, fusion.long_ids)
        if options.save_probs:
            results.write(video, results.probs(video, name), write_probs, probs / probs.sum(axis=0), ids)
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
    """Return a run's report of a video. Raises ValueError if the video is incomplete or lacks probabilities."""
    report = run.done(video)
    require(report is not None, f"{run.root}: {video}: incomplete")
    assert report is not None
    missing = next((name for name in report["frames"] if not run.probs(video, name).is_file()), None)
    require(
        missing is None, f"{run.root}: {video}: no probabilities of frame {missing}, expected a run with --save-probs"
    )
    return report


def open_runs(roots: Sequence[Path]) -> list[Results]:
    """Open folders of results, or their folders of masks.

    Raises:
        ValueError: If a folder is not a folder of results or is repeated.
    """
    runs = [Results.at(root) for root in roots]
    for run in runs:
        require(run.root.is_dir(), f"{run.root}: no such folder")
        run.refuse_old_layout()
        require(bool(run.noted()), f"{run.root}: not a folder of results, expected the output of infer --save-probs")
    places = [run.root.resolve() for run in runs]
    twice = next((run.root for i, run in enumerate(runs) if places[i] in places[:i]), None)
    require(twice is None, f"{twice}: repeated; expected each run once. Use a weight to count a run more")
    return runs
