"""What a row of an ablation takes: the commands that train and run it, and where what they write lies."""

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cutie_geo.commands.training_run import FINAL, LOG_FILE
from cutie_geo.config import TrainConfig, model_config, require, split_overrides, train_config
from cutie_geo.config.ablation import PUBLISHED, AblationConfig, AblationRow, slug
from cutie_geo.data.submission.servers import SERVERS
from cutie_geo.model import weights as catalogue

FROM_SCRATCH = ("weights.warm_start", "weights.pixel_encoder", "weights.mask_encoder")
"""Options that say what a first stage starts from, and have no place in later ones."""
ENCODERS = {"vision": "weights.vision", "geometry": "weights.geometry"}
"""Options that say where the files of frozen encoders are, which a checkpoint does not hold."""


@dataclass(frozen=True)
class Setting:
    """What all rows have in common in one run of the command."""

    config: AblationConfig
    name: str
    """Of the ablation: its file's, without suffix."""
    output: Path
    data_root: Path
    launch: tuple[str, ...]
    """What runs a module of Python: an interpreter, or a launcher with its options."""
    checkpoints: Mapping[str, str]
    """By row, a trained model that replaces its trainings."""
    options: tuple[str, ...] = ()
    """key=value for every training, after those of the file."""
    workers: int | None = None
    fetch: bool = True
    """Download published weights; else only say where they belong."""

    @property
    def dataset_root(self) -> Path:
        """Where the data set lies that is segmented."""
        return self.data_root / self.config.root

    def owner(self, row: AblationRow) -> AblationRow:
        """The row that a row's weights are of: itself, or another."""
        return self.config.row(row.same_weights_as) if row.same_weights_as else row

    def folder(self, row: AblationRow) -> Path:
        """Where everything of a row lies."""
        return self.output / slug(row.name)

    def call(self, command: str, *arguments: str) -> list[str]:
        """One of this package's commands as a program; launchers and interpreters both take a module after `-m`."""
        return [*self.launch, "-m", "cutie_geo", command, *arguments]


@dataclass(frozen=True)
class Training:
    """One stage of a row."""

    config: TrainConfig
    root: Path
    """Where `train` keeps the run."""
    arguments: tuple[str, ...]
    """Of `train`: what decides its outcome."""
    command: tuple[str, ...]

    @property
    def final(self) -> Path:
        """The trained model."""
        return self.root / FINAL

    @property
    def log(self) -> Path:
        """One JSON object a line."""
        return self.root / LOG_FILE


@dataclass(frozen=True)
class RowPlan:
    """How a row comes about."""

    row: AblationRow
    folder: Path
    owner: Path
    """The folder of the row whose weights these are."""
    trainings: tuple[Training, ...]
    model: str
    """As of `infer --model`: a trained model's folder, or a preset."""
    infer: tuple[str, ...]
    """The command that makes the masks."""

    @property
    def masks(self) -> Path:
        """The folder of results of `infer`."""
        return self.folder / "masks"

    @property
    def scores(self) -> Path:
        """The report of `evaluate`."""
        return self.folder / "scores.json"


def launcher(text: str | None) -> tuple[str, ...]:
    """What runs a module: this interpreter, or `text` split as a shell does. Raises ValueError if it isn't there."""
    if text is None:
        return (sys.executable,)
    words = tuple(shlex.split(text))
    there = bool(words) and shutil.which(words[0]) is not None
    require(there, f"--launch: no program {words[0] if words else '(nothing)'}, wanted such as 'accelerate launch'")
    return words


def plan_row(setting: Setting, row: AblationRow) -> RowPlan:
    """The plan of a row. Raises ValueError for stages, models and options that make no sense."""
    trainings = _trainings(setting, row)
    model, arguments = _trained_model(setting, row, trainings)
    config = setting.config
    videos = ["--videos", *config.videos] if config.videos else []
    infer = setting.call(
        "infer", *arguments, "--dataset", config.dataset, "--data-root", str(setting.dataset_root), *videos,
        "--output", str(setting.folder(row) / "masks"), *config.infer, *row.infer,
    )  # fmt: skip
    owner = setting.folder(setting.owner(row))
    return RowPlan(row, setting.folder(row), owner, trainings, model, tuple(infer))


def server_of(dataset: str) -> tuple[str, str]:
    """The server that takes results of a data set, and its name of the split. Raises ValueError if none does."""
    for server in SERVERS.values():
        for split, name in server.splits.items():
            if name == dataset:
                return server.name, split
    raise ValueError(f"submission: got zip for {dataset}, which no server takes masks of; wanted none or container")


# ------------------------------------------------------------------------------------------------------------ training
def _trainings(setting: Setting, row: AblationRow) -> tuple[Training, ...]:
    """The stages of a row, each from the weights of the one before."""
    owner = setting.owner(row)
    if _checkpoint(setting, row):
        return ()
    stages = setting.config.stages if owner.stages is None else owner.stages
    weights = _first_weights(setting, owner) if stages else ""
    found: list[Training] = []
    for stage in stages:
        found.append(_training(setting, owner, stage, str(found[-1].final) if found else weights, later=bool(found)))
    return tuple(found)


def _training(setting: Setting, owner: AblationRow, stage: str, weights: str, later: bool) -> Training:
    model, options = owner.model or setting.config.model, _options(setting, owner)
    if later:
        options = [item for item in options if not item.startswith(FROM_SCRATCH)]
    config = train_config(stage, options, {"model": model})
    is_file = Path(stage).suffix in (".yaml", ".yml")
    folder = setting.folder(owner)
    arguments = [
        "--config" if is_file else "--stage", stage, "--model", model, "--output", str(folder),
        "--data-root", str(setting.data_root), "--tracker", "none",
        *(["--weights", weights] if weights else []),
    ]  # fmt: skip
    free = [] if setting.workers is None else ["--workers", str(setting.workers)]
    command = setting.call("train", *arguments, *free, *options)
    root = folder / Path(config.model).stem / config.stage
    return Training(config, root, (*arguments, *options), tuple(command))


def _options(setting: Setting, owner: AblationRow) -> list[str]:
    return [*setting.config.options, *owner.options, *setting.options]


def _first_weights(setting: Setting, owner: AblationRow) -> str:
    """What the first stage starts from; "" leaves that to `train`."""
    if owner.weights != PUBLISHED:
        return owner.weights
    model = owner.model or setting.config.model
    whole = model in catalogue.CATALOGUE
    require(whole, f"{owner.name}: weights: got {PUBLISHED}, but {model} has no published weights")
    return str(catalogue.fetch(model) if setting.fetch else catalogue.location(model))


# ------------------------------------------------------------------------------------------------------------- running
def _checkpoint(setting: Setting, row: AblationRow) -> str:
    """A trained model that was handed in for a row or for the one whose weights it takes; "" if none was."""
    owner = setting.owner(row)
    return setting.checkpoints.get(row.name) or setting.checkpoints.get(owner.name) or owner.checkpoint


def _trained_model(setting: Setting, row: AblationRow, trainings: Sequence[Training]) -> tuple[str, list[str]]:
    """What is run, and the options of `infer` that say so."""
    owner = setting.owner(row)
    options = _options(setting, owner)
    if given := _checkpoint(setting, row):
        return given, ["--model", given]
    if trainings:
        final = str(trainings[-1].final)
        return final, [*_encoder_files(trainings[-1].config, options), "--model", final]
    model = owner.model or setting.config.model
    weights = [] if owner.weights in ("", PUBLISHED) else ["--weights", owner.weights]
    of_model = split_overrides(options)[0]
    model_config(model, of_model)  # complains in time
    # options without a dash come first: --ms, which may be last, takes all numbers after it
    return model, [*of_model, "--model", model, *weights]


def _encoder_files(config: TrainConfig, options: Sequence[str]) -> list[str]:
    """Where the files of frozen encoders are, if the options say so."""
    frozen = model_config(config.model, config.model_options).encoder.frozen
    names = tuple(f"{ENCODERS[part]}=" for part in frozen)
    return [item for item in options if names and item.startswith(names)]
