"""The tokens of one group of objects: long-term, pinned and recent ones in a single table."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutie_geo.config import TrackerConfig
from cutie_geo.memory.long_term import consolidate, ranked
from cutie_geo.structures import MemoryTokens, ObjectId, StateDict


class TokenBank:
    """What objects that entered memory on the same frame share: one key for each token, one value for each object.

    The rows are `[long-term | pinned | recent]`, so that a read sees one table and copies nothing. Pinned tokens stay
    for the whole video. Recent ones leave first in, first out, or, with long-term memory, are consolidated. The table
    grows to a bound that does not depend on the video's length and then keeps its size.
    """

    def __init__(self, ids: Sequence[ObjectId], config: TrackerConfig) -> None:
        self.ids = list(ids)
        self.config = config
        self.num_long = self.num_pinned = self.num_recent = 0
        self.frame_tokens = 0
        self._table: MemoryTokens | None = None

    # ------------------------------------------------------------------------------------------------------ reading
    @property
    def count(self) -> int:
        """Tokens in the bank."""
        return self.num_long + self.num_pinned + self.num_recent

    @property
    def tokens(self) -> MemoryTokens:
        """All tokens, as views."""
        return self._rows(0, self.count)

    def count_usage(self, usage: Float[Tensor, "1 M"]) -> None:
        """Remember how much affinity each token received on a frame. Pinned tokens need no ranking.

        Columns are replaced, not changed in place: a saved state may share them.
        """
        if not self.config.use_long_term:
            return
        counts = torch.ones_like(usage)
        counts[:, self.num_long : self.num_long + self.num_pinned] = 0
        if not self.config.long_term.count_usage:
            counts[:, : self.num_long] = 0
        table = self._table
        assert table is not None
        use, life = table.use.clone(), table.life.clone()
        use[:, : self.count, 0] += usage * counts
        life[:, : self.count, 0] += counts
        self._table = table._replace(use=use, life=life)

    # ------------------------------------------------------------------------------------------------------ writing
    def write(self, tokens: MemoryTokens, pin: bool) -> None:
        """Add one frame's tokens, pinned if asked or if they are the bank's first, and make room for them."""
        if self._table is None:
            self.frame_tokens = tokens.count
            self.num_pinned = tokens.count
            self._store(tokens)
        elif pin:
            long, rest = self._rows(0, self.num_long), self._rows(self.num_long, self.count)
            self.num_pinned += tokens.count
            self._store(long, tokens, rest)
        else:
            self._write_recent(tokens)

    def _write_recent(self, tokens: MemoryTokens) -> None:
        config, start = self.config, self.num_long + self.num_pinned
        long, pinned = self._rows(0, self.num_long), self._rows(self.num_long, start)
        recent = _concat(self._rows(start, self.count), tokens)
        limit = self._recent_limit()
        if config.use_long_term:
            if recent.count >= limit:
                newest = (config.long_term.min_mem_frames - 1) * self.frame_tokens
                candidates = recent.rows(0, recent.count - newest)
                long = _concat(self._room_made(long), consolidate(candidates, config.long_term.num_prototypes))
                recent = recent.rows(recent.count - newest, recent.count)
        elif recent.count > limit:
            recent = recent.rows(recent.count - limit, recent.count)
        self.num_long, self.num_recent = long.count, recent.count
        self._store(long, pinned, recent)

    def _room_made(self, long: MemoryTokens) -> MemoryTokens:
        """Long-term tokens with room for one more consolidation."""
        config = self.config.long_term
        room = config.max_num_tokens - config.num_prototypes
        if long.count < room:
            return long
        kept = room - config.buffer_tokens
        # without counts there is nothing to rank by, and the newest prototypes stand at the end
        return long.take(ranked(long, kept)) if config.count_usage else long.rows(long.count - kept, long.count)

    def forget_recent(self) -> None:
        """Drop everything that is not pinned."""
        pinned = self._rows(self.num_long, self.num_long + self.num_pinned)
        self.num_long = self.num_recent = 0
        self._store(pinned)

    def keep_objects(self, ids: Sequence[ObjectId]) -> None:
        """Drop the values of all objects but `ids`."""
        stay = [slot for slot, i in enumerate(self.ids) if i in ids]
        self.ids = [self.ids[slot] for slot in stay]
        self._table = self._columns.objects(torch.tensor(stay, device=self._columns.key.device))

    # ------------------------------------------------------------------------------------------------------ storage
    @property
    def _columns(self) -> MemoryTokens:
        assert self._table is not None, "a bank is written before it is read"
        return self._table

    def _rows(self, start: int, stop: int) -> MemoryTokens:
        return self._columns.rows(start, stop)

    def _recent_limit(self) -> int:
        config = self.config
        frames = config.long_term.max_mem_frames if config.use_long_term else config.max_mem_frames
        return (frames - 1) * self.frame_tokens

    def _bound(self) -> int:
        """Rows that the table never needs to exceed unless more frames are pinned."""
        long = self.config.long_term.max_num_tokens if self.config.use_long_term else 0
        return long + self.num_pinned + self._recent_limit()

    def _store(self, *parts: MemoryTokens, capacity: int = 0) -> None:
        """Make `parts`, in that order, the new table, with room to spare up to the bound."""
        rows = sum(part.count for part in parts)
        bound = max(self._bound(), rows)
        old = max(capacity, self._table.count if self._table is not None else 0)
        # all of working memory's room from the start, long-term memory's as it fills: each then keeps its size
        working = self.num_pinned + self._recent_limit()
        enough = self.num_long + working <= old
        capacity = min(old if enough else max(rows, self.num_long * 3 // 2 + working), bound)
        columns = []
        for pieces in zip(*parts):
            column = pieces[0].new_empty(*pieces[0].shape[:-2], capacity, pieces[0].shape[-1])
            start = 0
            for piece in pieces:
                column[..., start : start + piece.shape[-2], :] = piece
                start += piece.shape[-2]
            columns.append(column)
        self._table = MemoryTokens(*columns)

    def bytes(self) -> tuple[int, int]:
        """Memory taken by working and by long-term tokens, room to spare included."""
        row = sum(column[..., :1, :].numel() * column.element_size() for column in self._columns)
        capacity = self._columns.count
        long = max(self.num_long, capacity - self.num_pinned - self._recent_limit()) if self.config.use_long_term else 0
        return (capacity - long) * row, long * row

    def state_dict(self) -> StateDict:
        """Everything but the configuration."""
        return {
            "ids": list(self.ids),
            "counts": [self.num_long, self.num_pinned, self.num_recent],
            "frame_tokens": self.frame_tokens,
            "capacity": self._columns.count,
            "tokens": {name: column.clone() for name, column in self.tokens._asdict().items()},
        }

    @classmethod
    def from_state(cls, state: StateDict, config: TrackerConfig, device: torch.device) -> "TokenBank":
        """The bank that `state_dict` described."""
        bank = cls(state["ids"], config)
        bank.num_long, bank.num_pinned, bank.num_recent = state["counts"]
        bank.frame_tokens = state["frame_tokens"]
        tokens = MemoryTokens(**{name: column.to(device) for name, column in state["tokens"].items()})
        bank._store(tokens, capacity=state["capacity"])
        return bank


def _concat(*parts: MemoryTokens) -> MemoryTokens:
    return MemoryTokens(*(torch.cat(columns, dim=-2) for columns in zip(*parts)))


def slots_of(bank_ids: Sequence[ObjectId], ids: Sequence[ObjectId], device: torch.device) -> Int[Tensor, "n"]:
    """Where a bank's objects sit among all objects."""
    return torch.tensor([ids.index(i) for i in bank_ids], dtype=torch.long, device=device)
