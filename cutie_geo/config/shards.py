"""Shards of a list of work, for the tasks of a job array."""

import re
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Shard(NamedTuple):
    """One of `count` disjoint parts of a list; the default is the whole list."""

    index: int = 0
    """Position of the shard, from 0."""
    count: int = 1

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Return this shard of `items`: every `count`-th item, so that long and short items are mixed."""
        return items[self.index :: self.count]

    @property
    def is_whole(self) -> bool:
        """True if there is only one shard."""
        return self.count == 1

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"


WHOLE = Shard()


def parse_shard(text: str | None, where: str = "--shard") -> Shard:
    """Return the shard of `I/N` with I from 1 to N; the whole list for None. Raises ValueError for other text."""
    if text is None:
        return WHOLE
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    index, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= index <= count:
        zero = "; shards count from 1, so add 1 to the number of a task from 0" if index == 0 < count else ""
        raise ValueError(f"{where}: got {text!r}, expected I/N with I from 1 to N, such as 2/8{zero}")
    return Shard(index - 1, count)
