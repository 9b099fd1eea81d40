"""The classifier of masklets, trained on a table of them from step to step.

`stage` trains networks that see clips: its batches are clips, its steps unroll them, and what they say are masks. Rows
of a table are none of that, so this loop is one of its own, over the same optimiser, rates, draws and checkpoints. As
there, chance is a function of seeds, so that an interruption changes nothing.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from cutie_geo.config import ClassifierConfig, require
from cutie_geo.model.masklet_classifier import MaskletClassifier
from cutie_geo.structures import MaskletTable
from cutie_geo.training.draws import seed_of
from cutie_geo.training.optimiser import rate_at, set_rate
from cutie_geo.training.state import TrainState


@runtime_checkable
class ClassifierHooks(Protocol):
    """What happens around the steps."""

    def stop_wanted(self) -> bool:
        """Whether the run was asked to leave."""
        ...

    def on_step(self, step: int) -> None:
        """After every step."""
        ...

    def on_log(self, step: int, values: dict[str, float]) -> None:
        """Every `log_every` steps, means over them."""
        ...

    def on_validate(self, step: int) -> None:
        """Every `validation.every` steps."""
        ...

    def on_save(self, state: TrainState) -> None:
        """Every `save_every` steps, at the end, and before leaving early."""
        ...


def class_weights(labels: Int[Tensor, "K"], classes: int, kind: str) -> Float[Tensor, "classes"]:
    """Weights of classes in the loss, whose mean over masklets is 1; 0 for a class that no masklet has.

    kind: as of `ClassifierConfig.class_weights`.
    """
    counts = torch.bincount(labels, minlength=classes).double()
    power = {"balanced": -1.0, "sqrt": -0.5, "none": 0.0}[kind]
    weights = torch.where(counts > 0, counts.clamp(min=1) ** power, 0.0)
    return (weights * counts.sum() / (weights * counts).sum()).float()


def steps_of(config: ClassifierConfig, masklets: int) -> int:
    """Steps of a whole training; an epoch's last one has the masklets that are left."""
    return config.epochs * math.ceil(masklets / config.batch)


def rows_of(step: int, config: ClassifierConfig, masklets: int) -> Int[Tensor, "rows"]:
    """The masklets that a step, counted from 0, learns from: each epoch has an order of its own."""
    epoch, place = divmod(step, math.ceil(masklets / config.batch))
    draws = torch.Generator().manual_seed(seed_of("masklets", config.seed, epoch))
    order = torch.randperm(masklets, generator=draws)
    return order[place * config.batch : (place + 1) * config.batch]


def new_classifier(model: MaskletClassifier, seed: int) -> MaskletClassifier:
    """The classifier with the random weights of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("classifier", seed))
        for layer in model.layers:
            if isinstance(layer, torch.nn.Linear):
                layer.reset_parameters()
    return model


@dataclass
class ClassifierTraining:
    """A classifier's training and what it runs on."""

    config: ClassifierConfig
    state: TrainState
    table: MaskletTable
    """All masklets that are learnt from, where the classifier is."""
    hooks: ClassifierHooks

    def __post_init__(self) -> None:
        self.labels = self.table.labels()
        self.steps = steps_of(self.config, len(self.labels))
        self.weights = class_weights(self.labels, self.table.votes.shape[1], self.config.class_weights)

    def train(self) -> bool:
        """Train to the last step; False if asked to leave before. The state is saved in both cases.

        Raises ValueError for a loss or a gradient that is no number.
        """
        state, config = self.state, self.config
        state.model.train()
        while state.step < self.steps:
            self._step()
            self.hooks.on_step(state.step)
            if state.step % config.log_every == 0:
                self.hooks.on_log(state.step, self._close_window())
            if config.validation.every and state.step % config.validation.every == 0:
                self.hooks.on_validate(state.step)
            stop = self.hooks.stop_wanted()
            if state.step % config.save_every == 0 or state.step == self.steps or stop:
                self.hooks.on_save(state)
            if stop:
                return state.step == self.steps
        return True

    def _step(self) -> None:
        """Learn from some masklets."""
        state, config = self.state, self.config
        rate = rate_at(state.step, self.steps, config.optimiser)
        set_rate(state.optimiser, rate)
        rows = rows_of(state.step, config, len(self.labels)).to(self.labels.device)
        labels = self.labels[rows]
        logits = state.model(self.table.features[rows])
        loss = cross_entropy(logits, labels, self.weights)
        loss.backward()
        norm = float(clip_grad_norm_(state.model.parameters(), config.optimiser.clip_norm))
        good = math.isfinite(norm) and math.isfinite(float(loss.detach()))
        require(good, f"step {state.step + 1}: got loss {float(loss.detach())} and gradient {norm}, wanted numbers")
        state.optimiser.step()
        state.optimiser.zero_grad()
        state.step += 1
        right = float((logits.argmax(dim=1) == labels).float().mean())
        self._add_to_window({"loss": float(loss.detach()), "top1": 100 * right, "grad_norm": norm, "rate": rate})

    def _add_to_window(self, values: dict[str, float]) -> None:
        window = self.state.window
        for name, value in (values | {"count": 1.0}).items():
            window[name] = window.get(name, 0.0) + value

    def _close_window(self) -> dict[str, float]:
        """Means since the last call."""
        window, self.state.window = self.state.window, {}
        count = window.pop("count")
        return {name: value / count for name, value in window.items()}


@torch.inference_mode()
def confusion_of(model: MaskletClassifier, table: MaskletTable, batch: int) -> Int[Tensor, "classes classes1"]:
    """True pixels inside masklets, by class (rows) and by the class that their masklet is given; the last column, of
    pixels without a label, is empty. A pixel counts for each masklet that it lies in."""
    classes = table.votes.shape[1]
    counts = torch.zeros(classes + 1, classes, dtype=torch.long, device=table.votes.device)
    for features, votes in zip(table.features.split(batch), table.votes.split(batch)):
        counts.index_add_(0, model(features).argmax(dim=1), votes.long())
    return counts.T.contiguous()


@torch.inference_mode()
def top1(model: MaskletClassifier, table: MaskletTable, batch: int) -> float:
    """The share of masklets whose class is right, in percent. The table has one at least."""
    parts = zip(table.features.split(batch), table.labels().split(batch))
    right = sum(int((model(features).argmax(dim=1) == labels).sum()) for features, labels in parts)
    return 100 * right / len(table.features)
