"""Our own checkpoints: a folder with the trained tensors, and the configuration that they belong to.

    model.safetensors   trained tensors; its header repeats config.json, so that the file is enough by itself
    config.json         {"format": 1, "model": configuration, "frozen": {part: {"name": file, "sha256": digest}}}

A fine-tuned SAM 2 is described by {"format": 1, "sam2": {"name": model, "overrides": changes in hydra's grammar}}, and
its tensors have the names that they have in the `sam2` package.

Frozen encoders are named, not stored: their files are large, and under licences of their own. A part that was never
loaded from a file is stored.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from cutie_geo.config import ModelConfig, build, require, to_dict
from cutie_geo.model.tensor_files import read_metadata
from cutie_geo.structures import FrozenFile

if TYPE_CHECKING:
    from cutie_geo.model.network import CutieGeo
    from cutie_geo.model.sam2 import Sam2Model

FORMAT = 1
"""Of the description; a reader refuses later ones."""
ENTRY = "cutie_geo"
"""Name of the description in the weights file's header."""
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
SAM2_ENTRY = "sam2"
"""What stands in the description of a SAM 2 in place of our model."""
PLAIN = re.compile(r"\+{0,2}model(\.[A-Za-z0-9]\w*)+=[\w.,+\-\[\] ]+")
"""A change of SAM 2's configuration that calls nothing."""
PACKAGE_FILE = "sam2.pt"
"""A fine-tuned SAM 2 as its authors publish theirs."""


class Description(NamedTuple):
    """What a checkpoint says about itself."""

    model: ModelConfig
    frozen: dict[str, FrozenFile]
    """The files that its frozen parts must be loaded from."""


class Sam2Description(NamedTuple):
    """What a fine-tuned SAM 2's checkpoint says about itself."""

    name: str
    overrides: list[str]
    """What differs from the package's configuration of that name."""


def save_checkpoint(model: "CutieGeo", folder: Path, half: bool = False) -> Path:
    """Write `model` to `folder`; return the weights file. Files appear complete or not at all.

    half: as float16, which halves the file and is exact enough to run; training goes on from float32.

    Raises OSError if that can't be done; what was there before is there still.
    """
    return write_described(stored_tensors(model, half), _to_json(model), folder)


def save_sam2(model: "Sam2Model", folder: Path, package_file: bool = False) -> Path:
    """As `save_checkpoint`, of a SAM 2. Raises OSError if that can't be done.

    package_file: also `PACKAGE_FILE`, from which the functions of the `sam2` package load the network.
    """
    tensors = {name: tensor.contiguous() for name, tensor in model.network.state_dict().items()}
    described = {"name": model.name, "overrides": list(model.overrides)}
    path = write_described(tensors, {"format": FORMAT, SAM2_ENTRY: described}, folder)
    if package_file:
        part = folder / f".{PACKAGE_FILE}.part"
        try:
            torch.save({"model": tensors}, part)
            os.replace(part, folder / PACKAGE_FILE)
        except RuntimeError as error:  # torch's writer raises it for a full disk
            raise OSError(f"{folder / PACKAGE_FILE}: can't be written: {error}") from None
        finally:
            part.unlink(missing_ok=True)
    return path


def write_described(tensors: dict[str, Tensor], description: dict[str, Any], folder: Path) -> Path:
    """Write the weights file, which repeats the description, and the description to `folder`, complete or not at all;
    return the weights file. Raises OSError if that can't be done."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(description, indent=2, sort_keys=True) + "\n"
    parts = {name: folder / f".{name}.part" for name in (WEIGHTS_FILE, CONFIG_FILE)}
    try:
        parts[CONFIG_FILE].write_text(text, encoding="utf-8")
        # one entry only: safetensors writes several in another order each time
        save_file(tensors, parts[WEIGHTS_FILE], metadata={ENTRY: text})
        shutil.copymode(parts[CONFIG_FILE], parts[WEIGHTS_FILE])  # safetensors makes files that only their owner reads
        for name, part in parts.items():
            os.replace(part, folder / name)
    except SafetensorError as error:  # a full disk, for example
        raise OSError(f"{folder / WEIGHTS_FILE}: can't be written: {error}") from None
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return folder / WEIGHTS_FILE


def stored_tensors(model: "CutieGeo", half: bool = False) -> dict[str, Tensor]:
    """What a checkpoint of `model` holds: all but the parts that have files of their own; `half`: as float16.

    Raises ValueError where float16 can't hold a number.
    """
    elsewhere = tuple(f"encoder.{part}." for part in model.frozen_files)
    tensors = {name: t.contiguous() for name, t in model.state_dict().items() if not name.startswith(elsewhere)}
    if not half:
        return tensors
    halved = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    beyond = [name for name, t in halved.items() if t.is_floating_point() and not t.isfinite().all()]
    require(not beyond, f"float16 can't hold {', '.join(beyond)}, wanted finite numbers below 65504")
    return halved


def _to_json(model: "CutieGeo") -> dict[str, Any]:
    config = to_dict(model.config)
    config.pop("weights")  # paths on the machine that made it
    frozen = {part: file._asdict() for part, file in model.frozen_files.items()}
    return {"format": FORMAT, "model": config, "frozen": frozen}


# ------------------------------------------------------------------------------------------------------- reading
def checkpoint_file(path: Path) -> Path:
    """The weights file meant by a path to a checkpoint's folder or to the file itself.

    Raises ValueError for a folder without one, or whose configuration is another file's.
    """
    if not path.is_dir():
        return path
    weights = path / WEIGHTS_FILE
    require(weights.is_file(), f"{path}: no {WEIGHTS_FILE} in this folder, wanted a checkpoint's folder")
    beside = path / CONFIG_FILE
    if beside.is_file():
        try:
            described = json.loads(beside.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{beside}: can't be read as JSON: {' '.join(str(error).split())}") from None
        same = described == read_metadata(weights, ENTRY)
        require(same, f"{beside}: describes another checkpoint than {WEIGHTS_FILE} beside it")
    return weights


def read_description(path: Path) -> Description | None:
    """What a weights file says about itself; None for files that others made. Raises ValueError for a damaged one."""
    content = read_metadata(path, ENTRY)
    if content is None:
        return None
    made_by = content.get("format")
    require(made_by == FORMAT, f"{path}: format {made_by!r}, wanted {FORMAT}; a newer cutie_geo may read it")
    require(
        SAM2_ENTRY not in content,
        f"{path}: a fine-tuned SAM 2, wanted our own model; infer.py takes it as --model NAME --weights {path}",
    )
    missing = [name for name in ("model", "frozen") if not isinstance(content.get(name), dict)]
    require(not missing, f"{path}: damaged description, no {' and no '.join(missing)} in it")
    frozen = {part: _frozen_file(part, file, path) for part, file in content["frozen"].items()}
    return Description(build(ModelConfig, content["model"], f"{path}: model"), frozen)


def _frozen_file(part: str, content: Any, path: Path) -> FrozenFile:
    """A frozen part's file as a checkpoint names it. Raises ValueError for anything but a plain name and a SHA-256."""
    content = content if isinstance(content, dict) else {}
    name, sha256 = str(content.get("name", "")), str(content.get("sha256", ""))
    good = part in ("vision", "geometry") and re.fullmatch("[0-9a-f]{64}", sha256) and name == Path(name).name != ""
    require(bool(good), f"{path}: damaged description, its frozen {part} is {name!r} with SHA-256 {sha256!r}")
    return FrozenFile(name, sha256)


def read_sam2_description(path: Path) -> Sam2Description | None:
    """What a SAM 2's weights file says about itself; None for one that others made.

    Raises ValueError for a damaged description, and for weights of our own model.
    """
    content = read_metadata(path, ENTRY)
    if content is None:
        return None
    made_by, described = content.get("format"), content.get(SAM2_ENTRY)
    require(made_by == FORMAT, f"{path}: format {made_by!r}, wanted {FORMAT}; a newer cutie_geo may read it")
    require("model" not in content, f"{path}: weights of our own model, wanted those of a SAM 2")
    described = described if isinstance(described, dict) else {}
    name, overrides = described.get("name"), described.get("overrides")
    good = isinstance(name, str) and isinstance(overrides, list) and all(isinstance(x, str) for x in overrides)
    require(good, f"{path}: damaged description, wanted the name of a SAM 2 and its overrides")
    require_plain([str(item) for item in overrides or ()], str(path))
    return Sam2Description(str(name), [str(item) for item in overrides or ()])


def holds_sam2(folder: Path) -> bool:
    """Whether a folder is that of a fine-tuned SAM 2. What is wrong with it is said when it is loaded."""
    try:
        content = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and SAM2_ENTRY in content


def require_plain(overrides: Iterable[str], where: str) -> None:
    """Raises ValueError for changes of SAM 2's configuration that a file may not ask for: all but plain values, since
    hydra would call whatever function a configuration names."""
    strange = [item for item in overrides if not PLAIN.fullmatch(item)]
    require(not strange, f"{where}: got {', '.join(strange)}, wanted model.name=value with a number, a word or a list")
