"""Plan of a stage: steps, parameter groups, memory and FLOPs, computed before any data is read."""

from typing import NamedTuple

from cutie_geo.config import TrainConfig
from cutie_geo.training.cost import ClipCost
from cutie_geo.training.optimiser import Group, learning_rate_at
from cutie_geo.training.trainable import Network, Trainable

ADAM_BYTES = 16
"""Bytes per trained weight: weight, gradient and two moments, all in float32."""
GIB = 2**30


class MemoryPlan(NamedTuple):
    """Bytes on each device, without temporary memory of the encoders and overhead of the allocator."""

    frozen: int
    """Frozen weights, in the run's precision."""
    trained: int
    """Trained weights with gradients, moments and moving average."""
    kept_per_clip: int
    """Activations stored for the backward pass of one clip with the largest number of objects."""
    clips: int
    """Number of clips of one gradient accumulation step."""

    @property
    def total(self) -> int:
        return self.frozen + self.trained + self.kept_per_clip * self.clips


class Plan(NamedTuple):
    """Summary of a stage."""

    config: TrainConfig
    processes: int
    dtype: str
    groups: list[Group]
    frozen: dict[str, int]
    """Number of frozen weights, by part."""
    memory: MemoryPlan | None
    """Memory estimate, or None if it is not computed."""
    flop_per_step: int | None
    """FLOPs of a step over all processes, without the losses; a multiply-add counts as two."""
    rates: list[tuple[int, float]]
    """First step and learning rate of each section of the schedule."""

    @property
    def clips_at_once(self) -> int:
        """Number of clips of one gradient accumulation step in one process."""
        return self.config.batch // (self.processes * self.config.accumulate)

    def lines(self) -> list[str]:
        """Return the plan as lines of text."""
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
            f"precision: {self.dtype}; gradients clipped to {config.optimiser.clip_norm:g}",
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
        """Return FLOPs and memory as lines of text."""
        config, memory = self.config, self.memory
        if memory is None or self.flop_per_step is None:
            return ["arithmetic and memory: not counted for this model"]
        return [
            f"arithmetic: {self.flop_per_step / 1e12:.3g} TFLOP a step: at 100 TFLOP/s all steps take "
            f"{self.flop_per_step * config.steps / 1e14 / 3600:.1f} hours",
            f"memory: {memory.total / GIB:.2f} GiB a device (estimate): frozen weights {memory.frozen / GIB:.2f}, "
            f"trained weights with gradients and moments {memory.trained / GIB:.2f}, kept for gradients "
            f"{memory.clips} clips x {memory.kept_per_clip / GIB:.2f}; encoders' working memory comes on top",
        ]


def make_plan(trainable: Trainable, model: Network, processes: int = 1) -> Plan:
    """Return the plan of a stage, with memory and FLOPs if the trainable computes them."""
    config, groups, cost = trainable.config, trainable.groups(model), trainable.cost(model)
    dtype = str(model.precision).removeprefix("torch.")
    memory = None if cost is None else _memory(model, config, groups, cost, processes)
    flop = None if cost is None else cost.flop * config.batch
    return Plan(config, processes, dtype, groups, frozen_counts(model), memory, flop, sections(config))


def _memory(model: Network, config: TrainConfig, groups: list[Group], cost: ClipCost, processes: int) -> MemoryPlan:
    """Return the memory on each device."""
    trained = sum(group.count for group in groups)
    frozen_bytes = sum(w.numel() * w.element_size() for w in model.parameters() if not w.requires_grad)
    clips = max(config.batch // (processes * config.accumulate), 1)
    per_weight = ADAM_BYTES + (4 if config.optimiser.ema else 0)
    return MemoryPlan(frozen_bytes, trained * per_weight, cost.kept, clips)


def frozen_counts(model: Network) -> dict[str, int]:
    """Count frozen weights by the first two parts of their names."""
    counts: dict[str, int] = {}
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            part = ".".join(name.split(".")[:2])
            counts[part] = counts.get(part, 0) + weight.numel()
    return counts


def sections(config: TrainConfig) -> list[tuple[int, float]]:
    """Return the steps at which the learning rate changes; five of them for a cosine schedule."""
    if config.optimiser.schedule == "cosine":
        steps = [round(config.steps * share / 4) for share in range(4)] + [config.steps - 1]
    else:
        steps = [0, *(round(config.steps * share) for share in config.optimiser.drops)]
    warm = [config.optimiser.warm_up] if config.optimiser.warm_up else []
    chosen = sorted({step for step in [*steps, *warm] if step < config.steps})
    return [(step, learning_rate_at(step, config.steps, config.optimiser)) for step in chosen]
