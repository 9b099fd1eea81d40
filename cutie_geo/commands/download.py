"""`cutie-geo download`: fetch published weights into the cache, with their digests checked."""

import argparse
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from cutie_geo.config import preset_names
from cutie_geo.model.bundled import BUNDLED
from cutie_geo.model.load import needed_files
from cutie_geo.model.weights import (
    CATALOGUE,
    NON_COMMERCIAL,
    cache_dir,
    fetch,
    known_digest,
    location,
    state,
    weight_file,
)

HELP = "download published weights, with their digests checked"
RESUMES = True
"""Interrupted, it goes on where it stopped when it is called again."""

IN_PACKAGE = "its trained weights come with the package"
UNTRAINED = "no trained weights of it are published yet"
WARM = "; weights.warm_start=FILE takes cutie-base's file for all behind its encoders (cutie-geo download cutie-base)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    models = f"a model ({', '.join(preset_names())}, or a YAML file), for all that it needs"
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"{models}; a file of its own ({', '.join(_files_of_their_own())}); "
        "or key=value, which changes the models, such as encoder.vision_init=mae",
    )
    parser.add_argument("--all", action="store_true", help="everything there is")
    parser.add_argument("--list", action="store_true", help="say what there is and what is already here, and stop")
    parser.add_argument("--dir", type=Path, help="put the files here instead of the cache")
    parser.add_argument("--force", action="store_true", help="download even what is already here")


def run(args: argparse.Namespace) -> int:
    """Download what was asked for; one file's failure doesn't stop the others. Returns 0, or 2 if anything failed."""
    if args.list:
        return _list(args.dir)
    try:
        models, uses = _wanted(args)
    except ValueError as error:
        return _complain(error)
    failed = max((_download(name, uses[name], args.dir, args.force) for name in uses), default=0)
    for model, parts in models.items():
        if "model" not in parts:
            print(f"{model}: {_where_trained(model, parts)}")
    print(_licences(uses))
    return failed


def _files_of_their_own() -> list[str]:
    return [name for name in CATALOGUE if name not in preset_names()]


def _wanted(args: argparse.Namespace) -> tuple[dict[str, dict[str, str]], dict[str, list[str]]]:
    """The models asked for with their files by part, and what each file asked for is used as.

    Raises ValueError for unknown names, for changes that fit no model, and for nothing at all.
    """
    changes = [name for name in args.names if "=" in name]
    names = [name for name in dict.fromkeys(args.names) if name not in changes]
    files = list(CATALOGUE) if args.all else [name for name in names if name in _files_of_their_own()]
    models = {name: _needed(name, changes) for name in names if name not in _files_of_their_own()}
    if not models and not files:
        raise ValueError(f"download: nothing asked for, wanted --all, --list or one of {_choices()}")
    if changes and not models:
        raise ValueError(f"{changes[0]}: changes a model, but none was asked for; wanted one of {_choices()}")
    uses: dict[str, list[str]] = {file: [] for file in files}
    for model, parts in models.items():
        for part, file in parts.items():
            uses.setdefault(file, []).append(f"{'all' if part == 'model' else part} of {model}")
    return models, uses


def _needed(name: str, changes: list[str]) -> dict[str, str]:
    """The files of a model by part. Raises ValueError for a name that is no model's, and for changes that don't fit."""
    if name not in preset_names() and Path(name).suffix not in (".yaml", ".yml"):
        raise ValueError(f"{name}: no such weights and no such model; wanted one of {_choices()}")
    return needed_files(name, changes)


def _choices() -> str:
    return ", ".join([*preset_names(), "a YAML file", *_files_of_their_own()])


def _download(name: str, uses: list[str], folder: Path | None, force: bool) -> int:
    """Fetch one file and say what it is; 2 if that fails."""
    try:
        path = fetch(name, folder, force=force)
    except ValueError as error:
        return _complain(error)
    print(f"{name}: {path}")
    if uses:
        print(f"  for      {', '.join(uses)}")
    _describe(name, folder)
    return 0


def _list(folder: Path | None) -> int:
    """Every file with its state on this machine, and the models with the files that they need."""
    print(f"folder: {folder or cache_dir()}")
    for name in CATALOGUE:
        print(f"{name}: {state(name, folder)}, {location(name, folder).name}")
        _describe(name, folder)
        print(f"  source   {weight_file(name).url}")
    print("models:")
    for model in preset_names():
        parts = needed_files(model)
        print(f"{model}: {', '.join(f'{part} {file} ({state(file, folder)})' for part, file in parts.items())}")
        print(f"  {_licences(parts.values())}")
        if "model" not in parts:
            print(f"  {_where_trained(model, parts)}")
    return 0


def _where_trained(model: str, parts: Collection[str]) -> str:
    """Where the trained weights of a model are that has none in the catalogue; `parts` of it are published."""
    return IN_PACKAGE if model in BUNDLED else f"{UNTRAINED}{WARM if parts else ''}"


def _describe(name: str, folder: Path | None) -> None:
    weights = weight_file(name)
    algorithm, digest = known_digest(name, folder)
    facts = [digest, f"({weights.note})" if weights.note else ""]
    print(f"  licence  {weights.licence}")
    print(f"  {algorithm:<8} {' '.join(filter(None, facts))}")


def _licences(names: Iterable[str]) -> str:
    """What follows from the licences of the files, in one line."""
    licences = {name: weight_file(name).licence for name in names}
    bound = [name for name, licence in licences.items() if licence == NON_COMMERCIAL]
    if bound:
        are, them = ("is", "it") if len(bound) == 1 else ("are", "them")
        return (
            f"licences: {', '.join(bound)} {are} {NON_COMMERCIAL}: whatever holds {them} is for non-commercial use only"
        )
    listed = " and ".join(sorted(set(licences.values())))
    return f"licences: {listed}, free for commercial use too" if listed else "licences: nothing needed, so none"


def _complain(error: ValueError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2
