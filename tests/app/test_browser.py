"""The page in a real browser, over a real server and session."""

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from app_interactive import equal_rows, through_the_page
from app_server import listening, write_clip
from browser import browser, page_at, wait_until

from cutie_geo.data.example import example_frames, example_masks
from cutie_geo.data.masks import read_labels, write_labels
from cutie_geo.runs.interactive import InteractiveOptions, measure_session
from cutie_geo.runs.models import load_any
from cutie_geo.runs.prompts import load_frame_prompter
from cutie_geo.runs.session import Session

pytestmark = pytest.mark.slow

FRAMES = 12


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as opened:
        yield opened


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """The first frames of the bundled clip."""
    folder = tmp_path / "toy"
    folder.mkdir()
    for path in sorted(example_frames().iterdir())[:FRAMES]:
        shutil.copy(path, folder)
    return folder


def ready(page: Any) -> None:
    """Wait until the editor shows a frame."""
    wait_until(page, "window.editor && window.editor.shown && window.editor.prompter.available !== null")


def settled(page: Any) -> None:
    """Wait until no command is unanswered and the frame is drawn."""
    wait_until(page, "window.editor.connection.waiting.size === 0 && window.editor.shown.frame === window.editor.frame")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def finished(page: Any) -> None:
    wait_until(page, "editor.connection.waiting.size === 0 && editor.job === null")  # the answer comes after the start
    settled(page)


def on_screen(page: Any, x: float, y: float) -> tuple[float, float]:
    """Position on the screen of a pixel of the frame."""
    place = page.evaluate(
        """([x, y]) => {
          const { viewer } = window.editor;
          const bounds = viewer.canvas.getBoundingClientRect();
          return [bounds.left + viewer.left + x * viewer.scale, bounds.top + viewer.top + y * viewer.scale];
        }""",
        [x, y],
    )
    return place[0], place[1]


def click(page: Any, x: float, y: float, button: str = "left") -> None:
    page.mouse.click(*on_screen(page, x, y), button=button)
    settled(page)


def drag(page: Any, *places: tuple[float, float]) -> None:
    page.mouse.move(*on_screen(page, *places[0]))
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*on_screen(page, *place), steps=4)
    page.mouse.up()
    settled(page)


def shown_labels(page: Any) -> np.ndarray:
    """Ids of the label map that the page has for its frame."""
    found = page.evaluate(
        """() => {
          const { labels, width, height } = window.editor.viewer;
          return { ids: labels.ids, slots: Array.from(labels.slots), width, height };
        }"""
    )
    table = np.array([0, *found["ids"]], np.int32)
    return table[np.array(found["slots"])].reshape(found["height"], found["width"])


def tinted_pixels(page: Any, colour: str) -> np.ndarray:
    """Where the canvas on the screen has a colour at full opacity, sampled at the middle of each pixel of the frame."""
    found = page.evaluate(
        """([r, g, b]) => {
          const { viewer } = window.editor;
          const { canvas, scale, left, top, ratio, width, height } = viewer;
          const pixels = viewer.context.getImageData(0, 0, canvas.width, canvas.height).data;
          const out = new Array(width * height);
          for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
            const column = Math.floor((left + (x + 0.5) * scale) * ratio);
            const at = 4 * (Math.floor((top + (y + 0.5) * scale) * ratio) * canvas.width + column);
            const away = Math.abs(pixels[at] - r) + Math.abs(pixels[at + 1] - g) + Math.abs(pixels[at + 2] - b);
            out[y * width + x] = away < 24 ? 1 : 0;
          }
          return { out, width, height };
        }""",
        [int(colour[i : i + 2], 16) for i in (1, 3, 5)],
    )
    return np.array(found["out"], bool).reshape(found["height"], found["width"])


def middle(mask: np.ndarray) -> tuple[float, float]:
    """A pixel well inside a mask."""
    import cv2

    distance = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)
    row, column = np.unravel_index(distance.argmax(), distance.shape)
    return float(column - 1) + 0.5, float(row - 1) + 0.5


def true_mask(frame: int, object_id: int) -> np.ndarray:
    return read_labels(example_masks() / f"{frame:05d}.png").labels == object_id


DROP = """([name, data]) => {
  const files = new DataTransfer();
  files.items.add(new File([new Uint8Array(data)], name));
  window.dispatchEvent(new DragEvent("drop", { dataTransfer: files, cancelable: true }));
}"""
"""Drops a file on the page."""


def session_of(work: Path) -> Path:
    return next((work / "sessions").iterdir())


def test_an_annotator_s_way_from_click_to_export(chromium: Any, clip: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    with listening(clip, work) as (url, _), page_at(chromium, url) as page:
        ready(page)
        page.keyboard.press("n")
        settled(page)
        # a click makes the session's mask, and its pixels are on the screen
        click(page, *middle(true_mask(0, 1)))
        first = shown_labels(page)
        with Session.load(session_of(work)) as session:
            assert np.array_equal(session.labels(0), first)
        assert (first == 1).sum() > 50
        page.evaluate("window.editor.setView({ opacity: 1, points: false })")
        settled(page)
        seen = tinted_pixels(page, "#ff5848")
        assert (seen == (first == 1)).mean() > 0.995
        # a right click subtracts; undo brings it back
        click(page, *middle(first == 1), button="right")
        assert (shown_labels(page) == 1).sum() < (first == 1).sum()
        page.keyboard.press("Control+z")
        settled(page)
        assert np.array_equal(shown_labels(page), first)
        # a box for the second object
        page.keyboard.press("n")
        settled(page)
        rows, columns = np.nonzero(true_mask(0, 2))
        drag(page, (float(columns.min()), float(rows.min())), (float(columns.max()) + 1, float(rows.max()) + 1))
        assert page.evaluate("window.editor.status.prompts[0][2].box.length") == 4
        assert set(np.unique(shown_labels(page))) == {0, 1, 2}
        # track a range, then stop a longer way
        page.evaluate("window.editor.range = { start: 0, stop: 2 }; window.editor.refresh()")
        page.keyboard.press("t")
        finished(page)
        assert page.evaluate("window.editor.status.tracked") == [[1, 2]]
        page.keyboard.press("u")
        page.keyboard.press("t")
        wait_until(page, "window.editor.job ? window.editor.job.done > 0 : window.editor.status.tracked[0][1] > 2")
        page.keyboard.press("Escape")
        finished(page)
        stop = page.evaluate("window.editor.status.tracked")[0][1]
        assert 3 <= stop <= FRAMES - 1
        # correct a frame with the brush, go on from there
        page.evaluate("window.editor.seek(2)")
        settled(page)
        page.keyboard.press("1")
        page.keyboard.press("b")
        before = shown_labels(page)
        x, y = middle(before == 0)
        drag(page, (x - 6, y), (x + 6, y))
        corrected = shown_labels(page)
        assert corrected[int(y), int(x)] == 1 and (corrected == 1).sum() > (before == 1).sum()
        assert page.evaluate("window.editor.status.stale.length") > 0
        page.keyboard.press("t")
        finished(page)
        assert page.evaluate("window.editor.status.stale") == []
        assert page.evaluate("window.editor.status.tracked.at(-1)[1]") == FRAMES - 1
        page.evaluate("window.editor.seek(2)")
        settled(page)
        assert np.array_equal(shown_labels(page), corrected)
        # undo tracking and the stroke; redo both
        for key in ("Control+z", "Control+z"):
            page.keyboard.press(key)
            settled(page)
        page.evaluate("window.editor.seek(2)")
        settled(page)
        assert np.array_equal(shown_labels(page), before)
        for key in ("Control+Shift+Z", "Control+Shift+Z"):
            page.keyboard.press(key)
            settled(page)
        # approve, name, export
        page.evaluate("window.editor.seek(2)")
        settled(page)
        page.keyboard.press("a")
        settled(page)
        assert page.evaluate("window.editor.status.locked") == [[2, 2]]
        name = page.locator(".object .name").first
        name.fill("toy <b>star</b>")
        name.press("Enter")
        settled(page)
        for format_name in ("coco", "overlay"):
            page.keyboard.press("Control+e")
            page.locator(f"dialog[open] input[name=format][value={format_name}]").check()
            with page.expect_download() as download:
                page.locator("dialog .primary").click()
            path = tmp_path / download.value.suggested_filename
            download.value.save_as(path)
            if format_name == "coco":
                content = json.loads(path.read_text())
                assert {item["name"] for item in content["categories"]} == {"toy <b>star</b>", "object 2"}
                assert len(content["images"]) == FRAMES
            else:
                assert path.read_bytes()[4:8] == b"ftyp"
            page.locator("dialog .dialog-head button").click()
        # reload: everything is there
        page.reload()
        ready(page)
        settled(page)
        assert page.evaluate("window.editor.frame") == 2
        assert np.array_equal(shown_labels(page), corrected)
        assert page.locator(".object .name").first.input_value() == "toy <b>star</b>"
        assert page.evaluate("window.editor.status.locked") == [[2, 2]]
        assert page.evaluate("window.editor.status.tracked.at(-1)[1]") == FRAMES - 1


def test_the_page_and_python_give_the_same_masks(chromium: Any, clip: Path, tmp_path: Path) -> None:
    given = read_labels(example_masks() / "00000.png").labels
    with Session(clip, folder=tmp_path / "python") as session:
        for object_id in (1, 2, 3):
            session.set_mask(0, object_id, given == object_id)
        expected = {0: session.labels(0), **dict(session.propagate(0, 6, "forward"))}
    with listening(clip, tmp_path / "work") as (url, _), page_at(chromium, url) as page:
        ready(page)
        page.evaluate(DROP, ["00000.png", list((example_masks() / "00000.png").read_bytes())])
        wait_until(page, "window.editor.status.prompts[0]")
        page.evaluate("window.editor.range = { start: 0, stop: 5 }; window.editor.refresh()")
        page.keyboard.press("t")
        finished(page)
        for frame, labels in expected.items():
            page.evaluate("(frame) => window.editor.seek(frame)", frame)
            settled(page)
            assert np.array_equal(shown_labels(page), labels)


def test_the_interactive_benchmark_gives_the_same_masks_through_the_page(
    chromium: Any, clip: Path, tmp_path: Path
) -> None:
    """A box, clicks, undone clicks and tracking, with the bundled model."""
    for path in sorted(clip.iterdir())[6:]:
        path.unlink()
    masks = {path.stem: true_masks(path.stem, tmp_path / "masks") for path in sorted(clip.iterdir())}
    options = InteractiveOptions(tmp_path / "masks", rounds=1, round_clicks=2)
    rows, labels = through_the_page(clip, masks, options, chromium, tmp_path / "work")
    model = load_any(options.model)
    with Session(clip, model, prompter=load_frame_prompter(model)) as session:
        expected = measure_session(session, masks, options)
        assert all(np.array_equal(found, session.labels(index)) for index, found in enumerate(labels))
    assert equal_rows(rows, expected)
    assert rows[1]["j_and_f"] > 0.5


def true_masks(name: str, folder: Path) -> Path:
    """The true mask of a frame with two of its objects."""
    labels = read_labels(example_masks() / f"{name}.png").labels
    write_labels(folder / f"{name}.png", np.where(np.isin(labels, [1, 2]), labels, 0))
    return folder / f"{name}.png"


def test_a_closed_tab_stops_nothing_and_a_new_one_catches_up(chromium: Any, clip: Path, tmp_path: Path) -> None:
    with listening(clip, tmp_path / "work") as (url, _):
        with page_at(chromium, url) as page:
            ready(page)
            click(page, *middle(true_mask(0, 1)))
            page.keyboard.press("t")
            wait_until(page, "window.editor.job !== null || window.editor.status.tracked.length")
        with page_at(chromium, url) as page:
            ready(page)
            finished(page)
            assert page.evaluate("window.editor.status.tracked") == [[1, FRAMES - 1]]


def test_the_page_comes_back_after_the_program(chromium: Any, clip: Path, tmp_path: Path, tiny_model: Any) -> None:
    """A lost connection is shown; nothing else is asked of the user."""
    with listening(clip, tmp_path / "work", model=tiny_model) as (url, server), page_at(chromium, url) as page:
        ready(page)
        page.evaluate("window.editor.connection.socket.close()")
        wait_until(page, "window.editor.online === false || window.editor.connection.socket.readyState === 1")
        wait_until(page, "window.editor.online === true")
        click(page, *middle(true_mask(0, 1)))
        assert (shown_labels(page) == 1).any()
        assert server._pages == 1


def test_masks_are_imported_by_drop(chromium: Any, clip: Path, tmp_path: Path, tiny_model: Any) -> None:
    with listening(clip, tmp_path / "work", model=tiny_model) as (url, _), page_at(chromium, url) as page:
        ready(page)
        page.evaluate(DROP, ["00003.png", list((example_masks() / "00003.png").read_bytes())])
        wait_until(page, "window.editor.status.prompts[3]")
        page.evaluate("window.editor.seek(3)")
        settled(page)
        assert np.array_equal(shown_labels(page), read_labels(example_masks() / "00003.png").labels)


def test_a_video_is_uploaded_from_the_list(chromium: Any, tmp_path: Path, tiny_model: Any) -> None:
    from app_server import write_video

    path = write_video(tmp_path / "my clip.mp4", 5)
    with listening(None, tmp_path / "work", model=tiny_model) as (url, _), page_at(chromium, url) as page:
        page.wait_for_selector(".card")
        with page.expect_file_chooser() as chooser:
            page.locator(".drop").click()
        chooser.value.set_files(path)
        ready(page)
        assert page.locator("h1").inner_text() == "my_clip"
        assert page.evaluate("window.editor.count") == 5
        page.locator("header a").click()
        page.wait_for_selector(".card")
        assert page.locator(".card-name").all_inner_texts() == ["toy_wall", "my_clip"] or "my_clip" in page.content()


def test_names_of_files_stay_text(chromium: Any, tmp_path: Path, tiny_model: Any) -> None:
    clip = write_clip(tmp_path / "<img src=x onerror=document.title='bad'>", 3)
    with listening(clip, tmp_path / "work", model=tiny_model) as (url, _), page_at(chromium, url) as page:
        ready(page)
        assert page.locator("h1").inner_text() == clip.name
        assert page.title() != "bad" and page.locator("h1 img").count() == 0


# -------------------------------------------------------------------------------------------------------- accessibility
LUMINANCE = """(node) => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const shares = [0.2126, 0.7152, 0.0722];
  const bright = (text) => shares.reduce((sum, share, i) => sum + share * linear(parse(text)[i] / 255), 0);
  let back = node;
  while (back && (parse(getComputedStyle(back).backgroundColor)[3] ?? 1) === 0) back = back.parentElement;
  const a = bright(getComputedStyle(node).color), b = bright(getComputedStyle(back ?? document.body).backgroundColor);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


TEXT = "h1, h2, h3, p, span, label, td, kbd, button, legend, strong, output, li"
HAS_TEXT = """(node) => !node.closest(':disabled')
  && [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())"""
CONTRASTS = f"""(selector) => {{
  const hasText = {HAS_TEXT}, contrast = {LUMINANCE};
  return [...document.querySelectorAll(selector)]
    .filter((node) => node.checkVisibility({{ visibilityProperty: true }}) && node.getClientRects().length)
    .filter(hasText)
    .map((node) => [node.innerText, contrast(node)]);
}}"""
"""Each visible text with its contrast, in one call: a page that redraws between two would lose nodes."""
UNNAMED = """() => [...document.querySelectorAll('button, input, select, canvas, a')]
  .filter((node) => !(node.ariaLabel || node.labels?.length || node.textContent.trim() || node.title))
  .map((node) => node.outerHTML)"""


@pytest.mark.parametrize("dark", [True, False])
def test_text_has_contrast_and_controls_have_names(
    chromium: Any, clip: Path, tmp_path: Path, tiny_model: Any, dark: bool
) -> None:
    with listening(clip, tmp_path / "work", model=tiny_model) as (url, _), page_at(chromium, url, dark=dark) as page:
        ready(page)
        page.keyboard.press("n")
        settled(page)
        for view in (None, "?", "Control+e"):
            if view:
                page.keyboard.press(view)
                page.wait_for_selector("dialog[open]")
            contrasts = page.evaluate(CONTRASTS, TEXT)
            assert len(contrasts) > 20
            assert [(text, ratio) for text, ratio in contrasts if ratio < 4.5] == []
            assert page.evaluate(UNNAMED) == []
            page.keyboard.press("Escape")
        # focus is visible wherever Tab leads
        for _ in range(12):
            page.keyboard.press("Tab")
            style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert style != "none" or page.evaluate("document.activeElement === document.body")


def test_everything_fits_into_1280_by_720(chromium: Any, clip: Path, tmp_path: Path, tiny_model: Any) -> None:
    with listening(clip, tmp_path / "work", model=tiny_model) as (url, _), page_at(chromium, url) as page:
        ready(page)
        outside = page.evaluate(
            """() => [...document.querySelectorAll('.top > *, .controls > *, .tools > *, .side section, .legend li')]
              .filter((node) => node.offsetParent && !node.hidden)
              .map((node) => [node.className, node.getBoundingClientRect()])
              .filter(([, b]) => b.right > innerWidth + 0.5 || b.bottom > innerHeight + 0.5 || b.left < 0)
              .map(([name]) => name)"""
        )
        assert outside == []


def test_frames_fetched_ahead_wait_for_a_click(chromium: Any, clip: Path, tmp_path: Path, tiny_model: Any) -> None:
    with listening(clip, tmp_path / "work", model=tiny_model) as (url, _), page_at(chromium, url) as page:
        ready(page)
        waiting = page.evaluate(
            """async () => {
              const { editor } = window;
              const { connection, frames } = editor;
              await editor.addObject();
              const ask = connection.ask.bind(connection);
              connection.ask = (kind, fields) => kind === "prompt"
                ? new Promise((resolve) => { window.answer = () => resolve({}); })
                : ask(kind, fields);
              for (const cache of [frames.bitmaps, frames.labels]) {
                for (const frame of [...cache.items.keys()]) if (frame) cache.delete(frame);
              }
              editor.prefetch();
              const before = frames.fetcher.queue.length;
              editor.addPoint({ point: [3, 3], label: 1 });
              while (!window.answer) await null;
              return [before, frames.fetcher.queue.length];
            }"""
        )
        assert waiting[0] > waiting[1] == 0
        page.evaluate("window.answer()")
        wait_until(page, "editor.frames.has(1) && editor.frames.has(4)")


# --------------------------------------------------------------------------------------------------------------- memory
def test_scrubbing_a_long_clip_keeps_memory_flat(chromium: Any, tmp_path: Path, tiny_model: Any) -> None:
    clip = write_clip(tmp_path / "long", 300)
    with listening(clip, tmp_path / "work", model=tiny_model) as (url, _), page_at(chromium, url) as page:
        ready(page)
        scrub = """async ([start, stop]) => {
          for (let frame = start; frame < stop; frame += 3) await window.editor.seek(frame);
          const { frames, timeline } = window.editor;
          return [frames.bitmaps.items.size, frames.labels.items.size, timeline.thumbs.size];
        }"""
        sizes = [page.evaluate(scrub, [0, 300]) for _ in range(2)]
        limits = page.evaluate("() => [editor.frames.bitmaps.most, editor.frames.labels.most]")
        assert sizes[1][0] == limits[0] == 160  # images are the large part: 300 were shown
        assert sizes[1][1] <= min(limits[1], 300)
        assert sizes[0][2] == sizes[1][2]


def test_no_thread_is_left_behind(clip: Path, tmp_path: Path, tiny_model: Any) -> None:
    before = threading.active_count()
    with listening(clip, tmp_path / "work", model=tiny_model):
        pass
    deadline = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before
    assert re.match("toy", clip.name)
