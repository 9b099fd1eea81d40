"""Masklets of clips on disk, a file each: their features cost hours, and learning from them minutes."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save

from cutie_geo.data.background import atomic_write
from cutie_geo.structures import MaskletTable

SETTINGS = "settings.json"
INPUTS = "inputs"
"""In a file's header: what tells its clip from another."""


class MaskletFiles:
    """The tables that were made one way: each way has a folder of its own in `root`, which `SETTINGS` describes."""

    def __init__(self, root: Path, settings: Mapping[str, Any]) -> None:
        self.settings = json.dumps(settings, indent=1, sort_keys=True)
        self.folder = root / hashlib.sha256(self.settings.encode()).hexdigest()[:16]

    def path(self, clip: str) -> Path:
        """The file of a clip."""
        return self.folder / f"{clip}.safetensors"

    def has(self, clip: str, inputs: str) -> bool:
        """Whether the table of a clip is there, and whole, and was made from the same files."""
        try:
            with safetensors.safe_open(self.path(clip), framework="pt") as file:
                return (file.metadata() or {}).get(INPUTS) == inputs
        except (OSError, safetensors.SafetensorError):
            return False

    def read(self, clip: str) -> MaskletTable:
        """The table of a clip. Raises ValueError naming the file if it can't be read."""
        try:
            with safetensors.safe_open(self.path(clip), framework="pt") as file:
                return MaskletTable(file.get_tensor("features"), file.get_tensor("votes").long())
        except (OSError, safetensors.SafetensorError) as error:
            raise ValueError(f"{self.path(clip)}: can't be read: {' '.join(str(error).split())}") from None

    def write(self, clip: str, inputs: str, table: MaskletTable) -> None:
        """Keep the table of a clip, whole or not at all. Raises OSError."""
        settings = self.folder / SETTINGS
        if not settings.is_file():
            with atomic_write(settings) as part:
                part.write_text(self.settings + "\n", encoding="utf-8")
        tensors = {"features": table.features.contiguous(), "votes": table.votes.to(torch.int32).contiguous()}
        with atomic_write(self.path(clip)) as part:
            part.write_bytes(save(tensors, {INPUTS: inputs}))
