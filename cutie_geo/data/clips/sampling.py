"""Which frames of a video make a clip. Source: Cutie specification, section 8.2.2."""

import random
from collections.abc import Callable

from cutie_geo.config import ClipConfig, require

ATTEMPTS = 100
"""Draws from one start before it is given up."""


def largest_skip(config: ClipConfig, progress: float, frame_interval: int) -> int:
    """How many masked frames apart two neighbours of a clip may be, where one frame in `frame_interval` has a mask."""
    return max(1, config.skip_at(progress) // frame_interval)


def draw_times(
    frames: int, start: int, length: int, skip: int, reverse_probability: float, rng: random.Random
) -> list[int]:
    """`length` different frames of `frames`, among them `start`, in the video's order or the reverse.

    The set grows by one frame at a time, any of those within `skip` of one that is in it already, so no two neighbours
    of the clip are further apart than that. Raises ValueError for a video that is shorter than the clip.
    """
    require(frames >= length, f"video: got {frames} frames, wanted at least {length}")
    chosen, within_reach = {start}, set[int]()
    newest = start
    while len(chosen) < length:
        within_reach |= set(range(max(0, newest - skip), min(frames, newest + skip + 1)))
        within_reach -= chosen
        newest = rng.choice(sorted(within_reach))
        chosen.add(newest)
    return sorted(chosen, reverse=rng.random() < reverse_probability)


def bounce_times(frames: int, start: int, length: int, reverse_probability: float, rng: random.Random) -> list[int]:
    """`length` frames of a video that may be shorter: frame by frame from `start`, turning round at its ends."""
    period = max(2 * (frames - 1), 1)
    first = period - start if rng.random() < reverse_probability else start
    steps = [(first + i) % period for i in range(length)]
    return [min(step, period - step) if frames > 1 else 0 for step in steps]


def draw_opening(
    frames: int, start: int, config: ClipConfig, skip: int, shows_object: Callable[[int], bool], rng: random.Random
) -> list[int] | None:
    """The first draw from `start` whose opening frame shows an object, or None if `ATTEMPTS` draws don't."""
    for _ in range(ATTEMPTS):
        if frames < config.length:
            times = bounce_times(frames, start, config.length, config.reverse_probability, rng)
        else:
            times = draw_times(frames, start, config.length, skip, config.reverse_probability, rng)
        if shows_object(times[0]):
            return times
    return None
