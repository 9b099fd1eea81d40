"""Operations and time per frame by part of the network, as counted by torch."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cutie_geo.flops import flop_counter
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.encoder import FusedEncoder
from cutie_geo.model.network import CutieGeo

MATRIX = {"cpu": 2048, "cuda": 8192}
"""Side of the square matrices whose product measures peak throughput."""
REST = "memory read and the rest"


class PartCost(NamedTuple):
    """Cost of one part per frame, averaged over a memory period."""

    part: str
    parameters: int
    gflop: float
    """10^9 operations in matrix products, convolutions and attention; a multiply-add counts as two."""
    seconds: float

    @property
    def gflop_per_second(self) -> float:
        """Achieved speed."""
        return self.gflop / self.seconds if self.seconds else 0.0


def parts_of(model: CutieGeo) -> dict[str, list[nn.Module]]:
    """Return the modules of each part; none contains another."""
    encoder = model.encoder
    if isinstance(encoder, FusedEncoder):
        parts: dict[str, list[nn.Module]] = {"vision (Hiera)": [encoder.vision]}
        if encoder.geometry is not None:
            depth = encoder.geometry.model
            dpt = [*depth.neck.reassemble_stage.layers, *depth.neck.convs, *depth.neck.fusion_stage.layers]
            parts |= {"geometry (DINOv2)": [depth.backbone], "geometry (DPT)": [*dpt, depth.head]}
        parts["fusion"] = list(encoder.fusion)
    else:
        parts = {"vision (ResNet)": [encoder]}
    return parts | {
        "keys and projections": [model.pixel_projection, model.key_projection],
        "pixel fusion": [model.pixel_fusion],
        "object transformer": [model.object_transformer],
        "decoder": [model.decoder],
        "mask encoder": [model.mask_encoder, model.object_summarizer],
    }


def frame_cost(
    model: CutieGeo,
    options: dict[str, Any],
    frames: Callable[[], Iterator[Tensor]],
    mask: Tensor,
    synchronise: Callable[[], None],
) -> list[PartCost]:
    """Measure the cost per frame of each part, and of the rest in the last row, over one memory period after a warm-up.

    Args:
        frames: returns an endless video. It is called twice, because counting operations slows the run down.
    """
    flops, parts = Tally(model, lambda: 0.0), parts_of(model)
    with flop_counter() as counter:
        flops.now = lambda: float(counter.get_total_flops())
        _run(model, options, frames(), mask, flops)
    clock = Tally(model, time.perf_counter, synchronise)
    _run(model, options, frames(), mask, clock)
    period = options["mem_every"]
    weights = {name: sum(_parameters(module) for module in modules) for name, modules in parts.items()}
    weights[REST] = _parameters(model) - sum(weights.values())
    names = [*parts, REST]
    return [
        PartCost(name, weights[name], flops.spent[name] / period / 1e9, clock.spent[name] / period) for name in names
    ]


def peak_gflop_per_second(model: CutieGeo, synchronise: Callable[[], None]) -> float:
    """Measure one large matrix product in the model's precision: a limit for all parts."""
    side = MATRIX.get(model.device.type, 2048)
    a = torch.rand(side, side, device=model.device, dtype=model.precision)
    best = float("inf")
    for _ in range(6):
        synchronise()
        start = time.perf_counter()
        torch.mm(a, a)
        synchronise()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best / 1e9


class Tally:
    """Accumulates the change of a counter while each part runs."""

    def __init__(self, model: CutieGeo, now: Callable[[], float], settle: Callable[[], None] = lambda: None) -> None:
        self.model, self.now, self.settle = model, now, settle
        self.spent: dict[str, float] = {}
        self.start = 0.0

    def read(self) -> float:
        """Return the counter's value after the device has done its work."""
        self.settle()
        return self.now()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Count inside the block; what belongs to no part is added to REST."""
        self.spent = dict.fromkeys([*parts_of(self.model), REST], 0.0)
        hooks, begin = [], self.read()
        for name, modules in parts_of(self.model).items():
            for module in modules:
                hooks += [module.register_forward_pre_hook(self._begin), module.register_forward_hook(self._end(name))]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        self.spent[REST] = self.read() - begin - sum(self.spent.values())

    def _begin(self, *_: Any) -> None:
        self.start = self.read()

    def _end(self, name: str) -> Callable[..., None]:
        def end(*_: Any) -> None:
            self.spent[name] += self.read() - self.start

        return end


@torch.inference_mode()
def _run(model: CutieGeo, options: dict[str, Any], frames: Iterator[Tensor], mask: Tensor, tally: Tally) -> None:
    """Run a video to the end of its second memory period and count the second."""
    tracker, period = Tracker(model, **options), options["mem_every"]
    tracker.step(next(frames), mask)
    for _ in range(period):
        tracker.step(next(frames))
    with tally.watch():
        for _ in range(period):
            tracker.step(next(frames))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def table(rows: list[PartCost], objects: int, peak: float) -> str:
    """Return the rows as text, with each part's share of the device's peak."""
    total = PartCost("all", *(sum(column) for column in list(zip(*rows))[1:]))  # type: ignore[arg-type]
    lines = [f"{'part':<26} {'params M':>9} {'GFLOP':>9} {'ms':>9} {'GFLOP/s':>9} {'of limit':>9}"]
    for row in [*rows, total]:
        lines.append(
            f"{row.part:<26} {row.parameters / 1e6:>9.2f} {row.gflop:>9.2f} {row.seconds * 1e3:>9.2f} "
            f"{row.gflop_per_second:>9.1f} {row.gflop_per_second / peak:>9.1%}"
        )
    return "\n".join([*lines, f"{objects} objects; limit {peak:.1f} GFLOP/s, measured in one product of matrices"])
