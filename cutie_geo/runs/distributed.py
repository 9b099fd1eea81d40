"""Processes of an `accelerate launch` or `torchrun` that partition the videos of a run; one process without a
launcher.
"""

import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed
from torch.distributed import distributed_c10d

from cutie_geo.errors import one_line

T = TypeVar("T")

INTERFACE = "GLOO_SOCKET_IFNAME"
"""Environment variable that names gloo's network interface."""
JOIN_PATIENCE = timedelta(minutes=15)
"""Timeout for connecting to the other processes: launches on several machines need not begin at the same time."""
LOST = re.compile("gloo|nccl|connection (closed|reset)|broken pipe", re.IGNORECASE)
"""Errors of collective operations that lost their connection."""
ELSEWHERE = "192.0.2.1"
"""Address of no machine (RFC 5737); the route to it is the default route. Nothing is sent there."""

PATIENCE = timedelta(days=30)
"""Timeout for waiting on other processes: run times of videos differ by hours."""
LAUNCHED = ("RANK", "LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")
"""Environment variables by which launchers number their processes."""
POLL = 0.05
"""Seconds between checks for the other processes; a blocking wait would not see Ctrl-C."""


class Processes:
    """Rank and size of the process group, with its collective operations."""

    def __init__(self, device: str) -> None:
        """Join the process group.

        Args:
            device: the user's device, which determines whether processes get GPUs.

        Raises:
            ValueError: if the other processes cannot be reached.
        """
        self._state: Any = None
        self.index, self.count = 0, 1
        if any(name in os.environ for name in LAUNCHED):
            from accelerate import PartialState  # takes a second to import, which one process need not wait

            cpu = device == "cpu" or not torch.cuda.is_available()
            self._state = join(lambda timeout: PartialState(cpu=cpu, timeout=timeout), PATIENCE)
            self.index, self.count = self._state.process_index, self._state.num_processes
        self.is_main = self.index == 0
        # reports are small, so they are gathered on the CPU for every device
        self._group: Any = join(_gloo_group, PATIENCE) if self.count > 1 else None

    def device(self, wanted: str) -> str | torch.device:
        """Return the device of this process: an own GPU if there are several processes and `wanted` does not name
        one.
        """
        own = self._state.device if self.count > 1 and wanted in ("auto", "cuda") else None
        return own or wanted

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's shard of `items`: every `count`-th one."""
        return items[self.index :: self.count]

    def wait(self) -> None:
        """Wait until every process has called this. Raises ValueError if one of them has died."""
        if self._group is None:
            return
        with connected():
            work = torch.distributed.barrier(self._group, async_op=True)
            while work is not None and not work.is_completed():
                time.sleep(POLL)
            if work is not None:
                work.wait()  # raises the error of a lost connection

    def gather(self, items: list[Any]) -> list[Any]:
        """Return the concatenated lists of all processes, in every process. Raises ValueError if one has died."""
        if self._group is None:
            return items
        self.wait()
        lists: list[Any] = [None] * self.count
        with connected():
            torch.distributed.all_gather_object(lists, items, group=self._group)
        return [item for part in lists for item in part]

    def leave(self) -> None:
        """Wait for all processes, then leave the group: a launcher ends all processes as soon as one fails."""
        if self._group is not None:
            self.wait()
            torch.distributed.destroy_process_group()


# --------------------------------------------------------------------------------------------------------- connecting
def join(make: Callable[[timedelta], T], patience: timedelta) -> T:
    """Return `make(timeout)`, which connects to the other processes of a launch, if there are any.

    Args:
        make: Joins a process group with a timeout.
        patience: Timeout of later operations of the group.

    Raises:
        ValueError: if the other processes cannot be reached.
    """
    choose_interface()
    alone = _environment_number("WORLD_SIZE") < 2
    try:
        joined = make(JOIN_PATIENCE)
    except RuntimeError as error:
        if alone:
            raise
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        who = f"process {os.environ.get('RANK')} of {os.environ.get('WORLD_SIZE')}"
        raise ValueError(
            f"{who}: cannot reach the others, main process at {place}: {one_line(error)}; expected a network between "
            f"all machines, on the interface {os.environ.get(INTERFACE) or 'of the host name'} ({INTERFACE})"
        ) from error
    if not alone and torch.distributed.is_initialized():
        _set_timeout(patience, joined if isinstance(joined, torch.distributed.ProcessGroup) else None)
    return joined


def choose_interface() -> None:
    """Set gloo's network interface for launches on several machines, unless the user did.

    Gloo would use the address of the host name, which is often that of the loopback.
    """
    if INTERFACE in os.environ or _environment_number("LOCAL_WORLD_SIZE") >= _environment_number("WORLD_SIZE"):
        return
    for address in (os.environ.get("MASTER_ADDR", ""), ELSEWHERE):
        own = _own_address(address)
        for name, addresses in psutil.net_if_addrs().items():
            if own is not None and own in {each.address.partition("%")[0] for each in addresses}:
                os.environ[INTERFACE] = name
                return


def local_processes(count: int) -> int:
    """Return the number of processes of a launch on this machine. `count` is that of all machines."""
    return _environment_number("LOCAL_WORLD_SIZE", count)


def _own_address(address: str) -> str | None:
    """Return this machine's address on the route to another; None for the loopback and if there is no route."""
    try:
        family, _, _, _, where = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(where)  # chooses the route; sends nothing
            own = str(probe.getsockname()[0]).partition("%")[0]
    except OSError:
        return None
    return None if own.startswith("127.") or own == "::1" else own


def _environment_number(name: str, default: int = 1) -> int:
    try:
        return int(os.environ.get(name, default))
    except ValueError:
        return default


def _gloo_group(timeout: timedelta) -> Any:
    return torch.distributed.new_group(backend="gloo", timeout=timeout)


def _set_timeout(timeout: timedelta, group: Any) -> None:
    # public under another name from a later release on
    set_timeout = getattr(torch.distributed, "set_timeout", None) or distributed_c10d._set_pg_timeout
    set_timeout(timeout, group)


@contextmanager
def connected() -> Iterator[None]:
    """Raise ValueError if another process of the launch dies within the block."""
    try:
        yield
    except RuntimeError as error:
        if not LOST.search(str(error)):
            raise
        raise ValueError(
            f"another process of this launch has ended early: {one_line(error)}; complete results are kept, and the "
            "same command resumes"
        ) from error
