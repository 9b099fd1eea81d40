"""One video, one view: which objects there are, what was seen of them, and when."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutie_geo.config import TrackerConfig, build, merge, to_dict
from cutie_geo.inference.given import Geometry, GivenChannels, acceptable, image_size, object_ids, read_mask
from cutie_geo.memory.objects import ObjectRegistry
from cutie_geo.memory.video_memory import VideoMemory
from cutie_geo.model.network import CutieGeo
from cutie_geo.ops import bilinear, internal_size, padding_to, soft_aggregate
from cutie_geo.structures import FrameFeatures, MemoryView, ObjectId, Prediction, RecentPast, StateDict

RECENT = [MemoryView._fields.index(name) for name in RecentPast._fields]
"""Where a memory's view holds what the object transformer starts from."""


class Tracker:
    """Segments one video frame by frame, in memory that is bounded whatever its length: it grows with objects, with the
    number of frames on which objects join, and with frames pinned by `permanent`, and with nothing else.

    >>> import torch, cutie_geo
    >>> model = cutie_geo.load_model("cutie-small", weights="none", precision="fp32")
    >>> tracker = cutie_geo.Tracker(model, mem_every=2)
    >>> mask = torch.zeros(64, 96, dtype=torch.long)
    >>> mask[20:40, 30:60] = 7
    >>> tracker.step(torch.rand(3, 64, 96), mask).shape, tracker.object_ids
    (torch.Size([2, 64, 96]), [7])
    >>> tracker.labels(tracker.step(torch.rand(3, 64, 96))).shape
    torch.Size([64, 96])

    Keywords are the fields of `cutie_geo.config.TrackerConfig`; ValueError for anything else.
    Source: Cutie specification, section 5, with what its section 11 marks as faults put right.
    """

    def __init__(self, model: CutieGeo, **options: Any) -> None:
        self.model = model
        self.config = self._filled(build(TrackerConfig, options, "Tracker"))
        self._start()

    def _filled(self, config: TrackerConfig) -> TrackerConfig:
        """Options with the model's own numbers where none were given."""
        return config.for_model(self.model.config.memory_interval, self.model.config.tokens_read)

    def _start(self) -> None:
        self.registry = ObjectRegistry()
        self.memory = VideoMemory(self.config)
        self.last_mask: Float[Tensor, "1 N H W"] | None = None
        self.geometry: Geometry | None = None
        self.frame = -1
        """Number of the newest committed frame."""
        self.memory_frame = 0
        """Number of the frame that entered memory last."""

    # -------------------------------------------------------------------------------------------- the whole frame
    def step(
        self,
        image: Any,
        mask: Tensor | np.ndarray | None = None,
        objects: Iterable[Any] | None = None,
        permanent: bool = False,
        last: bool = False,
        features: FrameFeatures | None = None,
    ) -> Float[Tensor, "N1 H W"]:
        """The next frame's probabilities at its own size: background first, then `object_ids` in order.

        image: (3, H, W) in [0, 1], RGB. mask: (H, W) label map of integers, or (N, H, W) in [0, 1]; objects: the ids
        in the label map that count (default: all), or the ids of the N channels (default: 1 to N). A mask may name
        new objects, known ones or both; the objects that it does not name are predicted and keep the pixels that it
        leaves free. An empty mask is no mask. permanent: keep this frame's memory for the whole video. last: no later
        frame follows, so nothing is memorised unless `permanent` asks for it; objects that were first given then
        can't be followed. features: what `encode` or `encode_ahead`, of this or of another tracker with the same model
        and options, made of this very image, so that it need not be done again. The result is the caller's own:
        changing it changes nothing here.

        Raises ValueError, and changes nothing, for images or masks of another shape or size and for impossible ids.
        """
        with torch.inference_mode():
            prediction = self._step(image, mask, objects, permanent, last, features)
        return self.restore(prediction)

    def _step(
        self,
        image: Any,
        mask: Any,
        objects: Iterable[Any] | None,
        permanent: bool,
        last: bool,
        features: FrameFeatures | None,
    ) -> Prediction:
        geometry = self._geometry_of(image, look_inside=features is None)  # or they have been looked at
        given = read_mask(mask, objects, geometry, self.model.device)
        if given is None and not self.registry.ids:
            self.geometry, self.frame = geometry, self.frame + 1
            return self._background()
        features = self.encode(image) if features is None else self._checked(features, geometry)
        prediction = None if given is not None and self._is_complete(given) else self.predict(features)
        if given is not None:
            prediction = self._accept(prediction, given)
        assert prediction is not None
        self.commit(features, prediction, permanent=permanent, last=last)
        return prediction

    # --------------------------------------------------------------------------------------------- its four parts
    @torch.inference_mode()
    def encode(self, image: Any, with_depth: bool = False) -> FrameFeatures:
        """The network's view of a frame. Depends on no other frame. The first one sets the video's size.

        with_depth: keep the geometry encoder's depth map in it, for `restore_depth`.
        """
        self.geometry = self._geometry_of(image)
        return self._encode([image], self.geometry, with_depth)[0]

    @torch.inference_mode()
    def encode_ahead(self, images: Sequence[Any], with_depth: bool = False) -> list[FrameFeatures]:
        """What `encode` makes of the next frames, which go through the network as one batch: on a GPU that takes less
        time than one by one. It ends before the first image that `step` would refuse, and changes nothing."""
        valid, size = acceptable(images, lambda image: self._geometry_of(image).size)
        return self._encode(valid, self.geometry or self._geometry(size), with_depth) if size is not None else []

    def _encode(self, images: Sequence[Tensor], geometry: Geometry, with_depth: bool) -> list[FrameFeatures]:
        padded = torch.cat([geometry.enter(image.to(self.model.device, torch.float32)) for image in images])
        with self.model.autocast():
            return self.model.encode(padded, with_depth).frames()

    @torch.inference_mode()
    def predict(self, features: FrameFeatures) -> Prediction:
        """What memory says about the next frame. Changes nothing."""
        return predict_together([self], [features])[0]

    @torch.inference_mode()
    def accept(
        self,
        prediction: Prediction | None,
        mask: Tensor | np.ndarray,
        objects: Iterable[Any] | None = None,
    ) -> Prediction:
        """`prediction` with a user's mask laid over it: given objects are as given, others keep the pixels it leaves
        free. None as prediction stands for no known objects. Changes nothing: new objects exist once committed."""
        if self.geometry is None:
            raise ValueError("accept: no frame was encoded yet, wanted `encode` before it")
        given = read_mask(mask, objects, self.geometry, self.model.device)
        complete = given is not None and self._is_complete(given)
        if prediction is None and self.registry.ids and not complete:
            raise ValueError(f"accept: no prediction for the objects {self.registry.ids}, wanted that of `predict`")
        if given is None:
            return prediction or self._background()
        return self._accept(None if complete else prediction, given)

    @torch.inference_mode()
    def commit(
        self, features: FrameFeatures, prediction: Prediction, permanent: bool = False, last: bool = False
    ) -> None:
        """Make `prediction` the past: clock, objects, last mask, sensory memory, usage, and, where due, memory.

        Raises ValueError if objects were removed since the prediction was made.
        """
        if list(prediction.ids[: len(self.registry)]) != self.registry.ids:
            raise ValueError(f"commit: got a prediction of {list(prediction.ids)}, wanted {self.registry.ids} first")
        self.frame += 1
        due = (self.frame - self.memory_frame >= self._mem_every() or prediction.given) and not last
        self.registry.add(prediction.ids)
        if prediction.usage:
            self.memory.count_usage(prediction.usage)
        if prediction.sensory is not None and not last:
            self.memory.sensory = prediction.sensory
        if not prediction.ids:
            return
        self.last_mask = prediction.probs[None, 1:].clone()  # the rest of the prediction need not be held
        if due or permanent:
            self._memorise(features, prediction.ids, permanent)

    def _memorise(self, features: FrameFeatures, ids: Sequence[ObjectId], permanent: bool) -> None:
        assert self.last_mask is not None
        sensory = self.memory.sensory_for(ids, self.model.empty_sensory(features, len(ids)))
        with self.model.autocast():
            memorised = self.model.memorise(features, self.last_mask, sensory, chunk=self.config.chunk_size)
        self.memory.write(features, memorised, ids, permanent)
        self.memory_frame = self.frame

    def restore(self, prediction: Prediction) -> Float[Tensor, "N1 H W"]:
        """A prediction's probabilities at the frame's own size, in memory of their own."""
        if self.geometry is None:
            raise ValueError("restore: no frame was encoded yet, wanted `encode` before it")
        return self.geometry.leave(prediction.probs).clone()

    def restore_depth(self, features: FrameFeatures) -> Float[Tensor, "H W"]:
        """Relative inverse depth (larger is nearer, no unit) at the frame's own size.

        Raises ValueError if the frame was encoded without it.
        """
        if self.geometry is None or features.depth is None:
            raise ValueError("restore_depth: no depth was kept, wanted features of encode(image, with_depth=True)")
        return self.geometry.leave(bilinear(features.depth[None], self.geometry.padded)[0])[0]

    @property
    def gives_depth(self) -> bool:
        """Whether the network has a geometry encoder."""
        return self.model.gives_depth

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """Height and width of the video's frames, once one was seen."""
        return self.geometry.size if self.geometry else None

    # ----------------------------------------------------------------------------------------------------- objects
    @property
    def object_ids(self) -> list[ObjectId]:
        """Ids in slot order, which is the order in which they were given."""
        return list(self.registry.ids)

    def labels(self, probs: Float[Tensor, "N1 H W"]) -> Int[Tensor, "H W"]:
        """The label map of `step`'s probabilities, in the caller's ids."""
        if probs.shape[0] != len(self.registry) + 1:
            raise ValueError(f"labels: got {probs.shape[0]} channels, wanted background + {len(self.registry)} objects")
        return self.registry.paint(probs)

    def remove(self, ids: Any) -> None:
        """Forget objects, and every trace of them. Raises ValueError for an id that is not tracked."""
        stay = self.registry.remove(object_ids(ids))
        remaining = self.registry.ids
        if self.last_mask is not None:
            self.last_mask = self.last_mask[:, stay.to(self.last_mask.device)] if remaining else None
        in_memory = torch.tensor([slot for slot, i in enumerate(self.memory.ids) if i in remaining], dtype=torch.long)
        self.memory.keep(in_memory, [i for i in self.memory.ids if i in remaining])

    # ------------------------------------------------------------------------------------------------------ memory
    def reset(self) -> None:
        """Forget everything, objects and frame size too: the next video may start."""
        self._start()

    def forget_recent(self) -> None:
        """Drop working and long-term memory but for pinned frames; objects and their recent state stay."""
        for bank in self.memory.banks:
            bank.forget_recent()

    def forget_sensory(self) -> None:
        """Set sensory memory to zeros, as after a cut to another scene."""
        if self.memory.sensory is not None:
            self.memory.sensory = torch.zeros_like(self.memory.sensory)

    def configure(self, **options: Any) -> None:
        """Change options in mid-video; limits of memory are met at the next write. `use_long_term` and
        `max_internal_size` must stay: ValueError."""
        config = self._filled(build(TrackerConfig, merge(to_dict(self.config), options), "Tracker.configure"))
        if config.max_internal_size != self.config.max_internal_size and self.geometry is not None:
            raise ValueError("Tracker.configure: max_internal_size can't change within a video")
        if config.use_long_term != self.config.use_long_term and self.memory.ids:
            raise ValueError("Tracker.configure: use_long_term can't change while objects are tracked")
        self.config = config
        self.memory.configure(config)

    def memory_report(self) -> dict[str, int]:
        """Bytes held between two frames: working and long-term tokens, sensory memory with object summaries, and
        features, which are the last masks, since no frame's own features are kept."""
        masks = self.last_mask
        return self.memory.bytes() | {"features": 0 if masks is None else masks.numel() * masks.element_size()}

    def state_dict(self) -> StateDict:
        """All that is needed to go on later with the same numbers: tensors, numbers, strings, and lists and
        dictionaries of these. `torch.load(weights_only=True)` reads it back."""
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
        """Become the tracker that `state_dict` described, its options included.

        Raises ValueError for a state that is not one, or of a model of other sizes; the tracker is unchanged then.
        """
        wanted = ("config", "frame", "memory_frame", "objects", "size", "last_mask", "memory")
        absent = [name for name in wanted if name not in state]
        if absent:
            raise ValueError(f"tracker state: missing {', '.join(absent)}")
        config = self._filled(build(TrackerConfig, state["config"], "tracker state.config"))
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
        """Raises ValueError for a memory of another model or of other objects."""
        model = self.model.config
        if memory.summary is not None:
            got = (*memory.summary.shape[2:], *(bank.tokens.key.shape[-1] for bank in memory.banks[:1]))
            wanted = (model.num_queries, model.value_dim + 1, model.key_dim)
            if got != wanted:
                raise ValueError(f"tracker state: made by another model (queries, values, keys {got}, wanted {wanted})")
        counts = {len(objects), len(memory.ids)} if memory.ids else {len(objects)}
        if last_mask is not None:
            counts.add(last_mask.shape[1])
        if len(counts) > 1 or (memory.ids and memory.ids != objects):
            raise ValueError(f"tracker state: memory of {memory.ids}, wanted that of its objects {objects}")

    # ----------------------------------------------------------------------------------------------------- details
    def _require_memorised(self) -> None:
        """Raises ValueError if there are objects of which nothing is in memory."""
        missing = [i for i in self.registry.ids if i not in self.memory.ids]
        if missing:
            raise ValueError(f"predict: objects {missing} were given with last=True and never memorised")

    def _memory_views(self) -> Iterator[tuple[Int[Tensor, "n"], MemoryView]]:
        """Each bank's slots and what its objects remember."""
        assert self.last_mask is not None, "objects are in memory"
        return self.memory.views(self.last_mask)

    def _sensory(self) -> Float[Tensor, "1 N C h w"]:
        assert self.memory.sensory is not None, "objects are in memory"
        return self.memory.sensory

    def _mem_every(self) -> int:
        every = self.config.mem_every
        assert every is not None, "the model has filled it in"
        return every

    def _sensory_frames(self) -> set[int]:
        """Frames after a memory frame on which the decoder updates sensory memory."""
        every, updates = self._mem_every(), self.config.stagger_updates
        if updates >= every:
            return set(range(1, every + 1))
        return set(np.round(np.linspace(1, every, updates)).astype(int).tolist())

    def _geometry(self, size: tuple[int, int]) -> Geometry:
        given = self.config.max_internal_size
        internal = internal_size(size, self._own_size() if given is None else given)
        return Geometry(size, internal, padding_to(internal, self.model.multiple), antialias=given is None)

    def _own_size(self) -> int:
        """What the model shrinks frames to, by their shorter side; -1 for never."""
        return self.model.config.frame_size or -1

    def _geometry_of(self, image: Any, look_inside: bool = True) -> Geometry:
        """Checks an image. Raises ValueError unless it is an RGB image of the video's size."""
        size = image_size(image, look_inside)
        if self.geometry is not None and size != self.geometry.size:
            raise ValueError(f"image: got size {size} in a video of {self.geometry.size}; one tracker is for one size")
        return self.geometry or self._geometry(size)

    def _checked(self, features: FrameFeatures, geometry: Geometry) -> FrameFeatures:
        """Raises ValueError for features of frames of another size, or of several frames."""
        got = tuple(features.image.shape)
        if got != (1, 3, *geometry.padded):
            raise ValueError(f"features: got those of images {got}, wanted {(1, 3, *geometry.padded)}")
        self.geometry = geometry
        return features

    def _is_complete(self, given: GivenChannels) -> bool:
        """Whether a mask leaves nothing to predict: it names all known objects and, unless there are none, no new."""
        return not self.registry.ids or set(given.ids) == set(self.registry.ids)

    def _accept(self, prediction: Prediction | None, given: GivenChannels) -> Prediction:
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
        """Where there are no objects, all is background."""
        assert self.geometry is not None, "the frame's size is known before anything is predicted"
        return Prediction(torch.ones(1, *self.geometry.padded, device=self.model.device), ())


@torch.inference_mode()
def predict_together(trackers: Sequence[Tracker], features: Sequence[FrameFeatures]) -> list[Prediction]:
    """What `predict` says for each of several trackers of one network, whose frames go through it as one batch.

    They are at one frame of one video, seen at one padded size in several ways: they have the same objects, which
    joined on the same frames, and the same options. Memory is read by each alone, so none of it is copied.
    """
    first = trackers[0]
    ids, model, config = tuple(first.registry.ids), first.model, first.config
    if not ids:
        return [Prediction(seen.image.new_ones(1, *seen.image.shape[-2:]), ()) for seen in features]
    for tracker in trackers:
        tracker._require_memorised()
    batch, top_k = FrameFeatures.batch(features), config.top_k
    parts, order, usage = [], [], [[] for _ in trackers]
    with model.autocast():
        for banks in zip(*(tracker._memory_views() for tracker in trackers), strict=True):
            views = [view for _, view in banks]
            recalled = [model.recall(seen, view, top_k) for seen, view in zip(features, views)]
            for own, (_, read_by_token) in zip(usage, recalled):
                own.append(read_by_token)
            recent = RecentPast(*(_joined([view[i] for view in views]) for i in RECENT))
            refined, _ = model.refine(batch, _joined([read for read, _ in recalled]), recent, chunk=config.chunk_size)
            parts.append(refined)
            order.append(banks[0][0])
        read = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)[:, torch.cat(order).argsort()]
        due = first.frame + 1 - first.memory_frame in first._sensory_frames()
        sensory = _joined([tracker._sensory() for tracker in trackers])
        decoded = model.decode(batch, read, sensory, due, chunk=config.chunk_size)
    probs = decoded.logits.float().softmax(dim=1)
    updates = [None] * len(trackers) if decoded.sensory is None else decoded.sensory.split(1)
    return [Prediction(own, ids, update, tuple(used)) for own, update, used in zip(probs, updates, usage)]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """One batch; of a single part no copy is made."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
