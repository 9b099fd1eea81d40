"""Background reading and writing, and atomic file writes."""

import errno
import hashlib
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, TypeVar

from cutie_geo.config import hidden_name

log = logging.getLogger(__name__)

S = TypeVar("S")
T = TypeVar("T")

CLOSE_PATIENCE = 1.0
"""Default time in seconds that a closed `read_ahead` waits for its thread, so that a blocked read does not hang the
caller.
"""


# ---------------------------------------------------------------------------------------------------------- files
def digest(path: Path, algorithm: str = "sha256") -> str:
    """Return a file's hexadecimal digest; `algorithm` is one of hashlib's names."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a hidden path beside `path` to write to; rename it to `path` when the block ends, or remove it if the block
    raises.

    The folder is created if it is missing. Hidden paths are unique, so two processes may write the same file. They end
    in `.part`: pass the format explicitly to a library that derives it from the suffix. An OSError inside the block is
    raised again with the name of `path` and the same subclass; errors that name another file, and all other errors,
    pass unchanged.
    """
    path = Path(path)
    part = hidden_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        _discard(part)
        if error.filename is not None and Path(error.filename) not in (part, path, *path.parents):
            raise
        # OSError(errno, ...) selects the subclass; errors of libraries often lack number and file
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
    except BaseException:
        _discard(part)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_write(path) as part:
        part.write_bytes(content)


def append_text(path: Path, text: str) -> None:
    """Append text to a file. Raises OSError with its name, also for a full disk."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:  # errors of writing and closing lack the file name
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error


def sync_files(paths: Iterable[Path]) -> None:
    """Flush files and their folders' entries to disk, so that they survive a power failure.

    Missing files, and operations that the file system does not support, are skipped.
    """
    paths = list(paths)
    for path in [*paths, *dict.fromkeys(path.parent for path in paths)]:
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            os.fsync(handle)
        except OSError:  # some network file systems cannot sync folders
            log.debug("%s: not synchronised", path)
        finally:
            os.close(handle)


def require_regular(path: str | Path) -> None:
    """Raise ValueError for a pipe, a device or a socket, which may never reach end of file.

    Folders and missing files pass; the caller reports them when it opens them.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path}: not a regular file; got a pipe, a device or a socket, expected a file")


def _discard(part: Path) -> None:
    """Remove `part` if it exists. Failures are only logged: the error being handled matters more."""
    try:
        part.unlink(missing_ok=True)
    except OSError:
        log.debug("%s: left behind", part)


# -------------------------------------------------------------------------------------------------------- reading
def read_ahead(iterable: Iterable[T], depth: int = 4, patience: float = CLOSE_PATIENCE) -> Generator[T, None, None]:
    """Yield the items of `iterable`, with up to `depth` of them fetched ahead by a daemon thread.

    An error of the iterable is raised after the items before it. The thread starts at the first `next`. When the
    generator is closed or dropped, the thread stops after the current item and closes the iterator if it has `close`;
    the caller waits at most `patience` seconds for that.

    Raises:
        ValueError: at the call, if `depth` is not positive.
    """
    if depth < 1:
        raise ValueError(f"read_ahead: got depth={depth}, expected 1 or more")
    return _read_ahead(iterable, depth, patience)


def _read_ahead(iterable: Iterable[T], depth: int, patience: float) -> Generator[T, None, None]:
    """Generate the items for `read_ahead`, which validates `depth` at the call."""
    out: SimpleQueue[tuple[bool, Any]] = SimpleQueue()
    slots = threading.Semaphore(depth)
    stop = threading.Event()
    thread = threading.Thread(target=_fetch, args=(iterable, out, slots, stop), name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            more, item = out.get()
            if not more:
                break
            slots.release()
            yield item
    finally:
        stop.set()
        slots.release()
        thread.join(patience)
    if item is not None:
        raise item


def _fetch(
    iterable: Iterable[Any], out: SimpleQueue[tuple[bool, Any]], slots: threading.Semaphore, stop: threading.Event
) -> None:
    """Put (True, item) for each item, then (False, the error or None). Runs in `read_ahead`'s thread."""
    failure: BaseException | None = None
    iterator: Any = None
    try:
        iterator = iter(iterable)
        while slots.acquire() and not stop.is_set():
            out.put((True, next(iterator)))
    except StopIteration:
        pass
    except BaseException as error:  # raised again in the consumer
        failure = error
    try:
        if hasattr(iterator, "close"):
            iterator.close()  # here, because another thread cannot close a running generator
    except BaseException as error:
        failure = failure or error
    out.put((False, failure))


def map_ahead(fn: Callable[[S], T], items: Iterable[S], workers: int, ahead: int) -> Iterator[T]:
    """Yield `map(fn, items)` in order, computed by `workers` threads at most `ahead` items ahead.

    An error of `fn` is raised in place of its result. Closing the generator waits only for calls that already run.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="map-ahead")
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(fn, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# -------------------------------------------------------------------------------------------------------- writing
class Writer:
    """Thread pool for file writes in the background, with at most `pending` calls waiting or running.

        with Writer() as writer:
            writer.submit(write_labels, path, labels)

    A failed call is raised by the next `submit`, or at the end of the block, which waits for all calls. If the block
    itself raises, waiting calls are dropped, running calls are finished, and their failures are logged.
    With several workers, calls may run in another order than submitted.
    """

    def __init__(self, workers: int = 2, pending: int = 16) -> None:
        if workers < 1 or pending < 1:
            raise ValueError(f"Writer: got workers={workers}, pending={pending}, expected 1 or more of each")
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="writer")
        self._slots = threading.BoundedSemaphore(pending)
        self._failures: deque[BaseException] = deque()

    def submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Queue `fn(*args, **kwargs)`; block while `pending` calls are queued. Raises earlier failures."""
        self._slots.acquire()
        try:
            self._raise_first()
            self._pool.submit(self._run, fn, args, kwargs).add_done_callback(self._done)
        except BaseException:
            self._slots.release()
            raise

    def _run(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Call `fn` and store its failure before the slot is released, so that a blocked `submit` raises it."""
        try:
            fn(*args, **kwargs)
        except BaseException as error:
            self._failures.append(error)

    def _done(self, _: Future[None]) -> None:
        """Release the slot of a finished or dropped call."""
        self._slots.release()

    def _raise_first(self) -> None:
        """Raise the oldest failure, once."""
        if self._failures:
            raise self._failures.popleft()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=error is not None)
        first = self._failures.popleft() if self._failures and error is None else None
        for failure in self._failures:
            log.error("background call failed too: %s: %s", type(failure).__name__, failure)
        self._failures.clear()
        if first is not None:
            raise first
