"""Graphs of an exported model: the network's methods as functions of plain tensors.

Tables have a fixed capacity, and a mask of the filled rows is an input. The number of objects is free, and so are the
sizes of the windows in which objects are decoded and encoded. Inputs and outputs are float32 in every precision.
"""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cutie_geo.config.model import TIMM
from cutie_geo.model.blocks import normalise
from cutie_geo.model.encoder import ResNetEncoder
from cutie_geo.model.network import CutieGeo
from cutie_geo.model.prompt_head import STRIDE as MASK_STRIDE
from cutie_geo.model.prompt_head import PromptBatch, PromptHead
from cutie_geo.ops import Padding, area, similarity_factors, soft_aggregate, to_tokens, upsample
from cutie_geo.regions import STRIDE
from cutie_geo.structures import FrameFeatures, RecentPast

EMPTY = -1e30
"""Similarity of table rows that are not filled; its softmax weight is 0."""
OBJECTS = "objects"
"""Name of the free axis of objects."""
HEIGHT, WIDTH = "h", "w"
"""Names of the free axes of windows, in positions of stride 16."""


class Sizes(NamedTuple):
    """Sizes of the graphs' inputs."""

    frame: tuple[int, int]
    """Height and width of frames."""
    padding: Padding
    capacity: int
    """Rows of a memory table."""
    top_k: int
    """Rows that each position reads."""
    slots: int
    """Number of clicks that `prompt` takes."""

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width with padding."""
        (height, width), pad = self.frame, self.padding
        return height + pad.top + pad.bottom, width + pad.left + pad.right

    @property
    def tokens(self) -> tuple[int, int]:
        """Height and width of the token grid."""
        return self.padded[0] // STRIDE, self.padded[1] // STRIDE


Axes = Mapping[int, str]
"""Free axes of a tensor by place: "objects", or a multiple of a window's side such as "4*h"."""


class Graph(nn.Module):
    """Function of plain tensors that is exported as one graph.

    Subclasses name the outputs and the free axes, and return an example of the inputs.
    """

    outputs: tuple[str, ...] = ()
    axes: Mapping[str, Axes] = {}
    """Free axes of inputs and outputs; the others are fixed."""

    def __init__(self, model: CutieGeo, sizes: Sizes) -> None:
        super().__init__()
        self.model, self.sizes = model, sizes
        self.eval()

    def example(self) -> dict[str, Tensor]:
        """Return inputs by name, with which the graph is traced."""
        raise NotImplementedError

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        with self.model.autocast():
            return tuple(x.float() for x in self.compute(*inputs))

    def compute(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs."""
        raise NotImplementedError


def window_axes(scale: int, first: int = 2) -> dict[int, str]:
    """Return the free axes of a map with `scale` positions per position of stride 16, from axis `first` on."""
    names = (HEIGHT, WIDTH) if scale == 1 else (f"{scale}*{HEIGHT}", f"{scale}*{WIDTH}")
    return {first + place: name for place, name in enumerate(names)}


def only_pixel(pixel: Float[Tensor, "1 C h w"]) -> FrameFeatures:
    """Return frame features of which only the projected ones are used."""
    return FrameFeatures(*[pixel] * 8)


class Encode(Graph):
    """Everything of a frame that does not depend on memory.

    `query` and `keys` are the two factors of similarity: of the frame that reads, and of the frame in memory. The
    encoder's features follow if the model has a prompt head.
    """

    outputs = ("pixel", "skip8", "skip4", "query", "keys")

    def __init__(self, model: CutieGeo, sizes: Sizes) -> None:
        super().__init__(model, sizes)
        if has_prompts(model):
            self.outputs = (*self.outputs, *Look.outputs)

    def example(self) -> dict[str, Tensor]:
        return {"image": torch.zeros(1, 3, *self.sizes.frame)}

    def compute(self, image: Float[Tensor, "1 3 H W"]) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Return the features that `outputs` names."""
        seen = self.model.encode(self.sizes.padding.pad(image))
        skips = self.model.decoder.skips(seen.f8, seen.f4)
        query, keys = similarity_factors(seen.key, seen.selection, seen.key, seen.shrinkage)
        encoded = (seen.f16, seen.f8, seen.f4) if has_prompts(self.model) else ()
        return seen.pixel, *skips, query[0], keys[0], *encoded


class Read(Graph):
    """Memory read and object transformer, for the objects of one bank.

    `coarse` are the probabilities of the object transformer's masks, from which windows are chosen.
    """

    outputs = ("readout", "coarse")
    axes: ClassVar = {name: {0: OBJECTS} for name in ("value", "sensory", "summary", "mask", "readout", "coarse")}

    def example(self) -> dict[str, Tensor]:
        config, grid, count = self.model.config, self.sizes.tokens, 2
        dim, rows, width = config.value_dim, self.sizes.capacity, 2 * config.key_dim + 1
        return {
            "pixel": torch.zeros(1, dim, *grid),
            "query": torch.rand(grid[0] * grid[1], width),
            "keys": torch.rand(rows, width),
            "filled": torch.ones(rows, dtype=torch.bool),
            "value": torch.rand(count, rows, dim),
            "sensory": torch.zeros(count, dim, *grid),
            "summary": torch.ones(count, config.num_queries, dim + 1),
            "mask": torch.rand(count, *self.sizes.padded),
        }

    def compute(  # type: ignore[override]
        self,
        pixel: Float[Tensor, "1 C h w"],
        query: Float[Tensor, "P F"],
        keys: Float[Tensor, "M F"],
        filled: Bool[Tensor, "M"],
        value: Float[Tensor, "N M C"],
        sensory: Float[Tensor, "N C h w"],
        summary: Float[Tensor, "N Q S"],
        mask: Float[Tensor, "N H W"],
    ) -> tuple[Tensor, ...]:
        read = self._read(query, keys, filled, value)
        recent = RecentPast(sensory[None], summary[None], mask[None])
        readout, masks = self.model.refine(only_pixel(pixel), read[None], recent)
        return readout[0], masks[0, :, -1].sigmoid()

    def _read(self, query: Tensor, keys: Tensor, filled: Tensor, value: Tensor) -> Float[Tensor, "N P C"]:
        """Read the top-k values, in float32."""
        with torch.autocast(query.device.type, enabled=False):
            scores, index = torch.where(filled, query @ keys.t(), EMPTY).topk(self.sizes.top_k, dim=-1)
            weight = scores.softmax(dim=-1)[None, :, None]
            rows = value.index_select(1, index.flatten()).unflatten(1, index.shape)  # (N, P, K, C)
            return (weight @ rows).squeeze(2)


class Decode(Graph):
    """Decoder of mask logits at stride 4, and the update of sensory memory, in a window or in the whole frame."""

    outputs = ("logits", "new_sensory")
    axes: ClassVar = {
        "skip8": window_axes(2),
        "skip4": window_axes(4),
        "readout": {0: OBJECTS, **window_axes(1)},
        "sensory": {0: OBJECTS, **window_axes(1)},
        "logits": {0: OBJECTS, **window_axes(4, 1)},
        "new_sensory": {0: OBJECTS, **window_axes(1)},
    }

    def example(self) -> dict[str, Tensor]:
        """Return inputs of two objects in a window."""
        (_, c8, c4), decoder, count = self.model.encoder.channels, self.model.decoder, 2
        (height, width), dim = WINDOW, self.model.config.value_dim
        with self.model.autocast():
            skips = decoder.skips(torch.zeros(1, c8, 2 * height, 2 * width), torch.zeros(1, c4, 4 * height, 4 * width))
        return {
            "skip8": skips[0].float(),
            "skip4": skips[1].float(),
            "readout": torch.zeros(count, dim, height, width),
            "sensory": torch.zeros(count, dim, height, width),
        }

    def compute(  # type: ignore[override]
        self,
        skip8: Float[Tensor, "1 C h8 w8"],
        skip4: Float[Tensor, "1 D h4 w4"],
        readout: Float[Tensor, "N C h w"],
        sensory: Float[Tensor, "N C h w"],
    ) -> tuple[Tensor, ...]:
        logits, sensory = self.model.decoder(skip8, skip4, readout[None], sensory[None], True)
        return logits[0], sensory[0]


class Combine(Graph):
    """Probabilities of background and objects at the padded size, from the logits of all objects."""

    outputs = ("probs",)
    axes: ClassVar = {"logits": {0: OBJECTS}, "probs": {0: f"1 + {OBJECTS}"}}

    def example(self) -> dict[str, Tensor]:
        height, width = self.sizes.padded
        return {"logits": torch.rand(2, height // 4, width // 4)}

    def compute(self, logits: Float[Tensor, "N h4 w4"]) -> tuple[Tensor, ...]:  # type: ignore[override]
        # aggregated logits are bounded, so that this softmax needs no maximum; onnxruntime's transposes its input
        odds = upsample(soft_aggregate(logits.float().sigmoid()[None]), 4)[0].exp()
        return (odds / odds.sum(dim=0, keepdim=True),)


class Embed(Graph):
    """Features of masks with the image, in a window or in the whole frame, for `memorise`.

    The channels of `masks` are each object's mask and the sum of the others, the first alone in single-object networks.
    """

    outputs = ("features",)
    axes: ClassVar = {
        "image": window_axes(STRIDE),
        "masks": {0: OBJECTS, **window_axes(STRIDE)},
        "features": {0: OBJECTS, **window_axes(1)},
    }

    def example(self) -> dict[str, Tensor]:
        size = [side * STRIDE for side in WINDOW]
        channels = 1 if self.model.config.single_object else 2
        return {"image": torch.zeros(1, 3, *size), "masks": torch.rand(2, channels, *size)}

    def compute(  # type: ignore[override]
        self, image: Float[Tensor, "1 3 H W"], masks: Float[Tensor, "N K H W"]
    ) -> tuple[Tensor, ...]:
        images = normalise(image).expand(masks.shape[0], -1, -1, -1)
        return (self.model.mask_encoder.features(torch.cat([images, masks], dim=1))[-1],)


class Memorise(Graph):
    """Values, sensory memory and summaries of a frame, from the features of its masks.

    `inside` is 1 in the window of each object, in which alone its sensory memory is updated.
    """

    outputs = ("value", "new_sensory", "summary")
    axes: ClassVar = {
        name: {0: OBJECTS} for name in ("features", "mask", "sensory", "inside", "value", "new_sensory", "summary")
    }

    def example(self) -> dict[str, Tensor]:
        dim, grid, count = self.model.config.value_dim, self.sizes.tokens, 2
        return {
            "pixel": torch.zeros(1, dim, *grid),
            "features": torch.rand(count, self.model.mask_encoder.features.channels[-1], *grid),
            "mask": torch.rand(count, *self.sizes.padded),
            "sensory": torch.zeros(count, dim, *grid),
            "inside": torch.ones(count, *grid),
        }

    def compute(  # type: ignore[override]
        self,
        pixel: Float[Tensor, "1 C h w"],
        features: Float[Tensor, "N C2 h w"],
        mask: Float[Tensor, "N H W"],
        sensory: Float[Tensor, "N C h w"],
        inside: Float[Tensor, "N h w"],
    ) -> tuple[Tensor, ...]:
        """Return values as tokens (N, P, C), sensory memory and summaries."""
        encoder, inside = self.model.mask_encoder, inside[None, :, None]
        value, sensory = encoder.fusion(pixel, features[None]), sensory[None]
        # zeros around a window are what the update's convolution sees outside of a cropped map
        updated = encoder.sensory_update(value * inside, sensory * inside)
        summary, _ = self.model.object_summarizer(mask[None], value)
        return to_tokens(value)[0], torch.where(inside > 0, updated, sensory)[0], summary[0]


class Look(Graph):
    """The encoder's features of a part of a frame, for prompts on an enlarged view; only for encoders of any size."""

    outputs = ("f16", "f8", "f4")

    def __init__(self, model: CutieGeo, sizes: Sizes) -> None:
        super().__init__(model, sizes)
        times = model.multiple // STRIDE
        self.axes = {
            "image": window_axes(model.multiple),
            **{name: window_axes(times * scale) for name, scale in zip(self.outputs, (1, 2, 4))},
        }

    def example(self) -> dict[str, Tensor]:
        return {"image": torch.zeros(1, 3, *(side * self.model.multiple for side in WINDOW))}

    def compute(self, image: Float[Tensor, "1 3 H W"]) -> tuple[Tensor, ...]:  # type: ignore[override]
        return tuple(self.model.encoder(normalise(image))[:3])


class PromptMask(Graph):
    """Mask of one object from clicks, a box and the mask so far, at the size of the encoder's input.

    `filled` is True for a box and for a mask that are used; clicks with label -1 are ignored.
    """

    outputs = ("logits", "quality")
    axes: ClassVar = {
        "f16": window_axes(1),
        "f8": window_axes(2),
        "f4": window_axes(4),
        "mask": window_axes(STRIDE, 1),
        "logits": window_axes(STRIDE, 1),
    }

    def example(self) -> dict[str, Tensor]:
        c16, c8, c4 = self.model.encoder.channels
        (height, width), slots = WINDOW, self.sizes.slots
        return {
            "f16": torch.rand(1, c16, height, width),
            "f8": torch.rand(1, c8, 2 * height, 2 * width),
            "f4": torch.rand(1, c4, 4 * height, 4 * width),
            "points": torch.rand(1, slots, 2),
            "labels": torch.ones(1, slots),
            "box": torch.rand(1, 4),
            "mask": torch.rand(1, STRIDE * height, STRIDE * width),
            "filled": torch.ones(2, dtype=torch.bool),
        }

    def compute(  # type: ignore[override]
        self,
        f16: Float[Tensor, "1 C h w"],
        f8: Float[Tensor, "1 C2 h8 w8"],
        f4: Float[Tensor, "1 C4 h4 w4"],
        points: Float[Tensor, "1 K 2"],
        labels: Float[Tensor, "1 K"],
        box: Float[Tensor, "1 4"],
        mask: Float[Tensor, "1 H W"],
        filled: Bool[Tensor, "2"],
    ) -> tuple[Tensor, ...]:
        """Return mask logits at the size of the encoder's input, and the estimated IoU."""
        head = self.model.prompt_head
        assert head is not None, "the graph is exported for models with a prompt head"
        boxes = torch.where(filled[0], box, torch.nan)
        masks = torch.where(filled[1], area(mask, MASK_STRIDE), torch.nan)
        found = head(head.prepare(f16, f8, f4), PromptBatch(points, labels.long(), boxes, masks))
        return upsample(found.logits[:, None], MASK_STRIDE)[:, 0], found.quality.sigmoid()


WINDOW = (5, 6)
"""Height and width of the window with which graphs are traced, in positions of stride 16."""


def has_prompts(model: CutieGeo) -> bool:
    """Return True if the model has a prompt head with trained weights."""
    return isinstance(model.prompt_head, PromptHead) and model.prompt_head.trained


def takes_any_size(model: CutieGeo) -> bool:
    """Return True if the encoder is convolutional: it has no position tables of a fixed size."""
    encoder = model.encoder
    return isinstance(encoder, ResNetEncoder) or (
        model.config.encoder.vision.startswith(TIMM) and not model.gives_depth
    )


def graphs_of(model: CutieGeo) -> dict[str, type[Graph]]:
    """Return the graphs of a model by name, in the order of a frame."""
    graphs: dict[str, type[Graph]] = {
        "encode": Encode, "read": Read, "decode": Decode, "combine": Combine, "embed": Embed, "memorise": Memorise,
    }  # fmt: skip
    if has_prompts(model):
        graphs["prompt"] = PromptMask
        if takes_any_size(model):
            graphs["look"] = Look
    return graphs
