"""Every knob: frozen dataclasses, loaded strictly from YAML files and `key=value` overrides."""

from cutie_geo.config.loading import build, merge, parse_overrides, read_yaml, require, to_dict
from cutie_geo.config.model import EncoderConfig, ModelConfig, WeightsConfig
from cutie_geo.config.presets import (
    classifier_config,
    config_root,
    is_classifier,
    is_hydra,
    model_config,
    preset_names,
    split_overrides,
    stage_names,
    train_config,
)
from cutie_geo.config.segmentor import (
    SAM2_ENCODER,
    ClassifierConfig,
    GridOptions,
    MaskletSource,
    MaskletValidation,
)
from cutie_geo.config.tracker import MEM_EVERY, LongTermConfig, TrackerConfig
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
    "MEM_EVERY",
    "SAM2_ENCODER",
    "ClassifierConfig",
    "ClipConfig",
    "EncoderConfig",
    "GridOptions",
    "ImageAugmentConfig",
    "LongTermConfig",
    "LossConfig",
    "MaskletSource",
    "MaskletValidation",
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
    "classifier_config",
    "config_root",
    "is_classifier",
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
