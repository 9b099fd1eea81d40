"""Strict reading of JSON annotations, with the file, the place and the expected value in every error."""

import json
import re
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from cutie_geo.config import is_name

MAX_FILE_BYTES = 4 * 2**30
MAX_NAME = 200
"""Maximum length of a file or folder name; systems allow 255 bytes, and partial files have longer names."""
SHOWN = 60
"""Maximum length of an invalid value in a message."""

_FORBIDDEN = set(':*?"<>|')


@dataclass(frozen=True, slots=True)
class Node:
    """A value in a JSON file, with its place for messages."""

    value: Any
    where: str

    def fail(self, expected: str) -> NoReturn:
        """Raise ValueError with this value and the expected one."""
        got = reprlib.repr(self.value)  # short, and limited in depth
        got = got if len(got) <= SHOWN else f"{got[:SHOWN]}..."
        raise ValueError(f"{self.where}: got {type(self.value).__name__} {got}, expected {expected}")

    def key(self, name: str) -> "Node":
        """Return a required field of an object."""
        if not isinstance(self.value, dict):
            self.fail("an object")
        if name not in self.value:
            raise ValueError(f"{self.where}: no field {name!r}")
        return Node(self.value[name], f"{self.where}.{name}")

    def optional(self, name: str) -> "Node | None":
        """Return a field of an object, or None if it is missing or null."""
        if not isinstance(self.value, dict):
            self.fail("an object")
        return None if self.value.get(name) is None else self.key(name)

    def elements(self) -> "list[Node]":
        """Return the elements of a list."""
        if not isinstance(self.value, list):
            self.fail("a list")
        return [Node(value, f"{self.where}[{index}]") for index, value in enumerate(self.value)]

    def fields(self) -> "Iterator[tuple[str, Node]]":
        """Return the fields of an object with their names."""
        if not isinstance(self.value, dict):
            self.fail("an object")
        return ((name, Node(value, f"{self.where}[{name[:SHOWN]!r}]")) for name, value in self.value.items())

    def text(self) -> str:
        """Return a non-empty string."""
        if not isinstance(self.value, str) or not self.value:
            self.fail("a non-empty string")
        return self.value

    def integer(self, low: int, high: int) -> int:
        """Return an integer within bounds."""
        if type(self.value) is not int or not low <= self.value <= high:  # excludes bool, a subclass of int
            self.fail(f"a whole number from {low} to {high}")
        return self.value

    def plain_name(self) -> str:
        """Return a string that is a single file or folder name."""
        if not is_plain_name(self.value):
            self.fail(f"a plain file name of at most {MAX_NAME} characters")
        return self.value

    def path(self) -> tuple[str, ...]:
        """Return the components of a relative path without ".."."""
        parts = tuple(self.text().split("/"))
        if not all(is_plain_name(part) for part in parts):
            self.fail("a relative path without '..'")
        return parts


def is_plain_name(name: object) -> bool:
    """Return True for a string that is a visible file name on every system."""
    return (
        is_name(name)
        and name.isprintable()  # no control characters or lone surrogates
        and 0 < len(name.encode()) <= MAX_NAME
        and not name.startswith((".", " "))
        and not name.endswith((".", " "))
        and not set(name) & _FORBIDDEN
    )


def matches(node: Node, pattern: str, expected: str) -> str:
    """Return the string in `node`. Raises ValueError unless it matches `pattern` completely."""
    if not isinstance(node.value, str) or not re.fullmatch(pattern, node.value, re.ASCII):
        node.fail(expected)
    return node.value


def read_json(path: Path) -> Node:
    """Read a JSON file in UTF-8 without NaN and Infinity. Raises ValueError with its name if it is invalid."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ValueError(f"it has {size} bytes, expected at most {MAX_FILE_BYTES}")
        value = json.loads(path.read_bytes().decode("utf-8-sig"), parse_constant=_no_constant)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except RecursionError:
        raise ValueError(f"{path}: not JSON of annotations: nested too deeply") from None
    except ValueError as error:  # invalid encoding, invalid JSON, or a number with too many digits
        raise ValueError(f"{path}: not JSON of annotations: {error}") from None
    return Node(value, str(path))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def require_new(name: str, seen: "set[str]", where: str) -> None:
    """Add `name` to `seen`. Raises ValueError if it is there in any case, because some systems ignore case."""
    folded = name.casefold()
    if folded in seen:
        raise ValueError(f"{where}: second {name!r}")
    seen.add(folded)
