"""Propagation of masks through the windows of a video, by SAM 2 or a Cutie model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, UInt8

from cutie_geo.config import TrackerConfig, to_dict
from cutie_geo.data.masks import resize_labels
from cutie_geo.data.video import resize_shorter, to_tensor
from cutie_geo.inference.factory import VideoModel
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.network import CutieGeo
from cutie_geo.ops import bilinear
from cutie_geo.sam2.automatic_masks import FoundMasks
from cutie_geo.sam2.networks import Sam2Features, Sam2Model
from cutie_geo.sam2.tracker import Sam2Tracker
from cutie_geo.vss.config import Order
from cutie_geo.vss.voting import paint_order

Image = UInt8[np.ndarray, "H W 3"]
Masks = Bool[np.ndarray, "K H W"]
Finder = Callable[[Image], FoundMasks]
"""Finds the masks of an RGB image."""


@runtime_checkable
class Propagator(Protocol):
    """Propagates masks through one window after the other."""

    def start(self, image: Image, masks: Masks, order: Sequence[int]) -> Masks:
        """Begin a window.

        Args:
            image: first frame.
            masks: its masks.
            order: indices of the masks in painting order: the one on top is last.

        Returns:
            The masks of the first frame, as the propagator sees them.
        """
        ...

    def follow(self, image: Image) -> Masks:
        """Return the masks of the next frame; the mask of an invisible masklet is empty."""
        ...

    def memory_report(self) -> dict[str, int]:
        """Return the memory held between two frames, in bytes by kind."""
        ...


def propagator_for(model: VideoModel, config: TrackerConfig, size: int = -1) -> Propagator:
    """Return the propagator of a model.

    Args:
        model: SAM 2 or a Cutie model.
        config: options of the tracker; SAM 2 uses `chunk_size` only.
        size: shorter side, in pixels, to which larger frames are shrunk for a Cutie model; -1 for never.
    """
    if isinstance(model, Sam2Model):
        return Sam2Masklets(model, config.chunk_size)
    assert isinstance(model, CutieGeo), "networks of other families do not follow label maps"
    return LabelMasklets(model, config, size)


# ------------------------------------------------------------------------------------------------------------ windows
class PropagatedWindow(NamedTuple):
    """Masklets of one window. Its frames must be consumed before the next window."""

    found: FoundMasks
    """Masks of the first frame."""
    scores: tuple[float, ...] | None
    """Predicted IoU of the masklets, if the best are painted last. None: the smallest are."""
    frames: Iterator[tuple[str, Image, Masks]]
    """Name, image and masks of each frame."""


def propagate_windows(
    frames: Iterable[tuple[str, Image]], find: Finder, propagator: Propagator, window: int, order: Order
) -> Iterator[PropagatedWindow]:
    """Yield the masklets of a video window by window; nothing of a window is kept for the next.

    Args:
        frames: names and RGB images.
        find: finds the masks of a window's first frame.
        propagator: propagates them.
        window: maximum number of frames in a window.
        order: painting order of the masklets.
    """
    frames = iter(frames)
    while (first := next(frames, None)) is not None:
        found = find(first[1])
        scores = found.scores if order == "score" else None
        places = paint_order([int(np.count_nonzero(mask)) for mask in found.masks], scores)
        part = chain([first], islice(frames, window - 1))
        yield PropagatedWindow(found, scores, _propagate(part, found.masks, places, propagator))


def _propagate(
    frames: Iterable[tuple[str, Image]], masks: Masks, order: Sequence[int], propagator: Propagator
) -> Iterator[tuple[str, Image, Masks]]:
    """Yield the frames of one window with their masks."""
    for t, (name, image) in enumerate(frames):
        yield name, image, propagator.follow(image) if t else propagator.start(image, masks, order)


# -------------------------------------------------------------------------------------------------------- propagators
class SeenFrame:
    """Cache of SAM 2's features of the last frame, so that propagation and classification encode each frame once."""

    def __init__(self, model: Sam2Model) -> None:
        self.model = model
        self._last: tuple[Image, Sam2Features] | None = None

    @torch.inference_mode()
    def __call__(self, image: Image) -> Sam2Features:
        """Return the features of an RGB image; cached ones if it is the same array as in the last call."""
        if self._last is None or self._last[0] is not image:
            self._last = None  # otherwise the features of two frames would be in memory
            with self.model.autocast():
                batch = to_tensor(image)[None].to(self.model.device)
                self._last = image, self.model.encode(batch)[0]
        return self._last[1]


class Sam2Masklets:
    """Propagation by SAM 2: each mask separately, so that masks may overlap. Masks of the first frame stay as found."""

    def __init__(self, model: Sam2Model, chunk_size: int = 1) -> None:
        self.tracker = Sam2Tracker(model, chunk_size)
        self.seen = SeenFrame(model)
        self._first: tuple[Image, Masks] | None = None

    def start(self, image: Image, masks: Masks, order: Sequence[int]) -> Masks:
        """See `Propagator.start`. The network runs when a second frame comes."""
        self.tracker.reset()
        self._first = image, masks
        return masks

    def follow(self, image: Image) -> Masks:
        """See `Propagator.follow`."""
        if self._first is not None:
            first, masks = self._first
            self._first = None
            self._step(first, torch.from_numpy(masks))
        return (self._step(image) > 0).cpu().numpy()

    def memory_report(self) -> dict[str, int]:
        """See `Propagator.memory_report`."""
        return self.tracker.memory_report()

    def _step(self, image: Image, masks: Bool[torch.Tensor, "K H W"] | None = None) -> Float[torch.Tensor, "K H W"]:
        if masks is None and not self.tracker.object_ids:
            return self.tracker.step_logits(to_tensor(image))  # without masks the network need not run
        return self.tracker.step_logits(to_tensor(image), masks, features=self.seen(image))


class LabelMasklets:
    """Propagation by a Cutie model, as a label map: the painting order resolves overlaps on the first frame.

    A mask that others cover completely is lost.
    """

    def __init__(self, model: CutieGeo, config: TrackerConfig, size: int = -1) -> None:
        self.tracker = Tracker(model, **to_dict(replace(config, max_internal_size=-1)))
        self.size = size
        self._count = 0
        self._first: tuple[Image, Int32[np.ndarray, "H W"]] | None = None

    def start(self, image: Image, masks: Masks, order: Sequence[int]) -> Masks:
        """See `Propagator.start`. The network runs when a second frame comes."""
        labels = np.zeros(image.shape[:2], np.int32)
        for k in order:
            labels[masks[k]] = k + 1
        self.tracker.reset()
        self._first, self._count = (image, labels), len(masks)
        return self._split(labels)

    def follow(self, image: Image) -> Masks:
        """See `Propagator.follow`."""
        if self._first is not None:
            first, labels = self._first
            self._first = None
            small = resize_shorter(to_tensor(first), self.size)
            self.tracker.step(small, resize_labels(labels, (small.shape[-2], small.shape[-1])))
        probs = self.tracker.step(resize_shorter(to_tensor(image), self.size))
        probs = bilinear(probs[None], (image.shape[0], image.shape[1]))[0]
        return self._split(self.tracker.labels(probs).to("cpu", torch.int32).numpy())

    def memory_report(self) -> dict[str, int]:
        """See `Propagator.memory_report`."""
        return self.tracker.memory_report()

    def _split(self, labels: Int32[np.ndarray, "H W"]) -> Masks:
        return labels[None] == np.arange(1, self._count + 1, dtype=np.int32)[:, None, None]
