"""Baselines that copy the last label map or warp it by optical flow."""

from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from cutie_geo.config import require
from cutie_geo.data.frames import image_tensor
from cutie_geo.data.masks import object_ids
from cutie_geo.ops import strongest
from cutie_geo.structures import ObjectId, as_labels


class CopyMask:
    """Baseline that copies the last label map. Objects may be added on any frame.

    Raises:
        ValueError: For invalid images and label maps, as trackers do.
    """

    def __init__(self) -> None:
        self._labels: Int[np.ndarray, "H W"] | None = None
        self._ids: list[ObjectId] = []

    @property
    def object_ids(self) -> list[ObjectId]:
        """Object ids in the order in which they were added."""
        return list(self._ids)

    def encode_ahead(self, images: Sequence[Any], with_depth: bool = False) -> Sequence[Any]:
        """Return no features: baselines need none."""
        return []

    def step(
        self,
        image: Any,
        mask: Tensor | np.ndarray | None = None,
        objects: Iterable[ObjectId] | None = None,
        permanent: bool = False,
        last: bool = False,
        features: Any = None,
        correction: bool = False,
        color: str = "rgb",
    ) -> Float[Tensor, "N1 H W"]:
        """Return the frame's masks as probabilities of 0 and 1. Other parameters are ignored, except `color`."""
        image = image_tensor(image, color)
        size = (image.shape[1], image.shape[2])
        labels = np.zeros(size, np.int64) if self._labels is None else self._carried(image)
        require(labels.shape == size, f"image: got size {size}, expected the video's {labels.shape}")
        if mask is not None:
            labels = self._given(labels, as_labels(mask).cpu().numpy(), objects)
        self._labels = labels
        self._note(image)
        channels = [torch.from_numpy(labels == 0), *(torch.from_numpy(labels == i) for i in self._ids)]
        return torch.stack(channels).float()

    def labels(self, probs: Float[Tensor, "N1 H W"], objects: Sequence[ObjectId] | None = None) -> Int[Tensor, "H W"]:
        """Return the label map of probabilities, with the ids of the input masks."""
        ids = self._ids[: probs.shape[0] - 1] if objects is None else list(objects)
        return torch.tensor([0, *ids], device=probs.device)[strongest(probs)]

    def restore_depth(self, features: Any) -> Float[Tensor, "H W"]:
        """Raise ValueError: baselines have no depth."""
        raise ValueError("depth: this method has no geometry encoder")

    def _given(self, labels: np.ndarray, mask: np.ndarray, objects: Iterable[ObjectId] | None) -> np.ndarray:
        """Merge an input mask into `labels`; objects in the mask get exactly the pixels of the mask."""
        require(mask.shape == labels.shape, f"mask: got size {mask.shape}, expected the image's {labels.shape}")
        ids = list(object_ids(mask)) if objects is None else [int(i) for i in objects]
        self._ids += [i for i in ids if i not in self._ids]
        kept = np.where(np.isin(labels, ids), 0, labels)
        return np.where(np.isin(mask, ids), mask, kept)

    def _carried(self, image: Tensor) -> np.ndarray:
        """Return the last label map for the new frame."""
        assert self._labels is not None
        return self._labels

    def _note(self, image: Tensor) -> None:
        """Keep what `_carried` needs of a segmented frame."""


class FlowMask(CopyMask):
    """Baseline that warps the last label map by OpenCV's DIS optical flow between consecutive frames."""

    def __init__(self) -> None:
        super().__init__()
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._last: UInt8[np.ndarray, "H W"] | None = None

    def _note(self, image: Tensor) -> None:
        self._last = _grey(image)

    def _carried(self, image: Tensor) -> np.ndarray:
        assert self._labels is not None
        assert self._last is not None
        require(tuple(image.shape[1:]) == self._last.shape, "image: got another size than the video's")
        back = self._flow.calc(_grey(image), self._last, None)  # type: ignore[call-overload]
        y, x = np.mgrid[: back.shape[0], : back.shape[1]]
        rows = np.clip(np.rint(y + back[..., 1]), 0, back.shape[0] - 1).astype(np.intp)
        columns = np.clip(np.rint(x + back[..., 0]), 0, back.shape[1] - 1).astype(np.intp)
        return self._labels[rows, columns]


def _grey(image: Tensor) -> UInt8[np.ndarray, "H W"]:
    """Convert an RGB image in [0, 1] to 8-bit greyscale."""
    pixels = image.detach().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    return cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
