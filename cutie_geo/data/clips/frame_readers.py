"""Readers of single frames for clips: files on disk and rendered scenes."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Integer

from cutie_geo.data.clips.warp import Distance, Image, Labels
from cutie_geo.data.images import open_image
from cutie_geo.data.index import LabelledVideo
from cutie_geo.data.masks import OBJECT_GREY, object_ids, read_labels
from cutie_geo.data.render import SceneConfig
from cutie_geo.data.render.scene import RenderedFrame, build_scene
from cutie_geo.data.video import read_image
from cutie_geo.structures import VOID, ObjectId

R = TypeVar("R")


class UnusableFile(ValueError):
    """A file that cannot be read or does not fit the others of its video; the text has file and reason."""


@runtime_checkable
class Footage(Protocol):
    """A video with a mask for every frame."""

    @property
    def frames(self) -> int:
        """Number of frames."""
        ...

    def shows_object(self, time: int) -> bool:
        """Return True if frame `time` shows an object."""
        ...

    def labels(self, time: int) -> Labels:
        """Return the mask of frame `time`; ids are consistent over all frames."""
        ...

    def image(self, time: int) -> Image:
        """Return frame `time`, with the size of its mask."""
        ...

    def distance(self, time: int) -> Distance | None:
        """Return the distance map of frame `time`, or None if it is unknown."""
        ...

    def require_fit(self, labels: Labels, time: int) -> None:
        """Raise UnusableFile unless the mask of frame `time` has the size of earlier frames."""
        ...

    def describe(self, times: list[int]) -> str:
        """Describe the frames so that they can be identified."""
        ...


class DecodedCache:
    """Least-recently-used cache of decoded images and masks with `capacity` bytes. Its arrays are read-only."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.size = capacity, 0
        self._kept: OrderedDict[tuple[object, ...], tuple[np.ndarray, ...]] = OrderedDict()

    def fetch(
        self, form: object, paths: tuple[Path, ...], read: Callable[[], tuple[np.ndarray, ...]]
    ) -> tuple[np.ndarray, ...]:
        """Return `read()`, the arrays of the files `paths` in the form `form`, from the cache if possible.

        A file that has changed since is read again.
        """
        try:
            states = [path.stat() for path in paths]
        except OSError:
            return read()
        key = (form, *paths, *((state.st_mtime_ns, state.st_size) for state in states))
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        arrays = read()
        for array in arrays:
            array.flags.writeable = False
        self._kept[key] = arrays
        self.size += _bytes(arrays)
        while self.size > self.capacity:
            self.size -= _bytes(self._kept.popitem(last=False)[1])
        return arrays


def _bytes(arrays: tuple[np.ndarray, ...]) -> int:
    return sum(array.nbytes for array in arrays)


CACHE = DecodedCache(512 << 20)
"""Cache of this process: small data sets are decoded once; large ones gain nothing."""


# --------------------------------------------------------------------------------------------------------------- files
class FileFootage:
    """The frames with masks of a labelled video. Raises UnusableFile if they cannot be read or do not fit.

    Ids are renumbered from 1 in order of appearance to fit in few bits.
    """

    def __init__(self, video: LabelledVideo, name: str, shows: dict[Path, bool]) -> None:
        """Initialise.

        Args:
            name: name of the data set.
            shows: cache of whether a mask shows an object, by file; it is updated.
        """
        self.video, self.name = video, name
        self.stems = list(video.masks)
        self._shows = shows
        self._numbers = [0]
        self._size: tuple[int, ...] | None = None
        self._last: tuple[int, np.ndarray] | None = None

    @property
    def frames(self) -> int:
        """Number of frames with masks."""
        return len(self.stems)

    def shows_object(self, time: int) -> bool:
        """Return True if the mask of frame `time` shows an object. Each file is read once per process."""
        path = self.video.masks[self.stems[time]]
        if path not in self._shows:
            self._shows[path] = bool(self._ids(time).any())
        return self._shows[path]

    def labels(self, time: int) -> Labels:
        """Return the mask of frame `time`."""
        return number_ids(self._ids(time), self._numbers)

    def image(self, time: int) -> Image:
        """Return frame `time`."""
        path = self.video.frames[self.stems[time]]
        (image,) = CACHE.fetch(read_image, (path,), lambda: (readable(read_image, path),))
        self._require_size(image, path)
        return image

    def distance(self, time: int) -> None:
        """Return None: VOS data sets have no distances."""

    def describe(self, times: list[int]) -> str:
        """Describe data set, video and frames."""
        return f"{self.name}/{self.video.name}: {' '.join(self.stems[time] for time in times)}"

    def _ids(self, time: int) -> np.ndarray:
        """Return the ids of a mask. The last one is cached, because the first frame of a clip is read several times."""

        def read(file: Path) -> np.ndarray:
            return read_labels(file, long_ids).labels

        if self._last is None or self._last[0] != time:
            path, long_ids = self.video.masks[self.stems[time]], self.video.long_ids
            (labels,) = CACHE.fetch((read_labels, long_ids), (path,), lambda: (_small(readable(read, path)),))
            self._last = time, self._meant(labels)
            self._shows[path] = bool(self._last[1].any())
        return self._last[1]

    def _meant(self, ids: np.ndarray) -> np.ndarray:
        if self.video.single_object:
            return (ids > 0).astype(np.uint8)
        return ids if self.video.long_ids else np.where(ids == VOID, 0, ids)

    def require_fit(self, labels: Labels, time: int) -> None:
        """Raise UnusableFile unless a mask has the size of earlier frames."""
        self._require_size(labels, self.video.masks[self.stems[time]])

    def _require_size(self, pixels: np.ndarray, path: Path) -> None:
        size = pixels.shape[:2]
        self._size = self._size or size
        if size != self._size:
            raise UnusableFile(f"{path}: (H, W) = {size}, expected {self._size}, the size of the rest of its clip")


def _small(ids: np.ndarray) -> np.ndarray:
    """Return the ids as uint8, if they fit."""
    return ids.astype(np.uint8) if ids.size and ids.min() >= 0 and ids.max() < 256 else ids


def number_ids(ids: Integer[np.ndarray, "H W"], numbers: list[ObjectId]) -> Labels:
    """Replace ids by their positions in the list `numbers`, which starts with 0; new ids are appended."""
    numbers += sorted(set(object_ids(ids)) - set(numbers))
    kind = np.uint8 if len(numbers) <= 256 else np.uint16
    if numbers == list(range(len(numbers))):
        return ids.astype(kind)
    order = np.argsort(numbers)
    return order[np.searchsorted(numbers, ids, sorter=order)].astype(kind)


def readable(read: Callable[[Path], R], path: Path) -> R:
    """Return `read(path)`, with ValueErrors and OSErrors raised as UnusableFile."""
    try:
        return read(path)
    except (ValueError, OSError) as error:
        raise UnusableFile(str(error)) from error


# -------------------------------------------------------------------------------------------------------- still images
def read_still(image: Path, mask: Path) -> tuple[Image, Labels]:
    """Read an image and its objects as stored: published masks of static images ignore EXIF orientation.

    Raises:
        UnusableFile: if a file cannot be read, or sizes differ.
    """
    read = partial(read_image, upright=False)
    pixels, labels = CACHE.fetch(
        "still", (image, mask), lambda: (readable(read, image), readable(read_still_mask, mask))
    )
    if pixels.shape[:2] != labels.shape:
        raise UnusableFile(
            f"{mask}: mask is (H, W) = {labels.shape}, expected {pixels.shape[:2]}, the size of its image"
        )
    return pixels, labels


def read_background(path: Path, side: int) -> tuple[Image, Labels]:
    """Read an image without objects, with a shorter side of at most `side`. Raises UnusableFile."""
    pixels = readable(read_image, path)
    shrink = side / min(pixels.shape[:2])
    if shrink < 1:
        height, width = (round(full * shrink) for full in pixels.shape[:2])
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return pixels, np.zeros(pixels.shape[:2], np.uint8)


def read_still_mask(path: Path) -> Labels:
    """Read the mask of a static image: ids if the file has them, otherwise 1 from half of the brightest grey.

    Palettes hold ids, and so do greys that are all darker than half. Colours are converted to grey.

    Raises:
        ValueError: with the file name, if it cannot be read.
    """
    try:
        with open_image(path) as image:
            colours = image.mode not in ("1", "L", "P", "I", "I;16", "I;16B")
    except Exception as error:  # on damaged bytes Pillow's readers raise nearly anything
        raise ValueError(f"{path}: cannot be read as a mask: {error}") from error
    if colours:
        return (read_image(path).mean(axis=2) >= OBJECT_GREY).astype(np.uint8)
    file = read_labels(path)
    ids = file.labels
    if file.palette is None and ids.max() >= OBJECT_GREY:
        return (ids >= OBJECT_GREY).astype(np.uint8)
    if len(object_ids(ids)) > 1:  # a single id is the object
        ids = np.where(ids == VOID, 0, ids)
    return number_ids(ids, [0])


# ------------------------------------------------------------------------------------------------------------ rendered
class RenderedFootage:
    """A rendered scene whose frames are rendered on demand.

    Raises:
        ValueError: when constructed, for a config under which no arrangement shows all its objects.
    """

    def __init__(self, seed: int, config: SceneConfig) -> None:
        self.seed, self.config = seed, config
        self._scene = build_scene(seed, config)
        self._rendered: dict[int, RenderedFrame] = {}

    @property
    def frames(self) -> int:
        """Number of frames of the scene."""
        return self.config.frames

    def shows_object(self, time: int) -> bool:
        """Return True if frame `time` shows an object."""
        return bool(self.labels(time).any())

    def labels(self, time: int) -> Labels:
        """Return the ground-truth labels of frame `time`."""
        return self.rendered(time).labels

    def image(self, time: int) -> Image:
        """Return frame `time`."""
        return self.rendered(time).image

    def distance(self, time: int) -> Distance:
        """Return the distance map of frame `time`."""
        return self.rendered(time).depth

    def require_fit(self, labels: Labels, time: int) -> None:
        """Do nothing: all frames of a scene have one size."""

    def describe(self, times: list[int]) -> str:
        """Describe seed, size and frames of the scene."""
        size = f"{self.config.height}x{self.config.width}, {self.config.frames} frames"
        return f"rendered/{self.seed} ({size}): {' '.join(map(str, times))}"

    def rendered(self, time: int) -> RenderedFrame:
        """Return frame `time`, rendered on first access."""
        if time not in self._rendered:
            self._rendered[time] = self._scene.frame(time)
        return self._rendered[time]
