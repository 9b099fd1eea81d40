"""The interactive benchmark through the page: `python tests/helpers/app_interactive.py --gt D/Annotations/480p`.

Simulated clicks and boxes are made with the mouse in a real Chromium, tracking with a key, and masks are read from the
page. The arguments are those of `cutie-geo evaluate --protocol interactive`, and so are the numbers: `--compare FILE`
compares them with its report, the file of its `--json`.
"""

import argparse
import base64
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from app_server import OWN, listening
from browser import browser, page_at, wait_until

from cutie_geo.config.choices import DEFAULT_MODEL
from cutie_geo.data.index import mask_files
from cutie_geo.evaluation.folders import listed_names, sequence_names
from cutie_geo.evaluation.plots import find_frames
from cutie_geo.runs.interactive import InteractiveOptions, measure_session, report_lines
from cutie_geo.structures import ObjectId

SCALE = 2
"""Pixels of the screen for one of the frame, so that the middles of pixels are whole numbers on the screen."""
AROUND = (460, 320)
"""Room for the bars beside the frame, in pixels."""
READ = """async (frame) => {
  await editor.show(frame);
  const { labels } = editor.viewer;
  let text = "";
  for (let i = 0; i < labels.slots.length; i += 32768) {
    text += String.fromCharCode(...labels.slots.subarray(i, i + 32768));
  }
  return [labels.ids, btoa(text)];
}"""
PLACE = """([scale]) => {
  Object.assign(editor.viewer, { scale, left: 8, top: 8, fitted: false });
  editor.viewer.draw();
  const bounds = editor.viewer.canvas.getBoundingClientRect();
  return [bounds.left + 8, bounds.top + 8];
}"""


class PageSession:
    """An annotator at the page of a video, with the methods of `Session` that the benchmark calls.

    Args:
        page: Page of the editor, large enough for a frame at `SCALE`.
        names: Names of the frames.
    """

    def __init__(self, page: Any, names: Sequence[str]) -> None:
        self.page, self.names = page, tuple(names)
        wait_until(page, "window.editor?.shown && editor.prompter.available !== null")
        self.size: tuple[int, int] = tuple(page.evaluate("[editor.height, editor.width]"))
        page.locator("#follow").uncheck()
        self.left, self.top = page.evaluate(PLACE, [SCALE])
        self.ids: dict[ObjectId, int] = {}
        """Ids of the page by the benchmark's ids."""

    def prompt(self, frame: int, object: ObjectId, points: Any = (), labels: Any = None, box: Any = None) -> None:
        """Click, or drag a box. Raises ValueError with the message that the page shows."""
        self._show(frame)
        self._select(object)
        for (x, y), label in zip(points, labels or [1] * len(points)):
            self.page.mouse.click(*self._place(x, y), button="left" if label else "right")
            self._settle()
        if box is not None:
            self.page.mouse.move(*self._place(*box[:2]))
            self.page.mouse.down()
            self.page.mouse.move(*self._place(*box[2:]), steps=4)
            self.page.mouse.up()
            self._settle()

    def set_mask(self, frame: int, object: ObjectId, mask: Any) -> None:
        """Refuse: the page's ways to draw are the brush and imported files."""
        raise NotImplementedError("the page is driven with clicks and boxes")

    def labels(self, index: int) -> np.ndarray:
        """Return the label map that the page shows."""
        ids, text = self.page.evaluate(READ, index)
        known = {page_id: object_id for object_id, page_id in self.ids.items()}
        table = np.array([0, *(known[page_id] for page_id in ids)], np.int32)
        return table[np.frombuffer(base64.b64decode(text), np.uint8)].reshape(self.size)

    def undo(self) -> None:
        """Press Ctrl+Z."""
        self.page.keyboard.press("Control+z")
        self._settle()

    def propagate(self) -> list[int]:
        """Track both ways, to the end."""
        self.page.keyboard.press("y")
        self._settle()
        wait_until(self.page, "editor.job === null")
        self._settle()
        return []

    def _show(self, frame: int) -> None:
        self.page.evaluate("(frame) => editor.show(frame)", frame)

    def _select(self, object_id: ObjectId) -> None:
        if object_id not in self.ids:
            self.page.keyboard.press("n")
            self._settle()
            self.ids[object_id] = self.page.evaluate("editor.view.object")
        self.page.keyboard.press(str(1 + list(self.ids).index(object_id)))

    def _place(self, x: float, y: float) -> tuple[float, float]:
        return self.left + x * SCALE, self.top + y * SCALE

    def _settle(self) -> None:
        """Wait for all answers. Raises ValueError if the page shows an error."""
        wait_until(self.page, "editor.connection.waiting.size === 0")
        errors = self.page.locator(".toast.error span").all_inner_texts()
        if errors:
            for button in self.page.locator(".toast button").all():
                button.click()
            raise ValueError(errors[-1])


def through_the_page(
    frames: Path, masks: dict[str, Path], options: InteractiveOptions, chromium: Any, work: Path, **server: Any
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Return the scores of one video as `cutie_geo.runs.interactive.measure`, and its final label maps."""
    server = {"model": options.model, "prompter": OWN, **server}
    with listening(frames, work, **server) as (url, app), page_at(chromium, url) as page:
        wait_until(page, "window.editor?.viewer")
        width, height = page.evaluate("[editor.width, editor.height]")
        page.set_viewport_size({"width": SCALE * width + AROUND[0], "height": SCALE * height + AROUND[1]})
        names = next(iter(app._open.values())).images.frames.names
        session = PageSession(page, names)
        return measure_session(session, masks, options), [session.labels(index) for index in range(len(names))]


def equal_rows(a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]]) -> bool:
    """True if all scores are equal; the seconds are not compared."""
    keys = ("j", "f", "j_and_f", "frame")
    return [[row.get(key) for key in keys] for row in a] == [[row.get(key) for key in keys] for row in b]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gt", type=Path, required=True, metavar="DIR", help="true masks")
    parser.add_argument("--frames", type=Path, metavar="DIR", help="frames; default as for cutie-geo evaluate")
    parser.add_argument("--sequences", type=Path, metavar="FILE", help="text file with the sequences")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--round-clicks", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="report of cutie-geo evaluate")
    args = parser.parse_args()
    options = InteractiveOptions(
        args.gt, args.frames, args.sequences, args.model, rounds=args.rounds, round_clicks=args.round_clicks
    )
    frames = options.frames or find_frames(options.gt)
    assert frames is not None, f"{options.gt}: no JPEGImages beside it"
    names = sequence_names(options.gt) if options.sequences is None else listed_names(options.sequences)
    other = None if args.compare is None else json.loads(args.compare.read_text())["sequences"]
    results: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        with tempfile.TemporaryDirectory() as work, browser() as chromium:
            masks = mask_files(options.gt / name)
            results[name], _ = through_the_page(frames / name, masks, options, chromium, Path(work))
        scores = "  ".join(f"{100 * row['j_and_f']:.2f}" for row in results[name])
        same = (
            ""
            if other is None or name not in other
            else ("  equal" if equal_rows(results[name], other[name]) else "  DIFFERENT")
        )
        print(f"{name:24}{scores}{same}", flush=True)
        if args.json:
            args.json.write_text(json.dumps({"sequences": results}, indent=1))
    mean = [
        {
            key: float(np.mean([rows[min(k, len(rows) - 1)][key] for rows in results.values()]))
            for key in ("j_and_f", "seconds")
        }
        for k in range(options.rounds + 1)
    ]
    report = {"corrections": "clicks, through the page", "model": options.model, "mean": mean, "sequences": results}
    print("\n".join(report_lines(report)))


if __name__ == "__main__":
    main()
