"""Size limits for untrusted files, whose few kilobytes can expand to gigabytes.

Limits are environment variables, so that subprocesses inherit them.
"""

import os

DEFAULT_MAX_PIXELS = 8192 * 8192
"""Largest number of pixels of an image, a mask or a video frame."""
DEFAULT_MAX_PICKLE_MIB = 4
"""Largest size of the pickle in a PyTorch file, without its tensors, in MiB. That of published checkpoints is below
1 MiB; reading 4 MiB takes half a minute at worst."""
MAX_PIXELS_VARIABLE = "CUTIE_GEO_MAX_PIXELS"
MAX_PICKLE_VARIABLE = "CUTIE_GEO_MAX_PICKLE_MIB"
THREADS_PER_CORE = 64
"""Largest number of threads for each processor core; far more exhaust the address space, which ends the process."""
PROBS_PER_PIXEL = 4
"""Largest number of values in a probability file, per pixel of the largest image."""


def max_pixels() -> int:
    """Return the largest number of pixels of an image.

    Raises:
        ValueError: If the environment variable is not a whole number.
    """
    return _limit(MAX_PIXELS_VARIABLE, DEFAULT_MAX_PIXELS)


def max_probs() -> int:
    """Return the largest number of values in a probability file."""
    return PROBS_PER_PIXEL * max_pixels()


def max_pickle_bytes() -> int:
    """Return the largest size of the pickle in a PyTorch file, in bytes.

    Raises:
        ValueError: If the environment variable is not a whole number.
    """
    return _limit(MAX_PICKLE_VARIABLE, DEFAULT_MAX_PICKLE_MIB) * 2**20


def set_limits(pixels: int | None = None, pickle_mib: int | None = None) -> None:
    """Set limits for this process and its subprocesses; None keeps a limit.

    Raises:
        ValueError: If a limit is below 1.
    """
    for option, variable, value in (
        ("--max-pixels", MAX_PIXELS_VARIABLE, pixels),
        ("--max-pickle-mib", MAX_PICKLE_VARIABLE, pickle_mib),
    ):
        if value is not None:
            if value < 1:
                raise ValueError(f"{option}: got {value}, expected 1 or more")
            os.environ[variable] = str(value)


def require_pixels(width: int, height: int) -> None:
    """Check the number of pixels of an image.

    Raises:
        ValueError: If there are more than `max_pixels()`; the caller adds the file name.
    """
    limit = max_pixels()
    if width * height > limit:
        raise ValueError(
            f"got {width}x{height} = {width * height} pixels, expected at most {limit}; --max-pixels raises the limit"
        )


def require_threads(threads: int | None) -> None:
    """Check --cpu-threads; None passes.

    Raises:
        ValueError: If it is below 1 or above `THREADS_PER_CORE` for each core.
    """
    most = THREADS_PER_CORE * (os.cpu_count() or 1)
    if threads is not None and not 1 <= threads <= most:
        raise ValueError(f"--cpu-threads: got {threads}, expected 1 to {most}")


def _limit(variable: str, default: int) -> int:
    text = os.environ.get(variable)
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise ValueError(f"{variable}: got {text!r}, expected a whole number of 1 or more")
    return int(text)
