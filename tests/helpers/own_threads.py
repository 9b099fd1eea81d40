"""Threads that a test started, without those that tests before it left in the process."""

import threading

_older: set[threading.Thread] = set()


def begin() -> None:
    """Forget the threads that are there; conftest.py calls this before each test."""
    _older.clear()
    _older.update(threading.enumerate())


def own_threads(name: str) -> list[threading.Thread]:
    """Return the living threads of this test whose names start with `name`."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(name) and thread not in _older]
