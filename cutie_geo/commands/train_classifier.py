"""`train.py --config configs/vss/isam2_vspw.yaml`: the classifier of masklets, in two phases.

First the masklets of all clips are found, followed, and reduced to features and the true pixels inside them: a file for
each clip, which later runs use again, whatever they change of the classifier. Then the classifier learns from these.
"""

import argparse
import hashlib
import json
import logging
import shlex
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from cutie_geo.commands.masklets import encoder_for, told_of_grid
from cutie_geo.commands.models import settings_of, versions
from cutie_geo.commands.processes import Processes
from cutie_geo.commands.training_run import RunFolder, StopSignal, code_version, start_trackers, tracker_names
from cutie_geo.config import ClassifierConfig, MaskletSource, classifier_config, read_yaml, require, to_dict
from cutie_geo.data.background import read_ahead
from cutie_geo.data.index import VideoRecord
from cutie_geo.data.index.labelled import CLASSES
from cutie_geo.data.masklet_files import MaskletFiles
from cutie_geo.data.semantic import SemanticClip, find_listed
from cutie_geo.data.video import open_source
from cutie_geo.evaluation.semantic.metrics import mean_iou
from cutie_geo.inference.masklets import Finder, Propagator, Sam2Masklets
from cutie_geo.inference.refine import SavedBase
from cutie_geo.inference.segmentor import Encode, labelled_masklets
from cutie_geo.model.load import resolve_device
from cutie_geo.model.masklet_classifier import (
    ClassifierDescription,
    FeatureSource,
    MaskletClassifier,
    load_classifier,
    save_classifier,
)
from cutie_geo.model.sam2 import SAM2_MODELS, load_sam2
from cutie_geo.model.sam2_masks import AutomaticMasks
from cutie_geo.progress import progress
from cutie_geo.structures import MaskletTable
from cutie_geo.training.masklets import ClassifierTraining, confusion_of, new_classifier, steps_of, top1
from cutie_geo.training.optimiser import build_optimiser, groups
from cutie_geo.training.state import TrainState, read_state, require_same, restore, to_plain

log = logging.getLogger(__name__)

MASKLETS = "masklets"
"""Folder of the first phase's files, beside the runs, unless --cache-features names another."""
READERS = 2
"""Threads that read frames."""


class Look(NamedTuple):
    """What the first phase makes masklets with."""

    find: Finder
    propagator: Propagator
    encode: Encode
    source: FeatureSource
    model: Any
    """The SAM 2, whose precision everything runs in."""
    settings: dict[str, Any]
    """All that decides what comes of it, but for the clip."""


def run(args: argparse.Namespace) -> int:
    """Train; return the exit status: 0 when the last step is done, 130 or 143 when asked to stop before."""
    config = classifier_config(str(args.config), args.overrides, {} if args.model is None else {"model": args.model})
    _require_sense(args, config)
    folder = RunFolder(args.output / config.model / config.stage)
    if _is_finished(folder, config):
        print(f"{config.stage}: all steps are done; the classifier is in {folder.final}")
        return 0
    checkpoint = _checkpoint(args, folder)
    content = None if checkpoint is None else read_state(checkpoint)
    if content is not None and checkpoint is not None:
        require_same(content["config"], config, checkpoint)
    if args.cpu_threads is not None:
        torch.set_num_threads(args.cpu_threads)
    processes = Processes(args.device)
    learnt, names = _clips(config.data, args.data_root)
    held_out = _clips(config.validation.data, args.data_root)[0] if config.validation.every else []
    look = _look(args, config, processes)
    files = MaskletFiles(args.cache_features or args.output / MASKLETS, look.settings)
    clips = {clip.name: clip for clip in [*learnt, *held_out]}
    inputs = {clip.name: _inputs(clip) for clip in clips.values()}
    missing = [clip for clip in clips.values() if not files.has(clip.name, inputs[clip.name])]
    processes.wait()  # all have seen what is missing before one writes it
    with logging_redirect_tqdm():
        _make_tables(processes.share(missing), files, inputs, look, config)
    processes.leave()  # the classifier is too small to be shared
    if not processes.is_main:
        return 0
    device = resolve_device(processes.device(args.device))
    table = _table(learnt, files, device)
    scored = _table(held_out, files, device) if held_out else None
    described = _described(config, names, table, look.source)
    state = _state(config, described, checkpoint, device)
    facts = _facts(args, table, scored, device)
    if content is not None and checkpoint is not None:
        _require_same_masklets(folder, facts)
        restore(state, content, checkpoint)
        log.warning("going on from step %d (%s)", state.step, checkpoint)
    return _learn(args, config, folder, state, table, scored, facts)


def _require_sense(args: argparse.Namespace, config: ClassifierConfig) -> None:
    """Raises ValueError for options that this training has no use for, and for models that can't find masks."""
    asked = {"--dry-run": args.dry_run, "--compile": args.compile, "--processes": args.processes}
    named = [name for name, given in asked.items() if given]
    require(not named, f"{', '.join(named)}: got {args.config}, wanted a stage that trains a network")
    require(config.model in SAM2_MODELS, f"model: got {config.model}, wanted one of {', '.join(SAM2_MODELS)}")
    require(args.data_root is not None, "--data-root: wanted the folder that holds the data set")


def _is_finished(folder: RunFolder, config: ClassifierConfig) -> bool:
    """Whether the classifier of this run is there already. Raises ValueError if it is that of other settings."""
    if not (folder.final / "config.json").is_file():
        return False
    told = read_yaml(folder.config)
    told.pop("run", None)
    require_same(told, config, folder.final)
    return True


def _checkpoint(args: argparse.Namespace, folder: RunFolder) -> Path | None:
    """Where to go on from. Raises ValueError for a run that is in the way, and for a checkpoint that isn't there."""
    latest = folder.checkpoints().latest()
    if args.resume == "auto":
        return latest
    if args.resume == "never":
        require(latest is None, f"{folder.root}: a run with a checkpoint is here; wanted --resume auto, or --output")
        return None
    path = Path(args.resume).expanduser()
    require(path.is_dir(), f"--resume: no folder {path}, wanted auto, never or a checkpoint")
    return path


# ---------------------------------------------------------------------------------------------------------- masklets
def _clips(source: MaskletSource, root: Path) -> tuple[list[SemanticClip], tuple[str, ...]]:
    """The clips of a source, and the names of the classes. Raises ValueError for clips without frames."""
    found = find_listed(source.name, root, source.clips)
    bare = next((clip for clip in found.clips if not clip.images), None)
    require(bare is None, f"{bare.folder if bare else ''}: no frames for these masks")
    return found.clips, found.names


def _inputs(clip: SemanticClip) -> str:
    """What tells a clip's files from others: their names and sizes."""
    paths = [*(clip.images or {}).values(), *clip.maps.values()]
    told = [[path.parent.name, path.name, path.stat().st_size] for path in paths]
    return hashlib.sha256(json.dumps([clip.name, clip.kind, told]).encode()).hexdigest()


def _look(args: argparse.Namespace, config: ClassifierConfig, processes: Processes) -> Look:
    """The models of the first phase. Raises ValueError for weights that aren't there or don't fit."""
    place = processes.device(args.device)
    options = list(config.model_options)
    model = load_sam2(config.model, args.weights, place, config.precision, options)
    asked = Namespace(models=[config.model], weights=args.weights, overrides=options)
    propagator = Sam2Masklets(model, config.chunk_size)
    encode, source = encoder_for(
        config.encoder, config.level, model, propagator, resolve_device(place), config.precision
    )
    settings = {
        "data": config.data.name,
        "masks": settings_of(asked, [model]) | {"grid": told_of_grid(config.grid)},
        "encoder": to_dict(source),
        "window": config.window,
        "scope": config.scope,
        "chunk_size": config.chunk_size,
    }
    return Look(AutomaticMasks(model, config.grid), propagator, encode, source, model, settings)


def _make_tables(
    clips: Sequence[SemanticClip], files: MaskletFiles, inputs: dict[str, str], look: Look, config: ClassifierConfig
) -> None:
    """The first phase: the table of each clip, written as soon as it is there. Raises ValueError or OSError."""
    with ExitStack() as stack, progress(len(clips), MASKLETS, "clip", show=bool(clips)) as bar:
        stack.enter_context(look.model.autocast())
        for clip in clips:
            source = open_source(_record(clip).source, READERS)
            with closing(read_ahead(source)) as frames:
                table = labelled_masklets(
                    frames, SavedBase(clip), look.find, look.propagator, look.encode, config.window, config.scope
                )
            files.write(clip.name, inputs[clip.name], table)
            bar.update()


def _record(clip: SemanticClip) -> VideoRecord:
    """A clip's frames."""
    images = list((clip.images or {}).values())
    return VideoRecord(clip.name, images[0].parent)


def _table(clips: Sequence[SemanticClip], files: MaskletFiles, device: torch.device) -> MaskletTable:
    """The masklets of several clips. Raises ValueError if there are none, or features that are no numbers."""
    tables = [files.read(clip.name) for clip in clips]
    bad = [clip.name for clip, table in zip(clips, tables) if not bool(torch.isfinite(table.features).all())]
    require(not bad, f"{files.folder}: features that are no numbers, of {', '.join(bad[:5])}")
    table = MaskletTable.joined(tables)
    require(len(table.features) > 0, f"{files.folder}: no masklet with a class in {len(clips)} clips, wanted some")
    return MaskletTable(*(column.to(device) for column in table))


# ---------------------------------------------------------------------------------------------------------- learning
def _described(
    config: ClassifierConfig, names: tuple[str, ...], table: MaskletTable, source: FeatureSource
) -> ClassifierDescription:
    """The classifier that a configuration asks for."""
    dim = table.features.shape[1]
    return ClassifierDescription(names, dim, config.hidden if config.hidden is not None else (dim,), source)


def _state(
    config: ClassifierConfig, described: ClassifierDescription, checkpoint: Path | None, device: torch.device
) -> TrainState:
    """The classifier as training begins or goes on. Raises ValueError for a checkpoint of another."""
    if checkpoint is None:
        model = new_classifier(MaskletClassifier(described), config.seed).to(device)
    else:
        model = load_classifier(checkpoint, CLASSES, device)
        model.require_encoder(described.encoder, str(checkpoint))
    return TrainState(model, build_optimiser(groups(model, config.optimiser), config.optimiser, half=False))


def _facts(
    args: argparse.Namespace, table: MaskletTable, scored: MaskletTable | None, device: torch.device
) -> dict[str, Any]:
    """What else decides what comes of a run."""
    program, *arguments = args.command_line
    return {
        "command": f"{program} {shlex.join(arguments)}".rstrip(),
        "code": code_version(),
        "versions": versions(),
        "device": str(device),
        "masklets": _counted(table),
        "held_out": None if scored is None else _counted(scored),
    }


def _counted(table: MaskletTable) -> dict[str, Any]:
    """How many masklets there are, of how many classes, the share of the commonest in percent, which is the top-1 of
    knowing nothing, and what tells these masklets from others."""
    told = hashlib.sha256()
    for column in table:
        told.update(np.ascontiguousarray(column.cpu().numpy()).data)
    masklets = table.labels().bincount()
    return {
        "count": len(table.features),
        "classes": int((masklets > 0).sum()),
        "commonest": 100 * int(masklets.max()) / len(table.features),
        "sha256": told.hexdigest(),
    }


def _require_same_masklets(folder: RunFolder, facts: dict[str, Any]) -> None:
    """Raises ValueError if a run has begun on other masklets: its steps would see others than it would have seen."""
    before = (read_yaml(folder.config).get("run") or {}).get("masklets") if folder.config.is_file() else None
    same = before is None or before == facts["masklets"]
    require(same, f"{folder.root}: begun on other masklets: got {facts['masklets']}, wanted {before}")


def _learn(
    args: argparse.Namespace,
    config: ClassifierConfig,
    folder: RunFolder,
    state: TrainState,
    table: MaskletTable,
    scored: MaskletTable | None,
    facts: dict[str, Any],
) -> int:
    """The second phase, with its log and trackers; the exit status."""
    trackers: Any = tracker_names(args.tracker)
    accelerator = Accelerator(cpu=table.features.device.type == "cpu", log_with=trackers or None)
    accelerator.project_configuration.set_directories(str(folder.root))
    steps = steps_of(config, len(table.features))
    run = ClassifierRun(config, accelerator, folder, state, scored, steps)
    training = ClassifierTraining(config, state, table, run)
    folder.root.mkdir(parents=True, exist_ok=True)
    folder.write_config(config, facts)
    folder.forget_after(state.step)
    described = {"training": to_plain(config), "model": to_dict(state.model.described), "run": facts}
    start_trackers(accelerator, folder, described, args.group)
    with run.bar, logging_redirect_tqdm(), run.stop.listening():
        done = training.train()
    if done:
        save_classifier(state.model, folder.final)
        print(f"{config.stage}: {steps} steps done; the classifier is in {folder.final}")
    else:
        print(f"stopped and saved at step {state.step} of {steps}; the same command goes on there")
    accelerator.end_training()
    return 0 if done else run.stop.status or 143


class ClassifierRun:
    """What happens around the steps: see `cutie_geo.training.masklets.ClassifierHooks`."""

    def __init__(
        self,
        config: ClassifierConfig,
        accelerator: Accelerator,
        folder: RunFolder,
        state: TrainState,
        scored: MaskletTable | None,
        steps: int,
    ) -> None:
        self.config, self.accelerator, self.folder = config, accelerator, folder
        self.state, self.scored = state, scored
        self.stop = StopSignal()
        self.bar: tqdm = progress(steps, config.stage, "step")
        self.bar.update(state.step)

    def stop_wanted(self) -> bool:
        """Whether a signal came."""
        return bool(self.stop.status)

    def on_step(self, step: int) -> None:
        """Move the bar."""
        self.bar.update()

    def on_log(self, step: int, values: dict[str, float]) -> None:
        """A line of the log, and scalars for the trackers."""
        self.bar.set_postfix({"loss": f"{values['loss']:.3f}", "top1": f"{values['top1']:.1f}"}, refresh=False)
        self._tell(step, values)

    def on_validate(self, step: int) -> None:
        """Top-1 of the masklets held out, and mIoU of the true pixels inside them."""
        if self.scored is None:
            return
        model = self.state.model.eval()
        counts = confusion_of(model, self.scored, self.config.batch).cpu().numpy().astype(np.int64)
        right = top1(model, self.scored, self.config.batch)
        model.train()
        values = {"validation/top1": right, "validation/mIoU": 100 * mean_iou(counts)}
        self._tell(step, values)
        tqdm.write(f"step {step}: top-1 {right:.2f}, mIoU {values['validation/mIoU']:.2f} of masklets held out")

    def on_save(self, state: TrainState) -> None:
        """A checkpoint. Raises OSError if it can't be written."""
        self.folder.checkpoints(self.config.keep).save(state, self.config)

    def _tell(self, step: int, values: dict[str, float]) -> None:
        self.folder.append({"step": step, **values})
        self.accelerator.log({f"{self.config.stage}/{name}": value for name, value in values.items()}, step=step)
