"""What `refine` and `segment` have in common: options, videos, models, and what is said at the end."""

import argparse
import os
import platform
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from cutie_geo.commands.infer import DEFAULT_SIZE
from cutie_geo.commands.models import device_name, load_models, of_sam2, settings_of, versions
from cutie_geo.commands.processes import Processes
from cutie_geo.config import (
    SAM2_ENCODER,
    GridOptions,
    TrackerConfig,
    build,
    merge,
    parse_overrides,
    preset_names,
    require,
    split_overrides,
    to_dict,
)
from cutie_geo.data.background import write_json
from cutie_geo.data.index import VideoRecord, discover, mask_files
from cutie_geo.data.index.labelled import CLASSES
from cutie_geo.data.index.layouts import find_home, read_list
from cutie_geo.data.index.records import is_plain, some, subfolders
from cutie_geo.data.semantic import VAL, VSPW_HOMES, Predictions, SemanticClip, find_predictions
from cutie_geo.inference.masklets import Propagator, Sam2Masklets, SeenFrame, propagator_for
from cutie_geo.inference.methods import VideoModel
from cutie_geo.inference.refine import (
    ComputedBase,
    Job,
    RefineOptions,
    Refiner,
    refine_videos,
    refuse_other_refinements,
)
from cutie_geo.inference.results import SUMMARY, Report, Results
from cutie_geo.inference.segmentor import Encode, encode_with, encode_with_sam2
from cutie_geo.model.frame_features import load_frame_encoder, sam2_source
from cutie_geo.model.masklet_classifier import FeatureSource
from cutie_geo.model.sam2 import SAM2_MODELS, Sam2Model
from cutie_geo.model.sam2_masks import AutomaticMasks
from cutie_geo.model.segformer import load_segformer

DEFAULT_MODEL = "sam2.1-hiera-large"
SAME = "sam2"
"""As --propagator: the network that finds the masks."""
CHUNK = 16
"""Masklets that go through the network together."""
SPLITS = {"vspw-train": "train.txt", "vspw-val": VAL, "vspw-test": "test.txt"}
"""Lists of VSPW's clips, by the name of the split."""


# ------------------------------------------------------------------------------------------------------------ options
def add_videos(parser: argparse.ArgumentParser, title: str) -> Any:
    """Which videos; returns the group, for what else belongs there."""
    what = parser.add_argument_group(title)
    what.add_argument(
        "--video", type=Path, metavar="V", help="a video file, a folder of frames, a folder of such, or VSPW's root"
    )
    what.add_argument("--dataset", choices=list(SPLITS), help="instead of --video: a split of VSPW")
    what.add_argument("--data-root", type=Path, metavar="DIR", help="where the files of --dataset are")
    what.add_argument("--sequences", type=Path, metavar="LIST", help="only the clips that a file lists (VSPW: val.txt)")
    what.add_argument("--videos", nargs="+", metavar="NAME", help="only these of several videos")
    what.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the maps")
    what.add_argument("--overwrite", action="store_true", help="do videos again that are complete")
    return what


def add_masks(parser: argparse.ArgumentParser) -> None:
    """How masks are found."""
    grid, options = GridOptions(), RefineOptions()
    masks = parser.add_argument_group("masks, found by SAM 2 at the start of each window")
    masks.add_argument("--window", type=int, default=options.window, metavar="N", help="frames (default: %(default)s)")
    masks.add_argument("--grid", type=int, default=grid.points, metavar="N", help="N x N points (default: %(default)s)")
    for name, value, text in (
        ("--predicted-iou", grid.predicted_iou, "least IoU that SAM 2 predicts; 0: any"),
        ("--stability", grid.stability, "least stability score; 0: any"),
        ("--stability-offset", grid.stability_offset, "of that score, in logits"),
    ):
        masks.add_argument(name, type=float, default=value, metavar="X", help=f"{text} (default: %(default)s)")
    masks.add_argument(
        "--points-per-batch", type=int, default=grid.batch, metavar="N", help="points at a time; bounds memory"
    )


def add_order(group: Any) -> None:
    """Which masklets lie on top."""
    order = RefineOptions().order
    group.add_argument("--order", choices=("size", "score"), default=order, help="on top: the smallest, the best")


def add_how(parser: argparse.ArgumentParser) -> Any:
    """Models, devices, threads; returns the group."""
    how = parser.add_argument_group("how")
    how.add_argument("--model", default=DEFAULT_MODEL, help=f"{', '.join(SAM2_MODELS)} (default: {DEFAULT_MODEL})")
    how.add_argument("--weights", default="auto", help="of --model: auto (cached or downloaded), none (random), a file")
    how.add_argument(
        "--propagator",
        default=SAME,
        metavar="NAME",
        help=f"what follows masks: {SAME} (the same network), {', '.join(preset_names())}, or a folder",
    )
    how.add_argument("--propagator-weights", default="auto", metavar="W", help="of another --propagator, as --weights")
    how.add_argument(
        "--size", type=int, help="shorter side that frames are shrunk to for a propagator of Cutie's kind; -1: never"
    )
    how.add_argument(
        "--chunk-size", type=int, default=CHUNK, metavar="N", help="masklets followed together (default: %(default)s)"
    )
    how.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    how.add_argument("--precision", default="auto", help="auto, fp32, bf16, fp16")
    workers = RefineOptions().workers
    how.add_argument("--workers", type=int, default=workers, help="threads that read, and as many that write")
    how.add_argument("--cpu-threads", type=int, help="threads that compute on the CPU")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="model.... of SAM 2; anything else of the propagator"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say more")
    return how


def require_sense(args: argparse.Namespace) -> None:
    """Raises ValueError for arguments that make no sense, or none together. Sets the threads of the CPU."""
    if args.cpu_threads is not None:
        require(args.cpu_threads >= 1, f"--cpu-threads: got {args.cpu_threads}, wanted 1 or more")
        torch.set_num_threads(args.cpu_threads)
    require((args.video is None) != (args.dataset is None), "--video and --dataset: wanted one of them")
    require((args.dataset is None) == (args.data_root is None), "--dataset and --data-root: wanted both or none")
    listed = args.dataset is None or args.sequences is None
    require(listed, "--sequences: wanted --video with it; --dataset has a list of its own")
    require(args.model in SAM2_MODELS, f"--model: got {args.model}, wanted one of {', '.join(SAM2_MODELS)}")
    same = args.propagator == SAME
    require(not same or args.propagator_weights == "auto", "--propagator-weights: wanted another --propagator with it")
    ours = not same and args.propagator not in SAM2_MODELS
    require(ours or args.size is None, "--size: wanted a --propagator of Cutie's kind; SAM 2 has its own square")
    others = [item for item in args.overrides if item not in of_sam2(args.overrides)]
    require(ours or not others, f"{' '.join(others)}: wanted model.key=value, or a --propagator of Cutie's kind")
    few = args.chunk_size
    require(few == -1 or few >= 1, f"--chunk-size: got {few}, wanted -1 or at least 1")


def grid_of(args: argparse.Namespace) -> GridOptions:
    """How masks are found. Raises ValueError."""
    return GridOptions(args.grid, args.predicted_iou, args.stability, args.stability_offset, args.points_per_batch)


# ------------------------------------------------------------------------------------------------------------- videos
def jobs_of(args: argparse.Namespace, semantic: Path | None) -> list[Job]:
    """The videos that the arguments mean: see `find_jobs`."""
    if args.dataset is None:
        return find_jobs(args.video, semantic, args.sequences, args.videos)
    home = find_home(args.data_root, VSPW_HOMES, "data")
    return find_jobs(args.data_root, semantic, home / SPLITS[args.dataset], args.videos)


def find_jobs(
    video: Path, semantic: Path | None, sequences: Path | None = None, names: Sequence[str] | None = None
) -> list[Job]:
    """The videos meant, each with its base predictions; a video without any has a `problem`.

    semantic: None where predictions are computed. sequences: a file that lists clips, by default val.txt in VSPW's
    root. names: only these. Raises ValueError for what isn't there.
    """
    records = _records(video, sequences)
    known = {record.name for record in records}
    listed = read_list(sequences) if sequences else [record.name for record in records]
    chosen = [name for name in listed if names is None or name in names]
    unknown = [name for name in [*listed, *(names or ())] if name not in known]
    require(not unknown, f"{video}: no {some(unknown)} there")
    require(bool(chosen), f"{video}: none of the listed clips is chosen")
    records = [record for record in records if record.name in set(chosen)]
    if semantic is None:
        return [Job(record, None) for record in records]
    predictions, alone = find_predictions(semantic), len(known) == 1
    return [_with_base(record, predictions, alone) for record in records]


def _records(video: Path, sequences: Path | None) -> list[VideoRecord]:
    """The videos at a path, without masks."""
    homes = [place for place in VSPW_HOMES if any((video / place / "data").glob("*/origin"))]
    if not homes:
        return [replace(record, problem=None) for record in discover(video)]
    home = find_home(video, homes, "data")
    names = read_list(sequences or home / VAL)
    there = set(subfolders(home / "data"))
    missing = [name for name in names if not is_plain(name) or name not in there]
    require(not missing, f"{home / 'data'}: no folder for {len(missing)} of {len(names)} listed clips: {some(missing)}")
    return [VideoRecord(name, home / "data" / name / "origin") for name in dict.fromkeys(names)]


def _with_base(record: VideoRecord, predictions: Predictions, alone: bool) -> Job:
    """A video with its base predictions, which may lie in the folder itself if the video is alone."""
    clip = predictions.clip(record.name)
    if not clip.maps and alone and predictions.segments is None:
        clip = SemanticClip(record.name, predictions.root, mask_files(predictions.root))
    problem = None if clip.maps else f"{clip.folder}: no maps, wanted PNG files named after the frames"
    return Job(replace(record, masks=clip.maps, problem=problem), clip)


# ------------------------------------------------------------------------------------------------------------- models
def load_refiner(
    args: argparse.Namespace, processes: Processes, grid: GridOptions
) -> tuple[Refiner, dict[str, Any], Sam2Model]:
    """The models at work, what decides what they give, and the SAM 2 that finds masks."""
    of_ours = [item for item in args.overrides if item not in of_sam2(args.overrides)]
    finder, told = _load(args, args.model, args.weights, of_sam2(args.overrides), processes)
    assert isinstance(finder, Sam2Model), "other names are refused"
    settings: dict[str, Any] = {"masks": told | {"grid": told_of_grid(grid)}}
    model: VideoModel = finder
    size, tracking = -1, {"chunk_size": args.chunk_size}
    config = TrackerConfig(chunk_size=args.chunk_size)
    if args.propagator != SAME:
        items = of_sam2(args.overrides) if args.propagator in SAM2_MODELS else of_ours
        model, told = _load(args, args.propagator, args.propagator_weights, items, processes)
        settings["propagator"] = told
    if not isinstance(model, Sam2Model):
        given = parse_overrides(split_overrides(of_ours)[1])
        config = build(TrackerConfig, merge({"chunk_size": args.chunk_size}, given), "options")
        size = (model.config.frame_size or DEFAULT_SIZE) if args.size is None else args.size
        require(size == -1 or size >= 16, f"--size: got {size}, wanted -1 or at least 16 pixels")
        tracking = to_dict(config) | {"size": size}
    settings["tracking"] = tracking
    models: list[Any] = [finder] if model is finder else [finder, model]
    base = None
    if args.segformer is not None:
        segformer = load_segformer(args.segformer, CLASSES, processes.device(args.device), args.precision)
        settings["segformer"] = {"weights": f"sha256 {segformer.digest()}"}
        base = ComputedBase(segformer)
    return Refiner(AutomaticMasks(finder, grid), propagator_for(model, config, size), base, models), settings, finder


def encoder_for(
    name: str, level: int, finder: Sam2Model, propagator: Propagator, device: torch.device, precision: str
) -> tuple[Encode, FeatureSource]:
    """The features of a level of SAM 2's own encoder (`sam2`), or of one of `transformers`; and whose they are.

    Raises ValueError for an encoder that can't be loaded.
    """
    if name == SAM2_ENCODER:
        same = isinstance(propagator, Sam2Masklets) and propagator.tracker.model is finder
        seen = propagator.seen if same and isinstance(propagator, Sam2Masklets) else SeenFrame(finder)
        return encode_with_sam2(seen, level), sam2_source(finder, level)
    encoder = load_frame_encoder(name, level, device, precision)
    return encode_with(encoder), encoder.source()


def told_of_grid(grid: GridOptions) -> dict[str, Any]:
    """What masks depend on."""
    return {name: value for name, value in to_dict(grid).items() if name != "batch"}


def _load(
    args: argparse.Namespace, name: str, weights: str, overrides: list[str], processes: Processes
) -> tuple[VideoModel, dict[str, Any]]:
    """A model by name, and what decides its masks."""
    asked = Namespace(
        models=[name], weights=weights, overrides=overrides, devices=None, device=args.device, precision=args.precision
    )
    models = load_models(asked, processes, example=False)
    return models[0], settings_of(asked, models)


# ---------------------------------------------------------------------------------------------------------- the run
def run_jobs(
    args: argparse.Namespace,
    jobs: Sequence[Job],
    processes: Processes,
    refiner: Refiner,
    options: RefineOptions,
    done: str,
    told: Mapping[str, Any],
) -> int:
    """Do all videos; return the exit status: 0, or 2 where one failed. done: what was done with the others, in a word.
    told: what run.json says of the models, by name."""
    results = Results(args.output)
    results.make_writable()
    refuse_other_refinements(results, jobs, options)
    processes.wait()  # all have seen what was there before one changes it
    started = time.perf_counter()
    with logging_redirect_tqdm():
        reports = refine_videos(processes.share(jobs), refiner, results, options, processes.index)
    seconds = time.perf_counter() - started
    by_name = {report["video"]: report for report in processes.gather(reports)}
    reports = [by_name[job.record.name] for job in jobs]
    if processes.is_main:
        known = results.reports() | by_name
        write_json(results.root / SUMMARY, _summary(args, options, refiner.models, told, known))
        _conclude(results.root, reports, seconds, done)
    processes.leave()
    return 2 if any("error" in report for report in reports) else 0


def _summary(
    args: argparse.Namespace,
    options: RefineOptions,
    models: Sequence[Any],
    told: Mapping[str, Any],
    videos: dict[str, Report],
) -> dict[str, Any]:
    """How the results came about, those of earlier calls in the same folder included."""
    settings = options.fingerprint()
    for name, report in videos.items():
        same = report.get("settings") == settings
        videos[name] = {key: value for key, value in report.items() if not (same and key == "settings")}
    return {
        "command": args.command_line,
        "model": args.model,
        "propagator": args.propagator,
        **told,
        "settings": settings,
        "versions": versions(),
        "machine": f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores",
        "device": "; ".join(dict.fromkeys(device_name(model.device) for model in models)),
        "videos": videos,
    }


def _conclude(output: Path, reports: Sequence[Report], seconds: float, done: str) -> None:
    """The last lines: what failed, how fast it was, in how much memory, where the results are."""
    failed = [report for report in reports if "error" in report]
    fresh = [report for report in reports if "error" not in report and not report.get("skipped")]
    skipped = len(reports) - len(failed) - len(fresh)
    for report in failed:
        print(f"error: {report['error']}", file=sys.stderr, flush=True)
    counts = f"{len(fresh)} {done}" + (f"; {skipped} already complete" if skipped else "")
    counts += f"; {len(failed)} of {len(reports)} FAILED" if failed else ""
    print(f"videos: {counts}")
    if fresh:
        frames = sum(len(report["frames"]) for report in fresh)
        windows = [count for report in fresh for count in report["masklets"]]
        peaks = [report["peak_memory_bytes"] for report in fresh if report["peak_memory_bytes"] is not None]
        memory = f", {max(peaks) / 2**20:.0f} MiB at most" if peaks else ""
        print(f"speed: {frames} frames, {frames / seconds:.2f} frames/s{memory}")
        print(f"masklets: {sum(windows) / len(windows):.1f} a window, {max(windows)} at most")
    print(f"results: {output.resolve()}", flush=True)
