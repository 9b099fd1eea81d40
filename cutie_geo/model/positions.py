"""Cache of interpolated position tables."""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake


class _Kept(NamedTuple):
    key: Hashable
    stretched: Tensor


class StretchedTable:
    """Cache of the last interpolated position table, valid while size and weights stay the same.

    Bicubic interpolation of a table takes a CPU several milliseconds, and all frames of a video have one size.
    """

    def __init__(self) -> None:
        self._kept: _Kept | None = None

    def get(self, tables: Sequence[Tensor], size: Hashable, stretch: Callable[[], Tensor]) -> Tensor:
        """Return `stretch()`, the interpolation of `tables` to frames of this size, from the cache if possible.

        The cache is not used if the tables need gradients, or if they were created in inference mode, where torch does
        not count changes. Do not call this while torch compiles: it cannot be traced.
        """
        learning = torch.is_grad_enabled() and any(table.requires_grad for table in tables)
        if learning or any(table.is_inference() for table in tables):
            return stretch()
        state = [(table.data_ptr(), table._version, table.dtype, table.device) for table in tables]
        key = (size, *state, torch.is_autocast_enabled(tables[0].device.type))
        kept = self._kept
        if kept is None or kept.key != key:
            # a tensor created in inference mode could not be used outside of it
            with torch.inference_mode(False), torch.no_grad():
                kept = _Kept(key, stretch())
            if is_fake(kept.stretched):  # a pass that only counts FLOPs leaves no values for later ones
                return kept.stretched
            self._kept = kept  # one assignment: another thread may use frames of another size
        return kept.stretched
