"""Damaged files, thousands of them: an error in one line or the right content, quickly, and nothing else happens."""

import io
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from tiny import tiny_config

from cutie_geo.ablation.config import read_ablation
from cutie_geo.checkpoints.load import load_model
from cutie_geo.checkpoints.saving import CONFIG_FILE, WEIGHTS_FILE
from cutie_geo.checkpoints.tensor_files import read_tensors
from cutie_geo.config import (
    OptimiserConfig,
    SourceConfig,
    TrainConfig,
    config_root,
    model_config,
    train_config,
)
from cutie_geo.data.masks import read_labels, read_probs, write_labels, write_probs
from cutie_geo.data.video import read_image
from cutie_geo.model.network import CutieGeo
from cutie_geo.training.optimiser import MovingAverage, build_optimiser, groups
from cutie_geo.training.state import Checkpoints, TrainState, read_state
from cutie_geo.training.trainable import CutieTrainable
from cutie_geo.vss.config import classifier_config

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarms on this system")]

SECONDS = 20
"""Maximum processor time for one file, in seconds. Twenty times as long without computing is a hang, too."""
RUNS_CODE = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "ctypes.dlopen", "socket.connect")
CHANGES_FILES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "shutil.rmtree",
)


# ------------------------------------------------------------------------------------------------------------ watching
class Watch:
    """Record other actions of a reader by an audit hook. The interpreter never removes hooks, so there is only one."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
        if event in RUNS_CODE or event in CHANGES_FILES or (writes and args[0] != os.devnull):
            self.seen.append(f"{event} {args[:2]!r:.200}")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Fails if the block runs a program, or writes or removes a file."""
        self.on, self.seen = True, []
        try:
            yield
        finally:
            self.on = False
        assert self.seen == []


WATCH = Watch()


class Hang(BaseException):
    """A reader took longer than `SECONDS`."""


@contextmanager
def limited() -> Iterator[None]:
    """Raise Hang where the block takes too long."""

    def ring(*_: Any) -> NoReturn:
        raise Hang

    before = {each: signal.signal(each, ring) for each in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(20 * SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for each, handler in before.items():
            signal.signal(each, handler)


def outcome(read: Callable[[], Any]) -> Any:
    """Return the result of a reader, or None for a ValueError of one line. Other errors fail the test."""
    with limited(), WATCH.watching():
        try:
            return read()
        except ValueError as error:
            told = str(error).strip()
    assert "\n" not in told
    assert len(told) < 2500
    return None


# ------------------------------------------------------------------------------------------------------------ mutation
def mutated(content: bytes, rng: random.Random) -> bytes:
    """A copy with some bits, bytes or stretches changed, cut off, left out, put in or repeated."""
    data = bytearray(content)
    at = rng.randrange(len(data))
    match rng.choice(("bits", "bits", "byte", "cut", "zeros", "repeat", "insert", "head")):
        case "bits":
            for _ in range(rng.randint(1, 16)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case "byte":
            data[at] = rng.randrange(256)
        case "cut":
            del data[at:]
        case "zeros":
            end = min(at + rng.randint(1, 64), len(data))
            data[at:end] = bytes(end - at)
        case "repeat":
            data[at:at] = data[at : at + rng.randint(1, 200)]
        case "insert":
            data[at:at] = rng.randbytes(rng.randint(1, 64))
        case "head":
            for _ in range(rng.randint(1, 6)):
                data[rng.randrange(min(len(data), 200))] = rng.randrange(256)
    return bytes(data)


def cases(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """`count` mutations that differ from `content`, the same ones on every run."""
    rng = random.Random(seed)
    while count:
        case = mutated(content, rng)
        if case != content:
            count -= 1
            yield case


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Stand where no file of the repository can be hit."""
    monkeypatch.chdir(tmp_path)


# --------------------------------------------------------------------------------------------------------------- files
def test_a_mask_gives_its_own_ids_or_an_error(tmp_path: Path) -> None:
    """2,000 masks whose checksums are left as they are."""
    path, y, x = tmp_path / "mask.png", *np.mgrid[:48, :64]
    write_labels(path, ((y // 12) * 3 + x // 20).astype(np.int32))
    good, content = read_labels(path).labels, path.read_bytes()
    wrong = []
    for number, case in enumerate(cases(content, 2000, 1)):
        path.write_bytes(case)
        found = outcome(lambda: read_labels(path).labels)
        if found is not None and not np.array_equal(found, good):
            wrong.append(number)
    assert wrong == []


def test_an_image_gives_pixels_or_an_error(tmp_path: Path) -> None:
    """500 frames, JPEG, PNG, BMP, WebP and TIFF."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8).repeat(2, 0)
    for seed, suffix in enumerate((".jpg", ".png", ".bmp", ".webp", ".tiff")):
        path = tmp_path / f"frame{suffix}"
        Image.fromarray(pixels).save(path)
        for case in cases(path.read_bytes(), 100, seed):
            path.write_bytes(case)
            found = outcome(lambda path=path: read_image(path))
            assert found is None or (found.dtype == np.uint8 and found.ndim == 3)


def test_yaml_gives_a_configuration_or_an_error(tmp_path: Path) -> None:
    """300 files: stages, classifiers, models and tables."""
    readers: list[tuple[str, Callable[[str], Any]]] = [
        ("training/stage2.yaml", train_config),
        ("vss/isam2_vspw.yaml", classifier_config),
        ("models/cutie-geo-tiny.yaml", model_config),
        ("ablations/visor_table2.yaml", lambda name: read_ablation(Path(name))),
    ]
    path = tmp_path / "config.yaml"
    for seed, (name, read) in enumerate(readers):
        for case in cases((config_root() / name).read_bytes(), 75, seed):
            path.write_bytes(case)
            outcome(lambda read=read: read(str(path)))


def test_a_checkpoint_gives_a_model_or_an_error(tmp_path: Path) -> None:
    """300: our folders, pickled state dicts, and what training resumes from, whose every byte counts."""
    torch.manual_seed(0)
    model = CutieGeo(tiny_config())
    config = TrainConfig(stage="s", model="m", steps=9, data=(SourceConfig("rendered"),))
    optimiser = build_optimiser(groups(model, OptimiserConfig()), OptimiserConfig(), half=False)
    state = TrainState(model, optimiser, trainable=CutieTrainable(config))
    state.average, state.step = MovingAverage(state.trained(), 0.9), 1
    folder = Checkpoints(tmp_path / "run").save(state, config)
    for seed, name in enumerate((WEIGHTS_FILE, CONFIG_FILE, "training.pt", "trained.safetensors", "digests.json")):
        path = folder / name
        content = path.read_bytes()
        for case in cases(content, 30, seed):
            path.write_bytes(case)
            resumed = outcome(lambda: read_state(folder))
            assert resumed is None or name == "digests.json"
        path.write_bytes(content)
    header = 8 + int.from_bytes((folder / WEIGHTS_FILE).read_bytes()[:8], "little")
    content = (folder / WEIGHTS_FILE).read_bytes()
    (folder / CONFIG_FILE).unlink()
    for case in cases(content[:header], 75, 7):
        (folder / WEIGHTS_FILE).write_bytes(case + content[header:])
        outcome(lambda: load_model(str(folder), device="cpu", precision="fp32"))
    buffer, path = io.BytesIO(), tmp_path / "weights.pth"
    torch.save({"model": {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4)}}, buffer)
    for case in cases(buffer.getvalue(), 75, 8):
        path.write_bytes(case)
        outcome(lambda: read_tensors(path))
    shutil.rmtree(tmp_path / "run")


def test_probabilities_give_arrays_or_an_error(tmp_path: Path) -> None:
    """300 .npz files."""
    path = tmp_path / "probs.npz"
    probs = np.zeros((3, 30, 40), np.float32)
    probs[0] = 1
    write_probs(path, probs, [1, 2])
    for case in cases(path.read_bytes(), 300, 5):
        path.write_bytes(case)
        found = outcome(lambda: read_probs(path))
        if found is not None:
            values, ids = found
            assert len(values) == len(ids) + 1
            assert len(set(ids)) == len(ids)
            assert min(ids, default=1) > 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: {"a": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])},
        lambda: {"a": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)},
        lambda: {"model": {"a": [1, 2]}},
        lambda: [torch.ones(1)],
        lambda: {"a": torch.ones(2).to_sparse()},
    ],
    ids=["nested", "quantised", "list", "no names", "sparse"],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_weights_are_one_line(make: Callable[[], Any], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(make(), path)
    assert outcome(lambda: load_model("cutie-small", str(path), "cpu", "fp32")) is None
