"""Masks for what users point at, on any frame of a video that is being segmented."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutie_geo.config import require
from cutie_geo.inference.ensemble import Ensemble
from cutie_geo.inference.given import Geometry
from cutie_geo.inference.segment import Segmenter
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.blocks import normalise
from cutie_geo.model.encoder import FusedEncoder
from cutie_geo.model.hiera import STAGES
from cutie_geo.model.network import CutieGeo
from cutie_geo.model.pretrained import catalogue_name
from cutie_geo.model.sam2 import Sam2Model
from cutie_geo.model.sam2_prompts import BOX_CORNERS, PromptHead
from cutie_geo.ops import Padding, bilinear, strongest
from cutie_geo.structures import Frame, FrameFeatures, GivenMask, ObjectId, Prompt

log = logging.getLogger(__name__)


def shared_prompts(model: CutieGeo | Sam2Model) -> str | None:
    """The SAM 2 whose trunk a network has, frozen and so with that SAM 2's own weights; None if it has none. (A SAM 2
    as method keeps its trunk to itself.)"""
    if isinstance(model, Sam2Model):
        return None
    config, encoder = model.config.encoder, model.encoder
    if not isinstance(encoder, FusedEncoder) or "vision" not in encoder.frozen:
        return None
    return catalogue_name(config, "vision") if config.vision_init in ("sam2", "sam2.1") else None


class Prompter:
    """Turns prompts into the mask that is given to a method with their frame.

    A head with a trunk of its own looks at the frame itself, stretched to SAM 2's square. One without looks through the
    method's network, whose trunk has the same weights (`shared_prompts`): the frame goes through it once, as the method
    sees it, for both. Of an ensemble that is its first view.
    """

    def __init__(self, head: PromptHead) -> None:
        self.head = head

    def given(self, method: Segmenter, frame: Frame, with_depth: bool = False) -> tuple[GivenMask, Any]:
        """The mask of a frame's prompts, beside what else is given for it, at its image's size; and the frame's
        features, if the method makes any.

        Where masks overlap, the larger logit wins, and a mask that was given over one that was prompted. Raises
        ValueError for an object that is given both ways, or of which SAM 2 finds no pixel.
        """
        prompts = frame.prompts or {}
        if self.head.trunk is None:
            stages, geometry, features = self._through(method, frame.image, with_depth)
        else:
            size, side = (frame.image.shape[-2], frame.image.shape[-1]), self.head.side
            stages, geometry = self.head.look(frame.image), Geometry(size, (side, side), Padding(0, 0, 0, 0))
            features = next(iter(method.encode_ahead([frame.image], with_depth)), None)
        size = frame.size or (frame.image.shape[-2], frame.image.shape[-1])
        points = [_on_grid(prompt, size, geometry) for prompt in prompts.values()]
        masks = [self._restored(logits, geometry, frame) for logits in self.head(stages, points)]
        return _merged(frame, dict(zip(prompts, masks))), features

    @staticmethod
    def _restored(logits: Float[Tensor, "H2 W2"], geometry: Geometry, frame: Frame) -> Float[Tensor, "H W"]:
        """Logits at the size of the frame's image."""
        size = (frame.image.shape[-2], frame.image.shape[-1])
        return bilinear(geometry.padding.crop(logits)[None, None], size)[0, 0]

    def _through(self, method: Segmenter, image: Tensor, with_depth: bool) -> tuple[list[Tensor], Geometry, Any]:
        """A frame's stages in the method's network, how it lies there, and its features."""
        place = _first_straight(method) if isinstance(method, Ensemble) else 0
        tracker = method.trackers[place] if isinstance(method, Ensemble) else method
        assert isinstance(tracker, Tracker), "only what has a trunk shares it"
        assert isinstance(tracker.model.encoder, FusedEncoder), "only what has a trunk shares it"
        with _as_written(), _tapped(tracker.model.encoder.vision.trunk) as seen:
            features: Any = method.encode(image, with_depth)  # type: ignore[attr-defined]
        assert tracker.geometry is not None, "a frame was encoded"
        own: FrameFeatures = features[place] if isinstance(method, Ensemble) else features
        return _stages_of(own.image, seen), tracker.geometry, features


def _first_straight(ensemble: Ensemble) -> int:
    """The view that prompts are given to: they are where the frame shows them, and a mirror shows them elsewhere.

    Raises ValueError if all views are mirrored.
    """
    for place, tracker in enumerate(ensemble.trackers):
        if not tracker.view.mirrored:
            return place
    raise ValueError("prompts: all views are mirrored, wanted one that is not")


def _stages_of(image: Float[Tensor, "1 3 H W"], seen: list[tuple[Tensor, Any]]) -> list[Tensor]:
    """The first stages of one padded image among all batches that went through a trunk: threads that share an
    ensemble's views bring these in any order."""
    wanted = normalise(image)
    for batch, stages in seen:
        if batch.shape[1:] == wanted.shape[1:]:
            same = (batch == wanted.to(batch.dtype)).flatten(1).all(dim=1).nonzero()
            if len(same):
                row = int(same[0])
                return [stage[row : row + 1] for stage in stages[:STAGES]]
    raise AssertionError("the image went through the trunk")


def _as_written() -> AbstractContextManager[Any]:
    """A block in which nothing runs as it was compiled: compiled code keeps the hooks that it was compiled with, and
    sees no others. Before torch 2.6 there is no such thing."""
    stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if stance is None else stance("force_eager")


@contextmanager
def _tapped(module: nn.Module) -> Iterator[list[tuple[Tensor, Any]]]:
    """What a module is given within the block, and what it returns, call by call."""
    seen: list[tuple[Tensor, Any]] = []
    handle = module.register_forward_hook(lambda _module, given, found: seen.append((given[0], found)))
    try:
        yield seen
    finally:
        handle.remove()


def _on_grid(prompt: Prompt, size: tuple[int, int], geometry: Geometry) -> tuple[Tensor, Tensor]:
    """A prompt on frames of `size`, in pixels of what the network sees, corners of the box first."""
    corners = [] if prompt.box is None else [prompt.box[:2], prompt.box[2:]]
    where = torch.tensor([*corners, *(point[:2] for point in prompt.points)], dtype=torch.float32)
    labels = [*(BOX_CORNERS if prompt.box is not None else ()), *(point[2] for point in prompt.points)]
    (height, width), padding = geometry.internal, geometry.padding
    scale = torch.tensor([width / size[1], height / size[0]])
    return where * scale + torch.tensor([padding.left, padding.top]), torch.tensor(labels)


def _merged(frame: Frame, masks: Mapping[ObjectId, Float[Tensor, "H W"]]) -> GivenMask:
    """A frame's given mask with those of its prompts below it."""
    given = _given_mask(frame)
    both = sorted(set(given.ids) & set(masks))
    require(not both, f"frame {frame.name}: objects {both} are given by mask and by prompt, wanted one of them")
    logits = torch.stack(list(masks.values()))
    ids = torch.tensor([0, *masks], dtype=torch.int64)
    found = ids[strongest(torch.cat([torch.zeros_like(logits[:1]), logits])).cpu()].numpy()
    labels = np.where(given.labels > 0, given.labels, found)
    empty = [i for i in masks if not (labels == i).any()]
    require(not empty, f"frame {frame.name}: object {empty[:1]}: SAM 2 finds nothing where it is pointed at")
    return GivenMask(labels.astype(np.int64), (*given.ids, *masks))


def _given_mask(frame: Frame) -> GivenMask:
    """What is given for a frame beside prompts; an empty mask if nothing is."""
    if isinstance(frame.given, GivenMask):
        return frame.given
    if frame.given is None:
        return GivenMask(np.zeros(frame.image.shape[-2:], np.int64), ())
    labels = np.asarray(frame.given)
    return GivenMask(labels, tuple(int(i) for i in np.unique(labels) if i != 0))
