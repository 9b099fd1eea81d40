"""Segment videos: a file, folders of frames, a benchmark, or, asked for nothing, the bundled example."""

import argparse
import logging
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from cutie_geo.commands.models import (
    device_name,
    encode_threads,
    fitted,
    load_models,
    lookahead,
    of_sam2,
    refuse_encode_threads,
    settings_of,
    versions,
)
from cutie_geo.commands.processes import Processes
from cutie_geo.commands.prompting import add_prompts, load_prompter, prompts_of
from cutie_geo.config import (
    MEM_EVERY,
    TrackerConfig,
    build,
    merge,
    model_config,
    parse_overrides,
    preset_names,
    require,
    split_overrides,
)
from cutie_geo.data.background import write_json
from cutie_geo.data.example import EXAMPLE_CLIP, example_frames, example_masks
from cutie_geo.data.index import VideoRecord, dataset, dataset_names, discover, mask_files
from cutie_geo.evaluation.metrics import mean_score, score_folders
from cutie_geo.inference.clean import Cleaning
from cutie_geo.inference.ensemble import FEEDBACKS, views_of
from cutie_geo.inference.methods import VideoModel
from cutie_geo.inference.model_ensemble import shares_of
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.results import SUMMARY, Report, Results, changes
from cutie_geo.inference.run import open_results, run_videos
from cutie_geo.model.load import is_checkpoint, resolve_device
from cutie_geo.model.sam2 import SAM2_MODELS, Sam2Model, is_sam2

log = logging.getLogger(__name__)

HELP = "segment videos, given masks of their objects"
RESUMES = True
"""Interrupted, it goes on where it stopped when it is called again."""
DEFAULT_MODEL = "cutie-geo-tiny"
"""It comes with its weights: what needs no network to begin with."""
DEFAULT_SIZE = 480
"""Shorter side for a user's own videos, unless the model has a size of its own: what models are trained for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to segment (nothing: the bundled example, with its score)")
    what.add_argument("--video", type=Path, help="a video file, a folder of frames, or a folder of such")
    what.add_argument(
        "--mask", type=Path, help="a PNG with object ids for the first frame, or a folder of PNGs named after frames"
    )
    add_prompts(what)
    what.add_argument("--dataset", metavar="NAME", help=f"a benchmark: {', '.join(dataset_names())}")
    what.add_argument("--data-root", type=Path, metavar="DIR", help="where the benchmark's files are")
    what.add_argument("--videos", nargs="+", metavar="NAME", help="only these of several videos")
    what.add_argument("--long-ids", action="store_true", help="RGB masks hold ids R + 256 G + 65536 B")

    where = parser.add_argument_group("what to write")
    where.add_argument("--output", type=Path, default=Path("output"), help="folder of the results (default: output)")
    where.add_argument("--overlay", action="store_true", help="also a video with the masks drawn in")
    where.add_argument("--fps", type=float, help="frames per second of the overlay (default: the video's, or 24)")
    where.add_argument("--save-probs", action="store_true", help="also each frame's probabilities, compressed")
    where.add_argument("--save-depth", action="store_true", help="also each frame's depth, as a picture")
    where.add_argument("--overwrite", action="store_true", help="segment videos again that are complete")

    how = parser.add_argument_group("how")
    names = ", ".join([*preset_names(), *SAM2_MODELS])
    how.add_argument("--model", help=f"{names}, a YAML file or a folder (default: {DEFAULT_MODEL})")
    how.add_argument("--models", nargs="+", metavar="NAME", help="instead: several, whose probabilities are summed")
    how.add_argument("--model-weights", nargs="+", type=float, metavar="W", help="of --models (default: all the same)")
    how.add_argument("--weights", default="auto", help="auto (cached or downloaded), none (random), or a file")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    how.add_argument("--precision", default="auto", help="auto, fp32, bf16, fp16")
    how.add_argument(
        "--size",
        type=int,
        help="shrink frames to this shorter side; -1: never (default: the model's, or 480, or the benchmark's)",
    )
    how.add_argument(
        "--lookahead", type=int, metavar="N", help="frames encoded as one batch (default: 4 on a GPU, else 1)"
    )
    how.add_argument(
        "--encode-threads",
        type=int,
        metavar="N",
        help="threads that encode ahead on a CPU (default: half of them for a small model)",
    )
    how.add_argument("--compile", action="store_true", help="compile the network: a slow start, then faster")
    how.add_argument("--workers", type=int, default=2, help="threads that read, and as many that write")
    how.add_argument("--cpu-threads", type=int, help="threads that compute on the CPU")

    views = parser.add_argument_group("ensemble (one tracker for each view; their probabilities are summed)")
    views.add_argument(
        "--ms", nargs="+", type=float, metavar="SCALE", help="scales of the frames, such as 1.2 1.3 1.4 (default: 1)"
    )
    views.add_argument("--flip", action="store_true", help="each scale mirrored too")
    views.add_argument(
        "--ensemble-feedback", choices=FEEDBACKS, help="what each view goes on from (default: own predictions)"
    )
    views.add_argument("--devices", nargs="+", metavar="D", help="spread views, or --models, over these")
    views.add_argument(
        "--ms-workers", type=int, metavar="N", help="threads that share views, or --models (default: one for a device)"
    )

    add_cleaning(parser)

    memory = parser.add_argument_group("memory (defaults: the benchmark's, or those of docs/inference.md)")
    memory.add_argument("--mem-every", type=int, metavar="N", help="every N-th frame enters memory")
    memory.add_argument("--max-mem-frames", type=int, metavar="N", help="frames in memory without long-term memory")
    memory.add_argument("--stagger-updates", type=int, metavar="N", help="sensory updates between memory frames")
    memory.add_argument("--top-k", type=int, metavar="K", help="memory tokens that each position reads")
    memory.add_argument("--chunk-size", type=int, metavar="N", help="objects at a time; bounds memory")
    memory.add_argument("--max-internal-size", type=int, metavar="N", help="as --size, without antialiasing")
    memory.add_argument("--long-term", action=argparse.BooleanOptionalAction, default=None, help="long-term memory")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="any other option, such as long_term.num_prototypes=64"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say more")


def add_cleaning(parser: argparse.ArgumentParser) -> None:
    """Options for what is done to label maps before they are written."""
    clean = parser.add_argument_group("cleaning of the label maps that are written (default: none)")
    clean.add_argument("--min-confidence", type=float, default=0.0, metavar="P", help="leave out objects below this")
    clean.add_argument("--remove-specks", type=int, default=0, metavar="N", help="parts of fewer pixels than this")
    clean.add_argument("--fill-holes", type=int, default=0, metavar="N", help="holes of fewer pixels than this")


def cleaning_of(args: argparse.Namespace) -> Cleaning:
    """What `add_cleaning`'s options say."""
    return Cleaning(args.min_confidence, args.remove_specks, args.fill_holes)


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit status: 0, or 2 where something could not be segmented."""
    if args.cpu_threads is not None:
        require(args.cpu_threads >= 1, f"--cpu-threads: got {args.cpu_threads}, wanted 1 or more")
        torch.set_num_threads(args.cpu_threads)
    args.models = args.models or [args.model or DEFAULT_MODEL]
    records, options = plan(args)
    processes = Processes(args.device)
    require(processes.count == 1 or not args.devices, "--devices: wanted one process, each of several has its own GPU")
    models = load_models(args, processes, _is_example(args))
    if args.compile:
        for model in models:
            if isinstance(model, Sam2Model):
                raise ValueError("--compile: wanted models of Cutie's kind, not SAM 2")
            model.compile_parts()
    options = replace(
        fitted(args, models, options),
        settings=settings_of(args, models),
        lookahead=lookahead(args, models),
        encode_threads=encode_threads(args, models, options),
    )
    if _is_example(args):  # a demonstration, which may be shown again in another way
        changed = changes(Results(args.output), records[0], options)
        options = replace(options, overwrite=options.overwrite or bool(changed))
    prompter = None
    if any(record.prompts for record in records):
        prompter, told = load_prompter(args, models)
        options = replace(options, settings={**options.settings, "prompts": told})
    results = open_results(args.output, records, options)
    processes.wait()  # all have seen what was there before one changes it
    started = time.perf_counter()
    with logging_redirect_tqdm():
        reports = run_videos(models, processes.share(records), results, options, processes.index, prompter)
    reports = _in_order(records, processes.gather(reports))
    if processes.is_main:
        _report(args, models, options, results, reports, time.perf_counter() - started)
    processes.leave()
    return 2 if any("error" in report for report in reports) else 0


def _is_example(args: argparse.Namespace) -> bool:
    return args.video is None and args.dataset is None


# --------------------------------------------------------------------------------------------------------- planning
def plan(args: argparse.Namespace) -> tuple[list[VideoRecord], RunOptions]:
    """The videos meant and what is done with each. Raises ValueError for arguments that make no sense together."""
    _require_sense(args)
    defaults: dict[str, Any] = {"use_long_term": True}
    size, single_object = DEFAULT_SIZE, False
    if args.dataset is not None:
        spec, records = dataset(args.dataset, args.data_root)
        # Cutie's own number is no wish of the benchmark's: a model may have a better one
        pace = {} if spec.mem_every == MEM_EVERY else {"mem_every": spec.mem_every}
        defaults = {"use_long_term": spec.use_long_term, **pace}
        size, single_object = spec.size, spec.single_object
    elif args.video is not None:
        records = discover(args.video, args.mask, args.long_ids, prompts_of(args))
    else:
        first = next(iter(mask_files(example_masks()).values()))
        records = [VideoRecord(EXAMPLE_CLIP, example_frames(), first_mask=first)]
    options = RunOptions(
        tracker=_tracker_config(args, defaults),
        size=size if args.size is None else args.size,
        scales=tuple(args.ms or (1.0,)),
        flip=args.flip,
        feedback=args.ensemble_feedback or "own",
        model_weights=None if args.model_weights is None else tuple(args.model_weights),
        devices=tuple(args.devices or ()),
        view_workers=args.ms_workers,
        cleaning=cleaning_of(args),
        overlay=args.overlay,
        save_probs=args.save_probs,
        save_depth=args.save_depth,
        lookahead=1 if args.lookahead is None else args.lookahead,
        fps=args.fps,
        workers=args.workers,
        overwrite=args.overwrite,
        single_object=single_object,
    )
    return _chosen(records, args.videos), options


def _require_sense(args: argparse.Namespace) -> None:
    """Raises ValueError for arguments that exclude or lack each other, and for one that is none."""
    stray = [item for item in args.overrides if "=" not in item]
    require(not stray, f"{' '.join(stray)}: wanted an option such as --video before it, or key=value")
    require(args.video is None or args.dataset is None, "--video and --dataset: wanted one of them")
    require(args.mask is None or args.video is not None, "--mask: wanted --video with it")
    require(not args.long_ids or args.video is not None, "--long-ids: wanted --video with it")
    pointed = bool(args.pointed or args.prompts or args.prompt_model)
    require(not pointed or args.video is not None, "--point, --box, --prompts: wanted --video with them")
    require(args.data_root is None or args.dataset is not None, "--data-root: wanted --dataset with it")
    known = args.dataset is None or args.dataset in dataset_names()
    require(known, f"--dataset: got {args.dataset}, wanted one of {', '.join(dataset_names())}")
    require(args.dataset is None or args.data_root is not None, f"--dataset {args.dataset}: wanted --data-root with it")
    require(args.fps is None or args.overlay, "--fps: wanted --overlay with it")
    views_of(args.ms or (1.0,), args.flip, "--ms")
    several = args.ms is not None or args.flip
    require(args.ensemble_feedback is None or several, "--ensemble-feedback: wanted --ms or --flip with it")
    _require_models(args, several)
    refuse_encode_threads(args)
    ours = [name for name in args.models if not is_sam2(name)]
    if args.save_depth and not any(is_checkpoint(name) for name in ours):
        overrides = split_overrides(args.overrides)[0]
        deep = any(model_config(name, overrides).encoder.geometry != "none" for name in ours)
        names = ", ".join(args.models)
        require(deep, f"--save-depth: {names} has no geometry encoder, wanted a model such as cutie-geo-small")


def _require_models(args: argparse.Namespace, views: bool) -> None:
    """Raises ValueError for several models, or options for them, that make no sense together."""
    count = len(args.models)
    require(args.model is None or args.models == [args.model], "--model and --models: wanted one of them")
    twice = sorted({name for name in args.models if args.models.count(name) > 1})
    require(not twice, f"--models: got {', '.join(twice)} more than once; --model-weights counts one for more")
    require(args.model_weights is None or count > 1, "--model-weights: wanted several --models with it")
    if args.model_weights is not None:
        shares_of(args.model_weights, count, "--model-weights")
    named = args.weights in ("auto", "none")
    require(count == 1 or named, f"--weights: got {args.weights} for several models, wanted auto, none, or folders of "
            "trained models after --models")  # fmt: skip
    for name, given in (("--devices", args.devices), ("--ms-workers", args.ms_workers)):
        require(given is None or views or count > 1, f"{name}: wanted --ms, --flip or several --models with it")
    require(
        not views or not all(is_sam2(name) for name in args.models),
        "--ms, --flip: SAM 2 stretches each frame to its own square and has one view; wanted a model of Cutie's kind",
    )
    require(not args.devices or args.device == "auto", "--device and --devices: wanted one of them")
    for device in args.devices or ():
        resolve_device(device)
    few = args.ms_workers
    require(few is None or few >= 1, f"--ms-workers: got {few}, wanted 1 or more")


def _chosen(records: Sequence[VideoRecord], names: Sequence[str] | None) -> list[VideoRecord]:
    if not names:
        return list(records)
    known = {record.name for record in records}
    unknown = [name for name in names if name not in known]
    require(not unknown, f"--videos: no {', '.join(unknown)} among {len(known)} videos")
    return [record for record in records if record.name in names]


def _tracker_config(args: argparse.Namespace, defaults: dict[str, Any]) -> TrackerConfig:
    """Tracker options: defaults, then options, then overrides."""
    options = {
        "mem_every": args.mem_every,
        "max_mem_frames": args.max_mem_frames,
        "stagger_updates": args.stagger_updates,
        "top_k": args.top_k,
        "chunk_size": args.chunk_size,
        "max_internal_size": args.max_internal_size,
        "use_long_term": args.long_term,
    }
    given = {name: value for name, value in options.items() if value is not None}
    others = split_overrides(args.overrides)[1]
    if any(is_sam2(name) for name in args.models):
        others = [item for item in others if item not in of_sam2(others)]
    return build(TrackerConfig, merge(defaults | given, parse_overrides(others)), "options")


# -------------------------------------------------------------------------------------------------------- reporting
def _in_order(records: Sequence[VideoRecord], reports: Sequence[Report]) -> list[Report]:
    """One report for each record."""
    by_name = {report["video"]: report for report in reports}
    return [by_name[record.name] for record in records]


def _report(
    args: argparse.Namespace,
    models: Sequence[VideoModel],
    options: RunOptions,
    results: Results,
    reports: list[Report],
    seconds: float,
) -> None:
    """`run.json`, the example's score, and the last lines. Raises OSError if `run.json` can't be written, after all
    has been said."""
    try:
        write_json(results.root / SUMMARY, _summary(args, models, options, results, reports))
    finally:
        if _is_example(args) and "error" not in reports[0]:
            _print_score(results.root)
        _conclude(results.root, reports, seconds)


def _summary(
    args: argparse.Namespace, models: Sequence[VideoModel], options: RunOptions, results: Results, reports: list[Report]
) -> Report:
    """How the results came about, those of earlier calls in the same folder included."""
    videos = results.reports() | {report["video"]: report for report in reports}
    settings = options.fingerprint()
    for name, report in videos.items():
        same = report.get("settings") == settings
        videos[name] = {key: value for key, value in report.items() if not (same and key == "settings")}
    return {
        "command": args.command_line,
        "model": args.models[0] if len(models) == 1 else args.models,
        "weights": args.weights,
        "settings": settings,
        "versions": versions(),
        "machine": f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores",
        "device": "; ".join(dict.fromkeys(device_name(model.device) for model in models)),
        "videos": videos,
    }


def _print_score(output: Path) -> None:
    """The bundled example's J&F against its true masks."""
    scores = score_folders(example_masks(), output / EXAMPLE_CLIP)
    for object_id, score in scores.items():
        print(f"object {object_id}: J {score.j:.3f}  F {score.f:.3f}")
    mean = mean_score(scores)
    print(f"J&F {mean.j_and_f:.3f} (J {mean.j:.3f}, F {mean.f:.3f}) against the rendered true masks")


def _conclude(output: Path, reports: list[Report], seconds: float) -> None:
    """The last lines: what failed, how fast it was, where the results are."""
    failed = [report for report in reports if "error" in report]
    fresh = [report for report in reports if "error" not in report and not report.get("skipped")]
    skipped = len(reports) - len(failed) - len(fresh)
    for report in failed:
        print(f"error: {report['error']}", file=sys.stderr, flush=True)
    frames = sum(len(report["seconds_per_frame"]) for report in fresh)
    speed = f", {frames} frames, {frames / seconds:.2f} frames/s" if frames else ""
    counts = f"{len(fresh)} segmented{speed}" + (f"; {skipped} already complete" if skipped else "")
    counts += f"; {len(failed)} of {len(reports)} FAILED" if failed else ""
    print(f"videos: {counts}\nresults: {output.resolve()}", flush=True)
