"""How fast, and in how much memory: seconds per frame by number of objects, length, size and precision."""

import argparse
import itertools
import os
import platform
import shlex
import statistics
import time
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cutie_geo.commands.bench_data import add_data_arguments, run_data
from cutie_geo.commands.bench_training import add_training_arguments, run_training
from cutie_geo.commands.flops import frame_cost, peak_gflop_per_second, table
from cutie_geo.commands.infer import DEFAULT_MODEL
from cutie_geo.commands.models import device_name, versions
from cutie_geo.commands.suite import ENSEMBLE_OBJECTS, HEADER, PLAIN_OBJECTS, ROOF, ensemble, line, plain, throughput
from cutie_geo.config import (
    TrackerConfig,
    build,
    model_config,
    parse_overrides,
    preset_names,
    require,
    split_overrides,
    to_dict,
)
from cutie_geo.data.background import write_json
from cutie_geo.data.render import SceneConfig, render_frames
from cutie_geo.inference.ensemble import View, views_of
from cutie_geo.inference.one_video import peak_memory, reset_peak_memory
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.load import load_model, resolve_device, resolve_precision
from cutie_geo.model.network import CutieGeo

HELP = "measure seconds per frame and memory"
SHOWN = 8
"""Different frames of an endless video."""
WARM_UP = 2
"""Frames after the first that are left out: caches and kernels are still being made ready."""

Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--flops", action="store_true", help="count GFLOP by part of the network, beside the time")
    parser.add_argument(
        "--suite",
        choices=["gpu", "flip"],
        help="gpu: the paper's model in bf16 with 1, 5 and 20 objects, and its ensemble; flip: a frame and its mirror "
        "as one batch against two runs",
    )
    parser.add_argument("--lookahead", type=int, default=4, metavar="N", help="of --suite: frames encoded as one batch")
    parser.add_argument("--roof", type=float, default=ROOF, help="of --suite: TFLOP/s that the device can do at best")
    parser.add_argument("--compile", action="store_true", help="compile the network first")
    parser.add_argument("--model", default=None, help=f"{', '.join(preset_names())}, or a YAML file")
    parser.add_argument("--weights", default="none", help="none (speed doesn't depend on them), auto, or a file")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--precision", nargs="+", default=None, help="one or more of auto, fp32, bf16, fp16 (default: auto)"
    )
    parser.add_argument("--objects", nargs="+", type=int, help="numbers of objects (default: 1 5)")
    parser.add_argument("--frames", nargs="+", type=int, help="lengths of the video, from 4 on (default: 23)")
    parser.add_argument("--size", nargs="+", default=["480x854"], help="frame sizes, HEIGHTxWIDTH")
    parser.add_argument("--cpu-threads", type=int, help="threads that compute on the CPU")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="options of tracker or model, such as use_long_term=true"
    )
    add_data_arguments(parser)
    add_training_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure every combination; return the exit status."""
    if args.data:
        require(not (args.flops or args.suite), "--data: wanted alone, without --flops and --suite")
        return run_data(args, machine(torch.device("cpu")) | {"command": _shown(args.command_line)})
    if args.training is not None:
        require(not (args.flops or args.suite), "--training: wanted alone, without --flops and --suite")
        if args.cpu_threads is not None:
            torch.set_num_threads(args.cpu_threads)
        return run_training(args, machine(resolve_device(args.device)) | {"command": _shown(args.command_line)})
    _fill_in(args)
    options = _checked(args)
    sizes = [_size(text) for text in args.size]
    facts = machine(resolve_device(args.device))
    print("\n".join(f"{name}: {value}" for name, value in (facts | {"command": _shown(args.command_line)}).items()))
    measure_all = {None: _seconds, "gpu": _suite, "flip": _flip}[args.suite] if not args.flops else _flops
    rows = measure_all(args, options, sizes)
    if args.json:
        write_json(args.json, _report(args, facts, options, rows))
        print(f"results: {args.json.resolve()}")
    return 0


def _shown(command_line: list[str]) -> str:
    """A command as one types it."""
    program, *arguments = command_line
    return f"{program} {shlex.join(arguments)}".rstrip()


def _fill_in(args: argparse.Namespace) -> None:
    """Defaults, which depend on what is measured. Raises ValueError for measurements that exclude each other."""
    require(not (args.flops and args.suite), "--flops and --suite: wanted one of them")
    suite = args.suite == "gpu"
    args.model = args.model or ("cutie-geo-large" if suite else DEFAULT_MODEL)
    args.precision = args.precision or (["bf16"] if suite else ["auto"])
    args.frames = args.frames or ([120] if suite else [23])
    args.objects = args.objects or (list(PLAIN_OBJECTS) if suite else [1] if args.flops else [1, 5])
    if suite and args.device == "auto":
        require(torch.cuda.is_available(), "--suite gpu: no GPU here; --device cpu rehearses it, slowly")


def _model(args: argparse.Namespace, precision: str) -> CutieGeo:
    model = load_model(args.model, args.weights, args.device, precision, split_overrides(args.overrides)[0])
    if args.compile:
        model.compile_parts()
    return model


def _seconds(args: argparse.Namespace, options: dict[str, Any], sizes: list[tuple[int, int]]) -> list[Row]:
    """Seconds per frame of every combination."""
    print(f"{'precision':>9} {'size':>9} {'objects':>7} {'frames':>6} {'first s':>8} {'s/frame':>8} {'p95':>8} "
          f"{'frames/s':>8} {'peak MiB':>9} {'held MiB':>9}")  # fmt: skip
    rows = []
    for precision in args.precision:
        model = _model(args, precision)
        for size in sizes:
            for objects, frames in itertools.product(args.objects, args.frames):
                rows.append(measure(model, options, size, objects, frames))
                print(_line(rows[-1]), flush=True)
    return rows


def _flops(args: argparse.Namespace, options: dict[str, Any], sizes: list[tuple[int, int]]) -> list[Row]:
    """GFLOP and time of every part."""
    rows: list[Row] = []
    for precision in args.precision:
        model = _model(args, precision)
        peak = peak_gflop_per_second(model, partial(_synchronise, model.device))
        for size, objects in ((size, objects) for size in sizes for objects in args.objects):
            frames, mask = partial(_endless, size, model.device), _regions(size, objects)
            cost = frame_cost(model, options, frames, mask, partial(_synchronise, model.device))
            dtype = str(model.precision).removeprefix("torch.")
            print(f"\n{args.model}, {size[0]}x{size[1]}, {dtype}, per frame\n{table(cost, objects, peak)}", flush=True)
            facts = {"precision": dtype, "size": list(size), "objects": objects, "limit_gflop_per_second": peak}
            rows.append(facts | {"parts": [part._asdict() for part in cost]})
    return rows


def _suite(args: argparse.Namespace, options: dict[str, Any], sizes: list[tuple[int, int]]) -> list[Row]:
    """Frames per second, the share of the roof and the peak memory, of the plain model and of the ensemble."""
    rows: list[Row] = []
    for precision in args.precision:
        model = _model(args, precision)
        for size in sizes:
            print(f"\n{args.model}, {size[0]}x{size[1]}, {str(model.precision).removeprefix('torch.')}, "
                  f"{args.lookahead} frames a batch, roof {args.roof:g} TFLOP/s\n{HEADER}")  # fmt: skip
            several = [objects for objects in args.objects if objects in ENSEMBLE_OBJECTS]
            cases = [(plain(size), n) for n in args.objects] + [(ensemble(size), n) for n in several]
            for views, objects in cases:
                frames, mask = partial(_endless, size, model.device), _regions(size, objects).to(model.device)
                settle = partial(_synchronise, model.device)
                try:
                    row = throughput(model, options, views, mask, frames, args.frames[0], args.lookahead, settle)
                except torch.cuda.OutOfMemoryError:  # the rows after this one may still fit
                    print(f"{len(views):>5} {objects:>7} out of memory", flush=True)
                    torch.cuda.empty_cache()
                    continue
                print(line(row, args.roof), flush=True)
                facts = {"precision": precision, "size": list(size), "lookahead": args.lookahead, "roof": args.roof}
                rows.append(facts | row._asdict() | {"share_of_roof": row.share(args.roof)})
    return rows


def _flip(args: argparse.Namespace, options: dict[str, Any], sizes: list[tuple[int, int]]) -> list[Row]:
    """Seconds per frame of a frame and its mirror, each in a run of its own and both together."""
    rows: list[Row] = []
    for precision in args.precision:
        model = _model(args, precision)
        settle = partial(_synchronise, model.device)
        for size, objects in ((size, objects) for size in sizes for objects in args.objects):
            frames, mask = partial(_endless, size, model.device), _regions(size, objects).to(model.device)
            seconds = {}
            for name, views in (
                ("straight", [View()]),
                ("mirrored", [View(mirrored=True)]),
                ("both", views_of(flip=True)),
            ):
                row = throughput(model, options, list(views), mask, frames, args.frames[0], args.lookahead, settle)
                seconds[name] = 1 / row.frames_per_second
            share = seconds["both"] / (seconds["straight"] + seconds["mirrored"])
            dtype = str(model.precision).removeprefix("torch.")
            told = ", ".join(f"{name} {value:.3f} s/frame" for name, value in seconds.items())
            print(f"{args.model}, {size[0]}x{size[1]}, {dtype}, {objects} objects: {told}; both together take "
                  f"{share:.2f} of two runs", flush=True)  # fmt: skip
            rows.append(
                {"precision": dtype, "size": list(size), "objects": objects, "seconds": seconds, "share": share}
            )
    return rows


def _checked(args: argparse.Namespace) -> dict[str, Any]:
    """The tracker's options. Raises ValueError for any argument that would stop the measurement half-way."""
    if args.cpu_threads is not None:
        require(args.cpu_threads >= 1, f"--cpu-threads: got {args.cpu_threads}, wanted 1 or more")
        torch.set_num_threads(args.cpu_threads)
    require(min(args.frames) >= WARM_UP + 2, f"--frames: got {min(args.frames)}, wanted at least {WARM_UP + 2}")
    require(min(args.objects) >= 1, f"--objects: got {min(args.objects)}, wanted 1 or more")
    for precision in args.precision:
        resolve_precision(precision, resolve_device(args.device))
    for text, objects in itertools.product(args.size, args.objects):
        _regions(_size(text), objects)
    require(args.lookahead >= 1, f"--lookahead: got {args.lookahead}, wanted 1 or more")
    require(args.roof > 0, f"--roof: got {args.roof}, wanted TFLOP/s")
    of_model, of_tracker = split_overrides(args.overrides)
    model = model_config(args.model, of_model)
    options = build(TrackerConfig, parse_overrides(of_tracker), "options").at_given_size()
    return to_dict(options.for_model(model.memory_interval, model.tokens_read))


def _report(args: argparse.Namespace, facts: dict[str, str], options: dict[str, Any], rows: list[Row]) -> Row:
    """All that is needed to read the numbers, and to measure them again."""
    return {
        "command": args.command_line,
        "machine": facts,
        "versions": versions(),
        "model": args.model,
        "weights": args.weights,
        "options": options,
        "rows": rows,
    }


@torch.inference_mode()
def measure(model: CutieGeo, options: dict[str, Any], size: tuple[int, int], objects: int, frames: int) -> Row:
    """Time every frame of a rendered video, the tracker's work alone: reading and writing files is not in it."""
    tracker, seconds = Tracker(model, **options), []
    _synchronise(model.device)
    reset_peak_memory(model.device)
    for t, image in enumerate(_images(size, frames)):
        mask = _regions(size, objects) if t == 0 else None
        start = time.perf_counter()
        tracker.step(image, mask)
        _synchronise(model.device)
        seconds.append(time.perf_counter() - start)
    steady = seconds[1 + WARM_UP :]
    # a whole number of memory periods, so that frames that enter memory have their share in the mean
    period = options["mem_every"]
    whole = steady[: max(len(steady) // period * period, 1)]
    peak = peak_memory(model.device)
    return {
        "precision": str(model.precision).removeprefix("torch."),
        "size": list(size),
        "objects": objects,
        "frames": frames,
        "first_frame_seconds": seconds[0],
        "seconds_per_frame": statistics.fmean(whole),
        "median_seconds": statistics.median(steady),
        "p95_seconds": float(np.quantile(steady, 0.95)),
        "peak_memory_bytes": peak,
        "held_bytes": sum(tracker.memory_report().values()),
        "seconds": seconds,
    }


def machine(device: torch.device) -> dict[str, str]:
    """What the numbers are measured on."""
    return {
        "device": device_name(device),
        "cpu": f"{_cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "system": f"{platform.system()} {platform.machine()}, torch {version('torch')}",
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown CPU"


def _images(size: tuple[int, int], frames: int) -> Iterator[torch.Tensor]:
    scene = SceneConfig(height=size[0], width=size[1], frames=frames)
    for frame in render_frames(0, scene):
        yield torch.from_numpy(frame.image).permute(2, 0, 1).float() / 255


def _endless(size: tuple[int, int], device: torch.device) -> Iterator[torch.Tensor]:
    """Some rendered frames again and again: what they show doesn't matter for speed."""
    return itertools.cycle([image.to(device) for image in _images(size, SHOWN)])


def _regions(size: tuple[int, int], objects: int) -> torch.Tensor:
    """A label map with `objects` discs: speed depends on their number, not on what they show.

    Raises ValueError if there is no room for so many.
    """
    columns = int(np.ceil(np.sqrt(objects)))
    rows = -(-objects // columns)
    y, x = np.mgrid[: size[0], : size[1]]
    labels = np.zeros(size, np.int64)
    for i in range(objects):
        cy, cx = (i // columns + 0.5) * size[0] / rows, (i % columns + 0.5) * size[1] / columns
        labels[(y - cy) ** 2 + (x - cx) ** 2 < (0.35 * min(size[0] / rows, size[1] / columns)) ** 2] = i + 1
    shown = len(np.unique(labels)) - 1
    require(shown == objects, f"--objects: got {objects}, of which {size[0]}x{size[1]} pixels show {shown}")
    return torch.from_numpy(labels)


def _size(text: str) -> tuple[int, int]:
    height, x, width = text.lower().partition("x")
    require(bool(x) and height.isdecimal() and width.isdecimal(), f"--size: got {text!r}, wanted HEIGHTxWIDTH")
    require(min(int(height), int(width)) >= 32, f"--size: got {text!r}, wanted at least 32 pixels a side")
    return int(height), int(width)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _line(row: Row) -> str:
    peak = "?" if row["peak_memory_bytes"] is None else f"{row['peak_memory_bytes'] / 2**20:.0f}"
    return (
        f"{row['precision']:>9} {row['size'][0]:>4}x{row['size'][1]:<4} {row['objects']:>7} {row['frames']:>6} "
        f"{row['first_frame_seconds']:>8.3f} {row['seconds_per_frame']:>8.3f} {row['p95_seconds']:>8.3f} "
        f"{1 / row['seconds_per_frame']:>8.2f} {peak:>9} {row['held_bytes'] / 2**20:>9.1f}"
    )
