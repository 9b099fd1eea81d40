"""Configuration of a table: its rows, their training and inference, and a paper's figures."""

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cutie_geo.config.loading import build, read_yaml, require
from cutie_geo.config.presets import config_root, find_config
from cutie_geo.config.sam2_options import is_hydra, require_plain

ABLATIONS = "ablations"
"""Folder of `configs` with the papers' tables."""
PUBLISHED = "published"
"""Value of a row's `weights` for the model's published weights."""
SHARED = ("model", "stages", "options", "weights", "starts_from", "checkpoint")
"""Fields that must be unset in a row that uses the weights of another."""


@dataclass(frozen=True)
class AblationRow:
    """One row of the table: where its weights come from, and how they are run."""

    name: str
    paper: dict[str, float] = field(default_factory=dict)
    """Scores in the paper, in percent, by measure. Empty: an experiment of your own."""
    model: str = ""
    """Preset, YAML file or SAM 2 model. Empty: the table's model."""
    stages: tuple[str, ...] | None = None
    """Training stages, in order. None: those of the table; an empty list trains nothing."""
    options: tuple[str, ...] = ()
    """`key=value` overrides for the row's training stages, after the table's."""
    weights: str = ""
    """Initial weights of the first stage, as for `train --weights`, or `published`. Without stages: weights to run."""
    starts_from: str = ""
    """Earlier row whose trained weights initialise the first stage."""
    checkpoint: str = ""
    """Folder of a trained model, used instead of training."""
    same_weights_as: str = ""
    """Row whose weights this row runs with other options."""
    infer: tuple[str, ...] = ()
    """Options of the table's `command`, after the table's own; `{data}` in them is replaced by the data root."""

    def __post_init__(self) -> None:
        require(bool(slug(self.name)), f"name: got {self.name!r}, expected letters or digits in it")
        for name, value in self.paper.items():
            require(0 <= value <= 100, f"{self.name}: paper: {name}: got {value}, expected 0 to 100")
        given = [name for name in SHARED if getattr(self, name) not in ("", (), None)]
        if self.same_weights_as:
            require(not given, f"{self.name}: got same_weights_as with {', '.join(given)}, expected one or the other")
        both = self.starts_from and self.weights
        require(not both, f"{self.name}: got starts_from with weights, expected one or the other")
        if self.checkpoint:
            others = [name for name in given if name != "checkpoint"]
            require(not others, f"{self.name}: got checkpoint with {', '.join(others)}, expected one or the other")


@dataclass(frozen=True)
class AblationConfig:
    """Table: its rows, and the settings that all rows share."""

    title: str
    dataset: str
    """Data set, as for `--dataset` of `command`."""
    model: str
    """Preset, YAML file or SAM 2 model."""
    rows: tuple[AblationRow, ...]
    command: Literal["infer", "refine"] = "infer"
    """Command that makes a row's masks or semantic maps."""
    root: str = ""
    """Folder of the data set under the data root. Empty: the data root itself."""
    videos: tuple[str, ...] = ()
    """Videos to segment and score. Empty: all."""
    protocol: str = "davis2017"
    """Scoring protocol, as for `evaluate --protocol`."""
    truth: str | tuple[str, ...] = ()
    """Folders of the ground truth under the data root; the first one that exists is used. Empty: the folder of the
    input masks."""
    submission: Literal["none", "zip", "container"] = "none"
    """Output instead of scores if the ground truth is not public: a server's zip file, or VISOR's container."""
    stages: tuple[str, ...] = ()
    """Training stages or their YAML files, run in order for each row."""
    options: tuple[str, ...] = ()
    """`key=value` overrides for every training stage."""
    infer: tuple[str, ...] = ()
    """Options of `command` for every row. In a YAML file this key is named after the command."""
    note: str = ""
    """Note printed below the table."""

    def __post_init__(self) -> None:
        require(bool(self.rows), "rows: got none, expected at least one")
        for what, names in (("names", [r.name for r in self.rows]), ("folders", [slug(r.name) for r in self.rows])):
            twice = [name for name, count in Counter(names).items() if count > 1]
            require(not twice, f"rows: {', '.join(twice)} more than once, expected different {what}")
        for place, row in enumerate(self.rows):
            if row.starts_from:
                known = [r.name for r in self.rows[:place] if not r.same_weights_as]
                expected = f"expected one of the rows before it, {', '.join(known) or 'of which there is none'}"
                require(row.starts_from in known, f"{row.name}: starts_from: got {row.starts_from}, {expected}")
            if row.same_weights_as:
                known = [r.name for r in self.rows if not r.same_weights_as]
                expected = f"{row.name}: same_weights_as: got {row.same_weights_as}, expected one of {', '.join(known)}"
                require(row.same_weights_as in known, expected)
            for name in ("options", "infer"):
                require(all(item.strip() for item in getattr(row, name)), f"{row.name}: {name}: got an empty item")
        for item in (*self.options, *(item for row in self.rows for item in row.options)):
            require("=" in item, f"options: got {item!r}, expected key=value")
            require_plain([item] if is_hydra(item) else [], "options")

    def row(self, name: str) -> AblationRow:
        """Return the row of this name. Raises ValueError if there is none."""
        found = [row for row in self.rows if row.name == name]
        require(bool(found), f"no row {name!r}, expected one of {', '.join(row.name for row in self.rows)}")
        return found[0]


def slug(name: str) -> str:
    """Convert a row's name to the name of a folder.
    >>> slug("+ depth + post (MS 1.2)")
    'depth-post-ms-1.2'
    """
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")


def ablation_file(name: str) -> Path:
    """Return the file of a table: a bundled one, by name, or a YAML file. Raises ValueError if there is none."""
    path = find_config(name, (ABLATIONS,))
    if path is None:
        known = sorted(file.stem for file in (config_root() / ABLATIONS).glob("*.yaml"))
        raise ValueError(f"{name}: no such table; expected one of {', '.join(known)}, or a YAML file")
    return path


def read_ablation(path: Path) -> AblationConfig:
    """Read a table from a YAML file. Stages that are files are searched beside it, then in the working directory.

    Raises:
        ValueError: with the file and the place in it, for invalid content.
    """
    content = read_yaml(path)
    command, rows = content.get("command", "infer"), content.get("rows")
    content = _completed(content, command, path.parent)
    if isinstance(rows, list):
        content["rows"] = [_completed(row, command, path.parent) if isinstance(row, Mapping) else row for row in rows]
    return build(AblationConfig, content, str(path))


def _completed(given: Mapping[str, Any], command: Any, beside: Path) -> dict[str, Any]:
    """Return the content of the table, or of a row, with the command's options as `infer` and stages as paths."""
    found = _with_stages(given, beside)
    if command != "infer" and "infer" not in found and command in found:
        found["infer"] = found.pop(command)
    return found


def _with_stages(given: Mapping[str, Any], beside: Path) -> dict[str, Any]:
    """Replace stages that are files in the folder `beside` by their paths."""
    stages = given.get("stages")
    if not isinstance(stages, list):
        return dict(given)
    files = [(stage, Path(os.path.normpath(beside / str(stage)))) for stage in stages]
    return {**given, "stages": [str(file) if file.is_file() else stage for stage, file in files]}
