"""Train a model, stage by stage: `accelerate launch train.py --stage 1`, then `--stage 2`."""

import argparse
import hashlib
import logging
import os
import shlex
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, GradScalerKwargs, InitProcessGroupKwargs, set_seed
from tqdm.contrib.logging import logging_redirect_tqdm

from cutie_geo.commands import train_classifier
from cutie_geo.commands.models import versions
from cutie_geo.commands.training_run import (
    TRACKERS,
    RunFolder,
    TrainingRun,
    code_version,
    resolved,
    run_root,
    start_trackers,
    tracker_names,
)
from cutie_geo.commands.validation import Validation
from cutie_geo.config import (
    TrainConfig,
    build,
    is_classifier,
    read_yaml,
    require,
    split_overrides,
    stage_names,
    train_config,
)
from cutie_geo.data.clips import ClipDataset, build_sources, clip_loader, fingerprint
from cutie_geo.model.encoder import FusedEncoder
from cutie_geo.model.feature_cache import FeatureCache
from cutie_geo.model.load import resolve_precision
from cutie_geo.model.network import CutieGeo
from cutie_geo.model.sam2 import Sam2Model
from cutie_geo.structures import ClipBatch
from cutie_geo.training.kinds import Network, kind_of
from cutie_geo.training.optimiser import MovingAverage, build_optimiser
from cutie_geo.training.plan import make_plan
from cutie_geo.training.stage import prepare, unreached
from cutie_geo.training.state import (
    TrainState,
    offered_weights,
    read_state,
    require_same,
    restore,
    take_trained,
)

log = logging.getLogger(__name__)

HELP = "train a model, stage by stage"
RESUMES = True
FIRST_SCALE = 8192.0
"""Of gradients in fp16. Source: Cutie specification, section 8.1."""
PATIENCE = timedelta(hours=2)
"""How long processes wait for each other: one of them reads files, saves and validates."""
GPU_WORKERS, CPU_WORKERS = 4, 1
"""Processes that draw clips, for each process that trains."""
FROZEN_FILES = ("weights.vision=", "weights.geometry=")
"""Settings that name files of encoders, which a checkpoint may not hold."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is trained, on what, from where, and what is kept of it."""
    what = parser.add_argument_group("what to train")
    what.add_argument("--stage", help=f"0, 1, 2, or one of {', '.join(stage_names())}")
    what.add_argument("--config", type=Path, help="a YAML file: a stage of its own, or laid over that of --stage")
    what.add_argument("--model", help="a preset or a YAML file (default: the stage's)")
    what.add_argument(
        "--weights",
        default="auto",
        help="what training starts from: auto (the stage before, else what the stage says), encoders (the published "
        "ones), none (random), or a checkpoint",
    )
    what.add_argument("--data-root", type=Path, metavar="DIR", help="folder that holds the data sets")

    where = parser.add_argument_group("what is kept")
    where.add_argument("--output", type=Path, default=Path("runs"), help="folder of all runs (default: runs)")
    where.add_argument(
        "--resume",
        default="auto",
        help="auto (go on where a run in the same folder stopped), never (an error if there is one), or a checkpoint",
    )
    where.add_argument("--tracker", choices=TRACKERS, default="auto", help="where scalars and pictures go to")
    where.add_argument("--group", default="", help="name that several runs share in W&B")

    how = parser.add_argument_group("how")
    how.add_argument("--dry-run", action="store_true", help="print the plan; needs neither data nor weights")
    how.add_argument("--device", choices=["auto", "cpu"], default="auto", help="auto: what accelerate finds")
    how.add_argument("--processes", type=int, help="of --dry-run: how many are planned for (default: those there are)")
    how.add_argument(
        "--workers", type=int, help="processes that draw clips, for each that trains (default: 4, on a CPU 1)"
    )
    how.add_argument(
        "--cpu-threads",
        type=int,
        help="threads that compute on the CPU (default: all, shared by the processes that train)",
    )
    how.add_argument("--compile", action="store_true", help="compile the network: a slow start, then faster")
    how.add_argument(
        "--cache-features", type=Path, metavar="DIR", help="keep what frozen encoders say of each frame on disk"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="any setting, such as steps=1000 or encoder.geometry=none"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say more")


def run(args: argparse.Namespace) -> int:
    """Train; return the exit status: 0 when the last step is done, 130 or 143 when asked to stop before."""
    for name, least in (("cpu_threads", 1), ("workers", 0)):
        value = getattr(args, name)
        require(value is None or value >= least, f"--{name.replace('_', '-')}: got {value}, wanted {least} or more")
    if args.stage is None and args.config is not None and is_classifier(str(args.config)):
        return train_classifier.run(args)
    config = configuration(args)
    names = tracker_names(args.tracker)
    accelerator = _accelerator(args, config, names)
    _share_cores(args, accelerator)
    try:
        return _dry_run(args, config, accelerator) if args.dry_run else _train(args, config, accelerator)
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def configuration(args: argparse.Namespace) -> TrainConfig:
    """The stage meant. Raises ValueError for arguments that name none, or make no sense."""
    stray = [item for item in args.overrides if "=" not in item]
    require(not stray, f"{' '.join(stray)}: wanted an option such as --stage before it, or key=value")
    require(args.stage is not None or args.config is not None, "wanted --stage or --config")
    changes: dict[str, Any] = {} if args.model is None else {"model": args.model}
    if args.stage is None:
        return train_config(str(args.config), args.overrides, changes)
    name = f"stage{args.stage}" if args.stage.isdecimal() else args.stage
    require(name in stage_names(), f"--stage: got {args.stage}, wanted 0, 1, 2 or one of {', '.join(stage_names())}")
    laid_over = {} if args.config is None else read_yaml(args.config)
    return train_config(name, args.overrides, laid_over | changes)


def _accelerator(args: argparse.Namespace, config: TrainConfig, trackers: list[str]) -> Accelerator:
    """accelerate, which owns devices, processes and half precision's scaling. Raises ValueError for fp16 on a CPU."""
    cpu = args.device == "cpu" or not torch.cuda.is_available()
    require(
        config.precision != "fp16" or not cpu or args.dry_run, "precision: got fp16 on a CPU, wanted auto, bf16 or fp32"
    )
    folder = RunFolder(run_root(args.output, config))
    return Accelerator(
        cpu=cpu,
        mixed_precision="fp16"
        if config.precision == "fp16" and not cpu
        else "no",  # bf16 is the network's own business
        log_with=trackers or None,  # type: ignore[arg-type]
        project_dir=str(folder.root),
        kwargs_handlers=[
            GradScalerKwargs(init_scale=FIRST_SCALE),
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=PATIENCE),
        ],
    )


def _share_cores(args: argparse.Namespace, accelerator: Accelerator) -> None:
    """Workers and threads where nothing else was asked for.

    More threads than cores are many times slower than fewer: each waits for all others at every operation. Workers
    stand back where these need a core.
    """
    on_cpu = accelerator.device.type == "cpu"
    if args.workers is None:
        args.workers = CPU_WORKERS if on_cpu else GPU_WORKERS
    if args.cpu_threads is not None:
        torch.set_num_threads(args.cpu_threads)
    elif on_cpu and "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(cores // accelerator.num_processes, 1))


# ---------------------------------------------------------------------------------------------------------------- plan
def _dry_run(args: argparse.Namespace, config: TrainConfig, accelerator: Accelerator) -> int:
    processes = args.processes or accelerator.num_processes
    config, parts = _with_steps(args, config), processes * config.accumulate
    require(config.batch % parts == 0, f"batch: got {config.batch}, wanted a multiple of {parts} parts")
    precision = "bf16" if config.precision == "auto" else config.precision
    level = logging.getLogger("cutie_geo.model").level
    logging.getLogger("cutie_geo.model").setLevel(logging.ERROR)  # random weights are no news here
    options = _model_options(args, config, with_files=False)
    model = kind_of(config).load(config, "none", torch.device("cpu"), "fp32", options)
    logging.getLogger("cutie_geo.model").setLevel(level)
    model.precision = resolve_precision(precision, torch.device("cpu"))
    if accelerator.is_main_process:
        print("\n".join(make_plan(model, config, processes).lines()))
    return 0


# ------------------------------------------------------------------------------------------------------------ training
def _train(args: argparse.Namespace, config: TrainConfig, accelerator: Accelerator) -> int:
    config = _with_steps(args, config)
    folder = RunFolder(run_root(args.output, config))
    checkpoint = _checkpoint(args, folder)
    content = None if checkpoint is None else read_state(checkpoint)
    if content is not None and checkpoint is not None:
        require_same(content["config"], config, checkpoint)
    if _is_finished(folder, config, content):
        if accelerator.is_main_process:
            print(f"{config.stage}: all {config.steps} steps are done; the model is in {folder.final}")
        return 0
    dataset = ClipDataset(build_sources(config.data, config.clips, args.data_root), config.clips, config.seed)
    validation = Validation(config.validation, args.data_root) if config.validation.every else None
    first_step = 0 if content is None else content["step"]
    batches = clip_loader(
        dataset, batch=config.batch, total_steps=config.steps, first_step=first_step, accumulate=config.accumulate,
        process=accelerator.process_index, processes=accelerator.num_processes, workers=args.workers,
        pin_memory=accelerator.device.type == "cuda",
    )  # fmt: skip
    set_seed(config.seed)
    model = _model(args, config, accelerator, checkpoint)
    state = _state(config, model)
    run = TrainingRun(config, accelerator, folder, validation, state)
    stage = prepare(config, accelerator, state, run)
    if content is not None and checkpoint is not None:
        restore(state, content, checkpoint)
        run.bar.update(state.step - run.bar.n)
    facts = _facts(args, config, model, dataset, accelerator)
    if accelerator.is_main_process:
        folder.root.mkdir(parents=True, exist_ok=True)
        folder.write_config(config, facts)
        folder.forget_after(state.step)
        if checkpoint is not None:
            log.warning("going on from step %d (%s)", state.step, checkpoint)
    start_trackers(accelerator, folder, resolved(config, model) | {"run": facts}, args.group)
    with closing(batches), run.bar, logging_redirect_tqdm(), run.stop.listening():  # type: ignore[type-var]
        done = stage.train(batches) if state.step < config.steps else True
    if accelerator.is_main_process and done:
        with offered_weights(state):
            kind_of(config).save(model, folder.final, last=True)
        print(f"{config.stage}: {config.steps} steps done; the model is in {folder.final}")
    accelerator.end_training()
    if not done and accelerator.is_main_process:
        print(f"stopped and saved at step {state.step} of {config.steps}; the same command goes on there")
    return 0 if done else run.stop.status or 143


def _with_steps(args: argparse.Namespace, config: TrainConfig) -> TrainConfig:
    """The stage with its epochs, if it counts these, as steps. Raises ValueError for data that isn't there."""
    if config.epochs is None:
        return config
    return config.with_steps(sum(len(source) for source in build_sources(config.data, config.clips, args.data_root)))


def _is_finished(folder: RunFolder, config: TrainConfig, content: dict[str, Any] | None) -> bool:
    """Whether the model of this run is there already, its checkpoints perhaps thrown away since.

    Raises ValueError if it is that of another configuration.
    """
    if not (folder.final / "config.json").is_file():
        return False
    if content is not None:
        return content["step"] >= config.steps
    told = read_yaml(folder.config)
    told.pop("run", None)
    require_same(told, config, folder.final)
    return True


def _checkpoint(args: argparse.Namespace, folder: RunFolder) -> Path | None:
    """Where to go on from. Raises ValueError for a run that is in the way, and for a checkpoint that isn't there."""
    latest = folder.checkpoints().latest()
    if args.resume == "auto":
        return latest
    if args.resume == "never":
        require(latest is None, f"{folder.root}: a run with a checkpoint is here; wanted --resume auto, or --output")
        return None
    path = Path(args.resume).expanduser()
    require(path.is_dir(), f"--resume: no folder {path}, wanted auto, never or a checkpoint")
    return path


def _model_options(args: argparse.Namespace, config: TrainConfig, with_files: bool = True) -> list[str]:
    """Changes of the preset, and the files that parts start from; a stage before has filled all but frozen ones."""
    files = [item for item in split_overrides(args.overrides)[0] if item.startswith("weights.")]
    if config.after and args.weights == "auto":
        files = [item for item in files if item.startswith(FROZEN_FILES)]
    return [*config.model_options, *(files if with_files else [])]


def _model(args: argparse.Namespace, config: TrainConfig, accelerator: Accelerator, checkpoint: Path | None) -> Network:
    """The network at the start, or at a checkpoint. Raises ValueError for weights that aren't there or don't fit."""
    kind = kind_of(config)
    half = resolve_precision(config.precision, accelerator.device)
    precision = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[half]
    options = _model_options(args, config)
    with accelerator.main_process_first():  # one downloads, the others find it there
        if checkpoint is not None:
            files = [item for item in options if item.startswith(FROZEN_FILES)]
            model = kind.reload(config, checkpoint, accelerator.device, precision, files)
            take_trained(model, checkpoint)
        else:
            model = kind.load(config, _weights(args, config), accelerator.device, precision, options)
    kind.require_fit(model, config)
    for name in unreached(model, partial(_probe, model, config)):
        model.get_parameter(name).requires_grad_(False)
        log.info("%s: not needed for features, stays as it is", name)
    _prepare_for_speed(model, args, config)
    return model


def _prepare_for_speed(model: Network, args: argparse.Namespace, config: TrainConfig) -> None:
    """What --cache-features and --compile ask for. Raises ValueError where it can't be done."""
    if isinstance(model, Sam2Model):
        asked = [
            name for name, given in (("--cache-features", args.cache_features), ("--compile", args.compile)) if given
        ]
        require(not asked, f"{', '.join(asked)}: got {config.model}, wanted a model of Cutie's kind")
        return
    if args.cache_features is not None:
        _cache_features(model, config, args.cache_features)
    if args.compile:
        model.compile_parts()


def _weights(args: argparse.Namespace, config: TrainConfig) -> str:
    """What training starts from, as `load_model` takes it. Raises ValueError if the stage before isn't finished."""
    if args.weights != "auto":
        return args.weights
    if not config.after:
        return "auto" if config.start == "published" else config.start
    before = run_root(args.output, build(TrainConfig, {**vars(config), "stage": config.after})) / "final"
    require(
        (before / "config.json").is_file(),
        f"{config.stage} starts from the weights of {config.after}, which aren't in {before}; wanted that stage first, "
        "--weights CHECKPOINT, or --weights encoders to start without",
    )
    return str(before)


def _probe(model: Network, config: TrainConfig) -> torch.Tensor:
    """The loss of a small clip of noise: it has a gradient for every weight that training reaches."""
    kind, draws = kind_of(config), torch.Generator().manual_seed(0)
    side = kind.probe_side(model)
    images = torch.rand(1, 3, 3, side, side, generator=draws).to(model.device)
    labels = torch.zeros(1, 3, side, side, dtype=torch.long, device=model.device)
    labels[:, :, side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 1
    batch = ClipBatch(images, labels, torch.tensor([1]), torch.tensor([0]), ("probe",), distance=1 + images[:, :, 0])
    with model.autocast():
        said = kind.module(model, config)(batch, [True] * 3)
    losses, _ = kind.losses(said, batch, config, model.device)
    return losses["total"]


def _state(config: TrainConfig, model: Network) -> TrainState:
    found = kind_of(config).groups(model, config)
    optimiser = build_optimiser(found, config.optimiser, model.precision != torch.float32)
    state = TrainState(model, optimiser)
    if config.optimiser.ema:
        state.average = MovingAverage(state.trained(), config.optimiser.ema)
    return state


def _cache_features(model: CutieGeo, config: TrainConfig, folder: Path) -> None:
    """Raises ValueError where no frame ever comes twice, or nothing is frozen."""
    encoder = model.encoder
    frozen = isinstance(encoder, FusedEncoder) and bool(encoder.frozen)
    require(frozen, f"--cache-features: {config.model} has no frozen encoder")
    fixed = config.clips.video.kind == "none" and all(s.name not in ("static", "rendered") for s in config.data)
    varied = "--cache-features: clips are varied at random, so no frame comes twice; wanted"
    require(fixed, f"{varied} clips.video.kind=none and data sets of videos")
    require(config.clips.merge_probability == 0, f"{varied} clips.merge_probability=0")
    assert isinstance(encoder, FusedEncoder)
    encoder.cache = FeatureCache(folder)
    for part in encoder.frozen:
        encoder.cache_owners[part] = f"{part}-{_weights_digest(encoder.part(part))[:16]}"


def _weights_digest(part: torch.nn.Module) -> str:
    hasher = hashlib.sha256()
    for name, tensor in part.state_dict().items():
        hasher.update(name.encode() + str(tensor.dtype).encode())
        hasher.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


def _facts(
    args: argparse.Namespace, config: TrainConfig, model: Network, dataset: ClipDataset, accelerator: Accelerator
) -> dict[str, Any]:
    """What else decides what comes of a run."""
    program, *arguments = args.command_line
    return {
        "command": f"{program} {shlex.join(arguments)}".rstrip(),
        "code": code_version(),
        "versions": versions(),
        "processes": accelerator.num_processes,
        "device": str(accelerator.device),
        "precision": str(model.precision).removeprefix("torch."),
        "data": {"items": len(dataset), "sources": [fingerprint(source) for source in dataset.sources]},
        "frozen": {part: file._asdict() for part, file in model.frozen_files.items()},
        "started_from": "" if model.loaded_from is None else str(model.loaded_from),
    }
