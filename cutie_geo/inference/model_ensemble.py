"""Different models on one video, side by side, and what they say together."""

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutie_geo.config import require
from cutie_geo.inference.given import Geometry, image_size, read_mask
from cutie_geo.inference.segment import Method
from cutie_geo.ops import Padding
from cutie_geo.structures import ObjectId


class ModelEnsemble:
    """Segments one video with several methods at once and takes the weighted mean of their probabilities. Each goes on
    from its own prediction. Used as a `Tracker` is.

    >>> import torch, cutie_geo
    >>> models = [cutie_geo.load_model(name, weights="none") for name in ("cutie-small", "cutie-base")]
    >>> both = cutie_geo.ModelEnsemble([cutie_geo.Tracker(model) for model in models], weights=(1.0, 3.0))
    >>> mask = torch.zeros(64, 96, dtype=torch.long)
    >>> mask[20:40, 30:60] = 7
    >>> both.step(torch.rand(3, 64, 96), mask).shape, both.object_ids, both.weights
    (torch.Size([2, 64, 96]), [7], (0.25, 0.75))

    members: trackers, ensembles of views, or any other `Method`; all new. weights: one for each, above 0; they are
    divided by their sum. Default: all the same. workers: threads that share the members; more than one pays where
    members are on devices of their own. Raises ValueError for what can't work.
    """

    def __init__(self, members: Sequence[Method], weights: Sequence[float] | None = None, workers: int = 1) -> None:
        require(len(members) > 0, "members: got none, wanted at least one")
        require(workers >= 1, f"workers: got {workers}, wanted 1 or more")
        self.members = list(members)
        self.weights = shares_of(weights, len(members))
        self._pool = ThreadPoolExecutor(min(workers, len(members)), "member") if workers > 1 else None

    def step(
        self,
        image: Any,
        mask: Tensor | np.ndarray | None = None,
        objects: Iterable[Any] | None = None,
        permanent: bool = False,
        last: bool = False,
        features: Sequence[Any] | None = None,
    ) -> Float[Tensor, "N1 H W"]:
        """The next frame's probabilities at its own size; arguments are `Tracker.step`'s.

        Raises ValueError, and changes nothing, for images or masks of another shape or size and for impossible ids.
        """
        objects = None if objects is None else list(objects)
        self._check(image, mask, objects, look_inside=features is None)  # or it has been looked at
        each = [None] * len(self.members) if features is None else list(features)
        require(len(each) == len(self.members), f"features: got {len(each)}, wanted {len(self.members)} members'")
        maps = self._of_each(
            lambda member, seen: member.step(image, mask, objects, permanent=permanent, last=last, features=seen), each
        )
        ids, place = self.object_ids, maps[0].device
        total = torch.zeros((), device=place)
        for member, weight, probs in zip(self.members, self.weights, maps):
            order = torch.tensor([0, *(1 + member.object_ids.index(i) for i in ids)], device=probs.device)
            total = total + weight * probs[order].to(place)
        return total

    def _check(self, image: Any, mask: Any, objects: Sequence[Any] | None, look_inside: bool) -> None:
        """What one member would refuse is refused before any of them has changed."""
        size = image_size(image, look_inside)
        if self.frame_size is not None and size != self.frame_size:
            raise ValueError(f"image: got size {size} in a video of {self.frame_size}; one ensemble is for one size")
        read_mask(mask, objects, Geometry(size, size, Padding(0, 0, 0, 0)), image.device)

    def _of_each(self, work: Any, given: Sequence[Any]) -> list[Any]:
        """`work` of each member and its part of `given`. Raises the first error once all have ended."""
        if self._pool is None:
            return [work(member, item) for member, item in zip(self.members, given)]
        running = [self._pool.submit(work, member, item) for member, item in zip(self.members, given)]
        errors = [error for future in running if (error := future.exception()) is not None]
        if errors:
            raise errors[0]
        return [future.result() for future in running]

    def encode_ahead(self, images: Sequence[Any], with_depth: bool = False) -> list[list[Any]]:
        """Each frame's features, of all members, up to the first that one of them would refuse. Depth is that of the
        first member that has any. Changes nothing."""
        deep = next((member for member in self.members if member.gives_depth), None) if with_depth else None
        require(deep is not None or not with_depth, "depth: no model here has a geometry encoder")
        ahead = self._of_each(
            lambda member, _: list(member.encode_ahead(images, member is deep)), [None] * len(self.members)
        )
        return [list(frame) for frame in zip(*ahead)]

    @property
    def gives_depth(self) -> bool:
        """Whether any member has a geometry encoder."""
        return any(member.gives_depth for member in self.members)

    def restore_depth(self, features: Sequence[Any]) -> Float[Tensor, "H W"]:
        """The depth of the first member that has any. Raises ValueError if the frame was encoded without it."""
        for member, seen in zip(self.members, features):
            if member.gives_depth:
                return member.restore_depth(seen)
        raise ValueError("restore_depth: no model here has a geometry encoder")

    # ----------------------------------------------------------------------------------------------------- objects
    @property
    def object_ids(self) -> list[ObjectId]:
        """Ids in the order of the first member's channels."""
        return self.members[0].object_ids

    def labels(self, probs: Float[Tensor, "N1 H W"]) -> Int[Tensor, "H W"]:
        """The label map of `step`'s probabilities, in the caller's ids."""
        return self.members[0].labels(probs)

    def remove(self, ids: Any) -> None:
        """Forget objects in every member. Raises ValueError for an id that is not tracked."""
        gone = list(ids)
        for member in self.members:
            member.remove(gone)

    def reset(self) -> None:
        """Forget everything: the next video may start."""
        for member in self.members:
            member.reset()

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """Height and width of the video's frames, once one was seen."""
        return self.members[0].frame_size

    def memory_report(self) -> dict[str, int]:
        """Bytes held between two frames by all members together, by kind."""
        total: dict[str, int] = {}
        for member in self.members:
            for kind, size in member.memory_report().items():
                total[kind] = total.get(kind, 0) + size
        return total


def shares_of(
    weights: Sequence[float] | None, count: int, name: str = "weights", of: str = "models"
) -> tuple[float, ...]:
    """Weights divided by their sum; equal ones for None.

    Raises ValueError, about `name`, for another number of them than there are `of`, and for any that isn't above 0.
    """
    if weights is None:
        return (1 / count,) * count
    require(len(weights) == count, f"{name}: got {len(weights)}, wanted one for each of {count} {of}")
    for weight in weights:
        require(math.isfinite(weight) and weight > 0, f"{name}: got {weight:g}, wanted positive numbers")
    return tuple(weight / math.fsum(weights) for weight in weights)
