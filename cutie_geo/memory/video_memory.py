"""What one video has seen: token banks, sensory memory and object summaries."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutie_geo.config import TrackerConfig
from cutie_geo.memory.bank import TokenBank, slots_of
from cutie_geo.memory.long_term import fresh
from cutie_geo.structures import FrameFeatures, Memorised, MemoryView, ObjectId, StateDict


class VideoMemory:
    """The memory of the objects `ids`, in slot order. Objects that entered on the same frame share a bank.

    Source: Cutie specification, sections 5.5 to 5.10.
    """

    def __init__(self, config: TrackerConfig) -> None:
        self.config = config
        self.ids: list[ObjectId] = []
        self.banks: list[TokenBank] = []
        self.sensory: Float[Tensor, "1 N C h w"] | None = None
        self.summary: Float[Tensor, "1 N Q S"] | None = None

    def views(self, last_mask: Float[Tensor, "1 N H W"]) -> Iterator[tuple[Int[Tensor, "n"], MemoryView]]:
        """Each bank's slots and what its objects remember; `last_mask` has all objects of the frame before."""
        assert self.sensory is not None and self.summary is not None, "nothing is in memory yet"
        for bank in self.banks:
            slots = slots_of(bank.ids, self.ids, last_mask.device)
            tokens = bank.tokens
            yield slots, MemoryView(
                tokens.key, tokens.shrinkage, tokens.value, self.sensory[:, slots], self.summary[:, slots],
                last_mask[:, slots],
            )  # fmt: skip

    def count_usage(self, usage: Sequence[Float[Tensor, "1 _"]]) -> None:
        """Remember how much each bank's tokens were read on a frame."""
        for bank, bank_usage in zip(self.banks, usage, strict=True):
            bank.count_usage(bank_usage)

    def sensory_for(self, ids: Sequence[ObjectId], empty: Float[Tensor, "1 N C h w"]) -> Float[Tensor, "1 N C h w"]:
        """Sensory memory of `ids`, which begin with all known objects; zeros (from `empty`) for the new ones."""
        if self.sensory is None:
            return empty
        return torch.cat([self.sensory, empty[:, len(self.ids) :]], dim=1)

    def write(self, features: FrameFeatures, memorised: Memorised, ids: Sequence[ObjectId], pin: bool) -> None:
        """Add what a frame left. `ids` begin with all known objects, in their order."""
        new = list(ids[len(self.ids) :])
        known, self.ids = len(self.ids), list(ids)
        if self.summary is None:
            self.summary = memorised.summary
        else:
            total = self.summary + memorised.summary[:, :known]
            self.summary = torch.cat([total, memorised.summary[:, known:]], dim=1)
        self.sensory = memorised.sensory
        if new:
            self.banks.append(TokenBank(new, self.config))
        tokens = fresh(features.key, features.shrinkage, features.selection, memorised.value.float())
        for bank in self.banks:
            bank.write(tokens.objects(slots_of(bank.ids, self.ids, tokens.key.device)), pin)

    def keep(self, stay: Int[Tensor, "K"], ids: Sequence[ObjectId]) -> None:
        """Drop every trace of the objects that are not in the slots `stay`, whose ids are `ids`."""
        self.ids = list(ids)
        if not ids:
            self.banks, self.sensory, self.summary = [], None, None
            return
        assert self.sensory is not None and self.summary is not None
        stay = stay.to(self.sensory.device)
        self.sensory, self.summary = self.sensory[:, stay], self.summary[:, stay]
        self.banks = [bank for bank in self.banks if set(bank.ids) & set(ids)]
        for bank in self.banks:
            bank.keep_objects(ids)

    def configure(self, config: TrackerConfig) -> None:
        """Go on under other limits; banks shrink to them at their next write."""
        self.config = config
        for bank in self.banks:
            bank.config = config

    def bytes(self) -> dict[str, int]:
        """Memory taken, by kind."""
        sizes = [bank.bytes() for bank in self.banks]
        state = [x for x in (self.sensory, self.summary) if x is not None]
        return {
            "working": sum(working for working, _ in sizes),
            "long_term": sum(long for _, long in sizes),
            "sensory": sum(x.numel() * x.element_size() for x in state),
        }

    def state_dict(self) -> StateDict:
        """Everything but the configuration."""
        state = {"ids": list(self.ids), "banks": [bank.state_dict() for bank in self.banks]}
        if self.sensory is not None and self.summary is not None:
            state |= {"sensory": self.sensory.clone(), "summary": self.summary.clone()}
        return state

    def load_state_dict(self, state: StateDict, device: torch.device) -> None:
        """Become the memory that `state_dict` described."""
        self.ids = list(state["ids"])
        self.banks = [TokenBank.from_state(bank, self.config, device) for bank in state["banks"]]
        self.sensory = state["sensory"].to(device) if "sensory" in state else None
        self.summary = state["summary"].to(device) if "summary" in state else None
