"""Tables of positions that are stretched over a frame: computed once a size and set of weights, not once a frame."""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class _Kept(NamedTuple):
    key: Hashable
    stretched: Tensor


class StretchedTable:
    """The last stretched form of a table, for as long as size and table stay the same. Bicubic enlargement of a table
    takes a CPU several milliseconds, and the frames of a video are alike in size."""

    def __init__(self) -> None:
        self._kept: _Kept | None = None

    def get(self, tables: Sequence[Tensor], size: Hashable, stretch: Callable[[], Tensor]) -> Tensor:
        """What `stretch()` makes of the weights `tables` for this size of frames.

        Computed anew where gradients flow back to the tables, and where weights that were born in inference mode don't
        tell whether they have changed. Not to be called where torch compiles, which can't trace it.
        """
        learning = torch.is_grad_enabled() and any(table.requires_grad for table in tables)
        if learning or any(table.is_inference() for table in tables):
            return stretch()
        state = [(table.data_ptr(), table._version, table.dtype, table.device) for table in tables]
        key = (size, *state, torch.is_autocast_enabled(tables[0].device.type))
        kept = self._kept
        if kept is None or kept.key != key:
            # one that comes out of inference mode could not be used outside of it
            with torch.inference_mode(False), torch.no_grad():
                kept = _Kept(key, stretch())
            self._kept = kept  # at once: another thread may see frames of another size
        return kept.stretched
