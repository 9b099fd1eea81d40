"""Configurations by name: the YAML files that come with the package."""

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from cutie_geo.config.loading import build, merge, parse_overrides, read_yaml, require
from cutie_geo.config.model import ModelConfig
from cutie_geo.config.segmentor import TASK, ClassifierConfig
from cutie_geo.config.training import TrainConfig


def config_root() -> Path:
    """The folder `configs`: beside the package in a checkout, inside it when installed from a wheel."""
    package = Path(__file__).parent.parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def preset_names() -> list[str]:
    """Names that `model_config` understands."""
    return sorted(path.stem for path in (config_root() / "models").glob("*.yaml"))


def model_config(name: str, overrides: Iterable[str] = ()) -> ModelConfig:
    """The model configuration of a preset or of a YAML file, with `key=value` overrides.

    Raises ValueError for a name that is neither, and for anything wrong inside.
    """
    path = config_root() / "models" / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
        known = f"{name}: no such model; wanted one of {', '.join(preset_names())}, or a YAML file"
        require(path.suffix in (".yaml", ".yml") and path.is_file(), known)
    return build(ModelConfig, merge(read_yaml(path), parse_overrides(overrides)), str(path.name))


def split_overrides(overrides: Iterable[str]) -> tuple[list[str], list[str]]:
    """`key=value` items that are the model's, and all the others, which are the tracker's."""
    names = {f.name for f in fields(ModelConfig)}
    items = list(overrides)
    of_model = [item for item in items if item.partition("=")[0].partition(".")[0].strip() in names]
    return of_model, [item for item in items if item not in of_model]


def is_hydra(item: str) -> bool:
    """Whether a `key=value` item changes SAM 2's own configuration, in hydra's grammar."""
    return item.lstrip("+~").startswith("model.")


# ---------------------------------------------------------------------------------------------------------- training
BASE = "base"
"""In a file of training: the file whose settings it changes."""


def stage_names() -> list[str]:
    """Names of the stages that come with the package."""
    return sorted(path.stem for path in (config_root() / "training").glob("*.yaml"))


def train_config(name: str, overrides: Iterable[str] = (), changes: dict[str, Any] | None = None) -> TrainConfig:
    """A stage of training by its name or file, with `key=value` overrides; those of the model go to `model_options`.

    changes: settings by name, laid over the file's before the overrides.
    Raises ValueError for a name that is neither, and for anything wrong inside.
    """
    of_model, of_stage = split_overrides(overrides)
    of_model += [item for item in of_stage if is_hydra(item)]
    given = merge(changes or {}, parse_overrides(item for item in of_stage if not is_hydra(item)))
    content = merge(_with_base(name, ()), given)
    if "steps" in given and "epochs" not in given:
        content["epochs"] = None
    options = [str(option) for option in content.pop("model_options", None) or []]
    content["model_options"] = (*options, *(option for option in of_model if not option.startswith("weights.")))
    return build(TrainConfig, content, Path(name).name)


def is_classifier(name: str) -> bool:
    """Whether a file of training is about the classifier of masklets. Raises ValueError for one that isn't there."""
    return _with_base(name, ()).get("task") == TASK


def classifier_config(
    name: str, overrides: Iterable[str] = (), changes: dict[str, Any] | None = None
) -> ClassifierConfig:
    """The training of the classifier of masklets that a file describes, with `key=value` overrides; those of SAM 2,
    `model.key=value`, go to `model_options`.

    changes: settings by name, laid over the file's before the overrides. Raises ValueError for anything wrong inside.
    """
    items = list(overrides)
    given = merge(changes or {}, parse_overrides(item for item in items if not is_hydra(item)))
    content = merge(_with_base(name, ()), given)
    options = content.pop("model_options", None) or []
    content["model_options"] = (*map(str, options), *(item for item in items if is_hydra(item)))
    return build(ClassifierConfig, content, Path(name).name)


def _with_base(name: str, seen: tuple[Path, ...]) -> dict[str, Any]:
    """A file's settings over those of its base, and so on."""
    path = _stage_file(name, seen[-1].parent if seen else None)
    require(path not in seen, f"{path}: is its own {BASE}")
    content = read_yaml(path)
    base = content.pop(BASE, None)
    require(
        base is None or isinstance(base, str), f"{path}: {BASE}: got {base!r}, wanted the name of a stage or a file"
    )
    return content if base is None else merge(_with_base(base, (*seen, path)), content)


def _stage_file(name: str, beside: Path | None) -> Path:
    """The file of a stage: one of the package's, or a YAML file, beside the one that names it or where one stands."""
    own = config_root() / "training" / f"{name}.yaml"
    if own.is_file():
        return own.resolve()
    for path in (Path(name), (beside or Path()) / name):
        if path.suffix in (".yaml", ".yml") and path.is_file():
            return path.resolve()
    raise ValueError(f"{name}: no such stage; wanted one of {', '.join(stage_names())}, or a YAML file")
