"""Selection of the trainable of a stage."""

from collections.abc import Sequence

from cutie_geo.config import TrainConfig, require
from cutie_geo.sam2.names import SAM2_MODELS
from cutie_geo.sam2.trainable import Sam2Trainable
from cutie_geo.training.prompts import PromptTrainable
from cutie_geo.training.trainable import CutieTrainable, Trainable


def trainable_for(config: TrainConfig) -> Trainable:
    """Return the trainable of a stage. Raises ValueError for settings of another family."""
    if config.model in SAM2_MODELS:
        require(config.prompts is None, f"prompts: got settings with {config.model}, which has its own prompt decoder")
        return Sam2Trainable(config)
    return CutieTrainable(config) if config.prompts is None else PromptTrainable(config)


def frozen_files(overrides: Sequence[str], trainable: Trainable) -> list[str]:
    """Return the overrides with files of frozen encoders, which are not in checkpoints."""
    names = tuple(f"weights.{part}=" for part in trainable.frozen_parts())
    return [item for item in overrides if item.startswith(names)]
