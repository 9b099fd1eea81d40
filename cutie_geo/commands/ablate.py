"""`cutie-geo ablate`: run an ablation table row by row."""

import argparse
from pathlib import Path

HELP = "run an ablation table of a paper or of your own: train, infer and score its rows"
RESUMES = True
TRACKERS = ("auto", "wandb", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a YAML file, or a bundled table, such as visor_table2")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder that holds the data sets")
    parser.add_argument("--output", "-o", type=Path, metavar="DIR", help="default: runs/ablations/<the file's name>")
    parser.add_argument("--rows", nargs="+", default=[], metavar="NAME", help="rows to run (default: all)")
    parser.add_argument(
        "--checkpoint", nargs="+", default=[], metavar="ROW=PATH", help="trained model of a row, instead of training it"
    )
    parser.add_argument(
        "--launch", metavar="COMMAND", help="launcher of train and infer, such as 'accelerate launch --num_processes 8'"
    )
    parser.add_argument("--tracker", choices=TRACKERS, default="auto", help="where curves and scores are logged")
    parser.add_argument("--workers", type=int, metavar="N", help="loader workers of train")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and the paper's figures only")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings of each training, such as steps=1000"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")


def run(args: argparse.Namespace) -> int:
    """Run all rows; return 0, or 2 if a row failed. Raises ValueError."""
    from cutie_geo.ablation.run import AblationOptions, run_ablation

    options = AblationOptions(
        args.file, args.data_root, args.output, tuple(args.rows), tuple(args.checkpoint), args.launch, args.tracker,
        args.workers, args.dry_run, tuple(args.overrides),
    )  # fmt: skip
    return 0 if run_ablation(options, lambda line: print(line, flush=True)) else 2
