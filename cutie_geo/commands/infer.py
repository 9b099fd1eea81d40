"""`cutie-geo infer`, `infer.py`: segment a video file, folders of frames, a benchmark, or the bundled example."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutie_geo.commands.help import Renamed, add_common, add_shard
from cutie_geo.commands.prompting import add_prompts, prompts_of
from cutie_geo.config import preset_names, require
from cutie_geo.config.choices import DATASETS, DEFAULT_MODEL, FEEDBACKS, SAM2_MODELS

if TYPE_CHECKING:
    from cutie_geo.inference.postprocess import Cleaning
    from cutie_geo.runs.infer import InferOptions, Outcome

HELP = "segment videos from input masks or prompts"
RESUMES = True
"""The same command resumes an interrupted run."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common = add_common(parser, "[SOURCE] [options] [key=value ...]")
    parser.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="a video file, a folder of frames, a folder of these, a pattern such as 'clips/*.mp4', a camera's number, "
        "an rtsp:// or http(s):// URL, or - for standard input; without it and --dataset: the bundled example, with "
        "its score",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="any other setting, such as long_term.num_prototypes=64"
    )
    common.add_argument(
        "--mask",
        type=Path,
        help="a PNG with object ids for the first frame, or a folder of PNGs named after frames, or annotations "
        "of other programs: a COCO .json, a CVAT .xml, a folder of YOLO labels; or the folder of a session",
    )
    what = parser.add_argument_group("what to segment")
    what.add_argument("--video", action="append", metavar="SOURCE", help="the same as SOURCE; repeat it for several")
    add_prompts(what, common)
    common.add_argument("--dataset", metavar="NAME", help=f"a benchmark: {', '.join(DATASETS)}")
    common.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the benchmark's files")
    what.add_argument("--videos", nargs="+", default=[], metavar="NAME", help="videos to segment (default: all)")
    add_shard(what, "of the videos; parts with one --output share its run.json")
    what.add_argument("--long-ids", action="store_true", help="RGB masks hold ids R + 256 G + 65536 B")

    what.add_argument(
        "--direction",
        choices=("forward", "backward", "both"),
        help="order of the frames; both (default for --video): also those before the first mask, backward from it",
    )

    common.add_argument(
        "--output", "-o", type=Path, default=Path("output"), help="folder of the results (default: output)"
    )
    common.add_argument("--overlay", action="store_true", help="also write a video with the masks overlaid")
    where = parser.add_argument_group("what to write")
    where.add_argument("--fps", type=float, help="frames per second of the overlay (default: the video's, or 24)")
    where.add_argument(
        "--save-probs", action="store_true", help="also write the probabilities of each frame, compressed"
    )
    where.add_argument("--save-depth", action="store_true", help="also write the depth of each frame as an image")
    where.add_argument("--overwrite", action="store_true", help="segment complete videos again")

    add_live(parser)

    names = ", ".join([*preset_names(), *SAM2_MODELS])
    common.add_argument("--model", help=f"{names}, a YAML file or a folder (default: {DEFAULT_MODEL})")
    common.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    common.add_argument(
        "--max-internal-size",
        "--size",
        type=int,
        metavar="N",
        help="resize larger frames to this shorter side; -1: never (default: the model's, the benchmark's or 480)",
    )
    how = parser.add_argument_group("how")
    how.add_argument("--weights", default="auto", help="auto (cached or downloaded), none (random), or a file")
    how.add_argument("--models", nargs="+", metavar="NAME", help="ensemble of several models instead of --model")
    how.add_argument(
        "--coefficients",
        nargs="+",
        type=float,
        metavar="C",
        help="coefficients of --models in their mean (default: equal)",
    )
    how.add_argument(
        "--model-weights", dest="coefficients", action=Renamed, now="--coefficients", nargs="+", type=float
    )
    how.add_argument("--precision", default="auto", help="auto, fp32, bf16, fp16")
    how.add_argument(
        "--lookahead", type=int, metavar="N", help="frames encoded as one batch (default: 4 on a GPU, else 1)"
    )
    how.add_argument(
        "--encode-threads",
        type=int,
        metavar="N",
        help="threads that encode ahead on a CPU (default: half of them for a small model)",
    )
    how.add_argument("--compile", action="store_true", help="compile the network: slow start, then faster")
    how.add_argument("--workers", type=int, default=2, help="threads that read, and as many that write")
    how.add_argument("--cpu-threads", type=int, help="threads that compute on the CPU")

    views = parser.add_argument_group("ensemble (one tracker for each view; their probabilities are summed)")
    views.add_argument(
        "--ms", nargs="+", type=float, metavar="SCALE", help="scales of the frames, such as 1.2 1.3 1.4 (default: 1)"
    )
    views.add_argument("--flip", action="store_true", help="also flip each scale horizontally")
    views.add_argument(
        "--ensemble-feedback", choices=FEEDBACKS, help="predictions that each view's memory uses (default: own)"
    )
    views.add_argument("--devices", nargs="+", default=[], metavar="D", help="devices for views or --models")
    views.add_argument(
        "--ms-workers", type=int, metavar="N", help="threads for views or --models (default: one per device)"
    )

    add_cleaning(parser)

    memory = parser.add_argument_group("memory (defaults: the benchmark's, or those of docs/inference.md)")
    memory.add_argument("--mem-every", type=int, metavar="N", help="every N-th frame enters memory")
    memory.add_argument(
        "--max-mem-frames", type=int, metavar="N", help="maximum number of memory frames without long-term memory"
    )
    memory.add_argument("--stagger-updates", type=int, metavar="N", help="sensory updates between memory frames")
    memory.add_argument("--top-k", type=int, metavar="K", help="memory tokens read per query position")
    memory.add_argument("--chunk-size", type=int, metavar="N", help="objects processed at once; bounds memory")
    memory.add_argument("--long-term", action=argparse.BooleanOptionalAction, default=None, help="long-term memory")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")


def add_live(parser: argparse.ArgumentParser) -> None:
    """Add the options of sources without an end."""
    live = parser.add_argument_group("live sources (cameras and rtsp:// always are)")
    live.add_argument("--live", action="store_true", help="read without an end; a file plays at its frame rate")
    live.add_argument("--drop-frames", action="store_true", help="keep up: drop the oldest of too many waiting frames")
    live.add_argument("--queue", type=int, default=4, metavar="N", help="frames that may wait (default: 4)")
    live.add_argument(
        "--reconnect", type=float, default=30.0, metavar="SECONDS", help="how long to try a lost source (default: 30)"
    )
    live.add_argument("--show", action="store_true", help="show the masks in a window; q or Esc ends the video")
    live.add_argument(
        "--raw", metavar="WxH[,PIXELS[,FPS]]", help="raw frames on standard input, such as 640x480,bgr24,30"
    )


def add_cleaning(parser: argparse.ArgumentParser) -> None:
    """Add the options of label-map postprocessing."""
    clean = parser.add_argument_group("postprocessing of label maps (default: none)")
    clean.add_argument(
        "--min-confidence", type=float, default=0.0, metavar="P", help="remove objects with a lower confidence"
    )
    clean.add_argument("--remove-small", type=int, default=0, metavar="N", help="remove components of fewer pixels")
    clean.add_argument("--remove-specks", dest="remove_small", action=Renamed, now="--remove-small", type=int)
    clean.add_argument("--fill-holes", type=int, default=0, metavar="N", help="fill holes of fewer pixels")


def cleaning_of(args: argparse.Namespace) -> "Cleaning":
    """Return the postprocessing settings of `add_cleaning`'s options."""
    from cutie_geo.inference.postprocess import Cleaning

    return Cleaning(args.min_confidence, args.remove_small, args.fill_holes)


def options_of(args: argparse.Namespace) -> "InferOptions":
    """Return the options of the library call. Raises ValueError for prompts and models that exclude each other."""
    from cutie_geo.runs.infer import InferOptions

    video, overrides = _source(args)
    require(not (args.model and args.models), "--model and --models: expected one of them")
    prompts = prompts_of(args)
    models = args.models or [args.model or DEFAULT_MODEL]
    chosen = {"prompts": prompts, "models": models, "command": args.command_line}
    chosen |= {"video": video, "overrides": tuple(overrides)}
    given: dict[str, Any] = {}
    for field in fields(InferOptions):
        value = chosen[field.name] if field.name in chosen else getattr(args, field.name)
        given[field.name] = tuple(value) if isinstance(value, list) else value
    return InferOptions(**given)


def _source(args: argparse.Namespace) -> tuple[Any, list[str]]:
    """Return the source, named with or without `--video`, and the overrides.

    The source is a path, several, or a stream; None without it. A word with `=` is an override unless a slash precedes
    the sign, as in `./a=b.mp4` and in addresses.

    Raises:
        ValueError: for sources that exclude each other, and for addresses that cannot be opened.
    """
    from cutie_geo.data.sources import parse_source

    words = [*([] if args.source is None else [args.source]), *args.overrides]
    overrides = [word for word in words if "=" in word and "/" not in word.partition("=")[0]]
    sources = [word for word in words if word not in overrides]
    texts = list(args.video or ())
    if len(sources) > 1 or (sources and texts):
        video, *others = [*texts, *sources]
        raise ValueError(
            f"{' '.join(others)}: expected an option such as --mask before it, or key=value; the video is {video}"
        )
    named = [parse_source(text, args.raw) for text in texts or sources]
    require(bool(named) or args.raw is None, "--raw: expected - as the source with it")
    streams = [source for source in named if not isinstance(source, Path)]
    require(not streams or len(named) == 1, f"--video: got {len(named)} sources with a stream, expected it alone")
    return (None if not named else named[0] if len(named) == 1 else tuple(named)), overrides


def run(args: argparse.Namespace) -> int:
    """Segment; return 0, or 2 if a video failed. Raises OSError if run.json could not be written."""
    from cutie_geo.runs.infer import infer

    outcome = infer(options_of(args))
    if outcome.is_main:
        _print_scores(outcome)
        _print_summary(outcome)
    if outcome.failure is not None:
        raise outcome.failure
    return 2 if any("error" in report for report in outcome.reports) else 0


def _print_scores(outcome: "Outcome") -> None:
    """Print J and F of the bundled example."""
    if not outcome.scores:
        return
    from cutie_geo.evaluation.metrics import mean_score

    for object_id, score in outcome.scores.items():
        print(f"object {object_id}: J {score.j:.3f}  F {score.f:.3f}")
    mean = mean_score(outcome.scores)
    print(f"J&F {mean.j_and_f:.3f} (J {mean.j:.3f}, F {mean.f:.3f}) against the rendered true masks")


def _print_summary(outcome: "Outcome") -> None:
    """Print what failed, the speed, and the folder of the results."""
    failed = [report for report in outcome.reports if "error" in report]
    fresh = [report for report in outcome.reports if "error" not in report and not report.get("skipped")]
    skipped = len(outcome.reports) - len(failed) - len(fresh)
    for report in failed:
        print(f"error: {report['error']}", file=sys.stderr, flush=True)
    frames = sum(len(report["seconds_per_frame"]) for report in fresh)
    speed = f", {frames} frames, {frames / outcome.seconds:.2f} frames/s" if frames else ""
    counts = f"{len(fresh)} segmented{speed}" + (f"; {skipped} already complete" if skipped else "")
    counts += f"; {len(failed)} of {len(outcome.reports)} FAILED" if failed else ""
    print(f"videos: {counts}\nresults: {outcome.output.resolve()}", flush=True)
