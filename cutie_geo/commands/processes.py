"""The processes of one `accelerate launch` or `torchrun`, which share a run's videos; just one without them."""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed
from accelerate import PartialState

T = TypeVar("T")

PATIENCE = timedelta(days=30)
"""How long a process that is done waits for others: videos differ in length by hours."""
POLL = 0.05
"""Seconds between two looks at whether the others are there; a blocking wait would not see Ctrl-C."""


class Processes:
    """This process among its like."""

    def __init__(self, device: str) -> None:
        """device: what the user asked for; decides whether processes are given GPUs."""
        cpu = device == "cpu" or not torch.cuda.is_available()
        self._state = PartialState(cpu=cpu, timeout=PATIENCE)
        self.index, self.count = self._state.process_index, self._state.num_processes
        self.is_main = self.index == 0
        # reports are small and travel by way of the CPU, whatever the videos are computed on
        self._group: Any = torch.distributed.new_group(backend="gloo", timeout=PATIENCE) if self.count > 1 else None

    def device(self, wanted: str) -> str | torch.device:
        """The device of this process: each its own GPU if there are several and `wanted` doesn't name one."""
        own = self._state.device if self.count > 1 and wanted in ("auto", "cuda") else None
        return own or wanted

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of `items`: every `count`-th one."""
        return items[self.index :: self.count]

    def wait(self) -> None:
        """Return once every process has called this."""
        if self._group is None:
            return
        work = torch.distributed.barrier(self._group, async_op=True)
        while work is not None and not work.is_completed():
            time.sleep(POLL)

    def gather(self, items: list[Any]) -> list[Any]:
        """The lists of all processes as one, in every process. Waits for the last."""
        if self._group is None:
            return items
        self.wait()
        lists: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(lists, items, group=self._group)
        return [item for part in lists for item in part]

    def leave(self) -> None:
        """Wait until all are done, then part: a launcher ends its other processes as soon as one fails."""
        if self._group is not None:
            self.wait()
            torch.distributed.destroy_process_group()
