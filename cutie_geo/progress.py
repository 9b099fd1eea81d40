"""Bars on a terminal; where there is none, such as in a log file, a plain line now and then."""

import sys
from typing import Any

from tqdm import tqdm

LOG_SECONDS = 30.0
"""Between two lines about one video in a log."""
LOG_FORMAT = "{desc}: {n_fmt}/{total_fmt} {unit}s in {elapsed}, {remaining} left, {rate_fmt}{postfix}"


def progress(total: int | None, name: str, unit: str, line: int = 0, leave: bool = True, show: bool = True) -> tqdm:
    """A bar of `total` units. line: its place on a terminal, counted down from the cursor; leave: it stays when done;
    show: False for a bar that nobody sees.

    A log gets no more than a line each LOG_SECONDS and, if anything was done, one at the end.
    """
    shape: dict[str, Any] = {"total": total, "desc": name, "unit": unit, "disable": not show}
    if sys.stderr.isatty():
        return tqdm(**shape, position=line, leave=leave, dynamic_ncols=True)
    quiet: dict[str, Any] = {"delay": 1e-9, "mininterval": LOG_SECONDS, "maxinterval": LOG_SECONDS}
    return tqdm(**shape, **quiet, file=_Lines(sys.stderr), bar_format=LOG_FORMAT, leave=True)


class _Lines:
    """Around a text file: a bar's every state becomes a line of its own."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.encoding = getattr(file, "encoding", "utf-8")
        self.last = ""

    def write(self, text: str) -> None:
        """Write one line for what a terminal would show; nothing for cursor movements and repetitions."""
        line = text.strip()
        if line and line != self.last:
            self.file.write(line + "\n")
            self.last = line

    def flush(self) -> None:
        self.file.flush()
