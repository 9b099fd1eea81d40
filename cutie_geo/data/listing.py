"""Listings of folders and text files: frames and masks by stem in natural order, without opening any image."""

import logging
import os
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from cutie_geo.config import require

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".avif"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k"}
)
"""Suffixes of images that Pillow decodes, in lower case; AVIF from its release 11.3 on."""
MASK_SUFFIXES = frozenset({".png"})
"""Suffix of masks; lossy formats would change ids."""
SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
"""Files that operating systems leave in folders and archives, in lower case."""

MOST_DIGITS = 18
"""Maximum number of digits in a frame number."""
_NUMBERED = re.compile(rf"(.*?)([0-9]{{1,{MOST_DIGITS}}})")
_NUMBERS = re.compile(r"([0-9]+)")

_WARNED: set[Path] = set()
"""Folders for which the warning about the frame order was given."""

NaturalKey = tuple[list[str | tuple[int, str]], str]


def natural_key(name: str) -> NaturalKey:
    """Return a sort key by which numbers in names compare as numbers: `8`, `9`, `10`, `frame_2`, `frame_10`.

    Names whose numbers have equal lengths, and names that differ only in leading zeros, sort as text.
    """
    parts: list[str | tuple[int, str]] = list(_NUMBERS.split(name))  # text and numbers alternate
    for place in range(1, len(parts), 2):
        digits = str(parts[place]).lstrip("0")
        parts[place] = len(digits), digits
    return parts, name


def natural_order(names: Iterable[str]) -> list[str]:
    """Return names sorted by `natural_key`."""
    return sorted(names, key=natural_key)


def warn_of_order(folder: Path, names: Iterable[str]) -> None:
    """Warn if the natural order of the frames of `folder` differs from text order; once for all sibling folders."""
    ordered, parent = natural_order(names), folder.absolute().parent
    as_text = sorted(ordered)
    if ordered == as_text or parent in _WARNED:
        return
    _WARNED.add(parent)
    first, other = next(pair for pair in zip(ordered, as_text, strict=True) if pair[0] != pair[1])
    log.warning(
        "%s: frames run in the order of their numbers, %s before %s; as text they would not", folder, first, other
    )


def files_by_stem(folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    """Return the files in a folder with one of `suffixes` (in any case) by stem, in natural order, without hidden ones.

    Raises:
        ValueError: if two files share a stem.
    """
    return _by_stem(folder, (entry.name for entry in entries(folder)), suffixes)


def _by_stem(folder: Path, names: Iterable[str], suffixes: frozenset[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for stem, suffix, name in sorted((*os.path.splitext(name), name) for name in names):
        if suffix.lower() in suffixes:
            require(stem not in files, f"{folder}: two files for {stem}, expected one")
            files[stem] = folder / name
    return {stem: files[stem] for stem in natural_order(files)}


def frame_files(folder: Path, suffixes: frozenset[str] = IMAGE_SUFFIXES, masks: Iterable[Path] = ()) -> dict[str, Path]:
    """Return the frames in a folder by stem, in natural order. Warn once if text order differs.

    Args:
        folder: folder of the frames.
        suffixes: suffixes of frames, in lower case.
        masks: mask files, which are never frames. If some are in `folder`, similar files are excluded too: other PNGs
            if frames have another format, and files with the same name pattern, such as `00001_mask.png` beside
            `00000_mask.png`.

    Raises:
        ValueError: if two files share a stem.
    """
    names = [entry.name for entry in entries(folder) if os.path.splitext(entry.name)[1].lower() in suffixes]
    if given := _names_within(folder, masks):
        names = _unlike_masks([name for name in names if name not in given], given)
    files = _by_stem(folder, names, suffixes)
    warn_of_order(folder, files)
    return files


def real_path(path: Path) -> Path:
    """Return a path without links. Unlike `Path.resolve`, it raises no error for links that lead to themselves."""
    return Path(os.path.realpath(path))


def _names_within(folder: Path, paths: Iterable[Path]) -> set[str]:
    """Return the names of the files that are in `folder`, directly or as the target of a link."""
    home, paths = real_path(folder), list(paths)
    parents = {parent: real_path(parent) for parent in {path.parent for path in paths}}
    direct = {path.name for path in paths if parents[path.parent] == home}
    linked = {real_path(path).name for path in paths if path.is_symlink() and real_path(path).parent == home}
    return direct | linked


def _unlike_masks(names: list[str], masks: set[str]) -> list[str]:
    """Return the names of images that differ from `masks` in format or in the text after the frame name."""
    others = [name for name in names if os.path.splitext(name)[1].lower() not in MASK_SUFFIXES]
    if others:
        return others
    stems = {os.path.splitext(name)[0] for name in names}
    given = [os.path.splitext(name)[0] for name in masks]
    tails = {mask[len(stem) :] for mask in given for stem in stems if mask.startswith(stem)} - {""}
    heads = {mask[: -len(stem)] for mask in given for stem in stems if mask.endswith(stem)} - {""}
    like = {stem + tail for stem in stems for tail in tails} | {head + stem for stem in stems for head in heads}
    return [name for name in names if os.path.splitext(name)[0] not in like]


def left_out(folder: Path, files: Iterable[Path], masks: Iterable[Path] = ()) -> list[str]:
    """Return the names of files in a folder that are neither frames, masks nor system files."""
    taken = {path.name for path in files} | _names_within(folder, masks) | SYSTEM_FILES
    return natural_order(entry.name for entry in entries(folder) if not {entry.name, entry.name.lower()} & taken)


class FrameNames:
    """Frame names of a video, with lookup by name or number."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self._known = frozenset(self.names)

    @cached_property
    def _numbered(self) -> tuple[str, dict[int, str]]:
        """Common prefix of all names, and a mapping from number to name; empty if numbers are not unique."""
        found = [match for name in self.names if (match := _NUMBERED.fullmatch(name))]
        numbers = {int(match[2]): match[0] for match in found}
        same = len({match[1] for match in found}) == 1
        return (found[0][1], numbers) if same and len(numbers) == len(self.names) else ("", {})

    def find(self, name: str) -> str | None:
        """Return the frame with this name, or else with this number: `5` or `frame_5` for `frame_00005`."""
        if name in self._known:
            return name
        match, (start, numbers) = _NUMBERED.fullmatch(name), self._numbered
        return numbers.get(int(match[2])) if match and match[1] in ("", start) else None


def is_number(name: str) -> bool:
    """Return True if a name is only a number."""
    return name.isascii() and name.isdecimal() and len(name) <= MOST_DIGITS


def mask_path(folder: Path, stem: str) -> Path:
    """Return the mask path of a frame, with any case of the suffix; the default path if the file is missing."""
    usual = folder / f"{stem}.png"
    if usual.is_file() or not folder.is_dir():
        return usual
    return files_by_stem(folder, MASK_SUFFIXES).get(stem, usual)


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the files in a folder without hidden ones, using the types from the directory listing."""
    with os.scandir(folder) as found:
        return [entry for entry in found if not entry.name.startswith(".") and not _is_folder(entry)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return True for a folder or a link to one; a link that leads to itself is a file, which cannot be read."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def visible(folder: Path) -> list[Path]:
    """Return the entries of a folder in natural order, without hidden ones."""
    return sorted(
        (path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: natural_key(path.name)
    )


def read_text(path: Path) -> str:
    """Read a small UTF-8 file without a byte-order mark. Raises ValueError with its name if that fails."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: cannot be read: not UTF-8 text") from None
