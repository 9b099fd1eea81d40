"""Semantic maps of VSPW and VIPSeg, of panoptic results, and of plain folders.

In memory a map is (H, W) uint8 with classes from 0 on and VOID for no class. Plain folders hold the same values in
8-bit PNGs. The masks of the data sets number classes from 1 on; 0 is void there.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Integer, UInt8

from cutie_geo.config import require, require_name
from cutie_geo.data.index.layouts import Layout, find_home, listed_videos, read_json, read_list
from cutie_geo.data.index.records import frame_files, mask_files, masks_root
from cutie_geo.data.masks import read_labels, write_labels
from cutie_geo.structures import VOID
from cutie_geo.vss.index import CLASSES, VAL, VIPSEG_HOMES, VSPW_HOMES, SemanticEncoding, vipseg_images

UNKNOWN = 254
"""Label of pixels whose value stands neither for a class nor for void."""
LARGEST = 2**16 - 1
"""Largest value in a mask that is not RGB."""
SHOWN = 5
"""Number of invalid values that an error lists."""
NAMES = ("label_num_dic_final.json", "panoVIPSeg_categories.json")
"""Files with class names: {name: number from 1 on}, and [{"id": number from 0 on, "name": name}]."""
VIPSEG_MAPS = ("panomasks", "panomasksRGB")
"""Folders of true maps: 16 bits, class * 100 + instance; and RGB, segment ids."""
RESULTS, RESULT_MAPS = "pred.json", "pan_pred"
"""File of segments and folder of maps in panoptic results."""

Kind = Literal["classes", "vspw", "vipseg", "panoptic"]
"""Encoding of a mask: classes from 0 on, classes as numbered by VSPW or VIPSeg, or segment ids."""
Segments = Mapping[int, int]
"""Class, from 0 on, of each segment id in one panoptic map."""


class SemanticClip(NamedTuple):
    """Files of the semantic maps of one clip."""

    name: str
    folder: Path
    """Folder of its maps."""
    maps: Mapping[str, Path]
    """Files by the stem of their frame, in order."""
    kind: Kind = "classes"
    segments: Mapping[str, Segments] | None = None
    """Segments of each frame by its stem, for panoptic maps only."""
    images: Mapping[str, Path] | None = None
    """Image files of the clip by stem, if available."""


class SemanticSet(NamedTuple):
    """Clips of a split, and class names."""

    clips: list[SemanticClip]
    names: tuple[str, ...]
    """CLASSES names; plain numbers if the data set has no file of names."""


# ------------------------------------------------------------------------------------------------------- one map
def read_semantic(path: Path, kind: Kind = "classes", segments: Segments | None = None) -> UInt8[np.ndarray, "H W"]:
    """Read the classes of a mask.

    Args:
        path: PNG file.
        kind: encoding of its values.
        segments: classes of the segment ids, for a panoptic map.

    Returns:
        Classes from 0 on, VOID for none.

    Raises:
        ValueError: if the file cannot be read, or a value stands for no class.
    """
    raw = read_labels(path, long_ids=kind == "panoptic").labels
    classes = to_classes(raw, kind, segments)
    require(not (classes == UNKNOWN).any(), f"{path}: {unknown_values(raw, classes, kind)}")
    return classes


def write_semantic(path: Path, classes: Integer[np.ndarray, "H W"]) -> None:
    """Write classes from 0 on, and VOID, to an indexed 8-bit PNG, atomically.

    Raises:
        ValueError: if there are other values; nothing is written then.
        OSError: if the file cannot be written.
    """
    strange = np.unique(classes[(classes < 0) | (classes >= CLASSES) & (classes != VOID)])
    require(not strange.size, f"{path}: got values {strange[:SHOWN].tolist()}, {_expected('classes')}")
    write_labels(path, classes)


def to_classes(
    raw: Integer[np.ndarray, "H W"], kind: Kind, segments: Segments | None = None
) -> UInt8[np.ndarray, "H W"]:
    """Convert mask values to classes: VOID for none, UNKNOWN for invalid values."""
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
    """Describe the invalid values of a mask whose `classes` are UNKNOWN somewhere."""
    strange = np.unique(raw[classes == UNKNOWN])
    more = " and more" if strange.size > SHOWN else ""
    return f"got values {', '.join(map(str, strange[:SHOWN].tolist()))}{more}, {_expected(kind)}"


def _expected(kind: Kind) -> str:
    if kind == "panoptic":
        return "expected ids that the panoptic JSON lists for this frame, or 0"
    first, void = (0, str(VOID)) if kind == "classes" else (1, f"0 or {VOID}" if kind == "vspw" else "0")
    return f"expected classes {first} to {first + CLASSES - 1}, and {void} where there is none"


@lru_cache
def _class_table(kind: Kind) -> UInt8[np.ndarray, "values"]:
    """Return the class of every value that a mask can hold, unless it is RGB."""
    table = np.full(LARGEST + 1, VOID, np.uint8)
    if kind == "classes":
        table[:] = UNKNOWN
        table[:CLASSES] = np.arange(CLASSES)
        table[VOID] = VOID
        return table
    assert kind != "panoptic", "panoptic values differ from frame to frame"
    decoded = SemanticEncoding(kind).decode(np.arange(LARGEST + 1, dtype=np.int64))
    table[decoded > 0] = decoded[decoded > 0] - 1
    table[decoded < 0] = UNKNOWN
    return table


# ------------------------------------------------------------------------------------------------------ data sets
def find_vspw(root: Path, names: Path | None = None) -> SemanticSet:
    """Return the true maps of VSPW, `data/<clip>/mask/*.png`; images are optional.

    Args:
        root: folder of the data set, or one above it.
        names: a file that lists clips; val.txt in the data set by default.

    Raises:
        ValueError: if the folders have another layout, or a clip is missing.
    """
    home = find_home(root, VSPW_HOMES, "data")
    layout = Layout(home / "data", home / "data", read_list(names or home / VAL), inside=("origin", "mask"))
    return SemanticSet(_clips(layout, "vspw"), class_names(home))


def find_vipseg(root: Path, names: Path | None = None) -> SemanticSet:
    """Return the true maps of VIPSeg: `panomasks/<clip>/*.png`, or `panomasksRGB/` with panoptic_gt_VIPSeg_val.json.

    Args:
        root: folder of the data set, or one above it; images are optional.
        names: a file that lists clips; by default val.txt in the data set or above it, else the clips of that JSON.

    Raises:
        ValueError: if the folders have another layout, or a clip is missing.
    """
    held = [folder for folder in VIPSEG_MAPS if any((root / place / folder).is_dir() for place in VIPSEG_HOMES)]
    folder = held[0] if held else VIPSEG_MAPS[0]
    home = find_home(root, VIPSEG_HOMES, folder)
    kind: Kind = "vipseg" if folder == VIPSEG_MAPS[0] else "panoptic"
    listed = names or next((path for path in (home / VAL, home.resolve().parent / VAL) if path.is_file()), None)
    panoptic = listed is None or kind == "panoptic"
    segments = read_panoptic(home / "panoptic_gt_VIPSeg_val.json") if panoptic else {}
    layout = Layout(vipseg_images(home), home / folder, read_list(listed) if listed else sorted(segments))
    return SemanticSet(_clips(layout, kind, segments if kind == "panoptic" else None), class_names(home))


def find_listed(name: Literal["vspw", "vipseg"], root: Path, listed: str) -> SemanticSet:
    """Return the true maps of the clips in a list.

    Args:
        name: the data set.
        root: its folder, or one above it.
        listed: a file that lists clips: a path, or its name in the data set or above it.

    Raises:
        ValueError: if the list or a clip is missing, or the folders have another layout.
    """
    find, places = {"vspw": (find_vspw, VSPW_HOMES), "vipseg": (find_vipseg, VIPSEG_HOMES)}[name]
    homes = [(root / place).resolve() for place in places]
    paths = [Path(listed), *(home / listed for home in homes), *(home.parent / listed for home in homes)]
    path = next((path for path in paths if path.is_file()), None)
    require(path is not None, f"{root}: no list {listed} of {name}; expected it there, or the path of another")
    return find(root, path)


def _clips(
    layout: Layout, kind: Kind, segments: Mapping[str, Mapping[str, Segments]] | None = None
) -> list[SemanticClip]:
    """Return the clips of a layout. Raises ValueError for a clip without maps."""
    found = []
    for name in listed_videos(Layout(layout.masks, layout.masks, layout.names), strict=True):
        folder, images = layout.masks_of(name), layout.frames_of(name)
        maps = mask_files(folder)
        require(bool(maps), f"{folder}: no masks, expected PNG files named after the frames")
        require(segments is None or name in segments, f"{folder}: the panoptic JSON has no segments of {name}")
        own = None if segments is None else segments[name]
        found.append(SemanticClip(name, folder, maps, kind, own, frame_files(images) if images.is_dir() else None))
    return found


def class_names(home: Path) -> tuple[str, ...]:
    """Return the class names from a file of NAMES in the data set or above it; else plain numbers.

    Raises:
        ValueError: if the file has another form.
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
            raise ValueError(f'{path}: expected {{name: number}} or [{{"id": number, "name": name}}, ...]') from None
    return tuple(names[number] for number in range(CLASSES))


# -------------------------------------------------------------------------------------------------------- panoptic
def read_panoptic(path: Path) -> dict[str, dict[str, dict[int, int]]]:
    """Read the class of each segment id from a panoptic JSON of videos, by clip and by the stem of the frame.

    Raises:
        ValueError: if the file cannot be read, has another form, or an invalid class.
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
        raise ValueError(f"{path}: not a panoptic JSON of videos; expected {form}") from None
    for stem in {*clips, *(stem for frames in clips.values() for stem in frames)}:
        require_name(stem, str(path))
    strange = {n for frames in clips.values() for own in frames.values() for n in own.values() if not 0 <= n < CLASSES}
    require(not strange, f"{path}: got category_id {sorted(strange)[:SHOWN]}, expected 0 to {CLASSES - 1}")
    return clips


def _segments(frame: Mapping[str, Any]) -> dict[int, int]:
    return {int(segment["id"]): int(segment["category_id"]) for segment in frame["segments_info"]}


# ----------------------------------------------------------------------------------------------------- predictions
class Predictions(NamedTuple):
    """Folder of predicted maps: `<clip>/<frame>.png`, or panoptic results with maps in RESULT_MAPS."""

    root: Path
    segments: Mapping[str, Mapping[str, Segments]] | None = None
    """Segments by clip and frame, for panoptic results only."""

    def clip(self, name: str) -> SemanticClip:
        """Return the maps of a clip; none if its folder is missing."""
        if self.segments is None:
            return SemanticClip(name, self.root / name, mask_files(self.root / name))
        folder = self.root / RESULT_MAPS / name
        return SemanticClip(name, folder, mask_files(folder), "panoptic", self.segments.get(name, {}))


def find_predictions(root: Path) -> Predictions:
    """Return the predictions in a folder: panoptic results if it has their files, else maps of classes.

    Raises:
        ValueError: if there is no such folder, or the panoptic JSON is invalid.
    """
    require(root.is_dir(), f"{root}: no such folder, expected predictions, <clip>/<frame>.png")
    panoptic = (root / RESULTS).is_file() and (root / RESULT_MAPS).is_dir()
    return Predictions(root, read_panoptic(root / RESULTS)) if panoptic else Predictions(masks_root(root))
