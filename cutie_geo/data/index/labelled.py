"""Data sets with masks on all frames, for training and scoring: videos and static images."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from cutie_geo.config import require
from cutie_geo.data.index.benchmarks import (
    find_burst,
    find_davis2016,
    find_davis2017,
    find_lvos,
    find_mose,
    find_visor,
)
from cutie_geo.data.index.layouts import (
    Layout,
    find_home,
    find_level,
    listed_videos,
    object_frames,
    read_videos,
)
from cutie_geo.data.index.own import index_own
from cutie_geo.data.index.records import (
    IMAGE_SUFFIXES,
    ClassEncoding,
    ImagePair,
    LabelledVideo,
    frame_files,
    is_plain,
    mask_files,
    mismatch,
    no_frames,
    some,
    subfolders,
)

STATIC_SETS = {"fss": 1, "DUTS-TR": 1, "DUTS-TE": 1, "ecssd": 1, "BIG_small": 5, "HRSOD_small": 5}
"""Folders of static images and their repetitions per epoch. Source: the training configuration of Cutie."""
NO_PAIR = (
    "no image with a mask, expected <name>.jpg and <name>.png side by side, or images/<name>.* and masks/<name>.png"
)

Masked = Literal["every frame", "some frames", "none"]


@dataclass(frozen=True)
class LabelledSpec:
    """One split of a data set with all its masks."""

    name: str
    title: str
    index: Callable[..., list[LabelledVideo]]
    """Return the videos under a root: `index(root, strict=True)`. If not strict, a wrong list entry is the
    `problem` of its video instead of an error.
    """
    masked: Masked = "every frame"
    """Frames with masks in a complete copy; some test splits have none."""


# ----------------------------------------------------------------------------------------------------------- records
def labelled_videos(
    layout: Layout,
    strict: bool,
    single_object: bool = False,
    long_ids: bool = False,
    masked: bool = True,
    encoding: ClassEncoding | None = None,
) -> list[LabelledVideo]:
    """Return one record for each video of a layout.

    Args:
        layout: folders and names of the videos.
        strict: see `LabelledSpec.index`.
        single_object: all labels above 0 are one object.
        long_ids: masks may be RGB.
        masked: the masks of this split are published.
        encoding: how mask values stand for semantic classes; None for object ids.
    """
    videos = []
    for name, problem in listed_videos(layout, strict).items():
        source, folder = layout.frames_of(name), layout.masks_of(name)
        frames, masks = {}, {}
        try:
            require(problem is None, str(problem))
            require(source.is_dir(), no_frames(source))
            frames, masks = frame_files(source), mask_files(folder)
            problem = mismatch(source, frames, folder, masks) if masked else (None if frames else no_frames(source))
        except ValueError as error:
            problem = str(error)
        listed = layout.listed.get(name)
        videos.append(LabelledVideo(name, frames, masks, single_object, long_ids, listed, problem, encoding))
    return videos


# ---------------------------------------------------------------------------------------------------------- training
def train_davis2016(root: Path, strict: bool = True) -> list[LabelledVideo]:
    """List DAVIS 2016, train, with one object per video. Raises ValueError for another layout."""
    return labelled_videos(find_davis2016(root, "train"), strict, single_object=True)


def train_davis2017(root: Path, strict: bool = True) -> list[LabelledVideo]:
    """List DAVIS 2017, train. Raises ValueError for another layout."""
    return labelled_videos(find_davis2017(root, "train"), strict)


def train_youtubevos(root: Path, strict: bool = True) -> list[LabelledVideo]:
    """List YouTube-VOS, train, equal in 2018 and 2019; objects start as in meta.json, if it exists.

    Raises:
        ValueError: for another layout.
    """
    home = find_home(root, ("train", "YouTube/train", "YouTube2019/train", "YouTube2018/train", "."))
    frames, masks = find_level(home)
    path = home / "meta.json"
    if not path.is_file():
        return labelled_videos(Layout(frames, masks, subfolders(frames)), strict)
    listed = {name: object_frames(video, f"{path}: {name}") for name, video in read_videos(path).items()}
    return labelled_videos(Layout(frames, masks, sorted(listed), listed=listed), strict)


def train_mose(root: Path, strict: bool = True) -> list[LabelledVideo]:
    """List MOSE, train, version 1 or 2. Raises ValueError for another layout."""
    return labelled_videos(find_mose(root, "train"), strict)


def train_lvos(root: Path, strict: bool = True) -> list[LabelledVideo]:
    """List LVOS, train, version 1 or 2. Raises ValueError for another layout."""
    return labelled_videos(find_lvos(root, "train"), strict)


def train_visor(root: Path, strict: bool = True, split: str = "train") -> list[LabelledVideo]:
    """List VISOR, converted; objects may start after the first frame. Raises ValueError for another layout."""
    return labelled_videos(find_visor(root, split), strict)


def train_ovis(root: Path, strict: bool = True) -> list[LabelledVideo]:
    """List OVIS, train, converted to folders of masks. Raises ValueError for another layout."""
    frames, masks = find_level(find_home(root, ("train", "OVIS/train", "OVIS", ".")))
    return labelled_videos(Layout(frames, masks, subfolders(frames)), strict)


def train_burst(root: Path, strict: bool = True) -> list[LabelledVideo]:
    """List BURST, train, converted to folders of masks, which may be RGB. Raises ValueError for another layout."""
    return labelled_videos(find_burst(root, "train"), strict, long_ids=True)


# ------------------------------------------------------------------------------------------------------------- images
def index_static(root: Path, sets: Iterable[str] = ()) -> list[ImagePair]:
    """List static images with masks from folders in `root` or `root`/static.

    Args:
        sets: names of the folders. Empty: those of STATIC_SETS that exist.

    Images without a mask are skipped.

    Raises:
        ValueError: if no set exists, if a named set is missing or has no pair, or if two files share a name.
    """
    sets = tuple(sets)
    home = _home_of(root, sets) if sets else static_home(root)
    pairs = []
    for name in sets or static_sets(home):
        found = _pairs(home, name)
        require(bool(found) or not sets, f"{home / name}: {NO_PAIR}")
        pairs += found
    require(bool(pairs), f"{home}: {NO_PAIR}")
    return pairs


def _home_of(root: Path, sets: tuple[str, ...]) -> Path:
    """Return the folder that holds all of `sets`: the root or its folder `static`. Raises ValueError if neither
    does.
    """
    for home in (root, root / "static"):
        if all(is_plain(name) and (home / name).is_dir() for name in sets):
            return home
    there = subfolders(root / "static") or subfolders(root)
    raise ValueError(f"{root}: expected the folders {', '.join(sets)} there or in static; there are {some(there)}")


def _pairs(home: Path, name: str) -> list[ImagePair]:
    images, masks = static_files(home / name)
    times = STATIC_SETS.get(name, 1)
    return [ImagePair(f"{name}/{stem}", images[stem], masks[stem], times) for stem in images if stem in masks]


def static_home(root: Path) -> Path:
    """Return the folder that holds static sets: the root or its folder `static`. Raises ValueError if neither does."""
    require(
        root.is_dir(), f"{root}: {'not a folder' if root.exists() else 'no such folder'}, expected a dataset's root"
    )
    for home in (root, root / "static"):
        if static_sets(home):
            return home
    raise ValueError(f"{root}: not the layout of this dataset, expected one of the folders {', '.join(STATIC_SETS)}")


def static_sets(home: Path) -> list[str]:
    """Return the names of the static sets in a folder."""
    return [name for name in STATIC_SETS if (home / name).is_dir()]


def static_files(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return images and masks of a set by their path in it without suffix.

    If the set has folders `images` and `masks`, they hold files of equal stems, with images of any format. Otherwise,
    images that are not PNG are beside their masks, in `folder` and its subfolders.

    Raises:
        ValueError: if two images share a name.
    """
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        return frame_files(folder / "images"), mask_files(folder / "masks")
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for inner in ("", *subfolders(folder)):
        start = f"{inner}/" if inner else ""
        found = mask_files(folder / inner)
        masks |= {start + stem: path for stem, path in found.items()}
        images |= {start + stem: path for stem, path in _photos(folder / inner).items()}
    return images, masks


def _photos(folder: Path) -> dict[str, Path]:
    """Return the images of a folder that are not masks, by stem."""
    return frame_files(folder, IMAGE_SUFFIXES - {".png"})


# ------------------------------------------------------------------------------------------------------------ by name
def _specs() -> list[LabelledSpec]:
    return [
        LabelledSpec("davis2016-train", "DAVIS 2016, train", train_davis2016),
        LabelledSpec("davis2017-train", "DAVIS 2017, train", train_davis2017),
        LabelledSpec("youtubevos-train", "YouTube-VOS, train", train_youtubevos),
        LabelledSpec("mose-train", "MOSE 1 and 2, train", train_mose),
        LabelledSpec("lvos-train", "LVOS 1 and 2, train", train_lvos),
        LabelledSpec("ovis-train", "OVIS, train, converted", train_ovis),
        LabelledSpec("burst-train", "BURST, train, converted", train_burst, "some frames"),
        LabelledSpec("visor-train", "VISOR, train, converted", train_visor),
        LabelledSpec("visor-val", "VISOR, val, converted", partial(train_visor, split="val")),
        LabelledSpec("own", "own videos", index_own, "some frames"),
        LabelledSpec("own-train", "own videos for training", partial(index_own, split="train"), "some frames"),
        LabelledSpec("own-val", "own videos for validation", partial(index_own, split="val"), "some frames"),
        LabelledSpec("generic", "own videos", index_own, "some frames"),
    ]


LABELLED: dict[str, LabelledSpec] = {spec.name: spec for spec in _specs()}


def labelled_names() -> list[str]:
    """Return the names that `labelled` accepts."""
    return list(LABELLED)


def labelled_spec(name: str) -> LabelledSpec:
    """Return the specification of a labelled data set. Raises ValueError for an unknown name."""
    require(name in LABELLED, f"{name}: no such dataset; expected one of {', '.join(LABELLED)}")
    return LABELLED[name]


def labelled(name: str, root: Path) -> list[LabelledVideo]:
    """Return the videos of a data set with files under `root`, with all masks.

    A fault of a single video becomes its `problem`.

    Raises:
        ValueError: for an unknown name, and for files that are not in the published layout.
    """
    return labelled_spec(name).index(root)
