"""Entry points of `cutie-geo bench`: validate options, measure, and return the report."""

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from cutie_geo.checkpoints.load import load_model, resolve_device, resolve_precision
from cutie_geo.config import (
    TrackerConfig,
    TrainConfig,
    build,
    model_config,
    parse_overrides,
    require,
    split_overrides,
    to_dict,
    train_config,
)
from cutie_geo.config.choices import DEFAULT_MODEL
from cutie_geo.data.clips import ClipDataset, build_sources
from cutie_geo.limits import require_threads
from cutie_geo.model.network import CutieGeo
from cutie_geo.runs.benchmark import clips, frames, parts, prompts, throughput, training
from cutie_geo.runs.benchmark.inputs import disc_labels, dtype_name, endless_images, parse_size, synchronise
from cutie_geo.runs.compiling import compile_parts
from cutie_geo.runs.machine import describe_machine, versions
from cutie_geo.runs.models import quiet_loading

Row = dict[str, Any]
Say = Callable[[str], None]
"""Callback that prints lines of the report as they are known."""


@dataclass(frozen=True)
class BenchOptions:
    """Settings of an inference benchmark. Fields that are None or empty take the benchmark's default."""

    measure: Literal["frames", "parts", "gpu", "prompts"] = "frames"
    """Seconds per frame; operations and time per part; throughput of the paper's model and ensemble; or seconds per
    click."""
    model: str | None = None
    weights: str = "none"
    device: str = "auto"
    precision: tuple[str, ...] = ()
    compile: bool = False
    objects: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()
    sizes: tuple[str, ...] = ("480x854",)
    """HEIGHTxWIDTH."""
    lookahead: int = 4
    """Number of frames encoded as one batch, for "gpu"."""
    peak_tflops: float = throughput.PEAK_TFLOPS
    """Peak of the device, for "gpu", from which utilisation is computed."""
    cpu_threads: int | None = None
    overrides: tuple[str, ...] = ()
    """key=value settings of the tracker and the model."""
    command: str = ""
    """Command line, printed and stored with the results."""


@dataclass(frozen=True)
class ClipBenchOptions:
    """Settings of a training-clip benchmark."""

    config: str | None = None
    """A stage or its YAML file. None: short rendered clips."""
    data_root: Path | None = None
    workers: tuple[int, ...] = ()
    """Numbers of worker processes. Empty: 0, 1 and all cores."""
    clips: int = 32
    overrides: tuple[str, ...] = ()
    command: str = ""


@dataclass(frozen=True)
class TrainingBenchOptions:
    """Settings of a training-step benchmark."""

    stage: str
    """Name or YAML file of the stage."""
    model: str | None = None
    """None: the model of the stage."""
    device: str = "auto"
    precision: str | None = None
    """None: the precision of the stage."""
    compile: bool = False
    steps: int = 10
    cpu_threads: int | None = None
    overrides: tuple[str, ...] = ()
    command: str = ""


# ------------------------------------------------------------------------------------------------------------- frames
def benchmark_frames(options: BenchOptions, say: Say) -> Row:
    """Measure each combination of precision, size, objects and frames; return the report. Raises ValueError."""
    options = _with_defaults(options)
    _set_threads(options.cpu_threads)
    tracker = _checked(options)
    report = header(resolve_device(options.device), options.command, say) | {
        "model": options.model,
        "weights": options.weights,
        "options": tracker,
    }
    measure = {"frames": _frames, "parts": _parts, "gpu": _throughput, "prompts": _prompts}[options.measure]
    return report | {"rows": measure(options, tracker, say)}


def _with_defaults(options: BenchOptions) -> BenchOptions:
    """Fill in what depends on the benchmark. Raises ValueError for "gpu" without a GPU."""
    gpu = options.measure == "gpu"
    if gpu and options.device == "auto":
        require(torch.cuda.is_available(), "--suite gpu: no GPU here; --device cpu runs it on the CPU, slowly")
    objects = throughput.PLAIN_OBJECTS if gpu else (1,) if options.measure == "parts" else (1, 5)
    return replace(
        options,
        model=options.model or ("cutie-geo-large" if gpu else DEFAULT_MODEL),
        precision=options.precision or (("bf16",) if gpu else ("auto",)),
        frames=options.frames or ((120,) if gpu else (23,)),
        objects=options.objects or objects,
    )


def _checked(options: BenchOptions) -> dict[str, Any]:
    """Return the tracker's options. Raises ValueError for invalid options before the measurement starts."""
    least = frames.WARM_UP + 2
    require(min(options.frames) >= least, f"--frames: got {min(options.frames)}, expected at least {least}")
    require(min(options.objects) >= 1, f"--objects: got {min(options.objects)}, expected 1 or more")
    for precision in options.precision:
        resolve_precision(precision, resolve_device(options.device))
    for text, objects in itertools.product(options.sizes, options.objects):
        disc_labels(parse_size(text), objects)
    require(options.lookahead >= 1, f"--lookahead: got {options.lookahead}, expected 1 or more")
    require(options.peak_tflops > 0, f"--peak-tflops: got {options.peak_tflops}, expected more than 0")
    assert options.model is not None
    of_model, of_tracker = split_overrides(options.overrides)
    model = model_config(options.model, of_model)
    # rendered frames have the measured size
    tracker = build(TrackerConfig, {"max_internal_size": -1} | parse_overrides(of_tracker), "options")
    return to_dict(tracker.for_model(model))


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        require_threads(threads)
        torch.set_num_threads(threads)


def header(device: torch.device, command: str, say: Say) -> Row:
    """Print the machine and return its description."""
    facts, packages = describe_machine(device), versions()
    shown = {**facts, "versions": ", ".join(f"{name} {number}" for name, number in packages.items())}
    for name, value in (shown | {"command": command}).items():
        say(f"{name}: {value}")
    return {"command": command, "machine": facts, "versions": packages}


def _load(options: BenchOptions, precision: str) -> CutieGeo:
    assert options.model is not None
    of_model = split_overrides(options.overrides)[0]
    with quiet_loading() if options.weights == "none" else nullcontext():  # random weights are as fast as others
        model = load_model(options.model, options.weights, options.device, precision, of_model)
    if options.compile:
        compile_parts(model.compilable(), model.device)
    return model


def _frames(options: BenchOptions, tracker: dict[str, Any], say: Say) -> list[Row]:
    say(frames.HEADER)
    rows = []
    for precision in options.precision:
        model = _load(options, precision)
        for size, objects, count in itertools.product(map(parse_size, options.sizes), options.objects, options.frames):
            rows.append(frames.measure_frames(model, tracker, size, objects, count))
            say(frames.row_text(rows[-1]))
    return rows


def _prompts(options: BenchOptions, tracker: dict[str, Any], say: Say) -> list[Row]:
    say(prompts.HEADER)
    rows = []
    assert options.model is not None
    if (
        options.weights == "none"
        and not model_config(options.model, split_overrides(options.overrides)[0]).prompt_channels
    ):
        options = replace(options, overrides=(*options.overrides, f"prompt_channels={prompts.CHANNELS}"))
    for precision, size in itertools.product(options.precision, map(parse_size, options.sizes)):
        rows.append(prompts.measure_prompts(_load(options, precision), size))
        say(prompts.row_text(rows[-1]))
    return rows


def _parts(options: BenchOptions, tracker: dict[str, Any], say: Say) -> list[Row]:
    rows: list[Row] = []
    for precision in options.precision:
        model = _load(options, precision)
        settle = partial(synchronise, model.device)
        peak, dtype = parts.peak_gflop_per_second(model, settle), dtype_name(model.precision)
        for size, objects in itertools.product(map(parse_size, options.sizes), options.objects):
            images, mask = partial(endless_images, size, model.device), disc_labels(size, objects)
            cost = parts.frame_cost(model, tracker, images, mask, settle)
            title = f"{options.model}, {size[0]}x{size[1]}, {dtype}, per frame"
            say(f"\n{title}\n{parts.table(cost, objects, peak)}")
            facts = {"precision": dtype, "size": list(size), "objects": objects, "limit_gflop_per_second": peak}
            rows.append(facts | {"parts": [part._asdict() for part in cost]})
    return rows


def _throughput(options: BenchOptions, tracker: dict[str, Any], say: Say) -> list[Row]:
    rows: list[Row] = []
    for precision, text in itertools.product(options.precision, options.sizes):
        model, size = _load(options, precision), parse_size(text)
        settle = partial(synchronise, model.device)
        say(f"\n{options.model}, {text}, {dtype_name(model.precision)}, {options.lookahead} frames a batch, peak "
            f"{options.peak_tflops:g} TFLOP/s\n{throughput.HEADER}")  # fmt: skip
        several = [objects for objects in options.objects if objects in throughput.ENSEMBLE_OBJECTS]
        cases = [(throughput.plain(size), n) for n in options.objects]
        cases += [(throughput.ensemble(size), n) for n in several]
        for views, objects in cases:
            images, mask = partial(endless_images, size, model.device), disc_labels(size, objects).to(model.device)
            try:
                row = throughput.throughput(
                    model, tracker, views, mask, images, options.frames[0], options.lookahead, settle
                )
            except torch.cuda.OutOfMemoryError:  # later rows may still fit
                say(f"{len(views):>5} {objects:>7} out of memory")
                torch.cuda.empty_cache()
                continue
            say(throughput.row_text(row, options.peak_tflops))
            facts = {"precision": precision, "size": list(size), "lookahead": options.lookahead}
            facts |= {"peak_tflops": options.peak_tflops, "utilisation": row.utilisation(options.peak_tflops)}
            rows.append(facts | row._asdict())
    return rows


# ----------------------------------------------------------------------------------------------------------- training
def benchmark_clips(options: ClipBenchOptions, say: Say) -> Row:
    """Measure the throughput of training clips; return the report. Raises ValueError."""
    workers = options.workers or clips.default_workers()
    require(min(workers) >= 0, f"--workers: got {min(workers)}, expected 0 or more")
    require(options.clips >= 1, f"--clips: got {options.clips}, expected 1 or more")
    config = _clip_config(options)
    dataset = ClipDataset(build_sources(config.data, config.clips, options.data_root), config.clips, config.seed)
    report = header(torch.device("cpu"), options.command, say)
    crop = config.clips.crop
    say(
        f"clips: {len(dataset)} items, {config.clips.length} frames of {crop}x{crop}, uint8, {options.clips} measured\n"
    )
    spent = clips.parts_of(dataset, config, options.clips)
    say(clips.parts_text(spent))
    rows = []
    for count in workers:
        rows.append(clips.speed(dataset, config, options.clips, count))
        say(clips.row_text(rows[-1]))
    say(clips.limit_text(spent, rows))
    return report | {"ms_per_clip": spent, "rows": rows}


def _clip_config(options: ClipBenchOptions) -> TrainConfig:
    if options.config is None:
        require(not options.overrides, "key=value: got no --config that they change")
        return clips.PLAIN
    return train_config(options.config, options.overrides)


def benchmark_training(options: TrainingBenchOptions, say: Say) -> Row:
    """Measure training steps of a stage on noise; return the report. Raises ValueError."""
    require(options.steps >= 1, f"--steps: got {options.steps}, expected 1 or more")
    _set_threads(options.cpu_threads)
    name = f"stage{options.stage}" if options.stage.isdecimal() else options.stage
    config = train_config(name, options.overrides, {} if options.model is None else {"model": options.model})
    device = resolve_device(options.device)
    with quiet_loading():  # random weights are as fast as others
        model = load_model(config.model, "none", device, options.precision or config.precision, config.model_options)
    if options.compile:
        compile_parts(model.compilable(), model.device)
    report = header(device, options.command, say)
    row = training.measure_training(model.train(), config, options.steps, partial(synchronise, device))
    say(training.row_text(row, config))
    return report | {"row": row}
