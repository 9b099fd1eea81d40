"""Frames of a video by index, in any order, with bounded memory."""

import hashlib
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from copy import copy
from itertools import pairwise
from pathlib import Path

import numpy as np
from av.error import FFmpegError
from jaxtyping import UInt8

from cutie_geo.data.io_threads import digest
from cutie_geo.data.video import FrameFolder, VideoFile, _require_size, _upright_rgb, _video_stream, read_image
from cutie_geo.errors import one_line

CACHE_BYTES = 256 * 2**20
"""Default size of the cache of decoded frames."""
FEWEST_CACHED = 8
"""Minimum number of cached frames, whatever their size."""
INDEXED_FORMATS = ("mov", "matroska")
"""FFmpeg formats whose packets declare exact timestamps and key frames."""


class RandomAccess:
    """Frames of a folder or a video file by index.

    A video file is decoded from the nearest key frame before a requested frame, and the last decoded frames stay in a
    cache, so that reading backwards decodes a block of frames at a time. Frames are byte for byte those of iterating
    over the source. Objects may be shared between threads.

    Args:
        source: Result of `open_source`.
        cache_bytes: Size of the cache of decoded frames, of which at least `FEWEST_CACHED` are kept.

    Raises:
        ValueError: If a video file has no frame that can be decoded.
    """

    def __init__(self, source: FrameFolder | VideoFile, cache_bytes: int = CACHE_BYTES) -> None:
        self.source = source
        self._lock = threading.RLock()
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._decoder: Generator[tuple[int, np.ndarray], None, None] | None = None
        self._next = 0
        """Index of the frame that the open decoder returns next."""
        self._wanted = 0
        """Index of the frame that is being decoded to."""
        self._index = None if isinstance(source, FrameFolder) else _index_of(source)
        names = source.names if self._index is None else tuple(f"{i:05d}" for i in range(self._index.count))
        assert names is not None, "folders know their frames"
        self.names: tuple[str, ...] = names
        """Name of each frame."""
        self.capacity = FEWEST_CACHED
        first = self.frame(0)
        self.size: tuple[int, int] = (first.shape[0], first.shape[1])
        """Height and width of the frames."""
        self.capacity = max(FEWEST_CACHED, cache_bytes // first.nbytes)
        """Maximum number of cached frames."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fps(self) -> float | None:
        """Frames per second; None for a folder."""
        return self.source.fps

    def frame(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return a frame as RGB, an array that must not be changed.

        Raises:
            ValueError: If there is no such frame, or if it is damaged.
        """
        if not 0 <= index < len(self.names):
            raise ValueError(f"{self.source.path}: no frame {index}, expected 0 to {len(self.names) - 1}")
        with self._lock:
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
            if isinstance(self.source, FrameFolder):
                path = self.source.files[self.names[index]]
                image = read_image(path)
                if index > 0:
                    _require_size(image, self.size, path)
                return self._keep(index, image)
            return self._decode_to(index)

    def backward(self) -> Iterator[tuple[str, UInt8[np.ndarray, "H W 3"]]]:
        """Yield the names and frames from the last to the first."""
        for index in range(len(self) - 1, -1, -1):
            yield self.names[index], self.frame(index)

    def close(self) -> None:
        """Close the video file and empty the cache. Later calls open it again."""
        with self._lock:
            self._stop()
            self._cache.clear()

    # ----------------------------------------------------------------------------------------------------- details
    def _keep(self, index: int, image: np.ndarray) -> np.ndarray:
        image.flags.writeable = False
        self._cache[index] = image
        self._cache.move_to_end(index)
        while len(self._cache) > self.capacity:
            self._cache.popitem(last=False)
        return image

    def _decode_to(self, index: int) -> np.ndarray:
        """Decode up to frame `index`, from where the decoder is if that is nearest, and return it."""
        assert self._index is not None, "of video files"
        start = self._index.start_of(index)
        if self._decoder is None or not start <= self._next <= index:
            self._restart(start)
        self._wanted = index
        while (found := self._advance()) is not None:
            if found[0] == index:
                return found[1]
        if self._index.exact:  # timestamps of frames are not those of packets: count from the first frame instead
            self._index = _Index([], [], self._index.count)
            return self._decode_to(index)
        raise ValueError(f"{self.source.path}: frame {index} cannot be decoded")

    def _restart(self, start: int) -> None:
        self._stop()
        assert self._index is not None and isinstance(self.source, VideoFile)
        self._decoder = _decode_from(self.source, self._index, start, self._is_kept)
        self._next = start

    def _is_kept(self, index: int) -> bool:
        """Return False for a frame that would leave the cache before the wanted frame is decoded."""
        return index > self._wanted - self.capacity

    def _advance(self) -> tuple[int, np.ndarray] | None:
        """Return the next frame of the decoder, or None at the end."""
        assert self._decoder is not None, "opened by _restart"
        try:
            index, image = next(self._decoder)
        except StopIteration:
            self._decoder = None
            return None
        except BaseException:
            self._decoder = None
            raise
        self._next = index + 1
        if not self._is_kept(index):
            return index, image
        if index > 0:
            _require_size(image, self.size, f"{self.source.path}: frame {index}")
        return index, self._keep(index, image)

    def _stop(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None


class _Index:
    """Timestamps and key frames of a video file, in the order of display."""

    def __init__(self, times: list[int], keys: list[int], count: int) -> None:
        self.times = times
        """Timestamp of each frame; empty if frames are counted from the first one."""
        self.count = count
        self.places = {time: place for place, time in enumerate(times)}
        self.keys = sorted(self.places[time] for time in keys if time in self.places)

    @property
    def exact(self) -> bool:
        return bool(self.times)

    def start_of(self, place: int) -> int:
        """Return the last key frame up to a frame."""
        return self.keys[max(bisect_right(self.keys, place) - 1, 0)] if self.keys else 0


def _index_of(video: VideoFile) -> _Index:
    """Return the index of a video file: from its packets where they are exact, else by decoding all of it."""
    times: list[int | None] = []
    keys: list[int] = []
    plain = True
    with _video_stream(video.path) as stream:
        plain = any(name in stream.container.format.name for name in INDEXED_FORMATS)
        try:
            for packet in stream.container.demux(stream):
                if packet.is_discard:
                    plain = False
                elif packet.size:
                    times.append(packet.pts)
                    if packet.is_keyframe and packet.pts is not None:
                        keys.append(packet.pts)
        except FFmpegError as error:
            raise ValueError(f"{video.path}: cannot be read near frame {len(times)}: {one_line(error)}") from error
    known = [time for time in times if time is not None]
    if plain and known and len(set(known)) == len(times) and min(known) in keys:
        return _Index(sorted(known), keys, len(times))
    return _index_by_decoding(video, keys)


def _index_by_decoding(video: VideoFile, keys: list[int]) -> _Index:
    """Return the index of a file whose packets do not declare exact timestamps."""
    times: list[int | None] = []
    with _video_stream(video.path) as stream:
        try:
            for packet in stream.container.demux(stream):
                times += [frame.pts for frame in packet.decode()]
        except FFmpegError as error:
            raise ValueError(f"{video.path}: cannot be decoded near frame {len(times)}: {one_line(error)}") from error
    if not times:
        raise ValueError(f"{video.path}: no frame in it can be decoded")
    known = [time for time in times if time is not None]
    if len(known) == len(times) and all(a < b for a, b in pairwise(known)) and known[0] in keys:
        return _Index(known, keys, len(known))
    return _Index([], [], len(times))


def _decode_from(
    video: VideoFile, index: _Index, start: int, convert: Callable[[int], bool]
) -> Generator[tuple[int, np.ndarray], None, None]:
    """Yield frames with their indices from the key frame `start` on.

    Args:
        convert: Returns False for frames that are passed over; their images are empty.
    """
    empty = np.zeros((0, 0, 3), np.uint8)
    with _video_stream(video.path) as stream:
        place = start
        try:
            if index.exact and start > 0:
                stream.container.seek(index.times[start], stream=stream, backward=True)
            for packet in stream.container.demux(stream):
                if packet.is_corrupt:
                    raise ValueError(f"{video.path}: cut off or damaged near frame {place}")
                for frame in packet.decode():
                    if index.exact:
                        found = index.places.get(frame.pts)
                        if found is None:
                            return
                        if found < start:  # before the key frame, or depends on frames before it
                            continue
                        if found != place:
                            return
                    if frame.is_corrupt:
                        raise ValueError(f"{video.path}: damaged at frame {place}")
                    yield place, _upright_rgb(frame) if convert(place) else empty
                    place += 1
        except FFmpegError as error:
            raise ValueError(f"{video.path}: cannot be decoded near frame {place}: {one_line(error)}") from error


class BackwardVideo(VideoFile):
    """A video file whose frames run from a later one to the first, decoded in blocks.

    Args:
        path: Video file.
        start: Name of the frame to begin with; None for the last one.

    Raises:
        ValueError: If the video cannot be read, or has no frame `start`.
    """

    def __init__(self, path: str | Path, start: str | None = None) -> None:
        super().__init__(path)
        self._access = RandomAccess(VideoFile(path))
        names = _up_to(self._access.names, start, self.path)
        self.names = names[::-1]
        self.frames = len(names)

    def may_hold(self, number: int) -> bool:
        return number < len(self._access)

    def __iter__(self) -> Generator[tuple[str, np.ndarray], None, None]:
        try:
            for place in range((self.frames or 0) - 1, -1, -1):
                yield self._access.names[place], self._access.frame(place)
        finally:
            self._access.close()


def backward(source: FrameFolder | VideoFile, start: str | None = None) -> FrameFolder | VideoFile:
    """Return a source whose frames run from `start` (None: the last one) back to the first.

    Frames are decoded in blocks from key frames, so memory does not grow with the length of the video.

    Raises:
        ValueError: If there is no frame `start`.
    """
    if isinstance(source, VideoFile):
        return BackwardVideo(source.path, start)
    turned = copy(source)
    turned.names = _up_to(source.names, start, source.path)[::-1]
    turned.files = {name: source.files[name] for name in turned.names}
    turned.frames = len(turned.names)
    return turned


def _up_to(names: tuple[str, ...], start: str | None, path: Path) -> tuple[str, ...]:
    """Return the frames up to `start`."""
    if start is None:
        return names
    if start not in names:
        raise ValueError(f"{path}: no frame {start}, expected {names[0]} to {names[-1]}")
    return names[: names.index(start) + 1]


def video_digest(source: FrameFolder | VideoFile) -> str:
    """Return a SHA-256 digest of a video: of the file, or of the names and contents of a folder's frames."""
    if isinstance(source, VideoFile):
        return digest(source.path)
    contents = hashlib.sha256()
    for path in source.files.values():
        contents.update(f"{path.name} {digest(path)}\n".encode(errors="surrogateescape"))
    return contents.hexdigest()
