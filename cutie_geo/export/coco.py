"""COCO's instances JSON, and YouTube-VIS' JSON of videos."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from pycocotools import mask as coco_mask

from cutie_geo.data.annotations.polygons import outlines
from cutie_geo.data.io_threads import write_bytes
from cutie_geo.data.masks import object_ids
from cutie_geo.export.options import ExportOptions
from cutie_geo.export.runs import FinishedVideo
from cutie_geo.export.tables import box_of, dump_json
from cutie_geo.structures import ObjectId

FILE = "instances.json"

Rle = dict[str, Any]


def encode_rle(mask: Bool[np.ndarray, "H W"]) -> Rle:
    """Return a mask as COCO's compressed run lengths, ready for JSON."""
    rle: Any = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def write_coco(videos: Sequence[FinishedVideo], output: Path, options: ExportOptions) -> list[Path]:
    """Write `instances.json`: an image for each frame, an annotation for each object visible on it.

    `track_id` is the object's id. Objects of one name share a category.
    """
    names = category_ids(videos, options)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for video_id, video in enumerate(videos, start=1):
        height, width = video.size
        for frame, labels in video.label_maps():
            file = f"{options.image_prefix}{video.name}/{video.file_names[frame]}"
            image = {"id": len(images) + 1, "file_name": file, "height": height, "width": width}
            images.append(image | {"video_id": video_id, "frame_id": video.positions[frame]})
            for object_id in options.chosen(object_ids(labels)):
                mask = labels == object_id
                annotation = {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": names[options.name(object_id)],
                    "track_id": object_id,
                    "segmentation": _segmentation(mask, options),
                    "area": int(mask.sum()),
                    "bbox": _bbox(mask),
                    "iscrowd": 0,
                }
                score = video.presence.get(object_id, {}).get(frame)
                annotations.append(annotation if score is None else annotation | {"score": score})
    content = {
        "info": {"description": "Written by cutie_geo"},
        "videos": [{"id": i, "name": video.name} for i, video in enumerate(videos, start=1)],
        "images": images,
        "annotations": annotations,
        "categories": _categories(names),
    }
    write_bytes(output / FILE, dump_json(content))
    return [output / FILE]


def write_youtubevis(videos: Sequence[FinishedVideo], output: Path, options: ExportOptions) -> list[Path]:
    """Write `instances.json`: an annotation for each object of a video, with run lengths for each frame.

    `object_id` is the object's id; frames on which it is not visible have null.
    """
    names = category_ids(videos, options)
    listed: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for video_id, video in enumerate(videos, start=1):
        height, width = video.size
        files = [f"{options.image_prefix}{video.name}/{video.file_names[frame]}" for frame in video.masks]
        size = {"height": height, "width": width, "length": len(files)}
        listed.append({"id": video_id, "file_names": files} | size)
        objects = options.chosen(video.objects)
        masks: dict[ObjectId, dict[str, list[Any]]] = {
            i: {"segmentations": [], "bboxes": [], "areas": []} for i in objects
        }
        for _, labels in video.label_maps():
            for object_id in objects:
                mask = labels == object_id
                seen = bool(mask.any())
                masks[object_id]["segmentations"].append(encode_rle(mask) if seen else None)
                masks[object_id]["bboxes"].append(_bbox(mask) if seen else None)
                masks[object_id]["areas"].append(int(mask.sum()) if seen else None)
        for object_id in objects:
            category = names[options.name(object_id)]
            one = {"id": len(annotations) + 1, "video_id": video_id, "category_id": category, "object_id": object_id}
            annotations.append(one | size | {"iscrowd": 0} | masks[object_id])
    info = {"description": "Written by cutie_geo"}
    content = {"info": info, "videos": listed, "annotations": annotations, "categories": _categories(names)}
    write_bytes(output / FILE, dump_json(content))
    return [output / FILE]


def category_ids(videos: Sequence[FinishedVideo], options: ExportOptions, first: int = 1) -> dict[str, int]:
    """Return the number of each category by name, counted from `first` in the order of the objects' ids."""
    objects = sorted({object_id for video in videos for object_id in options.chosen(video.objects)})
    names = dict.fromkeys(options.name(object_id) for object_id in objects)
    return {name: number for number, name in enumerate(names, start=first)}


def _categories(names: dict[str, int]) -> list[dict[str, Any]]:
    return [{"id": number, "name": name, "supercategory": "object"} for name, number in names.items()]


def _segmentation(mask: Bool[np.ndarray, "H W"], options: ExportOptions) -> Rle | list[list[float]]:
    if options.shapes != "polygons":
        return encode_rle(mask)
    polygons = outlines(mask, options.tolerance)
    return [polygon.ravel().tolist() for polygon in polygons if len(polygon) >= 3]


def _bbox(mask: Bool[np.ndarray, "H W"]) -> list[int]:
    """Return x, y, width and height of a mask's box."""
    x0, y0, x1, y1 = box_of(mask)
    return [x0, y0, x1 - x0, y1 - y0]
