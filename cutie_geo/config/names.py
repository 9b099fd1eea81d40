"""Validation of names from files before they become parts of paths."""

import os
import re
import secrets
from pathlib import Path
from typing import Any, TypeGuard

from cutie_geo.config.loading import require

LONGEST = 255
"""Maximum length of a file or folder name, in bytes."""

HIDDEN = re.compile(r"\..+\.[0-9a-f]{8}\.part", re.DOTALL)
"""Pattern of the names from `hidden_name`."""
_KEPT = 60
"""Number of characters of a long name that a hidden name contains."""

_DRIVE = re.compile(r"[A-Za-z]:")


def is_name(name: Any) -> TypeGuard[str]:
    """Return True if `name` is the plain name of a file or folder on every system.

    Refused are separators of any system, `.` and `..`, drive letters, NUL, empty names and names of more than `LONGEST`
    bytes.
    """
    if not isinstance(name, str) or not name or name in (".", ".."):
        return False
    return (
        not set(name) & {"/", "\\", "\0"}
        and not _DRIVE.match(name)
        and len(name.encode(errors="surrogatepass")) <= LONGEST
    )


def require_name(name: Any, where: str) -> str:
    """Return `name` if `is_name`, else raise a ValueError that begins with `where`."""
    require(is_name(name), f"{where}: got {name!r:.80}, expected a plain name without separators, .. or a drive letter")
    return name


def hidden_name(path: Path) -> Path:
    """Return a unique hidden path next to `path`, for a partially written file."""
    name = path.name if len(os.fsencode(path.name)) < LONGEST - len(f"..{'0' * 8}.part") else path.name[:_KEPT]
    return path.with_name(f".{name}.{secrets.token_hex(4)}.part")
