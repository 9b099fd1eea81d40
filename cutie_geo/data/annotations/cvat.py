"""Masks from CVAT's XML (1.1): tracks of a video, or shapes on images."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Bool

from cutie_geo.config import require
from cutie_geo.data.annotations.polygons import fill_outlines
from cutie_geo.data.annotations.shapes import Annotations, FrameFinder, Shape, collect
from cutie_geo.data.io_threads import require_regular
from cutie_geo.data.listing import read_text
from cutie_geo.limits import require_pixels

SHAPES = ("polygon", "mask")
NO_MASKS = ("box", "polyline", "points", "ellipse", "cuboid", "skeleton")


def read_cvat(path: Path, finder: FrameFinder) -> Annotations:
    """Return the masks that a CVAT file has for a video: the key frames of its tracks on which the object is visible.

    If every track has a `group_id`, it is the object's id, so that several tracks can be parts of one object.
    Otherwise each track is an object, numbered from 1 in the order of the file. Shapes of images have no tracks, so
    only one image may have shapes.

    Raises:
        ValueError: with the file and the place in it, for anything but CVAT, for shapes without an area and for
            frames that the video lacks.
    """
    root = _root(path)
    tracks = root.findall("track")
    if not tracks:
        return collect(_image_shapes(root, finder, path), str(path))
    size = _size(root.find("meta//original_size"), f"{path}: original_size")
    groups = [_whole(track, "group_id", f"{path}: track {n}", "0") for n, track in enumerate(tracks)]
    ids = groups if all(groups) else list(range(1, len(tracks) + 1))
    shapes = []
    for object_id, track in zip(ids, tracks):
        for element in _areas(track, f"{path}: track {track.get('id')}"):
            where = f"{path}: track {track.get('id')}, frame {element.get('frame')}"
            if element.get("outside") == "1" or element.get("keyframe") == "0":
                continue
            frame = finder.at(_whole(element, "frame", where), where)
            shapes.append(Shape(frame, object_id, track.get("label", ""), size, partial(_draw, element, size, where)))
    return collect(shapes, str(path))


def _image_shapes(root: ElementTree.Element, finder: FrameFinder, path: Path) -> Iterator[Shape]:
    """Yield the shapes of the images in a file."""
    for image in root.findall("image"):
        where = f"{path}: image {image.get('name', '')!r:.80}"
        elements = list(_areas(image, where))
        if elements:
            size = _whole(image, "height", where), _whole(image, "width", where)
            _require_pixels(size, where)
            frame = finder.named(image.get("name", ""), where)
            for element in elements:
                draw = partial(_draw, element, size, where)
                yield Shape(frame, None, element.get("label", ""), size, draw)


def _root(path: Path) -> ElementTree.Element:
    """Parse a file. Refuses declarations of entities, by which a small file can expand to a large one."""
    require_regular(path)
    text = read_text(path)
    require("<!DOCTYPE" not in text and "<!ENTITY" not in text, f"{path}: got a DOCTYPE, expected CVAT's plain XML")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: not XML: {error}") from None
    require(root.tag == "annotations", f"{path}: got <{root.tag:.40}>, expected CVAT's <annotations>")
    return root


def _areas(parent: ElementTree.Element, where: str) -> Iterator[ElementTree.Element]:
    """Yield the polygons and masks of a track or an image. Raises ValueError for shapes of other kinds."""
    for element in parent:
        require(element.tag not in NO_MASKS, f"{where}: got a <{element.tag}>, expected <polygon> or <mask>")
        if element.tag in SHAPES:
            yield element


def _draw(element: ElementTree.Element, size: tuple[int, int], where: str) -> Bool[np.ndarray, "H W"]:
    try:
        if element.tag == "mask":
            return _mask(element, size)
        points = [[float(value) for value in pair.split(",")] for pair in element.get("points", "").split(";")]
        require(all(len(point) == 2 for point in points), "points: expected x,y;x,y;x,y ...")
        return fill_outlines([np.array(points, np.float64)], size)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _mask(element: ElementTree.Element, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Decode a mask from run lengths: row by row within its box, background first."""
    left, top, width, height = (_whole(element, name, "mask") for name in ("left", "top", "width", "height"))
    inside = width > 0 and height > 0 and left + width <= size[1] and top + height <= size[0]
    require(inside, f"mask: got {width}x{height} at {left},{top}, expected it inside the frame, {size[1]}x{size[0]}")
    runs = np.array([int(word) for word in element.get("rle", "").split(",")], np.int64)
    good = bool((runs >= 0).all() and (runs <= width * height).all()) and int(runs.sum()) == width * height
    require(good, f"mask: got run lengths of other than {width * height} pixels, those of its box")
    canvas = np.zeros(size, bool)
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    canvas[top : top + height, left : left + width] = pixels.reshape(height, width)
    return canvas


def _size(element: ElementTree.Element | None, where: str) -> tuple[int, int]:
    if element is None:
        raise ValueError(f"{where}: missing, expected the width and height of the video")
    try:
        size = int(element.findtext("height", "")), int(element.findtext("width", ""))
    except ValueError:
        raise ValueError(f"{where}: expected whole numbers for width and height") from None
    require(min(size) > 0, f"{where}: got (H, W) = {size}, expected sides of at least one pixel")
    _require_pixels(size, where)
    return size


def _whole(element: ElementTree.Element, name: str, where: str, default: str = "") -> int:
    text = element.get(name, default)
    good = text.isascii() and text.isdecimal() and len(text) <= 9
    require(good, f"{where}: {name}: got {text!r:.40}, expected a whole number")
    return int(text)


def _require_pixels(size: tuple[int, int], where: str) -> None:
    try:
        require_pixels(size[1], size[0])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
