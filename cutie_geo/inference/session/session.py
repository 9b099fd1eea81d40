"""Session of an annotator: prompts on any frame, propagation, corrections, approval, undo."""

import operator
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Int32, UInt8

from cutie_geo.config import require
from cutie_geo.data.masks import resize_labels
from cutie_geo.data.prompts import require_inside
from cutie_geo.data.random_access import RandomAccess
from cutie_geo.data.session_file import Info, Key, pack_labels, pack_mask, unpack_mask
from cutie_geo.data.video import resize_shorter, to_tensor
from cutie_geo.inference.factory import method_for, reading_size, resolve_options
from cutie_geo.inference.families import VideoModel
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.prompting import FramePrompter, SharesFeatures
from cutie_geo.inference.segment import Segmented, segment_frame
from cutie_geo.inference.segmenter import Method
from cutie_geo.inference.session.plan import (
    DIRECTIONS,
    Direction,
    Marks,
    Pass,
    Request,
    neighbours,
    next_pass,
)
from cutie_geo.inference.session.status import Frames, SessionStatus
from cutie_geo.inference.session.store import SessionStore
from cutie_geo.inference.session.values import CHECKS, Mask, Numbers, as_mask, as_object_id, as_prompt, prompt_in
from cutie_geo.inference.tracker import Tracker
from cutie_geo.structures import Frame, GivenMask, ObjectId, Prompt

FEATURE_BYTES, PROMPT_BYTES = 256 * 2**20, 64 * 2**20
"""Sizes of the caches of frames encoded for the tracker and for prompts; at least `FEWEST_FEATURES` are kept."""
FEWEST_FEATURES = 2
AGREEMENT = 0.5
"""Masks from before a correction agree with new ones where they differ by at most this fraction of the difference on
the corrected frame. Differences are 1 - IoU."""
MOST_DIFFERENCE = 0.2
"""Largest difference of masks that agree, however large the correction was."""
AGREEING_FRAMES = 2
"""Number of consecutive frames that agree after which the masks from before a correction are kept."""
LONGEST_NAME = 200
"""Maximum number of characters of an object's name."""

Labels = Int32[np.ndarray, "H W"]


class VideoSession:
    """Objects of one video, prompted, propagated and corrected by a person; see `cutie_geo.Session`.

    Methods may be called from several threads. A generator of `propagate` ends when another method changes the session,
    or when another propagation begins.

    Args:
        video: Frames of the video.
        store: File of the session.
        options: Options of the tracker.
        load_model: Loads the network when a propagation needs it.
        load_prompter: Loads the predictor of masks from clicks and boxes when a prompt needs it.
    """

    def __init__(
        self,
        video: RandomAccess,
        store: SessionStore,
        options: RunOptions,
        load_model: Callable[[], VideoModel],
        load_prompter: Callable[[], FramePrompter],
    ) -> None:
        self._video, self._store, self._options = video, store, options
        self._load_model, self._load_prompter = load_model, load_prompter
        self._lock = threading.RLock()
        self._model: VideoModel | None = None
        self._prompter: FramePrompter | None = None
        self._features = _Cache(FEATURE_BYTES)
        self._encoded = _Cache(PROMPT_BYTES)
        self._encoding = threading.RLock()
        """Guards the networks and both caches; it is taken after `_lock`, or without it."""
        self._edits = 0
        """Number of changes by the user in this process."""
        self._running: _Run | None = None
        self._require_cells()
        self._collect()

    # ------------------------------------------------------------------------------------------------- the video
    def __len__(self) -> int:
        return len(self._video)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return self._video.size

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the frames."""
        return self._video.names

    def frame(self, index: SupportsIndex) -> UInt8[np.ndarray, "H W 3"]:
        """Return a frame as RGB, an array that must not be changed. Raises ValueError if there is none."""
        return self._video.frame(self._index(index))

    # ------------------------------------------------------------------------------------------------------- state
    @property
    def objects(self) -> dict[ObjectId, str]:
        """Names of the objects by id, in the order of creation."""
        with self._lock:
            return {i: self._store.infos[Key("object", object=i)]["name"] for i in self._ids}

    def prompts(self, frame: SupportsIndex) -> dict[ObjectId, Prompt]:
        """Return the clicks and boxes on a frame by object; a mask of the user without any has an empty prompt."""
        frame = self._index(frame)
        with self._lock:
            return {i: prompt_in(self._store.infos[Key("anchor", frame, i)]) for i in self._prompted_at(frame)}

    def labels(self, index: SupportsIndex) -> Labels:
        """Return the (H, W) label map of a frame: object ids, 0 for the background.

        A mask of the user covers propagated ones, and the last mask of the user covers the others. Objects without a
        mask on the frame are absent.
        """
        index = self._index(index)
        with self._lock:
            return self._store.labels(index, self.size, self._ids)

    def mask(self, frame: SupportsIndex, object: SupportsIndex) -> Mask:
        """Return the (H, W) mask of an object on a frame, as `labels` shows it."""
        return self.labels(frame) == self._known(object)

    def status(self) -> SessionStatus:
        """Return which frames are prompted, locked, propagated and stale, and the presence of each object."""
        with self._lock:
            infos, ids = self._store.infos, self._ids
            layers = {i: self._layers[i] for i in ids}
            marks = self._marks()
            everything = Request(0, len(self), "both")
            free = {i: {f for f in layers[i] if f not in marks.locked and f not in self._anchors[i]} for i in ids}
            stale = {f for i in ids for f in free[i] if infos[Key("layer", f, i)]["stale"]}
            needed = {i: marks.needed(i, everything) if marks.anchors[i] else [] for i in ids}
            missing = {f for i in ids for f in needed[i] if f not in free[i]}
            return SessionStatus(
                len(self),
                self.objects,
                {i: Frames(sorted(self._prompted[i])) for i in ids},
                Frames(sorted(marks.locked)),
                Frames(sorted({f for i in ids for f in free[i]})),
                Frames(sorted(stale)),
                Frames(sorted(missing)),
                {i: self._presence(i) for i in ids},
            )

    def history(self) -> list[dict[str, Any]]:
        """Return the actions that are not undone, oldest first; `do` is the name of the method."""
        return [step.action for step in self._store.steps()]

    def repeat(self, other: "VideoSession") -> None:
        """Do all actions of another session of the same video that are not undone.

        Prompts are predicted and masks are propagated again, with the models of this session.

        Raises:
            ValueError: If an action is damaged, or refused because a prompt gives another mask here.
        """
        for step in other._store.steps():
            where = f"{other._store.path}: action {step.number}"
            try:
                _do(self, step.action, step.mask, where)
            except (KeyError, TypeError) as error:
                raise ValueError(f"{where}: damaged: {type(error).__name__}: {error}") from None

    def prepare(self, frame: SupportsIndex) -> None:
        """Encode a frame, so that the next prompt on it takes less time.

        Another thread may call this while a method that does not need the network is running: neither waits.

        Raises:
            ValueError: For an unknown frame.
        """
        frame = self._index(frame)
        with self._encoding, torch.inference_mode():
            self._encoded_frame(frame)

    # ---------------------------------------------------------------------------------------------------- the user
    def prompt(
        self,
        frame: SupportsIndex,
        object: SupportsIndex,
        points: Numbers = (),
        labels: Numbers | None = None,
        box: Numbers | None = None,
    ) -> Mask:
        """Add clicks or a box to the prompts of an object on a frame, and return its new mask there.

        On a frame with a mask of the object, the prompt corrects it. The frame becomes permanent memory, and masks of
        this object on frames that depend on it become stale.

        Args:
            frame: Index of the frame.
            object: Id of a known or a new object.
            points: (x, y) of clicks, in pixels of the frame.
            labels: 1 for clicks on the object, 0 for others; by default all are 1.
            box: (x0, y0, x1, y1) around the object, instead of an earlier one.

        Returns:
            (H, W) mask.

        Raises:
            ValueError: For a locked or unknown frame, for clicks outside of it, and if the predicted mask is empty.
        """
        with self._lock:
            frame, object = self._open(frame), as_object_id(object)
            key = Key("anchor", frame, object)
            before = prompt_in(self._store.infos[key]) if key in self._store.infos else Prompt()
            added = as_prompt(points, labels, box, f"frame {frame}, object {object}")
            prompt = Prompt((*before.points, *added.points), added.box or before.box)
            require_inside({self.names[frame]: {object: prompt}}, self.size, "prompt")
            old = self.labels(frame) == object if object in self._ids else None
            positive = prompt.box is not None or any(label for _, _, label in prompt.points)
            known = old is not None and bool(old.any())
            require(
                positive or known,
                f"frame {frame}, object {object}: got negative points only, expected a positive point or a box",
            )
            from_prompts = not known or bool(self._store.infos.get(key, {}).get("from_prompts"))
            mask = self._predicted(frame, prompt, old if known else None, from_prompts)
            require(
                bool(mask.any()) or (not any(label for *_, label in added.points) and added.box is None),
                f"frame {frame}, object {object}: the mask predicted for the prompt is empty; move the click, or use "
                "set_mask",
            )
            info = {"points": [list(point) for point in prompt.points], "box": prompt.box and list(prompt.box),
                    "from_prompts": from_prompts}  # fmt: skip
            action = {"do": "prompt", "frame": frame, "object": object, "points": [list(p) for p in added.points],
                      "box": added.box and list(added.box)}  # fmt: skip
            self._anchor(frame, object, info, mask, action)
            return mask

    def set_mask(self, frame: SupportsIndex, object: SupportsIndex, mask: Any) -> None:
        """Set the mask of an object on a frame, instead of its prompts there.

        Args:
            frame: Index of the frame.
            object: Id of a known or a new object.
            mask: (H, W) bool or 0 and 1, an array or tensor. An empty mask means that the object is not visible.

        Raises:
            ValueError: For a locked or unknown frame, and for masks of another shape or with other values.
        """
        with self._lock:
            frame, object = self._open(frame), as_object_id(object)
            plain = as_mask(mask, self.size, f"frame {frame}, object {object}: mask")
            action = {"do": "set_mask", "frame": frame, "object": object}
            self._anchor(frame, object, {"points": [], "box": None}, plain, action, pack_mask(plain))

    def clear(self, frame: SupportsIndex, object: SupportsIndex) -> None:
        """Remove the prompts and the mask that the user gave for an object on a frame.

        Masks that depend on it become stale. Without any other prompt of the object, its propagated masks are removed.

        Raises:
            ValueError: If there are none, or if the frame is locked.
        """
        with self._lock:
            frame, object = self._open(frame), self._known(object)
            key = Key("anchor", frame, object)
            require(key in self._store.infos, f"frame {frame}: object {object} has no prompt there")
            with self._edit({"do": "clear", "frame": frame, "object": object}):
                mask = self._store.mask(key)
                self._store.delete(key)
                self._prompted[object].discard(frame)
                if self._anchors_of(object):
                    info = {"stale": True, "sides": "both", "presence": None, "over": [], "pass": 0}
                    self._store.put(Key("layer", frame, object), info, mask)
                    self._invalidate(object, frame)
                else:
                    for place in sorted(self._layers[object]):
                        self._store.delete(Key("layer", place, object))

    def remove(self, object: SupportsIndex) -> None:
        """Remove an object from all frames, locked ones too. Masks of other objects do not change."""
        with self._lock:
            object = self._known(object)
            with self._edit({"do": "remove", "object": object}):
                for key in [key for key in self._store.infos if key.object == object]:
                    self._store.delete(key)
                for key in [key for key in self._store.infos if key.kind == "lock"]:
                    info = self._store.infos[key]
                    labels = self.labels(key.frame)
                    kept = {name: [i for i in info[name] if i != object] for name in ("objects", "held")}
                    self._store.put(key, {**info, **kept}, pack_labels(np.where(labels == object, 0, labels)))

    def rename(self, object: SupportsIndex, name: str) -> None:
        """Name an object. Raises ValueError for empty names and unprintable characters."""
        with self._lock:
            object = self._known(object)
            good = isinstance(name, str) and name.strip() and len(name) <= LONGEST_NAME and name.isprintable()
            require(bool(good), f"object {object}: got {name!r:.60}, expected a name")
            key = Key("object", object=object)
            with self._edit({"do": "rename", "object": object, "name": name}):
                self._store.put(key, {**self._store.infos[key], "name": name.strip()}, None)

    def lock(self, index: SupportsIndex) -> None:
        """Approve the label map of a frame: no propagation changes it, and it is permanent memory for others.

        Raises:
            ValueError: If the frame has no mask yet.
        """
        with self._lock:
            index = self._index(index)
            key = Key("lock", index)
            if key in self._store.infos:
                return
            shown = [i for i in self._ids if index in self._prompted[i] or index in self._layers[i]]
            require(bool(shown), f"frame {index}: no object has a mask there; prompt or propagate before locking it")
            labels = self.labels(index)
            with self._edit({"do": "lock", "frame": index}):
                self._store.put(key, {"objects": shown, "held": []}, pack_labels(labels))

    def unlock(self, index: SupportsIndex) -> None:
        """Withdraw the approval of a frame. Masks that waited for corrections behind it become stale."""
        with self._lock:
            index = self._index(index)
            key = Key("lock", index)
            if key not in self._store.infos:
                return
            with self._edit({"do": "unlock", "frame": index}):
                held = self._store.infos[key]["held"]
                self._store.delete(key)
                self._collect()
                for object_id in held:
                    if index not in self._prompted[object_id]:
                        self._mark_stale(object_id, [index])
                        self._invalidate(object_id, index)

    def undo(self) -> dict[str, Any] | None:
        """Undo the last action, a propagation too, and return it; None if there is nothing to undo.

        All label maps are as before, byte for byte. Up to 500 actions can be undone.
        """
        with self._lock:
            action = self._store.undo()
            self._touch()
            return action

    def redo(self) -> dict[str, Any] | None:
        """Redo the last undone action and return it; None if there is none."""
        with self._lock:
            action = self._store.redo()
            self._touch()
            return action

    # ------------------------------------------------------------------------------------------------- propagation
    def propagate(
        self, start: SupportsIndex | None = None, stop: SupportsIndex | None = None, direction: Direction = "both"
    ) -> Generator[tuple[int, Labels], None, None]:
        """Compute masks that are missing or stale, and yield the index and the label map of each computed frame.

        Frames with valid masks, prompted and locked frames stay as they are. Closing the generator stops; the same call
        then resumes where it stopped, with the results of an uninterrupted one, even if the process was killed.

        Args:
            start: First frame to compute; None for the first of the video.
            stop: Frame after the last one to compute; None for all.
            direction: `forward` from prompted frames, `backward`, or `both`, which uses prompted frames on both sides:
                between two of them, each frame is computed from the nearer one.

        Raises:
            ValueError: For an unknown direction, frames outside the video, and a session without prompts.
        """
        require(direction in DIRECTIONS, f"direction: got {direction!r:.20}, expected {', '.join(DIRECTIONS)}")
        first = 0 if start is None else self._index(start)
        end = len(self) if stop is None else operator.index(stop)
        require(0 <= end <= len(self), f"stop: got {end}, expected 0 to {len(self)}")
        with self._lock:
            marks = self._marks()
            require(any(marks.anchors.values()), "propagate: no object is prompted, expected prompt or set_mask before")
        return self._propagate(Request(first, end, direction))

    def _propagate(self, request: Request) -> Generator[tuple[int, Labels], None, None]:
        step: int | None = None
        with self._lock:
            self._edits += 1  # another propagation that is under way ends
            edits = self._edits
        while True:
            with self._lock:
                if self._edits != edits:
                    return
                run = self._run_for(request)
                if run is None:
                    return
                action = {"do": "propagate", "start": request.start, "stop": request.stop,
                          "direction": request.direction}  # fmt: skip
            while True:
                with self._lock:
                    if self._edits != edits:
                        return
                    self._running = None  # after an error, a new tracker is built
                    result = self._advance(run)
                    self._running = run
                    if result is None:
                        break
                    frame, masks, kept = result
                    if masks:
                        store = self._store
                        with store.step(action, keep_pending=True) if step is None else store.more_of(step) as new:
                            step = step if new is None else new
                            for object_id, (info, mask) in masks.items():
                                self._store.put(Key("layer", frame, object_id), info, mask)
                                self._layers[object_id].add(frame)
                            for key in kept:
                                self._store.put_info(key, {**self._store.infos[key], "stale": False})
                        labels = self.labels(frame)
                if masks:
                    yield frame, labels
            with self._lock:
                if self._edits == edits:
                    self._running = None
                    with self._store.notes():
                        self._store.set_meta(pending=None)

    def _run_for(self, request: Request) -> "_Run | None":
        """Return the run that was interrupted, or the next one that is needed; None if nothing is left."""
        content = self._store.meta.get("pending")
        plan = None if content is None else Pass.from_json(content, f"{self._store.path}: pending")
        if plan is not None:
            frames = {plan.source, plan.last, *plan.given, *(frame for frame, _ in plan.permanent)}
            good = set(plan.frames) <= set(self._ids) and all(0 <= frame < len(self) for frame in frames)
            require(good, f"{self._store.path}: pending: damaged; got frames or objects that are not there")
        if plan is None or plan.request != request:
            self._running = None
            number = int(self._store.meta.get("passes", 0)) + 1
            plan = next_pass(self._marks(), request, number)
            if plan is None:
                return None
            with self._store.notes():
                self._store.set_meta(pending=plan.to_json(), passes=number)
        if self._running is None or self._running.plan.number != plan.number:
            self._running = _Run(plan, self._new_method(), list(plan.order()))
            self._begin(self._running)
        return self._running

    def _begin(self, run: "_Run") -> None:
        """Fill the permanent memory of a new tracker."""
        for index, ids in run.plan.permanent:
            frame, features = self._prepared(index, ids, run.method)
            assert isinstance(frame.given, GivenMask)
            with self._precision():
                run.method.step(frame.image, frame.given.labels, frame.given.ids, permanent=True, features=features)
        if isinstance(run.method, Tracker):  # the source does not follow these frames
            run.method.forget_sensory()

    def _advance(self, run: "_Run") -> "tuple[int, dict[ObjectId, tuple[Info, bytes]], list[Key]] | None":
        """Segment the next frame of a run; return it with the masks to be written and the stale masks to be kept.

        None at the end.
        """
        if not run.left or run.settled >= set(run.plan.frames):
            return None
        index, plan = run.left.pop(0), run.plan
        given = [i for i in self._ids if self._is_anchored(i, index) or i in plan.given.get(index, ())]
        frame, features = self._prepared(index, given, run.method)
        first = index == plan.source
        approved = first and any(self._is_anchored(i, index) for i in plan.frames)
        with self._precision():
            # no memory is wrong on the first frame; on later ones, masks of the user correct what was tracked
            result = segment_frame(run.method, frame, features, corrections=not first, permanent=approved)
        found = self._masks_of(result, run, index)
        return index, found, self._settle(run, index)

    def _masks_of(self, result: Segmented, run: "_Run", index: int) -> "dict[ObjectId, tuple[Info, bytes]]":
        found: dict[ObjectId, tuple[Info, bytes]] = {}
        plan, labels = run.plan, result.labels.cpu().numpy()
        presence: Mapping[ObjectId, float] | None = None
        for object_id, frames in plan.frames.items():
            key = Key("layer", index, object_id)
            if index not in frames or object_id in run.settled:
                continue
            if self._store.infos.get(key, {}).get("pass") == plan.number:  # written before the run was interrupted
                run.agreeing[object_id] = self._store.infos[key].get("agreeing") or 0
                continue
            presence = result.presence if presence is None else presence
            before, behind = neighbours(self._anchors_of(object_id), index)
            origin = behind if plan.backward else before
            anchor = self._store.infos.get(Key("anchor", -1 if origin is None else origin, object_id), {})
            mask = labels == object_id
            agrees = origin is not None and self._agrees(run, key, origin, mask)
            run.agreeing[object_id] = run.agreeing.get(object_id, 0) + 1 if agrees else 0
            info = {
                "stale": False,
                "sides": plan.request.direction,
                "presence": round(presence.get(object_id, 0.0), 4),
                "over": anchor.get("over", []),
                "pass": plan.number,
                "origin": origin,
                "given": None if origin is None else run.given(self, origin, object_id),
                "agreeing": run.agreeing[object_id],
            }
            found[object_id] = info, pack_mask(mask)
        return found

    def _settle(self, run: "_Run", index: int) -> list[Key]:
        """Return the stale masks that are kept because new masks nearer to the correction agree with the old ones."""
        kept: list[Key] = []
        for object_id, count in run.agreeing.items():
            frames = run.plan.frames[object_id]
            if count < AGREEING_FRAMES or object_id in run.settled or index not in frames:
                continue
            rest = [Key("layer", frame, object_id) for frame in run.left if frame in frames]
            if all(self._is_from_given(run, key) for key in rest):
                run.settled.add(object_id)
                kept += [key for key in rest if self._store.infos[key]["stale"]]
        return kept

    def _is_from_given(self, run: "_Run", key: Key) -> bool:
        """Return True if the user's mask from which a propagated mask was computed is unchanged."""
        info = self._store.infos.get(key, {})
        origin = info.get("origin")
        if origin is None or not self._is_anchored(key.object, origin):
            return False
        return info["given"] == run.given(self, origin, key.object)

    def _agrees(self, run: "_Run", key: Key, origin: int, mask: Mask) -> bool:
        """Return True if a new mask, propagated from `origin`, agrees with one from the prompt on the other side.

        Empty masks do not, because a lost object may be found again.
        """
        if not mask.any() or not self._is_from_given(run, key):
            return False
        if (self._store.infos[key]["origin"] < key.frame) == (origin < key.frame):
            return False
        most = min(AGREEMENT * run.difference(self, origin, key.object), MOST_DIFFERENCE)
        return 1 - _iou(self._layer(key), mask) <= most

    def _layer(self, key: Key) -> Mask:
        """Return a propagated mask as it was computed."""
        where = f"{self._store.path}: frame {key.frame}, object {key.object}"
        return unpack_mask(self._store.mask(key) or b"", self.size, where)

    def _prepared(self, index: int, ids: Sequence[ObjectId], method: Method) -> tuple[Frame, Any]:
        """Return a frame with the masks of `ids` at the size that the network reads, and its features."""
        image = self._image(index)
        given = None
        if ids:
            labels = self.labels(index)
            labels = np.where(np.isin(labels, list(ids)), labels, 0)
            given = GivenMask(resize_labels(labels, (image.shape[1], image.shape[2])), tuple(ids))
        needed = given is not None or bool(method.object_ids)
        features = self._features_of(index, image, method) if needed else None
        return Frame(self.names[index], image, self.size, given), features

    def _image(self, index: int) -> torch.Tensor:
        """Return a frame at the size that the network reads."""
        size = reading_size([self._network()], self._options)
        return resize_shorter(to_tensor(self._video.frame(index)), size)

    def _features_of(self, index: int, image: torch.Tensor, method: Method) -> Any:
        """Return the features of a frame, encoded once while they stay in the cache."""
        with self._encoding:
            features = self._features.get(index)
            if features is None:
                with self._precision():
                    features = next(iter(method.encode_ahead([image])), None)
                self._features.put(index, features)
            return features

    # --------------------------------------------------------------------------------------------------- the models
    def _network(self) -> VideoModel:
        with self._encoding:
            if self._model is None:
                model = self._load_model()
                self._options = resolve_options([model], self._options)
                self._model = model
            return self._model

    def _precision(self) -> Any:
        return self._network().autocast() if self._model is not None else nullcontext()

    def _new_method(self) -> Method:
        return method_for([self._network()], self._options, len(self))

    def _predicted(self, frame: int, prompt: Prompt, old: Mask | None, from_prompts: bool) -> Mask:
        """Return the mask of a prompt, which corrects the mask `old`, if any, that may be from earlier points of it."""
        with self._encoding, torch.inference_mode():
            prompter, encoded = self._encoded_frame(frame)
            before = None if old is None else torch.from_numpy(old.astype(np.float32))
            found = prompter.predict(encoded, prompt, before, from_prompts)
        return found.logits.float().cpu().numpy() > 0

    def _encoded_frame(self, frame: int) -> tuple[FramePrompter, Any]:
        """Return the prompter and a frame as it encodes it, from the tracker's features if both have one encoder."""
        if self._prompter is None:
            self._prompter = self._load_prompter()
        prompter, encoded = self._prompter, self._encoded.get(frame)
        if encoded is None:
            image = to_tensor(self._video.frame(frame))
            if isinstance(prompter, SharesFeatures) and prompter.model is self._network():
                features = self._features_of(frame, self._image(frame), self._new_method())
                encoded = None if features is None else prompter.encode_shared(image, features)
            if encoded is None:
                encoded = prompter.encode(image)
            self._encoded.put(frame, encoded)
        return prompter, encoded

    # ---------------------------------------------------------------------------------------------------- the cells
    def _collect(self) -> None:
        """Read from the cells which frames are prompted, propagated and locked."""
        infos = self._store.infos
        self._ids = self._store.object_ids()
        self._prompted: dict[ObjectId, set[int]] = {i: set() for i in self._ids}
        self._layers: dict[ObjectId, set[int]] = {i: set() for i in self._ids}
        self._locked: dict[int, frozenset[ObjectId]] = {}
        for key, info in infos.items():
            if key.kind == "anchor":
                self._prompted[key.object].add(key.frame)
            elif key.kind == "layer":
                self._layers[key.object].add(key.frame)
            elif key.kind == "lock":
                self._locked[key.frame] = frozenset(info["objects"])
        self._anchors: dict[ObjectId, list[int]] = {i: self._anchors_of(i) for i in self._ids}

    def _anchors_of(self, object_id: ObjectId) -> list[int]:
        """Return the frames on which an object has a mask of the user: prompted and locked ones."""
        locked = {frame for frame, ids in self._locked.items() if object_id in ids}
        return sorted(self._prompted[object_id] | locked)

    def _is_anchored(self, object_id: ObjectId, frame: int) -> bool:
        return frame in self._prompted[object_id] or object_id in self._locked.get(frame, ())

    def _prompted_at(self, frame: int) -> list[ObjectId]:
        return [i for i in self._ids if frame in self._prompted[i]]

    def _marks(self) -> Marks:
        def is_valid(object_id: ObjectId, frame: int) -> bool:
            info = self._store.infos.get(Key("layer", frame, object_id))
            return info is not None and not info["stale"] and not self._is_anchored(object_id, frame)

        return Marks(self._anchors, frozenset(self._locked), is_valid)

    def _anchor(
        self, frame: int, object_id: ObjectId, info: Info, mask: Mask, action: Info, packed: bytes | None = None
    ) -> None:
        """Store a mask of the user, and mark what depends on it as stale."""
        labels = self.labels(frame)
        others = sorted(set(np.unique(labels[mask]).tolist()) - {0, object_id})
        key = Key("anchor", frame, object_id)
        before = self._store.infos.get(key, {}).get("over", [])
        info = {**info, "over": sorted({*before, *others})}
        with self._edit(action, packed):
            if object_id not in self._ids:
                number = max((self._store.infos[Key("object", object=i)]["order"] for i in self._ids), default=0) + 1
                name = {"name": f"object {object_id}", "order": number}
                self._store.put(Key("object", object=object_id), name, None)
            for other in self._prompted_at(frame):  # which now lie below
                below = Key("anchor", frame, other)
                if other != object_id and object_id in self._store.infos[below]["over"]:
                    kept = [i for i in self._store.infos[below]["over"] if i != object_id]
                    self._store.put_info(below, {**self._store.infos[below], "over": kept})
            self._store.put(key, info, pack_mask(mask))
            self._collect()
            self._invalidate(object_id, frame)

    def _invalidate(self, object_id: ObjectId, frame: int) -> None:
        """Mark the masks that depend on an object's mask on a frame as stale, up to its next masks of the user."""
        anchors = self._anchors_of(object_id)
        before, behind = neighbours(anchors, frame)
        low, high = (-1 if before is None else before), (len(self) if behind is None else behind)
        depends = []
        for place in self._layers[object_id]:
            if low < place < high and place != frame:
                sides = self._store.infos[Key("layer", place, object_id)]["sides"]
                if sides == "both" or sides == ("forward" if place > frame else "backward"):
                    depends.append(place)
        self._mark_stale(object_id, depends)
        for place in (before, behind):
            if place is not None and place in self._locked and place not in self._prompted[object_id]:
                key = Key("lock", place)
                held = sorted({*self._store.infos[key]["held"], object_id})
                if held != self._store.infos[key]["held"]:
                    self._store.put_info(key, {**self._store.infos[key], "held": held})

    def _mark_stale(self, object_id: ObjectId, frames: Iterable[int]) -> None:
        for frame in frames:
            key = Key("layer", frame, object_id)
            if key in self._store.infos and not self._store.infos[key]["stale"]:
                self._store.put_info(key, {**self._store.infos[key], "stale": True})

    def _presence(self, object_id: ObjectId) -> list[float | None]:
        found: list[float | None] = [None] * len(self)
        for frame in self._layers[object_id]:
            found[frame] = self._store.infos[Key("layer", frame, object_id)]["presence"]
        for frame in self._anchors_of(object_id):
            found[frame] = 1.0
        return found

    def _edit(self, action: Info, mask: bytes | None = None) -> "_Edit":
        """Return a context in which cells are changed as one action of the user."""
        return _Edit(self, action, mask)

    def _touch(self) -> None:
        """Note that the user changed the session, which ends a running or interrupted propagation."""
        self._edits += 1
        self._running = None
        self._collect()

    # ------------------------------------------------------------------------------------------------------- checks
    def _index(self, index: SupportsIndex) -> int:
        """Return a frame index as a plain number. Raises ValueError if the video has no such frame."""
        number = operator.index(index)
        require(0 <= number < len(self), f"frame: got {number}, expected 0 to {len(self) - 1}")
        return number

    def _open(self, index: SupportsIndex) -> int:
        index = self._index(index)
        require(index not in self._locked, f"frame {index} is locked; unlock({index}) before changing it")
        return index

    def _known(self, object_id: SupportsIndex) -> ObjectId:
        object_id = as_object_id(object_id)
        known = ", ".join(map(str, self._ids)) or "none yet"
        require(object_id in self._ids, f"object {object_id}: unknown; the session has {known}")
        return object_id

    def _require_cells(self) -> None:
        """Raise ValueError for cells of a damaged file."""
        known = {key.object for key in self._store.infos if key.kind == "object"}
        for key, info in self._store.infos.items():
            where = f"{self._store.path}: {key.kind} {key.frame} {key.object}"
            if key.kind != "object":
                require(0 <= key.frame < len(self), f"{where}: no such frame")
            if key.kind in ("anchor", "layer"):
                require(key.object in known, f"{where}: no such object")
            try:
                CHECKS[key.kind](info)
            except (KeyError, TypeError, ValueError, AssertionError):
                raise ValueError(f"{where}: damaged; got {str(info)[:80]}") from None


@dataclass
class _Run:
    """A pass that is running."""

    plan: Pass
    method: Method
    left: list[int]
    """Frames that are not segmented yet, in order."""
    agreeing: dict[ObjectId, int] = field(default_factory=dict)
    """Number of last consecutive frames whose new mask agrees with the stale one, by object."""
    settled: set[ObjectId] = field(default_factory=set)
    """Objects whose other stale masks are kept."""
    digests: dict[tuple[int, ObjectId], int] = field(default_factory=dict)
    differences: dict[tuple[int, ObjectId], float] = field(default_factory=dict)

    def given(self, session: VideoSession, frame: int, object_id: ObjectId) -> int:
        """Return a digest of the user's mask of an object on a frame."""
        place = frame, object_id
        if place not in self.digests:
            self.digests[place] = zlib.crc32(np.packbits(session.labels(frame) == object_id).tobytes())
        return self.digests[place]

    def difference(self, session: VideoSession, frame: int, object_id: ObjectId) -> float:
        """Return how much the user corrected a propagated mask, 1 - IoU; 0 if there was none."""
        place, key = (frame, object_id), Key("layer", frame, object_id)
        if place not in self.differences:
            known = session._is_from_given(self, key)
            now = session.labels(frame) == object_id
            self.differences[place] = 1 - _iou(session._layer(key), now) if known else 0.0
        return self.differences[place]


class _Edit:
    """Context of one action of the user."""

    def __init__(self, session: VideoSession, action: Info, mask: bytes | None) -> None:
        self.session = session
        self.step = session._store.step(action, mask)

    def __enter__(self) -> None:
        self.step.__enter__()

    def __exit__(self, *error: Any) -> None:
        try:
            self.step.__exit__(*error)
        finally:
            self.session._touch()


class _Cache:
    """Results for the frames used last."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: OrderedDict[int, tuple[Any, int]] = OrderedDict()

    def get(self, index: int) -> Any:
        """Return the result for a frame, or None."""
        if index not in self._kept:
            return None
        self._kept.move_to_end(index)
        return self._kept[index][0]

    def put(self, index: int, value: Any) -> None:
        """Keep a result, and drop those that were not used for long."""
        self._kept[index] = value, _bytes(value)
        self._kept.move_to_end(index)
        while len(self._kept) > FEWEST_FEATURES and sum(size for _, size in self._kept.values()) > self.limit:
            self._kept.popitem(last=False)


def _iou(one: Mask, other: Mask) -> float:
    """Return the IoU of two masks; 1 if both are empty."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def _bytes(value: Any) -> int:
    """Return the number of bytes of all tensors and arrays in nested tuples, lists, mappings and dataclasses."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return value.nbytes
    if is_dataclass(value) and not isinstance(value, type):
        return sum(_bytes(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, Mapping):
        return sum(_bytes(item) for item in value.values())
    if isinstance(value, (tuple, list)):
        return sum(_bytes(item) for item in value)
    return 0


def _do(session: VideoSession, action: Info, mask: bytes | None, where: str) -> None:
    """Do one recorded action."""
    match action["do"]:
        case "prompt":
            points = [(x, y) for x, y, _ in action["points"]]
            labels = [label for *_, label in action["points"]]
            session.prompt(action["frame"], action["object"], points, labels, action["box"])
        case "set_mask":
            require(mask is not None, f"{where}: the mask is missing")
            session.set_mask(action["frame"], action["object"], unpack_mask(mask or b"", session.size, where))
        case "clear":
            session.clear(action["frame"], action["object"])
        case "remove":
            session.remove(action["object"])
        case "rename":
            session.rename(action["object"], action["name"])
        case "lock":
            session.lock(action["frame"])
        case "unlock":
            session.unlock(action["frame"])
        case "propagate":
            for _ in session.propagate(action["start"], action["stop"], action["direction"]):
                pass
        case other:
            raise ValueError(f"{where}: unknown action {other!r:.40}")
