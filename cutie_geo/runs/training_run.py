"""Folder, log, trackers and hooks of a training run."""

import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from cutie_geo.config import TrainConfig, read_json, read_yaml
from cutie_geo.data.io_threads import append_text, atomic_write, write_bytes, write_json
from cutie_geo.data.locks import Busy, exclusive
from cutie_geo.data.overlay import draw
from cutie_geo.inference.one_video import peak_memory
from cutie_geo.progress import begin_at, progress
from cutie_geo.runs.validation import Sample, Validation, summary
from cutie_geo.structures import ClipBatch
from cutie_geo.training.stage import StepReport
from cutie_geo.training.state import AnyConfig, Checkpoints, TrainState, offered_weights, require_same, to_plain
from cutie_geo.training.trainable import Outputs, Trainable
from cutie_geo.training.unroll import unit_range

log = logging.getLogger(__name__)

PROJECT = "cutie_geo"
TRACKERS = ("auto", "wandb", "tensorboard", "none")
LOG_FILE, CONFIG_FILE, RUN_ID_FILE, LOCK_FILE = "log.jsonl", "config.yaml", "wandb_id", ".lock"
FINAL, CHECKPOINTS, IMAGES, BEST = "final", "checkpoints", "images", "best"
SCORES_FILE = "scores.json"
SHEET_FRAMES, SHEET_SIDE = 6, 240
"""Number of frames in a contact sheet, and their side in pixels."""
ECHO = 5.0
"""Seconds within which a repeated signal counts as the same one."""
SAVES_LOST = 2
"""Number of consecutive failed checkpoints after which a run stops."""


def run_root(output: Path, config: TrainConfig) -> Path:
    """Return the folder of a stage's run below the folder of all runs."""
    path = Path(config.model)  # a model's name may have dots in it, such as sam2.1-hiera-tiny
    if path.name == FINAL and path.parent.name:
        path = path.parent
    return output / (path.stem if path.suffix in (".yaml", ".yml") else path.name) / config.stage


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.final, self.log, self.config = root / FINAL, root / LOG_FILE, root / CONFIG_FILE
        self.images, self.best, self.scores = root / IMAGES, root / BEST, root / SCORES_FILE

    @contextmanager
    def lock(self, main: bool) -> Iterator[None]:
        """Prevent other runs from writing this folder within the block; process `main` holds the lock for all.

        Raises:
            Busy: in every process, if another run holds the lock.
        """
        message: list[Any] = [None]
        with ExitStack() as stack:
            if main:
                try:
                    stack.enter_context(exclusive(self.root / LOCK_FILE, str(self.root)))
                except Busy as error:
                    message[0] = str(error)
            broadcast_object_list(message)
            if message[0] is not None:
                raise Busy(message[0])
            yield

    def checkpoints(self, keep: int = 3) -> Checkpoints:
        """Return the checkpoints of this run."""
        return Checkpoints(self.root / CHECKPOINTS, keep)

    def write_config(self, config: AnyConfig, facts: Mapping[str, Any]) -> None:
        """Write the resolved configuration and the facts that determine the result. Raises OSError."""
        with atomic_write(self.config) as part:
            part.write_text(yaml.safe_dump({**to_plain(config), "run": dict(facts)}, sort_keys=False), encoding="utf-8")

    def started_from(self) -> str:
        """Return the file of initial weights noted by `write_config`; "" if there was none."""
        try:
            content = yaml.safe_load(self.config.read_text(encoding="utf-8"))
            return str(content["run"]["started_from"] or "")
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
            return ""

    def forget_after(self, step: int) -> None:
        """Remove log lines after `step`, which will be written again. Raises OSError."""
        if not self.log.is_file():
            return
        kept = [line for line in self.log.read_text(encoding="utf-8").splitlines(True) if _step_of(line) <= step]
        with atomic_write(self.log) as part:
            part.write_text("".join(kept), encoding="utf-8")

    def is_finished(self, config: AnyConfig) -> bool:
        """Return True if the final model is there. Raises ValueError if its run had another configuration."""
        if not (self.final / "config.json").is_file():
            return False
        saved = read_yaml(self.config)
        saved.pop("run", None)
        require_same(saved, config, self.final)
        return True

    def append(self, values: Mapping[str, Any]) -> None:
        """Append a line to the log. Raises OSError."""
        append_text(self.log, json.dumps(values) + "\n")


class ScoreHistory:
    """Validations of a run with `keep_best`, that of the initial weights first, and their file."""

    def __init__(self, path: Path, step: int = 0) -> None:
        """Read the file, if there is one, without the validations after `step`, which will be made again."""
        self.path, self.finished = path, False
        self.scores: list[tuple[int, float, dict[str, float]]] = []
        """Step, mean J&F and J&F by video."""
        if path.is_file():
            content = read_json(path)
            self.finished = content.get("finished") is True
            kept = content.get("validations", [])
            self.scores = [(int(s["step"]), float(s["J&F"]), dict(s["videos"])) for s in kept if s["step"] <= step]

    @property
    def start(self) -> tuple[int, float, dict[str, float]]:
        return self.scores[0]

    @property
    def best(self) -> tuple[int, float, dict[str, float]]:
        """First of the best validations."""
        return max(self.scores, key=lambda score: score[1])

    @property
    def since_best(self) -> int:
        """Number of validations after the best one."""
        return len(self.scores) - 1 - self.scores.index(self.best)

    def add(self, step: int, mean: float, videos: dict[str, float]) -> bool:
        """Add a validation; return True if it is the best so far."""
        self.scores.append((step, mean, videos))
        return self.best[0] == step

    def write(self, finished: bool = False) -> None:
        """Write the file. Raises OSError."""
        rows = [{"step": step, "J&F": mean, "videos": videos} for step, mean, videos in self.scores]
        write_json(self.path, {"finished": finished, "best_step": self.best[0], "validations": rows})


def _step_of(line: str) -> float:
    """Return the step of a log line; infinity for a truncated line, which is removed."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


# --------------------------------------------------------------------------------------------------------------- stop
class StopSignal:
    """Handler of Ctrl-C and SIGTERM: the first signal saves and stops after the current step, the second stops at
    once.
    """

    def __init__(self) -> None:
        self.status = 0
        """Exit status of the signal; 0 without a signal."""
        self._since = 0.0

    @contextmanager
    def listening(self) -> Iterator["StopSignal"]:
        """Handle signals within the block; only possible in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        if self.status:
            # launchers repeat signals that all processes have received already
            if time.monotonic() - self._since > ECHO:
                raise KeyboardInterrupt
            return
        self.status, self._since = 128 + number, time.monotonic()
        log.warning("stop signal: saving after this step; a second signal stops at once without saving")


# ------------------------------------------------------------------------------------------------------------ trackers
def tracker_names(wanted: str) -> list[str]:
    """Return accelerate's trackers for a run. `auto` is W&B if it is configured, otherwise none.

    Raises:
        ValueError: for a tracker that is not installed.
    """
    if wanted == "auto":
        return ["wandb"] if find_spec("wandb") and _wandb_is_set_up() else []
    if wanted == "none":
        return []
    module = {"wandb": "wandb", "tensorboard": "tensorboard"}[wanted]
    if find_spec(module) is None:
        raise ValueError(f"--tracker {wanted}: {module} is not installed; pip install {module}, or --tracker none")
    return [wanted]


def _wandb_is_set_up() -> bool:
    if os.environ.get("WANDB_MODE") == "disabled":
        return False
    netrc = Path("~/.netrc").expanduser()
    known = netrc.is_file() and "api.wandb.ai" in netrc.read_text(encoding="utf-8", errors="replace")
    return known or any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_MODE"))


def start_trackers(accelerator: Accelerator, folder: RunFolder, facts: Mapping[str, Any], group: str) -> None:
    """Initialise the trackers, resuming the same W&B run after an interruption. Only the main process logs."""
    if not accelerator.log_with:
        return
    options: dict[str, Any] = {}
    if accelerator.is_main_process and any(
        str(name) == "wandb" or "WANDB" in str(name) for name in accelerator.log_with
    ):
        path = folder.root / RUN_ID_FILE
        known = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
        run_id = known or secrets.token_hex(4)
        write_bytes(path, f"{run_id}\n".encode())
        options["wandb"] = {
            "id": run_id, "resume": "allow", "name": folder.root.name, "dir": str(folder.root), "group": group or None,
        }  # fmt: skip
    accelerator.init_trackers(PROJECT, config=_scalars(facts), init_kwargs=options)


def _scalars(facts: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Flatten a nested mapping into names and scalars, as trackers require."""
    out: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            out |= _scalars(value, f"{before}{name}.")
        else:
            out[f"{before}{name}"] = value if isinstance(value, (int, float, str, bool)) else json.dumps(value)
    return out


def code_version() -> str:
    """Return the git commit, with + for uncommitted changes; empty outside a checkout."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"], cwd=here, capture_output=True, text=True
        )
    except OSError:
        return ""
    return described.stdout.strip()


# --------------------------------------------------------------------------------------------------------------- hooks
class RunHooks:
    """Hooks that all training runs share: stop signal, progress bar, log, trackers and checkpoints."""

    def __init__(
        self, config: AnyConfig, accelerator: Accelerator, folder: RunFolder, state: TrainState, steps: int
    ) -> None:
        self.config, self.accelerator, self.folder = config, accelerator, folder
        self.state, self.steps = state, steps
        self.stop = StopSignal()
        self._lost = 0
        self.bar: tqdm = progress(steps, config.stage, "step", show=accelerator.is_main_process)
        begin_at(self.bar, state.step)

    def stop_wanted(self) -> bool:
        """Return True if a signal asked the run to stop."""
        return bool(self.stop.status)

    def on_save(self, state: TrainState) -> None:
        """Write a checkpoint in the main process.

        Raises:
            OSError: if two checkpoints in a row, or the last one of the run, cannot be written.
        """
        outcome: tuple[Any, ...] | None = None
        if self.accelerator.is_main_process:
            try:
                self.folder.checkpoints(self.config.keep).save(state, self.config)
            except OSError as error:
                outcome = (error.errno, error.strerror, error.filename)
        outcome = self.from_main(outcome)
        if outcome is None:
            self._lost = 0
            return
        self._lost += 1
        errno, text, path = outcome
        ending = state.step == self.steps or self.stop_wanted() or self._lost >= SAVES_LOST
        kept = self.folder.checkpoints().latest()
        last = f"the last good checkpoint is {kept}" if kept else "there is no checkpoint yet"
        if ending:
            raise OSError(errno, f"{text}; {last}", path)
        if self.accelerator.is_main_process:
            log.error(
                "step %d: %s: %s; %s; training continues, and the next save is attempted", state.step, path, text, last
            )

    def from_main(self, outcome: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        """Return the main process's outcome in every process; this base class has one process."""
        return outcome

    def track(self, step: int, values: Mapping[str, float]) -> None:
        """Send scalars to the trackers."""
        named = {f"{self.config.stage}/{name}": value for name, value in values.items()}
        self.accelerator.log(named, step=step)


class TrainingRun(RunHooks):
    """Hooks of a training stage (see `cutie_geo.training.stage.Hooks`)."""

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        folder: RunFolder,
        validation: Validation | None,
        state: TrainState,
    ) -> None:
        super().__init__(config, accelerator, folder, state, config.steps)
        self.validation = validation
        self.history: ScoreHistory | None = None
        """Scores so far, if `config.validation.keep_best` is set."""
        self._before: dict[str, list[Sample]] = {}
        self._seconds, self._waited, self._clips = 0.0, 0.0, 0
        self._shown: dict[str, str] = {}

    @property
    def ended_early(self) -> bool:
        """True if `validation.patience` is exhausted."""
        patience = self.config.validation.patience
        return bool(patience and self.history is not None and self.history.since_best >= patience)

    def stop_wanted(self) -> bool:
        """Return True after a signal, and if validation scores have stopped rising."""
        return super().stop_wanted() or self.ended_early

    def begin(self) -> float:
        """Score the initial weights of a run with `keep_best`; return the seconds that took, 0 for a resumed run."""
        if not self.config.validation.keep_best:
            return 0.0
        self.history = ScoreHistory(self.folder.scores, self.state.step)
        if self.history.scores and (self.folder.best / "config.json").is_file():
            return 0.0
        self.history.scores.clear()
        started = time.perf_counter()
        self.on_validate(self.state.step)
        return time.perf_counter() - started

    def keep_best(self) -> None:
        """Make the best weights of all validations the run's final model. Raises OSError."""
        assert self.history is not None
        shutil.rmtree(self.folder.final, ignore_errors=True)
        shutil.copytree(self.folder.best, self.folder.final)
        self.history.write(finished=True)

    def from_main(self, outcome: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        """Broadcast the main process's outcome."""
        shared: list[Any] = [outcome]
        broadcast_object_list(shared)
        return shared[0]

    def on_step(self, report: StepReport) -> None:
        """Update the progress bar."""
        self._seconds, self._waited = self._seconds + report.seconds, self._waited + report.waited
        self._clips += report.clips
        self._shown |= {"loss": f"{report.losses['total']:.3f}", "clips/s": f"{report.clips / report.seconds:.2f}"}
        self.bar.set_postfix(self._shown, refresh=False)
        self.bar.update()

    def on_log(self, step: int, values: dict[str, float]) -> None:
        """Write a log line, and scalars to the trackers."""
        losses = {
            f"loss/{name}": value for name, value in values.items() if name not in ("rate", "grad_norm", "skipped")
        }
        others = {name: values[name] for name in ("rate", "grad_norm", "skipped") if name in values}
        if not self.accelerator.is_main_process:
            self._seconds, self._waited, self._clips = 0.0, 0.0, 0
            return
        self.folder.append({"step": step, **losses, **others})
        speed = {
            "speed/clips_per_second": self._clips / max(self._seconds, 1e-9),
            "speed/share_waiting_for_data": self._waited / max(self._seconds, 1e-9),
            "memory/peak_mib": (peak_memory(self.accelerator.device) or 0) / 2**20,
        }
        self._seconds, self._waited, self._clips = 0.0, 0.0, 0
        self.track(step, losses | others | speed)

    def on_images(self, step: int, batch: ClipBatch, outputs: Outputs) -> None:
        """Write the first clip's ground truth and prediction, frame by frame."""
        if not self.accelerator.is_main_process:
            return
        image = contact_sheet(batch, outputs)
        self._try(lambda: self._save_figure(step, image))
        name = f"{self.config.stage}/predictions"
        for tracker in self.accelerator.trackers:
            if tracker.name == "wandb":
                tracker.log_images({name: [image]}, step=step)  # type: ignore[attr-defined]
            elif tracker.name == "tensorboard":
                tracker.log_images({name: image.transpose(2, 0, 1)[None]}, step=step)  # type: ignore[attr-defined]

    def _save_figure(self, step: int, image: UInt8[np.ndarray, "H W 3"]) -> None:
        with atomic_write(self.folder.images / f"{step:08d}.jpg") as part:
            Image.fromarray(image).save(part, format="JPEG", quality=90)

    def on_validate(self, step: int) -> None:
        """Score the validation videos; each process takes its shard."""
        if self.validation is None:
            return
        share = slice(self.accelerator.process_index, None, self.accelerator.num_processes)
        with offered_weights(self.state):
            own = self.validation.score(self.state.model, share)
        scores = {name: score for part in gather_object([own]) for name, score in part.items()}
        result = summary(scores)
        better = self.history is not None and self.history.add(step, result.j_and_f, result.videos)
        self._draw_samples(better)
        self._shown["J&F"] = f"{result.j_and_f:.1f}"
        if self.accelerator.is_main_process:
            values = {
                "J&F": result.j_and_f,
                "J": result.j,
                "F": result.f,
                "J&F_copied": result.copied,
                "J&F_flow": result.flow,
            }
            self.folder.append({"step": step, **{f"validation/{name}": value for name, value in values.items()},
                                "videos": result.videos})  # fmt: skip
            self.track(step, {f"validation/{name}": value for name, value in values.items()})
            tqdm.write(
                f"step {step}: J&F {result.j_and_f:.2f} (copying the first mask {result.copied:.2f}, "
                f"optical flow {result.flow:.2f})"
            )
            if self.history is not None:
                if better:
                    with offered_weights(self.state):
                        trainable = self.state.trainable
                        assert trainable is not None
                        trainable.save(self.state.model, self.folder.best)
                self.history.write()

    def _draw_samples(self, better: bool) -> None:
        """Draw frames of this process's validation videos: truth, the initial weights and the best ones."""
        if self.history is None or self.validation is None:
            return
        if len(self.history.scores) == 1:
            self._before = dict(self.validation.samples)
        if better:
            for name, samples in self.validation.samples.items():
                before = self._before.get(name, samples)
                path = self.folder.images / f"{name.replace('/', '-')}.jpg"
                self._try(lambda path=path, a=before, b=samples: write_sheet(path, a, b))

    def _try(self, write: Any) -> None:
        """Call `write`, and only log an OSError: a failed figure does not stop training."""
        try:
            write()
        except OSError as error:
            log.warning("%s: %s", error.filename, error.strerror)


def contact_sheet(batch: ClipBatch, outputs: Outputs) -> UInt8[np.ndarray, "H W 3"]:
    """Return a contact sheet of a batch's first clip without its first frame: ground truth above, prediction below."""
    frames = unit_range(batch.images[:1])[0, 1:].float().mul(255).byte().permute(0, 2, 3, 1).cpu().numpy()
    truth = batch.labels[0, 1:].cpu().numpy().astype(np.int32)
    found = outputs.logits[0].argmax(1).to("cpu", torch.int32).numpy()
    chosen = np.unique(np.linspace(0, len(frames) - 1, SHEET_FRAMES).round().astype(int))
    rows = []
    for labels in (truth, found):
        tiles = [_tile(draw(np.ascontiguousarray(frames[t]), np.ascontiguousarray(labels[t]))) for t in chosen]
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows, axis=0)


def write_sheet(path: Path, before: Sequence[Sample], after: Sequence[Sample]) -> None:
    """Write rows of frames with the true masks, those of the initial weights and those of the best ones, as JPEG.

    Raises:
        OSError: if the file cannot be written.
    """
    rows = [("truth", [(s.image, s.truth) for s in after]), ("before", [(s.image, s.found) for s in before]),
            ("after", [(s.image, s.found) for s in after])]  # fmt: skip
    tiles = []
    for title, row in rows:
        drawn = [_fit(draw(image, labels)) for image, labels in row]
        cv2.putText(drawn[0], title, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (0, 0, 0), 4, cv2.LINE_AA)
        cv2.putText(drawn[0], title, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 1, cv2.LINE_AA)
        tiles.append(np.concatenate(drawn, axis=1))
    with atomic_write(path) as part:
        Image.fromarray(np.concatenate(tiles, axis=0)).save(part, format="JPEG", quality=90)


def _fit(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return an image of SHEET_SIDE lines in its own proportions."""
    width = round(image.shape[1] * SHEET_SIDE / image.shape[0])
    return np.array(Image.fromarray(image).resize((width, SHEET_SIDE), Image.Resampling.BILINEAR))


def _tile(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.array(Image.fromarray(image).resize((SHEET_SIDE, SHEET_SIDE), Image.Resampling.BILINEAR))


def resolved(trainable: Trainable, model: Any) -> dict[str, Any]:
    """Return all settings of a run, those of its network included, as plain values."""
    return {"training": to_plain(trainable.config), "model": trainable.describe(model)}
