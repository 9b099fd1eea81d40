"""Registry of model families behind one protocol: names, loading and running of networks.

Cutie's family is defined here; others register themselves. No other module depends on the type of a network.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from cutie_geo.checkpoints.catalogue import digest
from cutie_geo.checkpoints.load import is_checkpoint, load_model
from cutie_geo.config import TrackerConfig, model_config, preset_names, split_overrides, to_dict
from cutie_geo.inference.ensemble import Ensemble
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.segmenter import Method
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.network import CutieGeo
from cutie_geo.structures import FrozenFile


@runtime_checkable
class VideoModel(Protocol):
    """Protocol of a network that segments videos, a `torch.nn.Module` with the following attributes."""

    loaded_from: Path | None
    """File of the weights."""
    frozen_files: dict[str, FrozenFile]
    """Files of frozen parts, by name of the part."""
    training: bool

    @property
    def precision(self) -> torch.dtype:
        """Floating-point type of the network's computations."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        ...

    def autocast(self) -> torch.autocast:
        """Return the autocast context of this network's precision."""
        ...

    def compilable(self) -> tuple[nn.Module, ...]:
        """Return the parts that torch can compile."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the weights, as `torch.nn.Module` does."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Switch between training and evaluation, as `torch.nn.Module` does."""
        ...


@runtime_checkable
class Family(Protocol):
    """Protocol of a model family. `model` parameters are networks of this family."""

    views: bool
    """True if the family supports ensembles of views (scales, flips)."""

    def names(self) -> Sequence[str]:
        """Return the names of the published models."""
        ...

    def has_name(self, name: str) -> bool:
        """Return True if `name` (of a model, file or folder) belongs to this family."""
        ...

    def has_model(self, model: Any) -> bool:
        """Return True for a network of this family."""
        ...

    def own_overrides(self, items: Iterable[str]) -> list[str]:
        """Return the `key=value` items that apply to models of this family."""
        ...

    def check(self, name: str, overrides: Iterable[str]) -> None:
        """Check a name and overrides without loading weights.

        Raises:
            ValueError: If they are invalid.
        """
        ...

    def may_give_depth(self, name: str, overrides: Iterable[str]) -> bool:
        """Return False if a model that is not loaded yet certainly has no depth."""
        ...

    def load(
        self, name: str, weights: str | Path, device: str | torch.device, precision: str, overrides: Iterable[str]
    ) -> VideoModel:
        """Load a model as `cutie_geo.load_model` does. `overrides` may contain items of other families."""
        ...

    def internal_size(self, model: Any) -> int | None:
        """Return the default shorter side of a model's frames; -1 for the files' size, None without a default."""
        ...

    def tracker_config(self, model: Any, config: TrackerConfig) -> TrackerConfig:
        """Return tracker options with unset values replaced by the model's defaults."""
        ...

    def tracker(self, model: Any) -> Method:
        """Build a tracker with the model's defaults, for frames of any size."""
        ...

    def segmenter(
        self,
        model: Any,
        options: RunOptions,
        num_frames: int | None = None,
        devices: Sequence[str] = (),
        workers: int | None = None,
        size: int = -1,
    ) -> Method:
        """Build the segmenter of one video.

        Args:
            num_frames: Length of the video, if known.
            devices: Devices of an ensemble's views; empty for the model's device.
            workers: Number of threads for the views; None uses one per device.
            size: Shorter side to which frames, as read, are resized for this model; -1 disables resizing.
        """
        ...

    def settings(self, model: Any) -> dict[str, Any]:
        """Return the settings that determine the model's outputs besides its weights file, for `run.json`."""
        ...


class CutieFamily:
    """Family of `CutieGeo` networks: presets, YAML files, checkpoints and models on the hub."""

    views = True

    def names(self) -> Sequence[str]:
        return preset_names()

    def has_name(self, name: str) -> bool:
        """Return True for every name: the loader reports unknown ones."""
        return True

    def has_model(self, model: Any) -> bool:
        return isinstance(model, CutieGeo)

    def own_overrides(self, items: Iterable[str]) -> list[str]:
        return split_overrides(items)[0]

    def check(self, name: str, overrides: Iterable[str]) -> None:
        model_config(name, self.own_overrides(overrides))

    def may_give_depth(self, name: str, overrides: Iterable[str]) -> bool:
        return is_checkpoint(name) or model_config(name, self.own_overrides(overrides)).encoder.geometry != "none"

    def load(
        self, name: str, weights: str | Path, device: str | torch.device, precision: str, overrides: Iterable[str]
    ) -> CutieGeo:
        return load_model(name, weights, device, precision, self.own_overrides(overrides))

    def internal_size(self, model: CutieGeo) -> int | None:
        return model.config.max_internal_size

    def tracker_config(self, model: CutieGeo, config: TrackerConfig) -> TrackerConfig:
        return config.for_model(model.config)

    def tracker(self, model: CutieGeo) -> Tracker:
        return Tracker(model, max_internal_size=-1)

    def segmenter(
        self,
        model: CutieGeo,
        options: RunOptions,
        num_frames: int | None = None,
        devices: Sequence[str] = (),
        workers: int | None = None,
        size: int = -1,
    ) -> Method:
        resolved = options.tracker.for_model(model.config)
        config = to_dict(replace(resolved, max_internal_size=size, antialias=True))
        if not options.is_ensemble:
            return Tracker(model, **config)
        return Ensemble(
            model, feedback=options.feedback, views=options.views, devices=devices, workers=workers, **config
        )

    def settings(self, model: CutieGeo) -> dict[str, Any]:
        config = to_dict(model.config)
        path = config.pop("weights")["warm_start"]
        start = {"warm_start": f"sha256 {digest(Path(path), 'sha256')}"} if path else {}
        encoders = {part: f"sha256 {file.sha256}" for part, file in model.frozen_files.items()}
        return {"model": config, "encoders": encoders | start}


_FAMILIES: list[Family] = [CutieFamily()]
"""Registered families; Cutie's is last, since it accepts every name."""


def register(family: Family) -> None:
    """Register a family. Its names take precedence over those of earlier families."""
    _FAMILIES.insert(0, family)


def families() -> tuple[Family, ...]:
    """Return all registered families."""
    return tuple(_FAMILIES)


def family_named(name: str) -> Family:
    """Return the family of a model's name, file or folder."""
    return next(family for family in _FAMILIES if family.has_name(name))


def family_of(model: Any) -> Family:
    """Return the family of a network.

    Raises:
        ValueError: If it belongs to no registered family.
    """
    for family in _FAMILIES:
        if family.has_model(model):
            return family
    raise ValueError(f"model: got {type(model).__name__}, expected a network of a registered family")


def model_names() -> list[str]:
    """Return the names of all published models."""
    return [name for family in reversed(_FAMILIES) for name in family.names()]
