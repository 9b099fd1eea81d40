"""Fine-tune a model on own videos as one library call: check the data, split it by video, train, compare."""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cutie_geo.checkpoints.load import is_checkpoint
from cutie_geo.checkpoints.saving import checkpoint_file, read_description
from cutie_geo.config import ModelConfig, TrainConfig, model_config, require, train_config
from cutie_geo.config.choices import DEFAULT_MODEL, SAM2_MODELS
from cutie_geo.data.index import LabelledVideo, index_own, split_own
from cutie_geo.data.index.own import default_validation
from cutie_geo.data.index.records import some
from cutie_geo.runs.train import Outcome, TrainOptions, train
from cutie_geo.runs.training_run import FINAL, RunFolder, ScoreHistory, run_root

log = logging.getLogger(__name__)

RECIPE = "finetune"
"""Configuration with the settings of fine-tuning."""
LARGEST_CROP, CROP_STEP = 384, 32
"""Largest side of a training crop in pixels, and the multiple that all encoders take."""
DEFAULT_SIZE = 480
"""Shorter side of validation frames for models that state none."""

Tell = Callable[[str], object]
"""Shows a line to the user."""


@dataclass(frozen=True)
class FinetuneOptions:
    """Settings of a fine-tuning run, named as on the command line."""

    data: Path
    """The own set (see `cutie_geo.data.index.own`)."""
    model: str = DEFAULT_MODEL
    """A preset with weights, a model folder, or the folder of a run."""
    validation: str = ""
    """A file with the names of validation videos, or their share. Empty: `val.txt` of the set, else 0.2."""
    run: TrainOptions = field(default_factory=TrainOptions)
    """Output, trackers, device and overrides; stage, configuration, weights and data root are not used."""


def finetune(options: FinetuneOptions, tell: Tell = log.info) -> Outcome:
    """Fine-tune a model on own videos; the model with the best validation score, or the initial one, is the result.

    Args:
        options: what to train on.
        tell: shows lines about the data before training.

    Returns:
        The exit status, and the table of scores before and after as message.

    Raises:
        ValueError: for a set without usable videos for both splits, an unknown model, and invalid settings.
        OSError: if files cannot be written.
    """
    config, videos = plan_finetune(options)
    for line in data_lines(videos, config):
        tell(line)
    dry = options.run.dry_run
    outcome = train(replace(options.run, data_root=options.data, estimate=not dry), config)
    if outcome.status or dry or not outcome.message or not config.validation.keep_best:
        return outcome
    folder = RunFolder(run_root(options.run.output, config))
    return outcome._replace(message="\n".join(report_lines(folder, config, options.run.command)))


def plan_finetune(options: FinetuneOptions) -> tuple[TrainConfig, list[LabelledVideo]]:
    """Return the configuration for a set and a model, and the videos of the set. Raises ValueError."""
    require(
        options.model not in SAM2_MODELS,
        f"--model: got {options.model}, expected a Cutie model; docs/baselines.md tells how SAM 2 is fine-tuned",
    )
    model = resolve_model(options.model)
    videos = index_own(options.data)
    names, held_out = split_own(videos, options.validation or default_validation(options.data))
    size = _size_of(model)
    crop = min(size, LARGEST_CROP) // CROP_STEP * CROP_STEP
    changes: dict[str, Any] = {
        "stage": f"{RECIPE}-{_plain(options.data)}",
        "model": model,
        "data": [{"name": "own", "only": names}],
        "clips": {"crop": crop},
        "validation": {"size": size, "data": [{"name": "own", "only": held_out}]},
    }
    return train_config(RECIPE, options.run.overrides, changes), videos


def resolve_model(name: str) -> str:
    """Return a model's name, or the model folder of a run. Raises ValueError for a folder without a model."""
    folder = Path(name).expanduser()
    if not is_checkpoint(name) or name.startswith("hf://"):
        return name
    places = [folder, folder / FINAL]
    found = next((place for place in places if (place / "config.json").is_file()), None)
    require(found is not None, f"--model: {name}: no model in it, expected a finished run or a model folder")
    return str(found)


def _size_of(model: str) -> int:
    """Return the shorter side of frames for a model."""
    if model.startswith("hf://"):
        return DEFAULT_SIZE
    config: ModelConfig | None
    if is_checkpoint(model):
        described = read_description(checkpoint_file(Path(model).expanduser()))
        config = None if described is None else described.model
    else:
        config = model_config(model)
    size = None if config is None else config.max_internal_size
    return size or DEFAULT_SIZE


def _plain(data: Path) -> str:
    """Return the name of a set, with letters, digits, - and _ only."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", data.resolve().name).strip("-") or "data"


def data_lines(videos: Sequence[LabelledVideo], config: TrainConfig) -> list[str]:
    """Return a table of the set: what each split has, and which videos cannot be used and why."""
    lines = []
    by_name = {video.name: video for video in videos}
    for title, source in (("training", config.data[0]), ("validation", config.validation.data[0])):
        masks = sum(len(by_name[name].masks) for name in source.only)
        videos_of_split = f"{len(source.only)} video{'' if len(source.only) == 1 else 's'}"
        lines.append(f"{title:<11} {videos_of_split}, {masks} masks: {some(list(source.only))}")
    lines += [f"left out    {video.name}: {video.problem}" for video in videos if video.problem is not None]
    return lines


def report_lines(folder: RunFolder, config: TrainConfig, command: str) -> list[str]:
    """Return the table of J&F before and after by validation video, and how to use the model."""
    history = ScoreHistory(folder.scores, config.steps)
    _, before, videos = history.start
    step, after, after_videos = history.best
    width = max([len(name.partition("/")[2]) for name in videos] + [10])
    lines = [f"{'J&F':<{width}}  before   after"]
    for name, score in videos.items():
        lines.append(f"{name.partition('/')[2]:<{width}}  {score:6.2f}  {after_videos[name]:6.2f}")
    lines.append(f"{'mean':<{width}}  {before:6.2f}  {after:6.2f}")
    if step:
        lines.append(f"J&F rose by {after - before:.2f}; the best weights are those of step {step} of {config.steps}")
    else:
        tried = max((score for s, score, _ in history.scores if s), default=before)
        lines.append(
            f"fine-tuning did not help: the best J&F in training was {tried:.2f}, the starting model's is "
            f"{before:.2f}; the starting model is kept"
        )
    infer = "cutie-geo infer" if command.startswith("cutie-geo") else "python infer.py"
    lines += [
        f"images: {folder.images}",
        f"use it:   {infer} --model {folder.final} --video clip.mp4 --mask first.png --output out --overlay",
    ]
    return lines
