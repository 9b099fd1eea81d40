"""Fixtures that several test files share."""

import json
import os
import random
import signal
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import own_threads
import pytest
import torch
from parity_rules import official_weights
from tiny import tiny_config

from cutie_geo.checkpoints.cutie import load_weights
from cutie_geo.config import model_config
from cutie_geo.model.network import CutieGeo

PROGRAMS = ("app", "commands", "runs")
"""Folders of tests that run whole programs, whose parts have unit tests elsewhere."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run slow tests first, the longest of them before the others: no worker is left alone with one at the end."""

    def rank(item: pytest.Item) -> int:
        slow = item.get_closest_marker("slow")
        return 2 if slow is None else 0 if slow.kwargs.get("longest") else 1

    items.sort(key=rank)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Check shapes and types of every call in unit tests only: that takes half of the time of small networks."""
    whole = item.path.parent.name in PROGRAMS or item.get_closest_marker("slow") is not None
    jaxtyping.config.update("jaxtyping_disable", whole)
    return (yield)


def seed(name: str) -> None:
    """Seed the shared random generators, so that what a test draws does not depend on the tests before it."""
    number = zlib.crc32(name.encode())
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002
    torch.manual_seed(number)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> None:
    seed(f"{fixturedef.baseid}::{fixturedef.argname}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    seed(item.nodeid)


@pytest.fixture(autouse=True)
def shared_state(one_thread: None, interruptible: None) -> Iterator[None]:
    """Give back what all tests of a process share: commands that a test calls in this process may change it."""
    own_threads.begin()
    environment, folder, mask = dict(os.environ), os.getcwd(), os.umask(0)
    os.umask(mask)
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    threads, dtype, gradients = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    yield
    torch.set_grad_enabled(gradients)
    torch.set_default_dtype(dtype)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    for each, handler in handlers.items():
        if signal.getsignal(each) is not handler:
            signal.signal(each, handler)
    os.umask(mask)
    os.chdir(folder)
    for name in {*os.environ, *environment} - {"PYTEST_CURRENT_TEST"}:
        if name not in environment:
            del os.environ[name]
        elif os.environ.get(name) != environment[name]:
            os.environ[name] = environment[name]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small tensors gain nothing from threads, which wait for each other on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Programs that tests start and interrupt would ignore Ctrl-C if this one did, as it does behind `nohup` or `&`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of official numbers and real clips, which are not part of the project."""
    root = os.environ.get("CUTIE_GEO_TEST_DATA")
    if not root:
        pytest.skip("CUTIE_GEO_TEST_DATA is not set")
    return Path(root)


@pytest.fixture(scope="session", params=[pytest.param("base", marks=pytest.mark.slow), "small"])
def variant(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def official_file(test_data: Path, variant: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Deterministic weights in the form of the official checkpoints."""
    shapes = json.loads((test_data / "parity" / f"cutie_{variant}_keys.json").read_text())
    weights = {name: torch.from_numpy(np.asarray(w)) for name, w in official_weights(shapes, variant).items()}
    path = tmp_path_factory.mktemp("weights") / f"cutie-{variant}.pth"
    torch.save(weights, path)
    return path


@pytest.fixture(scope="session")
def parity_model(official_file: Path, variant: str) -> CutieGeo:
    model = CutieGeo(model_config(f"cutie-{variant}")).eval()
    load_weights(model, official_file)
    return model.to(memory_format=torch.channels_last)


@pytest.fixture(scope="session")
def parity_numbers(test_data: Path, variant: str) -> dict[str, np.ndarray]:
    with np.load(test_data / "parity" / f"parity_{variant}.npz") as numbers:
        return {name: numbers[name] for name in numbers.files}


@pytest.fixture(scope="session")
def tiny_model() -> CutieGeo:
    """A small network whose random weights make background and objects all win somewhere."""
    torch.manual_seed(0)
    model = CutieGeo(tiny_config()).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # which start so that whole residual branches are zero
                module.weight.uniform_(0.5, 1)
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
        model.decoder.predict.weight.mul_(20)
        model.key_projection.key.weight.mul_(4)
    return model.to(memory_format=torch.channels_last)
