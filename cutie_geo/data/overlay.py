"""Pictures of a segmentation: objects tinted, outlined and numbered over the frame, and videos of such pictures."""

import colorsys
import math
from collections.abc import Iterable
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

from cutie_geo.data.background import atomic_write
from cutie_geo.data.masks import object_ids
from cutie_geo.structures import ObjectId

TINT = 0.45
"""Share of an object's colour in its pixels."""
SUBPIXEL_BITS = 4
"""Fractional bits of the coordinates in which outlines are drawn."""
GOLDEN_TURN = (math.sqrt(5) - 1) / 2
"""Of a circle: hues this far apart never come close to an earlier one for long."""

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
"""Of the ids from 1 on: apart from each other, and light and saturated enough for dark and for bright scenes."""


class Style(NamedTuple):
    """Sizes in pixels that fit a picture."""

    line: int
    """Width of an outline."""
    text: int
    """Height of the letters of a tag."""
    smooth: int
    """Contour points averaged into one, odd: takes the stairs out of a mask's edge."""


# --------------------------------------------------------------------------------------------------------- drawing
def draw(
    image: UInt8[np.ndarray, "H W 3"], labels: Integer[np.ndarray, "H W"], ids: Iterable[ObjectId] | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """A copy of the RGB `image` with each object of `labels` tinted, outlined and tagged with its id.

    `ids` are the objects to draw, all by default. An id has the same colour in every picture.
    """
    out = np.array(image, order="C")
    style = _style(*out.shape[:2])
    shapes = [shape for i in (object_ids(labels) if ids is None else ids) if (shape := _shape_of(labels, i, style))]
    for shape in shapes:
        _outline(out, shape, 3 * style.line, shade=0.2)  # a dark rim sets the line off from bright scenes
    for shape in shapes:
        _tint(out, image, shape)  # covers the rim's inner half, which would swallow thin parts
    for shape in shapes:
        _outline(out, shape, style.line)
    for shape in sorted(shapes, key=lambda shape: -shape.area):  # tags of small objects lie on top
        _tag(out, shape, style)
    return out


def draw_depth(depth: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Relative inverse depth as an RGB picture: near is bright yellow, far is black.

    Each picture runs from its own smallest to its own largest value: the numbers have no unit, and are not comparable
    between frames. Raises ValueError for values that are not finite.
    """
    low, high = float(depth.min()), float(depth.max())
    if not np.isfinite([low, high]).all():
        raise ValueError(f"depth: got values from {low:g} to {high:g}, wanted finite ones")
    grey = np.round((depth - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def write_depth(path: str | Path, depth: Float[np.ndarray, "H W"]) -> None:
    """Write `draw_depth`'s picture as a PNG, whole or not at all. Raises OSError naming the file."""
    with atomic_write(path) as part:
        Image.fromarray(draw_depth(depth)).save(part, format="PNG")


class Shape(NamedTuple):
    """One object as it is drawn."""

    object_id: ObjectId
    box: tuple[slice, slice]
    """Rows and columns that hold all of it."""
    mask: np.ndarray
    """uint8 in `box`, 1 on the object."""
    outlines: list[np.ndarray]
    """Smoothed contours of parts and holes: (n, 2) int32 x, y with SUBPIXEL_BITS fractional bits."""
    anchor: tuple[float, float]
    """x, y of a pixel at the middle of its largest part."""
    area: float
    """Pixels of the largest part."""


def _style(height: int, width: int) -> Style:
    """Sizes for a picture; on tiny ones a tag is larger than in proportion, so that it can still be read."""
    short = min(height, width)
    return Style(line=max(1, round(short / 240)), text=max(11, round(short / 27)), smooth=2 * round(short / 240) + 3)


@lru_cache(maxsize=4096)
def colour(object_id: ObjectId) -> tuple[int, int, int]:
    """The RGB colour of an id, the same wherever it appears: first from a table, then ever new hues."""
    if 1 <= object_id <= len(COLOURS):
        return COLOURS[object_id - 1]
    saturation, value = ((0.62, 1.0), (0.8, 0.86), (0.42, 0.95))[object_id % 3]
    red, green, blue = colorsys.hsv_to_rgb(object_id * GOLDEN_TURN % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _shape_of(labels: np.ndarray, object_id: ObjectId, style: Style) -> Shape | None:
    """How to draw an object, or None if it has no pixel."""
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
    """A closed contour of (n, 2) pixels, averaged along itself and thinned out to what `window` leaves of detail."""
    if len(contour) > 4 * window:
        weights = np.hanning(window + 2)[1:-1]
        around = np.concatenate([contour[-(window // 2) :], contour, contour[: window // 2]]).astype(np.float64)
        contour = np.stack([np.convolve(axis, weights / weights.sum(), "valid") for axis in around.T], axis=-1)
        contour = contour[:: max(1, window // 2)]  # short pieces of line would overlap and lose their soft edges
    return np.round(contour * 2.0**SUBPIXEL_BITS).astype(np.int32)


def _middle(contour: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """x, y of the centre of mass of the part inside `contour`, or where that is not on it, of its innermost pixel."""
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
    """Put an object's pixels of `image`, blended with its colour, into `out`."""
    table = np.round((1 - TINT) * np.arange(256)[:, None] + TINT * np.array(colour(shape.object_id))).astype(np.uint8)
    tinted = cv2.LUT(np.ascontiguousarray(image[shape.box]), table.reshape(1, 256, 3))
    np.copyto(out[shape.box], tinted, where=shape.mask.view(bool)[..., None])


def _outline(out: np.ndarray, shape: Shape, width: int, shade: float = 1.0) -> None:
    """Draw an object's contours in its colour times `shade`."""
    shaded = tuple(shade * channel for channel in colour(shape.object_id))
    cv2.polylines(out, shape.outlines, True, shaded, width, cv2.LINE_AA, SUBPIXEL_BITS)


# ------------------------------------------------------------------------------------------------------------- tags
def _tag(out: np.ndarray, shape: Shape, style: Style) -> None:
    """Put an object's id at its middle, or beside the object where it would hide it."""
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
    """A rounded plate with the id: colours float32 (h, w, 3) and opacities (h, w, 1) in [0, 1]."""
    zoom = 4  # drawn large and shrunk, which is what makes its curves smooth
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
    """Black or white, whichever reads better on `fill`."""
    luminance = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2]
    return (16, 16, 16) if luminance > 120 else (255, 255, 255)


# ----------------------------------------------------------------------------------------------------------- videos
class OverlayWriter:
    """Writes pictures to an MP4 file: H.264, or MPEG-4 Part 2 where FFmpeg was built without x264.

        with OverlayWriter(path, fps) as writer:
            writer.write(draw(image, labels))

    The file appears when the block ends, and not at all if it raises. Odd sizes grow by a repeated row or column, which
    the pixel format asks for. Raises ValueError for a name that doesn't end in .mp4, a rate that isn't positive,
    pictures of differing sizes and, at the end, for no picture; OSError naming the file if writing fails.
    """

    def __init__(self, path: str | Path, fps: float | int) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise ValueError(f"{path}: got a video named {self.path.suffix or 'without suffix'}, wanted .mp4")
        if not 0 < fps < math.inf:
            raise ValueError(f"{path}: got fps={fps}, wanted a positive number")
        # 1001 is the denominator of the television rates, such as 30000/1001
        self._rate = max(Fraction(fps).limit_denominator(1001), Fraction(1, 1001))
        self._size: tuple[int, ...] | None = None
        self._stack = ExitStack()
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> "OverlayWriter":
        with ExitStack() as stack:
            part = stack.enter_context(atomic_write(self.path))
            self._container = av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"})
            stack.push(self._close)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def write(self, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """Append one RGB picture."""
        if self._size is None:
            self._size = image.shape[:2]
            self._stream = _add_stream(self._container, self._rate, *_even(*image.shape[:2]))
        if image.shape[:2] != self._size:
            raise ValueError(f"{self.path}: picture is (H, W) = {image.shape[:2]}, wanted {self._size} like the first")
        height, width = _even(*image.shape[:2])
        bottom, right = height - image.shape[0], width - image.shape[1]
        image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        self._container.mux(self._stream.encode(frame))

    def _close(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        """Finish the file; after an error just let go of it, as the error in flight says more than a second one."""
        try:
            if error is None:
                if self._stream is None:
                    raise ValueError(f"{self.path}: got no picture, wanted one or more")
                self._container.mux(self._stream.encode())
                self._container.close()
        finally:
            with suppress(FFmpegError, OSError):
                self._container.close()


def _even(*size: int) -> tuple[int, ...]:
    """Each side rounded up to an even number."""
    return tuple(side + side % 2 for side in size)


def _add_stream(container: Any, rate: Fraction, height: int, width: int) -> Any:
    """A video stream of good quality in `container`, its colours marked as BT.709."""
    if "libx264" in av.codecs_available:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "fast"})
    else:
        stream = container.add_stream("mpeg4", rate=rate, options={"qmin": "2", "qmax": "4"})
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    context = stream.codec_context
    context.colorspace, context.color_range, context.color_primaries, context.color_trc = 1, 1, 1, 1
    return stream
