"""Import of timm without large modules that it imports and that building backbones does not use."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

COMPILER = "torch._dynamo"


def import_timm() -> ModuleType:
    """Import timm in half of the time.

    Left out are wandb, which is for timm's training, and torch's compiler, of which torchvision and timm use a function
    each, for operations that no backbone of ours has. Both are imported as usual when they are used.
    """
    if "timm" in sys.modules:
        return import_module("timm")
    before = set(sys.modules)
    try:
        with _without_wandb(), _without_compiler():
            return import_module("timm")
    except Exception:  # another release that uses more of the compiler
        for name in set(sys.modules) - before:
            if name.split(".")[0] in ("timm", "torchvision"):
                del sys.modules[name]
    with _without_wandb():
        return import_module("timm")


@contextmanager
def _without_wandb() -> Iterator[None]:
    """Make an import of wandb fail within the block, unless it has been imported."""
    if "wandb" in sys.modules:
        yield
        return
    sys.modules["wandb"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["wandb"]


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Replace two functions of torch's compiler within the block by ones that import it when they are called."""
    if COMPILER in sys.modules:
        yield
        return
    package, utils, disable = ModuleType(COMPILER), ModuleType(f"{COMPILER}.utils"), torch.compiler.disable
    package.__path__ = []
    utils.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    sys.modules |= {package.__name__: package, utils.__name__: utils}
    torch.compiler.disable = _disable  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compiler.disable = disable
        for name in (package.__name__, utils.__name__):
            del sys.modules[name]


def _is_compile_supported(device_type: str) -> bool:
    """Stand in for the function of the same name, which torchvision imports."""
    return import_module(f"{COMPILER}.utils").is_compile_supported(device_type)


def _disable(fn: Callable[..., Any] | None = None, *args: Any, **options: Any) -> Callable[..., Any]:
    """Stand in for the decorator `torch.compiler.disable`, which is applied at the first call instead."""
    if fn is None:
        return lambda function: _disable(function, *args, **options)
    disabled: list[Callable[..., Any]] = []

    @wraps(fn)
    def call(*own: Any, **named: Any) -> Any:
        if not disabled:
            disabled.append(torch.compiler.disable(fn, *args, **options))
        return disabled[0](*own, **named)

    return call
