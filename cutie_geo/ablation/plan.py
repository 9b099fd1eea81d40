"""Plan of a row: the commands that train and run it, and the places of their results."""

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cutie_geo.ablation.config import PUBLISHED, AblationConfig, AblationRow, slug
from cutie_geo.checkpoints import catalogue
from cutie_geo.config import TrainConfig, require, train_config
from cutie_geo.data.index import ANNOTATIONS
from cutie_geo.data.submission.servers import SERVERS
from cutie_geo.runs.models import family_named
from cutie_geo.runs.trainables import frozen_files, trainable_for
from cutie_geo.runs.training_run import FINAL, LOG_FILE, run_root
from cutie_geo.sam2.names import is_sam2

FROM_SCRATCH = ("weights.warm_start", "weights.pixel_encoder", "weights.mask_encoder")
"""Options for the weights of a first stage, removed for later ones."""
DATA = "{data}"
"""In options of a row: the data root."""
RESULTS = "masks"
"""What `infer` writes for a row, in the row's folder."""


@dataclass(frozen=True)
class Setting:
    """What all rows share in one call of the command."""

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

    def model(self, row: AblationRow) -> str:
        """What a row trains, or runs as it is."""
        return self.owner(row).model or self.config.model

    def needed(self, row: AblationRow) -> list[str]:
        """The rows whose trainings a row takes, itself among them if it has any of its own."""
        owner = self.owner(row)
        before = self.needed(self.config.row(owner.starts_from)) if owner.starts_from else []
        return [*before, owner.name]

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
    home: Path
    """The folder of the row that it belongs to."""
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
    """Commands and files of a row."""

    row: AblationRow
    folder: Path
    trainings: tuple[Training, ...]
    """Those of the rows that it starts from included."""
    model: str
    """As of `infer --model`: a trained model's folder, or a preset."""
    infer: tuple[str, ...]
    """The command that makes the masks, or the semantic maps."""

    @property
    def masks(self) -> Path:
        """The masks that `infer` writes, in a folder for each video."""
        return self.folder / RESULTS / ANNOTATIONS

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
    require(there, f"--launch: no program {words[0] if words else '(nothing)'}, expected such as 'accelerate launch'")
    return words


def plan_row(setting: Setting, row: AblationRow) -> RowPlan:
    """The plan of a row. Raises ValueError for invalid stages, models and options."""
    trainings = _trainings(setting, row)
    model, arguments = _trained_model(setting, row, trainings)
    config = setting.config
    videos = ["--videos", *config.videos] if config.videos else []
    options = [item.replace(DATA, str(setting.data_root)) for item in (*config.infer, *row.infer)]
    infer = setting.call(
        config.command, *arguments, "--dataset", config.dataset, "--data-root", str(setting.dataset_root), *videos,
        "--output", str(setting.folder(row) / RESULTS), *options,
    )  # fmt: skip
    return RowPlan(row, setting.folder(row), trainings, model, tuple(infer))


def server_of(dataset: str) -> tuple[str, str]:
    """The server that takes results of a data set, and its name of the split. Raises ValueError if none does."""
    for server in SERVERS.values():
        for split, name in server.splits.items():
            if name == dataset:
                return server.name, split
    raise ValueError(f"submission: got zip for {dataset}, which no server takes masks of; expected none or container")


# ------------------------------------------------------------------------------------------------------------ training
def _trainings(setting: Setting, row: AblationRow) -> tuple[Training, ...]:
    """The stages of a row, each from the weights of the one before."""
    owner = setting.owner(row)
    if _checkpoint(setting, row):
        return ()
    stages = setting.config.stages if owner.stages is None else owner.stages
    if not stages:
        require(not owner.starts_from, f"{owner.name}: starts_from: got no stages, expected same_weights_as, or some")
        return ()
    found, weights = _start(setting, owner)
    later = bool(owner.starts_from)
    for stage in stages:
        found.append(_training(setting, owner, stage, weights, later))
        weights, later = str(found[-1].final), True
    return tuple(found)


def _start(setting: Setting, owner: AblationRow) -> tuple[list[Training], str]:
    """The trainings of the row that a row starts from, if it does, and the weights that its first stage starts from."""
    if not owner.starts_from:
        return [], _first_weights(setting, owner)
    other = setting.config.row(owner.starts_from)
    before, given = list(_trainings(setting, other)), _checkpoint(setting, other)
    require(bool(before or given), f"{owner.name}: starts_from: {other.name} trains nothing, expected weights instead")
    return before, given or str(before[-1].final)


def _training(setting: Setting, owner: AblationRow, stage: str, weights: str, later: bool) -> Training:
    model, options = setting.model(owner), _options(setting, owner)
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
    return Training(config, folder, run_root(folder, config), (*arguments, *options), tuple(command))


def _options(setting: Setting, owner: AblationRow) -> list[str]:
    return [*setting.config.options, *owner.options, *setting.options]


def _first_weights(setting: Setting, owner: AblationRow) -> str:
    """What the first stage starts from; "" leaves that to `train`."""
    if owner.weights != PUBLISHED:
        return owner.weights
    model = setting.model(owner)
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
    owner, model = setting.owner(row), setting.model(row)
    options = _options(setting, owner)
    if given := _checkpoint(setting, row):
        return given, ["--model", model, "--weights", given] if is_sam2(model) else ["--model", given]
    if trainings:
        final = str(trainings[-1].final)
        return final, [*frozen_files(options, trainable_for(trainings[-1].config)), "--model", final]
    weights = [] if owner.weights in ("", PUBLISHED) else ["--weights", owner.weights]
    family = family_named(model)
    of_model = family.own_overrides(options)
    family.check(model, of_model)  # complains in time
    # options without a dash come first: --ms, which may be last, takes all numbers after it
    return model, [*of_model, "--model", model, *weights]
