"""Worker processes: how they start, and that only their parent answers an interruption."""

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from typing import Any


def clean_processes(module: str) -> BaseContext:
    """How workers start: as children of a small server process that has imported `module`, deaf to Ctrl-C.

    Plain fork copies a parent with threads and CUDA in it, which may hang or break the child; spawn, which is used
    where the system has no such server, is as safe, but imports everything anew for each worker.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    resource_tracker.ensure_running()  # first: it unblocks the signal when it starts
    # inherited by server and workers: a terminal sends Ctrl-C to all of them, also before their first line runs
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Interruptions (SIGINT, SIGTERM) that come within the block are answered at its end.

    For the start of workers: nobody would wait for half started ones, and what they share would be gone before they
    come to it. A mask of signals would not do, since any other thread of the process may take one. Does nothing
    outside the main thread, which alone answers them.
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
