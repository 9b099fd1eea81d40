"""`cutie-geo convert`: published annotations into folders of frames and masks."""

import argparse
import re
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, get_args

from tqdm import tqdm

from cutie_geo.config import require
from cutie_geo.data.convert.burst import convert_burst
from cutie_geo.data.convert.ovis import convert_ovis
from cutie_geo.data.convert.visor import VisorOptions, convert_visor
from cutie_geo.data.convert.vos import ImageMode, VosOptions

HELP = "bring VISOR, OVIS or BURST as published into folders of frames and masks"
RESUMES = True
"""Interrupted, it goes on where it stopped when it is called again."""
DATASETS = ("visor", "ovis", "burst")
SHOWN = 5
"""Names that a line spells out before it counts the rest."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("dataset", choices=DATASETS, help="what the annotations are")
    parser.add_argument(
        "--annotations", type=Path, metavar="PATH", help="folder of annotations, or one file of OVIS or BURST"
    )
    parser.add_argument("--frames", type=Path, metavar="DIR", required=True, help="folder of the frames, see docs")
    parser.add_argument("--output", type=Path, metavar="DIR", required=True, help="visor: gets the folder VISOR_2022")
    parser.add_argument("--split", choices=("train", "val", "valid", "test"), required=True)
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="videos at a time (default: 2)")

    visor = parser.add_argument_group("visor")
    visor.add_argument("--size", metavar="WxH", help="size of the frames (default: 854x480)")
    visor.add_argument(
        "--official-quirks",
        action="store_true",
        help="keep subsequences whose first frame shows no object, with ids that mean nothing, as the official tool",
    )
    others = parser.add_argument_group("ovis, burst")
    others.add_argument("--images", choices=get_args(ImageMode), help="how images get there (default: symlink)")
    others.add_argument("--all-frames", action="store_true", help="burst: also frames without annotations")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more")


def run(args: argparse.Namespace) -> int:
    """Convert, say what came of it and what was dropped; returns 0."""
    _require_sense(args)
    started = time.perf_counter()
    report = _convert(args)
    _print(report, time.perf_counter() - started)
    return 0


def _require_sense(args: argparse.Namespace) -> None:
    """Raises ValueError for options of another dataset, and for a lack of annotations."""
    visor = args.dataset == "visor"
    require(visor or args.size is None, f"--size: wanted with visor only, got {args.dataset}")
    require(visor or not args.official_quirks, f"--official-quirks: wanted with visor only, got {args.dataset}")
    require(not visor or args.images is None, "--images: wanted with ovis or burst, visor's frames are resized")
    require(args.dataset == "burst" or not args.all_frames, f"--all-frames: wanted with burst only, got {args.dataset}")
    optional = visor and args.split == "test"
    require(args.annotations is not None or optional, f"{args.dataset} {args.split}: wanted --annotations with it")
    for folder in filter(None, (args.annotations, args.frames)):
        require(folder.exists(), f"{folder}: no such file or folder")


def _convert(args: argparse.Namespace) -> dict[str, Any]:
    """The report of the conversion."""
    watch = partial(_watch, args.dataset)
    if args.dataset == "visor":
        options = VisorOptions(
            args.frames,
            args.output,
            args.split,
            annotations=args.annotations,
            official_quirks=args.official_quirks,
            workers=args.workers,
            **({} if args.size is None else {"size": parse_size(args.size)}),
        )
        return convert_visor(options, watch)
    split = "valid" if args.dataset == "ovis" and args.split == "val" else args.split
    options = VosOptions(
        args.annotations,
        args.frames,
        args.output,
        split,
        images=args.images or "symlink",
        all_frames=args.all_frames,
        workers=args.workers,
    )
    return {"ovis": convert_ovis, "burst": convert_burst}[args.dataset](options, watch)


def parse_size(text: str) -> tuple[int, int]:
    """Height and width from WxH. Raises ValueError for anything else."""
    found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    require(found is not None, f"--size: got {text!r}, wanted WIDTHxHEIGHT, such as 854x480")
    assert found is not None
    return int(found[2]), int(found[1])


def _watch(dataset: str, results: Iterable[Any], count: int) -> Iterable[Any]:
    return tqdm(results, total=count, desc=dataset, unit="video", disable=None)


def _print(report: dict[str, Any], seconds: float) -> None:
    kept = f"{report['sequences']} sequences, {report['frames']} frames of {report['videos']} videos"
    print(f"{report['dataset']} {report['split']}: {kept} -> {report['folder']}")
    reasons = Counter(each["reason"] for each in report["dropped_sequences"])
    for reason, count in sorted(reasons.items()):
        names = [each["sequence"] for each in report["dropped_sequences"] if each["reason"] == reason]
        print(f"dropped {count} sequences, {reason}: {_some(names)}")
    for reason, count in sorted(Counter(each["reason"] for each in report["dropped_frames"]).items()):
        names = [each["frame"] for each in report["dropped_frames"] if each["reason"] == reason]
        print(f"dropped {count} frames, {reason}: {_some(names)}")
    done = report["frames"] - report["written"]
    before = f", {done} were already there" if done else ""
    print(f"{report['written']} frames in {seconds:.1f} s, {report['written'] / seconds:.0f} frames/s{before}")


def _some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
