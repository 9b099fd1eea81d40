"""SAM 2 on a video of any length: the package's own network, frame by frame, which keeps only what it still reads."""

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
from cutie_geo.inference.given import Geometry, GivenChannels, acceptable, image_size, object_ids, read_mask
from cutie_geo.memory.objects import ObjectRegistry
from cutie_geo.model.sam2 import Sam2Features, Sam2Model
from cutie_geo.ops import Padding
from cutie_geo.structures import ObjectId

WITHOUT_END = sys.maxsize
"""As the number of a video's frames, where nobody knows it."""


class Reach(NamedTuple):
    """How far back SAM 2 looks from a frame. Source: sam2_base.py of the package, memory-conditioned features."""

    maps: int
    """Memory maps that are read, one of them being those of given frames."""
    stride: int
    """Frames between the maps that are read, but for the newest."""
    pointers: int
    """Frames whose object pointers are read, this one counted in."""
    given: int
    """Given frames whose maps and pointers are read, the newest; -1 for all of them."""

    @classmethod
    def of(cls, network: SAM2Base) -> "Reach":
        """That of a network as it is configured."""
        pointers = network.max_obj_ptrs_in_encoder if network.use_obj_ptrs_in_encoder else 0
        stride = network.memory_temporal_stride_for_eval
        return cls(network.num_maskmem, stride, pointers, network.max_cond_frames_in_attn)

    def to_map(self, frame: int, now: int) -> bool:
        """Whether frame `now` or a later one reads the map of an earlier frame."""
        oldest = (now - 2) // self.stride * self.stride - (self.maps - 3) * self.stride
        return frame == now - 1 or (frame % self.stride == 0 and frame >= oldest)

    def to_pointer(self, frame: int, now: int) -> bool:
        """Whether frame `now` or a later one reads the pointer of an earlier frame."""
        return now - frame < self.pointers


class Remembered(NamedTuple):
    """What one frame leaves in an object's memory."""

    pointer: Float[Tensor, "1 C"]
    map: BFloat16[Tensor, "1 CM h w"] | None
    """None once it is too old to be read, and for a network without maps."""


@dataclass
class ObjectMemory:
    """What SAM 2 remembers of one object, by the number of the frame."""

    given: dict[int, Remembered] = field(default_factory=dict)
    """Frames for which a user gave the object's mask."""
    recent: dict[int, Remembered] = field(default_factory=dict)
    """Frames on which it was found."""

    @property
    def frames(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Which frames are remembered: objects of the same ones can go through the network together."""
        return tuple(self.given), tuple(self.recent)

    def forget(self, now: int, reach: Reach) -> None:
        """Let go of all that neither frame `now` nor a later one reads."""
        # one given frame more than is read stays, so that the package has some to choose from and puts them in the
        # order in which it would put all of them
        always = list(self.given) if reach.given < 0 else list(self.given)[-reach.given - 1 :]
        old = {t: one for t, one in self.given.items() if t not in always}
        self.given = _within(old, now, reach) | {t: self.given[t] for t in always}
        self.recent = _within(self.recent, now, reach)


class Found(NamedTuple):
    """What one frame's pass through the network says about one object."""

    logits: Float[Tensor, "1 1 h w"]
    """Of its mask, at a quarter of the square."""
    score: Float[Tensor, "1 1"]
    """Logit of the object being in the frame at all."""
    memory: Remembered


class Sam2Tracker:
    """Segments one video frame by frame with SAM 2, in memory that is bounded whatever its length: it grows with
    objects and with frames on which masks are given, and with nothing else. Used as a `Tracker` is.

    >>> import torch
    >>> from cutie_geo.inference.sam2_tracker import Sam2Tracker
    >>> from cutie_geo.model.sam2 import load_sam2
    >>> small = ["model.image_size=128"]
    >>> model = load_sam2("sam2.1-hiera-tiny", weights="none", device="cpu", precision="fp32", overrides=small)
    >>> tracker = Sam2Tracker(model)
    >>> mask = torch.zeros(64, 96, dtype=torch.long)
    >>> mask[20:40, 30:60] = 7
    >>> tracker.step(torch.rand(3, 64, 96), mask).shape, tracker.object_ids
    (torch.Size([2, 64, 96]), [7])
    >>> tracker.labels(tracker.step(torch.rand(3, 64, 96))).shape, list(tracker.presence)
    (torch.Size([64, 96]), [7])

    chunk_size: objects that go through the network together, if the same frames are remembered of them; -1 for all.
    More may be faster on a GPU, but round differently than one by one, which is what the package does. num_frames: of
    the video, if known: it matters only in clips shorter than the frames whose pointers are read (16), where the
    package scales their distances by it.

    The masks are those of the package's video predictor: its own code runs, on one frame at a time, and a mask given
    for a frame makes it a conditioning frame. Raises ValueError for what can't work.
    """

    def __init__(self, model: Sam2Model, chunk_size: int = 1, num_frames: int | None = None) -> None:
        require(chunk_size == -1 or chunk_size >= 1, f"chunk_size: got {chunk_size}, wanted -1 or at least 1")
        require(num_frames is None or num_frames >= 1, f"num_frames: got {num_frames}, wanted 1 or more")
        require(
            chunk_size == 1 or not model.network.non_overlap_masks_for_mem_enc,
            f"chunk_size: got {chunk_size} with non_overlap_masks_for_mem_enc, which would mix the objects; wanted 1",
        )
        self.model, self.chunk_size, self.num_frames = model, chunk_size, num_frames
        self.reach = Reach.of(model.network)
        given = self.reach.given
        require(given == -1 or given >= 2, f"max_cond_frames_in_attn: got {given}, wanted -1 or at least 2")
        self._start()

    def _start(self) -> None:
        self.registry = ObjectRegistry()
        self.memories: dict[ObjectId, ObjectMemory] = {}
        self.frame_size: tuple[int, int] | None = None
        """Height and width of the video's frames, once one was seen."""
        self.frame = -1
        """Number of the newest frame."""
        self._scores: dict[ObjectId, Tensor] = {}
        self._constants: dict[str, Any] = {}
        """The package's: positions within a memory map, the same for all."""

    # -------------------------------------------------------------------------------------------- the whole frame
    def step(
        self,
        image: Any,
        mask: Tensor | np.ndarray | None = None,
        objects: Iterable[Any] | None = None,
        permanent: bool = False,
        last: bool = False,
        features: Sam2Features | None = None,
    ) -> Float[Tensor, "N1 H W"]:
        """The next frame's probabilities at its own size: background first, then `object_ids` in order.

        Arguments are `Tracker.step`'s, but that `permanent` and `last` change nothing: SAM 2 keeps the frames with
        masks for the whole video, and no others. A given mask is seen at SAM 2's size, and is returned as SAM 2 has it
        then; where it meets another object, the higher logit wins.

        Raises ValueError, and changes nothing, for images or masks of another shape or size and for impossible ids.
        """
        return to_probs(self.step_logits(image, mask, objects, features))

    @torch.inference_mode()
    def step_logits(
        self,
        image: Any,
        mask: Tensor | np.ndarray | None = None,
        objects: Iterable[Any] | None = None,
        features: Sam2Features | None = None,
    ) -> Float[Tensor, "N H W"]:
        """As `step`, but the objects' own logits, which say nothing of each other: what the package returns."""
        size = self._size_of(image, look_inside=features is None)  # or it has been looked at
        given = read_mask(mask, objects, Geometry(size, size, Padding(0, 0, 0, 0)), self.model.device)
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
        self._commit(size, found, given_ids)
        return logits[:, 0]

    def encode_ahead(self, images: Sequence[Any], with_depth: bool = False) -> list[Sam2Features]:
        """Features of the next frames, which go through the image encoder as one batch, and so round differently than
        one by one. It ends before the first image that `step` would refuse, and changes nothing. Raises ValueError for
        `with_depth`: SAM 2 knows none."""
        require(not with_depth, f"with_depth: {self.model.name} has no geometry encoder")
        valid, _ = acceptable(images, self._size_of)
        return self._encode(valid) if valid else []

    def restore_depth(self, features: Any) -> Float[Tensor, "H W"]:
        """Raises ValueError: there is none."""
        raise ValueError(f"depth: {self.model.name} has no geometry encoder")

    @torch.inference_mode()
    def _encode(self, images: Sequence[Tensor]) -> list[Sam2Features]:
        batch = torch.stack([image.to(self.model.device, torch.float32) for image in images])
        with self.model.autocast():
            return self.model.encode(batch)

    # ------------------------------------------------------------------------------------------- through the network
    def _state(self, features: Sam2Features) -> dict[str, Any]:
        """What the package's predictor must know of a video to run one frame of it."""
        return {
            "cached_features": {self.frame + 1: (features.image, features.backbone)},
            "constants": self._constants,
            "num_frames": WITHOUT_END if self.num_frames is None else self.num_frames,
            "video_height": features.size[0],
            "video_width": features.size[1],
            "device": self.model.device,
            "storage_device": self.model.device,
        }

    def _follow(self, state: dict[str, Any], ids: Sequence[ObjectId]) -> dict[ObjectId, Found]:
        """Where known objects are on the new frame."""
        found: dict[ObjectId, Found] = {}
        for group in self._groups(ids):
            memory = self._together([self.memories[i] for i in group])
            found |= zip(group, self._run(state, len(group), output_dict=memory, run_mem_encoder=True))
        return found

    def _accept(self, state: dict[str, Any], given: GivenChannels) -> dict[ObjectId, Found]:
        """Objects as a user's mask has them on the new frame, whatever is remembered of them."""
        side, found = self.model.side, {}
        square = interpolate(given.masks[:, None], (side, side), mode="bilinear", align_corners=False, antialias=True)
        for part in torch.arange(len(given.ids)).split(self._at_most(len(given.ids))):
            masks = (square[part] >= 0.5).float()
            outcome = self._run(state, len(part), mask_inputs=masks, is_init_cond_frame=True, run_mem_encoder=False)
            found |= zip((given.ids[k] for k in part.tolist()), outcome)
        return found

    def _run(self, state: dict[str, Any], count: int, **options: Any) -> list[Found]:
        """One pass of `count` objects through the package's predictor."""
        network, frame = self.model.network, self.frame + 1
        options = {"output_dict": {}, "is_init_cond_frame": False, "mask_inputs": None} | options
        output, masks = network._run_single_frame_inference(
            state, frame_idx=frame, batch_size=count, point_inputs=None, reverse=False, **options
        )
        score, maps = output["object_score_logits"], output["maskmem_features"]
        if options["is_init_cond_frame"] and network.num_maskmem > 0:
            # the package memorises a given mask as it will be shown: at the size of predicted ones, and back
            full = interpolate(masks, (self.model.side, self.model.side), mode="bilinear", align_corners=False)
            maps, _ = network._run_memory_encoder(state, frame, count, full, score, is_mask_from_pts=True)
        rows = [slice(k, k + 1) for k in range(count)]
        # copies, so that an object's share outlives neither the others' nor keeps it alive
        memories = [
            Remembered(output["obj_ptr"][row].clone(), None if maps is None else maps[row].clone()) for row in rows
        ]
        return [Found(masks[row], score[row].clone(), memory) for row, memory in zip(rows, memories)]

    def _groups(self, ids: Sequence[ObjectId]) -> Iterator[list[ObjectId]]:
        """Objects that go through the network together."""
        alike: dict[Any, list[ObjectId]] = {}
        for i in ids:
            alike.setdefault(self.memories[i].frames, []).append(i)
        for group in alike.values():
            size = self._at_most(len(group))
            yield from (group[start : start + size] for start in range(0, len(group), size))

    def _at_most(self, count: int) -> int:
        return count if self.chunk_size == -1 else self.chunk_size

    def _together(self, memories: Sequence[ObjectMemory]) -> dict[str, dict[int, dict[str, Any]]]:
        """Memories of the same frames as the package has those of a batch."""
        first, positions = memories[0], self._constants.get("maskmem_pos_enc", ())
        shared = [x.expand(len(memories), -1, -1, -1) for x in positions]

        def batch(parts: list[Remembered]) -> dict[str, Any]:
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

    def _commit(self, size: tuple[int, int], found: dict[ObjectId, Found], given: Sequence[ObjectId]) -> None:
        """Make what was found the past, and let go of what that puts out of reach."""
        self.frame_size, self.frame = size, self.frame + 1
        self.registry.add(given)
        for i in self.registry.ids:
            memory = self.memories.setdefault(i, ObjectMemory())
            (memory.given if i in given else memory.recent)[self.frame] = found[i].memory
            memory.forget(self.frame + 1, self.reach)
        self._scores = {i: found[i].score for i in self.registry.ids}

    @property
    def gives_depth(self) -> bool:
        """False: there is no depth."""
        return False

    # ----------------------------------------------------------------------------------------------------- objects
    @property
    def object_ids(self) -> list[ObjectId]:
        """Ids in slot order, which is the order in which they were given."""
        return list(self.registry.ids)

    @property
    def presence(self) -> dict[ObjectId, float]:
        """How probable SAM 2 finds it that each object is in the newest frame, occluded ones not counted."""
        return {i: float(score.sigmoid()) for i, score in self._scores.items()}

    def labels(self, probs: Float[Tensor, "N1 H W"]) -> Int[Tensor, "H W"]:
        """The label map of `step`'s probabilities, in the caller's ids."""
        if probs.shape[0] != len(self.registry) + 1:
            raise ValueError(f"labels: got {probs.shape[0]} channels, wanted background + {len(self.registry)} objects")
        return self.registry.paint(probs)

    def remove(self, ids: Any) -> None:
        """Forget objects, and every trace of them. Raises ValueError for an id that is not tracked."""
        self.registry.remove(object_ids(ids))
        self.memories = {i: self.memories[i] for i in self.registry.ids}
        self._scores = {i: self._scores[i] for i in self.registry.ids}

    # ------------------------------------------------------------------------------------------------------ memory
    def reset(self) -> None:
        """Forget everything, objects and frame size too: the next video may start."""
        self._start()

    def memory_report(self) -> dict[str, int]:
        """Bytes held between two frames: memory maps of given frames and of recent ones, object pointers, and the
        positions within a map. No frame's features or masks are kept."""
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
        """Checks an image. Raises ValueError unless it is an RGB image of the video's size."""
        size = image_size(image, look_inside)
        if self.frame_size is not None and size != self.frame_size:
            raise ValueError(f"image: got size {size} in a video of {self.frame_size}; one tracker is for one size")
        return size

    def _checked(self, features: Sam2Features, size: tuple[int, int]) -> Sam2Features:
        """Raises ValueError for features of frames of another size, or of another network's square."""
        got, side = (features.size, tuple(features.image.shape)), self.model.side
        require(got == (size, (1, 3, side, side)), f"features: got those of {got}, wanted {size, (1, 3, side, side)}")
        return features


def to_probs(logits: Float[Tensor, "N H W"]) -> Float[Tensor, "N1 H W"]:
    """Probabilities of background and objects from each object's own logits, the background's being 0.

    The most probable is the object with the highest logit where that is above 0, and background elsewhere, which is how
    SAM 2's own script for video object segmentation paints label maps. Soft aggregation has another background, less
    probable than even where several objects are doubtful, and clamps, so that objects with high logits tie: it would
    paint other maps.
    """
    return torch.cat([logits.new_zeros(1, *logits.shape[1:]), logits]).softmax(dim=0)


def _within(frames: dict[int, Remembered], now: int, reach: Reach) -> dict[int, Remembered]:
    """Of what recent frames left, what frame `now` or a later one reads."""
    kept = {}
    for t, one in frames.items():
        if reach.to_map(t, now):
            kept[t] = one
        elif reach.to_pointer(t, now):
            kept[t] = one._replace(map=None)
    return kept


def _bytes(tensors: Iterable[Tensor | None]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors if x is not None)
