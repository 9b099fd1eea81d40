"""Which weights learn how fast, and the average of where they have been."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cutie_geo.config import OptimiserConfig

ENCODER = ("encoder.features.", "encoder.vision.", "encoder.geometry.")
"""Names of the weights of pixel encoders; their fusion is not among them."""
QUERIES = (
    "object_transformer.query.weight",
    "object_transformer.query_position.weight",
    "object_transformer.summary_to_query.weight",
    "object_transformer.summary_to_position.weight",
)
"""Weights without decay. The last two are no embeddings; that they are here is part of Cutie's recipe."""


class Group(NamedTuple):
    """Weights that learn alike."""

    name: str
    weights: dict[str, nn.Parameter]
    factor: float
    """Their learning rate is that of the rest times this."""
    decay: float

    @property
    def count(self) -> int:
        """Numbers in it."""
        return sum(weight.numel() for weight in self.weights.values())


def groups(model: nn.Module, config: OptimiserConfig) -> list[Group]:
    """The trained weights of a network. Source: Cutie specification, section 8.1.

    Raises ValueError if there are none.
    """
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if not trained:
        raise ValueError("model: no weights to train, all are frozen")
    encoder = {name: weight for name, weight in trained.items() if name.startswith(ENCODER)}
    queries = {name: weight for name, weight in trained.items() if name in QUERIES}
    rest = {name: weight for name, weight in trained.items() if name not in encoder and name not in queries}
    found = [
        Group("encoder", encoder, config.encoder_factor, config.weight_decay),
        Group("queries", queries, 1.0, 0.0),
        Group("rest", rest, 1.0, config.weight_decay),
    ]
    return [group for group in found if group.weights]


def sam2_groups(network: nn.Module, config: OptimiserConfig, layer_decay: float) -> list[Group]:
    """The trained weights of the package's SAM 2: the image encoder has `encoder_factor` times the rate of the rest, a
    block of its trunk `layer_decay` times that of the block behind it, and biases and layer norms don't decay.

    Raises ValueError if there are none. Source: sam2.1_hiera_b+_MOSE_finetune.yaml of the package.
    """
    norms = {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.LayerNorm)}
    blocks = len(network.image_encoder.trunk.blocks)  # type: ignore[union-attr, arg-type]
    found: dict[tuple[str, float, float], dict[str, nn.Parameter]] = {}
    for name, weight in network.named_parameters():
        if weight.requires_grad:
            part, factor = _sam2_part(name, blocks, config.encoder_factor, layer_decay)
            decay = 0.0 if "bias" in name or name in norms else config.weight_decay
            found.setdefault((part, factor, decay), {})[name] = weight
    if not found:
        raise ValueError("model: no weights to train, all are frozen")
    return [Group(part, weights, factor, decay) for (part, factor, decay), weights in found.items()]


def _sam2_part(name: str, blocks: int, encoder_factor: float, layer_decay: float) -> tuple[str, float]:
    """Which part of SAM 2 a weight is in, and its rate as a multiple of the base rate."""
    if not name.startswith("image_encoder."):
        return "rest", 1.0
    _, part, *inner = name.split(".")
    if part != "trunk" or inner[0].startswith("pos_embed"):
        return "encoder", encoder_factor
    if inner[0] == "blocks":
        block = int(inner[1])
        return f"encoder.block{block}", encoder_factor * layer_decay ** (blocks - block)
    return "encoder.patches", encoder_factor * layer_decay ** (blocks + 1)


def build_optimiser(found: Iterable[Group], config: OptimiserConfig, half: bool) -> torch.optim.AdamW:
    """AdamW over groups; `half` is whether the run is in half precision."""
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


def rate_at(step: int, steps: int, config: OptimiserConfig) -> float:
    """The learning rate of step `step`, counted from 0, of `steps`."""
    rate = config.learning_rate
    if config.schedule == "cosine":
        floor = config.floor or 0.0
        rate *= floor + (1 - floor) * (1 + math.cos(math.pi * step / steps)) / 2
    else:
        rate /= config.factor ** sum(step >= round(steps * share) for share in config.drops)
    return rate * min((step + 1) / (config.warm_up + 1), 1)


def set_rate(optimiser: Any, rate: float) -> None:
    """Give every group its share of a learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"]


class MovingAverage:
    """The exponential moving average of some weights, kept beside them."""

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.average = {name: weight.detach().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Move towards `weights`, faster in the first steps: what it starts from should not linger."""
        decay = min(self.decay, (1 + step) / (10 + step))
        now = [weights[name].detach() for name in self.average]
        torch._foreach_lerp_(list(self.average.values()), now, 1 - decay)  # type: ignore[attr-defined]
