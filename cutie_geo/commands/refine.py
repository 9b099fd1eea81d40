"""`cutie-geo refine`: refine semantic predictions of videos with SAM 2's masklets."""

import argparse
from pathlib import Path

from cutie_geo.commands.masklets import add_masks, add_models, add_painting, add_videos, conclude, semantic_run

HELP = "refine semantic predictions of videos with propagated masks"
RESUMES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    videos = add_videos(parser, "videos and base predictions")
    videos.add_argument(
        "--semantic", type=Path, metavar="S", help="base predictions: <video>/<frame>.png, or panoptic results"
    )
    add_masks(parser)
    add_painting(parser.add_argument_group("vote"), "frames over which classes are voted")
    add_models(parser)


def run(args: argparse.Namespace) -> int:
    """Refine the videos; return 0, or 2 if one failed. Raises ValueError."""
    run = semantic_run(args, args.semantic)
    from cutie_geo.vss.run import run_videos

    return 2 if run_videos(run, conclude(args.output, "refined")).failed else 0
