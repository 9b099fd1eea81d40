"""The result of one frame, in the forms that other programs take."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int32, UInt8
from PIL import Image
from torch import Tensor

from cutie_geo.config import require
from cutie_geo.data.annotations.polygons import outlines
from cutie_geo.data.overlay import draw
from cutie_geo.export.coco import Rle, encode_rle
from cutie_geo.export.tables import box_of
from cutie_geo.inference.segment import presence
from cutie_geo.structures import ObjectId

if TYPE_CHECKING:
    from supervision import Detections


@dataclass(frozen=True, eq=False)
class FrameResult:
    """Objects of one frame, as `cutie_geo.track` yields them. Everything has the frame's own size.

    >>> import cutie_geo
    >>> first_mask = cutie_geo.example_masks() / "00000.png"
    >>> result = next(cutie_geo.track(cutie_geo.example_frames(), mask=first_mask, max_internal_size=96))
    >>> result.index, result.name, result.image.shape, result.labels.dtype, list(result.masks)
    (0, '00000', (180, 320, 3), dtype('int32'), [1, 2, 3])
    >>> result.boxes[1]
    (188, 77, 279, 165)
    >>> x0, y0, x1, y1 = result.boxes[1]
    >>> bool(result.masks[1][y0:y1, x0:x1].sum() == result.masks[1].sum())
    True
    >>> result.plot().size, result.rle(1)["size"], len(result.polygons(1))
    ((320, 180), [180, 320], 1)
    """

    index: int
    """Number of the frame, from 0. Frames that a live source dropped are counted."""
    name: str
    """Name of the frame: the stem of its file, or its number."""
    image: UInt8[np.ndarray, "H W 3"] = field(repr=False)
    """RGB pixels."""
    labels: Int32[np.ndarray, "H W"] = field(repr=False)
    """Label map: object ids, 0 for background."""
    ids: tuple[ObjectId, ...]
    """Ids of all tracked objects, visible or not, in the order of their channels in `probs`."""
    _probs: Float[Tensor, "N1 H W"] = field(repr=False)
    latency: float | None = None
    """Seconds from the arrival of a live frame to its result; None for other sources."""

    @cached_property
    def probs(self) -> Float32[np.ndarray, "N1 H W"]:
        """Probabilities: background, then `ids` in order."""
        return self._probs.detach().to("cpu", torch.float32).numpy()

    @cached_property
    def masks(self) -> dict[ObjectId, Bool[np.ndarray, "H W"]]:
        """Mask of each object by id; without pixels if the object is not seen."""
        return {i: self.labels == i for i in self.ids}

    @cached_property
    def boxes(self) -> dict[ObjectId, tuple[int, int, int, int]]:
        """Box (x0, y0, x1, y1) of each visible object in pixels, half open; objects that are not seen are missing."""
        return {i: box_of(mask) for i, mask in self.masks.items() if mask.any()}

    @cached_property
    def scores(self) -> dict[ObjectId, float]:
        """Presence of each object, 0 to 1: mean probability over the pixels of its mask; 0 if it is not seen."""
        return presence(self._probs, self.ids)

    def polygons(self, object_id: ObjectId) -> list[list[float]]:
        """Return the outline of an object in COCO's form: [x0, y0, x1, y1, ...] for each of its parts.

        Raises:
            ValueError: If the object is not tracked.
        """
        return [polygon.ravel().tolist() for polygon in outlines(self._mask(object_id)) if len(polygon) >= 3]

    def rle(self, object_id: ObjectId) -> Rle:
        """Return the mask of an object as COCO's compressed run lengths, ready for JSON.

        Raises:
            ValueError: If the object is not tracked.
        """
        return encode_rle(self._mask(object_id))

    def plot(self) -> Image.Image:
        """Return the frame with its objects tinted, outlined and tagged with their ids."""
        return Image.fromarray(draw(self.image, self.labels))

    def to_supervision(self) -> "Detections":
        """Return the visible objects as `supervision.Detections`.

        `tracker_id` and `class_id` are the object ids, and `confidence` is the score.

        Raises:
            ImportError: If supervision is not installed.
        """
        try:
            from supervision import Detections
        except ImportError:
            raise ImportError("to_supervision needs supervision; install it with: pip install supervision") from None
        seen = list(self.boxes)
        masks: Any = [self.masks[i] for i in seen]
        return Detections(
            xyxy=np.array([self.boxes[i] for i in seen], np.float32).reshape(-1, 4),
            mask=np.array(masks, bool).reshape(-1, *self.labels.shape),
            confidence=np.array([self.scores[i] for i in seen], np.float32),
            class_id=np.array(seen, int),
            tracker_id=np.array(seen, int),
        )

    def _mask(self, object_id: ObjectId) -> Bool[np.ndarray, "H W"]:
        require(object_id in self.masks, f"object {object_id}: not tracked, expected one of {list(self.ids)}")
        return self.masks[object_id]
