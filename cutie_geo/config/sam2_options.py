"""Validation of overrides of SAM 2's configuration before hydra reads them."""

import re
from collections.abc import Iterable
from typing import Any

from cutie_geo.config.loading import require

MAX_NESTING = 8
"""Maximum nesting depth of lists in one value; hydra's parser fails at some thousand."""
SHOWN = 120
"""Maximum number of characters of a refused item in an error message."""

_NAME = r"\+{0,2}model(\.[A-Za-z0-9]\w*)+"
_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
_WORD = r"[A-Za-z]\w*"
_ITEM = re.compile(rf"(?P<name>{_NAME})=(?P<value>[\w.,+\-\[\] ]+)", re.ASCII)
_VALUE = re.compile(rf"{_NUMBER}|{_WORD}", re.ASCII)
_FILES = re.compile(r".*(path|file|checkpoint|ckpt)s?", re.IGNORECASE)
"""Settings of the sam2 package that name a file, which the package would unpickle."""


def is_hydra(item: str) -> bool:
    """Return True if a `key=value` item overrides SAM 2's configuration, in hydra's grammar."""
    return item.lstrip("+~").startswith("model.")


def require_plain(overrides: Iterable[Any], where: str) -> list[str]:
    """Return `overrides` if each assigns a plain value to a plain name; hydra gets no others.

    hydra calls any function that a configuration names (`_target_`, `_partial_`), and the functions that it refuses
    depend on its release. Names that begin with an underscore, names of files, mappings, interpolations, quotes and
    dotted words are therefore refused, whether they come from a YAML file, a checkpoint or the command line.

    Raises:
        ValueError: If an item is not `model.name=value` with a number, a word, or a list of these.
    """
    items = list(overrides)
    strange = [str(item)[:SHOWN] for item in items if not _is_plain(item)]
    require(
        not strange,
        f"{where}: SAM 2's configuration: got {', '.join(strange[:3])}, expected model.name=value with a number, "
        "a word or a list of these; no setting may name code or a file",
    )
    return items


def _is_plain(item: Any) -> bool:
    found = _ITEM.fullmatch(item) if isinstance(item, str) else None
    if found is None:
        return False
    name, value = found["name"], found["value"]
    depth = deepest = 0
    for character in value:
        depth += (character == "[") - (character == "]")
        deepest = max(deepest, depth)
        if depth < 0:
            return False
    words = re.split(r"[\[\],\s]+", value)
    plain = all(not word or _VALUE.fullmatch(word) for word in words) and any(words)
    last = name.rpartition(".")[2]
    return plain and depth == 0 and deepest <= MAX_NESTING and not _FILES.fullmatch(last)
