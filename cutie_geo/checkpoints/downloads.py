"""Download of published weights by model, with their sources and licences."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from cutie_geo.checkpoints.bundled import BUNDLED
from cutie_geo.checkpoints.catalogue import (
    CATALOGUE,
    NON_COMMERCIAL,
    cache_dir,
    fetch,
    known_digest,
    location,
    state,
    weight_file,
)
from cutie_geo.checkpoints.load import needed_files
from cutie_geo.config import preset_names

IN_PACKAGE = "its trained weights come with the package"
UNTRAINED = "no trained weights of it are published yet"
WARM = "; weights.warm_start=FILE takes cutie-base's file for all behind its encoders (cutie-geo download cutie-base)"


Say = Callable[[str], None]
"""Function that prints a line on the terminal."""


@dataclass(frozen=True)
class DownloadOptions:
    """Options of `download`."""

    names: tuple[str, ...] = ()
    """Models (presets or YAML files), files of the catalogue, and key=value overrides of the models."""
    everything: bool = False
    folder: Path | None = None
    """Folder of the files; None means the cache."""
    force: bool = False
    """Download files even if they exist."""


def download(options: DownloadOptions, say: Say) -> list[str]:
    """Download files with their digests checked; return the errors of files that failed.

    Raises:
        ValueError: For unknown names, overrides without a model, or no names at all.
    """
    models, uses = _wanted(options)
    errors = [text for name in uses if (text := _download(name, uses[name], options, say))]
    for model, parts in models.items():
        if "model" not in parts:
            say(f"{model}: {_where_trained(model, parts)}")
    say(_licences(uses))
    return errors


def _files_of_their_own() -> list[str]:
    return [name for name in CATALOGUE if name not in preset_names()]


def _wanted(options: DownloadOptions) -> tuple[dict[str, dict[str, str]], dict[str, list[str]]]:
    """Return the models with their files by part, and the uses of each file. Raises ValueError as `download` does."""
    changes = [name for name in options.names if "=" in name]
    names = [name for name in dict.fromkeys(options.names) if name not in changes]
    files = list(CATALOGUE) if options.everything else [name for name in names if name in _files_of_their_own()]
    models = {name: _needed(name, changes) for name in names if name not in _files_of_their_own()}
    if not models and not files:
        raise ValueError(f"download: got no names, expected --all, --list or one of {_choices()}")
    if changes and not models:
        raise ValueError(f"{changes[0]}: changes a model, but got none; expected one of {_choices()}")
    uses: dict[str, list[str]] = {file: [] for file in files}
    for model, parts in models.items():
        for part, file in parts.items():
            uses.setdefault(file, []).append(f"{'all' if part == 'model' else part} of {model}")
    return models, uses


def _needed(name: str, changes: list[str]) -> dict[str, str]:
    """Return the files of a model by part. Raises ValueError for unknown models and invalid overrides."""
    if name not in preset_names() and Path(name).suffix not in (".yaml", ".yml"):
        raise ValueError(f"{name}: no such weights and no such model; expected one of {_choices()}")
    return needed_files(name, changes)


def _choices() -> str:
    return ", ".join([*preset_names(), "a YAML file", *_files_of_their_own()])


def _download(name: str, uses: list[str], options: DownloadOptions, say: Say) -> str:
    """Fetch one file and print its description; return the error message, or "" on success."""
    try:
        path = fetch(name, options.folder, force=options.force)
    except ValueError as error:
        return str(error)
    say(f"{name}: {path}")
    if uses:
        say(f"  for      {', '.join(uses)}")
    _describe(name, options.folder, say)
    return ""


def list_files(folder: Path | None, say: Say) -> None:
    """Print the local state of each file, and the files of each model."""
    say(f"folder: {folder or cache_dir()}")
    for name in CATALOGUE:
        say(f"{name}: {state(name, folder)}, {location(name, folder).name}")
        _describe(name, folder, say)
        say(f"  source   {weight_file(name).url}")
    say("models:")
    for model in preset_names():
        parts = needed_files(model)
        say(f"{model}: {', '.join(f'{part} {file} ({state(file, folder)})' for part, file in parts.items())}")
        say(f"  {_licences(parts.values())}")
        if "model" not in parts:
            say(f"  {_where_trained(model, parts)}")


def _where_trained(model: str, parts: Collection[str]) -> str:
    """Return the source of a model's trained weights if they are not in the catalogue; `parts` are published."""
    return IN_PACKAGE if model in BUNDLED else f"{UNTRAINED}{WARM if parts else ''}"


def _describe(name: str, folder: Path | None, say: Say) -> None:
    weights = weight_file(name)
    algorithm, digest = known_digest(name, folder)
    facts = [digest, f"({weights.note})" if weights.note else ""]
    say(f"  licence  {weights.licence}")
    say(f"  {algorithm:<8} {' '.join(filter(None, facts))}")


def _licences(names: Iterable[str]) -> str:
    """Summarise the licences of the files in one line."""
    licences = {name: weight_file(name).licence for name in names}
    bound = [name for name, licence in licences.items() if licence == NON_COMMERCIAL]
    if bound:
        are, them = ("is", "it") if len(bound) == 1 else ("are", "them")
        return (
            f"licences: {', '.join(bound)} {are} {NON_COMMERCIAL}: whatever holds {them} is for non-commercial use only"
        )
    listed = " and ".join(sorted(set(licences.values())))
    return f"licences: {listed}, free for commercial use too" if listed else "licences: nothing needed, so none"
