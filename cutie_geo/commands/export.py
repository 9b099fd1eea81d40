"""`cutie-geo export`: export masks, a trained model, or its graphs."""

import argparse

HELP = "export masks to formats of other programs (masks), a trained model (weights), or its graphs for ONNX (onnx)"
KINDS = ("masks", "weights", "onnx")
"""Subcommands; the command line runs the module `export_<kind>` instead of this one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name of the subcommand, for `--help` and errors."""
    parser.add_argument(
        "kind",
        type=known_kind,
        metavar="|".join(KINDS),
        help="what to export; see `cutie-geo export masks --help`",
    )


def known_kind(word: str) -> str:
    """Return a subcommand's name. Raises ArgumentTypeError with the command that replaced `cutie-geo export FOLDER`."""
    if word not in KINDS:
        raise argparse.ArgumentTypeError(
            f"got {word}, expected {' or '.join(KINDS)}; "
            f"a trained model is exported by: cutie-geo export weights {word}"
        )
    return word


def run(args: argparse.Namespace) -> int:
    """Raise ValueError: a subcommand comes before all options."""
    raise ValueError(f"export: got options before {args.kind}, expected: cutie-geo export {args.kind} ...")
