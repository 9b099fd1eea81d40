"""Many videos into a folder of results: resumable, and one bad video never spoils the others."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from av.error import FFmpegError

from cutie_geo.data.index import VideoRecord
from cutie_geo.errors import is_shortage, reason
from cutie_geo.inference.methods import VideoModel
from cutie_geo.inference.one_video import segment_record
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.prompts import Prompter
from cutie_geo.inference.results import Report, Results, refuse_other_settings
from cutie_geo.progress import progress

log = logging.getLogger(__name__)


def open_results(output: Path, records: Sequence[VideoRecord], options: RunOptions) -> Results:
    """The folder of results, made if it isn't there.

    Raises ValueError if it can't be written, or if it has one of the videos with other settings.
    """
    results = Results(output)
    results.make_writable()
    refuse_other_settings(results, records, options)
    return results


def run_videos(
    models: Sequence[VideoModel],
    records: Sequence[VideoRecord],
    results: Results,
    options: RunOptions,
    process: int = 0,
    prompter: Prompter | None = None,
) -> list[Report]:
    """Segment every video that isn't complete yet, with one model or several together; return a report for each, in
    order.

    A video that fails is reported with its `error` and the next one begins. process: which of several this is, so that
    their progress bars don't cover each other.
    """
    reports: list[Report] = []
    several = len(records) > 1
    line, name = 2 * process, f"videos ({process})" if process else "videos"
    with progress(len(records), name, "video", line, show=several) as bar:
        for record in records:
            reports.append(_complete_or_attempt(models, record, results, options, line, several, prompter))
            failed = sum("error" in report for report in reports)
            if failed:
                bar.set_postfix(failed=failed, refresh=False)
            bar.update()
    return reports


def _complete_or_attempt(
    models: Sequence[VideoModel],
    record: VideoRecord,
    results: Results,
    options: RunOptions,
    line: int,
    several: bool,
    prompter: Prompter | None,
) -> Report:
    """The report of a complete video, or of the attempt to make it complete."""
    complete = None if options.overwrite else results.complete(record.name, options)
    if complete is not None:
        return complete | {"skipped": True}
    report = _attempt(models, record, results, options, line + several, not several, prompter)
    if "error" in report and several:
        log.error("%s", report["error"])
    return report


def _attempt(
    models: Sequence[VideoModel],
    record: VideoRecord,
    results: Results,
    options: RunOptions,
    line: int,
    leave: bool,
    prompter: Prompter | None,
) -> Report:
    """Segment a video and note what came of it."""
    try:
        report = segment_record(models, record, results, options, line, leave, prompter)
        results.keep(report)
        return report
    except Exception as error:
        report = {"video": record.name, "error": reason(error, record.name)}
        if not (is_shortage(error) or isinstance(error, (ValueError, OSError, FFmpegError))):
            log.exception("%s: this looks like a fault of the program", record.name)
    if any(
        model.device.type == "cuda" for model in models
    ):  # here, where the error no longer holds the video's tensors
        torch.cuda.empty_cache()
    try:
        results.keep(report)
    except OSError as error:  # a full disk, perhaps; the report still reaches the caller
        log.debug("%s: %s", results.note(record.name), error)
    return report
