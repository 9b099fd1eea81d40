"""The page of docs/demo in a headless Chromium: the masks of `OnnxTracker`, and no request to another host."""

import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

import cutie_geo
from cutie_geo.onnx import OnnxTracker

DEMO = Path(cutie_geo.__file__).parents[1] / "docs" / "demo"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PATIENCE = 600_000
"""Milliseconds; the machine may be busy."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.skipif(not (DEMO / "vendor").is_dir(), reason="run sh docs/demo/vendor.sh first"),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    command = [sys.executable, "-u", str(DEMO / "serve.py"), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.terminate()


class Page:
    """The page in a browser, with what it asked for."""

    def __init__(self, browser, address: str) -> None:
        self.page = browser.new_page(accept_downloads=True)
        self.page.set_default_timeout(PATIENCE)
        self.requests: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)

    def expect(self, text: str) -> None:
        from playwright.sync_api import expect

        expect(self.page.locator("#status")).to_contain_text(re.compile(text), timeout=PATIENCE)

    def _at(self, place: tuple[float, float]) -> tuple[float, float]:
        """Return a place on the canvas, given as shares of its width and height, in pixels of the window."""
        canvas = self.page.locator("#view")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        assert box is not None
        return box["x"] + place[0] * box["width"], box["y"] + place[1] * box["height"]

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.page.mouse.move(*self._at(start))
        self.page.mouse.down()
        self.page.mouse.move(*self._at(end))
        self.page.mouse.up()

    def click(self, place: tuple[float, float], negative: bool = False) -> None:
        self.page.mouse.click(*self._at(place), button="right" if negative else "left")

    def download(self, button: str, path: Path) -> Path:
        with self.page.expect_download() as found:
            self.page.click(button)
        found.value.save_as(path)
        return path


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as program:
        browser = program.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield Page(browser, address)
        browser.close()


def read(content: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(content)))


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools
def test_the_page_makes_the_masks_of_the_tracker(
    page: Page, address: str, bundled_folder: Path, tmp_path: Path
) -> None:
    frames = sorted(cutie_geo.example_frames().glob("*.jpg"))
    first = cutie_geo.example_masks() / "00000.png"
    page.page.set_input_files("#model", bundled_folder)
    page.expect("cutie-geo-tiny, fp32, 320 x 180, [1-9]")
    page.page.set_input_files("#images", frames)
    page.expect("frames: 48 frames of 320 x 180")
    page.page.set_input_files("#mask", first)
    page.expect("mask: objects 1, 2, 3")
    page.page.click("#track")
    page.expect(r"frame 48 of 48, [0-9.]+ frames per second")
    print(page.page.text_content("#status"))
    archive = zipfile.ZipFile(page.download("#png", tmp_path / "masks.zip"))
    content = json.loads(page.download("#coco", tmp_path / "instances.json").read_text())
    assert archive.testzip() is None
    assert archive.namelist() == [f"Annotations/frames/{i:05d}.png" for i in range(48)]

    tracker, equal, boxes = OnnxTracker(bundled_folder, threads=1), [], 0
    for i, path in enumerate(frames):
        labels = tracker.labels(
            tracker.step(np.array(Image.open(path)), np.array(Image.open(first)) if i == 0 else None)
        )
        found = read(archive.read(archive.namelist()[i]))
        equal.append(float((labels == found).mean()))
        for annotation in (each for each in content["annotations"] if each["image_id"] == i + 1):
            mask = found == annotation["track_id"]
            rle = coco_mask.frPyObjects(annotation["segmentation"], 180, 320)
            np.testing.assert_array_equal(coco_mask.decode(rle), mask)
            assert annotation["area"] == mask.sum()
            assert annotation["bbox"] == coco_mask.toBbox(rle).tolist()
            boxes += 1
    assert min(equal) >= 0.995
    assert boxes > 90
    assert all(url.startswith((address, "blob:", "data:")) for url in page.requests), page.requests


def test_the_page_tracks_a_box_through_a_video_file(page: Page, bundled_folder: Path, tmp_path: Path) -> None:
    import av

    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for file in sorted(cutie_geo.example_frames().glob("*.jpg"))[:4]:
            image = Image.open(file).resize((640, 360))
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    page.page.set_input_files("#model", bundled_folder)
    page.expect("cutie-geo-tiny")
    page.page.fill("#fps", "10")
    page.page.set_input_files("#video", path)
    page.expect("clip: 4 frames of 640 x 360")
    page.drag((0.2, 0.2), (0.5, 0.6))
    page.expect("box of object 1, estimated IoU 0")
    page.page.click("#track")
    page.expect("frame 4 of 4")
    archive = zipfile.ZipFile(page.download("#png", tmp_path / "masks.zip"))
    first, *others = (read(archive.read(name)) for name in archive.namelist())
    assert first.shape == (360, 640)
    assert (first == 1).any()
    assert all(set(np.unique(labels)) <= {0, 1} for labels in others)


def test_clicks_and_boxes_make_the_masks_of_the_tracker(page: Page, bundled_folder: Path, tmp_path: Path) -> None:
    frames = sorted(cutie_geo.example_frames().glob("*.jpg"))[:2]
    labels = read((cutie_geo.example_masks() / "00000.png").read_bytes())
    image = np.array(Image.open(frames[0]))
    tracker = OnnxTracker(bundled_folder, threads=1)
    page.page.set_input_files("#model", bundled_folder)
    page.expect("clicks and boxes")
    page.page.set_input_files("#images", frames)
    page.expect("frames: 2 frames of 320 x 180")

    rows, columns = np.nonzero(labels == 1)
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    page.drag((box[0] / 320, box[1] / 180), (box[2] / 320, box[3] / 180))
    page.expect("box of object 1, estimated IoU")
    expected = {1: tracker.prompt(image, box=box)}
    page.page.click("#next")
    page.expect("object 2: click it")
    rows, columns = np.nonzero(labels == 2)
    click = (int(columns[len(rows) // 2]), int(rows[len(rows) // 2]))
    page.click((click[0] / 320, click[1] / 180))
    page.expect("1 click of object 2, estimated IoU")
    found = tracker.prompt(image, [click])
    page.click((2 / 320, 2 / 180), negative=True)
    page.expect("2 clicks of object 2, estimated IoU")
    expected[2] = tracker.prompt(image, [click, (2, 2)], [1, 0], mask=found.logits)

    page.page.click("#track")
    page.expect("frame 2 of 2")
    archive = zipfile.ZipFile(page.download("#png", tmp_path / "masks.zip"))
    shown = read(archive.read(archive.namelist()[0]))
    best = np.stack([np.zeros(image.shape[:2]), expected[1].logits, expected[2].logits]).argmax(axis=0)
    assert (shown == best).mean() >= 0.995
    assert (best == 1).any()
    assert (best == 2).any()


def test_wrong_files_are_named(page: Page, bundled_folder: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(bundled_folder, tmp_path / "damaged"))
    (damaged / "read.onnx").write_bytes(b"no")
    page.page.set_input_files("#model", damaged)
    page.expect("read.onnx: the digest is not that of model.json")
    description = json.loads((damaged / "model.json").read_text()) | {"opset": 99}
    (damaged / "model.json").write_text(json.dumps(description))
    page.page.set_input_files("#model", damaged)
    page.expect("model.json: opset: got 99, expected 20")
    image = tmp_path / "small.png"
    Image.new("RGB", (64, 64)).save(image)
    page.page.set_input_files("#images", image)
    page.expect("1 frames of 64 x 64")
    page.page.set_input_files("#mask", image)
    page.expect("mask: got colour type 2 with 8 bits; expected a PNG with palette or grey levels")
    page.page.set_input_files("#mask", cutie_geo.example_masks() / "00000.png")
    page.expect("mask: got 320 x 180, expected the video's 64 x 64")
