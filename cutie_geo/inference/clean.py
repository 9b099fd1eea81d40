"""What users do to label maps before they use them: unsure objects left out, specks removed, holes filled."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Int32

from cutie_geo.config import require
from cutie_geo.structures import ObjectId


@dataclass(frozen=True)
class Cleaning:
    """What is done to a frame's label map, in this order; all off by default. No tracker sees the outcome.

    Raises ValueError for numbers that can't work.
    """

    min_confidence: float = 0.0
    """Objects whose presence (`Segmented.presence`) is below this are left out of the frame; 0 to 1."""
    specks: int = 0
    """An object's separate parts of fewer pixels than this become background, unless it has no larger part."""
    holes: int = 0
    """Background of fewer pixels than this, enclosed by one object alone, becomes that object's."""

    def __post_init__(self) -> None:
        sure = self.min_confidence
        require(math.isfinite(sure) and 0 <= sure <= 1, f"min_confidence: got {sure:g}, wanted 0 to 1")
        for name in ("specks", "holes"):
            pixels = getattr(self, name)
            require(pixels >= 0, f"{name}: got {pixels}, wanted pixels, 0 for none")

    def __bool__(self) -> bool:
        """Whether anything is done at all."""
        return self != Cleaning()

    def __call__(
        self, labels: Int32[np.ndarray, "H W"], presence: Mapping[ObjectId, float]
    ) -> Int32[np.ndarray, "H W"]:
        """The cleaned label map, a new one; areas are counted at its own size, neighbours are the eight around a pixel
        of an object and the four around one of the background."""
        labels = labels.copy()
        unsure = [i for i, sure in presence.items() if sure < self.min_confidence]
        labels[np.isin(labels, unsure)] = 0
        if self.specks:
            for object_id in _ids(labels):
                labels[_specks(labels == object_id, self.specks)] = 0
        return _filled(labels, self.holes) if self.holes else labels


def _ids(labels: np.ndarray) -> list[int]:
    return [int(i) for i in np.unique(labels) if i != 0]


def _components(
    mask: Bool[np.ndarray, "H W"], neighbours: int
) -> tuple[Int32[np.ndarray, "H W"], Int32[np.ndarray, "parts 5"]]:
    """Which connected part each pixel is of, 0 outside; of each part left, top, width, height and area."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=neighbours)
    return np.asarray(parts, np.int32), np.asarray(stats, np.int32)


def _specks(mask: Bool[np.ndarray, "H W"], least: int) -> Bool[np.ndarray, "H W"]:
    """Parts of fewer than `least` pixels; the largest is none, so that a small object doesn't vanish."""
    parts, stats = _components(mask, neighbours=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    small = areas < least
    small[0] = False  # what is around the object
    if len(areas) > 1:
        small[1 + int(areas[1:].argmax())] = False
    return small[parts]


def _filled(labels: Int32[np.ndarray, "H W"], most: int) -> Int32[np.ndarray, "H W"]:
    """Label maps without small holes. What touches the picture's edge is no hole."""
    parts, stats = _components(labels == 0, neighbours=4)
    height, width = labels.shape
    for part, (x, y, w, h, area) in enumerate(stats.tolist()):
        at_edge = x == 0 or y == 0 or x + w == width or y + h == height
        if part == 0 or area >= most or at_edge:
            continue
        window = np.s_[y - 1 : y + h + 1, x - 1 : x + w + 1]
        hole = parts[window] == part
        around = cv2.dilate(hole.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & ~hole
        # a corner of the hole may touch other background, which is not part of it
        enclosing = [i for i in np.unique(labels[window][around]).tolist() if i != 0]
        if len(enclosing) == 1:
            labels[window][hole] = enclosing[0]
    return labels
