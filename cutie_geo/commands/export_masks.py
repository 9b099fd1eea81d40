"""`cutie-geo export masks`: finished masks in other programs' formats."""

import argparse
from pathlib import Path

from cutie_geo.export.masks import FORMATS, export_masks
from cutie_geo.export.options import CONTAINERS, EFFECTS, SHAPES, STYLES, ExportOptions, parse_names

HELP = "write finished masks in another format: COCO, YOLO, CVAT, Label Studio, overlay videos, ..."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "run", type=Path, help="folder of results, its Annotations, or any folder of <video>/<frame>.png"
    )
    parser.add_argument("--format", required=True, metavar="F", help=f"one of {', '.join(FORMATS)}")
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="DIR", help="folder to write into")
    parser.add_argument("--video", type=Path, help="the frames: a video, a folder of frames, or a folder of such; "
                        "overlay and rgba need them, yolo copies them")  # fmt: skip
    parser.add_argument(
        "--objects", type=int, nargs="+", default=(), metavar="ID", help="objects to export (default: all)"
    )
    parser.add_argument(
        "--names", nargs="+", default=(), metavar="ID=NAME", help="names of objects: 1=knife 2=hand, or a JSON file"
    )
    shapes = parser.add_argument_group("coco, cvat, yolo, labelstudio")
    shapes.add_argument("--shapes", choices=SHAPES, help="default: masks for coco, polygons for cvat")
    shapes.add_argument("--tolerance", type=float, default=0.0, metavar="PIXELS",
                        help="simplify polygons by at most this distance (default: 0)")  # fmt: skip
    shapes.add_argument("--image-prefix", default="", metavar="TEXT", help="text before the file names of images")
    video = parser.add_argument_group("overlay and rgba")
    video.add_argument(
        "--style", choices=STYLES, help="overlay: default fill; popup: the rest in grey; matte: on black"
    )
    video.add_argument("--ids", action=argparse.BooleanOptionalAction, help="overlay: draw ids")
    video.add_argument(
        "--trails", type=int, default=0, metavar="N", help="overlay: paths of the objects over the last N frames"
    )
    video.add_argument("--effect", choices=EFFECTS, help="overlay: blur or pixelate --objects, or show nothing else")
    video.add_argument("--container", choices=CONTAINERS, default="png", help="rgba: PNGs, ProRes 4444, or VP9")
    video.add_argument("--fps", type=float, help="frames per second (default: the source's)")


def run(args: argparse.Namespace) -> int:
    """Export the masks and print where the files are; return 0."""
    options = ExportOptions(
        names=parse_names(args.names),
        objects=tuple(args.objects),
        shapes=args.shapes,
        tolerance=args.tolerance,
        style=args.style,
        ids=args.ids,
        trails=args.trails,
        effect=args.effect,
        container=args.container,
        fps=args.fps,
        image_prefix=args.image_prefix,
    )
    files = export_masks(args.run, args.format, args.output, options, args.video)
    print(f"{args.format}: {len(files)} files\nresults: {args.output.resolve()}")
    return 0
