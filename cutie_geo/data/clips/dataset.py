"""Samples by number: what training sees, as a function of seed, epoch, index and progress."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from cutie_geo.config import ClipConfig, SourceConfig, build, parse_overrides, require
from cutie_geo.data.clips.cutouts import CutoutSource, index_cutouts
from cutie_geo.data.clips.merge import first_ids, paste, to_slots
from cutie_geo.data.clips.sources import (
    SPREAD,
    ClipSource,
    ImageSource,
    Mixture,
    RenderedSource,
    UnusableFile,
    VideoClip,
    VideoSource,
    stills_of_pairs,
    stills_of_videos,
    stills_without_objects,
)
from cutie_geo.data.index import LABELLED, ImagePair, index_static, labelled
from cutie_geo.data.render import SceneConfig
from cutie_geo.structures import ClipKey

MAX_BAD_DRAWS = 20
"""Draws for one sample that may meet files that can't be used."""
NOT_OBJECTS = ("vspw", "vipseg")
"""Starts of the names of data sets whose masks hold classes."""

T = TypeVar("T")


class Clip(NamedTuple):
    """One training sample."""

    images: UInt8[Tensor, "T 3 crop crop"]
    """RGB."""
    labels: UInt8[Tensor, "T crop crop"]
    """Slots 1 to n of the objects that the first frame shows; 0 is all else."""
    num_objects: int
    """n, at least 1: a clip without any object has an empty one."""
    seed: int
    """What random draws in training begin from, 63 bits."""
    name: str
    """Enough to find its files."""
    problems: tuple[str, ...]
    """Files that could not be used and were replaced by another draw; each says which and why."""
    distance: Float[Tensor, "T crop crop"] | None = None
    """From the camera, if that is known; NaN where it isn't."""


class ClipDataset(Dataset[Clip]):
    """A mixture of sources, indexed by `ClipKey`. Draws nothing from global generators, and holds no state."""

    def __init__(self, sources: Sequence[ClipSource], config: ClipConfig, seed: int) -> None:
        """Raises ValueError for a negative seed and for no source."""
        require(seed >= 0, f"seed: got {seed}, wanted 0 or more")
        require(bool(sources), "sources: got none, wanted at least one")
        self.sources, self.config, self.seed = list(sources), config, seed
        self._mixture = Mixture(self.sources)
        self._merging = Mixture([source for source in self.sources if source.merges])

    def __len__(self) -> int:
        """Items that one epoch lists."""
        return len(self._mixture)

    def __getitem__(self, key: ClipKey) -> Clip:
        """The sample of `key`. Raises ValueError if too many draws in a row meet files that can't be used."""
        sample = np.random.SeedSequence([self.seed, key.epoch, key.index])
        seed, start = (int(word) >> 1 for word in sample.generate_state(2, np.uint64))
        rng, problems = random.Random(start), list[str]()
        source, clip = self._first_usable(self._mixture, key.index, key.progress, rng, problems)
        if source.merges and len(first_ids(clip.labels)) < self.config.max_objects:
            clip = self._merged(clip, key.progress, rng, problems)
        slots, count = to_slots(clip.labels, self.config.max_objects, rng)
        return Clip(clip.images, slots, max(count, 1), seed, clip.name, tuple(problems), clip.distance)

    def _merged(self, clip: VideoClip, progress: float, rng: random.Random, problems: list[str]) -> VideoClip:
        """The clip, now and then with the objects of a second one pasted over it."""
        if rng.random() >= self.config.merge_probability:
            return clip
        _, other = self._first_usable(self._merging, rng.randrange(len(self._merging)), progress, rng, problems)
        images, labels = paste(*clip[:2], *other[:2])
        # what was pasted has its distances in another unit
        distance = None if clip.distance is None else clip.distance.masked_fill(labels != clip.labels, float("nan"))
        return VideoClip(images, labels, f"{clip.name} + {other.name}", distance)

    def _first_usable(
        self, mixture: Mixture, index: int, progress: float, rng: random.Random, problems: list[str]
    ) -> tuple[ClipSource, VideoClip]:
        """The clip at `index`, or in place of one with an unusable file, another, with the file noted."""
        for _ in range(MAX_BAD_DRAWS + 1):
            source, item = mixture.place(index)
            try:
                return source, source.draw(item, progress, rng)
            except UnusableFile as error:
                problems.append(str(error))
                index = rng.randrange(len(mixture))
        raise ValueError(f"{len(problems)} draws for one sample met files that can't be used, the last: {problems[-1]}")


class Repeated:
    """A source whose items one epoch lists `times` times."""

    def __init__(self, source: ClipSource, times: int) -> None:
        self.source, self.times, self.merges = source, times, source.merges

    def __len__(self) -> int:
        """Items of the source, times how often."""
        return len(self.source) * self.times

    def draw(self, item: int, progress: float, rng: random.Random) -> VideoClip:
        """The source's own draw. Raises UnusableFile."""
        return self.source.draw(item % len(self.source), progress, rng)

    def contents(self) -> list[str]:
        """The source's own."""
        return self.source.contents()


def fingerprint(source: ClipSource) -> str:
    """How many items a source has, of what, and a digest that tells it from another selection or version."""
    lines = source.contents()
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    return f"{len(source)} items of {lines[0].partition('/')[0].partition(':')[0]}, {digest}"


# ------------------------------------------------------------------------------------------------------- configuration
def source_names() -> list[str]:
    """What `SourceConfig.name` may be."""
    return [
        "backgrounds",
        "cutouts",
        "rendered",
        "static",
        *(name for name in LABELLED if not name.startswith(NOT_OBJECTS)),
    ]


def build_sources(
    configs: Sequence[SourceConfig], clips: ClipConfig, data_root: Path | None = None
) -> list[ClipSource]:
    """The sources of a mixture, each listed as often as configured.

    Files are listed, none is read. Raises ValueError for unknown names of data sets, videos and options, for missing
    folders and for a data set of which nothing can be used.
    """
    found, behind, over = dict[int, ClipSource](), list[ClipSource](), list[int]()
    for n, config in enumerate(configs):
        if config.name == "cutouts":
            over.append(n)
        elif config.name == "backgrounds":
            behind.append(_repeated(_backgrounds(config, clips, data_root), config.times))
        else:
            found[n] = _repeated(_source(config, clips, data_root), config.times)
    require(bool(over) or not behind, "backgrounds: nothing to lie over them, wanted cutouts among the data")
    beneath = [source for source in found.values() if source.merges] + behind
    for n in over:
        found[n] = _repeated(_cutouts(configs[n], beneath, clips, data_root), configs[n].times)
    return [found[n] for n in sorted(found)]


def _repeated(source: ClipSource, times: int) -> ClipSource:
    return Repeated(source, times) if times > 1 else source


def _source(config: SourceConfig, clips: ClipConfig, data_root: Path | None) -> ClipSource:
    known = source_names()
    require(config.name in known, f"data: got {config.name!r}, wanted one of {', '.join(known)}")
    if config.crop_scale is not None:
        clips = replace(clips, video=replace(clips.video, crop_scale=config.crop_scale))
    if config.name in ("rendered", "static"):
        require(not config.still, f"{config.name}: still is for videos on disk")
    if config.name == "rendered":
        return RenderedSource(config.clips, clips, _scene(config, clips))
    root = source_root(config, data_root)
    if config.name == "static":
        return ImageSource(stills_of_pairs(_static(config, root)), clips)
    videos = selected(labelled(config.name, root), lambda video: video.name, config)
    if config.still:
        return ImageSource(stills_of_videos(videos, config.name), clips)
    return VideoSource(videos, clips, config.frame_interval, config.name)


def _cutouts(
    config: SourceConfig, beneath: Sequence[ClipSource], clips: ClipConfig, data_root: Path | None
) -> ClipSource:
    require(not config.still, "cutouts: still is for videos on disk")
    pictures = index_cutouts(source_root(config, data_root))
    return CutoutSource(selected(pictures, lambda each: each.name.partition("/")[0], config), beneath, clips)


def _backgrounds(config: SourceConfig, clips: ClipConfig, data_root: Path | None) -> ClipSource:
    require(not config.still, "backgrounds: still is for videos on disk")
    pictures = stills_without_objects(source_root(config, data_root), clips.crop)
    alone = replace(clips, max_objects=1)  # there is nothing in one that could be pasted over another
    return ImageSource(selected(pictures, lambda each: each.name.split("/")[1], config), alone)


def _scene(config: SourceConfig, clips: ClipConfig) -> SceneConfig:
    """The scene that the options describe. Raises ValueError for those that follow from the clips."""
    given = parse_overrides(config.scene)
    fixed = sorted({"height", "width", "frames"} & set(given))
    require(not fixed, f"rendered: scene has {', '.join(fixed)}, which follow from the clips' crop and length")
    return build(SceneConfig, {"cycle": SPREAD * clips.length} | given, "rendered: scene")


def source_root(config: SourceConfig, data_root: Path | None) -> Path:
    """Where a data set is: at its own root, which may be relative to that of all data, or at that of all data.

    Raises ValueError where there is none.
    """
    require(
        bool(config.root) or data_root is not None,
        f"{config.name}: no root, wanted the folder of its files as `root` of the data set or as --data-root",
    )
    root = (data_root or Path()) / config.root
    found = "not a folder" if root.exists() else "no such folder"
    require(root.is_dir(), f"{config.name}: {root}: {found}, wanted the root of this data set")
    return root


def _static(config: SourceConfig, root: Path) -> list[ImagePair]:
    """Pairs of the sets asked for. Raises ValueError where one isn't there."""
    pairs = index_static(root, config.only)
    return selected(pairs, lambda pair: pair.name.partition("/")[0], replace(config, only=()))


def selected(items: Sequence[T], name_of: Callable[[T], str], config: SourceConfig) -> list[T]:
    """The items whose names are asked for. Raises ValueError for names that none has."""
    names = {name_of(item) for item in items}
    for what, asked in (("only", config.only), ("exclude", config.exclude)):
        strange = sorted(set(asked) - names)
        some = ", ".join(sorted(names)[:5])
        require(
            not strange, f"{config.name}: {what} names {', '.join(strange)}, of which it has none; it has {some}, ..."
        )
    left = [item for item in items if name_of(item) not in config.exclude]
    left = [item for item in left if not config.only or name_of(item) in config.only]
    require(bool(left), f"{config.name}: nothing left of {len(items)} after only and exclude")
    return left
