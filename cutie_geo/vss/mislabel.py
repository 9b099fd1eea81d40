"""Simulated errors of a segmentation model in true labels: displaced edges and flickering regions."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8


@dataclass(frozen=True)
class Mistakes:
    """Strength of the errors on each frame; frames are independent."""

    jitter: float = 2.0
    """Standard deviation of the displacement of edges in each direction, in pixels."""
    grain: float = 6.0
    """Correlation length of the displacement along an edge, in pixels."""
    flicker: float = 0.12
    """Probability that a region has a patch of another class."""
    patch: float = 0.8
    """Maximum share of a region that such a patch covers."""

    def __post_init__(self):
        for name, least, most in (("jitter", 0, 1e3), ("grain", 0.1, 1e3), ("flicker", 0, 1), ("patch", 0, 1)):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"Mistakes.{name}: got {value}, expected {least} to {most:g}")


DEFAULTS = Mistakes()


def mislabel(
    labels: UInt8[np.ndarray, "T H W"], classes: int, seed: int, mistakes: Mistakes = DEFAULTS
) -> UInt8[np.ndarray, "T H W"]:
    """Return true labels, 0 to `classes` - 1, with simulated errors: the same bytes for the same arguments."""
    out = np.empty_like(labels)
    for t, true_labels in enumerate(labels):
        rng = np.random.default_rng((seed, t))
        out[t] = _flickered(rng, _jittered(rng, true_labels, mistakes), classes, mistakes)
    return out


def _smooth(rng: np.random.Generator, size: tuple[int, int], grain: float) -> Float32[np.ndarray, "H W"]:
    """Return noise with a standard deviation of 1 and a correlation length of about `grain` pixels."""
    noise = cv2.GaussianBlur(rng.standard_normal(size).astype(np.float32), (0, 0), grain)
    return noise / max(float(noise.std()), 1e-6)


def _jittered(rng: np.random.Generator, labels: UInt8[np.ndarray, "H W"], mistakes: Mistakes) -> np.ndarray:
    """Return the labels displaced by smooth random shifts."""
    y, x = np.mgrid[: labels.shape[0], : labels.shape[1]].astype(np.float32)
    dx, dy = (mistakes.jitter * _smooth(rng, labels.shape, mistakes.grain) for _ in range(2))
    return cv2.remap(labels, x + dx, y + dy, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)


def _flickered(
    rng: np.random.Generator, labels: UInt8[np.ndarray, "H W"], classes: int, mistakes: Mistakes
) -> UInt8[np.ndarray, "H W"]:
    """Return the labels with a patch of another class in some regions."""
    out = labels.copy()
    for present in np.unique(labels):
        if classes < 2 or rng.random() >= mistakes.flicker:
            continue
        height = _smooth(rng, labels.shape, 3 * mistakes.grain)
        region = labels == present
        patch = region & (height >= np.quantile(height[region], 1 - rng.uniform(0, mistakes.patch)))
        out[patch] = (int(present) + int(rng.integers(1, classes))) % classes
    return out
