"""A ready network from a preset's name, a checkpoint or the hub."""

import logging
from collections.abc import Collection, Iterable
from pathlib import Path

import torch

from cutie_geo.config import ModelConfig, build, merge, model_config, parse_overrides, preset_names, require, to_dict
from cutie_geo.model import weights as catalogue
from cutie_geo.model.blocks import ResNetFeatures
from cutie_geo.model.bundled import BUNDLED, bundled_file
from cutie_geo.model.checkpoints import load_weights, warm_start
from cutie_geo.model.encoder import FusedEncoder, ResNetEncoder
from cutie_geo.model.hub import PREFIX, download
from cutie_geo.model.network import CutieGeo
from cutie_geo.model.pretrained import catalogue_name, load_part, load_resnet
from cutie_geo.model.saving import Description, checkpoint_file, read_description
from cutie_geo.structures import FrozenFile

log = logging.getLogger(__name__)

IMAGENET = "imagenet"
"""As the name of a file: what the catalogue has of a ResNet."""
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_model(
    name: str,
    weights: str | Path = "auto",
    device: str | torch.device = "auto",
    precision: str = "auto",
    overrides: Iterable[str] = (),
) -> CutieGeo:
    """A network ready for a `Tracker`.

    name: a preset (such as `cutie-base` or `cutie-geo-large`) or a YAML file; or, with its own weights and
    configuration, a checkpoint's folder or `hf://owner/name`. weights: "auto" (those of the package, or cached, else
    downloaded; their digest is checked), "none" (random, with a warning), "encoders" (what encoders are published with,
    all else random: where training starts), or a file, a checkpoint's folder or `hf://owner/name`. device: "auto"
    takes a GPU where there is one. precision: "fp32", "bf16", "fp16", or "auto" (bf16 where the device computes with it
    directly, else fp32). overrides: `key=value` changes of the configuration; `weights.vision`, `weights.geometry` and
    `weights.warm_start` name files that parts start from, whatever `weights` is.

    Raises ValueError for anything it doesn't know, for weights that don't fit in every entry, and for a checkpoint
    beside frozen encoders other than its own.
    """
    place = resolve_device(device)
    dtype = resolve_precision(precision, place)
    config, file, description = _resolve(str(name), str(weights), list(overrides))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # so that random weights are the same ones on every call
        model = CutieGeo(config)
    _load(model, str(name), str(weights), file, description)
    model.precision = dtype
    return model.eval().to(device=place, memory_format=torch.channels_last)  # type: ignore[call-overload]


def needed_files(name: str, overrides: Iterable[str] = ()) -> dict[str, str]:
    """What a preset or a YAML file needs of the catalogue, by part: `model`, all of it, or `vision` and `geometry`.

    Raises ValueError for a name or an override that makes no sense.
    """
    config = model_config(name, overrides)
    if name in catalogue.CATALOGUE and not config.encoder.is_hiera:
        return {"model": name}
    starts = [part for part in config.encoder.starts if not getattr(config.weights, part)]
    return {part: catalogue_name(config.encoder, part) for part in starts}


# ----------------------------------------------------------------------------------------------------- what is meant
def _resolve(name: str, weights: str, overrides: list[str]) -> tuple[ModelConfig, Path | None, Description | None]:
    """The configuration, the file of trained weights if there is one, and what the file says about itself."""
    if is_checkpoint(name):
        require(weights == "auto", f"weights: got {weights} for {name}, which brings its own; wanted auto")
        file = _checkpoint_file(name)
        description = read_description(file)
        require(description is not None, f"{file}: doesn't say what model it is of, wanted one saved by cutie_geo")
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
            f"{name}: no trained weights of this model are published; wanted a checkpoint, "
            "weights.warm_start=FILE with a Cutie checkpoint for all behind the encoder, or none for random weights",
        )
        return config, None, None
    file = _known_file(name) if published or bundled else _checkpoint_file(given)
    description = read_description(file)
    if description is not None:
        _require_same(config, description.model, file, name)
    return config, file, description


def _known_file(name: str) -> Path:
    """The trained weights of a model that has some, with their digest checked."""
    return bundled_file(name) if name in BUNDLED else catalogue.fetch(name)


def is_checkpoint(name: str) -> bool:
    """Whether a model's name is a place that holds one. A folder that is called like a preset does not hide it."""
    return name.startswith(PREFIX) or (name not in preset_names() and Path(name).expanduser().is_dir())


def _checkpoint_file(place: str) -> Path:
    """The weights file of a checkpoint on the hub, in a folder, or by itself."""
    return checkpoint_file(download(place) if place.startswith(PREFIX) else Path(place).expanduser())


def _require_sensible(config: ModelConfig, checkpoint: str) -> None:
    """Raises ValueError for files that parts should start from where there is no such part, or a whole checkpoint."""
    files = config.weights
    require(
        not (checkpoint and files.warm_start),
        f"weights.warm_start: got {files.warm_start} beside the weights of {checkpoint}, wanted one of them",
    )
    for part in ("pixel_encoder", "mask_encoder"):
        file = getattr(files, part)
        require(
            not (checkpoint and file),
            f"weights.{part}: got {file} beside the weights of {checkpoint}, wanted one of them",
        )
    require(
        not (files.pixel_encoder and config.encoder.is_hiera),
        f"weights.pixel_encoder: got {files.pixel_encoder} with {config.encoder.vision}, wanted a ResNet",
    )
    for part in ("vision", "geometry"):
        file = getattr(files, part)
        require(
            not file or part in config.encoder.starts,
            f"weights.{part}: got {file}, but this model has no {part} encoder that starts from published weights "
            f"(encoder.{part}={getattr(config.encoder, part)})",
        )


def _require_same(wanted: ModelConfig, got: ModelConfig, file: Path, name: str) -> None:
    """Raises ValueError naming every setting in which a checkpoint's model is another."""
    ours, theirs = _flat(to_dict(wanted)), _flat(to_dict(got))
    # where parts come from, whether training may change them, what `load_weights` converts, and advice
    free = ("weights.", "encoder.freeze", "single_object", "frame_size", "memory_interval", "tokens_read")
    if wanted.single_object != got.single_object:
        kind = "single" if got.single_object else "multi"
        log.warning("%s: of a %s-object network; channels for other objects are made anew or left out", file, kind)
    different = [key for key in ours if ours[key] != theirs[key] and not key.startswith(free)]
    settings = "; ".join(f"{key} {theirs[key]}, wanted {ours[key]}" for key in different)
    require(not different, f"{file}: not a checkpoint of {name}: got {settings}")


def _flat(content: dict, before: str = "") -> dict[str, object]:
    out: dict[str, object] = {}
    for key, value in content.items():
        out |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return out


# ----------------------------------------------------------------------------------------------------------- filling
def _load(model: CutieGeo, name: str, weights: str, file: Path | None, description: Description | None) -> None:
    """Fill the parts of a network from wherever each one comes."""
    config = model.config
    if config.weights.warm_start:  # first: it fails at once, where encoders may be downloaded before they do
        path = Path(config.weights.warm_start).expanduser()
        log.info("%s: %s (%s)", name, warm_start(model, path), path)
    for part in config.encoder.starts:
        _load_encoder(model, part, weights, file, description)
    resnets = [] if file is not None else [part for part in _resnets(model) if _load_resnet(model, part, weights)]
    if file is not None:
        log.info("%s: %d entries loaded from %s", name, load_weights(model, file), file)
        model.loaded_from = file
    elif weights == "encoders":
        log.info("%s: starts at random in %s", name, ", ".join(_random_parts(model, resnets)))
    else:
        parts = ", ".join(_random_parts(model, resnets))
        log.warning("%s: random weights in %s: its masks mean nothing", name, parts)
    # a part that is trained on is no longer what its file holds
    model.frozen_files = {part: from_ for part, from_ in model.frozen_files.items() if part in config.encoder.frozen}


def _resnets(model: CutieGeo) -> dict[str, tuple[str, ResNetFeatures]]:
    """By part, the ResNets of a network and which ones they are."""
    parts = {"mask_encoder": (model.config.mask_encoder, model.mask_encoder.features)}
    if isinstance(model.encoder, ResNetEncoder):
        parts["pixel_encoder"] = (model.config.encoder.vision, model.encoder.features)
    return parts


def _load_resnet(model: CutieGeo, part: str, weights: str) -> bool:
    """Fill a ResNet, and say whether there was something to fill it with. A warm start has its own mask encoder."""
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
    """What no file has filled, where there is no checkpoint; `resnets` are the parts that ImageNet's weights filled."""
    config, filled = model.config, {*model.frozen_files, *resnets}
    warm = bool(config.weights.warm_start)
    if not config.encoder.is_hiera:
        encoders = {"pixel_encoder": "its encoder"}
    else:
        parts = ["vision"] + (["geometry"] if config.encoder.geometry != "none" else [])
        encoders = {part: f"its {part} encoder" for part in parts}
    if not warm and not filled:
        return ["every part"]
    fusion = ["the fusion of its encoders"] if config.encoder.is_hiera else []
    behind = "all behind its encoders" + (" but the mask encoder" if "mask_encoder" in filled else "")
    return [name for part, name in encoders.items() if part not in filled] + fusion + ([] if warm else [behind])


def _load_encoder(model: CutieGeo, part: str, weights: str, file: Path | None, description: Description | None) -> None:
    """Fill a part that starts from published weights, unless the checkpoint holds it or random weights are wanted."""
    config, explicit = model.config, getattr(model.config.weights, part)
    recorded = description.frozen.get(part) if description is not None else None
    if description is not None and recorded is None:
        require(not explicit, f"weights.{part}: got {explicit}, but {file} holds its own {part} encoder")
        return
    if explicit:
        path = Path(explicit).expanduser()
    elif recorded is not None and file is not None:
        path = _recorded_file(recorded, part, file)
    elif weights == "none" or file is not None:
        return
    else:
        path = catalogue.fetch(catalogue_name(config.encoder, part))
    assert isinstance(model.encoder, FusedEncoder)
    loaded = load_part(model.encoder, config.encoder, part, path)
    if recorded is not None and loaded.file.sha256 != recorded.sha256:
        raise ValueError(
            f"{path}: SHA-256 {loaded.file.sha256}, but {file} was trained beside the {part} encoder {recorded.name} "
            f"with SHA-256 {recorded.sha256}; wanted that file"
        )
    model.frozen_files[part] = loaded.file
    log.info("%s: %s", part, loaded)


def _recorded_file(recorded: FrozenFile, part: str, checkpoint: Path) -> Path:
    """Where the file is that a checkpoint names: beside it, or in the catalogue. Raises ValueError for neither."""
    beside = checkpoint.parent / recorded.name
    if beside.is_file() and recorded.name != checkpoint.name:
        return beside
    for name, file in catalogue.CATALOGUE.items():
        if file.sha256 == recorded.sha256 or (file.stated_by_hub and file.file == recorded.name):
            return catalogue.fetch(name)
    raise ValueError(
        f"{checkpoint}: wants the {part} encoder {recorded.name} (SHA-256 {recorded.sha256}), which is not beside it; "
        f"weights.{part}=FILE says where it is"
    )


# -------------------------------------------------------------------------------------------------- where and in what
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
