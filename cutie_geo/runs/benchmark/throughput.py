"""Throughput of a model and of its multi-scale ensemble, and utilisation of the device."""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cutie_geo.flops import flop_counter
from cutie_geo.inference.ensemble import Ensemble, View, views_of
from cutie_geo.inference.one_video import peak_memory, reset_peak_memory
from cutie_geo.model.network import CutieGeo

PEAK_TFLOPS = 790.0
"""Peak of an H200: published measurements of large dense bfloat16 products."""
SCALES = (1.2, 1.3, 1.4)
"""Scales of the paper's ensemble, each with and without a horizontal flip."""
PLAIN_OBJECTS, ENSEMBLE_OBJECTS = (1, 5, 20), (1, 5)


class Throughput(NamedTuple):
    """Measurement of one table row."""

    views: int
    objects: int
    frames_per_second: float
    gflop: float
    """GFLOP of one frame with all its views."""
    peak_bytes: int | None

    def utilisation(self, peak_tflops: float) -> float:
        """Return the share of the peak that is reached, 0 to 1."""
        return self.gflop * self.frames_per_second / 1e3 / peak_tflops


def plain(size: tuple[int, int]) -> list[View]:
    """Return the one view of the frame as it is."""
    return ensemble(size, [1.0], flip=False)


def ensemble(size: tuple[int, int], scales: Sequence[float] = SCALES, flip: bool = True) -> list[View]:
    """Return the paper's views, each scale with and without flip. Raises ValueError for too small frames."""
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
    """Measure `count` frames after enough others to fill the working memory; files are not included.

    Args:
        mask: (H, W) label map of the first frame.
        frames: makes an endless video on the device.
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
    """Return the label maps of the next frames; `mask` is the prompt of the first."""
    masks = [mask] + [None] * (len(images) - 1)
    ahead = segmenter.encode_ahead(images)
    steps = zip(images, masks, ahead, strict=True)
    return [segmenter.labels(segmenter.step(image, given, features=seen)) for image, given, seen in steps]


def row_text(row: Throughput, peak_tflops: float) -> str:
    """Return a row of the table under HEADER."""
    peak = "?" if row.peak_bytes is None else f"{row.peak_bytes / 2**30:.2f}"
    return (
        f"{row.views:>5} {row.objects:>7} {row.frames_per_second:>9.2f} {row.gflop:>12.1f} "
        f"{row.gflop * row.frames_per_second / 1e3:>9.2f} {row.utilisation(peak_tflops):>8.1%} {peak:>8}"
    )


HEADER = (
    f"{'views':>5} {'objects':>7} {'frames/s':>9} {'GFLOP/frame':>12} {'TFLOP/s':>9} {'of peak':>8} {'peak GiB':>8}"
)
