"""A clip through SAM 2 as in inference, frame by frame, with gradients through all of it.

The package has no code for training; this is its own forward pass for videos, over its own modules. Source: the SAM 2
paper (Ravi et al., 2024), its appendix on training.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cutie_geo.config import UnrollConfig
from cutie_geo.model.blocks import normalise
from cutie_geo.model.sam2 import Sam2Model
from cutie_geo.structures import ClipBatch
from cutie_geo.training.unroll import unit_range


class Sam2Unrolled(NamedTuple):
    """What SAM 2 says about the S = T - 1 frames after the first, of the O objects of all clips, in a row."""

    candidates: Float[Tensor, "S O M H W"]
    """Logits of the masks among which it chooses."""
    ious: Float[Tensor, "S O M"]
    """What it takes their IoUs with the truth to be."""
    scores: Float[Tensor, "S O"]
    """Logits of the object being in the frame at all."""
    best: Float[Tensor, "S O H W"]
    """Logits of the mask that it has chosen, which is the one that memory sees."""
    clips: Int[Tensor, "O"]
    """Which clip each object is of."""
    slots: Int[Tensor, "O"]
    """Its value in the clip's label maps."""

    @property
    def logits(self) -> Float[Tensor, "B S N1 H W"]:
        """The chosen masks by clip and slot, behind a background of 0; -inf for slots without an object."""
        frames, _, *size = self.best.shape
        shape = (int(self.clips.max()) + 1, frames, int(self.slots.max()) + 1, *size)
        out = self.best.new_full(shape, -torch.inf)
        out[:, :, 0] = 0
        for k, (clip, slot) in enumerate(zip(self.clips.tolist(), self.slots.tolist())):
            out[clip, :, slot] = self.best[:, k]
        return out


class Sam2ClipUnroll(nn.Module):
    """SAM 2's forward pass in training: a module, so that parallel wrappers see it called."""

    def __init__(self, model: Sam2Model, config: UnrollConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, batch: ClipBatch, deep: Sequence[bool]) -> Sam2Unrolled:
        """As `unroll_sam2`; `deep` is Cutie's, and changes nothing."""
        return unroll_sam2(self.model, batch, self.config)


def unroll_sam2(model: Sam2Model, batch: ClipBatch, config: UnrollConfig) -> Sam2Unrolled:
    """Segment every frame of the clips from the masks of their first. Frames are squares of the model's side.

    Objects of several clips go through the network together, along its batch axis. As in the package, distances in
    time are scaled by the clip's length where it is shorter than the pointers that are read (16).
    """
    network: Any = model.network
    clips, slots = objects_of(batch.num_objects)
    clips, slots = clips.to(batch.labels.device), slots.to(batch.labels.device)
    frames = _encode(network, unit_range(batch.images), config)
    given = masks_of(batch.labels[:, :1], clips, slots)[0, :, None]  # (O, 1, H, W)
    memory: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    said = []
    for t in range(frames.length):
        outcome = _segment(network, frames, t, clips, given if t == 0 else None, memory)
        if t > 0:
            candidates, ious, best, score = outcome
            said.append((candidates.float(), ious.float(), score[:, 0].float(), best[:, 0].float()))
    candidates, ious, scores, best = (torch.stack(column) for column in zip(*said))
    return Sam2Unrolled(candidates, ious, scores, best, clips, slots)


# ------------------------------------------------------------------------------------------------------------ parts
class _Frames(NamedTuple):
    """What the image encoder says of the frames of all clips, one clip after the other, by level."""

    features: list[Tensor]
    positions: list[Tensor]
    """Both (h*w, B*T, C)."""
    sizes: list[tuple[int, int]]
    length: int
    """Frames T of a clip."""

    def at(self, t: int, clips: Tensor) -> dict[str, Any]:
        """Frame t of the clips of each object, as the package's functions take it."""
        rows = clips * self.length + t
        return {
            "current_vision_feats": [level[:, rows] for level in self.features],
            "current_vision_pos_embeds": [level[:, rows] for level in self.positions],
            "feat_sizes": self.sizes,
        }


def _encode(network: Any, images: Float[Tensor, "B T 3 H W"], config: UnrollConfig) -> _Frames:
    """Every frame through the image encoder, `encode_at_once` together; with checkpointing it keeps nothing."""
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
    """Candidates, their IoUs, the chosen mask and the object's score on frame t, which goes to memory."""
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
    """The clip and the slot of each object of a batch, clip by clip."""
    counts = num_objects.tolist()
    clips = [b for b, count in enumerate(counts) for _ in range(count)]
    slots = [slot for count in counts for slot in range(1, count + 1)]
    return torch.tensor(clips), torch.tensor(slots)


def masks_of(labels: Tensor, clips: Int[Tensor, "O"], slots: Int[Tensor, "O"]) -> Float[Tensor, "T O H W"]:
    """The masks of objects in label maps (B, T, H, W)."""
    return (labels[clips] == slots[:, None, None, None]).float().transpose(0, 1)


def _kept(fn: Callable[..., Any], *args: Any) -> Any:
    return fn(*args)


def _recomputed(fn: Callable[..., Any], *args: Any) -> Any:
    """`fn(*args)`; what its gradients need is computed once more when they are due, with the same dropout."""
    return checkpoint(fn, *args, use_reentrant=False)
