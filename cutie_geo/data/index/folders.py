"""Videos that a user names: files, folders of frames, folders of either, and the masks that go with them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cutie_geo.config import require
from cutie_geo.data.index.benchmarks import folder_record
from cutie_geo.data.index.records import MASK_SUFFIXES, VideoRecord, mask_files, no_frames, visible
from cutie_geo.data.prompts import FramePrompts
from cutie_geo.data.video import IMAGE_SUFFIXES

VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv"})


def discover(
    video: Path, mask: Path | None = None, long_ids: bool = False, prompts: Mapping[str, FramePrompts] | None = None
) -> list[VideoRecord]:
    """One record for a video file or a folder of frames; several for a folder that holds such files or folders.

    mask: a PNG for the first frame, or a folder. For each video that folder may hold `<video>/` with masks named after
    frames, or `<video>.png` for the first frame; with one video, the masks may lie in it directly. prompts: what is
    pointed at in one video, beside masks or instead of them. A video without either has a `problem`.

    Raises ValueError if a path doesn't exist or holds no video, if two videos share a name, or several one mask or the
    prompts.
    """
    videos = _videos(video)
    if mask is not None:
        require(mask.exists(), f"{mask}: no such file or folder, wanted a mask or a folder of masks")
        if mask.is_file():
            require(
                mask.suffix.lower() in MASK_SUFFIXES, f"{mask}: got a {mask.suffix} file, wanted a PNG with object ids"
            )
            require(
                len(videos) == 1,
                f"{mask}: one mask for {len(videos)} videos, wanted a folder with <video>.png or <video>/",
            )
    if prompts:
        require(len(videos) == 1, f"{video}: prompts for {len(videos)} videos, wanted one video")
        if mask is None:
            return [VideoRecord(name, source, prompts=prompts) for name, source in videos.items()]
    records = [_given_record(name, source, mask, len(videos) == 1) for name, source in videos.items()]
    records = [replace(record, prompts=prompts or {}) for record in records]
    return [replace(record, long_ids=long_ids) for record in records]


def _videos(path: Path) -> dict[str, Path]:
    """By name, the videos that a path stands for. Raises ValueError as `discover` does."""
    require(path.exists(), f"{path}: no such file or folder, wanted a video, a folder of frames or a folder of such")
    if path.is_file():
        require(
            _is_video(path), f"{path}: got a {path.suffix} file, wanted a video ({', '.join(sorted(VIDEO_SUFFIXES))})"
        )
        return {path.stem: path}
    if any(entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file() for entry in visible(path)):
        return {path.resolve().name or "video": path}
    videos: dict[str, Path] = {}
    for entry in visible(path):
        if entry.is_dir() or _is_video(entry):
            name = entry.name if entry.is_dir() else entry.stem
            require(name not in videos, f"{path}: two videos named {name}, wanted different names")
            videos[name] = entry
    require(bool(videos), f"{path}: no frames and no videos, wanted pictures, video files or folders of pictures")
    return videos


def _is_video(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES


def _given_record(name: str, source: Path, mask: Path | None, alone: bool) -> VideoRecord:
    """A video with the masks that a user's `mask` holds for it."""
    record = VideoRecord(name, source)
    if mask is None:
        return replace(record, problem=f"{source}: no mask given, wanted a PNG or a folder of PNGs")
    if source.is_dir() and not _has_frames(source):
        return replace(record, problem=no_frames(source))
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
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in visible(folder))


def _named_masks(record: VideoRecord, folder: Path) -> VideoRecord:
    """The record with the masks of `folder`, each for the frame of its name."""
    if record.source.is_dir():
        return folder_record(record.name, record.source, folder, "all")
    try:
        masks = mask_files(folder)
    except ValueError as error:
        return replace(record, problem=str(error))
    problem = None if masks else f"{folder}: no masks, wanted PNG files named after the frames"
    return replace(record, masks=masks, problem=problem)
