"""Checkpoints of fine-tuned SAM 2 networks, with the layout of `checkpoints.saving`.

The description is {"format": 2, "sam2": {"name": model, "overrides": items in hydra's grammar}}; tensors have the
names of the `sam2` package.
"""

import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from cutie_geo.checkpoints.saving import ENTRY, FORMAT, require_format, write_described
from cutie_geo.checkpoints.tensor_files import read_metadata
from cutie_geo.config import hidden_name, require, require_plain
from cutie_geo.sam2.names import SAM2_ENTRY

PACKAGE_FILE = "sam2.pt"
"""Name of the file in the `sam2` package's own format."""


class Sam2Description(NamedTuple):
    """Description of a SAM 2, sufficient to build it."""

    name: str
    """Name of the published model."""
    overrides: list[str]
    """Overrides of the package's configuration, in hydra's grammar."""


def save_sam2(network: nn.Module, description: Sam2Description, folder: Path, package_file: bool = False) -> Path:
    """Write the package's network to `folder` as `save_checkpoint` does, and return the weights file.

    Args:
        package_file: Also write `PACKAGE_FILE`, which the `sam2` package loads.

    Raises:
        OSError: If a file cannot be written.
    """
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    path = write_described(tensors, {"format": FORMAT, SAM2_ENTRY: description._asdict()}, folder)
    if package_file:
        part = hidden_name(folder / PACKAGE_FILE)
        try:
            torch.save({"model": tensors}, part)
            os.replace(part, folder / PACKAGE_FILE)
        except RuntimeError as error:  # torch's writer raises it for a full disk
            raise OSError(f"{folder / PACKAGE_FILE}: cannot be written: {error}") from None
        finally:
            part.unlink(missing_ok=True)
    return path


def read_sam2_description(path: Path) -> Sam2Description | None:
    """Read the description in a weights file; return None for files of other programs.

    Raises:
        ValueError: If the description is damaged or of a Cutie model.
    """
    content = read_metadata(path, ENTRY)
    if content is None:
        return None
    require_format(content, path)
    described = content.get(SAM2_ENTRY)
    require("model" not in content, f"{path}: weights of a Cutie model, expected those of a SAM 2")
    described = described if isinstance(described, dict) else {}
    name, overrides = described.get("name"), described.get("overrides")
    good = isinstance(name, str) and isinstance(overrides, list) and all(isinstance(x, str) for x in overrides)
    require(good, f"{path}: damaged description, expected the name of a SAM 2 and its overrides")
    return Sam2Description(str(name), require_plain(overrides or (), str(path)))
