"""Time per frame and memory of the tracker by number of objects, video length, frame size and precision."""

import statistics
import time
from typing import Any

import numpy as np
import torch

from cutie_geo.inference.one_video import peak_memory, reset_peak_memory
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.network import CutieGeo
from cutie_geo.runs.benchmark.inputs import disc_labels, dtype_name, rendered_images, synchronise

WARM_UP = 2
"""Number of frames after the first that are excluded from the mean as warm-up."""

Row = dict[str, Any]


@torch.inference_mode()
def measure_frames(model: CutieGeo, options: dict[str, Any], size: tuple[int, int], objects: int, frames: int) -> Row:
    """Time each frame of a rendered video in the tracker; reading and writing files is not included.

    Args:
        options: keyword arguments of `Tracker`.
        size: height and width.
    """
    tracker, seconds = Tracker(model, **options), []
    synchronise(model.device)
    reset_peak_memory(model.device)
    for t, image in enumerate(rendered_images(size, frames)):
        mask = disc_labels(size, objects) if t == 0 else None
        start = time.perf_counter()
        tracker.step(image, mask)
        synchronise(model.device)
        seconds.append(time.perf_counter() - start)
    steady = seconds[1 + WARM_UP :]
    # a whole number of memory periods, so that memory frames have their share in the mean
    period = options["mem_every"]
    whole = steady[: max(len(steady) // period * period, 1)]
    return {
        "precision": dtype_name(model.precision),
        "size": list(size),
        "objects": objects,
        "frames": frames,
        "first_frame_seconds": seconds[0],
        "seconds_per_frame": statistics.fmean(whole),
        "median_seconds": statistics.median(steady),
        "p95_seconds": float(np.quantile(steady, 0.95)),
        "peak_memory_bytes": peak_memory(model.device),
        "held_bytes": sum(tracker.memory_report().values()),
        "seconds": seconds,
    }


HEADER = (
    f"{'precision':>9} {'size':>9} {'objects':>7} {'frames':>6} {'first s':>8} {'s/frame':>8} {'p95':>8} "
    f"{'frames/s':>8} {'peak MiB':>9} {'held MiB':>9}"
)


def row_text(row: Row) -> str:
    """Return a row of the table under HEADER."""
    peak = "?" if row["peak_memory_bytes"] is None else f"{row['peak_memory_bytes'] / 2**20:.0f}"
    return (
        f"{row['precision']:>9} {row['size'][0]:>4}x{row['size'][1]:<4} {row['objects']:>7} {row['frames']:>6} "
        f"{row['first_frame_seconds']:>8.3f} {row['seconds_per_frame']:>8.3f} {row['p95_seconds']:>8.3f} "
        f"{1 / row['seconds_per_frame']:>8.2f} {peak:>9} {row['held_bytes'] / 2**20:>9.1f}"
    )
