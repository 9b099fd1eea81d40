"""Post-processing of label maps: removal of uncertain objects and small components, filling of holes."""

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
    """Post-processing steps for a frame's label map, in this order; all off by default. Trackers are not affected.

    Raises:
        ValueError: For invalid values.
    """

    min_confidence: float = 0.0
    """Minimum presence (`Segmented.presence`) of an object, in [0, 1]; other objects are removed from the frame."""
    small_components: int = 0
    """Minimum size of an object's components, in pixels; smaller ones become background, except the largest."""
    holes: int = 0
    """Minimum size of holes, in pixels; smaller ones that are enclosed by a single object are filled with its id."""

    def __post_init__(self) -> None:
        sure = self.min_confidence
        require(math.isfinite(sure) and 0 <= sure <= 1, f"min_confidence: got {sure:g}, expected 0 to 1")
        for name in ("small_components", "holes"):
            pixels = getattr(self, name)
            require(pixels >= 0, f"{name}: got {pixels}, expected pixels, 0 for none")

    def __bool__(self) -> bool:
        """Return True if any step is enabled."""
        return self != Cleaning()

    def __call__(
        self, labels: Int32[np.ndarray, "H W"], presence: Mapping[ObjectId, float]
    ) -> Int32[np.ndarray, "H W"]:
        """Return a processed copy of the label map.

        Areas are counted at its own size; objects are 8-connected, the background is 4-connected.
        """
        labels = labels.copy()
        unsure = [i for i, sure in presence.items() if sure < self.min_confidence]
        labels[np.isin(labels, unsure)] = 0
        if self.small_components:
            for object_id in _ids(labels):
                labels[_small_components(labels == object_id, self.small_components)] = 0
        return _filled(labels, self.holes) if self.holes else labels


def _ids(labels: np.ndarray) -> list[int]:
    return [int(i) for i in np.unique(labels) if i != 0]


def _components(
    mask: Bool[np.ndarray, "H W"], neighbours: int
) -> tuple[Int32[np.ndarray, "H W"], Int32[np.ndarray, "parts 5"]]:
    """Return the component of each pixel, 0 outside, and left, top, width, height and area of each component."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=neighbours)
    return np.asarray(parts, np.int32), np.asarray(stats, np.int32)


def _small_components(mask: Bool[np.ndarray, "H W"], least: int) -> Bool[np.ndarray, "H W"]:
    """Return the components of fewer than `least` pixels, except the largest, so that small objects remain."""
    parts, stats = _components(mask, neighbours=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    small = areas < least
    small[0] = False  # the background
    if len(areas) > 1:
        small[1 + int(areas[1:].argmax())] = False
    return small[parts]


def _filled(labels: Int32[np.ndarray, "H W"], most: int) -> Int32[np.ndarray, "H W"]:
    """Fill holes of fewer than `most` pixels; regions at the image border are not holes."""
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
