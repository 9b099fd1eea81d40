"""Masks as PNG images: indexed, one for each object, or cut out of the frames."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from cutie_geo.config import require
from cutie_geo.data.io_threads import atomic_write
from cutie_geo.data.masks import MAX_PALETTE_ID, write_labels
from cutie_geo.export.options import ExportOptions
from cutie_geo.export.runs import FinishedVideo


def write_davis(videos: Sequence[FinishedVideo], output: Path, options: ExportOptions) -> list[Path]:
    """Write `<video>/<frame>.png`, indexed with the palette of DAVIS.

    Raises:
        ValueError: for ids above 255, before anything is written.
    """
    for video in videos:
        wide = [object_id for object_id in options.chosen(video.objects) if object_id > MAX_PALETTE_ID]
        require(
            not wide,
            f"{video.name}: davis holds ids up to {MAX_PALETTE_ID}; got {wide[:1]}. Choose objects with --objects, or "
            "another format such as coco",
        )
    written = []
    for video in videos:
        for frame, labels in video.label_maps():
            path = output / video.name / f"{frame}.png"
            write_labels(path, options.keep(labels))
            written.append(path)
    return written


def write_binary(videos: Sequence[FinishedVideo], output: Path, options: ExportOptions) -> list[Path]:
    """Write `<video>/<object>/<frame>.png`, 255 on the object and 0 elsewhere, for every frame and object."""
    written = []
    for video in videos:
        objects = options.chosen(video.objects)
        for frame, labels in video.label_maps():
            for object_id in objects:
                path = output / video.name / str(object_id) / f"{frame}.png"
                _save(path, np.where(labels == object_id, np.uint8(255), np.uint8(0)))
                written.append(path)
    return written


def cut_out(image: UInt8[np.ndarray, "H W 3"], labels: Int32[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 4"]:
    """Return the frame as RGBA, opaque on objects; the rest is transparent black."""
    alpha = np.where(labels > 0, np.uint8(255), np.uint8(0))[..., None]
    return np.concatenate([image & alpha, alpha], axis=-1)


def write_cutouts(videos: Sequence[FinishedVideo], output: Path, options: ExportOptions) -> list[Path]:
    """Write `<video>/<frame>.png`, RGBA, for every frame with a mask."""
    written = []
    for video in videos:
        for frame, image, labels in video.frames():
            if labels is not None:
                path = output / video.name / f"{frame}.png"
                _save(path, cut_out(image, options.keep(labels)))
                written.append(path)
    return written


def _save(path: Path, pixels: np.ndarray) -> None:
    with atomic_write(path) as part:
        Image.fromarray(pixels).save(part, format="PNG")
