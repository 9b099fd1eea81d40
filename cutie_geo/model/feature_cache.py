"""Features of frozen encoders kept on disk: worth it only where the same pixels come again and again."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

log = logging.getLogger(__name__)

ROOM = 4 * 2**30
"""Bytes that are left free on the disk: checkpoints go first."""
Features = tuple[Tensor, ...]


class FeatureCache:
    """A folder with one file for each frame and encoder.

    A frame is known by its pixels, so a file never has to be thrown away: other pixels have another name. What is
    found was computed in a batch of another size, perhaps, and differs from a fresh result by rounding then.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hits = self.misses = 0
        self._full = False

    def fetch(self, owner: str, images: Float[Tensor, "B 3 H W"], compute: Callable[[Tensor], Features]) -> Features:
        """The features of `images`: those on disk, and those that `compute` makes of all others, as one batch.

        owner: what tells one encoder's features from those of another, such as the digest of its weights.
        """
        paths = [self.folder / owner / key[:2] / f"{key}.safetensors" for key in pixel_keys(images)]
        found = [self._read(path, images.device) for path in paths]
        fresh = [index for index, features in enumerate(found) if features is None]
        self.hits, self.misses = self.hits + len(found) - len(fresh), self.misses + len(fresh)
        if fresh:
            for row, features in enumerate(zip(*(field.split(1) for field in compute(images[fresh])))):
                found[fresh[row]] = features
                self._write(paths[fresh[row]], features)
        return tuple(torch.cat(column) for column in zip(*(features for features in found if features is not None)))

    def _read(self, path: Path, device: torch.device) -> Features | None:
        """A frame's features; None if they aren't there, or not whole."""
        try:
            content = load_file(path, device=str(device))
        except (SafetensorError, OSError):
            return None
        return tuple(content[name] for name in sorted(content))

    def _write(self, path: Path, features: Features) -> None:
        """Keep a frame's features, unless the disk is nearly full."""
        if self._full:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(path.parent).free < ROOM:
                raise OSError(28, f"less than {ROOM >> 30} GiB free")
            part = path.with_name(f".{path.name}.{id(self)}.part")
            save_file({f"{i}": field.contiguous() for i, field in enumerate(features)}, part)
            part.replace(path)
        except (SafetensorError, OSError) as error:
            self._full = True
            log.warning("%s: no more features are kept: %s", self.folder, error)


def pixel_keys(images: Float[Tensor, "B 3 H W"]) -> list[str]:
    """A name of 128 bits for each image, and its size: two sums of its numbers' bits with pseudo-random weights, modulo
    2**64, computed where the image is."""
    return [f"{_sum(image, 1):016x}{_sum(image, 2):016x}-{image.shape[-2]}x{image.shape[-1]}" for image in images]


def _sum(image: Tensor, salt: int) -> int:
    bits = image.float().contiguous().view(torch.int32).flatten().long()
    return int((bits * _weights(len(bits), salt, image.device)).sum()) & (2**64 - 1)


def _weights(count: int, salt: int, device: torch.device) -> Int[Tensor, "n"]:
    """Odd numbers that look random: a mix of each place, wrapping around."""
    x = (torch.arange(count, device=device) + 1) * 0x1E3779B97F4A7C15 + salt * 0x3F58476D1CE4E5B9
    x = (x ^ (x >> 30)) * 0x3F58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x14D049BB133111EB
    return (x ^ (x >> 31)) | 1
