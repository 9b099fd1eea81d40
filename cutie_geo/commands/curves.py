"""`cutie-geo curves`: plot the logs of training runs."""

import argparse
from pathlib import Path

HELP = "plot the logs of training runs"
VALUES = ("loss/mask_dice", "validation/J&F")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="[LABEL=]RUN", help="folders of runs, such as runs/MODEL/STAGE")
    parser.add_argument(
        "--values",
        nargs="+",
        default=list(VALUES),
        metavar="NAME",
        help=f"logged values, one chart each (default: {' '.join(VALUES)})",
    )
    parser.add_argument("--smooth", type=int, default=1, metavar="N", help="mean over N lines of the log (default: 1)")
    parser.add_argument("--output", "-o", type=Path, required=True, help="figure to write, PNG or SVG")


def run(args: argparse.Namespace) -> int:
    """Plot the charts; return 0. Raises ValueError."""
    from cutie_geo.runs.curves import draw_curves

    draw_curves(args.runs, args.values, args.output, args.smooth)
    print(args.output)
    return 0
