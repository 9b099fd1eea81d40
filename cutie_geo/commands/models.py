"""Which models a command runs: loading them, the size of their frames, and what is said of them and of the machine."""

import argparse
import logging
import platform
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from cutie_geo.commands.processes import Processes
from cutie_geo.config import is_hydra, model_config, require, split_overrides, to_dict
from cutie_geo.inference.methods import VideoModel
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.results import Report
from cutie_geo.model.load import is_checkpoint, load_model
from cutie_geo.model.sam2 import Sam2Model, is_sam2, load_sam2
from cutie_geo.model.weights import digest

log = logging.getLogger(__name__)

GPU_LOOKAHEAD = 4
SMALL = 20_000_000
"""Parameters below which a network's operations are too short for many threads."""
VERSIONS = (
    "cutie_geo",
    "torch",
    "timm",
    "sam2",
    "transformers",
    "accelerate",
    "av",
    "numpy",
    "pillow",
    "opencv-python-headless",
)


def fitted(args: argparse.Namespace, models: Sequence[VideoModel], options: RunOptions) -> RunOptions:
    """Options with the size of frames that the models are for, unless the user names another, and with what a single
    model says of its memory where nobody else does; of several, each tracker asks its own model."""
    if len(models) == 1 and not isinstance(models[0], Sam2Model):
        own = models[0].config
        options = replace(options, tracker=options.tracker.for_model(own.memory_interval, own.tokens_read))
    # SAM 2 stretches frames to its own square: shrinking them before would only lose what is in them
    sizes = [-1 if isinstance(model, Sam2Model) else model.config.frame_size or options.size for model in models]
    if args.size is not None or set(sizes) == {options.size}:
        return options
    if len(set(sizes)) == 1:
        return replace(options, size=sizes[0])
    # each shrinks the files' own frames, as it would alone: shrunk twice they would be others
    return replace(options, size=-1, model_sizes=tuple(sizes))


def lookahead(args: argparse.Namespace, models: Sequence[VideoModel]) -> int:
    """Frames encoded together: several keep a GPU busy, a CPU is busy with one."""
    if args.lookahead is not None:
        return args.lookahead
    return GPU_LOOKAHEAD if any(model.device.type == "cuda" for model in models) else 1


def refuse_encode_threads(args: argparse.Namespace) -> None:
    """Raises ValueError for a number of threads that makes no sense, whatever the models are."""
    wanted, threads = args.encode_threads, torch.get_num_threads()
    if wanted is None:
        return
    require(0 <= wanted < threads, f"--encode-threads: got {wanted}, wanted 0 to {threads - 1} of {threads} threads")
    for option, given in (("--compile", args.compile), ("--ms-workers", (args.ms_workers or 1) > 1)):
        require(not (wanted and given), f"--encode-threads: got {wanted} with {option}, wanted one of them")


def encode_threads(args: argparse.Namespace, models: Sequence[VideoModel], options: RunOptions) -> int:
    """Of torch's threads, those that encode ahead: half of them for a small network on a CPU, in whose short operations
    many threads mostly wait for each other; none for others, nor for ensembles, which make large batches. Raises
    ValueError for threads that are wanted beside a GPU."""
    on_cpu = all(model.device.type == "cpu" for model in models)
    wanted = args.encode_threads
    if wanted is not None:
        require(on_cpu or not wanted, f"--encode-threads: got {wanted} with a model on a GPU, wanted a CPU")
        return wanted
    if not on_cpu or len(models) > 1 or isinstance(models[0], Sam2Model) or options.is_ensemble or args.compile:
        return 0
    small = sum(weight.numel() for weight in models[0].parameters()) < SMALL
    return torch.get_num_threads() // 2 if small else 0


def load_models(args: argparse.Namespace, processes: Processes, example: bool) -> list[VideoModel]:
    """The models. For the example, weights that can't be had are replaced by random ones, and that is said loudly."""
    overrides = split_overrides(args.overrides)[0]
    devices = args.devices or [processes.device(args.device)]
    places = [devices[i % len(devices)] for i in range(len(args.models))]

    def load(weights: str) -> list[VideoModel]:
        return [
            _model(name, weights, place, args.precision, args.overrides) for name, place in zip(args.models, places)
        ]

    try:
        return load(args.weights)
    except ValueError as error:
        chosen = args.weights != "auto" or any(item.startswith("weights.") for item in overrides)
        if chosen or not example:
            raise
        for name in args.models:
            if not is_sam2(name):
                model_config(name, overrides)  # what is wrong with the model itself stays an error
        log.warning("%s", error)
        log.warning("going on with RANDOM weights: what follows shows that the program runs, not what it can do")
    args.weights = "none"
    return load("none")


def _model(name: str, weights: str, place: Any, precision: str, overrides: Sequence[str]) -> VideoModel:
    if is_sam2(name):
        return load_sam2(name, weights, place, precision, of_sam2(overrides))
    return load_model(name, weights, place, precision, split_overrides(overrides)[0])


def of_sam2(overrides: Sequence[str]) -> list[str]:
    """The `key=value` items that are about SAM 2: those of `model.`, in hydra's grammar."""
    return [item for item in overrides if is_hydra(item)]


def settings_of(args: argparse.Namespace, models: Sequence[VideoModel]) -> Report:
    """What, beside the run's options, decides the masks."""
    each = [_settings_of_one(args, name, model) for name, model in zip(args.models, models)]
    return each[0] if len(each) == 1 else {"members": each}


def _settings_of_one(args: argparse.Namespace, name: str, model: VideoModel) -> Report:
    """Of one model."""
    named = args.weights == "none" or (args.weights == "auto" and not is_checkpoint(name))
    facts = {"precision": str(model.precision).removeprefix("torch."), "device": model.device.type}
    if isinstance(model, Sam2Model):
        file = model.loaded_from
        weights = args.weights if named or file is None else f"sha256 {digest(file, 'sha256')}"
        return {"model": {"name": model.name, "overrides": of_sam2(args.overrides)}, "weights": weights, **facts}
    config = to_dict(model.config)
    sources = config.pop("weights")
    start = {"warm_start": f"sha256 {digest(Path(path), 'sha256')}"} if (path := sources["warm_start"]) else {}
    return {
        "model": config,
        "weights": args.weights
        if named or model.loaded_from is None
        else f"sha256 {digest(model.loaded_from, 'sha256')}",
        "encoders": {part: f"sha256 {file.sha256}" for part, file in model.frozen_files.items()} | start,
        **facts,
    }


def device_name(device: torch.device) -> str:
    """A device as people call it."""
    return f"{device}, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)


def versions() -> dict[str, str]:
    """Installed versions of what results depend on."""
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found
