"""Masks from clicks and boxes by a model's own prompt head, with a second look at small objects."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from cutie_geo.config import require
from cutie_geo.inference.inputs import Geometry, image_size
from cutie_geo.inference.prompting import PromptedMask, merged_prompts, require_shown, scaled
from cutie_geo.inference.segmenter import Segmenter
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.blocks import normalise
from cutie_geo.model.network import CutieGeo
from cutie_geo.model.prompt_head import STRIDE, PromptBatch, PromptFeatures, PromptHead
from cutie_geo.ops import area, padding_to
from cutie_geo.regions import (
    AFRESH_POINTS,
    SAME_VIEW,
    Prompt,
    Region,
    enlarged_region,
    internal_size,
    on_view,
    pointed_at,
)
from cutie_geo.structures import Frame, FrameFeatures, GivenMask

EPS = 1e-6
"""Smallest probability of averaged masks, which keeps their logits finite."""
DEFAULT_SIZE = 480
"""Shorter side of encoded frames, in pixels, for models without a size of their own."""


class View(NamedTuple):
    """An encoded part of a frame."""

    region: Region
    geometry: Geometry
    """From the region to the encoder's input."""
    features: PromptFeatures


@dataclass
class EncodedFrame:
    """A frame whose objects can be prompted for."""

    image: Float[Tensor, "3 H W"]
    whole: View
    zoomed: list[View] = field(default_factory=list)
    """The last enlarged view, if any."""


class HeadPrompter:
    """Predictor of masks from prompts with the prompt head of a `CutieGeo` network.

    A frame is encoded once. The mask of the whole frame is refined on an enlarged view of the object if it is small.

    Args:
        model: Network with a prompt head.
        max_internal_size: Largest shorter side of the encoded frame. None uses the model's.
        zoom: Refine small objects.

    Raises:
        ValueError: If the network has no prompt head.
    """

    def __init__(self, model: CutieGeo, max_internal_size: int | None = None, zoom: bool = True) -> None:
        require(
            model.prompt_head is not None, "prompts: this model has no prompt head, expected one that has or a SAM 2"
        )
        assert isinstance(model.prompt_head, PromptHead)
        self.model, self.head, self.zoom = model, model.prompt_head, zoom
        most = max_internal_size or model.config.max_internal_size or DEFAULT_SIZE
        self.sizes = most, min(model.config.min_internal_size or -1, most)
        """Largest and smallest shorter side of encoded frames, in pixels; -1 for no limit."""

    @torch.inference_mode()
    def encode(self, image: Float[Tensor, "3 H W"]) -> EncodedFrame:
        """Encode an RGB frame in [0, 1]. Raises ValueError for other images."""
        height, width = image_size(image)
        image = image.to(self.model.device, torch.float32)
        whole = Region(0, 0, width, height)
        return EncodedFrame(image, self._view(image, whole, internal_size((height, width), *self.sizes)))

    def encode_shared(self, image: Float[Tensor, "3 H W"], features: FrameFeatures) -> EncodedFrame | None:
        """Return what `encode` returns, from a tracker's features of the frame; None if these have another size."""
        height, width = image_size(image)
        internal = internal_size((height, width), *self.sizes)
        geometry = Geometry((height, width), internal, padding_to(internal, self.model.multiple), antialias=True)
        if (features.image.shape[-2], features.image.shape[-1]) != geometry.padded:
            return None
        prepared = self._prepare(features.f16, features.f8, features.f4)
        image = image.to(self.model.device, torch.float32)
        return EncodedFrame(image, View(Region(0, 0, width, height), geometry, prepared))

    @torch.inference_mode()
    def predict(
        self,
        encoded: EncodedFrame,
        prompt: Prompt,
        mask: Float[Tensor, "H W"] | Bool[Tensor, "H W"] | None = None,
        from_prompts: bool = False,
    ) -> PromptedMask:
        """Return the mask of one object.

        Args:
            encoded: Result of `encode`.
            prompt: All points of the object so far, and its box, in pixels of the frame.
            mask: Mask of the object so far: logits, or probabilities if all values are from 0 to 1.
            from_prompts: `mask` was predicted from earlier points of this prompt, not tracked or drawn. For the first
                AFRESH_POINTS, the mask is also predicted without it, since a wrong first mask is hard to correct, and
                the probabilities are averaged.

        Raises:
            ValueError: If the prompt has neither points nor a box, or if the mask has another size than the frame.
        """
        require(bool(prompt.points) or prompt.box is not None, "prompt: got neither points nor a box, expected one")
        size = encoded.whole.region.size
        probs = None if mask is None else _probabilities(mask, size).to(self.model.device)
        if probs is not None and from_prompts and len(prompt.points) <= AFRESH_POINTS:
            found, afresh = (self.predict(encoded, prompt, before) for before in (probs, None))
            mean = (found.logits.sigmoid() + afresh.logits.sigmoid()) / 2
            return PromptedMask(mean.logit(eps=EPS), (found.quality + afresh.quality) / 2)
        found = connected(self._look(encoded.whole, prompt, probs), prompt, probs)
        region = None
        if self.zoom:
            inside, scale = (found.logits > 0).cpu().numpy(), encoded.whole.geometry.internal[0] / size[0]
            region = enlarged_region(inside, prompt, scale)
        return found if region is None else connected(self.refine(encoded, prompt, found, region), prompt, probs)

    @torch.inference_mode()
    def refine(self, encoded: EncodedFrame, prompt: Prompt, found: PromptedMask, region: Region) -> PromptedMask:
        """Predict again on an enlarged view of a region, from the mask of the whole frame."""
        view = self._zoomed(encoded, region)
        closer = self._look(view, prompt, found.logits.sigmoid())
        logits = found.logits.clone()
        view.region.crop(logits).copy_(closer.logits)
        return PromptedMask(logits, closer.quality)

    def given(self, method: Segmenter, frame: Frame, with_depth: bool = False) -> tuple[GivenMask, Any]:
        """Return the mask of a frame's prompts merged with its input mask, and the frame's features, if any.

        The prompts of a tracked object correct the tracker's prediction for this frame.

        Raises:
            ValueError: If an object has both a mask and a prompt, or if its predicted mask is empty.
        """
        image = frame.image.to(self.model.device, torch.float32)
        size = (image.shape[-2], image.shape[-1])
        so_far: dict[int, Tensor] = {}
        if type(method) is Tracker and method.model is self.model:
            features: Any = method.encode(frame.image, with_depth)
            assert method.geometry is not None, "a frame was encoded"
            prepared = self._prepare(features.f16, features.f8, features.f4)
            encoded = EncodedFrame(image, View(Region(0, 0, size[1], size[0]), method.geometry, prepared))
            if method.object_ids:
                prediction = method.predict(features)
                probs = method.geometry.leave(prediction.probs.float())
                so_far = dict(zip(prediction.ids, probs[1:]))
        else:
            features = next(iter(method.encode_ahead([frame.image], with_depth)), None)
            encoded = self.encode(frame.image)
        require_shown(frame, so_far)
        masks = {}
        for object_id, prompt in (frame.prompts or {}).items():
            fitted = scaled(prompt, frame.size or size, size)
            masks[object_id] = self.predict(encoded, fitted, so_far.get(object_id)).logits
        return merged_prompts(frame, masks), features

    # ------------------------------------------------------------------------------------------------------- views
    def _view(self, image: Float[Tensor, "3 H W"], region: Region, size: tuple[int, int]) -> View:
        """Encode a region of a frame, resized to `size`."""
        geometry = Geometry(region.size, size, padding_to(size, self.model.multiple), antialias=True)
        with self.model.autocast():
            encoded = self.model.encoder(normalise(geometry.enter(region.crop(image))))
        return View(region, geometry, self._prepare(encoded.f16, encoded.f8, encoded.f4))

    def _prepare(self, f16: Tensor, f8: Tensor, f4: Tensor) -> PromptFeatures:
        with torch.inference_mode(), self.model.autocast():
            return self.head.prepare(f16, f8, f4)

    def _look(self, view: View, prompt: Prompt, probs: Float[Tensor, "H W"] | None) -> PromptedMask:
        """Predict on one view; logits have the size of its region."""
        batch = self._on_view(view, prompt, probs)
        with self.model.autocast():
            masks, quality = self.head(view.features, batch)
        logits = F.interpolate(masks[:, None], scale_factor=float(STRIDE), mode="bilinear", align_corners=False)
        return PromptedMask(view.geometry.leave(logits[0])[0], float(quality.sigmoid()))

    def _on_view(self, view: View, prompt: Prompt, probs: Float[Tensor, "H W"] | None) -> PromptBatch:
        """Convert a prompt to pixels of a view's input; clicks outside of the view are dropped."""
        geometry, device = view.geometry, self.model.device
        corner = (geometry.padding.left, geometry.padding.top)
        asked = on_view(prompt, view.region, geometry.size, geometry.internal, corner)
        points, labels = torch.from_numpy(asked.points), torch.from_numpy(asked.labels)
        if not len(labels):  # the head takes at least one click, and ignores this one
            points, labels = torch.zeros(1, 2), torch.tensor([-1])
        box = torch.full((4,), float("nan")) if asked.box is None else torch.from_numpy(asked.box)
        padded = geometry.padded
        masks = torch.full((1, padded[0] // STRIDE, padded[1] // STRIDE), float("nan"), device=device)
        if probs is not None:
            masks = area(geometry.enter(view.region.crop(probs)[None])[0], STRIDE)
        return PromptBatch(points[None].to(device), labels[None].to(device), box[None].to(device), masks)

    def _zoomed(self, encoded: EncodedFrame, region: Region) -> View:
        """Return the enlarged view of a region; the last one again if it is nearly the same."""
        for view in encoded.zoomed:
            if view.region.iou(region) >= SAME_VIEW:
                return view
        encoded.zoomed = [self._view(encoded.image, region, region.enlarged())]
        return encoded.zoomed[0]


def connected(found: PromptedMask, prompt: Prompt, before: Float[Tensor, "H W"] | None = None) -> PromptedMask:
    """Remove components that no prompt points at; `before` are the probabilities of the mask so far."""
    count, labels = cv2.connectedComponents((found.logits > 0).cpu().numpy().astype(np.uint8))
    so_far = None if before is None else (before > 0.5).cpu().numpy()
    stays = pointed_at(labels, count - 1, prompt, so_far)  # OpenCV counts the background too
    if stays is None:
        return found
    kept = torch.from_numpy(stays).to(found.logits.device)
    return found._replace(logits=torch.where(kept, found.logits, -found.logits))


def _probabilities(mask: Tensor, size: tuple[int, int]) -> Float[Tensor, "H W"]:
    """Convert logits or a mask to probabilities. Raises ValueError for another size."""
    got = tuple(mask.shape)
    require(got == size, f"mask: got size {got}, expected the frame's {size}")
    mask = mask.detach().float()
    low, high = (float(value) for value in mask.aminmax())
    return mask if low >= 0 and high <= 1 else mask.sigmoid()
