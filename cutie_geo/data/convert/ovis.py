"""Conversion of OVIS, in the JSON format of YouTube-VIS, to folders for training."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cutie_geo.data.convert.ledger import file_digest
from cutie_geo.data.convert.records import Node, read_json, require_new
from cutie_geo.data.convert.vos import (
    LabelledRle,
    VosFrame,
    VosOptions,
    VosVideo,
    convert_vos,
    existing_folder,
    find_json,
    parse_image,
    parse_size,
)
from cutie_geo.data.masks import MAX_PALETTE_ID

SPLITS = ("train", "valid", "test")
MAX_ID = 2**53


def convert_ovis(
    options: VosOptions, watch: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, count: items
) -> dict[str, Any]:
    """Convert a split; return the report. Raises ValueError with file and record for invalid records."""
    if options.split not in SPLITS:
        raise ValueError(f"split: got {options.split!r}, expected one of {', '.join(SPLITS)}")
    path = find_json(options, [f"annotations_{options.split}.json", f"{options.split}.json"])
    return convert_vos("ovis", read_ovis(path, options), options, file_digest(path), watch)


def read_ovis(path: Path, options: VosOptions) -> list[VosVideo]:
    """Read the videos of a file. An object's label is its position among the video's annotations, from 1 on."""
    content = read_json(path)
    if content.optional("annotations") is None:
        raise ValueError(f"{path}: no annotations, so no masks; only the training split has them")
    by_video = _annotations_by_video(content.key("annotations"))
    seen: set[str] = set()
    videos = []
    for record in content.key("videos").elements():
        video_id = record.key("id")
        require_new(str(video_id.integer(0, MAX_ID)), seen, video_id.where)
        videos.append(_video(record, by_video.pop(video_id.value, []), options))
    for annotations in by_video.values():
        annotations[0].key("video_id").fail("the id of a video")
    names: set[str] = set()
    for video in videos:
        require_new(video.name, names, f"{path}: videos")
    return videos


def _annotations_by_video(annotations: Node) -> dict[int, list[Node]]:
    by_video: dict[int, list[Node]] = {}
    seen: set[str] = set()
    for annotation in annotations.elements():
        own_id = annotation.key("id")
        require_new(str(own_id.integer(0, MAX_ID)), seen, own_id.where)
        by_video.setdefault(annotation.key("video_id").integer(0, MAX_ID), []).append(annotation)
    return by_video


def _video(record: Node, annotations: list[Node], options: VosOptions) -> VosVideo:
    size = parse_size(record)
    files = record.key("file_names").elements()
    images = [parse_image(file) for file in files]
    folders = {file.path()[:-1] for file in files}
    if len(folders) != 1 or len(folder_parts := folders.pop()) != 1:
        record.key("file_names").fail("paths <video>/<image>, all of one video")
    if (length := record.optional("length")) is not None and length.integer(0, MAX_ID) != len(images):
        length.fail(f"{len(images)}, the number of file_names")
    if len(annotations) > MAX_PALETTE_ID:
        raise ValueError(f"{record.where}: got {len(annotations)} objects, expected at most {MAX_PALETTE_ID}")
    name = folder_parts[0]
    folder = existing_folder([options.frames / options.split / name, options.frames / name], record.where)
    masks = _masks(annotations, len(images), size)
    seen: set[str] = set()
    frames = []
    for image, painted in zip(images, masks):
        require_new(Path(image).stem, seen, f"{record.where}.file_names")
        frames.append(VosFrame(Path(image).stem, folder / image, painted))
    return VosVideo(name, size, frames, record.where)


def _masks(annotations: list[Node], length: int, size: tuple[int, int]) -> list[list[LabelledRle]]:
    """Return the masks of each frame."""
    frames: list[list[LabelledRle]] = [[] for _ in range(length)]
    for label, annotation in enumerate(annotations, 1):
        segmentations = annotation.key("segmentations").elements()
        if len(segmentations) != length:
            raise ValueError(f"{annotation.where}: got {len(segmentations)} segmentations for {length} frames")
        for frame, segmentation in zip(frames, segmentations):
            if segmentation.value is None:
                continue
            if segmentation.key("size").value != list(size):
                segmentation.key("size").fail(f"{list(size)}, that of its video")
            frame.append(LabelledRle(label, segmentation.key("counts")))
    return frames
