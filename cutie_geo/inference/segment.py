"""A whole video, from frames to label maps."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from cutie_geo.inference.tracker import Tracker
from cutie_geo.ops import bilinear
from cutie_geo.structures import Frame, GivenMask, ObjectId


class Segmented(NamedTuple):
    """One frame's result, at the frame's own size."""

    frame: Frame
    probs: Float[Tensor, "N1 H W"]
    labels: Int[Tensor, "H W"]
    ids: tuple[ObjectId, ...]
    """Of the channels of `probs` after the first."""


def segment_frames(tracker: Tracker, frames: Iterable[Frame]) -> Iterator[Segmented]:
    """Segment frames as they come; each is forgotten as soon as the next is asked for."""
    for frame in frames:
        given = frame.given
        mask, ids = (given.labels, given.ids) if isinstance(given, GivenMask) else (given, None)
        probs = tracker.step(frame.image, mask, ids)
        if frame.size is not None:
            probs = bilinear(probs[None], frame.size)[0]
        yield Segmented(frame, probs, tracker.labels(probs), tuple(tracker.object_ids))


def segment_video(tracker: Tracker, frames: Iterable[Frame]) -> Iterator[tuple[str, Int[Tensor, "H W"]]]:
    """Yield each frame's name and its label map at the frame's own size, in the ids of the masks given with the frames.

    `cutie_geo.read_video` makes frames of a video file or a folder; a camera may be one's own generator of `Frame`.
    """
    for result in segment_frames(tracker, frames):
        yield result.frame.name, result.labels
