"""One stage of training, from step to step."""

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
from cutie_geo.training.draws import deep_updates, seed_of
from cutie_geo.training.kinds import Said, batch_losses, kind_of
from cutie_geo.training.losses import Losses
from cutie_geo.training.optimiser import rate_at, set_rate
from cutie_geo.training.state import TrainState

log = logging.getLogger(__name__)

TRACE = 5
"""Names of samples, or files, that a message spells out."""


class StepReport(NamedTuple):
    """What is known after a step, the same in every process."""

    step: int
    """Steps done."""
    losses: dict[str, float]
    """By name, means over the batch."""
    grad_norm: float
    """Before it was shortened; NaN where the step was skipped."""
    rate: float
    """Learning rate."""
    seconds: float
    """Since the step before, waiting for data included."""
    waited: float
    """Of these, for data."""
    clips: int
    skipped: bool


@runtime_checkable
class Hooks(Protocol):
    """What happens around the steps: everything that a stage does not do itself."""

    def stop_wanted(self) -> bool:
        """Whether this process was asked to leave."""
        ...

    def on_step(self, report: StepReport) -> None:
        """After every step, in every process."""
        ...

    def on_log(self, step: int, values: dict[str, float]) -> None:
        """Every `log_every` steps, means over them, in every process."""
        ...

    def on_pictures(self, step: int, batch: ClipBatch, said: Said) -> None:
        """Every `pictures_every` steps, with what the step saw and said."""
        ...

    def on_validate(self, step: int) -> None:
        """Every `validation.every` steps."""
        ...

    def on_save(self, state: TrainState) -> None:
        """Every `save_every` steps, at the end, and before leaving early."""
        ...


class _Part(NamedTuple):
    """What came of one part of a step's clips."""

    losses: dict[str, Tensor]
    bad: list[str]
    """Samples whose loss is no number."""
    batch: ClipBatch
    said: Said


@dataclass
class Stage:
    """A stage and what it runs on."""

    config: TrainConfig
    accelerator: Accelerator
    state: TrainState
    module: Any
    """`Kind.module`, as accelerate wrapped it."""
    hooks: Hooks

    # ------------------------------------------------------------------------------------------------------ the loop
    def train(self, batches: Iterator[Sequence[ClipBatch]]) -> bool:
        """Train to the last step; False if asked to leave before. The state is saved in both cases.

        Raises ValueError when too many steps were skipped or too many files could not be read, after saving.
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
        """What is due after a step: a line of the log, pictures, scores."""
        config, step = self.config, report.step
        if step % config.log_every == 0:
            self.hooks.on_log(step, self._close_window() | {"rate": report.rate, "skipped": float(self.state.skipped)})
        if config.pictures_every and step % config.pictures_every == 0:
            self.hooks.on_pictures(step, last.batch, last.said)
        if config.validation.every and step % config.validation.every == 0:
            self.hooks.on_validate(step)

    def _require_health(self) -> None:
        config, state = self.config, self.state
        require(
            state.skipped <= config.max_bad_steps,
            f"step {state.step}: {state.skipped} steps skipped because a loss or gradient was no number, "
            f"wanted at most max_bad_steps={config.max_bad_steps}",
        )
        some = "; ".join(state.bad_files[-TRACE:])
        require(
            len(state.bad_files) <= config.max_bad_files,
            f"step {state.step}: {len(state.bad_files)} files could not be read, wanted at most "
            f"max_bad_files={config.max_bad_files}; the last are {some}",
        )

    # ------------------------------------------------------------------------------------------------------ one step
    def _step(self, parts: Sequence[ClipBatch]) -> tuple[StepReport, bool, "_Part"]:
        """Learn from one batch, in `accumulate` parts; also whether any process was asked to leave."""
        config, state = self.config, self.state
        torch.manual_seed(seed_of(config.seed, state.step, self.accelerator.process_index))
        rate = rate_at(state.step, config.steps, config.optimiser)
        set_rate(state.optimiser, rate)
        deep = deep_updates(config.seed, state.step, parts[0].images.shape[1], config.unroll.deep_update_probability)
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
            self._add_to_window(losses | {"grad_norm": norm})
        report = StepReport(state.step, losses, norm, rate, 0.0, 0.0, config.batch, skipped)
        return report, bool(stop), done[-1]

    def _learn(self, part: ClipBatch, deep: Sequence[bool], parts: int, last: bool) -> "_Part":
        """Forward and backward for some clips; gradients meet those of other processes with the last of them."""
        config, device = self.config, self.accelerator.device
        part = to_device(part, device)
        with nullcontext() if last else self.accelerator.no_sync(self.module):
            with self.state.model.autocast():
                said = self.module(part, deep)
            losses, totals = batch_losses(said, part, config, device)
            self.accelerator.backward(losses["total"] / parts)
        finite = torch.isfinite(totals).tolist()
        bad = [name for name, good in zip(part.names, finite) if not good]
        return _Part({name: loss.detach() for name, loss in losses.items()}, bad, part, detached(said))

    def _over_processes(
        self, sums: Losses, parts: int, flags: list[float]
    ) -> tuple[dict[str, float], tuple[bool, bool, bool]]:
        """Losses as means over all clips of the step, and flags that any process raised: one exchange for all."""
        device = self.accelerator.device
        own = torch.stack([*(loss.float() / parts for loss in sums.values()), *torch.tensor(flags, device=device)])
        whole = self.accelerator.reduce(own, "sum").tolist()  # type: ignore[union-attr]
        count = self.accelerator.num_processes
        losses: dict[str, float] = {name: float(value) / count for name, value in zip(sums, whole)}
        bad, problem, stop = whole[len(sums) :]
        return losses, (bad > 0, problem > 0, stop > 0)

    def _update(self) -> float:
        """Change the weights; return the length of the gradient. Nothing is changed if that is no number."""
        config, state = self.config, self.state
        weights = list(state.trained().values())
        norm = float(self.accelerator.clip_grad_norm_(weights, config.optimiser.clip_norm))  # type: ignore[arg-type]
        if math.isfinite(norm) or state.scaler is not None:  # a scaler looks itself, and learns from what it sees
            state.optimiser.step()
        elif self.accelerator.is_main_process:
            log.error("step %d skipped: its gradient is no number", state.step + 1)
        return norm

    # ----------------------------------------------------------------------------------------------------- what is said
    def _name_samples(self, names: list[str]) -> None:
        if self.accelerator.is_main_process:
            more = f" and {len(names) - TRACE} more" if len(names) > TRACE else ""
            listed = ", ".join(names[:TRACE])
            log.error("step %d skipped: the loss is no number for %s%s", self.state.step + 1, listed, more)

    def _note_files(self, problems: list[str]) -> None:
        new = [problem for problem in dict.fromkeys(problems) if problem not in self.state.bad_files]
        self.state.bad_files += new
        for problem in new if self.accelerator.is_main_process else ():
            log.warning("skipped a file: %s (%d so far)", problem, len(self.state.bad_files))

    def _add_to_window(self, values: dict[str, float]) -> None:
        window = self.state.window
        for name, value in (values | {"count": 1.0}).items():
            window[name] = window.get(name, 0.0) + value

    def _close_window(self) -> dict[str, float]:
        """Means since the last call."""
        window, self.state.window = self.state.window, {}
        count = window.pop("count", 0.0)
        return {name: value / count for name, value in window.items()} if count else {}


# ------------------------------------------------------------------------------------------------------------- pieces
def prepare(config: TrainConfig, accelerator: Accelerator, state: TrainState, hooks: Hooks) -> Stage:
    """A stage that is ready to train: the network behind the wrapper of the run's processes."""
    state.model.train()
    module, state.optimiser = accelerator.prepare(kind_of(config).module(state.model, config), state.optimiser)
    state.scaler = accelerator.scaler
    return Stage(config, accelerator, state, module, hooks)


def to_device(batch: ClipBatch, device: torch.device) -> ClipBatch:
    """A batch where it is needed; what decides shapes stays on the CPU too, so that nobody waits for the device."""
    return batch._replace(
        images=batch.images.to(device, non_blocking=True),
        labels=batch.labels.to(device, non_blocking=True),
        distance=None if batch.distance is None else batch.distance.to(device, non_blocking=True),
    )


def detached(said: Said) -> Said:
    """The same without gradients, so that a picture doesn't hold a step's memory."""
    return type(said)(*(None if field is None else field.detach() for field in said))  # type: ignore[arg-type]


def unreached(model: torch.nn.Module, run: Callable[[], Tensor]) -> list[str]:
    """Names of the trained weights that the loss `run()` has no gradient for: parts of published encoders that the
    features don't need. Leaves no gradients behind."""
    run().backward()
    names = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    model.zero_grad(set_to_none=True)
    return names
