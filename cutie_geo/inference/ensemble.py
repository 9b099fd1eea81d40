"""Ensemble of views of one video (scales and horizontal flips)."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, Unpack

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import interpolate

from cutie_geo.config import TrackerOptions, require
from cutie_geo.data.frames import image_tensor
from cutie_geo.inference.inputs import (
    Geometry,
    acceptable,
    corrected_ids,
    image_size,
    mask_tensor,
    object_ids,
    read_mask,
)
from cutie_geo.inference.memory_estimate import require_memory
from cutie_geo.inference.parallel_views import Partition, on_each, partition
from cutie_geo.inference.tracker import Tracker, predict_together
from cutie_geo.memory.objects import ChannelIds
from cutie_geo.model.network import CutieGeo
from cutie_geo.ops import Padding, bilinear, nearest_labels
from cutie_geo.structures import FrameFeatures, ObjectId, Prediction, StateDict, as_labels

SMALLEST_SIDE = 32
"""Smallest side of a scaled frame, in pixels, which gives a grid of 2 x 2 memory tokens."""
FEEDBACKS = ("own", "merged")
"""Prediction that each view's tracker commits: its own, or the mean of all views."""

T = TypeVar("T")
ViewFeatures = Sequence[FrameFeatures]
"""Features of one frame in every view."""


class View(NamedTuple):
    """View of a frame: scaled, then optionally flipped horizontally."""

    scale: float = 1.0
    flip: bool = False

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (H, W) of frames of `size` in this view.

        Raises:
            ValueError: If a side is smaller than `SMALLEST_SIDE`.
        """
        height, width = (round(side * self.scale) for side in size)
        require(
            self.scale >= 1 or min(height, width) >= SMALLEST_SIDE,
            f"scale {self.scale:g}: makes {height}x{width} of frames of {size[0]}x{size[1]}, "
            f"expected at least {SMALLEST_SIDE} pixels a side",
        )
        return height, width

    def of(self, image: Float[Tensor, "C H W"]) -> Float[Tensor, "C H2 W2"]:
        """Transform a frame to this view, bilinearly, with antialiasing when downscaling."""
        size = self.size((image.shape[-2], image.shape[-1]))
        if size != tuple(image.shape[-2:]):
            smaller = size[0] < image.shape[-2]
            image = interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=smaller)[0]
        return image.flip(-1) if self.flip else image

    def of_mask(self, mask: Shaped[Tensor, "*objects H W"]) -> Shaped[Tensor, "*objects H2 W2"]:
        """Transform a label map (H, W), by nearest pixel centres, or soft masks (N, H, W) in [0, 1], bilinearly."""
        size = self.size((mask.shape[-2], mask.shape[-1]))
        if mask.ndim == 2:
            seen = nearest_labels(as_labels(mask), size)
        else:
            seen = bilinear(mask.float()[None], size)[0].clamp(0, 1)  # interpolation of ones may round above 1
        return seen.flip(-1) if self.flip else seen

    def back(self, x: Float[Tensor, "C H W"], size: tuple[int, int]) -> Float[Tensor, "C H2 W2"]:
        """Transform outputs of this view back to the frame's `size`, bilinearly."""
        return bilinear((x.flip(-1) if self.flip else x)[None], size)[0]


def views_of(scales: Sequence[float] = (1.0,), flip: bool = False, name: str = "scales") -> tuple[View, ...]:
    """Return a view for each scale, in order, each followed by its flipped view if `flip` is set.

    Raises:
        ValueError: If a scale is not positive or repeated; the message begins with `name`.
    """
    require(len(scales) > 0, f"{name}: got none, expected at least one")
    for scale in scales:
        require(math.isfinite(scale) and scale > 0, f"{name}: got {scale:g}, expected a positive number")
    twice = sorted({f"{scale:g}" for scale in scales if list(scales).count(scale) > 1})
    require(not twice, f"{name}: got {', '.join(twice)} more than once")
    ways = (False, True) if flip else (False,)
    return tuple(View(float(scale), flipped) for scale in scales for flipped in ways)


class ViewTracker(Tracker):
    """Tracker of one view.

    A flipped view is the flip of the padded frame: the extra pixel of odd padding is on the left. Both views therefore
    share one pixel grid, padding included. Source: Cutie specification, sections 1.3 and 10.24.
    """

    def __init__(self, model: CutieGeo, view: View, **options: Unpack[TrackerOptions]) -> None:
        self.view = view
        super().__init__(model, **options)

    def _geometry(self, size: tuple[int, int]) -> Geometry:
        geometry = super()._geometry(size)
        top, bottom, left, right = geometry.padding
        return geometry._replace(padding=Padding(top, bottom, right, left)) if self.view.flip else geometry

    def _shorter_sides(self) -> tuple[int, int]:
        """Scale the model's own sizes with the view; a size set by the caller applies to every view, as in Cutie."""
        most, least = super()._shorter_sides()
        if not self.config.antialias:
            return most, least
        return tuple(round(side * self.view.scale) if side > 0 else side for side in (most, least))  # type: ignore

    def geometry_at(self, size: tuple[int, int]) -> Geometry:
        """Return the geometry of frames of `size` in this view."""
        return self._geometry(self.view.size(size))

    def seen_geometry(self) -> Geometry:
        """Return the geometry of the video's frames, whose size is known."""
        assert self.geometry is not None, "the frame's size is known before anything is predicted"
        return self.geometry

    def straight_geometry(self) -> Geometry:
        """Return the geometry of the unflipped view of the same scale."""
        return super()._geometry(self.seen_geometry().size)

    def pass_by(self) -> None:
        """Count a frame without objects."""
        self.frame += 1

    def straight(self, probs: Float[Tensor, "N1 H W"]) -> Float[Tensor, "N1 H W"]:
        """Convert probabilities at the padded size to the unflipped view of this scale, or back."""
        return probs.flip(-1) if self.view.flip else probs

    def answer(self, prediction: Prediction, size: tuple[int, int]) -> Float[Tensor, "N1 H W"]:
        """Return the probabilities of a prediction at the frame's `size`."""
        return self.view.back(self.restore(prediction), size)


class Ensemble:
    """Ensemble of views of one video with averaged probabilities and the interface of `Tracker`.

    >>> import torch, cutie_geo
    >>> model = cutie_geo.load_model("cutie-small", weights="none", precision="fp32")
    >>> ensemble = cutie_geo.Ensemble(model, scales=(1.0, 1.2), flip=True, mem_every=2)
    >>> mask = torch.zeros(64, 96, dtype=torch.long)
    >>> mask[20:40, 30:60] = 7
    >>> ensemble.step(torch.rand(3, 64, 96), mask).shape, ensemble.object_ids, len(ensemble.views)
    (torch.Size([2, 64, 96]), [7], 4)

    Views of one size on one device, such as a frame and its flip, are batched in the encoder and after the reading of
    memory.

    Args:
        model: Network of all views.
        scales: Factors of the frames' height and width.
        flip: Add the horizontal flip of each scale.
        feedback: Each view's tracker commits its own prediction ("own") or the mean of all views ("merged"). With flip
            alone, "merged" is Cutie's flip augmentation.
        views: Views, instead of `scales` and `flip`.
        devices: Devices of the views, each with a copy of the network; results are on the first.
        workers: Number of threads for the views (default: one per device).
        **options: Options of `Tracker`.

    Raises:
        ValueError: For invalid options.

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
        **options: Unpack[TrackerOptions],
    ) -> None:
        require(feedback in FEEDBACKS, f"feedback: got {feedback!r}, expected {' or '.join(FEEDBACKS)}")
        require(workers is None or workers >= 1, f"workers: got {workers}, expected 1 or more")
        views = views_of(scales, flip) if views is None else views
        require(len(views) > 0, "views: got none, expected at least one")
        models = on_each(model, devices)
        self.model, self.feedback = models[0], feedback
        self._partition = Partition(_spread(views, max(len(models), workers or 1)), workers or len(models), self.model)
        own = {v: models[i % len(models)] for i, share in enumerate(self._partition.parts) for v in share}
        self.trackers = [ViewTracker(own[v], view, **options) for v, view in enumerate(views)]
        self.frame_size: tuple[int, int] | None = None
        self.channels = ChannelIds()

    @property
    def views(self) -> tuple[View, ...]:
        """Views in the order of summation; depth comes from the first."""
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
        correction: bool = False,
        color: str = "rgb",
    ) -> Float[Tensor, "N1 H W"]:
        """Return the next frame's probabilities at its own size, the mean of all views; see `Tracker.step`.

        An object is tracked in every view, even if a smaller view of its mask has no pixels.

        Raises:
            ValueError: For images or masks of another shape or size and for invalid ids; the state is unchanged.
        """
        image = image_tensor(image, color)
        with torch.inference_mode():
            size, predictions = self._step(image, mask, objects, permanent, last, features, correction)
        # outside inference mode, so that the result is a normal tensor
        if not predictions:
            return self.channels.note(torch.ones(1, *size, device=self.model.device), ())
        return self.channels.note(_mean(self._answers(predictions, size)), self.object_ids)

    def _answers(self, predictions: list[Prediction], size: tuple[int, int]) -> Iterator[Tensor]:
        """Yield each view's probabilities at the frame's size, on the device of the results."""
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
        correction: bool,
    ) -> tuple[tuple[int, int], list[Prediction]]:
        """Return the frame's size and each view's committed prediction; no predictions if there are no objects."""
        size = self._size_of(image, look_inside=features is None)  # encoded images were checked already
        whole = Geometry(size, size, Padding(0, 0, 0, 0))
        # read at the frame's own size, where every object has pixels; in a smaller view it may have none
        given = read_mask(mask, objects, whole, self.model.device)
        corrected = corrected_ids(correction, given, self.object_ids)
        if given is None and not self.object_ids:
            self._begin(size)
            for tracker in self.trackers:
                tracker.pass_by()
            return size, []
        if given is not None and not set(given.ids) <= set(self.object_ids):
            self._require_memory(size, len({*given.ids, *self.object_ids}))
        features = self._encode([image], size)[0] if features is None else self._checked(features, size)
        self._begin(size)
        complete = given is not None and (not self.object_ids or set(given.ids) == set(self.object_ids))
        predictions = None if complete else self._predict(features)
        if given is not None:
            predictions = self._accept(predictions, mask_tensor(mask).to(self.model.device), given.ids)
        assert predictions is not None
        self._commit(features, predictions, permanent, last, corrected)
        return size, predictions

    def encode(self, image: Any, with_depth: bool = False, color: str = "rgb") -> ViewFeatures:
        """Encode a frame in every view; views of one size are encoded as one batch."""
        image = image_tensor(image, color)
        size = self._checked_size_of(image)
        self._begin(size)
        return self._encode([image], size, with_depth)[0]

    def encode_ahead(self, images: Sequence[Any], with_depth: bool = False) -> list[ViewFeatures]:
        """Encode the next frames without changing the state, with all frames and views of one size as one batch.

        The result ends before the first image that `step` would refuse.
        """
        valid, size = acceptable(images, self._checked_size_of)
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
        """Call `work` on the views of each worker and padded size; return the results by view."""
        return self._partition.run(work, [geometry.padded for geometry in geometries])

    # ----------------------------------------------------------------------------------------------- its predictions
    def _predict(self, features: ViewFeatures) -> list[Prediction]:
        """Return the prediction that each view's tracker commits, unless there is an input mask."""

        def predict(same: list[int]) -> list[Prediction]:
            return predict_together([self.trackers[v] for v in same], [features[v] for v in same])

        predictions = self._by_size(predict, [tracker.seen_geometry() for tracker in self.trackers])
        return self._merged(predictions) if self.feedback == "merged" else predictions

    def _commit(
        self,
        features: ViewFeatures,
        predictions: list[Prediction],
        permanent: bool,
        last: bool,
        corrected: Sequence[ObjectId],
    ) -> None:
        def commit(same: list[int]) -> list[None]:
            return [self.trackers[v].commit(features[v], predictions[v], permanent, last, corrected) for v in same]

        self._by_size(commit, [tracker.seen_geometry() for tracker in self.trackers])

    def _merged(self, predictions: list[Prediction]) -> list[Prediction]:
        """Replace the probabilities of every view by the mean of all views, transformed to that view.

        Views of one scale are averaged at the padded size. Scales are averaged at the frame's size; the padding, which
        differs between scales, keeps the mean of its scale.
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
        """Return the mean of all views of one scale at the padded size, unflipped."""
        pairs = zip(self.trackers, predictions)
        device = self.model.device
        return _mean(tracker.straight(p.probs).to(device) for tracker, p in pairs if tracker.view.scale == scale)

    def _accept(
        self, predictions: list[Prediction] | None, mask: Tensor, ids: tuple[ObjectId, ...]
    ) -> list[Prediction]:
        """Merge the input mask, transformed to each view, into the predictions."""
        return [
            tracker.accept(prediction, tracker.view.of_mask(mask).to(tracker.model.device), ids)
            for tracker, prediction in zip(self.trackers, predictions or [None] * len(self.trackers))
        ]

    def restore_depth(self, features: ViewFeatures) -> Float[Tensor, "H W"]:
        """Return the relative inverse depth (larger is nearer, no unit) of the first view at the frame's own size.

        Raises:
            ValueError: If the frame was encoded without depth.
        """
        if self.frame_size is None:
            raise ValueError("restore_depth: no frame was encoded yet, expected `encode` before it")
        first = self.trackers[0]
        return first.view.back(first.restore_depth(features[0])[None], self.frame_size)[0]

    @property
    def gives_depth(self) -> bool:
        """True if the network has a geometry encoder."""
        return self.model.gives_depth

    # ----------------------------------------------------------------------------------------------------- objects
    @property
    def object_ids(self) -> list[ObjectId]:
        """Object ids in slot order, the order in which they were added; the same in every view."""
        return self.trackers[0].object_ids

    def labels(self, probs: Float[Tensor, "N1 H W"], objects: Sequence[ObjectId] | None = None) -> Int[Tensor, "H W"]:
        """Return the label map of probabilities, with object ids as values; see `Tracker.labels`."""
        return self.channels.labels(probs, self.object_ids, objects)

    def remove(self, ids: Any) -> None:
        """Remove objects from every view.

        Raises:
            ValueError: If an id is not tracked.
        """
        gone = object_ids(ids)
        for tracker in self.trackers:
            tracker.remove(gone)

    # ------------------------------------------------------------------------------------------------------ memory
    def reset(self) -> None:
        """Reset objects, memory and frame size for the next video."""
        self.frame_size = None
        self.channels.begin()
        for tracker in self.trackers:
            tracker.reset()

    def memory_report(self) -> dict[str, int]:
        """Return the bytes held between two frames by all views together, by kind."""
        reports = [tracker.memory_report() for tracker in self.trackers]
        return {kind: sum(report[kind] for report in reports) for kind in reports[0]}

    def state_dict(self) -> StateDict:
        """Return the state for an exact continuation, loadable with `torch.load(weights_only=True)`."""
        return {
            "views": [list(view) for view in self.views],
            "feedback": self.feedback,
            "size": list(self.frame_size) if self.frame_size else None,
            "trackers": [tracker.state_dict() for tracker in self.trackers],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned, with its views and options.

        Raises:
            ValueError: For an invalid state or one of a model of other sizes; the ensemble is unchanged.
        """
        absent = [name for name in ("views", "feedback", "size", "trackers") if name not in state]
        require(not absent, f"ensemble state: missing {', '.join(absent)}")
        try:
            views = [View(float(scale), bool(flipped)) for scale, flipped in state["views"]]
            places = [tracker.model.device for tracker in self.trackers]
            loaded = Ensemble(
                self.model, views=views, feedback=state["feedback"], devices=list(dict.fromkeys(places)),
                workers=self._partition.workers,
            )  # fmt: skip
            loaded.frame_size = (int(state["size"][0]), int(state["size"][1])) if state["size"] else None
            for tracker, saved in zip(loaded.trackers, state["trackers"], strict=True):
                tracker.load_state_dict(saved)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"ensemble state: damaged ({type(error).__name__}: {error})") from None
        loaded._require_lockstep()
        self.feedback, self.trackers, self.frame_size = loaded.feedback, loaded.trackers, loaded.frame_size
        self._partition = loaded._partition

    def _require_lockstep(self) -> None:
        """Raise ValueError unless all trackers are at the same frame of the same video."""
        for tracker in self.trackers:
            wanted = None if self.frame_size is None else tracker.view.size(self.frame_size)
            got = None if tracker.geometry is None else tracker.geometry.size
            require(got == wanted, f"ensemble state: a view of {got}, expected {wanted}")
        clocks = {(tracker.frame, tuple(tracker.object_ids)) for tracker in self.trackers}
        require(
            len(clocks) == 1, f"ensemble state: views are at frames and objects {sorted(clocks)}, expected the same"
        )

    # ----------------------------------------------------------------------------------------------------- details
    def _size_of(self, image: Any, look_inside: bool = True) -> tuple[int, int]:
        """Return the size of an image.

        Raises:
            ValueError: Unless it is an RGB image of the video's size that is large enough for every view.
        """
        size = image_size(image, look_inside, self.frame_size)
        for view in self.views:
            view.size(size)
        return size

    def _checked_size_of(self, image: Any) -> tuple[int, int]:
        """Return the size of an image to encode; before the first object, also check the memory for one object."""
        size = self._size_of(image)
        if not self.object_ids:
            self._require_memory(size, 1)
        return size

    def _require_memory(self, size: tuple[int, int], objects: int) -> None:
        """Raise ValueError if the objects need more memory, in all views of a device, than it has left."""
        for model in {id(tracker.model): tracker.model for tracker in self.trackers}.values():
            own = [tracker for tracker in self.trackers if tracker.model is model]
            held = sum(sum(tracker.memory_report().values()) for tracker in own)
            sizes = [tracker.geometry_at(size).padded for tracker in own]
            require_memory(model, sizes, objects, own[0].config, held)

    def _begin(self, size: tuple[int, int]) -> None:
        """Set the video's size on the first frame."""
        if self.frame_size is None:
            self.frame_size = size
            for tracker in self.trackers:
                tracker.geometry = tracker.geometry_at(size)

    def _checked(self, features: ViewFeatures, size: tuple[int, int]) -> ViewFeatures:
        """Return `features`. Raises ValueError if they are of other views or of frames of another size."""
        got = [tuple(seen.image.shape) for seen in features]
        wanted = [(1, 3, *tracker.geometry_at(size).padded) for tracker in self.trackers]
        require(got == wanted, f"features: got those of images {got}, expected {wanted}")
        return features


def _spread(views: Sequence[View], count: int) -> list[list[int]]:
    """Partition the views into at most `count` parts by area; scales are split only if a part would be empty."""
    pairs = [[v for v, view in enumerate(views) if view.scale == scale] for scale in {view.scale: 0 for view in views}]
    together = pairs if len(pairs) >= count else [[v] for v in range(len(views))]
    costs = [sum(views[v].scale ** 2 for v in some) for some in together]
    return [[v for i in share for v in together[i]] for share in partition(costs, count)]


def _mean(maps: Iterable[Tensor]) -> Tensor:
    """Return the mean as a new tensor, without holding all maps at once."""
    total, count = torch.zeros(()), 0
    for one in maps:
        total, count = (total + one if count else one), count + 1
    return total / count


def _inside(
    border: Float[Tensor, "N1 H W"], frame: Float[Tensor, "N1 H0 W0"], geometry: Geometry
) -> Float[Tensor, "N1 H W"]:
    """Return padded probabilities with `frame`, resized, inside and the padding of `border`."""
    probs = border.clone()
    geometry.padding.crop(probs).copy_(bilinear(bilinear(frame[None], geometry.size), geometry.internal)[0])
    return probs
