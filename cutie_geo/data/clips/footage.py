"""Videos that clips are cut from, one frame at a time: files on disk, and rendered scenes."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Integer
from PIL import Image as Pillow

from cutie_geo.data.clips.warp import Distance, Image, Labels
from cutie_geo.data.index import LabelledVideo
from cutie_geo.data.masks import object_ids, read_labels
from cutie_geo.data.render import SceneConfig
from cutie_geo.data.render.scene import RenderedFrame, build_scene
from cutie_geo.data.video import read_image
from cutie_geo.structures import ObjectId

IGNORED = 255
"""Marks pixels that belong to no object for sure, in masks of several objects. They count as background."""
HALF = 128
"""Greys from here on are object, in masks that have greys and no ids."""


R = TypeVar("R")


class UnusableFile(ValueError):
    """A file that can't be read, or doesn't fit the others of its video. Says which and why."""


@runtime_checkable
class Footage(Protocol):
    """A video whose every frame has a mask."""

    @property
    def frames(self) -> int:
        """How many."""
        ...

    def shows_object(self, time: int) -> bool:
        """Whether frame `time` shows any."""
        ...

    def labels(self, time: int) -> Labels:
        """The mask of frame `time`; ids are the same in all frames."""
        ...

    def image(self, time: int) -> Image:
        """Frame `time`, of the size of its mask."""
        ...

    def distance(self, time: int) -> Distance | None:
        """How far away what frame `time` shows is, if that is known."""
        ...

    def require_fit(self, labels: Labels, time: int) -> None:
        """Raise UnusableFile unless the mask of frame `time` has the size of the frames before it."""
        ...

    def describe(self, times: list[int]) -> str:
        """Enough to find these frames again."""
        ...


# --------------------------------------------------------------------------------------------------------------- files
class FileFootage:
    """The frames of a labelled video that have masks. Raises UnusableFile where they can't be read or don't fit.

    Ids are numbered anew, from 1 on in the order in which they are met, so that they fit in few bits.
    """

    def __init__(self, video: LabelledVideo, name: str, shows: dict[Path, bool]) -> None:
        """`name` of the data set; `shows`: by mask file, whether it shows an object, which is added to."""
        self.video, self.name = video, name
        self.stems = list(video.masks)
        self._shows = shows
        self._numbers = [0]
        self._size: tuple[int, ...] | None = None
        self._last: tuple[int, np.ndarray] | None = None

    @property
    def frames(self) -> int:
        """How many have masks."""
        return len(self.stems)

    def shows_object(self, time: int) -> bool:
        """Whether the mask of frame `time` does. Each file is read for this once in the life of a process."""
        path = self.video.masks[self.stems[time]]
        if path not in self._shows:
            self._shows[path] = bool(self._ids(time).any())
        return self._shows[path]

    def labels(self, time: int) -> Labels:
        """The mask of frame `time`."""
        return number_ids(self._ids(time), self._numbers)

    def image(self, time: int) -> Image:
        """Frame `time`."""
        path = self.video.frames[self.stems[time]]
        image = readable(read_image, path)
        self._require_size(image, path)
        return image

    def distance(self, time: int) -> None:
        """Not known: no data set of this field has it."""

    def describe(self, times: list[int]) -> str:
        """Data set, video and frames."""
        return f"{self.name}/{self.video.name}: {' '.join(self.stems[time] for time in times)}"

    def _ids(self, time: int) -> np.ndarray:
        """The ids meant by a mask. The last one is kept: the first frame of a clip is asked for several times."""
        if self._last is None or self._last[0] != time:
            path = self.video.masks[self.stems[time]]
            self._last = time, self._meant(readable(lambda file: read_labels(file, self.video.long_ids).labels, path))
            self._shows[path] = bool(self._last[1].any())
        return self._last[1]

    def _meant(self, ids: np.ndarray) -> np.ndarray:
        if self.video.single_object:
            return (ids > 0).astype(np.int32)
        return ids if self.video.long_ids else np.where(ids == IGNORED, 0, ids)

    def require_fit(self, labels: Labels, time: int) -> None:
        """Raise UnusableFile unless a mask has the size of the frames before it."""
        self._require_size(labels, self.video.masks[self.stems[time]])

    def _require_size(self, pixels: np.ndarray, path: Path) -> None:
        size = pixels.shape[:2]
        self._size = self._size or size
        if size != self._size:
            raise UnusableFile(f"{path}: (H, W) = {size}, wanted {self._size}, the size of the rest of its clip")


def number_ids(ids: Integer[np.ndarray, "H W"], numbers: list[ObjectId]) -> Labels:
    """Ids replaced by their places in the list `numbers`, which starts with 0 and to which new ones are added."""
    numbers += sorted(set(object_ids(ids)) - set(numbers))
    kind = np.uint8 if len(numbers) <= 256 else np.uint16
    if numbers == list(range(len(numbers))):
        return ids.astype(kind)
    order = np.argsort(numbers)
    return order[np.searchsorted(numbers, ids, sorter=order)].astype(kind)


def readable(read: Callable[[Path], R], path: Path) -> R:
    """`read(path)`, whose ValueErrors and OSErrors become UnusableFile."""
    try:
        return read(path)
    except (ValueError, OSError) as error:
        raise UnusableFile(str(error)) from error


# -------------------------------------------------------------------------------------------------------- still images
def read_still(image: Path, mask: Path) -> tuple[Image, Labels]:
    """A picture and the objects in it. Raises UnusableFile where they can't be read or their sizes differ."""
    pixels, labels = readable(read_image, image), readable(read_still_mask, mask)
    if pixels.shape[:2] != labels.shape:
        raise UnusableFile(f"{mask}: mask is (H, W) = {labels.shape}, wanted {pixels.shape[:2]}, the size of its image")
    return pixels, labels


def read_background(path: Path, side: int) -> tuple[Image, Labels]:
    """A picture with no object in it, its shorter side at most `side`. Raises UnusableFile where it can't be read."""
    pixels = readable(read_image, path)
    shrink = side / min(pixels.shape[:2])
    if shrink < 1:
        height, width = (round(full * shrink) for full in pixels.shape[:2])
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return pixels, np.zeros(pixels.shape[:2], np.uint8)


def read_still_mask(path: Path) -> Labels:
    """The objects of a still image: ids where the file has them, else 1 from half of the brightest grey on.

    Palettes hold ids, and so do greys that are all darker than half; colours are taken for greys. Raises ValueError
    naming the file if it can't be read.
    """
    with Pillow.open(path) as image:
        colours = image.mode not in ("1", "L", "P", "I", "I;16", "I;16B")
    if colours:
        return (read_image(path).mean(axis=2) >= HALF).astype(np.uint8)
    file = read_labels(path)
    ids = file.labels
    if file.palette is None and ids.max() >= HALF:
        return (ids >= HALF).astype(np.uint8)
    if len(object_ids(ids)) > 1:  # alone, it is the object
        ids = np.where(ids == IGNORED, 0, ids)
    return number_ids(ids, [0])


# ------------------------------------------------------------------------------------------------------------ rendered
class RenderedFootage:
    """A rendered scene, of which only those frames are rendered that are asked for.

    Raises ValueError, when built, for a config under which no arrangement shows all its objects.
    """

    def __init__(self, seed: int, config: SceneConfig) -> None:
        self.seed, self.config = seed, config
        self._scene = build_scene(seed, config)
        self._rendered: dict[int, RenderedFrame] = {}

    @property
    def frames(self) -> int:
        """The scene's length."""
        return self.config.frames

    def shows_object(self, time: int) -> bool:
        """Whether frame `time` shows any."""
        return bool(self.labels(time).any())

    def labels(self, time: int) -> Labels:
        """The truth about frame `time`."""
        return self.rendered(time).labels

    def image(self, time: int) -> Image:
        """Frame `time`."""
        return self.rendered(time).image

    def distance(self, time: int) -> Distance:
        """Of everything in frame `time`."""
        return self.rendered(time).depth

    def require_fit(self, labels: Labels, time: int) -> None:
        """All frames of a scene have one size."""

    def describe(self, times: list[int]) -> str:
        """Seed, size and frames of the scene."""
        size = f"{self.config.height}x{self.config.width}, {self.config.frames} frames"
        return f"rendered/{self.seed} ({size}): {' '.join(map(str, times))}"

    def rendered(self, time: int) -> RenderedFrame:
        """Frame `time`, rendered when it is first asked for."""
        if time not in self._rendered:
            self._rendered[time] = self._scene.frame(time)
        return self._rendered[time]
