"""Safe reading of tensor files, and strict loading of modules from them."""

import hashlib
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cutie_geo.config import parse_json, require_small
from cutie_geo.errors import is_out_of_memory
from cutie_geo.limits import max_pickle_bytes

WRAPPERS = ("model", "state_dict", "network", "model_state")
"""Keys that may contain a file's state dict."""
SHOWN = 8
"""Maximum number of problems in an error message."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write contiguous tensors to a .safetensors file with the permissions of the user's umask.

    Raises:
        OSError, SafetensorError: If writing fails.
    """
    path.touch()
    mode = path.stat().st_mode  # mode of the user's umask; safetensors creates files readable by their owner only
    save_file(dict(tensors), path, None if metadata is None else dict(metadata))
    path.chmod(mode)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors or PyTorch file to the CPU without executing code.

    Unwraps state dicts in `WRAPPERS`, such as {"model": ...}, and strips the prefix `module.` of names.

    Raises:
        ValueError: If the file is missing, damaged or contains anything but tensors.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such weights file")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for wrapper in WRAPPERS:
        inner = content.get(wrapper) if isinstance(content, Mapping) else None
        if isinstance(inner, Mapping):
            content = inner
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path}: got no named tensors, expected a state dict")
    strange = next((name for name, tensor in content.items() if not _holds_numbers(tensor)), None)
    if strange is not None:
        raise ValueError(f"{path}: {str(strange)[:80]!r} is not a plain tensor (nested or quantised)")
    plain = {str(name).removeprefix("module."): tensor for name, tensor in content.items()}
    if len(plain) < len(content):
        raise ValueError(f"{path}: holds entries both with and without `module.`, expected one of each name")
    return plain


def read_metadata(path: Path, name: str) -> dict | None:
    """Read the JSON object `name` of a .safetensors file's metadata; return None if it is missing.

    Raises:
        ValueError: If the file or the entry is damaged.
    """
    if path.suffix != ".safetensors":
        return None
    if not path.is_file():
        raise ValueError(f"{path}: no such weights file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(name)
    except Exception as error:  # its reader raises many types for invalid headers and bytes
        raise ValueError(f"{path}: {_fault(error)} ({_first_line(error)})") from None
    if text is None:
        return None
    try:
        content = parse_json(text, name)
        require_small(content, name)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: its entry {name} is damaged, expected a JSON object")
    return content


def _fault(error: Exception) -> str:
    """Return what an error of the reader of safetensors files means."""
    return "out of memory" if is_out_of_memory(error) else "damaged or not a safetensors file"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # its reader raises many types for invalid headers and bytes
        raise ValueError(f"{path}: {_fault(error)} ({_first_line(error)})") from None


def _read_torch(path: Path) -> object:
    try:
        return load_plain(path)
    except LargePickle:
        raise
    except Exception as error:  # torch raises many types for damaged files: pickle, zip, key, runtime errors
        # its message, which advises unsafe loading, is not shown
        refused = re.search(r"GLOBAL|[Uu]nsupported (global|class)|unrecognized function", str(error))
        reason = "holds pickled code or objects, refused; expected tensors only" if refused else "damaged or no weights"
        raise ValueError(f"{path}: {reason} ({type(error).__name__})") from None


class LargePickle(ValueError):
    """Error for a PyTorch file whose pickle is larger than the limit."""

    def __init__(self, path: Path, size: str) -> None:
        limit = max_pickle_bytes()
        super().__init__(
            f"{path}: a pickle of {size} bytes around the tensors, expected at most {limit}; "
            "if the file is to be trusted, --max-pickle-mib raises the limit"
        )


def load_plain(path: Path) -> Any:
    """Read a PyTorch file to the CPU without executing code.

    Raises:
        LargePickle: If the pickle is larger than `limits.max_pickle_bytes`, before it is read: weights-only unpickling
            takes minutes for some megabytes.
        Exception: Any error of torch for damaged files.
    """
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            with zipfile.ZipFile(path) as archive:
                size = max((e.file_size for e in archive.infolist() if e.filename.endswith(".pkl")), default=0)
            if size > max_pickle_bytes():
                raise LargePickle(path, str(size))
            return torch.load(path, map_location="cpu", weights_only=True)
        # the older format: several pickles, then the tensors' data
        file.seek(0)
        return torch.load(_PickleMeter(file, path), map_location="cpu", weights_only=True)  # type: ignore[arg-type]


class _PickleMeter:
    """File wrapper that limits the number of pickle bytes, but not of tensor data, which torch reads by `readinto`."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path, self._left = file, path, max_pickle_bytes()
        self.seek, self.tell, self.readinto = file.seek, file.tell, file.readinto  # type: ignore[attr-defined]

    def read(self, size: int = -1) -> bytes:
        return self._metered(self._file.read(min(size, self._left + 1) if size >= 0 else self._left + 1))

    def readline(self) -> bytes:
        return self._metered(self._file.readline(self._left + 1))

    def _metered(self, content: bytes) -> bytes:
        self._left -= len(content)
        if self._left < 0:
            raise LargePickle(self._path, f"more than {max_pickle_bytes()}")
        return content


def _holds_numbers(tensor: Tensor) -> bool:
    """Return True if a tensor is neither nested nor quantised: others have no shape or cannot be checked for NaN."""
    return not tensor.is_nested and not tensor.is_quantized


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def state_digest(module: nn.Module) -> str:
    """Return a digest of a module's weights, independent of their file."""
    hasher = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        hasher.update(name.encode())
        hasher.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


# ------------------------------------------------------------------------------------------------------- filling
def fill(
    module: nn.Module,
    given: Mapping[str, Tensor],
    where: str,
    what: str,
    others: Iterable[str] = (),
    problems: Iterable[str] = (),
) -> int:
    """Load the tensors `given` into `module`, all or none; return their number.

    `num_batches_tracked` of normalisation layers may be missing, since it is not used.

    Args:
        module: Module to load.
        given: Tensors by name.
        where: File of the tensors, for errors.
        what: Name of the network, for errors.
        others: Prefixes of names in the module that are loaded from other files.
        problems: Problems that are already known.

    Raises:
        ValueError: If any tensor is missing, extra, of another shape or type, or non-finite.
    """
    elsewhere = tuple(others)
    wanted = {name: tensor for name, tensor in module.state_dict().items() if not name.startswith(elsewhere or "\0")}
    found = [problem for problem in problems if problem]
    uncounted = {name for name in wanted if name.endswith(".num_batches_tracked")}
    found += [f"missing {name}" for name in wanted if name not in given and name not in uncounted]
    found += [f"extra {name}" for name in given if name not in wanted]
    found += filter(None, (_problem(name, given[name], wanted[name]) for name in wanted if name in given))
    if found:
        shown = "; ".join(found[:SHOWN]) + (f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
        raise ValueError(f"{where}: {len(found)} entries do not fit {what}: {shown}")
    with torch.no_grad():
        for name, tensor in given.items():
            wanted[name].copy_(tensor)
    return len(given)


def _problem(name: str, given: Tensor, wanted: Tensor) -> str:
    if given.is_meta or given.layout != torch.strided:
        return f"{name} without plain numbers ({'meta' if given.is_meta else given.layout})"
    if given.shape != wanted.shape:
        return f"shape of {name}: got {tuple(given.shape)}, expected {tuple(wanted.shape)}"
    if given.is_floating_point() != wanted.is_floating_point():
        return f"type of {name}: got {given.dtype}, expected {wanted.dtype}"
    return "" if bool(torch.isfinite(given).all()) else f"non-finite numbers in {name}"
