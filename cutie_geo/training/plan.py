"""What a stage will do and need, known before it has seen any data."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from cutie_geo.config import TrainConfig
from cutie_geo.model.arithmetic import flop_counter
from cutie_geo.model.network import CutieGeo
from cutie_geo.model.sam2 import Sam2Model
from cutie_geo.ops import sine_positions
from cutie_geo.training.draws import reference_frames
from cutie_geo.training.kinds import Network, kind_of
from cutie_geo.training.optimiser import Group, rate_at
from cutie_geo.training.unroll import encode_clips, one_hot, propagate, unit_range

ADAM_BYTES = 16
"""For each trained number: itself, its gradient and two moments, all in float32."""
GIB = 2**30


class MemoryPlan(NamedTuple):
    """Bytes on each device. The encoders' own working memory, and what the allocator wastes, come on top."""

    frozen: int
    """Weights that are not trained, in the run's precision."""
    trained: int
    """Trained weights with gradients, moments and, if there is one, their average."""
    kept_per_clip: int
    """What is kept of one clip with the most objects for its gradients."""
    clips: int
    """Clips that are kept at a time."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.frozen + self.trained + self.kept_per_clip * self.clips


class Plan(NamedTuple):
    """A stage in numbers."""

    config: TrainConfig
    processes: int
    dtype: str
    groups: list[Group]
    frozen: dict[str, int]
    """Numbers of weights that are not trained, by part."""
    memory: MemoryPlan | None
    """None where it isn't counted, as for SAM 2; so is the next."""
    flop_per_step: int | None
    """Operations of a step over all processes, a product with a sum counted as two; without the losses."""
    rates: list[tuple[int, float]]
    """From which step on the learning rate is what; only the start of each section of a falling curve."""

    @property
    def clips_at_once(self) -> int:
        """Clips of one part of a step in one process."""
        return self.config.batch // (self.processes * self.config.accumulate)

    def lines(self) -> list[str]:
        """The plan as text."""
        config = self.config
        sources = ", ".join(f"{source.name} x{source.times}" for source in config.data)
        trained = sum(group.count for group in self.groups)
        return [
            f"stage {config.stage}: {config.model} {' '.join(config.model_options)}".rstrip(),
            f"data: {sources}",
            f"clips: {config.clips.length} frames of {config.clips.crop}x{config.clips.crop}, "
            f"at most {config.clips.max_objects} objects; skips "
            + ", ".join(f"{skip} from {start:.0%}" for start, skip in config.clips.max_skip),
            f"steps: {config.steps:,} of {config.batch} clips = {self.processes} processes x {config.accumulate} parts "
            f"x {self.clips_at_once}; {config.steps * config.batch:,} clips in all",
            f"precision: {self.dtype}; gradients shortened to {config.optimiser.clip_norm:g}",
            "learning rate: " + ", ".join(f"{rate:.3g} from step {step:,}" for step, rate in self.rates),
            f"trained: {trained:,} weights",
            *(
                f"  {group.name}: {group.count:,}, rate x{group.factor:g}, decay {group.decay:g}"
                for group in self.groups
            ),
            f"frozen: {sum(self.frozen.values()):,} weights",
            *(f"  {part}: {count:,}" for part, count in self.frozen.items()),
            *self._costs(),
        ]

    def _costs(self) -> list[str]:
        """What was counted of arithmetic and memory."""
        config, memory = self.config, self.memory
        if memory is None or self.flop_per_step is None:
            return ["arithmetic and memory: not counted for this kind of network"]
        return [
            f"arithmetic: {self.flop_per_step / 1e12:.3g} TFLOP a step: at 100 TFLOP/s all steps take "
            f"{self.flop_per_step * config.steps / 1e14 / 3600:.1f} hours",
            f"memory: {memory.total / GIB:.2f} GiB a device (estimate): frozen weights {memory.frozen / GIB:.2f}, "
            f"trained weights with gradients and moments {memory.trained / GIB:.2f}, kept for gradients "
            f"{memory.clips} clips x {memory.kept_per_clip / GIB:.2f}; encoders' working memory comes on top",
        ]


def make_plan(model: Network, config: TrainConfig, processes: int = 1) -> Plan:
    """The plan of a stage for a network; of ours with its memory counted by a pass of shapes without numbers."""
    found = kind_of(config).groups(model, config)
    dtype = str(model.precision).removeprefix("torch.")
    memory, flop = (None, None) if isinstance(model, Sam2Model) else _counted(model, config, found, processes)
    return Plan(config, processes, dtype, found, frozen_counts(model), memory, flop, sections(config))


def _counted(model: CutieGeo, config: TrainConfig, found: list[Group], processes: int) -> tuple[MemoryPlan, int]:
    """Memory on each device, and operations of a step."""
    trained = sum(group.count for group in found)
    frozen_bytes = sum(w.numel() * w.element_size() for w in model.parameters() if not w.requires_grad)
    clips = max(config.batch // (processes * config.accumulate), 1)
    per_weight = ADAM_BYTES + (4 if config.optimiser.ema else 0)
    cost = clip_cost(model, config)
    memory = MemoryPlan(frozen_bytes, trained * per_weight, cost.kept, clips)
    return memory, cost.flop * config.batch


def frozen_counts(model: Network) -> dict[str, int]:
    """Weights that are not trained, by the two first parts of their names."""
    counts: dict[str, int] = {}
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            part = ".".join(name.split(".")[:2])
            counts[part] = counts.get(part, 0) + weight.numel()
    return counts


def sections(config: TrainConfig) -> list[tuple[int, float]]:
    """Steps at which the learning rate takes a new value, or, where it falls all the time, five of them."""
    if config.optimiser.schedule == "cosine":
        steps = [round(config.steps * share / 4) for share in range(4)] + [config.steps - 1]
    else:
        steps = [0, *(round(config.steps * share) for share in config.optimiser.drops)]
    warm = [config.optimiser.warm_up] if config.optimiser.warm_up else []
    chosen = sorted({step for step in [*steps, *warm] if step < config.steps})
    return [(step, rate_at(step, config.steps, config.optimiser)) for step in chosen]


class ClipCost(NamedTuple):
    """What one clip with the most objects costs."""

    kept: int
    """Bytes that its forward pass keeps for its gradients."""
    flop: int
    """Operations of its forward and backward pass, a product with a sum counted as two; without the losses."""


def clip_cost(model: CutieGeo, config: TrainConfig) -> ClipCost:
    """The cost of one clip. Nothing is computed: shapes alone go through the network."""
    slots, clips = config.clips.max_objects, config.clips
    seen: dict[int, int] = {}
    held: list[Tensor] = []  # so that no storage's place is given to another while they are counted

    def keep(tensor: Tensor) -> Tensor:
        if not (tensor.is_leaf and tensor.requires_grad):  # weights are counted elsewhere
            storage = tensor.untyped_storage()
            seen[storage._cdata] = storage.nbytes()
            held.append(tensor)
        return tensor

    references = [reference_frames(0, clips.length, config.unroll.reference_frames)]
    was_training = model.training
    model.train()
    with FakeTensorMode(allow_non_fake_inputs=True), flop_counter() as counter:
        images = unit_range(torch.zeros(1, clips.length, 3, clips.crop, clips.crop, dtype=torch.uint8))
        masks = one_hot(torch.zeros(1, clips.crop, clips.crop, dtype=torch.uint8), slots)
        deep = [True] * clips.length
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), model.autocast():
            features = encode_clips(model, images, config.unroll.encode_at_once)
            said = propagate(model, features, masks, torch.ones(1, slots), references, deep, config.unroll)
        kept = sum(seen.values())
        sum(field.float().mean() for field in said if field is not None).backward()  # type: ignore[union-attr]
    sine_positions.cache_clear()  # those made here are shapes without numbers
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    return ClipCost(kept, counter.get_total_flops())
