"""Options of the export of masks."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int32

from cutie_geo.config import read_json, require
from cutie_geo.structures import MAX_OBJECT_ID, ObjectId

Style = Literal["fill", "contour", "popup", "matte", "none"]
Effect = Literal["blur", "pixelate", "cutout"]
STYLES: tuple[Style, ...] = ("fill", "contour", "popup", "matte", "none")
EFFECTS: tuple[Effect, ...] = ("blur", "pixelate", "cutout")
SHAPES = ("masks", "polygons")
CONTAINERS = ("png", "mov", "webm")
LONGEST_NAME = 200


@dataclass(frozen=True)
class ExportOptions:
    """Options of `export_masks`. Each applies only to the formats named in its description."""

    names: Mapping[ObjectId, str] = field(default_factory=dict)
    """Names of objects; the others are called `object <id>`."""
    objects: tuple[ObjectId, ...] = ()
    """The objects to export; empty for all."""
    shapes: str | None = None
    """`masks` or `polygons`: coco (default `masks`), cvat (default `polygons`, which CVAT keeps as tracks)."""
    tolerance: float = 0.0
    """In pixels, by how far simplified polygons may leave the edge; 0 loses nothing."""
    style: Style | None = None
    """overlay: how objects are drawn; None for `fill`, or `none` with an effect."""
    ids: bool | None = None
    """overlay: draw ids; None for yes with `fill` and `contour`, no with the others."""
    trails: int = 0
    """overlay: number of frames whose object centres are joined to a line."""
    effect: Effect | None = None
    """overlay: effect on the pixels of `objects`."""
    container: str = "png"
    """rgba: `png` images, `mov` (ProRes 4444) or `webm` (VP9)."""
    fps: float | None = None
    """overlay, rgba: frames per second; None for those of the source. Other rates leave the sound out."""
    image_prefix: str = ""
    """coco, youtubevis, labelstudio: text before the file names of images."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("--shapes", self.shapes, (None, *SHAPES)),
            ("--style", self.style, (None, *STYLES)),
            ("--effect", self.effect, (None, *EFFECTS)),
            ("--container", self.container, CONTAINERS),
        ):
            require(value in known, f"{name}: got {value}, expected one of {', '.join(filter(None, known))}")
        require(0 <= self.tolerance < math.inf, f"--tolerance: got {self.tolerance}, expected 0 or more")
        require(self.trails >= 0, f"--trails: got {self.trails}, expected 0 or more")
        require(self.fps is None or 0 < self.fps < math.inf, f"--fps: got {self.fps}, expected a positive number")
        for object_id in (*self.objects, *self.names):
            require(1 <= object_id <= MAX_OBJECT_ID, f"object id: got {object_id}, expected 1 to {MAX_OBJECT_ID}")

    def name(self, object_id: ObjectId) -> str:
        """Return the name of an object."""
        return self.names.get(object_id, f"object {object_id}")

    def chosen(self, objects: Iterable[ObjectId]) -> list[ObjectId]:
        """Return those of `objects` that are exported."""
        return [object_id for object_id in objects if not self.objects or object_id in self.objects]

    def keep(self, labels: Int32[np.ndarray, "H W"]) -> Int32[np.ndarray, "H W"]:
        """Return a label map without the objects that are not exported."""
        return np.where(np.isin(labels, self.objects), labels, np.int32(0)) if self.objects else labels


def parse_names(words: Iterable[str]) -> dict[ObjectId, str]:
    """Return the names in `1=knife 2=hand`, or in a JSON file of the form `{"1": "knife"}`.

    Raises:
        ValueError: for anything else.
    """
    names: dict[ObjectId, str] = {}
    for word in words:
        if "=" in word:
            text, _, name = word.partition("=")
            _add(names, text, name, "--names")
            continue
        content = read_json(Path(word))
        require(isinstance(content, dict), f'{word}: expected an object of names by id, such as {{"1": "knife"}}')
        for text, name in content.items():
            _add(names, text, name, word)
    return names


def _add(names: dict[ObjectId, str], text: str, name: object, where: str) -> None:
    good = text.isascii() and text.isdecimal() and len(text) <= 10
    require(good, f"{where}: got {text!r:.40}, expected an object id before the name, as in 1=knife")
    require(int(text) not in names, f"{where}: got object {int(text)} twice, expected one name for each")
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise ValueError(f"{where}: object {text}: got {json.dumps(name)[:60]}, expected a name")
    names[int(text)] = name.strip()
