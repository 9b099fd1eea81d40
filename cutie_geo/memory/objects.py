"""Which object sits in which slot."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutie_geo.ops import strongest
from cutie_geo.structures import ObjectId


class ObjectRegistry:
    """A bijection of caller's ids and slots: `ids[slot]` is the id. New objects take the last slots."""

    def __init__(self, ids: Iterable[ObjectId] = ()) -> None:
        self.ids: list[ObjectId] = list(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, ids: Iterable[ObjectId]) -> None:
        """Give every id that has none a slot, in the order given."""
        self.ids += [i for i in dict.fromkeys(ids) if i not in self.ids]

    def remove(self, ids: Iterable[ObjectId]) -> Int[Tensor, "K"]:
        """Forget `ids`; return the slots that stay, for every holder of an N axis to keep.

        Raises ValueError for an id that has no slot.
        """
        gone = set(ids)
        unknown = sorted(gone - set(self.ids))
        if unknown:
            raise ValueError(f"remove: got ids {unknown}, wanted some of {self.ids}")
        stay = [slot for slot, i in enumerate(self.ids) if i not in gone]
        self.ids = [self.ids[slot] for slot in stay]
        return torch.tensor(stay, dtype=torch.long)

    def paint(self, probs: Float[Tensor, "N1 H W"]) -> Int[Tensor, "H W"]:
        """The most probable object at each pixel, by id."""
        return torch.tensor([0, *self.ids], device=probs.device)[strongest(probs)]
