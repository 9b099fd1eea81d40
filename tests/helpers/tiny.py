"""The smallest networks that have every part, and weights that no two of them share."""

from typing import Any, TypeVar

import torch
import yaml
from torch import nn

from cutie_geo.config import ModelConfig, build

Module = TypeVar("Module", bound=nn.Module)

TINY_YAML = """\
encoder: {vision: resnet18}
key_dim: 16
value_dim: 32
num_queries: 4
num_heads: 2
num_blocks: 2
feedforward_dim: 64
decoder_dim: 16
"""

TINY_GEO_YAML = TINY_YAML.replace(
    "{vision: resnet18}",
    "{vision: hiera-nano, vision_init: none, geometry: depth-nano, geometry_init: none, channels: [48, 32, 24]}",
)
"""The same with the paper's encoder, all of it trained."""


def tiny_config(**changes: Any) -> ModelConfig:
    return build(ModelConfig, yaml.safe_load(TINY_YAML) | changes)


def tiny_geo_config(**changes: Any) -> ModelConfig:
    return build(ModelConfig, yaml.safe_load(TINY_GEO_YAML) | changes)


@torch.no_grad()
def randomised(module: Module, seed: int = 0) -> Module:
    """`module` in evaluation mode, every tensor moved away from where it starts, which often is zero or one."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.02)
    return module.eval()
