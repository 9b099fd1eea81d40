"""Training loop of one stage."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from cutie_geo.config import TrainConfig, require
from cutie_geo.structures import ClipBatch
from cutie_geo.training.losses import Losses
from cutie_geo.training.optimiser import frozen_encoder, learning_rate_at, set_learning_rate
from cutie_geo.training.sampling import deep_updates, seed_of
from cutie_geo.training.state import TrainState
from cutie_geo.training.trainable import Outputs, Trainable

log = logging.getLogger(__name__)

TRACE = 5
"""Maximum number of samples or files in a message."""


class StepReport(NamedTuple):
    """Results of one step, the same in every process."""

    step: int
    """Number of steps done."""
    losses: dict[str, float]
    """Mean losses of the batch, by name."""
    grad_norm: float
    """Gradient norm before clipping; NaN if the step was skipped."""
    rate: float
    """Learning rate."""
    seconds: float
    """Duration of the step, including waiting for data."""
    waited: float
    """Part of `seconds` spent waiting for data."""
    clips: int
    skipped: bool


@runtime_checkable
class LoopHooks(Protocol):
    """Callbacks of every training loop."""

    def stop_wanted(self) -> bool:
        """Return True if this process was asked to stop."""
        ...

    def on_log(self, step: int, values: dict[str, float]) -> None:
        """Handle the mean values of the last `log_every` steps; called in every process."""
        ...

    def on_validate(self, step: int) -> None:
        """Validate; called every `validation.every` steps."""
        ...

    def on_save(self, state: TrainState) -> None:
        """Save the state; called every `save_every` steps, at the end, and before stopping early."""
        ...


@runtime_checkable
class Hooks(LoopHooks, Protocol):
    """Callbacks of a stage."""

    def on_step(self, report: StepReport) -> None:
        """Handle the report of a step; called after every step in every process."""
        ...

    def on_images(self, step: int, batch: ClipBatch, outputs: Outputs) -> None:
        """Draw figures of a step's inputs and outputs; called every `images_every` steps."""
        ...


class _Part(NamedTuple):
    """Result of one gradient accumulation step."""

    losses: dict[str, Tensor]
    bad: list[str]
    """Names of samples with a non-finite loss."""
    batch: ClipBatch
    outputs: Outputs


@dataclass
class Stage:
    """Training stage with its loop over steps."""

    trainable: Trainable
    accelerator: Accelerator
    state: TrainState
    module: Any
    """`Trainable.module`, wrapped by accelerate."""
    hooks: Hooks

    @property
    def config(self) -> TrainConfig:
        return self.trainable.config

    # ------------------------------------------------------------------------------------------------------ the loop
    def train(self, batches: Iterator[Sequence[ClipBatch]]) -> bool:
        """Train to the last step, or until a stop is requested; the state is saved in both cases.

        Returns:
            True if the last step was reached.

        Raises:
            ValueError: If too many steps were skipped or too many files are unreadable; the state is saved before.
        """
        state, config, ended = self.state, self.config, time.perf_counter()
        while state.step < config.steps:
            parts = next(batches)
            waited, started = time.perf_counter() - ended, ended
            report, stop, last = self._step(parts)
            ended = time.perf_counter()
            self.hooks.on_step(report._replace(seconds=ended - started, waited=waited))
            self._after(report, last)
            try:
                self._require_health()
            except ValueError:
                self.hooks.on_save(state)
                raise
            saved = state.step % config.save_every == 0 or state.step == config.steps
            if saved or stop:
                self.hooks.on_save(state)
            if stop:
                return state.step == config.steps
        return True

    def _after(self, report: StepReport, last: "_Part") -> None:
        """Log, draw figures and validate if due."""
        config, step = self.config, report.step
        if step % config.log_every == 0:
            counts = {"rate": report.rate, "skipped": float(self.state.skipped)}
            self.hooks.on_log(step, self.state.close_window() | counts)
        if config.images_every and step % config.images_every == 0:
            self.hooks.on_images(step, last.batch, last.outputs)
        if config.validation.every and step % config.validation.every == 0:
            self.hooks.on_validate(step)

    def _require_health(self) -> None:
        config, state = self.config, self.state
        require(
            state.skipped <= config.max_bad_steps,
            f"step {state.step}: {state.skipped} steps skipped because of a non-finite loss or gradient, "
            f"expected at most max_bad_steps={config.max_bad_steps}",
        )
        some = "; ".join(state.bad_files[-TRACE:])
        require(
            len(state.bad_files) <= config.max_bad_files,
            f"step {state.step}: {len(state.bad_files)} files could not be read, expected at most "
            f"max_bad_files={config.max_bad_files}; the last are {some}",
        )

    # ------------------------------------------------------------------------------------------------------ one step
    def _step(self, parts: Sequence[ClipBatch]) -> tuple[StepReport, bool, "_Part"]:
        """Train on one batch, accumulating gradients; also return whether any process was asked to stop."""
        config, state = self.config, self.state
        torch.manual_seed(seed_of(config.seed, state.step, self.accelerator.process_index))
        rate = learning_rate_at(state.step, config.steps, config.optimiser)
        frozen = state.step < round(config.steps * config.optimiser.encoder_from)
        set_learning_rate(state.optimiser, rate, without_encoder=frozen)
        deep = deep_updates(config.seed, state.step, parts[0].images.shape[1], config.unroll.deep_update_probability)
        # several processes exchange all gradients in every step
        with frozen_encoder(state.optimiser, frozen and self.accelerator.num_processes == 1):
            done = [self._learn(part, deep, len(parts), index == len(parts) - 1) for index, part in enumerate(parts)]
        sums = {name: torch.stack([part.losses[name] for part in done]).sum() for name in done[0].losses}
        bad = [name for part in done for name in part.bad]
        problems = [problem for part in parts for problem in part.problems]
        flags = [float(bool(bad)), float(bool(problems)), float(self.hooks.stop_wanted())]
        losses, (any_bad, any_problem, stop) = self._over_processes(sums, len(parts), flags)
        if any_problem:
            self._note_files(gather_object(problems))
        norm = float("nan") if any_bad else self._update()
        skipped = bool(any_bad) or not math.isfinite(norm)
        if any_bad:
            self._name_samples(gather_object(bad))
        state.optimiser.zero_grad()
        overflow = skipped and not any_bad and state.scaler is not None
        state.skipped += skipped and not overflow
        state.step += 1
        if not skipped:
            if state.average is not None:
                state.average.update(state.trained(), state.step)
            state.add_to_window(losses | {"grad_norm": norm})
        report = StepReport(state.step, losses, norm, rate, 0.0, 0.0, config.batch, skipped)
        return report, bool(stop), done[-1]

    def _learn(self, part: ClipBatch, deep: Sequence[bool], parts: int, last: bool) -> "_Part":
        """Run forward and backward for one part; gradients are synchronised with the last part."""
        device = self.accelerator.device
        part = to_device(part, device)
        with nullcontext() if last else self.accelerator.no_sync(self.module):
            with self.state.model.autocast():
                outputs = self.module(part, deep)
            losses, totals = self.trainable.losses(outputs, part, device)
            self.accelerator.backward(losses["total"] / parts)
        finite = torch.isfinite(totals).tolist()
        bad = [name for name, good in zip(part.names, finite) if not good]
        return _Part({name: loss.detach() for name, loss in losses.items()}, bad, part, detached(outputs))

    def _over_processes(
        self, sums: Losses, parts: int, flags: list[float]
    ) -> tuple[dict[str, float], tuple[bool, bool, bool]]:
        """Reduce losses to means over all processes, and flags to any, in one exchange."""
        device = self.accelerator.device
        own = torch.stack([*(loss.float() / parts for loss in sums.values()), *torch.tensor(flags, device=device)])
        whole = self.accelerator.reduce(own, "sum").tolist()  # type: ignore[union-attr]
        count = self.accelerator.num_processes
        losses: dict[str, float] = {name: float(value) / count for name, value in zip(sums, whole)}
        bad, problem, stop = whole[len(sums) :]
        return losses, (bad > 0, problem > 0, stop > 0)

    def _update(self) -> float:
        """Clip the gradients and update the weights; return the gradient norm. A non-finite norm changes nothing."""
        config, state = self.config, self.state
        weights = list(state.trained().values())
        norm = float(self.accelerator.clip_grad_norm_(weights, config.optimiser.clip_norm))  # type: ignore[arg-type]
        if math.isfinite(norm) or state.scaler is not None:  # a scaler checks for overflow and adapts its scale
            state.optimiser.step()
        elif self.accelerator.is_main_process:
            log.error("step %d skipped: non-finite gradient", state.step + 1)
        return norm

    # --------------------------------------------------------------------------------------------------------- messages
    def _name_samples(self, names: list[str]) -> None:
        if self.accelerator.is_main_process:
            more = f" and {len(names) - TRACE} more" if len(names) > TRACE else ""
            listed = ", ".join(names[:TRACE])
            log.error("step %d skipped: non-finite loss for %s%s", self.state.step + 1, listed, more)

    def _note_files(self, problems: list[str]) -> None:
        new = [problem for problem in dict.fromkeys(problems) if problem not in self.state.bad_files]
        self.state.bad_files += new
        for problem in new if self.accelerator.is_main_process else ():
            log.warning("skipped a file: %s (%d so far)", problem, len(self.state.bad_files))


# ------------------------------------------------------------------------------------------------------------ helpers
def prepare(trainable: Trainable, accelerator: Accelerator, state: TrainState, hooks: Hooks) -> Stage:
    """Wrap the network and the optimiser for the run's processes; return a stage that is ready to train."""
    state.model.train()
    module, state.optimiser = accelerator.prepare(trainable.module(state.model), state.optimiser)
    state.scaler = accelerator.scaler
    return Stage(trainable, accelerator, state, module, hooks)


def to_device(batch: ClipBatch, device: torch.device) -> ClipBatch:
    """Move a batch to a device; counts that determine shapes stay on the CPU, which avoids synchronisation."""
    return batch._replace(
        images=batch.images.to(device, non_blocking=True),
        labels=batch.labels.to(device, non_blocking=True),
        distance=None if batch.distance is None else batch.distance.to(device, non_blocking=True),
    )


def detached(outputs: Outputs) -> Outputs:
    """Detach all fields, so that a figure does not keep the graph of a step in memory."""
    return type(outputs)(*(None if field is None else field.detach() for field in outputs))


def unreached(model: torch.nn.Module, run: Callable[[], Tensor]) -> list[str]:
    """Return the names of trained weights that get no gradient from the loss `run()`, and clear all gradients.

    These are parts of published encoders that the features do not use.
    """
    run().backward()
    names = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    model.zero_grad(set_to_none=True)
    return names
