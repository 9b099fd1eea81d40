"""Masklets for training: a table in memory, and a file for each clip, since their features take hours to compute."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from jaxtyping import Float, Int
from safetensors.torch import save
from torch import Tensor

from cutie_geo.data.io_threads import atomic_write

SETTINGS = "settings.json"
INPUTS = "inputs"
"""Entry of a file's header: digest of the clip's files."""


class MaskletTable(NamedTuple):
    """Masklets for training, one in each row."""

    features: Float[Tensor, "K C"]
    """Mean feature of each masklet."""
    votes: Int[Tensor, "K classes"]
    """Number of true pixels of each class inside it; no row is all zeros."""

    def labels(self) -> Int[Tensor, "K"]:
        """Return the class of most true pixels of each masklet; of equals, the smallest."""
        return self.votes.argmax(dim=1)

    @classmethod
    def joined(cls, tables: Sequence["MaskletTable"]) -> "MaskletTable":
        """Concatenate one or more tables."""
        return cls(*(torch.cat(column) for column in zip(*tables)))


class MaskletFiles:
    """Files of tables made with the same settings, in a folder below `root` with a copy of these settings."""

    def __init__(self, root: Path, settings: Mapping[str, Any]) -> None:
        self.settings = json.dumps(settings, indent=1, sort_keys=True)
        self.folder = root / hashlib.sha256(self.settings.encode()).hexdigest()[:16]

    def path(self, clip: str) -> Path:
        """Return the path of a clip's file."""
        return self.folder / f"{clip}.safetensors"

    def has(self, clip: str, inputs: str) -> bool:
        """Return True if a clip's file is complete and was made from the same inputs."""
        try:
            with safetensors.safe_open(self.path(clip), framework="pt") as file:
                return (file.metadata() or {}).get(INPUTS) == inputs
        except (OSError, safetensors.SafetensorError):
            return False

    def read(self, clip: str) -> MaskletTable:
        """Read a clip's table. Raises ValueError if the file cannot be read."""
        try:
            with safetensors.safe_open(self.path(clip), framework="pt") as file:
                return MaskletTable(file.get_tensor("features"), file.get_tensor("votes").long())
        except (OSError, safetensors.SafetensorError) as error:
            raise ValueError(f"{self.path(clip)}: cannot be read: {' '.join(str(error).split())}") from None

    def write(self, clip: str, inputs: str, table: MaskletTable) -> None:
        """Write a clip's table atomically. Raises OSError."""
        settings = self.folder / SETTINGS
        if not settings.is_file():
            with atomic_write(settings) as part:
                part.write_text(self.settings + "\n", encoding="utf-8")
        tensors = {"features": table.features.contiguous(), "votes": table.votes.to(torch.int32).contiguous()}
        with atomic_write(self.path(clip)) as part:
            part.write_bytes(save(tensors, {INPUTS: inputs}))
