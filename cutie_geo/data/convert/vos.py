"""Conversion of videos with run-length masks to `JPEGImages/<video>/` and `Annotations/<video>/`."""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import UInt32

from cutie_geo.config import WHOLE, Shard
from cutie_geo.data.convert.ledger import Ledger, clear, fingerprint, with_other_shards
from cutie_geo.data.convert.records import Node
from cutie_geo.data.convert.rle import decode_rle
from cutie_geo.data.images import open_image
from cutie_geo.data.io_threads import atomic_write, map_ahead, write_json
from cutie_geo.data.listing import IMAGE_SUFFIXES
from cutie_geo.data.masks import MAX_PALETTE_ID, write_labels
from cutie_geo.data.video import upright_size

MAX_SIDE = 16384
MAX_PIXELS = 2**26
"""Maximum number of pixels of a frame, as declared in the annotations."""

ImageMode = Literal["symlink", "hardlink", "copy"]
"""How an image is placed in the output."""

NO_MASK = "no masks"

_VERSION = 1
"""Incremented when the same input gives other files, so that older results are converted again."""


class LabelledRle(NamedTuple):
    """One object in one frame."""

    label: int
    counts: Node


class VosFrame(NamedTuple):
    """One frame of the output."""

    stem: str
    image: Path
    masks: list[LabelledRle] | None
    """Masks in painting order, later over earlier. None: the frame is not annotated."""


class VosVideo(NamedTuple):
    """One video of the output."""

    name: str
    size: tuple[int, int]
    """Height and width of all its frames."""
    frames: list[VosFrame]
    where: str
    """Place of the record in its file, for messages."""


@dataclass(frozen=True)
class VosOptions:
    """Settings of a conversion."""

    annotations: Path
    """A JSON file, or a folder that has it under its published name."""
    frames: Path
    output: Path
    split: str
    images: ImageMode = "symlink"
    all_frames: bool = False
    """Include frames without annotations, if there are any."""
    workers: int = 2
    """Number of videos converted in parallel."""
    shard: Shard = WHOLE
    """Part of the videos to convert."""

    def __post_init__(self) -> None:
        if self.images not in get_args(ImageMode):
            raise ValueError(f"images: got {self.images!r}, expected one of {', '.join(get_args(ImageMode))}")
        if self.workers < 1:
            raise ValueError(f"workers: got {self.workers}, expected 1 or more")


def find_json(options: VosOptions, names: Sequence[str]) -> Path:
    """Return the annotation file: the file itself, or the first of `names` in the folder. Raises ValueError for
    neither.
    """
    if options.annotations.is_file():
        return options.annotations
    for name in names:
        if (options.annotations / name).is_file():
            return options.annotations / name
    raise ValueError(
        f"{options.annotations}: no annotations, expected a JSON file or a folder with {' or '.join(names)}"
    )


def parse_image(path: Node) -> str:
    """Return the image file name at the end of a path. Raises ValueError for other files."""
    name = path.path()[-1]
    if Path(name).suffix.lower() not in IMAGE_SUFFIXES:
        path.fail(f"an image, {', '.join(sorted(IMAGE_SUFFIXES))}")
    return name


def parse_size(video: Node) -> tuple[int, int]:
    """Return the declared height and width. Raises ValueError for invalid sizes."""
    height, width = (video.key(side).integer(1, MAX_SIDE) for side in ("height", "width"))
    if height * width > MAX_PIXELS:
        raise ValueError(f"{video.where}: got (H, W) = {(height, width)}, expected at most {MAX_PIXELS} pixels")
    return height, width


def existing_folder(places: Sequence[Path], where: str) -> Path:
    """Return the first of `places` that is a folder. Raises ValueError with the record if none is."""
    for place in places:
        if place.is_dir():
            return place
    raise ValueError(f"{where}: no frames; looked for {', '.join(map(str, places))}")


def paint_runs(masks: Iterable[LabelledRle], size: tuple[int, int]) -> UInt32[np.ndarray, "H W"]:
    """Return the label map of run-length masks, later ones over earlier ones."""
    height, width = size
    flat = np.zeros(height * width, np.uint32)
    for label, counts in masks:
        flat[decode_rle(counts, size)] = label
    return np.ascontiguousarray(flat.reshape(width, height).T)


# --------------------------------------------------------------------------------------------------------- one video
def convert_vos_video(video: VosVideo, options: VosOptions, source: str) -> dict[str, Any]:
    """Write one video unless it is finished; return the result as JSON. `source` is a digest of the annotations."""
    if (before := finished_video(video, options, source)) is not None:
        return before
    files = _write_video(video, options) if any(frame.masks for frame in video.frames) else []
    result = {"video": video.name, "frames": len(video.frames), "dropped": None if files else NO_MASK}
    ledger, mark = _ledger(options), _fingerprint(options, source)
    ledger.remove_stale(video.name, files)
    ledger.finish(video.name, mark, files, result)
    return result | {"written": len(video.frames) if files else 0}


def finished_video(video: VosVideo, options: VosOptions, source: str) -> dict[str, Any] | None:
    """Return the result of a video that an earlier call or another shard finished, else None."""
    before = _ledger(options).finished(video.name, _fingerprint(options, source))
    return None if before is None else before | {"written": 0}


def _ledger(options: VosOptions) -> Ledger:
    return Ledger(options.output, options.output / ".convert")


def _fingerprint(options: VosOptions, source: str) -> str:
    return fingerprint(_VERSION, source, options.split, options.images, options.all_frames)


def _write_video(video: VosVideo, options: VosOptions) -> list[str]:
    """Write all images and masks of a video; return their paths within the output."""
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
    """Raise ValueError unless the image file exists and its header has the video's size."""
    try:
        with open_image(path) as image:
            found = upright_size(image)
    except MemoryError:
        raise
    except Exception as error:  # on damaged bytes Pillow's readers raise nearly anything
        raise ValueError(f"{video.where}: {path} cannot be read as an image: {error}") from error
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
    """Write all videos, several in parallel; write and return the report.

    An interrupted run resumes, and ends with the same files. Of several shards, the last to finish writes the report.

    Raises:
        ValueError: with file and record, for invalid masks or images.
    """
    work = partial(convert_vos_video, options=options, source=source)
    own = options.shard.of(videos)
    done = list(watch(map_ahead(work, own, options.workers, 2 * options.workers), len(own)))
    before = partial(finished_video, options=options, source=source)
    results, waiting = with_other_shards(done, videos, options.shard, before)
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
    if waiting:
        report["waiting"] = waiting
    else:
        write_json(options.output / f"{dataset}_{options.split}_report.json", report)
    return report | {"written": sum(result["written"] for result in results), "folder": str(options.output)}
