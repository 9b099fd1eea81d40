"""Export of masks as videos: overlays in several styles, effects on objects, cut-outs with transparency."""

import errno
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.error import FFmpegError
from jaxtyping import Bool, Int32, UInt8

from cutie_geo.config import require
from cutie_geo.data.masks import object_ids
from cutie_geo.data.overlay import OverlayWriter, colour, draw
from cutie_geo.data.sound import original_sound, original_times
from cutie_geo.export.images import cut_out, write_cutouts
from cutie_geo.export.options import Effect, ExportOptions, Style
from cutie_geo.export.runs import FinishedVideo
from cutie_geo.structures import ObjectId

BLUR_SHARE = 1 / 18
"""Standard deviation of the blur, as a share of the frame's shorter side."""
BLOCK_SHARE = 1 / 24
"""Side of the blocks of `pixelate`, as a share of the frame's shorter side."""
TAGGED = ("fill", "contour")
"""Styles that show ids unless they are turned off."""


# -------------------------------------------------------------------------------------------------------- overlays
def write_overlays(videos: Sequence[FinishedVideo], output: Path, options: ExportOptions) -> list[Path]:
    """Write `<video>.mp4` for each video: all of its frames, with the sound of a video file.

    Raises:
        ValueError: without the frames of a video.
        OSError: naming the file, if it cannot be encoded or written.
    """
    require_frames(videos, "overlay")
    written = []
    for video in videos:
        path = output / f"{video.name}.mp4"
        painter = Painter(options)
        with ExitStack() as opened:
            opened.enter_context(_encoding_errors(path))
            sound = original_sound(video.source, options.fps, opened)
            times = original_times(video.source, options.fps)
            writer = opened.enter_context(OverlayWriter(path, options.fps or video.fps, sound, times))
            for _, image, labels in video.frames():
                writer.write(painter.paint(image, np.zeros(image.shape[:2], np.int32) if labels is None else labels))
        written.append(path)
    return written


class Painter:
    """Painter of the frames of one video, in order; trails need the frames before."""

    def __init__(self, options: ExportOptions) -> None:
        self.options = options
        self.style: Style = options.style or ("none" if options.effect else "fill")
        self.tags = self.style in TAGGED if options.ids is None else options.ids
        self._trails: dict[ObjectId, deque[tuple[float, float] | None]] = {}

    def paint(self, image: UInt8[np.ndarray, "H W 3"], labels: Int32[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
        """Return the overlay of the next frame."""
        labels = self.options.keep(labels)
        if self.options.effect is not None:
            image = apply_effect(image, labels > 0, self.options.effect)
        drawn = _styled(image, labels, self.style, self.tags)
        return self._with_trails(drawn, labels) if self.options.trails else drawn

    def _with_trails(self, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Draw lines through the last centres of each object, with gaps where it is not visible."""
        out = np.array(image, order="C")
        width = max(1, round(min(labels.shape) / 160))
        for object_id in {*self._trails, *object_ids(labels)}:
            trail = self._trails.setdefault(object_id, deque(maxlen=self.options.trails + 1))
            trail.append(_centre(labels == object_id))
            for before, after in zip(list(trail)[:-1], list(trail)[1:]):
                if before is not None and after is not None:
                    start, end = (tuple(round(16 * value) for value in point) for point in (before, after))
                    cv2.line(out, start, end, colour(object_id), width, cv2.LINE_AA, 4)
        return out


def apply_effect(
    image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"], effect: Effect
) -> UInt8[np.ndarray, "H W 3"]:
    """Return the image with its masked pixels blurred or pixelated, or with nothing else left (`cutout`)."""
    if effect == "cutout":
        return np.where(mask[..., None], image, np.uint8(0))
    side = min(image.shape[:2])
    if effect == "blur":
        changed = cv2.GaussianBlur(image, (0, 0), max(2.0, BLUR_SHARE * side))
    else:
        block = max(2, round(BLOCK_SHARE * side))
        small = (max(1, image.shape[1] // block), max(1, image.shape[0] // block))
        few = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        changed = cv2.resize(few, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_NEAREST)
    return np.where(mask[..., None], changed, image).astype(np.uint8)


def _styled(image: np.ndarray, labels: np.ndarray, style: Style, tags: bool) -> np.ndarray:
    """Draw one frame in a style."""
    if style == "popup":
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        image = np.where(labels[..., None] > 0, image, grey).astype(np.uint8)
    elif style == "matte":
        colours = np.zeros_like(image)
        for object_id in object_ids(labels):
            colours[labels == object_id] = colour(object_id)
        image = colours
    elif style in TAGGED:
        return draw(image, labels, fill=style == "fill", tags=tags)
    return draw(image, labels, fill=False, outline=False) if tags else image


def _centre(mask: Bool[np.ndarray, "H W"]) -> tuple[float, float] | None:
    moments = cv2.moments(mask.view(np.uint8), binaryImage=True)
    return (moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]) if moments["m00"] else None


# -------------------------------------------------------------------------------------------------------- cut-outs
class AlphaWriter(OverlayWriter):
    """Writer of RGBA images to a .mov file (ProRes 4444, alpha without loss) or a .webm file (VP9).

    As `OverlayWriter`. Raises ValueError if FFmpeg was built without the encoder.
    """

    encoders = {".mov": "prores_ks", ".webm": "libvpx-vp9"}  # noqa: RUF012
    """By suffix."""

    def __init__(self, path: str | Path, fps: float | int, times: Sequence[float] | None = None) -> None:
        suffix = Path(path).suffix.lower()
        if suffix not in self.encoders:
            raise ValueError(f"{path}: got {suffix or 'no suffix'}, expected {' or '.join(self.encoders)}")
        self.suffix, self.format, self.format_options = suffix, suffix[1:], {}
        self.encoder = require_encoder(self.encoders[suffix], str(path))
        super().__init__(path, fps, times=times)

    def add_stream(self, container: Any, rate: Fraction, height: int, width: int) -> Any:
        """Return the new video stream of `container`."""
        if self.encoder == "prores_ks":
            options = {"profile": "4444", "alpha_bits": "16", "vendor": "apl0"}
        else:
            options = {"crf": "18", "b": "0", "auto-alt-ref": "0", "row-mt": "0", "cpu-used": "4"}
        stream = container.add_stream(self.encoder, rate=rate, options=options)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuva444p10le" if self.encoder == "prores_ks" else "yuva420p"
        stream.codec_context.thread_count = 1
        return stream

    def frame_of(self, image: UInt8[np.ndarray, "H W C"]) -> av.VideoFrame:
        """Return an RGBA image in the stream's pixel format."""
        pixels = "yuva444p10le" if self.encoder == "prores_ks" else "yuva420p"
        return av.VideoFrame.from_ndarray(image, format="rgba").reformat(format=pixels)


def require_encoder(name: str, where: str) -> str:
    """Return the name of an encoder. Raises ValueError if this FFmpeg lacks it."""
    try:
        av.Codec(name, "w")
    except (FFmpegError, ValueError):
        raise ValueError(
            f"{where}: this FFmpeg cannot encode {name}; expected a build of PyAV that has it. "
            "--container png needs no encoder"
        ) from None
    return name


def write_rgba(videos: Sequence[FinishedVideo], output: Path, options: ExportOptions) -> list[Path]:
    """Write the objects cut out of the frames: `<video>/<frame>.png`, `<video>.mov` or `<video>.webm`.

    Raises:
        ValueError: without the frames of a video, and for an encoder that FFmpeg lacks.
        OSError: naming the file, if it cannot be encoded or written.
    """
    require_frames(videos, "rgba")
    if options.container == "png":
        return write_cutouts(videos, output, options)
    written = []
    for video in videos:
        path = output / f"{video.name}.{options.container}"
        times = original_times(video.source, options.fps)
        with _encoding_errors(path), AlphaWriter(path, options.fps or video.fps, times) as writer:
            for _, image, labels in video.frames():
                shown = np.zeros(image.shape[:2], np.int32) if labels is None else options.keep(labels)
                writer.write(cut_out(image, shown))
        written.append(path)
    return written


def require_frames(videos: Sequence[FinishedVideo], name: str) -> None:
    """Raise ValueError unless the frames of all videos are given."""
    for video in videos:
        require(
            video.source is not None,
            f"{name}: the frames of {video.name} are needed; give --video, the video or folder that the masks were "
            "made from",
        )


@contextmanager
def _encoding_errors(path: Path) -> Iterator[None]:
    """Turn FFmpeg's errors within the block into OSErrors that name the file."""
    try:
        yield
    except FFmpegError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
