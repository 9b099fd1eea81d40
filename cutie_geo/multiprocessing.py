"""Start method of worker processes and deferral of interruptions."""

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from typing import Any


def clean_processes(module: str) -> BaseContext:
    """Return a multiprocessing context whose workers ignore Ctrl-C and are forked from a server that imported `module`.

    Plain fork copies a parent with threads and CUDA, which may hang or break the child. Spawn, the fallback on systems
    without a fork server, is as safe, but each worker repeats all imports.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    resource_tracker.ensure_running()  # first, because it unblocks the signal when it starts
    # inherited by server and workers: a terminal sends Ctrl-C to all of them, even before their first line runs
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer SIGINT and SIGTERM to the end of the block.

    Used while workers start: an interruption would leave half-started workers and free their shared objects too early.
    Blocking the signals is not enough, since any other thread of the process may receive them. Does nothing outside the
    main thread, which alone runs signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, Any]] = []
    answers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    answers = {number: answer for number, answer in answers.items() if callable(answer)}
    for number in answers:
        signal.signal(number, lambda *signal_and_frame: came.append(signal_and_frame))
    try:
        yield
    finally:
        for number, answer in answers.items():
            signal.signal(number, answer)
        for number, frame in came[:1]:
            answers[signal.Signals(number)](number, frame)
