"""CutieGeo, the network, in four verbs: encode a frame, read memory, decode masks, memorise them."""

import shutil
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutie_geo.config import ModelConfig
from cutie_geo.model.blocks import normalise
from cutie_geo.model.decoder import MaskDecoder
from cutie_geo.model.encoder import FusedEncoder, build_encoder
from cutie_geo.model.hub import HubModel
from cutie_geo.model.mask_encoder import FUSED_GAIN, KeyProjection, MaskEncoder, ObjectSummarizer, PixelFusion
from cutie_geo.model.object_transformer import ObjectTransformer
from cutie_geo.ops import (
    area,
    full_precision,
    grouped,
    in_object_chunks,
    others,
    read_dense,
    read_sparse,
    similarity,
    soft_aggregate,
    to_map,
    to_tokens,
    top_k_affinity,
    upsample,
)
from cutie_geo.structures import Decoded, FrameFeatures, FrozenFile, Memorised, MemoryView, Readout, RecentPast

CPP_COMPILERS = ("c++", "g++", "clang++", "cl")
STRIDE = 16
"""Pixels between memory tokens."""


class CutieGeo(nn.Module, HubModel):
    """Weights and no other state: what one video has seen comes and goes through the arguments.

    `chunk` in every verb is how many objects go through the network together (-1: all): less memory, the same values.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config.encoder)
        c16, c8, c4 = self.encoder.channels
        self.pixel_projection = nn.Conv2d(c16, config.value_dim, 1)
        gain = FUSED_GAIN if config.encoder.is_hiera else 1.0
        self.key_projection = KeyProjection(c16, config.value_dim, config.key_dim, gain)
        self.mask_encoder = MaskEncoder(config)
        self.object_summarizer = ObjectSummarizer(config)
        self.pixel_fusion = PixelFusion(config)
        self.object_transformer = ObjectTransformer(config)
        self.decoder = MaskDecoder(config, c8, c4)
        self.sensory_head = nn.Conv2d(config.value_dim, config.value_dim + 1, 1)
        """For the auxiliary loss of training only; in every checkpoint all the same."""
        self.frozen_files: dict[str, FrozenFile] = {}
        """Where the encoder's frozen parts were loaded from, by part; checkpoints don't hold those parts."""
        self.loaded_from: Path | None = None
        """The file that the trained weights came from."""
        self._precision = torch.float32

    @property
    def precision(self) -> torch.dtype:
        """What a tracker runs the network in. Trained weights stay float32, and so does what half precision would
        spoil; frozen encoders are kept in this type.

        Setting it raises ValueError where that would have to undo a rounding of frozen weights.
        """
        return self._precision

    @precision.setter
    def precision(self, dtype: torch.dtype) -> None:
        if isinstance(self.encoder, FusedEncoder):
            self.encoder.cast(dtype)
        self._precision = dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.pixel_projection.weight.device

    def autocast(self) -> torch.autocast:
        """The context of this network's precision."""
        half = self.precision != torch.float32
        return torch.autocast(self.device.type, dtype=self.precision if half else None, enabled=half)

    def compile_parts(self) -> None:
        """Have torch compile what takes most of the time: encoders, object transformer, decoder, mask encoder.

        The first frames, and the first with another size or number of objects, take minutes then. Values change by
        rounding. Raises ValueError on a CPU without a C++ compiler, which torch needs there.
        """
        if self.device.type == "cpu" and not any(shutil.which(name) for name in CPP_COMPILERS):
            raise ValueError(f"compile: no C++ compiler found, wanted one of {', '.join(CPP_COMPILERS)}")
        for part in (*self.encoder.compilable(), self.object_transformer, self.decoder, self.mask_encoder):
            part.compile()

    @property
    def multiple(self) -> int:
        """Both sides of an image given to `encode` are multiples of this."""
        return self.encoder.multiple

    @property
    def gives_depth(self) -> bool:
        """Whether there is a geometry encoder."""
        return self.config.encoder.geometry != "none"

    def encode(self, image: Float[Tensor, "B 3 H W"], with_depth: bool = False) -> FrameFeatures:
        """Features, keys and all that does not depend on memory. `image` is RGB in [0, 1], padded to `multiple`.

        with_depth: also the geometry encoder's depth map. Raises ValueError if there is no such encoder.
        """
        f16, f8, f4, depth = self.encoder(normalise(image), with_depth)
        key, shrinkage, selection = self.key_projection(f16)
        return FrameFeatures(image, f16, f8, f4, self.pixel_projection(f16), key, shrinkage, selection, depth)

    def read(
        self,
        features: FrameFeatures,
        view: MemoryView,
        top_k: int | None = None,
        selector: Float[Tensor, "B N"] | None = None,
        chunk: int = -1,
    ) -> Readout:
        """What memory says about a frame: pixel readout, fusion with the recent past, object transformer.

        `top_k` tokens are read by each position, all of them by default (as in training). `selector` is 1 for slots
        that hold an object and 0 for those that fill up a batch.
        Source: Cutie specification, sections 3.5, 3.6 and 4.
        """
        read, usage = self.recall(features, view, top_k)
        return Readout(*self.refine(features, read, view, selector, chunk), usage)

    def recall(
        self, features: FrameFeatures, view: MemoryView, top_k: int | None = None
    ) -> tuple[Float[Tensor, "B N P CV"], Float[Tensor, "B M"]]:
        """The first half of `read`, the pixel readout: values of similar tokens, and how much each token was read."""
        keys = (features.key, features.selection, view.key, view.shrinkage)
        with full_precision(view.key):
            if top_k is None:
                return read_dense(similarity(*keys).softmax(dim=-1), view.value.float())
            return read_sparse(*top_k_affinity(*keys, top_k), view.value.float())

    def refine(
        self,
        features: FrameFeatures,
        read: Float[Tensor, "B N P CV"],
        recent: RecentPast | MemoryView,
        selector: Float[Tensor, "B N"] | None = None,
        chunk: int = -1,
    ) -> tuple[Float[Tensor, "B N C h w"], Float[Tensor, "B N L h w"]]:
        """The second half of `read`, which looks at no token: fusion with the recent past, object transformer."""
        size = (features.pixel.shape[-2], features.pixel.shape[-1])
        masks = self._with_others(area(recent.mask, STRIDE))
        (fused,) = in_object_chunks(
            lambda *objects: (self.pixel_fusion(features.pixel, *objects),),
            to_map(read, size), recent.sensory, masks, chunk=chunk,
        )  # fmt: skip
        return self.object_transformer(fused, recent.summary, selector, chunk)

    def decode(
        self,
        features: FrameFeatures,
        readout: Float[Tensor, "B N C h w"],
        sensory: Float[Tensor, "B N C h w"],
        update_sensory: bool = True,
        selector: Float[Tensor, "B N"] | None = None,
        chunk: int = -1,
    ) -> Decoded:
        """Masks of all objects together at the padded size, and the sensory memory after this frame."""
        skips = self.decoder.skips(features.f8, features.f4)
        logits, sensory = in_object_chunks(
            lambda *objects: self.decoder(*skips, *objects, update_sensory), readout, sensory, chunk=chunk
        )
        probs = logits.sigmoid()
        if selector is not None:
            probs = probs * selector[..., None, None]
        # aggregation comes before the enlargement, softmax after it
        return Decoded(upsample(soft_aggregate(probs), 4), sensory if update_sensory else None)

    def memorise(
        self,
        features: FrameFeatures,
        masks: Float[Tensor, "B N H W"],
        sensory: Float[Tensor, "B N C h w"],
        deep_update: bool = True,
        chunk: int = -1,
    ) -> Memorised:
        """What a frame with masks in [0, 1] leaves in memory; soft masks are encoded as they are."""
        image = normalise(features.image)
        shared = self._with_others(masks)

        per_chunk = partial(self._memorise_chunk, image, features.pixel, deep_update)
        return Memorised(*in_object_chunks(per_chunk, masks, shared, sensory, chunk=chunk))

    def _memorise_chunk(
        self, image: Tensor, pixel: Tensor, deep_update: bool, own: Tensor, with_others: Tensor, sensory: Tensor
    ) -> tuple[Tensor, ...]:
        value, sensory = self.mask_encoder(image, pixel, with_others, sensory, deep_update)
        return to_tokens(value), sensory, *self.object_summarizer(own, value)

    def auxiliary_logits(
        self,
        features: FrameFeatures,
        sensory: Float[Tensor, "B N C h w"],
        query_logits: Float[Tensor, "B N L h w"],
        selector: Float[Tensor, "B N"] | None = None,
    ) -> tuple[Float[Tensor, "B N1 h w"], Float[Tensor, "B N1 L h w"]]:
        """Aggregated logits for the auxiliary losses: from the sensory memory that entered the frame, and from the
        object transformer. Source: Cutie specification, section 3.8."""
        head = grouped(self.sensory_head, sensory)
        logits = (features.pixel.unsqueeze(1) * head[:, :, :-1]).sum(dim=2) + head[:, :, -1]
        probs, query_probs = logits.sigmoid(), query_logits.sigmoid()
        if selector is not None:
            probs = probs * selector[..., None, None]
            query_probs = query_probs * selector[..., None, None, None]
        return soft_aggregate(probs), soft_aggregate(query_probs)

    def empty_sensory(self, features: FrameFeatures, num_objects: int) -> Float[Tensor, "B N C h w"]:
        """The sensory memory of objects that have none yet."""
        batch, channels, *size = features.pixel.shape
        return features.pixel.new_zeros(batch, num_objects, channels, *size, dtype=torch.float32)

    def _with_others(self, masks: Float[Tensor, "B N H W"]) -> Float[Tensor, "B N K H W"]:
        """Each object's mask and, unless this network is for single objects, the sum of the others'."""
        return masks.unsqueeze(2) if self.config.single_object else torch.stack([masks, others(masks)], dim=2)
