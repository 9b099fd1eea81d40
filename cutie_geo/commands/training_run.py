"""One run of training: its folder, its log, its trackers, and what happens around the steps."""

import json
import logging
import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from cutie_geo.commands.validation import Validation, summary
from cutie_geo.config import TrainConfig
from cutie_geo.data.background import atomic_write
from cutie_geo.data.overlay import draw
from cutie_geo.inference.one_video import peak_memory
from cutie_geo.progress import progress
from cutie_geo.structures import ClipBatch
from cutie_geo.training.kinds import Said, kind_of
from cutie_geo.training.stage import StepReport
from cutie_geo.training.state import AnyConfig, Checkpoints, TrainState, offered_weights, to_plain
from cutie_geo.training.unroll import unit_range

log = logging.getLogger(__name__)

PROJECT = "cutie_geo"
TRACKERS = ("auto", "wandb", "tensorboard", "none")
LOG_FILE, CONFIG_FILE, RUN_ID_FILE = "log.jsonl", "config.yaml", "wandb_id"
FINAL, CHECKPOINTS, PICTURES = "final", "checkpoints", "pictures"
PICTURE_FRAMES, PICTURE_SIDE = 6, 240
"""Frames of a clip that a picture shows, and their side in pixels."""
ECHO = 5.0
"""Seconds within which a second signal is taken for the first one again."""
SAVES_LOST = 2
"""Checkpoints in a row that could not be written, after which a run stops."""


def run_root(output: Path, config: TrainConfig) -> Path:
    """The folder of a stage's run, in the folder of all runs."""
    path = Path(config.model)  # a model's name may have dots in it, such as sam2.1-hiera-tiny
    return output / (path.stem if path.suffix in (".yaml", ".yml") else path.name) / config.stage


class RunFolder:
    """Where everything of one run lies."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.final, self.log, self.config = root / FINAL, root / LOG_FILE, root / CONFIG_FILE
        self.pictures = root / PICTURES

    def checkpoints(self, keep: int = 3) -> Checkpoints:
        """Those of this run."""
        return Checkpoints(self.root / CHECKPOINTS, keep)

    def write_config(self, config: AnyConfig, facts: Mapping[str, Any]) -> None:
        """The resolved configuration, and what else decides what comes of it. Raises OSError."""
        with atomic_write(self.config) as part:
            part.write_text(yaml.safe_dump({**to_plain(config), "run": dict(facts)}, sort_keys=False), encoding="utf-8")

    def forget_after(self, step: int) -> None:
        """Drop lines of the log beyond `step`, which are about to be written again. Raises OSError."""
        if not self.log.is_file():
            return
        kept = [line for line in self.log.read_text(encoding="utf-8").splitlines(True) if _step_of(line) <= step]
        with atomic_write(self.log) as part:
            part.write_text("".join(kept), encoding="utf-8")

    def append(self, values: Mapping[str, Any]) -> None:
        """One more line of the log. Raises OSError."""
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def _step_of(line: str) -> float:
    """The step of a line of the log; a line that was cut off belongs to no step that is kept."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


# --------------------------------------------------------------------------------------------------------------- stop
class StopSignal:
    """Ctrl-C and SIGTERM ask a run to save and leave after the step at hand; a second one ends it at once."""

    def __init__(self) -> None:
        self.status = 0
        """The exit status that the signal asks for, 0 while there was none."""
        self._since = 0.0

    @contextmanager
    def listening(self) -> Iterator["StopSignal"]:
        """Listen within the block; only a main thread can."""
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
            # launchers pass on what the terminal or the scheduler has sent to all already
            if time.monotonic() - self._since > ECHO:
                raise KeyboardInterrupt
            return
        self.status, self._since = 128 + number, time.monotonic()
        log.warning("asked to stop: saving after this step; once more ends it at once, without saving")


# ------------------------------------------------------------------------------------------------------------ trackers
def tracker_names(wanted: str) -> list[str]:
    """The trackers of accelerate that a run logs to. `auto` is W&B where somebody has set it up, else none.

    Raises ValueError for one that is not installed.
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
    """Begin to log, or go on in the same run of W&B after an interruption. Only the main process logs."""
    if not accelerator.log_with:
        return
    options: dict[str, Any] = {}
    if accelerator.is_main_process and any(
        str(name) == "wandb" or "WANDB" in str(name) for name in accelerator.log_with
    ):
        path = folder.root / RUN_ID_FILE
        known = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
        run_id = known or secrets.token_hex(4)
        path.write_text(run_id + "\n", encoding="utf-8")
        options["wandb"] = {
            "id": run_id, "resume": "allow", "name": folder.root.name, "dir": str(folder.root), "group": group or None,
        }  # fmt: skip
    accelerator.init_trackers(PROJECT, config=_scalars(facts), init_kwargs=options)


def _scalars(facts: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """A nested mapping as one level of names and scalars, which every tracker takes."""
    out: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            out |= _scalars(value, f"{before}{name}.")
        else:
            out[f"{before}{name}"] = value if isinstance(value, (int, float, str, bool)) else json.dumps(value)
    return out


def code_version() -> str:
    """The commit that runs, with a + where files were changed since; empty where this is no checkout."""
    here = Path(__file__).parent
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"], cwd=here, capture_output=True, text=True
        )
    except OSError:
        return ""
    return told.stdout.strip()


# --------------------------------------------------------------------------------------------------------------- hooks
class TrainingRun:
    """What happens around the steps of a stage: see `cutie_geo.training.stage.Hooks`."""

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        folder: RunFolder,
        validation: Validation | None,
        state: TrainState,
    ) -> None:
        self.config, self.accelerator, self.folder = config, accelerator, folder
        self.validation, self.state = validation, state
        self.stop = StopSignal()
        self.saved_step: int | None = None
        """Of the newest checkpoint of this run."""
        self._lost = 0
        self._seconds, self._waited, self._clips = 0.0, 0.0, 0
        self._shown: dict[str, str] = {}
        show = accelerator.is_main_process
        self.bar: tqdm = progress(config.steps, config.stage, "step", show=show)
        self.bar.update(state.step)

    def stop_wanted(self) -> bool:
        """Whether a signal came."""
        return bool(self.stop.status)

    def on_step(self, report: StepReport) -> None:
        """Move the bar."""
        self._seconds, self._waited = self._seconds + report.seconds, self._waited + report.waited
        self._clips += report.clips
        self._shown |= {"loss": f"{report.losses['total']:.3f}", "clips/s": f"{report.clips / report.seconds:.2f}"}
        self.bar.set_postfix(self._shown, refresh=False)
        self.bar.update()

    def on_log(self, step: int, values: dict[str, float]) -> None:
        """A line of the log, and scalars for the trackers."""
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
        self._track(step, losses | others | speed)

    def on_pictures(self, step: int, batch: ClipBatch, said: Said) -> None:
        """The first clip's truth and prediction, frame by frame."""
        if not self.accelerator.is_main_process:
            return
        picture = contact_sheet(batch, said)
        self._try(lambda: self._keep_picture(step, picture))
        name = f"{self.config.stage}/predictions"
        for tracker in self.accelerator.trackers:
            if tracker.name == "wandb":
                tracker.log_images({name: [picture]}, step=step)  # type: ignore[attr-defined]
            elif tracker.name == "tensorboard":
                tracker.log_images({name: picture.transpose(2, 0, 1)[None]}, step=step)  # type: ignore[attr-defined]

    def _keep_picture(self, step: int, picture: UInt8[np.ndarray, "H W 3"]) -> None:
        with atomic_write(self.folder.pictures / f"{step:08d}.jpg") as part:
            Image.fromarray(picture).save(part, format="JPEG", quality=90)

    def on_validate(self, step: int) -> None:
        """J&F on videos that are not trained on; each process takes its share."""
        if self.validation is None:
            return
        share = slice(self.accelerator.process_index, None, self.accelerator.num_processes)
        with offered_weights(self.state):
            own = self.validation.score(self.state.model, share)
        scores = {name: score for part in gather_object([own]) for name, score in part.items()}
        result = summary(scores)
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
            self._track(step, {f"validation/{name}": value for name, value in values.items()})
            tqdm.write(
                f"step {step}: J&F {result.j_and_f:.2f} (copying the first mask {result.copied:.2f}, "
                f"optical flow {result.flow:.2f})"
            )

    def on_save(self, state: TrainState) -> None:
        """A checkpoint by the main process; all learn what came of it.

        Raises OSError if the run would go on without any for too long, or ends with this one.
        """
        outcome: list[Any] = [None]
        if self.accelerator.is_main_process:
            try:
                self.folder.checkpoints(self.config.keep).save(state, self.config)
            except OSError as error:
                outcome[0] = (error.errno, error.strerror, error.filename)
        broadcast_object_list(outcome)
        if outcome[0] is None:
            self.saved_step, self._lost = state.step, 0
            return
        self._lost += 1
        errno, text, path = outcome[0]
        ending = state.step == self.config.steps or self.stop_wanted() or self._lost >= SAVES_LOST
        kept = self.folder.checkpoints().latest()
        last = f"the last good checkpoint is {kept}" if kept else "there is no checkpoint yet"
        if ending:
            raise OSError(errno, f"{text}; {last}", path)
        if self.accelerator.is_main_process:
            log.error(
                "step %d: %s: %s; %s; going on, with another attempt at the next save", state.step, path, text, last
            )

    def _track(self, step: int, values: Mapping[str, float]) -> None:
        named = {f"{self.config.stage}/{name}": value for name, value in values.items()}
        self.accelerator.log(named, step=step)

    def _try(self, write: Any) -> None:
        """What may fail without harm to the training, such as a picture."""
        try:
            write()
        except OSError as error:
            log.warning("%s: %s", error.filename, error.strerror)


def contact_sheet(batch: ClipBatch, said: Said) -> UInt8[np.ndarray, "H W 3"]:
    """Frames of a batch's first clip, after its first: the truth above, the prediction below."""
    frames = unit_range(batch.images[:1])[0, 1:].float().mul(255).byte().permute(0, 2, 3, 1).cpu().numpy()
    truth = batch.labels[0, 1:].cpu().numpy().astype(np.int32)
    found = said.logits[0].argmax(1).to("cpu", torch.int32).numpy()
    chosen = np.unique(np.linspace(0, len(frames) - 1, PICTURE_FRAMES).round().astype(int))
    rows = []
    for labels in (truth, found):
        tiles = [_tile(draw(np.ascontiguousarray(frames[t]), np.ascontiguousarray(labels[t]))) for t in chosen]
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows, axis=0)


def _tile(picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.array(Image.fromarray(picture).resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BILINEAR))


def resolved(config: TrainConfig, model: Any) -> dict[str, Any]:
    """All settings of a run, those of its network included, as plain values."""
    return {"training": to_plain(config), "model": kind_of(config).describe(model)}
