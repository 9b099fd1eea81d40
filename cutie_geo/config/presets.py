"""Lookup of the package's YAML configurations by name."""

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from cutie_geo.config.loading import build, merge, parse_overrides, read_yaml, require
from cutie_geo.config.model import ModelConfig
from cutie_geo.config.sam2_options import is_hydra, require_plain
from cutie_geo.config.tracker import TrackerConfig
from cutie_geo.config.training import TrainConfig, with_current_names


def config_root() -> Path:
    """Return the folder `configs`: next to the package in a checkout, inside it when installed from a wheel."""
    package = Path(__file__).parent.parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_config(name: str, folders: Iterable[str], beside: Path | None = None) -> Path | None:
    """Return the path of a configuration by name, such as `tiny_depth`, or by path; None if it does not exist.

    Paths such as `configs/sam2/NAME.yaml` refer to the package's files wherever it is installed.

    Args:
        name: Name without suffix, or path of a YAML file.
        folders: Folders of `configs` to search.
        beside: Folder for relative paths that do not exist in the working directory.
    """
    for folder in folders:
        own = config_root() / folder / f"{name}.yaml"
        if own.is_file() and Path(name).name == name:
            return own
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        return None
    packaged = (
        [config_root().joinpath(*path.parts[1:])] if path.parts[0] == "configs" and ".." not in path.parts else []
    )
    packaged += [config_root() / folder / name for folder in folders if path.name == name]
    found = [place for place in (path, (beside or Path()) / path, *packaged) if place.is_file()]
    return found[0] if found else None


def preset_names() -> list[str]:
    """Return the names of the model presets."""
    return sorted(path.stem for path in (config_root() / "models").glob("*.yaml"))


def model_config(name: str, overrides: Iterable[str] = ()) -> ModelConfig:
    """Load the model configuration of a preset or a YAML file, with `key=value` overrides.

    Raises:
        ValueError: If the name is unknown or the configuration is invalid.
    """
    path = find_config(name, ("models",))
    if path is None:
        raise ValueError(f"{name}: no such model; expected one of {', '.join(preset_names())}, or a YAML file")
    return build(ModelConfig, merge(read_yaml(path), parse_overrides(overrides)), str(path.name))


def split_overrides(overrides: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split `key=value` items into those of the model and those of the tracker.

    Options of both, such as `mem_every`, belong to the tracker: the model only has their defaults.
    """
    names = {f.name for f in fields(ModelConfig)} - {f.name for f in fields(TrackerConfig)}
    items = list(overrides)
    of_model = [item for item in items if item.partition("=")[0].partition(".")[0].strip() in names]
    return of_model, [item for item in items if item not in of_model]


# ---------------------------------------------------------------------------------------------------------- training
STAGE_FOLDERS = ("training", "sam2", "vss")
"""Folders of `configs` with training stages, fine-tuning of SAM 2, and masklet classifiers."""
BASE = "base"
"""Key of a training file for the file whose settings it overrides."""


def stage_names() -> list[str]:
    """Return the names of the package's training stages."""
    return sorted(path.stem for path in (config_root() / "training").glob("*.yaml"))


def recipe_names() -> list[str]:
    """Return the names of the package's recipes."""
    return sorted(path.stem for path in (config_root() / "recipes").glob("*.yaml"))


def recipe_stages(name: str) -> list[str]:
    """Return the stages of a recipe in order. Raises ValueError for an unknown recipe, or one with unknown stages."""
    require(name in recipe_names(), f"--recipe: got {name}, expected one of {', '.join(recipe_names())}")
    path = config_root() / "recipes" / f"{name}.yaml"
    stages = read_yaml(path).get("stages")
    known = isinstance(stages, list) and bool(stages) and all(stage in stage_names() for stage in stages)
    require(known, f"{path}: stages: got {stages!r}, expected a list of some of {', '.join(stage_names())}")
    assert isinstance(stages, list)
    return stages


def train_config(name: str, overrides: Iterable[str] = (), changes: dict[str, Any] | None = None) -> TrainConfig:
    """Load a training stage by name or file, with `key=value` overrides; those of the model go to `model_options`.

    Args:
        name: Name of a stage, or path of a YAML file.
        overrides: `key=value` items.
        changes: Settings that override the file's, before `overrides`.

    Raises:
        ValueError: If the name is unknown or the configuration is invalid.
    """
    of_model, of_stage = split_overrides(overrides)
    of_model += [item for item in of_stage if is_hydra(item)]
    given = merge(changes or {}, parse_overrides(item for item in of_stage if not is_hydra(item)))
    given = with_current_names(given)
    content = merge(stage_settings(name), given)
    if "steps" in given and "epochs" not in given:
        content["epochs"] = None
    options = take_model_options(content, name)
    options += [option for option in of_model if not option.startswith("weights.")]
    require_plain(filter(is_hydra, options), Path(name).name)
    content["model_options"] = tuple(options)
    return build(TrainConfig, content, Path(name).name)


def take_model_options(content: dict[str, Any], name: str) -> list[str]:
    """Remove `model_options` from the content of a file and return them.

    Raises:
        ValueError: Unless they are a list of `key=value` items.
    """
    options = content.pop("model_options", None)
    where = f"{Path(name).name}.model_options"
    require(options is None or isinstance(options, (list, tuple)), f"{where}: got {options!r:.80}, expected a list")
    strange = [repr(item)[:80] for item in options or () if not isinstance(item, str) or "=" not in item]
    require(not strange, f"{where}: got {', '.join(strange[:3])}, expected key=value")
    return [str(item) for item in options or ()]


def stage_settings(name: str) -> dict[str, Any]:
    """Return the settings of a training file merged with those of its base, as plain values.

    Args:
        name: Name of a stage, or path of a YAML file.

    Raises:
        ValueError: If a file is missing or invalid.
    """
    return _with_base(name, ())


def _with_base(name: str, seen: tuple[Path, ...]) -> dict[str, Any]:
    """Merge a file's settings with those of its base, recursively."""
    path = stage_file(name, seen[-1].parent if seen else None)
    require(path not in seen, f"{path}: is its own {BASE}")
    content = with_current_names(read_yaml(path))
    base = content.pop(BASE, None)
    require(
        base is None or isinstance(base, str), f"{path}: {BASE}: got {base!r}, expected the name of a stage or a file"
    )
    return content if base is None else merge(_with_base(base, (*seen, path)), content)


def stage_file(name: str, beside: Path | None = None) -> Path:
    """Return the file of a stage: the package's, by name, or a YAML file in the working directory or `beside`.

    Raises:
        ValueError: If it does not exist.
    """
    path = find_config(name, STAGE_FOLDERS, beside)
    if path is None:
        known = sorted(file.stem for folder in STAGE_FOLDERS for file in (config_root() / folder).glob("*.yaml"))
        raise ValueError(f"{name}: no such stage; expected one of {', '.join(known)}, or a YAML file")
    return path.resolve()
