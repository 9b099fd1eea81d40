"""Videos with run-length masks into folders for training: `JPEGImages/<video>/`, `Annotations/<video>/`."""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import UInt32
from PIL import Image

from cutie_geo.data.background import atomic_write, map_ahead, write_json
from cutie_geo.data.convert.ledger import Ledger, clear, fingerprint
from cutie_geo.data.convert.records import Node
from cutie_geo.data.convert.rle import decode_rle
from cutie_geo.data.masks import MAX_PALETTE_ID, write_labels
from cutie_geo.data.video import IMAGE_SUFFIXES

MAX_SIDE = 16384
MAX_PIXELS = 2**26
"""Of a video's frame, as its annotations declare it."""

ImageMode = Literal["symlink", "hardlink", "copy"]
"""How an image gets into the output."""

NO_MASK = "no masks"

_VERSION = 1
"""Goes up when the same input gives other files, so that older results are made anew."""


class LabelledRle(NamedTuple):
    """One object in one frame."""

    label: int
    counts: Node


class VosFrame(NamedTuple):
    """One frame of the output."""

    stem: str
    image: Path
    masks: list[LabelledRle] | None
    """Painted in this order, later over earlier; None where the frame isn't annotated."""


class VosVideo(NamedTuple):
    """One video of the output."""

    name: str
    size: tuple[int, int]
    """Height and width of all its frames."""
    frames: list[VosFrame]
    where: str
    """The record in its file, for messages."""


@dataclass(frozen=True)
class VosOptions:
    """Where from, where to, and how."""

    annotations: Path
    """A JSON file, or a folder that has it under its published name."""
    frames: Path
    output: Path
    split: str
    images: ImageMode = "symlink"
    all_frames: bool = False
    """Also the frames between those that are annotated, where there are any."""
    workers: int = 2
    """Videos at a time."""

    def __post_init__(self) -> None:
        if self.images not in get_args(ImageMode):
            raise ValueError(f"images: got {self.images!r}, wanted one of {', '.join(get_args(ImageMode))}")
        if self.workers < 1:
            raise ValueError(f"workers: got {self.workers}, wanted 1 or more")


def find_json(options: VosOptions, names: Sequence[str]) -> Path:
    """The annotations: the file itself, or the first of `names` in the folder. Raises ValueError for neither."""
    if options.annotations.is_file():
        return options.annotations
    for name in names:
        if (options.annotations / name).is_file():
            return options.annotations / name
    raise ValueError(f"{options.annotations}: no annotations, wanted a JSON file or a folder with {' or '.join(names)}")


def parse_image(path: Node) -> str:
    """The name of the image file that a path ends in. Raises ValueError for other files."""
    name = path.path()[-1]
    if Path(name).suffix.lower() not in IMAGE_SUFFIXES:
        path.fail(f"an image, {', '.join(sorted(IMAGE_SUFFIXES))}")
    return name


def parse_size(video: Node) -> tuple[int, int]:
    """Height and width that a record declares. Raises ValueError for sizes that no video has."""
    height, width = (video.key(side).integer(1, MAX_SIDE) for side in ("height", "width"))
    if height * width > MAX_PIXELS:
        raise ValueError(f"{video.where}: got (H, W) = {(height, width)}, wanted at most {MAX_PIXELS} pixels")
    return height, width


def existing_folder(places: Sequence[Path], where: str) -> Path:
    """The first of `places` that is a folder. Raises ValueError naming the record if none is."""
    for place in places:
        if place.is_dir():
            return place
    raise ValueError(f"{where}: no frames; looked for {', '.join(map(str, places))}")


def paint_runs(masks: Iterable[LabelledRle], size: tuple[int, int]) -> UInt32[np.ndarray, "H W"]:
    """The label map of run-length masks, later ones over earlier."""
    height, width = size
    flat = np.zeros(height * width, np.uint32)
    for label, counts in masks:
        flat[decode_rle(counts, size)] = label
    return np.ascontiguousarray(flat.reshape(width, height).T)


# --------------------------------------------------------------------------------------------------------- one video
def convert_vos_video(video: VosVideo, options: VosOptions, source: str) -> dict[str, Any]:
    """Write one video, unless that is already done; the result as JSON. `source` is a digest of the annotations."""
    ledger = Ledger(options.output, options.output / ".convert")
    mark = fingerprint(_VERSION, source, options.split, options.images, options.all_frames)
    if (before := ledger.finished(video.name, mark)) is not None:
        return before | {"written": 0}
    files = _write_video(video, options) if any(frame.masks for frame in video.frames) else []
    result = {"video": video.name, "frames": len(video.frames), "dropped": None if files else NO_MASK}
    ledger.remove_stale(video.name, files)
    ledger.finish(video.name, mark, files, result)
    return result | {"written": len(video.frames) if files else 0}


def _write_video(video: VosVideo, options: VosOptions) -> list[str]:
    """Write all images and masks of a video; their paths within the output."""
    files: list[str] = []
    long_ids = any(mask.label > MAX_PALETTE_ID for frame in video.frames for mask in frame.masks or ())
    for frame in video.frames:
        image = f"JPEGImages/{video.name}/{frame.stem}{frame.image.suffix.lower()}"
        _require_size(frame.image, video)
        _place_image(frame.image, options.output / image, options.images)
        files.append(image)
        if frame.masks is not None:
            mask = f"Annotations/{video.name}/{frame.stem}.png"
            labels = paint_runs(frame.masks, video.size)
            write_labels(options.output / mask, labels, long_ids=long_ids)
            files.append(mask)
    for kind in ("JPEGImages", "Annotations"):
        clear(options.output / kind / video.name, [Path(file).name for file in files if file.startswith(kind)])
    return files


def _require_size(path: Path, video: VosVideo) -> None:
    """Raise ValueError unless the image file is there and has the video's size, by its header."""
    try:
        with Image.open(path) as image:
            found = (image.height, image.width)
    except MemoryError:
        raise
    except Exception as error:  # on damaged bytes Pillow's readers raise nearly anything
        raise ValueError(f"{video.where}: {path} can't be read as an image: {error}") from error
    if found != video.size:
        raise ValueError(f"{video.where}: got (H, W) = {video.size}, but {path} is {found}")


def _place_image(source: Path, target: Path, mode: ImageMode) -> None:
    with atomic_write(target) as part:
        part.unlink(missing_ok=True)
        if mode == "symlink":
            part.symlink_to(source.absolute())
        elif mode == "hardlink":
            os.link(source, part)
        else:
            shutil.copyfile(source, part)


# -------------------------------------------------------------------------------------------------------- all videos
def convert_vos(
    dataset: str,
    videos: Sequence[VosVideo],
    options: VosOptions,
    source: str,
    watch: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, count: items,
) -> dict[str, Any]:
    """Write all videos, several at a time; return the report, which is written too.

    A run that was interrupted goes on where it stopped, and ends with the same files. Raises ValueError with file and
    record for masks or images that can't be right.
    """
    work = partial(convert_vos_video, options=options, source=source)
    results = list(watch(map_ahead(work, videos, options.workers, 2 * options.workers), len(videos)))
    kept = [result for result in results if not result["dropped"]]
    dropped = [
        {"sequence": result["video"], "frames": result["frames"], "reason": result["dropped"]}
        for result in results
        if result["dropped"]
    ]
    report: dict[str, Any] = {
        "dataset": dataset,
        "split": options.split,
        "images": options.images,
        "videos": len(results),
        "sequences": len(kept),
        "frames": sum(result["frames"] for result in kept),
        "dropped_sequences": dropped,
        "dropped_frames": [],
    }
    write_json(options.output / f"{dataset}_{options.split}_report.json", report)
    return report | {"written": sum(result["written"] for result in results), "folder": str(options.output)}
