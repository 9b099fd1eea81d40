"""Masks found on a window's first frame, followed through the window: by SAM 2, or by a model of Cutie's kind."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int32, UInt8

from cutie_geo.config import TrackerConfig, to_dict
from cutie_geo.data.masks import resize_labels
from cutie_geo.data.video import resize_shorter, to_tensor
from cutie_geo.inference.methods import VideoModel
from cutie_geo.inference.sam2_tracker import Sam2Tracker
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.network import CutieGeo
from cutie_geo.model.sam2 import Sam2Model
from cutie_geo.ops import bilinear

Image = UInt8[np.ndarray, "H W 3"]
Masks = Bool[np.ndarray, "K H W"]


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


class Sam2Masklets:
    """SAM 2 follows masks: each by itself, so that they may overlap. On the first frame they are as they were found."""

    def __init__(self, model: Sam2Model, chunk_size: int = 1) -> None:
        self.tracker = Sam2Tracker(model, chunk_size)
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
            self.tracker.step_logits(to_tensor(first), torch.from_numpy(masks))
        return (self.tracker.step_logits(to_tensor(image)) > 0).cpu().numpy()

    def memory_report(self) -> dict[str, int]:
        """As `Propagator.memory_report`."""
        return self.tracker.memory_report()


class LabelMasklets:
    """A model of Cutie's kind follows masks: as a label map, so that overlaps are resolved before, by the order in
    which masks are painted. A mask that lies below others altogether is lost."""

    def __init__(self, model: CutieGeo, config: TrackerConfig, size: int = -1) -> None:
        self.tracker = Tracker(model, **to_dict(config))
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
