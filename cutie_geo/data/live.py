"""Videos without an end: a thread reads into a bounded queue, drops frames if asked, and connects again."""

import logging
import math
import threading
import time
from array import array
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cutie_geo.config import require
from cutie_geo.data.sources import NumberedVideo, Source
from cutie_geo.data.video import FrameFolder, NamedImages, VideoFile

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
"""Interval at which waiting threads look for a request to stop."""
FIRST_RETRY, LONGEST_RETRY = 0.5, 5.0
"""Seconds between two attempts to connect; doubled up to the second."""
JOIN_SECONDS = 1.0
"""Seconds to wait for the reading thread at the end; it may be blocked by the network."""
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class LiveOptions:
    """Options of a live source.

    Raises:
        ValueError: For invalid values.
    """

    drop_frames: bool = False
    """Drop the oldest waiting frame when the queue is full, instead of making the source wait."""
    queue: int = 4
    """Maximum number of frames that wait."""
    reconnect: float = 30.0
    """Seconds for which a lost camera or URL is tried again; 0 ends there."""

    def __post_init__(self) -> None:
        require(self.queue >= 1, f"--queue: got {self.queue}, expected 1 or more")
        good = math.isfinite(self.reconnect) and self.reconnect >= 0
        require(good, f"--reconnect: got {self.reconnect}, expected 0 or more seconds")


class _Waiting(NamedTuple):
    """Frame in the queue."""

    name: str
    image: np.ndarray
    arrived: float


class LiveVideo(NumberedVideo):
    """A live video over a camera, a URL, standard input, frames in memory, or a file, which plays at its own rate.

    Frames are numbered as they arrive, so a gap in their names is a dropped frame.

    Raises:
        ValueError: when constructed, for a folder; while iterating, for errors of the source, after the frames before
            them. A camera or URL that is lost and does not come back ends the video with a warning.
    """

    def __init__(
        self,
        source: FrameFolder | VideoFile,
        options: LiveOptions,
        reader: Source | None = None,
        kept: Collection[str] = (),
        stop: threading.Event | None = None,
    ) -> None:
        """Prepare a live video; reading starts with the iteration.

        Args:
            source: opened source.
            options: queue, dropping and reconnection.
            reader: opens the source again when it is lost. None, or a source that is no camera or URL: never.
            kept: names of frames that are never dropped, besides the first: those with masks or prompts.
            stop: ends the video after the frames that wait.
        """
        if isinstance(source, FrameFolder):
            raise ValueError(f"--live: got the images {source.path}, expected a camera, a stream or a video file")
        super().__init__(source.path, source.name, source.fps)
        self.options, self.stop = options, stop or threading.Event()
        self._source, self._reader = source, reader if getattr(reader, "reconnects", False) else None
        self._paced = type(source) is VideoFile
        self._kept = {"00000", *kept}
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._ended, self._failure = False, None
        self._size: tuple[int, ...] | None = None
        self._arrivals: dict[str, float] = {}
        self.latencies = array("d")
        """Seconds from the arrival of each frame to the call of `finished`."""
        self.captured = self.dropped = self.reconnections = self.longest = 0
        self.lost: str | None = None
        """How the stream was lost for good."""

    def __iter__(self) -> NamedImages:
        thread = threading.Thread(target=self._capture, name="live", daemon=True)
        thread.start()
        try:
            while (frame := self._next()) is not None:
                self._arrivals[frame.name] = frame.arrived
                yield frame.name, frame.image
        finally:
            self.stop.set()
            thread.join(JOIN_SECONDS)
        if self._failure is not None:
            raise self._failure

    def finished(self, name: str) -> float:
        """Record that the result of a frame is there; return its latency in seconds."""
        latency = time.monotonic() - self._arrivals.pop(name)
        self.latencies.append(latency)
        return latency

    def report(self) -> dict[str, Any]:
        """Return counts and latencies, for the report of the video."""
        values = np.percentile(self.latencies, PERCENTILES).tolist() if self.latencies else [None] * len(PERCENTILES)
        return {
            "captured": self.captured,
            "dropped": self.dropped,
            "reconnections": self.reconnections,
            "lost": self.lost,
            "queue": {"size": self.options.queue, "longest": self.longest},
            "latency_seconds": {f"p{p}": v if v is None else round(v, 4) for p, v in zip(PERCENTILES, values)},
        }

    # ----------------------------------------------------------------------------------------------- its two threads
    def _next(self) -> _Waiting | None:
        """Return the next waiting frame; None at the end."""
        with self._changed:
            while not self._queue:
                if self._ended or self.stop.is_set():
                    return None
                self._changed.wait(POLL_SECONDS)
            frame = self._queue.popleft()
            self._changed.notify_all()
            return frame

    def _capture(self) -> None:
        """Read until the end, or until a lost source stays lost."""
        failure: BaseException | None = None
        try:
            source, deadline, seen = self._source, 0.0, -1
            while source is not None:
                failure = self._read(source)
                # what has an end, such as a file on a server, would begin again
                if self.stop.is_set() or self._reader is None or source.declares_end:
                    break
                if self.captured > seen:  # a source that opens but has no frames does not start the time again
                    deadline, seen = time.monotonic() + self.options.reconnect, self.captured
                source, failure = self._reconnected(self._reader, deadline, failure), None
        except _SizeChanged as error:
            failure = ValueError(str(error))
        except BaseException as error:  # raised again in the consumer
            failure = error
        with self._changed:
            self._ended, self._failure = True, failure
            self._changed.notify_all()

    def _read(self, source: VideoFile) -> Exception | None:
        """Queue the frames of a source until it ends; return its error, if any."""
        images = iter(source)
        start = time.monotonic()
        try:
            for index, (_, image) in enumerate(images):
                if self._paced:
                    self.stop.wait(max(0.0, start + index / self.fps - time.monotonic()))
                if self.stop.is_set():
                    return None
                self._put(image)
        except ValueError as error:
            return error
        finally:
            images.close()
        return None

    def _put(self, image: np.ndarray) -> None:
        """Queue a frame. Wait for a free place, or make one by dropping the oldest frame that may be dropped."""
        self._size = self._size or image.shape[:2]
        if image.shape[:2] != self._size:  # after a reconnection
            raise _SizeChanged(
                f"{self.path}: the stream came back as (H, W) = {image.shape[:2]}, expected {self._size}"
            )
        frame = _Waiting(f"{self.captured:05d}", image, time.monotonic())
        with self._changed:
            self.captured += 1
            while len(self._queue) >= self.options.queue and not self.stop.is_set():
                oldest = next((i for i, waiting in enumerate(self._queue) if waiting.name not in self._kept), None)
                if self.options.drop_frames and oldest is not None:
                    del self._queue[oldest]
                    self.dropped += 1
                elif self.options.drop_frames and frame.name not in self._kept:
                    self.dropped += 1
                    return
                else:
                    self._changed.wait(POLL_SECONDS)
            self._queue.append(frame)
            self.longest = max(self.longest, len(self._queue))
            self._changed.notify_all()

    def _reconnected(self, reader: Source, deadline: float, failure: Exception | None) -> VideoFile | None:
        """Open a lost source again; return None if it stays lost until `deadline` or a request to stop."""
        where, pause = f"{self.path}: lost after {self.captured} frames", FIRST_RETRY
        text = f" ({str(failure).removeprefix(f'{self.path}: ')})" if failure is not None else ""
        if time.monotonic() < deadline:
            log.warning("%s%s; connecting again", where, text)
        while time.monotonic() < deadline and not self.stop.wait(pause):
            try:
                source = reader.open()
            except ValueError:
                pause = min(2 * pause, LONGEST_RETRY, max(0.0, deadline - time.monotonic()))
                continue
            assert isinstance(source, VideoFile), "cameras and URLs are"
            self.reconnections += 1
            return source
        if not self.stop.is_set():
            self.lost = f"{where}{text}, not back within {self.options.reconnect:g} s"
            log.warning("%s; the results end there", self.lost)
        return None


class _SizeChanged(Exception):
    """Error that ends a live video, although its source can be opened again."""
