"""Videos from a user's files and folders, with their masks and prompts."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cutie_geo.config import require
from cutie_geo.data.annotations.read import is_annotations, write_masks
from cutie_geo.data.index.benchmarks import folder_record
from cutie_geo.data.index.records import VideoRecord, mask_files, no_frames, some, subfolders
from cutie_geo.data.io_threads import require_regular
from cutie_geo.data.listing import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    SYSTEM_FILES,
    entries,
    files_by_stem,
    frame_files,
    left_out,
    mask_path,
    real_path,
    visible,
)
from cutie_geo.data.prompts import FramePrompts
from cutie_geo.data.sources import ImageFiles, Source, are_images, expand, is_pattern
from cutie_geo.data.video import is_video, open_source, video_name

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv"}
    | {".mts", ".m2ts", ".3gp", ".3g2", ".flv", ".f4v", ".gif", ".y4m", ".ogv", ".vob", ".mxf", ".asf", ".dv"}
)
"""Suffixes accepted as videos without opening the file; other files are probed."""


def discover(
    video: Path | Sequence[Path] | Source,
    mask: Path | None = None,
    long_ids: bool = False,
    prompts: Mapping[str, FramePrompts] | None = None,
    converted: Path | None = None,
) -> list[VideoRecord]:
    """Return one record for a video file or a folder of frames, or several for a folder of them.

    Args:
        video: a video file, a folder of frames, or a folder of either. In a folder with video files, images are not
            frames. A pattern such as `clips/*.mp4`, or a list of paths: several of these, or the images of one video.
            Or a stream, whose frames are numbered from 00000.
        mask: a PNG for the first frame, or a folder that holds, for each video, `<video>/` with masks named after
            frames or `<video>.png` for the first frame. With one video, masks may be directly in the folder. With
            one video it may also be a COCO or CVAT file, or a folder of YOLO labels. Default: `<video>.png` beside a
            video file.
        long_ids: read RGB masks.
        prompts: prompts of a single video, in addition to masks or instead of them.
        converted: folder for the PNG masks made from annotations of other programs. None: they are not read.

    A video without masks and prompts has a `problem`. Ignored files are named in a warning.

    Raises:
        ValueError: if a path is missing or has no video, if two videos have one name, or if several videos share one
            mask or the prompts.
    """
    if not isinstance(video, (Path, Sequence)):
        record = with_masks(VideoRecord(video.name, Path(video.name), reader=video), mask, long_ids, prompts)
        problem = None if mask or prompts else f"{video}: no mask given, expected a PNG or a folder of PNGs"
        return [replace(record, problem=problem)]
    if isinstance(video, Path) and not is_pattern(video):
        videos = videos_of(video, [] if mask is None else [mask])
    else:
        paths = expand(video) if isinstance(video, Path) else list(video)
        if are_images(paths):
            return [_listed_record(ImageFiles(tuple(paths)), mask, long_ids, prompts, converted)]
        where = str(video) if isinstance(video, Path) else ", ".join(map(str, paths[:2])) + ", ..." * (len(paths) > 2)
        return _records(where, _all_videos(paths), mask, long_ids, prompts, converted)
    if video in videos.values():
        if video.is_dir():
            _tell_ignored_folders(video, mask)
        elif mask is None and not prompts:
            mask = _mask_beside(video)
        return _records(str(video), videos, mask, long_ids, prompts, converted)
    beside = {name: path for name, path in files_by_stem(video, MASK_SUFFIXES).items() if name in videos}
    if mask is None and beside and not prompts:
        mask = video
    masks = beside if mask is not None and mask.is_dir() and mask.samefile(video) else {}
    _tell_ignored(video, [*videos.values(), *masks.values(), *([mask] if mask else [])])
    return _records(str(video), videos, mask, long_ids, prompts, converted)


def _mask_beside(video: Path) -> Path | None:
    """Return the mask file that is named after a video file, in its folder; None without one."""
    for entry in entries(video.parent):
        path = video.parent / entry.name
        if path.stem == video.stem and path != video and path.suffix.lower() in MASK_SUFFIXES:
            log.info("%s: no mask given; the first mask is %s beside it", video, entry.name)
            return path
    return None


def _records(
    where: str,
    videos: Mapping[str, Path],
    mask: Path | None,
    long_ids: bool,
    prompts: Mapping[str, FramePrompts] | None,
    converted: Path | None,
) -> list[VideoRecord]:
    """Return the records of `videos`, which messages call `where`, as `discover` does."""
    if mask is not None:
        require(mask.exists(), f"{mask}: no such file or folder, expected a mask or a folder of masks")
        if converted is not None and is_annotations(mask, next(iter(videos))):
            require(len(videos) == 1, f"{mask}: annotations for {len(videos)} videos, expected one video")
            written = write_masks(mask, open_source(next(iter(videos.values()))), converted)
            mask, long_ids = written.folder, long_ids or written.long_ids
        if mask.is_file():
            require(
                mask.suffix.lower() in MASK_SUFFIXES,
                f"{mask}: got a {mask.suffix} file, expected a PNG with object ids",
            )
            require(
                len(videos) == 1,
                f"{mask}: one mask for {len(videos)} videos, expected a folder with <video>.png or <video>/",
            )
    if prompts:
        require(len(videos) == 1, f"{where}: prompts for {len(videos)} videos, expected one video")
        if mask is None:
            return [VideoRecord(name, source, prompts=prompts) for name, source in videos.items()]
    records = [_given_record(name, source, mask, len(videos) == 1) for name, source in videos.items()]
    records = [replace(record, prompts=prompts or {}) for record in records]
    return [replace(record, long_ids=long_ids) for record in records]


def _listed_record(
    images: ImageFiles,
    mask: Path | None,
    long_ids: bool,
    prompts: Mapping[str, FramePrompts] | None,
    converted: Path | None,
) -> VideoRecord:
    """Return the record of a list of images. Raises ValueError for a missing mask."""
    if mask is not None and mask.exists() and converted is not None and is_annotations(mask, images.name):
        written = write_masks(mask, images.open(), converted)
        mask, long_ids = written.folder, long_ids or written.long_ids
    record = with_masks(VideoRecord(images.name, images.files[0].parent, reader=images), mask, long_ids, prompts)
    if mask is None and not prompts:
        return replace(record, problem=f"{record.source}: no mask given, expected a PNG or a folder of PNGs")
    return record


def with_masks(
    record: VideoRecord, mask: Path | None, long_ids: bool = False, prompts: Mapping[str, FramePrompts] | None = None
) -> VideoRecord:
    """Return the record of a list of images or a stream with its masks: a PNG, or a folder of PNGs named after frames.

    Raises:
        ValueError: if the mask is missing or is no PNG.
    """
    record = replace(record, long_ids=long_ids, prompts=prompts or {})
    if mask is None:
        return record
    require(mask.exists(), f"{mask}: no such file or folder, expected a mask or a folder of masks")
    if mask.is_dir():
        masks = mask_files(mask)
        require(bool(masks), f"{mask}: no masks, expected PNG files named after the frames")
        return replace(record, masks=masks)
    require(mask.suffix.lower() in MASK_SUFFIXES, f"{mask}: got a {mask.suffix} file, expected a PNG with object ids")
    return replace(record, first_mask=mask)


def _all_videos(paths: Iterable[Path]) -> dict[str, Path]:
    """Return the videos of several paths by name. Raises ValueError if two have one name."""
    videos: dict[str, Path] = {}
    for path in paths:
        for name, source in videos_of(path).items():
            require(name not in videos, f"{source}: second video named {name}, beside {videos.get(name)}")
            videos[name] = source
    require(bool(videos), "videos: got none, expected at least one")
    return videos


def videos_of(path: Path, masks: Iterable[Path] = ()) -> dict[str, Path]:
    """Return the video files and folders of a path by name. Raises ValueError as `discover` does.

    Args:
        masks: folders of masks. Images beside folders are not frames if a mask in one of these, or a PNG among the
            images, is named after a folder.
    """
    require(path.exists(), f"{path}: no such file or folder, expected a video, a folder of frames or a folder of such")
    if path.is_file():
        known = ", ".join(sorted(VIDEO_SUFFIXES))
        require(_is_video(path), f"{path}: got a {path.suffix} file, expected a video ({known}) or a folder of images")
        return {path.stem: path}
    require_regular(path)
    found = [entry for entry in visible(path) if entry.name.lower() not in SYSTEM_FILES]
    files = [entry for entry in found if _is_video(entry)]
    images = any(entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file() for entry in found)
    if images and not files and not _are_videos(subfolders(path), path, masks):
        return {video_name(path): path}
    videos: dict[str, Path] = {}
    for entry in found:
        if entry.is_dir() or entry in files:
            name = entry.name if entry.is_dir() else entry.stem
            require(name not in videos, f"{path}: two videos named {name}, expected different names")
            videos[name] = entry
    require(bool(videos), f"{path}: no frames and no videos, expected images, video files or folders of images")
    return videos


def _are_videos(folders: Sequence[str], home: Path, masks: Iterable[Path]) -> bool:
    """Return True if a mask is named after one of the folders in `home`."""
    if not folders:
        return False
    named = {path.stem for path in visible(home) if path.suffix.lower() in MASK_SUFFIXES}
    for place in masks:
        if place.is_dir() and not place.samefile(home):
            named |= {path.name if path.is_dir() else path.stem for path in visible(place)}
    return bool(named & set(folders))


def _is_video(path: Path) -> bool:
    """Return True for a video file, by its suffix or, for unknown suffixes, by its content."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES or not path.is_file():
        return False
    return suffix in VIDEO_SUFFIXES or is_video(path)


def _tell_ignored(folder: Path, used: Iterable[Path]) -> None:
    """Warn of files in a folder of videos that are neither videos nor their masks."""
    if ignored := left_out(folder, used):
        log.warning("%s: neither videos nor their masks, ignored: %s", folder, some(ignored))


def _tell_ignored_folders(folder: Path, mask: Path | None) -> None:
    """Warn of folders of images among the frames of a video, without those of its masks."""
    taken = set() if mask is None else {real_path(mask), real_path(mask.parent)}
    others = [name for name in subfolders(folder) if real_path(folder / name) not in taken]
    holding = [name for name in others if any(path.suffix.lower() in IMAGE_SUFFIXES for path in visible(folder / name))]
    if holding:
        log.warning("%s: read as the frames of one video; folders with images, ignored: %s", folder, some(holding))


def _given_record(name: str, source: Path, mask: Path | None, alone: bool) -> VideoRecord:
    """Return the record of a video with the user's masks for it."""
    record = VideoRecord(name, source)
    if mask is None:
        return replace(record, problem=f"{source}: no mask given, expected a PNG or a folder of PNGs")
    if source.is_dir() and not any(path.suffix.lower() in IMAGE_SUFFIXES for path in visible(source)):
        return replace(record, problem=no_frames(source))
    if mask.is_file():
        return replace(record, first_mask=mask)
    if not mask.is_dir():
        return replace(record, problem=f"{mask}: no mask; got a pipe, a device or a socket, expected a PNG or a folder")
    folder, single = mask / name, mask_path(mask, name)
    holds = folder.is_dir() and not (single.is_file() and folder.samefile(source))
    if holds and single.is_file():
        return replace(record, problem=f"{mask}: both {name}/ and {single.name}, expected one of them")
    if single.is_file():
        return replace(record, first_mask=single)
    if not holds and not alone:
        return replace(record, problem=f"{mask}: nothing for {name}, expected {name}.png or {name}/ with masks")
    return _named_masks(record, folder if holds else mask)


def _named_masks(record: VideoRecord, folder: Path) -> VideoRecord:
    """Return the record with the masks of `folder`, matched to frames by name."""
    if record.source.is_dir():
        record = folder_record(record.name, record.source, folder, "all")
        if (
            not record.problem
            or not folder.samefile(record.source)
            or frame_files(folder, masks=mask_files(folder).values())
        ):
            return record
        problem = f"{folder}: frames and masks are PNG files of one folder, expected masks in a folder of their own"
        return replace(record, problem=problem)
    try:
        masks = mask_files(folder)
    except ValueError as error:
        return replace(record, problem=str(error))
    problem = None if masks else f"{folder}: no masks, expected PNG files named after the frames"
    return replace(record, masks=masks, problem=problem)
