"""`cutie-geo segment`: segment videos semantically with a classifier of SAM 2's masklets."""

import argparse
from pathlib import Path

from cutie_geo.commands.masklets import add_masks, add_models, add_painting, add_videos, conclude, semantic_run
from cutie_geo.vss.config import SAM2_ENCODER

HELP = "segment videos semantically: generate, propagate and classify masks"
RESUMES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    videos = add_videos(parser, "videos, and base predictions for pixels without a mask")
    videos.add_argument(
        "--base", type=Path, metavar="S", help="base predictions: <video>/<frame>.png, or panoptic results"
    )
    add_masks(parser)
    classes = parser.add_argument_group("classes")
    classes.add_argument(
        "--classifier", type=Path, required=True, metavar="DIR", help="a trained classifier: the folder `final`"
    )
    classes.add_argument(
        "--encoder",
        metavar="NAME",
        help=f"encoder of its features: {SAM2_ENCODER} (that of --model), or one of transformers, a folder or a name "
        "on the hub (default: the one it was trained with)",
    )
    add_painting(classes, "one class per masklet, or per frame of a masklet")
    add_models(parser)


def run(args: argparse.Namespace) -> int:
    """Segment the videos; return 0, or 2 if one failed. Raises ValueError."""
    run = semantic_run(args, args.base, classifier=args.classifier, encoder=args.encoder)
    from cutie_geo.vss.run import run_videos

    return 2 if run_videos(run, conclude(args.output, "segmented")).failed else 0
