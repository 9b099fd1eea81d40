"""Forward pass of training: unrolled inference over a clip, with gradients through all frames.

Source: Cutie specification, section 8.3.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cutie_geo.config import UnrollConfig
from cutie_geo.model.network import CutieGeo
from cutie_geo.ops import quick_gradients
from cutie_geo.structures import ClipBatch, FrameFeatures, Memorised, MemoryView
from cutie_geo.training.sampling import reference_frames


class Unrolled(NamedTuple):
    """Outputs for the S = T - 1 frames after the first; background first among the N1 channels."""

    logits: Float[Tensor, "B S N1 H W"]
    sensory_logits: Float[Tensor, "B S N1 h w"]
    """Auxiliary logits from sensory memory before each frame."""
    query_logits: Float[Tensor, "B S N1 L h w"]
    """Auxiliary logits of the object transformer, before its first block and after each block."""
    sensory: Float[Tensor, "B N C h w"]
    """Sensory memory after the last frame."""
    key: Float[Tensor, "B T P CK"]
    """Keys of all T frames, like the next two fields."""
    shrinkage: Float[Tensor, "B T P 1"]
    selection: Float[Tensor, "B T P CK"]
    depth: Float[Tensor, "K h2 w2"] | None = None
    """Relative inverse depth of the first frames of the clips in `with_distance`; None unless requested."""


class _FrameOutputs(NamedTuple):
    """Outputs of one frame for `Unrolled` and for the next frame."""

    logits: Tensor
    sensory_logits: Tensor
    query_logits: Tensor
    sensory: Tensor
    masks: Tensor


class ClipUnroll(nn.Module):
    """Forward pass of training as a module, which wrappers for distributed training require."""

    def __init__(self, model: CutieGeo, config: UnrollConfig, with_depth: bool = False) -> None:
        """Build the module; `with_depth` adds depth to the outputs."""
        super().__init__()
        self.model = model
        self.config = config
        self.with_depth = with_depth

    def forward(self, batch: ClipBatch, deep: Sequence[bool]) -> Unrolled:
        """Call `unroll`."""
        return unroll(self.model, batch, self.config, deep, self.with_depth)


def unroll(
    model: CutieGeo, batch: ClipBatch, config: UnrollConfig, deep: Sequence[bool], with_depth: bool = False
) -> Unrolled:
    """Segment every frame of the clips from the masks of the first frame.

    There are as many slots as the largest number of objects of a clip; unused slots of other clips stay empty.

    Args:
        deep: For each frame, whether memorising it updates sensory memory; always True for the first.
        with_depth: Also return the depth of the first frames of clips with known distances.
    """
    slots, length = int(batch.num_objects.max()), batch.images.shape[1]
    references = [reference_frames(seed, length, config.reference_frames) for seed in batch.seeds.tolist()]
    selector = object_selector(batch.num_objects, slots).to(batch.images.device)
    images, masks, depth = unit_range(batch.images), one_hot(batch.labels[:, 0], slots), None
    with quick_gradients(images.device):
        if with_depth:
            features, depth = encode_with_depth(model, images, with_distance(batch))
        else:
            features = encode_clips(model, images, config.encode_at_once)
    return propagate(model, features, masks, selector, references, deep, config)._replace(depth=depth)


def propagate(
    model: CutieGeo,
    features: Sequence[FrameFeatures],
    masks: Float[Tensor, "B N H W"],
    selector: Float[Tensor, "B N"],
    references: Sequence[Sequence[list[int]]],
    deep: Sequence[bool],
    config: UnrollConfig,
) -> Unrolled:
    """Segment every frame from encoded features; see `unroll`.

    Args:
        features: Features of each frame.
        masks: Masks of the first frame.
        selector: 1 for slots with an object, 0 for unused slots.
        references: `references[b][t]` are the past frames that frame t of clip b reads.
    """
    length = len(features)
    run = _recomputed if config.checkpointing and torch.is_grad_enabled() else _kept
    first = model.empty_sensory(features[0], masks.shape[1])
    memory = [run(partial(_memorise, model, True), features[0], masks, first)]
    sensory = memory[0].sensory
    outputs: list[_FrameOutputs] = []
    for t in range(1, length):
        view = _view(features, memory, [rows[t] for rows in references], sensory, masks)
        outputs.append(run(partial(_segment, model), features[t], view, selector))
        sensory, masks = outputs[-1].sensory, outputs[-1].masks
        if t < length - 1:
            memory.append(run(partial(_memorise, model, deep[t]), features[t], masks, sensory))
            sensory = memory[-1].sensory
    columns = [torch.stack(column, dim=1) for column in list(zip(*outputs))[:3]]
    keys = [torch.stack([getattr(frame, name) for frame in features], 1) for name in ("key", "shrinkage", "selection")]
    return Unrolled(columns[0], columns[1], columns[2], sensory, keys[0], keys[1], keys[2])


# ------------------------------------------------------------------------------------------------------------ parts
def unit_range(images: Tensor) -> Float[Tensor, "B T 3 H W"]:
    """Convert images from bytes in [0, 255] to floats in [0, 1]; return floats unchanged."""
    return images if images.is_floating_point() else images.float() / 255


def object_selector(num_objects: Int[Tensor, "B"], slots: int) -> Float[Tensor, "B N"]:
    """Return 1 for slots with an object of their clip, 0 for unused slots."""
    return (torch.arange(slots, device=num_objects.device) < num_objects[:, None]).float()


def one_hot(labels: Tensor, slots: int) -> Float[Tensor, "B N H W"]:
    """Return the masks of slots 1 to `slots` in label maps (B, H, W)."""
    return torch.stack([labels == slot for slot in range(1, slots + 1)], dim=1).float()


def encode_clips(model: CutieGeo, images: Float[Tensor, "B T 3 H W"], at_once: int = 0) -> list[FrameFeatures]:
    """Encode all clips; return the features of each of the T frames. `at_once` frames are batched, 0 for all."""
    clips, frames = images.shape[0], images.flatten(0, 1)
    return _by_frame([model.encode(part) for part in frames.split(at_once or len(frames))], clips)


def encode_with_depth(
    model: CutieGeo, images: Float[Tensor, "B T 3 H W"], chosen: Sequence[int]
) -> tuple[list[FrameFeatures], Float[Tensor, "K h w"]]:
    """Encode all clips, with depth of the first frames of the clips `chosen`.

    Other frames are encoded without depth: a depth map costs as much as all features of its frame, and the frames of a
    clip are similar.
    """
    clips, length = images.shape[:2]
    first_frames = [b * length for b in chosen]
    order = torch.tensor(
        first_frames + [i for i in range(clips * length) if i not in first_frames], device=images.device
    )
    with_depth, without = images.flatten(0, 1)[order].tensor_split([len(first_frames)])
    parts = [model.encode(with_depth, with_depth=True), model.encode(without)]
    depth = parts[0].depth
    assert depth is not None
    return _by_frame(parts, clips, order.argsort()), depth


def _by_frame(parts: Sequence[FrameFeatures], clips: int, places: Tensor | None = None) -> list[FrameFeatures]:
    """Rearrange features from clip-major order to one batch of clips per frame.

    Args:
        parts: Features of all frames.
        places: Index in `parts` of each frame in clip-major order, if their order differs.
    """
    fields = [torch.cat(field) for field in list(zip(*parts))[:-1]]  # all but the depth
    ordered = fields if places is None else [field[places] for field in fields]
    split = [rearrange(field, "(b t) ... -> t b ...", b=clips).unbind() for field in ordered]
    return [FrameFeatures(*(field[t] for field in split)) for t in range(len(split[0]))]


def with_distance(batch: ClipBatch) -> list[int]:
    """Return the clips of a batch with any known distance in the first frame; the first clip if there is none.

    Every step therefore uses the depth head, which distributed training requires.
    """
    if batch.distance is None:
        return [0]
    known = (~batch.distance[:, 0].isnan()).flatten(1).any(1)
    return known.nonzero().flatten().tolist() or [0]


def _view(
    features: Sequence[FrameFeatures], memory: Sequence[Memorised], past: Sequence[list[int]], sensory: Tensor,
    masks: Tensor,
) -> MemoryView:  # fmt: skip
    """Return the memory of all clips: tokens of the frames `past` of each clip, object memory of all frames."""
    return MemoryView(
        key=_chosen([frame.key for frame in features[: len(memory)]], past),
        shrinkage=_chosen([frame.shrinkage for frame in features[: len(memory)]], past),
        value=_chosen([frame.value for frame in memory], past),
        sensory=sensory,
        summary=torch.stack([frame.summary for frame in memory]).sum(0),
        mask=masks,
    )


def _chosen(frames: Sequence[Float[Tensor, "B *N P C"]], past: Sequence[list[int]]) -> Tensor:
    """Concatenate the tokens of the frames `past[b]` of each clip b along the token axis."""
    if all(rows == past[0] for rows in past):
        return torch.cat([frames[t] for t in past[0]], dim=-2)
    # one gather for all clips: one per clip would launch many small GPU kernels
    stacked = torch.stack(list(frames), dim=1)
    rows = torch.tensor(past, device=stacked.device).view(len(past), -1, *[1] * (stacked.ndim - 2))
    found = stacked.gather(1, rows.expand(-1, -1, *stacked.shape[2:]))  # (B, R, *N, P, C)
    return found.movedim(1, -3).flatten(-3, -2)


def _segment(model: CutieGeo, features: FrameFeatures, view: MemoryView, selector: Tensor) -> _FrameOutputs:
    with quick_gradients(features.image.device):  # here, because recomputation of a frame starts here
        readout = model.read(features, view, selector=selector)
    sensory_logits, query_logits = model.auxiliary_logits(features, view.sensory, readout.query_logits, selector)
    decoded = model.decode(features, readout.features, view.sensory, selector=selector)
    assert decoded.sensory is not None
    masks = F.softmax(decoded.logits, dim=1)[:, 1:]
    return _FrameOutputs(decoded.logits, sensory_logits, query_logits, decoded.sensory, masks)


def _memorise(model: CutieGeo, deep: bool, features: FrameFeatures, masks: Tensor, sensory: Tensor) -> Memorised:
    return model.memorise(features, masks, sensory, deep)


def _kept(fn: Callable[..., Any], *args: Any) -> Any:
    """Call `fn(*args)` and keep its activations."""
    return fn(*args)


def _recomputed(fn: Callable[..., Any], *args: Any) -> Any:
    """Call `fn(*args)` with activation checkpointing; `fn` must be deterministic."""
    return checkpoint(fn, *args, use_reentrant=False, preserve_rng_state=False)
