"""Folders of exported graphs, written once for all test processes."""

from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

import cutie_geo
from cutie_geo.export.onnx_folder import OnnxOptions, export_onnx
from cutie_geo.model.network import CutieGeo

SIZE = (60, 106)
"""That of the bundled clip at a third, padded on all sides."""

HERE = Path(__file__).parent
Export = Callable[[str, Callable[[], CutieGeo], OnnxOptions], Path]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of exported graphs as slow: the first of them waits for the export."""
    for item in items:
        if HERE in item.path.parents and "exports" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Exports a model once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base

    def export(name: str, model: Callable[[], CutieGeo], options: OnnxOptions) -> Path:
        folder = shared / f"onnx-{name}"
        with FileLock(shared / f"onnx-{name}.lock"):
            if not (folder / "model.json").is_file():
                export_onnx(model(), name, folder, options)
        return folder

    return export


@pytest.fixture(scope="session")
def tiny_folder(exports: Export, tiny_model: CutieGeo) -> Path:
    return exports("tiny", lambda: tiny_model, OnnxOptions(SIZE, max_objects=4))


@pytest.fixture(scope="session")
def bundled() -> CutieGeo:
    return cutie_geo.load_model("cutie-geo-tiny", device="cpu", precision="fp32")


@pytest.fixture(scope="session")
def bundled_folder(exports: Export, bundled: CutieGeo) -> Path:
    return exports("cutie-geo-tiny", lambda: bundled, OnnxOptions((180, 320)))
