"""Dataset of training samples as a function of seed, epoch, index and progress."""

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
from cutie_geo.data.clips.merge import first_ids, paste, paste_twin, to_slots
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
    with_objects,
)
from cutie_geo.data.index import LABELLED, ImagePair, index_static, labelled
from cutie_geo.data.render import SceneConfig
from cutie_geo.structures import ClipKey

MAX_BAD_DRAWS = 20
"""Maximum number of draws for one sample that hit unusable files."""

T = TypeVar("T")


class Clip(NamedTuple):
    """One training sample."""

    images: UInt8[Tensor, "T 3 crop crop"]
    """RGB."""
    labels: UInt8[Tensor, "T crop crop"]
    """Slots 1 to n of the objects in the first frame; 0 is background."""
    num_objects: int
    """Number of objects n, at least 1; a clip without objects has one empty slot."""
    seed: int
    """Seed of random draws in training, 63 bits."""
    name: str
    """Description from which the files can be identified."""
    problems: tuple[str, ...]
    """Unusable files that were replaced by another draw, with the reasons."""
    distance: Float[Tensor, "T crop crop"] | None = None
    """Distance from the camera, NaN where it is unknown. None: unknown."""


class ClipDataset(Dataset[Clip]):
    """A mixture of sources, indexed by `ClipKey`. Stateless, and independent of global generators."""

    def __init__(self, sources: Sequence[ClipSource], config: ClipConfig, seed: int) -> None:
        """Initialise. Raises ValueError for a negative seed or no sources."""
        require(seed >= 0, f"seed: got {seed}, expected 0 or more")
        require(bool(sources), "sources: got none, expected at least one")
        self.sources, self.config, self.seed = list(sources), config, seed
        self._mixture = Mixture(self.sources)
        self._merging = Mixture([source for source in self.sources if source.merges])

    def __len__(self) -> int:
        """Return the number of items of one epoch."""
        return len(self._mixture)

    def __getitem__(self, key: ClipKey) -> Clip:
        """Return the sample of `key`. Raises ValueError if too many consecutive draws hit unusable files."""
        sample = np.random.SeedSequence([self.seed, key.epoch, key.index])
        seed, start = (int(word) >> 1 for word in sample.generate_state(2, np.uint64))
        rng, problems = random.Random(start), list[str]()
        source, clip = self._first_usable(self._mixture, key.index, key.progress, rng, problems)
        if self.config.twin_probability and rng.random() < self.config.twin_probability:
            clip = self._twinned(clip, rng)
        if source.merges and len(first_ids(clip.labels)) < self.config.max_objects:
            clip = self._merged(clip, key.progress, rng, problems)
        slots, count = to_slots(clip.labels, self.config.max_objects, rng)
        return Clip(clip.images, slots, max(count, 1), seed, clip.name, tuple(problems), clip.distance)

    def _twinned(self, clip: VideoClip, rng: random.Random) -> VideoClip:
        """Return the clip with its own objects pasted into it again."""
        free_slots = self.config.max_objects - len(first_ids(clip.labels))
        images, labels = paste_twin(clip.images, clip.labels, free_slots, rng)
        distance = clip.distance
        if distance is not None:
            changed = (images != clip.images).any(1)
            distance = distance.masked_fill(changed, float("nan"))
        return VideoClip(images, labels, f"{clip.name} twice", distance)

    def _merged(self, clip: VideoClip, progress: float, rng: random.Random, problems: list[str]) -> VideoClip:
        """Return the clip, with the objects of a second clip pasted over it at random."""
        if rng.random() >= self.config.merge_probability:
            return clip
        _, other = self._first_usable(self._merging, rng.randrange(len(self._merging)), progress, rng, problems)
        images, labels = paste(*clip[:2], *other[:2])
        # the pasted clip has distances in another unit
        distance = None if clip.distance is None else clip.distance.masked_fill(labels != clip.labels, float("nan"))
        return VideoClip(images, labels, f"{clip.name} + {other.name}", distance)

    def _first_usable(
        self, mixture: Mixture, index: int, progress: float, rng: random.Random, problems: list[str]
    ) -> tuple[ClipSource, VideoClip]:
        """Return the clip at `index`; if a file is unusable, note it and draw another clip."""
        for _ in range(MAX_BAD_DRAWS + 1):
            source, item = mixture.place(index)
            try:
                return source, source.draw(item, progress, rng)
            except UnusableFile as error:
                problems.append(str(error))
                index = rng.randrange(len(mixture))
        raise ValueError(
            f"{len(problems)} draws for one sample met files that cannot be used, the last: {problems[-1]}"
        )


class Repeated:
    """A source whose items are listed `times` times per epoch."""

    def __init__(self, source: ClipSource, times: int) -> None:
        self.source, self.times, self.merges = source, times, source.merges

    def __len__(self) -> int:
        """Return the number of items, with repetitions."""
        return len(self.source) * self.times

    def draw(self, item: int, progress: float, rng: random.Random) -> VideoClip:
        """Draw from the source. Raises UnusableFile."""
        return self.source.draw(item % len(self.source), progress, rng)

    def contents(self) -> list[str]:
        """Return the contents of the source."""
        return self.source.contents()


def fingerprint(source: ClipSource) -> str:
    """Return the number and type of a source's items, and a digest of their names and version."""
    lines = source.contents()
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    return f"{len(source)} items of {lines[0].partition('/')[0].partition(':')[0]}, {digest}"


# ------------------------------------------------------------------------------------------------------- configuration
def source_names() -> list[str]:
    """Return the valid values of `SourceConfig.name`."""
    return ["backgrounds", "cutouts", "rendered", "static", *LABELLED]


def build_sources(
    configs: Sequence[SourceConfig], clips: ClipConfig, data_root: Path | None = None
) -> list[ClipSource]:
    """Build the sources of a mixture, each repeated as configured.

    Files are listed, and one mask of each video is read to exclude videos without objects.

    Raises:
        ValueError: for unknown data sets, videos and options, missing folders, and a data set without usable files.
    """
    found, behind, over = dict[int, ClipSource](), list[ClipSource](), list[int]()
    for n, config in enumerate(configs):
        if config.name == "cutouts":
            over.append(n)
        elif config.name == "backgrounds":
            behind.append(_repeated(_backgrounds(config, clips, data_root), config.times))
        else:
            found[n] = _repeated(_source(config, clips, data_root), config.times)
    require(bool(over) or not behind, "backgrounds: got no cutouts to paste over them, expected cutouts among the data")
    beneath = [source for source in found.values() if source.merges] + behind
    for n in over:
        found[n] = _repeated(_cutouts(configs[n], beneath, clips, data_root), configs[n].times)
    return [found[n] for n in sorted(found)]


def require_known(configs: Sequence[SourceConfig], clips: ClipConfig) -> None:
    """Raise ValueError for unknown data sets and invalid options, without reading any files."""
    known = source_names()
    for config in configs:
        require(config.name in known, f"data: got {config.name!r}, expected one of {', '.join(known)}")
        if config.name in ("rendered", "static", "cutouts", "backgrounds"):
            require(not config.still, f"{config.name}: still is for videos on disk")
        if config.name == "rendered":
            _scene(config, clips)


def _repeated(source: ClipSource, times: int) -> ClipSource:
    return Repeated(source, times) if times > 1 else source


def _source(config: SourceConfig, clips: ClipConfig, data_root: Path | None) -> ClipSource:
    known = source_names()
    require(config.name in known, f"data: got {config.name!r}, expected one of {', '.join(known)}")
    if config.crop_scale is not None:
        clips = replace(clips, video=replace(clips.video, crop_scale=config.crop_scale))
    if config.name in ("rendered", "static"):
        require(not config.still, f"{config.name}: still is for videos on disk")
    if config.name == "rendered":
        return RenderedSource(config.clips, clips, _scene(config, clips))
    root = source_root(config, data_root)
    if config.name == "static":
        return ImageSource(stills_of_pairs(_static(config, root)), clips)
    videos = with_objects(selected(labelled(config.name, root), lambda video: video.name, config), config.name)
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
    alone = replace(clips, max_objects=1)  # backgrounds have no objects to paste
    return ImageSource(selected(pictures, lambda each: each.name.split("/")[1], config), alone)


def _scene(config: SourceConfig, clips: ClipConfig) -> SceneConfig:
    """Return the configured scene. Raises ValueError for options that are derived from the clips."""
    given = parse_overrides(config.scene)
    fixed = sorted({"height", "width", "frames"} & set(given))
    require(not fixed, f"rendered: scene has {', '.join(fixed)}, which follow from the clips' crop and length")
    return build(SceneConfig, {"cycle": SPREAD * clips.length} | given, "rendered: scene")


def source_root(config: SourceConfig, data_root: Path | None) -> Path:
    """Return the root of a data set: its own, possibly relative to that of all data, or the root of all data.

    Raises:
        ValueError: if it is not set or missing.
    """
    require(
        bool(config.root) or data_root is not None,
        f"{config.name}: no root, expected the folder of its files as `root` of the data set or as --data-root",
    )
    root = (data_root or Path()) / config.root
    found = "not a folder" if root.exists() else "no such folder"
    require(root.is_dir(), f"{config.name}: {root}: {found}, expected the root of this data set")
    return root


def _static(config: SourceConfig, root: Path) -> list[ImagePair]:
    """Return the image pairs of the configured sets. Raises ValueError if a set is missing."""
    pairs = index_static(root, config.only)
    kept = selected(pairs, lambda pair: pair.name.partition("/")[0], replace(config, only=()))
    return _without_last(kept, config.hold_out) if config.hold_out else kept


def _without_last(pairs: Sequence[ImagePair], count: int) -> list[ImagePair]:
    """Return the pairs without the last `count` by name of each set. Raises ValueError for a set without others."""
    names: dict[str, list[str]] = {}
    for pair in pairs:
        names.setdefault(pair.name.partition("/")[0], []).append(pair.name)
    for group, members in names.items():
        few = len(set(members))
        require(few > count, f"static: hold_out: {group} has {few} images, expected more than {count}")
    last = {name for members in names.values() for name in sorted(set(members))[-count:]}
    return [pair for pair in pairs if pair.name not in last]


def selected(items: Sequence[T], name_of: Callable[[T], str], config: SourceConfig) -> list[T]:
    """Return the items selected by `only` and `exclude`. Raises ValueError for unknown names."""
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
