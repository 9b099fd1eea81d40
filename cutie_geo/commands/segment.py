"""`cutie-geo segment`: semantic maps of videos from masks that are found, followed, and classified."""

import argparse
from dataclasses import replace
from pathlib import Path

from cutie_geo.commands.masklets import (
    add_how,
    add_masks,
    add_order,
    add_videos,
    encoder_for,
    grid_of,
    jobs_of,
    load_refiner,
    require_sense,
    run_jobs,
)
from cutie_geo.commands.processes import Processes
from cutie_geo.config import SAM2_ENCODER, require, to_dict
from cutie_geo.data.index.labelled import CLASSES
from cutie_geo.inference.refine import RefineOptions, no_base
from cutie_geo.inference.segmentor import Segmentor
from cutie_geo.model.load import resolve_device
from cutie_geo.model.masklet_classifier import MaskletClassifier, load_classifier
from cutie_geo.model.sam2 import SAM2_MODELS
from cutie_geo.model.tensor_files import state_digest

HELP = "segment videos by classes with masks that are found, followed and classified"
RESUMES = True
"""Interrupted, it goes on where it stopped when it is called again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    what = add_videos(parser, "what to segment")
    what.add_argument(
        "--base", type=Path, metavar="S", help="for pixels without a mask: <video>/<frame>.png, or panoptic results"
    )
    what.add_argument(
        "--segformer", metavar="MODEL", help="instead: a SegFormer that makes them, a folder or a name on the hub"
    )
    add_masks(parser)
    classes = parser.add_argument_group("classes")
    classes.add_argument(
        "--classifier", type=Path, required=True, metavar="DIR", help="what its training has left: a folder `final`"
    )
    classes.add_argument(
        "--encoder",
        metavar="NAME",
        help=f"whose features it sees: {SAM2_ENCODER} (that of --model), or an encoder of transformers, a folder or a "
        "name on the hub (default: what it has learnt from)",
    )
    scope = RefineOptions().scope
    classes.add_argument(
        "--scope", choices=("window", "frame"), default=scope, help="what has one class: a masklet, each of its masks"
    )
    add_order(classes)
    add_how(parser)


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit status: 0, or 2 where a video could not be segmented."""
    require(args.base is None or args.segformer is None, "--base and --segformer: wanted one of them, or none")
    require_sense(args)
    grid = grid_of(args)
    options = RefineOptions(args.window, args.scope, args.order, args.workers, args.overwrite)
    jobs = jobs_of(args, args.base)
    processes = Processes(args.device)
    device = resolve_device(processes.device(args.device))
    classifier = load_classifier(args.classifier, CLASSES, device)
    refiner, settings, finder = load_refiner(args, processes, grid)
    name = args.encoder or _encoder_of(classifier)
    level = classifier.described.encoder.level
    encode, source = encoder_for(name, level, finder, refiner.propagator, device, args.precision)
    classifier.require_encoder(source, str(args.classifier))
    base = no_base if args.base is None and refiner.base is None else refiner.base
    refiner = refiner._replace(base=base, segmentor=Segmentor(encode, classifier))
    settings |= {"classifier": f"sha256 {state_digest(classifier)}", "encoder": to_dict(source)}
    told = {"classifier": str(args.classifier), "encoder": name}
    return run_jobs(args, jobs, processes, refiner, replace(options, settings=settings), "segmented", told)


def _encoder_of(classifier: MaskletClassifier) -> str:
    """The encoder that a classifier names."""
    told = classifier.described.encoder.model
    return SAM2_ENCODER if told in SAM2_MODELS else told
