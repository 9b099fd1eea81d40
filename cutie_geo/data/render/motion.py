"""Smooth motion over the frame number: waves, bends, rotations, and ways in and out of view."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Wave:
    """A sum of K sinusoids in D coordinates as a function of the frame number."""

    amplitude: Float[np.ndarray, "K D"]
    rate: Float[np.ndarray, "K D"]  # radians per frame
    phase: Float[np.ndarray, "K D"]

    def at(self, t: int) -> Float[np.ndarray, "D"]:
        return (self.amplitude * np.sin(self.rate * t + self.phase)).sum(0)


def draw_wave(rng: np.random.Generator, size: float, periods: tuple[float, float], dims: int = 1) -> Wave:
    """Sample a wave within `size` of 0 from a slow term and a weaker one, with periods in frames from `periods`."""
    shares = np.array([[0.7], [0.3]])
    period = rng.uniform(*periods, (2, dims)) * np.array([[1.0], [0.5]])
    return Wave(
        size * shares * rng.uniform(0.5, 1, (2, dims)), 2 * np.pi / period, rng.uniform(0, 2 * np.pi, (2, dims))
    )


def ease(x: float) -> float:
    """Return 0 below 0, 1 above 1, and a smooth interpolation between."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3 - 2 * x)


@dataclass(frozen=True)
class Absence:
    """Frames in which an actor is out of view, and its waiting position. `leave` is inf for an actor that stays."""

    waits: Float[np.ndarray, "2"]  # screen
    enter: float  # out of view before; 0 if present from the start
    leave: float  # within each cycle
    back: float
    crossing: float  # duration of entering or leaving
    cycle: float

    def at(self, t: int) -> float:
        """Return 0 if the actor is on its path and 1 if it waits outside."""
        late = 1 - ease((t - self.enter) / self.crossing + 1) if self.enter > 0 else 0.0
        now = t % self.cycle
        gone = ease((now - self.leave) / self.crossing) * (1 - ease((now - self.back) / self.crossing))
        return max(late, gone)


@dataclass(frozen=True)
class Bend:
    """A travelling wave of K terms that displaces points in a part's own plane."""

    shift: Float[np.ndarray, "K 2"]
    wave: Float[np.ndarray, "K 2"]
    rate: Float[np.ndarray, "K"]
    phase: Float[np.ndarray, "K"]

    @property
    def limit(self) -> float:
        return float(np.abs(self.shift).sum(0).max())

    def at(self, points: Float[np.ndarray, "2 G G"], t: int) -> Float[np.ndarray, "2 G G"]:
        angle = np.tensordot(self.wave, points, 1) + (self.rate * t + self.phase)[:, None, None]
        return np.tensordot(self.shift.T, np.sin(angle), 1)


def draw_bend(rng: np.random.Generator, size: float, cycle: float) -> Bend:
    """Sample three terms that together displace points by at most about `size`, in the part's own units."""
    direction = rng.uniform(0, 2 * np.pi, 3)
    shift = size / 3 * np.stack([np.cos(direction), np.sin(direction)], 1)
    return Bend(
        shift, rng.normal(0, 1.8, (3, 2)), 2 * np.pi / (cycle * rng.uniform(0.3, 1, 3)), rng.uniform(0, 2 * np.pi, 3)
    )


def rotation(angle: float) -> Float[np.ndarray, "2 2"]:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])
