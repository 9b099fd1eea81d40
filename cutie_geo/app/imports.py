"""Import of masks and annotations that the page sends."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from cutie_geo.config import require
from cutie_geo.data.annotations.read import read_annotations
from cutie_geo.data.listing import FrameNames
from cutie_geo.data.masks import object_ids, read_input_labels
from cutie_geo.data.random_access import RandomAccess
from cutie_geo.structures import ObjectId

SUFFIXES = (".png", ".json", ".xml")
SHOWN = 80
"""Characters of a file name in messages."""


class ImportedFrame(NamedTuple):
    """Masks for one frame."""

    index: int
    labels: Int32[np.ndarray, "H W"]
    ids: tuple[ObjectId, ...]
    """Annotated objects; an id without pixels marks an invisible object."""


@dataclass(frozen=True)
class Imported:
    """Masks of a video in an imported file, created on demand, one frame at a time."""

    frames: list[int]
    """Frames with masks."""
    masks: Callable[[], Iterator[ImportedFrame]]
    names: Mapping[ObjectId, str] = field(default_factory=dict)


def read_import(path: Path, name: str, frames: RandomAccess, current: int) -> Imported:
    """Read and check a whole file.

    Args:
        path: the file, with a plain name and the suffix of `name`.
        name: the browser's name of the file, which is looked up among the frames' names.
        frames: the video.
        current: index of the frame for a mask whose name is not that of a frame.

    Raises:
        ValueError: for other content, and for masks of another size.
    """
    suffix, shown = Path(name).suffix.lower(), name[:SHOWN]
    require(suffix in SUFFIXES, f"{shown}: expected masks (.png), COCO (.json) or CVAT (.xml)")
    try:
        imported = _mask(path, name, frames, current) if suffix == ".png" else _annotations(path, frames)
        some = False
        for index, labels, ids in imported.masks():
            where = f"{shown}: frame {index}"
            require(labels.shape == frames.size, f"{where}: mask is (H, W) = {labels.shape}, expected {frames.size}")
            some = some or bool(ids)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), shown)) from None
    require(some, f"{shown}: the masks show no object")
    return imported


def _mask(path: Path, name: str, frames: RandomAccess, current: int) -> Imported:
    found = FrameNames(frames.names).find(Path(name).stem)
    index = current if found is None else frames.names.index(found)
    require(index < len(frames), f"frame: got {index}, expected 0 to {len(frames) - 1}")
    labels = read_input_labels(path, long_ids=True).labels
    return Imported([index], lambda: iter([ImportedFrame(index, labels, object_ids(labels))]))


def _annotations(path: Path, frames: RandomAccess) -> Imported:
    annotations = read_annotations(path, frames.source)
    places = {frame: index for index, frame in enumerate(frames.names)}
    missing = [frame for frame in annotations.shapes if frame not in places]
    require(not missing, f"{path}: no frame {', '.join(missing[:1])} in the video")

    def masks() -> Iterator[ImportedFrame]:
        for frame in annotations.shapes:
            mask = annotations.mask(frame)
            yield ImportedFrame(places[frame], np.asarray(mask.labels, np.int32), mask.ids)

    return Imported([places[frame] for frame in annotations.shapes], masks, annotations.names)
