"""Sources besides files and folders: lists of images, cameras, URLs, standard input, and frames in memory."""

import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit, urlunsplit

import av
import cv2
from av.error import ExitError, FFmpegError, InvalidDataError

from cutie_geo.config import require
from cutie_geo.data.frames import image_pixels
from cutie_geo.data.io_threads import require_regular
from cutie_geo.data.listing import IMAGE_SUFFIXES, natural_key
from cutie_geo.data.video import (
    DEFAULT_FPS,
    FrameFolder,
    NamedImages,
    VideoFile,
    _decode,
    _require_size,
    _upright_rgb,
    open_source,
    require_single,
)
from cutie_geo.errors import one_line
from cutie_geo.limits import require_pixels

STDIN = "-"
"""Address of standard input."""
SCHEMES = ("rtsp", "rtsps", "http", "https")
"""Schemes of URLs."""
PROTOCOLS = "http,https,httpproxy,tcp,udp,tls,crypto,rtp,srtp,rtsp,rtsps,data"
"""Protocols that FFmpeg may open for a URL, so that a playlist cannot name a local file."""
OPEN_SECONDS, READ_SECONDS = 10.0, 15.0
"""Time to wait for a connection and for its next packet."""
GLOB = re.compile(r"[*?\[]")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_RAW = re.compile(r"(\d{1,5})x(\d{1,5})(?:,([a-z0-9_]+))?(?:,(\d+(?:\.\d+)?))?")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@runtime_checkable
class Source(Protocol):
    """Protocol of the sources that a `VideoRecord` reads instead of a file or folder."""

    @property
    def name(self) -> str:
        """Name of the folder of results."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """Files of the frames; empty for a source that can be read only once."""
        ...

    def open(self, workers: int = 0) -> FrameFolder | VideoFile:
        """Open the source. Raises ValueError if that fails."""
        ...


# ------------------------------------------------------------------------------------------------------- addresses
@dataclass(frozen=True)
class RawFormat:
    """Format of raw frames on standard input."""

    width: int
    height: int
    pixels: str = "rgb24"
    """FFmpeg's name of the pixel format, such as rgb24, bgr24, gray or yuv420p."""
    fps: float = DEFAULT_FPS

    @classmethod
    def parse(cls, text: str) -> "RawFormat":
        """Read `WIDTHxHEIGHT[,PIXELS[,FPS]]`. Raises ValueError for other text."""
        match = _RAW.fullmatch(text)
        require(match is not None, f"--raw: got {text!r}, expected WIDTHxHEIGHT[,PIXELS[,FPS]], such as 640x480,bgr24")
        assert match is not None
        raw = cls(int(match[1]), int(match[2]), match[3] or "rgb24", float(match[4] or DEFAULT_FPS))
        require(raw.width > 0 and raw.height > 0 and raw.fps > 0, f"--raw: got {text}, expected positive numbers")
        require_pixels(raw.width, raw.height)
        try:
            av.VideoFormat(raw.pixels)
        except ValueError:
            raise ValueError(f"--raw: got {raw.pixels}, expected a pixel format such as rgb24, bgr24, gray or "
                             "yuv420p") from None  # fmt: skip
        return raw


@dataclass(frozen=True)
class StreamAddress:
    """Address of a video that is read once, in order."""

    text: str
    """A camera's number, a URL, or `-` for standard input."""
    raw: RawFormat | None = None
    """Format of raw frames on standard input. None: a container."""

    @property
    def is_camera(self) -> bool:
        return self.text.isdecimal()

    @property
    def is_endless(self) -> bool:
        """True for cameras and RTSP, which are live without being asked."""
        return self.is_camera or self.text.lower().startswith("rtsp")

    @property
    def reconnects(self) -> bool:
        """True if the source can be opened again after it was lost."""
        return self.text != STDIN

    @property
    def name(self) -> str:
        if self.is_camera:
            return f"camera{self.text}"
        if self.text == STDIN:
            return "stdin"
        parts = urlsplit(self.text)
        last = parts.path.rstrip("/").rpartition("/")[2]
        return _UNSAFE.sub("_", Path(last).stem).strip("._") or _UNSAFE.sub("_", parts.hostname or "") or "stream"

    @property
    def files(self) -> tuple[Path, ...]:
        return ()

    def __str__(self) -> str:
        if self.is_camera:
            return f"camera {self.text}"
        return "standard input" if self.text == STDIN else without_secrets(self.text)

    def open(self, workers: int = 0) -> VideoFile:
        if self.is_camera:
            return Camera(self)
        return StreamedVideo(self)


def parse_source(text: str, raw: str | None = None) -> Path | StreamAddress:
    """Parse a source on the command line to a path or the address of a stream.

    Args:
        text: a path, a camera's number, a URL, or `-` for standard input. A file named like a number is a file.
        raw: format of raw frames on standard input.

    Raises:
        ValueError: for an empty text, for URLs of other schemes, and for `raw` without standard input.
    """
    require(bool(text), "source: got an empty text, expected a path, a camera's number or a URL")
    require(raw is None or text == STDIN, f"--raw: got {raw} for {without_secrets(text)}, expected - (standard input)")
    if text == STDIN:
        return StreamAddress(text, None if raw is None else RawFormat.parse(raw))
    if text.isascii() and text.isdecimal() and len(text) <= 3 and not Path(text).exists():
        return StreamAddress(text)
    if _URL.match(text):
        scheme = text.partition("://")[0].lower()
        require(scheme in SCHEMES, f"{without_secrets(text)}: got {scheme}://, expected {', '.join(SCHEMES)}")
        require(bool(urlsplit(text).hostname), f"{without_secrets(text)}: got no host, expected {scheme}://HOST/PATH")
        return StreamAddress(text)
    return Path(text)


def without_secrets(text: str) -> str:
    """Return a URL without its password and query; other text unchanged."""
    if not _URL.match(text):
        return text
    try:
        parts = urlsplit(text)
    except ValueError:
        return text.partition("://")[0] + "://***"
    host = parts.netloc.rpartition("@")[2]
    netloc = f"***@{host}" if "@" in parts.netloc else host
    return urlunsplit((parts.scheme, netloc, parts.path, "***" if parts.query else "", ""))


def expand(pattern: Path) -> list[Path]:
    """Return the files and folders that a glob matches, in natural order.

    Raises:
        ValueError: if there are none.
    """
    plain = Path(pattern.anchor)
    parts = [part for part in pattern.parts if part != pattern.anchor]
    try:
        found = [path for path in plain.glob(str(Path(*parts))) if not path.name.startswith(".")]
    except (ValueError, NotImplementedError) as error:
        raise ValueError(f"{pattern}: cannot be read as a pattern: {one_line(error)}") from None
    require(bool(found), f"{pattern}: no such file or folder, and no match as a pattern")
    return sorted(found, key=lambda path: natural_key(str(path)))


def is_pattern(path: Path) -> bool:
    """Return True for a path with glob characters that is not itself a file or folder."""
    return bool(GLOB.search(str(path))) and not path.exists()


# ---------------------------------------------------------------------------------------------------------- images
@dataclass(frozen=True)
class ImageFiles:
    """Image files as the frames of one video, in the given order; their stems are the frames' names.

    Raises:
        ValueError: for missing files, for two files of one stem, and for one file with several images.
    """

    files: tuple[Path, ...]

    def __post_init__(self) -> None:
        for path in self.files:
            require(path.is_file(), f"{path}: no such file, expected an image")
            require_regular(path)
        if len(self.files) == 1:
            require_single(self.files[0])
        stems = [path.stem for path in self.files]
        twice = next((stem for stem in stems if stems.count(stem) > 1), None) if len(set(stems)) < len(stems) else None
        require(twice is None, f"images: two files for frame {twice}, expected different names")

    @property
    def name(self) -> str:
        parent = self.files[0].absolute().parent
        return parent.name or "video"

    def open(self, workers: int = 0) -> FrameFolder:
        return ImageList(self.files, workers)


class ImageList(FrameFolder):
    """A list of images as a video; see `FrameFolder`."""

    def __init__(self, files: Sequence[Path], workers: int = 0) -> None:
        self.path, self.name, self.workers = files[0].parent, ImageFiles(tuple(files)).name, workers
        self.files = {path.stem: path for path in files}
        self.names = tuple(self.files)
        self.frames = len(self.names)


def are_images(paths: Sequence[Path]) -> bool:
    """Return True if all paths are images, and False if none is.

    Raises:
        ValueError: if only some are.
    """
    images = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()]
    others = [path for path in paths if path not in images]
    if images and others:
        raise ValueError(f"{others[0]}: listed with the image {images[0]}, expected the images of one video, or videos")
    return bool(images)


# --------------------------------------------------------------------------------------------------------- streams
class NumberedVideo(VideoFile):
    """A video that is read once and is not a file; frame names count from 00000."""

    path: Any
    """Address, as messages show it."""

    def __init__(self, path: object, name: str, fps: float) -> None:
        self.path, self.name, self.fps, self.frames = path, name, fps, None

    def may_hold(self, number: int) -> bool:
        return True


class MemoryFrames(NumberedVideo):
    """Any iterable of frames in memory as a video; each frame is read as `image_pixels` does.

    Raises:
        ValueError: while iterating, with the frame's number, for items that are no frames or have another size.
    """

    files: tuple[Path, ...] = ()

    def __init__(self, frames: Iterable[Any], color: str = "rgb", name: str = "video") -> None:
        super().__init__("frames", name, DEFAULT_FPS)
        require(color in ("rgb", "bgr"), f"color: got {color!r}, expected 'rgb' or 'bgr'")
        self._frames, self.color = frames, color

    def open(self, workers: int = 0) -> "MemoryFrames":
        return self

    def __iter__(self) -> NamedImages:
        size = None
        for index, frame in enumerate(self._frames):
            try:
                image = image_pixels(frame, self.color)
            except ValueError as error:
                raise ValueError(f"frame {index}: {error}") from None
            size = size or image.shape[:2]
            _require_size(image, size, f"frame {index}")
            yield f"{index:05d}", image


class StreamedVideo(NumberedVideo):
    """A video behind a URL or on standard input, decoded while it is read.

    Raises:
        ValueError: when constructed, if it cannot be opened; while iterating, for damage or a change of the frame size.
    """

    def __init__(self, address: StreamAddress) -> None:
        self.address = address
        self._container: Any = _open_container(address)  # opened once: standard input has no second time
        try:
            require(bool(self._container.streams.video), f"{address}: no video stream")
            stream = self._container.streams.video[0]
            require_pixels(stream.codec_context.width, stream.codec_context.height)
        except ValueError:
            self._container.close()
            raise
        rate = stream.average_rate or stream.guessed_rate
        super().__init__(address, address.name, float(rate or DEFAULT_FPS))
        self.frames = stream.frames or None
        # a file on a server has a length; a stream over HTTP or RTSP ends when the connection does
        self.declares_end = not address.is_endless and (
            address.text == STDIN or self._container.duration is not None or stream.duration is not None
        )

    @contextmanager
    def _stream(self) -> Iterator[Any]:
        """Open the video stream within the block; a URL may be opened again."""
        container, self._container = self._container, None
        if container is None:
            require(self.address.text != STDIN, f"{self.address}: can be read only once")
            container = _open_container(self.address)
        with closing(container):
            stream = container.streams.video[0]
            if not self.address.is_endless:  # threads of frames would add to the latency
                stream.thread_type = "AUTO"
            yield stream

    def __iter__(self) -> NamedImages:
        size = None
        with self._stream() as stream:
            images = _decode_on(stream, self.path) if self.address.is_endless else _decode(stream, self.path)
            with _stalls(self.path):
                for index, image in enumerate(images):
                    size = size or image.shape[:2]
                    _require_size(image, size, f"{self.path}: frame {index}")
                    yield f"{index:05d}", image


@contextmanager
def _stalls(path: object) -> Iterator[None]:
    """Name the reason if reading within the block ended because no data came."""
    try:
        yield
    except ValueError as error:
        if isinstance(error.__cause__, ExitError):
            raise ValueError(f"{path}: no data within {READ_SECONDS:g} s") from error
        raise


def _open_container(address: StreamAddress) -> Any:
    """Open a URL or standard input with FFmpeg. Raises ValueError if that fails."""
    options: dict[str, str] = {"protocol_whitelist": PROTOCOLS}
    started = time.monotonic()
    try:
        if address.text != STDIN:
            if address.text.lower().startswith("rtsp"):
                options |= {"rtsp_transport": "tcp"}  # UDP loses packets
            return av.open(address.text, options=options, timeout=(OPEN_SECONDS, READ_SECONDS))
        require(not sys.stdin.isatty(), "standard input: got a terminal, expected a video through a pipe")
        raw, options = address.raw, {"protocol_whitelist": "data"}
        if raw is None:
            return av.open(sys.stdin.buffer, options=options)
        size = {"video_size": f"{raw.width}x{raw.height}", "pixel_format": raw.pixels, "framerate": f"{raw.fps:g}"}
        return av.open(sys.stdin.buffer, format="rawvideo", options=options | size)
    except (FFmpegError, OSError, UnicodeError) as error:
        silent = address.text != STDIN and time.monotonic() - started >= OPEN_SECONDS
        reason = f"no answer within {OPEN_SECONDS:g} s" if silent else one_line(error)
        raise ValueError(f"{address}: cannot be opened as a video: {reason}") from error


def _decode_on(stream: Any, path: object) -> Iterator[Any]:
    """Yield the frames of an endless stream as RGB, without the damaged ones. Raises ValueError if it is lost."""
    try:
        for packet in stream.container.demux(stream):
            try:
                frames = packet.decode()
            except InvalidDataError:  # a lost packet; the stream continues
                continue
            yield from (_upright_rgb(frame) for frame in frames if not frame.is_corrupt)
    except FFmpegError as error:
        raise ValueError(f"{path}: {one_line(error)}") from error


class Camera(NumberedVideo):
    """A camera of this computer, through OpenCV.

    Raises:
        ValueError: when constructed, if there is no such camera; while iterating, if it is lost.
    """

    def __init__(self, address: StreamAddress) -> None:
        self.number, self.declares_end = int(address.text), False
        self._capture: Any = self._opened(address)
        super().__init__(address, address.name, self._capture.get(cv2.CAP_PROP_FPS) or DEFAULT_FPS)

    def _opened(self, address: StreamAddress) -> Any:
        with _silent_opencv():
            capture = cv2.VideoCapture(self.number)
            if not capture.isOpened():
                raise ValueError(f"{address}: cannot be opened; no such camera, or another program uses it")
        return capture

    def __iter__(self) -> NamedImages:
        capture, self._capture = self._capture or self._opened(self.path), None
        size = None
        try:
            for index in count():
                good, image = capture.read()
                if not good:
                    raise ValueError(f"{self.path}: no more frames after {index}")
                size = size or image.shape[:2]
                _require_size(image, size, f"{self.path}: frame {index}")
                yield f"{index:05d}", image_pixels(image, "bgr")
        finally:
            capture.release()


@contextmanager
def _silent_opencv() -> Iterator[None]:
    """Keep OpenCV's own warnings from standard error within the block."""
    log: Any = cv2.utils.logging
    level = log.getLogLevel()
    log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        log.setLogLevel(level)


def open_any(
    path: Path, source: Source | None, workers: int = 0, masks: Iterable[Path] = ()
) -> FrameFolder | VideoFile:
    """Open `source`, or the file or folder `path` if it is None; see `open_source`."""
    return open_source(path, workers, masks) if source is None else source.open(workers)
