"""The app's server: what it serves, what it refuses, and that it survives."""

import io
import json
import random
import struct
import threading
import time
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from app_server import EXAMPLES, HOST, ORIGIN, OWN, App, ColourPrompter, mutated, opened, write_clip, write_video
from PIL import Image
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect
from tiny import tiny_config

from cutie_geo.app.library import Library
from cutie_geo.app.runs import decode_runs, encode_runs, from_base64, to_base64
from cutie_geo.app.security import HEADERS, Access, Rate, access_for, host_name, is_loopback
from cutie_geo.app.server import AppOptions, Server, address, listen
from cutie_geo.app.sessions import Sessions
from cutie_geo.data.masks import write_labels
from cutie_geo.model.network import CutieGeo
from cutie_geo.runs.session import Session

PATIENCE = 600.0


class Page:
    """Client that sends a page's commands and receives answers and events."""

    def __init__(self, socket: WebSocketTestSession) -> None:
        self.socket, self.number = socket, 0
        self.events: list[dict[str, Any]] = []
        self.state = self.receive()

    def receive(self) -> dict[str, Any]:
        return json.loads(self.socket.receive_text())

    def ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        self.number += 1
        self.socket.send_text(json.dumps({"id": self.number, "do": kind, **fields}))
        while True:
            message = self.receive()
            if message.get("id") == self.number and "event" not in message:
                return message
            self.events.append(message)

    def wait(self, event: str) -> dict[str, Any]:
        for message in self.events:
            if message["event"] == event:
                self.events.remove(message)
                return message
        while True:
            message = self.receive()
            if message.get("event") == event:
                return message
            self.events.append(message)


def closing_code(socket: WebSocketTestSession) -> int:
    """The code with which the server closes a connection, whatever it sends before."""
    try:
        while True:
            socket.receive_text()
    except WebSocketDisconnect as closed:
        return closed.code


def events(app: App) -> str:
    return f"ws://{HOST}/api/videos/{app.video}/events"


def mask_of(answer: dict[str, Any], size: tuple[int, int] = (36, 48)) -> np.ndarray:
    return decode_runs(from_base64(answer["labels"], "labels"), size, "labels")


def headed() -> CutieGeo:
    """A small network with a prompt head whose weights count as trained."""
    torch.manual_seed(0)
    model = CutieGeo(tiny_config(prompt_channels=32)).eval()
    assert model.prompt_head is not None
    model.prompt_head.trained = True
    return model


def drawn(mask: np.ndarray) -> str:
    return to_base64(encode_runs(mask.astype(np.int32)))


# ------------------------------------------------------------------------------------------------------------- serving
def test_the_page_and_its_files_come_with_strict_headers(app: App) -> None:
    page = app.client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    for name, value in HEADERS.items():
        assert page.headers[name] == value
    assert "unsafe" not in page.headers["content-security-policy"]
    assert "style=" not in page.text and "<script>" not in page.text and "http://" not in page.text
    for name in ("main.js", "app.css", "icon.svg"):
        assert app.client.get(f"/static/{name}").status_code == 200


def test_scripts_and_styles_name_no_other_host(app: App) -> None:
    from cutie_geo.app.server import STATIC

    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http" + "://" not in text and "https:" not in text and "@import" not in text, path
        assert "innerHTML" not in text and "insertAdjacentHTML" not in text and "eval(" not in text, path


def test_frames_thumbnails_and_posters_are_images(app: App) -> None:
    video = app.client.get("/api/videos").json()["videos"][0]
    assert (video["name"], video["kind"]) == ("squares", "opened")
    frame = Image.open(io.BytesIO(app.client.get(f"/api/videos/{app.video}/frames/2").content))
    assert (frame.format, frame.size) == ("JPEG", (48, 36))
    assert abs(np.asarray(frame)[12, 14].astype(int) - (200, 40, 40)).max() < 60
    for kind in ("thumbs/0", "poster"):
        assert Image.open(io.BytesIO(app.client.get(f"/api/videos/{app.video}/{kind}").content)).format == "JPEG"
    assert app.client.get(f"/api/videos/{app.video}/frames/6").status_code == 404
    labels = app.client.get(f"/api/videos/{app.video}/labels/0").content
    assert not decode_runs(labels, (36, 48), "labels").any()


def test_an_html_file_named_png_is_never_served(tmp_path: Path, tiny_model: Any) -> None:
    clip = write_clip(tmp_path / "clip", 3)
    (clip / "00001.png").write_text("<script>alert(1)</script>")
    (clip / "00002.png").write_text("<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
    with opened(clip, tmp_path / "work", model=tiny_model) as app:
        for index in (1, 2):
            answer = app.client.get(f"/api/videos/{app.video}/frames/{index}")
            assert answer.status_code == 400 and "cannot be read as an image" in answer.json()["error"]
            assert "script" not in answer.text and answer.headers["content-type"] == "application/json"
        assert app.client.get(f"/api/videos/{app.video}/frames/0").status_code == 200


# -------------------------------------------------------------------------------------------------------------- attacks
@pytest.mark.parametrize(
    "path",
    ["/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py", "/static/app.css%00.png",
     "/../etc/passwd", "//etc/passwd", "/static//etc/passwd", "/static/C:%5Cx", "/api/videos/../../etc/passwd/poster",
     "/api/videos/%2e%2e%2f%2e%2e/poster", "/api/videos/{video}/exports/..%2f..%2fsession.sqlite", "/static/.htaccess",
     "/api/videos/{video}/exports/session.sqlite", "/api/videos/{video}/frames/-1", "/api/videos/{video}/frames/1e9",
     "/api/videos/{video}/frames/99999999999999999999999", "/api/videos/{video}/frames/../../x", "/app.json"],
)  # fmt: skip
def test_paths_outside_are_not_found(app: App, path: str) -> None:
    answer = app.client.get(path.replace("{video}", app.video))
    assert answer.status_code == 404
    assert "root:" not in answer.text and "import" not in answer.text


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.nip.io", "", "localhost@evil",
             "[::2]", "a b", "localhost:99999", "localhost:x", "10.0.0.1"],
)  # fmt: skip
def test_foreign_hosts_are_refused(app: App, host: str) -> None:
    assert app.client.get("/", headers={"host": host}).status_code == 421


def test_two_host_headers_are_refused(app: App) -> None:
    assert app.client.get("/", headers=[("host", HOST), ("host", "evil.example")]).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://evil.example"}, {"origin": "null"}, {"origin": f"https://{HOST}"}, {"origin": f"http://{HOST}:81"},
     {"origin": f"http://{HOST}.evil.example"}],
)  # fmt: skip
def test_foreign_origins_are_refused(app: App, headers: dict[str, str]) -> None:
    assert app.client.post("/api/upload?name=a.mp4", content=b"", headers=headers).status_code == 403
    assert app.client.get("/api/videos", headers=headers).status_code == 403
    with pytest.raises(WebSocketDisconnect), app.client.websocket_connect(events(app), headers=headers):
        pass


def test_requests_that_another_site_causes_are_refused(app: App) -> None:
    client = app.client
    del client.headers["origin"]
    assert client.post("/api/upload?name=a.mp4", content=b"").status_code == 403
    assert client.get(f"/api/videos/{app.video}/frames/0", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert client.get("/", headers=link).status_code == 200
    assert client.get("/", headers={**link, "sec-fetch-dest": "iframe"}).status_code == 403
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(events(app)):
        pass


def test_other_methods_and_long_addresses_are_refused(app: App) -> None:
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "X"):
        assert app.client.request(method, "/").status_code == 405
    assert app.client.get("/api/upload").status_code == 405
    assert app.client.get("/?x=" + "a" * 5000).status_code == 414


def test_another_host_needs_the_token(clip: Path, tmp_path: Path, tiny_model: Any) -> None:
    access = access_for("0.0.0.0", "secret")
    away = {"host": "192.168.1.7:8000", "origin": "http://192.168.1.7:8000"}
    with opened(clip, tmp_path / "work", access, model=tiny_model) as app:
        client = app.client
        client.headers.update(away)
        assert client.get("/").status_code == 401
        assert client.get("/api/videos").status_code == 401
        assert client.get("/static/main.js").status_code == 401
        assert client.get("/?token=wrong").status_code == 401
        assert client.post("/api/upload?token=secret").status_code == 401
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(events(app)):
            pass
        entered = client.get("/?token=secret&video=x", follow_redirects=False)
        assert (entered.status_code, entered.headers["location"]) == (303, "/?video=x")
        cookie = entered.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie
        assert client.get("/api/videos").status_code == 200
        with client.websocket_connect(events(app)) as socket:
            assert Page(socket).state["frames"] == 6


def test_wrong_tokens_are_counted(clip: Path, tmp_path: Path, tiny_model: Any) -> None:
    with opened(clip, tmp_path / "work", access_for("0.0.0.0", "secret"), model=tiny_model) as app:
        client = app.client
        codes = [client.get(f"/?token={guess}").status_code for guess in range(12)]
        assert codes == [401] * 10 + [429] * 2
        assert client.get("/?token=secret").status_code == 429


def test_too_many_requests_are_refused_for_a_while() -> None:
    now = [0.0]
    rate = Rate(2.0, 3.0, lambda: now[0])
    assert [rate.take() for _ in range(4)] == [True, True, True, False]
    now[0] = 0.5
    assert [rate.take() for _ in range(2)] == [True, False]


def test_a_flood_of_requests_gets_429(app: App) -> None:
    from cutie_geo.app.security import Guard, Rates

    guard = Guard(app.client.app, Access(frozenset({HOST})), requests=Rates(0.001, 3.0))  # type: ignore[arg-type]
    client = TestClient(guard, base_url=f"http://{HOST}", headers=ORIGIN)
    assert [client.get("/static/main.js").status_code for _ in range(5)] == [200] * 3 + [429] * 2


def test_hosts_and_addresses() -> None:
    assert [host_name(host) for host in ("A:80", "[::1]:9", "a/b", "", None, "a:b", "[::1")] == [
        "a", "::1", None, None, None, None, None]  # fmt: skip
    assert is_loopback("127.3.2.1") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("0.0.0.0") and not is_loopback("example.org") and not is_loopback("192.168.0.1")
    assert access_for("127.0.0.1", None).token is None
    assert address("::1", 80, None) == "http://[::1]:80/"
    assert address("10.0.0.1", 80, "x") == "http://10.0.0.1:80/?token=x"


def test_a_port_in_use_and_an_unknown_host_are_named() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ValueError, match=rf"--port: {port} on 127\.0\.0\.1 is in use"):
            listen("127.0.0.1", port)
    with pytest.raises(ValueError, match=r"cannot (listen|be found)"):
        listen("192.0.2.1", 0)
    for options in ({"port": 70000}, {"max_upload": 0}, {"host": ""}):
        with pytest.raises(ValueError, match="--"):
            AppOptions(**options)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------------- uploads
def test_an_uploaded_video_can_be_opened(app: App, tmp_path: Path) -> None:
    data = write_video(tmp_path / "clip.mp4").read_bytes()
    answer = app.client.post("/api/upload?name=my%20clip.mp4", content=data)
    assert answer.status_code == 200
    names = [video["name"] for video in app.client.get("/api/videos").json()["videos"]]
    assert "my_clip" in names
    with app.client.websocket_connect(f"ws://{HOST}/api/videos/{answer.json()['id']}/events") as socket:
        state = Page(socket).state
        assert (state["frames"], state["width"], state["fps"]) == (3, 48, 10.0)


def test_bad_uploads_are_refused_and_leave_nothing(clip: Path, tmp_path: Path, tiny_model: Any) -> None:
    with opened(clip, tmp_path / "work", model=tiny_model, max_upload=1) as app:
        post = app.client.post
        assert post("/api/upload?name=a.mp4", content=bytes(2 * 2**20)).status_code == 413
        assert post("/api/upload?name=a.mp4", content=iter([bytes(2**20)] * 3)).status_code == 400  # without a length
        assert post("/api/upload?name=a.mp4", headers={"content-length": "-5"}).status_code == 413
        for name, data in [("a.mp4", b"text"), ("a.svg", b"<svg/>"), ("a.html", b"<b>"), ("", b"x"), ("a.php", b"x")]:
            answer = post("/api/upload", params={"name": name}, content=data)
            assert answer.status_code == 400 and answer.json()["error"]
        assert not [path for path in (tmp_path / "work").rglob("*") if path.is_file()]
        assert app.client.get("/api/videos").status_code == 200


def test_masks_are_imported_by_frame_name(app: App, tmp_path: Path) -> None:
    labels = np.zeros((36, 48), np.int32)
    labels[8:20, 10:22], labels[24:32, 30:42] = 3, 9
    write_labels(tmp_path / "mask.png", labels)
    data = (tmp_path / "mask.png").read_bytes()
    post = app.client.post
    with app.client.websocket_connect(events(app)) as socket:
        page = Page(socket)
        assert post(f"/api/videos/{app.video}/import?name=00002.png&frame=5", content=data).json() == {"frames": 1}
        changed = page.wait("status")
        assert changed["changed"] is None and list(changed["status"]["prompts"]) == ["2"]
        assert post(f"/api/videos/{app.video}/import?name=drawing.png&frame=5", content=data).json() == {"frames": 1}
    for index in (2, 5):
        runs = app.client.get(f"/api/videos/{app.video}/labels/{index}").content
        assert np.array_equal(decode_runs(runs, (36, 48), "labels"), labels)


@pytest.mark.slow
def test_annotations_of_an_export_are_imported(app: App, clip: Path, tmp_path: Path, tiny_model: Any) -> None:
    with app.client.websocket_connect(events(app)) as socket:
        page = Page(socket)
        page.ask("prompt", frame=1, object=1, points=[[12, 12]], labels=[1])
        page.ask("describe", object=1, name="red <b>square</b>")
        exports = {name: page.ask("export", format=name, shapes="masks") for name in ("coco", "cvat")}
    expected = app.client.get(f"/api/videos/{app.video}/labels/1").content
    for name, suffix in (("coco", "json"), ("cvat", "xml")):
        data = app.client.get(exports[name]["url"]).content
        with opened(clip, tmp_path / name, model=tiny_model) as other:
            answer = other.client.post(f"/api/videos/{other.video}/import?name=x.{suffix}&frame=0", content=data)
            assert answer.json() == {"frames": 1}
            assert other.client.get(f"/api/videos/{other.video}/labels/1").content == expected
            with other.client.websocket_connect(events(other)) as socket:
                assert Page(socket).state["status"]["objects"][0]["name"] == "red <b>square</b>"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("a.png", b"<svg onload=alert(1)>", "cannot be read as a mask"),
        ("a.png", b"<html><script>", "cannot be read as a mask"),
        ("a.json", b"{", "not JSON of annotations"),
        ("a.xml", b"<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><annotations>&x;</annotations>", ""),
        ("a.exe", b"MZ", "expected masks"),
        ("../../a.png", b"x", "cannot be read as a mask"),
        ("", b"", "expected masks"),
    ],
)
def test_bad_imports_change_nothing(app: App, name: str, data: bytes, error: str) -> None:
    answer = app.client.post(f"/api/videos/{app.video}/import", params={"name": name, "frame": "0"}, content=data)
    assert answer.status_code == 400
    assert error in answer.json()["error"] and "root:" not in answer.text and "/tmp" not in answer.json()["error"]
    with app.client.websocket_connect(events(app)) as socket:
        assert Page(socket).state["status"]["objects"] == []


def test_a_png_bomb_is_refused(app: App) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    answer = app.client.post(f"/api/videos/{app.video}/import?name=a.png&frame=0", content=bomb)
    assert answer.status_code == 400 and "pixels" in answer.json()["error"]


def test_a_mask_of_another_size_is_refused(app: App, tmp_path: Path) -> None:
    write_labels(tmp_path / "mask.png", np.ones((10, 10), np.int32))
    data = (tmp_path / "mask.png").read_bytes()
    answer = app.client.post(f"/api/videos/{app.video}/import?name=a.png&frame=0", content=data)
    assert answer.status_code == 400 and "expected (36, 48)" in answer.json()["error"]


# ------------------------------------------------------------------------------------------------------------- editing
def test_clicks_boxes_and_strokes_become_the_session_s_masks(app: App, clip: Path) -> None:
    with app.client.websocket_connect(events(app)) as socket:
        page = Page(socket)
        assert page.state["prompter"]["available"] is not False
        answer = page.ask("prompt", frame=0, object=1, points=[[12, 14]], labels=[1])
        red = cv2.imread(str(clip / "00000.png"))[..., 2] > 150
        assert (mask_of(answer) == red).mean() > 0.98
        assert answer["status"]["prompts"]["0"]["1"]["points"] == [[12, 14]]
        page.ask("prompt", frame=0, object=2, box=[28, 22, 44, 34])
        square = np.zeros((36, 48), bool)
        square[2:5, 2:6] = True
        answer = page.ask("setmask", frame=0, object=3, mask=drawn(square))
        shown = mask_of(answer)
        assert set(np.unique(shown)) == {0, 1, 2, 3} and np.array_equal(shown == 3, square)
    runs = app.client.get(f"/api/videos/{app.video}/labels/0").content
    assert np.array_equal(decode_runs(runs, (36, 48), "labels"), shown)
    folder = next(iter(app.library.videos.values())).session
    with Session.load(folder) as session:
        assert np.array_equal(session.labels(0), shown)


@pytest.mark.slow
def test_the_shown_frame_is_encoded_once_and_before_the_click(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page tells which frame it shows; clicks there and tracking from there use the features of one encoding."""
    model = headed()
    frames: list[int] = []
    threads: set[str] = set()

    def watch(_: Any, images: Any, __: Any) -> None:
        frames.append(max(images[0].shape[-2:]))
        threads.add(threading.current_thread().name)

    model.encoder.register_forward_hook(watch)

    def whole() -> int:  # the views of small objects are enlarged
        return sum(side <= 64 for side in frames)

    with (
        opened(clip, tmp_path / "work", model=model, prompter=OWN) as app,
        app.client.websocket_connect(events(app)) as socket,
    ):
        page = Page(socket)
        page.wait("prompter")
        page.ask("view", frame=2)
        deadline = time.monotonic() + PATIENCE
        while whole() < 2:  # the first frame, with which the page began, and this one
            assert time.monotonic() < deadline
            time.sleep(0.01)
        page.ask("prompt", frame=2, object=1, box=[6, 6, 30, 24])
        page.ask("prompt", frame=2, object=1, points=[[12, 14]], labels=[1])
        assert whole() == 2
        page.ask("setmask", frame=2, object=1, mask=drawn(np.eye(36, 48) > 0))
        page.ask("track", direction="forward", start=2, stop=3)
        page.wait("finished")
        assert whole() == 3
        names = {thread.name.split("_")[0] for thread in threading.enumerate()}
    assert len(threads) == 1 and next(iter(threads)).startswith("session ")  # see Sessions.load
    assert "loading" not in names


def test_sessions_share_one_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, loaded = headed(), []
    monkeypatch.setattr("cutie_geo.app.sessions.load_any", lambda *args: (loaded.append(args[0]), model)[1])
    for name in ("a", "b"):
        write_clip(tmp_path / "videos" / name, 2)
    library, sessions = Library(tmp_path / "videos", tmp_path / "work"), Sessions("cutie-geo-tiny")
    videos = [video for video in library.videos.values() if video.kind == "opened"]
    with sessions.open(videos[0]) as first, sessions.open(videos[1]) as second:
        assert first._network() is second._network() is sessions.network()
    assert loaded == ["cutie-geo-tiny"]


def test_without_a_prompter_a_box_is_filled_and_a_click_is_refused(clip: Path, tmp_path: Path, tiny_model: Any) -> None:
    with (
        opened(clip, tmp_path / "work", model=tiny_model, prompter=None) as app,
        app.client.websocket_connect(events(app)) as socket,
    ):
        page = Page(socket)
        prompter = page.state["prompter"]
        if prompter["available"] is None:
            prompter = page.wait("prompter")["prompter"]
        assert not prompter["available"] and "Clicks need a model that is not installed" in prompter["reason"]
        answer = page.ask("prompt", frame=0, object=1, points=[[12, 14]], labels=[1])
        assert "clicks need a model that is not installed; use the brush" in answer["error"]
        answer = page.ask("prompt", frame=0, object=1, box=[10.2, 5, 20, 500])
        filled = np.zeros((36, 48), bool)
        filled[5:36, 10:20] = True
        assert np.array_equal(mask_of(answer) == 1, filled)
        assert "expected one with pixels" in page.ask("prompt", frame=0, object=1, box=[90, 5, 99, 9])["error"]


def test_undo_and_redo_show_where(app: App) -> None:
    with app.client.websocket_connect(events(app)) as socket:
        page = Page(socket)
        assert "nothing to undo" in page.ask("undo")["error"]
        page.ask("describe", object=1, name="fork")
        assert [item["name"] for item in page.ask("describe", object=1, colour="#123456")["status"]["objects"]] == [
            "fork"
        ]
        page.ask("prompt", frame=3, object=1, points=[[20, 14]], labels=[1])
        answer = page.ask("undo")
        assert answer["at"] == 3 and answer["status"]["prompts"] == {}
        assert [item["name"] for item in answer["status"]["objects"]] == ["fork"]
        answer = page.ask("redo")
        assert list(answer["status"]["prompts"]) == ["3"] and answer["status"]["objects"][0]["name"] == "fork"
        assert "nothing to redo" in page.ask("redo")["error"]
        answer = page.ask("remove", object=1)
        assert answer["status"]["objects"] == []
        answer = page.ask("undo")
        assert [(item["name"], item["colour"]) for item in answer["status"]["objects"]] == [("fork", "#123456")]


def test_protected_objects_and_approved_frames_do_not_change(app: App) -> None:
    with app.client.websocket_connect(events(app)) as socket:
        page = Page(socket)
        page.ask("prompt", frame=0, object=1, points=[[12, 14]], labels=[1])
        page.ask("describe", object=1, guarded=True)
        click = {"frame": 0, "object": 1, "points": [[40, 5]], "labels": [1]}
        for kind, fields in [("prompt", click), ("clear", {"frame": 0, "object": 1}), ("remove", {"object": 1})]:
            assert "object 1 is protected" in page.ask(kind, **fields)["error"]
        page.ask("describe", object=1, guarded=False)
        assert page.ask("approve", start=0, stop=0, locked=True)["status"]["locked"] == [[0, 0]]
        assert "frame 0 is locked" in page.ask("prompt", **click)["error"]
        assert "no object has a mask" in page.ask("approve", start=3, stop=3, locked=True)["error"]
        assert page.ask("approve", start=0, stop=5, locked=True)["status"]["locked"] == [[0, 0]]
        assert page.ask("approve", start=0, stop=0, locked=False)["status"]["locked"] == []
        assert "expected 0 to 5" in page.ask("prompt", frame=6, object=1, box=[1, 1, 5, 5])["error"]


@pytest.mark.slow
def test_what_was_done_is_there_again(clip: Path, tmp_path: Path, tiny_model: Any) -> None:
    with opened(clip, tmp_path / "work", model=tiny_model) as app, app.client.websocket_connect(events(app)) as socket:
        page = Page(socket)
        labels = page.ask("prompt", frame=2, object=1, points=[[16, 14]], labels=[1])["labels"]
        page.ask("describe", object=1, name="knife", colour="#00ff00", hidden=True)
        page.ask("view", frame=2)
    with opened(clip, tmp_path / "work", model=tiny_model) as app, app.client.websocket_connect(events(app)) as socket:
        state = Page(socket).state
        assert state["frame"] == 2
        assert state["status"]["objects"] == [
            {"id": 1, "name": "knife", "colour": "#00ff00", "hidden": True, "guarded": False}]  # fmt: skip
        runs = app.client.get(f"/api/videos/{app.video}/labels/2").content
        assert to_base64(runs) == labels


# ------------------------------------------------------------------------------------------------------------ tracking
def test_tracking_reports_progress_and_refuses_changes_meanwhile(app: App) -> None:
    with app.client.websocket_connect(events(app)) as socket, app.client.websocket_connect(events(app)) as other:
        page, watcher = Page(socket), Page(other)
        assert "no object is prompted" in page.ask("track", direction="forward", start=0)["error"]
        page.ask("prompt", frame=0, object=1, points=[[12, 14]], labels=[1])
        assert watcher.wait("status")["changed"] == [0]
        assert "error" not in page.ask("track", direction="forward", start=0, stop=4)
        refused = page.ask("prompt", frame=0, object=1, points=[[12, 15]], labels=[1])
        assert "tracking is running" in refused["error"]
        assert "tracking is running" in page.ask("track", direction="forward")["error"]
        assert "tracking is running" in page.ask("describe", object=1, name="late")["error"]
        assert "error" not in page.ask("describe", object=1, hidden=True)
        finished = page.wait("finished")
        assert (finished["frames"], finished["stopped"]) == (4, False)
        assert finished["status"]["tracked"] == [[1, 4]]
        frames = [event["frame"] for event in page.events if event["event"] == "progress" and "frame" in event]
        assert frames == [1, 2, 3, 4]
        assert watcher.wait("finished")["status"] == finished["status"]


def test_tracking_goes_on_without_a_page_and_a_new_page_catches_up(app: App) -> None:
    with app.client.websocket_connect(events(app)) as socket:
        page = Page(socket)
        page.ask("prompt", frame=0, object=1, points=[[12, 14]], labels=[1])
        page.ask("track", direction="forward", start=0)
    deadline = time.monotonic() + PATIENCE
    while True:
        with app.client.websocket_connect(events(app)) as socket:
            state = Page(socket).state
        if state["job"] is None:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert state["status"]["tracked"] == [[1, 5]]


@pytest.mark.slow
def test_stopped_tracking_keeps_what_is_done_and_goes_on(tmp_path: Path, tiny_model: Any) -> None:
    clip = write_clip(tmp_path / "clip", 25)
    with opened(clip, tmp_path / "work", model=tiny_model) as app, app.client.websocket_connect(events(app)) as socket:
        page = Page(socket)
        page.ask("prompt", frame=0, object=1, points=[[12, 14]], labels=[1])
        page.ask("track", direction="forward", start=0)
        while page.wait("progress").get("frame") is None:
            pass
        page.ask("stop")
        finished = page.wait("finished")
        assert finished["stopped"] and 0 < finished["frames"] < 24
        assert finished["status"]["tracked"] == [[1, finished["frames"]]]
        page.ask("track", direction="forward", start=0)
        rest = page.wait("finished")
        assert rest["frames"] == 24 - finished["frames"] and rest["status"]["tracked"] == [[1, 24]]


def test_two_videos_are_tracked_side_by_side(tmp_path: Path, tiny_model: Any) -> None:
    """Each has its own thread: while the first waits within a step, the second begins and ends."""
    for name in "ab":
        write_clip(tmp_path / "videos" / name, 4)
    mask = np.zeros((36, 48), bool)
    mask[8:20, 6:18] = True
    go_on = threading.Event()
    with opened(tmp_path / "videos", tmp_path / "work", model=tiny_model) as app, ExitStack() as stack:
        videos = [video for video in app.library.videos.values() if video.kind == "opened"]
        pages = []
        for video in videos:
            place = f"ws://{HOST}/api/videos/{video.id}/events"
            pages.append(Page(stack.enter_context(app.client.websocket_connect(place))))
            pages[-1].ask("setmask", frame=0, object=1, mask=drawn(mask))
        slow = app.server._open[videos[0].id]
        slow._thread.submit(go_on.wait, PATIENCE)
        pages[0].socket.send_text(json.dumps({"id": 99, "do": "track", "direction": "forward", "start": 0}))
        pages[1].ask("track", direction="forward", start=0)
        assert pages[1].wait("finished")["frames"] == 3
        go_on.set()
        assert pages[0].wait("finished")["frames"] == 3


def test_a_correction_makes_later_frames_stale(app: App) -> None:
    with app.client.websocket_connect(events(app)) as socket:
        page = Page(socket)
        page.ask("prompt", frame=0, object=1, points=[[12, 14]], labels=[1])
        page.ask("track", direction="forward", start=0)
        page.wait("finished")
        answer = page.ask("prompt", frame=3, object=1, points=[[20, 14]], labels=[1])
        assert answer["status"]["stale"] and all(start > 0 for start, _ in answer["status"]["stale"])
        page.ask("track", direction="both")
        assert page.wait("finished")["status"]["stale"] == []


def test_a_failure_of_tracking_is_told_and_survived(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    with app.client.websocket_connect(events(app)) as socket:
        page = Page(socket)
        page.ask("prompt", frame=0, object=1, points=[[12, 14]], labels=[1])

        def fail(*_: object) -> None:
            raise RuntimeError("no more memory")

        monkeypatch.setattr(Session, "_advance", fail)
        page.ask("track", direction="forward", start=0)
        assert "Tracking failed: squares: RuntimeError: no more memory" in page.wait("failed")["reason"]
        monkeypatch.undo()
        page.ask("track", direction="forward", start=0)
        assert page.wait("finished")["frames"] == 5


# -------------------------------------------------------------------------------------------------------------- export
def test_exports_are_downloaded_as_one_file(app: App) -> None:
    import zipfile

    with app.client.websocket_connect(events(app)) as socket:
        page = Page(socket)
        assert "no frame has a mask" in page.ask("export", format="coco")["error"]
        page.ask("prompt", frame=0, object=1, points=[[12, 14]], labels=[1])
        page.ask("prompt", frame=0, object=2, points=[[36, 28]], labels=[1])
        answer = page.ask("export", format="coco")
        content = app.client.get(answer["url"])
        assert content.headers["content-disposition"].startswith("attachment")
        assert len(content.json()["annotations"]) == 2
        answer = page.ask("export", format="binary")
        with zipfile.ZipFile(io.BytesIO(app.client.get(answer["url"]).content)) as archive:
            names = archive.namelist()
        assert names and all(not name.startswith("/") and ".." not in name for name in names)
        answer = page.ask("export", format="overlay", style="contour")
        assert app.client.get(answer["url"]).content[4:8] == b"ftyp"
        assert "export.style" in page.ask("export", format="overlay", style="../x")["error"]
        assert "no object" in page.ask("export", format="coco", objects=[7])["error"]


# ------------------------------------------------------------------------------------------------------------ survival
def test_five_hundred_mutated_messages_are_survived(app: App) -> None:
    chance = random.Random(1)
    answered = 0
    for batch in range(5):
        with app.client.websocket_connect(events(app)) as socket:
            page = Page(socket)
            for _ in range(100):
                text = mutated(json.dumps(chance.choice(EXAMPLES)), chance)
                socket.send_text(text)
                while "event" in page.receive():
                    pass
                answered += 1
            if batch == 4:
                page.ask("stop")
                assert page.ask("describe", object=1, hidden=False)["status"]["objects"]
    assert answered == 500
    assert app.client.get("/api/videos").status_code == 200


def test_binary_messages_and_floods_end_one_page_only(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    with app.client.websocket_connect(events(app)) as socket:
        Page(socket)
        socket.send_bytes(b"\0\1")
        assert closing_code(socket) in (1000, 1003, 1006)
    monkeypatch.setattr("cutie_geo.app.server.MESSAGE_BURST", 5.0)
    monkeypatch.setattr("cutie_geo.app.server.MESSAGES", 0.001)
    with app.client.websocket_connect(events(app)) as socket:
        Page(socket)
        for number in range(30):
            socket.send_text(json.dumps({"id": number, "do": "view", "frame": 0}))
        assert closing_code(socket) == 1008
    with app.client.websocket_connect(events(app)) as socket:
        assert Page(socket).state["frames"] == 6


def test_a_damaged_session_and_an_unknown_video_are_told(app: App) -> None:
    folder = next(iter(app.library.videos.values())).session
    folder.mkdir(parents=True)
    (folder / "session.sqlite").write_bytes(b"nonsense")
    with app.client.websocket_connect(events(app)) as socket:
        assert "cannot be read as a session" in Page(socket).state["reason"]
    with app.client.websocket_connect(f"ws://{HOST}/api/videos/unknown/events") as socket:
        assert Page(socket).state["event"] == "failed"


def test_names_of_files_are_text_on_the_page(tmp_path: Path, tiny_model: Any) -> None:
    clip = write_clip(tmp_path / "<img src=x onerror=alert(1)>", 2)
    with opened(clip, tmp_path / "work", model=tiny_model) as app:
        answer = app.client.get("/api/videos")
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["videos"][0]["name"] == "<img src=x onerror=alert(1)>"
        assert "onerror" not in app.client.get("/").text
        video = next(iter(app.library.videos.values()))
        assert "<" not in video.session.name


def test_frames_that_link_elsewhere_are_refused(tmp_path: Path, tiny_model: Any) -> None:
    secret = write_clip(tmp_path / "secret", 1)
    clip = write_clip(tmp_path / "clip", 2)
    (clip / "00002.png").symlink_to(secret / "00000.png")
    with opened(clip, tmp_path / "work", model=tiny_model) as app:
        answer = app.client.get(f"/api/videos/{app.video}/frames/2")
        assert answer.status_code == 400 and "is a link to a place outside" in answer.json()["error"]


@pytest.mark.slow
def test_videos_that_nobody_watches_are_closed(
    tmp_path: Path, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cutie_geo.app.server.MOST_OPEN", 2)
    for name in "abcd":
        write_clip(tmp_path / "videos" / name, 2)
    with opened(tmp_path / "videos", tmp_path / "work", model=tiny_model) as app:
        for video in app.library.videos.values():
            if video.kind == "opened":
                assert app.client.get(f"/api/videos/{video.id}/labels/0").status_code == 200
        assert len(app.server._open) == 2


def test_the_prompter_of_these_tests_finds_the_square(clip: Path) -> None:
    """Otherwise comparisons with it would show little."""
    import torch

    from cutie_geo.structures import Prompt

    image = cv2.cvtColor(cv2.imread(str(clip / "00000.png")), cv2.COLOR_BGR2RGB)
    prompter = ColourPrompter()
    encoded = prompter.encode(torch.from_numpy(image).permute(2, 0, 1).float() / 255)
    mask = prompter.predict(encoded, Prompt(((12.0, 14.0, 1),))).logits.numpy() > 0
    assert 0.9 < mask.sum() / 144 < 1.1


def test_servers_keep_apart(clip: Path, tmp_path: Path, tiny_model: Any) -> None:
    with (
        opened(clip, tmp_path / "a", model=tiny_model) as first,
        opened(clip, tmp_path / "b", model=tiny_model) as second,
    ):
        assert isinstance(first.server, Server)
        with first.client.websocket_connect(events(first)) as socket:
            Page(socket).ask("prompt", frame=0, object=1, points=[[12, 14]], labels=[1])
        assert not decode_runs(second.client.get(f"/api/videos/{second.video}/labels/0").content, (36, 48), "x").any()
