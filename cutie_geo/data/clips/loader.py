"""Loader of training batches in a deterministic order, with worker processes."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from cutie_geo.config import require
from cutie_geo.data.clips.dataset import Clip, ClipDataset
from cutie_geo.multiprocessing import clean_processes, uninterrupted
from cutie_geo.structures import ClipBatch, ClipKey

NICE = 10
"""Niceness of loader workers (`os.nice`)."""
ORDER = 1
"""Key that separates the random numbers of the order from those of the samples."""


# --------------------------------------------------------------------------------------------------------------- order
def steps_of(items: int, batch: int, seed: int, first_step: int, total_steps: int) -> Iterator[list[ClipKey]]:
    """Yield the samples of each step from `first_step` to `total_steps - 1`.

    An epoch is a permutation of all items, cut into full batches; the remainder is dropped.

    Raises:
        ValueError: at the call, if the items do not fill a batch.
    """
    require(items >= batch, f"data: got {items} items an epoch, expected at least one batch of {batch}")
    return (_step(items, batch, seed, step, total_steps) for step in range(first_step, total_steps))


def _step(items: int, batch: int, seed: int, step: int, total_steps: int) -> list[ClipKey]:
    epoch, place = divmod(step, items // batch)
    order = _permutation(items, seed, epoch)
    return [ClipKey(epoch, int(i), step / total_steps) for i in order[place * batch : (place + 1) * batch]]


@lru_cache(maxsize=2)
def _permutation(items: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, 0, ORDER]).permutation(items)


# ------------------------------------------------------------------------------------------------------------- loading
def clip_loader(
    dataset: ClipDataset,
    *,
    batch: int,
    total_steps: int,
    first_step: int = 0,
    accumulate: int = 1,
    process: int = 0,
    processes: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[list[ClipBatch]]:
    """Yield the batches of one process for each step, in `accumulate` parts.

    Args:
        batch: clips of a step over all processes. Each process gets consecutive clips, so the concatenation over
            processes is the batch of a single-process run.
        first_step: first step to yield; later steps do not depend on it.
        accumulate: gradient accumulation steps.
        process: index of this process.
        processes: number of processes.
        workers: loader processes, which run until the iterator is exhausted, closed or deleted; 0 loads in this
            process.
        pin_memory: pin batches in memory for faster copies to a GPU; ignored without one.

    Raises:
        ValueError: at the call, for a batch that is not divisible or larger than the items, and for invalid numbers.
    """
    require(workers >= 0, f"workers: got {workers}, expected 0 or more")
    require(0 <= process < processes, f"process: got {process} of {processes}, expected 0 to {processes - 1}")
    require(accumulate >= 1, f"accumulate: got {accumulate}, expected 1 or more")
    parts = processes * accumulate
    require(
        batch > 0 and batch % parts == 0,
        f"batch: got {batch}, expected a multiple of {parts}, which is {processes} processes times {accumulate} parts",
    )
    size = batch // parts
    steps = steps_of(len(dataset), batch, dataset.seed, first_step, total_steps)
    first = process * accumulate * size
    shares = (keys[first + i * size : first + (i + 1) * size] for keys in steps for i in range(accumulate))
    loader = _loader(dataset, shares, workers, pin_memory and torch.cuda.is_available())
    return _steps(loader, accumulate)


def _loader(dataset: ClipDataset, shares: Iterator[list[ClipKey]], workers: int, pin_memory: bool) -> DataLoader:
    """Return a torch loader for lists of keys. It runs over all epochs, because the keys form one stream."""
    return DataLoader(
        dataset,
        batch_sampler=shares,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        multiprocessing_context=clean_processes(__name__) if workers else None,
        worker_init_fn=_prepare_worker if workers else None,
        generator=torch.Generator(),  # otherwise the loader draws from the global generator
    )


def _steps(loader: DataLoader, accumulate: int) -> Iterator[list[ClipBatch]]:
    """Group parts into steps. Workers start with the first step and end with this generator."""
    with uninterrupted():
        batches = iter(loader)
    try:
        while step := list(islice(batches, accumulate)):
            yield step
    finally:
        del batches  # torch ends its workers when the iterator is deleted


def collate(clips: list[Clip]) -> ClipBatch:
    """Collate clips of one size into a batch."""
    return ClipBatch(
        torch.stack([clip.images for clip in clips]),
        torch.stack([clip.labels for clip in clips]),
        torch.tensor([clip.num_objects for clip in clips]),
        torch.tensor([clip.seed for clip in clips]),
        tuple(clip.name for clip in clips),
        tuple(problem for clip in clips for problem in clip.problems),
        _distances(clips),
    )


def _distances(clips: list[Clip]) -> Float[Tensor, "B T H W"] | None:
    """Return the distances of all clips, NaN for a clip without; None if no clip has any."""
    if all(clip.distance is None for clip in clips):
        return None
    unknown = torch.full(clips[0].labels.shape, float("nan"))
    return torch.stack([unknown if clip.distance is None else clip.distance for clip in clips])


# ------------------------------------------------------------------------------------------------------------- workers
def _prepare_worker(_: int) -> None:
    """Initialise a worker: one thread, lowest scheduling priority, SIGINT ignored, exit with the parent.

    The priority is low because a worker that takes a core from CPU training delays all other threads. Ctrl-C is handled
    by the parent.
    """
    if hasattr(os, "nice"):
        os.nice(NICE)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _leave_with_parent() -> None:
    """Exit this worker when the trainer has died, for example by SIGKILL.

    Torch's watchdog checks the process that forked the worker. Here that is the fork server, which lives as long as its
    workers.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
