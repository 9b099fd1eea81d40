"""Throughput of training data: clips per second by number of workers, and time of each processing step."""

import cProfile
import inspect
import itertools
import os
import pstats
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import cv2
import torch

from cutie_geo.config import ClipConfig, SourceConfig, TrainConfig
from cutie_geo.data.clips import ClipDataset, clip_loader, collate, steps_of
from cutie_geo.data.clips.augment import StillAugment, VideoAugment
from cutie_geo.data.clips.frame_readers import RenderedFootage, readable
from cutie_geo.data.clips.merge import paste, to_slots

PLAIN = TrainConfig(
    stage="bench", model="cutie", steps=1000, data=(SourceConfig("rendered"),), batch=4, clips=ClipConfig(length=4)
)
"""Default stage to measure."""
PARTS: dict[str, tuple[Callable[..., Any], ...]] = {
    "reading and decoding": (readable,),
    "rendering": (RenderedFootage.__init__, RenderedFootage.rendered),
    "augmenting": (VideoAugment.view, VideoAugment.apply, StillAugment.apply),
    "merging": (paste, to_slots),
    "collating": (collate,),
}
"""Functions of each processing step; none of them calls another."""

Row = dict[str, Any]


# --------------------------------------------------------------------------------------------------------------- parts
def parts_of(dataset: ClipDataset, config: TrainConfig, clips: int) -> dict[str, float]:
    """Return milliseconds per clip by part, in this process and one thread.

    The profiler's overhead makes parts with many small calls, such as rendering, look slower than they are.
    """
    steps = steps_of(len(dataset), config.batch, config.seed, 0, config.steps)
    keys = list(itertools.islice(itertools.chain.from_iterable(steps), clips))
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    dataset[keys[0]]  # warm-up: lazy loading
    profile = cProfile.Profile()
    with profile:
        start = time.perf_counter()
        collate([dataset[key] for key in keys])
        seconds = time.perf_counter() - start
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])
    spent = {part: sum(_seconds_in(profile, function) for function in functions) for part, functions in PARTS.items()}
    spent["the rest"] = seconds - sum(spent.values())
    return {part: 1000 * each / len(keys) for part, each in spent.items()}


def _seconds_in(profile: cProfile.Profile, function: Callable[..., Any]) -> float:
    """Return the cumulative seconds of a function."""
    code = inspect.unwrap(function).__code__  # type: ignore[attr-defined]
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    entry = stats.get((code.co_filename, code.co_firstlineno, code.co_name))
    return entry[3] if entry else 0.0


def parts_text(parts: dict[str, float]) -> str:
    """Return the table of `parts_of`."""
    total = sum(parts.values())
    rows = [f"{part:<22} {ms:8.1f} {ms / total:6.0%}" for part, ms in parts.items()]
    return "\n".join([f"{'part':<22} {'ms/clip':>8} {'share':>6}", *rows, f"{'all':<22} {total:8.1f}\n"])


# --------------------------------------------------------------------------------------------------------------- speed
def default_workers() -> tuple[int, ...]:
    """Return the numbers of workers to try: none, one, and one per core."""
    return tuple(sorted({0, 1, os.cpu_count() or 1}))


def speed(dataset: ClipDataset, config: TrainConfig, clips: int, workers: int) -> Row:
    """Measure clips per second once each worker has started, and the seconds until the first batch."""
    warm_up, steps = max(workers, 1), -(-clips // config.batch)
    total = max(config.steps, warm_up + steps)
    start = time.perf_counter()
    loader = clip_loader(dataset, batch=config.batch, total_steps=total, workers=workers)
    with closing(loader):  # type: ignore[type-var]
        next(loader)
        first = time.perf_counter() - start
        for _ in range(warm_up - 1):
            next(loader)
        start = time.perf_counter()
        problems = [problem for _ in range(steps) for part in next(loader) for problem in part.problems]
        seconds = time.perf_counter() - start
    rate = steps * config.batch / seconds
    facts = {"workers": workers, "clips_per_second": rate, "clips_per_second_per_worker": rate / max(workers, 1)}
    return facts | {"first_batch_seconds": first, "problems": problems}


def row_text(row: Row) -> str:
    """Return a result of `speed` as lines."""
    text = (
        f"workers {row['workers']}: {row['clips_per_second']:.2f} clips/s, {row['clips_per_second_per_worker']:.2f} a "
        f"worker; first batch after {row['first_batch_seconds']:.1f} s"
    )
    return "\n".join([text, *(f"  left out: {problem}" for problem in row["problems"])])


def limit_text(parts: dict[str, float], rows: list[Row]) -> str:
    """Return the slowest processing step and the best number of workers as text."""
    slowest, best = max(parts, key=parts.__getitem__), max(rows, key=lambda row: row["clips_per_second"])
    share = parts[slowest] / sum(parts.values())
    return (
        f"\nlimit: {slowest}, {share:.0%} of a clip's time; best {best['clips_per_second']:.2f} clips/s, with "
        f"{best['workers']} workers on {os.cpu_count()} cores"
    )
