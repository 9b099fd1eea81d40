"""Train a masklet classifier as one library call, in two phases.

The first phase finds and propagates the masklets of all clips and reduces them to features and counts of true pixels:
one file for each clip, which later runs use again unless they make masklets otherwise. The second phase trains the
classifier on these files.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from cutie_geo.checkpoints.load import resolve_device
from cutie_geo.config import read_yaml, require, to_dict
from cutie_geo.data.io_threads import read_ahead
from cutie_geo.data.locks import exclusive
from cutie_geo.data.video import open_source
from cutie_geo.limits import require_threads
from cutie_geo.progress import progress
from cutie_geo.runs.distributed import Processes
from cutie_geo.runs.machine import versions
from cutie_geo.runs.models import model_settings
from cutie_geo.runs.training_run import LOCK_FILE, RunFolder, RunHooks, code_version, start_trackers, tracker_names
from cutie_geo.sam2.automatic_masks import AutomaticMasks
from cutie_geo.sam2.networks import load_sam2
from cutie_geo.training.optimiser import build_optimiser, groups
from cutie_geo.training.state import TrainState, require_same, restore, resumed, to_plain
from cutie_geo.vss.classifier import ClassifierDescription, FeatureSource, MaskletClassifier, load_classifier
from cutie_geo.vss.classifier_training import ClassifierTraining, confusion_of, new_classifier, steps_of, top1
from cutie_geo.vss.config import ClassifierConfig, ClassifierRunOptions, MaskletSource
from cutie_geo.vss.index import CLASSES
from cutie_geo.vss.masklet_files import MaskletFiles, MaskletTable
from cutie_geo.vss.masklet_tracking import Finder, Propagator, Sam2Masklets
from cutie_geo.vss.metrics import mean_iou
from cutie_geo.vss.refine import SavedBase
from cutie_geo.vss.run import encoder_for, grid_settings
from cutie_geo.vss.semantic_maps import SemanticClip, find_listed
from cutie_geo.vss.semantic_segmenter import Encode, labelled_masklets

log = logging.getLogger(__name__)

MASKLETS = "masklets"
"""Default folder of the masklet files, in the folder of all runs."""
READERS = 2
"""Number of threads that read frames."""


class Outcome(NamedTuple):
    """Result of a training run."""

    status: int
    """Exit status: 0 after the last step, 130 or 143 after a signal."""
    message: str = ""
    """Last line for the user; empty in all processes but one."""


class MaskletMaker(NamedTuple):
    """Networks and settings that make masklets."""

    find: Finder
    propagator: Propagator
    encode: Encode
    source: FeatureSource
    model: Any
    """The SAM 2, whose precision is used throughout."""
    settings: dict[str, Any]
    """Everything that the masklets depend on, except the clip."""


def train_classifier(options: ClassifierRunOptions) -> Outcome:
    """Make the masklets that are missing, then train the classifier, from its newest checkpoint if there is one.

    Raises:
        ValueError: if data or models are missing or invalid, or the run was begun with other settings.
        OSError: if files cannot be written.
    """
    config = options.config
    folder = RunFolder(options.output / config.model / config.stage)
    if folder.is_finished(config):
        return Outcome(0, f"{config.stage}: all steps are done; the classifier is in {folder.final}")
    checkpoint, saved = resumed(options.resume, folder.checkpoints())
    if saved is not None and checkpoint is not None:
        require_same(saved["config"], config, checkpoint)
    require_threads(options.cpu_threads)
    if options.cpu_threads is not None:
        torch.set_num_threads(options.cpu_threads)
    processes = Processes(options.device)
    clips, names = _clips(config.data, options.data_root)
    held_out = _clips(config.validation.data, options.data_root)[0] if config.validation.every else []
    maker = _load_maker(options, processes)
    files = MaskletFiles(options.cache or options.output / MASKLETS, maker.settings)
    _make_files([*clips, *held_out], files, maker, config, processes)
    processes.leave()  # the classifier is too small to be shared
    if not processes.is_main:
        return Outcome(0)
    device = resolve_device(processes.device(options.device))
    table = _load_table(clips, files, device)
    validation = _load_table(held_out, files, device) if held_out else None
    dim = table.features.shape[1]
    hidden = config.hidden if config.hidden is not None else (dim,)
    state = _initial_state(config, ClassifierDescription(names, dim, hidden, maker.source), checkpoint, device)
    facts = {
        "command": options.command,
        "code": code_version(),
        "versions": versions(),
        "device": str(device),
        "masklets": _describe_table(table),
        "held_out": None if validation is None else _describe_table(validation),
    }
    if saved is not None and checkpoint is not None:
        _require_same_masklets(folder, facts)
        restore(state, saved, checkpoint)
        log.warning("resuming from step %d (%s)", state.step, checkpoint)
    with exclusive(folder.root / LOCK_FILE, str(folder.root)):
        return _train(options, folder, state, table, validation, facts)


# ---------------------------------------------------------------------------------------------------------- masklets
def _clips(source: MaskletSource, root: Path) -> tuple[list[SemanticClip], tuple[str, ...]]:
    """Return the clips of a source and the names of the classes. Raises ValueError for clips without frames."""
    found = find_listed(source.name, root, source.clips)
    bare = next((clip for clip in found.clips if not clip.images), None)
    require(bare is None, f"{bare.folder if bare else ''}: no frames for these masks")
    return found.clips, found.names


def _input_digest(clip: SemanticClip) -> str:
    """Return a digest of the names and sizes of a clip's files."""
    paths = [*(clip.images or {}).values(), *clip.maps.values()]
    sizes = [[path.parent.name, path.name, path.stat().st_size] for path in paths]
    return hashlib.sha256(json.dumps([clip.name, clip.kind, sizes]).encode()).hexdigest()


def _load_maker(options: ClassifierRunOptions, processes: Processes) -> MaskletMaker:
    """Load the networks of the first phase. Raises ValueError for weights that are missing or do not fit."""
    config, device = options.config, processes.device(options.device)
    overrides = list(config.model_options)
    model = load_sam2(config.model, options.weights, device, config.precision, overrides)
    propagator = Sam2Masklets(model, config.chunk_size)
    encode, source = encoder_for(
        config.encoder, config.level, propagator.seen, resolve_device(device), config.precision
    )
    described = model_settings(config.model, options.weights, model)
    settings = {
        "data": config.data.name,
        "masks": described | {"grid": grid_settings(config.grid)},
        "encoder": to_dict(source),
        "window": config.window,
        "scope": config.scope,
        "chunk_size": config.chunk_size,
    }
    return MaskletMaker(AutomaticMasks(model, config.grid), propagator, encode, source, model, settings)


def _make_files(
    clips: Sequence[SemanticClip],
    files: MaskletFiles,
    maker: MaskletMaker,
    config: ClassifierConfig,
    processes: Processes,
) -> None:
    """Write the masklet files that are missing, each as soon as it is complete. Raises ValueError or OSError."""
    by_name = {clip.name: clip for clip in clips}
    digests = {name: _input_digest(clip) for name, clip in by_name.items()}
    missing = processes.share([clip for name, clip in by_name.items() if not files.has(name, digests[name])])
    processes.wait()  # all have seen what is missing before one writes it
    with ExitStack() as stack:
        stack.enter_context(logging_redirect_tqdm())
        bar = stack.enter_context(progress(len(missing), MASKLETS, "clip", show=bool(missing)))
        stack.enter_context(maker.model.autocast())
        for clip in missing:
            images = list((clip.images or {}).values())
            with closing(read_ahead(open_source(images[0].parent, READERS))) as frames:
                table = labelled_masklets(
                    frames, SavedBase(clip), maker.find, maker.propagator, maker.encode, config.window, config.scope
                )
            files.write(clip.name, digests[clip.name], table)
            bar.update()


def _load_table(clips: Sequence[SemanticClip], files: MaskletFiles, device: torch.device) -> MaskletTable:
    """Return the masklets of several clips. Raises ValueError if there are none, or features are not finite."""
    tables = [files.read(clip.name) for clip in clips]
    bad = [clip.name for clip, table in zip(clips, tables) if not bool(torch.isfinite(table.features).all())]
    require(not bad, f"{files.folder}: non-finite features of {', '.join(bad[:5])}")
    table = MaskletTable.joined(tables)
    require(len(table.features) > 0, f"{files.folder}: got no masklet with a class in {len(clips)} clips")
    return MaskletTable(*(column.to(device) for column in table))


def _describe_table(table: MaskletTable) -> dict[str, Any]:
    """Return counts and a digest of masklets, with the share of the commonest class: the top-1 of a constant answer."""
    digest = hashlib.sha256()
    for column in table:
        digest.update(np.ascontiguousarray(column.cpu().numpy()).data)
    masklets = table.labels().bincount()
    return {
        "count": len(table.features),
        "classes": int((masklets > 0).sum()),
        "commonest": 100 * int(masklets.max()) / len(table.features),
        "sha256": digest.hexdigest(),
    }


def _require_same_masklets(folder: RunFolder, facts: Mapping[str, Any]) -> None:
    """Raise ValueError if the run was begun on other masklets."""
    before = (read_yaml(folder.config).get("run") or {}).get("masklets") if folder.config.is_file() else None
    same = before is None or before == facts["masklets"]
    require(same, f"{folder.root}: begun on other masklets: got {facts['masklets']}, expected {before}")


# ---------------------------------------------------------------------------------------------------------- training
def _initial_state(
    config: ClassifierConfig, described: ClassifierDescription, checkpoint: Path | None, device: torch.device
) -> TrainState:
    """Return a new classifier, or that of a checkpoint. Raises ValueError for features of another encoder."""
    if checkpoint is None:
        model = new_classifier(MaskletClassifier(described), config.seed).to(device)
    else:
        model = load_classifier(checkpoint, CLASSES, device)
        model.require_encoder(described.encoder, str(checkpoint))
    return TrainState(model, build_optimiser(groups(model, config.optimiser), config.optimiser, half=False))


def _train(
    options: ClassifierRunOptions,
    folder: RunFolder,
    state: TrainState,
    table: MaskletTable,
    validation: MaskletTable | None,
    facts: Mapping[str, Any],
) -> Outcome:
    """Run the second phase."""
    config = options.config
    trackers: Any = tracker_names(options.tracker)
    accelerator = Accelerator(cpu=table.features.device.type == "cpu", log_with=trackers or None)
    accelerator.project_configuration.set_directories(str(folder.root))
    steps = steps_of(config, len(table.features))
    run = ClassifierRun(config, accelerator, folder, state, validation, steps)
    folder.root.mkdir(parents=True, exist_ok=True)
    folder.write_config(config, facts)
    folder.forget_after(state.step)
    described = {"training": to_plain(config), "model": to_dict(state.model.described), "run": facts}
    start_trackers(accelerator, folder, described, options.group)
    with run.bar, logging_redirect_tqdm(), run.stop.listening():
        done = ClassifierTraining(config, state, table, run).train()
    if done:
        state.model.save(folder.final)
    accelerator.end_training()
    if done:
        return Outcome(0, f"{config.stage}: {steps} steps done; the classifier is in {folder.final}")
    message = f"stopped and saved at step {state.step} of {steps}; the same command resumes there"
    return Outcome(run.stop.status or 143, message)


class ClassifierRun(RunHooks):
    """Hooks of a classifier's training: see `cutie_geo.vss.classifier_training.ClassifierHooks`."""

    def __init__(
        self,
        config: ClassifierConfig,
        accelerator: Accelerator,
        folder: RunFolder,
        state: TrainState,
        validation: MaskletTable | None,
        steps: int,
    ) -> None:
        super().__init__(config, accelerator, folder, state, steps)
        self.validation = validation

    def on_step(self, step: int) -> None:
        """Advance the progress bar."""
        self.bar.update()

    def on_log(self, step: int, values: dict[str, float]) -> None:
        """Write a line of the log, and scalars for the trackers."""
        self.bar.set_postfix({"loss": f"{values['loss']:.3f}", "top1": f"{values['top1']:.1f}"}, refresh=False)
        self._record(step, values)

    def on_validate(self, step: int) -> None:
        """Score the held-out masklets: top-1, and mIoU of the true pixels inside them."""
        if self.validation is None:
            return
        model = self.state.model.eval()
        counts = confusion_of(model, self.validation, self.config.batch).cpu().numpy().astype(np.int64)
        right = top1(model, self.validation, self.config.batch)
        model.train()
        iou = 100 * mean_iou(counts)
        self._record(step, {"validation/top1": right, "validation/mIoU": iou})
        tqdm.write(f"step {step}: top-1 {right:.2f}, mIoU {iou:.2f} of held-out masklets")

    def _record(self, step: int, values: dict[str, float]) -> None:
        self.folder.append({"step": step, **values})
        self.track(step, values)
