"""Readers of finished masks: the folder of a run, its Annotations, or any folder of `<video>/<frame>.png`."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from cutie_geo.config import read_json, require
from cutie_geo.data.index import ANNOTATIONS, NOTES, discover, mask_files
from cutie_geo.data.listing import FrameNames, natural_order, visible
from cutie_geo.data.masks import object_ids, read_labels
from cutie_geo.data.video import FrameFolder, VideoFile, open_source
from cutie_geo.structures import ObjectId

DEFAULT_FPS = 24.0
"""Frame rate of overlays of folders of frames, which have no frame rate of their own."""


@dataclass(frozen=True)
class FinishedVideo:
    """Masks of one video, with the facts that its run recorded."""

    name: str
    masks: Mapping[str, Path]
    """Mask files by frame name, in order."""
    presence: Mapping[ObjectId, Mapping[str, float]] = field(default_factory=dict)
    """Presence score of each object by frame, 0 to 1, as far as the run recorded it."""
    source: FrameFolder | VideoFile | None = None
    """Frames of the video, if available."""

    def labels(self, frame: str) -> Int32[np.ndarray, "H W"]:
        """Return the label map of a frame. Raises ValueError with the file name if it is damaged."""
        return read_labels(self.masks[frame], long_ids=True).labels

    def label_maps(self) -> Iterator[tuple[str, Int32[np.ndarray, "H W"]]]:
        """Yield each frame's name and label map. Raises ValueError if they differ in size."""
        for frame in self.masks:
            labels = self.labels(frame)
            require(
                labels.shape == self.size,
                f"{self.masks[frame]}: mask is (H, W) = {labels.shape}, expected {self.size} as the first of its video",
            )
            yield frame, labels

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of the masks."""
        height, width = self.labels(next(iter(self.masks))).shape
        return height, width

    @cached_property
    def objects(self) -> list[ObjectId]:
        """Ids of all objects in the masks, ascending. The first access reads every mask."""
        return sorted({object_id for _, labels in self.label_maps() for object_id in object_ids(labels)})

    @cached_property
    def file_names(self) -> dict[str, str]:
        """Image file name of each frame: its own in a folder of frames, else the frame's name with `.jpg`."""
        files = self.source.files if isinstance(self.source, FrameFolder) else {}
        return {frame: files[frame].name if frame in files else f"{frame}.jpg" for frame in self.masks}

    @cached_property
    def positions(self) -> dict[str, int]:
        """Index of each frame in its video, from 0; without the frames, its index among the masks."""
        if isinstance(self.source, VideoFile):
            return {frame: int(frame) for frame in self.masks}
        names = self.masks if self.source is None else self.source.names
        places = {name: place for place, name in enumerate(names)}
        return {frame: places[frame] for frame in self.masks}

    def frames(self) -> Iterator[tuple[str, UInt8[np.ndarray, "H W 3"], Int32[np.ndarray, "H W"] | None]]:
        """Yield each frame's name, RGB image, and label map if it has one.

        Raises:
            ValueError: without a source, and if a mask has another size than its frame.
        """
        if self.source is None:
            raise ValueError(f"{self.name}: no frames; give --video, the video or folder that the masks were made from")
        with closing(iter(self.source)) as images:
            for name, image in images:
                labels = self.labels(name) if name in self.masks else None
                if labels is not None and labels.shape != image.shape[:2]:
                    raise ValueError(
                        f"{self.masks[name]}: mask is (H, W) = {labels.shape}, expected {image.shape[:2]}, the size of "
                        f"its frame in {self.source.path}"
                    )
                yield name, image, labels

    @property
    def fps(self) -> float:
        """Frames per second of the source."""
        return (None if self.source is None else self.source.fps) or DEFAULT_FPS


def open_run(run: str | Path, video: str | Path | None = None) -> list[FinishedVideo]:
    """Return the videos of a finished run, in natural order of their names.

    Args:
        run: a folder of results, its folder of masks, any folder of `<video>/<frame>.png`, or one of `<frame>.png`.
        video: the video or folder of frames that the masks were made from, or a folder of such; the name of a single
            video may differ.

    Raises:
        ValueError: if there are no masks, or no frames for one of the videos.
    """
    run = Path(run)
    require(run.is_dir(), f"{run}: no such folder, expected the results of a run")
    root = run / ANNOTATIONS if (run / ANNOTATIONS).is_dir() else run
    folders = {path.name: path for path in visible(root) if path.is_dir() and mask_files(path)}
    if not folders and mask_files(root):
        folders, root = {root.resolve().name: root}, root.resolve().parent
    require(bool(folders), f"{run}: no masks, expected {ANNOTATIONS}/<video>/<frame>.png or <video>/<frame>.png")
    sources = {} if video is None else _sources(Path(video), folders)
    return [
        _finished(name, folders[name], root.parent / NOTES / f"{name}.json", sources.get(name))
        for name in natural_order(folders)
    ]


def _sources(video: Path, folders: Mapping[str, Path]) -> dict[str, Path]:
    """Return the source of each video's frames. Raises ValueError if one is missing."""
    found = {record.name: record.source for record in discover(video)}
    if len(folders) == 1 and len(found) == 1:
        return dict(zip(folders, found.values()))
    missing = [name for name in folders if name not in found]
    require(not missing, f"--video {video}: no frames of {', '.join(missing[:5])}; expected a video for each")
    return found


def _finished(name: str, folder: Path, note: Path, source: Path | None) -> FinishedVideo:
    masks = mask_files(folder)
    opened = None if source is None else open_source(source, masks=list(masks.values()))
    if opened is not None:
        masks = _named(masks, opened, folder)
    return FinishedVideo(name, masks, _presence(note, masks), opened)


def _named(masks: Mapping[str, Path], source: FrameFolder | VideoFile, folder: Path) -> dict[str, Path]:
    """Return the masks by the exact names of their frames. Raises ValueError for a mask without a frame."""
    names = None if source.names is None else FrameNames(source.names)
    named = {}
    for stem, path in masks.items():
        if names is not None:
            frame = names.find(stem)
        else:
            known = stem.isascii() and stem.isdecimal() and isinstance(source, VideoFile) and source.may_hold(int(stem))
            frame = f"{int(stem):05d}" if known else None
        if frame is None:
            raise ValueError(
                f"{path}: no frame of that name in {source.path}; --video names another video than {folder}"
            )
        named[frame] = path
    return named


def _presence(note: Path, masks: Mapping[str, Path]) -> dict[ObjectId, dict[str, float]]:
    """Return the scores in a video's note by object and frame; empty without a valid note."""
    try:
        content: Any = read_json(note)
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    frames, presence = content.get("frames"), content.get("presence")
    if not isinstance(frames, list) or not isinstance(presence, dict):
        return {}
    found: dict[ObjectId, dict[str, float]] = {}
    for text, scores in presence.items():
        if text.isascii() and text.isdecimal() and isinstance(scores, list) and len(scores) == len(frames):
            pairs = zip(frames, scores)
            found[int(text)] = {f: float(s) for f, s in pairs if f in masks and isinstance(s, (int, float))}
    return found
