"""Compile the slow parts of a network with torch.compile."""

import shutil
from collections.abc import Sequence

import torch
from torch import nn

from cutie_geo.config import require

CPP_COMPILERS = ("c++", "g++", "clang++", "cl")


def compile_parts(parts: Sequence[nn.Module], device: torch.device) -> None:
    """Compile modules in place.

    The first frames, and the first of another size or number of objects, then take minutes. Values change by rounding.

    Args:
        parts: Modules to compile, such as `CutieGeo.compilable()`.
        device: Where they run.

    Raises:
        ValueError: If there is nothing to compile, or if a CPU lacks the C++ compiler that torch needs there.
    """
    require(bool(parts), "compile: this model has no parts that torch can compile; expected a Cutie model")
    found = device.type != "cpu" or any(shutil.which(name) for name in CPP_COMPILERS)
    require(found, f"compile: no C++ compiler found; expected one of {', '.join(CPP_COMPILERS)}")
    for part in parts:
        part.compile()
