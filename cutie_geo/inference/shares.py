"""Work that several threads or devices share: who gets what, and waiting for all of it."""

import copy
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from cutie_geo.config import require
from cutie_geo.model.load import resolve_device
from cutie_geo.model.network import CutieGeo

T = TypeVar("T")


def on_each(model: CutieGeo, devices: Sequence[str | torch.device]) -> list[CutieGeo]:
    """The network on each of `devices`, copied where it isn't yet; itself if there are none. A device that is named
    twice has it once. Raises ValueError for a device that isn't there."""
    places = [_indexed(resolve_device(device)) for device in devices] or [model.device]
    there = {_indexed(model.device): model}
    for place in places:
        if place not in there:
            there[place] = copy.deepcopy(model).to(place)
    return [there[_indexed(place)] for place in places]


def _indexed(device: torch.device) -> torch.device:
    """`cuda` is the current one of several."""
    return torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device


def allot(costs: Sequence[float], count: int) -> list[list[int]]:
    """Items dealt out to at most `count` shares, the costliest first and each to the share that has least; in a share
    they keep their order. No share is empty."""
    shares: list[list[int]] = [[] for _ in range(count)]
    for item in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        min(shares, key=lambda share: (sum(costs[i] for i in share), len(share))).append(item)
    return [sorted(share) for share in shares if share]


class Shares:
    """Items dealt out to workers: `parts` are lists of their numbers, which together are each number once."""

    def __init__(self, parts: Sequence[Sequence[int]], workers: int, model: CutieGeo) -> None:
        """workers: threads; with one, all is done where it is asked for. Raises ValueError for less."""
        require(workers >= 1, f"workers: got {workers}, wanted 1 or more")
        self.parts, self.workers = [list(part) for part in parts], workers
        self._pool: ThreadPoolExecutor | None = None
        threads = min(workers, len(self.parts))
        if threads > 1:
            each = max(1, torch.get_num_threads() // threads)
            self._pool = ThreadPoolExecutor(threads, "share", _begin_thread, (model, each))

    def run(self, work: Callable[[list[int]], list[T]], kinds: Sequence[Hashable]) -> list[T]:
        """`work` of those items of a share that are of one kind, for all shares and kinds; by item.

        An error of any share is raised once all have ended.
        """

        def one(part: list[int]) -> dict[int, T]:
            found: dict[int, T] = {}
            with torch.inference_mode():
                for kind in dict.fromkeys(kinds[item] for item in part):
                    same = [item for item in part if kinds[item] == kind]
                    found |= dict(zip(same, work(same), strict=True))
            return found

        done = [one(part) for part in self.parts] if self._pool is None else self._together(one)
        whole = {item: result for share in done for item, result in share.items()}
        return [whole[item] for item in range(len(whole))]

    def _together(self, one: Callable[[list[int]], T]) -> list[T]:
        assert self._pool is not None
        running = [self._pool.submit(one, part) for part in self.parts]
        errors = [error for future in running if (error := future.exception()) is not None]
        if errors:
            raise errors[0]
        return [future.result() for future in running]


def _begin_thread(model: CutieGeo, threads: int) -> None:
    """Give a worker its part of the CPU, and let it keep weights that are converted to half precision."""
    if model.device.type == "cpu":
        torch.set_num_threads(threads)
    model.autocast().__enter__()  # until the thread ends
