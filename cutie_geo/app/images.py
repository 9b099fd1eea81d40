"""Frames as JPEG for the page, in a bounded cache."""

import threading
from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from cutie_geo.data.random_access import RandomAccess
from cutie_geo.data.video import open_source

QUALITY, THUMB_QUALITY = 90, 75
THUMB_HEIGHT, POSTER_HEIGHT = 92, 240
"""Heights in pixels of thumbnails and posters, twice those on the page for dense displays."""
CACHE_BYTES = 48 * 2**20


def jpeg(image: UInt8[np.ndarray, "H W 3"], quality: int = QUALITY) -> bytes:
    """Return an RGB image as JPEG."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"frame of shape {image.shape}: cannot be encoded as JPEG")
    return data.tobytes()


def shrunk(image: UInt8[np.ndarray, "H W 3"], height: int) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Return an image of at most `height` rows."""
    if image.shape[0] <= height:
        return image
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def poster(path: Path) -> bytes:
    """Return the first frame of a video as a small JPEG. Raises ValueError if it cannot be read."""
    _, image = next(iter(open_source(path)))
    return jpeg(shrunk(image, POSTER_HEIGHT), THUMB_QUALITY)


class FrameImages:
    """Encoded frames of a video. May be used from several threads."""

    def __init__(self, frames: RandomAccess, cache_bytes: int = CACHE_BYTES) -> None:
        self.frames, self.cache_bytes = frames, cache_bytes
        self._cache: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def frame(self, index: int) -> bytes:
        """Return a frame. Raises ValueError if there is none, or if it is damaged."""
        return self._get("frame", index)

    def thumb(self, index: int) -> bytes:
        """Return a thumbnail. Raises ValueError as `frame`."""
        return self._get("thumb", index)

    def _get(self, kind: str, index: int) -> bytes:
        key = kind, index
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        image = self.frames.frame(index)
        data = jpeg(image) if kind == "frame" else jpeg(shrunk(image, THUMB_HEIGHT), THUMB_QUALITY)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = data
                self._size += len(data)
            while self._size > self.cache_bytes and len(self._cache) > 1:
                _, old = self._cache.popitem(last=False)
                self._size -= len(old)
        return data
