"""What changes while a stage trains, on disk and back, so that a run that died goes on as if nothing had happened.

A checkpoint is a folder `step-00001000` with a model folder's files, so that it can be loaded like any model, and

    training.pt         optimiser, moving average, counters: tensors, numbers and strings, loaded without pickled code
    trained.safetensors the trained weights themselves, where the model's files hold their moving average
"""

import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cutie_geo.config import ClassifierConfig, TrainConfig, require, to_dict
from cutie_geo.model.load import load_model
from cutie_geo.model.masklet_classifier import MaskletClassifier, save_classifier
from cutie_geo.model.names import attention_name
from cutie_geo.model.network import CutieGeo
from cutie_geo.training.kinds import Network, save_checkpoint
from cutie_geo.training.optimiser import MovingAverage

log = logging.getLogger(__name__)

AnyConfig = TrainConfig | ClassifierConfig
"""Of whatever is trained."""
FORMAT = 1
STATE_FILE, TRAINED_FILE = "training.pt", "trained.safetensors"
FOLDER = re.compile(r"step-(\d{8,})")
ROOM = 1.25
"""Free space wanted before a checkpoint is written, as a multiple of its size."""
FREE = (
    "save_every",
    "keep",
    "log_every",
    "pictures_every",
    "validation",
    "max_bad_steps",
    "max_bad_files",
    "after",
    "start",
)
"""Settings that a resumed run may change: no weight depends on them."""


@dataclass
class TrainState:
    """A network that is being trained, and all else that changes with it."""

    model: Any
    """Of a `Kind`, or a classifier of masklets."""
    optimiser: Any
    """The optimiser, or the wrapper that accelerate puts around it."""
    average: MovingAverage | None = None
    step: int = 0
    """Steps done."""
    skipped: int = 0
    """Steps skipped because a loss or a gradient was no number."""
    bad_files: list[str] = field(default_factory=list)
    """Files that could not be read, each once, with the reason."""
    window: dict[str, float] = field(default_factory=dict)
    """Sums of losses since the last line of the log, by name; `count` is of how many steps."""
    scaler: Any = None
    """Of gradients in fp16."""

    def trained(self) -> dict[str, Tensor]:
        """The weights that are trained, by the names under which their network offers them."""
        return {name: weight for name, weight in _offered(self.model).items() if weight.requires_grad}


def _offered(model: nn.Module) -> dict[str, nn.Parameter]:
    """All weights by the names of its state dict, so that a run goes on under another release of a library."""
    return {attention_name(name): weight for name, weight in model.named_parameters()}


# ------------------------------------------------------------------------------------------------------------- saving
class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, root: Path, keep: int = 3) -> None:
        self.root = root
        self.keep = keep

    def steps(self) -> dict[int, Path]:
        """What is there, by step, oldest first. Half-written ones have another name."""
        found = [] if not self.root.is_dir() else [path for path in self.root.iterdir() if path.is_dir()]
        named = {int(match[1]): path for path in found if (match := FOLDER.fullmatch(path.name))}
        return dict(sorted(named.items()))

    def latest(self) -> Path | None:
        """The newest checkpoint."""
        return next(reversed(self.steps().values()), None)

    def save(self, state: TrainState, config: AnyConfig) -> Path:
        """Write a checkpoint, whole or not at all, and drop the oldest beyond `keep`.

        Raises OSError, naming the folder, if there is no room or writing fails; what was there is there still.
        """
        final = self.root / f"step-{state.step:08d}"
        self.require_room(state)
        part = self.root / f".{final.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(parents=True)
            _write(state, config, part)
            if final.exists():  # of a run that was told to start anew
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

    def require_room(self, state: TrainState) -> None:
        """Raises OSError if the disk has too little room for a checkpoint."""
        wanted = int(ROOM * checkpoint_bytes(state))
        self.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.root).free
        if free < wanted:
            text = f"checkpoint not written: {free / 2**20:.0f} MiB free, wanted {wanted / 2**20:.0f} MiB"
            raise OSError(28, text, str(self.root))


def checkpoint_bytes(state: TrainState) -> int:
    """How large a checkpoint will be: the stored weights, two moments of each trained one, and any moving average."""
    trained = sum(weight.numel() for weight in state.trained().values()) * 4
    stored = sum(weight.numel() * weight.element_size() for weight in state.model.state_dict().values())
    frozen = sum(w.numel() * w.element_size() for w in state.model.parameters() if not w.requires_grad)
    kept = stored - (frozen if state.model.frozen_files else 0)
    return kept + trained * (2 if state.average is None else 4)


def _write(state: TrainState, config: AnyConfig, folder: Path) -> None:
    """The files of a checkpoint, on the disk and not only in its cache when this returns."""
    with offered_weights(state):
        if isinstance(state.model, MaskletClassifier):
            save_classifier(state.model, folder)
        else:
            assert isinstance(config, TrainConfig), "networks are trained by stages"
            save_checkpoint(state.model, folder, config)
    if state.average is not None:
        save_file({name: weight.detach().contiguous() for name, weight in state.trained().items()},
                  folder / TRAINED_FILE)  # fmt: skip
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
    for path in (*folder.iterdir(), folder):
        _sync(path)


def _sync(path: Path) -> None:
    """Have a file or a folder's list of names written to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems can't for folders
        log.debug("%s: not synchronised", path)
    finally:
        os.close(handle)


@contextmanager
def offered_weights(state: TrainState) -> Iterator[None]:
    """Within the block the network has the weights that a user should get: the moving average, where there is one."""
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
    """The optimiser's moments by the name of the weight."""
    inner = state.optimiser.state_dict()["state"]
    return {name: inner[index] for index, name in enumerate(_optimised(state)) if index in inner}


def _optimised(state: TrainState) -> list[str]:
    """Names of the weights in the optimiser's own order."""
    names = {id(weight): name for name, weight in state.trained().items()}
    return [names[id(weight)] for group in state.optimiser.param_groups for weight in group["params"]]


def to_plain(config: AnyConfig) -> dict[str, Any]:
    """A configuration as dictionaries and lists."""
    return _plain(to_dict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


# ------------------------------------------------------------------------------------------------------------ reading
def read_state(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of the run, without its weights. Raises ValueError for a damaged or missing one."""
    path = folder / STATE_FILE
    require(path.is_file(), f"{folder}: no {STATE_FILE} in it, wanted a checkpoint of training")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its reader stumbles over
        raise ValueError(f"{path}: damaged ({type(error).__name__})") from None
    made_by = content.get("format") if isinstance(content, dict) else None
    require(made_by == FORMAT, f"{path}: format {made_by!r}, wanted {FORMAT}")
    return content


def require_same(saved: Mapping[str, Any], config: AnyConfig, where: Path) -> None:
    """Raises ValueError naming what differs between a checkpoint's configuration and `config`."""
    ours, theirs = _flat(to_plain(config)), _flat(saved)
    changed = [key for key in (ours | theirs) if ours.get(key) != theirs.get(key) and key.split(".")[0] not in FREE]
    told = "; ".join(f"{key} {theirs.get(key)!r}, wanted {ours.get(key)!r}" for key in changed[:8])
    more = f" and {len(changed) - 8} more" if len(changed) > 8 else ""
    require(not changed, f"{where}: a checkpoint of another configuration: got {told}{more}")


def _flat(content: Any, before: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in content.items():
        out |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return out


def load_trained(folder: Path, device: torch.device, precision: str, overrides: list[str]) -> CutieGeo:
    """The network of a checkpoint with the weights that were trained, not their average."""
    model = load_model(str(folder), "auto", device, precision, overrides)
    take_trained(model, folder)
    return model


def take_trained(model: Network, folder: Path) -> None:
    """Give the network of a checkpoint the weights that were trained, if its files hold their average."""
    path = folder / TRAINED_FILE
    if path.is_file():
        try:
            values = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: damaged ({' '.join(str(error).split())[:120]})") from None
        known = _offered(model)
        strange = sorted(name for name in values if name not in known or known[name].shape != values[name].shape)
        require(not strange, f"{path}: entries that don't fit the model beside it: {', '.join(strange[:5])}")
        _assign({name: known[name] for name in values}, values)


def restore(state: TrainState, content: Mapping[str, Any], where: Path) -> None:
    """Take over what `read_state` read: all but the weights, which `load_trained` gives.

    Raises ValueError if the optimiser's weights are others.
    """
    names, saved = _optimised(state), content["optimiser"]
    strange = sorted(set(saved) - set(names))
    require(not strange, f"{where}: optimiser has {', '.join(strange[:5])}, which this run doesn't train")
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
