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
"""Placeholder for the data root in a row's options."""
RESULTS = "masks"
"""Folder for the results of `infer`, in a row's folder."""


@dataclass(frozen=True)
class Setting:
    """Settings that all rows share in one call of `ablate`."""

    config: AblationConfig
    name: str
    """Name of the table: its file's name without suffix."""
    output: Path
    data_root: Path
    launch: tuple[str, ...]
    """Command that runs a Python module: an interpreter, or a launcher with its options."""
    checkpoints: Mapping[str, str]
    """Trained models that are used instead of training, by row."""
    options: tuple[str, ...] = ()
    """`key=value` overrides for every training stage, after those of the file."""
    workers: int | None = None
    fetch: bool = True
    """Download published weights; otherwise only return their paths."""

    @property
    def dataset_root(self) -> Path:
        """Folder of the segmented data set."""
        return self.data_root / self.config.root

    def owner(self, row: AblationRow) -> AblationRow:
        """Return the row that provides a row's weights: itself or another."""
        return self.config.row(row.same_weights_as) if row.same_weights_as else row

    def model(self, row: AblationRow) -> str:
        """Return the model that a row trains or runs."""
        return self.owner(row).model or self.config.model

    def needed(self, row: AblationRow) -> list[str]:
        """Return the names of the rows whose training a row depends on, in order."""
        owner = self.owner(row)
        before = self.needed(self.config.row(owner.starts_from)) if owner.starts_from else []
        return [*before, owner.name]

    def folder(self, row: AblationRow) -> Path:
        """Return the folder of a row's files."""
        return self.output / slug(row.name)

    def call(self, command: str, *arguments: str) -> list[str]:
        """Return the command line of a `cutie-geo` command; launchers and interpreters both accept `-m MODULE`."""
        return [*self.launch, "-m", "cutie_geo", command, *arguments]


@dataclass(frozen=True)
class Training:
    """Training stage of a row."""

    config: TrainConfig
    home: Path
    """Folder of the row."""
    root: Path
    """Run folder of `train`."""
    arguments: tuple[str, ...]
    """Arguments of `train` that determine the weights."""
    command: tuple[str, ...]

    @property
    def final(self) -> Path:
        """Folder of the trained model."""
        return self.root / FINAL

    @property
    def log(self) -> Path:
        """Log of the run, one JSON object per line."""
        return self.root / LOG_FILE


@dataclass(frozen=True)
class RowPlan:
    """Commands and files of a row."""

    row: AblationRow
    folder: Path
    trainings: tuple[Training, ...]
    """Training stages, including those of the rows that it starts from."""
    model: str
    """Value of `infer --model`: the folder of a trained model, or a preset."""
    infer: tuple[str, ...]
    """Command that writes the masks or the semantic maps."""

    @property
    def masks(self) -> Path:
        """Folder of the masks, one folder for each video."""
        return self.folder / RESULTS / ANNOTATIONS

    @property
    def scores(self) -> Path:
        """File of the report of `evaluate`."""
        return self.folder / "scores.json"


def launcher(text: str | None) -> tuple[str, ...]:
    """Return the words of a launcher, or this interpreter for None. Raises ValueError if the program is missing."""
    if text is None:
        return (sys.executable,)
    words = tuple(shlex.split(text))
    there = bool(words) and shutil.which(words[0]) is not None
    require(
        there, f"--launch: no program {words[0] if words else '(nothing)'}; expected one such as 'accelerate launch'"
    )
    return words


def plan_row(setting: Setting, row: AblationRow) -> RowPlan:
    """Return the plan of a row. Raises ValueError for invalid stages, models and options."""
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
    """Return the server for a data set and the server's name of the split. Raises ValueError if there is none."""
    for server in SERVERS.values():
        for split, name in server.splits.items():
            if name == dataset:
                return server.name, split
    raise ValueError(f"submission: got zip for {dataset}, which no server takes masks of; expected none or container")


# ------------------------------------------------------------------------------------------------------------ training
def _trainings(setting: Setting, row: AblationRow) -> tuple[Training, ...]:
    """Return the training stages of a row; each starts from the weights of the one before."""
    owner = setting.owner(row)
    if _checkpoint(setting, row):
        return ()
    stages = setting.config.stages if owner.stages is None else owner.stages
    if not stages:
        require(not owner.starts_from, f"{owner.name}: starts_from: got no stages, expected some, or same_weights_as")
        return ()
    found, weights = _start(setting, owner)
    later = bool(owner.starts_from)
    for stage in stages:
        found.append(_training(setting, owner, stage, weights, later))
        weights, later = str(found[-1].final), True
    return tuple(found)


def _start(setting: Setting, owner: AblationRow) -> tuple[list[Training], str]:
    """Return the training stages of the row that `owner` starts from, and the initial weights of its first stage."""
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
    """Return the initial weights of the first stage; "" for the default of `train`."""
    if owner.weights != PUBLISHED:
        return owner.weights
    model = setting.model(owner)
    whole = model in catalogue.CATALOGUE
    require(whole, f"{owner.name}: weights: got {PUBLISHED}, but {model} has no published weights")
    return str(catalogue.fetch(model) if setting.fetch else catalogue.location(model))


# ------------------------------------------------------------------------------------------------------------- running
def _checkpoint(setting: Setting, row: AblationRow) -> str:
    """Return the trained model that was passed for a row or for the row of its weights; "" if there is none."""
    owner = setting.owner(row)
    return setting.checkpoints.get(row.name) or setting.checkpoints.get(owner.name) or owner.checkpoint


def _trained_model(setting: Setting, row: AblationRow, trainings: Sequence[Training]) -> tuple[str, list[str]]:
    """Return the model of a row, and the options of `infer` that select it."""
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
    family.check(model, of_model)  # raises errors before anything is run
    # options without a dash come first: --ms, which may be last, takes all numbers after it
    return model, [*of_model, "--model", model, *weights]
