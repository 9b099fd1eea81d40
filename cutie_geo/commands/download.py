"""`cutie-geo download`: fetch published weights into the cache, with their digests checked."""

import argparse
import sys
from pathlib import Path

from cutie_geo.model.weights import CATALOGUE, cache_dir, fetch, location, state, weight_file

HELP = "download published weights, with their digests checked"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of {', '.join(CATALOGUE)}")
    parser.add_argument("--all", action="store_true", help="everything there is")
    parser.add_argument("--list", action="store_true", help="say what there is and what is already here, and stop")
    parser.add_argument("--dir", type=Path, help="put the files here instead of the cache")
    parser.add_argument("--force", action="store_true", help="download even what is already here")


def run(args: argparse.Namespace) -> int:
    """Download what was asked for; one file's failure doesn't stop the others. Returns 0, or 2 if anything failed."""
    if args.list:
        return _list(args.dir)
    try:
        names = _wanted(args)
    except ValueError as error:
        return _complain(error)
    return max(_download(name, args.dir, args.force) for name in names)


def _wanted(args: argparse.Namespace) -> list[str]:
    """The names asked for, each once. Raises ValueError for unknown ones and for none."""
    names = list(CATALOGUE) if args.all else list(dict.fromkeys(args.names))
    if not names:
        raise ValueError(f"download: nothing asked for, wanted --all, --list or one of {', '.join(CATALOGUE)}")
    for name in names:
        weight_file(name)
    return names


def _download(name: str, folder: Path | None, force: bool) -> int:
    """Fetch one file and say what it is; 2 if that fails."""
    try:
        path = fetch(name, folder, force=force)
    except ValueError as error:
        return _complain(error)
    print(f"{name}: {path}")
    _describe(name)
    return 0


def _list(folder: Path | None) -> int:
    """Every file with its state on this machine."""
    print(f"folder: {folder or cache_dir()}")
    for name in CATALOGUE:
        print(f"{name}: {state(name, folder)}, {location(name, folder).name}")
        _describe(name)
        print(f"  source   {weight_file(name).url}")
    return 0


def _describe(name: str) -> None:
    weights = weight_file(name)
    algorithm, digest = weights.digest
    print(f"  licence  {weights.licence}")
    print(f"  {algorithm:<8} {digest}{f' ({weights.note})' if weights.note else ''}")


def _complain(error: ValueError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2
