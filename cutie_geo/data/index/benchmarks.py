"""Benchmarks to segment, with their run settings, videos and input masks."""

from collections.abc import Callable, Mapping, Sequence
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
from cutie_geo.data.index.records import MaskRule, VideoRecord, mask_files, mismatch, subfolders
from cutie_geo.data.listing import FrameNames, frame_files, natural_order
from cutie_geo.structures import VOID


@dataclass(frozen=True, kw_only=True)
class RunDefaults:
    """Defaults for segmenting one kind of video, where neither the user nor the model sets the option."""

    size: int
    """Shorter side, in pixels, to which larger frames are resized; -1 never resizes."""
    use_long_term: bool
    """Consolidate old frames into long-term memory."""
    mem_every: int | None = None
    """Memory interval in frames. None: the model's default."""
    single_object: bool = False
    """Merge all labels above 0 into one object (DAVIS 2016, whose masks DAVIS 2017 split into several)."""


OWN_VIDEOS = RunDefaults(size=480, use_long_term=True)
"""Defaults for a user's own videos, which may be long: 480 is the size that VOS models are trained for."""


@dataclass(frozen=True)
class DatasetSpec(RunDefaults):
    """One split of a benchmark with Cutie's run settings."""

    name: str
    title: str
    masks: MaskRule
    """Input masks: the first of a video, all of them, or each object's first."""
    saved: Literal["all", "listed"]
    """Frames whose results are written: all, or those that the benchmark lists."""
    index: Callable[..., list[VideoRecord]]
    """Return the videos under a root: `index(root, strict=True)`. If not strict, a wrong list entry is the
    `problem` of its video instead of an error.
    """


# ----------------------------------------------------------------------------------------------------------- records
def video_records(layout: Layout, rule: MaskRule, strict: bool, void: int | None = VOID) -> list[VideoRecord]:
    """Return one record for each video of a layout.

    Args:
        strict: raise ValueError if a video is listed twice or has no folder, instead of noting its `problem`.
        void: label that is background although it is not 0.
    """
    records = []
    for name, problem in listed_videos(layout, strict).items():
        source, folder = layout.frames_of(name), layout.masks_of(name)
        record = VideoRecord(name, source, problem=problem) if problem else folder_record(name, source, folder, rule)
        records.append(replace(record, listed=layout.listed.get(name), void=void))
    return records


def folder_record(name: str, source: Path, folder: Path, rule: MaskRule) -> VideoRecord:
    """Return a record of the frames in `source` and the masks in `folder`; faults become its `problem`."""
    record = VideoRecord(name, source, first_appearances_only=rule == "first_appearance")
    try:
        found = mask_files(folder)
        together = bool(found) and source.is_dir() and folder.samefile(source)
        stems = list(frame_files(source, masks=found.values() if together else ()))
        masks = for_frames(found, stems)
        later = dict(list(masks.items())[1:]) if rule == "first" else {}
        masks = {stem: path for stem, path in masks.items() if stem not in later}
        problem = mismatch(source, stems, folder, masks)
    except ValueError as error:
        return replace(record, problem=str(error))
    later = {stem: later[stem] for stem in stems if stem in later}  # the others have no frame
    return replace(record, masks=masks, later=later, problem=problem)


def for_frames(masks: Mapping[str, Path], stems: Sequence[str]) -> dict[str, Path]:
    """Return masks by their frame, in frame order; numbers match with any zero-padding.

    A mask without a frame keeps its own name.

    Raises:
        ValueError: for two masks of one frame.
    """
    names = FrameNames(stems)
    found: dict[str, Path] = {}
    for stem, path in masks.items():
        frame = names.find(stem) or stem
        require(frame not in found, f"{path}: second mask for frame {frame}, beside {found.get(frame, path).name}")
        found[frame] = path
    return {stem: found[stem] for stem in natural_order(found)}


# ------------------------------------------------------------------------------------------------------------ layouts
def find_davis2016(root: Path, split: str) -> Layout:
    """Find DAVIS 2016 in its own tree or in that of 2017. Raises ValueError for another layout."""
    home = find_home(root, (".", "2016", "DAVIS/2016", "DAVIS", "trainval", "2017/trainval", "DAVIS/2017/trainval"))
    frames, masks = find_level(home, ("480p", "1080p", "Full-Resolution"))
    beside = home.resolve().parent / "2017" / "trainval"
    lists = [base / "ImageSets" / year / f"{split}.txt" for year in ("2016", "480p") for base in (home, beside)]
    return Layout(frames, masks, split_names(home, (lists[0], lists[2], lists[1], lists[3]), frames))


def find_davis2017(root: Path, split: str) -> Layout:
    """Find DAVIS 2017; `split` is train, val or test-dev. Raises ValueError for another layout."""
    archive = "test-dev" if split == "test-dev" else "trainval"
    home = find_home(root, (".", archive, f"2017/{archive}", f"DAVIS/2017/{archive}", "2017", "DAVIS/2017", "DAVIS"))
    frames, masks = find_level(home, ("480p", "Full-Resolution"))
    lists = [home / "ImageSets" / "2017" / f"{split}.txt"]
    return Layout(frames, masks, split_names(home, lists, frames))


def find_mose(root: Path, split: str) -> Layout:
    """Find MOSE, version 1 or 2. Raises ValueError for another layout."""
    frames, masks = find_level(find_home(root, (split, f"MOSE/{split}", f"MOSEv2/{split}", ".")))
    return Layout(frames, masks, subfolders(frames))


def find_lsvos(root: Path, split: str) -> Layout:
    """Find the LSVOS challenge's mixture of MOSE and LVOS, in the layout of MOSE. Raises ValueError for another
    layout.
    """
    frames, masks = find_level(find_home(root, (split, f"LSVOS/{split}", ".")))
    return Layout(frames, masks, subfolders(frames))


def find_lvos(root: Path, split: str) -> Layout:
    """Find LVOS, version 1 or 2; `split` is train, valid or test.

    Videos are listed by `<split>_meta.json`; without it, all folders are used. Raises ValueError for another layout.
    """
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
    """Find VISOR as converted to the layout of DAVIS; `split` is train, val, val_unseen or test.

    Object ids come from `<split>_data_mapping.json` if it exists. Raises ValueError for another layout.
    """
    home = find_home(root, (".", "VISOR_2022", "VISOR", "VISOR/VISOR_2022"))
    frames, masks = find_level(home, ("480p",))
    # train and val share folders, so the list is required
    names = read_list(home / "ImageSets" / "2022" / f"{split}.txt", may_be_empty=True)
    path = home / f"{split.removesuffix('_unseen')}_data_mapping.json"
    mapping = read_json(path) if path.is_file() else {}
    require(isinstance(mapping, dict), f"{path}: expected {{video: {{id: name}}}}")
    ids = {name: only_ids(mapping.get(name)) for name in names}
    return Layout(frames, masks, names, listed={name: found for name, found in ids.items() if found})


def find_burst(root: Path, split: str) -> Layout:
    """Find BURST as converted to folders of masks; `split` is train, val or test. Raises ValueError for another
    layout.
    """
    frames, masks = find_level(find_home(root, (split, f"BURST/{split}", "BURST", ".")))
    return Layout(frames, masks, subfolders(frames))


# --------------------------------------------------------------------------------------------------------- benchmarks
def index_davis2016(root: Path, split: str, strict: bool = True) -> list[VideoRecord]:
    """List DAVIS 2016, from its own tree or from DAVIS 2017's. Raises ValueError for another layout."""
    return video_records(find_davis2016(root, split), "first", strict, void=None)  # 255 is the object


def index_davis2017(root: Path, split: str, strict: bool = True) -> list[VideoRecord]:
    """List DAVIS 2017; `split` is train, val or test-dev. Raises ValueError for another layout."""
    return video_records(find_davis2017(root, split), "first", strict)


def index_youtubevos(root: Path, split: str, year: int = 2019, strict: bool = True) -> list[VideoRecord]:
    """List YouTube-VOS with all frames from `<split>_all_frames` if it exists; frames in meta.json are saved.

    Raises:
        ValueError: for another layout, and for a meta.json without frames.
    """
    places = (split, f"YouTube{year}/{split}", *([f"YouTube/{split}"] if year == 2019 else []), ".")
    home = find_home(root, places, "Annotations")
    # not `home.parent`, which is "." for "."
    near = home.resolve().parent
    options = [near / f"{split}_all_frames", near / "all_frames" / f"{split}_all_frames", home]
    frames = next((path / "JPEGImages" for path in options if (path / "JPEGImages").is_dir()), home / "JPEGImages")
    require(frames.is_dir(), f"{frames}: no such folder, expected the frames of {home / 'Annotations'}")
    path = home / "meta.json"
    videos = read_videos(path)
    records = video_records(Layout(frames, home / "Annotations", sorted(videos)), "all", strict)
    return [_with_meta(record, object_frames(videos[record.name], f"{path}: {record.name}")) for record in records]


def _with_meta(record: VideoRecord, frames: Mapping[int, list[str]]) -> VideoRecord:
    """Return the record with first appearances and saved frames from the lists of its objects' frames."""
    starts: dict[str, set[int]] = {}
    for object_id, stems in frames.items():
        starts.setdefault(stems[0], set()).add(object_id)
    saved = frozenset(stem for stems in frames.values() for stem in stems)
    record = replace(record, saved=saved, listed=frames)
    if not set(starts) <= set(record.masks):
        # the lists disagree with the masks, which take precedence
        return replace(record, first_appearances_only=True)
    masks = {stem: path for stem, path in record.masks.items() if stem in starts}
    later = {stem: path for stem, path in record.masks.items() if stem not in starts}
    return replace(record, masks=masks, later=later, keep_ids={stem: frozenset(starts[stem]) for stem in masks})


def index_mose(root: Path, split: str, strict: bool = True) -> list[VideoRecord]:
    """List MOSE, version 1 or 2. Raises ValueError for another layout."""
    return video_records(find_mose(root, split), "first", strict)


def index_lsvos(root: Path, split: str, strict: bool = True) -> list[VideoRecord]:
    """List the LSVOS challenge's mixture of MOSE and LVOS, where objects may appear later.

    Raises:
        ValueError: for another layout.
    """
    return video_records(find_lsvos(root, split), "first_appearance", strict)


def index_lvos(root: Path, split: str, strict: bool = True) -> list[VideoRecord]:
    """List LVOS, version 1 or 2; `split` is valid or test.

    Videos are listed by `<split>_meta.json`; without it, all folders are used. Raises ValueError for another layout.
    """
    return video_records(find_lvos(root, split), "first_appearance", strict)


def index_visor(root: Path, split: str, strict: bool = True) -> list[VideoRecord]:
    """List VISOR, converted; objects are those in the first mask of a sequence. Raises ValueError for another layout.

    An empty list is a split without sequences, such as `val_unseen` with videos of seen kitchens only.
    """
    layout = find_visor(root, split)
    return video_records(layout, "first", strict) if layout.names else []


def index_burst(root: Path, split: str, strict: bool = True) -> list[VideoRecord]:
    """List BURST, converted; tracks start at their first mask, and masks may be RGB. Raises ValueError for another
    layout.
    """
    records = video_records(find_burst(root, split), "first_appearance", strict, void=None)
    return [replace(record, long_ids=True) for record in records]


def index_generic(root: Path, split: str = "", strict: bool = True) -> list[VideoRecord]:
    """List any tree of JPEGImages/<video>/ and Annotations/<video>/, optionally with a level 480p. `split` is ignored.

    Raises:
        ValueError: for another layout.
    """
    frames, masks = find_level(find_home(root, (".",)), ("480p",))
    return video_records(Layout(frames, masks, subfolders(frames)), "first", strict, void=None)


def _specs() -> list[DatasetSpec]:
    """Return run settings that make results comparable with published ones. Source: Cutie's evaluation
    configuration.
    """
    davis = partial(DatasetSpec, size=480, use_long_term=False, masks="first", saved="all")
    youtube = partial(DatasetSpec, size=480, use_long_term=False, masks="first_appearance", saved="listed")
    lvos = partial(DatasetSpec, size=480, use_long_term=True, masks="first_appearance", saved="all")
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
        DatasetSpec(
            "generic", "any videos", size=-1, use_long_term=True, masks="first", saved="all", index=index_generic
        ),
    ]


DATASETS: dict[str, DatasetSpec] = {spec.name: spec for spec in _specs()}


def dataset_names() -> list[str]:
    """Return the names that `dataset` accepts."""
    return list(DATASETS)


def dataset_spec(name: str) -> DatasetSpec:
    """Return the settings of a data set. Raises ValueError for an unknown name."""
    require(name in DATASETS, f"{name}: no such dataset; expected one of {', '.join(DATASETS)}")
    return DATASETS[name]


def dataset(name: str, root: Path) -> tuple[DatasetSpec, list[VideoRecord]]:
    """Return the settings and the videos of a data set with files under `root`.

    A fault of a single video becomes its `problem`.

    Raises:
        ValueError: for an unknown name, and for files that are not in the published layout.
    """
    spec = dataset_spec(name)
    return spec, spec.index(root)
