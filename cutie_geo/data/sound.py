"""Copying of a video file's sound and timing into another file."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
from av.error import FFmpegError

from cutie_geo.data.video import FrameFolder, VideoFile

log = logging.getLogger(__name__)

COPIED = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "alac", "flac"})
"""Codecs that MP4 files and players support; sound in other codecs is encoded again."""
ENCODER = "aac"
RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
"""Sample rates of `ENCODER`, in Hz; sound of other rates is resampled."""
EARLIEST = -0.1
"""Seconds before the first image from which sound is copied: encoders start a little early."""


class SoundTrack:
    """First audio stream of a video file, copied without decoding if its codec allows that.
        with SoundTrack(path) as sound, OverlayWriter(output, fps, sound) as writer:
            writer.write(image)

    `found` is False for a file without sound. Damaged sound ends early, with a warning.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, False
        self._source: Any = None
        self._input: Any = None
        self._output: Any = None
        self._container: Any = None
        self._packets: Iterator[Any] = iter(())
        self._waiting: Any = None
        self._start = 0.0

    def __enter__(self) -> "SoundTrack":
        with suppress(FFmpegError, OSError):
            self._source = av.open(str(self.path.absolute()))
            streams = self._source.streams
            if streams.audio:
                self._input, self.found = streams.audio[0], True
                video = streams.video[0] if streams.video else None
                if video is not None and video.start_time is not None:
                    self._start = float(video.start_time * video.time_base)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._source is not None:
            self._source.close()

    def add_to(self, container: Any) -> None:
        """Add a stream for the sound to a container that is about to be written."""
        if not self.found:
            return
        self._container = container
        if self._input.codec_context.codec.canonical_name in COPIED:  # a decoder's own name may differ: mp3float
            self._output = container.add_stream_from_template(self._input)
            self._packets = self._copied()
        else:
            context = self._input.codec_context
            rate = min(RATES, key=lambda known: abs(known - context.sample_rate))
            layout = "mono" if context.layout.nb_channels == 1 else "stereo"
            self._output = container.add_stream(ENCODER, rate=rate, layout=layout)
            self._packets = self._encoded()

    def copy_until(self, seconds: float) -> None:
        """Write the sound that begins before a time, from the first image on."""
        while True:
            packet = self._waiting or self._next()
            self._waiting = packet
            if packet is None or (packet.pts is not None and float(packet.pts * packet.time_base) >= seconds):
                return
            self._waiting = None
            if packet.pts is not None and float(packet.pts * packet.time_base) < EARLIEST:
                continue
            packet.stream = self._output
            try:
                self._container.mux(packet)
            except FFmpegError as error:  # for example times that do not increase
                self._give_up(error)
                return

    def finish(self) -> None:
        """Stop: sound after the last image is left out."""
        self._packets, self._waiting = iter(()), None

    def _next(self) -> Any:
        """Return the next packet; None at the end, or if the sound is damaged."""
        try:
            return next(self._packets, None)
        except FFmpegError as error:
            self._give_up(error)
            return None

    def _give_up(self, error: FFmpegError) -> None:
        """Leave out the rest of the sound; the images are still written."""
        log.warning("%s: the sound ends early, it is damaged: %s", self.path, error.strerror or error)
        self.finish()

    def _copied(self) -> Iterator[Any]:
        for packet in self._source.demux(self._input):
            if packet.dts is None:
                continue
            shift = round(self._start / packet.time_base)
            packet.dts -= shift
            if packet.pts is not None:
                packet.pts -= shift
            yield packet

    def _encoded(self) -> Iterator[Any]:
        """Yield the sound encoded for MP4 files, with times relative to the first image."""
        end = 0
        for frame in self._source.decode(self._input):
            if frame.pts is not None:
                frame.pts -= round(self._start / frame.time_base)
                if frame.pts < 0:
                    continue
                # in samples and without overlap: a coarse time base makes frames overlap, which the encoder refuses
                rate = frame.sample_rate
                frame.pts = max(end, round(frame.pts * frame.time_base * rate))
                frame.time_base = Fraction(1, rate)
                end = frame.pts + frame.samples
            yield from self._output.encode(frame)
        yield from self._output.encode(None)


def original_sound(source: FrameFolder | VideoFile | None, fps: float | None, opened: ExitStack) -> SoundTrack | None:
    """Return the sound of a video file, open until `opened` ends; None for other sources or another frame rate."""
    if type(source) is not VideoFile or fps not in (None, source.fps):
        return None
    return opened.enter_context(SoundTrack(source.path))


def original_times(source: FrameFolder | VideoFile | None, fps: float | None) -> list[float] | None:
    """Return the times of the frames of a video file; None for other sources or another frame rate."""
    return source.times if type(source) is VideoFile and fps in (None, source.fps) else None
