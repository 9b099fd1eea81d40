"""Tracker of the objects in one video."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Unpack

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutie_geo.config import TrackerConfig, TrackerOptions, build, merge, to_dict
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
from cutie_geo.inference.windows import choose_windows, mask_windows
from cutie_geo.memory.objects import ChannelIds, ObjectRegistry
from cutie_geo.memory.video_memory import VideoMemory
from cutie_geo.model.network import CutieGeo
from cutie_geo.ops import bilinear, padding_to, soft_aggregate
from cutie_geo.regions import Window, internal_size
from cutie_geo.structures import FrameFeatures, MemoryView, ObjectId, Prediction, RecentPast, StateDict

RECENT = [MemoryView._fields.index(name) for name in RecentPast._fields]
"""Indices of the fields of `RecentPast` in `MemoryView`."""


class Tracker:
    """Frame-by-frame segmenter of one video with bounded memory.

    Memory grows with the number of objects, of frames on which objects are added, and of `permanent` frames, but not
    with the length of the video.

    >>> import torch, cutie_geo
    >>> model = cutie_geo.load_model("cutie-small", weights="none", precision="fp32")
    >>> tracker = cutie_geo.Tracker(model, mem_every=2)
    >>> mask = torch.zeros(64, 96, dtype=torch.long)
    >>> mask[20:40, 30:60] = 7
    >>> tracker.step(torch.rand(3, 64, 96), mask).shape, tracker.object_ids
    (torch.Size([2, 64, 96]), [7])
    >>> tracker.labels(tracker.step(torch.rand(3, 64, 96))).shape
    torch.Size([64, 96])

    Args:
        model: Network.
        **options: Fields of `cutie_geo.config.TrackerConfig`.

    Raises:
        ValueError: For unknown options and invalid values.

    Source: Cutie specification, section 5, without the faults listed in its section 11.
    """

    def __init__(self, model: CutieGeo, **options: Unpack[TrackerOptions]) -> None:
        self.model = model
        self.config = build(TrackerConfig, options, "Tracker").for_model(model.config)
        self.channels = ChannelIds()
        self._start()

    def _start(self) -> None:
        self.registry = ObjectRegistry()
        self.channels.begin()
        self.memory = VideoMemory(self.config)
        self.last_mask: Float[Tensor, "1 N H W"] | None = None
        self.geometry: Geometry | None = None
        self.frame = -1
        """Index of the last committed frame."""
        self.memory_frame = 0
        """Index of the last memory frame."""

    # -------------------------------------------------------------------------------------------- the whole frame
    def step(
        self,
        image: Any,
        mask: Tensor | np.ndarray | None = None,
        objects: Iterable[Any] | None = None,
        permanent: bool = False,
        last: bool = False,
        features: FrameFeatures | None = None,
        correction: bool = False,
        color: str = "rgb",
    ) -> Float[Tensor, "N1 H W"]:
        """Segment the next frame; return its probabilities at its own size.

        Args:
            image: Array (H, W, 3) of uint8, PIL image, or tensor (3, H, W) of floats in [0, 1] or uint8; grey and RGBA
                are accepted.
            mask: Label map (H, W) of integers, or soft masks (N, H, W) in [0, 1], of new or tracked objects. Other
                objects are predicted outside the mask. An empty mask counts as no mask.
            objects: Ids of the label map to use (default: all), or ids of the N channels (default: 1 to N).
            permanent: Add this frame to permanent memory.
            last: No frame follows, so this frame is not memorised unless `permanent` is set. Objects that are first
                annotated on it cannot be tracked afterwards.
            features: Features of this image from `encode` or `encode_ahead` of a tracker with the same model and
                options, which saves encoding it again.
            correction: Treat the mask as a correction of tracked objects. This frame becomes permanent memory of them.
                Their memory since the last permanent frame is removed, as are permanent frames whose masks contradict
                the correction. Other objects and the order of ids are unchanged. At most 10 permanent frames of an
                object are kept.
            color: Order of the channels of arrays and tensors: "rgb", or "bgr" for OpenCV's.

        Returns:
            Probabilities of the background and of `object_ids` in order, a tensor that the caller may change.

        Raises:
            ValueError: For images or masks of another shape or size and for invalid ids; the state is unchanged.
        """
        image = image_tensor(image, color)
        with torch.inference_mode():
            prediction = self._step(image, mask, objects, permanent, last, features, correction)
        return self.restore(prediction)

    def _step(
        self,
        image: Any,
        mask: Any,
        objects: Iterable[Any] | None,
        permanent: bool,
        last: bool,
        features: FrameFeatures | None,
        correction: bool,
    ) -> Prediction:
        geometry = self._geometry_of(image, look_inside=features is None)  # encoded images were checked already
        given = read_mask(mask, objects, geometry, self.model.device)
        corrected = corrected_ids(correction, given, self.registry.ids)
        if given is None and not self.registry.ids:
            self.geometry, self.frame = geometry, self.frame + 1
            return self._background()
        features = self.encode(image) if features is None else self._checked(features, geometry)
        prediction = None if given is not None and self._is_complete(given) else self.predict(features)
        if given is not None:
            prediction = self._accept(prediction, given)
        assert prediction is not None
        self.commit(features, prediction, permanent, last, corrected)
        return prediction

    # --------------------------------------------------------------------------------------------- its four parts
    @torch.inference_mode()
    def encode(self, image: Any, with_depth: bool = False, color: str = "rgb") -> FrameFeatures:
        """Encode a frame, independently of other frames. The first call sets the video's size.

        Args:
            image: Frame; see `step`.
            with_depth: Keep the geometry encoder's depth map for `restore_depth`.
            color: Order of the channels; see `step`.
        """
        image = image_tensor(image, color)
        self.geometry = self._geometry_of(image)
        return self._encode([image], self.geometry, with_depth)[0]

    @torch.inference_mode()
    def encode_ahead(self, images: Sequence[Any], with_depth: bool = False) -> list[FrameFeatures]:
        """Encode the next frames as one batch, which is faster on a GPU, without changing the state.

        The result ends before the first image that `step` would refuse.
        """
        valid, size = acceptable(images, lambda image: self._geometry_of(image).size)
        return self._encode(valid, self.geometry or self._geometry(size), with_depth) if size is not None else []

    def _encode(self, images: Sequence[Tensor], geometry: Geometry, with_depth: bool) -> list[FrameFeatures]:
        padded = torch.cat([geometry.enter(image.to(self.model.device, torch.float32)) for image in images])
        with self.model.autocast():
            return self.model.encode(padded, with_depth).frames()

    @torch.inference_mode()
    def predict(self, features: FrameFeatures) -> Prediction:
        """Predict the next frame's masks from memory, without changing the state."""
        return predict_together([self], [features])[0]

    @torch.inference_mode()
    def accept(
        self,
        prediction: Prediction | None,
        mask: Tensor | np.ndarray,
        objects: Iterable[Any] | None = None,
    ) -> Prediction:
        """Merge an input mask into a prediction, without changing the state; `commit` adds new objects.

        Objects of the mask get its pixels, others keep their predictions outside it. `prediction` may be None if there
        are no other objects.
        """
        if self.geometry is None:
            raise ValueError("accept: no frame was encoded yet, expected `encode` before it")
        given = read_mask(mask, objects, self.geometry, self.model.device)
        complete = given is not None and self._is_complete(given)
        if prediction is None and self.registry.ids and not complete:
            raise ValueError(f"accept: no prediction for the objects {self.registry.ids}, expected that of `predict`")
        if given is None:
            return prediction or self._background()
        return self._accept(None if complete else prediction, given)

    @torch.inference_mode()
    def commit(
        self,
        features: FrameFeatures,
        prediction: Prediction,
        permanent: bool = False,
        last: bool = False,
        corrected: Sequence[ObjectId] = (),
    ) -> None:
        """Update the state by a prediction: frame index, objects, last mask, sensory memory, usage and, if due, memory.

        Args:
            features: Features of the frame.
            prediction: Prediction to commit.
            permanent: See `step`.
            last: See `step`.
            corrected: Tracked objects whose masks were corrected by the user; see `correction` of `step`.

        Raises:
            ValueError: If objects were removed since the prediction was made.
        """
        if list(prediction.ids[: len(self.registry)]) != self.registry.ids:
            raise ValueError(f"commit: got a prediction of {list(prediction.ids)}, expected {self.registry.ids} first")
        self.frame += 1
        due = (self.frame - self.memory_frame >= self._mem_every() or prediction.given) and not last
        self.registry.add(prediction.ids)
        if prediction.usage:
            self.memory.count_usage(prediction.usage)
        if prediction.sensory is not None and not last:
            self.memory.sensory = prediction.sensory
        if not prediction.ids:
            return
        self.last_mask = prediction.probs[None, 1:].clone()  # a copy, which frees the rest of the prediction
        corrected = [i for i in corrected if i in self.memory.ids]
        if due or permanent or corrected:
            self._memorise(features, prediction.ids, permanent, corrected)

    def _memorise(
        self, features: FrameFeatures, ids: Sequence[ObjectId], permanent: bool, corrected: Sequence[ObjectId]
    ) -> None:
        assert self.last_mask is not None
        if corrected:
            self.memory.correct(features, self.last_mask[:, : len(self.memory.ids)], corrected)
        sensory = self.memory.sensory_with(self.model.empty_sensory(features, len(ids)))
        with self.model.autocast():
            several = len(ids) > 1 and self.config.full_frame_every != 1  # one object gains nothing from a window
            windows = mask_windows(self.last_mask) if several else None
            memorised = self.model.memorise(
                features, self.last_mask, sensory, chunk=self.config.chunk_size, windows=windows
            )
        self.memory.write(features, memorised, ids, permanent, self.last_mask, corrected)
        self.memory_frame = self.frame

    def restore(self, prediction: Prediction) -> Float[Tensor, "N1 H W"]:
        """Return the probabilities of a prediction at the frame's own size, as a new tensor."""
        if self.geometry is None:
            raise ValueError("restore: no frame was encoded yet, expected `encode` before it")
        return self.channels.note(self.geometry.leave(prediction.probs).clone(), prediction.ids)

    def restore_depth(self, features: FrameFeatures) -> Float[Tensor, "H W"]:
        """Return the relative inverse depth (larger is nearer, no unit) at the frame's own size.

        Raises:
            ValueError: If the frame was encoded without depth.
        """
        if self.geometry is None or features.depth is None:
            raise ValueError("restore_depth: no depth was kept, expected features of encode(image, with_depth=True)")
        return self.geometry.leave(bilinear(features.depth[None], self.geometry.padded)[0])[0]

    @property
    def gives_depth(self) -> bool:
        """True if the network has a geometry encoder."""
        return self.model.gives_depth

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """Height and width of the video's frames; None before the first."""
        return self.geometry.size if self.geometry else None

    # ----------------------------------------------------------------------------------------------------- objects
    @property
    def object_ids(self) -> list[ObjectId]:
        """Object ids in slot order, the order in which they were added."""
        return list(self.registry.ids)

    def labels(self, probs: Float[Tensor, "N1 H W"], objects: Sequence[ObjectId] | None = None) -> Int[Tensor, "H W"]:
        """Return the label map of probabilities, with object ids as values.

        Args:
            probs: Probabilities, background first. For a tensor that `step` returned, the ids are known, even if
                objects were added or removed since.
            objects: Ids of the channels after the first, for other tensors, such as resized ones. By default they are
                inferred from the number of channels.

        Raises:
            ValueError: If the number of channels is ambiguous.
        """
        return self.channels.labels(probs, self.registry.ids, objects)

    def remove(self, ids: Any) -> None:
        """Remove objects and their memory.

        Raises:
            ValueError: If an id is not tracked.
        """
        stay = self.registry.remove(object_ids(ids))
        remaining = self.registry.ids
        if self.last_mask is not None:
            self.last_mask = self.last_mask[:, stay.to(self.last_mask.device)] if remaining else None
        in_memory = torch.tensor([slot for slot, i in enumerate(self.memory.ids) if i in remaining], dtype=torch.long)
        self.memory.keep(in_memory, [i for i in self.memory.ids if i in remaining])

    # ------------------------------------------------------------------------------------------------------ memory
    def reset(self) -> None:
        """Reset objects, memory and frame size for the next video."""
        self._start()

    def forget_recent(self) -> None:
        """Clear working and long-term memory, except permanent memory; objects and their recent state remain."""
        for bank in self.memory.banks:
            bank.forget_recent()

    def forget_sensory(self) -> None:
        """Set sensory memory to zeros, for example after a scene cut."""
        if self.memory.sensory is not None:
            self.memory.sensory = torch.zeros_like(self.memory.sensory)

    def configure(self, **options: Unpack[TrackerOptions]) -> None:
        """Change options within a video; new memory limits apply from the next memory frame.

        Raises:
            ValueError: For invalid options, and for changes of `use_long_term` or the internal size.
        """
        changed = build(TrackerConfig, merge(to_dict(self.config), options), "Tracker.configure")
        config = changed.for_model(self.model.config)
        for name in ("max_internal_size", "min_internal_size"):
            if getattr(config, name) != getattr(self.config, name) and self.geometry is not None:
                raise ValueError(f"Tracker.configure: {name}: got a change within a video, expected the same")
        if config.use_long_term != self.config.use_long_term and self.memory.ids:
            raise ValueError(
                "Tracker.configure: use_long_term: got a change while objects are tracked, expected the same"
            )
        self.config = config
        self.memory.configure(config)

    def memory_report(self) -> dict[str, int]:
        """Return the bytes held between two frames, by kind.

        The kinds are working and long-term tokens, sensory memory with object summaries, and features, which are the
        last masks: features of frames are not kept.
        """
        masks = self.last_mask
        return self.memory.bytes() | {"features": 0 if masks is None else masks.numel() * masks.element_size()}

    def state_dict(self) -> StateDict:
        """Return the state for an exact continuation, loadable with `torch.load(weights_only=True)`."""
        return {
            "config": to_dict(self.config),
            "frame": self.frame,
            "memory_frame": self.memory_frame,
            "objects": self.object_ids,
            "size": list(self.geometry.size) if self.geometry else None,
            "last_mask": None if self.last_mask is None else self.last_mask.clone(),
            "memory": self.memory.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned, with its options.

        Raises:
            ValueError: For an invalid state or one of a model of other sizes; the tracker is unchanged.
        """
        wanted = ("config", "frame", "memory_frame", "objects", "size", "last_mask", "memory")
        absent = [name for name in wanted if name not in state]
        if absent:
            raise ValueError(f"tracker state: missing {', '.join(absent)}")
        config = build(TrackerConfig, state["config"], "tracker state.config").for_model(self.model.config)
        memory, device = VideoMemory(config), self.model.device
        try:
            memory.load_state_dict(state["memory"], device)
            objects = object_ids(state["objects"])
            frame, memory_frame = int(state["frame"]), int(state["memory_frame"])
            size = tuple(int(side) for side in state["size"]) if state["size"] else None
            last_mask = None if state["last_mask"] is None else state["last_mask"].to(device)
            self._check_state(memory, objects, last_mask)
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            raise ValueError(f"tracker state: damaged ({type(error).__name__}: {error})") from None
        self.config, self.memory, self.registry = config, memory, ObjectRegistry(objects)
        self.frame, self.memory_frame, self.last_mask = frame, memory_frame, last_mask
        self.geometry = self._geometry((size[0], size[1])) if size else None

    def _check_state(self, memory: VideoMemory, objects: list[ObjectId], last_mask: Tensor | None) -> None:
        """Raise ValueError if the memory is that of another model or of other objects."""
        model = self.model.config
        if memory.summary is not None:
            got = (*memory.summary.shape[2:], *(bank.tokens.key.shape[-1] for bank in memory.banks[:1]))
            wanted = (model.num_queries, model.value_dim + 1, model.key_dim)
            if got != wanted:
                raise ValueError(
                    f"tracker state: made by another model (queries, values, keys {got}, expected {wanted})"
                )
        counts = {len(objects), len(memory.ids)} if memory.ids else {len(objects)}
        if last_mask is not None:
            counts.add(last_mask.shape[1])
        if len(counts) > 1 or (memory.ids and memory.ids != objects):
            raise ValueError(f"tracker state: memory of {memory.ids}, expected that of its objects {objects}")

    # ----------------------------------------------------------------------------------------------------- details
    def _require_memorised(self) -> None:
        """Raise ValueError if an object has no memory."""
        missing = [i for i in self.registry.ids if i not in self.memory.ids]
        if missing:
            raise ValueError(f"predict: objects {missing} were added with last=True and are not in memory")

    def _memory_views(self) -> Iterator[tuple[Int[Tensor, "n"], MemoryView]]:
        """Return the slots and the memory of each bank's objects."""
        assert self.last_mask is not None, "objects are in memory"
        return self.memory.views(self.last_mask)

    def _sensory(self) -> Float[Tensor, "1 N C h w"]:
        assert self.memory.sensory is not None, "objects are in memory"
        return self.memory.sensory

    def _mem_every(self) -> int:
        every = self.config.mem_every
        assert every is not None, "the model has filled it in"
        return every

    def _windows(self, coarse: Float[Tensor, "1 N h w"]) -> list[Window | None] | None:
        """Return the window of each object in the next frame; None to decode all objects in the whole frame."""
        every = self.config.full_frame_every
        if not every or (self.frame + 1) % every == 0:
            return None
        assert self.last_mask is not None, "objects are in memory"
        return choose_windows(self.last_mask, coarse)

    def _sensory_frames(self) -> set[int]:
        """Return the offsets from a memory frame at which the decoder updates sensory memory."""
        every, updates = self._mem_every(), self.config.stagger_updates
        if updates >= every:
            return set(range(1, every + 1))
        return set(np.round(np.linspace(1, every, updates)).astype(int).tolist())

    def _geometry(self, size: tuple[int, int]) -> Geometry:
        internal = internal_size(size, *self._shorter_sides())
        return Geometry(size, internal, padding_to(internal, self.model.multiple), self.config.antialias)

    def _shorter_sides(self) -> tuple[int, int]:
        """Return the largest and the smallest shorter side of frames for the network, in pixels; -1 for no limit."""
        most, least = self.config.max_internal_size, self.config.min_internal_size
        assert most is not None and least is not None, "resolved by TrackerConfig.for_model"
        return most, least

    def _geometry_of(self, image: Any, look_inside: bool = True) -> Geometry:
        """Return the geometry of an image. Raises ValueError unless it is an RGB image of the video's size."""
        size = image_size(image, look_inside, self.frame_size)
        return self.geometry or self._geometry(size)

    def _checked(self, features: FrameFeatures, geometry: Geometry) -> FrameFeatures:
        """Return `features`. Raises ValueError if they are of another size or of several frames."""
        got = tuple(features.image.shape)
        if got != (1, 3, *geometry.padded):
            raise ValueError(f"features: got those of images {got}, expected {(1, 3, *geometry.padded)}")
        self.geometry = geometry
        return features

    def _is_complete(self, given: MaskChannels) -> bool:
        """Return True if no prediction is needed: there are no tracked objects, or the mask has exactly these."""
        return not self.registry.ids or set(given.ids) == set(self.registry.ids)

    def _accept(self, prediction: Prediction | None, given: MaskChannels) -> Prediction:
        known = prediction.ids if prediction is not None else tuple(self.registry.ids)
        ids = known + tuple(i for i in given.ids if i not in known)
        height, width = given.masks.shape[-2:]
        masks = given.masks.new_zeros(len(ids), height, width)
        if prediction is not None:
            masks[: len(known)] = prediction.probs[1:] * ~given.erased
        for mask, i in zip(given.masks, given.ids):
            masks[ids.index(i)] = mask
        probs = soft_aggregate(masks[None]).softmax(dim=1)[0]
        if prediction is None:
            return Prediction(probs, ids, given=True)
        return prediction._replace(probs=probs, ids=ids, given=True)

    def _background(self) -> Prediction:
        """Return a prediction without objects."""
        assert self.geometry is not None, "the frame's size is known before anything is predicted"
        return Prediction(torch.ones(1, *self.geometry.padded, device=self.model.device), ())


@torch.inference_mode()
def predict_together(trackers: Sequence[Tracker], features: Sequence[FrameFeatures]) -> list[Prediction]:
    """Predict with several trackers of one network, as one batch.

    The trackers must be views of one frame with the same padded size, objects and options, and their objects must have
    been added on the same frames. Memory is read separately for each tracker, so it is not copied.
    """
    first = trackers[0]
    ids, model, config = tuple(first.registry.ids), first.model, first.config
    if not ids:
        return [Prediction(seen.image.new_ones(1, *seen.image.shape[-2:]), ()) for seen in features]
    for tracker in trackers:
        tracker._require_memorised()
    batch, top_k = FrameFeatures.batch(features), config.top_k
    parts, coarse, order, usage = [], [], [], [[] for _ in trackers]
    with model.autocast():
        for banks in zip(*(tracker._memory_views() for tracker in trackers), strict=True):
            views = [view for _, view in banks]
            recalled = [model.recall(seen, view, top_k) for seen, view in zip(features, views)]
            for own, (_, read_by_token) in zip(usage, recalled):
                own.append(read_by_token)
            recent = RecentPast(*(_joined([view[i] for view in views]) for i in RECENT))
            refined, masks = model.refine(
                batch, _joined([read for read, _ in recalled]), recent, chunk=config.chunk_size
            )
            parts.append(refined)
            coarse.append(masks[:, :, -1])
            order.append(banks[0][0])
        read, masks = parts[0], coarse[0]
        if len(parts) > 1:
            slots = torch.cat(order).argsort()
            read, masks = torch.cat(parts, dim=1)[:, slots], torch.cat(coarse, dim=1)[:, slots]
        due = first.frame + 1 - first.memory_frame in first._sensory_frames()
        sensory = _joined([tracker._sensory() for tracker in trackers])
        windows = first._windows(masks) if len(trackers) == 1 else None
        decoded = model.decode(batch, read, sensory, due, chunk=config.chunk_size, windows=windows)
    probs = decoded.logits.float().softmax(dim=1)
    updates = [None] * len(trackers) if decoded.sensory is None else decoded.sensory.split(1)
    return [Prediction(own, ids, update, tuple(used)) for own, update, used in zip(probs, updates, usage)]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate a batch, without a copy if there is one part."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
