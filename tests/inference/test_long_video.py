"""A video of any length is segmented in bounded memory and at a steady pace."""

import statistics
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from parity_rules import DISCS, synthetic_video
from torch import Tensor

from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.network import CutieGeo
from cutie_geo.structures import FrameFeatures

SIZE = (64, 96)
LONG_TERM = {
    "max_mem_frames": 5, "min_mem_frames": 3, "num_prototypes": 32, "max_num_tokens": 512, "buffer_tokens": 64,
}  # fmt: skip


class Seen(NamedTuple):
    """One frame of the stream."""

    image: Tensor
    features: FrameFeatures
    mask: Tensor | None


def endless_stream(model: CutieGeo, frames: int) -> Iterator[Seen]:
    """The synthetic clip to and fro, its light slowly changing, one frame at a time.

    Features of a frame depend on it alone, so each of its 32 images is encoded once.
    """
    images, labels = (torch.from_numpy(x) for x in synthetic_video(*SIZE, 16))
    lit = [images * light for light in (0.8, 1.0)]
    encoder = Tracker(model)
    features = [[encoder.encode(image) for image in video] for video in lit]
    order = [*range(16), *range(14, 0, -1)]
    for t in range(frames):
        here, light = order[t % len(order)], (t // 50) % 2
        yield Seen(lit[light][here], features[light][here], labels[0] if t == 0 else None)


def seconds_of(tracker: Tracker, seen: Seen) -> float:
    start = time.thread_time()
    tracker.step(seen.image, seen.mask, features=seen.features)
    return time.thread_time() - start


@pytest.mark.slow(longest=True)
def test_three_thousand_frames_take_no_more_memory_or_time_than_five_hundred(tiny_model: CutieGeo) -> None:
    """The tracker as it was at frame 500 goes on beside the one at the end, frame by frame, so that what else the
    machine does counts for both."""
    options = {"mem_every": 3, "use_long_term": True, "long_term": LONG_TERM}
    tracker, early = Tracker(tiny_model, **options), Tracker(tiny_model)
    late_seconds, early_seconds, held = [], [], []
    for t, seen in enumerate(endless_stream(tiny_model, 3000)):
        if t == 500:
            early.load_state_dict(tracker.state_dict())
        seconds = seconds_of(tracker, seen)
        held.append(tracker.memory_report())
        if t >= 2700:
            late_seconds.append(seconds)
            early_seconds.append(seconds_of(early, seen))
    assert tracker.object_ids == list(range(1, len(DISCS) + 1))
    (bank,) = tracker.memory.banks
    assert 0 < bank.num_long <= 512
    full = next(t for t, report in enumerate(held) if report == held[-1])
    assert full < 500
    assert all(report == held[-1] for report in held[full:])
    # the quicker half of three hundred frames each: what disturbs a frame only ever adds to its time
    late, early_on = (statistics.fmean(sorted(part)[:150]) for part in (late_seconds, early_seconds))
    assert late <= 1.05 * early_on
