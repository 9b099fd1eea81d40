"""`cutie-geo doctor`: check this machine or a data set, with advice for what is missing."""

import argparse
import sys
from pathlib import Path

HELP = "check device, versions, weights and data, with advice for what is missing"
WINGS = ("cutie_geo.vss.index",)
"""Modules with further data sets, as SEMANTIC_DATASETS."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", action="store_true", help="check the files under --data-root instead")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="root of a data set, for --data")
    parser.add_argument("--dataset", metavar="NAME", help="name of the data set (default: try all)")
    parser.add_argument("--deep", action="store_true", help="decode every file, not only the first of each video")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report to this file")


def run(args: argparse.Namespace) -> int:
    """Print the report; return 0, 1 if something needed is broken, or 2 for invalid options."""
    from cutie_geo.runs import doctor

    try:
        if args.data and args.data_root is None:
            raise ValueError("--data: got no root, expected --data-root DIR")
        if not args.data and (args.data_root or args.dataset or args.deep):
            raise ValueError("--data-root, --dataset and --deep: expected --data with them")
        if args.data:
            sections = [doctor.check_data(args.data_root, args.dataset, args.deep, WINGS)]
        else:
            sections = doctor.check_machine()
        print("\n".join(doctor.report_lines(sections)))
        if args.json:
            _write_json(args.json, doctor.report(sections))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return int(any(section.broken for section in sections))


def _write_json(path: Path, content: object) -> None:
    """Write JSON without the package's own helper, whose dependencies may be missing."""
    import json

    try:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror}") from None
