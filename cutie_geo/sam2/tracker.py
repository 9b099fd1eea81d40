"""Tracker that runs SAM 2 frame by frame on videos of any length, with bounded memory."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import BFloat16, Float, Int
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor
from torch.nn.functional import interpolate

from cutie_geo.config import require
from cutie_geo.data.frames import image_tensor
from cutie_geo.inference.inputs import (
    Geometry,
    MaskChannels,
    acceptable,
    corrected_ids,
    image_size,
    object_ids,
    read_mask,
)
from cutie_geo.memory.objects import ChannelIds, ObjectRegistry
from cutie_geo.ops import Padding
from cutie_geo.sam2.networks import Sam2Features, Sam2Model
from cutie_geo.structures import ObjectId

WITHOUT_END = sys.maxsize
"""Number of frames of a video of unknown length."""


class Reach(NamedTuple):
    """Temporal window of SAM 2's memory. Source: sam2_base.py of the package, memory-conditioned features."""

    maps: int
    """Number of memory maps that are read; prompted frames count as one."""
    stride: int
    """Interval between the maps that are read, in frames, except the newest."""
    pointers: int
    """Number of frames whose object pointers are read, including the current one."""
    given: int
    """Number of newest prompted frames whose maps and pointers are read; -1 for all."""

    @classmethod
    def of(cls, network: SAM2Base) -> "Reach":
        """Return the window of a configured network."""
        pointers = network.max_obj_ptrs_in_encoder if network.use_obj_ptrs_in_encoder else 0
        stride = network.memory_temporal_stride_for_eval
        return cls(network.num_maskmem, stride, pointers, network.max_cond_frames_in_attn)

    def to_map(self, frame: int, now: int) -> bool:
        """Return True if frame `now` or a later one reads the map of `frame`."""
        oldest = (now - 2) // self.stride * self.stride - (self.maps - 3) * self.stride
        return frame == now - 1 or (frame % self.stride == 0 and frame >= oldest)

    def to_pointer(self, frame: int, now: int) -> bool:
        """Return True if frame `now` or a later one reads the pointer of `frame`."""
        return now - frame < self.pointers


class MemoryEntry(NamedTuple):
    """Memory entry of one frame for one object."""

    pointer: Float[Tensor, "1 C"]
    map: BFloat16[Tensor, "1 CM h w"] | None
    """Memory map; None if it is too old to be read, or if the network has no maps."""


@dataclass
class ObjectMemory:
    """Memory of one object, by frame index."""

    given: dict[int, MemoryEntry] = field(default_factory=dict)
    """Entries of prompted frames, which have an input mask of the object."""
    recent: dict[int, MemoryEntry] = field(default_factory=dict)
    """Entries of predicted frames."""

    corrected: set[int] = field(default_factory=set)
    """Indices of prompted frames that corrected a prediction."""

    def correct(self, frame: int) -> None:
        """Remove all entries but those of corrections, and mark `frame` as a correction."""
        self.given = {t: one for t, one in self.given.items() if t in self.corrected}
        self.recent = {}
        self.corrected.add(frame)

    @property
    def frames(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Indices of the prompted and the predicted frames; objects with equal indices can be batched."""
        return tuple(self.given), tuple(self.recent)

    def forget(self, now: int, reach: Reach) -> None:
        """Remove entries that neither frame `now` nor a later one reads."""
        # one more prompted frame than is read is kept, so that the package selects and orders frames as it would with
        # all of them
        always = list(self.given) if reach.given < 0 else list(self.given)[-reach.given - 1 :]
        old = {t: one for t, one in self.given.items() if t not in always}
        self.given = _within(old, now, reach) | {t: self.given[t] for t in always}
        self.recent = _within(self.recent, now, reach)


class ObjectOutput(NamedTuple):
    """Output of the network for one object on one frame."""

    logits: Float[Tensor, "1 1 h w"]
    """Mask logits, at a quarter of the size of the square."""
    score: Float[Tensor, "1 1"]
    """Object score: logit of the object's presence in the frame."""
    memory: MemoryEntry


class Sam2Tracker:
    """Frame-by-frame segmenter with SAM 2 and bounded memory, with the interface of `Tracker`.

    Memory grows with the numbers of objects and of prompted frames, but not with the length of the video. The masks
    equal those of the package's video predictor, whose code runs on one frame at a time. A frame with an input mask is
    a conditioning frame.

    >>> import torch
    >>> from cutie_geo.sam2.tracker import Sam2Tracker
    >>> from cutie_geo.sam2.networks import load_sam2
    >>> small = ["model.image_size=128"]
    >>> model = load_sam2("sam2.1-hiera-tiny", weights="none", device="cpu", precision="fp32", overrides=small)
    >>> tracker = Sam2Tracker(model)
    >>> mask = torch.zeros(64, 96, dtype=torch.long)
    >>> mask[20:40, 30:60] = 7
    >>> tracker.step(torch.rand(3, 64, 96), mask).shape, tracker.object_ids
    (torch.Size([2, 64, 96]), [7])
    >>> tracker.labels(tracker.step(torch.rand(3, 64, 96))).shape, list(tracker.presence)
    (torch.Size([64, 96]), [7])

    Args:
        model: SAM 2 network.
        chunk_size: Number of objects with the same memory frames that are batched; -1 for all. Larger batches may be
            faster on a GPU, but round differently than single objects, as in the package.
        num_frames: Length of the video, if known. It matters only for videos with fewer frames than the pointers that
            are read (16), since the package scales their temporal distances by it.

    Raises:
        ValueError: For invalid options.
    """

    def __init__(self, model: Sam2Model, chunk_size: int = 1, num_frames: int | None = None) -> None:
        require(chunk_size == -1 or chunk_size >= 1, f"chunk_size: got {chunk_size}, expected -1 or at least 1")
        require(num_frames is None or num_frames >= 1, f"num_frames: got {num_frames}, expected 1 or more")
        require(
            chunk_size == 1 or not model.network.non_overlap_masks_for_mem_enc,
            f"chunk_size: got {chunk_size} with non_overlap_masks_for_mem_enc, which would mix the objects; expected 1",
        )
        self.model, self.chunk_size, self.num_frames = model, chunk_size, num_frames
        self.reach = Reach.of(model.network)
        given = self.reach.given
        require(given == -1 or given >= 2, f"max_cond_frames_in_attn: got {given}, expected -1 or at least 2")
        self.channels = ChannelIds()
        self._start()

    def _start(self) -> None:
        self.registry = ObjectRegistry()
        self.channels.begin()
        self.memories: dict[ObjectId, ObjectMemory] = {}
        self.frame_size: tuple[int, int] | None = None
        """Height and width of the video's frames; None before the first."""
        self.frame = -1
        """Index of the last frame."""
        self._scores: dict[ObjectId, Tensor] = {}
        self._constants: dict[str, Any] = {}
        """Constants of the package: positions within a memory map, shared by all maps."""

    # -------------------------------------------------------------------------------------------- the whole frame
    def step(
        self,
        image: Any,
        mask: Tensor | np.ndarray | None = None,
        objects: Iterable[Any] | None = None,
        permanent: bool = False,
        last: bool = False,
        features: Sam2Features | None = None,
        correction: bool = False,
        color: str = "rgb",
    ) -> Float[Tensor, "N1 H W"]:
        """Segment the next frame; return its probabilities at its own size. See `Tracker.step`.

        `permanent` and `last` have no effect: SAM 2 keeps all prompted frames, and no others, for the whole video. An
        input mask is resized to SAM 2's input size, and the result may differ from it; in overlaps with other objects
        the highest logit is selected. A `correction` removes the object's memory except frames of corrections.

        Raises:
            ValueError: For images or masks of another shape or size and for invalid ids; the state is unchanged.
        """
        image = image_tensor(image, color)
        probs = to_probs(self.step_logits(image, mask, objects, features, correction))
        return self.channels.note(probs, self.registry.ids)

    @torch.inference_mode()
    def step_logits(
        self,
        image: Any,
        mask: Tensor | np.ndarray | None = None,
        objects: Iterable[Any] | None = None,
        features: Sam2Features | None = None,
        correction: bool = False,
    ) -> Float[Tensor, "N H W"]:
        """Segment the next frame as `step`, but return independent logits of each object, as the package does."""
        size = self._size_of(image, look_inside=features is None)  # encoded images were checked already
        given = read_mask(mask, objects, Geometry(size, size, Padding(0, 0, 0, 0)), self.model.device)
        corrected = corrected_ids(correction, given, self.registry.ids)
        if given is None and not self.registry.ids:
            self.frame_size, self.frame = size, self.frame + 1
            return torch.zeros(0, *size, device=self.model.device)
        features = self._encode([image])[0] if features is None else self._checked(features, size)
        state = self._state(features)
        with self.model.autocast():
            found = {} if given is None else self._accept(state, given)
            found |= self._follow(state, [i for i in self.registry.ids if i not in found])
        given_ids = () if given is None else given.ids
        masks = torch.cat([found[i].logits for i in dict.fromkeys([*self.registry.ids, *given_ids])])
        _, logits = self.model.network._get_orig_video_res_output(state, masks)
        self._commit(size, found, given_ids, corrected)
        return logits[:, 0]

    def encode_ahead(self, images: Sequence[Any], with_depth: bool = False) -> list[Sam2Features]:
        """Encode the next frames as one batch, without changing the state; a batch rounds differently than one frame.

        The result ends before the first image that `step` would refuse.

        Raises:
            ValueError: For `with_depth`, since SAM 2 has no depth.
        """
        require(not with_depth, f"with_depth: {self.model.name} has no geometry encoder")
        valid, _ = acceptable(images, self._size_of)
        return self._encode(valid) if valid else []

    def restore_depth(self, features: Any) -> Float[Tensor, "H W"]:
        """Raise ValueError: SAM 2 has no depth."""
        raise ValueError(f"depth: {self.model.name} has no geometry encoder")

    @torch.inference_mode()
    def _encode(self, images: Sequence[Tensor]) -> list[Sam2Features]:
        batch = torch.stack([image.to(self.model.device, torch.float32) for image in images])
        with self.model.autocast():
            return self.model.encode(batch)

    # ------------------------------------------------------------------------------------------- through the network
    def _state(self, features: Sam2Features) -> dict[str, Any]:
        """Return the inference state of the package's predictor for one frame."""
        return {
            "cached_features": {self.frame + 1: (features.image, features.backbone)},
            "constants": self._constants,
            "num_frames": WITHOUT_END if self.num_frames is None else self.num_frames,
            "video_height": features.size[0],
            "video_width": features.size[1],
            "device": self.model.device,
            "storage_device": self.model.device,
        }

    def _follow(self, state: dict[str, Any], ids: Sequence[ObjectId]) -> dict[ObjectId, ObjectOutput]:
        """Predict the tracked objects `ids` on the new frame."""
        found: dict[ObjectId, ObjectOutput] = {}
        for group in self._groups(ids):
            memory = self._together([self.memories[i] for i in group])
            found |= zip(group, self._run(state, len(group), output_dict=memory, run_mem_encoder=True))
        return found

    def _accept(self, state: dict[str, Any], given: MaskChannels) -> dict[ObjectId, ObjectOutput]:
        """Run the objects of an input mask on the new frame, without their memory."""
        side, found = self.model.side, {}
        square = interpolate(given.masks[:, None], (side, side), mode="bilinear", align_corners=False, antialias=True)
        for part in torch.arange(len(given.ids)).split(self._at_most(len(given.ids))):
            masks = (square[part] >= 0.5).float()
            outcome = self._run(state, len(part), mask_inputs=masks, is_init_cond_frame=True, run_mem_encoder=False)
            found |= zip((given.ids[k] for k in part.tolist()), outcome)
        return found

    def _run(self, state: dict[str, Any], count: int, **options: Any) -> list[ObjectOutput]:
        """Run the package's predictor on a batch of `count` objects."""
        network, frame = self.model.network, self.frame + 1
        options = {"output_dict": {}, "is_init_cond_frame": False, "mask_inputs": None} | options
        output, masks = network._run_single_frame_inference(
            state, frame_idx=frame, batch_size=count, point_inputs=None, reverse=False, **options
        )
        score, maps = output["object_score_logits"], output["maskmem_features"]
        if options["is_init_cond_frame"] and network.num_maskmem > 0:
            # the package memorises an input mask after resizing it to the size of predicted masks and back
            full = interpolate(masks, (self.model.side, self.model.side), mode="bilinear", align_corners=False)
            maps, _ = network._run_memory_encoder(state, frame, count, full, score, is_mask_from_pts=True)
        rows = [slice(k, k + 1) for k in range(count)]
        # copies, so that an entry does not keep those of other objects in memory
        memories = [
            MemoryEntry(output["obj_ptr"][row].clone(), None if maps is None else maps[row].clone()) for row in rows
        ]
        return [ObjectOutput(masks[row], score[row].clone(), memory) for row, memory in zip(rows, memories)]

    def _groups(self, ids: Sequence[ObjectId]) -> Iterator[list[ObjectId]]:
        """Yield groups of objects that are batched."""
        alike: dict[Any, list[ObjectId]] = {}
        for i in ids:
            alike.setdefault(self.memories[i].frames, []).append(i)
        for group in alike.values():
            size = self._at_most(len(group))
            yield from (group[start : start + size] for start in range(0, len(group), size))

    def _at_most(self, count: int) -> int:
        return count if self.chunk_size == -1 else self.chunk_size

    def _together(self, memories: Sequence[ObjectMemory]) -> dict[str, dict[int, dict[str, Any]]]:
        """Batch memories of the same frames in the package's format."""
        first, positions = memories[0], self._constants.get("maskmem_pos_enc", ())
        shared = [x.expand(len(memories), -1, -1, -1) for x in positions]

        def batch(parts: list[MemoryEntry]) -> dict[str, Any]:
            maps = [part.map for part in parts if part.map is not None]
            return {
                "maskmem_features": torch.cat(maps) if maps else None,
                "maskmem_pos_enc": shared,
                "obj_ptr": torch.cat([part.pointer for part in parts]),
            }

        return {
            "cond_frame_outputs": {t: batch([memory.given[t] for memory in memories]) for t in first.given},
            "non_cond_frame_outputs": {t: batch([memory.recent[t] for memory in memories]) for t in first.recent},
        }

    def _commit(
        self,
        size: tuple[int, int],
        found: dict[ObjectId, ObjectOutput],
        given: Sequence[ObjectId],
        corrected: Sequence[ObjectId],
    ) -> None:
        """Add the outputs of a frame to memory, and remove entries that are no longer read."""
        self.frame_size, self.frame = size, self.frame + 1
        self.registry.add(given)
        for i in self.registry.ids:
            memory = self.memories.setdefault(i, ObjectMemory())
            if i in corrected:
                memory.correct(self.frame)
            (memory.given if i in given else memory.recent)[self.frame] = found[i].memory
            memory.forget(self.frame + 1, self.reach)
        self._scores = {i: found[i].score for i in self.registry.ids}

    @property
    def gives_depth(self) -> bool:
        """False, since SAM 2 has no depth."""
        return False

    # ----------------------------------------------------------------------------------------------------- objects
    @property
    def object_ids(self) -> list[ObjectId]:
        """Object ids in slot order, the order in which they were added."""
        return list(self.registry.ids)

    @property
    def presence(self) -> dict[ObjectId, float]:
        """Predicted probability that each object is visible in the last frame."""
        return {i: float(score.sigmoid()) for i, score in self._scores.items()}

    def labels(self, probs: Float[Tensor, "N1 H W"], objects: Sequence[ObjectId] | None = None) -> Int[Tensor, "H W"]:
        """Return the label map of probabilities, with object ids as values; see `Tracker.labels`."""
        return self.channels.labels(probs, self.registry.ids, objects)

    def remove(self, ids: Any) -> None:
        """Remove objects and their memory.

        Raises:
            ValueError: If an id is not tracked.
        """
        self.registry.remove(object_ids(ids))
        self.memories = {i: self.memories[i] for i in self.registry.ids}
        self._scores = {i: self._scores[i] for i in self.registry.ids}

    # ------------------------------------------------------------------------------------------------------ memory
    def reset(self) -> None:
        """Reset objects, memory and frame size for the next video."""
        self._start()

    def memory_report(self) -> dict[str, int]:
        """Return the bytes held between two frames, by kind.

        The kinds are memory maps of prompted frames, memory maps of recent frames, object pointers, and positions
        within a map. Features and masks of frames are not kept.
        """
        given = [one for memory in self.memories.values() for one in memory.given.values()]
        recent = [one for memory in self.memories.values() for one in memory.recent.values()]
        return {
            "given": _bytes(one.map for one in given),
            "recent": _bytes(one.map for one in recent),
            "pointers": _bytes(one.pointer for one in given + recent),
            "positions": _bytes(self._constants.get("maskmem_pos_enc", ())),
        }

    # ----------------------------------------------------------------------------------------------------- details
    def _size_of(self, image: Any, look_inside: bool = True) -> tuple[int, int]:
        """Return the size of an image. Raises ValueError unless it is an RGB image of the video's size."""
        return image_size(image, look_inside, self.frame_size)

    def _checked(self, features: Sam2Features, size: tuple[int, int]) -> Sam2Features:
        """Return `features`. Raises ValueError if they are of another frame size or network input size."""
        got, side = (features.size, tuple(features.image.shape)), self.model.side
        require(got == (size, (1, 3, side, side)), f"features: got those of {got}, expected {size, (1, 3, side, side)}")
        return features


def to_probs(logits: Float[Tensor, "N H W"]) -> Float[Tensor, "N1 H W"]:
    """Return the softmax over independent object logits and a background logit of 0.

    The most probable class is the object with the highest logit if that is above 0, else background, as in SAM 2's
    script for video object segmentation. Soft aggregation would give other label maps: its background probability is
    lower where several objects are uncertain, and clamping makes high logits equal.
    """
    return torch.cat([logits.new_zeros(1, *logits.shape[1:]), logits]).softmax(dim=0)


def _within(frames: dict[int, MemoryEntry], now: int, reach: Reach) -> dict[int, MemoryEntry]:
    """Return the entries that frame `now` or a later one reads."""
    kept = {}
    for t, one in frames.items():
        if reach.to_map(t, now):
            kept[t] = one
        elif reach.to_pointer(t, now):
            kept[t] = one._replace(map=None)
    return kept


def _bytes(tensors: Iterable[Tensor | None]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors if x is not None)
