"""`cutie-geo convert`: convert published annotations to folders of frames and masks."""

import argparse
import time
from pathlib import Path

from cutie_geo.commands.help import add_shard
from cutie_geo.config import parse_shard
from cutie_geo.config.choices import IMAGE_MODES

HELP = "convert the published VISOR, OVIS or BURST to folders of frames and masks"
RESUMES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", choices=("visor", "ovis", "burst"), help="data set of the annotations")
    parser.add_argument("--annotations", type=Path, metavar="PATH", help="folder, or one file of OVIS or BURST")
    parser.add_argument("--frames", type=Path, metavar="DIR", required=True, help="folder of the frames")
    parser.add_argument(
        "--output",
        "-o",
        type=Path,
        metavar="DIR",
        required=True,
        help="output folder; visor: VISOR_2022 is created in it",
    )
    parser.add_argument("--split", choices=("train", "val", "valid", "test"), required=True)
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="videos in parallel (default: 2)")
    add_shard(parser, "of the videos; the last one to finish writes lists and report")
    visor = parser.add_argument_group("visor")
    visor.add_argument("--size", metavar="WxH", help="size of the frames (default: 854x480)")
    visor.add_argument(
        "--official-quirks", action="store_true",
        help="like the official tool: keep subsequences without an object in the first frame, with meaningless ids",
    )  # fmt: skip
    others = parser.add_argument_group("ovis, burst")
    others.add_argument("--images", choices=IMAGE_MODES, help="how images are placed in the output (default: symlink)")
    others.add_argument("--all-frames", action="store_true", help="burst: include frames without annotations")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")


def run(args: argparse.Namespace) -> int:
    """Convert, and print results and dropped items; return 0. Raises ValueError."""
    from tqdm import tqdm

    from cutie_geo.data.convert.run import ConvertOptions, convert, report_lines

    started = time.perf_counter()
    options = ConvertOptions(
        args.dataset, args.split, args.frames, args.output, args.annotations, args.workers, args.size,
        args.official_quirks, args.images, args.all_frames, parse_shard(args.shard),
    )  # fmt: skip
    report = convert(
        options, lambda results, count: tqdm(results, total=count, desc=args.dataset, unit="video", disable=None)
    )
    print("\n".join(report_lines(report, time.perf_counter() - started)))
    return 0
