"""Random sampling in training as functions of seeds, for reproducible runs."""

import random
from collections.abc import Sequence

import torch

SEEDS = 2**63
"""Exclusive upper bound of seeds, as in torch."""


def seed_of(*parts: int | str) -> int:
    """Return a seed that depends on all `parts`."""
    return random.Random(repr(parts)).randrange(SEEDS)


def generators(seeds: Sequence[int], device: torch.device) -> list[torch.Generator]:
    """Return one generator per clip, so that sampling does not depend on the other clips of a batch."""
    return [torch.Generator(device).manual_seed(int(seed)) for seed in seeds]


def reference_frames(seed: int, length: int, count: int) -> list[list[int]]:
    """Return the past frames that each frame of a clip reads: all of them, or a sample of `count` if there are more.

    Source: Cutie specification, section 8.3; the first frame is not always included.
    """
    rng = random.Random(f"references {seed}")
    return [list(range(t)) if t <= count else sorted(rng.sample(range(t), count)) for t in range(length)]


def deep_updates(seed: int, step: int, length: int, probability: float) -> list[bool]:
    """Return, for each frame, whether memorising it updates sensory memory.

    The first frame always does, the others with `probability`. All clips and processes of a step share the result.
    """
    rng = random.Random(f"deep updates {seed} {step}")
    return [True] + [rng.random() < probability for _ in range(length - 1)]
