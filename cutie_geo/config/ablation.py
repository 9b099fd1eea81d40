"""A table as a file: its rows, what each is trained and run with, and the figures that a paper gives for it."""

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cutie_geo.config.loading import build, read_yaml, require

PUBLISHED = "published"
"""As a row's weights: what the model was published with."""
SHARED = ("model", "stages", "options", "weights", "starts_from", "checkpoint")
"""What a row doesn't say for itself when it takes the weights of another."""


@dataclass(frozen=True)
class AblationRow:
    """One row of the table: where its weights come from, and how they are run."""

    name: str
    paper: dict[str, float] = field(default_factory=dict)
    """What a paper says of it, in percent by the measure's name. Empty: an experiment of one's own."""
    model: str = ""
    """A preset, a YAML file or a SAM 2. Empty: that of the table."""
    stages: tuple[str, ...] | None = None
    """Trained one after the other. None: those of the table; an empty list: nothing is trained."""
    options: tuple[str, ...] = ()
    """key=value for the row's trainings, after the table's."""
    weights: str = ""
    """What its first stage starts from, as `train --weights` takes it, or `published`. Without stages: what is run."""
    starts_from: str = ""
    """The row, one before it, whose trained weights its first stage starts from."""
    checkpoint: str = ""
    """A trained model's folder, instead of training."""
    same_weights_as: str = ""
    """The row whose weights are run in another way."""
    infer: tuple[str, ...] = ()
    """Options of the table's `command`, after the table's own; `{data}` in them stands for the data root."""

    def __post_init__(self) -> None:
        require(bool(slug(self.name)), f"name: got {self.name!r}, wanted letters or digits in it")
        for name, value in self.paper.items():
            require(0 <= value <= 100, f"{self.name}: paper: {name}: got {value}, wanted 0 to 100")
        given = [name for name in SHARED if getattr(self, name) not in ("", (), None)]
        if self.same_weights_as:
            require(not given, f"{self.name}: got same_weights_as with {', '.join(given)}, wanted one or the other")
        both = self.starts_from and self.weights
        require(not both, f"{self.name}: got starts_from with weights, wanted one or the other")
        if self.checkpoint:
            others = [name for name in given if name != "checkpoint"]
            require(not others, f"{self.name}: got checkpoint with {', '.join(others)}, wanted one or the other")


@dataclass(frozen=True)
class AblationConfig:
    """A table: what all of its rows share, and the rows."""

    title: str
    dataset: str
    """As of `--dataset` of `command`."""
    model: str
    """A preset, a YAML file or a SAM 2."""
    rows: tuple[AblationRow, ...]
    command: Literal["infer", "refine"] = "infer"
    """What makes a row's masks, or its semantic maps."""
    root: str = ""
    """The data set's folder under the data root. Empty: the data root itself."""
    videos: tuple[str, ...] = ()
    """Only these are segmented and scored. Empty: all."""
    protocol: str = "davis2017"
    """As of `evaluate --protocol`."""
    truth: str | tuple[str, ...] = ()
    """Folders of all true masks under the data root; the first that is there counts. Empty: the one with the masks that
    `infer` is given."""
    submission: Literal["none", "zip", "container"] = "none"
    """Where the true masks aren't public: what is made instead of scores, a server's zip file or VISOR's container."""
    stages: tuple[str, ...] = ()
    """Stages of training, or YAML files of such, one after the other for each row."""
    options: tuple[str, ...] = ()
    """key=value for every training."""
    infer: tuple[str, ...] = ()
    """Options of `command` for every row. In a file they have the command's name."""
    note: str = ""
    """What a reader of the table should know."""

    def __post_init__(self) -> None:
        require(bool(self.rows), "rows: got none, wanted at least one")
        for what, names in (("names", [r.name for r in self.rows]), ("folders", [slug(r.name) for r in self.rows])):
            twice = [name for name, count in Counter(names).items() if count > 1]
            require(not twice, f"rows: {', '.join(twice)} more than once, wanted different {what}")
        for place, row in enumerate(self.rows):
            if row.starts_from:
                known = [r.name for r in self.rows[:place] if not r.same_weights_as]
                wanted = f"wanted one of the rows before it, {', '.join(known) or 'of which there is none'}"
                require(row.starts_from in known, f"{row.name}: starts_from: got {row.starts_from}, {wanted}")
            if row.same_weights_as:
                known = [r.name for r in self.rows if not r.same_weights_as]
                wanted = f"{row.name}: same_weights_as: got {row.same_weights_as}, wanted one of {', '.join(known)}"
                require(row.same_weights_as in known, wanted)
            for name in ("options", "infer"):
                require(all(item.strip() for item in getattr(row, name)), f"{row.name}: {name}: got an empty item")
        for item in (*self.options, *(item for row in self.rows for item in row.options)):
            require("=" in item, f"options: got {item!r}, wanted key=value")

    def row(self, name: str) -> AblationRow:
        """The row of a name. Raises ValueError if there is none."""
        found = [row for row in self.rows if row.name == name]
        require(bool(found), f"no row {name!r}, wanted one of {', '.join(row.name for row in self.rows)}")
        return found[0]


def slug(name: str) -> str:
    """A row's name as the name of a folder.

    >>> slug("+ depth + post (MS 1.2)")
    'depth-post-ms-1.2'
    """
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")


def read_ablation(path: Path) -> AblationConfig:
    """The table in a YAML file. Stages that are files are looked for beside it, then where one stands.

    Raises ValueError that names the file and the place for anything wrong.
    """
    content = read_yaml(path)
    command, rows = content.get("command", "infer"), content.get("rows")
    content = _completed(content, command, path.parent)
    if isinstance(rows, list):
        content["rows"] = [_completed(row, command, path.parent) if isinstance(row, Mapping) else row for row in rows]
    return build(AblationConfig, content, str(path))


def _completed(given: Mapping[str, Any], command: Any, beside: Path) -> dict[str, Any]:
    """The table, or a row, with the command's options under the name that they have here, and stages as paths."""
    found = _with_stages(given, beside)
    if command != "infer" and "infer" not in found and command in found:
        found["infer"] = found.pop(command)
    return found


def _with_stages(given: Mapping[str, Any], beside: Path) -> dict[str, Any]:
    """The table, or a row, with stages that are files in a folder by the paths of these."""
    stages = given.get("stages")
    if not isinstance(stages, list):
        return dict(given)
    files = [(stage, Path(os.path.normpath(beside / str(stage)))) for stage in stages]
    return {**given, "stages": [str(file) if file.is_file() else stage for stage, file in files]}
