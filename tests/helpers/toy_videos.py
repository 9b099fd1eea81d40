"""Small videos with masks, a small model's configuration, and a look at what a run wrote."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image
from tiny import TINY_YAML

SIZE = (64, 96)
PALETTE = bytes(255 - i % 251 for i in range(768))
"""Of nobody else, so that it can be recognised."""


def tiny_options(folder: Path) -> list[str]:
    """Options for a small model with random weights, on any machine the same; writes its configuration."""
    path = folder / "tiny.yaml"
    path.write_text(TINY_YAML)
    return ["--model", str(path), "--weights", "none", "--precision", "fp32", "--device", "cpu", "--cpu-threads", "1"]


def pictures(frames: int, size: tuple[int, int] = SIZE, seed: int = 0) -> list[np.ndarray]:
    """Noise in coarse blocks, drifting to the right."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BILINEAR))
    return [np.roll(image, 2 * t, axis=1) for t in range(frames)]


def write_frames(folder: Path, frames: int = 4, size: tuple[int, int] = SIZE, seed: int = 0) -> Path:
    """A folder of JPEGs 00000.jpg and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for t, image in enumerate(pictures(frames, size, seed)):
        Image.fromarray(image).save(folder / f"{t:05d}.jpg")
    return folder


def write_film(path: Path, frames: int = 4, size: tuple[int, int] = SIZE) -> Path:
    """An MP4 of 10 frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for image in pictures(frames, size):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_mjpeg(path: Path, frames: int) -> Path:
    """A video of whole images, which can be read up to where it breaks off."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuvj420p"
        for image in pictures(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def regions(ids: Sequence[int] = (1, 2), size: tuple[int, int] = SIZE) -> np.ndarray:
    """A label map with a block for each id, side by side and from top to bottom, background around each."""
    columns = int(np.ceil(np.sqrt(len(ids))))
    height, width = size[0] // columns, size[1] // columns
    labels = np.zeros(size, np.int32)
    for i, object_id in enumerate(ids):
        top, left = i // columns * height, i % columns * width
        labels[top + 1 : top + height - 1, left + 1 : left + width - 1] = object_id
    return labels


def write_mask(path: Path, labels: np.ndarray | None = None) -> Path:
    """An indexed PNG with a palette of its own, or one of 16 bits where ids need that."""
    labels = regions() if labels is None else labels
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8 if labels.max() < 256 else np.uint16))
    if labels.max() < 256:
        image.putpalette(PALETTE)
    image.save(path)
    return path


def write_rgb_mask(path: Path, labels: np.ndarray) -> Path:
    """A mask of long ids, r + 256 g + 65536 b."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([labels >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)).save(path)
    return path


def write_videos(root: Path, names: Sequence[str] = ("bear", "cat", "dog"), frames: int = 4) -> tuple[Path, Path]:
    """Folders of frames under `videos`, and of masks for their first frames under `masks`."""
    for seed, name in enumerate(names):
        write_frames(root / "videos" / name, frames, seed=seed)
        write_mask(root / "masks" / name / "00000.png")
    return root / "videos", root / "masks"


class Look(NamedTuple):
    """What kind of picture a file is."""

    mode: str
    size: tuple[int, int]
    """Height and width."""
    palette: bytes


def look(path: Path) -> Look:
    """A picture's kind."""
    with Image.open(path) as image:
        return Look(image.mode, (image.height, image.width), bytes(image.getpalette() or b""))


def read_ids(path: Path) -> np.ndarray:
    """The ids in a result, whatever kind of PNG it is."""
    with Image.open(path) as image:
        pixels = np.array(image).astype(np.int64)
    return pixels @ np.array([1, 256, 65536]) if pixels.ndim == 3 else pixels


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every PNG under a folder, by path within it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def torn_files(folder: Path) -> list[Path]:
    """Files that were begun and neither finished nor removed."""
    return [path for path in folder.rglob("*") if path.name.endswith(".part") or path.name.startswith("tmp")]


def summary(output: Path) -> dict:
    """What `run.json` says."""
    return json.loads((output / "run.json").read_text())
