"""Masks from COCO's instances JSON: polygons and run lengths, with track ids or on a single frame."""

from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool

from cutie_geo.config import require
from cutie_geo.data.annotations.polygons import fill_outlines
from cutie_geo.data.annotations.shapes import Annotations, FrameFinder, Shape, collect
from cutie_geo.data.convert.records import Node, read_json
from cutie_geo.data.convert.rle import decode_rle
from cutie_geo.limits import require_pixels

LARGEST = 2**53
"""Largest number that JSON represents exactly."""
TRACKS = ("track_id", "instance_id", "object_id")
"""Fields of an annotation for the number of its track; CVAT writes them in `attributes`."""


def read_coco(path: Path, finder: FrameFinder, video: str) -> Annotations:
    """Return the masks that a COCO file has for a video.

    Args:
        path: the file.
        finder: the frames of the video.
        video: its name. If images are in several folders, only the folder of this name is read.

    Raises:
        ValueError: with the file and the place in it, for anything but COCO and for frames that the video lacks.
    """
    root = read_json(path)
    names = {_id(entry): entry.key("name").text() for entry in root.key("categories").elements()}
    frames = _frames(root, finder, video)
    shapes = []
    for entry in root.key("annotations").elements():
        image = entry.key("image_id").integer(0, LARGEST)
        if image in frames:
            frame, size = frames[image]
            name = names.get(entry.key("category_id").integer(0, LARGEST), "")
            segmentation = entry.key("segmentation")
            shapes.append(Shape(frame, _track(entry), name, size, partial(decode_segmentation, segmentation, size)))
    return collect(shapes, str(path))


def _frames(root: Node, finder: FrameFinder, video: str) -> dict[int, tuple[str, tuple[int, int]]]:
    """Return the name and the size of each frame by image id."""
    images = root.key("images").elements()
    folders = {_folder(image) for image in images}
    several = len(folders) > 1
    require(not several or video in folders, f"{root.where}: images lie in {len(folders)} folders; got no {video}")
    frames = {}
    for image in images:
        if several and _folder(image) != video:
            continue
        size = image.key("height").integer(1, LARGEST), image.key("width").integer(1, LARGEST)
        _require_pixels(size, image.where)
        frames[_id(image)] = finder.named(image.key("file_name").text(), image.where), size
    return frames


def decode_segmentation(segmentation: Node, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Decode a mask of a COCO file: polygons or run lengths. Raises ValueError with the place in the file."""
    if isinstance(segmentation.value, dict):
        got = tuple(entry.integer(1, LARGEST) for entry in segmentation.key("size").elements())
        require(len(got) == 2, f"{segmentation.where}.size: got {got}, expected height and width")
        require(got == size, f"{segmentation.where}: got a mask (H, W) = {got}, expected {size}")
        return decode_rle(segmentation.key("counts"), size).reshape(size[1], size[0]).T
    polygons = []
    for entry in segmentation.elements():
        numbers = entry.value
        good = isinstance(numbers, list) and all(type(value) in (int, float) for value in numbers)
        if not good or len(numbers) % 2:
            entry.fail("a list of numbers x, y, x, y, ...")
        polygons.append(np.array(numbers, np.float64).reshape(-1, 2))
    try:
        return fill_outlines(polygons, size)
    except ValueError as error:
        raise ValueError(f"{segmentation.where}: {error}") from None


def _folder(image: Node) -> str:
    return PurePosixPath(image.key("file_name").text().replace("\\", "/")).parent.name


def _id(entry: Node) -> int:
    return entry.key("id").integer(0, LARGEST)


def _track(entry: Node) -> int | None:
    """Return the number of an annotation's track; None if it has none."""
    inner = entry.optional("attributes")
    for holder in (entry, inner):
        for name in TRACKS if holder is not None else ():
            if holder is not None and (track := holder.optional(name)) is not None:
                return track.integer(0, LARGEST)
    return None


def _require_pixels(size: tuple[int, int], where: str) -> None:
    try:
        require_pixels(size[1], size[0])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
