"""Conversion of point and box prompts to masks, on any frame of a video."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutie_geo.checkpoints.encoders import catalogue_name
from cutie_geo.config import require
from cutie_geo.inference.ensemble import Ensemble
from cutie_geo.inference.families import VideoModel
from cutie_geo.inference.inputs import Geometry
from cutie_geo.inference.prompting import PromptedMask, merged_prompts, require_shown
from cutie_geo.inference.segmenter import Segmenter
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.blocks import normalise
from cutie_geo.model.encoder import FusedEncoder
from cutie_geo.model.hiera import STAGES
from cutie_geo.ops import Padding, bilinear
from cutie_geo.sam2.prompt_decoder import BOX_CORNERS, PromptHead
from cutie_geo.structures import Frame, FrameFeatures, GivenMask, Prompt

log = logging.getLogger(__name__)


def shared_prompts(model: VideoModel) -> str | None:
    """Return the name of the SAM 2 whose frozen trunk is `model`'s encoder; None if there is none."""
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, FusedEncoder) or "vision" not in encoder.frozen:
        return None
    config = encoder.config
    return catalogue_name(config, "vision") if config.vision_init in ("sam2", "sam2.1") else None


class Prompter:
    """Converter of a frame's prompts to an input mask for a segmenter.

    A head with its own trunk encodes the frame, resized to SAM 2's square. A head without a trunk uses that of the
    segmenter's network, which has the same weights (`shared_prompts`), so the frame is encoded once; for an ensemble,
    its first unflipped view.

    >>> import cutie_geo, torch
    >>> small = ["model.image_size=256"]
    >>> model = cutie_geo.load_model("sam2.1-hiera-tiny", weights="none", device="cpu", overrides=small)
    >>> prompter = cutie_geo.Prompter(PromptHead(model, own_trunk=True))
    >>> frame = cutie_geo.Frame("00000", torch.rand(3, 64, 96), prompts={4: Prompt(points=((40.0, 30.0, 1),))})
    >>> mask, features = prompter.given(cutie_geo.make_segmenter(model), frame)
    >>> mask.ids, mask.labels.shape
    ((4,), (64, 96))
    """

    def __init__(self, head: PromptHead) -> None:
        self.head = head

    def given(self, method: Segmenter, frame: Frame, with_depth: bool = False) -> tuple[GivenMask, Any]:
        """Return the mask of a frame's prompts merged with its input mask, and the frame's features, if any.

        In overlaps the object with the largest logit is selected; the input mask takes precedence over prompts.

        Raises:
            ValueError: If an object has both a mask and a prompt or only negative points, or if its predicted mask is
                empty.
        """
        prompts = frame.prompts or {}
        require_shown(frame)
        if self.head.trunk is None:
            stages, geometry, features = self._through(method, frame.image, with_depth)
        else:
            size, side = (frame.image.shape[-2], frame.image.shape[-1]), self.head.side
            stages, geometry = self.head.look(frame.image), Geometry(size, (side, side), Padding(0, 0, 0, 0))
            features = next(iter(method.encode_ahead([frame.image], with_depth)), None)
        size = frame.size or (frame.image.shape[-2], frame.image.shape[-1])
        points = [_on_grid(prompt, size, geometry) for prompt in prompts.values()]
        masks = [self._restored(logits, geometry, frame) for logits in self.head(stages, points)]
        return merged_prompts(frame, dict(zip(prompts, masks))), features

    @staticmethod
    def _restored(logits: Float[Tensor, "H2 W2"], geometry: Geometry, frame: Frame) -> Float[Tensor, "H W"]:
        """Resize logits to the size of the frame's image."""
        size = (frame.image.shape[-2], frame.image.shape[-1])
        return bilinear(geometry.padding.crop(logits)[None, None], size)[0, 0]

    def _through(self, method: Segmenter, image: Tensor, with_depth: bool) -> tuple[list[Tensor], Geometry, Any]:
        """Encode a frame with the segmenter's network; return its stages, geometry and features."""
        place = _first_straight(method) if isinstance(method, Ensemble) else 0
        tracker = method.trackers[place] if isinstance(method, Ensemble) else method
        assert isinstance(tracker, Tracker), "only what has a trunk shares it"
        assert isinstance(tracker.model.encoder, FusedEncoder), "only what has a trunk shares it"
        trunk = tracker.model.encoder.vision.trunk
        assert isinstance(trunk, nn.Module), "a Hiera trunk"
        with _as_written(), _tapped(trunk) as seen:
            features: Any = method.encode(image, with_depth)  # type: ignore[attr-defined]
        assert tracker.geometry is not None, "a frame was encoded"
        own: FrameFeatures = features[place] if isinstance(method, Ensemble) else features
        return _stages_of(own.image, seen), tracker.geometry, features


SURE = 10.0
"""Logit of pixels of a mask that a prompt corrects, in SAM 2's input; negative outside of the mask."""


class Sam2FramePrompter:
    """Predictor of masks from prompts through SAM 2: the `FramePrompter` of models without a head of their own.

    Args:
        head: Head with its own trunk.
    """

    def __init__(self, head: PromptHead) -> None:
        require(head.trunk is not None, "prompts: got a head without a trunk, expected its own")
        self.head = head

    def encode(self, image: Float[Tensor, "3 H W"]) -> Any:
        """Return the stages of the trunk, and the size of the frame."""
        return self.head.look(image), (image.shape[-2], image.shape[-1])

    def predict(
        self, encoded: Any, prompt: Prompt, mask: Float[Tensor, "H W"] | None = None, from_prompts: bool = False
    ) -> PromptedMask:
        stages, size = encoded
        side = (self.head.side, self.head.side)
        where, labels = _on_grid(prompt, size, Geometry(size, side, Padding(0, 0, 0, 0)))
        before = None
        if mask is not None:
            soft = mask if bool((mask < 0).any()) else (2 * mask - 1) * SURE
            before = bilinear(soft[None, None].float(), side)[0, 0]
        logits, quality = self.head.correct(stages, where, labels, before)
        return PromptedMask(bilinear(logits[None, None], size)[0, 0], quality)


def _first_straight(ensemble: Ensemble) -> int:
    """Return the index of the first unflipped view, in which prompts have their original positions.

    Raises:
        ValueError: If all views are flipped.
    """
    for place, tracker in enumerate(ensemble.trackers):
        if not tracker.view.flip:
            return place
    raise ValueError("prompts: all views are flipped, expected one that is not")


def _stages_of(image: Float[Tensor, "1 3 H W"], seen: list[tuple[Tensor, Any]]) -> list[Tensor]:
    """Return the stages of one padded image among all batches of a trunk, whose order depends on threads."""
    wanted = normalise(image)
    for batch, stages in seen:
        if batch.shape[1:] == wanted.shape[1:]:
            same = (batch == wanted.to(batch.dtype)).flatten(1).all(dim=1).nonzero()
            if len(same):
                row = int(same[0])
                return [stage[row : row + 1] for stage in stages[:STAGES]]
    raise AssertionError("the image went through the trunk")


def _as_written() -> AbstractContextManager[Any]:
    """Disable compiled code within the block, since it ignores hooks added later; no effect before torch 2.6."""
    stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if stance is None else stance("force_eager")


@contextmanager
def _tapped(module: nn.Module) -> Iterator[list[tuple[Tensor, Any]]]:
    """Record the first input and the output of every call of a module within the block."""
    seen: list[tuple[Tensor, Any]] = []
    handle = module.register_forward_hook(lambda _module, given, found: seen.append((given[0], found)))
    try:
        yield seen
    finally:
        handle.remove()


def _on_grid(prompt: Prompt, size: tuple[int, int], geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Convert a prompt on frames of `size` to points in pixels of the network's input and labels, box corners first."""
    corners = [] if prompt.box is None else [prompt.box[:2], prompt.box[2:]]
    where = torch.tensor([*corners, *(point[:2] for point in prompt.points)], dtype=torch.float32)
    labels = [*(BOX_CORNERS if prompt.box is not None else ()), *(point[2] for point in prompt.points)]
    (height, width), padding = geometry.internal, geometry.padding
    scale = torch.tensor([width / size[1], height / size[0]])
    return where * scale + torch.tensor([padding.left, padding.top]), torch.tensor(labels)
