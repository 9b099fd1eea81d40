"""Named tensors from files, without running code in them, and modules filled with them, strictly."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WRAPPERS = ("model", "state_dict", "network", "model_state")
"""Names under which a file may hold its state dict."""
SHOWN = 8
"""Problems of a file that an error lists."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a .safetensors or PyTorch file, by name, on the CPU. Code in the file is never run.

    Understands files wrapped as {"model": ...} and the like (`WRAPPERS`), and names behind `module.`.
    Raises ValueError that names the file if it is missing, damaged or holds anything but tensors.
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
        raise ValueError(f"{path}: holds something else than named tensors, wanted a state dict")
    plain = {str(name).removeprefix("module."): tensor for name, tensor in content.items()}
    if len(plain) < len(content):
        raise ValueError(f"{path}: holds entries both with and without `module.`, wanted one of each name")
    return plain


def read_metadata(path: Path, name: str) -> dict | None:
    """What a .safetensors file says about itself under `name`, as JSON; None if nothing, or for other files.

    Raises ValueError for a damaged file, and for an entry that is no JSON object.
    """
    if path.suffix != ".safetensors":
        return None
    if not path.is_file():
        raise ValueError(f"{path}: no such weights file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(name)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged or not a safetensors file ({_first_line(error)})") from None
    if text is None:
        return None
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: its entry {name} is damaged, wanted a JSON object")
    return content


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged or not a safetensors file ({_first_line(error)})") from None


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its reader stumbles over: pickle, zip, key, runtime errors
        # its own text advises loading without protection, which is the one thing not to do here
        refused = re.search(r"GLOBAL|[Uu]nsupported (global|class)|unrecognized function", str(error))
        reason = "holds pickled code or objects, refused; wanted tensors only" if refused else "damaged or no weights"
        raise ValueError(f"{path}: {reason} ({type(error).__name__})") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def state_digest(module: nn.Module) -> str:
    """What tells the weights of a module from others, whatever file they came from."""
    told = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        told.update(name.encode())
        told.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return told.hexdigest()


# ------------------------------------------------------------------------------------------------------- filling
def fill(
    module: nn.Module,
    given: Mapping[str, Tensor],
    where: str,
    what: str,
    others: Iterable[str] = (),
    problems: Iterable[str] = (),
) -> int:
    """Give `module` the tensors `given`, all or none; return how many.

    others: prefixes of names in the module that come from elsewhere. problems: what is already known to be wrong.
    Counts of batches that normalisation layers have seen may be missing: nothing reads them.
    Raises ValueError that lists, for the file `where` and the network `what`, every tensor that is missing, extra, of
    another shape or type, or not finite.
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
        raise ValueError(f"{where}: {len(found)} entries don't fit {what}: {shown}")
    with torch.no_grad():
        for name, tensor in given.items():
            wanted[name].copy_(tensor)
    return len(given)


def _problem(name: str, given: Tensor, wanted: Tensor) -> str:
    if given.is_meta or given.layout != torch.strided:
        return f"{name} without plain numbers ({'meta' if given.is_meta else given.layout})"
    if given.shape != wanted.shape:
        return f"shape of {name}: got {tuple(given.shape)}, wanted {tuple(wanted.shape)}"
    if given.is_floating_point() != wanted.is_floating_point():
        return f"type of {name}: got {given.dtype}, wanted {wanted.dtype}"
    return "" if bool(torch.isfinite(given).all()) else f"numbers that are not finite in {name}"
