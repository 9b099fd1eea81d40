"""Video sources (folders of images and video files) and frames with their masks and prompts."""

import logging
import math
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Set
from contextlib import closing, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.error import FFmpegError
from av.stream import Disposition
from jaxtyping import Float, Float32, Int32, UInt8
from PIL import ExifTags, Image
from torch import Tensor

from cutie_geo.data.images import open_image
from cutie_geo.data.io_threads import map_ahead, require_regular
from cutie_geo.data.listing import IMAGE_SUFFIXES, FrameNames, frame_files, is_number, left_out, natural_order
from cutie_geo.data.masks import object_ids, read_input_labels, resize_labels
from cutie_geo.data.prompts import FIRST, FramePrompts, require_inside
from cutie_geo.errors import one_line
from cutie_geo.limits import require_pixels
from cutie_geo.structures import Frame, GivenMask, ObjectId

log = logging.getLogger(__name__)

DEFAULT_FPS = 30.0
"""Frame rate of video files that declare none."""

NO_VIDEO = frozenset({"tty", "image2", "image2pipe"})
"""FFmpeg formats that are not videos: text and single images."""

LIKE_VOID = 255
"""An id that other programs use for void pixels."""

SHOWN = 5
"""Maximum number of file names in a message."""

SHORT_END = 1.0
"""Tolerated difference in seconds between the decoded and the declared length, because containers round and pad to the
sound.
"""

NamedImages = Generator[tuple[str, UInt8[np.ndarray, "H W 3"]], None, None]
"""Frame names and RGB images."""


# --------------------------------------------------------------------------------------------------------- sources
class FrameFolder:
    """A folder of images as a video, in natural order of their stems; hidden and other files are ignored.

    Each iteration yields (stem, RGB uint8 (H, W, 3)), rotated by EXIF orientation. Files that are not frames are named
    in a warning.

    Raises:
        ValueError: when constructed, for a folder without images or with two images of one stem; while iterating, with
            the file name, for a damaged image or a different size than the first.
    """

    fps = None
    """A folder has no frame rate."""

    def __init__(self, path: str | Path, workers: int = 0, masks: Iterable[Path] = ()) -> None:
        """Open a folder.

        Args:
            workers: number of threads that decode ahead; 0 decodes in the caller's thread.
            masks: files that are never frames.
        """
        self.path = Path(path)
        self.name = video_name(self.path)
        self.workers = workers
        self.files = _image_files(self.path, tuple(masks))
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
        """Yield the decoded images in order."""
        if self.workers > 0:
            yield from map_ahead(read_image, self.files.values(), self.workers, ahead=2 * self.workers)
        else:
            yield from map(read_image, self.files.values())


class VideoFile:
    """A video file, decoded while it is read; frame names count from 00000.

    Each iteration yields (name, RGB uint8 (H, W, 3)) for every stored frame, rotated as the file declares; non-square
    pixels are not rescaled. The file is closed when iteration ends or is abandoned.

    Raises:
        ValueError: when constructed, if the file has no video; while iterating, with the frame index, for damage
            (decoders run a few frames ahead, so the damage may be later) or a change of the frame size.
    """

    names: tuple[str, ...] | None = None
    """Unknown before the end."""
    declares_end = True
    """True if the end of the frames is the end of the video, and not a lost connection."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = self.path.stem
        with _video_stream(self.path) as stream:
            rate = stream.average_rate or stream.guessed_rate
            seconds = _seconds(stream.duration, stream.time_base)
            self.fps = float(rate or DEFAULT_FPS)
            self.frames: int | None = stream.frames or round((seconds or 0) * self.fps) or None
            """Declared number of frames, for a progress bar; None if unknown. It may be wrong."""

    def may_hold(self, number: int) -> bool:
        """Return False if the video has no frame of this number. If fewer are declared, packets are counted."""
        return (self.frames is not None and number < self.frames) or number < self._packets

    @cached_property
    def _packets(self) -> float:
        """Number of packets with data, an upper bound of the frames; infinity if they cannot be read."""
        try:
            with _video_stream(self.path) as stream:
                return float(sum(packet.size > 0 for packet in stream.container.demux(stream)))
        except (FFmpegError, ValueError):
            return math.inf

    @cached_property
    def is_turned(self) -> bool:
        """True if the file declares a rotation, by its first frame; False if that cannot be read."""
        try:
            with _video_stream(self.path) as stream:
                return bool(round(next(stream.container.decode(stream)).rotation / 90) % 4)
        except (FFmpegError, ValueError, StopIteration):
            return False

    @cached_property
    def times(self) -> list[float] | None:
        """Times at which frames are shown, in seconds from the first, by their packets; None if unknown."""
        try:
            with _video_stream(self.path) as stream:
                packets = [packet for packet in stream.container.demux(stream) if packet.size and not packet.is_discard]
                base = stream.time_base
        except (FFmpegError, ValueError):
            return None
        shown = sorted(packet.pts for packet in packets if packet.pts is not None)
        if not shown or base is None or len(shown) < len(packets):
            return None
        return [float((pts - shown[0]) * base) for pts in shown]

    def __iter__(self) -> NamedImages:
        size = None
        with _video_stream(self.path) as stream:
            for index, image in enumerate(_decode(stream, self.path)):
                size = size or image.shape[:2]
                _require_size(image, size, f"{self.path}: frame {index}")
                yield f"{index:05d}", image


def open_source(path: str | Path, workers: int = 0, masks: Iterable[Path] = ()) -> FrameFolder | VideoFile:
    """Open a video: a folder of images, decoded by `workers` threads, or a video file.

    Args:
        masks: files that are never frames.

    Raises:
        ValueError: if the path is missing or has no video.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    return FrameFolder(path, workers, masks) if path.is_dir() else VideoFile(path)


def _require_size(image: np.ndarray, size: tuple[int, ...], where: object) -> None:
    """Raise ValueError unless `image` has `size`, the size of the first frame."""
    if image.shape[:2] != size:
        raise ValueError(f"{where}: frame is (H, W) = {image.shape[:2]}, expected {size}, the size of the first frame")


# ---------------------------------------------------------------------------------------------------------- images
def video_name(path: Path) -> str:
    """Return the name of a folder as given, without resolving links; "video" for a file-system root."""
    return (path.name if path.name not in ("", "..") else path.resolve().name) or "video"


def _image_files(folder: Path, masks: Collection[Path]) -> dict[str, Path]:
    """Return the frames of `folder` by stem, in natural order, without `masks`. Warn of ignored files."""
    try:
        files = frame_files(folder, masks=masks)
        others = left_out(folder, files.values(), masks)
    except OSError as error:
        raise ValueError(f"frames: cannot list {folder}: {error.strerror}") from error
    if not files:
        raise ValueError(f"frames: no images in {folder}")
    for file in files.values():
        require_regular(file)
    if others:
        log.warning("%s: no frames, left out: %s", folder, shown_names(others))
    if len(files) == 1:
        require_single(next(iter(files.values())))
    return files


def require_single(path: Path) -> None:
    """Raise ValueError if the only frame of a video is a stack of images or an animation.

    Second images of photos (MPO), such as previews, are no frames. Other files are checked when they are read.
    """
    count = 1
    with suppress(Exception), open_image(path) as image:
        count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if count > 1:
        raise ValueError(f"{path}: got {count} images in one file, expected a file for each frame, or a video file")


def shown_names(names: list[str]) -> str:
    """Return the first few names and the number of the others."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def read_image(path: str | Path, upright: bool = True) -> UInt8[np.ndarray, "H W 3"]:
    """Read an image file as RGB; greys are repeated over the channels, transparency is dropped.

    Args:
        upright: apply the EXIF orientation, as viewers do; otherwise return the pixels as stored.

    Raises:
        ValueError: with the file name, for a damaged file, another format, or grey values of more than 8 bits. Of
            colours with 16 bits the higher 8 are kept.
    """
    require_regular(path)
    try:
        with open_image(path) as opened:
            return pil_rgb(opened, upright)
    except MemoryError:
        raise
    except Exception as error:  # on damaged bytes Pillow's readers raise nearly anything
        text = "not an image" if isinstance(error, Image.UnidentifiedImageError) else " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be read as an image: {text or type(error).__name__}") from error


def pil_rgb(image: Image.Image, upright: bool = True) -> UInt8[np.ndarray, "H W 3"]:
    """Return a PIL image as RGB, as `read_image` does. Raises ValueError for grey values of more than 8 bits."""
    if image.mode[0] in "IF":
        raise ValueError(f"image is {image.mode}, expected 8 bits a channel")
    image.load()  # Pillow rotates TIFF files itself then, and drops their tag
    # a palette's transparency has no direct way to RGB
    pixels = image if image.mode == "RGB" else (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")
    return np.array(_turned(pixels, orientation(image)) if upright else pixels)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition that shows an image upright, by EXIF orientation; 1 is upright."""


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an open image, 1 to 8; 1 if it is missing or unreadable."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # on damaged metadata Pillow raises nearly anything; the pixels may be whole
        return 1
    return value if value in range(1, 9) else 1


def is_turned(path: Path) -> bool:
    """Return True if an image file has an EXIF orientation other than upright."""
    with open_image(path) as image:
        return orientation(image) != 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return height and width of an open image after its EXIF orientation is applied."""
    if image.format == "TIFF":  # Pillow rotates these itself
        return image.height, image.width
    return (image.width, image.height) if orientation(image) >= 5 else (image.height, image.width)


def _turned(image: Image.Image, value: int) -> Image.Image:
    """Return `image` transposed as an EXIF orientation requires."""
    return image.transpose(_TURNS[value]) if value in _TURNS else image


def to_tensor(image: UInt8[np.ndarray, "H W 3"]) -> Float32[Tensor, "3 H W"]:
    """Return a contiguous copy of an image with values from 0 to 1, channels first."""
    return torch.from_numpy(image.transpose(2, 0, 1).copy()).float().div_(255)


def resize_shorter(image: Float[Tensor, "3 H W"], size: int) -> Float[Tensor, "3 H2 W2"]:
    """Shrink `image` to a shorter side of `size`; return it unchanged if it is smaller, or if `size` is 0 or less.

    Bilinear with antialiasing; the longer side is rounded down. Values equal torchvision's `v2.Resize(size)`.
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
    """Open the first video stream of a file within the block."""
    if path.suffix.lower() in IMAGE_SUFFIXES:  # FFmpeg would open it and read digits in its name as a pattern
        raise ValueError(f"{path}: is a single image, expected a video file or a folder of images")
    require_regular(path)
    try:
        container = av.open(str(path.absolute()))  # absolute, so that no name is read as a protocol
    except (FFmpegError, OSError, UnicodeError) as error:
        raise ValueError(f"{path}: cannot be opened as a video: {one_line(error)}") from error
    with closing(container):
        if not container.streams.video:
            raise ValueError(
                f"{path}: no video stream, only {', '.join(s.type for s in container.streams) or 'nothing'}"
            )
        stream = container.streams.video[0]
        try:
            require_pixels(stream.codec_context.width, stream.codec_context.height)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        stream.thread_type = "AUTO"
        yield stream


def is_video(path: Path) -> bool:
    """Return True if FFmpeg finds a video in a file that is not text, a single image or cover art."""
    try:
        with _video_stream(path) as stream:
            name = stream.container.format.name
            return not (name in NO_VIDEO or name.endswith("_pipe") or _is_cover(stream))
    except (FFmpegError, OSError, ValueError):
        return False


def _is_cover(stream: Any) -> bool:
    """Return True for cover art attached to sound."""
    return bool(stream.disposition & Disposition.attached_pic)


def _decode(stream: Any, path: object) -> Iterator[np.ndarray]:
    """Yield the frames of an open stream as upright RGB. Raises ValueError with the index of the frame that failed."""
    count, hidden, end = 0, 0, None
    try:
        for packet in stream.container.demux(stream):
            hidden += packet.is_discard  # removed by an edit list: decoded, but not shown
            if packet.is_corrupt:
                raise ValueError(f"{path}: cut off or damaged near frame {count}")
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise ValueError(f"{path}: damaged at frame {count}")
                yield _upright_rgb(frame)
                count, end = count + 1, frame.pts + (frame.duration or 0) if frame.pts is not None else None
    except FFmpegError as error:
        raise ValueError(f"{path}: cannot be decoded near frame {count}: {one_line(error)}") from error
    if count == 0:
        raise ValueError(f"{path}: no frame in it can be decoded")
    _warn_of_early_end(stream, path, count, hidden, end)


def _upright_rgb(frame: Any) -> np.ndarray:
    """Return a decoded frame as RGB, rotated by its display matrix to the nearest quarter turn."""
    image = frame.to_ndarray(format="rgb24")
    quarters = round(frame.rotation / 90) % 4  # counterclockwise, as np.rot90 turns
    return np.ascontiguousarray(np.rot90(image, quarters)) if quarters else image


def _warn_of_early_end(stream: Any, path: object, count: int, hidden: int, end: int | None) -> None:
    """Warn if there are fewer frames than the file declares, or if they end well before the declared length.

    The file may be truncated. This is only a warning, because edit lists and variable frame rates have the same effect.
    """
    if stream.frames > count + hidden:
        log.warning("%s: ends after %d frames, but announces %d: it may be cut off", path, count, stream.frames)
        return
    alone = len(stream.container.streams) == 1  # otherwise the sound may be longer
    declared = _seconds(stream.duration, stream.time_base)
    if declared is None and alone and stream.container.duration is not None:
        declared = stream.container.duration / av.time_base
    reached = _seconds(end, stream.time_base)
    if declared is None or reached is None:
        return
    reached -= _seconds(stream.start_time, stream.time_base) or 0
    if reached + SHORT_END < declared:
        log.warning("%s: ends after %d frames, %.1f s, but declares %.1f s", path, count, reached, declared)


def _seconds(ticks: int | None, base: Any) -> float | None:
    """Return `ticks` of a time base in seconds. None if either is unknown."""
    return None if ticks is None or base is None else float(ticks * base)


# ---------------------------------------------------------------------------------------------------------- frames
class _Mask(NamedTuple):
    """A mask file assigned to a frame."""

    path: Path
    keep: frozenset[ObjectId] | None
    """Ids to use. None: all."""
    void: ObjectId | None = None
    """A further label that is background."""


def read_frames(
    source: FrameFolder | VideoFile,
    masks: Mapping[str, Path] | None = None,
    size: int = -1,
    long_ids: bool = False,
    keep_source: bool = False,
    keep_ids: Mapping[str, Set[ObjectId]] | None = None,
    first_mask: Path | None = None,
    prompts: Mapping[str, FramePrompts] | None = None,
    void: ObjectId | None = None,
) -> Iterator[Frame]:
    """Yield the frames of `source`, with input masks and prompts.

    Args:
        masks: mask files by frame name (stem); numbers match with any zero-padding.
        size: shrink frames with a longer shorter side to this, with their masks; -1 never resizes. A mask's `ids` are
            those that still have a pixel.
        long_ids: read RGB masks as r + 256 g + 65536 b instead of refusing them.
        keep_source: also return the original pixels of each frame.
        keep_ids: ids to use from a mask, by frame name; other ids become background. Masks without an entry keep all
            ids.
        first_mask: one more mask file, for the frame with its name or number. Other names, and the video's own name,
            mean the first frame; a number without a frame is an error.
        prompts: prompts by frame name or number; `FIRST` is the first frame.
        void: a label that is background in all masks.

    A mask without objects is ignored.

    Raises:
        ValueError: at the call, for a mask or prompt without a frame (as far as the container tells), and if there is
            neither a mask with an object nor a prompt; with the first frame, for a prompt outside of it; while
            iterating, for a mask of another size than its frame and for an unreadable file; after the last frame, for
            masks or prompts whose frame is missing.
    """
    waiting = _place_masks(source, masks or {}, keep_ids or {}, first_mask, void)
    if waiting and not prompts:
        _require_object(waiting, long_ids)
    return _frames(source, waiting, _place_prompts(source, prompts or {}), size, long_ids, keep_source)


class FirstPrompt(NamedTuple):
    """The first frame with an object in its mask, or with a prompt."""

    name: str
    after_blank: bool
    """An earlier frame has a mask without objects, so the objects are not visible there."""


def first_prompted(
    source: FrameFolder | VideoFile,
    masks: Mapping[str, Path] | None = None,
    long_ids: bool = False,
    keep_ids: Mapping[str, Set[ObjectId]] | None = None,
    first_mask: Path | None = None,
    prompts: Mapping[str, FramePrompts] | None = None,
    void: ObjectId | None = None,
) -> FirstPrompt | None:
    """Return the first frame with an object in its mask, or with a prompt; None if there is none.

    Arguments and errors are those of `read_frames`. Masks are read up to the first one with an object.
    """
    placed = _place_masks(source, masks or {}, keep_ids or {}, first_mask, void, warn=False)
    pointed = _place_prompts(source, prompts or {})
    for place, name in enumerate(natural_order({*placed, *pointed})):
        if name in pointed or object_ids(_labels(placed[name], long_ids, warn=False)):
            return FirstPrompt(name, place > 0)
    return None


def _place_masks(
    source: FrameFolder | VideoFile,
    masks: Mapping[str, Path],
    keep_ids: Mapping[str, Set[ObjectId]],
    first_mask: Path | None,
    void: ObjectId | None,
    warn: bool = True,
) -> dict[str, _Mask]:
    """Return the masks by the exact name of their frame, in frame order."""
    find = _frame_finder(source)
    keep = {find(stem) or stem: frozenset(ids) for stem, ids in keep_ids.items()}
    given: list[tuple[str, Path]] = []
    for stem, path in masks.items():
        name = find(stem)
        if name is None:
            raise ValueError(f"{path}: no frame of that name in {source.path}; {_frames_are_called(source)}")
        given.append((name, Path(path)))
    if first_mask is not None:
        given.append((_first_mask_frame(source, Path(first_mask), warn), Path(first_mask)))
    placed: dict[str, _Mask] = {}
    for name, path in given:
        if name in placed:
            raise ValueError(f"{path}: second mask for frame {name} of {source.path}, beside {placed[name].path}")
        placed[name] = _Mask(path, keep.get(name), void)
    return {name: placed[name] for name in natural_order(placed)}


def _frame_finder(source: FrameFolder | VideoFile) -> Callable[[str], str | None]:
    """Return a function that finds the exact frame name, or None if the frame does not exist."""
    if isinstance(source, FrameFolder):
        return FrameNames(source.names).find

    def find(name: str) -> str | None:
        return _frame_number(name) if is_number(name) and source.may_hold(int(name)) else None

    return find


def _frames_are_called(source: FrameFolder | VideoFile) -> str:
    """Describe the frame names of a source for error messages."""
    if isinstance(source, FrameFolder):
        return f"frames are named {source.names[0]} to {source.names[-1]}"
    last = ", 00001, ..." if source.frames is None else f" to {source.frames - 1:05d}"
    return f"frames of a video file are numbers, 00000{last}"


def _require_object(masks: Mapping[str, _Mask], long_ids: bool) -> None:
    """Raise ValueError unless a mask has an object. Masks are read in order up to the first one with an object.

    Warn if it has the id 255 among others, which may mean void.
    """
    for mask in masks.values():
        if ids := object_ids(_labels(mask, long_ids, warn=False)):  # the warning follows when its frame is read
            if LIKE_VOID in ids[1:] and not long_ids:
                others = ", ".join(map(str, ids[:-1]))
                log.warning("%s: 255 is read as an object, beside %s; paint it 0 if it is void", mask.path, others)
            return
    raise ValueError(
        f"{next(iter(masks.values())).path}: the mask has no objects; expected at least one non-zero id. "
        "Blank masks before the first object are skipped; no mask shows one."
    )


def _place_prompts(source: FrameFolder | VideoFile, prompts: Mapping[str, FramePrompts]) -> dict[str, FramePrompts]:
    """Return prompts by the exact name of their frame. Raises ValueError if a frame is missing or named twice."""
    find = _frame_finder(source)
    first = source.names[0] if source.names is not None else _frame_number("0")
    placed: dict[str, FramePrompts] = {}
    for stem, objects in prompts.items():
        name = first if stem == FIRST else find(stem)
        if name is None:
            raise ValueError(f"prompts: no frame {stem} in {source.path}; {_frames_are_called(source)}")
        if name in placed:
            raise ValueError(f"prompts: frame {name} of {source.path} twice, expected all of its objects together")
        placed[name] = objects
    return placed


def _require_prompted(source: FrameFolder | VideoFile, unused: Set[str]) -> None:
    """Raise ValueError if the frame of a prompt is missing."""
    for name in natural_order(unused):
        raise ValueError(f"prompts: no frame {name} in {source.path}")


def _frame_number(stem: str) -> str:
    """Return the frame name of a number; other names are returned unchanged."""
    return f"{int(stem):05d}" if stem.isascii() and stem.isdecimal() else stem


def _first_mask_frame(source: FrameFolder | VideoFile, mask: Path, warn: bool = True) -> str:
    """Return the frame of the user's first mask: the frame with its name or number, or else the first of `source`.

    A mask with the video's own name belongs to the first frame too. Warn if that is the last one of a video whose
    frames run backward.

    Raises:
        ValueError: for a number without a frame.
    """
    found, own = _frame_finder(source)(mask.stem), mask.stem == source.name
    if found is None and is_number(mask.stem) and not own:
        raise ValueError(
            f"{mask}: no frame {mask.stem} in {source.path}; {_frames_are_called(source)}. "
            "A mask that is named otherwise, such as first.png, belongs to the first frame."
        )
    names = [_frame_number("0")] if source.names is None else list(source.names)
    last = len(names) > 1 and natural_order(names)[0] != names[0]  # frames run backward
    numbered = not own and any(letter.isdecimal() for letter in mask.stem)
    if warn and (own or found is None) and (last or numbered):
        place = "last" if last else "first"
        log.warning("%s: taken for the mask of the %s frame, %s; %s", mask, place, names[0], _frames_are_called(source))
    return names[0] if own or found is None else found


def _require_frames(source: FrameFolder | VideoFile, unused: Mapping[str, _Mask]) -> None:
    """Raise ValueError if the frame of a mask is missing."""
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
    """Generate the frames for `read_frames`."""
    waiting, pointed = dict(masks), dict(prompts)
    with closing(iter(source)) as frames:
        for index, (name, pixels) in enumerate(frames):
            if index == 0:
                require_inside(prompts, pixels.shape[:2], f"{source.path}: prompts")
            image = resize_shorter(to_tensor(pixels), size)
            given = None
            if mask := waiting.pop(name, None):
                given = _read_mask(mask, source, name, pixels.shape[:2], (image.shape[1], image.shape[2]), long_ids)
            shown = pixels if keep_source else None
            yield Frame(name, image, pixels.shape[:2], given, shown, pointed.pop(name, None))
    _require_frames(source, waiting)
    _require_prompted(source, set(pointed))


def _labels(mask: _Mask, long_ids: bool, warn: bool = True) -> Int32[np.ndarray, "H W"]:
    """Return the ids of a mask file. Raises ValueError with its name if it cannot be read."""
    labels = read_input_labels(mask.path, long_ids, warn).labels
    if mask.keep is not None:
        labels = np.where(np.isin(labels, list(mask.keep)), labels, 0)
    return labels if mask.void is None else np.where(labels == mask.void, 0, labels)


def _read_mask(
    mask: _Mask,
    source: FrameFolder | VideoFile,
    name: str,
    frame_size: tuple[int, int],
    size: tuple[int, int],
    long_ids: bool,
) -> GivenMask | None:
    """Read a mask at `size`; return None if it has no object. Raises ValueError as `read_frames` does."""
    labels = _labels(mask, long_ids)
    if labels.shape != frame_size:
        upright = ""
        if isinstance(source, FrameFolder) and is_turned(source.files[name]):
            upright = ", turned upright as its EXIF orientation says"
        elif type(source) is VideoFile and source.is_turned:
            upright = ", turned upright as the video's rotation says"
        raise ValueError(
            f"{mask.path}: mask is (H, W) = {labels.shape}, expected {frame_size}, the size of its frame{upright}"
        )
    before = object_ids(labels)
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
    """Yield the frames of a video file or a folder of images, for `segment_video`; arguments as in `read_frames`.

    >>> import cutie_geo
    >>> frames = cutie_geo.read_video(cutie_geo.example_frames(), cutie_geo.example_masks() / "00000.png", size=96)
    >>> frame = next(frames)
    >>> frame.name, tuple(frame.image.shape), frame.size, frame.given.ids
    ('00000', (3, 96, 170), (180, 320), (1, 2, 3))
    """
    first = None if first_mask is None else Path(first_mask)
    source = open_source(path, workers, [*(masks or {}).values(), *([] if first is None else [first])])
    return read_frames(source, masks, size, first_mask=first, prompts=prompts)
