"""Parameter groups, learning rate schedules, and the exponential moving average of weights."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cutie_geo.config import OptimiserConfig

ENCODER = ("encoder.features.", "encoder.vision.", "encoder.geometry.")
"""Name prefixes of the pixel encoders' weights, without their fusion."""
ENCODER_GROUP = "encoder"
"""Name of their parameter group."""
QUERIES = (
    "object_transformer.query.weight",
    "object_transformer.query_position.weight",
    "object_transformer.summary_to_query.weight",
    "object_transformer.summary_to_position.weight",
)
"""Names of weights without weight decay. The last two are not embeddings; they are part of Cutie's recipe."""


class Group(NamedTuple):
    """A parameter group."""

    name: str
    weights: dict[str, nn.Parameter]
    factor: float
    """Factor of the base learning rate."""
    decay: float

    @property
    def count(self) -> int:
        """Number of weights."""
        return sum(weight.numel() for weight in self.weights.values())


def groups(model: nn.Module, config: OptimiserConfig) -> list[Group]:
    """Return the parameter groups of a network's trained weights.

    Source: Cutie specification, section 8.1.

    Raises:
        ValueError: If all weights are frozen.
    """
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if not trained:
        raise ValueError("model: no weights to train, all are frozen")
    encoder = {name: weight for name, weight in trained.items() if name.startswith(ENCODER)}
    queries = {name: weight for name, weight in trained.items() if name in QUERIES}
    rest = {name: weight for name, weight in trained.items() if name not in encoder and name not in queries}
    found = [
        Group(ENCODER_GROUP, encoder, config.encoder_factor, config.weight_decay),
        Group("queries", queries, 1.0, 0.0),
        Group("rest", rest, 1.0, config.weight_decay),
    ]
    return [group for group in found if group.weights]


def build_optimiser(found: Iterable[Group], config: OptimiserConfig, half: bool) -> torch.optim.AdamW:
    """Build AdamW over parameter groups; `half` selects the epsilon for half precision."""
    epsilon = config.epsilon if config.epsilon is not None else (1e-6 if half else 1e-8)
    options = [
        {
            "params": list(group.weights.values()),
            "weight_decay": group.decay,
            "factor": group.factor,
            "name": group.name,
        }
        for group in found
    ]
    return torch.optim.AdamW(options, lr=config.learning_rate, eps=epsilon)


def learning_rate_at(step: int, steps: int, config: OptimiserConfig) -> float:
    """Return the learning rate of step `step`, counted from 0, of `steps`."""
    rate = config.learning_rate
    if config.schedule == "cosine":
        floor = config.floor or 0.0
        rate *= floor + (1 - floor) * (1 + math.cos(math.pi * step / steps)) / 2
    else:
        rate /= config.factor ** sum(step >= round(steps * share) for share in config.drops)
    return rate * min((step + 1) / (config.warm_up + 1), 1)


def set_learning_rate(optimiser: Any, rate: float, without_encoder: bool = False) -> None:
    """Set the learning rate of every group: `rate` times the group's factor, or 0 for frozen encoders."""
    for group in optimiser.param_groups:
        group["lr"] = 0.0 if without_encoder and group.get("name") == ENCODER_GROUP else rate * group["factor"]


@contextmanager
def frozen_encoder(optimiser: Any, frozen: bool) -> Iterator[None]:
    """Compute no gradients of the encoder's group within the block, if `frozen`, which saves their time."""
    weights = [w for group in optimiser.param_groups if group.get("name") == ENCODER_GROUP for w in group["params"]]
    for weight in weights if frozen else ():
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights if frozen else ():
            weight.requires_grad_(True)


class MovingAverage:
    """Exponential moving average of weights.

    Unlike `torch.optim.swa_utils.AveragedModel`, it does not copy frozen encoders.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.average = {name: weight.detach().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Update the average. A smaller decay in the first steps reduces the weight of the initial values."""
        decay = min(self.decay, (1 + step) / (10 + step))
        now = [weights[name].detach() for name in self.average]
        torch._foreach_lerp_(list(self.average.values()), now, 1 - decay)  # type: ignore[attr-defined]
