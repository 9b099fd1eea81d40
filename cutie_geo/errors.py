"""Errors as users read them."""

import torch


def reason(error: Exception, name: str) -> str:
    """Why `name` failed, on one line."""
    if is_shortage(error):
        return f"{name}: out of memory; a smaller --size or --chunk-size 1 needs less"
    if isinstance(error, OSError):
        return f"{error.filename or name}: {error.strerror or error}"
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) else f"{name}: {type(error).__name__}: {text}"


def is_shortage(error: Exception) -> bool:
    """Whether memory ran out, of a GPU or of the machine."""
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
