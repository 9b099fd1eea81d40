"""Memory and FLOPs of one training clip, counted on fake tensors."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from cutie_geo.config import TrainConfig
from cutie_geo.flops import flop_counter
from cutie_geo.model.network import CutieGeo
from cutie_geo.ops import sine_positions
from cutie_geo.training.sampling import reference_frames
from cutie_geo.training.unroll import encode_clips, one_hot, propagate, unit_range


class ClipCost(NamedTuple):
    """Cost of one clip with the largest number of objects."""

    kept: int
    """Number of bytes of activations stored for the backward pass."""
    flop: int
    """FLOPs of the forward and backward pass, without the losses; a multiply-add counts as two."""


def clip_cost(model: CutieGeo, config: TrainConfig) -> ClipCost:
    """Return the cost of one clip, counted on fake tensors without computation."""
    slots, clips = config.clips.max_objects, config.clips
    seen: dict[int, int] = {}
    held: list[Tensor] = []  # keeps storages alive, so that no address is reused while they are counted

    def keep(tensor: Tensor) -> Tensor:
        if not (tensor.is_leaf and tensor.requires_grad):  # weights are counted elsewhere
            storage = tensor.untyped_storage()
            seen[storage._cdata] = storage.nbytes()
            held.append(tensor)
        return tensor

    references = [reference_frames(0, clips.length, config.unroll.reference_frames)]
    was_training = model.training
    model.train()
    with FakeTensorMode(allow_non_fake_inputs=True), flop_counter() as counter:
        images = unit_range(torch.zeros(1, clips.length, 3, clips.crop, clips.crop, dtype=torch.uint8))
        masks = one_hot(torch.zeros(1, clips.crop, clips.crop, dtype=torch.uint8), slots)
        deep = [True] * clips.length
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), model.autocast():
            features = encode_clips(model, images, config.unroll.encode_at_once)
            outputs = propagate(model, features, masks, torch.ones(1, slots), references, deep, config.unroll)
        kept = sum(seen.values())
        sum(field.float().mean() for field in outputs if field is not None).backward()  # type: ignore[union-attr]
    sine_positions.cache_clear()  # remove cached fake tensors
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    return ClipCost(kept, counter.get_total_flops())
