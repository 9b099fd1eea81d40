"""Segment videos: a file, folders of frames, a benchmark, or, asked for nothing, the bundled example."""

import argparse
import logging
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from cutie_geo.commands.processes import Processes
from cutie_geo.config import (
    TrackerConfig,
    build,
    is_hydra,
    merge,
    model_config,
    parse_overrides,
    preset_names,
    require,
    split_overrides,
    to_dict,
)
from cutie_geo.data.example import EXAMPLE_CLIP, example_frames, example_masks
from cutie_geo.data.index import VideoRecord, dataset, dataset_names, discover, mask_files
from cutie_geo.data.prompts import FramePrompts, prompts_of_words, read_prompts
from cutie_geo.evaluation.metrics import mean_score, score_folders
from cutie_geo.inference.clean import Cleaning
from cutie_geo.inference.ensemble import FEEDBACKS, views_of
from cutie_geo.inference.methods import VideoModel
from cutie_geo.inference.model_ensemble import shares_of
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.prompts import Prompter, shared_prompts
from cutie_geo.inference.results import SUMMARY, Report, Results, changes, write_json
from cutie_geo.inference.run import open_results, run_videos
from cutie_geo.model.load import is_checkpoint, load_model, resolve_device
from cutie_geo.model.sam2 import SAM2_MODELS, Sam2Model, load_sam2
from cutie_geo.model.sam2_prompts import PromptHead
from cutie_geo.model.weights import digest

log = logging.getLogger(__name__)

HELP = "segment videos, given masks of their objects"
RESUMES = True
"""Interrupted, it goes on where it stopped when it is called again."""
DEFAULT_MODEL = "cutie-geo-tiny"
"""It comes with its weights: what needs no network to begin with."""
PROMPT_MODEL = "sam2.1-hiera-large"
"""What makes masks of prompts for models that have no trunk of SAM 2's."""
GPU_LOOKAHEAD = 4
DEFAULT_SIZE = 480
"""Shorter side for a user's own videos, unless the model has a size of its own: what models are trained for."""
VERSIONS = (
    "cutie_geo",
    "torch",
    "timm",
    "sam2",
    "transformers",
    "accelerate",
    "av",
    "numpy",
    "pillow",
    "opencv-python-headless",
)


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
    how.add_argument("--model", help=f"{', '.join(preset_names())}, a YAML file or a folder (default: {DEFAULT_MODEL})")
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


class InOrder(argparse.Action):
    """Keeps options that are about each other in the order in which they were given."""

    def __call__(self, parser: Any, args: Any, values: Any, option: str | None = None) -> None:
        """Add the option's name and value to the list."""
        setattr(args, self.dest, [*(getattr(args, self.dest) or ()), (str(option).lstrip("-"), values)])


def add_prompts(group: Any) -> None:
    """Options that say where objects are, instead of masks."""
    for name, metavar, text in (
        ("frame", "NAME", "the frame that is pointed at after this (default: the first)"),
        ("object", "ID", "the object that is pointed at after this (default: 1)"),
        ("point", "X,Y[,LABEL]", "a point on it, or, with the label 0, beside it; in the frame's pixels"),
        ("box", "X0,Y0,X1,Y1", "a box around it"),
    ):
        group.add_argument(f"--{name}", dest="pointed", action=InOrder, metavar=metavar, help=text)
    group.add_argument("--prompts", type=Path, metavar="JSON", help="the same in a file, by frame and object")
    group.add_argument("--prompt-model", metavar="NAME", help="the SAM 2 that makes masks of prompts (default: the "
                       f"one whose trunk the model has, else {PROMPT_MODEL})")  # fmt: skip
    group.add_argument("--prompt-weights", default="auto", metavar="W", help="auto, none, or a file")


def prompts_of(args: argparse.Namespace) -> dict[str, FramePrompts]:
    """What `add_prompts`' options point at, by frame. Raises ValueError for what can't be."""
    require(not (args.pointed and args.prompts), "--prompts and --point, --box: wanted one or the other")
    found = read_prompts(args.prompts) if args.prompts else prompts_of_words(args.pointed or ())
    unused = args.prompt_model is None and args.prompt_weights == "auto"
    require(bool(found) or unused, "--prompt-model, --prompt-weights: wanted prompts with them")
    return found


def load_prompter(args: argparse.Namespace, models: Sequence[VideoModel]) -> tuple[Prompter, Report]:
    """What makes masks of prompts, and which that is. A single model's own trunk is shared."""
    shared = shared_prompts(models[0]) if len(models) == 1 else None
    name = args.prompt_model or shared or PROMPT_MODEL
    device = models[0].device if models else "auto"
    sam2 = load_sam2(name, args.prompt_weights, device, "fp32")
    weights = args.prompt_weights if sam2.loaded_from is None else f"sha256 {digest(sam2.loaded_from, 'sha256')}"
    own_trunk = name != shared
    return Prompter(PromptHead(sam2, own_trunk)), {"model": name, "weights": weights, "shares_trunk": not own_trunk}


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
    models = _load(args, processes)
    if args.compile:
        for model in models:
            if isinstance(model, Sam2Model):
                raise ValueError("--compile: wanted models of Cutie's kind, not SAM 2")
            model.compile_parts()
    options = replace(
        _sized(args, models, options), settings=_settings(args, models), lookahead=_lookahead(args, models)
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
        defaults = {"mem_every": spec.mem_every, "use_long_term": spec.use_long_term}
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
    ours = [name for name in args.models if name not in SAM2_MODELS]
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
        not views or any(name not in SAM2_MODELS for name in args.models),
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
    if any(name in SAM2_MODELS for name in args.models):
        others = [item for item in others if item not in of_sam2(others)]
    return build(TrackerConfig, merge(defaults | given, parse_overrides(others)), "options")


def _sized(args: argparse.Namespace, models: Sequence[VideoModel], options: RunOptions) -> RunOptions:
    """Options with the size of frames that the models are for, unless the user names one."""
    # SAM 2 stretches frames to its own square: shrinking them before would only lose what is in them
    sizes = [-1 if isinstance(model, Sam2Model) else model.config.frame_size or options.size for model in models]
    if args.size is not None or set(sizes) == {options.size}:
        return options
    if len(set(sizes)) == 1:
        return replace(options, size=sizes[0])
    return replace(options, size=-1 if -1 in sizes else max(sizes), model_sizes=tuple(sizes))


def _lookahead(args: argparse.Namespace, models: Sequence[VideoModel]) -> int:
    """Frames encoded together: several keep a GPU busy, a CPU is busy with one."""
    if args.lookahead is not None:
        return args.lookahead
    return GPU_LOOKAHEAD if any(model.device.type == "cuda" for model in models) else 1


def _load(args: argparse.Namespace, processes: Processes) -> list[VideoModel]:
    """The models. For the example, weights that can't be had are replaced by random ones, and that is said loudly."""
    overrides = split_overrides(args.overrides)[0]
    devices = args.devices or [processes.device(args.device)]
    places = [devices[i % len(devices)] for i in range(len(args.models))]

    def load(weights: str) -> list[VideoModel]:
        return [
            _model(name, weights, place, args.precision, args.overrides) for name, place in zip(args.models, places)
        ]

    try:
        return load(args.weights)
    except ValueError as error:
        chosen = args.weights != "auto" or any(item.startswith("weights.") for item in overrides)
        if chosen or not _is_example(args):
            raise
        for name in args.models:
            if name not in SAM2_MODELS:
                model_config(name, overrides)  # what is wrong with the model itself stays an error
        log.warning("%s", error)
        log.warning("going on with RANDOM weights: what follows shows that the program runs, not what it can do")
    args.weights = "none"
    return load("none")


def _model(name: str, weights: str, place: Any, precision: str, overrides: Sequence[str]) -> VideoModel:
    if name in SAM2_MODELS:
        return load_sam2(name, weights, place, precision, of_sam2(overrides))
    return load_model(name, weights, place, precision, split_overrides(overrides)[0])


def of_sam2(overrides: Sequence[str]) -> list[str]:
    """The `key=value` items that are about SAM 2: those of `model.`, in hydra's grammar."""
    return [item for item in overrides if is_hydra(item)]


def _settings(args: argparse.Namespace, models: Sequence[VideoModel]) -> Report:
    """What, beside the run's options, decides the masks."""
    each = [_settings_of(args, name, model) for name, model in zip(args.models, models)]
    return each[0] if len(each) == 1 else {"members": each}


def _settings_of(args: argparse.Namespace, name: str, model: VideoModel) -> Report:
    """Of one model."""
    named = args.weights == "none" or (args.weights == "auto" and not is_checkpoint(name))
    facts = {"precision": str(model.precision).removeprefix("torch."), "device": model.device.type}
    if isinstance(model, Sam2Model):
        file = model.loaded_from
        weights = args.weights if named or file is None else f"sha256 {digest(file, 'sha256')}"
        return {"model": {"name": name, "overrides": of_sam2(args.overrides)}, "weights": weights, **facts}
    config = to_dict(model.config)
    sources = config.pop("weights")
    start = {"warm_start": f"sha256 {digest(Path(path), 'sha256')}"} if (path := sources["warm_start"]) else {}
    return {
        "model": config,
        "weights": args.weights
        if named or model.loaded_from is None
        else f"sha256 {digest(model.loaded_from, 'sha256')}",
        "encoders": {part: f"sha256 {file.sha256}" for part, file in model.frozen_files.items()} | start,
        **facts,
    }


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


def device_name(device: torch.device) -> str:
    """A device as people call it."""
    return f"{device}, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)


def versions() -> dict[str, str]:
    """Installed versions of what results depend on."""
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


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
