"""Sources of training clips: labelled videos, static images with synthetic motion, and rendered scenes."""

import bisect
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from cutie_geo.config import ClipConfig, require
from cutie_geo.data.clips.augment import StillAugment, VideoAugment
from cutie_geo.data.clips.camera import draw_camera
from cutie_geo.data.clips.frame_readers import (
    FileFootage,
    Footage,
    RenderedFootage,
    UnusableFile,
    read_background,
    read_still,
)
from cutie_geo.data.clips.merge import first_ids, paste
from cutie_geo.data.clips.sampling import draw_opening, largest_skip
from cutie_geo.data.clips.warp import Affine, Image, Labels
from cutie_geo.data.index import ImagePair, LabelledVideo
from cutie_geo.data.index.records import some
from cutie_geo.data.io_threads import map_ahead
from cutie_geo.data.masks import object_ids, read_labels
from cutie_geo.data.render import SceneConfig
from cutie_geo.data.video import IMAGE_SUFFIXES
from cutie_geo.structures import VOID

__all__ = ["ClipSource", "ImageSource", "RenderedSource", "UnusableFile", "VideoClip", "VideoSource"]

log = logging.getLogger(__name__)

READERS = 4
"""Threads that read masks before training."""
STARTS = 5
"""Number of start frames tried in a video. Source: Cutie specification, section 8.2.2."""
ITEMS = 20
"""Number of items tried for a clip whose first frame shows an object, before a clip without one is accepted."""
SCENES = 5
"""Number of seeds tried for a scene that shows all its objects; nearly all seeds do."""
HELD_OUT_SEEDS = 10_000
"""Seeds of rendered scenes below this are held out from training."""
BACKGROUND_SIZE = 2
"""Shorter side of a background, in crop sides; larger backgrounds add cost but no visible detail."""
SPREAD = 4
"""Length of a rendered scene in clips, which leaves space for frame skips."""


class VideoClip(NamedTuple):
    """A clip drawn from a source."""

    images: UInt8[Tensor, "T 3 H W"]
    """RGB."""
    labels: Integer[Tensor, "T H W"]
    """Ids, consistent over all frames; 0 is background."""
    name: str
    """Description from which the frames can be identified."""
    distance: Float[Tensor, "T H W"] | None = None
    """Distance from the camera, NaN where it is unknown. None: unknown."""


@runtime_checkable
class ClipSource(Protocol):
    """A data set as clips."""

    merges: bool
    """Enables copy-paste of objects between clips. A source that pastes objects itself disables it."""

    def __len__(self) -> int:
        """Return the number of items of one epoch."""
        ...

    def draw(self, item: int, progress: float, rng: random.Random) -> VideoClip:
        """Draw a clip of item `item` at training progress `progress` (0 to 1).

        Depends only on its arguments and the files. Raises UnusableFile with the name of an unusable file.
        """
        ...

    def contents(self) -> list[str]:
        """Return one line for each item; sources with equal contents draw equal clips."""
        ...


class Mixture:
    """Concatenation of the items of several sources."""

    def __init__(self, sources: Sequence[ClipSource]) -> None:
        self.sources = sources
        self.ends = list(accumulate(len(source) for source in sources))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def place(self, index: int) -> tuple[ClipSource, int]:
        """Return the source of an item and its index there."""
        number = bisect.bisect_right(self.ends, index)
        return self.sources[number], index - (self.ends[number - 1] if number else 0)


# -------------------------------------------------------------------------------------------------------------- videos
class VideoSource:
    """Clips of labelled videos; an item is a frame with a mask, which is part of its clip.

    If no clip of an item shows an object in its first frame, another item is drawn.
    """

    merges = True

    def __init__(
        self, videos: Sequence[LabelledVideo], config: ClipConfig, frame_interval: int = 1, name: str = "videos"
    ) -> None:
        """Initialise. Videos with problems are excluded with a warning, short ones as `config.short_videos` says.

        Raises:
            ValueError: if no video is left.
        """
        self.config, self.frame_interval, self.name = config, frame_interval, name
        self.videos = _usable(videos, config, name)
        self._ends = list(accumulate(len(video.masks) for video in self.videos))
        self._augment = VideoAugment(config.video, config.crop)
        self._shows: dict[Path, bool] = {}

    def __len__(self) -> int:
        """Return the number of masked frames."""
        return self._ends[-1]

    def draw(self, item: int, progress: float, rng: random.Random) -> VideoClip:
        """Draw a clip that includes frame `item`. Raises UnusableFile."""
        skip = largest_skip(self.config, progress, self.frame_interval)
        for _ in range(ITEMS):
            video, start = self._place(item)
            footage = FileFootage(video, self.name, self._shows)
            choice = choose(footage, start, skip, self.config, self._augment, rng)
            if choice is not None:
                break
            item = rng.randrange(len(self))
        else:
            choice = choose_any(footage, start, skip, self.config, self._augment, rng)
        return take(footage, *choice, self.config, self._augment, rng)

    def contents(self) -> list[str]:
        """Return the videos with their numbers of masked frames."""
        return [f"{self.name}/{video.name}: {len(video.masks)} of {len(video.frames)}" for video in self.videos]

    def _place(self, item: int) -> tuple[LabelledVideo, int]:
        """Return the video of an item and its index among the masked frames."""
        index = bisect.bisect_right(self._ends, item)
        return self.videos[index], item - (self._ends[index - 1] if index else 0)


def _usable(videos: Sequence[LabelledVideo], config: ClipConfig, name: str) -> list[LabelledVideo]:
    """Return the videos without problems that are long enough. Raises ValueError if there are none."""
    sound = [video for video in videos if video.problem is None]
    for video in videos:
        if video.problem is not None:
            log.warning("%s: left out: %s", video.name, video.problem)
    least = config.length if config.short_videos == "drop" else 1
    usable = [video for video in sound if len(video.masks) >= least]
    problems, short = len(videos) - len(sound), len(sound) - len(usable)
    if short:
        log.warning("%s: %d of %d videos left out, with fewer than %d masks", name, short, len(videos), least)
    require(
        bool(usable),
        f"{name}: no usable video among {len(videos)}: {problems} with problems, {short} with fewer than {least} masks",
    )
    return usable


def with_objects(videos: Sequence[LabelledVideo], name: str) -> list[LabelledVideo]:
    """Return the videos in which a mask shows an object; warn of the others.

    For most videos one mask is read. Videos with problems or unreadable masks stay, and are reported when they are
    used.

    Raises:
        ValueError: if no video is left.
    """
    sound = [video for video in videos if video.problem is None and video.masks]
    shown = dict(zip((v.name for v in sound), map_ahead(_shows, sound, READERS, 4 * READERS)))
    empty = [video for video in sound if not shown[video.name].object]
    if not empty:
        return list(videos)
    ignored = [video for video in empty if shown[video.name].ignored]
    why = f"no mask shows an object, in {len(ignored)} of them nothing but 0 and {VOID}"
    advice = (
        f"{VOID} marks pixels to ignore in {name}. If it is the object in these masks, write it as 1: "
        "docs/training.md, section Masks of training data, says how"
    )
    reason = f"{why}. {advice}" if ignored else "no mask shows an object"
    require(len(empty) < len(sound), f"{name}: none of its {len(sound)} videos can be trained on: {reason}")
    log.warning("%s: %d videos left out, %s: %s", name, len(empty), some([video.name for video in empty]), reason)
    gone = {video.name for video in empty}
    return [video for video in videos if video.name not in gone]


class _Shown(NamedTuple):
    """Content of a video's masks."""

    object: bool
    ignored: bool = False
    """The masks have ignored pixels but no object."""


def _shows(video: LabelledVideo) -> _Shown:
    """Read masks, the first and the middle one first, until one has an object."""
    paths = list(video.masks.values())
    ignored = False
    for path in dict.fromkeys([paths[0], paths[len(paths) // 2], *paths]):
        try:
            ids = object_ids(read_labels(path, video.long_ids).labels)
        except (ValueError, OSError):
            return _Shown(True)
        meant = ids if video.single_object or video.long_ids else [i for i in ids if i != VOID]
        if meant:
            return _Shown(True)
        ignored = ignored or bool(ids)
    return _Shown(False, ignored)


def choose(
    footage: Footage, start: int, skip: int, config: ClipConfig, augment: VideoAugment, rng: random.Random
) -> tuple[list[int], Affine] | None:
    """Sample frames and a view whose first frame shows an object; None if a few starts have none.

    The first start is `start`, the others are random.
    """
    for begin in _starts(start, footage.frames, rng):
        times = draw_opening(footage.frames, begin, config, skip, footage.shows_object, rng)
        if times is not None:
            view, shows = augment.view(footage.labels(times[0]), rng)
            if shows:
                return times, view
    return None


def _starts(start: int, frames: int, rng: random.Random) -> Iterator[int]:
    yield start
    for _ in range(STARTS - 1):
        yield rng.randrange(frames)


def choose_any(
    footage: Footage, start: int, skip: int, config: ClipConfig, augment: VideoAugment, rng: random.Random
) -> tuple[list[int], Affine]:
    """Sample frames and a view without requiring an object."""
    times = draw_opening(footage.frames, start, config, skip, lambda _: True, rng)
    assert times is not None
    return times, augment.view(footage.labels(times[0]), rng)[0]


def take(
    footage: Footage, times: list[int], view: Affine, config: ClipConfig, augment: VideoAugment, rng: random.Random
) -> VideoClip:
    """Return the frames `times` as a clip. Raises UnusableFile if one cannot be read or has another size."""
    images, labels = read_frames(footage, times)
    path = maybe_camera(config, rng)
    shown = augment.apply(images, labels, view, rng, path)
    distances = augment.distances([footage.distance(time) for time in times], view, path)
    return VideoClip(*shown, footage.describe(times), distances)


def maybe_camera(config: ClipConfig, rng: random.Random) -> list[Affine] | None:
    """Return a synthetic camera motion with `camera_probability`; else None."""
    if not config.camera_probability or rng.random() >= config.camera_probability:
        return None
    return draw_camera(config.length, config.crop, config.away_probability, rng)


def read_frames(footage: Footage, times: list[int]) -> tuple[list[Image], list[Labels]]:
    """Return images and masks of `times`, reading repeated frames once. Raises UnusableFile."""
    read: dict[int, tuple[Image, Labels]] = {}
    for time in times:
        if time not in read:
            labels = footage.labels(time)
            footage.require_fit(labels, time)
            read[time] = footage.image(time), labels
    return [read[time][0] for time in times], [read[time][1] for time in times]


# ------------------------------------------------------------------------------------------------------------ rendered
class RenderedSource:
    """Clips of rendered scenes. Each draw renders a new scene with a seed of at least `HELD_OUT_SEEDS`."""

    merges = True

    def __init__(self, clips: int, config: ClipConfig, scene: SceneConfig | None = None) -> None:
        """Initialise with `clips` items; size and length of `scene` are derived from `config`."""
        self.clips, self.config = clips, config
        frames = SPREAD * config.length
        self.scene = scene_for(config, scene or SceneConfig(cycle=frames))
        self._augment = VideoAugment(config.video, config.crop)

    def __len__(self) -> int:
        """Return the configured number of items; scenes are unlimited."""
        return self.clips

    def draw(self, item: int, progress: float, rng: random.Random) -> VideoClip:
        """Draw a clip of a new scene. Raises ValueError for a scene config under which objects stay hidden."""
        skip = largest_skip(self.config, progress, 1)
        for _ in range(ITEMS):
            footage = self._scene(rng)
            start = rng.randrange(footage.frames)
            choice = choose(footage, start, skip, self.config, self._augment, rng)
            if choice is not None:
                break
        else:
            choice = choose_any(footage, start, skip, self.config, self._augment, rng)
        return take(footage, *choice, self.config, self._augment, rng)

    def contents(self) -> list[str]:
        """Return the scene settings."""
        return [f"rendered: {self.scene}"]

    def _scene(self, rng: random.Random) -> RenderedFootage:
        for _ in range(SCENES - 1):
            try:
                return RenderedFootage(HELD_OUT_SEEDS + rng.getrandbits(48), self.scene)
            except ValueError as error:
                log.info("another scene is drawn: %s", error)
        return RenderedFootage(HELD_OUT_SEEDS + rng.getrandbits(48), self.scene)


def scene_for(config: ClipConfig, scene: SceneConfig) -> SceneConfig:
    """Return `scene` with the size and length from which clips are cut."""
    return replace(scene, height=config.crop, width=config.crop, frames=SPREAD * config.length)


# -------------------------------------------------------------------------------------------------------- still images
class Still(NamedTuple):
    """A static image with known objects."""

    name: str
    read: Callable[[], tuple[Image, Labels]]
    """Read image and labels. Raises UnusableFile."""


def stills_of_pairs(pairs: Sequence[ImagePair]) -> list[Still]:
    """Return images with one mask each, repeated as configured."""
    return [Still(pair.name, partial(read_still, pair.image, pair.mask)) for pair in pairs for _ in range(pair.times)]


def stills_of_videos(videos: Sequence[LabelledVideo], name: str) -> list[Still]:
    """Return every masked frame of the videos of data set `name` that have no problem."""
    sound = [video for video in videos if video.problem is None]
    return [
        Still(f"{name}/{video.name}/{stem}", partial(_read_frame, video, name, time))
        for video in sound
        for time, stem in enumerate(video.masks)
    ]


def _read_frame(video: LabelledVideo, name: str, time: int) -> tuple[Image, Labels]:
    images, labels = read_frames(FileFootage(video, name, {}), [time])
    return images[0], labels[0]


def stills_without_objects(root: Path, crop: int) -> list[Still]:
    """List all images below a folder as backgrounds for cut-outs, resized to the needs of `crop`-pixel crops.

    Raises:
        ValueError: if there are none.
    """
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    require(bool(paths), f"{root}: no images; expected files that end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return [
        Still(
            f"backgrounds/{path.relative_to(root).as_posix()}", partial(read_background, path, BACKGROUND_SIZE * crop)
        )
        for path in paths
    ]


class ImageSource:
    """Clips of static images with synthetic motion and copy-paste of objects between images."""

    merges = False

    def __init__(self, stills: Sequence[Still], config: ClipConfig) -> None:
        """Initialise. Raises ValueError if there are no images."""
        require(bool(stills), "static images: got none, expected at least one with a mask")
        self.stills = list(stills)
        self.config = config
        self._augment = StillAugment(config.image, config.crop)

    def __len__(self) -> int:
        """Return the number of images, with repetitions."""
        return len(self.stills)

    def draw(self, item: int, progress: float, rng: random.Random) -> VideoClip:
        """Draw a clip of image `item` with objects of up to `max_objects - 1` others pasted over it. Raises
        UnusableFile.

        Each image gets its own motion before pasting, so that objects move relative to each other.
        """
        images, labels, name, _ = self._animate(self.stills[item], rng)
        for _ in range(rng.randrange(self.config.max_objects)):
            if len(first_ids(labels)) >= self.config.max_objects:
                break
            other = self._animate(self.stills[rng.randrange(len(self))], rng)
            images, labels = paste(images, labels, other.images, other.labels)
            name = f"{name} + {other.name}"
        return VideoClip(images, labels, name)

    def contents(self) -> list[str]:
        """Return the images, with repetitions."""
        return [still.name for still in self.stills]

    def _animate(self, still: Still, rng: random.Random) -> VideoClip:
        image, labels = still.read()
        path = maybe_camera(self.config, rng)
        return VideoClip(*self._augment.apply(image, labels, self.config.length, rng, path), still.name)
