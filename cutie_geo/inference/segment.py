"""Segmentation of a video, from frames to label maps."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutie_geo.inference.prefetch import ON_DEMAND, Prefetch, encode_frames
from cutie_geo.inference.segmenter import PromptMasks, Segmenter
from cutie_geo.memory.objects import paint
from cutie_geo.ops import bilinear, strongest
from cutie_geo.structures import Frame, GivenMask, ObjectId


def segment_frames(
    segmenter: Segmenter,
    frames: Iterable[Frame],
    prefetch: Prefetch = ON_DEMAND,
    prompter: PromptMasks | None = None,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    corrections: bool = False,
) -> Generator["Segmented", None, None]:
    """Segment a stream of frames without keeping them; close the generator to stop early.

    Args:
        segmenter: Segmenter of the video.
        frames: Frames with their input masks and prompts.
        prefetch: Options of encoding ahead.
        prompter: Converts point and box prompts to masks.
        precision: Autocast of the models, entered by the encoding thread.
        corrections: Treat masks of tracked objects as corrections, as in `Tracker.step`; False for benchmarks.

    Raises:
        ValueError: If a frame has prompts and there is no prompter, or if frames or masks do not fit the video.
    """
    with encode_frames(segmenter, frames, prefetch, precision) as encoded:
        for frame, features in encoded:
            if frame.prompts:
                if prompter is None:
                    raise ValueError(f"frame {frame.name}: got prompts, expected a prompter to convert them to a mask")
                mask, features = prompter.given(segmenter, frame, prefetch.with_depth)
                frame = frame._replace(given=mask)
            yield segment_frame(segmenter, frame, features, prefetch.with_depth, corrections)


@dataclass(frozen=True)
class Segmented:
    """Result of one frame, at the frame's own size; its maps are computed at their first use, in any thread."""

    frame: Frame
    processed: Float[Tensor, "N1 h w"]
    """Probabilities at the size of `frame.image`."""
    ids: tuple[ObjectId, ...]
    """Ids of the channels of `probs` after the first."""
    processed_depth: Float[Tensor, "h w"] | None = None

    @cached_property
    def probs(self) -> Float[Tensor, "N1 H W"]:
        """Probabilities of the background and the objects."""
        size = self.frame.size
        return self.processed if size is None else bilinear(self.processed[None], size)[0]

    @cached_property
    def labels(self) -> Int[Tensor, "H W"]:
        """Label map."""
        return paint(self.probs, self.ids)

    @cached_property
    def depth(self) -> Float[Tensor, "H W"] | None:
        """Relative inverse depth, larger is nearer; None unless requested."""
        depth, size = self.processed_depth, self.frame.size
        return depth if depth is None or size is None else bilinear(depth[None, None], size)[0, 0]

    @cached_property
    def presence(self) -> dict[ObjectId, float]:
        """Presence of each object; see the function `presence`."""
        return presence(self.probs, self.ids)


def presence(
    probs: Float[Tensor, "N1 H W"] | Float[np.ndarray, "N1 H W"], ids: Sequence[ObjectId]
) -> dict[ObjectId, float]:
    """Return each object's mean probability over the pixels of its mask; 0 if the mask is empty."""
    probs = torch.as_tensor(probs)
    top, channel = probs.amax(dim=0), strongest(probs)
    count = torch.bincount(channel.flatten(), minlength=len(probs))
    total = torch.bincount(channel.flatten(), top.flatten().double(), minlength=len(probs))
    return dict(zip(ids, (total / count.clamp(min=1)).tolist()[1:]))


def segment_frame(
    segmenter: Segmenter,
    frame: Frame,
    features: Any = None,
    with_depth: bool = False,
    corrections: bool = False,
    permanent: bool = False,
) -> Segmented:
    """Segment the next frame of a video, with its features if they are encoded; see `segment_frames`.

    Args:
        permanent: Add the frame to permanent memory.
    """
    given = frame.given
    mask, ids = (given.labels, given.ids) if isinstance(given, GivenMask) else (given, None)
    corrects = corrections and mask is not None
    probs = segmenter.step(frame.image, mask, ids, permanent, features=features, correction=corrects)
    depth = segmenter.restore_depth(features) if with_depth and features is not None else None
    return Segmented(frame, probs, tuple(segmenter.object_ids), depth)
