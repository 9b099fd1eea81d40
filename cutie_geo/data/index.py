"""What to segment: one `VideoRecord` for each video of a benchmark, or of the folders that a user names.

Indexing lists folders and reads lists; it opens no picture. Where only pixels tell which object appears when, the
record says so and `with_first_appearances` reads them once the video's turn has come.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from cutie_geo.data.masks import object_ids, read_labels
from cutie_geo.data.video import IMAGE_SUFFIXES

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv"})
MASK_SUFFIXES = frozenset({".png"})
"""Lossy formats blur ids, so masks are PNG files only."""
LISTED = 5
"""Names that an error message spells out before it counts the rest."""

MaskRule = Literal["first", "all", "first_appearance"]


@dataclass(frozen=True)
class VideoRecord:
    """One video, where its masks are and which of its frames are wanted. Files are named, none is open."""

    name: str
    """Folder of its results: a plain name."""
    source: Path
    """A folder of frames or a video file."""
    masks: Mapping[str, Path] = field(default_factory=dict)
    """Mask files by the stem of the frame that each belongs to, in the order of the frames."""
    first_mask: Path | None = None
    """A mask given alone: `read_frames` places it, on the first frame unless it bears the name of another."""
    keep_ids: Mapping[str, frozenset[int]] | None = None
    """By the stem of a mask: the only ids to take from it. None: all that it holds."""
    first_appearances_only: bool = False
    """Take each object from the first mask that shows it; `with_first_appearances` turns this into `keep_ids`."""
    saved: frozenset[str] | None = None
    """Stems of the frames whose results are written. None: all."""
    long_ids: bool = False
    """Masks are RGB: the id is R + 256 G + 65536 B."""
    problem: str | None = None
    """Why this video can't be segmented, on one line; the others of its list still can."""


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
    index: Callable[[Path], list[VideoRecord]]
    single_object: bool = False
    """Every label above 0 is one and the same object (DAVIS 2016, whose masks DAVIS 2017 split into several)."""


# ------------------------------------------------------------------------------------------------------------ reading
def first_appearances(masks: Mapping[str, Path], long_ids: bool = False) -> dict[str, frozenset[int]]:
    """By stem, the ids that no earlier mask shows; masks without a new one are left out. Reads every file.

    Raises ValueError naming the file that can't be read.
    """
    seen: set[int] = set()
    new: dict[str, frozenset[int]] = {}
    for stem in sorted(masks):
        ids = frozenset(object_ids(read_labels(masks[stem], long_ids).labels)) - seen
        if ids:
            new[stem] = ids
            seen |= ids
    return new


def with_first_appearances(record: VideoRecord) -> VideoRecord:
    """The record with its masks reduced to first appearances, if it asks for that; else the record itself.

    Raises ValueError naming the file that can't be read.
    """
    if not record.first_appearances_only:
        return record
    keep = first_appearances(record.masks, record.long_ids)
    masks = {stem: record.masks[stem] for stem in keep}
    return replace(record, masks=masks, keep_ids=keep, first_appearances_only=False)


def frame_stems(folder: Path) -> list[str]:
    """Stems of the frames in a folder, in order. Raises ValueError where two files share one."""
    return list(_by_stem(folder, IMAGE_SUFFIXES))


def mask_files(folder: Path) -> dict[str, Path]:
    """The masks in a folder by stem, in order; none where the folder is missing.

    Raises ValueError where two files share a stem.
    """
    return _by_stem(folder, MASK_SUFFIXES) if folder.is_dir() else {}


def _by_stem(folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    """Files with one of `suffixes` (in any case) by stem, sorted; hidden ones are ignored."""
    files: dict[str, Path] = {}
    for path in sorted(_visible(folder), key=lambda path: path.stem):
        if path.suffix.lower() in suffixes and path.is_file():
            _require(path.stem not in files, f"{folder}: two files for {path.stem}, wanted one")
            files[path.stem] = path
    return files


def _visible(folder: Path) -> list[Path]:
    """What a folder holds, sorted by name, without hidden files."""
    return sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: path.name)


def _subfolders(folder: Path) -> list[str]:
    return [path.name for path in _visible(folder) if path.is_dir()]


# ----------------------------------------------------------------------------------------------------------- records
def _records(frames: Path, masks: Path, names: Iterable[str], rule: MaskRule) -> list[VideoRecord]:
    """One record for each name, from `frames/<name>/` and `masks/<name>/`.

    Raises ValueError if there is no name, one is no plain name or given twice, or a folder of frames is missing.
    """
    names = list(names)
    _require(bool(names), f"{frames}: no videos, wanted one folder of frames for each")
    strange = [name for name in names if not _is_plain(name)]
    _require(not strange, f"{frames}: {_some(strange)} as the name of a video, wanted a plain folder name")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    _require(not twice, f"{frames}: {_some(twice)} listed twice")
    missing = [name for name in names if not (frames / name).is_dir()]
    _require(not missing, f"{frames}: no folder for {len(missing)} of {len(names)} listed videos: {_some(missing)}")
    return [_folder_record(name, frames / name, masks / name, rule) for name in names]


def _folder_record(name: str, source: Path, folder: Path, rule: MaskRule) -> VideoRecord:
    """The frames in `source` with the masks in `folder`; whatever is wrong with it becomes its `problem`."""
    record = VideoRecord(name, source, first_appearances_only=rule == "first_appearance")
    try:
        stems, masks = frame_stems(source), mask_files(folder)
        if rule == "first":
            masks = dict(list(masks.items())[:1])
        problem = _mismatch(source, stems, folder, masks)
    except ValueError as error:
        return replace(record, problem=str(error))
    return replace(record, masks=masks, problem=problem)


def _mismatch(source: Path, stems: list[str], folder: Path, masks: Mapping[str, Path]) -> str | None:
    """Why these masks don't fit these frames, if they don't."""
    if not stems:
        return _no_frames(source)
    if not masks:
        return f"{folder}: no masks, wanted PNG files named after the frames"
    if strangers := sorted(set(masks) - set(stems)):
        return f"{folder}: no frame for the masks {_some(strangers)}; frames are named {stems[0]} to {stems[-1]}"
    return None


def _no_frames(source: Path) -> str:
    return f"{source}: no frames, wanted {', '.join(sorted(IMAGE_SUFFIXES))} files"


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and not set(name) & set('/\\:*?"<>|\0')


def _some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


# ------------------------------------------------------------------------------------------------------------ layouts
def _home(root: Path, places: Iterable[str], holds: str = "JPEGImages") -> Path:
    """The first of `places` under `root` that has the folder `holds`. Raises ValueError if none has."""
    places = list(places)
    _require(root.is_dir(), f"{root}: {'not a folder' if root.exists() else 'no such folder'}, wanted a dataset's root")
    for place in places:
        if (root / place / holds).is_dir():
            return root / place
    looked = ", ".join(str(Path(place) / holds) for place in places)
    raise ValueError(f"{root}: not the layout of this dataset, wanted one of the folders {looked}")


def _level(home: Path, levels: Iterable[str]) -> tuple[Path, Path]:
    """JPEGImages and Annotations of a tree, at the first level of `levels` that it has; "" is none.

    Raises ValueError if there are no annotations at that level.
    """
    level = next((level for level in levels if _subfolders_or_none(home / "JPEGImages" / level)), "")
    frames, masks = home / "JPEGImages" / level, home / "Annotations" / level
    _require(masks.is_dir(), f"{masks}: no such folder, wanted the masks of {frames}")
    return frames, masks


def _subfolders_or_none(folder: Path) -> list[str]:
    return _subfolders(folder) if folder.is_dir() else []


def _split_names(home: Path, lists: Iterable[Path], frames: Path) -> list[str]:
    """Names of the videos of a split: from the first of `lists` that exists, or all folders where a tree has no lists.

    Raises ValueError if the tree has lists, but not this one, or if the list is empty.
    """
    lists = list(lists)
    path = next((path for path in lists if path.is_file()), None)
    if path is None:
        wanted = " or ".join(str(path) for path in lists[:2])
        _require(not (home / "ImageSets").is_dir(), f"{home}: no list of this split, wanted {wanted}")
        log.warning("%s: no ImageSets folder, taking every video of %s", home, frames)
        return _subfolders(frames)
    names = [_listed_name(line) for line in _read_text(path).splitlines() if line.strip()]
    _require(bool(names), f"{path}: empty, wanted one video on each line")
    # lists of DAVIS 2016 have one line for each frame
    return list(dict.fromkeys(names)) if path.parent.name == "480p" else names


def _listed_name(line: str) -> str:
    """The video of a line: the line itself or, in DAVIS 2016's own lists, the folder of the frame it starts with."""
    first = line.split()[0]
    return first.split("/")[-2] if first.startswith("/JPEGImages/") else line.strip()


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: can't be read: not UTF-8 text") from None


def _read_videos(path: Path) -> dict[str, Any]:
    """The mapping `videos` of a meta.json. Raises ValueError naming the file if it isn't there or isn't that."""
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: can't be read as JSON: {error}") from None
    videos = content.get("videos") if isinstance(content, dict) else None
    _require(isinstance(videos, dict) and bool(videos), f'{path}: no videos, wanted {{"videos": {{name: ...}}}}')
    return videos  # type: ignore[return-value]


# --------------------------------------------------------------------------------------------------------- benchmarks
def index_davis2016(root: Path, split: str) -> list[VideoRecord]:
    """DAVIS 2016, from its own tree or from DAVIS 2017's. Raises ValueError for another layout."""
    home = _home(root, (".", "2016", "DAVIS/2016", "DAVIS", "trainval", "2017/trainval", "DAVIS/2017/trainval"))
    frames, masks = _level(home, ("480p", "1080p", "Full-Resolution"))
    beside = home.resolve().parent / "2017" / "trainval"
    lists = [base / "ImageSets" / year / f"{split}.txt" for year in ("2016", "480p") for base in (home, beside)]
    return _records(frames, masks, _split_names(home, (lists[0], lists[2], lists[1], lists[3]), frames), "first")


def index_davis2017(root: Path, split: str) -> list[VideoRecord]:
    """DAVIS 2017; `split` is train, val or test-dev. Raises ValueError for another layout."""
    archive = "test-dev" if split == "test-dev" else "trainval"
    home = _home(root, (".", archive, f"2017/{archive}", f"DAVIS/2017/{archive}", "2017", "DAVIS/2017", "DAVIS"))
    frames, masks = _level(home, ("480p", "Full-Resolution"))
    lists = [home / "ImageSets" / "2017" / f"{split}.txt"]
    return _records(frames, masks, _split_names(home, lists, frames), "first")


def index_youtubevos(root: Path, split: str, year: int = 2019) -> list[VideoRecord]:
    """YouTube-VOS: every frame is seen where `<split>_all_frames` is there, those that meta.json lists are saved.

    Raises ValueError for another layout and for a meta.json that says no frames.
    """
    places = (split, f"YouTube{year}/{split}", *([f"YouTube/{split}"] if year == 2019 else []), ".")
    home = _home(root, places, "Annotations")
    # not `home.parent`: of "." that would be "." itself
    near = home.resolve().parent
    options = [near / f"{split}_all_frames", near / "all_frames" / f"{split}_all_frames", home]
    frames = next((path / "JPEGImages" for path in options if (path / "JPEGImages").is_dir()), home / "JPEGImages")
    _require(frames.is_dir(), f"{frames}: no such folder, wanted the frames of {home / 'Annotations'}")
    path = home / "meta.json"
    videos = _read_videos(path)
    records = _records(frames, home / "Annotations", sorted(videos), "all")
    return [_with_meta(record, _object_frames(videos[record.name], f"{path}: {record.name}")) for record in records]


def _object_frames(video: Any, where: str) -> dict[int, list[str]]:
    """By object id, the frames that a meta.json lists for it, in order; an object without frames is left out.

    Raises ValueError, which starts with `where`, if the entry is something else.
    """
    wanted = f'{where}: wanted {{"objects": {{id: {{"frames": [name, ...]}}}}}}'
    try:
        listed = {int(key): sorted(entry["frames"]) for key, entry in video["objects"].items()}
    except (TypeError, KeyError, ValueError, AttributeError):
        raise ValueError(wanted) from None
    _require(all(isinstance(stem, str) for stems in listed.values() for stem in stems), wanted)
    return {object_id: stems for object_id, stems in listed.items() if stems}


def _with_meta(record: VideoRecord, frames: Mapping[int, list[str]]) -> VideoRecord:
    """The record with what the lists of its objects' frames say: first appearances and saved frames."""
    starts: dict[str, set[int]] = {}
    for object_id, stems in frames.items():
        starts.setdefault(stems[0], set()).add(object_id)
    record = replace(record, saved=frozenset(stem for stems in frames.values() for stem in stems))
    if not set(starts) <= set(record.masks):
        # the lists disagree with the masks, which are what there is to start from
        return replace(record, first_appearances_only=True)
    masks = {stem: path for stem, path in record.masks.items() if stem in starts}
    return replace(record, masks=masks, keep_ids={stem: frozenset(starts[stem]) for stem in masks})


def index_mose(root: Path, split: str) -> list[VideoRecord]:
    """MOSE, version 1 or 2. Raises ValueError for another layout."""
    home = _home(root, (split, f"MOSE/{split}", f"MOSEv2/{split}", "."))
    frames, masks = _level(home, ())
    return _records(frames, masks, _subfolders(frames), "first")


def index_lvos(root: Path, split: str) -> list[VideoRecord]:
    """LVOS, version 1 or 2; `split` is valid or test. Its list is `<split>_meta.json`, else every folder is taken.

    Raises ValueError for another layout.
    """
    spellings = ("val", "valid") if split == "valid" else (split,)
    home = _home(root, (*(f"{base}{name}" for base in ("", "LVOS/") for name in spellings), "."))
    frames, masks = _level(home, ())
    lists = [base / f"{name}_meta.json" for base in (home, home.resolve().parent) for name in spellings]
    listed = next((path for path in lists if path.is_file()), None)
    names = sorted(_read_videos(listed)) if listed else _subfolders(frames)
    return _records(frames, masks, names, "first_appearance")


def index_generic(root: Path, split: str = "") -> list[VideoRecord]:
    """Any tree of JPEGImages/<video>/ and Annotations/<video>/, also with a folder 480p between. `split` is ignored.

    Raises ValueError for another layout.
    """
    home = _home(root, (".",))
    frames, masks = _level(home, ("480p",))
    return _records(frames, masks, _subfolders(frames), "first")


def _specs() -> list[DatasetSpec]:
    """Settings by which results are comparable with published ones. Source: the evaluation configuration of Cutie."""
    davis = partial(DatasetSpec, size=480, mem_every=5, use_long_term=False, masks="first", saved="all")
    youtube = partial(DatasetSpec, size=480, mem_every=5, use_long_term=False, masks="first_appearance", saved="listed")
    lvos = partial(DatasetSpec, size=480, mem_every=5, use_long_term=True, masks="first_appearance", saved="all")
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
        lvos("lvos-test", "LVOS 1 and 2, test", index=partial(index_lvos, split="test")),
        DatasetSpec("generic", "any videos", -1, 5, True, "first", "all", index_generic),
    ]


DATASETS: dict[str, DatasetSpec] = {spec.name: spec for spec in _specs()}


def dataset_names() -> list[str]:
    """Names that `dataset` understands."""
    return list(DATASETS)


def dataset_spec(name: str) -> DatasetSpec:
    """The settings of a dataset. Raises ValueError for an unknown name."""
    _require(name in DATASETS, f"{name}: no such dataset; wanted one of {', '.join(DATASETS)}")
    return DATASETS[name]


def dataset(name: str, root: Path) -> tuple[DatasetSpec, list[VideoRecord]]:
    """The settings and the videos of a dataset whose files are under `root`.

    Raises ValueError for an unknown name and where the files aren't as published; what concerns one video only is its
    `problem`.
    """
    spec = dataset_spec(name)
    return spec, spec.index(root)


# ------------------------------------------------------------------------------------------------------- any folders
def discover(video: Path, mask: Path | None = None, long_ids: bool = False) -> list[VideoRecord]:
    """One record for a video file or a folder of frames; several for a folder that holds such files or folders.

    mask: a PNG for the first frame, or a folder. For each video that folder may hold `<video>/` with masks named after
    frames, or `<video>.png` for the first frame; with one video, the masks may lie in it directly. A video without
    masks has a `problem`.

    Raises ValueError if a path doesn't exist or holds no video, if two videos share a name, or several one mask.
    """
    videos = _videos(video)
    if mask is not None:
        _require(mask.exists(), f"{mask}: no such file or folder, wanted a mask or a folder of masks")
        if mask.is_file():
            _require(
                mask.suffix.lower() in MASK_SUFFIXES, f"{mask}: got a {mask.suffix} file, wanted a PNG with object ids"
            )
            _require(
                len(videos) == 1,
                f"{mask}: one mask for {len(videos)} videos, wanted a folder with <video>.png or <video>/",
            )
    records = [_given_record(name, source, mask, len(videos) == 1) for name, source in videos.items()]
    return [replace(record, long_ids=long_ids) for record in records]


def _videos(path: Path) -> dict[str, Path]:
    """By name, the videos that a path stands for. Raises ValueError as `discover` does."""
    _require(path.exists(), f"{path}: no such file or folder, wanted a video, a folder of frames or a folder of such")
    if path.is_file():
        _require(
            _is_video(path), f"{path}: got a {path.suffix} file, wanted a video ({', '.join(sorted(VIDEO_SUFFIXES))})"
        )
        return {path.stem: path}
    if any(entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file() for entry in _visible(path)):
        return {path.resolve().name or "video": path}
    videos: dict[str, Path] = {}
    for entry in _visible(path):
        if entry.is_dir() or _is_video(entry):
            name = entry.name if entry.is_dir() else entry.stem
            _require(name not in videos, f"{path}: two videos named {name}, wanted different names")
            videos[name] = entry
    _require(bool(videos), f"{path}: no frames and no videos, wanted pictures, video files or folders of pictures")
    return videos


def _is_video(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES


def _given_record(name: str, source: Path, mask: Path | None, alone: bool) -> VideoRecord:
    """A video with the masks that a user's `mask` holds for it."""
    record = VideoRecord(name, source)
    if mask is None:
        return replace(record, problem=f"{source}: no mask given, wanted a PNG or a folder of PNGs")
    if source.is_dir() and not _has_frames(source):
        return replace(record, problem=_no_frames(source))
    if mask.is_file():
        return replace(record, first_mask=mask)
    folder, single = mask / name, next((p for p in (mask / f"{name}.png", mask / f"{name}.PNG") if p.is_file()), None)
    if folder.is_dir() and single:
        return replace(record, problem=f"{mask}: both {name}/ and {single.name}, wanted one of them")
    if single:
        return replace(record, first_mask=single)
    if not folder.is_dir() and not alone:
        return replace(record, problem=f"{mask}: nothing for {name}, wanted {name}.png or {name}/ with masks")
    return _named_masks(record, folder if folder.is_dir() else mask)


def _has_frames(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in _visible(folder))


def _named_masks(record: VideoRecord, folder: Path) -> VideoRecord:
    """The record with the masks of `folder`, each for the frame of its name."""
    if record.source.is_dir():
        return _folder_record(record.name, record.source, folder, "all")
    try:
        masks = mask_files(folder)
    except ValueError as error:
        return replace(record, problem=str(error))
    problem = None if masks else f"{folder}: no masks, wanted PNG files named after the frames"
    return replace(record, masks=masks, problem=problem)
