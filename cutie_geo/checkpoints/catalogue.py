"""Catalogue of published weight files with addresses and digests, and their local cache.

A file is ready only if its digest is correct. Since a digest takes seconds, a small file next to it (`NAME.ok`) stores
the size and time of the checked file, and the check is repeated only if one of them changes.
"""

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

from cutie_geo.config import read_json
from cutie_geo.data.io_threads import digest
from cutie_geo.errors import one_line

log = logging.getLogger(__name__)

CHUNK = 1 << 20
"""Number of bytes read at a time."""
TIMEOUT = 30.0
"""Network timeout in seconds."""

STATED = "X-Linked-Etag"
"""Header with a large file's SHA-256 on the Hugging Face hub."""
NON_COMMERCIAL = "CC BY-NC 4.0"
"""Licence in the catalogue that forbids commercial use."""

State = Literal["ready", "missing", "partial", "damaged"]


@dataclass(frozen=True)
class WeightFile:
    """Published weight file. Its digest is known, or provided by the Hugging Face hub."""

    file: str
    url: str
    licence: str
    md5: str | None = None
    sha256: str | None = None
    size: int | None = None
    """Size in bytes, if published."""
    note: str = ""
    stated_by_hub: bool = False
    """True if the digest is not known in advance: the hub's digest is checked and stored next to the file."""

    def __post_init__(self) -> None:
        if not (self.md5 or self.sha256 or self.stated_by_hub):
            raise ValueError(f"{self.file}: no digest, expected an md5 or a sha256")

    @property
    def digest(self) -> tuple[str, str]:
        """Digest algorithm and hexadecimal digest, SHA-256 if known; the digest is empty if only the hub has it."""
        return ("md5", self.md5) if self.md5 and not self.sha256 else ("sha256", self.sha256 or "")


CUTIE_RELEASE = "https://github.com/hkchengrex/Cutie/releases/download/v1.0"
HUB = "https://huggingface.co"
TIMM = "timm/"
"""Prefix of the names of timm's backbones, which are not listed one by one."""


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


def _timm(name: str) -> WeightFile:
    """Return timm's entry of a backbone's weights. Raises ValueError if it names none on the hub."""
    from timm import get_pretrained_cfg  # imports all networks, which takes seconds

    config = get_pretrained_cfg(name)
    repository = None if config is None else config.hf_hub_id
    if config is None or not repository:
        raise ValueError(f"{TIMM}{name}: timm names no weights on the hub; expected weights.vision=FILE")
    file = config.hf_hub_filename or "model.safetensors"
    weights = _on_hub(repository, file, config.license or "not stated by timm", stated_by_hub=True)
    return replace(weights, file=f"{repository.replace('/', '-')}-{Path(file).name}", note="digest stated by the hub")


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
"""Weight files by name: trained models, and pre-trained encoders."""


def weight_file(name: str) -> WeightFile:
    """Return the catalogue's entry, or timm's own for `timm/NAME`. Raises ValueError for an unknown name."""
    if name.startswith(TIMM):
        return _timm(name.removeprefix(TIMM))
    if name not in CATALOGUE:
        raise ValueError(f"{name}: no such weights; expected one of {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def listed_file(name: str) -> WeightFile | None:
    """Return the entry of `weight_file`, or None if there is none."""
    try:
        return weight_file(name)
    except ValueError:
        return None


def cache_dir() -> Path:
    """Return the cache folder: $CUTIE_GEO_CACHE, else cutie_geo in $XDG_CACHE_HOME, else in ~/.cache."""
    if own := os.environ.get("CUTIE_GEO_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cutie_geo"


# ------------------------------------------------------------------------------------------------------ local files
def find(name: str, folder: Path | None = None) -> Path | None:
    """Return the file of `name` in `folder` (default: the cache), or None if it is missing or damaged.

    Raises:
        ValueError: For an unknown name.
    """
    return location(name, folder) if state(name, folder) == "ready" else None


def location(name: str, folder: Path | None = None) -> Path:
    """Return the path of the file of `name`, whether it exists or not. Raises ValueError for an unknown name."""
    return (folder or cache_dir()) / weight_file(name).file


def state(name: str, folder: Path | None = None) -> State:
    """Return the state of a file: ready, missing, partially downloaded, or damaged (wrong digest).

    Raises:
        ValueError: For an unknown name.
    """
    path, weights = location(name, folder), weight_file(name)
    if path.is_file():
        return "ready" if _verified(path, weights) else "damaged"
    return "partial" if _beside(path, ".part").is_file() else "missing"


def known_digest(name: str, folder: Path | None = None) -> tuple[str, str]:
    """Return algorithm and digest of a file as `WeightFile.digest`, or the digest stored next to the file.

    Raises:
        ValueError: For an unknown name.
    """
    algorithm, known = weight_file(name).digest
    note = _read_note(_beside(location(name, folder), ".ok")) or {}
    return algorithm, known or str(note.get("digest", ""))


def _verified(path: Path, weights: WeightFile) -> bool:
    """Return True if a file's digest is correct; it is computed once per version of the file.

    If only the hub has the digest and the file was not downloaded by `fetch`, its digest is stored without a check.
    """
    note = _beside(path, ".ok")
    stat, known = path.stat(), _read_note(note) or {}
    algorithm, wanted = weights.digest[0], weights.digest[1] or known.get("digest")
    facts = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "digest": wanted}
    if wanted and known == facts:
        return True
    got = digest(path, algorithm)
    if wanted is None:
        log.warning("%s: no digest to check; its digest from now on is %s", path, got)
    elif got != wanted:
        return False
    facts["digest"] = got
    try:
        note.write_text(json.dumps(facts), encoding="utf-8")
    except OSError as error:  # a read-only cache works, but is slower
        log.debug("%s: cannot be written (%s); the digest is computed again each time", note, error)
    return True


def _read_note(path: Path) -> dict | None:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


# ------------------------------------------------------------------------------------------------------- downloading
def fetch(
    name: str, folder: Path | None = None, *, progress: bool = True, force: bool = False, base_url: str | None = None
) -> Path:
    """Return the file of `name`, downloaded if missing, with its digest checked.

    Interrupted downloads resume, in the same or in a later call. Concurrent processes wait for the first download.

    Args:
        name: Name in the catalogue.
        folder: Folder of the file (default: the cache).
        progress: Show a progress bar on a terminal.
        force: Download even if the file exists.
        base_url: Address of a mirror that contains the file under its name.

    Raises:
        ValueError: For an unknown name, a file that cannot be downloaded or written, or a wrong digest.
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
        raise ValueError(f"{path}: cannot be written: {error.strerror or error}") from None
    return path


def _download(url: str, path: Path, weights: WeightFile, progress: bool, afresh: bool) -> None:
    """Download `url` to `path`.part and rename it to `path`. Raises ValueError as `fetch` does, and OSError."""
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
            f"{url}: got {size} bytes with {algorithm} {got}, expected {wanted}{note}; the download was removed"
        )
    _beside(path, ".ok").unlink(missing_ok=True)  # from an earlier file
    part.replace(path)
    _verified(path, replace(weights, **{algorithm: wanted}))


class _UntilStated(HTTPRedirectHandler):
    """Redirect handler that stops at the response with a digest; the storage behind it sends none."""

    def redirect_request(self, req, fp, code, msg, headers, newurl) -> Request | None:
        following = None if STATED in headers else super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None:
            following.method = req.get_method()  # urllib would change it to GET
        return following


def _stated_digest(url: str, path: Path) -> str:
    """Return a large file's SHA-256 from the Hugging Face hub. Raises ValueError if it is not available."""
    try:
        with build_opener(_UntilStated).open(Request(url, method="HEAD"), timeout=TIMEOUT) as answer:
            stated = answer.headers.get(STATED)
    except HTTPError as error:  # includes redirections that were not followed
        error.close()
        stated = error.headers.get(STATED)
        if stated is None:
            raise ValueError(_unreachable(url, f"the server answered {error.code} {error.reason}", path)) from None
    except (OSError, HTTPException) as error:
        raise ValueError(_unreachable(url, one_line(error), path)) from None
    sha256 = (stated or "").strip('"')
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(
            f"{url}: the server states no SHA-256 ({STATED} is {stated or 'absent'}), "
            "so the file could not be checked and was not downloaded"
        )
    return sha256


def _unreachable(url: str, problem: str, path: Path) -> str:
    reason = " ".join(problem.split())  # urllib's message about endless redirections has three lines
    return f"{url}: cannot be downloaded: {reason}; or fetch it by hand and put it at {path}"


def _fill(url: str, part: Path, path: Path, progress: bool) -> None:
    """Download `url` to `part`; retry as long as each attempt makes progress."""
    while True:
        before = _size(part)
        problem = _transfer(url, part, progress)
        if problem is None:
            return
        if _size(part) <= before:
            kept = f"; {_size(part)} bytes are kept for another try" if _size(part) else ""
            raise ValueError(_unreachable(url, problem + kept, path))
        log.info("%s: %s after %d bytes, resuming", url, problem, _size(part))


def _transfer(url: str, part: Path, progress: bool) -> str | None:
    """Request the missing rest of `part`; return a network error as text, or None at the end of the file."""
    offset = _size(part)
    request = Request(url, headers={"Range": f"bytes={offset}-"} if offset else {})
    try:
        response = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        # nothing follows `part`: it is complete or another file, which the digest determines
        return None if error.code == 416 and offset else f"the server answered {error.code} {error.reason}"
    except (OSError, HTTPException) as error:
        return one_line(error)
    with response:
        # a server without support for ranges responds with 200 and the whole file
        resumed = offset > 0 and response.status == 206
        return _copy(response, part, offset if resumed else 0, progress)


def _copy(response: HTTPResponse, part: Path, start: int, progress: bool) -> str | None:
    """Write the response to `part` from byte `start` on; return the same as `_transfer`."""
    length = response.headers.get("Content-Length")
    total = start + int(length) if length and length.isdecimal() else None
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - start > free:
        raise ValueError(f"{part.parent}: {free} bytes free, expected {total - start} for {part.stem}")
    bar = tqdm(
        total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None if progress else True
    )
    with bar, part.open("ab" if start else "wb") as out:
        while True:
            try:
                chunk = response.read(CHUNK)
            except (OSError, HTTPException) as error:
                return one_line(error)
            if not chunk:
                break
            out.write(chunk)
            bar.update(len(chunk))
    return "the connection was cut" if total is not None and _size(part) < total else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
