"""Comparison of exported graphs with the network that they were exported from."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cutie_geo.config import require
from cutie_geo.data.example import example_frames, example_masks
from cutie_geo.data.masks import read_labels
from cutie_geo.data.video import read_video
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.network import CutieGeo
from cutie_geo.onnx import OnnxTracker
from cutie_geo.onnx.folder import Description
from cutie_geo.ops import bilinear, nearest_labels

MOST_APART = 1e-3
"""Largest difference of probabilities between an export in float32 and the network."""
MOST_UNEQUAL = 1e-3
"""Largest share of pixels with another label."""


class Comparison(NamedTuple):
    """Differences of two programs over a clip."""

    frames: int
    largest: float
    """Largest difference of probabilities."""
    median: float
    """Median over frames of the largest difference. Attention masks are thresholds: where two objects are equally
    likely, rounding decides, which shows on a frame or two of untrained networks."""
    mean: float
    """Mean difference of probabilities."""
    equal: float
    """Share of pixels with the same label."""

    def text(self) -> str:
        """Return the report's line."""
        return (
            f"check: {self.frames} frames, objects added and removed; probabilities differ by at most "
            f"{self.largest:.2g} (mean {self.mean:.2g}), {100 * self.equal:.3f} % of labels are equal"
        )

    def require_close(self, precision: str) -> None:
        """Raise ValueError if an export in float32 differs by more than rounding."""
        close = self.largest <= MOST_APART and self.equal >= 1 - MOST_UNEQUAL
        require(
            precision != "fp32" or close,
            f"check: probabilities differ by {self.largest:.2g}, expected at most {MOST_APART:g}; the export is wrong",
        )


class CheckFrame(NamedTuple):
    """Frame of the comparison."""

    image: Tensor
    """(3, H, W) in [0, 1]."""
    mask: Tensor | None
    """Label map of objects that are added on this frame."""
    removed: list[int]
    """Objects that are removed before this frame."""


def clip_frames(size: tuple[int, int], frames: int) -> Iterator[CheckFrame]:
    """Yield the bundled clip at `size`: one object joins after a quarter, another leaves after half, and returns."""
    late, gone, back = frames // 4, frames // 2, frames // 2 + max(frames // 8, 1)
    masks = sorted(example_masks().glob("*.png"))
    for i, frame in zip(range(frames), read_video(example_frames())):
        labels = torch.from_numpy(read_labels(masks[i]).labels).long()
        joins = {0: [1, 2], late: [3], back: [1]}.get(i)
        mask = None if joins is None else nearest_labels(labels, size) * torch.isin(
            nearest_labels(labels, size), torch.tensor(joins))  # fmt: skip
        yield CheckFrame(bilinear(frame.image[None], size)[0].clamp(0, 1), mask, [1] if i == gone else [])


def twin(model: CutieGeo, about: Description) -> Tracker:
    """Return a torch tracker with the memory and the size of an export."""
    return Tracker(
        model, mem_every=about.mem_every, stagger_updates=about.stagger_updates, max_mem_frames=about.max_mem_frames,
        top_k=about.top_k, full_frame_every=about.full_frame_every, max_internal_size=min(about.size),
        min_internal_size=min(about.size), antialias=about.antialias,
    )  # fmt: skip


def compare(tracker: Tracker, exported: OnnxTracker, frames: Iterator[CheckFrame]) -> Comparison:
    """Run both trackers on a clip."""
    largest: list[float] = []
    total, count, equal, pixels = 0.0, 0, 0, 0
    for frame in frames:
        for each in (tracker, exported) if frame.removed else ():
            each.remove(frame.removed)
        probs = tracker.step(frame.image, frame.mask)
        mask = None if frame.mask is None else frame.mask.numpy()
        found = exported.step(frame.image.numpy(), mask)
        apart = np.abs(probs.numpy() - found)
        largest.append(float(apart.max()))
        total, count = total + float(apart.sum()), count + apart.size
        same = tracker.labels(probs).numpy() == exported.labels(found)
        equal, pixels = equal + int(same.sum()), pixels + same.size
    return Comparison(len(largest), max(largest), median(largest), total / count, equal / pixels)


def check(model: CutieGeo, folder: Path, frames: int) -> Comparison:
    """Compare a folder of graphs with its model in float32 on the bundled clip, resized to the graphs' size."""
    exported = OnnxTracker(folder)
    return compare(twin(model, exported.about), exported, clip_frames(exported.about.size, frames))
