"""YOLO's segmentation labels: a text file for each frame, normalised polygons, `data.yaml`."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Integer
from PIL import Image

from cutie_geo.config import require
from cutie_geo.data.annotations.polygons import chains
from cutie_geo.data.annotations.yolo import DATA_FILE, LABELS, OBJECTS
from cutie_geo.data.io_threads import atomic_write, write_bytes
from cutie_geo.data.masks import object_ids
from cutie_geo.data.video import FrameFolder
from cutie_geo.export.coco import category_ids
from cutie_geo.export.options import ExportOptions
from cutie_geo.export.runs import FinishedVideo

log = logging.getLogger(__name__)

IMAGES = "images"
WITHIN = 0.25
"""Position of a point within its pixel, from which programs that truncate and programs that round get the pixel."""
JPEG_QUALITY = 95


def write_yolo(videos: Sequence[FinishedVideo], output: Path, options: ExportOptions) -> list[Path]:
    """Write `labels/<video>/<frame>.txt`, `data.yaml` and, if the frames are available, `images/<video>/`.

    Each object is a class, and each of its parts a line. Objects of one name share a class.
    """
    classes = category_ids(videos, options, first=0)
    objects = {i: classes[options.name(i)] for video in videos for i in options.chosen(video.objects)}
    if len(classes) < len(objects):
        log.warning("yolo: objects of one name share a class; the files do not tell them apart")
    written = []
    for video in videos:
        height, width = video.size
        for frame, labels in video.label_maps():
            lines = []
            for object_id in options.chosen(object_ids(labels)):
                mask = labels == object_id
                rings = chains(mask, options.tolerance)
                lines += [_line(objects[object_id], ring, width, height) for ring in rings]
            path = output / LABELS / video.name / f"{frame}.txt"
            write_bytes(path, "".join(lines).encode())
            written.append(path)
        if video.source is not None:
            _copy_images(video, output / IMAGES / video.name)
    facts: dict[str, Any] = {"train": IMAGES, "val": IMAGES, "names": {n: name for name, n in classes.items()}}
    facts[OBJECTS] = dict(sorted(objects.items()))
    write_bytes(output / DATA_FILE, yaml.safe_dump(facts, sort_keys=False, allow_unicode=True).encode())
    return [*written, output / DATA_FILE]


def _line(label: int, ring: Integer[np.ndarray, "_ 2"], width: int, height: int) -> str:
    """Return the line of a class and its normalised polygon. Programs require three points; short rings repeat one."""
    require(width > 0 and height > 0, f"yolo: got a frame of {width}x{height}")
    ring = np.concatenate([ring, np.repeat(ring[-1:], max(0, 3 - len(ring)), axis=0)])
    shares = (ring + WITHIN) / [width, height]
    return " ".join([str(label), *(f"{value:.6f}" for value in shares.ravel())]) + "\n"


def _copy_images(video: FinishedVideo, folder: Path) -> None:
    """Write the frames with masks: copies of image files, or frames of a video file as JPEG."""
    if isinstance(video.source, FrameFolder):
        for frame in video.masks:
            source = video.source.files[frame]
            with atomic_write(folder / source.name) as part:
                shutil.copyfile(source, part)
        return
    for frame, image, labels in video.frames():
        if labels is not None:
            with atomic_write(folder / f"{frame}.jpg") as part:
                Image.fromarray(image).save(part, format="JPEG", quality=JPEG_QUALITY)
