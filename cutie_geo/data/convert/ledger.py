"""Records of finished videos of a conversion, from which a second call resumes."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cutie_geo.config import Shard, is_name, read_json
from cutie_geo.data.io_threads import digest, write_json

T = TypeVar("T")

log = logging.getLogger(__name__)

OUR_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".part"})


@dataclass(frozen=True)
class Ledger:
    """Results of finished videos under `folder`; results of other settings or annotations are ignored."""

    root: Path
    """Folder to which file names are relative."""
    folder: Path

    def finished(self, video: str, fingerprint: str) -> dict[str, Any] | None:
        """Return the recorded result if the fingerprint matches and all files still exist."""
        try:
            entry = read_json(self.folder / f"{video}.json")
            same = entry["fingerprint"] == fingerprint
            files = [Path(file) for file in entry["files"]]
            return entry["result"] if same and all(_inside(f) and (self.root / f).exists() for f in files) else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s: %s is converted anew: %s", self.folder, video, error)
            return None

    def remove_stale(self, video: str, files: Iterable[str]) -> None:
        """Remove files of an earlier conversion of the video with other settings, except `files`."""
        try:
            entry = read_json(self.folder / f"{video}.json")
            stale = set(map(Path, entry["files"])) - set(map(Path, files))
        except (OSError, ValueError, KeyError, TypeError):
            return
        for folder in {file.parent for file in stale if _inside(file)}:
            clear(self.root / folder, [Path(file).name for file in files if Path(file).parent == folder])

    def finish(self, video: str, fingerprint: str, files: Iterable[str], result: dict[str, Any]) -> None:
        """Record a video as finished."""
        write_json(
            self.folder / f"{video}.json", {"fingerprint": fingerprint, "result": result, "files": sorted(files)}
        )


def with_other_shards(
    own: Sequence[dict[str, Any]],
    videos: Sequence[T],
    shard: Shard,
    finished: Callable[[T], dict[str, Any] | None],
) -> tuple[list[dict[str, Any]], int]:
    """Add the results of other shards to those of this one.

    Args:
        own: Results of this shard.
        videos: All videos.
        shard: This shard.
        finished: Returns the recorded result of a video, or None.

    Returns:
        The results of all videos in order, and 0. If videos of other shards are not finished: the results of this shard
        and the number of those videos.
    """
    mine = dict(zip(shard.of(range(len(videos))), own))
    results = [mine[i] if i in mine else finished(video) for i, video in enumerate(videos)]
    waiting = sum(result is None for result in results)
    return (list(own), waiting) if waiting else ([result for result in results if result is not None], 0)


def _inside(file: Path) -> bool:
    """Return True if a recorded file is below its folder."""
    return bool(file.parts) and all(map(is_name, file.parts))


def fingerprint(*parts: bytes | str | int | bool) -> str:
    """Return a digest of all parts."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        hasher.update(len(data).to_bytes(8, "little") + data)
    return hasher.hexdigest()


def file_digest(path: Path) -> str:
    """Return a digest of a file's content. Raises ValueError if it cannot be read."""
    try:
        return digest(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error


def clear(folder: Path, keep: Iterable[str] = ()) -> None:
    """Remove images, masks and partial files from `folder`, except `keep`, and the folder if it is empty."""
    kept = set(keep)
    if not folder.is_dir():
        return
    for file in folder.iterdir():
        if file.name not in kept and file.suffix.lower() in OUR_SUFFIXES:
            file.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
