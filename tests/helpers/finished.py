"""A small finished run on disk, with all that makes masks hard to hold: holes, parts, single pixels, empty frames."""

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from cutie_geo.data.masks import write_labels

SIZE = (46, 62)
FRAMES = ("00000", "00001", "00002", "00003")


def label_maps() -> dict[str, np.ndarray]:
    """Four frames of three objects: 1 has a hole, 2 two parts, 7 is a line and a pixel; the third frame is empty."""
    first = np.zeros(SIZE, np.int32)
    first[5:25, 8:30] = 1
    first[10:15, 14:20] = 0
    first[30:40, 5:15] = 2
    first[28:44, 40:50] = 2
    first[2, 50:60] = 7
    first[20, 60] = 7
    second = np.roll(first, (1, 2), (0, 1))
    rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
    fourth = np.where((rows - 22) ** 2 + (columns - 30) ** 2 < 200, np.int32(1), np.int32(0))
    return dict(zip(FRAMES, (first, second, np.zeros(SIZE, np.int32), fourth), strict=True))


def write_run(root: Path, video: str = "clip") -> Path:
    """A folder of results: masks, and a note with scores."""
    maps = label_maps()
    for frame, labels in maps.items():
        write_labels(root / "Annotations" / video / f"{frame}.png", labels)
    note = {"video": video, "frames": list(maps), "presence": {"1": [0.9, 0.8, 0.25, None]}}
    (root / ".cutie_geo").mkdir(exist_ok=True)
    (root / ".cutie_geo" / f"{video}.json").write_text(json.dumps(note))
    return root


def write_frames(folder: Path) -> Path:
    """The frames of the run, lossless."""
    folder.mkdir(parents=True)
    for index, frame in enumerate(FRAMES):
        Image.fromarray(image(index)).save(folder / f"{frame}.png")
    return folder


def image(index: int) -> np.ndarray:
    """A colourful frame."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([rows * 5, columns * 4, np.full(SIZE, 60 * index)], axis=-1).astype(np.uint8)


def write_film(
    path: Path,
    codec: str | None = "aac",
    seconds: float = 1.0,
    times: Sequence[float] | None = None,
    rate: int = 16000,
    layout: str = "mono",
) -> Path:
    """A video file of 8 frames a second, or of frames at `times`, with a tone in the codec given."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=Fraction(8))
        video.width, video.height, video.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        audio = None if codec is None else container.add_stream(codec, rate=rate, layout=layout)
        if times is not None:
            video.codec_context.time_base = Fraction(1, 1000)
        for index in range(round(8 * seconds) if times is None else len(times)):
            frame = av.VideoFrame.from_ndarray(image(index % 4), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(1000 * times[index]), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None:
            wave = np.sin(np.arange(round(rate * seconds)) * 2 * np.pi * 440 / rate)
            samples = np.repeat((8000 * wave).astype(np.int16), av.AudioLayout(layout).nb_channels)[None]
            tone = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
            tone.sample_rate, tone.pts = rate, 0
            container.mux(audio.encode(tone))
            container.mux(audio.encode())
    return path
