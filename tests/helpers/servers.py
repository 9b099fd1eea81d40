"""Real servers on loopback: files over HTTP, and moving pictures over RTSP."""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

SERVER = Path(__file__).parent / "rtsp_server.py"
SYSTEM_PYTHON = "/usr/bin/python3"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""


@contextmanager
def _running(handler: Any) -> Iterator[ThreadingHTTPServer]:
    """A server on a free port of loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL of a folder behind a real server on loopback."""
    with _running(partial(_Quiet, directory=str(folder))) as server:
        yield f"http://127.0.0.1:{server.server_port}"


class _Camera(_Quiet):
    """An HTTP camera: JPEGs in one answer without an end, which it gives up after some of them."""

    def __init__(self, *arguments: Any, images: Sequence[bytes], stall: float = 0.0) -> None:
        self.images, self.stall = images, stall
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Send all images, then close the connection."""
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=image")
        self.end_headers()
        for image in self.images:
            head = f"--image\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n"
            self.wfile.write(head.encode() + image + b"\r\n")
        time.sleep(self.stall)


class _Half(_Quiet):
    """A server that breaks off in the middle of its only file."""

    def __init__(self, *arguments: Any, content: bytes) -> None:
        self.content = content
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Promise the file, and send half of it."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: len(self.content) // 2])


@contextmanager
def camera(images: Sequence[bytes], stall: float = 0.0) -> Iterator[tuple[str, Callable[[], None]]]:
    """The URL of an HTTP camera that loses connections after its images and `stall` seconds, and what turns it off."""
    with _running(partial(_Camera, images=images, stall=stall)) as server:
        yield f"http://127.0.0.1:{server.server_port}/live", server.server_close


@contextmanager
def half_served(path: Path) -> Iterator[str]:
    """The URL of a file whose server breaks off."""
    with _running(partial(_Half, content=path.read_bytes())) as server:
        yield f"http://127.0.0.1:{server.server_port}/{path.name}"


class RtspServer(NamedTuple):
    """GStreamer's RTSP server in a process of its own."""

    process: subprocess.Popen[str]
    url: str

    @classmethod
    def start(cls, frames: int, port: str = "0", height: int = 64) -> "RtspServer":
        words = [SYSTEM_PYTHON, str(SERVER), str(frames), "20", port, str(height)]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        return cls(process, process.stdout.readline().strip())

    @property
    def port(self) -> str:
        return self.url.rpartition(":")[2].partition("/")[0]

    def end(self) -> None:
        """Kill the server, as a camera that loses power."""
        self.process.kill()
        self.process.communicate()
