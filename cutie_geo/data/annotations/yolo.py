"""Masks from YOLO's segmentation labels: a text file for each frame, a polygon on each line."""

import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from cutie_geo.config import read_yaml, require
from cutie_geo.data.annotations.polygons import fill_chains
from cutie_geo.data.annotations.shapes import Annotations, FrameFinder, Shape, collect
from cutie_geo.data.io_threads import require_regular
from cutie_geo.data.listing import files_by_stem, read_text

DATA_FILE = "data.yaml"
OBJECTS = "objects"
"""Entry of `data.yaml` that `cutie-geo export` adds: the class of each object id."""
LABELS = "labels"
SUFFIXES = frozenset({".txt"})
CLASSES = "classes"
"""Stem of a list of names that some programs put beside the labels."""
MAX_CLASS = 2**31


def labels_folder(path: Path, video: str) -> Path:
    """Return the folder of a video's label files: `path`, or `labels`, `<video>` or both in it."""
    places = [path / LABELS / video, path / video, path / LABELS, path]
    return next((place for place in places if place.is_dir() and files_by_stem(place, SUFFIXES)), path)


def read_yolo(path: Path, finder: FrameFinder, video: str, size: tuple[int, int]) -> Annotations:
    """Return the masks that YOLO label files hold for a video.

    Each class is an object. Its id is the one that `objects` in `data.yaml` lists, else the class's number plus 1. If
    only one frame has labels, a class may have several lines, and each line is an object.

    Args:
        path: a folder of label files, or one of the folders above it.
        finder: the frames of the video.
        video: its name.
        size: height and width of its frames; polygons are relative to them.

    Raises:
        ValueError: with the file and line, for lines that are no polygons, and for several objects of one class on
            one of several frames, which cannot be matched.
    """
    folder = labels_folder(path, video)
    facts = _facts(folder)
    ids = {label: object_id for object_id, label in facts[OBJECTS].items()}
    shared = len(ids) < len(facts[OBJECTS])
    require(not shared, f"{folder}: several objects have one class; YOLO files do not tell them apart")
    files = files_by_stem(folder, SUFFIXES)
    lines = [line for stem, file in files.items() if stem != CLASSES for line in _lines(file, stem)]
    frames = {stem for stem, _, _, _ in lines}
    counts = Counter((stem, label) for stem, label, _, _ in lines)
    several = not ids and any(count > 1 for count in counts.values())
    if several and len(frames) > 1:
        (stem, label), count = counts.most_common(1)[0]
        raise ValueError(
            f"{folder}: got {count} polygons of class {label} on {stem}, and YOLO's files have no tracks; expected one "
            "object of a class, or the labels of one frame"
        )
    shapes = []
    for stem, label, polygon, where in lines:
        require(not ids or label in ids, f"{where}: got class {label}, expected one of {OBJECTS} in {DATA_FILE}")
        track = None if several else ids.get(label, label + 1)
        name = facts["names"].get(label, "")
        shapes.append(Shape(finder.named(stem, where), track, name, size, partial(_draw, polygon, size, where)))
    return collect(shapes, str(folder))


def _draw(polygon: Float[np.ndarray, "n 2"], size: tuple[int, int], where: str) -> Bool[np.ndarray, "H W"]:
    try:
        return fill_chains([polygon * [size[1], size[0]]], size)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _lines(file: Path, stem: str) -> list[tuple[str, int, Float[np.ndarray, "_ 2"], str]]:
    """Return frame, class and polygon of each line, and its place for errors."""
    require_regular(file)
    found = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        words, where = line.split(), f"{file}:{number}"
        if not words:
            continue
        good = words[0].isascii() and words[0].isdecimal() and len(words[0]) <= 10 and int(words[0]) < MAX_CLASS
        require(good, f"{where}: got class {words[0]!r:.40}, expected a whole number from 0 on")
        require(len(words) != 5, f"{where}: got a box, expected a polygon: class x y x y x y ...")
        count = len(words) - 1
        require(count >= 6 and count % 2 == 0, f"{where}: got {count} numbers, expected x y of three points or more")
        try:
            numbers = [float(word) for word in words[1:]]
        except ValueError:
            raise ValueError(f"{where}: got a word that is not a number, expected class x y x y x y ...") from None
        inside = all(math.isfinite(value) and -1 <= value <= 2 for value in numbers)
        require(
            inside, f"{where}: got a coordinate far outside 0 to 1, expected shares of the frame's width and height"
        )
        found.append((stem, int(words[0]), np.array(numbers).reshape(-1, 2), where))
    return found


def _facts(folder: Path) -> dict[str, dict[int, Any]]:
    """Read names by class, and classes by object id, from the `data.yaml` in a folder or in one of the two above it."""
    place = next(
        (p / DATA_FILE for p in (folder, folder.parent, folder.parent.parent) if (p / DATA_FILE).is_file()), None
    )
    content = {} if place is None else read_yaml(place)
    names, objects = content.get("names") or {}, content.get(OBJECTS) or {}
    names = dict(enumerate(names)) if isinstance(names, list) else names
    good = isinstance(names, dict) and all(type(k) is int and isinstance(v, str) for k, v in names.items())
    require(good, f"{place}: names: expected a name for each class")
    good = isinstance(objects, dict) and all(type(k) is int and type(v) is int for k, v in objects.items())
    require(good, f"{place}: {OBJECTS}: expected a class for each object id")
    return {"names": names, OBJECTS: objects}
