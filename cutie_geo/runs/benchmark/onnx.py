"""Speed of exported graphs beside that of their network, frame by frame in turns."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
import torch

from cutie_geo.checkpoints.load import load_model
from cutie_geo.config import require, split_overrides
from cutie_geo.limits import require_threads
from cutie_geo.onnx import OnnxModel, OnnxTracker
from cutie_geo.runs.benchmark.inputs import disc_labels, rendered_images
from cutie_geo.runs.benchmark.run import header
from cutie_geo.runs.onnx_check import twin

SHOWN = 8
"""Number of different frames."""
COLUMNS = ("network s", "graphs s", "network CPU s", "graphs CPU s")
HEADER = f"{'objects':>7}" + "".join(f"{name:>16}" for name in COLUMNS) + f"{'ratio':>8}{'CPU ratio':>10}"
"""The processor's time is steadier than the clock's on a machine that is busy with other programs."""


@dataclass(frozen=True)
class OnnxBenchOptions:
    """Settings of a comparison of exported graphs and their network, in float32 on the CPU."""

    folder: Path
    """Folder written by `cutie-geo export onnx`."""
    model: str | None = None
    """None: the model that was exported."""
    weights: str = "none"
    """Weights of the network; speed does not depend on them."""
    objects: tuple[int, ...] = (1, 3)
    frames: int = 20
    """Measured frames of each number of objects."""
    cpu_threads: int | None = None
    overrides: tuple[str, ...] = ()
    command: str = ""


def benchmark_onnx(options: OnnxBenchOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure exported graphs beside their network, taking turns; return the report. Raises ValueError."""
    if options.cpu_threads is not None:
        require_threads(options.cpu_threads)
        torch.set_num_threads(options.cpu_threads)
    report = header(torch.device("cpu"), options.command, say)
    say(f"onnxruntime: {onnxruntime.__version__}")
    facts = {"onnxruntime": onnxruntime.__version__, "folder": str(options.folder)}
    return report | facts | {"rows": measure(options, torch.get_num_threads(), say)}


def measure(options: OnnxBenchOptions, threads: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure both programs for each number of objects; return rows with medians of wall-clock and CPU seconds.

    Every frame is segmented by both programs, one right after the other and in alternating order, so that other work
    on the machine slows down both.

    Raises:
        ValueError: For folders, models and numbers that cannot be used.
    """
    require(options.frames >= 2, f"--frames: got {options.frames}, expected at least 2")
    exported = OnnxModel(options.folder, threads=threads)
    about = exported.description
    model = load_model(
        options.model or about.model, options.weights, "cpu", "fp32", split_overrides(options.overrides)[0]
    )
    images = [image.clamp(0, 1) for image in rendered_images(about.size, SHOWN)]
    say(f"graphs: {options.folder}, {about.precision}, {about.size[0]}x{about.size[1]}, {threads} threads\n{HEADER}")
    rows = []
    for count in options.objects:
        require(1 <= count <= about.max_objects, f"--objects: got {count}, expected 1 to {about.max_objects}")
        network, graphs, mask = twin(model, about), OnnxTracker(exported), disc_labels(about.size, count)
        steps = {
            "network": lambda i, given, tracker=network: tracker.step(images[i % SHOWN], given),
            "graphs": lambda i, given, tracker=graphs: tracker.step(images[i % SHOWN].numpy(), given),
        }
        elapsed: dict[str, list[float]] = {name: [] for name in steps}
        computed: dict[str, list[float]] = {name: [] for name in steps}
        warm_up = (about.max_mem_frames - 1) * about.mem_every + 1  # memory is full then
        for i in range(warm_up + options.frames):
            for name in sorted(steps, reverse=bool(i % 2)):
                given = None if i else mask if name == "network" else np.asarray(mask)
                begin, cpu = time.perf_counter(), time.process_time()
                steps[name](i, given)
                if i >= warm_up:
                    elapsed[name].append(time.perf_counter() - begin)
                    computed[name].append(time.process_time() - cpu)
        row: dict[str, Any] = {"objects": count, "frames": options.frames, "size": list(about.size)}
        row["precision"] = about.precision
        for name in steps:
            row[f"{name}_seconds"], row[f"{name}_cpu_seconds"] = median(elapsed[name]), median(computed[name])
        row["ratio"] = row["network_seconds"] / row["graphs_seconds"]
        row["cpu_ratio"] = row["network_cpu_seconds"] / row["graphs_cpu_seconds"]
        rows.append(row)
        numbers = [row[f"{name}_{kind}"] for kind in ("seconds", "cpu_seconds") for name in steps]
        say(f"{count:>7}" + "".join(f"{number:>16.4f}" for number in numbers)
            + f"{row['ratio']:>8.2f}{row['cpu_ratio']:>10.2f}")  # fmt: skip
    return rows
