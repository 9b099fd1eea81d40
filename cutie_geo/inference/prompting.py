"""Protocols of predictors of masks from the clicks and boxes of one frame, and functions that they share."""

from collections.abc import Container, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cutie_geo.config import require
from cutie_geo.data.prompts import shows
from cutie_geo.ops import strongest
from cutie_geo.structures import Frame, GivenMask, ObjectId, Prompt


class PromptedMask(NamedTuple):
    """Prediction for the prompts of one object."""

    logits: Float[Tensor, "H W"]
    """Mask logits at the size of the frame; the mask is where they are positive."""
    quality: float
    """Estimate of the mask's IoU with the object, 0 to 1."""


@runtime_checkable
class FramePrompter(Protocol):
    """Predictor of masks from prompts. A frame is encoded once and used for any number of prompts."""

    def encode(self, image: Float[Tensor, "3 H W"]) -> Any:
        """Encode an RGB frame in [0, 1]; the result is passed to `predict`."""
        ...

    def predict(
        self, encoded: Any, prompt: Prompt, mask: Float[Tensor, "H W"] | None = None, from_prompts: bool = False
    ) -> PromptedMask:
        """Return the mask of one object.

        Args:
            encoded: Result of `encode`.
            prompt: Points and box in pixels of the frame.
            mask: Logits or mask of the object so far, which the prompt corrects; None if there is none.
            from_prompts: `mask` was predicted from earlier points of this prompt, not tracked or drawn.
        """
        ...


@runtime_checkable
class SharesFeatures(Protocol):
    """A `FramePrompter` that can start from the features of a tracker's network, so that a frame is encoded once."""

    model: Any
    """The network whose features it takes."""

    def encode_shared(self, image: Float[Tensor, "3 H W"], features: Any) -> Any:
        """Return what `encode` returns for a frame, from the tracker's features; None if these do not fit.

        Args:
            image: RGB frame in [0, 1], at its own size.
            features: `FrameFeatures` of the frame, which may have been resized.
        """
        ...


def require_shown(frame: Frame, tracked: Container[ObjectId] = ()) -> None:
    """Raise ValueError for an object with negative points only, unless it is tracked, so that they correct a mask."""
    for object_id, prompt in (frame.prompts or {}).items():
        text = f"frame {frame.name}: object {object_id}: got negative points only, expected a positive point or a box"
        require(object_id in tracked or shows(prompt), text)


def merged_prompts(frame: Frame, masks: Mapping[ObjectId, Float[Tensor, "H W"]]) -> GivenMask:
    """Merge the logits of a frame's prompts, at the size of its image, below its input mask.

    In overlaps the object with the largest logit is selected.

    Raises:
        ValueError: If an object has both a mask and a prompt, or if its predicted mask is empty.
    """
    given = _given_mask(frame)
    both = sorted(set(given.ids) & set(masks))
    require(not both, f"frame {frame.name}: objects {both} have both a mask and a prompt, expected one of them")
    logits = torch.stack(list(masks.values()))
    ids = torch.tensor([0, *masks], dtype=torch.int64)
    found = ids[strongest(torch.cat([torch.zeros_like(logits[:1]), logits])).cpu()].numpy()
    labels = np.where(given.labels > 0, given.labels, found)
    empty = [i for i in masks if not (labels == i).any()]
    require(not empty, f"frame {frame.name}: object {empty[:1]}: the mask predicted for its prompt is empty")
    return GivenMask(labels.astype(np.int64), (*given.ids, *masks))


def scaled(prompt: Prompt, old: tuple[int, int], new: tuple[int, int]) -> Prompt:
    """Convert a prompt on frames of size `old` to frames of size `new`."""
    high, wide = new[0] / old[0], new[1] / old[1]
    box = prompt.box
    return Prompt(
        tuple((x * wide, y * high, label) for x, y, label in prompt.points),
        None if box is None else (box[0] * wide, box[1] * high, box[2] * wide, box[3] * high),
    )


def _given_mask(frame: Frame) -> GivenMask:
    """Return the input mask of a frame, without prompts; an empty mask if there is none."""
    if isinstance(frame.given, GivenMask):
        return frame.given
    if frame.given is None:
        return GivenMask(np.zeros(frame.image.shape[-2:], np.int64), ())
    labels = np.asarray(frame.given)
    return GivenMask(labels, tuple(int(i) for i in np.unique(labels) if i != 0))
