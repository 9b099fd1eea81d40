"""Loading of networks by name of a preset, from a checkpoint, or from the hub."""

import logging
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

import torch

from cutie_geo.checkpoints import catalogue
from cutie_geo.checkpoints.bundled import BUNDLED, bundled_file
from cutie_geo.checkpoints.cutie import load_prompt_head, load_weights, warm_start
from cutie_geo.checkpoints.encoders import catalogue_name, load_part, load_resnet, weights_path
from cutie_geo.checkpoints.hub import PREFIX, download
from cutie_geo.checkpoints.saving import Description, checkpoint_file, read_description
from cutie_geo.config import (
    EncoderConfig,
    ModelConfig,
    build,
    flatten,
    merge,
    model_config,
    parse_overrides,
    preset_names,
    require,
    to_dict,
)
from cutie_geo.model.blocks import ResNetFeatures
from cutie_geo.model.encoder import FusedEncoder, ResNetEncoder
from cutie_geo.model.network import CutieGeo
from cutie_geo.structures import FrozenFile

log = logging.getLogger(__name__)

IMAGENET = "imagenet"
"""Placeholder for the catalogue's ImageNet weights of a ResNet."""
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_model(
    name: str,
    weights: str | Path = "auto",
    device: str | torch.device = "auto",
    precision: str = "auto",
    overrides: Iterable[str] = (),
) -> CutieGeo:
    """Load a `CutieGeo`. Arguments and errors are those of `cutie_geo.load_model`, which loads other networks too."""
    place = resolve_device(device)
    dtype = resolve_precision(precision, place)
    config, file, description = _resolve(str(name), str(weights), list(overrides))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same random weights on every call
        model = CutieGeo(config)
    _load(model, str(name), str(weights), file, description)
    model.precision = dtype
    return model.eval().to(device=place, memory_format=torch.channels_last)  # type: ignore[call-overload]


def needed_files(name: str, overrides: Iterable[str] = ()) -> dict[str, str]:
    """Return the catalogue's files of a preset or a YAML file: `model`, or `vision` and `geometry`.

    Raises:
        ValueError: If the name or an override is invalid.
    """
    config = model_config(name, overrides)
    if name in catalogue.CATALOGUE and not config.encoder.is_fused:
        return {"model": name}
    starts = [part for part in config.encoder.starts if not getattr(config.weights, part)]
    return {part: catalogue_name(config.encoder, part) for part in starts}


# -------------------------------------------------------------------------------------------------------- resolution
def _resolve(name: str, weights: str, overrides: list[str]) -> tuple[ModelConfig, Path | None, Description | None]:
    """Return the configuration, the file of trained weights if any, and its description."""
    if is_checkpoint(name):
        require(weights == "auto", f"weights: got {weights} for {name}, which has its own weights; expected auto")
        file = _checkpoint_file(name)
        description = read_description(file)
        require(
            description is not None,
            f"{file}: has no description of its model, expected a checkpoint saved by cutie_geo",
        )
        assert description is not None
        config = build(ModelConfig, merge(to_dict(description.model), parse_overrides(overrides)), name)
        _require_sensible(config, name)
        return config, file, description
    config = model_config(name, overrides)
    bundled = weights == "auto" and name in BUNDLED
    published = weights == "auto" and name in catalogue.CATALOGUE
    given = "" if weights in ("auto", "none", "encoders") else weights
    _require_sensible(config, name if published or bundled else given)
    if not published and not bundled and not given:
        require(
            weights in ("none", "encoders") or bool(config.weights.warm_start),
            f"{name}: no trained weights of this model are published; expected a checkpoint, "
            "weights.warm_start=FILE with a Cutie checkpoint for all behind the encoder, or none for random weights",
        )
        return config, None, None
    file = _known_file(name) if published or bundled else _checkpoint_file(given)
    description = read_description(file)
    if description is not None:
        if description.model.prompt_channels:  # presets have no head; a checkpoint may bring one
            config = replace(config, prompt_channels=description.model.prompt_channels)
        _require_same(config, description.model, file, name)
    return config, file, description


def _known_file(name: str) -> Path:
    """Return the file of bundled or published weights, with its digest checked."""
    return bundled_file(name) if name in BUNDLED else catalogue.fetch(name)


def is_checkpoint(name: str) -> bool:
    """Return True if a model's name is a checkpoint folder or `hf://`. Presets precede folders of the same name."""
    return name.startswith(PREFIX) or (name not in preset_names() and Path(name).expanduser().is_dir())


def _checkpoint_file(place: str) -> Path:
    """Return the weights file of a checkpoint on the hub, in a folder, or a file itself."""
    return checkpoint_file(download(place) if place.startswith(PREFIX) else Path(place).expanduser())


def _require_sensible(config: ModelConfig, checkpoint: str) -> None:
    """Raise ValueError for files of parts that the network does not have or that a checkpoint contains."""
    files = config.weights
    require(
        not (checkpoint and files.warm_start),
        f"weights.warm_start: got {files.warm_start} beside the weights of {checkpoint}, expected one of them",
    )
    for part in ("pixel_encoder", "mask_encoder"):
        file = getattr(files, part)
        require(
            not (checkpoint and file),
            f"weights.{part}: got {file} beside the weights of {checkpoint}, expected one of them",
        )
    require(
        not (files.pixel_encoder and config.encoder.is_fused),
        f"weights.pixel_encoder: got {files.pixel_encoder} with {config.encoder.vision}, expected a ResNet",
    )
    for part in ("vision", "geometry"):
        file = getattr(files, part)
        require(
            not file or part in config.encoder.starts,
            f"weights.{part}: got {file}, but this model has no {part} encoder that starts from published weights "
            f"(encoder.{part}={getattr(config.encoder, part)})",
        )


def _require_same(wanted: ModelConfig, got: ModelConfig, file: Path, name: str) -> None:
    """Raise ValueError if the configuration of a checkpoint differs, listing all differences."""
    ours, theirs = flatten(to_dict(wanted)), flatten(to_dict(got))
    # settings of initial weights and freezing, settings that `load_weights` converts, and defaults of trackers
    free = (
        "weights.",
        "encoder.freeze",
        "single_object",
        "max_internal_size",
        "min_internal_size",
        "mem_every",
        "top_k",
        "full_frame_every",
        "long_term",
        "prompt_channels",
    )
    # a checkpoint holds trained encoders itself, whatever they were initialised from
    frozen = (*wanted.encoder.frozen, *got.encoder.frozen)
    free += tuple(f"encoder.{part}_init" for part in ("vision", "geometry") if part not in frozen)
    if wanted.single_object != got.single_object:
        kind = "single" if got.single_object else "multi"
        log.warning("%s: of a %s-object network; channels for other objects are initialised or removed", file, kind)
    different = [key for key in ours if not key.startswith(free) and ours[key] != theirs[key]]
    settings = "; ".join(f"{key} {theirs[key]}, expected {ours[key]}" for key in different)
    require(not different, f"{file}: not a checkpoint of {name}: got {settings}")


# ----------------------------------------------------------------------------------------------------------- filling
def _load(model: CutieGeo, name: str, weights: str, file: Path | None, description: Description | None) -> None:
    """Load the weights of every part of a network."""
    config = model.config
    if config.weights.warm_start:  # first, so that errors occur before encoders are downloaded
        path = Path(config.weights.warm_start).expanduser()
        log.info("%s: %s (%s)", name, warm_start(model, path), path)
    for part in config.encoder.starts:
        _load_encoder(model, part, weights, file, description)
    resnets = [] if file is not None else [part for part in _resnets(model) if _load_resnet(model, part, weights)]
    if file is not None:
        log.info("%s: %d entries loaded from %s", name, load_weights(model, file), file)
        model.loaded_from = file
    elif weights == "encoders":
        log.info("%s: random initial weights in %s", name, ", ".join(_random_parts(model, resnets)))
    else:
        parts = ", ".join(_random_parts(model, resnets))
        log.warning("%s: random weights in %s: its masks are meaningless", name, parts)
    if config.weights.prompt_head:
        path = checkpoint_file(Path(config.weights.prompt_head).expanduser())
        log.info("prompt head: %d entries loaded from %s", load_prompt_head(model, path), path)
    # trained parts differ from their files
    model.frozen_files = {part: from_ for part, from_ in model.frozen_files.items() if part in config.encoder.frozen}


def _resnets(model: CutieGeo) -> dict[str, tuple[str, ResNetFeatures]]:
    """Return the ResNets of a network by part, with their names."""
    parts = {"mask_encoder": (model.config.mask_encoder, model.mask_encoder.features)}
    if isinstance(model.encoder, ResNetEncoder):
        parts["pixel_encoder"] = (model.config.encoder.vision, model.encoder.features)
    return parts


def _load_resnet(model: CutieGeo, part: str, weights: str) -> bool:
    """Load a ResNet; return True if there are weights for it. A warm start has its own mask encoder."""
    config, (size, features) = model.config, _resnets(model)[part]
    path = getattr(config.weights, part)
    published = size != "resnet-nano" and not (part == "mask_encoder" and config.weights.warm_start)
    if not path and weights == "encoders" and published:
        path = IMAGENET
    if path:
        file = catalogue.fetch(f"{size}-{IMAGENET}") if path == IMAGENET else Path(path).expanduser()
        log.info("%s: %s", part, load_resnet(features, file, size))
    return bool(path)


def _random_parts(model: CutieGeo, resnets: Collection[str]) -> list[str]:
    """Return the parts with random weights, if there is no checkpoint; `resnets` are those with ImageNet weights."""
    config, filled = model.config, {*model.frozen_files, *resnets}
    warm = bool(config.weights.warm_start)
    if not config.encoder.is_fused:
        encoders = {"pixel_encoder": "its encoder"}
    else:
        parts = ["vision"] + (["geometry"] if config.encoder.geometry != "none" else [])
        encoders = {part: f"its {part} encoder" for part in parts}
    if not warm and not filled:
        return ["every part"]
    fusion = ["the fusion of its encoders"] if config.encoder.is_fused else []
    behind = "all behind its encoders" + (" but the mask encoder" if "mask_encoder" in filled else "")
    return [name for part, name in encoders.items() if part not in filled] + fusion + ([] if warm else [behind])


def _load_encoder(model: CutieGeo, part: str, weights: str, file: Path | None, description: Description | None) -> None:
    """Load the published weights of a part, unless the checkpoint contains it or random weights are requested."""
    config, explicit = model.config, getattr(model.config.weights, part)
    recorded = description.frozen.get(part) if description is not None else None
    if description is not None and recorded is None:
        require(not explicit, f"weights.{part}: got {explicit}, but {file} holds its own {part} encoder")
        return
    if explicit:
        path = weights_path(explicit)
    elif recorded is not None and file is not None:
        path = _recorded_file(recorded, part, file, config.encoder)
    elif weights == "none" or file is not None:
        return
    else:
        path = catalogue.fetch(catalogue_name(config.encoder, part))
    assert isinstance(model.encoder, FusedEncoder)
    loaded = load_part(model.encoder, config.encoder, part, path)
    if recorded is not None and loaded.file.sha256 != recorded.sha256:
        raise ValueError(
            f"{path}: SHA-256 {loaded.file.sha256}, but {file} was trained beside the {part} encoder {recorded.name} "
            f"with SHA-256 {recorded.sha256}; expected that file"
        )
    model.frozen_files[part] = loaded.file
    log.info("%s: %s", part, loaded)


def _recorded_file(recorded: FrozenFile, part: str, checkpoint: Path, encoder: EncoderConfig) -> Path:
    """Return the file of a frozen part, next to the checkpoint or from the catalogue.

    Raises:
        ValueError: If it is in neither.
    """
    beside = checkpoint.parent / recorded.name
    if beside.is_file() and recorded.name != checkpoint.name:
        return beside
    known = dict(catalogue.CATALOGUE)
    if part == "vision" and encoder.is_timm and (own := catalogue.listed_file(encoder.vision)) is not None:
        known[encoder.vision] = own
    for name, file in known.items():
        if file.sha256 == recorded.sha256 or (file.stated_by_hub and file.file == recorded.name):
            return catalogue.fetch(name)
    raise ValueError(
        f"{checkpoint}: needs the {part} encoder {recorded.name} (SHA-256 {recorded.sha256}), which is not next to it; "
        f"weights.{part}=FILE sets its path"
    )


# ----------------------------------------------------------------------------------------------- device and precision
def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device, with "auto" resolved. Raises ValueError if it is not available."""
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
    """Return the floating-point type, with "auto" resolved. Raises ValueError for an unknown name."""
    if precision == "auto":
        return torch.bfloat16 if _computes_bf16(device) else torch.float32
    if precision not in PRECISIONS:
        raise ValueError(f"precision: got {precision!r}, expected auto, {', '.join(PRECISIONS)}")
    return PRECISIONS[precision]


def _computes_bf16(device: torch.device) -> bool:
    """Return True if the device computes in bfloat16 natively."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, check, bool)() for check in checks)
    return False
