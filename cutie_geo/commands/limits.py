"""Options that raise the limits on file sizes, shared by all commands."""

import argparse

from cutie_geo.limits import DEFAULT_MAX_PICKLE_MIB, DEFAULT_MAX_PIXELS, set_limits


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add `--max-pixels` and `--max-pickle-mib`."""
    group = parser.add_argument_group("limits on files (larger ones are refused)")
    group.add_argument(
        "--max-pixels", type=int, metavar="N", help=f"pixels of an image or mask (default: {DEFAULT_MAX_PIXELS})"
    )
    group.add_argument(
        "--max-pickle-mib",
        type=int,
        metavar="N",
        help=f"size of the pickle in a PyTorch file, tensors not counted (default: {DEFAULT_MAX_PICKLE_MIB})",
    )


def apply_limits(args: argparse.Namespace) -> None:
    """Set the limits from the options. Raises ValueError for limits below 1."""
    set_limits(args.max_pixels, args.max_pickle_mib)
