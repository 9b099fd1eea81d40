"""Refine or segment videos as one library call: find them, load the models, process, write run.json."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from cutie_geo.checkpoints.load import resolve_device
from cutie_geo.checkpoints.tensor_files import state_digest
from cutie_geo.config import TrackerConfig, build, merge, parse_overrides, require, split_overrides, to_dict
from cutie_geo.data.index import OWN_VIDEOS, VideoRecord, discover, mask_files
from cutie_geo.data.index.layouts import find_home, read_list
from cutie_geo.data.index.records import is_plain, some, subfolders
from cutie_geo.data.io_threads import write_json
from cutie_geo.inference.results import SUMMARY, Report, Results, refuse_output
from cutie_geo.runs.distributed import Processes
from cutie_geo.runs.machine import run_facts
from cutie_geo.runs.models import family_of, load_any, model_settings
from cutie_geo.sam2.automatic_masks import AutomaticMasks
from cutie_geo.sam2.grid import GridOptions
from cutie_geo.sam2.networks import SAM2_MODELS, Sam2Model, load_sam2
from cutie_geo.vss.classifier import FeatureSource, load_classifier
from cutie_geo.vss.config import SAM2_ENCODER, SAME, MaskletModels, RefineOptions, SemanticRun, VideoSelection
from cutie_geo.vss.frame_features import load_frame_encoder, sam2_source
from cutie_geo.vss.index import CLASSES, SPLITS, VAL, VSPW_HOMES
from cutie_geo.vss.masklet_tracking import Propagator, Sam2Masklets, SeenFrame, propagator_for
from cutie_geo.vss.refine import ComputedBase, Job, Refiner, no_base, refine_videos, refuse_other_settings
from cutie_geo.vss.segformer import load_segformer
from cutie_geo.vss.semantic_maps import Predictions, SemanticClip, find_predictions
from cutie_geo.vss.semantic_segmenter import Encode, SemanticSegmenter, encode_with, encode_with_sam2


class Outcome(NamedTuple):
    """Result of a run."""

    reports: list[Report]
    """Report of each video, in order."""
    seconds: float
    """Time of the videos that were processed, without loading."""

    @property
    def failed(self) -> list[Report]:
        """Reports of videos that failed; each has an `error`."""
        return [report for report in self.reports if "error" in report]

    @property
    def processed(self) -> list[Report]:
        """Reports of videos that were processed now."""
        return [report for report in self.reports if "error" not in report and not report.get("skipped")]


def run_videos(run: SemanticRun, conclude: Callable[[Outcome], None] = lambda outcome: None) -> Outcome:
    """Refine, or with a classifier segment, all videos of a run.

    Args:
        run: videos, models and options.
        conclude: called with the outcome in the main process, before any process ends.

    Returns:
        The outcome, the same in every process. A video that fails is reported; the others are processed.

    Raises:
        ValueError: if videos, base predictions or models are missing or invalid, or if complete videos were made with
            other settings.
    """
    if run.cpu_threads is not None:
        torch.set_num_threads(run.cpu_threads)
    jobs = select_jobs(run.videos, run.base)
    processes = Processes(run.models.device)
    refiner, settings, names = load_refiner(run, processes)
    options = replace(run.options, settings=settings)
    records, given = [job.record for job in jobs], run.videos.video
    own = given is not None and any(given in (record.source, record.source.parent) for record in records)
    sources = [given] if own else [record.source.parent for record in records]
    refuse_output(run.output, [*dict.fromkeys(sources), run.base])
    results = Results.at(run.output)
    results.make_writable()
    refuse_other_settings(results, jobs, options)
    processes.wait()  # all have seen what was there before one changes it
    started = time.perf_counter()
    with logging_redirect_tqdm():
        reports = refine_videos(processes.share(jobs), refiner, results, options, processes.index)
    seconds = time.perf_counter() - started
    by_name = {report["video"]: report for report in processes.gather(reports)}
    outcome = Outcome([by_name[job.record.name] for job in jobs], seconds)
    if processes.is_main:
        write_json(results.root / SUMMARY, _summary(run, options, refiner.models, names, results.reports() | by_name))
        conclude(outcome)
    processes.leave()
    return outcome


def _summary(
    run: SemanticRun,
    options: RefineOptions,
    models: Sequence[Any],
    names: Mapping[str, str],
    videos: dict[str, Report],
) -> dict[str, Any]:
    """Return the content of run.json, with the results of earlier calls in the same folder."""
    return {
        "command": list(run.command),
        "model": run.models.model,
        "propagator": run.models.propagator,
        **names,
        **run_facts(options.fingerprint(), models, videos),
    }


# ------------------------------------------------------------------------------------------------------------- videos
def select_jobs(videos: VideoSelection, base: Path | None) -> list[Job]:
    """Return the selected videos with their base predictions; see `find_jobs`."""
    if videos.dataset is None:
        assert videos.video is not None, "refused by VideoSelection"
        return find_jobs(videos.video, base, videos.sequences, videos.names)
    assert videos.data_root is not None, "refused by VideoSelection"
    home = find_home(videos.data_root, VSPW_HOMES, "data")
    return find_jobs(videos.data_root, base, home / SPLITS[videos.dataset], videos.names)


def find_jobs(
    video: Path, semantic: Path | None, sequences: Path | None = None, names: Sequence[str] | None = None
) -> list[Job]:
    """Return the videos at a path with their base predictions; a video without any has a `problem`.

    Args:
        video: a video file, a folder of frames, a folder of such, or VSPW's root.
        semantic: folder of base predictions; None where they are computed.
        sequences: a file that lists clips; val.txt in VSPW's root by default.
        names: use only these videos.

    Raises:
        ValueError: if a path or a video is missing.
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
    homes = [place for place in VSPW_HOMES if any((video / place / "data").glob("*/origin"))]
    if not homes:
        return [replace(record, problem=None) for record in discover(video)]
    home = find_home(video, homes, "data")
    names = read_list(sequences or home / VAL)
    present = set(subfolders(home / "data"))
    missing = [name for name in names if not is_plain(name) or name not in present]
    count = f"{len(missing)} of {len(names)} listed clips"
    require(not missing, f"{home / 'data'}: no folder for {count}: {some(missing)}")
    return [VideoRecord(name, home / "data" / name / "origin") for name in dict.fromkeys(names)]


def _with_base(record: VideoRecord, predictions: Predictions, alone: bool) -> Job:
    """Return a video with its base predictions, which may lie in the folder itself if there is one video only."""
    clip = predictions.clip(record.name)
    if not clip.maps and alone and predictions.segments is None:
        clip = SemanticClip(record.name, predictions.root, mask_files(predictions.root))
    problem = None if clip.maps else f"{clip.folder}: no maps, expected PNG files named after the frames"
    return Job(replace(record, masks=clip.maps, problem=problem), clip)


# ------------------------------------------------------------------------------------------------------------- models
def load_refiner(run: SemanticRun, processes: Processes) -> tuple[Refiner, dict[str, Any], dict[str, str]]:
    """Load all networks of a run.

    Returns:
        The networks, the settings that the maps depend on, and the names of classifier and encoder for run.json.

    Raises:
        ValueError: if a model cannot be loaded, or the classifier was trained with another encoder.
    """
    models, device = run.models, processes.device(run.models.device)
    classifier = None if run.classifier is None else load_classifier(run.classifier, CLASSES, resolve_device(device))
    finder = load_sam2(models.model, models.weights, device, models.precision, models.sam2_overrides)
    described = model_settings(models.model, models.weights, finder)
    settings: dict[str, Any] = {"masks": described | {"grid": grid_settings(run.grid)}}
    propagator, networks, seen = _load_propagator(models, finder, device, settings)
    base = None
    if run.segformer is not None:
        segformer = load_segformer(run.segformer, CLASSES, device, models.precision)
        settings["segformer"] = {"weights": f"sha256 {segformer.digest()}"}
        base = ComputedBase(segformer)
    refiner = Refiner(AutomaticMasks(finder, run.grid), propagator, base, networks)
    if classifier is None:
        return refiner, settings, {}
    trained_with = classifier.described.encoder
    name = run.encoder or (SAM2_ENCODER if trained_with.model in SAM2_MODELS else trained_with.model)
    encode, source = encoder_for(name, trained_with.level, seen, resolve_device(device), models.precision)
    classifier.require_encoder(source, str(run.classifier))
    if run.base is None and base is None:
        refiner = refiner._replace(base=no_base)
    settings |= {"classifier": f"sha256 {state_digest(classifier)}", "encoder": to_dict(source)}
    names = {"classifier": str(run.classifier), "encoder": name}
    return refiner._replace(segmenter=SemanticSegmenter(encode, classifier)), settings, names


def _load_propagator(
    models: MaskletModels, finder: Sam2Model, device: str | torch.device, settings: dict[str, Any]
) -> tuple[Propagator, list[Any], SeenFrame]:
    """Return the propagator, all networks so far, and SAM 2's features of a frame; add its settings to `settings`."""
    if models.propagator == SAME:
        settings["tracking"] = {"chunk_size": models.chunk_size}
        same = Sam2Masklets(finder, models.chunk_size)
        return same, [finder], same.seen
    name, weights = models.propagator, models.propagator_weights
    model = load_any(name, weights, device, models.precision, models.overrides)
    settings["propagator"] = model_settings(name, weights, model)
    size, tracking = -1, {"chunk_size": models.chunk_size}
    config = TrackerConfig(chunk_size=models.chunk_size)
    if not isinstance(model, Sam2Model):
        given = parse_overrides(split_overrides(models.propagator_overrides)[1])
        config = build(TrackerConfig, merge({"chunk_size": models.chunk_size}, given), "options")
        own = family_of(model).internal_size(model)
        size = (OWN_VIDEOS.size if own is None else own) if models.size is None else models.size
        tracking = to_dict(config) | {"size": size}
    settings["tracking"] = tracking
    return propagator_for(model, config, size), [finder, model], SeenFrame(finder)


def encoder_for(
    name: str, level: int, seen: SeenFrame, device: torch.device, precision: str
) -> tuple[Encode, FeatureSource]:
    """Return the function that computes a frame's feature map, and the source of its features.

    Args:
        name: `sam2` for the encoder of SAM 2, or an encoder of `transformers`.
        level: feature map of the encoder.
        seen: the SAM 2 that finds masks; a propagator that has it too encodes each frame once for both.
        device: device of another encoder.
        precision: precision of another encoder.

    Raises:
        ValueError: if the encoder cannot be loaded.
    """
    if name == SAM2_ENCODER:
        return encode_with_sam2(seen, level), sam2_source(seen.model, level)
    encoder = load_frame_encoder(name, level, device, precision)
    return encode_with(encoder), encoder.source()


def grid_settings(grid: GridOptions) -> dict[str, Any]:
    """Return the options that the masks found depend on."""
    return {name: value for name, value in to_dict(grid).items() if name != "batch"}
