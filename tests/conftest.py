"""Fixtures that several test files share."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from parity_rules import official_weights
from tiny import tiny_config

from cutie_geo.checkpoints.cutie import load_weights
from cutie_geo.config import model_config
from cutie_geo.model.network import CutieGeo


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run slow tests first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


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
