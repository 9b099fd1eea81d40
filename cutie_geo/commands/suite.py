"""The table of a GPU: frames per second of the paper's model by number of objects, and of its multi-scale ensemble."""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cutie_geo.inference.one_video import peak_memory, reset_peak_memory
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.network import CutieGeo
from cutie_geo.structures import FrameFeatures

ROOF = 790.0
"""TFLOP/s of dense bfloat16 products on an H200, as measured by others in large products; `--roof` says another."""
SCALES = (1.2, 1.3, 1.4)
"""Of the paper's ensemble, each with and without mirroring."""
PLAIN_OBJECTS, ENSEMBLE_OBJECTS = (1, 5, 20), (1, 5)


class View(NamedTuple):
    """One way to look at a frame."""

    size: tuple[int, int]
    mirrored: bool

    def image(self, image: Tensor) -> Tensor:
        """The frame in this view."""
        seen = F.interpolate(image[None], size=self.size, mode="bilinear", align_corners=False, antialias=True)[0]
        return seen.flip(-1) if self.mirrored else seen

    def mask(self, mask: Tensor) -> Tensor:
        """The label map in this view."""
        seen = F.interpolate(mask[None, None].float(), size=self.size, mode="nearest-exact")[0, 0].long()
        return seen.flip(-1) if self.mirrored else seen

    def back(self, probs: Tensor, size: tuple[int, int]) -> Tensor:
        """Probabilities at the frame's size."""
        probs = probs.flip(-1) if self.mirrored else probs
        return F.interpolate(probs[None], size=size, mode="bilinear", align_corners=False)[0]


class Throughput(NamedTuple):
    """What came of one row."""

    views: int
    objects: int
    frames_per_second: float
    gflop: float
    """Of one frame with all its views."""
    peak_bytes: int | None

    def share(self, roof: float) -> float:
        """Of `roof` TFLOP/s."""
        return self.gflop * self.frames_per_second / 1e3 / roof


def plain(size: tuple[int, int]) -> list[View]:
    """The frame as it is."""
    return [View(size, False)]


def ensemble(size: tuple[int, int], scales: Sequence[float] = SCALES) -> list[View]:
    """The paper's views: every scale, straight and mirrored."""
    sizes = [(round(size[0] * scale), round(size[1] * scale)) for scale in scales]
    return [View(each, mirrored) for each in sizes for mirrored in (False, True)]


@torch.inference_mode()
def throughput(
    model: CutieGeo,
    options: dict[str, Any],
    views: list[View],
    mask: Tensor,
    frames: Callable[[], Iterator[Tensor]],
    count: int,
    lookahead: int,
    synchronise: Callable[[], None],
) -> Throughput:
    """Frames a second over `count` frames, after enough others to fill the working memory.

    frames: makes an endless video, on the device. Reading and writing files is no part of this.
    """
    trackers = [Tracker(model, **options) for _ in views]
    video, objects, period = frames(), int(mask.max()), options["mem_every"]
    filled = -(-period * options["max_mem_frames"] // lookahead)
    batches = max(count // lookahead, 1)
    with model.autocast():
        _segment(trackers, views, list(islice(video, lookahead)), mask)
        for _ in range(filled):
            _segment(trackers, views, list(islice(video, lookahead)))
        reset_peak_memory(model.device)
        synchronise()
        start = time.perf_counter()
        for _ in range(batches):
            _segment(trackers, views, list(islice(video, lookahead)))
        synchronise()
        seconds = time.perf_counter() - start
        peak = peak_memory(model.device)
        with FlopCounterMode(display=False) as counter:
            for _ in range(period):
                _segment(trackers, views, list(islice(video, lookahead)))
    gflop = counter.get_total_flops() / 1e9 / (period * lookahead)
    return Throughput(len(views), objects, batches * lookahead / seconds, gflop, peak)


def _segment(
    trackers: list[Tracker], views: list[View], images: list[Tensor], mask: Tensor | None = None
) -> list[Tensor]:
    """Label maps of the next frames, by the sum of all views' probabilities; `mask` is for the first of them."""
    size = (images[0].shape[-2], images[0].shape[-1])
    features = _encoded(trackers, views, images)
    labels = []
    for t, image in enumerate(images):
        total = torch.zeros(1, device=image.device)
        for tracker, view, ahead in zip(trackers, views, features):
            given = view.mask(mask) if mask is not None and t == 0 else None
            total = total + view.back(tracker.step(view.image(image), given, features=ahead[t]), size)
        labels.append(total.argmax(0))
    return labels


def _encoded(trackers: list[Tracker], views: list[View], images: list[Tensor]) -> list[list[FrameFeatures]]:
    """Features of every frame in every view; views of one size share a batch."""
    out: dict[int, list[FrameFeatures]] = {}
    for size in dict.fromkeys(view.size for view in views):
        same = [i for i, view in enumerate(views) if view.size == size]
        batch = [views[i].image(image) for i in same for image in images]
        features = trackers[same[0]].encode_ahead(batch)
        out |= {i: features[k * len(images) : (k + 1) * len(images)] for k, i in enumerate(same)}
    return [out[i] for i in range(len(views))]


def line(row: Throughput, roof: float) -> str:
    """A row as text."""
    peak = "?" if row.peak_bytes is None else f"{row.peak_bytes / 2**30:.2f}"
    return (
        f"{row.views:>5} {row.objects:>7} {row.frames_per_second:>9.2f} {row.gflop:>12.1f} "
        f"{row.gflop * row.frames_per_second / 1e3:>9.2f} {row.share(roof):>8.1%} {peak:>8}"
    )


HEADER = (
    f"{'views':>5} {'objects':>7} {'frames/s':>9} {'GFLOP/frame':>12} {'TFLOP/s':>9} {'of roof':>8} {'peak GiB':>8}"
)
