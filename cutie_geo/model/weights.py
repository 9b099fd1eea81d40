"""Weight files that others publish: where they are, their digests, and a cache on this machine.

A file counts as present only when its digest is right. Since a digest takes seconds, a small note beside the file
(`NAME.ok`) remembers the size and time of the file that was checked, and the check is repeated only when one changes.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from dataclasses import dataclass, replace
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener, urlopen

from filelock import FileLock
from tqdm import tqdm

log = logging.getLogger(__name__)

CHUNK = 1 << 20
"""Bytes read at a time, from the network and from disk."""
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as cut."""

STATED = "X-Linked-Etag"
"""Header in which the Hugging Face hub states a large file's SHA-256."""
NON_COMMERCIAL = "CC BY-NC 4.0"
"""The licence, among those of the catalogue, that forbids commercial use."""

State = Literal["ready", "missing", "partial", "damaged"]


@dataclass(frozen=True)
class WeightFile:
    """One file that can be downloaded. Its digest is known, or the Hugging Face hub states it with the file."""

    file: str
    url: str
    licence: str
    md5: str | None = None
    sha256: str | None = None
    size: int | None = None
    """Bytes, where the publisher says so."""
    note: str = ""
    stated_by_hub: bool = False
    """No digest is known beforehand: the one that the hub sends with the file is checked, and kept beside it."""

    def __post_init__(self) -> None:
        if not (self.md5 or self.sha256 or self.stated_by_hub):
            raise ValueError(f"{self.file}: no digest, wanted an md5 or a sha256")

    @property
    def digest(self) -> tuple[str, str]:
        """The stronger algorithm of a known digest, and the digest in hexadecimal, empty if the hub will state it."""
        return ("md5", self.md5) if self.md5 and not self.sha256 else ("sha256", self.sha256 or "")


CUTIE_RELEASE = "https://github.com/hkchengrex/Cutie/releases/download/v1.0"
HUB = "https://huggingface.co"


def _on_hub(repository: str, file: str, licence: str, **facts: Any) -> WeightFile:
    return WeightFile(file=file, url=f"{HUB}/{repository}/resolve/main/{file}", licence=licence, **facts)


def _sam2(release: str, size: str, sha256: str, bytes_: int | None = None) -> WeightFile:
    file = f"{release}_hiera_{size.replace('-', '_')}.pt"
    return _on_hub(f"facebook/{release}-hiera-{size}", file, "Apache-2.0", sha256=sha256, size=bytes_)


def _depth_anything(size: str, letter: str, licence: str, sha256: str, bytes_: int | None = None) -> WeightFile:
    repository, file = f"depth-anything/Depth-Anything-V2-{size}", f"depth_anything_v2_vit{letter}.pth"
    return _on_hub(repository, file, licence, sha256=sha256, size=bytes_)


def _mae(size: str) -> WeightFile:
    repository = f"timm/hiera_{size}_224.mae"
    weights = _on_hub(repository, "model.safetensors", NON_COMMERCIAL, stated_by_hub=True)
    return replace(weights, file=f"hiera_{size}_224.mae.safetensors", note="digest stated by the hub at download")


def _imagenet(name: str) -> WeightFile:
    weights = _on_hub(f"timm/{name}.tv_in1k", "model.safetensors", "BSD-3-Clause", stated_by_hub=True)
    return replace(weights, file=f"{name}.tv_in1k.safetensors", note="torchvision's; digest stated by the hub")


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
    "sam2.1-hiera-large": _sam2(
        "sam2.1", "large", "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318", 898083611
    ),
    "sam2.1-hiera-base-plus": _sam2(
        "sam2.1", "base-plus", "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5", 323606802
    ),
    "sam2.1-hiera-small": _sam2(
        "sam2.1", "small", "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38", 184416285
    ),
    "sam2.1-hiera-tiny": _sam2(
        "sam2.1", "tiny", "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69", 156008466
    ),
    "sam2-hiera-large": _sam2(
        "sam2", "large", "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b", 897952466
    ),
    "sam2-hiera-base-plus": _sam2(
        "sam2", "base-plus", "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071"
    ),
    "sam2-hiera-small": _sam2("sam2", "small", "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3"),
    "sam2-hiera-tiny": _sam2(
        "sam2", "tiny", "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125", 155906050
    ),
    "depth-anything-v2-large": _depth_anything(
        "Large", "l", NON_COMMERCIAL, "a7ea19fa0ed99244e67b624c72b8580b7e9553043245905be58796a608eb9345", 1341395338
    ),
    "depth-anything-v2-base": _depth_anything(
        "Base", "b", NON_COMMERCIAL, "0d2b7002e62d39d655571c371333340bd88f67ab95050c03591555aa05645328", 389961218
    ),
    "depth-anything-v2-small": _depth_anything(
        "Small", "s", "Apache-2.0", "715fade13be8f229f8a70cc02066f656f2423a59effd0579197bbf57860e1378"
    ),
    "hiera-large-mae": _mae("large"),
    "hiera-base-plus-mae": _mae("base_plus"),
    "hiera-small-mae": _mae("small"),
    "hiera-tiny-mae": _mae("tiny"),
    "resnet50-imagenet": _imagenet("resnet50"),
    "resnet18-imagenet": _imagenet("resnet18"),
}
"""Everything that `fetch` knows: trained models by their own names, and the encoders that models start from."""


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


def known_digest(name: str, folder: Path | None = None) -> tuple[str, str]:
    """As `WeightFile.digest`, but for a file whose digest the hub stated, or that was put there by hand, that one too.

    Raises ValueError for an unknown name.
    """
    algorithm, known = weight_file(name).digest
    note = _read_note(_beside(location(name, folder), ".ok")) or {}
    return algorithm, known or str(note.get("digest", ""))


def digest(path: Path, algorithm: str) -> str:
    """The file's hexadecimal digest; `algorithm` is one of hashlib's names."""
    hasher = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()


def _verified(path: Path, weights: WeightFile) -> bool:
    """Whether the file's digest is right; computed once for each state of the file. A file whose digest only the hub
    knows and that was put here by hand is taken as it is, and its digest kept from then on."""
    note = _beside(path, ".ok")
    stat, known = path.stat(), _read_note(note) or {}
    algorithm, wanted = weights.digest[0], weights.digest[1] or known.get("digest")
    facts = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "digest": wanted}
    if wanted and known == facts:
        return True
    got = digest(path, algorithm)
    if wanted is None:
        log.warning("%s: no digest to check it by; from now on it must stay %s", path, got)
    elif got != wanted:
        return False
    facts["digest"] = got
    try:
        note.write_text(json.dumps(facts), encoding="utf-8")
    except OSError as error:  # a cache that only others may write is fine, just slower
        log.debug("%s: can't be written (%s); the digest is computed anew each time", note, error)
    return True


def _read_note(path: Path) -> dict | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


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
    algorithm, wanted = weights.digest
    wanted = wanted or _stated_digest(url, path)
    _fill(url, part, path, progress)
    if (got := digest(part, algorithm)) != wanted:
        size = part.stat().st_size
        part.unlink()
        note = f" ({weights.note})" if weights.note else ""
        raise ValueError(
            f"{url}: got {size} bytes with {algorithm} {got}, wanted {wanted}{note}; the download was removed"
        )
    _beside(path, ".ok").unlink(missing_ok=True)  # of a file that was here before
    part.replace(path)
    _verified(path, replace(weights, **{algorithm: wanted}))


class _UntilStated(HTTPRedirectHandler):
    """Follows redirections up to the answer that states a digest; the storage that it points to states none."""

    def redirect_request(self, req, fp, code, msg, headers, newurl) -> Request | None:
        following = None if STATED in headers else super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None:
            following.method = req.get_method()  # which urllib makes a GET
        return following


def _stated_digest(url: str, path: Path) -> str:
    """The SHA-256 that the Hugging Face hub states for a large file. Raises ValueError if it can't be had."""
    try:
        with build_opener(_UntilStated).open(Request(url, method="HEAD"), timeout=TIMEOUT) as answer:
            stated = answer.headers.get(STATED)
    except HTTPError as error:  # a redirection that was not followed is one
        error.close()
        stated = error.headers.get(STATED)
        if stated is None:
            raise ValueError(_unreachable(url, f"the server answered {error.code} {error.reason}", path)) from None
    except (OSError, HTTPException) as error:
        raise ValueError(_unreachable(url, _reason(error), path)) from None
    sha256 = (stated or "").strip('"')
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(
            f"{url}: the server states no SHA-256 ({STATED} is {stated or 'absent'}), "
            "so the file could not be checked and was not downloaded"
        )
    return sha256


def _unreachable(url: str, problem: str, path: Path) -> str:
    reason = " ".join(problem.split())  # urllib's words for endless redirections fill three lines
    return f"{url}: can't be downloaded: {reason}; or fetch it by hand and put it at {path}"


def _fill(url: str, part: Path, path: Path, progress: bool) -> None:
    """Download `url` to `part`, again and again as long as each attempt adds to it."""
    while True:
        before = _size(part)
        problem = _transfer(url, part, progress)
        if problem is None:
            return
        if _size(part) <= before:
            kept = f"; {_size(part)} bytes are kept for another try" if _size(part) else ""
            raise ValueError(_unreachable(url, problem + kept, path))
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
