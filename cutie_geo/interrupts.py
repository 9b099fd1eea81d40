"""Handling of Ctrl-C and SIGTERM before a command runs: one line and the shell's exit status, no traceback.

Imports only modules that the interpreter has already imported: programs call `leave_at_once` first.
"""

# `signal` imports enum, which takes as long as everything else here
import _signal as signal  # pyright: ignore[reportMissingImports]  # part of CPython, without type stubs
import os

INTERRUPTED, TERMINATED = 130, 143
"""Exit statuses after SIGINT and SIGTERM, as in shells."""
STATUSES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}


def leave_at_once() -> None:
    """Make SIGINT and SIGTERM print one line and end this process, which has nothing to clean up yet.

    Signals that are ignored already, as under `nohup`, stay ignored.
    """
    for number in STATUSES:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)


def leaves_at_once() -> bool:
    """Return True if `leave_at_once` has installed the current SIGINT handler."""
    return signal.getsignal(signal.SIGINT) is _leave


def _leave(number: int, _: object) -> None:
    # not an exception: libraries that are being imported would catch it, or print it and continue
    os.write(2, b"interrupted\n")
    os._exit(STATUSES[number])


class StopOnInterrupt:
    """Context in which the first SIGINT or SIGTERM calls `stop.set()`, and the second has its earlier effect.

    Has no effect outside the main thread, which alone may install signal handlers.
    """

    def __init__(self, stop) -> None:  # a threading.Event, whose module is not imported here
        self.stop, self._before = stop, {}

    def __enter__(self) -> None:
        try:
            heard = [number for number in STATUSES if signal.getsignal(number) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._first) for number in heard}
        except ValueError:  # another thread than the main one
            self._before = {}

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _first(self, number: int, _: object) -> None:
        self._restore()
        self.stop.set()
        os.write(2, b"stopping after the frames that wait; once more stops at once\n")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
