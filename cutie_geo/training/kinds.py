"""The kinds of networks that the loop trains, and all that differs between them."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutie_geo.config import Sam2Config, TrainConfig, require, to_dict
from cutie_geo.model import saving
from cutie_geo.model.load import load_model
from cutie_geo.model.network import CutieGeo
from cutie_geo.model.sam2 import SAM2_MODELS, Sam2Model, load_sam2
from cutie_geo.structures import ClipBatch
from cutie_geo.training import losses as cutie_losses
from cutie_geo.training.draws import generators
from cutie_geo.training.losses import Losses
from cutie_geo.training.optimiser import Group, groups, sam2_groups
from cutie_geo.training.sam2_losses import sam2_losses
from cutie_geo.training.sam2_unroll import Sam2ClipUnroll, Sam2Unrolled
from cutie_geo.training.unroll import ClipUnroll, Unrolled

Network = CutieGeo | Sam2Model
Said = Unrolled | Sam2Unrolled
"""What a network says about a batch; `logits` (B, S, N1, H, W) are those of its masks."""
OF_CLICKS = ("sam_mask_decoder.output_hypernetworks_mlps.0.", "sam_prompt_encoder.point_embeddings.")
"""What tells clicks apart, and what makes the one mask that SAM 2 gives after several. With masks as prompts it chooses
among three others: nothing would change these weights but their decay."""
PROBE_SIDE = 64
"""Pixels of the clip that finds out which weights Cutie's features need."""


@runtime_checkable
class Kind(Protocol):
    """All that the loop doesn't know about the network that it trains."""

    def load(
        self, config: TrainConfig, weights: str, device: torch.device, precision: str, options: list[str]
    ) -> Network:
        """The network as training begins. Raises ValueError for weights that aren't there or don't fit."""
        ...

    def reload(
        self, config: TrainConfig, folder: Path, device: torch.device, precision: str, options: list[str]
    ) -> Network:
        """The network of a checkpoint, with the weights that it offers."""
        ...

    def require_fit(self, model: Any, config: TrainConfig) -> None:
        """Raises ValueError for clips that the network can't see."""
        ...

    def probe_side(self, model: Any) -> int:
        """Height and width of a clip of noise that shows which weights learn anything."""
        ...

    def groups(self, model: Any, config: TrainConfig) -> list[Group]:
        """The trained weights and how fast they learn. Raises ValueError if there are none."""
        ...

    def module(self, model: Any, config: TrainConfig) -> nn.Module:
        """The forward pass of a batch: from clips, and for each frame whether sensory memory is updated, to `Said`."""
        ...

    def losses(
        self, said: Any, batch: ClipBatch, config: TrainConfig, device: torch.device
    ) -> tuple[Losses, Float[Tensor, "B"]]:
        """The losses of a batch by name, with their sum as `total`, and the total of each clip."""
        ...

    def save(self, model: Any, folder: Path, last: bool = False) -> None:
        """Write the network to a folder that loads as a model; `last`: for good. Raises OSError."""
        ...

    def describe(self, model: Any) -> dict[str, Any]:
        """The network's settings as plain values."""
        ...


class CutieKind:
    """Cutie and ours."""

    def load(
        self, config: TrainConfig, weights: str, device: torch.device, precision: str, options: list[str]
    ) -> Network:
        """As `load_model`."""
        return load_model(config.model, weights, device, precision, options)

    def reload(
        self, config: TrainConfig, folder: Path, device: torch.device, precision: str, options: list[str]
    ) -> Network:
        """The folder says all about it, but for the files of frozen encoders."""
        return load_model(str(folder), "auto", device, precision, options)

    def require_fit(self, model: CutieGeo, config: TrainConfig) -> None:
        """Frames are cut into patches."""
        fits = config.clips.crop % model.multiple == 0
        require(fits, f"clips.crop: got {config.clips.crop}, wanted a multiple of {model.multiple}")

    def probe_side(self, model: CutieGeo) -> int:
        """Any will do."""
        return PROBE_SIDE

    def groups(self, model: CutieGeo, config: TrainConfig) -> list[Group]:
        """As Cutie's."""
        return groups(model, config.optimiser)

    def module(self, model: CutieGeo, config: TrainConfig) -> nn.Module:
        """As `unroll`."""
        return ClipUnroll(model, config.unroll, config.loss.depth_weight > 0)

    def losses(
        self, said: Unrolled, batch: ClipBatch, config: TrainConfig, device: torch.device
    ) -> tuple[Losses, Float[Tensor, "B"]]:
        """At points drawn from each clip's own seed."""
        return cutie_losses.batch_losses(said, batch, config.loss, generators(batch.seeds.tolist(), device))

    def save(self, model: CutieGeo, folder: Path, last: bool = False) -> None:
        """The last is like the others."""
        saving.save_checkpoint(model, folder)

    def describe(self, model: CutieGeo) -> dict[str, Any]:
        """Without the files that it was loaded from."""
        network = to_dict(model.config)
        network.pop("weights")
        return network


class Sam2Kind:
    """The eight of SAM 2."""

    def load(
        self, config: TrainConfig, weights: str, device: torch.device, precision: str, options: list[str]
    ) -> Network:
        """Published weights, those of a stage before, or random ones; `sam2.freeze` stays as it is."""
        require(weights != "encoders", f"--weights encoders: {config.model} is published whole; wanted auto, none, a "
                "checkpoint, or start: published")  # fmt: skip
        saving.require_plain(options, config.model)
        return freeze_parts(load_sam2(config.model, weights, device, precision, options), config)

    def reload(
        self, config: TrainConfig, folder: Path, device: torch.device, precision: str, options: list[str]
    ) -> Network:
        """The checkpoint asks for the changes of the configuration itself."""
        return freeze_parts(load_sam2(config.model, folder, device, precision), config)

    def require_fit(self, model: Sam2Model, config: TrainConfig) -> None:
        """Frames are squares of the side that its positions are for."""
        require(config.clips.crop == model.side, f"clips.crop: got {config.clips.crop}, wanted {model.side}, which is "
                f"{model.name}'s own size")  # fmt: skip

    def probe_side(self, model: Sam2Model) -> int:
        """Its own, and no other."""
        return model.side

    def groups(self, model: Sam2Model, config: TrainConfig) -> list[Group]:
        """The image encoder more slowly, its first layers most."""
        return sam2_groups(model.network, config.optimiser, _settings(config).layer_decay)

    def module(self, model: Sam2Model, config: TrainConfig) -> nn.Module:
        """As `unroll_sam2`."""
        return Sam2ClipUnroll(model, config.unroll)

    def losses(
        self, said: Sam2Unrolled, batch: ClipBatch, config: TrainConfig, device: torch.device
    ) -> tuple[Losses, Float[Tensor, "B"]]:
        """At all pixels."""
        return sam2_losses(said, batch, _settings(config))

    def save(self, model: Sam2Model, folder: Path, last: bool = False) -> None:
        """The last also as the `sam2` package reads it."""
        saving.save_sam2(model, folder, package_file=last)

    def describe(self, model: Sam2Model) -> dict[str, Any]:
        """What it takes to build it."""
        return {"name": model.name, "overrides": list(model.overrides)}


CUTIE, SAM2 = CutieKind(), Sam2Kind()


def kind_of(config: TrainConfig) -> Kind:
    """What a stage trains. Raises ValueError for settings of SAM 2 with another model."""
    if config.model in SAM2_MODELS:
        return SAM2
    require(config.sam2 is None, f"sam2: got settings with the model {config.model}, wanted them with a SAM 2 alone")
    return CUTIE


def batch_losses(
    said: Said, batch: ClipBatch, config: TrainConfig, device: torch.device
) -> tuple[Losses, Float[Tensor, "B"]]:
    """The losses of a batch, means over its clips, and the total of each clip."""
    return kind_of(config).losses(said, batch, config, device)


def save_checkpoint(model: Network, folder: Path, config: TrainConfig) -> None:
    """Write a network to a folder that loads as a model. Raises OSError."""
    kind_of(config).save(model, folder)


def _settings(config: TrainConfig) -> Sam2Config:
    return config.sam2 or Sam2Config()


def freeze_parts(model: Sam2Model, config: TrainConfig) -> Sam2Model:
    """The model with `sam2.freeze` frozen, and what a mask prompt never uses.

    Raises ValueError for a start of no name, and if nothing is left to train.
    """
    names = [name for name, _ in model.network.named_parameters()]
    for start in (*_settings(config).freeze, *OF_CLICKS):
        chosen = [name for name in names if name.startswith(start)]
        require(bool(chosen), f"sam2.freeze: {model.name} has no weights {start}...")
        for name in chosen:
            model.network.get_parameter(name).requires_grad_(False)
    left = any(weight.requires_grad for weight in model.network.parameters())
    require(left, f"sam2.freeze: got {', '.join(_settings(config).freeze)!r}, which leaves nothing to train")
    return model
