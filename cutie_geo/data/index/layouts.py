"""Folders, lists and `meta.json` files of published data sets."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cutie_geo.config import parse_json, require, require_name
from cutie_geo.data.index.records import is_plain, some, subfolders
from cutie_geo.data.listing import natural_order, read_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """One split of a data set on disk: the folders of its frames and masks, and the names of its videos."""

    frames: Path
    masks: Path
    names: list[str]
    """Names as listed, not validated."""
    inside: tuple[str, str] = ("", "")
    """Subfolders of frames and of masks in each video's folder."""
    listed: Mapping[str, Mapping[int, list[str]]] = field(default_factory=dict)
    """Frames in the data set's own list, by video and object id; empty if it lists ids only."""

    def frames_of(self, name: str) -> Path:
        """Return the folder of a video's frames."""
        return self.frames / name / self.inside[0]

    def masks_of(self, name: str) -> Path:
        """Return the folder of a video's masks."""
        return self.masks / name / self.inside[1]


def listed_videos(layout: Layout, strict: bool) -> dict[str, str | None]:
    """Return the videos of a layout by name, with the fault of each list entry or None.

    Args:
        strict: raise ValueError for the first fault, because a benchmark with missing videos is not comparable.

    Raises:
        ValueError: also if there are no names.
    """
    frames, names = layout.frames, layout.names
    require(bool(names), f"{frames}: no videos, expected one folder of frames for each")
    strange = [name for name in names if not is_plain(name)]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    there = set(subfolders(frames))
    missing = [name for name in names if name not in there and not (is_plain(name) and (frames / name).is_dir())]
    if strict:
        require(not strange, f"{frames}: {some(strange)} as the name of a video, expected a plain folder name")
        require(not twice, f"{frames}: {some(twice)} listed twice")
        require(not missing, f"{frames}: no folder for {len(missing)} of {len(names)} listed videos: {some(missing)}")
    problems: dict[str, str | None] = dict.fromkeys(names)
    problems |= dict.fromkeys(twice, f"{frames}: listed twice")
    problems |= dict.fromkeys(missing, f"{frames}: no folder for this listed video")
    return problems | dict.fromkeys(strange, f"{frames}: expected a plain folder name")


# ------------------------------------------------------------------------------------------------------------ folders
def find_home(root: Path, places: Iterable[str], holds: str = "JPEGImages") -> Path:
    """Return the first of `places` under `root` that has the folder `holds`. Raises ValueError if none has."""
    places = list(places)
    require(
        root.is_dir(), f"{root}: {'not a folder' if root.exists() else 'no such folder'}, expected a dataset's root"
    )
    for place in places:
        if (root / place / holds).is_dir():
            return root / place
    looked = ", ".join(str(Path(place) / holds) for place in places)
    raise ValueError(f"{root}: not the layout of this dataset, expected one of the folders {looked}")


def find_level(home: Path, levels: Iterable[str] = ()) -> tuple[Path, Path]:
    """Return JPEGImages and Annotations of a tree at its first level of `levels`; "" is no level.

    Raises:
        ValueError: if there are no annotations at that level.
    """
    level = next((level for level in levels if subfolders(home / "JPEGImages" / level)), "")
    frames, masks = home / "JPEGImages" / level, home / "Annotations" / level
    require(masks.is_dir(), f"{masks}: no such folder, expected the masks of {frames}")
    return frames, masks


# -------------------------------------------------------------------------------------------------------------- lists
def split_names(home: Path, lists: Iterable[Path], frames: Path) -> list[str]:
    """Return the video names of a split from the first existing list, or all folders if the tree has no lists.

    Raises:
        ValueError: if the tree has lists but not this one, or if the list is empty.
    """
    lists = list(lists)
    path = next((path for path in lists if path.is_file()), None)
    if path is None:
        wanted = " or ".join(str(path) for path in lists[:2])
        require(not (home / "ImageSets").is_dir(), f"{home}: no list of this split, expected {wanted}")
        log.warning("%s: no ImageSets folder, taking every video of %s", home, frames)
        return subfolders(frames)
    names = read_list(path)
    # lists of DAVIS 2016 have one line for each frame
    return list(dict.fromkeys(names)) if path.parent.name == "480p" else names


def read_list(path: Path, may_be_empty: bool = False) -> list[str]:
    """Return the videos in a text file, one per line. Raises ValueError if it is unreadable or empty.

    Args:
        may_be_empty: accept an empty file.
    """
    names = [_listed_name(line) for line in read_text(path).splitlines() if line.strip()]
    require(bool(names) or may_be_empty, f"{path}: empty, expected one video on each line")
    return names


def _listed_name(line: str) -> str:
    """Return the video of a line: the line or, in DAVIS 2016's own lists, the folder of its first frame."""
    first = line.split()[0]
    return first.split("/")[-2] if first.startswith("/JPEGImages/") else line.strip()


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises ValueError with its name if it is invalid."""
    return parse_json(read_text(path), str(path))


def read_videos(path: Path) -> dict[str, Any]:
    """Return the mapping `videos` of a meta.json. Raises ValueError with the file name if it is missing or invalid."""
    content = read_json(path)
    videos = content.get("videos") if isinstance(content, dict) else None
    require(isinstance(videos, dict) and bool(videos), f'{path}: no videos, expected {{"videos": {{name: ...}}}}')
    return videos  # type: ignore[return-value]


def object_frames(video: Any, where: str) -> dict[int, list[str]]:
    """Return the frames of each object in a meta.json, by id and in order; objects without frames are skipped.

    Raises:
        ValueError: starting with `where`, for an invalid entry.
    """
    wanted = f'{where}: expected {{"objects": {{id: {{"frames": [name, ...]}}}}}}'
    try:
        listed = {int(key): natural_order(entry["frames"]) for key, entry in video["objects"].items()}
    except (TypeError, KeyError, ValueError, AttributeError):
        raise ValueError(wanted) from None
    for stem in {stem for stems in listed.values() for stem in stems}:
        require_name(stem, f"{where}: frames")
    return {object_id: stems for object_id, stems in listed.items() if stems}


def only_ids(ids: Any) -> dict[int, list[str]] | None:
    """Return the object ids of a list without frames; None if there are none or the list is invalid."""
    try:
        return {int(object_id): [] for object_id in ids} or None
    except (TypeError, ValueError):
        return None
