"""Encoding of frames ahead of segmentation, in batches and, on a CPU, in a separate thread."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any, NamedTuple

import torch

from cutie_geo.config import require
from cutie_geo.data.io_threads import read_ahead
from cutie_geo.inference.segmenter import Segmenter
from cutie_geo.structures import Frame

JOIN_SECONDS = 60.0
"""Seconds to wait for the encoding thread at the end: a process that exits while torch computes is aborted."""

ENCODED_AHEAD = 3
"""Number of frames encoded ahead by a thread, which evens out that memory frames take longer."""

EncodedFrame = tuple[Frame, Any]
"""Frame with its features, which are None if `Segmenter.step` has to encode it."""


class Prefetch(NamedTuple):
    """Options of encoding ahead."""

    batch: int = 1
    """Number of frames encoded as one batch; 1 for a live camera."""
    with_depth: bool = False
    """Keep the depth map of each frame."""
    threads: int = 0
    """Number of torch's CPU threads that encode the next batch while the others segment; 0 encodes sequentially."""


ON_DEMAND = Prefetch()
"""Options that encode each frame when it is segmented."""


@contextmanager
def encode_frames(
    segmenter: Segmenter,
    frames: Iterable[Frame],
    prefetch: Prefetch,
    precision: Callable[[], AbstractContextManager[Any]],
) -> Iterator[Iterator[EncodedFrame]]:
    """Open an iterator of frames with their features.

    Args:
        segmenter: Segmenter that encodes the frames.
        frames: Frames, closed at the end of the block if another thread reads them.
        prefetch: Batch size and threads.
        precision: Context that the encoding thread enters, since autocast is per thread.

    Raises:
        ValueError: If `prefetch` has an invalid batch size or number of threads.
    """
    require(prefetch.batch >= 1, f"lookahead: got {prefetch.batch}, expected 1 or more")
    encoded = _encode(segmenter, frames, prefetch)
    with _lend_threads(prefetch.threads):
        if prefetch.threads:
            aside = _on_own_threads(encoded, frames, prefetch.threads, precision)
            encoded = read_ahead(aside, max(prefetch.batch, ENCODED_AHEAD), JOIN_SECONDS)
        with closing(encoded):
            yield encoded


def _encode(segmenter: Segmenter, frames: Iterable[Frame], prefetch: Prefetch) -> Generator[EncodedFrame, None, None]:
    """Encode frames batch by batch.

    Features are None before the first object, for frames with prompts, which need the prompter's features, and from a
    batch's first invalid frame on, for which `step` raises the error.
    """
    started = prefetch.with_depth
    for batch in _batches(frames, prefetch.batch):
        unused = 0
        if not (started := started or bool(segmenter.object_ids)):
            prompted = (i for i, frame in enumerate(batch) if frame.given is not None or frame.prompts)
            unused = next(prompted, len(batch))
            started = unused < len(batch)  # the segmenter may lag by a batch
        wanted = [i for i in range(unused, len(batch)) if not batch[i].prompts]
        ahead = dict(zip(wanted, segmenter.encode_ahead([batch[i].image for i in wanted], prefetch.with_depth)))
        yield from ((frame, ahead.get(i)) for i, frame in enumerate(batch))


def _on_own_threads(
    encoded: Iterable[EncodedFrame],
    frames: Iterable[Frame],
    threads: int,
    precision: Callable[[], AbstractContextManager[Any]],
) -> Iterator[EncodedFrame]:
    """Yield `encoded`, computed in the consumer thread with `threads` torch threads; close `frames` at the end."""
    torch.set_num_threads(threads)
    try:
        with precision():
            yield from encoded
    finally:
        close = getattr(frames, "close", None)
        if close is not None:
            close()


@contextmanager
def _lend_threads(count: int) -> Iterator[None]:
    """Reduce torch's number of threads by `count` within the block. Raises ValueError if none is left."""
    total = torch.get_num_threads()
    require(0 <= count < max(total, 1), f"encode_threads: got {count}, expected 0 to {total - 1} of {total} threads")
    if not count:
        yield
        return
    torch.set_num_threads(total - count)
    try:
        yield
    finally:
        torch.set_num_threads(total)


def _batches(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    """Group frames into batches. Frames read before an error are yielded before it is raised."""
    batch: list[Frame] = []
    try:
        for frame in frames:
            batch.append(frame)
            if len(batch) == size:
                yield batch
                batch = []
    except Exception:
        if 0 < len(batch) < size:
            yield batch
        raise
    if batch:
        yield batch
