"""The configuration of the smallest network that has every part."""

from typing import Any

from cutie_geo.config import EncoderConfig, ModelConfig


def tiny_config(**changes: Any) -> ModelConfig:
    sizes: dict[str, Any] = {
        "key_dim": 16, "value_dim": 32, "num_queries": 4, "num_heads": 2, "num_blocks": 2, "feedforward_dim": 64,
        "decoder_dim": 16,
    }  # fmt: skip
    return ModelConfig(encoder=EncoderConfig(vision="resnet18"), **(sizes | changes))
