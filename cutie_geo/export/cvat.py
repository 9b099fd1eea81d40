"""CVAT for video 1.1: an XML file for each video, with a track for each object."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np
from jaxtyping import Bool, Float

from cutie_geo.config import require
from cutie_geo.data.annotations.polygons import outlines
from cutie_geo.data.io_threads import write_bytes
from cutie_geo.data.masks import object_ids
from cutie_geo.data.overlay import colour
from cutie_geo.export.options import ExportOptions
from cutie_geo.export.runs import FinishedVideo
from cutie_geo.export.tables import box_of
from cutie_geo.structures import ObjectId

Outline = Float[np.ndarray, "_ 2"]


def write_cvat(videos: Sequence[FinishedVideo], output: Path, options: ExportOptions) -> list[Path]:
    """Write `<video>.xml` for each video. `group_id` of a track is the object's id.

    Polygons (the default): a track for each part of an object, largest first, with a key frame on each frame and
    `outside` on frames without this part. Masks: a track for each mask, as CVAT itself writes them; CVAT imports them
    as shapes of single frames.
    """
    written = []
    for video in videos:
        objects = options.chosen(video.objects)
        root = _head(video, objects, options)
        (_add_masks if options.shapes == "masks" else _add_polygons)(root, video, objects, options)
        Xml.indent(root)
        path = output / f"{video.name}.xml"
        write_bytes(path, Xml.tostring(root, encoding="utf-8", xml_declaration=True))
        written.append(path)
    return written


def _head(video: FinishedVideo, objects: Sequence[ObjectId], options: ExportOptions) -> Xml.Element:
    """Return the document without tracks: task, labels and size of the frames."""
    root = Xml.Element("annotations")
    _text(root, "version", "1.1")
    task = Xml.SubElement(Xml.SubElement(root, "meta"), "task")
    last = max(video.positions.values())
    for tag, value in (("name", video.name), ("size", last + 1), ("mode", "interpolation"), ("overlap", 0)):
        _text(task, tag, value)
    for tag, value in (("start_frame", 0), ("stop_frame", last), ("frame_filter", "")):
        _text(task, tag, value)
    labels = Xml.SubElement(task, "labels")
    named = {options.name(object_id): object_id for object_id in reversed(objects)}
    for name, object_id in reversed(named.items()):
        label = Xml.SubElement(labels, "label")
        _text(label, "name", name)
        _text(label, "color", "#{:02x}{:02x}{:02x}".format(*colour(object_id)))
        _text(label, "type", "any")
        Xml.SubElement(label, "attributes")
    size = Xml.SubElement(task, "original_size")
    _text(size, "width", video.size[1])
    _text(size, "height", video.size[0])
    _text(task, "source", video.name)
    return root


def _add_polygons(root: Xml.Element, video: FinishedVideo, objects: Sequence[ObjectId], options: ExportOptions) -> None:
    """Add a track for each part of each object."""
    parts: dict[ObjectId, dict[int, list[Outline]]] = {object_id: {} for object_id in objects}
    for frame, labels in video.label_maps():
        for object_id in options.chosen(object_ids(labels)):
            found = [ring for ring in outlines(labels == object_id, options.tolerance) if len(ring) >= 3]
            parts[object_id][video.positions[frame]] = sorted(found, key=_area, reverse=True)
    places = sorted(video.positions.values())
    for object_id in objects:
        for part in range(max(map(len, parts[object_id].values()))):
            track = _track(root, object_id, options)
            last: Outline | None = None
            for place in places:
                rings = parts[object_id].get(place, [])
                ring = rings[part] if part < len(rings) else None
                if ring is None and last is None:
                    continue  # not visible yet, or marked as outside already
                shown = ring if ring is not None else last
                assert shown is not None
                points = ";".join(f"{x:.2f},{y:.2f}" for x, y in shown)
                _shape(track, "polygon", place, outside=ring is None, points=points)
                last = shown if ring is not None else None  # `outside` is written once
    require(len(root) > 2, f"{video.name}: no object in the masks")


def _add_masks(root: Xml.Element, video: FinishedVideo, objects: Sequence[ObjectId], options: ExportOptions) -> None:
    """Add a track for each mask, which ends on the next frame."""
    last = max(video.positions.values())
    for frame, labels in video.label_maps():
        place = video.positions[frame]
        for object_id in objects:
            mask = labels == object_id
            if mask.any():
                track = _track(root, object_id, options)
                run = _mask_attributes(mask)
                _shape(track, "mask", place, outside=False, **run)
                if place < last:
                    _shape(track, "mask", place + 1, outside=True, **run)


def _mask_attributes(mask: Bool[np.ndarray, "H W"]) -> dict[str, str]:
    """Return a mask's box, and its run lengths within the box row by row, background first."""
    x0, y0, x1, y1 = box_of(mask)
    pixels = mask[y0:y1, x0:x1].ravel()
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    runs = np.diff(np.concatenate([[0], edges, [pixels.size]])).tolist()
    runs = [0, *runs] if pixels[0] else runs
    place = {"left": str(x0), "top": str(y0), "width": str(x1 - x0), "height": str(y1 - y0)}
    return {"rle": ", ".join(map(str, runs)), **place}


def _track(root: Xml.Element, object_id: ObjectId, options: ExportOptions) -> Xml.Element:
    number = len(root.findall("track"))
    facts = {"id": str(number), "label": options.name(object_id), "source": "auto", "group_id": str(object_id)}
    return Xml.SubElement(root, "track", facts)


def _shape(track: Xml.Element, tag: str, place: int, outside: bool, **facts: str) -> None:
    flags = {"frame": str(place), "keyframe": "1", "outside": str(int(outside)), "occluded": "0"}
    Xml.SubElement(track, tag, flags | facts | {"z_order": "0"})


def _text(parent: Xml.Element, tag: str, value: object) -> None:
    Xml.SubElement(parent, tag).text = str(value)


def _area(ring: Outline) -> float:
    """Return the area of a polygon; the cuts to its holes have none."""
    x, y = ring.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
