"""What of a conversion is finished: one small file for each video, written last, so that a rerun goes on from there."""

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutie_geo.data.background import write_json

log = logging.getLogger(__name__)

OUR_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".part"})


@dataclass(frozen=True)
class Ledger:
    """Results of finished videos under `folder`; those of other settings or annotations don't count."""

    root: Path
    """Files are named relative to it."""
    folder: Path

    def finished(self, video: str, fingerprint: str) -> dict[str, Any] | None:
        """What `finish` noted, if it was under this fingerprint and all files are still there."""
        try:
            entry = json.loads((self.folder / f"{video}.json").read_text(encoding="utf-8"))
            same = entry["fingerprint"] == fingerprint
            return entry["result"] if same and all((self.root / file).exists() for file in entry["files"]) else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s: %s is converted anew: %s", self.folder, video, error)
            return None

    def remove_stale(self, video: str, files: Iterable[str]) -> None:
        """Remove what an earlier conversion of the video wrote, with other settings, and `files` doesn't name."""
        try:
            entry = json.loads((self.folder / f"{video}.json").read_text(encoding="utf-8"))
            stale = set(map(Path, entry["files"])) - set(map(Path, files))
        except (OSError, ValueError, KeyError, TypeError):
            return
        for folder in {file.parent for file in stale if not file.is_absolute() and ".." not in file.parts}:
            clear(self.root / folder, [Path(file).name for file in files if Path(file).parent == folder])

    def finish(self, video: str, fingerprint: str, files: Iterable[str], result: dict[str, Any]) -> None:
        """Note that all of a video is written."""
        write_json(
            self.folder / f"{video}.json", {"fingerprint": fingerprint, "result": result, "files": sorted(files)}
        )


def fingerprint(*parts: bytes | str | int | bool) -> str:
    """A digest that differs where any part does."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """A digest of a file's content. Raises ValueError naming it if it can't be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: can't be read: {error.strerror}") from error


def clear(folder: Path, keep: Iterable[str] = ()) -> None:
    """Remove images, masks and halves of them from `folder`, except those to `keep`; then an empty folder too."""
    kept = set(keep)
    if not folder.is_dir():
        return
    for file in folder.iterdir():
        if file.name not in kept and file.suffix.lower() in OUR_SUFFIXES:
            file.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
