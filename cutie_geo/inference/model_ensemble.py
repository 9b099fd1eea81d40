"""Ensemble of different models on one video."""

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutie_geo.config import require
from cutie_geo.data.frames import image_tensor
from cutie_geo.inference.inputs import Geometry, image_size, read_mask
from cutie_geo.inference.segmenter import Method
from cutie_geo.memory.objects import ChannelIds
from cutie_geo.ops import Padding
from cutie_geo.structures import ObjectId


class ModelEnsemble:
    """Ensemble of segmenters with the weighted mean of their probabilities. Same interface as `Tracker`.

    Each member commits its own prediction.

    >>> import torch, cutie_geo
    >>> models = [cutie_geo.load_model(name, weights="none") for name in ("cutie-small", "cutie-base")]
    >>> both = cutie_geo.ModelEnsemble([cutie_geo.Tracker(model) for model in models], weights=(1.0, 3.0))
    >>> mask = torch.zeros(64, 96, dtype=torch.long)
    >>> mask[20:40, 30:60] = 7
    >>> both.step(torch.rand(3, 64, 96), mask).shape, both.object_ids, both.weights
    (torch.Size([2, 64, 96]), [7], (0.25, 0.75))

    Args:
        members: New trackers, ensembles of views or other `Method` objects.
        weights: Positive weight of each member, normalised to a sum of 1. None weights all members equally.
        workers: Number of threads for the members; more than one helps if members are on different devices.

    Raises:
        ValueError: For invalid options.
    """

    def __init__(self, members: Sequence[Method], weights: Sequence[float] | None = None, workers: int = 1) -> None:
        require(len(members) > 0, "members: got none, expected at least one")
        require(workers >= 1, f"workers: got {workers}, expected 1 or more")
        self.members = list(members)
        self.weights = normalise_weights(weights, len(members))
        self.channels = ChannelIds()
        self._pool = ThreadPoolExecutor(min(workers, len(members)), "member") if workers > 1 else None

    def step(
        self,
        image: Any,
        mask: Tensor | np.ndarray | None = None,
        objects: Iterable[Any] | None = None,
        permanent: bool = False,
        last: bool = False,
        features: Sequence[Any] | None = None,
        correction: bool = False,
        color: str = "rgb",
    ) -> Float[Tensor, "N1 H W"]:
        """Return the next frame's probabilities at its own size; see `Tracker.step`.

        Raises:
            ValueError: For images or masks of another shape or size and for invalid ids; the state is unchanged.
        """
        image, objects = image_tensor(image, color), None if objects is None else list(objects)
        self._check(image, mask, objects, look_inside=features is None)  # encoded images were checked already
        each = [None] * len(self.members) if features is None else list(features)
        require(len(each) == len(self.members), f"features: got {len(each)}, expected {len(self.members)} members'")
        maps = self._of_each(
            lambda member, seen: member.step(
                image, mask, objects, permanent=permanent, last=last, features=seen, correction=correction
            ),
            each,
        )
        ids, place = self.object_ids, maps[0].device
        total = torch.zeros((), device=place)
        for member, weight, probs in zip(self.members, self.weights, maps):
            order = torch.tensor([0, *(1 + member.object_ids.index(i) for i in ids)], device=probs.device)
            total = total + weight * probs[order].to(place)
        return self.channels.note(total, ids)

    def _check(self, image: Any, mask: Any, objects: Sequence[Any] | None, look_inside: bool) -> None:
        """Raise ValueError for invalid inputs before any member changes its state."""
        size = image_size(image, look_inside, self.frame_size)
        read_mask(mask, objects, Geometry(size, size, Padding(0, 0, 0, 0)), image.device)

    def _of_each(self, work: Any, given: Sequence[Any]) -> list[Any]:
        """Call `work` with each member and its item of `given`; raise the first error after all calls have ended."""
        if self._pool is None:
            return [work(member, item) for member, item in zip(self.members, given)]
        running = [self._pool.submit(work, member, item) for member, item in zip(self.members, given)]
        errors = [error for future in running if (error := future.exception()) is not None]
        if errors:
            raise errors[0]
        return [future.result() for future in running]

    def encode_ahead(self, images: Sequence[Any], with_depth: bool = False) -> list[list[Any]]:
        """Encode the next frames with all members, up to the first frame that one would refuse, without changing state.

        Depth comes from the first member that has a geometry encoder.
        """
        deep = next((member for member in self.members if member.gives_depth), None) if with_depth else None
        require(deep is not None or not with_depth, "depth: no model here has a geometry encoder")
        ahead = self._of_each(
            lambda member, _: list(member.encode_ahead(images, member is deep)), [None] * len(self.members)
        )
        return [list(frame) for frame in zip(*ahead)]

    @property
    def gives_depth(self) -> bool:
        """True if any member has a geometry encoder."""
        return any(member.gives_depth for member in self.members)

    def restore_depth(self, features: Sequence[Any]) -> Float[Tensor, "H W"]:
        """Return the depth of the first member that has a geometry encoder.

        Raises:
            ValueError: If the frame was encoded without depth.
        """
        for member, seen in zip(self.members, features):
            if member.gives_depth:
                return member.restore_depth(seen)
        raise ValueError("restore_depth: no model here has a geometry encoder")

    # ----------------------------------------------------------------------------------------------------- objects
    @property
    def object_ids(self) -> list[ObjectId]:
        """Object ids in the order of the first member's channels."""
        return self.members[0].object_ids

    def labels(self, probs: Float[Tensor, "N1 H W"], objects: Sequence[ObjectId] | None = None) -> Int[Tensor, "H W"]:
        """Return the label map of probabilities, with object ids as values; see `Tracker.labels`."""
        return self.channels.labels(probs, self.object_ids, objects)

    def remove(self, ids: Any) -> None:
        """Remove objects from every member.

        Raises:
            ValueError: If an id is not tracked.
        """
        gone = list(ids)
        for member in self.members:
            member.remove(gone)

    def reset(self) -> None:
        """Reset every member for the next video."""
        self.channels.begin()
        for member in self.members:
            member.reset()

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """Height and width of the video's frames; None before the first."""
        return self.members[0].frame_size

    def memory_report(self) -> dict[str, int]:
        """Return the bytes held between two frames by all members together, by kind."""
        total: dict[str, int] = {}
        for member in self.members:
            for kind, size in member.memory_report().items():
                total[kind] = total.get(kind, 0) + size
        return total


def normalise_weights(
    weights: Sequence[float] | None, count: int, name: str = "weights", of: str = "models"
) -> tuple[float, ...]:
    """Normalise weights to a sum of 1; None gives equal weights.

    Raises:
        ValueError: If there are not `count` weights or one is not positive; the message begins with `name`.
    """
    if weights is None:
        return (1 / count,) * count
    require(len(weights) == count, f"{name}: got {len(weights)}, expected one for each of {count} {of}")
    for weight in weights:
        require(math.isfinite(weight) and weight > 0, f"{name}: got {weight:g}, expected positive numbers")
    return tuple(weight / math.fsum(weights) for weight in weights)
