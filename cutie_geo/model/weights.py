"""Weight files that others publish: where they are, their digests, and a cache on this machine.

A file counts as present only when its digest is right. Since a digest takes seconds, a small note beside the file
(`NAME.ok`) remembers the size and time of the file that was checked, and the check is repeated only when one changes.
"""

import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock
from tqdm import tqdm

log = logging.getLogger(__name__)

CHUNK = 1 << 20
"""Bytes read at a time, from the network and from disk."""
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as cut."""

State = Literal["ready", "missing", "partial", "damaged"]


@dataclass(frozen=True)
class WeightFile:
    """One file that can be downloaded. At least one digest is known."""

    file: str
    url: str
    licence: str
    md5: str | None = None
    sha256: str | None = None
    size: int | None = None
    """Bytes, where the publisher says so."""
    note: str = ""

    def __post_init__(self) -> None:
        if not (self.md5 or self.sha256):
            raise ValueError(f"{self.file}: no digest, wanted an md5 or a sha256")

    @property
    def digest(self) -> tuple[str, str]:
        """The name of the stronger known algorithm and its hexadecimal digest."""
        return ("sha256", self.sha256) if self.sha256 else ("md5", self.md5 or "")


CUTIE_RELEASE = "https://github.com/hkchengrex/Cutie/releases/download/v1.0"
CATALOGUE: dict[str, WeightFile] = {
    "cutie-base": WeightFile(
        file="cutie-base-mega.pth",
        url=f"{CUTIE_RELEASE}/cutie-base-mega.pth",
        licence="MIT",
        md5="a6071de6136982e396851903ab4c083a",
        note="digest published by Cutie's authors",
    ),
    "cutie-small": WeightFile(
        file="cutie-small-mega.pth",
        url=f"{CUTIE_RELEASE}/cutie-small-mega.pth",
        licence="MIT",
        md5="6abf53b4058228babc3686274bc136cc",
        note="digest reported by a third party, not by Cutie's authors",
    ),
}
"""Everything that `fetch` knows, by model name."""


def weight_file(name: str) -> WeightFile:
    """The catalogue's entry. Raises ValueError for a name that it doesn't have."""
    if name not in CATALOGUE:
        raise ValueError(f"{name}: no such weights; wanted one of {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def cache_dir() -> Path:
    """Where downloads are kept: $CUTIE_GEO_CACHE, else cutie_geo in $XDG_CACHE_HOME, else in ~/.cache."""
    if own := os.environ.get("CUTIE_GEO_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cutie_geo"


# -------------------------------------------------------------------------------------------------- what is on disk
def find(name: str, folder: Path | None = None) -> Path | None:
    """The file of `name` in `folder` (default: the cache), or None where it is absent or damaged.

    Raises ValueError for an unknown name.
    """
    return location(name, folder) if state(name, folder) == "ready" else None


def location(name: str, folder: Path | None = None) -> Path:
    """Where the file of `name` belongs, present or not. Raises ValueError for an unknown name."""
    return (folder or cache_dir()) / weight_file(name).file


def state(name: str, folder: Path | None = None) -> State:
    """What is on disk: the right file, no file, the start of a download, or a file whose digest is wrong.

    Raises ValueError for an unknown name.
    """
    path, weights = location(name, folder), weight_file(name)
    if path.is_file():
        return "ready" if _verified(path, weights) else "damaged"
    return "partial" if _beside(path, ".part").is_file() else "missing"


def digest(path: Path, algorithm: str) -> str:
    """The file's hexadecimal digest; `algorithm` is one of hashlib's names."""
    hasher = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()


def _verified(path: Path, weights: WeightFile) -> bool:
    """Whether the file's digest is right; computed once for each state of the file."""
    note = _beside(path, ".ok")
    stat = path.stat()
    facts = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "digest": weights.digest[1]}
    if _read_note(note) == facts:
        return True
    if digest(path, weights.digest[0]) != weights.digest[1]:
        return False
    try:
        note.write_text(json.dumps(facts), encoding="utf-8")
    except OSError as error:  # a cache that only others may write is fine, just slower
        log.debug("%s: can't be written (%s); the digest is computed anew each time", note, error)
    return True


def _read_note(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


# ------------------------------------------------------------------------------------------------------- downloading
def fetch(
    name: str, folder: Path | None = None, *, progress: bool = True, force: bool = False, base_url: str | None = None
) -> Path:
    """The file of `name` in `folder` (default: the cache), downloaded if it isn't there yet, with its digest checked.

    A download that was cut goes on where it stopped, now or in a later call. Processes that ask at once wait for the
    first. progress: a bar, on a terminal. force: download even if the file is there. base_url: a mirror that holds the
    file by its name.

    Raises ValueError for an unknown name, where the file can't be reached or written, and for a wrong digest.
    """
    weights, path = weight_file(name), location(name, folder)
    if not force and (found := find(name, folder)):
        return found
    if not force and path.is_file():
        log.warning("%s: wrong %s, downloading it again", path, weights.digest[0])
    url = f"{base_url.rstrip('/')}/{weights.file}" if base_url else weights.url
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(_beside(path, ".lock")):
            if not force and (found := find(name, folder)):
                return found
            _download(url, path, weights, progress, force)
    except OSError as error:
        raise ValueError(f"{path}: can't be written: {error.strerror or error}") from None
    return path


def _download(url: str, path: Path, weights: WeightFile, progress: bool, afresh: bool) -> None:
    """Fill `path` from `url`, by way of `path`.part. Raises ValueError as `fetch` does, and OSError of the disk."""
    part = _beside(path, ".part")
    if afresh:
        part.unlink(missing_ok=True)
    _fill(url, part, path, progress)
    algorithm, wanted = weights.digest
    if (got := digest(part, algorithm)) != wanted:
        size = part.stat().st_size
        part.unlink()
        note = f" ({weights.note})" if weights.note else ""
        raise ValueError(
            f"{url}: got {size} bytes with {algorithm} {got}, wanted {wanted}{note}; the download was removed"
        )
    part.replace(path)
    _verified(path, weights)


def _fill(url: str, part: Path, path: Path, progress: bool) -> None:
    """Download `url` to `part`, again and again as long as each attempt adds to it."""
    while True:
        before = _size(part)
        problem = _transfer(url, part, progress)
        if problem is None:
            return
        if _size(part) <= before:
            kept = f"; {_size(part)} bytes are kept for another try" if _size(part) else ""
            raise ValueError(f"{url}: can't be downloaded: {problem}{kept}; or fetch it by hand and put it at {path}")
        log.info("%s: %s after %d bytes, going on from there", url, problem, _size(part))


def _transfer(url: str, part: Path, progress: bool) -> str | None:
    """One request for what `part` lacks. Returns what went wrong with the network, or None at the end of the file."""
    offset = _size(part)
    request = Request(url, headers={"Range": f"bytes={offset}-"} if offset else {})
    try:
        response = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        # nothing lies beyond `part`: either it is complete or it is another file, and the digest tells which
        return None if error.code == 416 and offset else f"the server answered {error.code} {error.reason}"
    except (OSError, HTTPException) as error:
        return _reason(error)
    with response:
        # a server that doesn't know ranges answers 200 and sends everything
        resumed = offset > 0 and response.status == 206
        return _copy(response, part, offset if resumed else 0, progress)


def _copy(response: HTTPResponse, part: Path, start: int, progress: bool) -> str | None:
    """Write the answer to `part` from byte `start` on. Returns as `_transfer` does."""
    length = response.headers.get("Content-Length")
    total = start + int(length) if length and length.isdecimal() else None
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - start > free:
        raise ValueError(f"{part.parent}: {free} bytes free, wanted {total - start} for {part.stem}")
    bar = tqdm(
        total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None if progress else True
    )
    with bar, part.open("ab" if start else "wb") as out:
        while True:
            try:
                chunk = response.read(CHUNK)
            except (OSError, HTTPException) as error:
                return _reason(error)
            if not chunk:
                break
            out.write(chunk)
            bar.update(len(chunk))
    return "the connection was cut" if total is not None and _size(part) < total else None


def _reason(error: Exception) -> str:
    """An error of the network on one line."""
    return " ".join(str(getattr(error, "reason", None) or error or type(error).__name__).split())


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
