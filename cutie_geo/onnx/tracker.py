"""Tracker of the objects in one video that runs exported graphs."""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cutie_geo.onnx.folder import OnnxModel
from cutie_geo.onnx.frames import (
    Geometry,
    InputMask,
    object_ids,
    padded,
    read_image,
    read_mask,
    soft_aggregate,
)
from cutie_geo.onnx.prompts import EncodedView, PromptedMask, Prompter, read_probabilities, read_prompt
from cutie_geo.onnx.windows import choose_windows, insides, mask_windows
from cutie_geo.regions import ABSENT, STRIDE, Region, Window, internal_size

OPTIONS = ("mem_every", "stagger_updates", "max_mem_frames", "full_frame_every")
"""Options that a saved state holds."""


class Features(NamedTuple):
    """Features of one frame, which do not depend on other frames."""

    image: np.ndarray
    """(1, 3, H, W) at the size of the graphs, in [0, 1]."""
    graph: Mapping[str, np.ndarray]
    """Outputs of `encode` by name."""
    zoomed: list[EncodedView]
    """The last enlarged view of a small object that was prompted for, if any."""


class Bank:
    """Memory tokens of the objects that were added on one frame, in tables of fixed capacity.

    Rows are frames of P tokens: permanent frames first, then a ring of recent ones.
    """

    def __init__(self, ids: Sequence[int], model: OnnxModel, permanent: int = 0, recent: int = 0) -> None:
        about = model.description
        rows, self.frame_tokens = about.capacity, about.tokens
        self.ids = list(ids)
        self.most_permanent = about.permanent_frames
        self.permanent, self.recent = permanent, recent
        """Numbers of frames written so far; more recent ones than fit replace the oldest."""
        self.keys = np.zeros((rows, int(about.shape("encode", "keys")[1])), np.float32)
        self.value = np.zeros((len(ids), rows, int(about.shape("memorise", "value")[2])), np.float32)
        self.filled = np.zeros(rows, bool)

    def write(self, keys: np.ndarray, value: np.ndarray, permanent: bool, limit: int) -> None:
        """Store one frame. The first frame is permanent; recent frames are first in, first out.

        Args:
            keys: Keys (P, F).
            value: Values of this bank's objects (n, P, C).
            permanent: Keep the frame for the whole video.
            limit: Number of recent frames to keep, at most the capacity.
        """
        if permanent or not self.permanent:
            place = self.permanent
            self.permanent += 1
        else:
            if not limit:
                return
            place = self.most_permanent + self.recent % limit
            self.recent += 1
        rows = slice(place * self.frame_tokens, (place + 1) * self.frame_tokens)
        self.keys[rows], self.value[:, rows], self.filled[rows] = keys, value, True

    def keep(self, ids: Sequence[int]) -> None:
        """Remove the values of all objects but `ids`."""
        stay = [slot for slot, i in enumerate(self.ids) if i in ids]
        self.ids, self.value = [self.ids[slot] for slot in stay], self.value[stay]


class OnnxTracker:
    """Frame-by-frame segmenter of one video with bounded memory, like `cutie_geo.Tracker` without torch.

    Working memory is first in, first out; there is no long-term memory. The first frame of each object is permanent.

    Args:
        model: Folder written by `cutie-geo export onnx`, or a loaded `OnnxModel`, which several trackers may share.
        providers: Execution providers of onnxruntime in order of preference, such as "cuda", "coreml", "directml".
        threads: Threads of the CPU provider; None uses all cores.
        mem_every: Number of frames from one memory frame to the next; None: the model's.
        stagger_updates: Number of updates of sensory memory between two memory frames; None: the model's.
        max_mem_frames: Number of frames in working memory, at most the exported capacity; None: that.
        full_frame_every: Number of frames from one on which every object is decoded in the whole frame to the next; on
            the others it is decoded around its last and its coarse mask. 1 always processes whole frames. None: the
            model's.

    Raises:
        ValueError: For folders and options that cannot be used.
    """

    def __init__(
        self,
        model: str | Path | OnnxModel,
        providers: Sequence[str | tuple[str, dict[str, Any]]] = ("cpu",),
        threads: int | None = None,
        mem_every: int | None = None,
        stagger_updates: int | None = None,
        max_mem_frames: int | None = None,
        full_frame_every: int | None = None,
    ) -> None:
        self.model = model if isinstance(model, OnnxModel) else OnnxModel(model, providers, threads)
        self.about = about = self.model.description
        self.mem_every = about.mem_every if mem_every is None else mem_every
        self.stagger_updates = about.stagger_updates if stagger_updates is None else stagger_updates
        self.max_mem_frames = about.max_mem_frames if max_mem_frames is None else max_mem_frames
        self.full_frame_every = about.full_frame_every if full_frame_every is None else full_frame_every
        for name in OPTIONS:
            if getattr(self, name) < 1:
                raise ValueError(f"OnnxTracker: {name}: got {getattr(self, name)}, expected 1 or more")
        if self.max_mem_frames > about.max_mem_frames:
            raise ValueError(
                f"OnnxTracker: max_mem_frames: got {self.max_mem_frames}, expected at most the exported "
                f"{about.max_mem_frames}; cutie-geo export onnx --max-mem-frames changes it"
            )
        self._returned: dict[int, tuple[weakref.ref[np.ndarray], tuple[int, ...]]] = {}
        self.reset()

    def reset(self) -> None:
        """Reset objects, memory and frame size for the next video."""
        self.object_ids: list[int] = []
        """Object ids in the order in which they were added."""
        self.geometry: Geometry | None = None
        self.frame = -1
        """Index of the last frame."""
        self.memory_frame = 0
        """Index of the last memory frame."""
        self.banks: list[Bank] = []
        self.memorised: list[int] = []
        """Ids of the objects in memory, a prefix of `object_ids`."""
        self.last_mask: np.ndarray | None = None
        self.sensory: np.ndarray | None = None
        self.summary: np.ndarray | None = None

    # -------------------------------------------------------------------------------------------- the whole frame
    def step(
        self,
        image: Any,
        mask: Any = None,
        objects: Iterable[Any] | None = None,
        permanent: bool = False,
        last: bool = False,
        features: Features | None = None,
    ) -> np.ndarray:
        """Segment the next frame; return its probabilities (1 + N, H, W) in float32 at its own size.

        Args:
            image: RGB image, uint8 (H, W, 3) or floats (3, H, W) in [0, 1].
            mask: Label map (H, W) of integers, or soft masks (N, H, W) in [0, 1], of new or tracked objects. Other
                objects are predicted outside the mask. An empty mask counts as no mask.
            objects: Ids of the label map to use (default: all), or ids of the N channels (default: 1 to N).
            permanent: Keep this frame's memory for the whole video, within the exported capacity.
            last: No frame follows, so this frame is not memorised unless `permanent` is set.
            features: Features of this image from `encode`, which saves encoding it again.

        Returns:
            Probabilities of the background and of `object_ids` in order, an array that the caller may change.

        Raises:
            ValueError: For images or masks of another shape or size, invalid ids, and more objects or permanent frames
                than memory holds; the state is unchanged.
        """
        picture = read_image(image)
        geometry = self._geometry_of((picture.shape[1], picture.shape[2]))
        given = read_mask(mask, objects, geometry)
        if given is None and not self.object_ids:
            self.geometry, self.frame = geometry, self.frame + 1
            return self._note(geometry.leave(np.ones((1, *self.about.padded), np.float32)), ())
        self._require_capacity(given, permanent)
        if features is None:
            features = self._encode(picture, geometry)
        prediction = None if given is not None and self._is_complete(given) else self._predict(features)
        probs, ids, sensory = prediction or (None, tuple(self.object_ids), None)
        if given is not None:
            probs, ids = self._accept(probs, ids, given)
        assert probs is not None
        self._commit(features, probs, ids, sensory, given is not None, permanent, last)
        self.geometry = geometry
        return self._note(geometry.leave(probs), ids)

    def encode(self, image: Any) -> Features:
        """Encode a frame for `step`, independently of other frames.

        Raises:
            ValueError: For images that `step` would refuse.
        """
        picture = read_image(image)
        return self._encode(picture, self._geometry_of((picture.shape[1], picture.shape[2])))

    def _encode(self, picture: np.ndarray, geometry: Geometry) -> Features:
        image = np.ascontiguousarray(geometry.shrink(picture))[None]
        names = self.about.graph("encode")["outputs"]
        return Features(image, dict(zip(names, self.model.run("encode", {"image": image}))), [])

    def prompt(
        self,
        image: Any,
        points: Any = (),
        labels: Any = None,
        box: Any = None,
        mask: Any = None,
        features: Features | None = None,
        zoom: bool = True,
        from_prompts: bool = False,
    ) -> PromptedMask:
        """Predict the mask of one object from clicks, a box or both, without changing the state.

        `step` takes the mask: `tracker.step(image, found.logits > 0)`.

        Args:
            image: RGB image; see `step`.
            points: (x, y) of all clicks on the object so far, in pixels of the image.
            labels: 1 for clicks on the object, 0 for others. By default all are on it.
            box: (x0, y0, x1, y1) around the object.
            mask: Mask of the object so far, which the clicks correct: logits, or probabilities, (H, W).
            features: Features of this image from `encode`, which saves encoding it again for each click.
            zoom: Refine small objects on an enlarged view.
            from_prompts: `mask` was predicted from earlier points of these, not tracked or drawn. For the first points,
                the mask is also predicted without it, and the probabilities are averaged.

        Returns:
            Logits at the image's size and the estimated IoU.

        Raises:
            ValueError: If the export has no prompt head, and for invalid images, clicks, boxes and masks.
        """
        prompter, picture = Prompter(self.model), read_image(image)
        size = (picture.shape[1], picture.shape[2])
        geometry = self._geometry_of(size)
        asked = read_prompt(points, labels, box, size, mask is not None)
        before = None if mask is None else read_probabilities(mask, size)
        if features is None:
            features = self._encode(picture, geometry)
        whole = EncodedView(
            Region(0, 0, size[1], size[0]), geometry, {name: features.graph[name] for name in ("f16", "f8", "f4")}
        )
        return prompter.predict(picture, whole, features.zoomed, asked, before, zoom, from_prompts)

    def _predict(self, features: Features) -> tuple[np.ndarray, tuple[int, ...], np.ndarray | None]:
        """Return probabilities at the padded size, ids, and the updated sensory memory if an update is due."""
        missing = [i for i in self.object_ids if i not in self.memorised]
        if missing:
            raise ValueError(f"step: objects {missing} were added with last=True and are not in memory")
        assert self.last_mask is not None and self.sensory is not None and self.summary is not None
        readout, coarse, start = [], [], 0
        for bank in self.banks:  # in the order of slots: the ids of each bank follow those of the bank before
            slots = slice(start, start + len(bank.ids))
            found = self.model.run("read", {
                "pixel": features.graph["pixel"], "query": features.graph["query"],
                "keys": bank.keys, "filled": bank.filled, "value": bank.value,
                "sensory": self.sensory[slots], "summary": self.summary[slots], "mask": self.last_mask[slots],
            })  # fmt: skip
            readout.append(found[0])
            coarse.append(found[1])
            start = slots.stop
        whole = (self.frame + 1) % self.full_frame_every == 0
        windows = [None] if whole else choose_windows(self.last_mask, _joined(coarse))
        logits, sensory = self._decode(features, _joined(readout), windows)
        (probs,) = self.model.run("combine", {"logits": logits})
        due = self.frame + 1 - self.memory_frame in self._sensory_frames()
        return probs, tuple(self.object_ids), sensory if due else None

    def _decode(
        self, features: Features, readout: np.ndarray, windows: Sequence[Window | None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return logits and sensory memory of all objects, each decoded in its window."""
        skip8, skip4, before = features.graph["skip8"], features.graph["skip4"], self.sensory
        assert before is not None, "objects are in memory"
        if not any(windows):
            feed = {"skip8": skip8, "skip4": skip4, "readout": readout, "sensory": before}
            logits, sensory = self.model.run("decode", feed)
            return logits, sensory
        height, width = readout.shape[-2:]
        logits, sensory = np.full((len(readout), 4 * height, 4 * width), ABSENT, np.float32), before.copy()
        for slot, each in enumerate(windows):
            window, own = each or Window(0, height, 0, width), slice(slot, slot + 1)
            feed = {"skip8": window.crop(skip8, 2), "skip4": window.crop(skip4, 4),
                    "readout": window.crop(readout[own]), "sensory": window.crop(before[own])}  # fmt: skip
            decoded, seen = self.model.run("decode", {name: np.ascontiguousarray(x) for name, x in feed.items()})
            window.crop(logits[own], 4)[:] = decoded
            window.crop(sensory[own])[:] = seen
        return logits, sensory

    def _accept(
        self, predicted: np.ndarray | None, known: tuple[int, ...], given: InputMask
    ) -> tuple[np.ndarray, tuple[int, ...]]:
        """Merge an input mask into predicted probabilities; return probabilities and ids."""
        ids = known + tuple(i for i in given.ids if i not in known)
        masks = np.zeros((len(ids), *given.masks.shape[1:]), np.float32)
        if predicted is not None:
            masks[: len(known)] = predicted[1:] * ~given.erased
        for mask, i in zip(given.masks, given.ids):
            masks[ids.index(i)] = mask
        return soft_aggregate(masks), ids

    def _commit(
        self,
        features: Features,
        probs: np.ndarray,
        ids: tuple[int, ...],
        sensory: np.ndarray | None,
        given: bool,
        permanent: bool,
        last: bool,
    ) -> None:
        """Update the state by a frame's probabilities."""
        due = (self.frame + 1 - self.memory_frame >= self.mem_every or given) and not last
        if sensory is None or last:
            sensory = self.sensory
        memorised = self._memorise(features, probs[1:], len(ids), sensory) if due or permanent else None
        self.frame += 1
        self.object_ids, self.last_mask, self.sensory = list(ids), np.ascontiguousarray(probs[1:]), sensory
        if memorised is not None:
            self._write(features, *memorised, permanent)
            self.memory_frame = self.frame

    def _memorise(
        self, features: Features, masks: np.ndarray, count: int, sensory: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return values, sensory memory and summaries of a frame with masks."""
        masks, grid = np.ascontiguousarray(masks), features.graph["pixel"].shape[2:]
        before = np.zeros((count, *features.graph["pixel"].shape[1:]), np.float32)
        if sensory is not None:
            before[: len(sensory)] = sensory
        several = count > 1 and self.full_frame_every != 1  # one object gains nothing from a window
        windows = mask_windows(masks) if several else [None] * count
        value, sensory, summary = self.model.run("memorise", {
            "pixel": features.graph["pixel"], "features": self._embed(features, masks, windows),
            "mask": masks, "sensory": before, "inside": insides(windows, (grid[0], grid[1])),
        })  # fmt: skip
        return value, sensory, summary

    def _embed(self, features: Features, masks: np.ndarray, windows: Sequence[Window | None]) -> np.ndarray:
        """Return features of masks, each encoded in its window, and what surrounds the windows once."""
        image, total = padded(features.image, self.about.padding), masks.sum(axis=0)
        channels = [masks, np.clip(total - masks, 0, 1)][: int(self.about.shape("embed", "masks")[1])]
        inputs = np.stack(channels, axis=1)
        if not any(windows):
            return self.model.run("embed", {"image": image, "masks": inputs})[0]
        shared = np.zeros_like(inputs[:1])
        shared[:, 1:] = total
        found = np.repeat(self.model.run("embed", {"image": image, "masks": shared})[0], len(masks), axis=0)
        for slot, window in enumerate(windows):
            own = inputs[slot : slot + 1]
            if window is None:
                found[slot] = self.model.run("embed", {"image": image, "masks": own})[0][0]
                continue
            feed = {"image": window.crop(image, STRIDE), "masks": window.crop(own, STRIDE)}
            (part,) = self.model.run("embed", {name: np.ascontiguousarray(x) for name, x in feed.items()})
            window.crop(found[slot])[:] = part[0]
        return found

    def _write(
        self, features: Features, value: np.ndarray, sensory: np.ndarray, summary: np.ndarray, permanent: bool
    ) -> None:
        known, new = len(self.memorised), self.object_ids[len(self.memorised) :]
        if self.summary is not None:
            summary[:known] += self.summary
        self.summary, self.sensory, self.memorised = summary, sensory, list(self.object_ids)
        if new:
            self.banks.append(Bank(new, self.model))
        start = 0
        for bank in self.banks:
            own = value[start : start + len(bank.ids)]
            bank.write(features.graph["keys"], own, permanent, self.max_mem_frames - 1)
            start += len(bank.ids)

    # ----------------------------------------------------------------------------------------------------- objects
    def labels(self, probs: np.ndarray, objects: Sequence[int] | None = None) -> np.ndarray:
        """Return the label map (H, W) of probabilities, int64, with object ids as values.

        Args:
            probs: Probabilities, background first. For an array that `step` returned, the ids are known, even if
                objects were added or removed since.
            objects: Ids of the channels after the first, for other arrays. By default those of `object_ids`.

        Raises:
            ValueError: If the number of channels is not that of the ids.
        """
        if objects is None:
            kept, ids = self._returned.get(id(probs), (None, ()))
            objects = ids if kept is not None and kept() is probs else self.object_ids
        if probs.shape[0] != len(objects) + 1:
            raise ValueError(f"labels: got {probs.shape[0]} channels, expected background + {len(objects)} objects")
        return np.array([0, *objects], dtype=np.int64)[strongest(probs)]

    def _note(self, probs: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        """Record the ids of an array that is returned."""
        key = id(probs)
        self._returned[key] = (weakref.ref(probs, lambda _: self._returned.pop(key, None)), tuple(ids))
        return probs

    def remove(self, ids: Any) -> None:
        """Remove objects and their memory.

        Raises:
            ValueError: If an id is not tracked.
        """
        gone = set(object_ids(ids))
        unknown = sorted(gone - set(self.object_ids))
        if unknown:
            raise ValueError(f"remove: got ids {unknown}, expected some of {self.object_ids}")
        stay = [slot for slot, i in enumerate(self.object_ids) if i not in gone]
        remembered = [slot for slot, i in enumerate(self.memorised) if i not in gone]
        self.object_ids = [i for i in self.object_ids if i not in gone]
        self.memorised = [i for i in self.memorised if i not in gone]
        self.last_mask = self.last_mask[stay] if self.last_mask is not None and stay else None
        self.sensory = self.sensory[remembered] if self.sensory is not None and remembered else None
        self.summary = self.summary[remembered] if self.summary is not None and remembered else None
        self.banks = [bank for bank in self.banks if set(bank.ids) - gone]
        for bank in self.banks:
            bank.keep(self.memorised)

    # ------------------------------------------------------------------------------------------------------- state
    @property
    def frame_size(self) -> tuple[int, int] | None:
        """Height and width of the video's frames; None before the first."""
        return self.geometry.size if self.geometry else None

    def memory_report(self) -> dict[str, int]:
        """Return the bytes held between two frames, by kind, as `cutie_geo.Tracker.memory_report` does."""
        tables = [table for bank in self.banks for table in (bank.keys, bank.value, bank.filled)]
        state = [x for x in (self.sensory, self.summary) if x is not None]
        return {
            "working": sum(table.nbytes for table in tables),
            "long_term": 0,
            "sensory": sum(x.nbytes for x in state),
            "features": 0 if self.last_mask is None else self.last_mask.nbytes,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the state for an exact continuation: arrays, numbers, lists and dictionaries, all copied."""

        def copied(x: np.ndarray | None) -> np.ndarray | None:
            return None if x is None else x.copy()

        return {
            "config": {name: getattr(self, name) for name in OPTIONS},
            "frame": self.frame,
            "memory_frame": self.memory_frame,
            "objects": list(self.object_ids),
            "size": list(self.geometry.size) if self.geometry else None,
            "last_mask": copied(self.last_mask),
            "memory": {
                "ids": list(self.memorised),
                "sensory": copied(self.sensory),
                "summary": copied(self.summary),
                "banks": [
                    {"ids": list(bank.ids), "counts": [bank.permanent, bank.recent], "keys": bank.keys.copy(),
                     "value": bank.value.copy(), "filled": bank.filled.copy()}
                    for bank in self.banks
                ],
            },
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned, with its options.

        Raises:
            ValueError: For an invalid state or one of another export; the tracker is unchanged.
        """
        try:
            options: dict[str, Any] = {name: int(state["config"][name]) for name in OPTIONS}
            other = OnnxTracker(self.model, **options)
            other.frame, other.memory_frame = int(state["frame"]), int(state["memory_frame"])
            other.object_ids = object_ids(state["objects"])
            if state["size"]:
                height, width = map(int, state["size"])
                other.geometry = other._geometry_of((height, width))
            memory = state["memory"]
            other.memorised = object_ids(memory["ids"])
            count, known = len(other.object_ids), len(other.memorised)
            other.last_mask = _array(state["last_mask"], (count, *self.about.padded) if count else None)
            other.sensory = _array(memory["sensory"], self._state_shape("sensory", known))
            other.summary = _array(memory["summary"], self._state_shape("summary", known))
            for saved in memory["banks"]:
                bank = Bank(object_ids(saved["ids"]), self.model, *map(int, saved["counts"]))
                for name in ("keys", "value", "filled"):
                    setattr(bank, name, _array(saved[name], getattr(bank, name).shape))
                other.banks.append(bank)
            if [i for bank in other.banks for i in bank.ids] != other.memorised:
                raise ValueError("the banks' ids differ from those in memory")
            if other.memorised != other.object_ids[:known]:
                raise ValueError("memory of other objects")
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise ValueError(f"tracker state: damaged or of another export ({error})") from None
        self.__dict__.update({name: value for name, value in other.__dict__.items() if name != "_returned"})

    # ----------------------------------------------------------------------------------------------------- details
    def _state_shape(self, name: str, count: int) -> tuple[int, ...] | None:
        return (count, *(int(n) for n in self.about.shape("read", name)[1:])) if count else None

    def _sensory_frames(self) -> set[int]:
        """Return the offsets from a memory frame at which sensory memory is updated."""
        if self.stagger_updates >= self.mem_every:
            return set(range(1, self.mem_every + 1))
        return set(np.round(np.linspace(1, self.mem_every, self.stagger_updates)).astype(int).tolist())

    def _geometry_of(self, size: tuple[int, int]) -> Geometry:
        """Return the geometry of frames. Raises ValueError for a size that the graphs do not take."""
        about = self.about
        if self.geometry is not None:
            if size != self.geometry.size:
                raise ValueError(f"image: the size changed within a video; got (H, W) = {size}, expected "
                                 f"{self.geometry.size}. Call reset() before another video")  # fmt: skip
            return self.geometry
        self.require_size(size)
        return Geometry(size, about.size, about.padding, about.antialias)

    def require_size(self, size: tuple[int, int]) -> None:
        """Raise ValueError for frames (H, W) of another aspect ratio than the graphs' size."""
        about, shorter = self.about, min(self.about.size)
        resized = internal_size(size, shorter, shorter)
        if max(abs(a - b) for a, b in zip(resized, about.size)) > 1:
            fitting = "x".join(map(str, resized))
            raise ValueError(
                f"image: got (H, W) = {size}, expected {about.size}, or that aspect ratio. For these "
                f"frames: cutie-geo export onnx --model {about.model} --size {fitting} --output DIR"
            )

    def _is_complete(self, given: InputMask) -> bool:
        """Return True if no prediction is needed: there are no objects, or the mask has exactly these."""
        return not self.object_ids or set(given.ids) == set(self.object_ids)

    def _require_capacity(self, given: InputMask | None, permanent: bool) -> None:
        """Raise ValueError if the objects of a mask, or a permanent frame, do not fit into memory."""
        ids = set(self.object_ids) | set(given.ids if given else ())
        if len(ids) > self.about.max_objects:
            raise ValueError(
                f"mask: got {len(ids)} objects in all, expected at most {self.about.max_objects}, the capacity of "
                "memory; cutie-geo export onnx --max-objects changes it"
            )
        full = max((bank.permanent for bank in self.banks), default=0) >= self.about.permanent_frames
        if permanent and full:
            raise ValueError(
                f"permanent: memory holds {self.about.permanent_frames} permanent frames of an object already, its "
                "capacity; cutie-geo export onnx --permanent-frames changes it"
            )


def strongest(probs: np.ndarray) -> np.ndarray:
    """Return the argmax over the first axis, the first of equal values.

    `numpy.argmax` is many times slower over channels that lie far apart in memory.
    """
    best, index = probs[0].copy(), np.zeros(probs.shape[1:], np.intp)
    for channel, values in enumerate(probs[1:], start=1):
        better = values > best
        np.copyto(best, values, where=better)
        index[better] = channel
    return index


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate along the object axis, without a copy if there is one part."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _array(value: Any, shape: tuple[int, ...] | None) -> np.ndarray | None:
    """Return a copy of a saved array. Raises ValueError if its shape differs."""
    if (value is None) != (shape is None) or (value is not None and np.shape(value) != shape):
        raise ValueError(f"got an array of {None if value is None else np.shape(value)}, expected {shape}")
    return None if value is None else np.array(value)
