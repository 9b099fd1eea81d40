"""`cutie-geo download`: download published weights and verify their digests."""

import argparse
import sys
from pathlib import Path

from cutie_geo.checkpoints.catalogue import CATALOGUE
from cutie_geo.config import preset_names

HELP = "download published weights and verify their digests"
RESUMES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    files = ", ".join(name for name in CATALOGUE if name not in preset_names())
    models = f"a model ({', '.join(preset_names())}, or a YAML file), for all files that it needs"
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"{models}; a single file ({files}); or key=value, which changes the models, such as "
        "encoder.vision_init=mae",
    )
    parser.add_argument("--all", action="store_true", help="all files")
    parser.add_argument("--list", action="store_true", help="list all files and their state, without downloading")
    parser.add_argument("--dir", type=Path, help="folder for the files (default: the cache)")
    parser.add_argument("--force", action="store_true", help="download existing files again")


def run(args: argparse.Namespace) -> int:
    """Download; a failed file does not stop the others. Return 0, or 2 if any failed. Raises ValueError."""
    from cutie_geo.checkpoints.downloads import DownloadOptions, download, list_files

    if args.list:
        list_files(args.dir, print)
        return 0
    errors = download(DownloadOptions(tuple(args.names), args.all, args.dir, args.force), print)
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 2 if errors else 0
