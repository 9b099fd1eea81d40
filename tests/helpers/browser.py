"""A real Chromium for tests of pages: Debian's or another one that is installed, driven by Playwright."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PATIENCE = 900_000.0
"""Milliseconds that a page has for anything; loaded machines are slow."""
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--force-color-profile=srgb"]


def chromium() -> str | None:
    """The path of an installed Chromium; CUTIE_GEO_CHROMIUM names another one."""
    named = os.environ.get("CUTIE_GEO_CHROMIUM")
    return named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def browser() -> Iterator[Any]:
    """An open Chromium; skips the test where there is none."""
    program = chromium()
    if program is None:
        pytest.skip("no Chromium is installed")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield opened
        opened.close()


@contextmanager
def page_at(opened: Any, url: str, width: int = 1280, height: int = 720, dark: bool = True) -> Iterator[Any]:
    """A page of its own, without memory of others. Fails on errors in scripts, and on requests to other hosts."""
    scheme = "dark" if dark else "light"
    context = opened.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("request", lambda request: request.url.startswith((url, "blob:")) or problems.append(request.url))
    page.goto(url)
    yield page
    context.close()
    assert problems == []


def wait_until(page: Any, expression: str) -> None:
    """Return once a JavaScript expression is true. Playwright's own wait evaluates strings, which the page forbids."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not _is_true(page, expression):
        assert time.monotonic() < deadline, f"never true: {expression}"
        page.wait_for_timeout(20)


def _is_true(page: Any, expression: str) -> bool:
    from playwright.sync_api import Error

    try:
        return page.evaluate(f"() => Boolean({expression})")
    except Error as error:
        if "context was destroyed" in str(error):  # another page is being loaded
            return False
        raise
