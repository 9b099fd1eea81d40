"""Label Studio's JSON tasks with brush masks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import numpy as np
from jaxtyping import Bool

from cutie_geo.data.io_threads import write_bytes
from cutie_geo.data.masks import object_ids
from cutie_geo.data.overlay import colour
from cutie_geo.export.options import ExportOptions
from cutie_geo.export.runs import FinishedVideo
from cutie_geo.export.tables import dump_json
from cutie_geo.structures import ObjectId

FILE, CONFIG = "tasks.json", "label_config.xml"
MODEL_VERSION = "cutie_geo"
SIZES = (3, 4, 8, 16)
"""Bits of the four lengths of runs that the brush format has."""
CHANNELS = 4
"""Channels of brush masks, which are RGBA images."""


def encode_brush(mask: Bool[np.ndarray, "H W"]) -> list[int]:
    """Return a mask in Label Studio's brush format, a list of bytes.

    It is a stream of bits: the number of values in 32, the bits of a value less 1 in 5, the bits of the four lengths
    less 1 in 4 each; then runs: a 1, which length in 2 bits, the length less 1, the value.
    """
    values = mask.ravel()
    edges = np.flatnonzero(values[1:] != values[:-1]) + 1
    begins = np.concatenate([[0], edges])
    lengths = np.diff(np.concatenate([begins, [values.size]])) * CHANNELS
    words = [_bits(values.size * CHANNELS, 32), _bits(7, 5), *(_bits(size - 1, 4) for size in SIZES)]
    for length, on in zip(lengths.tolist(), values[begins].tolist()):
        while length:
            piece = min(length, 2 ** SIZES[-1])
            which = next(i for i, size in enumerate(SIZES) if piece <= 2**size)
            words.append("1" + _bits(which, 2) + _bits(piece - 1, SIZES[which]) + ("1" if on else "0") * 8)
            length -= piece
    bits = "".join(words)
    bits += "0" * (-len(bits) % 8)
    return list(int(bits, 2).to_bytes(len(bits) // 8, "big"))


def write_labelstudio(videos: Sequence[FinishedVideo], output: Path, options: ExportOptions) -> list[Path]:
    """Write `tasks.json`, a task for each frame with its masks as predictions, and the labelling configuration.

    A region's label is the object's name, and its note (`meta.text`) holds the object's id.
    """
    tasks = []
    for video in videos:
        for frame, labels in video.label_maps():
            regions = [_region(labels == i, i, options) for i in options.chosen(object_ids(labels))]
            image = f"{options.image_prefix}{video.name}/{video.file_names[frame]}"
            data = {"image": image, "video": video.name, "frame": frame}
            tasks.append({"data": data, "predictions": [{"model_version": MODEL_VERSION, "result": regions}]})
    objects = sorted({i for video in videos for i in options.chosen(video.objects)})
    write_bytes(output / CONFIG, _config({options.name(i): i for i in reversed(objects)}))
    write_bytes(output / FILE, dump_json(tasks))
    return [output / FILE, output / CONFIG]


def _region(mask: Bool[np.ndarray, "H W"], object_id: ObjectId, options: ExportOptions) -> dict[str, Any]:
    return {
        "id": f"object-{object_id}",
        "type": "brushlabels",
        "from_name": "tag",
        "to_name": "image",
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_brush(mask), "brushlabels": [options.name(object_id)]},
        "meta": {"text": [f"object {object_id}"]},
    }


def _config(names: dict[str, ObjectId]) -> bytes:
    """Return the labelling interface for the tasks, as XML."""
    view = Xml.Element("View")
    Xml.SubElement(view, "Image", {"name": "image", "value": "$image", "zoom": "true"})
    labels = Xml.SubElement(view, "BrushLabels", {"name": "tag", "toName": "image"})
    for name, object_id in reversed(names.items()):
        background = "#{:02x}{:02x}{:02x}".format(*colour(object_id))
        Xml.SubElement(labels, "Label", {"value": name, "background": background})
    Xml.indent(view)
    return Xml.tostring(view, encoding="utf-8")


def _bits(number: int, count: int) -> str:
    return format(number, f"0{count}b")
