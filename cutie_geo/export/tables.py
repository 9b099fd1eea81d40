"""Boxes and areas by frame as CSV, and helpers of the text formats."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool

from cutie_geo.data.io_threads import write_bytes
from cutie_geo.export.options import ExportOptions
from cutie_geo.export.runs import FinishedVideo

FILE = "boxes.csv"
COLUMNS = ("video", "frame", "object", "name", "x0", "y0", "x1", "y1", "area", "score")


def box_of(mask: Bool[np.ndarray, "H W"]) -> tuple[int, int, int, int]:
    """Return the box x0, y0, x1, y1 of a mask, half open: x1 and y1 are the first column and row outside."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return x, y, x + width, y + height


def dump_json(content: Any) -> bytes:
    """Return compact JSON."""
    return (json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n").encode()


def write_csv(videos: Sequence[FinishedVideo], output: Path, options: ExportOptions) -> list[Path]:
    """Write `boxes.csv`: a line for each frame and object. If it is not visible, its area is 0 and its box empty.

    Scores are those that the run recorded; missing ones are empty.
    """
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for video in videos:
        objects = options.chosen(video.objects)
        for frame, labels in video.label_maps():
            for object_id in objects:
                mask = labels == object_id
                area = int(mask.sum())
                box = box_of(mask) if area else ("",) * 4
                score = video.presence.get(object_id, {}).get(frame, "")
                rows.writerow([video.name, frame, object_id, options.name(object_id), *box, area, score])
    write_bytes(output / FILE, text.getvalue().encode())
    return [output / FILE]
