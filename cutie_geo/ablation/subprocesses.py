"""Run child processes and interrupt them cleanly."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

INTERRUPTED = (-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit statuses of an interrupted program, directly or through a shell."""
POLL = 0.1
"""Seconds between checks whether a process group has ended."""


def run_child(command: Sequence[str]) -> int:
    """Run a program to its end and return its exit status, 0 or above.

    The first interruption is passed on as SIGTERM; then this waits for the program, which may have to save. A second
    one is passed on too, and a third one kills the program.

    Raises:
        KeyboardInterrupt: after an interruption of this process or of the program.
        OSError: if the program cannot be started.
    """
    # a process group of its own: otherwise Ctrl-C in a terminal would reach the program twice, which stops it at once
    child = subprocess.Popen(command, start_new_session=True)
    try:
        status = child.wait()
    except BaseException:
        _end(child)
        raise
    if status in INTERRUPTED:
        raise KeyboardInterrupt
    return status if status >= 0 else 128 - status


def _end(child: subprocess.Popen) -> None:
    """Send SIGTERM, SIGTERM and SIGKILL until the program and all its children have ended."""
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        with suppress(KeyboardInterrupt):
            child.send_signal(number)
            child.wait()
            # launchers of several processes pass signals on; the launcher of a single process only ends itself
            _signal_group(child.pid, number)
            while _signal_group(child.pid, 0):
                time.sleep(POLL)
            return


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; return False if there is none."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS raises the latter for a group of zombies
        return False
    return True
