"""Progress bars on a terminal, or plain lines at intervals in a log file."""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

T = TypeVar("T")

LOG_SECONDS = 30.0
"""Interval between two progress lines in a log, in seconds."""
LOG_FORMAT = "{desc}: {n_fmt}/{total_fmt} {unit}s in {elapsed}, {remaining} left, {rate_fmt}{postfix}"


def progress(total: int | None, name: str, unit: str, line: int = 0, leave: bool = True, show: bool = True) -> tqdm:
    """Create a progress bar of `total` units.

    In a log file it writes at most one line every LOG_SECONDS and, if any unit was done, one at the end.

    Args:
        line: Lines between the cursor and the bar on a terminal.
        leave: Keep the bar on the terminal when it is done.
        show: False creates a hidden bar.
    """
    shape: dict[str, Any] = {"total": total, "desc": name, "unit": unit, "disable": not show}
    if sys.stderr.isatty():
        return tqdm(**shape, position=line, leave=leave, dynamic_ncols=True)
    quiet: dict[str, Any] = {"delay": 1e-9, "mininterval": LOG_SECONDS, "maxinterval": LOG_SECONDS}
    return tqdm(**shape, **quiet, file=_Lines(sys.stderr), bar_format=LOG_FORMAT, leave=True)


def begin_at(bar: tqdm, count: int) -> None:
    """Show `count` units as done by an earlier call, without counting them for speed and remaining time."""
    if count == bar.n:
        return
    bar.reset()
    bar.initial = bar.n = bar.last_print_n = count
    bar.refresh()


class _Lines:
    """Text file wrapper that writes every state of a bar as a separate line."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.encoding = getattr(file, "encoding", "utf-8")
        self.last = ""

    def write(self, text: str) -> None:
        """Write the bar's text as one line; skip cursor movements and repetitions."""
        line = text.strip()
        if line and line != self.last:
            self.file.write(line + "\n")
            self.last = line

    def flush(self) -> None:
        self.file.flush()


def watched(name: str, unit: str, show: bool = True) -> Callable[[Iterable[T], int], Iterator[T]]:
    """Return a function that yields items and counts them in a progress bar; log messages appear above the bar."""

    def watch(items: Iterable[T], count: int) -> Iterator[T]:
        with logging_redirect_tqdm(), progress(count, name, unit, show=show) as bar:
            for item in items:
                yield item
                bar.update()

    return watch
