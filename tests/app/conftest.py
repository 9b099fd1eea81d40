"""Fixtures of the app's tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app_server import App, opened, write_clip


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "videos" / "squares")


@pytest.fixture
def app(clip: Path, tmp_path: Path, tiny_model: Any) -> Iterator[App]:
    with opened(clip, tmp_path / "work", model=tiny_model) as app:
        yield app
