"""How fast, and in how much memory: seconds per frame by number of objects, length, size and precision."""

import argparse
import itertools
import os
import platform
import statistics
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cutie_geo.commands.infer import DEFAULT_MODEL, device_name, versions
from cutie_geo.config import TrackerConfig, build, merge, parse_overrides, preset_names, require, to_dict
from cutie_geo.data.render import SceneConfig, render_frames
from cutie_geo.inference.one_video import peak_memory, reset_peak_memory
from cutie_geo.inference.results import write_json
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.load import load_model, resolve_device, resolve_precision
from cutie_geo.model.network import CutieGeo

HELP = "measure seconds per frame and memory"
WARM_UP = 2
"""Frames after the first that are left out: caches and kernels are still being made ready."""

Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=DEFAULT_MODEL, help=f"{', '.join(preset_names())}, or a YAML file")
    parser.add_argument("--weights", default="none", help="none (speed doesn't depend on them), auto, or a file")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", nargs="+", default=["auto"], help="one or more of auto, fp32, bf16, fp16")
    parser.add_argument("--objects", nargs="+", type=int, default=[1, 5], help="numbers of objects")
    parser.add_argument("--frames", nargs="+", type=int, default=[23], help="lengths of the video, from 4 on")
    parser.add_argument("--size", nargs="+", default=["480x854"], help="frame sizes, HEIGHTxWIDTH")
    parser.add_argument("--cpu-threads", type=int, help="threads that compute on the CPU")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="tracker options, such as use_long_term=true")


def run(args: argparse.Namespace) -> int:
    """Measure every combination; return the exit status."""
    options = _checked(args)
    sizes = [_size(text) for text in args.size]
    facts = machine(resolve_device(args.device))
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    print(f"{'precision':>9} {'size':>9} {'objects':>7} {'frames':>6} {'first s':>8} {'s/frame':>8} {'p95':>8} "
          f"{'frames/s':>8} {'peak MiB':>9} {'held MiB':>9}")  # fmt: skip
    rows = []
    for precision in args.precision:
        model = load_model(args.model, args.weights, args.device, precision)
        for size in sizes:
            for objects, frames in itertools.product(args.objects, args.frames):
                rows.append(measure(model, options, size, objects, frames))
                print(_line(rows[-1]), flush=True)
    if args.json:
        write_json(args.json, _report(args, facts, options, rows))
        print(f"results: {args.json.resolve()}")
    return 0


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
    return to_dict(build(TrackerConfig, merge({}, parse_overrides(args.overrides)), "options"))


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
