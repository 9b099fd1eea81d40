"""The nouns of the index, and how folders are read: by names alone, without a look at any file."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from cutie_geo.config import require
from cutie_geo.data.masks import object_ids, read_labels
from cutie_geo.data.prompts import FramePrompts
from cutie_geo.data.video import IMAGE_SUFFIXES

MASK_SUFFIXES = frozenset({".png"})
"""Lossy formats blur ids, so masks are PNG files only."""
LISTED = 5
"""Names that an error message spells out before it counts the rest."""

MaskRule = Literal["first", "all", "first_appearance"]
Values = Literal["objects", "vspw", "vipseg"]
"""What the values of a mask are: ids of objects, or classes as VSPW or VIPSeg number them."""


@dataclass(frozen=True)
class VideoRecord:
    """One video, where its masks are and which of its frames are wanted. Files are named, none is open."""

    name: str
    """Folder of its results: a plain name."""
    source: Path
    """A folder of frames or a video file."""
    masks: Mapping[str, Path] = field(default_factory=dict)
    """Mask files by the stem of the frame that each belongs to, in the order of the frames."""
    first_mask: Path | None = None
    """A mask given alone: `read_frames` places it, on the first frame unless it bears the name of another."""
    keep_ids: Mapping[str, frozenset[int]] | None = None
    """By the stem of a mask: the only ids to take from it. None: all that it holds."""
    first_appearances_only: bool = False
    """Take each object from the first mask that shows it; `with_first_appearances` turns this into `keep_ids`."""
    saved: frozenset[str] | None = None
    """Stems of the frames whose results are written. None: all."""
    long_ids: bool = False
    """Masks are RGB: the id is R + 256 G + 65536 B."""
    listed: Mapping[int, list[str]] | None = None
    """By object id, the frames that the benchmark's own list has for it; none where it lists ids only."""
    prompts: Mapping[str, FramePrompts] = field(default_factory=dict)
    """What is pointed at, by the stem of the frame; `FIRST` stands for the first one."""
    problem: str | None = None
    """Why this video can't be segmented, on one line; the others of its list still can."""


@dataclass(frozen=True)
class LabelledVideo:
    """One video with all of its masks: what is trained on, or scored by class. Files are named, none is open."""

    name: str
    frames: Mapping[str, Path]
    """Image files by stem, in order."""
    masks: Mapping[str, Path]
    """Mask files by the stem of the frame that each belongs to, in order; a frame may have none."""
    values: Values = "objects"
    """What the masks hold."""
    single_object: bool = False
    """Every label above 0 is one and the same object, 1."""
    long_ids: bool = False
    """Masks may be RGB: the id is R + 256 G + 65536 B."""
    listed: Mapping[int, list[str]] | None = None
    """By object id, the frames that the data set's own list has for it; none where it lists ids only."""
    problem: str | None = None
    """Why this video can't be used, on one line; the others of its list still can."""

    @cached_property
    def starts(self) -> Mapping[int, str]:
        """By object id, the stem of the first mask that shows it: as listed, else every mask is read, once.

        Raises ValueError naming the file that can't be read, and for masks of classes.
        """
        require(self.values == "objects", f"{self.name}: masks hold classes, which start nowhere")
        if self.listed and all(self.listed.values()):
            return {object_id: stems[0] for object_id, stems in self.listed.items()}
        new = first_appearances(self.masks, self.long_ids)
        if self.single_object:
            return {1: min(new)} if new else {}
        return {object_id: stem for stem, ids in new.items() for object_id in sorted(ids)}


@dataclass(frozen=True)
class ImagePair:
    """One still image and the mask of its object."""

    name: str
    """The set and the path within it, without suffix: plain text that tells pairs apart."""
    image: Path
    mask: Path
    times: int = 1
    """How often one epoch shows it."""


# ------------------------------------------------------------------------------------------------------------ reading
def first_appearances(masks: Mapping[str, Path], long_ids: bool = False) -> dict[str, frozenset[int]]:
    """By stem, the ids that no earlier mask shows; masks without a new one are left out. Reads every file.

    Raises ValueError naming the file that can't be read.
    """
    seen: set[int] = set()
    new: dict[str, frozenset[int]] = {}
    for stem in sorted(masks):
        ids = frozenset(object_ids(read_labels(masks[stem], long_ids).labels)) - seen
        if ids:
            new[stem] = ids
            seen |= ids
    return new


def with_first_appearances(record: VideoRecord) -> VideoRecord:
    """The record with its masks reduced to first appearances, if it asks for that; else the record itself.

    Raises ValueError naming the file that can't be read.
    """
    if not record.first_appearances_only:
        return record
    keep = first_appearances(record.masks, record.long_ids)
    masks = {stem: record.masks[stem] for stem in keep}
    return replace(record, masks=masks, keep_ids=keep, first_appearances_only=False)


# ------------------------------------------------------------------------------------------------------------ folders
def frame_files(folder: Path, suffixes: frozenset[str] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """The images in a folder by stem, in order. Raises ValueError where two files share a stem."""
    return _by_stem(folder, suffixes)


def frame_stems(folder: Path) -> list[str]:
    """Stems of the frames in a folder, in order. Raises ValueError where two files share one."""
    return list(frame_files(folder))


def mask_files(folder: Path) -> dict[str, Path]:
    """The masks in a folder by stem, in order; none where the folder is missing.

    Raises ValueError where two files share a stem.
    """
    return _by_stem(folder, MASK_SUFFIXES) if folder.is_dir() else {}


def _by_stem(folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    """Files with one of `suffixes` (in any case) by stem, sorted; hidden ones are ignored."""
    files: dict[str, Path] = {}
    for stem, suffix, entry in sorted((*os.path.splitext(entry.name), entry.name) for entry in _files(folder)):
        if suffix.lower() in suffixes:
            require(stem not in files, f"{folder}: two files for {stem}, wanted one")
            files[stem] = folder / entry
    return files


def _files(folder: Path) -> list[os.DirEntry[str]]:
    """The files in a folder without hidden ones: the listing says what is a file, so that none is asked by itself."""
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".") and entry.is_file()]


def visible(folder: Path) -> list[Path]:
    """What a folder holds, sorted by name, without hidden files."""
    return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name)


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones; none where the folder is missing."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


# ----------------------------------------------------------------------------------------------------------- messages
def mismatch(source: Path, stems: Iterable[str], folder: Path, masks: Mapping[str, Path]) -> str | None:
    """Why the masks of `folder` don't fit the frames of `source`, if they don't."""
    stems = list(stems)
    if not stems:
        return no_frames(source)
    if not masks:
        return f"{folder}: no masks, wanted PNG files named after the frames"
    if strangers := sorted(set(masks) - set(stems)):
        return f"{folder}: no frame for the masks {some(strangers)}; frames are named {stems[0]} to {stems[-1]}"
    return None


def no_frames(source: Path) -> str:
    """What is said of a folder without images."""
    return f"{source}: no frames, wanted {', '.join(sorted(IMAGE_SUFFIXES))} files"


def is_plain(name: str) -> bool:
    """Whether a name can be that of a folder on every system, and of one right there."""
    return name not in ("", ".", "..") and not set(name) & set('/\\:*?"<>|\0')


def some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
