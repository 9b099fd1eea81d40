"""Sampling of the frames of a clip. Source: Cutie specification, section 8.2.2."""

import random
from collections.abc import Callable

from cutie_geo.config import ClipConfig, require

ATTEMPTS = 100
"""Maximum number of draws from one start frame."""


def largest_skip(config: ClipConfig, progress: float, frame_interval: int) -> int:
    """Return the maximum distance, in masked frames, of neighbours in a clip; every `frame_interval`-th frame has a
    mask.
    """
    return max(1, config.skip_at(progress) // frame_interval)


def draw_times(
    frames: int, start: int, length: int, skip: int, reverse_probability: float, rng: random.Random
) -> list[int]:
    """Sample `length` different frames that include `start`, in forward or reverse order.

    The set grows by one frame at a time, chosen among the frames within `skip` of one in the set. Neighbours are
    therefore at most `skip` apart.

    Raises:
        ValueError: for a video shorter than the clip.
    """
    require(frames >= length, f"video: got {frames} frames, expected at least {length}")
    chosen, within_reach = {start}, set[int]()
    newest = start
    while len(chosen) < length:
        within_reach |= set(range(max(0, newest - skip), min(frames, newest + skip + 1)))
        within_reach -= chosen
        newest = rng.choice(sorted(within_reach))
        chosen.add(newest)
    return sorted(chosen, reverse=rng.random() < reverse_probability)


def bounce_times(frames: int, start: int, length: int, reverse_probability: float, rng: random.Random) -> list[int]:
    """Return `length` frames of a possibly shorter video: frame by frame from `start`, reversing at its ends."""
    period = max(2 * (frames - 1), 1)
    first = period - start if rng.random() < reverse_probability else start
    steps = [(first + i) % period for i in range(length)]
    return [min(step, period - step) if frames > 1 else 0 for step in steps]


def draw_opening(
    frames: int, start: int, config: ClipConfig, skip: int, shows_object: Callable[[int], bool], rng: random.Random
) -> list[int] | None:
    """Return the first draw from `start` whose first frame shows an object, or None after `ATTEMPTS` draws."""
    for _ in range(ATTEMPTS):
        if frames < config.length:
            times = bounce_times(frames, start, config.length, config.reverse_probability, rng)
        else:
            times = draw_times(frames, start, config.length, skip, config.reverse_probability, rng)
        if shows_object(times[0]):
            return times
    return None
