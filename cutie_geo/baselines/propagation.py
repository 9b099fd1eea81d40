"""The last label map again: where it was, or carried along by optical flow."""

from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from cutie_geo.config import require
from cutie_geo.data.masks import object_ids
from cutie_geo.ops import strongest
from cutie_geo.structures import ObjectId, as_labels


class CopyMask:
    """Every object stays where it was given. Takes label maps; objects may be given on any frame.

    Raises ValueError, as trackers do, for what is no image or no label map.
    """

    def __init__(self) -> None:
        self._labels: Int[np.ndarray, "H W"] | None = None
        self._ids: list[ObjectId] = []

    @property
    def object_ids(self) -> list[ObjectId]:
        """Those given so far, in the order in which they came."""
        return list(self._ids)

    def encode_ahead(self, images: Sequence[Any], with_depth: bool = False) -> Sequence[Any]:
        """Nothing: frames are looked at in their turn."""
        return []

    def step(
        self,
        image: Tensor,
        mask: Tensor | np.ndarray | None = None,
        objects: Iterable[ObjectId] | None = None,
        permanent: bool = False,
        last: bool = False,
        features: Any = None,
    ) -> Float[Tensor, "N1 H W"]:
        """The frame's masks as probabilities of 0 and 1. `permanent`, `last` and `features` mean nothing here."""
        require(image.ndim == 3 and image.shape[0] == 3, f"image: got {tuple(image.shape)}, wanted (3, H, W)")
        size = (image.shape[1], image.shape[2])
        labels = np.zeros(size, np.int64) if self._labels is None else self._carried(image)
        require(labels.shape == size, f"image: got size {size}, wanted the video's {labels.shape}")
        if mask is not None:
            labels = self._given(labels, as_labels(mask).cpu().numpy(), objects)
        self._labels = labels
        channels = [torch.from_numpy(labels == 0), *(torch.from_numpy(labels == i) for i in self._ids)]
        return torch.stack(channels).float()

    def labels(self, probs: Float[Tensor, "N1 H W"]) -> Int[Tensor, "H W"]:
        """The label map of probabilities, in the ids given."""
        return torch.tensor([0, *self._ids], device=probs.device)[strongest(probs)]

    def restore_depth(self, features: Any) -> Float[Tensor, "H W"]:
        """Raises ValueError: there is none."""
        raise ValueError("depth: this method has no geometry encoder")

    def _given(self, labels: np.ndarray, mask: np.ndarray, objects: Iterable[ObjectId] | None) -> np.ndarray:
        """`labels` under what a user says: the named objects are where the mask has them, and nowhere else."""
        require(mask.shape == labels.shape, f"mask: got size {mask.shape}, wanted the image's {labels.shape}")
        ids = list(object_ids(mask)) if objects is None else [int(i) for i in objects]
        self._ids += [i for i in ids if i not in self._ids]
        kept = np.where(np.isin(labels, ids), 0, labels)
        return np.where(np.isin(mask, ids), mask, kept)

    def _carried(self, image: Tensor) -> np.ndarray:
        """The last label map on the new frame."""
        assert self._labels is not None
        return self._labels


class FlowMask(CopyMask):
    """Every pixel takes the label of where it came from, by OpenCV's DIS flow between neighbouring frames."""

    def __init__(self) -> None:
        super().__init__()
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._last: UInt8[np.ndarray, "H W"] | None = None

    def step(self, image: Tensor, *args: Any, **kwargs: Any) -> Float[Tensor, "N1 H W"]:
        """As of `CopyMask`."""
        probs = super().step(image, *args, **kwargs)
        self._last = _grey(image)
        return probs

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
    """An RGB image in [0, 1] as bytes of brightness."""
    pixels = image.detach().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    return cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
