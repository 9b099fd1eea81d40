"""The table of a GPU: frames per second of the paper's model by number of objects, and of its multi-scale ensemble."""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cutie_geo.inference.ensemble import Ensemble, View, views_of
from cutie_geo.inference.one_video import peak_memory, reset_peak_memory
from cutie_geo.model.arithmetic import flop_counter
from cutie_geo.model.network import CutieGeo

ROOF = 790.0
"""TFLOP/s of dense bfloat16 products on an H200, as measured by others in large products; `--roof` says another."""
SCALES = (1.2, 1.3, 1.4)
"""Of the paper's ensemble, each with and without mirroring."""
PLAIN_OBJECTS, ENSEMBLE_OBJECTS = (1, 5, 20), (1, 5)


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
    return ensemble(size, [1.0], flip=False)


def ensemble(size: tuple[int, int], scales: Sequence[float] = SCALES, flip: bool = True) -> list[View]:
    """The paper's views: every scale, straight and mirrored. Raises ValueError if frames of `size` are too small."""
    views = list(views_of(scales, flip))
    for view in views:
        view.size(size)
    return views


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
    segmenter = Ensemble(model, views=views, **options)
    video, objects, period = frames(), int(mask.max()), options["mem_every"]
    filled = -(-period * options["max_mem_frames"] // lookahead)
    batches = max(count // lookahead, 1)
    with model.autocast():
        _segment(segmenter, list(islice(video, lookahead)), mask)
        for _ in range(filled):
            _segment(segmenter, list(islice(video, lookahead)))
        reset_peak_memory(model.device)
        synchronise()
        start = time.perf_counter()
        for _ in range(batches):
            _segment(segmenter, list(islice(video, lookahead)))
        synchronise()
        seconds = time.perf_counter() - start
        peak = peak_memory(model.device)
        with flop_counter() as counter:
            for _ in range(period):
                _segment(segmenter, list(islice(video, lookahead)))
    gflop = counter.get_total_flops() / 1e9 / (period * lookahead)
    return Throughput(len(views), objects, batches * lookahead / seconds, gflop, peak)


def _segment(segmenter: Ensemble, images: list[Tensor], mask: Tensor | None = None) -> list[Tensor]:
    """Label maps of the next frames; `mask` is for the first of them."""
    masks = [mask] + [None] * (len(images) - 1)
    ahead = segmenter.encode_ahead(images)
    steps = zip(images, masks, ahead, strict=True)
    return [segmenter.labels(segmenter.step(image, given, features=seen)) for image, given, seen in steps]


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
