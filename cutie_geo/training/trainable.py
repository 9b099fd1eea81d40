"""Protocol of networks for the training loop, and its implementation for Cutie."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutie_geo.checkpoints.load import is_checkpoint, load_model
from cutie_geo.checkpoints.saving import save_checkpoint
from cutie_geo.config import TrainConfig, model_config, require, to_dict
from cutie_geo.model.network import CutieGeo
from cutie_geo.structures import ClipBatch
from cutie_geo.training.cost import ClipCost, clip_cost
from cutie_geo.training.losses import Losses, batch_losses
from cutie_geo.training.optimiser import Group, groups
from cutie_geo.training.sampling import generators
from cutie_geo.training.unroll import ClipUnroll, Unrolled

Network = Any
"""`torch.nn.Module` of a `Trainable`, with `device`, `precision`, `autocast`, `loaded_from` and `frozen_files`."""
Outputs = Any
"""Named tuple of a batch's outputs; its `logits` are (B, S, N1, H, W)."""
PROBE_SIDE = 64
"""Side, in pixels, of the clip that determines which weights get gradients."""


@runtime_checkable
class Trainable(Protocol):
    """Protocol of the model-specific parts of a training stage, one object per stage."""

    config: TrainConfig

    def load(self, weights: str, device: torch.device, precision: str, options: list[str]) -> Network:
        """Load the network for a new run. Raises ValueError for missing or incompatible weights."""
        ...

    def reload(self, folder: Path, device: torch.device, precision: str, options: list[str]) -> Network:
        """Load the network of a checkpoint."""
        ...

    def require_fit(self, model: Any) -> None:
        """Raise ValueError if the network does not support the configured clips."""
        ...

    def frozen_parts(self) -> Sequence[str]:
        """Return the frozen encoders, `vision` or `geometry`, whose weights are not in checkpoints."""
        ...

    def probe_side(self, model: Any) -> int:
        """Return the side, in pixels, of a noise clip that determines which weights get gradients."""
        ...

    def groups(self, model: Any) -> list[Group]:
        """Return the parameter groups. Raises ValueError if nothing is trained."""
        ...

    def module(self, model: Any) -> nn.Module:
        """Return the forward pass from clips and flags of deep sensory updates, one per frame, to outputs."""
        ...

    def losses(self, outputs: Any, batch: ClipBatch, device: torch.device) -> tuple[Losses, Float[Tensor, "B"]]:
        """Return the losses of a batch by name, with their sum as `total`, and the total of each clip."""
        ...

    def cost(self, model: Any) -> ClipCost | None:
        """Return the memory and FLOPs of one clip; None if they are not computed."""
        ...

    def save(self, model: Any, folder: Path, last: bool = False) -> None:
        """Write the network to a model folder; `last` is True at the end of the stage. Raises OSError."""
        ...

    def describe(self, model: Any) -> dict[str, Any]:
        """Return the network's settings as plain values."""
        ...


def frozen_parts(config: TrainConfig) -> Sequence[str]:
    """Return the frozen encoders of a Cutie model, whose files a model folder names itself."""
    return () if is_checkpoint(config.model) else model_config(config.model, config.model_options).encoder.frozen


class CutieTrainable:
    """Trainable for `CutieGeo` networks."""

    def __init__(self, config: TrainConfig) -> None:
        """Raise ValueError for settings of another family."""
        require(config.sam2 is None, f"sam2: got settings with the model {config.model}, expected a SAM 2")
        self.config = config

    def load(self, weights: str, device: torch.device, precision: str, options: list[str]) -> CutieGeo:
        return load_model(self.config.model, weights, device, precision, options)

    def reload(self, folder: Path, device: torch.device, precision: str, options: list[str]) -> CutieGeo:
        return load_model(str(folder), "auto", device, precision, options)

    def require_fit(self, model: CutieGeo) -> None:
        crop = self.config.clips.crop
        require(crop % model.multiple == 0, f"clips.crop: got {crop}, expected a multiple of {model.multiple}")

    def frozen_parts(self) -> Sequence[str]:
        return frozen_parts(self.config)

    def probe_side(self, model: CutieGeo) -> int:
        return PROBE_SIDE

    def groups(self, model: CutieGeo) -> list[Group]:
        return groups(model, self.config.optimiser)

    def module(self, model: CutieGeo) -> nn.Module:
        return ClipUnroll(model, self.config.unroll, self.config.loss.depth_weight > 0)

    def losses(self, outputs: Unrolled, batch: ClipBatch, device: torch.device) -> tuple[Losses, Float[Tensor, "B"]]:
        """Return the losses at points sampled with each clip's seed."""
        return batch_losses(outputs, batch, self.config.loss, generators(batch.seeds.tolist(), device))

    def cost(self, model: CutieGeo) -> ClipCost:
        return clip_cost(model, self.config)

    def save(self, model: CutieGeo, folder: Path, last: bool = False) -> None:
        save_checkpoint(model, folder)

    def describe(self, model: CutieGeo) -> dict[str, Any]:
        network = to_dict(model.config)
        network.pop("weights")
        return network
