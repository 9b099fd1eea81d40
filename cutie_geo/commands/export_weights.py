"""`cutie-geo export weights`: export a trained model for publication."""

import argparse
from pathlib import Path

from cutie_geo.config.choices import CARD_FIELDS

HELP = "export a trained model for publication: float16, model card, digest"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoints", type=Path, nargs="+", metavar="checkpoint",
        help="folder of a trained model, such as runs/MODEL/STAGE/final; several are averaged",
    )  # fmt: skip
    parser.add_argument(
        "--output", "-o", type=Path, required=True, help="folder for weights, configuration and model card"
    )
    parser.add_argument("--full", action="store_true", help="keep float32 (default: float16)")
    parser.add_argument("--card", type=Path, metavar="YAML", help=f"the model card: any of {', '.join(CARD_FIELDS)}")


def run(args: argparse.Namespace) -> int:
    """Write the model and print size and digest; return 0. Raises ValueError."""
    from cutie_geo.checkpoints.export import export_weights
    from cutie_geo.runs.origins import origins

    folders = [folder.expanduser() for folder in args.checkpoints]
    path, parameters, sha256 = export_weights(folders, args.output, args.full, args.card, origins(folders))
    print(f"{path}: {parameters / 1e6:.2f} million parameters, {path.stat().st_size / 1e6:.1f} MB")
    print(f"sha256 {sha256}")
    return 0
