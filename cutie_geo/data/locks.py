"""File locks that prevent two processes from writing the same results."""

import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from cutie_geo.config import read_json
from cutie_geo.data.io_threads import atomic_write

log = logging.getLogger(__name__)

PATIENCE, POLL = 10.0, 0.1
"""Seconds to wait for the lock of a dead process, whose workers may still hold it, and seconds between attempts."""
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
"""Error numbers of file systems without locks."""


class Busy(ValueError):
    """Another process holds a lock; the text names it."""


@contextmanager
def exclusive(path: Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` within the block. The system frees it when the process ends.

    Args:
        path: Lock file, created if needed.
        what: Name of what is locked, for the error.
        wait: Seconds to wait for a running process that holds the lock.

    Raises:
        Busy: if another process holds it; the text has `what`, the process id, the machine and the start time.
        OSError: if the file cannot be created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    holder = path.with_name(f"{path.name}.json")
    if not _acquire(lock, holder, what, wait):
        yield
        return
    try:
        with atomic_write(holder) as part:
            part.write_text(json.dumps(_self()) + "\n", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, holder: Path, what: str, wait: float) -> bool:  # type: ignore[valid-type]
    """Acquire the lock; return False if the file system has no locks. Raises Busy."""
    started = time.monotonic()
    while True:
        try:
            lock.acquire(timeout=0)  # type: ignore[attr-defined]
            return True
        except Timeout:
            found = _read(holder)
            if time.monotonic() > started + (wait if _is_alive(found) else max(wait, PATIENCE)):
                raise Busy(f"{what}: another process is writing it: {_shown(found)}; wait for it or stop it") from None
            time.sleep(POLL)
        except (NotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                raise
            log.warning("%s: the file system has no locks; expected only one process to write there", holder.parent)
            return False


def _self() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": round(time.time(), 3)}


def _read(holder: Path) -> dict[str, Any]:
    """Return the holder of a lock; empty if it is unknown, for example right after the lock was taken."""
    try:
        found = read_json(holder)
    except (OSError, ValueError):
        return {}
    types = {"pid": int, "host": str, "since": (int, float)}
    known = isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in types.items())
    return found if known else {}


def _is_alive(holder: dict[str, Any]) -> bool:
    """Return True if a holder still runs; holders on other machines are assumed to run."""
    if not holder:
        return False
    if holder["host"] != socket.gethostname():
        return True
    try:
        process = psutil.Process(holder["pid"])
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= holder["since"] + 1
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _shown(holder: dict[str, Any]) -> str:
    if not holder:
        return "its process is unknown"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
    return f"pid {holder['pid']} on {holder['host']}, since {since}"
