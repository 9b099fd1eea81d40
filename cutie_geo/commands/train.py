"""Train a model, stage by stage: `accelerate launch train.py --stage 1`, then `--stage 2`; or fine-tune one."""

import argparse
import os
import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cutie_geo.commands.help import add_common
from cutie_geo.config import recipe_names, require, stage_names
from cutie_geo.config.choices import DEFAULT_MODEL, TRACKERS

if TYPE_CHECKING:
    from cutie_geo.runs.train import Outcome, TrainOptions

HELP = "fine-tune a model on own videos, or train one stage by stage"
RESUMES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of training."""
    common = add_common(parser, "[options] [key=value ...]")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="any setting, such as steps=1000 or encoder.geometry=none"
    )
    common.add_argument("--stage", help=f"0, 1, 2, or one of {', '.join(stage_names())}")
    common.add_argument(
        "--recipe", help=f"all stages of a recipe in order: {', '.join(recipe_names())}; resumes as stages do"
    )
    common.add_argument(
        "--config",
        type=Path,
        help="a YAML file, or the name of a bundled one: a stage, or changes to --stage",
    )
    common.add_argument(
        "--finetune",
        type=Path,
        metavar="DATA",
        help="fine-tune --model on own videos: a folder with videos/ and masks/ or sessions/ (docs/own-data.md)",
    )
    what = parser.add_argument_group("what to train")
    what.add_argument(
        "--val",
        default="",
        metavar="FILE|SHARE",
        help="for --finetune: list of the validation videos, or their share (default: val.txt of DATA, else 0.2)",
    )
    common.add_argument(
        "--model",
        help="a preset or a YAML file (default: the stage's); for --finetune also a run or a model folder "
        f"(default: {DEFAULT_MODEL})",
    )
    common.add_argument(
        "--weights",
        default="auto",
        help="initial weights: auto (the previous stage, else the stage's default), encoders (the published "
        "ones), none (random), or a checkpoint",
    )
    common.add_argument("--data-root", type=Path, metavar="DIR", help="folder that holds the data sets")
    common.add_argument("--output", "-o", type=Path, default=Path("runs"), help="folder of all runs (default: runs)")
    common.add_argument(
        "--resume",
        default="auto",
        help="auto (resume the run in the same folder), never (refuse an existing run), or a checkpoint",
    )
    common.add_argument("--dry-run", action="store_true", help="print the plan; needs neither data nor weights")

    where = parser.add_argument_group("output")
    where.add_argument("--tracker", choices=TRACKERS, default="auto", help="destination of scalars and images")
    where.add_argument("--group", default="", help="name that several runs share in W&B")

    how = parser.add_argument_group("how")
    how.add_argument("--device", choices=["auto", "cpu"], default="auto", help="auto: accelerate's device")
    how.add_argument("--workers", type=int, help="loader workers per training process (default: 4, on a CPU 1)")
    how.add_argument(
        "--processes", type=int, help="for --dry-run: planned number of processes (default: the current number)"
    )
    how.add_argument(
        "--cpu-threads",
        type=int,
        help="torch threads on the CPU (default: all, divided among processes)",
    )
    how.add_argument("--compile", action="store_true", help="compile the network: slow start, then faster")
    how.add_argument(
        "--cache-features", type=Path, metavar="DIR", help="cache of masklet features, for classifier training"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")


def run(args: argparse.Namespace) -> int:
    """Train; return 0 after the last step, 130 or 143 after a signal."""
    from cutie_geo.vss.config import is_classifier

    if args.recipe is None and args.stage is None and args.config is not None and is_classifier(str(args.config)):
        from cutie_geo.commands import train_classifier

        return train_classifier.run(args)
    require(args.cache_features is None, "--cache-features: only training of a masklet classifier keeps features")
    from cutie_geo.runs.train import TrainOptions, train, train_recipe

    program, *arguments = args.command_line
    names = [field.name for field in fields(TrainOptions) if field.name not in ("overrides", "command", "estimate")]
    given = {name: getattr(args, name) for name in names}
    command = f"{program} {shlex.join(arguments)}".rstrip()
    options = TrainOptions(**given, overrides=tuple(args.overrides), command=command)
    require(not args.val or args.finetune is not None, "--val: expected --finetune DATA with it")
    if args.finetune is not None:
        require(args.recipe is None, "--recipe: got --finetune too, expected one of them")
        outcomes = [_finetune(args, options)]
    else:
        outcomes = [train(options)] if args.recipe is None else train_recipe(args.recipe, options)
    for outcome in outcomes:
        if outcome.message:
            print(outcome.message)
    return outcome.status


def _finetune(args: argparse.Namespace, options: "TrainOptions") -> "Outcome":
    from cutie_geo.runs.finetune import FinetuneOptions, finetune

    for name in ("stage", "config", "data_root"):
        option = f"--{name.replace('_', '-')}"
        require(getattr(args, name) is None, f"{option}: expected either it or --finetune")
    require(args.weights == "auto", "--weights: --finetune starts from the weights of --model; expected only that")
    main = "RANK" not in os.environ or os.environ["RANK"] == "0"  # of the processes of a launch, one prints
    return finetune(
        FinetuneOptions(args.finetune, args.model or DEFAULT_MODEL, args.val, replace(options, model=None)),
        print if main else lambda _: None,
    )
