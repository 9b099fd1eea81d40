"""`cutie-geo app` as a program."""

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from app_server import write_clip
from programs import finish, start
from websockets.sync.client import ClientConnection, connect

from cutie_geo.__main__ import main
from cutie_geo.app.runs import encode_runs, to_base64
from cutie_geo.runs.session import Session


def test_what_cannot_be_opened_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    for arguments, error in [
        ([str(tmp_path / "missing")], "missing"),
        ([str(tmp_path / "text.mp4")], "text.mp4"),
        (["--port", "70000"], "--port: got 70000"),
        (["--max-upload", "0"], "--max-upload: got 0"),
    ]:
        assert main(["app", *arguments, "--no-browser", "--work", str(tmp_path / "work")]) == 2
        message = capsys.readouterr().err
        assert error in message and message.count("\n") == 1 and "Traceback" not in message
    assert not (tmp_path / "work").exists()


class Client:
    """A page of a real server."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket, self.number = socket, 0

    def receive(self) -> dict[str, Any]:
        return json.loads(self.socket.recv(timeout=240))

    def ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "do": kind, **fields}))
        while True:
            message = self.receive()
            if message.get("id") == self.number and "event" not in message:
                return message

    def wait(self, event: str) -> dict[str, Any]:
        while (message := self.receive()).get("event") != event:
            pass
        return message


def run_app(clip: Path, work: Path, *options: object) -> tuple[subprocess.Popen[str], str]:
    """The program, and the address that it prints."""
    program = start("-m", "cutie_geo", "app", clip, "--no-browser", "--work", work, *options)
    assert program.stdout is not None
    said = []
    for line in program.stdout:
        said.append(line)
        if found := re.match(r"ready: http://(\S+)/", line):
            return program, found[1]
    raise AssertionError("".join(said))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_tracking_ends_cleanly_and_loses_nothing(tmp_path: Path, number: signal.Signals) -> None:
    clip, work = write_clip(tmp_path / "clip", 900), tmp_path / "work"
    program, place = run_app(clip, work)
    try:
        refused = start("-m", "cutie_geo", "app", clip, "--no-browser", "--work", work, "--port", place.split(":")[1])
        status, said = finish(refused)
        assert status == 2 and "is in use by another program" in said and "Traceback" not in said
        mask = np.zeros((36, 48), np.int32)
        mask[8:20, 6:18] = 1
        video = f"ws://{place}/api/videos/{code_of(clip)}/events"
        with connect(video, origin=f"http://{place}", max_size=None) as socket:  # type: ignore[arg-type]
            page = Client(socket)
            assert page.receive()["frames"] == 900
            assert "error" not in page.ask("setmask", frame=0, object=1, mask=to_base64(encode_runs(mask)))
            assert "error" not in page.ask("track", direction="forward", start=0)  # takes longer than the test
            while "frame" not in (event := page.wait("progress")):
                pass
            program.send_signal(number)
            status, said = finish(program)
        assert status in (0, 143) and "Traceback" not in said and "ERROR" not in said
    finally:
        program.kill()
        program.wait()
    with Session.load(next((work / "sessions").iterdir())) as session:
        assert np.array_equal(session.labels(0), mask)
        assert event["frame"] in session.status().propagated


def code_of(path: Path) -> str:
    """The id of a video in addresses."""
    from cutie_geo.app.library import Library

    return next(iter(Library(path, path.parent / "none").videos))
