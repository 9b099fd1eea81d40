"""Memory of one video: token banks, sensory memory and object summaries."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from cutie_geo.config import TrackerConfig
from cutie_geo.memory.bank import TokenBank, slots_of
from cutie_geo.memory.long_term import fresh
from cutie_geo.structures import FrameFeatures, Memorised, MemoryView, ObjectId, StateDict


class VideoMemory:
    """Memory of the objects `ids`, in slot order. Objects that were added on the same frame share a bank.

    Source: Cutie specification, sections 5.5 to 5.10.
    """

    def __init__(self, config: TrackerConfig) -> None:
        self.config = config
        self.ids: list[ObjectId] = []
        self.banks: list[TokenBank] = []
        self.sensory: Float[Tensor, "1 N C h w"] | None = None
        self.summary: Float[Tensor, "1 N Q S"] | None = None

    def views(self, last_mask: Float[Tensor, "1 N H W"]) -> Iterator[tuple[Int[Tensor, "n"], MemoryView]]:
        """Yield the slots and the memory view of each bank; `last_mask` has all objects of the previous frame."""
        assert self.sensory is not None and self.summary is not None, "nothing is in memory yet"
        for bank in self.banks:
            slots = slots_of(bank.ids, self.ids, last_mask.device)
            tokens = bank.tokens
            yield slots, MemoryView(
                tokens.key, tokens.shrinkage, tokens.value, self.sensory[:, slots], self.summary[:, slots],
                last_mask[:, slots],
            )  # fmt: skip

    def count_usage(self, usage: Sequence[Float[Tensor, "1 _"]]) -> None:
        """Add the affinity that each bank's tokens received on a frame."""
        for bank, bank_usage in zip(self.banks, usage, strict=True):
            bank.count_usage(bank_usage)

    def sensory_with(self, empty: Float[Tensor, "1 N C h w"]) -> Float[Tensor, "1 N C h w"]:
        """Return sensory memory of N objects, the tracked ones first; new objects get that of `empty`."""
        if self.sensory is None:
            return empty
        return torch.cat([self.sensory, empty[:, len(self.ids) :]], dim=1)

    def correct(self, features: FrameFeatures, masks: Float[Tensor, "1 N H W"], ids: Sequence[ObjectId]) -> None:
        """Remove the wrong memory of the tracked objects `ids`, whose masks were corrected on a frame.

        Only permanent frames that agree with the correction are kept. Each corrected object gets a separate bank, so
        that the memory of other objects is unchanged.

        Args:
            features: Features of the corrected frame.
            masks: Masks of all tracked objects on the corrected frame, in slot order.
            ids: Corrected objects.
        """
        assert self.sensory is not None and self.summary is not None, "objects are known once they are in memory"
        shares = token_shares(masks, features)
        slots = slots_of(ids, self.ids, masks.device)
        alone = []
        for bank in self.banks:
            alone += [
                bank.corrected(i, features, shares[:, slot : slot + 1])
                for i, slot in zip(ids, slots.tolist())
                if i in bank.ids
            ]
        self.banks = [bank for bank in self.banks if set(bank.ids) - set(ids)]
        for bank in self.banks:
            bank.keep_objects([i for i in bank.ids if i not in ids])
        self.banks += alone
        self.sensory, self.summary = (x.index_fill(1, slots, 0) for x in (self.sensory, self.summary))

    def write(
        self,
        features: FrameFeatures,
        memorised: Memorised,
        ids: Sequence[ObjectId],
        permanent: bool,
        masks: Float[Tensor, "1 N H W"] | None = None,
        corrected: Sequence[ObjectId] = (),
    ) -> None:
        """Add the memory of a frame.

        Args:
            features: Features of the frame.
            memorised: Memory entries of the frame.
            ids: Ids of the frame's objects, which start with all tracked objects in order.
            permanent: Add the frame to permanent memory.
            masks: Masks of the objects on this frame.
            corrected: Objects after `correct`, for which the frame is permanent.
        """
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
        prompted = bool(new) or permanent or bool(corrected)
        shares = token_shares(masks, features) if masks is not None and prompted else None
        for bank in self.banks:
            slots = slots_of(bank.ids, self.ids, tokens.key.device)
            own = None if shares is None else shares[:, slots]
            bank.write(tokens.objects(slots), permanent or set(bank.ids) <= set(corrected), own)

    def keep(self, stay: Int[Tensor, "K"], ids: Sequence[ObjectId]) -> None:
        """Remove the memory of all objects but those in the slots `stay`, whose ids are `ids`."""
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
        """Change the limits, which banks apply at their next write."""
        self.config = config
        for bank in self.banks:
            bank.config = config

    def bytes(self) -> dict[str, int]:
        """Return the number of bytes by kind of memory."""
        sizes = [bank.bytes() for bank in self.banks]
        state = [x for x in (self.sensory, self.summary) if x is not None]
        return {
            "working": sum(working for working, _ in sizes),
            "long_term": sum(long for _, long in sizes),
            "sensory": sum(x.numel() * x.element_size() for x in state),
        }

    def state_dict(self) -> StateDict:
        """Return everything but the configuration."""
        state = {"ids": list(self.ids), "banks": [bank.state_dict() for bank in self.banks]}
        if self.sensory is not None and self.summary is not None:
            state |= {"sensory": self.sensory.clone(), "summary": self.summary.clone()}
        return state

    def load_state_dict(self, state: StateDict, device: torch.device) -> None:
        """Restore the memory from the result of `state_dict`."""
        self.ids = list(state["ids"])
        self.banks = [TokenBank.from_state(bank, self.config, device) for bank in state["banks"]]
        self.sensory = state["sensory"].to(device) if "sensory" in state else None
        self.summary = state["summary"].to(device) if "summary" in state else None


def token_shares(masks: Float[Tensor, "1 N H W"], features: FrameFeatures) -> Float[Tensor, "1 N P 1"]:
    """Return the mean mask of each object over the area of each token."""
    height, width = features.f16.shape[-2:]
    return adaptive_avg_pool2d(masks.float(), (height, width)).flatten(2)[..., None]
