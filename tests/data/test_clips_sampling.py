"""Which frames make a clip."""

import random
from itertools import pairwise

import pytest

from cutie_geo.config import ClipConfig
from cutie_geo.data.clips.sampling import ATTEMPTS, bounce_times, draw_opening, draw_times, largest_skip


def draws(count: int = 300, **changes: float) -> list[list[int]]:
    rng = random.Random(0)
    given = {"frames": 40, "start": 17, "length": 6, "skip": 4, "reverse_probability": 0.5} | changes
    return [draw_times(**given, rng=rng) for _ in range(count)]  # type: ignore[arg-type]


def test_a_clip_has_different_frames_of_the_video_with_the_start_among_them():
    for times in draws():
        assert len(set(times)) == 6
        assert set(times) <= set(range(40))
        assert 17 in times


def test_neighbours_are_no_further_apart_than_the_skip_and_sometimes_as_far():
    gaps = {abs(b - a) for times in draws() for a, b in pairwise(times)}
    assert gaps == {1, 2, 3, 4}


def test_half_of_the_clips_run_backwards_and_none_where_that_is_asked_for():
    assert all(times in (sorted(times), sorted(times)[::-1]) for times in draws())
    assert 110 < sum(times[0] > times[-1] for times in draws()) < 190
    assert all(times == sorted(times) for times in draws(reverse_probability=0.0))
    assert all(times == sorted(times)[::-1] for times in draws(reverse_probability=1.0))


def test_a_video_as_long_as_the_clip_is_taken_whole():
    assert draws(1, frames=6, start=3, reverse_probability=0.0) == [[0, 1, 2, 3, 4, 5]]
    with pytest.raises(ValueError, match="got 5 frames, expected at least 6"):
        draws(1, frames=5, start=3)


def test_every_reachable_frame_is_as_likely_a_neighbour():
    others = [t for times in draws(2000, length=2, skip=2) for t in times if t != 17]
    assert all(400 < others.count(t) < 600 for t in (15, 16, 18, 19))


@pytest.mark.parametrize(
    ("progress", "interval", "skip"),
    [(0.0, 1, 5), (0.1, 1, 10), (0.3, 2, 7), (0.79, 5, 3), (0.8, 2, 2), (0.0, 5, 1), (0.0, 100, 1)],
)
def test_the_skip_follows_schedule_and_frame_interval(progress: float, interval: int, skip: int):
    assert largest_skip(ClipConfig(), progress, interval) == skip


def test_short_videos_are_walked_forth_and_back():
    rng = random.Random(0)
    assert bounce_times(3, 0, 8, 0.0, rng) == [0, 1, 2, 1, 0, 1, 2, 1]
    assert bounce_times(3, 1, 5, 0.0, rng) == [1, 2, 1, 0, 1]
    assert bounce_times(3, 1, 5, 1.0, rng) == [1, 0, 1, 2, 1]
    assert bounce_times(2, 1, 3, 0.0, rng) == [1, 0, 1]
    assert bounce_times(1, 0, 3, 1.0, rng) == [0, 0, 0]


def test_the_opening_frame_shows_an_object_or_the_start_is_given_up():
    config, rng = ClipConfig(length=4), random.Random(0)
    for _ in range(50):
        times = draw_opening(20, 5, config, 3, lambda t: t in (4, 6), rng)
        assert times is not None
        assert times[0] in (4, 6)
    asked = []
    assert draw_opening(20, 5, config, 3, lambda t: bool(asked.append(t)), rng) is None
    assert len(asked) == ATTEMPTS
