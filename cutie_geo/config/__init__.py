"""Every knob: frozen dataclasses, loaded strictly from YAML files and `key=value` overrides."""

from cutie_geo.config.loading import build, merge, parse_overrides, read_yaml, require, to_dict
from cutie_geo.config.model import EncoderConfig, ModelConfig, WeightsConfig
from cutie_geo.config.presets import (
    config_root,
    is_hydra,
    model_config,
    preset_names,
    split_overrides,
    stage_names,
    train_config,
)
from cutie_geo.config.tracker import LongTermConfig, TrackerConfig
from cutie_geo.config.training import (
    ClipConfig,
    ImageAugmentConfig,
    LossConfig,
    OptimiserConfig,
    Sam2Config,
    SourceConfig,
    TrainConfig,
    UnrollConfig,
    ValidationConfig,
    VideoAugmentConfig,
)

__all__ = [
    "ClipConfig",
    "EncoderConfig",
    "ImageAugmentConfig",
    "LongTermConfig",
    "LossConfig",
    "ModelConfig",
    "OptimiserConfig",
    "Sam2Config",
    "SourceConfig",
    "TrackerConfig",
    "TrainConfig",
    "UnrollConfig",
    "ValidationConfig",
    "VideoAugmentConfig",
    "WeightsConfig",
    "build",
    "config_root",
    "is_hydra",
    "merge",
    "model_config",
    "parse_overrides",
    "preset_names",
    "read_yaml",
    "require",
    "split_overrides",
    "stage_names",
    "to_dict",
    "train_config",
]
