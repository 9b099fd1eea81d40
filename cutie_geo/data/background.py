"""Reading ahead of the main loop, writing behind it, and never leaving half a file."""

import errno
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

log = logging.getLogger(__name__)

S = TypeVar("S")
T = TypeVar("T")

CLOSE_PATIENCE = 1.0
"""Seconds that a closed `read_ahead` waits for its thread, unless it is told otherwise; a source stuck in a read must
not hang the caller."""


# ---------------------------------------------------------------------------------------------------------- files
@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a hidden name beside `path` to write to; it becomes `path` when the block ends, or vanishes if it fails.

    Makes the folder if there is none. The hidden name ends in `.part`: say the format to a library that goes by suffix.
    An OSError inside leaves as one that names `path`, of the same subclass; errors that name another file, and
    all other errors, pass unchanged.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        _discard(part)
        if error.filename is not None and Path(error.filename) not in (part, path, *path.parents):
            raise
        # built from its number, an OSError chooses its own subclass; libraries' errors often lack number and file
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
    except BaseException:
        _discard(part)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with atomic_write(path) as part:
        part.write_bytes(content)


def _discard(part: Path) -> None:
    """Remove `part` if it is there. Silent where it can't be: the error being handled says more."""
    try:
        part.unlink(missing_ok=True)
    except OSError:
        log.debug("%s: left behind", part)


# -------------------------------------------------------------------------------------------------------- reading
def read_ahead(iterable: Iterable[T], depth: int = 4, patience: float = CLOSE_PATIENCE) -> Generator[T, None, None]:
    """The items of `iterable`, at most `depth` of them fetched before they are asked for, by one daemon thread.

    Its error is raised here, after the items that came before it. The thread starts at the first `next`; when this
    generator is closed or dropped the thread stops after the item at hand, and closes the iterator if that has `close`;
    for that it is waited for, `patience` seconds at most.
    Raises ValueError at once if `depth` is not positive.
    """
    if depth < 1:
        raise ValueError(f"read_ahead: got depth={depth}, wanted 1 or more")
    return _read_ahead(iterable, depth, patience)


def _read_ahead(iterable: Iterable[T], depth: int, patience: float) -> Generator[T, None, None]:
    """The generator behind `read_ahead`, apart from it so that a wrong depth is an error at the call."""
    out: SimpleQueue[tuple[bool, Any]] = SimpleQueue()
    room = threading.Semaphore(depth)
    stop = threading.Event()
    thread = threading.Thread(target=_fetch, args=(iterable, out, room, stop), name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            more, item = out.get()
            if not more:
                break
            room.release()
            yield item
    finally:
        stop.set()
        room.release()
        thread.join(patience)
    if item is not None:
        raise item


def _fetch(
    iterable: Iterable[Any], out: SimpleQueue[tuple[bool, Any]], room: threading.Semaphore, stop: threading.Event
) -> None:
    """Put (True, item) for each item, then (False, the error or None). Runs in `read_ahead`'s thread."""
    failure: BaseException | None = None
    iterator: Any = None
    try:
        iterator = iter(iterable)
        while room.acquire() and not stop.is_set():
            out.put((True, next(iterator)))
    except StopIteration:
        pass
    except BaseException as error:  # whatever it is, it belongs to the consumer
        failure = error
    try:
        if hasattr(iterator, "close"):
            iterator.close()  # here, since a generator can't be closed while another thread may still be inside it
    except BaseException as error:
        failure = failure or error
    out.put((False, failure))


def map_ahead(fn: Callable[[S], T], items: Iterable[S], workers: int, ahead: int) -> Iterator[T]:
    """`map(fn, items)` in order, by `workers` threads that are never more than `ahead` items in front.

    An error of `fn` is raised in its item's place. Closing the generator waits only for calls already running.
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
    """Runs calls in `workers` threads, with at most `pending` of them waiting or running; for files written behind the
    main loop.

        with Writer() as writer:
            writer.submit(write_labels, path, labels)

    A failed call is raised by the next `submit`, or at the end of the block, which waits for all calls. If the block
    itself raises, calls not yet begun are dropped, those running are waited for, and their failures are logged.
    With more than one worker calls may run in another order than submitted.
    """

    def __init__(self, workers: int = 2, pending: int = 16) -> None:
        if workers < 1 or pending < 1:
            raise ValueError(f"Writer: got workers={workers}, pending={pending}, wanted 1 or more of each")
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="writer")
        self._room = threading.BoundedSemaphore(pending)
        self._failures: deque[BaseException] = deque()

    def submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Have `fn(*args, **kwargs)` called soon; blocks while `pending` calls are held. Raises earlier failures."""
        self._room.acquire()
        try:
            self._raise_first()
            self._pool.submit(self._run, fn, args, kwargs).add_done_callback(self._done)
        except BaseException:
            self._room.release()
            raise

    def _run(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Call `fn` and keep its failure. The failure is kept before the room is given back, so that a `submit` that
        was waiting for room sees it.
        """
        try:
            fn(*args, **kwargs)
        except BaseException as error:
            self._failures.append(error)

    def _done(self, _: Future[None]) -> None:
        """Give room back, for calls that ran and for calls that were dropped."""
        self._room.release()

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
