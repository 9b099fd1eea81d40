"""Semantic maps: a class for every pixel, as VSPW and VIPSeg publish them, as panoptic results, and as plain folders.

In memory a map is (H, W) uint8: classes count from 0 on, VOID where there is none. Plain folders hold the same numbers
in PNGs of 8 bits; the data sets' own masks number classes from 1 on, and 0 is void there.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Integer, UInt8

from cutie_geo.config import require
from cutie_geo.data.index.labelled import CLASSES, VOID, classes_among, strange_classes
from cutie_geo.data.index.layouts import Layout, find_home, listed_videos, read_json, read_list
from cutie_geo.data.index.records import frame_files, mask_files
from cutie_geo.data.masks import read_labels, write_labels

UNKNOWN = 254
"""Where a mask holds a value that stands neither for a class nor for void."""
LARGEST = 2**16 - 1
"""Of the values in a mask that isn't RGB."""
SHOWN = 5
"""Strange values that an error names."""
VAL = "val.txt"
NAMES = ("label_num_dic_final.json", "panoVIPSeg_categories.json")
"""Files that name the classes: {name: number from 1 on}, and [{"id": number from 0 on, "name": name}]."""
VSPW_HOMES = (".", "VSPW_480p", "VSPW/VSPW_480p", "VSPW")
VIPSEG_HOMES = (".", "VIPSeg_720P", "VIPSeg/VIPSeg_720P", "VIPSeg")
"""Below a root, where the data sets may lie."""
VIPSEG_MAPS = ("panomasks", "panomasksRGB")
"""Of 16 bits, class * 100 + instance; and the same as ids of segments."""
RESULTS, RESULT_MAPS = "pred.json", "pan_pred"
"""Of panoptic results: their segments, and the folder of their maps."""

Kind = Literal["classes", "vspw", "vipseg", "panoptic"]
"""What the values of a mask are: classes from 0 on, classes as VSPW or VIPSeg number them, or segments' ids."""
Segments = Mapping[int, int]
"""The class, from 0 on, of each segment's id in one panoptic map."""


class SemanticClip(NamedTuple):
    """The semantic maps of one clip: files are named, none is open."""

    name: str
    folder: Path
    """Where its maps should be."""
    maps: Mapping[str, Path]
    """Files by the stem of the frame that each belongs to, in order."""
    kind: Kind = "classes"
    segments: Mapping[str, Segments] | None = None
    """Panoptic maps only: the segments of each frame, by its stem."""
    images: Mapping[str, Path] | None = None
    """The clip's own frames by stem, where they are there."""


class SemanticSet(NamedTuple):
    """The clips of a split and the names of the classes."""

    clips: list[SemanticClip]
    names: tuple[str, ...]
    """CLASSES of them; plain numbers where the data set's files don't tell."""


# ------------------------------------------------------------------------------------------------------- one map
def read_semantic(path: Path, kind: Kind = "classes", segments: Segments | None = None) -> UInt8[np.ndarray, "H W"]:
    """The classes in a mask, from 0 on, VOID where there is none. segments: of a panoptic map, its segments.

    Raises ValueError naming the file if it can't be read or holds something that stands for no class.
    """
    raw = read_labels(path, long_ids=kind == "panoptic").labels
    classes = to_classes(raw, kind, segments)
    require(not (classes == UNKNOWN).any(), f"{path}: {unknown_values(raw, classes, kind)}")
    return classes


def write_semantic(path: Path, classes: Integer[np.ndarray, "H W"]) -> None:
    """Write classes from 0 on, and VOID, to an indexed PNG of 8 bits, whole or not at all.

    Raises ValueError for other values, before anything is written, and OSError naming the file if writing fails.
    """
    strange = np.unique(classes[(classes < 0) | (classes >= CLASSES) & (classes != VOID)])
    require(not strange.size, f"{path}: got values {strange[:SHOWN].tolist()}, {_wanted('classes')}")
    write_labels(path, classes)


def to_classes(
    raw: Integer[np.ndarray, "H W"], kind: Kind, segments: Segments | None = None
) -> UInt8[np.ndarray, "H W"]:
    """A mask's values as classes: VOID where there is none, UNKNOWN where a value means nothing."""
    if kind != "panoptic":
        table = _class_table(kind)
        return cv2.LUT(raw, table[:256]) if raw.dtype == np.uint8 else table[raw]
    table = np.full(int(raw.max()) + 1, UNKNOWN, np.uint8)  # 16 MB at most: ids of RGB masks have 24 bits
    table[0] = VOID
    for segment, number in (segments or {}).items():
        if 0 <= segment < len(table):
            table[segment] = number
    return table[raw]


def unknown_values(raw: Integer[np.ndarray, "H W"], classes: UInt8[np.ndarray, "H W"], kind: Kind) -> str:
    """What is wrong with a mask whose `classes` are UNKNOWN somewhere: got and wanted."""
    strange = np.unique(raw[classes == UNKNOWN])
    more = " and more" if strange.size > SHOWN else ""
    return f"got values {', '.join(map(str, strange[:SHOWN].tolist()))}{more}, {_wanted(kind)}"


def _wanted(kind: Kind) -> str:
    if kind == "panoptic":
        return "wanted ids that the panoptic JSON lists for this frame, or 0"
    first, void = (0, str(VOID)) if kind == "classes" else (1, f"0 or {VOID}" if kind == "vspw" else "0")
    return f"wanted classes {first} to {first + CLASSES - 1}, and {void} where there is none"


@lru_cache
def _class_table(kind: Kind) -> UInt8[np.ndarray, "values"]:
    """The class of every value that a mask without colours can hold."""
    table = np.full(LARGEST + 1, VOID, np.uint8)
    if kind == "classes":
        table[:] = UNKNOWN
        table[:CLASSES] = np.arange(CLASSES)
        table[VOID] = VOID
        return table
    assert kind != "panoptic", "whose values mean something else in every frame"
    for value in range(LARGEST + 1):
        for number in classes_among((value,), kind):
            table[value] = number - 1
    table[strange_classes(list(range(LARGEST + 1)), kind)] = UNKNOWN
    return table


# ------------------------------------------------------------------------------------------------------ data sets
def find_vspw(root: Path, names: Path | None = None) -> SemanticSet:
    """The true maps of VSPW, `data/<clip>/mask/*.png` in a root that has `data`. names: a list of clips, by default the
    root's val.txt. Images are optional. Raises ValueError for another layout and for clips that aren't there.
    """
    home = find_home(root, VSPW_HOMES, "data")
    layout = Layout(home / "data", home / "data", read_list(names or home / VAL), inside=("origin", "mask"))
    return SemanticSet(_clips(layout, "vspw"), class_names(home))


def find_vipseg(root: Path, names: Path | None = None) -> SemanticSet:
    """The true maps of VIPSeg: `panomasks/<clip>/*.png`, or `panomasksRGB/` with panoptic_gt_VIPSeg_val.json.

    names: a list of clips, by default val.txt in the root or above it, else the clips of that JSON. Images are
    optional. Raises ValueError for another layout and for clips that aren't there.
    """
    held = [folder for folder in VIPSEG_MAPS if any((root / place / folder).is_dir() for place in VIPSEG_HOMES)]
    folder = held[0] if held else VIPSEG_MAPS[0]
    home = find_home(root, VIPSEG_HOMES, folder)
    kind: Kind = "vipseg" if folder == VIPSEG_MAPS[0] else "panoptic"
    listed = names or next((path for path in (home / VAL, home.resolve().parent / VAL) if path.is_file()), None)
    panoptic = listed is None or kind == "panoptic"
    segments = read_panoptic(home / "panoptic_gt_VIPSeg_val.json") if panoptic else {}
    images = home / ("images" if (home / "images").is_dir() else "imgs")
    layout = Layout(images, home / folder, read_list(listed) if listed else sorted(segments))
    return SemanticSet(_clips(layout, kind, segments if kind == "panoptic" else None), class_names(home))


def find_listed(name: Literal["vspw", "vipseg"], root: Path, listed: str) -> SemanticSet:
    """The true maps of VSPW or VIPSeg, of the clips that a file lists, or the file of that name in the data set's root
    or above it. Raises ValueError for one that isn't there, and as `find_vspw` and `find_vipseg`."""
    find, places = {"vspw": (find_vspw, VSPW_HOMES), "vipseg": (find_vipseg, VIPSEG_HOMES)}[name]
    homes = [(root / place).resolve() for place in places]
    paths = [Path(listed), *(home / listed for home in homes), *(home.parent / listed for home in homes)]
    path = next((path for path in paths if path.is_file()), None)
    require(path is not None, f"{root}: no list {listed} of {name}, wanted it there or the path of another")
    return find(root, path)


def _clips(
    layout: Layout, kind: Kind, segments: Mapping[str, Mapping[str, Segments]] | None = None
) -> list[SemanticClip]:
    """The clips of a layout, each with at least one map. Raises ValueError."""
    found = []
    for name in listed_videos(Layout(layout.masks, layout.masks, layout.names), strict=True):
        folder, images = layout.masks_of(name), layout.frames_of(name)
        maps = mask_files(folder)
        require(bool(maps), f"{folder}: no masks, wanted PNG files named after the frames")
        require(segments is None or name in segments, f"{folder}: the panoptic JSON has no segments of {name}")
        own = None if segments is None else segments[name]
        found.append(SemanticClip(name, folder, maps, kind, own, frame_files(images) if images.is_dir() else None))
    return found


def class_names(home: Path) -> tuple[str, ...]:
    """Names of the classes, from the file of NAMES that lies in a data set's root or above it; else numbers.

    Raises ValueError if the file isn't of the form that is published.
    """
    names = {number: str(number) for number in range(CLASSES)}
    path = next(
        (place / name for place in (home, home.resolve().parent) for name in NAMES if (place / name).is_file()), None
    )
    if path is not None:
        content = read_json(path)
        try:
            if isinstance(content, dict):
                names |= {int(number) - 1: str(name) for name, number in content.items()}
            else:
                names |= {int(entry["id"]): str(entry["name"]) for entry in content}
        except (TypeError, KeyError, ValueError):
            raise ValueError(f'{path}: wanted {{name: number}} or [{{"id": number, "name": name}}, ...]') from None
    return tuple(names[number] for number in range(CLASSES))


# -------------------------------------------------------------------------------------------------------- panoptic
def read_panoptic(path: Path) -> dict[str, dict[str, dict[int, int]]]:
    """By clip and by the stem of a frame, the class of each segment's id, as a panoptic JSON of videos tells.

    Raises ValueError naming the file if it can't be read, isn't of that form, or has a class that is none.
    """
    content = read_json(path)
    try:
        clips = {
            str(clip["video_id"]): {Path(frame["file_name"]).stem: _segments(frame) for frame in clip["annotations"]}
            for clip in content["annotations"]
        }
    except (TypeError, KeyError, ValueError):
        form = (
            '{"annotations": [{"video_id", "annotations": [{"file_name", "segments_info": [{"id", "category_id"}]}]}]}'
        )
        raise ValueError(f"{path}: can't be read as panoptic segments of videos, wanted {form}") from None
    strange = {n for frames in clips.values() for own in frames.values() for n in own.values() if not 0 <= n < CLASSES}
    require(not strange, f"{path}: got category_id {sorted(strange)[:SHOWN]}, wanted 0 to {CLASSES - 1}")
    return clips


def _segments(frame: Mapping[str, Any]) -> dict[int, int]:
    return {int(segment["id"]): int(segment["category_id"]) for segment in frame["segments_info"]}


# ----------------------------------------------------------------------------------------------------- predictions
class Predictions(NamedTuple):
    """A folder of predicted maps: `<clip>/<frame>.png`, or panoptic results, whose maps lie in RESULT_MAPS."""

    root: Path
    segments: Mapping[str, Mapping[str, Segments]] | None = None
    """Panoptic results only."""

    def clip(self, name: str) -> SemanticClip:
        """The maps of a clip; none where its folder is missing."""
        if self.segments is None:
            return SemanticClip(name, self.root / name, mask_files(self.root / name))
        folder = self.root / RESULT_MAPS / name
        return SemanticClip(name, folder, mask_files(folder), "panoptic", self.segments.get(name, {}))


def find_predictions(root: Path) -> Predictions:
    """What a folder of predictions holds: panoptic results where it has their files, else maps of classes.

    Raises ValueError if there is no such folder, or if the JSON of panoptic results isn't one.
    """
    require(root.is_dir(), f"{root}: no such folder, wanted predictions, <clip>/<frame>.png")
    panoptic = (root / RESULTS).is_file() and (root / RESULT_MAPS).is_dir()
    return Predictions(root, read_panoptic(root / RESULTS) if panoptic else None)
