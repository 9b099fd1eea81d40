"""Strict loading of dataclasses from YAML files and `key=value` overrides."""

import json
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

T = TypeVar("T")

MAX_DEPTH = 64
"""Maximum nesting depth of a setting; the package's own files have at most 5."""
MAX_NODES = 100_000
"""Maximum number of values in one YAML file with references expanded; the package's own files have a few hundred."""
SHOWN, REASON = 80, 400
"""Maximum number of characters of an invalid value, and of a library's error, in an error message."""


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless `condition` is True."""
    if not condition:
        raise ValueError(message)


def build(cls: type[T], given: Any, where: str = "config") -> T:
    """Build a `cls` from a mapping, including nested dataclasses.

    Raises:
        ValueError: For unknown names, missing names without a default and values of another type; the message begins
            with the path of the field.
    """
    require(isinstance(given, Mapping), f"{where}: got {type(given).__name__}, expected a mapping of names to values")
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(str(name) for name in set(given) - set(known))
    require(not unknown, f"{where}: unknown {', '.join(unknown)}; known are {', '.join(known)}")
    no_default = {name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
    missing = sorted(no_default - set(given))
    require(not missing, f"{where}: missing {', '.join(missing)}")
    values = {name: _convert(known[name].type, value, f"{where}.{name}") for name, value in given.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Convert `value` to the type `hint`: only ints to floats and lists to tuples, nothing else is coerced."""
    if is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else build(hint, value, where)
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        for option in args:
            try:
                return _convert(option, value, where)
            except ValueError:
                continue
    elif origin is Literal:
        if value in args and type(value) in {type(a) for a in args}:
            return value
        raise ValueError(f"{where}: got {reprlib.repr(value)}, expected one of {', '.join(map(repr, args))}")
    elif origin is tuple and isinstance(value, (list, tuple)):
        inner = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
        if len(inner) == len(value):
            return tuple(_convert(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(inner, value)))
    elif origin is dict and isinstance(value, Mapping):
        return {_convert(args[0], name, where): _convert(args[1], v, f"{where}.{name}") for name, v in value.items()}
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif origin is None and isinstance(hint, type) and isinstance(value, hint) and (type(value), hint) != (bool, int):
        return value
    wanted = hint.__name__ if isinstance(hint, type) else str(hint)
    raise ValueError(f"{where}: got {reprlib.repr(value)} ({type(value).__name__}), expected {wanted}")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file.

    Raises:
        ValueError: If the file cannot be read or contains no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    content = parse_yaml(text, f"{path}: cannot be read as YAML")
    require(content is None or isinstance(content, dict), f"{path}: got {type(content).__name__}, expected a mapping")
    return content or {}


def parse_yaml(text: str, where: str) -> Any:
    """Parse a YAML text without executing code.

    Raises:
        ValueError: For invalid YAML, nesting deeper than `MAX_DEPTH`, and references that expand to more than
            `MAX_NODES` values; the message begins with `where`.
    """
    try:
        value = yaml.safe_load(text)
    except RecursionError:
        raise ValueError(f"{where}: nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, AttributeError, LookupError) as error:
        # besides YAMLError, the loader raises errors for invalid dates, numbers and keys
        raise ValueError(f"{where}: {' '.join(str(error).split())[:REASON]}") from None
    require_small(value, where)
    return value


def require_small(value: Any, where: str) -> None:
    """Raise ValueError if a value exceeds `MAX_DEPTH` or `MAX_NODES`."""
    left, seen = [(value, 0)], 0
    while left:
        inner, depth = left.pop()
        seen += 1
        require(depth <= MAX_DEPTH, f"{where}: nested too deeply; at most {MAX_DEPTH} levels")
        require(seen <= MAX_NODES, f"{where}: too many values; at most {MAX_NODES}")
        if isinstance(inner, Mapping):
            left += [(part, depth + 1) for part in (*inner, *inner.values())]
        elif isinstance(inner, (list, tuple, set)):
            left += [(part, depth + 1) for part in inner]


def parse_json(text: str, where: str, **options: Any) -> Any:
    """Parse a JSON text with `json.loads(text, **options)`.

    Raises:
        ValueError: For invalid JSON; the message begins with `where`.
    """
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError(f"{where}: cannot be read as JSON: nested too deeply") from None
    except ValueError as error:  # includes numbers with too many digits
        raise ValueError(f"{where}: cannot be read as JSON: {' '.join(str(error).split())[:REASON]}") from None


def read_json(path: Path) -> Any:
    """Read a small JSON file.

    Raises:
        ValueError: If the file is damaged or nested too deeply.
        OSError: If it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: cannot be read as JSON: not UTF-8 text") from None
    return parse_json(text, str(path))


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` updated recursively by `changes`."""
    out = dict(base)
    for name, value in changes.items():
        old = out.get(name)
        out[name] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Parse `["a.b=1", "c=x"]` to `{"a": {"b": 1}, "c": "x"}`, with values in YAML.

    Raises:
        ValueError: For an item without `=` or with an invalid value.
    """
    out: dict[str, Any] = {}
    for item in overrides:
        path, equals, text = item.partition("=")
        names = path.strip().split(".")
        require(bool(equals) and all(names), f"override {item[:SHOWN]!r}: expected name=value or group.name=value")
        require(len(names) <= MAX_DEPTH, f"override {item[:SHOWN]!r}: nested too deeply; at most {MAX_DEPTH} names")
        value = parse_yaml(text, f"override {item[:SHOWN]!r}: cannot read the value {text[:SHOWN]!r}")
        for name in reversed(names):
            value = {name: value}
        out = merge(out, value)
    return out


def to_dict(config: Any) -> dict[str, Any]:
    """Convert a configuration to dictionaries, lists and scalars for YAML or JSON."""
    return asdict(config)


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested mapping; names of nested entries are joined by dots."""
    out: dict[str, Any] = {}
    for name, value in content.items():
        out |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return out
