"""Overlay images and videos: objects tinted, outlined and labelled with their ids."""

import colorsys
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import Float, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from cutie_geo.data.io_threads import atomic_write
from cutie_geo.data.masks import object_ids
from cutie_geo.data.sound import SoundTrack
from cutie_geo.structures import ObjectId, Prompt

TINT = 0.45
"""Opacity of the object colour."""
SUBPIXEL_BITS = 4
"""Fractional bits of the coordinates in which outlines are drawn."""
GOLDEN_TURN = (math.sqrt(5) - 1) / 2
"""Golden-ratio step between hues, as a fraction of the colour circle."""

TICKS = 60_000
"""Ticks per second of a variable frame rate: a multiple of the usual rates, within the limit of MPEG-4 Part 2."""

WHITE, POSITIVE, NEGATIVE = (255, 255, 255), (0, 200, 0), (230, 0, 0)
"""Colours of point prompts: rim, positive, negative."""

COLOURS = (
    (255, 88, 72),
    (56, 168, 255),
    (88, 214, 92),
    (255, 206, 54),
    (196, 110, 255),
    (48, 220, 208),
    (255, 140, 40),
    (255, 120, 190),
    (166, 224, 40),
    (110, 126, 255),
    (222, 168, 120),
    (0, 188, 140),
)
"""Colours of the first ids, distinct from each other and visible on dark and bright scenes."""


class Style(NamedTuple):
    """Drawing sizes in pixels for an image."""

    line: int
    """Line width of an outline."""
    text: int
    """Text height of a tag."""
    smooth: int
    """Odd number of contour points averaged into one, which smooths the stairs of a mask's edge."""


# --------------------------------------------------------------------------------------------------------- drawing
def draw(
    image: UInt8[np.ndarray, "H W 3"],
    labels: Integer[np.ndarray, "H W"],
    ids: Iterable[ObjectId] | None = None,
    fill: bool = True,
    outline: bool = True,
    tags: bool = True,
) -> UInt8[np.ndarray, "H W 3"]:
    """Return a copy of the RGB `image` with each object of `labels` tinted, outlined and tagged with its id.

    Args:
        ids: objects to draw. None: all. An id has the same colour in every image.
        fill: tint the objects.
        outline: outline them.
        tags: draw their ids.
    """
    out = np.array(image, order="C")
    style = _style(*out.shape[:2])
    shapes = [shape for i in (object_ids(labels) if ids is None else ids) if (shape := _shape_of(labels, i, style))]
    for shape in shapes if outline else ():
        _outline(out, shape, 3 * style.line, shade=0.2)  # a dark rim separates the line from bright scenes
    for shape in shapes if fill else ():
        _tint(out, image, shape)  # covers the rim's inner half, which would hide thin parts
    for shape in shapes if outline else ():
        _outline(out, shape, style.line)
    for shape in sorted(shapes, key=lambda shape: -shape.area) if tags else ():  # tags of small objects lie on top
        _tag(out, shape, style)
    return out


def draw_prompts(image: UInt8[np.ndarray, "H W 3"], prompts: Mapping[ObjectId, Prompt]) -> UInt8[np.ndarray, "H W 3"]:
    """Return a copy of the RGB `image` with prompts: green positive points, red negative points, and boxes in the
    object's colour.
    """
    out = np.array(image, order="C")
    style = _style(*out.shape[:2])
    radius = max(3, style.text // 3)
    for object_id, prompt in prompts.items():
        if prompt.box is not None:
            x0, y0, x1, y1 = (round(value) for value in prompt.box)
            cv2.rectangle(out, (x0, y0), (x1, y1), WHITE, 3 * style.line)
            cv2.rectangle(out, (x0, y0), (x1, y1), colour(object_id), style.line)
        for x, y, label in prompt.points:
            centre = (min(int(x), out.shape[1] - 1), min(int(y), out.shape[0] - 1))
            cv2.circle(out, centre, radius + max(1, radius // 3), WHITE, -1, cv2.LINE_AA)
            cv2.circle(out, centre, radius, POSITIVE if label else NEGATIVE, -1, cv2.LINE_AA)
    return out


def draw_depth(depth: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Return relative inverse depth as an RGB image: near is bright yellow, far is black.

    Each image is scaled to its own range, because relative depth has no unit and is not comparable between frames.

    Raises:
        ValueError: for values that are not finite.
    """
    low, high = float(depth.min()), float(depth.max())
    if not np.isfinite([low, high]).all():
        raise ValueError(f"depth: got values from {low:g} to {high:g}, expected finite ones")
    grey = np.round((depth - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def write_depth(path: str | Path, depth: Float[np.ndarray, "H W"]) -> None:
    """Write the image of `draw_depth` as a PNG, atomically. Raises OSError with the file name."""
    with atomic_write(path) as part:
        Image.fromarray(draw_depth(depth)).save(part, format="PNG")


class Shape(NamedTuple):
    """Geometry of one object to draw."""

    object_id: ObjectId
    box: tuple[slice, slice]
    """Rows and columns of the bounding box."""
    mask: np.ndarray
    """uint8 mask within `box`, 1 on the object."""
    outlines: list[np.ndarray]
    """Smoothed contours of components and holes: (n, 2) int32 x, y with SUBPIXEL_BITS fractional bits."""
    anchor: tuple[float, float]
    """x, y of a pixel in the middle of the largest component."""
    area: float
    """Number of pixels of the largest component."""


def _style(height: int, width: int) -> Style:
    """Return drawing sizes for an image; on tiny images, tags have a minimum size to stay readable."""
    short = min(height, width)
    return Style(line=max(1, round(short / 240)), text=max(11, round(short / 27)), smooth=2 * round(short / 240) + 3)


@lru_cache(maxsize=4096)
def colour(object_id: ObjectId) -> tuple[int, int, int]:
    """Return the RGB colour of an id, the same in every image: from a table, then generated hues."""
    if 1 <= object_id <= len(COLOURS):
        return COLOURS[object_id - 1]
    saturation, value = ((0.62, 1.0), (0.8, 0.86), (0.42, 0.95))[object_id % 3]
    red, green, blue = colorsys.hsv_to_rgb(object_id * GOLDEN_TURN % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _shape_of(labels: np.ndarray, object_id: ObjectId, style: Style) -> Shape | None:
    """Return the geometry of an object, or None if it has no pixel."""
    mask = (labels == object_id).view(np.uint8)
    x, y, width, height = cv2.boundingRect(mask)
    if width == 0:
        return None
    box = slice(y, y + height), slice(x, x + width)
    mask = np.ascontiguousarray(mask[box])
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    contours = [contour.reshape(-1, 2) for contour in contours]
    largest = max(contours, key=cv2.contourArea)
    anchor_x, anchor_y = _middle(largest, mask)
    outlines = [_smooth(contour + np.array([x, y]), style.smooth) for contour in contours]
    return Shape(object_id, box, mask, outlines, (x + anchor_x, y + anchor_y), cv2.contourArea(largest))


def _smooth(contour: np.ndarray, window: int) -> np.ndarray:
    """Return a closed contour of (n, 2) pixels, smoothed by a moving average and subsampled."""
    if len(contour) > 4 * window:
        weights = np.hanning(window + 2)[1:-1]
        around = np.concatenate([contour[-(window // 2) :], contour, contour[: window // 2]]).astype(np.float64)
        contour = np.stack([np.convolve(axis, weights / weights.sum(), "valid") for axis in around.T], axis=-1)
        contour = contour[:: max(1, window // 2)]  # short segments would overlap and lose antialiasing
    return np.round(contour * 2.0**SUBPIXEL_BITS).astype(np.int32)


def _middle(contour: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Return x, y of the centroid inside `contour`, or of its innermost pixel if the centroid is outside."""
    part = cv2.bitwise_and(cv2.fillPoly(np.zeros_like(mask), [contour], 1), mask)
    moments = cv2.moments(part, binaryImage=True)
    x, y = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
    if part[round(y), round(x)]:
        return x, y
    distance = cv2.distanceTransform(cv2.copyMakeBorder(part, 1, 1, 1, 1, cv2.BORDER_CONSTANT), cv2.DIST_L2, 3)[
        1:-1, 1:-1
    ]
    row, column = np.unravel_index(distance.argmax(), part.shape)
    return float(column), float(row)


def _tint(out: np.ndarray, image: np.ndarray, shape: Shape) -> None:
    """Blend an object's pixels of `image` with its colour into `out`."""
    table = np.round((1 - TINT) * np.arange(256)[:, None] + TINT * np.array(colour(shape.object_id))).astype(np.uint8)
    tinted = cv2.LUT(np.ascontiguousarray(image[shape.box]), table.reshape(1, 256, 3))
    np.copyto(out[shape.box], tinted, where=shape.mask.view(bool)[..., None])


def _outline(out: np.ndarray, shape: Shape, width: int, shade: float = 1.0) -> None:
    """Draw an object's contours in its colour times `shade`."""
    shaded = tuple(shade * channel for channel in colour(shape.object_id))
    cv2.polylines(out, shape.outlines, True, shaded, width, cv2.LINE_AA, SUBPIXEL_BITS)


# ------------------------------------------------------------------------------------------------------------- tags
def _tag(out: np.ndarray, shape: Shape, style: Style) -> None:
    """Draw an object's id in its middle, or beside it if the tag would hide it."""
    patch, alpha = _tag_patch(shape.object_id, style.text)
    height, width = alpha.shape[:2]
    rows, columns = shape.box
    x, y = shape.anchor
    if height > 0.7 * shape.mask.shape[0] or width > 0.7 * shape.mask.shape[1]:
        gap = height / 2 + style.line + 1
        above = rows.start - gap
        x, y = (columns.start + columns.stop) / 2, above if above > height / 2 else rows.stop + gap
    top = int(np.clip(round(y - height / 2), 0, max(0, out.shape[0] - height)))
    left = int(np.clip(round(x - width / 2), 0, max(0, out.shape[1] - width)))
    region = out[top : top + height, left : left + width]
    patch, alpha = patch[: region.shape[0], : region.shape[1]], alpha[: region.shape[0], : region.shape[1]]
    region[:] = np.round(region + alpha * (patch - region))


@lru_cache(maxsize=1024)
def _tag_patch(object_id: ObjectId, text_height: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a rounded plate with the id: colours, float32 (h, w, 3), and opacities, (h, w, 1), in [0, 1]."""
    zoom = 4  # drawn large and shrunk for antialiasing
    font = ImageFont.load_default(zoom * text_height)
    text = str(object_id)
    left, top, right, bottom = font.getbbox(text)
    pad, rim = zoom * text_height / 4, zoom * max(1, text_height // 12)
    size = (max(right - left, bottom - top) + 2.6 * pad + 2 * rim, bottom - top + 2 * (pad + rim))
    width, height = (zoom * math.ceil(side / zoom) for side in size)
    plate = Image.new("RGBA", (width, height))
    pen = ImageDraw.Draw(plate)
    fill = colour(object_id)
    dark = tuple(channel // 4 for channel in fill)
    pen.rounded_rectangle((0, 0, width - 1, height - 1), height / 3, fill=fill, outline=dark, width=rim)
    pen.text(((width - left - right) / 2, (height - top - bottom) / 2), text, font=font, fill=_ink(fill))
    small = np.asarray(plate.resize((width // zoom, height // zoom), Image.Resampling.BOX), np.float32)
    return small[..., :3], small[..., 3:] / 255


def _ink(fill: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return black or white, whichever has more contrast with `fill`."""
    luminance = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2]
    return (16, 16, 16) if luminance > 120 else (255, 255, 255)


# ----------------------------------------------------------------------------------------------------------- videos
class OverlayWriter:
    """Writer of an MP4 video: H.264, or MPEG-4 Part 2 if FFmpeg lacks x264.

        with OverlayWriter(path, fps) as writer:
            writer.write(draw(image, labels))

    The file appears when the block ends, and not if the block raises. Odd sizes are padded by a repeated row or column,
    as the pixel format requires. `sound` is copied into the file while images are written. `times`, in seconds from the
    first image, are used if they differ from the constant rate `fps`, so that images and sound stay together.

    Raises:
        ValueError: for a name with another suffix, a rate that is not positive, images of different sizes, and, at the
            end, no image.
        OSError: with the file name, if writing fails.
    """

    suffix = ".mp4"
    """Required suffix of the file."""
    format, format_options = "mp4", {"movflags": "+faststart"}
    """Container format and its options, as FFmpeg names them."""

    def __init__(
        self,
        path: str | Path,
        fps: float | int,
        sound: SoundTrack | None = None,
        times: Sequence[float] | None = None,
    ) -> None:
        self.path, self.sound = Path(path), sound
        if self.path.suffix.lower() != self.suffix:
            name = self.path.suffix or "without suffix"
            raise ValueError(f"{path}: got a video named {name}, expected {self.suffix}")
        if not 0 < fps < math.inf:
            raise ValueError(f"{path}: got fps={fps}, expected a positive number")
        # 1001 is the denominator of NTSC frame rates, such as 30000/1001
        self._rate = max(Fraction(fps).limit_denominator(1001), Fraction(1, 1001))
        self._times = times if times and _vary(times, float(self._rate)) else None
        self._size: tuple[int, ...] | None = None
        self._stack = ExitStack()
        self._container: Any = None
        self._stream: Any = None
        self._count = 0

    def __enter__(self) -> "OverlayWriter":
        with ExitStack() as stack:
            part = stack.enter_context(atomic_write(self.path))
            self._container = av.open(str(part), "w", format=self.format, options=self.format_options)
            stack.push(self._close)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def write(self, image: UInt8[np.ndarray, "H W C"]) -> None:
        """Append one RGB image."""
        if self._size is None:
            self._size = image.shape[:2]
            self._stream = self.add_stream(self._container, self._rate, *_even(*image.shape[:2]))
            if self._times is not None:
                self._stream.codec_context.time_base = Fraction(1, TICKS)
            if self.sound is not None:
                self.sound.add_to(self._container)
        if image.shape[:2] != self._size:
            raise ValueError(f"{self.path}: image is (H, W) = {image.shape[:2]}, expected {self._size} like the first")
        height, width = _even(*image.shape[:2])
        bottom, right = height - image.shape[0], width - image.shape[1]
        image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        if self.sound is not None:
            self.sound.copy_until(self._time(self._count + 1))
        frame = self.frame_of(image)
        if self._times is not None:
            frame.pts, frame.time_base = round(TICKS * self._time(self._count)), Fraction(1, TICKS)
        self._container.mux(self._stream.encode(frame))
        self._count += 1

    def _time(self, index: int) -> float:
        """Return the time of an image in seconds; images after the last of `times` follow at the constant rate."""
        times = self._times
        if times is None:
            return float(index / self._rate)
        last = len(times) - 1
        return times[index] if index <= last else times[last] + float((index - last) / self._rate)

    def add_stream(self, container: Any, rate: Fraction, height: int, width: int) -> Any:
        """Return the new video stream of `container`."""
        return _add_stream(container, rate, height, width)

    def frame_of(self, image: UInt8[np.ndarray, "H W C"]) -> av.VideoFrame:
        """Return an image in the stream's pixel format."""
        return av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )

    def _close(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        """Finish the file; after an error, close it silently so that the first error is reported."""
        try:
            if error is None:
                if self._stream is None:
                    raise ValueError(f"{self.path}: got no image, expected one or more")
                if self.sound is not None:
                    self.sound.finish()
                self._container.mux(self._stream.encode())
                self._container.close()
        finally:
            with suppress(FFmpegError, OSError):
                self._container.close()


def _vary(times: Sequence[float], rate: float) -> bool:
    """Return True if increasing times leave a constant rate by more than one image."""
    increasing = all(before < after for before, after in itertools.pairwise(times))
    return increasing and any(abs(time * rate - index) > 1 for index, time in enumerate(times))


def _even(*size: int) -> tuple[int, ...]:
    """Return each side rounded up to an even number."""
    return tuple(side + side % 2 for side in size)


def _add_stream(container: Any, rate: Fraction, height: int, width: int) -> Any:
    """Return a new video stream in `container`, marked as BT.709."""
    if "libx264" in av.codecs_available:
        # the MB-tree of x264 depends on what was in memory before, on processors with AVX-512
        options = {"crf": "20", "preset": "fast", "mbtree": "0"}
        stream = container.add_stream("libx264", rate=rate, options=options)
    else:
        stream = container.add_stream("mpeg4", rate=rate, options={"qmin": "2", "qmax": "4"})
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    context = stream.codec_context
    context.thread_count = 1  # with several threads, the bytes vary between runs and machines
    context.colorspace, context.color_range, context.color_primaries, context.color_trc = 1, 1, 1, 1
    return stream
