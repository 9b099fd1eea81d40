"""`cutie-geo export`: a trained model as others get it, small, with a model card and a digest."""

import argparse
from pathlib import Path

from cutie_geo.config import read_yaml, require
from cutie_geo.model.averaging import average
from cutie_geo.model.hub import CARD_FILE
from cutie_geo.model.load import is_checkpoint, load_model
from cutie_geo.model.saving import save_checkpoint
from cutie_geo.model.weights import digest

HELP = "write a trained model for others: float16, with a model card and its digest"
RESUMES = False
CARD_FIELDS = ("title", "data", "licence", "training", "scores", "limits")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "checkpoints",
        type=Path,
        nargs="+",
        metavar="checkpoint",
        help="the folder of a trained model, such as runs/MODEL/STAGE/final; of several, such as two seeds of a stage, "
        "the mean of their weights is written",
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for the weights, the configuration, the card"
    )
    parser.add_argument("--full", action="store_true", help="keep float32 (default: float16, half as large)")
    parser.add_argument(
        "--card", type=Path, metavar="YAML", help=f"what the model card says: any of {', '.join(CARD_FIELDS)}"
    )


def run(args: argparse.Namespace) -> int:
    """Write it and print size and digest; return 0. Raises ValueError for what is no checkpoint or no card."""
    folders = [folder.expanduser() for folder in args.checkpoints]
    for folder in folders:
        require(
            is_checkpoint(str(folder)), f"{folder}: no folder of a trained model, wanted one such as runs/.../final"
        )
        require(folder.resolve() != args.output.resolve(), f"--output: got {folder} itself, wanted another folder")
    fields = {} if args.card is None else read_yaml(args.card)
    strange = sorted(set(fields) - set(CARD_FIELDS))
    require(not strange, f"{args.card}: got {', '.join(strange)}, wanted any of {', '.join(CARD_FIELDS)}")
    model = average(load_model(str(folder.absolute()), device="cpu", precision="fp32") for folder in folders)
    card = model.generate_model_card(**fields)
    path = save_checkpoint(model, args.output, half=not args.full)
    card.save(args.output / CARD_FILE)
    count = sum(weight.numel() for weight in model.parameters())
    print(f"{path}: {count / 1e6:.2f} million parameters, {path.stat().st_size / 1e6:.1f} MB")
    print(f"sha256 {digest(path, 'sha256')}")
    return 0
