"""Screenshots of every view of the annotation app: `python tests/helpers/screenshots.py OUT`.

They show the bundled clip with real masks, in a real Chromium (tests/helpers/browser.py says where it is looked for).
"""

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from app_server import OWN, listening, write_video
from browser import browser, page_at, wait_until
from PIL import Image

from cutie_geo.data.example import example_frames, example_masks
from cutie_geo.data.masks import read_labels
from cutie_geo.runs.session import Session

NAMES = {1: "spring toy", 2: "star", 3: "roller"}
DOCS = Path(__file__).parents[2] / "docs" / "images"


def prepare(work: Path) -> None:
    """A session of the bundled clip in which there is something of everything: prompts, tracked, stale, approved."""
    import hashlib
    import os

    code = hashlib.sha256(os.fsencode(example_frames().resolve())).hexdigest()[:6]
    with Session(example_frames(), folder=work / "sessions" / f"toy_wall-{code}") as session:
        first = read_labels(example_masks() / "00000.png").labels
        for object_id, name in NAMES.items():
            session.set_mask(0, object_id, first == object_id)
            session.rename(object_id, name)
        for _ in session.propagate(stop=36, direction="forward"):
            pass
        corrected = read_labels(example_masks() / "00024.png").labels
        session.set_mask(24, 2, corrected == 2)
        for index in range(6):
            session.lock(index)


def settle(page: Any) -> None:
    wait_until(
        page, "window.editor?.shown && editor.shown.frame === editor.frame && editor.prompter.available !== null"
    )
    wait_until(page, "editor.connection.waiting.size === 0")
    wait_until(page, "[...editor.timeline.thumbs.values()].every((image) => image.complete)")
    page.wait_for_timeout(400)


def take(page: Any, out: Path, name: str) -> None:
    page.screenshot(path=str(out / f"{name}.png"))


def views(page: Any, url: str, out: Path, suffix: str) -> None:
    """All views of the editor."""
    page.goto(f"{url}?list=1")
    page.wait_for_selector(".card")
    page.wait_for_timeout(500)
    take(page, out, f"list{suffix}")
    page.locator(".card", has_text="toy_wall").click()
    settle(page)
    page.evaluate("editor.seek(8)")
    settle(page)
    take(page, out, f"editor{suffix}")
    for style in ("outline", "focus", "cutout", "matte", "none"):
        page.evaluate(f"editor.setView({{ style: '{style}' }})")
        settle(page)
        take(page, out, f"style-{style}{suffix}")
    page.evaluate("editor.setView({ style: 'tint' })")
    page.evaluate("editor.seek(24)")
    settle(page)
    page.keyboard.press("b")
    page.mouse.move(700, 300)
    page.evaluate("editor.viewer.zoom(2.4, 600, 260); editor.select(2)")
    settle(page)
    take(page, out, f"brush{suffix}")
    page.keyboard.press("f")
    page.keyboard.press("c")
    page.evaluate("editor.range = { start: 10, stop: 30 }; editor.refresh()")
    settle(page)
    take(page, out, f"range{suffix}")
    page.evaluate("editor.clearRange()")
    page.keyboard.press("?")
    page.wait_for_timeout(300)
    take(page, out, f"help{suffix}")
    page.keyboard.press("Escape")
    for name in ("coco", "overlay"):
        page.keyboard.press("Control+e")
        page.locator(f"input[name=format][value={name}]").check()
        page.wait_for_timeout(300)
        take(page, out, f"export-{name}{suffix}")
        page.keyboard.press("Escape")


def prompts(page: Any, out: Path) -> None:
    """Clicks and a box, then tracking."""
    settle(page)
    page.keyboard.press("n")
    settle(page)

    def at(x: float, y: float) -> Any:
        return page.evaluate("([x, y]) => { const b = editor.viewer.canvas.getBoundingClientRect();"
                             "return [b.left + editor.viewer.left + x * editor.viewer.scale, b.top + editor.viewer.top"
                             " + y * editor.viewer.scale]; }", [x, y])  # fmt: skip

    labels = read_labels(example_masks() / "00000.png").labels
    rows, columns = np.nonzero(labels == 1)
    page.mouse.click(*at(float(np.median(columns)), float(np.median(rows))))
    settle(page)
    page.keyboard.press("n")
    settle(page)
    rows, columns = np.nonzero(labels == 2)
    page.mouse.move(*at(float(columns.min()) - 2, float(rows.min()) - 2))
    page.mouse.down()
    page.mouse.move(*at(float(columns.max()) + 2, float(rows.max()) + 2), steps=5)
    page.wait_for_timeout(300)
    take(page, out, "box")
    page.mouse.up()
    settle(page)
    take(page, out, "prompts")
    page.keyboard.press("t")
    wait_until(page, "editor.job && editor.job.done >= 3")
    take(page, out, "tracking")
    page.keyboard.press("Escape")
    wait_until(page, "editor.connection.waiting.size === 0 && editor.job === null")


def small(source: Path, target: Path, quality: int = 82) -> None:
    """Write a screenshot as WebP below 150 KB."""
    with Image.open(source) as image:
        image.convert("RGB").save(target, quality=quality, method=6)


def main(out: Path, tell: Callable[[str], Any] = print) -> None:
    """Write all pictures into a folder; with `--docs` those of the documentation too."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, browser() as opened:
        work = Path(folder)
        prepare(work / "work")
        (work / "work" / "uploads").mkdir()
        frames = [np.asarray(Image.open(path))[:, ::-1].copy() for path in sorted(example_frames().iterdir())[30:40]]
        write_video(work / "work" / "uploads" / "mirrored.mp4", images=frames)
        with listening(None, work / "work", prompter=OWN) as (url, _):
            for dark in (True, False):
                with page_at(opened, url, dark=dark) as page:
                    views(page, url, out, "" if dark else "-light")
            with page_at(opened, url, width=1680, height=1000) as page:
                page.goto(f"{url}?list=1")
                page.locator(".card", has_text="toy_wall").click()
                settle(page)
                take(page, out, "editor-large")
        clip = work / "toys"
        shutil.copytree(example_frames(), clip)
        with listening(clip, work / "second", prompter=OWN) as (url, _), page_at(opened, url) as page:
            prompts(page, out)
        with listening(clip, work / "third", prompter=None) as (url, _), page_at(opened, url) as page:
            settle(page)
            take(page, out, "no-clicks")
    tell(f"{len(list(out.glob('*.png')))} pictures: {out}")


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--docs"]
    main(Path(arguments[0] if arguments else "screenshots"))
    if "--docs" in sys.argv:
        for name in ("editor", "prompts"):
            small(Path(arguments[0]) / f"{name}.png", DOCS / f"app-{name}.webp")
