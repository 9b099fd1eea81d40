"""Hooks and state for the training of a masklet classifier."""

from pathlib import Path

from cutie_geo.training.optimiser import build_optimiser, groups
from cutie_geo.training.state import Checkpoints, TrainState
from cutie_geo.vss.classifier import MaskletClassifier
from cutie_geo.vss.config import ClassifierConfig


class Hooks:
    """Records log lines, saves checkpoints, and asks to stop after a step."""

    def __init__(self, root: Path, config: ClassifierConfig, stop_after: int = -1) -> None:
        self.checkpoints, self.config, self.stop_after = Checkpoints(root), config, stop_after
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.validated: list[int] = []
        self.step = 0

    def stop_wanted(self) -> bool:
        return self.step == self.stop_after

    def on_step(self, step: int) -> None:
        self.step = step

    def on_log(self, step: int, values: dict[str, float]) -> None:
        self.lines.append((step, values))

    def on_validate(self, step: int) -> None:
        self.validated.append(step)

    def on_save(self, state: TrainState) -> None:
        self.checkpoints.save(state, self.config)


def state_of(model: MaskletClassifier, config: ClassifierConfig) -> TrainState:
    """Return a classifier's training state with its optimiser."""
    return TrainState(model, build_optimiser(groups(model, config.optimiser), config.optimiser, half=False))
