"""State of a training run, and its checkpoints for exact resumption.

A checkpoint is a folder `step-00001000` with the files of a model folder, so that it loads like any model, and

    training.pt         optimiser, moving average, counters: tensors, numbers and strings, loaded without pickled code
    trained.safetensors trained weights, if the model's files contain their moving average
    digests.json        SHA-256 of each of these files, checked when a run resumes
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cutie_geo.checkpoints.tensor_files import LargePickle, load_plain, write_tensors
from cutie_geo.config import (
    build,
    flatten,
    hidden_name,
    read_json,
    require,
    require_name,
    to_dict,
    with_current_names,
)
from cutie_geo.model.tensor_names import attention_name
from cutie_geo.training.optimiser import MovingAverage
from cutie_geo.training.trainable import Network, Trainable

log = logging.getLogger(__name__)

AnyConfig = Any
"""Configuration of a training run: a dataclass of plain values, such as `TrainConfig`."""
FORMAT = 2
"""Format version of training.pt. Version 1, without digests, is still supported."""
STATE_FILE, TRAINED_FILE, DIGESTS_FILE = "training.pt", "trained.safetensors", "digests.json"
FOLDER = re.compile(r"step-(\d{8,})")
ENTRIES: dict[str, type | tuple[type, ...]] = {
    "config": dict,
    "step": int,
    "skipped": int,
    "bad_files": list,
    "window": dict,
    "optimiser": dict,
    "average": (dict, type(None)),
    "scaler": (dict, type(None)),
}
"""Entries of training.pt and their types."""
SPACE_FACTOR = 1.25
"""Free disk space required before a checkpoint is written, as a multiple of its size."""
FREE = (
    "save_every",
    "keep",
    "log_every",
    "images_every",
    "validation",
    "max_bad_steps",
    "max_bad_files",
    "after",
    "start",
)
"""Settings that a resumed run may change, since the weights do not depend on them."""


@runtime_checkable
class SelfSaving(Protocol):
    """Protocol of a trained module that writes its own files; other networks are written by their trainable."""

    def save(self, folder: Path) -> Path:
        """Write the module to a folder and return the weights file. Raises OSError."""
        ...


@dataclass
class TrainState:
    """Network in training with its optimiser, moving average and counters."""

    model: Any
    """Network of a `Trainable`, or a masklet classifier."""
    optimiser: Any
    """Optimiser, or accelerate's wrapper of it."""
    average: MovingAverage | None = None
    step: int = 0
    """Number of steps done."""
    skipped: int = 0
    """Number of steps skipped because of a non-finite loss or gradient."""
    bad_files: list[str] = field(default_factory=list)
    """Unreadable files, each with the reason."""
    window: dict[str, float] = field(default_factory=dict)
    """Sums of losses since the last log line, by name; `count` is the number of steps."""
    scaler: Any = None
    """Gradient scaler of fp16."""
    trainable: Trainable | None = None
    """Trainable that saves the network; None for modules that are not trained by a stage."""

    def add_to_window(self, values: Mapping[str, float]) -> None:
        """Add the values of one step to the sums for the next line of the log."""
        for name, value in {**values, "count": 1.0}.items():
            self.window[name] = self.window.get(name, 0.0) + value

    def close_window(self) -> dict[str, float]:
        """Return means over the steps since the last call; empty if there was none."""
        window, self.window = self.window, {}
        count = window.pop("count", 0.0)
        return {name: value / count for name, value in window.items()} if count else {}

    def trained(self) -> dict[str, Tensor]:
        """Return the trained weights by their names in the state dict."""
        return {name: weight for name, weight in _offered(self.model).items() if weight.requires_grad}


def _offered(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return all weights by names that do not depend on the release of `transformers`."""
    return {attention_name(name): weight for name, weight in model.named_parameters()}


# ------------------------------------------------------------------------------------------------------------- saving
class Checkpoints:
    """Checkpoints of one run."""

    def __init__(self, root: Path, keep: int = 3) -> None:
        self.root = root
        self.keep = keep

    def steps(self) -> dict[int, Path]:
        """Return the complete checkpoints by step, oldest first."""
        found = [] if not self.root.is_dir() else [path for path in self.root.iterdir() if path.is_dir()]
        named = {int(match[1]): path for path in found if (match := FOLDER.fullmatch(path.name))}
        return dict(sorted(named.items()))

    def latest(self) -> Path | None:
        """Return the newest checkpoint, or None."""
        return next(reversed(self.steps().values()), None)

    def save(self, state: TrainState, config: AnyConfig) -> Path:
        """Write a checkpoint atomically, then delete the oldest beyond `keep`.

        Raises:
            OSError: If the disk is full or writing fails; older checkpoints stay intact.
        """
        final = self.root / f"step-{state.step:08d}"
        self.require_space(state)
        part = hidden_name(final)
        for left in self.root.glob(".step-*.part"):  # left by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        try:
            part.mkdir(parents=True)
            _write(state, config, part)
            if final.exists():  # from an earlier run that was restarted
                shutil.rmtree(final)
            os.replace(part, final)
            _sync(self.root)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch's writer raises RuntimeError for a full disk
            raise OSError(getattr(error, "errno", None) or 28, f"checkpoint not written: {error}", str(final)) from None
        finally:
            shutil.rmtree(part, ignore_errors=True)
        for path in list(self.steps().values())[: -self.keep]:
            shutil.rmtree(path, ignore_errors=True)
        return final

    def require_space(self, state: TrainState) -> None:
        """Check the free disk space. Raises OSError if it is too little for a checkpoint."""
        wanted = int(SPACE_FACTOR * checkpoint_bytes(state))
        self.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.root).free
        if free < wanted:
            text = f"checkpoint not written: {free / 2**20:.0f} MiB free, expected {wanted / 2**20:.0f} MiB"
            raise OSError(28, text, str(self.root))


def checkpoint_bytes(state: TrainState) -> int:
    """Return the size of a checkpoint: stored weights, two moments of each trained weight, and the moving average."""
    trained = sum(weight.numel() for weight in state.trained().values()) * 4
    stored = sum(weight.numel() * weight.element_size() for weight in state.model.state_dict().values())
    frozen = sum(w.numel() * w.element_size() for w in state.model.parameters() if not w.requires_grad)
    kept = stored - (frozen if state.model.frozen_files else 0)
    return kept + trained * (2 if state.average is None else 4)


def _write(state: TrainState, config: AnyConfig, folder: Path) -> None:
    """Write the files of a checkpoint and flush them to disk."""
    with offered_weights(state):
        if isinstance(state.model, SelfSaving):
            state.model.save(folder)
        else:
            assert state.trainable is not None, "networks are trained by stages"
            state.trainable.save(state.model, folder)
    if state.average is not None:
        write_tensors(folder / TRAINED_FILE, {name: w.detach().contiguous() for name, w in state.trained().items()})
    content = {
        "format": FORMAT,
        "config": to_plain(config),
        "step": state.step,
        "skipped": state.skipped,
        "bad_files": state.bad_files,
        "window": state.window,
        "optimiser": _optimiser_state(state),
        "average": None if state.average is None else state.average.average,
        "scaler": None if state.scaler is None else state.scaler.state_dict(),
    }
    torch.save(content, folder / STATE_FILE)
    digests = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    (folder / DIGESTS_FILE).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        _sync(path)


def _sync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # not supported for folders by some network file systems
        log.debug("%s: not synchronised", path)
    finally:
        os.close(handle)


@contextmanager
def offered_weights(state: TrainState) -> Iterator[None]:
    """Use the moving average, if any, as the network's weights within the block."""
    if state.average is None:
        yield
        return
    trained = state.trained()
    kept = {name: weight.detach().clone() for name, weight in trained.items()}
    try:
        _assign(trained, state.average.average)
        yield
    finally:
        _assign(trained, kept)


@torch.no_grad()
def _assign(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        weight.copy_(values[name])


def _optimiser_state(state: TrainState) -> dict[str, Any]:
    """Return the optimiser's moments by the name of the weight."""
    inner = state.optimiser.state_dict()["state"]
    return {name: inner[index] for index, name in enumerate(_optimised(state)) if index in inner}


def _optimised(state: TrainState) -> list[str]:
    """Return the names of the weights in the optimiser's order."""
    names = {id(weight): name for name, weight in state.trained().items()}
    return [names[id(weight)] for group in state.optimiser.param_groups for weight in group["params"]]


def to_plain(config: AnyConfig) -> dict[str, Any]:
    """Return a configuration as dictionaries and lists."""
    return _plain(to_dict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


# ------------------------------------------------------------------------------------------------------------ reading
def read_state(folder: Path) -> dict[str, Any]:
    """Read the state of a run, without the weights. Raises ValueError for a damaged or missing checkpoint."""
    path = folder / STATE_FILE
    require(path.is_file(), f"{folder}: no {STATE_FILE} in it, expected a checkpoint of training")
    checked = _require_undamaged(folder)
    try:
        content = load_plain(path)
    except LargePickle:
        raise
    except Exception as error:  # torch raises many types of errors for damaged files
        raise ValueError(f"{path}: damaged ({type(error).__name__})") from None
    made_by = content.get("format") if isinstance(content, dict) else None
    require(made_by in (1, FORMAT), f"{path}: format {made_by!r}, expected {FORMAT}")
    for name, kind in ENTRIES.items():
        require(isinstance(content.get(name), kind), f"{path}: damaged, its entry {name} is missing or of another type")
    require(checked or made_by == 1, f"{folder}: no {DIGESTS_FILE} in it, so its files cannot be checked")
    whole = content["average"] is None or (folder / TRAINED_FILE).is_file()
    require(whole, f"{folder}: no {TRAINED_FILE} in it, expected the trained weights beside their moving average")
    return content


def _require_undamaged(folder: Path) -> bool:
    """Check the digests of a checkpoint's files; return False if it has no digests.

    Raises:
        ValueError: If a file is missing or differs from its digest.
    """
    path = folder / DIGESTS_FILE
    if not path.is_file():
        return False
    digests = read_json(path)
    require(isinstance(digests, dict) and STATE_FILE in digests, f"{path}: damaged, expected digests by file name")
    for name, digest in digests.items():
        file = folder / require_name(name, str(path))
        require(file.is_file(), f"{file}: missing; the checkpoint was written with it")
        require(_sha256(file) == digest, f"{file}: damaged (SHA-256 differs)")
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resumed(resume: str, checkpoints: Checkpoints) -> tuple[Path | None, dict[str, Any] | None]:
    """Return the checkpoint from which a run resumes and its state; two Nones for a new run.

    Args:
        resume: `auto` for the newest undamaged checkpoint, with a warning for damaged ones; `never` for none; else the
            folder of a checkpoint.
        checkpoints: Checkpoints in the run's folder.

    Raises:
        ValueError: If `never` is set and there are checkpoints, if the checkpoint is missing, or if all are damaged.
    """
    found = list(reversed(checkpoints.steps().values()))
    if resume == "never":
        run = checkpoints.root.parent
        require(not found, f"{run}: a run with a checkpoint is here; expected --resume auto, or --output")
        return None, None
    if resume != "auto":
        path = Path(resume).expanduser()
        require(path.is_dir(), f"--resume: no folder {path}, expected auto, never or a checkpoint")
        return path, read_state(path)
    for path in found:
        try:
            return path, read_state(path)
        except ValueError as error:
            log.warning("%s; using the checkpoint before it", error)
    advice = "remove them to start again, or name a copy with --resume"
    require(not found, f"{checkpoints.root}: every checkpoint is damaged; {advice}")
    return None, None


def require_same(saved: Mapping[str, Any], config: AnyConfig, where: Path) -> None:
    """Check that a checkpoint has the configuration `config`; settings that it does not know have their defaults.

    Raises:
        ValueError: If any setting but those in `FREE` differs.
    """
    ours, theirs = flatten(to_plain(config)), flatten(_with_defaults(saved, config))
    changed = [key for key in (ours | theirs) if ours.get(key) != theirs.get(key) and key.split(".")[0] not in FREE]
    differences = "; ".join(f"{key} {theirs.get(key)!r}, expected {ours.get(key)!r}" for key in changed[:8])
    more = f" and {len(changed) - 8} more" if len(changed) > 8 else ""
    require(not changed, f"{where}: a checkpoint of another configuration: got {differences}{more}")


def _with_defaults(saved: Mapping[str, Any], config: AnyConfig) -> Mapping[str, Any]:
    """Return the configuration of a checkpoint with the defaults of settings that were added after it was written."""
    try:
        return to_plain(build(type(config), with_current_names(saved), "checkpoint"))
    except (ValueError, TypeError):
        return saved


def take_trained(model: Network, folder: Path) -> None:
    """Load the trained weights if the network's files contain their moving average."""
    path = folder / TRAINED_FILE
    if path.is_file():
        try:
            values = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: damaged ({' '.join(str(error).split())[:120]})") from None
        known = _offered(model)
        strange = sorted(name for name in values if name not in known or known[name].shape != values[name].shape)
        require(not strange, f"{path}: entries do not match the model next to it: {', '.join(strange[:5])}")
        _assign({name: known[name] for name in values}, values)


def restore(state: TrainState, content: Mapping[str, Any], where: Path) -> None:
    """Restore everything but the weights from the result of `read_state`.

    Raises:
        ValueError: If the optimiser's weights differ.
    """
    names, saved = _optimised(state), content["optimiser"]
    strange = sorted(set(saved) - set(names))
    require(not strange, f"{where}: optimiser has {', '.join(strange[:5])}, which this run does not train")
    inner = state.optimiser.state_dict()
    inner["state"] = {index: saved[name] for index, name in enumerate(names) if name in saved}
    state.optimiser.load_state_dict(inner)
    if state.average is not None and content["average"] is not None:
        for name, value in content["average"].items():
            state.average.average[name].copy_(value)
    if state.scaler is not None and content["scaler"]:
        state.scaler.load_state_dict(content["scaler"])
    state.step, state.skipped = content["step"], content["skipped"]
    state.bad_files, state.window = list(content["bad_files"]), dict(content["window"])
