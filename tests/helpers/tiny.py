"""The configuration of the smallest network that has every part."""

from typing import Any

import yaml

from cutie_geo.config import ModelConfig, build

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


def tiny_config(**changes: Any) -> ModelConfig:
    return build(ModelConfig, yaml.safe_load(TINY_YAML) | changes)
