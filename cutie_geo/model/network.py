"""CutieGeo network: encodes frames, reads memory, decodes masks and encodes them for memory."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutie_geo.config import ModelConfig
from cutie_geo.model.blocks import normalise
from cutie_geo.model.decoder import MaskDecoder
from cutie_geo.model.encoder import FusedEncoder, build_encoder
from cutie_geo.model.mask_encoder import FUSED_GAIN, KeyProjection, MaskEncoder, ObjectSummarizer, PixelFusion
from cutie_geo.model.object_transformer import ObjectTransformer
from cutie_geo.model.packed import pack
from cutie_geo.model.prompt_head import PromptHead
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
from cutie_geo.regions import ABSENT, STRIDE, Window
from cutie_geo.structures import Decoded, FrameFeatures, FrozenFile, Memorised, MemoryView, Readout, RecentPast


class CutieGeo(nn.Module):
    """Cutie's network without state: memory is passed to its methods and returned.

    `chunk` is the number of objects that a method processes at once (-1: all). It bounds memory and changes values by
    rounding only.

    >>> import cutie_geo, torch
    >>> model = cutie_geo.load_model("cutie-geo-tiny", device="cpu", precision="fp32")
    >>> features = model.encode(torch.zeros(1, 3, 64, 96))
    >>> isinstance(model, cutie_geo.CutieGeo), tuple(features.key.shape)
    (True, (1, 24, 64))
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config.encoder)
        c16, c8, c4 = self.encoder.channels
        self.pixel_projection = nn.Conv2d(c16, config.value_dim, 1)
        gain = FUSED_GAIN if config.encoder.is_fused else 1.0
        self.key_projection = KeyProjection(c16, config.value_dim, config.key_dim, gain)
        self.mask_encoder = MaskEncoder(config)
        self.object_summarizer = ObjectSummarizer(config)
        self.pixel_fusion = PixelFusion(config)
        self.object_transformer = ObjectTransformer(config)
        self.decoder = MaskDecoder(config, c8, c4)
        self.sensory_head = nn.Conv2d(config.value_dim, config.value_dim + 1, 1)
        """Head of the auxiliary loss, used in training and stored in every checkpoint."""
        head = config.prompt_channels
        self.prompt_head = PromptHead((c16, c8, c4), head) if head else None
        """Predictor of masks from clicks and boxes; None if the model has none."""
        self.frozen_files: dict[str, FrozenFile] = {}
        """Files of the encoder's frozen parts; checkpoints refer to them instead of storing the tensors."""
        self.loaded_from: Path | None = None
        """File of the trained weights."""
        self._precision = torch.float32
        pack(self, leave=("encoder.vision", "encoder.geometry"))

    @property
    def precision(self) -> torch.dtype:
        """Floating-point type of inference. Trained weights stay float32; frozen encoders are stored in this type.

        Raises:
            ValueError: If set to a wider type than that of the frozen weights, whose rounding cannot be undone.
        """
        return self._precision

    @precision.setter
    def precision(self, dtype: torch.dtype) -> None:
        if isinstance(self.encoder, FusedEncoder):
            self.encoder.cast(dtype)
        self._precision = dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.pixel_projection.weight.device

    def autocast(self) -> torch.autocast:
        """Return the autocast context of this network's precision."""
        half = self.precision != torch.float32
        return torch.autocast(self.device.type, dtype=self.precision if half else None, enabled=half)

    def compilable(self) -> tuple[nn.Module, ...]:
        """Return the parts that take most of the time and that torch can compile."""
        return (*self.encoder.compilable(), self.object_transformer, self.decoder, self.mask_encoder)

    @property
    def multiple(self) -> int:
        """Divisor of both sides of images for `encode`, in pixels."""
        return self.encoder.multiple

    @property
    def gives_depth(self) -> bool:
        """True if there is a geometry encoder."""
        return self.config.encoder.geometry != "none"

    def encode(self, image: Float[Tensor, "B 3 H W"], with_depth: bool = False) -> FrameFeatures:
        """Encode a frame: features, keys and everything else that does not depend on memory.

        Args:
            image: RGB in [0, 1], padded to `multiple`.
            with_depth: Also return the geometry encoder's depth map.

        Raises:
            ValueError: If depth is requested and there is no geometry encoder, or if the trained weights are in half
                precision.
        """
        dtype = self.pixel_projection.weight.dtype
        if dtype != torch.float32 and dtype != image.dtype:
            raise ValueError(
                f"model: the trained weights are {dtype}, expected torch.float32. For half precision load the model "
                'with load_model(..., precision="bf16") or "fp16" and leave out .half(), .bfloat16() and .to(dtype).'
            )
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
        """Read memory: pixel readout, fusion with the recent past, object transformer.

        Args:
            top_k: Tokens that each position reads; None reads all, as in training.
            selector: 1 for slots that hold an object, 0 for the padding of a batch.

        Source: Cutie specification, sections 3.5, 3.6 and 4.
        """
        read, usage = self.recall(features, view, top_k)
        return Readout(*self.refine(features, read, view, selector, chunk), usage)

    def recall(
        self, features: FrameFeatures, view: MemoryView, top_k: int | None = None
    ) -> tuple[Float[Tensor, "B N P CV"], Float[Tensor, "B M"]]:
        """Read the values of similar tokens, the first half of `read`; also return the usage of each token."""
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
        """Fuse a readout with the recent past and run the object transformer, the second half of `read`."""
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
        windows: Sequence[Window | None] | None = None,
    ) -> Decoded:
        """Decode the masks of all objects at the padded size, and update sensory memory.

        Args:
            windows: Part of the frame in which each object is decoded; None decodes all of it. Outside its window an
                object is absent, and its sensory memory is unchanged.
        """
        skips = self.decoder.skips(features.f8, features.f4)
        if windows is not None and any(windows):
            logits, sensory = self._decode_windows(skips, readout, sensory, update_sensory, windows)
        else:
            logits, sensory = in_object_chunks(
                lambda *objects: self.decoder(*skips, *objects, update_sensory), readout, sensory, chunk=chunk
            )
        probs = logits.sigmoid()
        if selector is not None:
            probs = probs * selector[..., None, None]
        # aggregation comes before upsampling, softmax after it
        return Decoded(upsample(soft_aggregate(probs), 4), sensory if update_sensory else None)

    def _decode_windows(
        self,
        skips: tuple[Tensor, Tensor],
        readout: Tensor,
        sensory: Tensor,
        update_sensory: bool,
        windows: Sequence[Window | None],
    ) -> tuple[Float[Tensor, "B N h4 w4"], Float[Tensor, "B N C h w"]]:
        """Decode each object in its window."""
        skip8, skip4 = skips
        (batch, count, _, height, width), updated = readout.shape, sensory.clone() if update_sensory else sensory
        logits = readout.new_full((batch, count, height * 4, width * 4), ABSENT, dtype=torch.float32)
        for slot, window in enumerate(windows):
            window, own = window or Window(0, height, 0, width), slice(slot, slot + 1)
            parts = (window.crop(skip8, 2), window.crop(skip4, 4), window.crop(readout[:, own]))
            decoded, seen = self.decoder(*parts, window.crop(sensory[:, own]), update_sensory)
            window.crop(logits[:, own], 4).copy_(decoded)
            if update_sensory:
                window.crop(updated[:, own]).copy_(seen)
        return logits, updated

    def memorise(
        self,
        features: FrameFeatures,
        masks: Float[Tensor, "B N H W"],
        sensory: Float[Tensor, "B N C h w"],
        deep_update: bool = True,
        chunk: int = -1,
        windows: Sequence[Window | None] | None = None,
    ) -> Memorised:
        """Encode a frame with (soft) masks in [0, 1] for memory; `windows` as in `MaskEncoder`, without chunks."""
        image = normalise(features.image)
        shared = self._with_others(masks)

        per_chunk = partial(self._memorise_chunk, image, features.pixel, deep_update, windows)
        if windows is not None:
            return Memorised(*per_chunk(masks, shared, sensory))
        return Memorised(*in_object_chunks(per_chunk, masks, shared, sensory, chunk=chunk))

    def _memorise_chunk(
        self,
        image: Tensor,
        pixel: Tensor,
        deep_update: bool,
        windows: Sequence[Window | None] | None,
        own: Tensor,
        with_others: Tensor,
        sensory: Tensor,
    ) -> tuple[Tensor, ...]:
        value, sensory = self.mask_encoder(image, pixel, with_others, sensory, deep_update, windows)
        return to_tokens(value), sensory, *self.object_summarizer(own, value)

    def auxiliary_logits(
        self,
        features: FrameFeatures,
        sensory: Float[Tensor, "B N C h w"],
        query_logits: Float[Tensor, "B N L h w"],
        selector: Float[Tensor, "B N"] | None = None,
    ) -> tuple[Float[Tensor, "B N1 h w"], Float[Tensor, "B N1 L h w"]]:
        """Return aggregated logits for the auxiliary losses, from sensory memory and from the object transformer.

        Source: Cutie specification, section 3.8.
        """
        head = grouped(self.sensory_head, sensory)
        logits = (features.pixel.unsqueeze(1) * head[:, :, :-1]).sum(dim=2) + head[:, :, -1]
        probs, query_probs = logits.sigmoid(), query_logits.sigmoid()
        if selector is not None:
            probs = probs * selector[..., None, None]
            query_probs = query_probs * selector[..., None, None, None]
        return soft_aggregate(probs), soft_aggregate(query_probs)

    def empty_sensory(self, features: FrameFeatures, num_objects: int) -> Float[Tensor, "B N C h w"]:
        """Return the initial sensory memory of new objects."""
        batch, channels, *size = features.pixel.shape
        return features.pixel.new_zeros(batch, num_objects, channels, *size, dtype=torch.float32)

    def _with_others(self, masks: Float[Tensor, "B N H W"]) -> Float[Tensor, "B N K H W"]:
        """Stack each object's mask with the sum of the others, unless this is a single-object network."""
        return masks.unsqueeze(2) if self.config.single_object else torch.stack([masks, others(masks)], dim=2)
