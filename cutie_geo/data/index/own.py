"""A user's own set: videos as folders of frames or video files, with masks in any of several formats.

    DATA/videos/<video>/ or <video>.mp4      also JPEGImages/, frames/, images/, or DATA itself
    DATA/masks/<video>/<frame>.png           also Annotations/; or <video>.json (COCO), <video>.xml (CVAT), <video>.png,
                                             or the folder of a session with this name
    DATA/sessions/<session>/                 sessions of these videos, or also of others without videos/
    DATA/val.txt                             optional: a validation video on each line

What has to be made of these files (frames of video files, masks of annotations) is kept in `DATA/.cutie_geo`.
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cutie_geo.config import require
from cutie_geo.data.annotations.read import WrittenMasks, annotation_files, is_annotations, write_masks
from cutie_geo.data.annotations.session import is_session, session_video
from cutie_geo.data.annotations.shapes import FrameFinder
from cutie_geo.data.index.benchmarks import DATASETS, OWN_VIDEOS, DatasetSpec
from cutie_geo.data.index.folders import VIDEO_SUFFIXES, videos_of
from cutie_geo.data.index.layouts import read_list
from cutie_geo.data.index.records import (
    MASK_SUFFIXES,
    LabelledVideo,
    VideoRecord,
    frame_files,
    is_plain,
    mask_files,
    mismatch,
    some,
)
from cutie_geo.data.io_threads import atomic_write, write_json
from cutie_geo.data.listing import IMAGE_SUFFIXES, natural_order, visible
from cutie_geo.data.masks import object_ids, read_input_labels
from cutie_geo.data.video import FrameFolder, VideoFile, open_source, read_image
from cutie_geo.progress import progress
from cutie_geo.structures import VOID

log = logging.getLogger(__name__)

VIDEO_FOLDERS = ("JPEGImages/480p", "JPEGImages", "videos", "frames", "images")
"""Folders of a set that may hold its videos; the set itself if it has none of them."""
SESSIONS = "sessions"
"""Folder of sessions in the folder of the app."""
MASK_FOLDERS = ("Annotations/480p", "Annotations", "masks", "annotations", "labels")
"""Folders that may hold the masks of all videos, or of one video inside its own folder."""
ANNOTATION_FILES = ("annotations.xml", "annotations.json", "instances.json", "instances_default.json")
"""Files of annotations by the names that CVAT and COCO tools export."""
VAL_FILE = "val.txt"
VAL_SHARE = 0.2
"""Share of the videos in the validation split of a set without VAL_FILE."""
CACHE = ".cutie_geo"
JPEG_QUALITY = 95
LEAST_MASKS = 3
"""Masks that a validation video needs: the first is the prompt, and the last is not scored."""


# ------------------------------------------------------------------------------------------------------------- index
def index_own(root: Path, strict: bool = True, split: str = "all") -> list[LabelledVideo]:
    """List the videos of an own set with all their masks; `split` is all, train or val.

    Masked frames of video files, and masks of annotation files, are written to `root/.cutie_geo` once. A fault of a
    video is its `problem`.

    Raises:
        ValueError: if the set has no videos or no masks, and for a `val.txt` with unknown videos.
        OSError: if the cache cannot be written.
    """
    home = _home(root)
    entries = _entries(root, home)
    sessions = _sessions(root) if home != root / SESSIONS else {}
    videos = [_labelled(root, home, name, entry, sessions) for name, entry in entries.items()]
    bare = all(video.problem is not None and not video.masks for video in videos)
    first = f"the first is {videos[0].name}: {videos[0].problem}" if videos else ""
    inside = root.name in {Path(place).parts[0] for place in (*VIDEO_FOLDERS, *MASK_FOLDERS)}
    advice = f"; the set is the folder above, {root.parent}" if inside else ""
    require(not bare, f"{root}: not the layout of this dataset: no video has masks; {first}{advice}")
    if split == "all":
        return videos
    train, held_out = split_own(videos, default_validation(root))
    return [video for video in videos if video.name in (held_out if split == "val" else train)]


def index_own_records(root: Path, split: str = "all", strict: bool = True) -> list[VideoRecord]:
    """List the videos of an own set to segment; each object starts in the first mask that shows it. See `index_own`."""
    return [_record(video) for video in index_own(root, strict, split)]


def _record(video: LabelledVideo) -> VideoRecord:
    source = video.source or Path(".")
    return VideoRecord(
        video.name,
        source,
        masks=video.masks,
        void=None if video.single_object else VOID,
        first_appearances_only=True,
        long_ids=video.long_ids,
        problem=video.problem,
    )


def own_truth(root: Path) -> dict[str, Path]:
    """Return the folder of PNG masks of each video of an own set that has some, by name. Raises as `index_own`."""
    videos = [video for video in index_own(root) if video.problem is None]
    return {video.name: next(iter(video.masks.values())).parent for video in videos if len(video.masks) > 1}


def is_own(root: Path) -> bool:
    """Return True if a folder has a folder of videos, unlike a folder of masks, whose sequences hold PNGs only."""
    inside = [path for place in VIDEO_FOLDERS if (root / place).is_dir() for path in visible(root / place)]
    return any(path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES for path in inside)


# ------------------------------------------------------------------------------------------------------------- split
def default_validation(root: Path) -> str:
    """Return the set's `val.txt` if it exists, else the default share."""
    path = root / VAL_FILE
    return str(path) if path.is_file() else str(VAL_SHARE)


def split_own(videos: Sequence[LabelledVideo], validation: str) -> tuple[list[str], list[str]]:
    """Split usable videos into names for training and for validation. Frames of one video are never in both.

    Args:
        validation: a text file with a video's name on each line, or a share of the videos from 0 to 1, of which at
            least one is taken. The choice depends on names only, so that a new video moves no other.

    Raises:
        ValueError: for unknown names, an invalid share, and if a part would be empty.
    """
    usable = [video for video in videos if video.problem is None]
    scorable = [video.name for video in usable if len(video.masks) >= LEAST_MASKS]
    names = [video.name for video in usable]
    share = _number(validation)
    if share is None:
        path = Path(validation)
        require(path.is_file(), f"--val: {validation}: no such file; expected a list of videos or a share from 0 to 1")
        held_out = read_list(path)
        strange = [name for name in held_out if name not in scorable]
        require(
            not strange,
            f"{path}: {some(strange)}: expected usable videos of the set with at least {LEAST_MASKS} masks: "
            f"{some(scorable)}",
        )
    else:
        require(0 < share < 1, f"--val: got {validation}, expected a file or a share between 0 and 1")
        require(
            bool(scorable),
            f"validation: no video has {LEAST_MASKS} masks or more; the first is the prompt, the last is not scored",
        )
        count = min(max(1, round(share * len(names))), len(scorable))
        held_out = sorted(scorable, key=lambda name: hashlib.sha256(os.fsencode(name)).hexdigest())[:count]
    train = [name for name in names if name not in held_out]
    require(
        bool(train),
        f"split: {len(held_out)} for validation of {len(names)} usable leave none for training; "
        "expected at least 2 videos, because frames of one video are never split",
    )
    return train, [name for name in names if name in held_out]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


# ----------------------------------------------------------------------------------------------------------- folders
def _home(root: Path) -> Path:
    """Return the folder that holds the videos. Raises ValueError for a missing set."""
    require(
        root.is_dir(), f"{root}: {'not a folder' if root.exists() else 'no such folder'}, expected a dataset's root"
    )
    found = next((root / place for place in VIDEO_FOLDERS if (root / place).is_dir()), None)
    if found is None and (root / SESSIONS).is_dir() and any(map(is_session, visible(root / SESSIONS))):
        return root / SESSIONS
    return found or root


def _entries(root: Path, home: Path) -> dict[str, Path]:
    """Return the video files and folders of a set by name. Raises ValueError if there are none."""
    others = {(root / place.partition("/")[0]).name for place in MASK_FOLDERS}
    if is_session(home):
        return {home.resolve().name: home}
    try:
        videos = videos_of(home, [root / place for place in MASK_FOLDERS])
        found = {name: path for name, path in videos.items() if home != root or name not in others}
    except ValueError as error:
        raise ValueError(f"{root}: not the layout of this dataset: {error}") from None
    require(bool(found), f"{root}: not the layout of this dataset: no videos, expected videos/ and masks/")
    strange = [name for name in found if not is_plain(name)]
    require(not strange, f"{home}: {some(strange)}: expected plain names of videos")
    return found


def _frames_of(entry: Path) -> Path:
    """Return the video of an entry: itself, a folder of frames inside it, or the video of a session."""
    if is_session(entry):
        return session_video(entry)
    if entry.is_dir() and not any(path.suffix.lower() in IMAGE_SUFFIXES for path in visible(entry)):
        return next((entry / place for place in VIDEO_FOLDERS if (entry / place).is_dir()), entry)
    return entry


def _sessions(root: Path) -> dict[Path, Path]:
    """Return the session folders in `root/sessions` by the video that they annotate."""
    found: dict[Path, Path] = {}
    for folder in visible(root / SESSIONS) if (root / SESSIONS).is_dir() else []:
        if is_session(folder):
            try:
                found[session_video(folder).resolve()] = folder
            except ValueError as error:
                log.warning("%s", error)
    return found


def _masks_of(root: Path, home: Path, name: str, entry: Path) -> Path | None:
    """Return the file or folder with the masks of a video, None if there is none."""
    if is_session(entry):
        return entry
    places = [root / place for place in MASK_FOLDERS if (root / place).is_dir()] + [home, root]
    for place in places:
        for folder in (place / name, place / "labels" / name):
            if folder.is_dir() and folder.resolve() != entry.resolve():
                return folder
        for suffix in (".xml", ".json", ".png"):
            if (place / f"{name}{suffix}").is_file():
                return place / f"{name}{suffix}"
    if entry.is_dir():
        inside = [entry / each for each in (*MASK_FOLDERS, *ANNOTATION_FILES)]
        found = next((path for path in inside if path.exists()), None)
        if found is not None:
            return found
    return next((place / each for place in places for each in ANNOTATION_FILES if (place / each).is_file()), None)


# ----------------------------------------------------------------------------------------------------------- records
class _Masks(NamedTuple):
    """Masks of one video by the name of their frame, in order."""

    files: Mapping[str, Path]
    long_ids: bool = False


def _labelled(root: Path, home: Path, name: str, entry: Path, sessions: Mapping[Path, Path]) -> LabelledVideo:
    """Return one video of an own set; faults become its `problem`."""
    where: Path | None = None
    try:
        where = _frames_of(entry)
        path = _masks_of(root, home, name, entry) or sessions.get(entry.resolve()) or sessions.get(where.resolve())
        require(
            path is not None,
            f"{entry}: no masks; expected {name}/, {name}.png, {name}.json or {name}.xml in "
            f"{root / 'masks'} or {root / 'Annotations'}, or its session in {root / SESSIONS}",
        )
        assert path is not None
        source = open_source(where)
        source.name = name
        masks = _read_masks(root, name, path, source)
        if isinstance(source, VideoFile):
            frames: Mapping[str, Path] = _masked_frames(source, masks.files, root / CACHE / "frames")
        else:
            frames = frame_files(where)
        problem = mismatch(where, frames, path, masks.files)
        single = problem is None and _is_white(masks)
    except ValueError as error:
        return LabelledVideo(name, {}, {}, problem=str(error), source=where)
    return LabelledVideo(name, frames, masks.files, single, masks.long_ids, problem=problem, source=where)


def _read_masks(root: Path, name: str, path: Path, source: FrameFolder | VideoFile) -> _Masks:
    """Return the masks in a file or folder. Raises ValueError for an invalid one."""
    if path.is_dir() and not mask_files(path):
        path = next((path / each for each in ANNOTATION_FILES if (path / each).is_file()), path)
    if is_annotations(path, name):
        written = _converted(root, name, path, source)
        return _Masks(mask_files(written.folder), written.long_ids)
    if path.is_file():
        require(path.suffix.lower() in MASK_SUFFIXES, f"{path}: expected a PNG, COCO's .json or CVAT's .xml")
        return _Masks({source.names[0] if source.names else "00000": path})
    finder, files = FrameFinder(source), mask_files(path)
    require(
        bool(files), f"{path}: no masks, expected PNG files named after the frames, or {', '.join(ANNOTATION_FILES)}"
    )
    found: dict[str, Path] = {}
    for file in files.values():
        frame = finder.named(file.name, str(file))
        require(frame not in found, f"{file}: second mask for frame {frame}, beside {found.get(frame, file).name}")
        found[frame] = file
    return _Masks({frame: found[frame] for frame in natural_order(found)})


def _converted(root: Path, name: str, path: Path, source: FrameFolder | VideoFile) -> WrittenMasks:
    """Write the masks of annotations as PNGs in the cache, unless they are there."""
    cache = root / CACHE / "masks"
    note, stamp = cache / f"{name}.json", _stamp(path)
    try:
        known: Any = json.loads(note.read_text(encoding="utf-8"))
        folder = cache / str(known["folder"])
        if known["stamp"] == stamp and is_plain(known["folder"]) and mask_files(folder):
            return WrittenMasks(folder, bool(known["long_ids"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    written = write_masks(path, source, cache)
    write_json(note, {"folder": written.folder.name, "long_ids": written.long_ids, "stamp": stamp})
    return written


def _stamp(path: Path) -> list[list[Any]]:
    """Return what changes when files are written: name, size and time of each."""
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in annotation_files(path)]


def _masked_frames(video: VideoFile, stems: Collection[str], cache: Path) -> dict[str, Path]:
    """Write the frames of a video file that have masks as JPEGs in the cache, unless they are there.

    Raises:
        ValueError: if the video is damaged or has no such frame.
    """
    digest = hashlib.sha256(json.dumps(_stamp(video.path)).encode()).hexdigest()[:16]
    folder = cache / f"{video.name}-{digest}"
    files = {stem: folder / f"{stem}.jpg" for stem in natural_order(stems)}
    missing = {stem for stem, path in files.items() if not path.is_file()}
    if missing:
        with progress(len(missing), f"{video.name}: frames", "frame") as bar:
            for stem, image in video:
                if stem in missing:
                    with atomic_write(files[stem]) as part:
                        Image.fromarray(image).save(part, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
                    missing.remove(stem)
                    bar.update()
                if not missing:
                    break
    require(not missing, f"{video.path}: no frame for the masks {some(natural_order(missing))}")
    return files


def _is_white(masks: _Masks) -> bool:
    """Return True if the first mask that shows something is white on black: 255 is the object there."""
    for path in masks.files.values():
        ids = object_ids(read_input_labels(path, masks.long_ids, warn=False).labels)
        if ids:
            return not masks.long_ids and ids == (VOID,)
    return False


# ------------------------------------------------------------------------------------------------------------ frames
def masked_span(video: LabelledVideo, limit: int = 0) -> Iterator[tuple[str, UInt8[np.ndarray, "H W 3"]]]:
    """Yield name and RGB image of every frame from the first mask to the last, also of those without a mask.

    Args:
        video: a usable video.
        limit: largest number of frames, at least those up to the third mask; 0 for all.
    """
    stems = list(video.masks)
    needed, count, begun = set(stems[:LEAST_MASKS]), 0, False
    with closing(_all_frames(video, stems[0])) as frames:
        for stem, image in frames:
            begun = begun or stem == stems[0]
            if not begun:
                continue
            yield stem, image
            count += 1
            needed.discard(stem)
            if stem == stems[-1] or (limit and count >= limit and not needed):
                return


def _all_frames(video: LabelledVideo, first: str) -> Generator[tuple[str, np.ndarray], None, None]:
    if video.source is not None and video.source.is_file():
        yield from VideoFile(video.source)
    else:
        names = list(video.frames)
        for stem in names[names.index(first) :]:
            yield stem, read_image(video.frames[stem])


DATASETS["own"] = DatasetSpec(
    "own",
    "own videos",
    size=OWN_VIDEOS.size,
    use_long_term=OWN_VIDEOS.use_long_term,
    masks="first_appearance",
    saved="all",
    index=index_own_records,
)
