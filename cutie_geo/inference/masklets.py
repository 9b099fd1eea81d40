"""Masks found on a window's first frame, followed through the window: by SAM 2, or by a model of Cutie's kind."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, UInt8

from cutie_geo.config import TrackerConfig, to_dict
from cutie_geo.data.masks import resize_labels
from cutie_geo.data.video import resize_shorter, to_tensor
from cutie_geo.inference.methods import VideoModel
from cutie_geo.inference.sam2_tracker import Sam2Tracker
from cutie_geo.inference.tracker import Tracker
from cutie_geo.inference.voting import paint_order
from cutie_geo.model.network import CutieGeo
from cutie_geo.model.sam2 import Sam2Features, Sam2Model
from cutie_geo.model.sam2_masks import FoundMasks
from cutie_geo.ops import bilinear

Image = UInt8[np.ndarray, "H W 3"]
Masks = Bool[np.ndarray, "K H W"]
Order = Literal["size", "score"]
"""What lies on top: smaller masklets, or those with a higher predicted IoU."""
Finder = Callable[[Image], FoundMasks]
"""Finds the masks of a window's first frame."""


@runtime_checkable
class Propagator(Protocol):
    """What follows masks through one window after the other."""

    def start(self, image: Image, masks: Masks, order: Sequence[int]) -> Masks:
        """Forget the window before; return the masks as they are on the new one's first frame.

        order: places of the masks as they are painted, those that lie on top last.
        """
        ...

    def follow(self, image: Image) -> Masks:
        """The masks on the next frame, all empty where a masklet isn't seen."""
        ...

    def memory_report(self) -> dict[str, int]:
        """Bytes held between two frames, by kind."""
        ...


def propagator_for(model: VideoModel, config: TrackerConfig, size: int = -1) -> Propagator:
    """What follows masks with a model. size: frames with a longer shorter side are shrunk to it for a model of Cutie's
    kind; SAM 2, which has its own square, sees them whole. -1: never."""
    if isinstance(model, Sam2Model):
        return Sam2Masklets(model, config.chunk_size)
    return LabelMasklets(model, config, size)


# ------------------------------------------------------------------------------------------------------------ windows
class FollowedWindow(NamedTuple):
    """One window of a video. Its frames come as they are asked for, and are gone once the next window is."""

    found: FoundMasks
    """On its first frame."""
    scores: tuple[float, ...] | None
    """Of the masklets, where the best shall lie on top; None where the smallest shall."""
    frames: Iterator[tuple[str, Image, Masks]]
    """Name, picture and masklets of each frame."""


def follow_windows(
    frames: Iterable[tuple[str, Image]], find: Finder, propagator: Propagator, window: int, order: Order
) -> Iterator[FollowedWindow]:
    """The masklets of a video, a window at a time, of at most `window` frames: nothing of one is kept for the next.

    frames: names and RGB pictures. A window's frames must be seen before the next window is asked for.
    """
    frames = iter(frames)
    while (first := next(frames, None)) is not None:
        found = find(first[1])
        scores = found.scores if order == "score" else None
        places = paint_order([int(np.count_nonzero(mask)) for mask in found.masks], scores)
        part = chain([first], islice(frames, window - 1))
        yield FollowedWindow(found, scores, _follow(part, found.masks, places, propagator))


def _follow(
    frames: Iterable[tuple[str, Image]], masks: Masks, order: Sequence[int], propagator: Propagator
) -> Iterator[tuple[str, Image, Masks]]:
    """The frames of one window, each with its masks."""
    for t, (name, image) in enumerate(frames):
        yield name, image, propagator.follow(image) if t else propagator.start(image, masks, order)


# -------------------------------------------------------------------------------------------------------- propagators
class SeenFrame:
    """SAM 2's features of a frame, and of no other until another is asked for: who follows masks and who tells their
    classes look at each frame once between them."""

    def __init__(self, model: Sam2Model) -> None:
        self.model = model
        self._last: tuple[Image, Sam2Features] | None = None

    @torch.inference_mode()
    def __call__(self, image: Image) -> Sam2Features:
        """The features of an RGB picture, those at hand if it is the same array as the last."""
        if self._last is None or self._last[0] is not image:
            self._last = None  # two frames' features would be held otherwise
            with self.model.autocast():
                batch = to_tensor(image)[None].to(self.model.device)
                self._last = image, self.model.encode(batch)[0]
        return self._last[1]


class Sam2Masklets:
    """SAM 2 follows masks: each by itself, so that they may overlap. On the first frame they are as they were found."""

    def __init__(self, model: Sam2Model, chunk_size: int = 1) -> None:
        self.tracker = Sam2Tracker(model, chunk_size)
        self.seen = SeenFrame(model)
        self._first: tuple[Image, Masks] | None = None

    def start(self, image: Image, masks: Masks, order: Sequence[int]) -> Masks:
        """As `Propagator.start`; the network runs once a second frame comes."""
        self.tracker.reset()
        self._first = image, masks
        return masks

    def follow(self, image: Image) -> Masks:
        """As `Propagator.follow`."""
        if self._first is not None:
            first, masks = self._first
            self._first = None
            self._step(first, torch.from_numpy(masks))
        return (self._step(image) > 0).cpu().numpy()

    def memory_report(self) -> dict[str, int]:
        """As `Propagator.memory_report`."""
        return self.tracker.memory_report()

    def _step(self, image: Image, masks: Bool[torch.Tensor, "K H W"] | None = None) -> Float[torch.Tensor, "K H W"]:
        if masks is None and not self.tracker.object_ids:
            return self.tracker.step_logits(to_tensor(image))  # nothing to follow: the network needn't look
        return self.tracker.step_logits(to_tensor(image), masks, features=self.seen(image))


class LabelMasklets:
    """A model of Cutie's kind follows masks: as a label map, so that overlaps are resolved before, by the order in
    which masks are painted. A mask that lies below others altogether is lost."""

    def __init__(self, model: CutieGeo, config: TrackerConfig, size: int = -1) -> None:
        self.tracker = Tracker(model, **to_dict(config.at_given_size()))
        self.size = size
        self._count = 0
        self._first: tuple[Image, Int32[np.ndarray, "H W"]] | None = None

    def start(self, image: Image, masks: Masks, order: Sequence[int]) -> Masks:
        """As `Propagator.start`; the network runs once a second frame comes."""
        labels = np.zeros(image.shape[:2], np.int32)
        for k in order:
            labels[masks[k]] = k + 1
        self.tracker.reset()
        self._first, self._count = (image, labels), len(masks)
        return self._split(labels)

    def follow(self, image: Image) -> Masks:
        """As `Propagator.follow`."""
        if self._first is not None:
            first, labels = self._first
            self._first = None
            small = resize_shorter(to_tensor(first), self.size)
            self.tracker.step(small, resize_labels(labels, (small.shape[-2], small.shape[-1])))
        probs = self.tracker.step(resize_shorter(to_tensor(image), self.size))
        probs = bilinear(probs[None], (image.shape[0], image.shape[1]))[0]
        return self._split(self.tracker.labels(probs).to("cpu", torch.int32).numpy())

    def memory_report(self) -> dict[str, int]:
        """As `Propagator.memory_report`."""
        return self.tracker.memory_report()

    def _split(self, labels: Int32[np.ndarray, "H W"]) -> Masks:
        return labels[None] == np.arange(1, self._count + 1, dtype=np.int32)[:, None, None]
