"""`cutie-geo refine`: semantic predictions of videos made sharper and steadier by masks that are followed."""

import argparse
from dataclasses import replace
from pathlib import Path

from cutie_geo.commands.masklets import (
    add_how,
    add_masks,
    add_order,
    add_videos,
    grid_of,
    jobs_of,
    load_refiner,
    require_sense,
    run_jobs,
)
from cutie_geo.commands.processes import Processes
from cutie_geo.config import require
from cutie_geo.inference.refine import RefineOptions

HELP = "make semantic predictions of videos sharper and steadier"
RESUMES = True
"""Interrupted, it goes on where it stopped when it is called again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    what = add_videos(parser, "what to refine")
    what.add_argument(
        "--semantic", type=Path, metavar="S", help="base predictions: <video>/<frame>.png, or panoptic results"
    )
    what.add_argument(
        "--segformer", metavar="MODEL", help="instead: a SegFormer that makes them, a folder or a name on the hub"
    )
    add_masks(parser)
    vote = parser.add_argument_group("vote")
    scope = RefineOptions().scope
    vote.add_argument("--scope", choices=("window", "frame"), default=scope, help="which frames vote together")
    add_order(vote)
    add_how(parser)


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit status: 0, or 2 where a video could not be refined."""
    one = (args.semantic is None) != (args.segformer is None)
    require(one, "--semantic and --segformer: wanted one of them, for the base predictions")
    require_sense(args)
    grid = grid_of(args)
    options = RefineOptions(args.window, args.scope, args.order, args.workers, args.overwrite)
    jobs = jobs_of(args, args.semantic)
    processes = Processes(args.device)
    refiner, settings, _ = load_refiner(args, processes, grid)
    return run_jobs(args, jobs, processes, refiner, replace(options, settings=settings), "refined", {})
