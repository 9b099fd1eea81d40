"""Checkpoint folders with trained tensors and their configuration.

    model.safetensors   trained tensors; its header repeats config.json, so that the file is self-contained
    config.json         {"format": 2, "model": configuration, "frozen": {part: {"name": file, "sha256": digest}}}

Frozen encoders are referenced, not stored, because their files are large and have their own licences. Parts that were
not loaded from a file are stored.
"""

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from torch import Tensor

from cutie_geo.checkpoints.tensor_files import read_metadata, write_tensors
from cutie_geo.config import ModelConfig, build, hidden_name, is_name, read_json, require, to_dict
from cutie_geo.model.network import CutieGeo
from cutie_geo.structures import FrozenFile

FORMAT = 2
"""Version of the description. Readers refuse later versions."""
RENAMED = {"frame_size": "max_internal_size", "memory_interval": "mem_every", "tokens_read": "top_k"}
"""New names of configuration fields by their names in version 1."""
ENTRY = "cutie_geo"
"""Name of the description in the weights file's header."""
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


class Description(NamedTuple):
    """Description of a checkpoint."""

    model: ModelConfig
    frozen: dict[str, FrozenFile]
    """Files of the frozen parts, by part."""


def save_checkpoint(model: CutieGeo, folder: Path, half: bool = False) -> Path:
    """Write `model` to `folder` atomically and return the weights file.

    Args:
        half: Store float16, which suffices for inference; training resumes from float32.

    Raises:
        OSError: If writing fails; older files stay intact.
    """
    return write_described(stored_tensors(model, half), _to_json(model), folder)


def write_described(tensors: dict[str, Tensor], description: dict[str, Any], folder: Path) -> Path:
    """Write tensors and their description to `folder` atomically; return the weights file.

    Raises:
        OSError: If writing fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(description, indent=2, sort_keys=True) + "\n"
    parts = {name: hidden_name(folder / name) for name in (WEIGHTS_FILE, CONFIG_FILE)}
    try:
        parts[CONFIG_FILE].write_text(text, encoding="utf-8")
        # a single entry, since safetensors writes several in random order
        write_tensors(parts[WEIGHTS_FILE], tensors, {ENTRY: text})
        for name, part in parts.items():
            os.replace(part, folder / name)
    except SafetensorError as error:  # a full disk, for example
        raise OSError(f"{folder / WEIGHTS_FILE}: cannot be written: {error}") from None
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return folder / WEIGHTS_FILE


def stored_tensors(model: CutieGeo, half: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint: all but parts with separate files; `half` converts them to float16.

    Raises:
        ValueError: If a value is out of the range of float16.
    """
    elsewhere = tuple(f"encoder.{part}." for part in model.frozen_files)
    tensors = {name: t.contiguous() for name, t in model.state_dict().items() if not name.startswith(elsewhere)}
    if not half:
        return tensors
    halved = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    beyond = [name for name, t in halved.items() if t.is_floating_point() and not t.isfinite().all()]
    require(not beyond, f"out of the range of float16: {', '.join(beyond)}, expected finite numbers below 65504")
    return halved


def _to_json(model: CutieGeo) -> dict[str, Any]:
    config = to_dict(model.config)
    config.pop("weights")  # local paths
    frozen = {part: file._asdict() for part, file in model.frozen_files.items()}
    return {"format": FORMAT, "model": config, "frozen": frozen}


# ------------------------------------------------------------------------------------------------------- reading
def checkpoint_file(path: Path) -> Path:
    """Return the weights file of a checkpoint folder, or `path` if it is a file.

    Raises:
        ValueError: If the folder has no weights file, or a configuration that does not match it.
    """
    if not path.is_dir():
        return path
    weights = path / WEIGHTS_FILE
    require(weights.is_file(), f"{path}: no {WEIGHTS_FILE} in this folder, expected a checkpoint's folder")
    beside = path / CONFIG_FILE
    if beside.is_file():
        try:
            described = read_json(beside)
        except OSError as error:
            raise ValueError(f"{beside}: cannot be read as JSON: {' '.join(str(error).split())}") from None
        same = described == read_metadata(weights, ENTRY)
        require(same, f"{beside}: describes another checkpoint than {WEIGHTS_FILE} beside it")
    return weights


def read_description(path: Path) -> Description | None:
    """Read the description of a weights file; None for files of other programs.

    Raises:
        ValueError: If the description is damaged.
    """
    content = read_metadata(path, ENTRY)
    if content is None:
        return None
    require_format(content, path)
    others = sorted(set(content) - {"format", "model", "frozen"})
    require(
        not others,
        f"{path}: a checkpoint of {', '.join(others)}; expected a Cutie model. "
        f"Networks of other families load with --model NAME --weights {path}",
    )
    missing = [name for name in ("model", "frozen") if not isinstance(content.get(name), dict)]
    require(not missing, f"{path}: damaged description, no {' and no '.join(missing)} in it")
    frozen = {part: _frozen_file(part, file, path) for part, file in content["frozen"].items()}
    model = {RENAMED.get(name, name): value for name, value in content["model"].items()}
    return Description(build(ModelConfig, model, f"{path}: model"), frozen)


def require_format(content: dict[str, Any], path: Path) -> None:
    """Check the version of a description. Raises ValueError for a later one."""
    version = content.get("format")
    require(
        version in range(1, FORMAT + 1),
        f"{path}: unknown format; got {version!r}, expected at most {FORMAT}. A newer cutie_geo may read it",
    )


def _frozen_file(part: str, content: Any, path: Path) -> FrozenFile:
    """Read the reference to a frozen part's file. Raises ValueError unless it has a plain name and a SHA-256."""
    content = content if isinstance(content, dict) else {}
    name, sha256 = str(content.get("name", "")), str(content.get("sha256", ""))
    good = part in ("vision", "geometry") and re.fullmatch("[0-9a-f]{64}", sha256) and is_name(name)
    require(bool(good), f"{path}: damaged description, its frozen {part} is {name!r} with SHA-256 {sha256!r}")
    return FrozenFile(name, sha256)
