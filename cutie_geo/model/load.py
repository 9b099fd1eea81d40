"""A ready network from a preset's name."""

import logging
from collections.abc import Iterable
from pathlib import Path

import torch

from cutie_geo.config import model_config
from cutie_geo.model import weights as catalogue
from cutie_geo.model.checkpoints import load_weights
from cutie_geo.model.network import CutieGeo

log = logging.getLogger(__name__)

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_model(
    name: str,
    weights: str | Path = "auto",
    device: str | torch.device = "auto",
    precision: str = "auto",
    overrides: Iterable[str] = (),
) -> CutieGeo:
    """A network ready for a `Tracker`.

    name: a preset (`cutie-base`, `cutie-small`) or a YAML file. weights: "auto" (cached, else downloaded with its
    digest checked), "none" (random, with a warning), or a file. device: "auto" takes a GPU where there is one.
    precision: "fp32", "bf16", "fp16", or "auto" (bf16 where the device computes with it directly, else fp32).
    overrides: `key=value` changes of the configuration.

    Raises ValueError for anything it doesn't know, and for weights that don't fit in every entry.
    """
    config = model_config(name, overrides)
    place = resolve_device(device)
    dtype = resolve_precision(precision, place)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # so that random weights are the same ones on every call
        model = CutieGeo(config)
    if str(weights) == "none":
        log.warning("%s has random weights: its masks mean nothing", name)
    else:
        if str(weights).startswith("hf://"):
            raise ValueError(f"weights {weights}: models on the Hugging Face hub can't be loaded yet; wanted a file")
        path = catalogue.fetch(name) if str(weights) == "auto" else Path(weights).expanduser()
        log.info("%s: %d entries loaded from %s", name, load_weights(model, path), path)
    model.precision = dtype
    return model.eval().to(device=place, memory_format=torch.channels_last)  # type: ignore[call-overload]


def resolve_device(device: str | torch.device) -> torch.device:
    """The device meant. Raises ValueError if it is not there."""
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device}: {str(error).strip().splitlines()[0]}") from None
    return place


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The floating-point type meant. Raises ValueError for a name that is not one."""
    if precision == "auto":
        return torch.bfloat16 if _computes_bf16(device) else torch.float32
    if precision not in PRECISIONS:
        raise ValueError(f"precision: got {precision!r}, wanted auto, {', '.join(PRECISIONS)}")
    return PRECISIONS[precision]


def _computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16 and doesn't merely store it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, check, bool)() for check in checks)
    return False
