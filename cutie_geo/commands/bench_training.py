"""How fast a stage trains on this device: clips per second, peak memory, and the share of the frozen encoders."""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from cutie_geo.commands.models import versions
from cutie_geo.config import TrainConfig, require, train_config
from cutie_geo.data.background import write_json
from cutie_geo.inference.one_video import peak_memory, reset_peak_memory
from cutie_geo.model.load import load_model, resolve_device
from cutie_geo.model.network import CutieGeo
from cutie_geo.ops import full_precision
from cutie_geo.structures import ClipBatch
from cutie_geo.training.draws import deep_updates, generators
from cutie_geo.training.losses import batch_losses
from cutie_geo.training.optimiser import build_optimiser, groups
from cutie_geo.training.plan import clip_cost
from cutie_geo.training.stage import to_device
from cutie_geo.training.unroll import encode_clips, unit_range, unroll

WARM_UP = 3
"""Steps that are left out: kernels and the optimiser's state are still being made."""


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `bench --training`."""
    group = parser.add_argument_group("training")
    group.add_argument("--training", metavar="STAGE", help="measure steps of a stage, or of its YAML file, on noise")
    group.add_argument("--steps", type=int, default=10, help="steps that are measured (default: 10)")


def run_training(args: argparse.Namespace, facts: dict[str, str]) -> int:
    """Measure and print; return the exit status. Raises ValueError for what can't be measured."""
    require(args.steps >= 1, f"--steps: got {args.steps}, wanted 1 or more")
    name = f"stage{args.training}" if args.training.isdecimal() else args.training
    config = train_config(name, args.overrides, {} if args.model is None else {"model": args.model})
    device = resolve_device(args.device)
    precision = (args.precision or [config.precision])[0]
    model = load_model(config.model, "none", device, precision, config.model_options)
    if args.compile:
        model.compile_parts()
    print("\n".join(f"{key}: {value}" for key, value in facts.items()))
    row = measure_training(model.train(), config, args.steps, lambda: _wait(device))
    print(
        f"{config.model}, {config.batch} clips of {config.clips.length} frames at {config.clips.crop}x"
        f"{config.clips.crop}, {config.clips.max_objects} objects, {row['precision']}: "
        f"{row['clips_per_second']:.2f} clips/s, {row['seconds_per_step']:.3f} s a step, of which encoders without "
        f"gradients {row['share_of_encoders']:.1%}; peak memory {row['peak_gib']:.2f} GiB, of which kept for gradients "
        f"{row['kept_gib']:.2f} (counted)"
    )
    if args.json:
        write_json(args.json, {"machine": facts, "versions": versions(), "row": row})
        print(f"results: {args.json.resolve()}")
    return 0


def measure_training(model: CutieGeo, config: TrainConfig, steps: int, wait: Callable[[], None]) -> dict[str, Any]:
    """Time whole steps, without the loader, and beside them the encoders alone; `wait` returns when the device is done.

    The network's weights change.
    """
    batch = noise(config, model.device)
    half = model.precision != torch.float32
    optimiser = build_optimiser(groups(model, config.optimiser), config.optimiser, half)
    # fp16's scaler changes no speed, and noise needs no care
    scaled = torch.amp.GradScaler(model.device.type, enabled=model.precision == torch.float16)

    def step(number: int) -> None:
        deep = deep_updates(config.seed, number, config.clips.length, config.unroll.deep_update_probability)
        with model.autocast():
            said = unroll(model, batch, config.unroll, deep, config.loss.depth_weight > 0)
        losses, _ = batch_losses(said, batch, config.loss, generators(batch.seeds.tolist(), model.device))
        scaled.scale(losses["total"]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimiser.clip_norm)
        scaled.step(optimiser)
        scaled.update()
        optimiser.zero_grad()

    for number in range(WARM_UP):
        step(number)
    reset_peak_memory(model.device)
    seconds = _timed(step, steps, wait) / steps
    peak = peak_memory(model.device) or 0
    frozen = _timed(lambda _: encoders_alone(model, batch, config), steps, wait) / steps
    return {
        "precision": str(model.precision).removeprefix("torch."),
        "batch": config.batch,
        "seconds_per_step": seconds,
        "clips_per_second": config.batch / seconds,
        "share_of_encoders": frozen / seconds,
        "peak_gib": peak / 2**30,
        "kept_gib": clip_cost(model, config).kept * config.batch / 2**30
        if model.device.type == "cpu"
        else float("nan"),
    }


def noise(config: TrainConfig, device: torch.device) -> ClipBatch:
    """A batch as large as the stage's, with as many objects as it allows: speed doesn't depend on what is seen."""
    clips, draws = config.clips, torch.Generator().manual_seed(0)
    shape = (config.batch, clips.length, 3, clips.crop, clips.crop)
    images = torch.randint(0, 256, shape, generator=draws, dtype=torch.uint8)
    stripes = torch.arange(clips.crop) * (clips.max_objects + 1) // clips.crop
    labels = stripes.to(torch.uint8).expand(config.batch, clips.length, clips.crop, clips.crop).contiguous()
    counts = torch.full((config.batch,), clips.max_objects)
    names = ("noise",) * config.batch
    batch = ClipBatch(images, labels, counts, torch.arange(config.batch), names)
    if config.loss.depth_weight:
        batch = batch._replace(distance=1 + images[:, :, 0].float())
    return to_device(batch, device)


@torch.no_grad()
def encoders_alone(model: CutieGeo, batch: ClipBatch, config: TrainConfig) -> None:
    """What a step does for its frames before anything is remembered."""
    with model.autocast() if model.precision != torch.float32 else full_precision(batch.images):
        encode_clips(model, unit_range(batch.images), config.unroll.encode_at_once)


def _timed(step: Callable[[int], None], count: int, wait: Callable[[], None]) -> float:
    wait()
    start = time.perf_counter()
    for number in range(count):
        step(WARM_UP + number)
    wait()
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
