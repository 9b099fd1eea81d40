"""Where clips come from: labelled videos, still images that are moved about, and rendered scenes."""

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
from cutie_geo.data.clips.footage import (
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
from cutie_geo.data.render import SceneConfig
from cutie_geo.data.video import IMAGE_SUFFIXES

__all__ = ["ClipSource", "ImageSource", "RenderedSource", "UnusableFile", "VideoClip", "VideoSource"]

log = logging.getLogger(__name__)

STARTS = 5
"""Frames of a video that a clip is tried from. Source: Cutie specification, section 8.2.2."""
ITEMS = 20
"""Items that are tried for a clip whose first frame shows an object, before one without is taken."""
SCENES = 5
"""Seeds that are tried for a scene that shows all its objects, which nearly every one does."""
HELD_OUT_SEEDS = 10_000
"""Rendered scenes with seeds below this are never trained on."""
BACKGROUND_SIZE = 2
"""Shorter side of a background, in sides of a crop: more than a camera that zooms in shows is only slow."""
SPREAD = 4
"""Length of a rendered scene, in clips: room for skips."""


class VideoClip(NamedTuple):
    """What a source draws."""

    images: UInt8[Tensor, "T 3 H W"]
    """RGB."""
    labels: Integer[Tensor, "T H W"]
    """Ids, the same in all frames; 0 is all else."""
    name: str
    """Enough to find its frames."""
    distance: Float[Tensor, "T H W"] | None = None
    """From the camera, if that is known; NaN where it isn't."""


@runtime_checkable
class ClipSource(Protocol):
    """A data set as clips."""

    merges: bool
    """Whether objects of one clip are pasted into another; a source may see to that itself."""

    def __len__(self) -> int:
        """Items that one epoch lists."""
        ...

    def draw(self, item: int, progress: float, rng: random.Random) -> VideoClip:
        """A clip of item `item` when the share `progress` of the training is done; another draw, another clip.

        Depends on nothing but its arguments and the files. Raises UnusableFile naming one that can't be used.
        """
        ...

    def contents(self) -> list[str]:
        """What it draws from, a line each: two sources with equal contents draw alike."""
        ...


class Mixture:
    """The items of several sources in one row."""

    def __init__(self, sources: Sequence[ClipSource]) -> None:
        self.sources = sources
        self.ends = list(accumulate(len(source) for source in sources))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def place(self, index: int) -> tuple[ClipSource, int]:
        """The source of an item, and its number there."""
        number = bisect.bisect_right(self.ends, index)
        return self.sources[number], index - (self.ends[number - 1] if number else 0)


# -------------------------------------------------------------------------------------------------------------- videos
class VideoSource:
    """Clips of labelled videos; an item is a frame that has a mask, and is part of its clip.

    Where no clip shows an object in its first frame, another item is taken.
    """

    merges = True

    def __init__(
        self, videos: Sequence[LabelledVideo], config: ClipConfig, frame_interval: int = 1, name: str = "videos"
    ) -> None:
        """Videos with a problem are left out with a warning, short ones as `config.short_videos` says.

        Raises ValueError if none is left.
        """
        self.config, self.frame_interval, self.name = config, frame_interval, name
        self.videos = _usable(videos, config, name)
        self._ends = list(accumulate(len(video.masks) for video in self.videos))
        self._augment = VideoAugment(config.video, config.crop)
        self._shows: dict[Path, bool] = {}

    def __len__(self) -> int:
        """Masked frames."""
        return self._ends[-1]

    def draw(self, item: int, progress: float, rng: random.Random) -> VideoClip:
        """A clip that the frame `item` is part of. Raises UnusableFile."""
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
        return take(footage, *choice, self._augment, rng)

    def contents(self) -> list[str]:
        """Its videos, each with the number of its frames that have masks."""
        return [f"{self.name}/{video.name}: {len(video.masks)} of {len(video.frames)}" for video in self.videos]

    def _place(self, item: int) -> tuple[LabelledVideo, int]:
        """The video of an item, and which of its masked frames it is."""
        index = bisect.bisect_right(self._ends, item)
        return self.videos[index], item - (self._ends[index - 1] if index else 0)


def _usable(videos: Sequence[LabelledVideo], config: ClipConfig, name: str) -> list[LabelledVideo]:
    """The videos without problems that are long enough. Raises ValueError if there is none."""
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


def choose(
    footage: Footage, start: int, skip: int, config: ClipConfig, augment: VideoAugment, rng: random.Random
) -> tuple[list[int], Affine] | None:
    """Frames, and a view in which the first of them shows an object; None if a few starts have none.

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
    """Frames and a view, whether or not they show an object."""
    times = draw_opening(footage.frames, start, config, skip, lambda _: True, rng)
    assert times is not None
    return times, augment.view(footage.labels(times[0]), rng)[0]


def take(footage: Footage, times: list[int], view: Affine, augment: VideoAugment, rng: random.Random) -> VideoClip:
    """The frames `times` as clip. Raises UnusableFile where one can't be read or has another size."""
    images, labels = read_frames(footage, times)
    shown = augment.apply(images, labels, view, rng)
    return VideoClip(*shown, footage.describe(times), augment.distances(map(footage.distance, times), view))


def read_frames(footage: Footage, times: list[int]) -> tuple[list[Image], list[Labels]]:
    """Images and masks of `times`, a frame that is there twice read once. Raises UnusableFile."""
    read: dict[int, tuple[Image, Labels]] = {}
    for time in times:
        if time not in read:
            labels = footage.labels(time)
            footage.require_fit(labels, time)
            read[time] = footage.image(time), labels
    return [read[time][0] for time in times], [read[time][1] for time in times]


# ------------------------------------------------------------------------------------------------------------ rendered
class RenderedSource:
    """Clips of rendered scenes. Each draw is a scene of its own, with a seed from `HELD_OUT_SEEDS` on."""

    merges = True

    def __init__(self, clips: int, config: ClipConfig, scene: SceneConfig | None = None) -> None:
        """`clips` items; size and length of `scene` are set here."""
        self.clips, self.config = clips, config
        frames = SPREAD * config.length
        self.scene = scene_for(config, scene or SceneConfig(cycle=frames))
        self._augment = VideoAugment(config.video, config.crop)

    def __len__(self) -> int:
        """As many as asked for: scenes never run out."""
        return self.clips

    def draw(self, item: int, progress: float, rng: random.Random) -> VideoClip:
        """A clip of a new scene. Raises ValueError for a scene config under which objects don't show."""
        skip = largest_skip(self.config, progress, 1)
        for _ in range(ITEMS):
            footage = self._scene(rng)
            start = rng.randrange(footage.frames)
            choice = choose(footage, start, skip, self.config, self._augment, rng)
            if choice is not None:
                break
        else:
            choice = choose_any(footage, start, skip, self.config, self._augment, rng)
        return take(footage, *choice, self._augment, rng)

    def contents(self) -> list[str]:
        """What scenes are like."""
        return [f"rendered: {self.scene}"]

    def _scene(self, rng: random.Random) -> RenderedFootage:
        for _ in range(SCENES - 1):
            try:
                return RenderedFootage(HELD_OUT_SEEDS + rng.getrandbits(48), self.scene)
            except ValueError as error:
                log.info("another scene is drawn: %s", error)
        return RenderedFootage(HELD_OUT_SEEDS + rng.getrandbits(48), self.scene)


def scene_for(config: ClipConfig, scene: SceneConfig) -> SceneConfig:
    """`scene` at the size and length that clips are cut from."""
    return replace(scene, height=config.crop, width=config.crop, frames=SPREAD * config.length)


# -------------------------------------------------------------------------------------------------------- still images
class Still(NamedTuple):
    """A picture whose objects are known."""

    name: str
    read: Callable[[], tuple[Image, Labels]]
    """Raises UnusableFile."""


def stills_of_pairs(pairs: Sequence[ImagePair]) -> list[Still]:
    """Images with a mask each, as often as each pair says."""
    return [Still(pair.name, partial(read_still, pair.image, pair.mask)) for pair in pairs for _ in range(pair.times)]


def stills_of_videos(videos: Sequence[LabelledVideo], name: str) -> list[Still]:
    """Every frame that has a mask, of the videos of data set `name` that have no problem."""
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
    """All pictures below a folder, as what lies behind cut-outs, no larger than crops of `crop` pixels need.

    Raises ValueError if there is none.
    """
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    require(bool(paths), f"{root}: no picture in it, wanted files that end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return [
        Still(
            f"backgrounds/{path.relative_to(root).as_posix()}", partial(read_background, path, BACKGROUND_SIZE * crop)
        )
        for path in paths
    ]


class ImageSource:
    """Clips made of still images, whose objects are pasted into one another where a sample may show several."""

    merges = False

    def __init__(self, stills: Sequence[Still], config: ClipConfig) -> None:
        """Raises ValueError if there is none."""
        require(bool(stills), "still images: got none, wanted at least one with a mask")
        self.stills = list(stills)
        self.config = config
        self._augment = StillAugment(config.image, config.crop)

    def __len__(self) -> int:
        """Images, each as often as it is listed."""
        return len(self.stills)

    def draw(self, item: int, progress: float, rng: random.Random) -> VideoClip:
        """A clip of image `item`, with objects of up to `max_objects - 1` others over it. Raises UnusableFile.

        Others are clips of their own before they are pasted, so that objects move against each other.
        """
        images, labels, name, _ = self._moved(self.stills[item], rng)
        for _ in range(rng.randrange(self.config.max_objects)):
            if len(first_ids(labels)) >= self.config.max_objects:
                break
            other = self._moved(self.stills[rng.randrange(len(self))], rng)
            images, labels = paste(images, labels, other.images, other.labels)
            name = f"{name} + {other.name}"
        return VideoClip(images, labels, name)

    def contents(self) -> list[str]:
        """Its images, as often as they are listed."""
        return [still.name for still in self.stills]

    def _moved(self, still: Still, rng: random.Random) -> VideoClip:
        image, labels = still.read()
        return VideoClip(*self._augment.apply(image, labels, self.config.length, rng), still.name)
