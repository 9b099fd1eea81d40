"""A whole video, from frames to label maps."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutie_geo.config import require
from cutie_geo.data.background import read_ahead
from cutie_geo.ops import bilinear
from cutie_geo.structures import Frame, GivenMask, ObjectId

T = TypeVar("T")

ENCODE_PATIENCE = 60.0
"""Seconds to wait for frames that are being encoded when nobody wants them any more: a process that ends under a
thread that computes is aborted."""


@runtime_checkable
class Segmenter(Protocol):
    """What segments a video frame by frame: `Tracker`, `Ensemble`, and any other method that is to stand in for them.

    Features are whatever a method makes of a frame ahead of its turn; only the method itself looks into them.
    """

    @property
    def object_ids(self) -> list[ObjectId]:
        """Of the channels of probabilities after the first."""
        ...

    def encode_ahead(self, images: Sequence[Any], with_depth: bool = False) -> Sequence[Any]:
        """Features of the next frames, up to the first that `step` would refuse; none from a method without any.
        Changes nothing."""
        ...

    def step(
        self,
        image: Any,
        mask: Tensor | np.ndarray | None = None,
        objects: Iterable[Any] | None = None,
        permanent: bool = False,
        last: bool = False,
        features: Any = None,
    ) -> Float[Tensor, "N1 H W"]:
        """The next frame's probabilities at its own size, background first. Raises ValueError for what can't be."""
        ...

    def restore_depth(self, features: Any) -> Float[Tensor, "H W"]:
        """The frame's depth at its own size, from features that were made with it."""
        ...

    def labels(self, probs: Float[Tensor, "N1 H W"]) -> Int[Tensor, "H W"]:
        """The label map of probabilities, in the caller's ids."""
        ...


@runtime_checkable
class Method(Segmenter, Protocol):
    """A segmenter that also says what it holds, and forgets it: what ensembles are made of, and runs."""

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """Height and width of the video's frames, once one was seen."""
        ...

    @property
    def gives_depth(self) -> bool:
        """Whether `restore_depth` has anything to give."""
        ...

    def remove(self, ids: Any) -> None:
        """Forget objects. Raises ValueError for an id that is not tracked."""
        ...

    def reset(self) -> None:
        """Forget everything: the next video may start."""
        ...

    def memory_report(self) -> dict[str, int]:
        """Bytes held between two frames, by kind."""
        ...


class Segmented(NamedTuple):
    """One frame's result, at the frame's own size."""

    frame: Frame
    probs: Float[Tensor, "N1 H W"]
    labels: Int[Tensor, "H W"]
    ids: tuple[ObjectId, ...]
    """Of the channels of `probs` after the first."""
    depth: Float[Tensor, "H W"] | None = None
    """Relative inverse depth, larger is nearer; None unless it was asked for."""

    @property
    def presence(self) -> dict[ObjectId, float]:
        """By object, as the function of this name says."""
        return presence(self.probs, self.ids)


def presence(
    probs: Float[Tensor, "N1 H W"] | Float[np.ndarray, "N1 H W"], ids: Sequence[ObjectId]
) -> dict[ObjectId, float]:
    """By object, how sure its pixels are that they are its own: the mean of its probability over the pixels where it is
    the largest, 0 where it has none."""
    top, channel = torch.as_tensor(probs).max(dim=0)
    count = torch.bincount(channel.flatten(), minlength=len(probs))
    total = torch.bincount(channel.flatten(), top.flatten().double(), minlength=len(probs))
    return dict(zip(ids, (total / count.clamp(min=1)).tolist()[1:]))


@runtime_checkable
class PromptMasks(Protocol):
    """What makes masks of prompts: a `Prompter`."""

    def given(self, method: Segmenter, frame: Frame, with_depth: bool = False) -> tuple[GivenMask, Any]:
        """All that is given for a frame as one mask, and the frame's features."""
        ...


def segment_frames(
    tracker: Segmenter,
    frames: Iterable[Frame],
    lookahead: int = 1,
    with_depth: bool = False,
    prompter: PromptMasks | None = None,
    encode_threads: int = 0,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Generator[Segmented, None, None]:
    """Segment frames as they come; each is forgotten as soon as the next is asked for.

    lookahead: how many frames are read and encoded as one batch before the first of them is segmented; 1 for a camera.
    with_depth: give each frame's depth too. prompter: what turns frames' prompts into masks; ValueError for a frame
    with prompts without it. encode_threads: so many of torch's threads read and encode the next batch while this one is
    segmented by the others, on a CPU, inside of `around()`; 0: one after the other. Close the generator to end them,
    which closes `frames` too.
    """
    require(lookahead >= 1, f"lookahead: got {lookahead}, wanted 1 or more")
    encoded = _encoded(tracker, frames, lookahead, with_depth)
    with _threads_left(encode_threads):
        if encode_threads:
            aside = _aside(encoded, frames, encode_threads, around)
            encoded = read_ahead(aside, lookahead, ENCODE_PATIENCE)  # all of a batch, for the next to be begun
        with closing(encoded):
            for frame, features in encoded:
                if frame.prompts:
                    if prompter is None:
                        raise ValueError(
                            f"frame {frame.name}: has prompts, wanted a prompter that makes a mask of them"
                        )
                    mask, features = prompter.given(tracker, frame, with_depth)
                    frame = frame._replace(given=mask)
                yield _segmented(tracker, frame, features, with_depth)


def segment_video(
    tracker: Segmenter, frames: Iterable[Frame], lookahead: int = 1
) -> Iterator[tuple[str, Int[Tensor, "H W"]]]:
    """Yield each frame's name and its label map at the frame's own size, in the ids of the masks given with the frames.

    `cutie_geo.read_video` makes frames of a video file or a folder; a camera may be one's own generator of `Frame`.
    lookahead: how many frames are encoded as one batch, which on a GPU takes less time than one by one.
    """
    for result in segment_frames(tracker, frames, lookahead):
        yield result.frame.name, result.labels


def _segmented(tracker: Segmenter, frame: Frame, features: Any, with_depth: bool) -> Segmented:
    given = frame.given
    mask, ids = (given.labels, given.ids) if isinstance(given, GivenMask) else (given, None)
    probs = tracker.step(frame.image, mask, ids, features=features)
    depth = tracker.restore_depth(features) if with_depth and features is not None else None
    if frame.size is not None:
        probs = bilinear(probs[None], frame.size)[0]
        depth = None if depth is None else bilinear(depth[None, None], frame.size)[0, 0]
    return Segmented(frame, probs, tracker.labels(probs), tuple(tracker.object_ids), depth)


def _encoded(
    tracker: Segmenter, frames: Iterable[Frame], lookahead: int, with_depth: bool
) -> Generator[tuple[Frame, Any], None, None]:
    """Frames with their features. None for frames before the first object, which need none, for those with prompts,
    which are encoded in their turn, and for those from the first of a batch on that can't be encoded: the tracker's own
    step says why."""
    begun = with_depth
    for batch in _batches(frames, lookahead):
        unused = 0
        if not (begun := begun or bool(tracker.object_ids)):
            shown = (i for i, frame in enumerate(batch) if frame.given is not None or frame.prompts)
            unused = next(shown, len(batch))
            begun = unused < len(batch)  # the tracker, which may be a batch behind, will know it later
        wanted = [i for i in range(unused, len(batch)) if not batch[i].prompts]
        ahead = dict(zip(wanted, tracker.encode_ahead([batch[i].image for i in wanted], with_depth)))
        yield from ((frame, ahead.get(i)) for i, frame in enumerate(batch))


def _aside(
    items: Iterable[T], frames: Iterable[Frame], threads: int, around: Callable[[], AbstractContextManager[Any]]
) -> Iterator[T]:
    """`items`, made of `frames` by the thread that asks for them and so many of torch's, who leave nothing open."""
    torch.set_num_threads(threads)
    try:
        with around():
            yield from items
    finally:
        close = getattr(frames, "close", None)
        if close is not None:
            close()


@contextmanager
def _threads_left(taken: int) -> Iterator[None]:
    """Leave `taken` of torch's threads to somebody else until the block ends. Raises ValueError if none stays."""
    count = torch.get_num_threads()
    require(0 <= taken < max(count, 1), f"encode_threads: got {taken}, wanted 0 to {count - 1} of {count} threads")
    if not taken:
        yield
        return
    torch.set_num_threads(count - taken)
    try:
        yield
    finally:
        torch.set_num_threads(count)


def _batches(frames: Iterable[Frame], count: int) -> Iterator[list[Frame]]:
    """`count` frames at a time; those that came before an error come before it here too."""
    batch: list[Frame] = []
    try:
        for frame in frames:
            batch.append(frame)
            if len(batch) == count:
                yield batch
                batch = []
    except Exception:
        if 0 < len(batch) < count:
            yield batch
        raise
    if batch:
        yield batch
