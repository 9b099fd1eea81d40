"""Videos in, frames out: a folder of images or a video file, with the masks that belong to its frames."""

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Set
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.error import FFmpegError
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from torch import Tensor

from cutie_geo.data.background import map_ahead
from cutie_geo.data.masks import object_ids, read_labels, resize_labels
from cutie_geo.data.prompts import FIRST, FramePrompts, require_inside
from cutie_geo.structures import Frame, GivenMask, ObjectId

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

DEFAULT_FPS = 30.0
"""Of video files that don't say."""

SHORT_END = 1.0
"""Seconds by which a video may end before the length it declares; containers round, and pad to their sound."""

NamedImages = Generator[tuple[str, UInt8[np.ndarray, "H W 3"]], None, None]
"""Frame names and RGB images."""


# --------------------------------------------------------------------------------------------------------- sources
class FrameFolder:
    """The images of a folder as a video, in string order of their stems; hidden and other files are ignored.

    Iterating yields (stem, RGB uint8 (H, W, 3)), as often as wanted. Pixels are taken as stored, not turned by EXIF
    orientation: that is what masks of datasets are drawn on. Raises ValueError naming the file for a damaged image, or
    one of another size than the first; when built, for a folder without images or with two images of one stem.
    """

    fps = None
    """Not known to a folder."""

    def __init__(self, path: str | Path, workers: int = 0) -> None:
        """`workers` threads decode ahead of the loop; 0 decodes in it."""
        self.path = Path(path)
        self.name = self.path.resolve().name
        self.workers = workers
        self.files = _image_files(self.path)
        self.names = tuple(self.files)
        self.frames = len(self.names)

    def __len__(self) -> int:
        return self.frames

    def __iter__(self) -> NamedImages:
        size = None
        with closing(self._images()) as images:
            for (stem, file), image in zip(self.files.items(), images):
                size = size or image.shape[:2]
                _require_size(image, size, file)
                yield stem, image

    def _images(self) -> Generator[np.ndarray, None, None]:
        """The decoded images in order."""
        if self.workers > 0:
            yield from map_ahead(read_image, self.files.values(), self.workers, ahead=2 * self.workers)
        else:
            yield from map(read_image, self.files.values())


class VideoFile:
    """A video file, decoded as it is read; frame names count from 00000.

    Iterating yields (name, RGB uint8 (H, W, 3)) for every frame stored, as often as wanted, turned upright by the
    file's rotation; pixels that aren't square stay as stored. The file is closed when iteration ends or is abandoned.
    Raises ValueError naming the file, when built, if it has no video; while iterating, with the frame's index, if it is
    damaged (decoders run a few frames ahead, so the damage may lie that much later) or if the frame size changes.
    """

    names = None
    """Not known before the end."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = self.path.stem
        with _video_stream(self.path) as stream:
            rate = stream.average_rate or stream.guessed_rate
            seconds = _seconds(stream.duration, stream.time_base)
            self.fps = float(rate or DEFAULT_FPS)
            self.frames: int | None = stream.frames or round((seconds or 0) * self.fps) or None
            """How many frames the file says it has, or None; for a progress bar, not for counting."""

    def __iter__(self) -> NamedImages:
        size = None
        with _video_stream(self.path) as stream:
            for index, image in enumerate(_decode(stream, self.path)):
                size = size or image.shape[:2]
                _require_size(image, size, f"{self.path}: frame {index}")
                yield f"{index:05d}", image


def open_source(path: str | Path, workers: int = 0) -> FrameFolder | VideoFile:
    """The video at `path`: a folder of images, decoded by `workers` threads, or a video file.

    Raises ValueError if there is nothing there, or nothing of that kind.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    return FrameFolder(path, workers) if path.is_dir() else VideoFile(path)


def _require_size(image: np.ndarray, size: tuple[int, ...], where: object) -> None:
    """Raise ValueError unless `image` is `size`, that of the first frame."""
    if image.shape[:2] != size:
        raise ValueError(f"{where}: frame is (H, W) = {image.shape[:2]}, wanted {size}, the size of the first frame")


# ---------------------------------------------------------------------------------------------------------- images
def _image_files(folder: Path) -> dict[str, Path]:
    """The image files of `folder` by stem, in string order of stems."""
    try:
        found = sorted(folder.iterdir(), key=lambda file: (file.stem, file.name))
    except OSError as error:
        raise ValueError(f"frames: can't list {folder}: {error.strerror}") from error
    files: dict[str, Path] = {}
    for file in found:
        if file.suffix.lower() not in IMAGE_SUFFIXES or file.name.startswith("."):
            continue
        if file.stem in files:
            raise ValueError(f"{file}: second image of that name, beside {files[file.stem].name}")
        files[file.stem] = file
    if not files:
        raise ValueError(f"frames: no images in {folder}")
    return files


def read_image(path: str | Path) -> UInt8[np.ndarray, "H W 3"]:
    """An image file as RGB; greys are spread over the channels, transparency is dropped.

    Raises ValueError naming the file if it is damaged, no image, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":
                raise ValueError(f"image is {image.mode}, wanted 8 bits a channel")
            if image.mode == "P":
                image = image.convert("RGBA")  # a palette's transparency has no direct way to RGB
            return np.array(image.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # on damaged bytes Pillow's readers raise nearly anything
        text = "not an image" if isinstance(error, Image.UnidentifiedImageError) else " ".join(str(error).split())
        raise ValueError(f"{path}: can't be read as an image: {text or type(error).__name__}") from error


def to_tensor(image: UInt8[np.ndarray, "H W 3"]) -> Float32[Tensor, "3 H W"]:
    """An image with values from 0 to 1, channels first, contiguous; a copy."""
    return torch.from_numpy(image.transpose(2, 0, 1).copy()).float().div_(255)


def resize_shorter(image: Float[Tensor, "3 H W"], size: int) -> Float[Tensor, "3 H2 W2"]:
    """`image` shrunk to a shorter side of `size`; unchanged if it is no longer than that, or if `size` is 0 or less.

    The longer side is cut to whole pixels. Bilinear, antialiased; same values as torchvision's `v2.Resize(size)`.
    """
    height, width = image.shape[-2:]
    short, long = sorted((height, width))
    if size <= 0 or short <= size:
        return image
    longer = int(size * long / short)
    shape = (size, longer) if height <= width else (longer, size)
    return F.interpolate(image[None], shape, mode="bilinear", align_corners=False, antialias=True)[0]


# ----------------------------------------------------------------------------------------------------- video files
@contextmanager
def _video_stream(path: Path) -> Iterator[Any]:
    """The first video stream of the file at `path`, open for the length of the block."""
    if path.suffix.lower() in IMAGE_SUFFIXES:  # FFmpeg would open it, and take digits in its name for a pattern
        raise ValueError(f"{path}: is a single image, wanted a video file or a folder of images")
    try:
        container = av.open(str(path.absolute()))  # absolute, so that no name is taken for a protocol
    except (FFmpegError, OSError, UnicodeError) as error:
        raise ValueError(f"{path}: can't be opened as a video: {_reason(error)}") from error
    with closing(container):
        if not container.streams.video:
            raise ValueError(
                f"{path}: no video stream, only {', '.join(s.type for s in container.streams) or 'nothing'}"
            )
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield stream


def _decode(stream: Any, path: Path) -> Iterator[np.ndarray]:
    """The frames of an open stream as RGB, upright. Raises ValueError with the index of the frame that failed."""
    count, end = 0, None
    try:
        for packet in stream.container.demux(stream):
            if packet.is_corrupt:
                raise ValueError(f"{path}: cut off or damaged near frame {count}")
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise ValueError(f"{path}: damaged at frame {count}")
                yield _upright_rgb(frame)
                count, end = count + 1, frame.pts + (frame.duration or 0) if frame.pts is not None else None
    except FFmpegError as error:
        raise ValueError(f"{path}: can't be decoded near frame {count}: {_reason(error)}") from error
    if count == 0:
        raise ValueError(f"{path}: no frame in it can be decoded")
    _warn_of_early_end(stream, path, count, end)


def _upright_rgb(frame: Any) -> np.ndarray:
    """A decoded frame as RGB, turned by its display matrix to the nearest quarter."""
    image = frame.to_ndarray(format="rgb24")
    quarters = round(frame.rotation / 90) % 4  # counterclockwise, as np.rot90 turns
    return np.ascontiguousarray(np.rot90(image, quarters)) if quarters else image


def _warn_of_early_end(stream: Any, path: Path, count: int, end: int | None) -> None:
    """Say so if frames end well before the length that the file declares: it may be cut between two frames.

    No more than a warning, since edit lists and variable frame rates can do the same to a sound file.
    """
    declared = _seconds(stream.duration, stream.time_base)
    reached = _seconds(end, stream.time_base)
    if declared is None or reached is None:
        return
    reached -= _seconds(stream.start_time, stream.time_base) or 0
    if reached + SHORT_END < declared:
        log.warning("%s: ends after %d frames, %.1f s, but declares %.1f s", path, count, reached, declared)


def _seconds(ticks: int | None, base: Any) -> float | None:
    """`ticks` of a time base in seconds, None where either is unknown."""
    return None if ticks is None or base is None else float(ticks * base)


def _reason(error: Exception) -> str:
    """What FFmpeg or the system says, without number and file name."""
    return str(getattr(error, "strerror", None) or error)


# ---------------------------------------------------------------------------------------------------------- frames
class _Mask(NamedTuple):
    """A mask file on its way to its frame."""

    path: Path
    keep: frozenset[ObjectId] | None
    """Ids to take from it, None for all."""


def read_frames(
    source: FrameFolder | VideoFile,
    masks: Mapping[str, Path] | None = None,
    size: int = -1,
    long_ids: bool = False,
    keep_source: bool = False,
    keep_ids: Mapping[str, Set[ObjectId]] | None = None,
    first_mask: Path | None = None,
    prompts: Mapping[str, FramePrompts] | None = None,
) -> Iterator[Frame]:
    """The frames of `source`, with the masks that are given for some of them.

    masks: mask files by frame name (stem). In a video file, whose frames are numbered, any zero-padding of a number
        will do.
    size: frames whose shorter side is longer are shrunk to it, masks with them; -1 for never. A mask's `ids` are those
        that still have a pixel then.
    long_ids: RGB masks are read as r + 256 g + 65536 b instead of refused.
    keep_source: frames carry the file's own pixels too.
    keep_ids: by frame name too, the ids to take from a mask; all others become background. What it doesn't name is
        taken whole.
    first_mask: one more mask file; it belongs to the frame that bears its name, or else to the first.
    prompts: what is pointed at, by frame name too; `FIRST` stands for the first frame.

    The first mask must show an object; a later one that shows none is as none. Raises ValueError, at the call where
    frame names are known beforehand and otherwise after the last frame, for a mask or prompts without a frame; with the
    first frame, for a prompt outside of it; while iterating, for a mask of another size than its frame, an unreadable
    file, and a first mask without objects.
    """
    waiting = _place_masks(source, masks or {}, keep_ids or {}, first_mask)
    return _frames(source, waiting, _place_prompts(source, prompts or {}), size, long_ids, keep_source)


def _place_masks(
    source: FrameFolder | VideoFile,
    masks: Mapping[str, Path],
    keep_ids: Mapping[str, Set[ObjectId]],
    first_mask: Path | None,
) -> dict[str, _Mask]:
    """The masks by the exact name of their frame."""
    rename: Callable[[str], str] = _frame_number if source.names is None else str
    keep = {rename(stem): frozenset(ids) for stem, ids in keep_ids.items()}
    given = [(rename(stem), Path(path)) for stem, path in masks.items()]
    if first_mask is not None:
        given.append((_first_mask_frame(source, rename(Path(first_mask).stem)), Path(first_mask)))
    placed: dict[str, _Mask] = {}
    for name, path in given:
        if name in placed:
            raise ValueError(f"{path}: second mask for frame {name} of {source.path}, beside {placed[name].path}")
        placed[name] = _Mask(path, keep.get(name))
    if source.names is not None:
        known = set(source.names)
        _require_frames(source, {name: mask for name, mask in placed.items() if name not in known})
    return placed


def _place_prompts(source: FrameFolder | VideoFile, prompts: Mapping[str, FramePrompts]) -> dict[str, FramePrompts]:
    """Prompts by the exact name of their frame. Raises ValueError for two lots of them for one frame."""
    first = source.names[0] if source.names is not None else _frame_number("0")
    placed: dict[str, FramePrompts] = {}
    for stem, objects in prompts.items():
        name = first if stem == FIRST else _frame_number(stem) if source.names is None else stem
        if name in placed:
            raise ValueError(f"prompts: frame {name} of {source.path} twice, wanted all of its objects together")
        placed[name] = objects
    if source.names is not None:
        _require_prompted(source, set(placed) - set(source.names))
    return placed


def _require_prompted(source: FrameFolder | VideoFile, unused: Set[str]) -> None:
    """Raise ValueError if there are prompts left whose frame never came."""
    for name in sorted(unused):
        raise ValueError(f"prompts: no frame {name} in {source.path}")


def _frame_number(stem: str) -> str:
    """The frame name that a number stands for; other names stay."""
    return f"{int(stem):05d}" if stem.isascii() and stem.isdecimal() else stem


def _first_mask_frame(source: FrameFolder | VideoFile, name: str) -> str:
    """The frame of the mask that a user gave as the first: the one of its name, or else the first."""
    if source.names is not None:
        return name if name in source.names else source.names[0]
    is_frame = name.isdecimal() and (source.frames is None or int(name) < source.frames)
    return name if is_frame else _frame_number("0")


def _require_frames(source: FrameFolder | VideoFile, unused: Mapping[str, _Mask]) -> None:
    """Raise ValueError if there is a mask left whose frame never came."""
    for mask in unused.values():
        raise ValueError(f"{mask.path}: no frame of that name in {source.path}")


def _frames(
    source: FrameFolder | VideoFile,
    masks: dict[str, _Mask],
    prompts: dict[str, FramePrompts],
    size: int,
    long_ids: bool,
    keep_source: bool,
) -> Iterator[Frame]:
    """The generator behind `read_frames`."""
    waiting, pointed, first = dict(masks), dict(prompts), True
    with closing(iter(source)) as frames:
        for index, (name, pixels) in enumerate(frames):
            if index == 0:
                require_inside(prompts, pixels.shape[:2], f"{source.path}: prompts")
            image = resize_shorter(to_tensor(pixels), size)
            given = None
            if mask := waiting.pop(name, None):
                given = _read_given(mask, pixels.shape[:2], (image.shape[1], image.shape[2]), long_ids, first)
                first = False
            shown = pixels if keep_source else None
            yield Frame(name, image, pixels.shape[:2], given, shown, pointed.pop(name, None))
    _require_frames(source, waiting)
    _require_prompted(source, set(pointed))


def _read_given(
    mask: _Mask, frame_size: tuple[int, int], size: tuple[int, int], long_ids: bool, first: bool
) -> GivenMask | None:
    """One mask at `size`, or None if it shows no object. Raises ValueError as `read_frames` says."""
    labels = read_labels(mask.path, long_ids).labels
    if labels.shape != frame_size:
        raise ValueError(f"{mask.path}: mask is (H, W) = {labels.shape}, wanted {frame_size}, the size of its frame")
    if mask.keep is not None:
        labels = np.where(np.isin(labels, list(mask.keep)), labels, 0)
    before = object_ids(labels)
    if first and not before:
        raise ValueError(f"{mask.path}: mask without objects")
    labels = resize_labels(labels, size)
    ids = object_ids(labels)
    if lost := sorted(set(before) - set(ids)):
        log.warning("%s: objects %s have no pixel left at size %s", mask.path, lost, size)
    return GivenMask(labels, ids) if ids else None


def read_video(
    path: str | Path,
    first_mask: str | Path | None = None,
    masks: Mapping[str, Path] | None = None,
    size: int = -1,
    workers: int = 0,
    prompts: Mapping[str, FramePrompts] | None = None,
) -> Iterator[Frame]:
    """Frames of a video file or a folder of images, for `segment_video`; the arguments are those of `read_frames`."""
    source = open_source(path, workers)
    return read_frames(
        source, masks, size, first_mask=None if first_mask is None else Path(first_mask), prompts=prompts
    )
