"""Train a stage or a recipe as one library call: data, network, checkpoints, log and trackers."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, GradScalerKwargs, InitProcessGroupKwargs, set_seed
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from cutie_geo.checkpoints.load import resolve_precision
from cutie_geo.config import (
    TrainConfig,
    build,
    read_yaml,
    recipe_stages,
    require,
    split_overrides,
    stage_file,
    stage_names,
    train_config,
)
from cutie_geo.data.clips import ClipDataset, build_sources, clip_loader, collate, fingerprint, require_known
from cutie_geo.limits import require_threads
from cutie_geo.progress import begin_at
from cutie_geo.runs import validation
from cutie_geo.runs.compiling import compile_parts
from cutie_geo.runs.distributed import connected, join, local_processes
from cutie_geo.runs.machine import versions
from cutie_geo.runs.models import quiet_loading
from cutie_geo.runs.trainables import frozen_files, trainable_for
from cutie_geo.runs.training_run import (
    RunFolder,
    ScoreHistory,
    TrainingRun,
    code_version,
    resolved,
    run_root,
    start_trackers,
    tracker_names,
)
from cutie_geo.structures import ClipBatch, ClipKey
from cutie_geo.training.optimiser import MovingAverage, build_optimiser, frozen_encoder
from cutie_geo.training.plan import make_plan
from cutie_geo.training.stage import prepare, to_device, unreached
from cutie_geo.training.state import (
    TrainState,
    offered_weights,
    require_same,
    restore,
    resumed,
    take_trained,
)
from cutie_geo.training.trainable import Network, Trainable

log = logging.getLogger(__name__)

FIRST_SCALE = 8192.0
"""Initial gradient scale in fp16, as Cutie's."""
PATIENCE = timedelta(hours=2)
"""Timeout of collective operations: one process saves and validates while the others wait."""
GPU_WORKERS, CPU_WORKERS = 4, 1
"""Default number of loader processes for each training process."""


@dataclass(frozen=True)
class TrainOptions:
    """Settings of a training run. Raises ValueError for invalid numbers."""

    stage: str | None = None
    """0, 1, 2, or the name of a stage of the package."""
    config: Path | None = None
    """A YAML file or the name of one of the package's: a stage, or changes to `stage`."""
    model: str | None = None
    """A preset or a YAML file. None: the stage's default."""
    weights: str = "auto"
    """Initial weights: `auto` (the previous stage, or else the stage's default), `encoders`, `none`, or a
    checkpoint.
    """
    data_root: Path | None = None
    output: Path = Path("runs")
    """Folder of all runs."""
    resume: str = "auto"
    """`auto` (the newest checkpoint), `never`, or a checkpoint."""
    tracker: str = "auto"
    group: str = ""
    """Name that several runs share in W&B."""
    dry_run: bool = False
    """Return the plan instead of training."""
    device: str = "auto"
    processes: int | None = None
    """Number of processes for which the run is planned. None: the current number."""
    workers: int | None = None
    """Number of loader processes for each training process. None: 4, on a CPU 1."""
    cpu_threads: int | None = None
    compile: bool = False
    overrides: tuple[str, ...] = ()
    """`key=value` changes of the stage and of its model."""
    command: str = ""
    """Command line, for the record."""
    estimate: bool = False
    """Print before the first step how long the run will take; only in a run of one process."""

    def __post_init__(self) -> None:
        require_threads(self.cpu_threads)
        require(self.workers is None or self.workers >= 0, f"--workers: got {self.workers}, expected 0 or more")


class Outcome(NamedTuple):
    """Result of a run."""

    status: int
    """Exit status: 0 after the last step, 130 or 143 after a signal."""
    message: str = ""
    """Last lines for the user; empty in all processes but the main one."""


def train(options: TrainOptions, config: TrainConfig | None = None) -> Outcome:
    """Train a stage, or plan it, in every process of an `accelerate launch`.

    Args:
        options: settings of the run.
        config: the stage, used instead of `options.stage` and `options.config`.

    Raises:
        ValueError: if options, data or weights are missing or invalid, or the run was begun with other settings.
        OSError: if files cannot be written.
    """
    config = configuration(options) if config is None else config
    names = tracker_names(options.tracker)
    accelerator = _accelerator(options, config, names)
    _set_threads(options, accelerator)
    try:
        with connected():
            outcome = (_dry_run if options.dry_run else _train)(options, config, accelerator)
        return outcome if accelerator.is_main_process else outcome._replace(message="")
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def train_recipe(name: str, options: TrainOptions) -> Iterator[Outcome]:
    """Train the stages of a recipe in order until one is stopped; yield each outcome. Finished stages are skipped.

    `options.weights` apply to the first stage, all other options to every stage.

    Raises:
        ValueError: if the recipe is unknown or the options name a stage, and as `train`.
    """
    require(options.stage is None and options.config is None, "--recipe: got --stage or --config too, expected neither")
    require(options.resume == "auto", f"--recipe: got --resume {options.resume}, expected auto")
    for number, stage in enumerate(recipe_stages(name)):
        outcome = train(replace(options, stage=stage, weights=options.weights if number == 0 else "auto"))
        yield outcome
        if outcome.status != 0:
            return


def configuration(options: TrainOptions) -> TrainConfig:
    """Return the training configuration. Raises ValueError for missing or invalid arguments."""
    stray = [item for item in options.overrides if "=" not in item]
    require(not stray, f"{' '.join(stray)}: expected an option such as --stage before it, or key=value")
    require(options.stage is not None or options.config is not None, "expected --stage, --recipe or --config")
    changes: dict[str, Any] = {} if options.model is None else {"model": options.model}
    if options.stage is None:
        return train_config(str(options.config), options.overrides, changes)
    name = f"stage{options.stage}" if options.stage.isdecimal() else options.stage
    require(
        name in stage_names(), f"--stage: got {options.stage}, expected 0, 1, 2 or one of {', '.join(stage_names())}"
    )
    file_changes = {} if options.config is None else read_yaml(stage_file(str(options.config)))
    return train_config(name, options.overrides, file_changes | changes)


def _accelerator(options: TrainOptions, config: TrainConfig, trackers: list[str]) -> Accelerator:
    """Return the accelerator: devices, processes and fp16 gradient scaling. Raises ValueError for fp16 on a CPU."""
    cpu = options.device == "cpu" or not torch.cuda.is_available()
    require(
        config.precision != "fp16" or not cpu or options.dry_run,
        "precision: got fp16 on a CPU, expected auto, bf16 or fp32",
    )
    folder = RunFolder(run_root(options.output, config))
    make = partial(
        Accelerator,
        cpu=cpu,
        mixed_precision="fp16" if config.precision == "fp16" and not cpu else "no",  # the network applies bf16 itself
        log_with=trackers or None,  # type: ignore[arg-type]
        project_dir=str(folder.root),
    )
    handlers = [
        GradScalerKwargs(init_scale=FIRST_SCALE),
        DistributedDataParallelKwargs(gradient_as_bucket_view=True),
    ]
    return join(lambda timeout: make(kwargs_handlers=[*handlers, InitProcessGroupKwargs(timeout=timeout)]), PATIENCE)


def _set_threads(options: TrainOptions, accelerator: Accelerator) -> None:
    """Set torch's number of threads; by default, processes share the cores.

    More threads than cores are many times slower than fewer: each waits for all others at every operation.
    """
    on_cpu = accelerator.device.type == "cpu"
    if options.cpu_threads is not None:
        torch.set_num_threads(options.cpu_threads)
    elif on_cpu and "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(cores // local_processes(accelerator.num_processes), 1))


# ---------------------------------------------------------------------------------------------------------------- plan
def _dry_run(options: TrainOptions, config: TrainConfig, accelerator: Accelerator) -> Outcome:
    processes = options.processes or accelerator.num_processes
    require_known(config.data, config.clips)
    validation.require_known(config.validation)
    _require_precision(options, config)
    config, parts = _with_steps(options, config), processes * config.accumulate
    require(config.batch % parts == 0, f"batch: got {config.batch}, expected a multiple of {parts} parts")
    precision = "bf16" if config.precision == "auto" else config.precision
    overrides = _model_options(options, config, with_files=False)
    trainable = trainable_for(config)
    with quiet_loading():  # random weights are expected here
        model = trainable.load("none", torch.device("cpu"), "fp32", overrides)
    model.precision = resolve_precision(precision, torch.device("cpu"))
    return Outcome(0, "\n".join(make_plan(trainable, model, processes).lines()))


def _require_precision(options: TrainOptions, config: TrainConfig) -> None:
    """Raise ValueError for fp16 in a plan for CPUs; a plan for GPUs may be made on a machine without them."""
    if config.precision != "fp16":
        return
    require(options.device != "cpu", "precision: got fp16 on a CPU, expected auto, bf16 or fp32")
    if not torch.cuda.is_available():
        log.warning("precision: fp16 needs a GPU, and this machine has none; the plan is for one that has")


# ------------------------------------------------------------------------------------------------------------ training
def _train(options: TrainOptions, config: TrainConfig, accelerator: Accelerator) -> Outcome:
    config = _with_steps(options, config)
    folder = RunFolder(run_root(options.output, config))
    with folder.lock(accelerator.is_main_process):
        return _train_in(folder, options, config, accelerator)


def _train_in(folder: RunFolder, options: TrainOptions, config: TrainConfig, accelerator: Accelerator) -> Outcome:
    """Train in a folder that is locked for this run."""
    checkpoint, content = resumed(options.resume, folder.checkpoints())
    if content is not None and checkpoint is not None:
        require_same(content["config"], config, checkpoint)
    if _is_finished(folder, config, content):
        return Outcome(0, f"{config.stage}: all {config.steps} steps are done; the model is in {folder.final}")
    dataset = ClipDataset(build_sources(config.data, config.clips, options.data_root), config.clips, config.seed)
    scored = validation.Validation(config.validation, options.data_root) if config.validation.every else None
    first_step = 0 if content is None else content["step"]
    workers = options.workers
    if workers is None:
        workers = CPU_WORKERS if accelerator.device.type == "cpu" else GPU_WORKERS
    batches = clip_loader(
        dataset, batch=config.batch, total_steps=config.steps, first_step=first_step, accumulate=config.accumulate,
        process=accelerator.process_index, processes=accelerator.num_processes, workers=workers,
        pin_memory=accelerator.device.type == "cuda",
    )  # fmt: skip
    set_seed(config.seed)
    trainable = trainable_for(config)
    model = _model(options, trainable, accelerator, checkpoint)
    state = _state(trainable, model)
    run = TrainingRun(config, accelerator, folder, scored, state)
    stage = prepare(trainable, accelerator, state, run)
    if content is not None and checkpoint is not None:
        restore(state, content, checkpoint)
        begin_at(run.bar, state.step)
    facts = _facts(options, model, dataset, accelerator)
    if checkpoint is not None:  # keep the origin of the resumed run
        facts["started_from"] = folder.started_from()
    if accelerator.is_main_process:
        folder.root.mkdir(parents=True, exist_ok=True)
        folder.write_config(config, facts)
        folder.forget_after(state.step)
        if checkpoint is not None:
            log.warning("resuming from step %d (%s)", state.step, checkpoint)
    start_trackers(accelerator, folder, resolved(trainable, model) | {"run": facts}, options.group)
    with closing(batches), run.bar, logging_redirect_tqdm(), run.stop.listening():  # type: ignore[type-var]
        scoring = run.begin()
        # a step outside of the others would leave several processes waiting for each other
        if options.estimate and accelerator.num_processes == 1 and state.step < config.steps:
            tqdm.write(_estimate(trainable, stage.state, dataset, scoring, accelerator))
        done = stage.train(batches) if state.step < config.steps and not run.ended_early else True
        done = done or (run.ended_early and not run.stop.status)
    if accelerator.is_main_process and done:
        if config.validation.keep_best:
            run.keep_best()
        else:
            with offered_weights(state):
                trainable.save(model, folder.final, last=True)
    accelerator.end_training()
    if done:
        return Outcome(0, f"{config.stage}: {config.steps} steps done; the model is in {folder.final}")
    message = f"stopped and saved at step {state.step} of {config.steps}; the same command resumes there"
    return Outcome(run.stop.status or 143, message)


def _estimate(
    trainable: Trainable, state: TrainState, dataset: ClipDataset, scoring: float, accelerator: Accelerator
) -> str:
    """Time steps without an update, and return how long the rest of the run will take here."""
    config, seconds = trainable.config, list[float]()
    # the first step is not counted: it allocates memory and prepares kernels, and takes several times as long
    for frozen in (False, True, False) if config.optimiser.encoder_from else (False, False):
        started = time.perf_counter()
        clips = [dataset[ClipKey(0, index % len(dataset), 0.0)] for index in range(config.batch // config.accumulate)]
        batch = to_device(collate(clips), accelerator.device)
        loaded = time.perf_counter()
        with frozen_encoder(state.optimiser, frozen), state.model.autocast():
            outputs = trainable.module(state.model)(batch, [True] * config.clips.length)
        losses, _ = trainable.losses(outputs, batch, accelerator.device)
        losses["total"].backward()
        state.model.zero_grad(set_to_none=True)
        # clips are loaded by another process, which on two cores takes its time from the same processor
        seconds.append(config.accumulate * (time.perf_counter() - loaded + (loaded - started) / 2))
    steps = config.steps - state.step
    frozen_steps = max(round(config.steps * config.optimiser.encoder_from) - state.step, 0)
    total = frozen_steps * seconds[1] + (steps - frozen_steps) * seconds[-1]
    every = config.validation.every
    validations = config.steps // every - state.step // every if every else 0
    minutes = max(round((total + validations * scoring) / 60), 1)
    early = ", less if the score stops rising" if config.validation.patience else ""
    scored = f"{validations} validation{'' if validations == 1 else 's'}"
    # a resumed run has not timed a validation yet
    scored = f" and {scored} of {scoring:.0f} s" if scoring else f", {scored} not counted"
    return (
        f"{steps} step{'' if steps == 1 else 's'} of about {total / steps:.1f} s{scored if validations else ''}: "
        f"about {minutes} minute{'' if minutes == 1 else 's'} on this machine{early}"
    )


def _with_steps(options: TrainOptions, config: TrainConfig) -> TrainConfig:
    """Return the configuration with epochs converted to steps. Raises ValueError for missing data."""
    if config.epochs is None:
        return config
    return config.with_steps(sum(len(source) for source in build_sources(config.data, config.clips, options.data_root)))


def _is_finished(folder: RunFolder, config: TrainConfig, content: dict[str, Any] | None) -> bool:
    """Return True if the final model is there, with the last checkpoint or without any.

    Raises ValueError if its run had another configuration.
    """
    if content is not None and (folder.final / "config.json").is_file():
        ended = config.validation.keep_best and ScoreHistory(folder.scores).finished
        return ended or content["step"] >= config.steps
    return folder.is_finished(config)


def _model_options(options: TrainOptions, config: TrainConfig, with_files: bool = True) -> list[str]:
    """Return the changes of the preset and the files of initial weights; a previous stage provides all but frozen
    ones.
    """
    files = [item for item in split_overrides(options.overrides)[0] if item.startswith("weights.")]
    if config.after and options.weights == "auto":
        files = frozen_files(files, trainable_for(config))
    return [*config.model_options, *(files if with_files else [])]


def _model(options: TrainOptions, trainable: Trainable, accelerator: Accelerator, checkpoint: Path | None) -> Network:
    """Return the network at the start or at a checkpoint. Raises ValueError for missing or incompatible weights."""
    config = trainable.config
    half = resolve_precision(config.precision, accelerator.device)
    precision = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[half]
    overrides = _model_options(options, config)
    with accelerator.main_process_first():  # one process downloads, the others use its cache
        if checkpoint is not None:
            files = frozen_files(overrides, trainable)
            model = trainable.reload(checkpoint, accelerator.device, precision, files)
            take_trained(model, checkpoint)
        else:
            model = trainable.load(_weights(options, config), accelerator.device, precision, overrides)
    trainable.require_fit(model)
    for name in unreached(model, partial(_probe, trainable, model)):
        model.get_parameter(name).requires_grad_(False)
        log.info("%s: no gradient reaches it; kept frozen", name)
    if options.compile:
        compile_parts(model.compilable(), model.device)
    return model


def _weights(options: TrainOptions, config: TrainConfig) -> str:
    """Return the initial weights, as `load_model` takes them. Raises ValueError if the previous stage is not
    finished.
    """
    if options.weights != "auto":
        return options.weights
    if not config.after:
        return "auto" if config.start == "published" else config.start
    before = run_root(options.output, build(TrainConfig, {**vars(config), "stage": config.after})) / "final"
    require(
        (before / "config.json").is_file(),
        f"{config.stage}: starts from the weights of {config.after}; got none in {before}, expected that stage first, "
        "--weights CHECKPOINT, or --weights encoders to start without",
    )
    return str(before)


def _probe(trainable: Trainable, model: Network) -> torch.Tensor:
    """Return the loss of a small noise clip, which has a gradient for every weight that training reaches."""
    draws = torch.Generator().manual_seed(0)
    side = trainable.probe_side(model)
    images = torch.rand(1, 3, 3, side, side, generator=draws).to(model.device)
    labels = torch.zeros(1, 3, side, side, dtype=torch.long, device=model.device)
    labels[:, :, side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 1
    batch = ClipBatch(images, labels, torch.tensor([1]), torch.tensor([0]), ("probe",), distance=1 + images[:, :, 0])
    with model.autocast():
        outputs = trainable.module(model)(batch, [True] * 3)
    losses, _ = trainable.losses(outputs, batch, model.device)
    return losses["total"]


def _state(trainable: Trainable, model: Network) -> TrainState:
    config = trainable.config
    optimiser = build_optimiser(trainable.groups(model), config.optimiser, model.precision != torch.float32)
    state = TrainState(model, optimiser, trainable=trainable)
    if config.optimiser.ema:
        state.average = MovingAverage(state.trained(), config.optimiser.ema)
    return state


def _facts(options: TrainOptions, model: Network, dataset: ClipDataset, accelerator: Accelerator) -> dict[str, Any]:
    """Return further facts that determine the result of a run."""
    return {
        "command": options.command,
        "code": code_version(),
        "versions": versions(),
        "processes": accelerator.num_processes,
        "device": str(accelerator.device),
        "precision": str(model.precision).removeprefix("torch."),
        "data": {"items": len(dataset), "sources": [fingerprint(source) for source in dataset.sources]},
        "frozen": {part: file._asdict() for part, file in model.frozen_files.items()},
        "started_from": "" if model.loaded_from is None else str(model.loaded_from),
    }
