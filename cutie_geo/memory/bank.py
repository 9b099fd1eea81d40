"""Token memory of one group of objects: long-term, permanent and recent tokens in one table."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutie_geo.config import TrackerConfig
from cutie_geo.memory.long_term import consolidate, ranked
from cutie_geo.ops import similarity
from cutie_geo.structures import FrameFeatures, MemoryTokens, ObjectId, StateDict

MAX_PROMPTED_FRAMES = 10
"""Maximum number of an object's permanent frames that a correction keeps, which bounds memory."""
AGREEMENT = 0.5
"""Minimum IoU of soft masks at which a correction confirms an earlier prompt."""
VISIBLE = 1e-3
"""Minimum mean probability at which an object is visible at a position; aggregated probabilities are never 0."""
AGREEMENT_TOKENS = 30
"""Number of positions of the corrected frame that each position of an earlier frame reads (top-k)."""


class TokenBank:
    """Memory tokens of objects that entered on the same frame: one key for each token, one value for each object.

    The rows are `[long-term | permanent | recent]`, so that a read sees one table and copies nothing. Permanent tokens
    stay for the whole video. Recent tokens are first in, first out, or are consolidated into long-term memory. The
    table grows to a bound that does not depend on the video's length and then keeps its size.
    """

    def __init__(self, ids: Sequence[ObjectId], config: TrackerConfig) -> None:
        self.ids = list(ids)
        self.config = config
        self.num_long = self.num_permanent = self.num_recent = 0
        self.frame_tokens = 0
        self.prompt_masks: Float[Tensor, "1 N M 1"] | None = None
        """Mask of each object at the permanent tokens' positions, for comparison with later corrections."""
        self._table: MemoryTokens | None = None

    # ------------------------------------------------------------------------------------------------------ reading
    @property
    def count(self) -> int:
        """Number of tokens."""
        return self.num_long + self.num_permanent + self.num_recent

    @property
    def tokens(self) -> MemoryTokens:
        """All tokens, as views of the table."""
        return self._rows(0, self.count)

    def count_usage(self, usage: Float[Tensor, "1 M"]) -> None:
        """Add the affinity that each token received on a frame. Permanent tokens are never ranked.

        Columns are replaced, not changed in place: a saved state may share them.
        """
        if not self.config.use_long_term:
            return
        counts = torch.ones_like(usage)
        counts[:, self.num_long : self.num_long + self.num_permanent] = 0
        if not self.config.long_term.count_usage:
            counts[:, : self.num_long] = 0
        table = self._table
        assert table is not None
        use, life = table.use.clone(), table.life.clone()
        use[:, : self.count, 0] += usage * counts
        life[:, : self.count, 0] += counts
        self._table = table._replace(use=use, life=life)

    # ------------------------------------------------------------------------------------------------------ writing
    def write(self, tokens: MemoryTokens, permanent: bool, masks: Float[Tensor, "1 N P 1"] | None = None) -> None:
        """Add one frame's tokens within the memory limits. The bank's first frame is always permanent.

        Args:
            tokens: Tokens of one frame.
            permanent: Add the tokens to permanent memory.
            masks: Mask of each object at the tokens' positions, stored for permanent tokens.
        """
        masks = tokens.value.new_zeros(*tokens.value.shape[:-1], 1) if masks is None else masks
        if self._table is None:
            self.frame_tokens = tokens.count
            self.num_permanent = tokens.count
            self.prompt_masks = masks
            self._store(tokens)
        elif permanent:
            assert self.prompt_masks is not None, "a bank's first frame is permanent"
            self.prompt_masks = torch.cat([masks, self.prompt_masks], dim=2)
            long, rest = self._rows(0, self.num_long), self._rows(self.num_long, self.count)
            self.num_permanent += tokens.count
            self._store(long, tokens, rest)
        else:
            self._write_recent(tokens)

    def _write_recent(self, tokens: MemoryTokens) -> None:
        config, start = self.config, self.num_long + self.num_permanent
        long, permanent = self._rows(0, self.num_long), self._rows(self.num_long, start)
        recent = _concat(self._rows(start, self.count), tokens)
        limit = self._recent_limit()
        if config.use_long_term:
            if recent.count >= limit:
                newest = (config.long_term.min_mem_frames - 1) * self.frame_tokens
                candidates = recent.rows(0, recent.count - newest)
                long = _concat(self._with_space(long), consolidate(candidates, config.long_term.num_prototypes))
                recent = recent.rows(recent.count - newest, recent.count)
        elif recent.count > limit:
            recent = recent.rows(recent.count - limit, recent.count)
        self.num_long, self.num_recent = long.count, recent.count
        self._store(long, permanent, recent)

    def _with_space(self, long: MemoryTokens) -> MemoryTokens:
        """Drop the least used long-term tokens if another consolidation would not fit."""
        config = self.config.long_term
        space = config.max_num_tokens - config.num_prototypes
        if long.count < space:
            return long
        kept = space - config.buffer_tokens
        # without counts tokens cannot be ranked, and the newest prototypes are at the end
        return long.take(ranked(long, kept)) if config.count_usage else long.rows(long.count - kept, long.count)

    def forget_recent(self) -> None:
        """Drop all tokens but permanent ones."""
        permanent = self._rows(self.num_long, self.num_long + self.num_permanent)
        self.num_long = self.num_recent = 0
        self._store(permanent)

    def corrected(self, object_id: ObjectId, features: FrameFeatures, mask: Float[Tensor, "1 1 P 1"]) -> "TokenBank":
        """Return a bank of one corrected object with its newest permanent frames that agree with the correction.

        At most `MAX_PROMPTED_FRAMES` frames are kept.

        Args:
            object_id: Corrected object.
            features: Features of the corrected frame.
            mask: Mask of the object at the positions of the corrected frame.
        """
        bank, slot = TokenBank([object_id], self.config), self.ids.index(object_id)
        assert self.prompt_masks is not None, "a bank is written before it is corrected"
        starts = range(0, self.num_permanent, self.frame_tokens)
        tokens = [self._rows(self.num_long + k, self.num_long + k + self.frame_tokens) for k in starts]
        known = [self.prompt_masks[:, slot : slot + 1, k : k + self.frame_tokens] for k in starts]
        frames = list(zip(tokens, known))
        frames = [frame for frame in frames if _agrees(*frame, features, mask)][:MAX_PROMPTED_FRAMES]
        if frames:
            one = torch.tensor([slot], device=self._columns.key.device)
            tokens = _concat(*(tokens for tokens, _ in frames)).objects(one)
            bank.frame_tokens, bank.num_permanent = self.frame_tokens, tokens.count
            bank.prompt_masks = torch.cat([known for _, known in frames], dim=2)
            bank._store(tokens)
        return bank

    def keep_objects(self, ids: Sequence[ObjectId]) -> None:
        """Remove the values of all objects but `ids`."""
        stay = [slot for slot, i in enumerate(self.ids) if i in ids]
        self.ids = [self.ids[slot] for slot in stay]
        index = torch.tensor(stay, device=self._columns.key.device)
        self._table = self._columns.objects(index)
        if self.prompt_masks is not None:
            self.prompt_masks = self.prompt_masks[:, index]

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
        """Return the largest number of rows that the table needs with the current permanent tokens."""
        long = self.config.long_term.max_num_tokens if self.config.use_long_term else 0
        return long + self.num_permanent + self._recent_limit()

    def _store(self, *parts: MemoryTokens, capacity: int = 0) -> None:
        """Store the concatenation of `parts` as the new table, with spare rows up to the bound."""
        rows = sum(part.count for part in parts)
        bound = max(self._bound(), rows)
        old = max(capacity, self._table.count if self._table is not None else 0)
        # working memory is allocated at once, long-term memory as it fills
        working = self.num_permanent + self._recent_limit()
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
        """Return the bytes of working and of long-term tokens, spare rows included."""
        row = sum(column[..., :1, :].numel() * column.element_size() for column in self._columns)
        capacity = self._columns.count
        long = (
            max(self.num_long, capacity - self.num_permanent - self._recent_limit()) if self.config.use_long_term else 0
        )
        masks = 0 if self.prompt_masks is None else self.prompt_masks.numel() * self.prompt_masks.element_size()
        return (capacity - long) * row + masks, long * row

    def state_dict(self) -> StateDict:
        """Return everything but the configuration."""
        return {
            "ids": list(self.ids),
            "counts": [self.num_long, self.num_permanent, self.num_recent],
            "frame_tokens": self.frame_tokens,
            "capacity": self._columns.count,
            "prompt_masks": None if self.prompt_masks is None else self.prompt_masks.clone(),
            "tokens": {name: column.clone() for name, column in self.tokens._asdict().items()},
        }

    @classmethod
    def from_state(cls, state: StateDict, config: TrackerConfig, device: torch.device) -> "TokenBank":
        """Build a bank from the result of `state_dict`."""
        bank = cls(state["ids"], config)
        bank.num_long, bank.num_permanent, bank.num_recent = state["counts"]
        bank.frame_tokens = state["frame_tokens"]
        tokens = MemoryTokens(**{name: column.to(device) for name, column in state["tokens"].items()})
        known = state.get("prompt_masks")  # states of earlier versions have none, so no correction confirms them
        empty = tokens.value.new_zeros(1, len(bank.ids), bank.num_permanent, 1)
        bank.prompt_masks = empty if known is None else known.to(device)
        bank._store(tokens, capacity=state["capacity"])
        return bank


def _concat(*parts: MemoryTokens) -> MemoryTokens:
    return MemoryTokens(*(torch.cat(columns, dim=-2) for columns in zip(*parts)))


def _agrees(
    tokens: MemoryTokens,
    known: Float[Tensor, "1 1 P 1"],
    features: FrameFeatures,
    mask: Float[Tensor, "1 1 P 1"],
) -> bool:
    """Return True if a correction is consistent with the prompt on an earlier frame.

    Every position of the earlier frame reads the mask of the corrected frame, as in the reading of memory. An empty
    correction means that the object is not visible; it is consistent with every prompt.
    """
    if not bool((mask > VISIBLE).any()):
        return True
    scores = similarity(tokens.key, tokens.selection, features.key.float(), features.shrinkage.float())
    best = scores.topk(min(AGREEMENT_TOKENS, scores.shape[-1]), dim=-1)
    found = (best.values.softmax(dim=-1) * mask[:, 0, :, 0][:, best.indices[0]]).sum(-1)
    prompted = known[:, 0, :, 0]
    union = float(torch.maximum(found, prompted).sum())
    return union > 0 and float(torch.minimum(found, prompted).sum()) / union >= AGREEMENT


def slots_of(bank_ids: Sequence[ObjectId], ids: Sequence[ObjectId], device: torch.device) -> Int[Tensor, "n"]:
    """Return the slots of a bank's objects among all objects."""
    return torch.tensor([ids.index(i) for i in bank_ids], dtype=torch.long, device=device)
