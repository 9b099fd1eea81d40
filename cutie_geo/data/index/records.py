"""Records of videos and images, built from file names without opening files."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from cutie_geo.config import is_name, require
from cutie_geo.data.listing import IMAGE_SUFFIXES, MASK_SUFFIXES, files_by_stem, frame_files, natural_order
from cutie_geo.data.masks import object_ids, read_input_labels, read_labels
from cutie_geo.data.prompts import FramePrompts
from cutie_geo.data.sources import Source

LISTED = 5
"""Maximum number of names in an error message."""

NOTES = ".cutie_geo"
"""Hidden folder of a run, with a report and a list of written files for each video."""
ANNOTATIONS = "Annotations"
"""Folder of all masks in a folder of results, as in benchmark trees."""

MaskRule = Literal["first", "all", "first_appearance"]


@runtime_checkable
class ClassEncoding(Protocol):
    """Encoding of semantic classes as mask values."""

    @property
    def expected(self) -> str:
        """Description of the valid values, for error messages."""
        ...

    def classes(self, values: Iterable[int]) -> set[int]:
        """Return the classes that mask values stand for."""
        ...

    def invalid(self, values: Iterable[int]) -> list[int]:
        """Return the values that stand neither for a class nor for void."""
        ...


@dataclass(frozen=True)
class VideoRecord:
    """One video with its input masks and the frames to save. Files are named but not opened."""

    name: str
    """Folder of its results."""
    source: Path
    """A folder of frames or a video file."""
    masks: Mapping[str, Path] = field(default_factory=dict)
    """Mask files by the stem of their frame, in frame order."""
    first_mask: Path | None = None
    """A single mask, for the first frame unless it has the name of another (see `read_frames`)."""
    later: Mapping[str, Path] = field(default_factory=dict)
    """Further masks by stem, from which `with_first_appearances` replaces blank or incomplete `masks`."""
    void: int | None = None
    """Label of pixels without a known object; they are background."""
    keep_ids: Mapping[str, frozenset[int]] | None = None
    """Ids to use from a mask, by its stem. None: all."""
    first_appearances_only: bool = False
    """Use each object only in the first mask that shows it; `with_first_appearances` converts this to `keep_ids`."""
    saved: frozenset[str] | None = None
    """Stems of the frames whose results are written. None: all."""
    long_ids: bool = False
    """Masks are RGB: the id is R + 256 G + 65536 B."""
    listed: Mapping[int, list[str]] | None = None
    """Frames in the benchmark's own list, by object id; empty if it lists ids only."""
    prompts: Mapping[str, FramePrompts] = field(default_factory=dict)
    """Prompts by frame stem; `FIRST` is the first frame."""
    problem: str | None = None
    """Why this video cannot be segmented, in one line; other videos are not affected."""
    reader: Source | None = None
    """What the frames are read from instead of `source`: a list of images, a stream, or frames in memory."""

    @property
    def is_stream(self) -> bool:
        """True if the frames can be read only once."""
        return self.reader is not None and not self.reader.files


@dataclass(frozen=True)
class LabelledVideo:
    """One video with all its masks, for training or scoring. Files are named but not opened."""

    name: str
    frames: Mapping[str, Path]
    """Image files by stem, in order."""
    masks: Mapping[str, Path]
    """Mask files by the stem of their frame, in order; a frame may have none."""
    single_object: bool = False
    """All labels above 0 are the object 1."""
    long_ids: bool = False
    """Masks may be RGB: the id is R + 256 G + 65536 B."""
    listed: Mapping[int, list[str]] | None = None
    """Frames in the data set's own list, by object id; empty if it lists ids only."""
    problem: str | None = None
    """Why this video cannot be used, in one line; other videos are not affected."""
    encoding: ClassEncoding | None = None
    """Encoding of semantic classes in masks. None: masks hold object ids."""
    source: Path | None = None
    """Video file or folder with all frames, for own videos; `frames` of a video file are those with masks."""

    @cached_property
    def starts(self) -> Mapping[int, str]:
        """Stem of the first mask of each object, by id: as listed, or by reading every mask once.

        Raises:
            ValueError: with the name of an unreadable file, and for masks of classes.
        """
        require(self.encoding is None, f"{self.name}: masks hold classes, expected object ids")
        if self.listed and all(self.listed.values()):
            return {object_id: stems[0] for object_id, stems in self.listed.items()}
        new = first_appearances(self.masks, self.long_ids)
        if self.single_object:
            return {1: next(iter(new))} if new else {}
        return {object_id: stem for stem, ids in new.items() for object_id in sorted(ids)}


@dataclass(frozen=True)
class ImagePair:
    """One static image with the mask of its object."""

    name: str
    """Set and path within it, without suffix; unique."""
    image: Path
    mask: Path
    times: int = 1
    """Repetitions per epoch."""


# ------------------------------------------------------------------------------------------------------------ reading
def first_appearances(
    masks: Mapping[str, Path], long_ids: bool = False, void: int | None = None
) -> dict[str, frozenset[int]]:
    """Return the ids that no earlier mask shows, by stem; masks without new ids are skipped. Reads every file.

    Raises:
        ValueError: with the name of an unreadable file.
    """
    seen: set[int | None] = {void}
    new: dict[str, frozenset[int]] = {}
    for stem in natural_order(masks):
        ids = frozenset(object_ids(read_input_labels(masks[stem], long_ids, warn=False).labels)) - seen
        if ids:
            new[stem] = ids
            seen |= ids
    return new


def with_first_appearances(record: VideoRecord) -> VideoRecord:
    """Return the record with only the masks in which objects start, reading pixels where necessary.

    All masks are read if the record requests first appearances. Otherwise only the masks chosen by name are read, and
    replaced by later ones if they are blank or lack a listed object.

    Raises:
        ValueError: with the name of an unreadable file.
    """
    if record.first_appearances_only:
        keep = first_appearances(record.masks, record.long_ids, record.void)
        masks = {stem: record.masks[stem] for stem in keep} or dict(record.masks)
        return replace(record, masks=masks, keep_ids=keep, first_appearances_only=False)
    if not record.later:
        return record
    listed = record.keep_ids or {}
    shown = {stem: _shown(record, path) for stem, path in record.masks.items()}
    if all(listed.get(stem, ids) <= ids if listed else bool(ids) for stem, ids in shown.items()):
        return replace(record, later={})
    every = {**record.masks, **record.later}
    every = {stem: every[stem] for stem in natural_order(every)}
    if not listed:  # only the first mask with an object is needed
        first = next((stem for stem, path in every.items() if _shown(record, path)), None)
        return replace(record, masks=record.masks if first is None else {first: every[first]}, later={})
    wanted = frozenset[int]().union(*listed.values())
    found = first_appearances(every, record.long_ids, record.void)
    keep = {stem: ids & wanted for stem, ids in found.items() if ids & wanted}
    return replace(record, masks={stem: every[stem] for stem in keep} or record.masks, keep_ids=keep, later={})


def _shown(record: VideoRecord, path: Path) -> frozenset[int]:
    """Return the object ids in a mask of the record."""
    return frozenset(object_ids(read_labels(path, record.long_ids).labels)) - {record.void}


# ------------------------------------------------------------------------------------------------------------ folders
def frame_stems(folder: Path) -> list[str]:
    """Return the stems of frames in a folder, in natural order. Raises ValueError if two files share one."""
    return list(frame_files(folder))


def mask_files(folder: Path) -> dict[str, Path]:
    """Return the masks in a folder by stem, in natural order; empty if the folder is missing.

    Raises:
        ValueError: if two files share a stem.
    """
    return files_by_stem(folder, MASK_SUFFIXES) if folder.is_dir() else {}


def masks_root(folder: Path) -> Path:
    """Return the folder with one folder of masks per video: `folder`, or its `Annotations` if that has folders."""
    inner = folder / ANNOTATIONS
    return inner if subfolders(inner) else folder


def subfolders(folder: Path) -> list[str]:
    """Return the names of visible folders in a folder, sorted; empty if the folder is missing."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


# ----------------------------------------------------------------------------------------------------------- messages
def mismatch(source: Path, stems: Iterable[str], folder: Path, masks: Mapping[str, Path]) -> str | None:
    """Return why the masks of `folder` do not fit the frames of `source`, or None if they do."""
    stems = list(stems)
    if not stems:
        return no_frames(source)
    if not masks:
        return f"{folder}: no masks, expected PNG files named after the frames"
    if strangers := natural_order(set(masks) - set(stems)):
        return f"{folder}: no frame for the masks {some(strangers)}; frames are named {stems[0]} to {stems[-1]}"
    return None


def no_frames(source: Path) -> str:
    """Return the error text for a folder without images."""
    return f"{source}: no frames, expected {', '.join(sorted(IMAGE_SUFFIXES))} files"


def is_plain(name: str) -> bool:
    """Return True if a name is a single folder name on every system."""
    return is_name(name) and not set(name) & set(':*?"<>|')


def some(names: list[str]) -> str:
    """Return the first few names and the number of the others."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
