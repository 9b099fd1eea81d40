"""Content of annotation files: shapes of objects on frames, painted into label maps one frame at a time."""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from cutie_geo.config import require
from cutie_geo.data.listing import FrameNames
from cutie_geo.data.masks import MAX_LONG_ID
from cutie_geo.data.video import FrameFolder, VideoFile
from cutie_geo.structures import GivenMask, ObjectId

log = logging.getLogger(__name__)

MAX_SHAPES = 1_000_000
"""Maximum number of shapes in one file."""
_LAST_NUMBER = re.compile(r"([0-9]{1,18})$")


class Shape(NamedTuple):
    """One object, or a part of one, on one frame."""

    frame: str
    """Exact name of the frame."""
    track: int | None
    """Number of the object in the file, which may be an invalid id; None if the file has no tracks."""
    name: str
    """Name of the object; empty if it has none."""
    size: tuple[int, int]
    """Height and width of the frame."""
    draw: Callable[[], Bool[np.ndarray, "H W"]]
    """Return the mask of the shape. Raises ValueError with the place in the file if it is invalid."""


@dataclass(frozen=True)
class Annotations:
    """Masks of one video's frames, drawn on demand."""

    shapes: Mapping[str, Sequence[tuple[ObjectId, Shape]]]
    """Shapes by frame name, in painting order: later ones cover earlier ones."""
    names: Mapping[ObjectId, str]
    """Names of the objects that have one."""

    @property
    def ids(self) -> list[ObjectId]:
        """Ids of all objects, ascending."""
        return sorted({object_id for shapes in self.shapes.values() for object_id, _ in shapes})

    def mask(self, frame: str) -> GivenMask:
        """Return the mask of a frame. Raises ValueError for an invalid shape."""
        shapes = self.shapes[frame]
        labels = np.zeros(shapes[0][1].size, np.int32)
        for object_id, shape in shapes:
            labels[shape.draw()] = object_id
        return GivenMask(labels, tuple(sorted({object_id for object_id, _ in shapes})))


class FrameFinder:
    """Lookup of a video's frames by the file names and indices in annotation files."""

    def __init__(self, source: FrameFolder | VideoFile) -> None:
        self._source = source
        self._names = None if source.names is None else FrameNames(source.names)

    def named(self, file: str, where: str) -> str:
        """Return the frame of an image file's name, without regard to its folders.

        Raises:
            ValueError: if there is no such frame.
        """
        stem = PurePosixPath(file.replace("\\", "/")).stem
        if self._names is not None:
            found = self._names.find(stem)
        else:
            number = _LAST_NUMBER.search(stem)
            found = None if number is None else self._numbered(int(number[1]))
        require(found is not None, f"{where}: no frame named {stem!r:.80} in {self._source.path}")
        return str(found)

    def at(self, index: int, where: str) -> str:
        """Return the frame at an index of the video, from 0. Raises ValueError if there is none."""
        if self._names is None:
            found = self._numbered(index)
        else:
            found = self._names.names[index] if 0 <= index < len(self._names.names) else None
        require(found is not None, f"{where}: no frame {index} in {self._source.path}")
        return str(found)

    def _numbered(self, number: int) -> str | None:
        assert isinstance(self._source, VideoFile)
        return f"{number:05d}" if self._source.may_hold(number) else None


def collect(shapes: Iterable[Shape], where: str) -> Annotations:
    """Number the objects and sort their shapes by frame.

    Tracks keep their numbers; if one of them is 0, all are increased by 1. Each shape without a track is an object,
    numbered from 1; this is supported on a single frame only.

    Raises:
        ValueError: if there is no shape, if shapes without tracks are on several frames, and for too large numbers.
    """
    shapes = list(shapes)
    require(bool(shapes), f"{where}: got no masks, expected at least one polygon or mask of an object")
    require(len(shapes) <= MAX_SHAPES, f"{where}: got {len(shapes)} shapes, expected at most {MAX_SHAPES}")
    tracks = {shape.track for shape in shapes}
    if None in tracks:
        frames = sorted({shape.frame for shape in shapes})
        require(
            len(frames) == 1,
            f"{where}: got shapes without tracks on {len(frames)} frames, such as {' and '.join(frames[:2])}; "
            "expected a track for each object, or the shapes of one frame",
        )
        numbered = list(enumerate(shapes, start=1))
    else:
        raised = int(0 in tracks)
        if raised:
            log.warning("%s: tracks are numbered from 0; object ids are these numbers plus 1", where)
        numbered = [(int(shape.track or 0) + raised, shape) for shape in shapes]
    wrong = next((i for i, _ in numbered if not 1 <= i <= MAX_LONG_ID), None)
    require(wrong is None, f"{where}: got object {wrong}, expected 1 to {MAX_LONG_ID}")
    by_frame: dict[str, list[tuple[ObjectId, Shape]]] = {}
    for object_id, shape in numbered:
        by_frame.setdefault(shape.frame, []).append((object_id, shape))
    return Annotations(by_frame, {object_id: shape.name for object_id, shape in numbered if shape.name})
