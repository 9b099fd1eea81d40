"""One opened video: its session in a thread of its own, tracking, and the pages that watch it."""

import asyncio
import logging
import shutil
import time
import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from cutie_geo.app import messages
from cutie_geo.app.images import FrameImages
from cutie_geo.app.imports import Imported
from cutie_geo.app.library import Video
from cutie_geo.app.notes import MOST_OBJECTS, Notes
from cutie_geo.app.runs import decode_runs, encode_runs, from_base64, to_base64
from cutie_geo.app.sessions import NO_PROMPTER, Sessions
from cutie_geo.config import require
from cutie_geo.data.io_threads import atomic_write
from cutie_geo.data.random_access import RandomAccess
from cutie_geo.data.video import FrameFolder, open_source
from cutie_geo.errors import reason
from cutie_geo.export.masks import FORMATS
from cutie_geo.export.options import ExportOptions
from cutie_geo.runs.session import Session
from cutie_geo.structures import ObjectId

log = logging.getLogger(__name__)

T = TypeVar("T")
Event = dict[str, Any]
FRAME_BYTES = 128 * 2**20
"""Size of the cache of decoded frames for the page; the session has its own."""
SCORE_SECONDS = 0.5
"""Time between two reports of scores while tracking."""
FIRST_FRAME = 0.4
"""Seconds that a page has for its first frame before models are loaded, which slows everything else down."""
EXPORTS = "exports"
"""Folder inside a session's folder for exports."""
MOST_EVENTS = 512
"""Events that wait for a slow page; then it gets the whole state instead."""


class Busy(ValueError):
    """Tracking is running."""


@dataclass
class Job:
    """Tracking that is running."""

    direction: str
    start: int
    stop: int
    """First and last frame."""
    total: int
    """Expected number of frames; an estimate."""
    done: int = 0
    began: float = field(default_factory=time.monotonic)
    stopping: bool = False

    @property
    def seconds(self) -> float:
        """Time since tracking began."""
        return time.monotonic() - self.began

    def to_json(self) -> Event:
        """Return the progress for the page."""
        return {
            "direction": self.direction,
            "start": self.start,
            "stop": self.stop,
            "total": max(self.total, self.done),
            "done": self.done,
            "seconds": round(self.seconds, 2),
        }


class Workspace:
    """A video that is open. All methods but the constructor belong to the event loop.

    The session is used by one thread only, which runs its calls in order; tracking is one call for each frame, so that
    other calls wait for one frame at most. All computing with torch is done in this thread (see `Sessions.load`).
    """

    def __init__(self, video: Video, sessions: Sessions) -> None:
        """Open the frames. Blocks. Raises ValueError if there are none, or if some lie outside of the folder."""
        source = open_source(video.path)
        if isinstance(source, FrameFolder):
            _require_below(source)
        self.video = video
        self.images = FrameImages(RandomAccess(source, FRAME_BYTES))
        self.notes = Notes(video.session)
        self.job: Job | None = None
        self.prompter: Event = {"available": None, "reason": None}
        """Whether clicks make masks; None while the model is being loaded."""
        self._undone: int | None = None
        """Frame of the action that was undone or redone last."""
        self.exports: dict[str, Path] = {}
        """Files to download, by name."""
        self._sessions = sessions
        self._session: Session | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"session {video.id}")
        self._pages: set[asyncio.Queue[Event]] = set()
        self._task: asyncio.Task[None] | None = None
        self._warming: asyncio.Task[None] | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._wanted: int | None = None
        """Frame to prepare for clicks next."""
        self._opening = asyncio.Lock()

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.images.frames)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames."""
        return self.images.frames.size

    @property
    def busy(self) -> bool:
        """True while tracking is running."""
        return self.job is not None

    @property
    def watched(self) -> bool:
        """True while a page is open."""
        return bool(self._pages)

    # ------------------------------------------------------------------------------------------------------- session
    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function in the session's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    async def session(self) -> Session:
        """Return the session, opened on first use."""
        async with self._opening:
            if self._session is None:
                self._session = await self.run(self._sessions.open, self.video)
                self._warming = asyncio.create_task(self._warm_up())
        return self._session

    async def _warm_up(self) -> None:
        """Load the model for clicks, so that the first one is fast, and tell the pages whether there is one."""
        await asyncio.sleep(FIRST_FRAME)
        try:
            found = await self._sessions.load() is not None
            self.prompter = {"available": found, "reason": None if found else NO_PROMPTER}
        except (ValueError, OSError, MemoryError) as error:
            self.prompter = {"available": False, "reason": f"Clicks do not work: {reason(error, 'model')}"}
        except Exception as error:
            log.error("the model for clicks cannot be loaded", exc_info=error)
            self.prompter = {"available": False, "reason": f"Clicks do not work: {reason(error, 'model')}"}
        self.tell({"event": "prompter", "prompter": self.prompter})
        self._prepare(self.notes.frame)

    def _prepare(self, frame: int) -> None:
        """Encode a frame in the background, so that a click on it takes no longer than the prompt head."""
        if self.prompter["available"] and self._session is not None and self.job is None:
            self._wanted = min(frame, self.count - 1)
            if self._preparing is None or self._preparing.done():
                self._preparing = asyncio.create_task(self._prepare_wanted(self._session))

    async def _prepare_wanted(self, session: Session) -> None:
        while (frame := self._wanted) is not None:
            self._wanted = None
            try:
                await self.run(session.prepare, frame)
            except Exception as error:  # a click on the frame tells it
                log.debug("frame %d of %s can't be prepared", frame, self.video.name, exc_info=error)

    async def labels(self, index: int) -> bytes:
        """Return the label map of a frame as runs. Raises ValueError if there is no such frame."""
        self._require_frame(index)
        session = await self.session()
        return await self.run(lambda: encode_runs(session.labels(index)))

    async def state(self) -> Event:
        """Return everything that a page needs to begin."""
        session = await self.session()
        status = await self.run(self._status, session)
        height, width = self.size
        return {
            "event": "state",
            "name": self.video.name,
            "frames": self.count,
            "width": width,
            "height": height,
            "fps": self.images.frames.fps,
            "frame": min(self.notes.frame, self.count - 1),
            "formats": list(FORMATS),
            "prompter": self.prompter,
            "status": status,
            "job": None if self.job is None else self.job.to_json(),
        }

    def _status(self, session: Session) -> Event:
        """Return the status of the frames, in the session's thread."""
        status = session.status()
        frames = sorted({frame for frames in status.prompted.values() for frame in frames})
        prompts = {str(frame): _prompts(session, frame) for frame in frames}
        extra = [i for i, given in self.notes.objects.items() if given.get("listed") and i not in status.objects]
        objects = {**status.objects, **{i: self.notes.objects[i].get("name", f"object {i}") for i in extra}}
        stale = set(status.stale)
        return {
            "objects": [
                {
                    "id": i,
                    "name": name,
                    "colour": self.notes.colour(i),
                    "hidden": self.notes.flag(i, "hidden"),
                    "guarded": self.notes.flag(i, "guarded"),
                }
                for i, name in objects.items()
            ],
            "prompts": prompts,
            "locked": _ranges(status.locked),
            "tracked": _ranges(frame for frame in status.propagated if frame not in stale),
            "stale": _ranges(status.stale),
            "presence": {str(i): scores for i, scores in status.presence.items()},
        }

    # --------------------------------------------------------------------------------------------------------- pages
    @contextmanager
    def page(self) -> Iterator[asyncio.Queue[Event]]:
        """Yield the queue of events and answers of one page within the block."""
        queue: asyncio.Queue[Event] = asyncio.Queue()
        self._pages.add(queue)
        try:
            yield queue
        finally:
            self._pages.discard(queue)

    def tell(self, event: Event, but: asyncio.Queue[Event] | None = None) -> None:
        """Send an event to all pages. A page that is too slow gets the whole state instead of the missed events."""
        for queue in self._pages:
            if queue is but:
                continue
            if queue.qsize() > MOST_EVENTS:
                waiting = [queue.get_nowait() for _ in range(queue.qsize())]
                for answer in waiting:
                    if "event" not in answer:
                        queue.put_nowait(answer)
                queue.put_nowait({"event": "overflow"})
            else:
                queue.put_nowait(event)

    # ------------------------------------------------------------------------------------------------------ commands
    async def execute(self, command: messages.Command, page: asyncio.Queue[Event] | None = None) -> Event:
        """Carry out a command of a page; return its answer, and tell the other pages what changed.

        Raises:
            ValueError: for commands that the session refuses, and for changes while tracking is running.
            OSError: if a file cannot be written.
        """
        renames = isinstance(command, messages.Describe) and command.name is not None
        if (command.changes or renames) and self.job is not None:  # the session ends tracking when it is changed
            raise Busy("tracking is running; stop it before changing masks or names")
        session = await self.session()
        match command:
            case messages.Stop():
                return await self._stop()
            case messages.View():
                self.notes.show(min(command.frame, self.count - 1))
                self._prepare(command.frame)
                return {}
            case messages.Track():
                return await self._start(session, command)
            case messages.Export():  # takes long, and needs the session for a part of the time only
                return await asyncio.get_running_loop().run_in_executor(None, self._export, session, command)
        frames = await self.run(self._change, session, command)
        answer = await self._changed(session, frames, page, getattr(command, "frame", None))
        return {**answer, "at": self._undone} if isinstance(command, (messages.Undo, messages.Redo)) else answer

    async def _changed(
        self, session: Session, frames: list[int] | None, page: asyncio.Queue[Event] | None, shown: int | None
    ) -> Event:
        """Tell other pages of changed frames; return the answer for the page that asked."""
        status = await self.run(self._status, session)
        self.tell({"event": "status", "status": status, "changed": frames}, but=page)
        answer: Event = {"status": status}
        if frames is None or shown is None:
            return {**answer, "changed": frames}
        return {**answer, "frame": shown, "labels": to_base64(await self.labels(shown))}

    def _change(self, session: Session, command: messages.Command) -> list[int] | None:
        """Make one change, in the session's thread; return the frames whose masks changed, None for all."""
        match command:
            case messages.Prompt():
                self._require_open(command.frame, command.object)
                self._prompt(session, command)
                self._name(session, command.object)
                return [command.frame]
            case messages.SetMask():
                self._require_open(command.frame, command.object)
                runs = decode_runs(from_base64(command.mask, "mask"), self.size, "mask")
                session.set_mask(command.frame, command.object, runs != 0)
                self._name(session, command.object)
                return [command.frame]
            case messages.Clear():
                self._require_open(command.frame, command.object)
                session.clear(command.frame, command.object)
                return None  # without other prompts, the object disappears from all frames
            case messages.Remove():
                self._require_open(0, command.object)
                if command.object in session.objects:
                    session.remove(command.object)
                self.notes.describe(command.object, listed=False)
                return None
            case messages.Undo() | messages.Redo():
                self._step(session, isinstance(command, messages.Undo))
                return None
            case messages.Approve():
                self._approve(session, command)
                return []
            case messages.Describe():
                self._describe(session, command)
                return []
        raise AssertionError(f"{command} is not a change")

    def _prompt(self, session: Session, command: messages.Prompt) -> None:
        if self._sessions.prompter() is not None:
            points, labels = list(command.points), list(command.labels)
            session.prompt(command.frame, command.object, points, labels, command.box)
            return
        require(command.box is not None and not command.points, "clicks need a model that is not installed; use the "
                "brush, or drag a box, which is filled as a rectangle")  # fmt: skip
        assert command.box is not None
        height, width = self.size
        x0, y0, x1, y1 = (round(value) for value in command.box)
        require(x0 < x1 and y0 < y1 and x1 > 0 and y1 > 0 and x0 < width and y0 < height, "box: expected one with "
                "pixels of the frame")  # fmt: skip
        mask = session.labels(command.frame) == command.object
        mask[max(0, y0) : y1, max(0, x0) : x1] = True
        session.set_mask(command.frame, command.object, mask)

    def _require_open(self, frame: int, object_id: ObjectId) -> None:
        """Raise ValueError if a frame is not in the video, or an object is protected."""
        self._require_frame(frame)
        guarded = self.notes.flag(object_id, "guarded")
        require(not guarded, f"object {object_id} is protected; open its lock in the list before changing it")

    def _require_frame(self, frame: int) -> None:
        require(frame < self.count, f"frame: got {frame}, expected 0 to {self.count - 1}")

    def _name(self, session: Session, object_id: ObjectId) -> None:
        """Give a new object the name that it got in the list before it had a mask."""
        given = self.notes.objects.get(object_id, {})
        if given.get("pending"):
            self.notes.describe(object_id, listed=True, pending=False, auto=given["name"])
            if session.objects[object_id] != given["name"]:
                session.rename(object_id, given["name"])
        else:
            self.notes.describe(object_id, listed=True)

    def _step(self, session: Session, back: bool) -> None:
        """Undo or redo one action, together with the naming of a new object that belongs to it."""
        action = session.undo() if back else session.redo()
        require(action is not None, "nothing to undo" if back else "nothing to redo")
        assert action is not None
        object_id = int(action.get("object", 0))
        auto = self.notes.objects.get(object_id, {}).get("auto")
        if back and auto is not None and action["do"] == "rename" and action["name"] == auto:
            action = session.undo() or action
            self.notes.describe(object_id, pending=True)
        elif not back and auto is not None and object_id in session.objects and session.objects[object_id] != auto:
            session.redo()
            self.notes.describe(object_id, pending=False)
        frame = action.get("frame")
        self._undone = frame if isinstance(frame, int) else None
        for object_id in session.objects:  # a removed object that is back
            if self.notes.objects.get(object_id, {}).get("listed") is False:
                self.notes.describe(object_id, listed=True)

    def _approve(self, session: Session, command: messages.Approve) -> None:
        self._require_frame(command.stop)
        for frame in range(command.start, command.stop + 1):
            if not command.locked:
                session.unlock(frame)
            elif command.start == command.stop or session.labels(frame).any():
                session.lock(frame)

    def _describe(self, session: Session, command: messages.Describe) -> None:
        known = command.object in session.objects
        if command.name is not None and known and session.objects[command.object] != command.name.strip():
            session.rename(command.object, command.name.strip())
        name = None if command.name is None else command.name.strip()
        self.notes.describe(
            command.object,
            listed=True,
            name=name,
            pending=None if name is None else not known,
            colour=command.colour,
            hidden=command.hidden,
            guarded=command.guarded,
        )
        require(len(self.notes.objects) <= MOST_OBJECTS, f"got more than {MOST_OBJECTS} objects")

    async def import_masks(self, imported: Imported) -> int:
        """Set all masks of a checked file; return the number of frames."""
        if self.job is not None:
            raise Busy("tracking is running; stop it before importing masks")
        session = await self.session()

        def set_all() -> None:
            for index, labels, ids in imported.masks():
                for object_id in ids:
                    session.set_mask(index, object_id, labels == object_id)
            for object_id, name in imported.names.items():
                if object_id in session.objects and session.objects[object_id] != name:
                    session.rename(object_id, name)

        try:
            await self.run(set_all)
        finally:
            status = await self.run(self._status, session)
            self.tell({"event": "status", "status": status, "changed": None})
        return len(imported.frames)

    # ------------------------------------------------------------------------------------------------------ tracking
    async def _start(self, session: Session, command: messages.Track) -> Event:
        """Start tracking, which continues even if all pages are closed."""
        start, stop = command.start or 0, self.count - 1 if command.stop is None else command.stop
        self._require_frame(stop)
        require(start <= stop, f"stop: got {stop}, expected {start} or more")
        steps = await self.run(session.propagate, start, stop + 1, command.direction)
        if self.job is not None:  # another page was faster
            steps.close()
            raise Busy("tracking is running already")
        done = await self.run(self._finished_frames, session, start, stop)
        self.job = Job(command.direction, start, stop, max(1, stop + 1 - start - done))
        self.tell({"event": "progress", "job": self.job.to_json()})
        self._task = asyncio.create_task(self._track(session, steps, self.job))
        return {}

    @staticmethod
    def _finished_frames(session: Session, start: int, stop: int) -> int:
        """Return how many frames of a range need no tracking, as far as that is known."""
        status = session.status()
        given = {frame for frames in status.prompted.values() for frame in frames}
        fresh = (set(status.propagated) - set(status.stale) - set(status.missing)) | given | set(status.locked)
        return sum(start <= frame <= stop for frame in fresh)

    async def _track(self, session: Session, steps: Generator[tuple[int, Any], None, None], job: Job) -> None:
        """Track to the end, or until a page stops it. Tracked frames are kept in every case."""
        event: Event = {"event": "finished"}
        waiting: list[int] = []
        reported = 0.0
        try:
            while not job.stopping:
                step: Any = await self.run(next, steps, None)
                if step is None:
                    break
                job.done += 1
                waiting.append(step[0])
                scores: Event = {}
                if time.monotonic() > reported + SCORE_SECONDS:  # all scores are read at once, which takes time
                    scores = await self.run(self._scores, session, waiting)
                    waiting, reported = [], time.monotonic()
                self.tell({"event": "progress", "job": job.to_json(), "frame": step[0], "scores": scores})
        except Exception as error:
            log.error("tracking of %s failed", self.video.name, exc_info=error)
            event = {"event": "failed", "reason": f"Tracking failed: {reason(error, self.video.name)}"}
        finally:
            with suppress(Exception):
                await self.run(steps.close)
            self.job = None
        status = await self.run(self._status, session)
        ended = {"stopped": job.stopping, "frames": job.done, "seconds": round(job.seconds, 2)}
        self.tell({**event, **ended, "status": status, "changed": None})
        self._prepare(self.notes.frame)

    @staticmethod
    def _scores(session: Session, frames: list[int]) -> Event:
        """Return the presence on frames, by object and frame."""
        presence = session.status().presence
        return {str(i): {str(frame): scores[frame] for frame in frames} for i, scores in presence.items()}

    async def _stop(self) -> Event:
        """Stop tracking after the current frame."""
        if self.job is not None:
            self.job.stopping = True
        if self._task is not None:
            await asyncio.wait([self._task])
        return {}

    # -------------------------------------------------------------------------------------------------------- export
    def _export(self, session: Session, command: messages.Export) -> Event:
        """Write an export into a new folder; return where it can be downloaded."""
        options = ExportOptions(
            objects=command.objects,
            shapes=command.shapes,
            style=command.style,
            ids=command.ids,
            effect=command.effect,
            trails=command.trails,
            container=command.container,
        )
        folder = self.video.session / EXPORTS / command.format
        if folder.exists():
            shutil.rmtree(folder)
        files = session.export(folder, command.format, options)
        if len(files) == 1:
            path = files[0]
        else:
            path = folder.with_suffix(".zip")
            with atomic_write(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
                for file in sorted(p for p in folder.rglob("*") if p.is_file()):
                    archive.write(file, Path(command.format) / file.relative_to(folder))
        self.exports[path.name] = path
        url = f"/api/videos/{self.video.id}/exports/{quote(path.name)}"
        return {"files": len(files), "folder": str(folder.resolve()), "url": url, "name": path.name}

    # ----------------------------------------------------------------------------------------------------------- end
    async def close(self) -> None:
        """Stop tracking, save, and close everything."""
        await self._stop()
        if self._warming is not None:
            await asyncio.wait([self._warming])
        self._wanted = None
        if self._preparing is not None:
            await asyncio.wait([self._preparing])
        if self._session is not None:
            session, self._session = self._session, None
            await self.run(session.save)
            await self.run(session.close)
        self._thread.shutdown(wait=False)
        self.images.frames.close()


def _prompts(session: Session, frame: int) -> Event:
    """Return the prompts on a frame by object."""
    return {
        str(i): {
            "points": [[x, y] for x, y, _ in prompt.points],
            "labels": [label for *_, label in prompt.points],
            "box": prompt.box,
        }
        for i, prompt in session.prompts(frame).items()
    }


def _ranges(frames: Iterable[int]) -> list[list[int]]:
    """Return ascending frames as ranges with both ends."""
    found: list[list[int]] = []
    for frame in frames:
        if found and found[-1][1] == frame - 1:
            found[-1][1] = frame
        else:
            found.append([frame, frame])
    return found


def _require_below(source: FrameFolder) -> None:
    """Raise ValueError if a frame is a link to a place outside of its folder."""
    root = source.path.resolve()
    for path in source.files.values():
        if path.is_symlink():
            require(path.resolve().is_relative_to(root), f"{path}: is a link to a place outside of {source.path}")
