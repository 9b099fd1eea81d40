"""Tables of positions that are stretched over a frame: computed once a size and set of weights, not once a frame."""

from collections.abc import Callable, Hashable
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

    def get(self, table: Tensor, size: Hashable, stretch: Callable[[], Tensor]) -> Tensor:
        """What `stretch()` gives for the weights `table` and this size of frames.

        Computed anew where gradients flow back to the table, and where torch compiles.
        """
        if torch.compiler.is_compiling() or table.is_inference() or (torch.is_grad_enabled() and table.requires_grad):
            return stretch()
        autocast = torch.is_autocast_enabled(table.device.type)
        key = (size, table.data_ptr(), table._version, table.dtype, table.device, autocast)
        if self._kept is None or self._kept.key != key:
            # one that comes out of inference mode could not be used outside of it
            with torch.inference_mode(False), torch.no_grad():
                self._kept = _Kept(key, stretch())
        return self._kept.stretched
