"""Small runs of training on rendered clips."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from tiny import TINY_YAML

STAGE: dict[str, Any] = {
    "stage": "toy",
    "steps": 12,
    "batch": 4,
    "precision": "fp32",
    "data": [{"name": "rendered", "clips": 40, "scene": ["max_objects=2", "min_size=0.2"]}],
    "clips": {"length": 3, "crop": 32, "max_objects": 2, "max_skip": [[0.0, 2]]},
    "loss": {"points": 64},
    "optimiser": {"learning_rate": 1e-3},
    "save_every": 2,
    "log_every": 3,
    "images_every": 0,
}


def write_stage(folder: Path, model: str = TINY_YAML, **changes: Any) -> list[str]:
    """Write a model and a stage; return the arguments of `train` for them."""
    folder.mkdir(parents=True, exist_ok=True)
    preset = folder / "tiny.yaml"
    preset.write_text(model)
    (folder / "toy.yaml").write_text(yaml.safe_dump(STAGE | {"model": str(preset)} | changes))
    shared = ["--weights", "none", "--device", "cpu", "--cpu-threads", "1", "--workers", "0", "--tracker", "none"]
    return ["--config", str(folder / "toy.yaml"), *shared]


def without_weights(arguments: list[str]) -> list[str]:
    """The arguments of a stage that starts from what it starts from by itself."""
    at = arguments.index("--weights")
    return arguments[:at] + arguments[at + 2 :]


def run_folder(output: Path) -> Path:
    """Where a run of `write_stage` lies in its output."""
    return output / "tiny" / "toy"


def outcome(output: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any], list[dict[str, Any]]]:
    """The weights of the finished model, the newest checkpoint's state, and the lines of the log."""
    folder = run_folder(output)
    newest = max((folder / "checkpoints").iterdir())
    state = torch.load(newest / "training.pt", weights_only=True)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return load_file(folder / "final" / "model.safetensors"), state, lines


def same(a: Any, b: Any) -> bool:
    """Whether two outcomes are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)
