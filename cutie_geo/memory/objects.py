"""Mapping between object ids, slots and channels."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from cutie_geo.ops import strongest
from cutie_geo.structures import ObjectId


class ObjectRegistry:
    """Bijection of the caller's ids and slots: `ids[slot]` is the id. New objects take the last slots."""

    def __init__(self, ids: Iterable[ObjectId] = ()) -> None:
        self.ids: list[ObjectId] = list(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, ids: Iterable[ObjectId]) -> None:
        """Assign a slot to every new id, in order."""
        self.ids += [i for i in dict.fromkeys(ids) if i not in self.ids]

    def remove(self, ids: Iterable[ObjectId]) -> Int[Tensor, "K"]:
        """Remove ids and return the remaining slots, by which tensors with an N axis are indexed.

        Raises:
            ValueError: If an id has no slot.
        """
        gone = set(ids)
        unknown = sorted(gone - set(self.ids))
        if unknown:
            raise ValueError(f"remove: got ids {unknown}, expected some of {self.ids}")
        stay = [slot for slot, i in enumerate(self.ids) if i not in gone]
        self.ids = [self.ids[slot] for slot in stay]
        return torch.tensor(stay, dtype=torch.long)


def paint(probs: Float[Tensor, "N1 H W"], ids: Sequence[ObjectId]) -> Int[Tensor, "H W"]:
    """Return the id of the most probable object at each pixel.

    Raises:
        ValueError: Unless there is one id per channel after the first.
    """
    if probs.shape[0] != len(ids) + 1:
        raise ValueError(f"labels: got {probs.shape[0]} channels, expected background + {len(ids)} objects")
    channel = strongest(probs)
    # on a CPU, four times as fast as indexing by a map
    return torch.tensor([0, *ids], device=probs.device).index_select(0, channel.flatten()).view(channel.shape)


class ChannelIds:
    """Record of the object ids of returned probability tensors.

    Objects are added and removed, so the number of channels does not determine their ids. Returned tensors are looked
    up by identity. For other tensors, such as resized ones, the number of channels must be unambiguous.
    """

    def __init__(self) -> None:
        self._returned = WeakIdKeyDictionary()
        self._seen: dict[int, set[tuple[ObjectId, ...]]] = {}

    def begin(self) -> None:
        """Start the next video; returned tensors stay recorded."""
        self._seen = {}

    def note(self, probs: Float[Tensor, "N1 H W"], ids: Sequence[ObjectId]) -> Float[Tensor, "N1 H W"]:
        """Record the ids of a probability tensor and return the tensor."""
        self._returned[probs] = tuple(ids)
        self._seen.setdefault(len(ids), set()).add(tuple(ids))
        return probs

    def labels(
        self, probs: Float[Tensor, "N1 H W"], current: Sequence[ObjectId], ids: Sequence[ObjectId] | None = None
    ) -> Int[Tensor, "H W"]:
        """Return the label map of probabilities.

        Args:
            probs: Probabilities, background first.
            current: Ids of the currently tracked objects.
            ids: Ids of the channels after the first. None looks them up.

        Raises:
            ValueError: If the number of channels fits no recorded ids, or is ambiguous.
        """
        if ids is not None:
            return paint(probs, ids)
        if (own := self._returned.get(probs)) is not None:
            return paint(probs, own)
        count = probs.shape[0] - 1
        fitting = self._seen.get(count, set()) | ({tuple(current)} if len(current) == count else set())
        if len(fitting) > 1:
            known = " or ".join(str(list(some)) for some in sorted(fitting))
            raise ValueError(
                f"labels: got probabilities of {count} objects that were not returned by this tracker as they are, "
                f"expected one choice of ids; they may be {known}. Name theirs: labels(probs, objects=[...])"
            )
        return paint(probs, next(iter(fitting), current))
