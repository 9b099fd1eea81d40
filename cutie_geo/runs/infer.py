"""Inference on videos as one library call: find videos, load models, segment, write run.json."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from cutie_geo.checkpoints.load import resolve_device
from cutie_geo.config import TrackerConfig, build, merge, parse_overrides, parse_shard, require, split_overrides
from cutie_geo.config.choices import DEFAULT_MODEL
from cutie_geo.data.example import EXAMPLE_CLIP, example_frames, example_masks
from cutie_geo.data.index import OWN_VIDEOS, RunDefaults, VideoRecord, dataset, dataset_names, discover, mask_files
from cutie_geo.data.live import LiveOptions
from cutie_geo.data.prompts import FramePrompts
from cutie_geo.data.sources import Source, StreamAddress, without_secrets
from cutie_geo.evaluation.metrics import Score, score_folders
from cutie_geo.inference.ensemble import views_of
from cutie_geo.inference.factory import resolve_options
from cutie_geo.inference.model_ensemble import normalise_weights
from cutie_geo.inference.one_video import VideoRun
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.postprocess import Cleaning
from cutie_geo.inference.results import (
    CONVERTED_MASKS,
    NOTES,
    Report,
    Results,
    changes,
    listed_folders,
    refuse_output,
)
from cutie_geo.inference.run import BUSY, open_results, run_videos
from cutie_geo.interrupts import StopOnInterrupt
from cutie_geo.limits import require_threads
from cutie_geo.runs.compiling import compile_parts
from cutie_geo.runs.distributed import Processes
from cutie_geo.runs.machine import run_facts
from cutie_geo.runs.models import VideoModel, family_named, load_any, model_settings
from cutie_geo.runs.threads import default_encode_threads, default_lookahead, require_encode_threads
from cutie_geo.runs.viewer import Viewer, require_window

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InferOptions:
    """Options of `infer`, named as on the command line."""

    video: Path | tuple[Path, ...] | Source | None = None
    """A video file, a folder of frames, a folder of these, a pattern, a list of images or of videos, or a stream. If
    neither this nor `dataset` is set: the bundled example.
    """
    mask: Path | None = None
    """A mask for the first frame, or a folder of masks named after frames or videos."""
    prompts: Mapping[str, FramePrompts] = field(default_factory=dict)
    """Point and box prompts, by frame and object."""
    prompt_model: str | None = None
    prompt_weights: str = "auto"
    dataset: str | None = None
    data_root: Path | None = None
    videos: tuple[str, ...] = ()
    """Names of videos to segment. Empty: all."""
    shard: str | None = None
    """`I/N`: only part I of N of the videos, from 1. `run.json` has the videos of all parts that share the output."""
    long_ids: bool = False
    output: Path = Path("output")
    direction: str | None = None
    """`forward`, `backward`, or `both`: frames before the first mask are segmented too. None: `both` for own videos."""
    overlay: bool = False
    fps: float | None = None
    save_probs: bool = False
    save_depth: bool = False
    overwrite: bool = False
    models: tuple[str, ...] = (DEFAULT_MODEL,)
    """Names of models; several are ensembled."""
    coefficients: tuple[float, ...] | None = None
    """`--coefficients` of several models in their mean. None: equal ones."""
    weights: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    max_internal_size: int | None = None
    lookahead: int | None = None
    encode_threads: int | None = None
    compile: bool = False
    workers: int = 2
    """Number of threads that read, and as many that write."""
    cpu_threads: int | None = None
    ms: tuple[float, ...] | None = None
    flip: bool = False
    ensemble_feedback: str | None = None
    devices: tuple[str, ...] = ()
    ms_workers: int | None = None
    min_confidence: float = 0.0
    remove_small: int = 0
    fill_holes: int = 0
    mem_every: int | None = None
    max_mem_frames: int | None = None
    stagger_updates: int | None = None
    top_k: int | None = None
    chunk_size: int | None = None
    long_term: bool | None = None
    live: bool = False
    """Read without an end: through a bounded queue, and again after a lost connection. Always for cameras and RTSP."""
    drop_frames: bool = False
    queue: int = LiveOptions.queue
    reconnect: float = LiveOptions.reconnect
    show: bool = False
    """Show the overlay of each frame in a window."""
    overrides: tuple[str, ...] = ()
    """Other options of tracker and models, as `key=value`."""
    command: tuple[str, ...] = ()
    """Command line, for the record."""

    @property
    def is_live(self) -> bool:
        """True if the source is read without an end."""
        return self.live or (isinstance(self.video, StreamAddress) and self.video.is_endless)

    @property
    def is_example(self) -> bool:
        """True if the bundled example is segmented."""
        return self.video is None and self.dataset is None


class Outcome(NamedTuple):
    """Result of a run in every process; `seconds` and `scores` are set in the main process only."""

    reports: list[Report]
    """Report of each video, in order."""
    output: Path
    seconds: float
    """Inference time without loading."""
    is_main: bool
    scores: dict[int, Score]
    """Scores of the bundled example, by object; empty for other videos."""
    failure: OSError | None = None
    """Why run.json could not be written, if so. The masks are complete."""


def infer(job: InferOptions) -> Outcome:
    """Segment all videos of a run, shared by the processes of an `accelerate launch`.

    A video that fails is reported; the others are segmented.

    Raises:
        ValueError: for invalid options, missing videos or models, and results of other settings.
    """
    if job.cpu_threads is not None:
        require_threads(job.cpu_threads)
        torch.set_num_threads(job.cpu_threads)
    if not job.dataset:
        folders = [job.video if isinstance(job.video, Path) else None, job.mask]
        refuse_output(job.output, folders)  # before masks are converted into the output
    records, options = plan(job)
    require(not job.is_live or len(records) == 1, f"--live: got {len(records)} videos, expected one")
    records = _of_shard(records, job)
    if job.dataset:
        refuse_output(job.output, listed_folders(records))
    processes = Processes(job.device)
    require(processes.count == 1 or not job.devices, "--devices: expected one process; each of several has its own GPU")
    models, weights = load_models(job, processes)
    if job.compile:
        for model in models:
            compile_parts(model.compilable(), model.device)
    settings = [model_settings(name, weights, model) for name, model in zip(job.models, models)]
    options = replace(
        resolve_options(models, options),
        settings=settings[0] if len(settings) == 1 else {"members": settings},
        lookahead=(1 if job.is_live else default_lookahead(models)) if job.lookahead is None else job.lookahead,
        # frames that are encoded ahead wait, which a live source's latency would show
        encode_threads=default_encode_threads(
            job.encode_threads, models, options.is_ensemble or job.compile or job.is_live
        ),
    )
    if job.is_example:  # a demonstration, which may be shown again in another way
        changed = changes(Results.at(job.output), records[0], options)
        options = replace(options, overwrite=options.overwrite or bool(changed))
    prompter = None
    if any(record.prompts for record in records):
        from cutie_geo.runs.prompts import load_prompter  # imports SAM 2

        prompter, described = load_prompter(models, job.prompt_model, job.prompt_weights, job.max_internal_size)
        options = replace(options, settings={**options.settings, "prompts": described})
    results = open_results(job.output, records, options)
    processes.wait()  # all have seen what was there before one changes it
    started = time.perf_counter()
    viewer = Viewer(records[0].name) if job.show else None
    with logging_redirect_tqdm():
        run = VideoRun(models, results, options, prompter, viewer)
        with StopOnInterrupt(run.stop) if job.is_live else nullcontext(), closing(viewer) if viewer else nullcontext():
            reports = run_videos(run, processes.share(records), processes.index)
    reports = _in_order(records, processes.gather(reports))
    seconds, scores, failure = time.perf_counter() - started, {}, None
    if processes.is_main:
        try:
            results.write_summary(lambda: _summary(job, weights, models, options, results, reports))
        except OSError as error:
            failure = error
        if job.is_example and "error" not in reports[0]:
            scores = score_folders(example_masks(), results.folder(EXAMPLE_CLIP))
    processes.leave()
    return Outcome(reports, results.root, seconds, processes.is_main, scores, failure)


def load_models(job: InferOptions, processes: Processes) -> tuple[list[VideoModel], str]:
    """Load the models of a run.

    Returns:
        The models, and where their weights come from: `job.weights`, or `none` for the bundled example where weights
        are missing, which is logged.
    """
    devices = job.devices or (processes.device(job.device),)
    places = [devices[i % len(devices)] for i in range(len(job.models))]

    def load(weights: str) -> list[VideoModel]:
        return [load_any(name, weights, at, job.precision, job.overrides) for name, at in zip(job.models, places)]

    try:
        return load(job.weights), job.weights
    except ValueError as error:
        chosen = job.weights != "auto" or any(item.startswith("weights.") for item in job.overrides)
        if chosen or not job.is_example:
            raise
        for name in job.models:
            family_named(name).check(name, job.overrides)  # an invalid model stays an error
        log.warning("%s", error)
        log.warning("using RANDOM weights: the masks show that the program runs, not what it can do")
    return load("none"), "none"


# --------------------------------------------------------------------------------------------------------- planning
def plan(job: InferOptions) -> tuple[list[VideoRecord], RunOptions]:
    """Return the videos of a run and the options that each is segmented with.

    Raises:
        ValueError: for options that exclude each other, and for missing videos.
    """
    _require_valid(job)
    spec: RunDefaults = OWN_VIDEOS
    if job.dataset is not None:
        assert job.data_root is not None, "required by _require_valid"
        spec, records = dataset(job.dataset, job.data_root)
        require(bool(records), f"--dataset {job.dataset}: the split lists no sequences; expected at least one")
    elif job.video is not None:
        converted = Results.at(job.output).root / NOTES / CONVERTED_MASKS
        records = discover(job.video, job.mask, job.long_ids, job.prompts, converted)
    else:
        first = next(iter(mask_files(example_masks()).values()))
        records = [VideoRecord(EXAMPLE_CLIP, example_frames(), first_mask=first)]
    options = RunOptions(
        tracker=_tracker_config(job, {"use_long_term": spec.use_long_term, "mem_every": spec.mem_every}),
        default_size=spec.size,
        scales=tuple(job.ms or (1.0,)),
        flip=job.flip,
        feedback=job.ensemble_feedback or "own",
        coefficients=None if job.coefficients is None else tuple(job.coefficients),
        devices=tuple(job.devices or ()),
        view_workers=job.ms_workers,
        cleaning=Cleaning(job.min_confidence, job.remove_small, job.fill_holes),
        overlay=job.overlay,
        save_probs=job.save_probs,
        save_depth=job.save_depth,
        lookahead=1 if job.lookahead is None else job.lookahead,
        fps=job.fps,
        workers=job.workers,
        overwrite=job.overwrite,
        direction=job.direction or ("forward" if job.dataset is not None else "auto"),
        corrections=job.video is not None,
        single_object=spec.single_object,
        live=LiveOptions(job.drop_frames, job.queue, job.reconnect) if job.is_live else None,
    )
    return _chosen(records, job.videos), options


def _require_valid(job: InferOptions) -> None:
    """Raise ValueError for options that exclude or lack each other."""
    stray = [item for item in job.overrides if "=" not in item]
    require(not stray, f"{' '.join(stray)}: expected an option such as --video before it, or key=value")
    require(job.video is None or job.dataset is None, "--video and --dataset: expected one of them")
    require(job.mask is None or job.video is not None, "--mask: expected --video with it")
    require(not job.long_ids or job.video is not None, "--long-ids: expected --video with it")
    pointed = bool(job.prompts or job.prompt_model)
    require(not pointed or job.video is not None, "--point, --box, --prompts: expected --video with them")
    require(job.data_root is None or job.dataset is not None, "--data-root: expected --dataset with it")
    known = job.dataset is None or job.dataset in dataset_names()
    require(known, f"--dataset: got {job.dataset}, expected one of {', '.join(dataset_names())}")
    require(job.dataset is None or job.data_root is not None, f"--dataset {job.dataset}: expected --data-root with it")
    known = job.direction in (None, "forward", "backward", "both")
    require(known, f"--direction: got {job.direction}, expected forward, backward or both")
    require(job.direction is None or job.dataset is None, "--direction: expected --video with it")
    require(not job.live or job.video is not None, "--live: expected --video with it")
    unset = (False, LiveOptions.queue, LiveOptions.reconnect, False)
    alive = job.is_live or (job.drop_frames, job.queue, job.reconnect, job.show) == unset
    require(alive, "--drop-frames, --queue, --reconnect, --show: expected --live, a camera or rtsp:// with them")
    if job.show:
        require_window()
    parse_shard(job.shard)
    require(job.fps is None or job.overlay, "--fps: expected --overlay with it")
    views_of(job.ms or (1.0,), job.flip, "--ms")
    several = job.ms is not None or job.flip
    require(job.ensemble_feedback is None or several, "--ensemble-feedback: expected --ms or --flip with it")
    _require_models(job, several)
    require_encode_threads(job.encode_threads, job.compile, job.ms_workers)
    if job.save_depth:
        deep = any(family_named(name).may_give_depth(name, job.overrides) for name in job.models)
        names = ", ".join(job.models)
        require(deep, f"--save-depth: {names} has no geometry encoder, expected a model such as cutie-geo-small")


def _require_models(job: InferOptions, views: bool) -> None:
    """Raise ValueError for invalid options of several models or views."""
    count = len(job.models)
    twice = sorted({name for name in job.models if job.models.count(name) > 1})
    require(not twice, f"--models: got {', '.join(twice)} more than once; --coefficients counts one for more")
    require(job.coefficients is None or count > 1, "--coefficients: expected several --models with it")
    if job.coefficients is not None:
        normalise_weights(job.coefficients, count, "--coefficients")
    named = job.weights in ("auto", "none")
    require(count == 1 or named, f"--weights: got {job.weights} for several models, expected auto, none, or folders of "
            "trained models after --models")  # fmt: skip
    for name, given in (("--devices", job.devices), ("--ms-workers", job.ms_workers)):
        require(not given or views or count > 1, f"{name}: expected --ms, --flip or several --models with it")
    require(
        not views or any(family_named(name).views for name in job.models),
        "--ms, --flip: SAM 2 stretches each frame to its own square, and exported graphs have one view; expected a "
        "model of Cutie's kind",
    )
    require(not job.devices or job.device == "auto", "--device and --devices: expected one of them")
    for device in job.devices or ():
        resolve_device(device)
    few = job.ms_workers
    require(few is None or few >= 1, f"--ms-workers: got {few}, expected 1 or more")


def _of_shard(records: Sequence[VideoRecord], job: InferOptions) -> list[VideoRecord]:
    """Return the videos of `job.shard`; log a warning if there are none. Raises ValueError for an invalid shard."""
    shard = parse_shard(job.shard)
    require(shard.is_whole or not job.is_example, "--shard: expected a video or --dataset with it")
    own = list(shard.of(records))
    if not own:
        log.warning("--shard %s: no video left for it, of %d", shard, len(records))
    return own


def _chosen(records: Sequence[VideoRecord], names: Sequence[str] | None) -> list[VideoRecord]:
    if not names:
        return list(records)
    known = {record.name for record in records}
    unknown = [name for name in names if name not in known]
    require(not unknown, f"--videos: no {', '.join(unknown)} among {len(known)} videos")
    return [record for record in records if record.name in names]


def _tracker_config(job: InferOptions, defaults: dict[str, Any]) -> TrackerConfig:
    """Build the tracker's options: defaults, then options, then overrides."""
    options = {
        "mem_every": job.mem_every,
        "max_mem_frames": job.max_mem_frames,
        "stagger_updates": job.stagger_updates,
        "top_k": job.top_k,
        "chunk_size": job.chunk_size,
        "max_internal_size": job.max_internal_size,
        "use_long_term": job.long_term,
    }
    given = {name: value for name, value in options.items() if value is not None}
    others = split_overrides(job.overrides)[1]
    taken = [item for name in job.models for item in family_named(name).own_overrides(others)]
    others = [item for item in others if item not in taken]
    return build(TrackerConfig, merge(defaults | given, parse_overrides(others)), "options")


# -------------------------------------------------------------------------------------------------------- reporting
def _in_order(records: Sequence[VideoRecord], reports: Sequence[Report]) -> list[Report]:
    """Return the reports in the order of the records."""
    by_name = {report["video"]: report for report in reports}
    return [by_name[record.name] for record in records]


def _summary(
    job: InferOptions,
    weights: str,
    models: Sequence[VideoModel],
    options: RunOptions,
    results: Results,
    reports: list[Report],
) -> Report:
    """Return the content of run.json, with the results of earlier calls in the same folder."""
    videos = results.reports() | {report["video"]: report for report in reports if BUSY not in report}
    return {
        "command": [without_secrets(word) for word in job.command],
        "model": job.models[0] if len(models) == 1 else list(job.models),
        "weights": weights,
        **run_facts(options.fingerprint(), models, videos),
    }
