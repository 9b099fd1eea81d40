"""Throughput of a training stage on this device: clips per second, peak memory, time of the frozen encoders."""

import time
from collections.abc import Callable
from typing import Any

import torch

from cutie_geo.config import TrainConfig
from cutie_geo.inference.one_video import peak_memory, reset_peak_memory
from cutie_geo.model.network import CutieGeo
from cutie_geo.ops import full_precision
from cutie_geo.runs.benchmark.inputs import dtype_name
from cutie_geo.structures import ClipBatch
from cutie_geo.training.cost import clip_cost
from cutie_geo.training.losses import batch_losses
from cutie_geo.training.optimiser import build_optimiser, groups
from cutie_geo.training.sampling import deep_updates, generators
from cutie_geo.training.stage import to_device
from cutie_geo.training.unroll import encode_clips, unit_range, unroll

WARM_UP = 3
"""Number of warm-up steps before the measured ones."""


def measure_training(model: CutieGeo, config: TrainConfig, steps: int, wait: Callable[[], None]) -> dict[str, Any]:
    """Time training steps without the loader, and the encoders alone. Changes the weights.

    Args:
        wait: returns when the device has done all its work.
    """
    batch = noise(config, model.device)
    half = model.precision != torch.float32
    optimiser = build_optimiser(groups(model, config.optimiser), config.optimiser, half)
    # the scaler of fp16: its settings do not change the speed
    scaled = torch.amp.GradScaler(model.device.type, enabled=model.precision == torch.float16)

    def step(number: int) -> None:
        deep = deep_updates(config.seed, number, config.clips.length, config.unroll.deep_update_probability)
        with model.autocast():
            outputs = unroll(model, batch, config.unroll, deep, config.loss.depth_weight > 0)
        losses, _ = batch_losses(outputs, batch, config.loss, generators(batch.seeds.tolist(), model.device))
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
        "precision": dtype_name(model.precision),
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
    """Return a batch of noise with the stage's size and its greatest number of objects."""
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
    """Run the part of a step that is computed without gradients."""
    with model.autocast() if model.precision != torch.float32 else full_precision(batch.images):
        encode_clips(model, unit_range(batch.images), config.unroll.encode_at_once)


def _timed(step: Callable[[int], None], count: int, wait: Callable[[], None]) -> float:
    wait()
    start = time.perf_counter()
    for number in range(count):
        step(WARM_UP + number)
    wait()
    return time.perf_counter() - start


def row_text(row: dict[str, Any], config: TrainConfig) -> str:
    """Return a result of `measure_training` as a line."""
    clips = config.clips
    return (
        f"{config.model}, {config.batch} clips of {clips.length} frames at {clips.crop}x{clips.crop}, "
        f"{clips.max_objects} objects, {row['precision']}: {row['clips_per_second']:.2f} clips/s, "
        f"{row['seconds_per_step']:.3f} s a step, of which encoders without gradients {row['share_of_encoders']:.1%}; "
        f"peak memory {row['peak_gib']:.2f} GiB, of which kept for gradients {row['kept_gib']:.2f} (counted)"
    )
