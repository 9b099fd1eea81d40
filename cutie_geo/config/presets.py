"""Configurations by name: the YAML files that come with the package."""

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from cutie_geo.config.loading import build, merge, parse_overrides, read_yaml, require
from cutie_geo.config.model import ModelConfig


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
