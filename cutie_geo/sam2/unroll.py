"""Forward pass of SAM 2 training: unrolled inference over a clip, with gradients through all frames.

The package has no training code; this runs its video inference over its own modules. Source: the SAM 2 paper (Ravi et
al., 2024), its appendix on training.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cutie_geo.config import UnrollConfig
from cutie_geo.model.blocks import normalise
from cutie_geo.sam2.networks import Sam2Model
from cutie_geo.structures import ClipBatch
from cutie_geo.training.unroll import unit_range


class Sam2Unrolled(NamedTuple):
    """Outputs of SAM 2 for the S = T - 1 frames after the first and the O objects of all clips."""

    candidates: Float[Tensor, "S O M H W"]
    """Logits of the candidate masks."""
    ious: Float[Tensor, "S O M"]
    """Predicted IoUs of the candidates."""
    scores: Float[Tensor, "S O"]
    """Object scores: logits of the objects' presence in the frame."""
    best: Float[Tensor, "S O H W"]
    """Logits of the selected mask, which enters memory."""
    clips: Int[Tensor, "O"]
    """Clip of each object."""
    slots: Int[Tensor, "O"]
    """Value of each object in its clip's label maps."""

    @property
    def logits(self) -> Float[Tensor, "B S N1 H W"]:
        """Selected masks by clip and slot, after a background of 0; -inf for slots without an object."""
        frames, _, *size = self.best.shape
        shape = (int(self.clips.max()) + 1, frames, int(self.slots.max()) + 1, *size)
        out = self.best.new_full(shape, -torch.inf)
        out[:, :, 0] = 0
        for k, (clip, slot) in enumerate(zip(self.clips.tolist(), self.slots.tolist())):
            out[clip, :, slot] = self.best[:, k]
        return out


class Sam2ClipUnroll(nn.Module):
    """Forward pass of SAM 2 training as a module, which wrappers for distributed training require."""

    def __init__(self, model: Sam2Model, config: UnrollConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, batch: ClipBatch, deep: Sequence[bool]) -> Sam2Unrolled:
        """Call `unroll_sam2`; `deep` is used by Cutie only."""
        return unroll_sam2(self.model, batch, self.config)


def unroll_sam2(model: Sam2Model, batch: ClipBatch, config: UnrollConfig) -> Sam2Unrolled:
    """Segment every frame of the clips from the masks of the first frame. Frames are squares of the model's side.

    Objects of all clips are batched. As in the package, temporal distances are scaled by the clip's length if it is
    shorter than the number of pointers that are read (16).
    """
    network: Any = model.network
    clips, slots = objects_of(batch.num_objects)
    clips, slots = clips.to(batch.labels.device), slots.to(batch.labels.device)
    frames = _encode(network, unit_range(batch.images), config)
    given = masks_of(batch.labels[:, :1], clips, slots)[0, :, None]  # (O, 1, H, W)
    memory: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    outputs = []
    for t in range(frames.length):
        outcome = _segment(network, frames, t, clips, given if t == 0 else None, memory)
        if t > 0:
            candidates, ious, best, score = outcome
            outputs.append((candidates.float(), ious.float(), score[:, 0].float(), best[:, 0].float()))
    candidates, ious, scores, best = (torch.stack(column) for column in zip(*outputs))
    return Sam2Unrolled(candidates, ious, scores, best, clips, slots)


# ------------------------------------------------------------------------------------------------------------ parts
class _Frames(NamedTuple):
    """Outputs of the image encoder for all frames in clip-major order, by level."""

    features: list[Tensor]
    positions: list[Tensor]
    """Positions, like features (h*w, B*T, C)."""
    sizes: list[tuple[int, int]]
    length: int
    """Number of frames T of a clip."""

    def at(self, t: int, clips: Tensor) -> dict[str, Any]:
        """Return frame t of each object's clip as arguments of the package's functions."""
        rows = clips * self.length + t
        return {
            "current_vision_feats": [level[:, rows] for level in self.features],
            "current_vision_pos_embeds": [level[:, rows] for level in self.positions],
            "feat_sizes": self.sizes,
        }


def _encode(network: Any, images: Float[Tensor, "B T 3 H W"], config: UnrollConfig) -> _Frames:
    """Encode all frames, `encode_at_once` at a time, with optional activation checkpointing."""
    square = normalise(images.flatten(0, 1))
    run = _recomputed if config.checkpointing and torch.is_grad_enabled() else _kept
    parts = [run(network.forward_image, part) for part in square.split(config.encode_at_once or len(square))]
    joined = {
        name: [torch.cat(levels) for levels in zip(*(part[name] for part in parts))]
        for name in ("backbone_fpn", "vision_pos_enc")
    }
    _, features, positions, sizes = network._prepare_backbone_features(joined)
    return _Frames(features, positions, sizes, images.shape[1])


def _segment(
    network: Any, frames: _Frames, t: int, clips: Tensor, given: Tensor | None, memory: dict[str, dict[int, Any]]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Segment frame t and add it to memory; return candidates, their IoUs, selected masks and object scores."""
    seen = frames.at(t, clips)
    remembered, heads, _, _ = network._track_step(
        frame_idx=t, is_init_cond_frame=given is not None, **seen, point_inputs=None, mask_inputs=given,
        output_dict=memory, num_frames=frames.length, track_in_reverse=False, prev_sam_mask_logits=None,
    )  # fmt: skip
    _, candidates, ious, _, best, pointer, score = heads
    remembered["obj_ptr"] = pointer
    network._encode_memory_in_output(
        seen["current_vision_feats"], seen["feat_sizes"], point_inputs=None, run_mem_encoder=t < frames.length - 1,
        high_res_masks=best, object_score_logits=score, current_out=remembered,
    )  # fmt: skip
    memory["non_cond_frame_outputs" if given is None else "cond_frame_outputs"][t] = remembered
    return candidates, ious, best, score


def objects_of(num_objects: Int[Tensor, "B"]) -> tuple[Int[Tensor, "O"], Int[Tensor, "O"]]:
    """Return the clip and the slot of each object of a batch, clip by clip."""
    counts = num_objects.tolist()
    clips = [b for b, count in enumerate(counts) for _ in range(count)]
    slots = [slot for count in counts for slot in range(1, count + 1)]
    return torch.tensor(clips), torch.tensor(slots)


def masks_of(labels: Tensor, clips: Int[Tensor, "O"], slots: Int[Tensor, "O"]) -> Float[Tensor, "T O H W"]:
    """Return the masks of objects in label maps (B, T, H, W)."""
    return (labels[clips] == slots[:, None, None, None]).float().transpose(0, 1)


def _kept(fn: Callable[..., Any], *args: Any) -> Any:
    return fn(*args)


def _recomputed(fn: Callable[..., Any], *args: Any) -> Any:
    """Call `fn(*args)` with activation checkpointing and preserved random state."""
    return checkpoint(fn, *args, use_reentrant=False)
