"""Options and messages shared by `refine` and `segment`."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutie_geo.config import preset_names
from cutie_geo.config.choices import SAM2_MODELS
from cutie_geo.config.choices import VSPW_SPLITS as SPLITS
from cutie_geo.sam2.grid import GridOptions
from cutie_geo.vss.config import SAME, MaskletModels, RefineOptions, SemanticRun, VideoSelection

if TYPE_CHECKING:
    from cutie_geo.vss.run import Outcome


def add_videos(parser: argparse.ArgumentParser, title: str) -> Any:
    """Add the options that select videos; return their group."""
    group = parser.add_argument_group(title)
    group.add_argument(
        "--video", type=Path, metavar="V", help="a video file, a folder of frames, a folder of these, or VSPW's root"
    )
    group.add_argument("--dataset", choices=list(SPLITS), help="a split of VSPW, instead of --video")
    group.add_argument("--data-root", type=Path, metavar="DIR", help="folder that holds the files of --dataset")
    group.add_argument(
        "--sequences", type=Path, metavar="LIST", help="a file that lists clips (default: VSPW's val.txt)"
    )
    group.add_argument("--videos", nargs="+", metavar="NAME", help="process only these videos")
    group.add_argument("--output", "-o", type=Path, required=True, metavar="DIR", help="folder of the maps")
    group.add_argument("--overwrite", action="store_true", help="process complete videos again")
    group.add_argument(
        "--segformer",
        metavar="MODEL",
        help="a SegFormer that computes base predictions: a folder, or a name on the hub",
    )
    return group


def add_masks(parser: argparse.ArgumentParser) -> None:
    """Add the options of SAM 2's automatic masks."""
    grid, options = GridOptions(), RefineOptions()
    group = parser.add_argument_group("automatic masks of SAM 2 at the start of each window")
    group.add_argument(
        "--window", type=int, default=options.window, metavar="N", help="frames of a window (default: %(default)s)"
    )
    group.add_argument("--grid", type=int, default=grid.points, metavar="N", help="N x N points (default: %(default)s)")
    for name, value, text in (
        ("--predicted-iou", grid.predicted_iou, "minimum IoU that SAM 2 predicts; 0: any"),
        ("--stability", grid.stability, "minimum stability score; 0: any"),
        ("--stability-offset", grid.stability_offset, "offset of the stability score's thresholds, in logits"),
    ):
        group.add_argument(name, type=float, default=value, metavar="X", help=f"{text} (default: %(default)s)")
    group.add_argument(
        "--points-per-batch",
        type=int,
        default=grid.batch,
        metavar="N",
        help="points decoded at once; bounds memory (default: %(default)s)",
    )


def add_painting(group: Any, scope: str) -> None:
    """Add the options for the class scope and the overlap order of masklets."""
    options = RefineOptions()
    group.add_argument("--scope", choices=("window", "frame"), default=options.scope, help=f"{scope} (default: window)")
    group.add_argument(
        "--order",
        choices=("size", "score"),
        default=options.order,
        help="masklets on top: the smallest, or those with the highest predicted IoU (default: size)",
    )


def add_models(parser: argparse.ArgumentParser) -> Any:
    """Add the options of networks, devices and threads; return their group."""
    models = MaskletModels()
    group = parser.add_argument_group("networks")
    group.add_argument("--model", default=models.model, help=f"{', '.join(SAM2_MODELS)} (default: {models.model})")
    group.add_argument("--weights", default="auto", help="auto (cached or downloaded), none (random), or a file")
    group.add_argument(
        "--propagator",
        default=SAME,
        metavar="NAME",
        help=f"network that propagates masks: {SAME} (the same as --model), {', '.join(preset_names())}, or a folder",
    )
    group.add_argument("--propagator-weights", default="auto", metavar="W", help="weights of another --propagator")
    group.add_argument(
        "--size", type=int, help="shorter side to which frames are shrunk for a Cutie propagator; -1: never"
    )
    group.add_argument(
        "--chunk-size",
        type=int,
        default=models.chunk_size,
        metavar="N",
        help="masklets propagated at once; bounds memory (default: %(default)s)",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    group.add_argument("--precision", default="auto", help="auto, fp32, bf16, fp16")
    workers = RefineOptions().workers
    group.add_argument(
        "--workers", type=int, default=workers, help="threads that read, and as many that write (default: %(default)s)"
    )
    group.add_argument("--cpu-threads", type=int, help="torch threads on the CPU")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="model.* for SAM 2; other options for the propagator"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    return group


def semantic_run(args: argparse.Namespace, base: Path | None, **options: Any) -> SemanticRun:
    """Return the run that the arguments describe. Raises ValueError for invalid ones."""
    names = None if args.videos is None else tuple(args.videos)
    return SemanticRun(
        videos=VideoSelection(args.video, args.dataset, args.data_root, args.sequences, names),
        output=args.output,
        models=MaskletModels(
            args.model,
            args.weights,
            args.propagator,
            args.propagator_weights,
            args.size,
            args.chunk_size,
            args.device,
            args.precision,
            tuple(args.overrides),
        ),
        grid=GridOptions(args.grid, args.predicted_iou, args.stability, args.stability_offset, args.points_per_batch),
        options=RefineOptions(args.window, args.scope, args.order, args.workers, args.overwrite),
        base=base,
        segformer=args.segformer,
        cpu_threads=args.cpu_threads,
        command=tuple(args.command_line),
        **options,
    )


def conclude(output: Path, verb: str) -> Callable[["Outcome"], None]:
    """Return a function that prints failures, speed, memory and the output folder."""

    def print_outcome(outcome: "Outcome") -> None:
        failed, processed = outcome.failed, outcome.processed
        skipped = len(outcome.reports) - len(failed) - len(processed)
        for report in failed:
            print(f"error: {report['error']}", file=sys.stderr, flush=True)
        counts = f"{len(processed)} {verb}" + (f"; {skipped} already complete" if skipped else "")
        counts += f"; {len(failed)} of {len(outcome.reports)} FAILED" if failed else ""
        print(f"videos: {counts}")
        if processed:
            frames = sum(len(report["frames"]) for report in processed)
            windows = [count for report in processed for count in report["masklets"]]
            peaks = [report["peak_memory_bytes"] for report in processed if report["peak_memory_bytes"] is not None]
            memory = f", {max(peaks) / 2**20:.0f} MiB at most" if peaks else ""
            print(f"speed: {frames} frames, {frames / outcome.seconds:.2f} frames/s{memory}")
            print(f"masklets: {sum(windows) / len(windows):.1f} a window, {max(windows)} at most")
        print(f"results: {output.resolve()}", flush=True)

    return print_outcome
