"""Dataclasses from YAML files and `key=value` overrides, strictly."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

T = TypeVar("T")


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless `condition`."""
    if not condition:
        raise ValueError(message)


def build(cls: type[T], given: Any, where: str = "config") -> T:
    """`given` as a `cls`, nested dataclasses too.

    Raises ValueError that names the place for unknown names, missing names without a default and values of another
    type.
    """
    require(isinstance(given, Mapping), f"{where}: got {type(given).__name__}, wanted a mapping of names to values")
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
    """`value` as the type `hint`; ints become floats and lists become tuples, nothing else is coerced."""
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
        raise ValueError(f"{where}: got {value!r}, wanted one of {', '.join(map(repr, args))}")
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
    raise ValueError(f"{where}: got {value!r} ({type(value).__name__}), wanted {wanted}")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ValueError naming the file if it can't be read or holds something else."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: can't be read as YAML: {' '.join(str(error).split())}") from None
    require(content is None or isinstance(content, dict), f"{path}: got {type(content).__name__}, wanted a mapping")
    return content or {}


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, mapping by mapping."""
    out = dict(base)
    for name, value in changes.items():
        old = out.get(name)
        out[name] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """`["a.b=1", "c=x"]` as `{"a": {"b": 1}, "c": "x"}`; values are read as YAML.

    Raises ValueError for an item without `=` or with an unreadable value.
    """
    out: dict[str, Any] = {}
    for item in overrides:
        path, equals, text = item.partition("=")
        names = path.strip().split(".")
        require(bool(equals) and all(names), f"override {item!r}: wanted name=value or group.name=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ValueError(f"override {item!r}: can't read the value {text!r}") from None
        for name in reversed(names):
            value = {name: value}
        out = merge(out, value)
    return out


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain dictionaries, lists and scalars, ready for YAML or JSON."""
    return asdict(config)
