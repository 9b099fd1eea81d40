"""What chance decides in training: functions of seeds, so that no run depends on when or where it draws."""

import random
from collections.abc import Sequence

import torch

SEEDS = 2**63
"""Seeds lie below it, as torch wants them."""


def seed_of(*parts: int | str) -> int:
    """A seed that differs when any of `parts` does."""
    return random.Random(repr(parts)).randrange(SEEDS)


def generators(seeds: Sequence[int], device: torch.device) -> list[torch.Generator]:
    """One generator for each clip: its draws don't depend on the clips beside it."""
    return [torch.Generator(device).manual_seed(int(seed)) for seed in seeds]


def reference_frames(seed: int, length: int, count: int) -> list[list[int]]:
    """For each frame of a clip the past frames that it reads: all of them, or `count` where there are more.

    Source: Cutie specification, section 8.3: the first frame is not guaranteed.
    """
    rng = random.Random(f"references {seed}")
    return [list(range(t)) if t <= count else sorted(rng.sample(range(t), count)) for t in range(length)]


def deep_updates(seed: int, step: int, length: int, probability: float) -> list[bool]:
    """For each frame of a step's clips whether memorising it updates sensory memory: the first always, the others by
    chance, the same for all clips of the step whatever process they are in."""
    rng = random.Random(f"deep updates {seed} {step}")
    return [True] + [rng.random() < probability for _ in range(length - 1)]
