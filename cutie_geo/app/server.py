"""The web server of the app: routes, limits, start and end."""

import asyncio
import errno
import json
import logging
import secrets
import socket
import webbrowser
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import uvicorn
from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from cutie_geo.app.images import poster
from cutie_geo.app.imports import SUFFIXES, read_import
from cutie_geo.app.library import Library, Video
from cutie_geo.app.messages import LONGEST_TEXT, BadMessage, read_command
from cutie_geo.app.security import Access, Guard, Rate, access_for, is_loopback, valid_size
from cutie_geo.app.sessions import Sessions
from cutie_geo.app.workspace import Workspace
from cutie_geo.config import require
from cutie_geo.data.session_file import FILE as SESSION_FILE
from cutie_geo.errors import one_line, reason

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
STATIC_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
MIB = 2**20
DEFAULT_MAX_UPLOAD = 2048
"""In MiB."""
MAX_IMPORT = 256 * MIB
"""Largest number of bytes of a file of masks or annotations."""
MOST_OPEN = 6
"""Videos that stay open; those that nobody watches and that do not track are closed first."""
MOST_PAGES = 32
"""WebSockets at one time."""
MESSAGES, MESSAGE_BURST = 60.0, 240.0
"""Messages per second of one page, and how many at once."""
PATIENCE = 5
"""Seconds that the server waits for requests when it stops."""
MOST_CONNECTIONS = 200
QUIET = 2.0
"""Seconds from the start to the loading of models, so that a page that is opened at once does not wait for them."""


@dataclass(frozen=True)
class AppOptions:
    """Options of `serve`."""

    source: Path | None = None
    """A video file, a folder of frames, or a folder of either; None for uploads and the example."""
    work: Path = Path("cutie_geo_app")
    """Folder for sessions, uploads and exports."""
    host: str = "127.0.0.1"
    port: int = 0
    """0 selects a free port."""
    max_upload: int = DEFAULT_MAX_UPLOAD
    """Largest size of an uploaded video, in MiB."""
    browser: bool = True
    """Open the page in the default browser."""

    def __post_init__(self) -> None:
        require(0 <= self.port <= 65535, f"--port: got {self.port}, expected 0 to 65535")
        require(self.max_upload >= 1, f"--max-upload: got {self.max_upload}, expected 1 or more (MiB)")
        require(bool(self.host.strip()), "--host: expected a name or an address")


class Server:
    """Routes over a library and its open videos."""

    def __init__(self, library: Library, sessions: Sessions, max_upload: int = DEFAULT_MAX_UPLOAD) -> None:
        self.library, self.max_upload = library, max_upload * MIB
        self._sessions = sessions
        self._open: dict[str, Workspace] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._posters: dict[str, bytes] = {}
        self._pages = 0

    def app(self, access: Access) -> Starlette:
        """Return the ASGI application, guarded by `access`."""
        video = "/api/videos/{video}"
        routes = [
            Route("/", self.index),
            Route("/static/{name}", self.static),
            Route("/api/videos", self.videos),
            Route("/api/upload", self.upload, methods=["POST"]),
            Route(f"{video}/poster", self.poster),
            Route(f"{video}/frames/{{index:int}}", self.frame),
            Route(f"{video}/thumbs/{{index:int}}", self.thumb),
            Route(f"{video}/labels/{{index:int}}", self.labels),
            Route(f"{video}/import", self.import_masks, methods=["POST"]),
            Route(f"{video}/exports/{{name}}", self.exported),
            WebSocketRoute(f"{video}/events", self.events),
        ]
        handlers: Any = {ValueError: _invalid, OSError: _invalid, HTTPException: _http_error, Exception: _failed}
        guard = Middleware(Guard, access=access)
        return Starlette(routes=routes, middleware=[guard], exception_handlers=handlers, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        loading = asyncio.create_task(self._load_models())
        yield
        loading.cancel()
        await asyncio.wait([loading])
        await asyncio.gather(*(workspace.close() for workspace in self._open.values()))
        self._open.clear()

    async def _load_models(self) -> None:
        """Load the models unless a page has loaded them already. Errors are shown on the page of a video."""
        await asyncio.sleep(QUIET)
        with suppress(Exception):
            await self._sessions.load()

    # ---------------------------------------------------------------------------------------------------------- pages
    async def index(self, _: Request) -> Response:
        """Return the page."""
        return _static_file("index.html")

    async def static(self, request: Request) -> Response:
        """Return a script, style or icon; only names of existing files are accepted."""
        return _static_file(request.path_params["name"])

    async def videos(self, _: Request) -> Response:
        """Return the list of videos."""
        first = self.library.first
        videos = [
            {
                "id": video.id,
                "name": video.name,
                "kind": video.kind,
                "started": (video.session / SESSION_FILE).is_file(),
                "tracking": video.id in self._open and self._open[video.id].busy,
            }
            for video in self.library.videos.values()
        ]
        return JSONResponse(
            {
                "videos": videos,
                "first": None if first is None else first.id,
                "max_upload": self.max_upload,
            }
        )

    # --------------------------------------------------------------------------------------------------------- videos
    def _video(self, code: str) -> Video:
        video = self.library.find(code)
        if video is None:
            raise HTTPException(404, "no such video")
        return video

    async def workspace(self, code: str) -> Workspace:
        """Return an open video, opened if necessary. Raises HTTPException 404, and ValueError if it cannot be read."""
        video = self._video(code)
        async with self._opening.setdefault(code, asyncio.Lock()):
            if code not in self._open:
                await self._close_idle()
                self._open[code] = await to_thread.run_sync(Workspace, video, self._sessions)
        return self._open[code]

    async def _close_idle(self) -> None:
        idle = [code for code, workspace in self._open.items() if not workspace.watched and not workspace.busy]
        for code in idle[: max(0, len(self._open) - MOST_OPEN + 1)]:
            await self._open.pop(code).close()

    async def poster(self, request: Request) -> Response:
        """Return the first frame, small."""
        video = self._video(request.path_params["video"])
        if video.id not in self._posters:
            self._posters[video.id] = await to_thread.run_sync(poster, video.path)
        return Response(self._posters[video.id], media_type="image/jpeg")

    async def frame(self, request: Request) -> Response:
        """Return a frame as JPEG."""
        workspace = await self.workspace(request.path_params["video"])
        index = _index(request, workspace)
        return Response(await to_thread.run_sync(workspace.images.frame, index), media_type="image/jpeg")

    async def thumb(self, request: Request) -> Response:
        """Return a thumbnail as JPEG."""
        workspace = await self.workspace(request.path_params["video"])
        data = await to_thread.run_sync(workspace.images.thumb, _index(request, workspace))
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=600"})

    async def labels(self, request: Request) -> Response:
        """Return the label map of a frame as runs."""
        workspace = await self.workspace(request.path_params["video"])
        data = await workspace.labels(_index(request, workspace))
        return Response(data, media_type="application/octet-stream")

    async def exported(self, request: Request) -> Response:
        """Return an export that was written since the program started."""
        workspace = await self.workspace(request.path_params["video"])
        path = workspace.exports.get(request.path_params["name"])
        if path is None or not path.is_file():
            raise HTTPException(404, "no such export")
        return FileResponse(path, filename=path.name, media_type="application/octet-stream")

    # -------------------------------------------------------------------------------------------------------- uploads
    async def upload(self, request: Request) -> Response:
        """Receive a video as the body of the request."""
        if not valid_size(request.headers, self.max_upload):
            return _too_large(f"more than {self.max_upload} bytes; --max-upload raises the limit")
        path = await self.library.upload(request.query_params.get("name", ""), request.stream(), self.max_upload)
        return JSONResponse({"id": self.library.add_upload(path).id})

    async def import_masks(self, request: Request) -> Response:
        """Receive masks or annotations as the body of the request."""
        if not valid_size(request.headers, MAX_IMPORT):
            return _too_large(f"more than {MAX_IMPORT} bytes")
        workspace = await self.workspace(request.path_params["video"])
        name, current = request.query_params.get("name", ""), request.query_params.get("frame", "0")
        suffix = Path(name).suffix.lower()
        require(suffix in SUFFIXES, f"{name[:80]}: expected masks (.png), COCO (.json) or CVAT (.xml)")
        require(current.isascii() and current.isdecimal() and len(current) < 10, "frame: expected a number")
        with TemporaryDirectory(prefix="cutie_geo_import_") as folder:
            path = Path(folder) / f"import{suffix}"
            size = 0
            with path.open("wb") as file:
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > MAX_IMPORT:
                        return _too_large(f"more than {MAX_IMPORT} bytes")
                    file.write(chunk)
            imported = await to_thread.run_sync(read_import, path, name, workspace.images.frames, int(current))
            frames = await workspace.import_masks(imported)
        return JSONResponse({"frames": frames})

    # --------------------------------------------------------------------------------------------------------- events
    async def events(self, socket: WebSocket) -> None:
        """Send the state and all events of a video, and answer commands."""
        if self._pages >= MOST_PAGES:
            await socket.close(1013, "too many pages")
            return
        try:
            workspace = await self.workspace(socket.path_params["video"])
        except (HTTPException, ValueError, OSError) as error:
            await socket.accept()
            await socket.send_json({"event": "failed", "reason": one_line(error), "fatal": True})
            await socket.close(1008)
            return
        await socket.accept()
        self._pages += 1
        try:
            with workspace.page() as queue:
                await self._attend(socket, workspace, queue)
        finally:
            self._pages -= 1

    async def _attend(self, socket: WebSocket, workspace: Workspace, queue: asyncio.Queue[dict[str, Any]]) -> None:
        """Serve one page until it is closed."""
        try:
            await socket.send_json(await workspace.state())
        except (ValueError, OSError) as error:
            await socket.send_json({"event": "failed", "reason": reason(error, workspace.video.name), "fatal": True})
            await socket.close(1011)
            return
        sender = asyncio.create_task(_send_events(socket, workspace, queue))
        rate = Rate(MESSAGES, MESSAGE_BURST)
        tasks: set[asyncio.Task[None]] = set()
        try:
            while True:
                text = await socket.receive_text()
                if not rate.take():
                    await socket.close(1008, "too many messages")
                    return
                answer = asyncio.create_task(self._answer(workspace, text, queue))
                tasks.add(answer)
                answer.add_done_callback(tasks.discard)
                if '"export"' not in text:  # changes one after another; an export takes long and changes nothing
                    await answer
        except KeyError:  # a binary message, which no page sends
            await socket.close(1003, "expected text")
        except (WebSocketDisconnect, RuntimeError):
            return
        finally:
            sender.cancel()
            with suppress(asyncio.CancelledError):
                await sender

    @staticmethod
    async def _answer(workspace: Workspace, text: str, queue: asyncio.Queue[dict[str, Any]]) -> None:
        """Carry out one message, and put its answer into the queue of the page."""
        number: int | None = None
        try:
            number, command = read_command(text)
            answer = await workspace.execute(command, queue)
        except BadMessage as error:
            number, answer = error.number, {"error": str(error)}
        except (ValueError, OSError, MemoryError) as error:
            answer = {"error": reason(error, workspace.video.name)}
        except Exception as error:
            log.exception("message of a page")
            answer = {"error": f"internal error: {reason(error, workspace.video.name)}"}
        queue.put_nowait({"id": number, **answer})


async def _send_events(socket: WebSocket, workspace: Workspace, queue: asyncio.Queue[dict[str, Any]]) -> None:
    """Send the items of the queue; after an overflow, send the whole state."""
    with suppress(WebSocketDisconnect, RuntimeError):
        while True:
            event = await queue.get()
            content = await workspace.state() if event.get("event") == "overflow" else event
            await socket.send_text(json.dumps(content))  # ASCII: texts of messages may hold half of a surrogate pair


# ------------------------------------------------------------------------------------------------------------- answers
def _static_file(name: str) -> Response:
    known = {path.name: path for path in STATIC.iterdir() if path.suffix in STATIC_TYPES}
    if name not in known:
        raise HTTPException(404, "no such file")
    return FileResponse(known[name], media_type=STATIC_TYPES[known[name].suffix])


def _index(request: Request, workspace: Workspace) -> int:
    index = request.path_params["index"]
    if index >= workspace.count:
        raise HTTPException(404, "no such frame")
    return index


def _too_large(text: str) -> Response:
    return JSONResponse({"error": text}, 413, {"Connection": "close"})


async def _invalid(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": reason(error, "app")}, 400)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for it"
    return JSONResponse({"error": error.detail}, error.status_code)


async def _failed(_: Request, error: Exception) -> Response:
    log.error("request failed", exc_info=error)
    return JSONResponse({"error": "internal error; the program's output has more"}, 500)


# --------------------------------------------------------------------------------------------------------------- start
def serve(options: AppOptions, sessions: Sessions, ready: Callable[[str], None]) -> None:
    """Serve the app until Ctrl-C.

    Args:
        options: what is served, and where.
        sessions: opens the sessions of videos.
        ready: called with the address once the server answers.

    Raises:
        ValueError: for a missing video, and for a host or port that cannot be used.
        KeyboardInterrupt: after Ctrl-C, once everything is saved.
    """
    library = Library(options.source, options.work)
    token = None if is_loopback(options.host) else secrets.token_urlsafe(24)
    listener = listen(options.host, options.port)
    app = Server(library, sessions, options.max_upload).app(access_for(options.host, token))
    url = address(options.host, listener.getsockname()[1], token)

    async def announce() -> None:
        ready(url)
        if options.browser:
            await to_thread.run_sync(webbrowser.open, url)

    config = uvicorn.Config(
        _after_start(app, announce),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="websockets-sansio",
        ws_max_size=LONGEST_TEXT + 4096,
        ws_per_message_deflate=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=PATIENCE,
    )
    with listener:
        _Uvicorn(config).run(sockets=[listener])


class _Uvicorn(uvicorn.Server):
    """Server that a second Ctrl-C ends at once and without a traceback; every action is on disk already."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
        super().handle_exit(sig, frame)


def _after_start(app: Starlette, announce: Callable[[], Coroutine[Any, Any, None]]) -> Any:
    """Return `app`, which calls `announce` when it has started."""

    async def started(scope: Any, receive: Any, send: Any) -> None:
        async def tell(message: Any) -> None:
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                tasks.append(asyncio.create_task(announce()))

        await app(scope, receive, tell if scope["type"] == "lifespan" else send)

    tasks: list[asyncio.Task[None]] = []
    return started


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises ValueError if the host or the port cannot be used."""
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ValueError(f"--host: got {host}, which cannot be found: {one_line(error)}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ValueError(
                f"--port: {port} on {host} is in use by another program; expected a free one, or 0 to find one"
            ) from None
        raise ValueError(f"--host {host} --port {port}: cannot listen: {one_line(error)}") from None
    return listener


def address(host: str, port: int, token: str | None) -> str:
    """Return the address to open in a browser."""
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={token}" if token is not None else "")
