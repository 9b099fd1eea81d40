"""A running app for tests: its library, sessions and server, in this process or on a port."""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
import uvicorn
from starlette.testclient import TestClient

from cutie_geo.app.library import Library
from cutie_geo.app.security import Access
from cutie_geo.app.server import Server, listen
from cutie_geo.app.sessions import Sessions
from cutie_geo.inference.prompting import PromptedMask
from cutie_geo.structures import Prompt

OWN = "own"
"""In place of a prompter: what the program itself would load."""
HOST = "localhost"
ORIGIN = {"origin": f"http://{HOST}"}


class ColourPrompter:
    """Frame prompter by region growing: pixels of similar colour around a click or the middle of a box."""

    reach = 0.11

    def encode(self, image: torch.Tensor) -> np.ndarray:
        smooth = cv2.bilateralFilter(image.permute(1, 2, 0).contiguous().numpy(), 5, 0.15, 2)
        return np.asarray(smooth, np.float32)

    def predict(
        self, encoded: np.ndarray, prompt: Prompt, mask: torch.Tensor | None = None, from_prompts: bool = False
    ) -> PromptedMask:
        found = np.zeros(encoded.shape[:2], bool) if mask is None else mask.numpy() > 0.5
        points = list(prompt.points)
        if prompt.box is not None:
            x0, y0, x1, y1 = prompt.box
            points.insert(0, ((x0 + x1) / 2, (y0 + y1) / 2, 1))
        for x, y, label in points:
            region = self._region(encoded, int(x), int(y), prompt.box)
            found = found | region if label else found & ~region
        return PromptedMask(torch.from_numpy(np.where(found, 4.0, -4.0)).float(), 0.8)

    def _region(self, image: np.ndarray, x: int, y: int, box: tuple[float, ...] | None) -> np.ndarray:
        y, x = min(y, image.shape[0] - 1), min(x, image.shape[1] - 1)
        similar = (np.abs(image - image[y, x]).max(-1) < self.reach).astype(np.uint8)
        if box is not None:
            inside = np.zeros_like(similar)
            inside[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = 1
            similar &= inside
        _, parts = cv2.connectedComponents(similar)
        return np.asarray(parts == parts[y, x])


@dataclass
class App:
    """An app for tests."""

    library: Library
    server: Server
    client: TestClient

    @property
    def video(self) -> str:
        """Id of the first video."""
        return next(iter(self.library.videos))


def write_clip(folder: Path, frames: int = 6, size: tuple[int, int] = (36, 48)) -> Path:
    """A red square on green that moves right by two pixels a frame; a blue one that stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(frames):
        image = np.full((*size, 3), (40, 120, 40), np.uint8)
        image[8:20, 6 + 2 * index : 18 + 2 * index] = (200, 40, 40)
        image[24:32, 30:42] = (40, 60, 210)
        cv2.imwrite(str(folder / f"{index:05d}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return folder


def sessions_of(options: dict[str, Any]) -> Sessions:
    """Sessions of the options `model` and `prompter`, which are removed: a prompter, None for none, or `OWN`."""
    prompter = options.pop("prompter", ColourPrompter())
    model = options.pop("model", "cutie-geo-tiny")
    return Sessions(model=model) if prompter == OWN else Sessions(model=model, frame_prompter=prompter, _loaded=True)


@contextmanager
def opened(source: Path | None, work: Path, access: Access | None = None, **options: Any) -> Iterator[App]:
    """An app in this process, closed at the end of the block."""
    library = Library(source, work)
    server = Server(library, sessions_of(options), **options)
    app = server.app(access or Access(frozenset({HOST})))
    with TestClient(app, base_url=f"http://{HOST}", headers=ORIGIN) as client:
        yield App(library, server, client)


@contextmanager
def listening(source: Path | None, work: Path, **options: Any) -> Iterator[tuple[str, Server]]:
    """An app on a port of this machine, in a thread; its address, and the server."""
    server = Server(Library(source, work), sessions_of(options), **options)
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        server.app(Access()), log_config=None, access_log=False, ws="websockets-sansio", timeout_graceful_shutdown=5
    )
    program = uvicorn.Server(config)
    thread = threading.Thread(target=program.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not program.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", server
    finally:
        program.should_exit = True
        thread.join(60)
        listener.close()
        assert not thread.is_alive(), "the server did not end"


def write_video(path: Path, frames: int = 3, images: Sequence[np.ndarray] | None = None) -> Path:
    """A video of grey frames, or of the given RGB images, at 10 frames per second."""
    images = images or [np.full((32, 48, 3), 20 * index % 256, np.uint8) for index in range(frames)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10, options={"qmin": "2", "qmax": "4"})
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def mutated(text: str, chance: random.Random) -> str:
    """The text with characters changed, inserted, removed or repeated."""
    letters = list(text)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(letters) + 1)
        kind = chance.randrange(4)
        if kind == 0 and place < len(letters):
            letters[place] = chr(chance.choice([0, 34, 44, 91, 123, 45, 57, 101, 0xFFFF, chance.randrange(32, 127)]))
        elif kind == 1:
            letters.insert(place, chance.choice(['"', "[", "]", "{", "9" * 40, "-", "1e999", "null", "\\u0000", ","]))
        elif kind == 2:
            del letters[place : place + chance.randint(1, 8)]
        else:
            letters[place:place] = letters[place : place + 20]
    return "".join(letters)


EXAMPLES = [
    {"id": 1, "do": "prompt", "frame": 0, "object": 1, "points": [[10, 12]], "labels": [1], "box": [1, 2, 30, 20]},
    {"id": 2, "do": "setmask", "frame": 1, "object": 2, "mask": "JAAAADAAAAABAAAAAQAAAMAGAAE="},
    {"id": 3, "do": "clear", "frame": 0, "object": 1},
    {"id": 4, "do": "track", "direction": "both", "start": 0, "stop": 3},
    {"id": 5, "do": "describe", "object": 1, "name": "knife", "colour": "#ff0000", "hidden": True},
    {"id": 6, "do": "approve", "start": 0, "stop": 0, "locked": True},
    {"id": 7, "do": "export", "format": "coco", "objects": [1], "shapes": "masks"},
]
