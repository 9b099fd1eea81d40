"""Error texts for users; imports no networks, so that programs handle Ctrl-C early."""

import sys

OUT_OF_MEMORY = ("can't allocate memory", "Cannot allocate memory")
"""Texts of torch and of the system for memory that is not available."""


def reason(error: Exception, name: str) -> str:
    """Return the reason for the failure of `name`, on one line."""
    if is_out_of_memory(error):
        return f"{name}: out of memory; a smaller --size or --chunk-size 1 needs less"
    if isinstance(error, OSError):
        return f"{error.filename or name}: {error.strerror or error}"
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) else f"{name}: {type(error).__name__}: {text}"


def is_out_of_memory(error: Exception) -> bool:
    """Return True if `error` is an out-of-memory error, of CUDA or of the host."""
    torch = sys.modules.get("torch")  # if torch was not imported, the error is not from torch
    kinds = (MemoryError,) if torch is None else (torch.cuda.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or any(words in str(error) for words in OUT_OF_MEMORY)


def one_line(error: BaseException) -> str:
    """Return the message of an exception on one line, without error number and file name."""
    text = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
    return " ".join(str(text).split())[:300] or type(error).__name__
