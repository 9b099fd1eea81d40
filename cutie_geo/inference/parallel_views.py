"""Partition of views over threads and devices."""

import copy
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from cutie_geo.checkpoints.load import resolve_device
from cutie_geo.config import require
from cutie_geo.model.network import CutieGeo

T = TypeVar("T")


def on_each(model: CutieGeo, devices: Sequence[str | torch.device]) -> list[CutieGeo]:
    """Return the network on each of `devices`, with one copy per device; the network itself if there are none.

    Raises:
        ValueError: If a device is not available.
    """
    places = [_indexed(resolve_device(device)) for device in devices] or [model.device]
    there = {_indexed(model.device): model}
    for place in places:
        if place not in there:
            there[place] = copy.deepcopy(model).to(place)
    return [there[_indexed(place)] for place in places]


def _indexed(device: torch.device) -> torch.device:
    """Replace `cuda` by the current CUDA device with its index."""
    return torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device


def partition(costs: Sequence[float], count: int) -> list[list[int]]:
    """Partition items into at most `count` non-empty parts of similar cost.

    Items are assigned greedily, the costliest first, each to the part with the lowest cost. Each part is sorted.
    """
    parts: list[list[int]] = [[] for _ in range(count)]
    for item in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        min(parts, key=lambda part: (sum(costs[i] for i in part), len(part))).append(item)
    return [sorted(part) for part in parts if part]


class Partition:
    """Partition of items over worker threads."""

    def __init__(self, parts: Sequence[Sequence[int]], workers: int, model: CutieGeo) -> None:
        """Start the worker threads.

        Args:
            parts: Partition of the item indices.
            workers: Number of threads; with 1 the calling thread does all work.
            model: Network whose autocast the threads enter.

        Raises:
            ValueError: If `workers` is below 1.
        """
        require(workers >= 1, f"workers: got {workers}, expected 1 or more")
        self.parts, self.workers = [list(part) for part in parts], workers
        self._pool: ThreadPoolExecutor | None = None
        threads = min(workers, len(self.parts))
        if threads > 1:
            each = max(1, torch.get_num_threads() // threads)
            self._pool = ThreadPoolExecutor(threads, "share", _begin_thread, (model, each))

    def run(self, work: Callable[[list[int]], list[T]], kinds: Sequence[Hashable]) -> list[T]:
        """Call `work` on the items of each part and kind; return the results in item order.

        The first error is raised after all parts have ended.
        """

        def one(part: list[int]) -> dict[int, T]:
            found: dict[int, T] = {}
            with torch.inference_mode():
                for kind in dict.fromkeys(kinds[item] for item in part):
                    same = [item for item in part if kinds[item] == kind]
                    found |= dict(zip(same, work(same), strict=True))
            return found

        done = [one(part) for part in self.parts] if self._pool is None else self._together(one)
        whole = {item: result for part in done for item, result in part.items()}
        return [whole[item] for item in range(len(whole))]

    def _together(self, one: Callable[[list[int]], T]) -> list[T]:
        assert self._pool is not None
        running = [self._pool.submit(one, part) for part in self.parts]
        errors = [error for future in running if (error := future.exception()) is not None]
        if errors:
            raise errors[0]
        return [future.result() for future in running]


def _begin_thread(model: CutieGeo, threads: int) -> None:
    """Set a worker's number of torch threads, and enter autocast so that converted weights are cached."""
    if model.device.type == "cpu":
        torch.set_num_threads(threads)
    model.autocast().__enter__()  # until the thread ends
