"""Fine-tuning of SAM 2: trainable, parameter groups and frozen parts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutie_geo.config import OptimiserConfig, Sam2Config, TrainConfig, require
from cutie_geo.sam2.losses import sam2_losses
from cutie_geo.sam2.networks import Sam2Model, load_sam2
from cutie_geo.sam2.saving import require_plain, save_sam2
from cutie_geo.sam2.unroll import Sam2ClipUnroll, Sam2Unrolled
from cutie_geo.structures import ClipBatch
from cutie_geo.training.losses import Losses
from cutie_geo.training.optimiser import Group

OF_CLICKS = ("sam_mask_decoder.output_hypernetworks_mlps.0.", "sam_prompt_encoder.point_embeddings.")
"""Prefixes of weights for point prompts only, which mask prompts would change by weight decay alone."""


class Sam2Trainable:
    """Trainable for SAM 2 networks."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.settings = config.sam2 or Sam2Config()

    def load(self, weights: str, device: torch.device, precision: str, options: list[str]) -> Sam2Model:
        """Load published weights, those of an earlier stage, or random weights, and freeze `sam2.freeze`."""
        name = self.config.model
        require(weights != "encoders", f"--weights encoders: {name} is only published as a whole; expected auto, none, "
                "a checkpoint, or start: published")  # fmt: skip
        require_plain(options, name)
        return freeze_parts(load_sam2(name, weights, device, precision, options), self.settings)

    def reload(self, folder: Path, device: torch.device, precision: str, options: list[str]) -> Sam2Model:
        """Load a checkpoint, which contains its overrides."""
        return freeze_parts(load_sam2(self.config.model, folder, device, precision), self.settings)

    def require_fit(self, model: Sam2Model) -> None:
        crop = self.config.clips.crop
        require(crop == model.side, f"clips.crop: got {crop}, expected {model.side}, the input size of {model.name}")

    def frozen_parts(self) -> Sequence[str]:
        return ()

    def probe_side(self, model: Sam2Model) -> int:
        return model.side

    def groups(self, model: Sam2Model) -> list[Group]:
        return sam2_groups(model.network, self.config.optimiser, self.settings.layer_decay)

    def module(self, model: Sam2Model) -> nn.Module:
        return Sam2ClipUnroll(model, self.config.unroll)

    def losses(
        self, outputs: Sam2Unrolled, batch: ClipBatch, device: torch.device
    ) -> tuple[Losses, Float[Tensor, "B"]]:
        return sam2_losses(outputs, batch, self.settings)

    def cost(self, model: Sam2Model) -> None:
        """Return None: the package's network does not support fake tensors."""

    def save(self, model: Sam2Model, folder: Path, last: bool = False) -> None:
        """Write the network; at the end of the stage also in the `sam2` package's format."""
        save_sam2(model.network, model.description, folder, package_file=last)

    def describe(self, model: Sam2Model) -> dict[str, Any]:
        return model.description._asdict()


def freeze_parts(model: Sam2Model, settings: Sam2Config) -> Sam2Model:
    """Freeze the weights with a name prefix in `settings.freeze`, and those that mask prompts do not use.

    Raises:
        ValueError: If no weight has such a name, or if nothing is left to train.
    """
    names = [name for name, _ in model.network.named_parameters()]
    for start in (*settings.freeze, *OF_CLICKS):
        chosen = [name for name in names if name.startswith(start)]
        require(bool(chosen), f"sam2.freeze: {model.name} has no weights {start}...")
        for name in chosen:
            model.network.get_parameter(name).requires_grad_(False)
    left = any(weight.requires_grad for weight in model.network.parameters())
    require(left, f"sam2.freeze: got {', '.join(settings.freeze)!r}, but then no weights are trained")
    return model


def sam2_groups(network: nn.Module, config: OptimiserConfig, layer_decay: float) -> list[Group]:
    """Return the parameter groups of the trained weights.

    The learning rate of the image encoder is multiplied by `encoder_factor`, that of a trunk block by `layer_decay`
    relative to the next block. Biases and layer norms have no weight decay.
    Source: sam2.1_hiera_b+_MOSE_finetune.yaml of the package.

    Raises:
        ValueError: If all weights are frozen.
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
    """Return the part of SAM 2 of a weight, and its factor of the base learning rate."""
    if not name.startswith("image_encoder."):
        return "rest", 1.0
    _, part, *inner = name.split(".")
    if part != "trunk" or inner[0].startswith("pos_embed"):
        return "encoder", encoder_factor
    if inner[0] == "blocks":
        block = int(inner[1])
        return f"encoder.block{block}", encoder_factor * layer_decay ** (blocks - block)
    return "encoder.patches", encoder_factor * layer_decay ** (blocks + 1)
