"""How fast training clips are made: clips per second by number of workers, and where the time of one goes."""

import argparse
import cProfile
import inspect
import itertools
import os
import pstats
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import torch

from cutie_geo.commands.models import versions
from cutie_geo.config import ClipConfig, SourceConfig, TrainConfig, require, train_config
from cutie_geo.data.background import write_json
from cutie_geo.data.clips import ClipDataset, build_sources, clip_loader, collate, steps_of
from cutie_geo.data.clips.augment import StillAugment, VideoAugment
from cutie_geo.data.clips.footage import RenderedFootage, readable
from cutie_geo.data.clips.merge import paste, to_slots

PLAIN = TrainConfig(
    stage="bench", model="cutie", steps=1000, data=(SourceConfig("rendered"),), batch=4, clips=ClipConfig(length=4)
)
"""What is measured without --config."""
PARTS: dict[str, tuple[Callable[..., Any], ...]] = {
    "reading and decoding": (readable,),
    "rendering": (RenderedFootage.__init__, RenderedFootage.rendered),
    "augmenting": (VideoAugment.view, VideoAugment.apply, StillAugment.apply),
    "merging": (paste, to_slots),
    "collating": (collate,),
}
"""The functions, none of which calls another, that each part of the work goes through."""

Row = dict[str, Any]


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `bench --data`."""
    group = parser.add_argument_group("training clips")
    group.add_argument("--data", action="store_true", help="measure how fast training clips are made")
    group.add_argument("--config", help="a training stage or its YAML file (default: short rendered clips)")
    group.add_argument("--data-root", type=Path, help="folder of the data sets that the stage names")
    group.add_argument(
        "--workers", nargs="+", type=int, help="numbers of worker processes (default: 0 1 and all cores)"
    )
    group.add_argument("--clips", type=int, default=32, metavar="M", help="clips that each number is measured on")


def run_data(args: argparse.Namespace, facts: dict[str, str]) -> int:
    """Measure and print; return the exit status. `facts` say on what. Raises ValueError for what can't be measured."""
    counts = args.workers or sorted({0, 1, os.cpu_count() or 1})
    require(min(counts) >= 0, f"--workers: got {min(counts)}, wanted 0 or more")
    require(args.clips >= 1, f"--clips: got {args.clips}, wanted 1 or more")
    config = _config(args)
    dataset = ClipDataset(build_sources(config.data, config.clips, args.data_root), config.clips, config.seed)
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    clips = config.clips
    print(f"clips: {len(dataset)} items, crop {clips.crop}, length {clips.length}, {args.clips} measured\n")
    parts = parts_of(dataset, config, args.clips)
    _print_parts(parts)
    rows = [_speed(dataset, config, args.clips, workers) for workers in counts]
    _print_limit(parts, rows)
    if args.json:
        write_json(args.json, {"machine": facts, "versions": versions(), "ms_per_clip": parts, "rows": rows})
        print(f"results: {args.json.resolve()}")
    return 0


def _config(args: argparse.Namespace) -> TrainConfig:
    """The stage named or of a YAML file, with key=value arguments laid over it, or a small one of rendered clips."""
    if args.config is None:
        require(not args.overrides, "key=value: wanted a --config that they are laid over")
        return PLAIN
    return train_config(args.config, args.overrides)


# --------------------------------------------------------------------------------------------------------------- parts
def parts_of(dataset: ClipDataset, config: TrainConfig, clips: int) -> dict[str, float]:
    """Milliseconds of one clip by part, drawn in this process by one thread.

    A profiler counts, which makes parts with many small steps, such as rendering, look slower than they are.
    """
    steps = steps_of(len(dataset), config.batch, config.seed, 0, config.steps)
    keys = list(itertools.islice(itertools.chain.from_iterable(steps), clips))
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    dataset[keys[0]]  # whatever is loaded on first use isn't part of a clip
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
    """Time from the calls of a function to their ends, what it calls included."""
    code = inspect.unwrap(function).__code__  # type: ignore[attr-defined]
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    entry = stats.get((code.co_filename, code.co_firstlineno, code.co_name))
    return entry[3] if entry else 0.0


def _print_parts(parts: dict[str, float]) -> None:
    total = sum(parts.values())
    print(f"{'part':<22} {'ms/clip':>8} {'share':>6}")
    for part, ms in parts.items():
        print(f"{part:<22} {ms:8.1f} {ms / total:6.0%}")
    print(f"{'all':<22} {total:8.1f}\n")


# --------------------------------------------------------------------------------------------------------------- speed
def _speed(dataset: ClipDataset, config: TrainConfig, clips: int, workers: int) -> Row:
    """Clips per second once every worker is at work, and the seconds until the first batch."""
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
    speed = steps * config.batch / seconds
    each = speed / max(workers, 1)
    print(f"workers {workers}: {speed:.2f} clips/s, {each:.2f} a worker; first batch after {first:.1f} s", flush=True)
    for problem in problems:
        print(f"  left out: {problem}")
    facts = {"workers": workers, "clips_per_second": speed, "clips_per_second_per_worker": each}
    return facts | {"first_batch_seconds": first, "problems": problems}


def _print_limit(parts: dict[str, float], rows: list[Row]) -> None:
    """Which part of the work bounds the speed, and how many workers were worth having."""
    slowest, best = max(parts, key=parts.__getitem__), max(rows, key=lambda row: row["clips_per_second"])
    share = parts[slowest] / sum(parts.values())
    print(
        f"\nlimit: {slowest}, {share:.0%} of a clip's time; best {best['clips_per_second']:.2f} clips/s, with "
        f"{best['workers']} workers on {os.cpu_count()} cores"
    )
