"""`train.py --config configs/vss/isam2_vspw.yaml`: train a classifier of masklets."""

import argparse
import shlex

from cutie_geo.config import require
from cutie_geo.vss.config import ClassifierRunOptions, classifier_config


def run(args: argparse.Namespace) -> int:
    """Train; return 0 after the last step, 130 or 143 after a signal. Raises ValueError for stage options."""
    given = {"--dry-run": args.dry_run, "--compile": args.compile, "--processes": args.processes}
    stray = [name for name, value in given.items() if value]
    require(not stray, f"{', '.join(stray)}: got {args.config}, expected a stage that trains a network")
    require(args.data_root is not None, "--data-root: expected the folder that holds the data set")
    program, *arguments = args.command_line
    options = ClassifierRunOptions(
        config=classifier_config(str(args.config), args.overrides, {} if args.model is None else {"model": args.model}),
        data_root=args.data_root,
        output=args.output,
        weights=args.weights,
        cache=args.cache_features,
        resume=args.resume,
        tracker=args.tracker,
        group=args.group,
        device=args.device,
        cpu_threads=args.cpu_threads,
        command=f"{program} {shlex.join(arguments)}".rstrip(),
    )
    from cutie_geo.vss.classifier_run import train_classifier

    outcome = train_classifier(options)
    if outcome.message:
        print(outcome.message)
    return outcome.status
