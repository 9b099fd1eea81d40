"""Conversion of BURST to folders for training."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cutie_geo.data.convert.ledger import file_digest
from cutie_geo.data.convert.records import Node, is_plain_name, read_json, require_new
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
from cutie_geo.data.listing import natural_key
from cutie_geo.data.masks import MAX_LONG_ID

SPLITS = ("train", "val", "test")


def convert_burst(
    options: VosOptions, watch: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, count: items
) -> dict[str, Any]:
    """Convert a split; return the report. Raises ValueError with file and record for invalid records."""
    if options.split not in SPLITS:
        raise ValueError(f"split: got {options.split!r}, expected one of {', '.join(SPLITS)}")
    path = find_json(options, [f"{options.split}/all_classes.json", "all_classes.json", f"{options.split}.json"])
    return convert_vos("burst", read_burst(path, options), options, file_digest(path), watch)


def read_burst(path: Path, options: VosOptions) -> list[VosVideo]:
    """Read the videos of a file, named `<dataset>_-_<sequence>`. An object's label is its track's id."""
    names: set[str] = set()
    videos = []
    for record in read_json(path).key("sequences").elements():
        video = _video(record, options)
        require_new(video.name, names, record.where)
        videos.append(video)
    return videos


def _video(record: Node, options: VosOptions) -> VosVideo:
    size = parse_size(record)
    dataset, sequence = record.key("dataset").plain_name(), record.key("seq_name").plain_name()
    images = [parse_image(image) for image in record.key("annotated_image_paths").elements()]
    segmentations = record.key("segmentations").elements()
    if not images or len(segmentations) != len(images):
        raise ValueError(f"{record.where}: got {len(segmentations)} segmentations for {len(images)} annotated images")
    places = [options.frames / options.split / dataset / sequence, options.frames / dataset / sequence]
    folder = existing_folder(places, record.where)
    frames = [VosFrame(Path(image).stem, folder / image, _masks(each)) for image, each in zip(images, segmentations)]
    if options.all_frames:
        every = {parse_image(image) for image in record.key("all_image_paths").elements()} - set(images)
        frames += [VosFrame(Path(image).stem, folder / image, None) for image in every]
    seen: set[str] = set()
    for frame in frames:
        require_new(frame.stem, seen, f"{record.where}.annotated_image_paths")
    name = f"{dataset}_-_{sequence}"
    if not is_plain_name(name):
        raise ValueError(f"{record.where}: dataset and seq_name together are too long for a folder's name")
    return VosVideo(name, size, sorted(frames, key=lambda frame: natural_key(frame.stem)), record.where)


def _masks(by_track: Node) -> list[LabelledRle]:
    """Return the masks of one frame, in the order of the file."""
    masks = []
    for track, mask in by_track.fields():
        if not (track.isascii() and track.isdecimal() and len(track) < 10 and 0 < int(track) <= MAX_LONG_ID):
            raise ValueError(f"{mask.where}: got track {track[:60]!r}, expected a number from 1 to {MAX_LONG_ID}")
        masks.append(LabelledRle(int(track), mask.key("rle")))
    return masks
