"""Data sets whose masks are all there: to train on, and to score classes by."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int32

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
    read_json,
    read_list,
    read_videos,
)
from cutie_geo.data.index.records import (
    IMAGE_SUFFIXES,
    ImagePair,
    LabelledVideo,
    Values,
    frame_files,
    is_plain,
    mask_files,
    mismatch,
    no_frames,
    some,
    subfolders,
)
from cutie_geo.data.masks import read_labels

VOID = 255
"""Label of pixels that no score counts."""
CLASSES = 124
"""Of VSPW and VIPSeg alike."""
STATIC_SETS = {"fss": 1, "DUTS-TR": 1, "DUTS-TE": 1, "ecssd": 1, "BIG_small": 5, "HRSOD_small": 5}
"""Folders of still images, and how often one epoch shows each image. Source: the training configuration of Cutie."""
NO_PAIR = "no image with a mask, wanted <name>.jpg and <name>.png side by side, or images/<name>.* and masks/<name>.png"

Masked = Literal["every frame", "some frames", "none"]


@dataclass(frozen=True)
class LabelledSpec:
    """One split of a data set with all of its masks, and how its videos are found."""

    name: str
    title: str
    index: Callable[..., list[LabelledVideo]]
    """`index(root, strict=True)`: the videos under a root. Not strict: what is wrong with an entry of a list is its
    video's `problem` instead of an error."""
    masked: Masked = "every frame"
    """Which frames have a mask if nothing is missing; none are published of some test splits."""


# ----------------------------------------------------------------------------------------------------------- records
def _videos(
    layout: Layout,
    strict: bool,
    values: Values = "objects",
    single_object: bool = False,
    long_ids: bool = False,
    masked: bool = True,
) -> list[LabelledVideo]:
    """One record for each video of a layout; `strict` as in `LabelledSpec`, masked: masks are published."""
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
        videos.append(LabelledVideo(name, frames, masks, values, single_object, long_ids, listed, problem))
    return videos


# ---------------------------------------------------------------------------------------------------------- training
def train_davis2016(root: Path, strict: bool = True) -> list[LabelledVideo]:
    """DAVIS 2016, train: one object in each video. Raises ValueError for another layout."""
    return _videos(find_davis2016(root, "train"), strict, single_object=True)


def train_davis2017(root: Path, strict: bool = True) -> list[LabelledVideo]:
    """DAVIS 2017, train. Raises ValueError for another layout."""
    return _videos(find_davis2017(root, "train"), strict)


def train_youtubevos(root: Path, strict: bool = True) -> list[LabelledVideo]:
    """YouTube-VOS, train, the same in 2018 and 2019; meta.json says where objects start, if it is there.

    Raises ValueError for another layout.
    """
    home = find_home(root, ("train", "YouTube/train", "YouTube2019/train", "YouTube2018/train", "."))
    frames, masks = find_level(home)
    path = home / "meta.json"
    if not path.is_file():
        return _videos(Layout(frames, masks, subfolders(frames)), strict)
    listed = {name: object_frames(video, f"{path}: {name}") for name, video in read_videos(path).items()}
    return _videos(Layout(frames, masks, sorted(listed), listed=listed), strict)


def train_mose(root: Path, strict: bool = True) -> list[LabelledVideo]:
    """MOSE, train, version 1 or 2. Raises ValueError for another layout."""
    return _videos(find_mose(root, "train"), strict)


def train_lvos(root: Path, strict: bool = True) -> list[LabelledVideo]:
    """LVOS, train, version 1 or 2. Raises ValueError for another layout."""
    return _videos(find_lvos(root, "train"), strict)


def train_visor(root: Path, strict: bool = True, split: str = "train") -> list[LabelledVideo]:
    """VISOR, converted; objects may start after the first frame. Raises ValueError for another layout."""
    return _videos(find_visor(root, split), strict)


def train_ovis(root: Path, strict: bool = True) -> list[LabelledVideo]:
    """OVIS, train, converted to folders of masks. Raises ValueError for another layout."""
    frames, masks = find_level(find_home(root, ("train", "OVIS/train", "OVIS", ".")))
    return _videos(Layout(frames, masks, subfolders(frames)), strict)


def train_burst(root: Path, strict: bool = True) -> list[LabelledVideo]:
    """BURST, train, converted to folders of masks, which may be RGB. Raises ValueError for another layout."""
    return _videos(find_burst(root, "train"), strict, long_ids=True)


# ----------------------------------------------------------------------------------------------------------- classes
def index_vspw(root: Path, split: str, strict: bool = True) -> list[LabelledVideo]:
    """VSPW; `split` is train, val or test, whose masks aren't published. Raises ValueError for another layout."""
    home = find_home(root, (".", "VSPW_480p", "VSPW/VSPW_480p", "VSPW"), "data")
    names = read_list(home / f"{split}.txt")
    layout = Layout(home / "data", home / "data", names, inside=("origin", "mask"))
    return _videos(layout, strict, values="vspw", masked=split != "test")


def index_vipseg(root: Path, split: str, strict: bool = True) -> list[LabelledVideo]:
    """VIPSeg; `split` is train or val, as its list `<split>.txt` or its panoptic JSON names the videos.

    Raises ValueError for another layout.
    """
    home = find_home(root, (".", "VIPSeg_720P", "VIPSeg/VIPSeg_720P", "VIPSeg"), "panomasks")
    folder = next((folder for folder in ("images", "imgs") if (home / folder).is_dir()), "images")
    path = home / f"{split}.txt"
    names = read_list(path) if path.is_file() else _panoptic_names(home / f"panoptic_gt_VIPSeg_{split}.json")
    return _videos(Layout(home / folder, home / "panomasks", names), strict, values="vipseg")


def _panoptic_names(path: Path) -> list[str]:
    """The videos of a panoptic JSON file. Raises ValueError if it can't be read or isn't one."""
    content = read_json(path)
    try:
        names = sorted(str(video["video_id"]) for video in content["videos"])
    except (TypeError, KeyError):
        raise ValueError(f'{path}: wanted {{"videos": [{{"video_id": name}}, ...]}}') from None
    require(bool(names), f"{path}: no videos")
    return names


def read_classes(path: Path, values: Values) -> Int32[np.ndarray, "H W"]:
    """Classes from 0 on in a mask of VSPW or VIPSeg, VOID where there is none.

    Raises ValueError naming the file if it can't be read or shows something that is no class.
    """
    raw = read_labels(path).labels
    strange = strange_classes(np.unique(raw).tolist(), values)
    require(not strange, f"{path}: got values {strange[:5]}, wanted classes 1 to {CLASSES}")
    classes = np.where(raw > CLASSES, raw // 100, raw) if values == "vipseg" else np.where(raw == VOID, 0, raw)
    return np.where(classes == 0, VOID, classes - 1).astype(np.int32)


def classes_among(present: Iterable[int], values: Values) -> set[int]:
    """The classes, from 1 on, that the values of a mask stand for."""
    if values == "vipseg":
        present = (value // 100 if value > CLASSES else value for value in present)
    return {value for value in present if 1 <= value <= CLASSES}


def strange_classes(present: list[int], values: Values) -> list[int]:
    """The values among those of a mask that stand neither for a class nor for void.

    VSPW: 0 and 255 are void. VIPSeg: 0 is void, values above the classes are class * 100 + instance.
    """
    if values == "vspw":
        return [value for value in present if value > CLASSES and value != VOID]
    return [value for value in present if value > CLASSES and not 1 <= value // 100 <= CLASSES]


# ------------------------------------------------------------------------------------------------------------- images
def index_static(root: Path, sets: Iterable[str] = ()) -> list[ImagePair]:
    """Still images with the masks of their objects, from folders in `root` or in its folder `static`.

    sets: names of these folders, any; none: those of STATIC_SETS that are there. An image without a mask is left out.
    Raises ValueError if there is no set, if one that is named isn't there or has no pair, and where two files share a
    name.
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
    """The folder that holds all of `sets`: the root or its folder `static`. Raises ValueError if neither does."""
    for home in (root, root / "static"):
        if all(is_plain(name) and (home / name).is_dir() for name in sets):
            return home
    there = subfolders(root / "static") or subfolders(root)
    raise ValueError(f"{root}: wanted the folders {', '.join(sets)} there or in static; there are {some(there)}")


def _pairs(home: Path, name: str) -> list[ImagePair]:
    images, masks = static_files(home / name)
    times = STATIC_SETS.get(name, 1)
    return [ImagePair(f"{name}/{stem}", images[stem], masks[stem], times) for stem in images if stem in masks]


def static_home(root: Path) -> Path:
    """The folder that holds sets of still images: the root or its folder `static`. Raises ValueError if none does."""
    require(root.is_dir(), f"{root}: {'not a folder' if root.exists() else 'no such folder'}, wanted a dataset's root")
    for home in (root, root / "static"):
        if static_sets(home):
            return home
    raise ValueError(f"{root}: not the layout of this dataset, wanted one of the folders {', '.join(STATIC_SETS)}")


def static_sets(home: Path) -> list[str]:
    """Names of the sets of still images in a folder."""
    return [name for name in STATIC_SETS if (home / name).is_dir()]


def static_files(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Images and masks of a set by their path in it without suffix.

    Where the set has the folders `images` and `masks`, these hold files of equal stems, images of any format. Else
    images that are no PNG lie beside their masks, in `folder` and in the folders in it. Raises ValueError where two
    images share a name.
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
    """The images of a folder that aren't masks, by stem."""
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
        LabelledSpec("vspw-train", "VSPW, train", partial(index_vspw, split="train")),
        LabelledSpec("vspw-val", "VSPW, val", partial(index_vspw, split="val")),
        LabelledSpec("vspw-test", "VSPW, test", partial(index_vspw, split="test"), "none"),
        LabelledSpec("vipseg-train", "VIPSeg, train", partial(index_vipseg, split="train")),
        LabelledSpec("vipseg-val", "VIPSeg, val", partial(index_vipseg, split="val")),
    ]


LABELLED: dict[str, LabelledSpec] = {spec.name: spec for spec in _specs()}


def labelled_names() -> list[str]:
    """Names that `labelled` understands."""
    return list(LABELLED)


def labelled_spec(name: str) -> LabelledSpec:
    """How a labelled data set is found. Raises ValueError for an unknown name."""
    require(name in LABELLED, f"{name}: no such dataset; wanted one of {', '.join(LABELLED)}")
    return LABELLED[name]


def labelled(name: str, root: Path) -> list[LabelledVideo]:
    """The videos, with all masks, of a data set whose files are under `root`.

    Raises ValueError for an unknown name and where the files aren't as published; what concerns one video only is its
    `problem`.
    """
    return labelled_spec(name).index(root)
