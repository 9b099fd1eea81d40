"""Loading of models of any family by name; importing this module registers every family."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch

from cutie_geo.checkpoints.catalogue import digest
from cutie_geo.checkpoints.load import is_checkpoint
from cutie_geo.checkpoints.load import load_model as load_cutie_geo
from cutie_geo.config import is_hydra, require
from cutie_geo.inference import onnx_family as _onnx  # registers exported graphs
from cutie_geo.inference.families import VideoModel, families, family_named, family_of, model_names
from cutie_geo.model.network import CutieGeo
from cutie_geo.sam2 import family as _sam2  # registers SAM 2
from cutie_geo.sam2.names import is_sam2

__all__ = [
    "VideoModel",
    "families",
    "family_named",
    "family_of",
    "load_any",
    "load_model",
    "model_names",
    "model_settings",
    "quiet_loading",
]

if TYPE_CHECKING:  # its import takes seconds, and other models don't need it
    from cutie_geo.sam2.networks import Sam2Model

assert _sam2 and _onnx

Sam2Name = Literal[
    "sam2.1-hiera-tiny", "sam2.1-hiera-small", "sam2.1-hiera-base-plus", "sam2.1-hiera-large",
    "sam2-hiera-tiny", "sam2-hiera-small", "sam2-hiera-base-plus", "sam2-hiera-large",
]  # fmt: skip
"""Names of the published SAM 2 models."""


@overload
def load_model(
    name: Sam2Name,
    weights: str | Path = "auto",
    device: str | torch.device = "auto",
    precision: str = "auto",
    overrides: Iterable[str] = (),
) -> "Sam2Model": ...


@overload
def load_model(
    name: str,
    weights: str | Path = "auto",
    device: str | torch.device = "auto",
    precision: str = "auto",
    overrides: Iterable[str] = (),
) -> CutieGeo: ...


def load_model(
    name: str,
    weights: str | Path = "auto",
    device: str | torch.device = "auto",
    precision: str = "auto",
    overrides: Iterable[str] = (),
) -> VideoModel:
    """Load a network: every name that the command line takes.

    >>> import cutie_geo
    >>> model = cutie_geo.load_model("cutie-geo-tiny", device="cpu")
    >>> type(model).__name__, model.config.value_dim
    ('CutieGeo', 128)
    >>> type(cutie_geo.load_model("sam2.1-hiera-tiny", weights="none", device="cpu")).__name__
    'Sam2Model'

    Args:
        name: Preset (such as `cutie-base` or `cutie-geo-large`), SAM 2 model, or YAML file; or a checkpoint folder (of
            a fine-tuned SAM 2 too) or `hf://owner/name` with its own weights and configuration.
        weights: "auto" (those of the package or of the catalogue, downloaded if needed), "none" (random, with a
            warning), "encoders" (published encoders, other parts random, as at the start of training), or a file, a
            checkpoint folder or `hf://owner/name`.
        device: torch device; "auto" selects a GPU if available.
        precision: "fp32", "bf16", "fp16", or "auto" (bf16 if the device supports it natively, else fp32).
        overrides: `key=value` overrides of the configuration. `weights.vision`, `weights.geometry` and
            `weights.warm_start` are files of parts, which take precedence over `weights`. Those of SAM 2 begin with
            `model.`.

    Returns:
        A `CutieGeo`, for a `Tracker` or an `Ensemble`; a `Sam2Model` for names of SAM 2. `make_segmenter` takes both.

    Raises:
        ValueError: For unknown names and options, for weights that do not match in every entry, and for a checkpoint
            with frozen encoders other than its own.
    """
    if not is_sam2(str(name)):
        return load_cutie_geo(name, weights, device, precision, overrides)
    overrides = list(overrides)
    others = [item for item in overrides if not is_hydra(item)]
    require(not others, f"overrides: got {', '.join(others)} for {name}, expected those of SAM 2, model.key=value")
    from cutie_geo.sam2.networks import load_sam2

    return load_sam2(str(name), weights, device, precision, overrides)


def load_any(
    name: str,
    weights: str | Path = "auto",
    device: str | torch.device = "auto",
    precision: str = "auto",
    overrides: Iterable[str] = (),
) -> VideoModel:
    """Load a model of any family, as `cutie_geo.load_model` does.

    Args:
        overrides: `key=value` items; those that change models of other families are ignored.

    Raises:
        ValueError: If the name is unknown, or if the weights do not fit.
    """
    return family_named(name).load(name, weights, device, precision, overrides)


def model_settings(name: str, weights: str, model: VideoModel) -> dict[str, Any]:
    """Return the settings that determine a loaded model's results: configuration, digests, precision, device."""
    named = weights == "none" or (weights == "auto" and not is_checkpoint(name))
    file = model.loaded_from
    return {
        "weights": weights if named or file is None else f"sha256 {digest(file, 'sha256')}",
        "precision": str(model.precision).removeprefix("torch."),
        "device": model.device.type,
        **family_of(model).settings(model),
    }


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Load models within the block without logging where their weights come from."""
    logs = [logging.getLogger(name) for name in ("cutie_geo.checkpoints.load", "cutie_geo.sam2.networks")]
    levels = [each.level for each in logs]
    for each in logs:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(logs, levels):
            each.setLevel(level)
