"""Training loop of the masklet classifier.

`cutie_geo.training.stage` trains networks on clips: it unrolls them and scores masks. Rows of a table need none of
that, so this loop is separate. It shares the optimiser, the schedule, seeds, checkpoints and the hooks' protocol. As
there, randomness is a function of the seed, so that a resumed run ends with the same weights.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from cutie_geo.config import require
from cutie_geo.training.optimiser import learning_rate_at, set_learning_rate
from cutie_geo.training.sampling import seed_of
from cutie_geo.training.stage import LoopHooks
from cutie_geo.training.state import TrainState
from cutie_geo.vss.classifier import MaskletClassifier
from cutie_geo.vss.config import ClassifierConfig
from cutie_geo.vss.masklet_files import MaskletTable


@runtime_checkable
class ClassifierHooks(LoopHooks, Protocol):
    """Callbacks of the loop."""

    def on_step(self, step: int) -> None:
        """Run after every step."""
        ...


def class_weights(labels: Int[Tensor, "K"], classes: int, kind: str) -> Float[Tensor, "classes"]:
    """Return the weights of classes in the loss.

    Args:
        labels: class of each masklet.
        classes: number of classes.
        kind: see `ClassifierConfig.class_weights`.

    Returns:
        Weights whose mean over the masklets is 1; 0 for a class without masklets.
    """
    counts = torch.bincount(labels, minlength=classes).double()
    power = {"balanced": -1.0, "sqrt": -0.5, "none": 0.0}[kind]
    weights = torch.where(counts > 0, counts.clamp(min=1) ** power, 0.0)
    return (weights * counts.sum() / (weights * counts).sum()).float()


def steps_of(config: ClassifierConfig, masklets: int) -> int:
    """Return the number of steps of a training; the last step of an epoch may have fewer masklets."""
    return config.epochs * math.ceil(masklets / config.batch)


def rows_of(step: int, config: ClassifierConfig, masklets: int) -> Int[Tensor, "rows"]:
    """Return the rows of a step, counted from 0; each epoch has its own order."""
    epoch, place = divmod(step, math.ceil(masklets / config.batch))
    generator = torch.Generator().manual_seed(seed_of("masklets", config.seed, epoch))
    order = torch.randperm(masklets, generator=generator)
    return order[place * config.batch : (place + 1) * config.batch]


def new_classifier(model: MaskletClassifier, seed: int) -> MaskletClassifier:
    """Initialise the weights from a seed, in place, and return the classifier."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("classifier", seed))
        for layer in model.layers:
            if isinstance(layer, torch.nn.Linear):
                layer.reset_parameters()
    return model


@dataclass
class ClassifierTraining:
    """Training of a classifier on a table of masklets."""

    config: ClassifierConfig
    state: TrainState
    table: MaskletTable
    """Masklets to train on, on the classifier's device."""
    hooks: ClassifierHooks

    def __post_init__(self) -> None:
        self.labels = self.table.labels()
        self.steps = steps_of(self.config, len(self.labels))
        self.weights = class_weights(self.labels, self.table.votes.shape[1], self.config.class_weights)

    def train(self) -> bool:
        """Train to the last step and save the state.

        Returns:
            False if the run was asked to stop before the last step; its state is saved too.

        Raises:
            ValueError: if a loss or a gradient is not finite.
        """
        state, config = self.state, self.config
        state.model.train()
        while state.step < self.steps:
            self._step()
            self.hooks.on_step(state.step)
            if state.step % config.log_every == 0:
                self.hooks.on_log(state.step, state.close_window())
            if config.validation.every and state.step % config.validation.every == 0:
                self.hooks.on_validate(state.step)
            stop = self.hooks.stop_wanted()
            if state.step % config.save_every == 0 or state.step == self.steps or stop:
                self.hooks.on_save(state)
            if stop:
                return state.step == self.steps
        return True

    def _step(self) -> None:
        state, config = self.state, self.config
        rate = learning_rate_at(state.step, self.steps, config.optimiser)
        set_learning_rate(state.optimiser, rate)
        rows = rows_of(state.step, config, len(self.labels)).to(self.labels.device)
        labels = self.labels[rows]
        logits = state.model(self.table.features[rows])
        loss = cross_entropy(logits, labels, self.weights)
        loss.backward()
        norm = float(clip_grad_norm_(state.model.parameters(), config.optimiser.clip_norm))
        finite = math.isfinite(norm) and math.isfinite(float(loss.detach()))
        require(finite, f"step {state.step + 1}: got loss {float(loss.detach())} and gradient {norm}, expected numbers")
        state.optimiser.step()
        state.optimiser.zero_grad()
        state.step += 1
        right = float((logits.argmax(dim=1) == labels).float().mean())
        state.add_to_window({"loss": float(loss.detach()), "top1": 100 * right, "grad_norm": norm, "rate": rate})


@torch.inference_mode()
def confusion_of(model: MaskletClassifier, table: MaskletTable, batch: int) -> Int[Tensor, "classes classes1"]:
    """Return the confusion matrix of the true pixels inside masklets.

    Rows are true classes, columns the classes predicted for the masklets. A pixel counts once for each masklet that
    covers it. The last column, of pixels without a label, is empty.
    """
    classes = table.votes.shape[1]
    counts = torch.zeros(classes + 1, classes, dtype=torch.long, device=table.votes.device)
    for features, votes in zip(table.features.split(batch), table.votes.split(batch)):
        counts.index_add_(0, model(features).argmax(dim=1), votes.long())
    return counts.T.contiguous()


@torch.inference_mode()
def top1(model: MaskletClassifier, table: MaskletTable, batch: int) -> float:
    """Return the percentage of masklets whose class is predicted correctly. The table must not be empty."""
    parts = zip(table.features.split(batch), table.labels().split(batch))
    right = sum(int((model(features).argmax(dim=1) == labels).sum()) for features, labels in parts)
    return 100 * right / len(table.features)
