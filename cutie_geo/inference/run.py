"""Resumable segmentation of many videos, in which a failed video does not affect the others."""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from av.error import FFmpegError

from cutie_geo.config import require_name
from cutie_geo.data.index import VideoRecord
from cutie_geo.data.locks import Busy
from cutie_geo.errors import is_out_of_memory, reason
from cutie_geo.inference.one_video import VideoRun, segment_record
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.results import Report, Results, refuse_other_settings
from cutie_geo.progress import progress

log = logging.getLogger(__name__)

BUSY = "busy"
"""Report entry of a video that another process is writing."""


def open_results(output: Path, records: Sequence[VideoRecord], options: RunOptions) -> Results:
    """Open a folder of results and create it if needed. `output` may also be its folder of masks.

    Raises:
        ValueError: If the folder is not writable, contains one of the videos with other settings, or has the layout of
            an earlier version, and for a video whose name is not plain on every system.
    """
    for record in records:
        require_name(record.name, f"{record.reader or record.source}: name of the video, which its results get")
    results = Results.at(output)
    results.make_writable()
    refuse_other_settings(results, records, options)
    return results


def run_videos(run: VideoRun, records: Sequence[VideoRecord], process: int = 0) -> list[Report]:
    """Segment every video that is not complete yet.

    A video that another process is writing is retried after the others.

    Args:
        run: Models, options and the folder of results.
        records: Videos.
        process: Index of this process, which sets the lines of its progress bars.

    Returns:
        Report of each video, in order. A failed video has an `error`, and `busy` if another process is writing it.
    """
    reports: dict[str, Report] = {}
    busy: list[VideoRecord] = []
    several = len(records) > 1
    line, name = 2 * process, f"videos ({process})" if process else "videos"
    with progress(len(records), name, "video", line, show=several) as bar:
        for record in chain(records, busy):  # videos that another process is writing are retried at the end
            try:
                reports[record.name] = _complete_or_attempt(run, record, line, several)
            except Busy as error:
                if record not in busy:
                    log.log(logging.WARNING if several else logging.INFO, "%s", error)
                    busy.append(record)
                    continue
                reports[record.name] = {"video": record.name, "error": str(error), BUSY: True}
            failed = sum("error" in report for report in reports.values())
            if failed:
                bar.set_postfix(failed=failed, refresh=False)
            bar.update()
    return [reports[record.name] for record in records]


def _complete_or_attempt(run: VideoRun, record: VideoRecord, line: int, several: bool) -> Report:
    """Return the report of a complete video, or segment the video."""
    complete = None if run.options.overwrite else run.results.complete(record.name, run.options)
    if complete is not None:
        return complete | {"skipped": True}
    with run.results.lock(record.name):
        # another process may have finished it meanwhile
        complete = None if run.options.overwrite else run.results.complete(record.name, run.options)
        if complete is not None:
            return complete | {"skipped": True}
        segment = partial(segment_record, run, record, line + several, not several)
        report = attempt(segment, run.results, record.name, run.models)
    if "error" in report and several:
        log.error("%s", report["error"])
    return report


def attempt(process: Callable[[], Report], results: Results, name: str, models: Iterable[Any]) -> Report:
    """Process a video and write its report, even if it fails.

    Args:
        process: Processes the video and returns its report.
        results: Folder of results.
        name: Name of the video.
        models: Networks that `process` uses.
    """
    try:
        report = process()
        results.keep(report)
        return report
    except Exception as error:
        report = {"video": name, "error": reason(error, name)}
        if not (is_out_of_memory(error) or isinstance(error, (ValueError, OSError, FFmpegError))):
            log.exception("%s: unexpected error, probably a bug", name)
    # here the error no longer references the video's tensors
    if any(model.device.type == "cuda" for model in models):
        torch.cuda.empty_cache()
    try:
        results.keep_failure(report)
    except OSError as error:  # for example a full disk; the caller still gets the report
        log.debug("%s: %s", results.note(name), error)
    return report
