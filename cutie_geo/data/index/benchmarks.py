"""Benchmarks to segment: how each is run by convention, and how its videos and their first masks are found."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from cutie_geo.config import require
from cutie_geo.data.index.layouts import (
    Layout,
    find_home,
    find_level,
    listed_videos,
    object_frames,
    only_ids,
    read_json,
    read_list,
    read_videos,
    split_names,
)
from cutie_geo.data.index.records import MaskRule, VideoRecord, frame_stems, mask_files, mismatch, subfolders


@dataclass(frozen=True)
class DatasetSpec:
    """One split of a benchmark: how it is run by convention, and how its videos are found."""

    name: str
    title: str
    size: int
    """Frames are resized so that their shorter side has this many pixels, if it has more; -1 for never."""
    mem_every: int
    """A frame enters memory every this many frames."""
    use_long_term: bool
    masks: MaskRule
    """Masks given to the tracker: the earliest of a video, every one, or each object's earliest."""
    saved: Literal["all", "listed"]
    """Frames whose results are written: every one, or those that the benchmark lists."""
    index: Callable[..., list[VideoRecord]]
    """`index(root, strict=True)`: the videos under a root. Not strict: what is wrong with an entry of a list is its
    video's `problem` instead of an error."""
    single_object: bool = False
    """Every label above 0 is one and the same object (DAVIS 2016, whose masks DAVIS 2017 split into several)."""


# ----------------------------------------------------------------------------------------------------------- records
def video_records(layout: Layout, rule: MaskRule, strict: bool) -> list[VideoRecord]:
    """One record for each video of a layout.

    strict: raise ValueError if a video is listed twice or has no folder; otherwise that is its `problem`.
    """
    records = []
    for name, problem in listed_videos(layout, strict).items():
        source, folder = layout.frames_of(name), layout.masks_of(name)
        record = VideoRecord(name, source, problem=problem) if problem else folder_record(name, source, folder, rule)
        records.append(replace(record, listed=layout.listed.get(name)))
    return records


def folder_record(name: str, source: Path, folder: Path, rule: MaskRule) -> VideoRecord:
    """The frames in `source` with the masks in `folder`; whatever is wrong with it becomes its `problem`."""
    record = VideoRecord(name, source, first_appearances_only=rule == "first_appearance")
    try:
        stems, masks = frame_stems(source), mask_files(folder)
        if rule == "first":
            masks = dict(list(masks.items())[:1])
        problem = mismatch(source, stems, folder, masks)
    except ValueError as error:
        return replace(record, problem=str(error))
    return replace(record, masks=masks, problem=problem)


# ------------------------------------------------------------------------------------------------------------ layouts
def find_davis2016(root: Path, split: str) -> Layout:
    """DAVIS 2016 in its own tree or in that of 2017. Raises ValueError for another layout."""
    home = find_home(root, (".", "2016", "DAVIS/2016", "DAVIS", "trainval", "2017/trainval", "DAVIS/2017/trainval"))
    frames, masks = find_level(home, ("480p", "1080p", "Full-Resolution"))
    beside = home.resolve().parent / "2017" / "trainval"
    lists = [base / "ImageSets" / year / f"{split}.txt" for year in ("2016", "480p") for base in (home, beside)]
    return Layout(frames, masks, split_names(home, (lists[0], lists[2], lists[1], lists[3]), frames))


def find_davis2017(root: Path, split: str) -> Layout:
    """DAVIS 2017; `split` is train, val or test-dev. Raises ValueError for another layout."""
    archive = "test-dev" if split == "test-dev" else "trainval"
    home = find_home(root, (".", archive, f"2017/{archive}", f"DAVIS/2017/{archive}", "2017", "DAVIS/2017", "DAVIS"))
    frames, masks = find_level(home, ("480p", "Full-Resolution"))
    lists = [home / "ImageSets" / "2017" / f"{split}.txt"]
    return Layout(frames, masks, split_names(home, lists, frames))


def find_mose(root: Path, split: str) -> Layout:
    """MOSE, version 1 or 2. Raises ValueError for another layout."""
    frames, masks = find_level(find_home(root, (split, f"MOSE/{split}", f"MOSEv2/{split}", ".")))
    return Layout(frames, masks, subfolders(frames))


def find_lsvos(root: Path, split: str) -> Layout:
    """The LSVOS challenge's mixture of MOSE and LVOS, in the layout of MOSE. Raises ValueError for another layout."""
    frames, masks = find_level(find_home(root, (split, f"LSVOS/{split}", ".")))
    return Layout(frames, masks, subfolders(frames))


def find_lvos(root: Path, split: str) -> Layout:
    """LVOS, version 1 or 2; `split` is train, valid or test. Its list is `<split>_meta.json`, else every folder is
    taken. Raises ValueError for another layout."""
    spellings = ("val", "valid") if split == "valid" else (split,)
    home = find_home(root, (*(f"{base}{name}" for base in ("", "LVOS/") for name in spellings), "."))
    frames, masks = find_level(home)
    lists = [base / f"{name}_meta.json" for base in (home, home.resolve().parent) for name in spellings]
    path = next((path for path in lists if path.is_file()), None)
    if path is None:
        return Layout(frames, masks, subfolders(frames))
    videos = read_videos(path)
    ids = {name: only_ids(video.get("objects")) for name, video in videos.items() if isinstance(video, dict)}
    return Layout(frames, masks, sorted(videos), listed={name: found for name, found in ids.items() if found})


def find_visor(root: Path, split: str) -> Layout:
    """VISOR as converted to the layout of DAVIS; `split` is train, val, val_unseen or test.

    Its ids are those of `<split>_data_mapping.json`, where that is there. Raises ValueError for another layout.
    """
    home = find_home(root, (".", "VISOR_2022", "VISOR", "VISOR/VISOR_2022"))
    frames, masks = find_level(home, ("480p",))
    # train and val lie in the same folders, so there is no doing without the list
    names = read_list(home / "ImageSets" / "2022" / f"{split}.txt")
    path = home / f"{split.removesuffix('_unseen')}_data_mapping.json"
    mapping = read_json(path) if path.is_file() else {}
    require(isinstance(mapping, dict), f"{path}: wanted {{video: {{id: name}}}}")
    ids = {name: only_ids(mapping.get(name)) for name in names}
    return Layout(frames, masks, names, listed={name: found for name, found in ids.items() if found})


def find_burst(root: Path, split: str) -> Layout:
    """BURST as converted to folders of masks; `split` is train, val or test. Raises ValueError for another layout."""
    frames, masks = find_level(find_home(root, (split, f"BURST/{split}", "BURST", ".")))
    return Layout(frames, masks, subfolders(frames))


# --------------------------------------------------------------------------------------------------------- benchmarks
def index_davis2016(root: Path, split: str, strict: bool = True) -> list[VideoRecord]:
    """DAVIS 2016, from its own tree or from DAVIS 2017's. Raises ValueError for another layout."""
    return video_records(find_davis2016(root, split), "first", strict)


def index_davis2017(root: Path, split: str, strict: bool = True) -> list[VideoRecord]:
    """DAVIS 2017; `split` is train, val or test-dev. Raises ValueError for another layout."""
    return video_records(find_davis2017(root, split), "first", strict)


def index_youtubevos(root: Path, split: str, year: int = 2019, strict: bool = True) -> list[VideoRecord]:
    """YouTube-VOS: every frame is seen where `<split>_all_frames` is there, those that meta.json lists are saved.

    Raises ValueError for another layout and for a meta.json that says no frames.
    """
    places = (split, f"YouTube{year}/{split}", *([f"YouTube/{split}"] if year == 2019 else []), ".")
    home = find_home(root, places, "Annotations")
    # not `home.parent`: of "." that would be "." itself
    near = home.resolve().parent
    options = [near / f"{split}_all_frames", near / "all_frames" / f"{split}_all_frames", home]
    frames = next((path / "JPEGImages" for path in options if (path / "JPEGImages").is_dir()), home / "JPEGImages")
    require(frames.is_dir(), f"{frames}: no such folder, wanted the frames of {home / 'Annotations'}")
    path = home / "meta.json"
    videos = read_videos(path)
    records = video_records(Layout(frames, home / "Annotations", sorted(videos)), "all", strict)
    return [_with_meta(record, object_frames(videos[record.name], f"{path}: {record.name}")) for record in records]


def _with_meta(record: VideoRecord, frames: Mapping[int, list[str]]) -> VideoRecord:
    """The record with what the lists of its objects' frames say: first appearances and saved frames."""
    starts: dict[str, set[int]] = {}
    for object_id, stems in frames.items():
        starts.setdefault(stems[0], set()).add(object_id)
    saved = frozenset(stem for stems in frames.values() for stem in stems)
    record = replace(record, saved=saved, listed=frames)
    if not set(starts) <= set(record.masks):
        # the lists disagree with the masks, which are what there is to start from
        return replace(record, first_appearances_only=True)
    masks = {stem: path for stem, path in record.masks.items() if stem in starts}
    return replace(record, masks=masks, keep_ids={stem: frozenset(starts[stem]) for stem in masks})


def index_mose(root: Path, split: str, strict: bool = True) -> list[VideoRecord]:
    """MOSE, version 1 or 2. Raises ValueError for another layout."""
    return video_records(find_mose(root, split), "first", strict)


def index_lsvos(root: Path, split: str, strict: bool = True) -> list[VideoRecord]:
    """The LSVOS challenge's mixture of MOSE and LVOS, in some of whose videos objects come later. Raises ValueError for
    another layout."""
    return video_records(find_lsvos(root, split), "first_appearance", strict)


def index_lvos(root: Path, split: str, strict: bool = True) -> list[VideoRecord]:
    """LVOS, version 1 or 2; `split` is valid or test. Its list is `<split>_meta.json`, else every folder is taken.

    Raises ValueError for another layout.
    """
    return video_records(find_lvos(root, split), "first_appearance", strict)


def index_visor(root: Path, split: str, strict: bool = True) -> list[VideoRecord]:
    """VISOR, converted; the objects are those of a sequence's first mask. Raises ValueError for another layout."""
    return video_records(find_visor(root, split), "first", strict)


def index_burst(root: Path, split: str, strict: bool = True) -> list[VideoRecord]:
    """BURST, converted: each track starts at its first mask; masks may be RGB. Raises ValueError for another layout."""
    records = video_records(find_burst(root, split), "first_appearance", strict)
    return [replace(record, long_ids=True) for record in records]


def index_generic(root: Path, split: str = "", strict: bool = True) -> list[VideoRecord]:
    """Any tree of JPEGImages/<video>/ and Annotations/<video>/, also with a folder 480p between. `split` is ignored.

    Raises ValueError for another layout.
    """
    frames, masks = find_level(find_home(root, (".",)), ("480p",))
    return video_records(Layout(frames, masks, subfolders(frames)), "first", strict)


def _specs() -> list[DatasetSpec]:
    """Settings by which results are comparable with published ones. Source: the evaluation configuration of Cutie."""
    davis = partial(DatasetSpec, size=480, mem_every=5, use_long_term=False, masks="first", saved="all")
    youtube = partial(DatasetSpec, size=480, mem_every=5, use_long_term=False, masks="first_appearance", saved="listed")
    lvos = partial(DatasetSpec, size=480, mem_every=5, use_long_term=True, masks="first_appearance", saved="all")
    burst = partial(DatasetSpec, size=600, mem_every=10, use_long_term=True, masks="first_appearance", saved="all")
    one = partial(davis, single_object=True)
    return [
        one("davis2016-train", "DAVIS 2016, train", index=partial(index_davis2016, split="train")),
        one("davis2016-val", "DAVIS 2016, val", index=partial(index_davis2016, split="val")),
        davis("davis2017-train", "DAVIS 2017, train", index=partial(index_davis2017, split="train")),
        davis("davis2017-val", "DAVIS 2017, val", index=partial(index_davis2017, split="val")),
        davis("davis2017-test-dev", "DAVIS 2017, test-dev", index=partial(index_davis2017, split="test-dev")),
        youtube(
            "youtubevos2018-valid", "YouTube-VOS 2018, valid", index=partial(index_youtubevos, split="valid", year=2018)
        ),
        youtube(
            "youtubevos2019-valid", "YouTube-VOS 2019, valid", index=partial(index_youtubevos, split="valid", year=2019)
        ),
        davis("mose-valid", "MOSE 1 and 2, valid", index=partial(index_mose, split="valid")),
        lvos("lvos-valid", "LVOS 1 and 2, valid", index=partial(index_lvos, split="valid")),
        lvos("lsvos2024-valid", "LSVOS 2024, MOSE and LVOS, valid", index=partial(index_lsvos, split="valid")),
        lvos("lvos-test", "LVOS 1 and 2, test", index=partial(index_lvos, split="test")),
        davis("visor-train", "VISOR, train", index=partial(index_visor, split="train")),
        davis("visor-val", "VISOR, val", index=partial(index_visor, split="val")),
        davis("visor-val-unseen", "VISOR, val of unseen kitchens", index=partial(index_visor, split="val_unseen")),
        davis("visor-test", "VISOR, test", index=partial(index_visor, split="test")),
        burst("burst-val", "BURST, val", index=partial(index_burst, split="val")),
        burst("burst-test", "BURST, test", index=partial(index_burst, split="test")),
        DatasetSpec("generic", "any videos", -1, 5, True, "first", "all", index_generic),
    ]


DATASETS: dict[str, DatasetSpec] = {spec.name: spec for spec in _specs()}


def dataset_names() -> list[str]:
    """Names that `dataset` understands."""
    return list(DATASETS)


def dataset_spec(name: str) -> DatasetSpec:
    """The settings of a dataset. Raises ValueError for an unknown name."""
    require(name in DATASETS, f"{name}: no such dataset; wanted one of {', '.join(DATASETS)}")
    return DATASETS[name]


def dataset(name: str, root: Path) -> tuple[DatasetSpec, list[VideoRecord]]:
    """The settings and the videos of a dataset whose files are under `root`.

    Raises ValueError for an unknown name and where the files aren't as published; what concerns one video only is its
    `problem`.
    """
    spec = dataset_spec(name)
    return spec, spec.index(root)
