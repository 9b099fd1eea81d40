"""Fusion of runs that saved their probabilities, as called by `fuse`."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cutie_geo.config import require
from cutie_geo.data.io_threads import write_json
from cutie_geo.errors import is_out_of_memory, reason
from cutie_geo.inference.fuse import FuseOptions, Fusion, fuse_video, open_runs
from cutie_geo.inference.model_ensemble import normalise_weights
from cutie_geo.inference.postprocess import Cleaning
from cutie_geo.inference.results import SUMMARY, Results
from cutie_geo.progress import watched
from cutie_geo.runs.machine import versions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FuseRunsOptions:
    """Runs to fuse, and output settings."""

    runs: tuple[Path, ...]
    """Folders of results of `infer --save-probs`."""
    output: Path
    coefficients: tuple[float, ...] | None = None
    """Coefficient of each run in the mean. None: equal ones."""
    videos: tuple[str, ...] = ()
    """Names of videos. Empty: all of the first run."""
    cleaning: Cleaning = field(default_factory=Cleaning)
    save_probs: bool = False
    overwrite: bool = False
    """Fuse complete videos again."""
    workers: int = 2
    """Number of threads."""
    command: Sequence[str] = ()
    """Command line, stored with the results."""


@dataclass(frozen=True)
class FuseOutcome:
    """Result of a fusion."""

    output: Path
    fused: int
    skipped: int
    """Number of videos that were already complete."""
    errors: tuple[str, ...]


def fuse_runs(options: FuseRunsOptions) -> FuseOutcome:
    """Fuse all videos and write `run.json`; a video that fails does not stop the others.

    Raises:
        ValueError: for fewer than two runs, invalid weights, unknown videos, and an output that is one of the runs.
    """
    require(options.workers >= 1, f"--workers: got {options.workers}, expected 1 or more")
    require(len(options.runs) > 1, f"fuse: got {len(options.runs)} run, expected two or more")
    runs = open_runs(list(options.runs))
    weights = normalise_weights(options.coefficients, len(runs), "--coefficients", "runs")
    output = Results.at(options.output)
    inside = output.root.resolve() in {run.root.resolve() for run in runs}
    require(not inside, f"--output: {output.root} is one of the runs, expected another folder")
    each = FuseOptions(weights, options.cleaning, options.save_probs, options.workers, options.overwrite)
    videos = _videos(runs[0], options.videos)
    output.make_writable()
    reports, failed, several = {}, [], len(videos) > 1
    for video in watched("videos", "video", show=several)(videos, len(videos)):
        try:
            with output.lock(video):
                reports[video] = fuse_video(Fusion(runs, video), output, each, int(several), not several)
        except Exception as error:  # a failure of one video does not stop the others
            failed.append(reason(error, video))
            if not (is_out_of_memory(error) or isinstance(error, (ValueError, OSError))):
                log.exception("%s: unexpected error, probably a bug", video)
    summary = {
        "command": list(options.command),
        "runs": [str(root) for root in options.runs],
        "weights": list(weights),
        "versions": versions(),
        "videos": output.reports() | reports,
    }
    write_json(output.root / SUMMARY, summary)
    skipped = sum("skipped" in report for report in reports.values())
    return FuseOutcome(output.root.resolve(), len(reports) - skipped, skipped, tuple(failed))


def _videos(first: Results, names: Sequence[str]) -> list[str]:
    """Return the named videos, or all of the first run. Raises ValueError for unknown ones."""
    known = first.noted()  # a damaged note is that video's error
    unknown = [name for name in names if name not in known]
    require(not unknown, f"--videos: no {', '.join(unknown)} in {first.root}")
    return list(names or known)
