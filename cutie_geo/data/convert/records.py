"""JSON from elsewhere, read strictly: a ValueError says which file, where in it, what is wrong, what was wanted."""

import json
import re
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

MAX_FILE_BYTES = 4 * 2**30
MAX_NAME = 200
"""Characters of a file or folder name; systems allow 255 bytes, and a file half written has a longer name."""
SHOWN = 60
"""Characters of a wrong value that a message repeats."""

_FORBIDDEN = set('/\\:*?"<>|')


@dataclass(frozen=True, slots=True)
class Node:
    """A value in a JSON file, and where it is, for messages."""

    value: Any
    where: str

    def fail(self, wanted: str) -> NoReturn:
        """Raise ValueError: this value isn't what was wanted."""
        got = reprlib.repr(self.value)  # which is short, and stops where nesting is deep
        got = got if len(got) <= SHOWN else f"{got[:SHOWN]}..."
        raise ValueError(f"{self.where}: got {type(self.value).__name__} {got}, wanted {wanted}")

    def key(self, name: str) -> "Node":
        """The value of a field, which must be there."""
        if not isinstance(self.value, dict):
            self.fail("an object")
        if name not in self.value:
            raise ValueError(f"{self.where}: no field {name!r}")
        return Node(self.value[name], f"{self.where}.{name}")

    def optional(self, name: str) -> "Node | None":
        """The value of a field, None where that is missing or null."""
        if not isinstance(self.value, dict):
            self.fail("an object")
        return None if self.value.get(name) is None else self.key(name)

    def elements(self) -> "list[Node]":
        """The elements of a list."""
        if not isinstance(self.value, list):
            self.fail("a list")
        return [Node(value, f"{self.where}[{index}]") for index, value in enumerate(self.value)]

    def fields(self) -> "Iterator[tuple[str, Node]]":
        """The fields of an object with their names."""
        if not isinstance(self.value, dict):
            self.fail("an object")
        return ((name, Node(value, f"{self.where}[{name[:SHOWN]!r}]")) for name, value in self.value.items())

    def text(self) -> str:
        """A string that isn't empty."""
        if not isinstance(self.value, str) or not self.value:
            self.fail("a string that isn't empty")
        return self.value

    def integer(self, low: int, high: int) -> int:
        """A whole number within bounds."""
        if type(self.value) is not int or not low <= self.value <= high:  # a bool is an int too
            self.fail(f"a whole number from {low} to {high}")
        return self.value

    def plain_name(self) -> str:
        """A string that can name a file or folder and leads nowhere else."""
        if not is_plain_name(self.value):
            self.fail(f"a plain file name of at most {MAX_NAME} characters")
        return self.value

    def path(self) -> tuple[str, ...]:
        """The components of a relative path that goes down only."""
        parts = tuple(self.text().split("/"))
        if not all(is_plain_name(part) for part in parts):
            self.fail("a relative path without '..'")
        return parts


def is_plain_name(name: object) -> bool:
    """Whether this is a string that can name a visible file inside a folder, on any system."""
    return (
        isinstance(name, str)
        and name.isprintable()  # neither control characters nor halves of surrogate pairs
        and 0 < len(name.encode()) <= MAX_NAME
        and not name.startswith((".", " "))
        and not name.endswith((".", " "))
        and not set(name) & _FORBIDDEN
    )


def matches(node: Node, pattern: str, wanted: str) -> str:
    """The string in `node`, if all of it matches `pattern`; else ValueError."""
    if not isinstance(node.value, str) or not re.fullmatch(pattern, node.value, re.ASCII):
        node.fail(wanted)
    return node.value


def read_json(path: Path) -> Node:
    """What a JSON file holds, which is UTF-8 and has no NaN or Infinity. Raises ValueError naming the file."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ValueError(f"it has {size} bytes, wanted at most {MAX_FILE_BYTES}")
        value = json.loads(path.read_bytes().decode("utf-8-sig"), parse_constant=_no_constant)
    except OSError as error:
        raise ValueError(f"{path}: can't be read: {error.strerror}") from error
    except RecursionError:
        raise ValueError(f"{path}: not JSON of annotations: nested too deeply") from None
    except ValueError as error:  # of the encoding, of JSON, or of a number with too many digits
        raise ValueError(f"{path}: not JSON of annotations: {error}") from None
    return Node(value, str(path))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def require_new(name: str, seen: "set[str]", where: str) -> None:
    """Note that `name` was seen. Raises ValueError if it was before, also in other case: some systems mix these up."""
    folded = name.casefold()
    if folded in seen:
        raise ValueError(f"{where}: second {name!r}")
    seen.add(folded)
