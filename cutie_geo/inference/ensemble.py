"""Many views of one video: every scale, straight and mirrored, side by side, and what they say together."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import interpolate

from cutie_geo.config import require
from cutie_geo.inference.given import Geometry, acceptable, image_size, mask_tensor, object_ids, read_mask
from cutie_geo.inference.room import require_room
from cutie_geo.inference.shares import Shares, allot, on_each
from cutie_geo.inference.tracker import Tracker, predict_together
from cutie_geo.model.network import CutieGeo
from cutie_geo.ops import Padding, bilinear, internal_size, nearest_labels
from cutie_geo.structures import FrameFeatures, ObjectId, Prediction, StateDict, as_labels

SMALLEST_SIDE = 32
"""Pixels that no scale may shrink a frame below: four memory tokens are the least that tell places apart."""
FEEDBACKS = ("own", "merged")
"""What each view's tracker commits: its own prediction, or that of all views together."""

T = TypeVar("T")
ViewFeatures = Sequence[FrameFeatures]
"""One frame's features, in every view."""


class View(NamedTuple):
    """One way to look at a frame: shrunk to a size, scaled, then mirrored from left to right."""

    scale: float = 1.0
    mirrored: bool = False
    shorter: int = -1
    """Frames whose shorter side is longer are shrunk to it before they are scaled; -1 for never."""

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width, in this view, of frames of `size`. Raises ValueError if it shrinks them too much."""
        height, width = (round(side * self.scale) for side in internal_size(size, self.shorter))
        require(
            self.scale >= 1 or min(height, width) >= SMALLEST_SIDE,
            f"scale {self.scale:g}: makes {height}x{width} of frames of {size[0]}x{size[1]}, "
            f"wanted at least {SMALLEST_SIDE} pixels a side",
        )
        return height, width

    def of(self, image: Float[Tensor, "C H W"]) -> Float[Tensor, "C H2 W2"]:
        """The frame in this view, bilinear; antialiased where it shrinks."""
        size = self.size((image.shape[-2], image.shape[-1]))
        if size != tuple(image.shape[-2:]):
            smaller = size[0] < image.shape[-2]
            image = interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=smaller)[0]
        return image.flip(-1) if self.mirrored else image

    def of_mask(self, mask: Shaped[Tensor, "*objects H W"]) -> Shaped[Tensor, "*objects H2 W2"]:
        """A label map in this view, by nearest pixel centres, or soft masks (N, H, W) in [0, 1], bilinear."""
        size = self.size((mask.shape[-2], mask.shape[-1]))
        if mask.ndim == 2:
            seen = nearest_labels(as_labels(mask), size)
        else:
            seen = bilinear(mask.float()[None], size)[0].clamp(0, 1)  # interpolating ones rounds above one
        return seen.flip(-1) if self.mirrored else seen

    def back(self, x: Float[Tensor, "C H W"], size: tuple[int, int]) -> Float[Tensor, "C H2 W2"]:
        """What was found in this view, at the frame's own `size`, bilinear."""
        return bilinear((x.flip(-1) if self.mirrored else x)[None], size)[0]


def views_of(
    scales: Sequence[float] = (1.0,), flip: bool = False, name: str = "scales", shorter: int = -1
) -> tuple[View, ...]:
    """Every scale in the order given, straight and, with `flip`, mirrored too; `shorter` is each view's.

    Raises ValueError, about `name`, for scales that are none or are there twice.
    """
    require(len(scales) > 0, f"{name}: got none, wanted at least one")
    for scale in scales:
        require(math.isfinite(scale) and scale > 0, f"{name}: got {scale:g}, wanted a positive number")
    twice = sorted({f"{scale:g}" for scale in scales if list(scales).count(scale) > 1})
    require(not twice, f"{name}: got {', '.join(twice)} more than once")
    ways = (False, True) if flip else (False,)
    return tuple(View(float(scale), mirrored, shorter) for scale in scales for mirrored in ways)


class ViewTracker(Tracker):
    """The tracker of one view, which it sees in the view's own size and direction.

    A mirrored view is the mirror of the padded frame: of an odd border its left gets the pixel more, not its right. So
    both lie on one grid, pixel by pixel, border included. Source: Cutie specification, sections 1.3 and 10.24.
    """

    def __init__(self, model: CutieGeo, view: View, **options: Any) -> None:
        self.view = view
        super().__init__(model, **options)

    def _geometry(self, size: tuple[int, int]) -> Geometry:
        geometry = super()._geometry(size)
        top, bottom, left, right = geometry.padding
        return geometry._replace(padding=Padding(top, bottom, right, left)) if self.view.mirrored else geometry

    def _own_size(self) -> int:
        """That of frames, made larger or smaller as the view is."""
        own = super()._own_size()
        return own if own == -1 else round(own * self.view.scale)

    def geometry_at(self, size: tuple[int, int]) -> Geometry:
        """How frames of `size`, brought into the view, become what the network sees."""
        return self._geometry(self.view.size(size))

    def seen_geometry(self) -> Geometry:
        """That of the video's frames, once their size is known."""
        assert self.geometry is not None, "the frame's size is known before anything is predicted"
        return self.geometry

    def straight_geometry(self) -> Geometry:
        """That of the straight view of the same scale."""
        return super()._geometry(self.seen_geometry().size)

    def pass_by(self) -> None:
        """A frame goes by on which there is nothing to segment."""
        self.frame += 1

    def straight(self, probs: Float[Tensor, "N1 H W"]) -> Float[Tensor, "N1 H W"]:
        """Probabilities at the padded size as the straight view of this scale has them; its own inverse."""
        return probs.flip(-1) if self.view.mirrored else probs

    def answer(self, prediction: Prediction, size: tuple[int, int]) -> Float[Tensor, "N1 H W"]:
        """A prediction's probabilities at the frame's `size`."""
        return self.view.back(self.restore(prediction), size)


class Ensemble:
    """Segments one video frame by frame in several views, each with a tracker of its own, and averages their
    probabilities. Used as a `Tracker` is.

    >>> import torch, cutie_geo
    >>> model = cutie_geo.load_model("cutie-small", weights="none", precision="fp32")
    >>> ensemble = cutie_geo.Ensemble(model, scales=(1.0, 1.2), flip=True, mem_every=2)
    >>> mask = torch.zeros(64, 96, dtype=torch.long)
    >>> mask[20:40, 30:60] = 7
    >>> ensemble.step(torch.rand(3, 64, 96), mask).shape, ensemble.object_ids, len(ensemble.views)
    (torch.Size([2, 64, 96]), [7], 4)

    scales: of the frames' height and width; with `flip` each scale is seen mirrored too. feedback: "own" lets each
    view's tracker go on from its own prediction, "merged" from that of all views; with flip alone, "merged" is Cutie's
    flip augmentation. views: the views themselves, instead of `scales` and `flip`. devices: views are spread over
    these, each of which holds the network; the first is where results are. workers: threads that share the views
    (default: one for each device). Other keywords are `Tracker`'s.

    Views of one size, such as a frame and its mirror, go through the encoder as one batch, and through all that comes
    behind the reading of memory as another, unless they are spread. Raises ValueError for what can't work.

    Source: the paper, section 4.1 ("we sum all probabilities"); Cutie specification, sections 5.4 and 10.24.
    """

    def __init__(
        self,
        model: CutieGeo,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        feedback: str = "own",
        views: Sequence[View] | None = None,
        devices: Sequence[str | torch.device] = (),
        workers: int | None = None,
        **options: Any,
    ) -> None:
        require(feedback in FEEDBACKS, f"feedback: got {feedback!r}, wanted {' or '.join(FEEDBACKS)}")
        require(workers is None or workers >= 1, f"workers: got {workers}, wanted 1 or more")
        views = views_of(scales, flip) if views is None else views
        require(len(views) > 0, "views: got none, wanted at least one")
        models = on_each(model, devices)
        self.model, self.feedback = models[0], feedback
        self._shares = Shares(_spread(views, max(len(models), workers or 1)), workers or len(models), self.model)
        own = {v: models[i % len(models)] for i, share in enumerate(self._shares.parts) for v in share}
        self.trackers = [ViewTracker(own[v], view, **options) for v, view in enumerate(views)]
        self.frame_size: tuple[int, int] | None = None

    @property
    def views(self) -> tuple[View, ...]:
        """In the order in which their probabilities are summed; depth is the first one's."""
        return tuple(tracker.view for tracker in self.trackers)

    # -------------------------------------------------------------------------------------------- the whole frame
    def step(
        self,
        image: Any,
        mask: Tensor | np.ndarray | None = None,
        objects: Iterable[Any] | None = None,
        permanent: bool = False,
        last: bool = False,
        features: ViewFeatures | None = None,
    ) -> Float[Tensor, "N1 H W"]:
        """The next frame's probabilities, the mean of all views, at its own size; arguments are `Tracker.step`'s.

        An object of which a smaller view has no pixel left is there in every view all the same. Raises ValueError, and
        changes nothing, for images or masks of another shape or size and for impossible ids.
        """
        with torch.inference_mode():
            size, predictions = self._step(image, mask, objects, permanent, last, features)
        # outside of it, so that the result is a tensor like any other
        if not predictions:
            return torch.ones(1, *size, device=self.model.device)
        return _mean(self._answers(predictions, size))

    def _answers(self, predictions: list[Prediction], size: tuple[int, int]) -> Iterator[Tensor]:
        """Each view's probabilities at the frame's size, where results are."""
        for tracker, prediction in zip(self.trackers, predictions):
            yield tracker.answer(prediction, size).to(self.model.device)

    def _step(
        self,
        image: Any,
        mask: Any,
        objects: Iterable[Any] | None,
        permanent: bool,
        last: bool,
        features: ViewFeatures | None,
    ) -> tuple[tuple[int, int], list[Prediction]]:
        """The frame's size, and what every view commits; nothing where there are no objects."""
        size = self._size_of(image, look_inside=features is None)  # or it has been looked at
        whole = Geometry(size, size, Padding(0, 0, 0, 0))
        # read at the frame's own size: there every object has its pixels, whatever is left of it in a view
        given = read_mask(mask, objects, whole, self.model.device)
        if given is None and not self.object_ids:
            self._begin(size)
            for tracker in self.trackers:
                tracker.pass_by()
            return size, []
        if given is not None and not set(given.ids) <= set(self.object_ids):
            self._require_room(size, len({*given.ids, *self.object_ids}))
        features = self._encode([image], size)[0] if features is None else self._checked(features, size)
        self._begin(size)
        complete = given is not None and (not self.object_ids or set(given.ids) == set(self.object_ids))
        predictions = None if complete else self._predict(features)
        if given is not None:
            predictions = self._accept(predictions, mask_tensor(mask).to(self.model.device), given.ids)
        assert predictions is not None
        self._commit(features, predictions, permanent, last)
        return size, predictions

    def encode(self, image: Any, with_depth: bool = False) -> ViewFeatures:
        """The network's view of a frame, in every view; those of one size go through it together."""
        size = self._roomy_size_of(image)
        self._begin(size)
        return self._encode([image], size, with_depth)[0]

    def encode_ahead(self, images: Sequence[Any], with_depth: bool = False) -> list[ViewFeatures]:
        """What `encode` makes of the next frames, all frames and views of one size as one batch. It ends before the
        first image that `step` would refuse, and changes nothing."""
        valid, size = acceptable(images, self._roomy_size_of)
        return self._encode(valid, size, with_depth) if size is not None else []

    @torch.inference_mode()
    def _encode(self, images: Sequence[Tensor], size: tuple[int, int], with_depth: bool = False) -> list[ViewFeatures]:
        geometries = [tracker.geometry_at(size) for tracker in self.trackers]

        def encode(same: list[int]) -> list[list[FrameFeatures]]:
            model = self.trackers[same[0]].model
            own = [image.to(model.device, torch.float32) for image in images]
            batch = torch.cat([geometries[v].enter(self.views[v].of(image)) for v in same for image in own])
            with model.autocast():
                features = model.encode(batch, with_depth and 0 in same).frames()
            return [features[place * len(own) : (place + 1) * len(own)] for place in range(len(same))]

        return [list(views) for views in zip(*self._by_size(encode, geometries))]

    def _by_size(self, work: Callable[[list[int]], list[T]], geometries: Sequence[Geometry]) -> list[T]:
        """For each view, what `work` makes of views that one worker has and the network sees at one size."""
        return self._shares.run(work, [geometry.padded for geometry in geometries])

    # ----------------------------------------------------------------------------------------------- its predictions
    def _predict(self, features: ViewFeatures) -> list[Prediction]:
        """What each view's tracker is to go on from, unless a mask is given."""

        def predict(same: list[int]) -> list[Prediction]:
            return predict_together([self.trackers[v] for v in same], [features[v] for v in same])

        predictions = self._by_size(predict, [tracker.seen_geometry() for tracker in self.trackers])
        return self._merged(predictions) if self.feedback == "merged" else predictions

    def _commit(self, features: ViewFeatures, predictions: list[Prediction], permanent: bool, last: bool) -> None:
        def commit(same: list[int]) -> list[None]:
            return [self.trackers[v].commit(features[v], predictions[v], permanent, last) for v in same]

        self._by_size(commit, [tracker.seen_geometry() for tracker in self.trackers])

    def _merged(self, predictions: list[Prediction]) -> list[Prediction]:
        """Every view's prediction with the mean of all views' probabilities in it, brought into that view.

        Views of one scale are averaged where they are, border and all. Scales are averaged at the frame's size; the
        border, which is another at every scale, keeps the mean of its own.
        """
        scales = list(dict.fromkeys(view.scale for view in self.views))
        mean = {scale: self._mean_at(scale, predictions) for scale in scales}
        if len(scales) > 1:
            size = self.frame_size
            assert size is not None, "the frame's size is known before anything is predicted"
            every = _mean(self._answers(predictions, size))
            geometries = {tracker.view.scale: tracker.straight_geometry() for tracker in self.trackers}
            mean = {scale: _inside(mean[scale], every, geometries[scale]) for scale in scales}
        return [
            prediction._replace(probs=tracker.straight(mean[tracker.view.scale]).to(tracker.model.device))
            for tracker, prediction in zip(self.trackers, predictions)
        ]

    def _mean_at(self, scale: float, predictions: list[Prediction]) -> Float[Tensor, "N1 H W"]:
        """The mean of all views of one scale at the padded size, not mirrored."""
        pairs = zip(self.trackers, predictions)
        device = self.model.device
        return _mean(tracker.straight(p.probs).to(device) for tracker, p in pairs if tracker.view.scale == scale)

    def _accept(
        self, predictions: list[Prediction] | None, mask: Tensor, ids: tuple[ObjectId, ...]
    ) -> list[Prediction]:
        """Predictions with the user's mask, brought into each view, laid over them."""
        return [
            tracker.accept(prediction, tracker.view.of_mask(mask).to(tracker.model.device), ids)
            for tracker, prediction in zip(self.trackers, predictions or [None] * len(self.trackers))
        ]

    def restore_depth(self, features: ViewFeatures) -> Float[Tensor, "H W"]:
        """Relative inverse depth (larger is nearer, no unit) as the first view sees it, at the frame's own size.

        Raises ValueError if the frame was encoded without it.
        """
        if self.frame_size is None:
            raise ValueError("restore_depth: no frame was encoded yet, wanted `encode` before it")
        first = self.trackers[0]
        return first.view.back(first.restore_depth(features[0])[None], self.frame_size)[0]

    @property
    def gives_depth(self) -> bool:
        """Whether the network has a geometry encoder."""
        return self.model.gives_depth

    # ----------------------------------------------------------------------------------------------------- objects
    @property
    def object_ids(self) -> list[ObjectId]:
        """Ids in slot order, which is the order in which they were given; the same in every view."""
        return self.trackers[0].object_ids

    def labels(self, probs: Float[Tensor, "N1 H W"]) -> Int[Tensor, "H W"]:
        """The label map of `step`'s probabilities, in the caller's ids."""
        return self.trackers[0].labels(probs)

    def remove(self, ids: Any) -> None:
        """Forget objects in every view. Raises ValueError for an id that is not tracked."""
        gone = object_ids(ids)
        for tracker in self.trackers:
            tracker.remove(gone)

    # ------------------------------------------------------------------------------------------------------ memory
    def reset(self) -> None:
        """Forget everything, objects and frame size too: the next video may start."""
        self.frame_size = None
        for tracker in self.trackers:
            tracker.reset()

    def memory_report(self) -> dict[str, int]:
        """Bytes held between two frames by all views together, by kind."""
        reports = [tracker.memory_report() for tracker in self.trackers]
        return {kind: sum(report[kind] for report in reports) for kind in reports[0]}

    def state_dict(self) -> StateDict:
        """All that is needed to go on later with the same numbers. `torch.load(weights_only=True)` reads it back."""
        return {
            "views": [list(view) for view in self.views],
            "feedback": self.feedback,
            "size": list(self.frame_size) if self.frame_size else None,
            "trackers": [tracker.state_dict() for tracker in self.trackers],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the ensemble that `state_dict` described, its views and options included.

        Raises ValueError for a state that is not one, or of a model of other sizes; the ensemble is unchanged then.
        """
        absent = [name for name in ("views", "feedback", "size", "trackers") if name not in state]
        require(not absent, f"ensemble state: missing {', '.join(absent)}")
        try:
            views = [View(float(scale), bool(mirrored), *map(int, rest)) for scale, mirrored, *rest in state["views"]]
            places = [tracker.model.device for tracker in self.trackers]
            loaded = Ensemble(
                self.model, views=views, feedback=state["feedback"], devices=list(dict.fromkeys(places)),
                workers=self._shares.workers,
            )  # fmt: skip
            loaded.frame_size = (int(state["size"][0]), int(state["size"][1])) if state["size"] else None
            for tracker, saved in zip(loaded.trackers, state["trackers"], strict=True):
                tracker.load_state_dict(saved)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"ensemble state: damaged ({type(error).__name__}: {error})") from None
        loaded._require_lockstep()
        self.feedback, self.trackers, self.frame_size = loaded.feedback, loaded.trackers, loaded.frame_size
        self._shares = loaded._shares

    def _require_lockstep(self) -> None:
        """Raises ValueError unless all trackers are at the same frame of the same video."""
        for tracker in self.trackers:
            wanted = None if self.frame_size is None else tracker.view.size(self.frame_size)
            got = None if tracker.geometry is None else tracker.geometry.size
            require(got == wanted, f"ensemble state: a view of {got}, wanted {wanted}")
        clocks = {(tracker.frame, tuple(tracker.object_ids)) for tracker in self.trackers}
        require(len(clocks) == 1, f"ensemble state: views are at frames and objects {sorted(clocks)}, wanted the same")

    # ----------------------------------------------------------------------------------------------------- details
    def _size_of(self, image: Any, look_inside: bool = True) -> tuple[int, int]:
        """Checks an image. Raises ValueError unless it is an RGB image of the video's size that every view can show."""
        size = image_size(image, look_inside)
        if self.frame_size is not None and size != self.frame_size:
            raise ValueError(f"image: got size {size} in a video of {self.frame_size}; one ensemble is for one size")
        for view in self.views:
            view.size(size)
        return size

    def _roomy_size_of(self, image: Any) -> tuple[int, int]:
        """As `_size_of`, of an image that is to be encoded: before the first object, one has to have room."""
        size = self._size_of(image)
        if not self.object_ids:
            self._require_room(size, 1)
        return size

    def _require_room(self, size: tuple[int, int], objects: int) -> None:
        """Raises ValueError if so many objects would need more memory, in all views of a device, than it has left."""
        for model in {id(tracker.model): tracker.model for tracker in self.trackers}.values():
            own = [tracker for tracker in self.trackers if tracker.model is model]
            held = sum(sum(tracker.memory_report().values()) for tracker in own)
            sizes = [tracker.geometry_at(size).padded for tracker in own]
            require_room(model, sizes, objects, own[0].config, held)

    def _begin(self, size: tuple[int, int]) -> None:
        """The video's size is known."""
        if self.frame_size is None:
            self.frame_size = size
            for tracker in self.trackers:
                tracker.geometry = tracker.geometry_at(size)

    def _checked(self, features: ViewFeatures, size: tuple[int, int]) -> ViewFeatures:
        """Raises ValueError for features of other views, or of frames of another size."""
        got = [tuple(seen.image.shape) for seen in features]
        wanted = [(1, 3, *tracker.geometry_at(size).padded) for tracker in self.trackers]
        require(got == wanted, f"features: got those of images {got}, wanted {wanted}")
        return features


def _spread(views: Sequence[View], count: int) -> list[list[int]]:
    """Which views each of `count` shares gets, by area; scales stay together unless that leaves one idle."""
    pairs = [[v for v, view in enumerate(views) if view.scale == scale] for scale in {view.scale: 0 for view in views}]
    together = pairs if len(pairs) >= count else [[v] for v in range(len(views))]
    costs = [sum(views[v].scale ** 2 for v in some) for some in together]
    return [[v for i in share for v in together[i]] for share in allot(costs, count)]


def _mean(maps: Iterable[Tensor]) -> Tensor:
    """Their mean, in memory of its own; not all of them are held at once."""
    total, count = torch.zeros(()), 0
    for one in maps:
        total, count = (total + one if count else one), count + 1
    return total / count


def _inside(
    border: Float[Tensor, "N1 H W"], frame: Float[Tensor, "N1 H0 W0"], geometry: Geometry
) -> Float[Tensor, "N1 H W"]:
    """Padded probabilities whose inside is `frame`, brought to this size, and whose border is that of `border`."""
    probs = border.clone()
    geometry.padding.crop(probs).copy_(bilinear(bilinear(frame[None], geometry.size), geometry.internal)[0])
    return probs
