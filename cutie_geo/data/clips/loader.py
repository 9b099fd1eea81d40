"""Batches in a fixed order: which clips each step takes, drawn ahead by worker processes."""

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
from cutie_geo.structures import ClipBatch, ClipKey
from cutie_geo.workers import clean_processes, uninterrupted

NICE = 10
"""By how much workers stand back."""
ORDER = 1
"""Tells the random numbers of the order from those of the samples."""


# --------------------------------------------------------------------------------------------------------------- order
def steps_of(items: int, batch: int, seed: int, first_step: int, total_steps: int) -> Iterator[list[ClipKey]]:
    """For each step from `first_step` to before `total_steps`, the samples of its batch.

    An epoch is a permutation of all items, cut into whole batches; what is left over waits for another epoch. Raises
    ValueError, at the call, if the items don't fill a batch.
    """
    require(items >= batch, f"data: got {items} items an epoch, wanted at least one batch of {batch}")
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
    """For each step, the share of its batch that process `process` of `processes` takes, in `accumulate` parts.

    batch: clips of a step over all processes. A process takes consecutive ones, so the shares of all, one after the
    other, are the batch of a single process. Steps before `first_step` are left out, and change nothing in those after.

    workers: processes that draw clips ahead; 0 draws them in this one. They live until the iterator is used up, closed
    or deleted. pin_memory: put batches where a GPU copies them from fastest; without one it does nothing.

    Raises ValueError, at the call, for a batch that can't be shared out or that the items don't fill, and for numbers
    that make no sense.
    """
    require(workers >= 0, f"workers: got {workers}, wanted 0 or more")
    require(0 <= process < processes, f"process: got {process} of {processes}, wanted 0 to {processes - 1}")
    require(accumulate >= 1, f"accumulate: got {accumulate}, wanted 1 or more")
    parts = processes * accumulate
    require(
        batch > 0 and batch % parts == 0,
        f"batch: got {batch}, wanted a multiple of {parts}, which is {processes} processes times {accumulate} parts",
    )
    size = batch // parts
    steps = steps_of(len(dataset), batch, dataset.seed, first_step, total_steps)
    first = process * accumulate * size
    shares = (keys[first + i * size : first + (i + 1) * size] for keys in steps for i in range(accumulate))
    loader = _loader(dataset, shares, workers, pin_memory and torch.cuda.is_available())
    return _steps(loader, accumulate)


def _loader(dataset: ClipDataset, shares: Iterator[list[ClipKey]], workers: int, pin_memory: bool) -> DataLoader:
    """A torch loader for lists of keys. It runs over epochs without a stop, since the keys of all are one stream."""
    return DataLoader(
        dataset,
        batch_sampler=shares,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        multiprocessing_context=clean_processes(__name__) if workers else None,
        worker_init_fn=_prepare_worker if workers else None,
        generator=torch.Generator(),  # else the loader draws from the caller's
    )


def _steps(loader: DataLoader, accumulate: int) -> Iterator[list[ClipBatch]]:
    """Parts gathered into steps. Workers start at the first of them, and end with this generator."""
    with uninterrupted():
        batches = iter(loader)
    try:
        while step := list(islice(batches, accumulate)):
            yield step
    finally:
        del batches  # torch's iterator ends its workers when the last reference to it goes


def collate(clips: list[Clip]) -> ClipBatch:
    """Clips of one size as a batch."""
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
    """Those of all clips, NaN for a clip that has none; None if none has any."""
    if all(clip.distance is None for clip in clips):
        return None
    unknown = torch.full(clips[0].labels.shape, float("nan"))
    return torch.stack([unknown if clip.distance is None else clip.distance for clip in clips])


# ------------------------------------------------------------------------------------------------------------- workers
def _prepare_worker(_: int) -> None:
    """One thread a worker, since there are many, and the last to get a core: where the CPU trains too, a worker that
    takes one of its cores away makes all the others wait. Ctrl-C is the parent's, and with the parent's end theirs
    comes."""
    if hasattr(os, "nice"):
        os.nice(NICE)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _leave_with_parent() -> None:
    """End this worker when the trainer has ended without a word, as killed processes do.

    Torch's own watch is for the process that forked the worker, which here is the server, and that lives on as long as
    the workers do.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
