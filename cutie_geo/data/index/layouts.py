"""Where the files of a published data set are: its folders, its lists, its `meta.json`."""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cutie_geo.config import require
from cutie_geo.data.index.records import is_plain, some, subfolders

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """One split of a data set on disk: the folders of its frames and masks, and the names of its videos."""

    frames: Path
    masks: Path
    names: list[str]
    """As listed, not checked yet."""
    inside: tuple[str, str] = ("", "")
    """Below each video's folder, where its frames and its masks are."""
    listed: Mapping[str, Mapping[int, list[str]]] = field(default_factory=dict)
    """By video and object id, the frames that the data set's own list has; none where it lists ids only."""

    def frames_of(self, name: str) -> Path:
        """Folder of a video's frames."""
        return self.frames / name / self.inside[0]

    def masks_of(self, name: str) -> Path:
        """Folder of a video's masks."""
        return self.masks / name / self.inside[1]


def listed_videos(layout: Layout, strict: bool) -> dict[str, str | None]:
    """The videos of a layout by name, each with what is wrong with its entry in the list, if anything is.

    strict: raise ValueError for the first such thing, since a benchmark with videos missing isn't that benchmark.
    Raises ValueError if there is no name at all.
    """
    frames, names = layout.frames, layout.names
    require(bool(names), f"{frames}: no videos, wanted one folder of frames for each")
    strange = [name for name in names if not is_plain(name)]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    there = set(subfolders(frames))
    missing = [name for name in names if name not in there and not (is_plain(name) and (frames / name).is_dir())]
    if strict:
        require(not strange, f"{frames}: {some(strange)} as the name of a video, wanted a plain folder name")
        require(not twice, f"{frames}: {some(twice)} listed twice")
        require(not missing, f"{frames}: no folder for {len(missing)} of {len(names)} listed videos: {some(missing)}")
    problems: dict[str, str | None] = dict.fromkeys(names)
    problems |= dict.fromkeys(twice, f"{frames}: listed twice")
    problems |= dict.fromkeys(missing, f"{frames}: no folder for this listed video")
    return problems | dict.fromkeys(strange, f"{frames}: wanted a plain folder name")


# ------------------------------------------------------------------------------------------------------------ folders
def find_home(root: Path, places: Iterable[str], holds: str = "JPEGImages") -> Path:
    """The first of `places` under `root` that has the folder `holds`. Raises ValueError if none has."""
    places = list(places)
    require(root.is_dir(), f"{root}: {'not a folder' if root.exists() else 'no such folder'}, wanted a dataset's root")
    for place in places:
        if (root / place / holds).is_dir():
            return root / place
    looked = ", ".join(str(Path(place) / holds) for place in places)
    raise ValueError(f"{root}: not the layout of this dataset, wanted one of the folders {looked}")


def find_level(home: Path, levels: Iterable[str] = ()) -> tuple[Path, Path]:
    """JPEGImages and Annotations of a tree, at the first level of `levels` that it has; "" is none.

    Raises ValueError if there are no annotations at that level.
    """
    level = next((level for level in levels if subfolders(home / "JPEGImages" / level)), "")
    frames, masks = home / "JPEGImages" / level, home / "Annotations" / level
    require(masks.is_dir(), f"{masks}: no such folder, wanted the masks of {frames}")
    return frames, masks


# -------------------------------------------------------------------------------------------------------------- lists
def split_names(home: Path, lists: Iterable[Path], frames: Path) -> list[str]:
    """Names of the videos of a split: from the first of `lists` that exists, or all folders where a tree has no lists.

    Raises ValueError if the tree has lists, but not this one, or if the list is empty.
    """
    lists = list(lists)
    path = next((path for path in lists if path.is_file()), None)
    if path is None:
        wanted = " or ".join(str(path) for path in lists[:2])
        require(not (home / "ImageSets").is_dir(), f"{home}: no list of this split, wanted {wanted}")
        log.warning("%s: no ImageSets folder, taking every video of %s", home, frames)
        return subfolders(frames)
    names = read_list(path)
    # lists of DAVIS 2016 have one line for each frame
    return list(dict.fromkeys(names)) if path.parent.name == "480p" else names


def read_list(path: Path) -> list[str]:
    """The videos that a text file lists, one on each line. Raises ValueError if it can't be read or is empty."""
    names = [_listed_name(line) for line in read_text(path).splitlines() if line.strip()]
    require(bool(names), f"{path}: empty, wanted one video on each line")
    return names


def _listed_name(line: str) -> str:
    """The video of a line: the line itself or, in DAVIS 2016's own lists, the folder of the frame it starts with."""
    first = line.split()[0]
    return first.split("/")[-2] if first.startswith("/JPEGImages/") else line.strip()


def read_text(path: Path) -> str:
    """A small text file. Raises ValueError naming it if it can't be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: can't be read: not UTF-8 text") from None


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises ValueError naming it if it can't be read."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: can't be read as JSON: {error}") from None


def read_videos(path: Path) -> dict[str, Any]:
    """The mapping `videos` of a meta.json. Raises ValueError naming the file if it isn't there or isn't that."""
    content = read_json(path)
    videos = content.get("videos") if isinstance(content, dict) else None
    require(isinstance(videos, dict) and bool(videos), f'{path}: no videos, wanted {{"videos": {{name: ...}}}}')
    return videos  # type: ignore[return-value]


def object_frames(video: Any, where: str) -> dict[int, list[str]]:
    """By object id, the frames that a meta.json lists for it, in order; an object without frames is left out.

    Raises ValueError, which starts with `where`, if the entry is something else.
    """
    wanted = f'{where}: wanted {{"objects": {{id: {{"frames": [name, ...]}}}}}}'
    try:
        listed = {int(key): sorted(entry["frames"]) for key, entry in video["objects"].items()}
    except (TypeError, KeyError, ValueError, AttributeError):
        raise ValueError(wanted) from None
    require(all(isinstance(stem, str) for stems in listed.values() for stem in stems), wanted)
    return {object_id: stems for object_id, stems in listed.items() if stems}


def only_ids(ids: Any) -> dict[int, list[str]] | None:
    """Object ids that a list names without their frames; None where it names none, or something else."""
    try:
        return {int(object_id): [] for object_id in ids} or None
    except (TypeError, ValueError):
        return None
