"""Copy-paste augmentation with cut-outs: images of one object with transparency, moved over the clips of other
sources.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Integer, UInt8

from cutie_geo.config import ClipConfig, require
from cutie_geo.data.clips.augment import torch_draws_from
from cutie_geo.data.clips.frame_readers import readable
from cutie_geo.data.clips.light import draw_light, shine
from cutie_geo.data.clips.merge import LAST_ID
from cutie_geo.data.clips.sources import ClipSource, Mixture, VideoClip
from cutie_geo.data.clips.warp import Affine, Layer, bend_layer, draw_bend, shift_layer
from cutie_geo.data.images import open_image

LARGEST = 1 << 24
"""Maximum number of pixels of a file; some drawings are saved at excessive resolution and take seconds to read."""
SIZES = (0.12, 0.75)
"""Range of the square root of a cut-out's box area, as a fraction of the crop's side."""
ENLARGED = 2.0
"""Maximum enlargement of a cut-out relative to its file."""
AWAY = 0.2
"""Probability that a cut-out is out of sight in the middle of the clip."""
DRIFT, TURN, GROWTH, SQUASH = 0.25, 20.0, 0.3, 0.15
"""Standard deviations of the changes from the first to the last frame: position (fraction of the crop), angle
(degrees), and logarithms of size and of aspect ratio.
"""
SHAKE = 0.01
"""Standard deviation of the position jitter of each frame."""
BEND = 0.03
"""Standard deviation of the movement of the bend's control points up to the last frame, as a fraction of the
image's sides.
"""
SHADOW = 0.5
"""Probability of a shadow. Shadows are not part of the object: without them, a model learns that everything that
moves with an object belongs to it.
"""
DARKNESS, LENGTH, LEAN, SOFTNESS = (0.25, 0.7), (-0.6, 0.6), 0.6, (0.005, 0.035)
"""Parameters of a shadow.

These are the fraction of light removed; the height as a fraction of the image's (negative if it falls towards the
camera); the standard deviation of the lean per pixel of height; and the blur as a fraction of the image's longer side,
at most a third of `MARGIN`.
"""
MARGIN = 0.1
"""Empty border around a cut-out that leaves space for the bend, as a fraction of its sides."""


class Cutout(NamedTuple):
    """A file with one object on a transparent background."""

    name: str
    """Path in its set, without suffix."""
    path: Path


def index_cutouts(root: Path) -> list[Cutout]:
    """List all PNG and WebP files below a folder by name, without opening them.

    Raises:
        ValueError: if there are none.
    """
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in (".png", ".webp"))
    require(
        bool(paths), f"{root}: no PNG or WebP files; expected images of one object each with transparency around it"
    )
    return [Cutout(path.relative_to(root).with_suffix("").as_posix(), path) for path in paths]


def read_cutout(path: Path) -> UInt8[np.ndarray, "H W 4"]:
    """Read an RGBA image, cropped to the box of its opaque pixels.

    Raises:
        ValueError: with the file name, for an image without transparent or without opaque pixels, of more than
            `LARGEST` pixels, or unreadable.
    """
    try:
        with open_image(path) as image:
            width, height = image.size
            clear = "A" in image.getbands() or "transparency" in image.info
            pixels = np.asarray(image.convert("RGBA")).copy() if width * height <= LARGEST else None
    except Exception as error:  # on damaged bytes Pillow's readers raise nearly anything
        raise ValueError(f"{path}: cannot be read as an image: {error}") from error
    if pixels is None:
        raise ValueError(f"{path}: image is {width}x{height}, expected at most {LARGEST} pixels")
    require(clear and bool((pixels[..., 3] == 0).any()), f"{path}: no transparent pixels; expected a cut-out")
    solid = pixels[..., 3] >= 128
    require(bool(solid.any()), f"{path}: all pixels are transparent; expected a cut-out")
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


class CutoutSource:
    """Clips of other sources with cut-outs pasted over them, each on an independent path.

    An item is a cut-out. Up to `max_objects` further ones are added as distractors. Objects of the underlying clip keep
    their ids and may be sampled as well.
    """

    merges = False

    def __init__(self, cutouts: Sequence[Cutout], beneath: Sequence[ClipSource], config: ClipConfig) -> None:
        """Initialise. Raises ValueError if there are no cut-outs or no underlying sources."""
        require(bool(cutouts), "cutouts: got none, expected at least one")
        require(bool(beneath), "cutouts: got no underlying clips, expected videos or rendered scenes among the data")
        self.cutouts, self.beneath, self.config = list(cutouts), Mixture(beneath), config
        self._jitter = config.image.clip_jitter

    def __len__(self) -> int:
        """Return the number of cut-outs."""
        return len(self.cutouts)

    def draw(self, item: int, progress: float, rng: random.Random) -> VideoClip:
        """Draw a clip with cut-out `item` in its first frame. Raises UnusableFile."""
        source, under = self.beneath.place(rng.randrange(len(self.beneath)))
        clip = source.draw(under, progress, rng)
        chosen = [self.cutouts[item]]
        chosen += [rng.choice(self.cutouts) for _ in range(rng.randrange(self.config.max_objects + 1))]
        rng.shuffle(chosen)
        images, labels = clip.images.permute(0, 2, 3, 1).numpy().copy(), clip.labels.numpy().copy()
        for new, cutout in zip(range(int(labels.max()) + 1, LAST_ID + 1), chosen):
            self._paste(images, labels, self._picture(cutout, rng), new, rng)
        name = f"{' + '.join(f'cutouts/{cutout.name}' for cutout in chosen)} over {clip.name}"
        return _as_clip(images, labels, name, clip)

    def contents(self) -> list[str]:
        """Return the names of the cut-outs and the contents of the underlying sources."""
        lines = [f"cutouts/{cutout.name}" for cutout in self.cutouts]
        return lines + [f"over {line}" for source in self.beneath.sources for line in source.contents()]

    def _picture(self, cutout: Cutout, rng: random.Random) -> UInt8[np.ndarray, "H W 4"]:
        """Return a cut-out's image with colour jitter, possibly flipped."""
        pixels = readable(read_cutout, cutout.path)
        with torch_draws_from(rng):
            light = draw_light(self._jitter, self.config.image.grey_probability)
        pixels[..., :3] = shine(pixels[..., :3].copy(), (light,))
        return pixels[:, ::-1] if rng.random() < 0.5 else pixels

    def _paste(
        self,
        images: UInt8[np.ndarray, "T H W 3"],
        labels: Integer[np.ndarray, "T H W"],
        picture: UInt8[np.ndarray, "H2 W2 4"],
        new: int,
        rng: random.Random,
    ) -> None:
        """Paste the cut-out into images and labels in place, frame by frame."""
        length, size = len(images), (images.shape[1], images.shape[2])
        generator = np.random.default_rng(rng.getrandbits(63))
        path = draw_path(length, (picture.shape[0], picture.shape[1]), size, generator)
        layer, into_layer = prepare(picture, max(_scale(back) for back in path if back is not None))
        shape = layer.shape[0], layer.shape[1]
        x, y = draw_bend(shape, min(self.config.image.warp_points, *shape), BEND, generator)
        shadow = draw_shadow((picture.shape[0], picture.shape[1]), generator) if generator.random() < SHADOW else None
        straight_x, straight_y = np.meshgrid(*(np.arange(side, dtype=np.float32) for side in shape[::-1]))
        for t, back in enumerate(path):
            if back is not None:
                part = np.float32(t / max(length - 1, 1))
                bent = bend_layer(layer, straight_x + part * (x - straight_x), straight_y + part * (y - straight_y))
                if shadow is not None:
                    _paint(images[t], shift_layer(shadow.of(bent), into_layer @ shadow.back @ back, size))
                seen = shift_layer(bent, into_layer @ back, size)
                _paint(images[t], seen)
                labels[t][seen[..., 3] >= 0.5] = new


# ------------------------------------------------------------------------------------------------------ paths and paint
def draw_path(
    length: int, picture: tuple[int, int], size: tuple[int, int], generator: np.random.Generator
) -> list[Affine | None]:
    """Sample the backward map from each frame of `size` (H, W) to an image of (H, W) pixels.

    It is None where the image is out of sight, which is never in the first or last frame.
    """
    side = min(size)
    first = min(side * np.exp(generator.uniform(*np.log(SIZES))) / np.sqrt(picture[0] * picture[1]), ENLARGED)
    start, drift = generator.uniform(0.15, 0.85, 2), generator.normal(0, DRIFT, 2)
    angle, turn = generator.normal(0, TURN, 2)
    growth, squash = generator.normal(0, (GROWTH, SQUASH))
    gone = range(0)
    if length > 2 and generator.random() < AWAY:
        begin = int(generator.integers(1, length - 1))
        gone = range(begin, int(generator.integers(begin + 1, length)))
    path: list[Affine | None] = []
    for t in range(length):
        part, shake = t / max(length - 1, 1), generator.normal(0, SHAKE, 2)
        scale = first * np.exp(part * (growth + squash * np.array([0.5, -0.5])))
        centre = (start + part * drift + shake) * size[::-1]
        path.append(None if t in gone else _back(picture, scale, np.radians(angle + part * turn), centre))
    return path


def _back(picture: tuple[int, int], scale: np.ndarray, angle: float, centre: np.ndarray) -> Affine:
    """Return the map from frame to image, with the image's middle at `centre` (x, y), rotated and scaled along each
    side.
    """
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = np.eye(3)
    forward[:2, :2] = turn * scale
    forward[:2, 2] = centre - forward[:2, :2] @ (np.array(picture[::-1]) / 2)
    return np.linalg.inv(forward)


class Shadow(NamedTuple):
    """Shadow of an image on the ground at its lower edge."""

    back: Affine
    """Map from the shadow to the image that casts it, in the image's own pixels."""
    darkness: float
    softness: float

    def of(self, layer: Layer) -> Layer:
        """Return the shadow's opacity as a layer of the size of `layer`."""
        sigma = max(self.softness * max(layer.shape[:2]) / (1 + 2 * MARGIN), 0.1)
        dark = np.zeros_like(layer)
        dark[..., 3] = cv2.GaussianBlur(layer[..., 3], (0, 0), sigma) * self.darkness
        return dark


def draw_shadow(picture: tuple[int, int], generator: np.random.Generator) -> Shadow:
    """Sample the shadow of an image of (H, W) pixels."""
    length, lean = generator.uniform(*LENGTH), generator.normal(0, LEAN)
    length = np.copysign(max(abs(length), 0.05), length)  # a degenerate map has no inverse
    forward = np.array([[1.0, -lean * abs(length), 0], [0, length, 0], [0, 0, 1]])
    foot = np.eye(3)
    foot[1, 2] = picture[0]
    back = np.linalg.inv(foot @ forward @ np.linalg.inv(foot))
    return Shadow(back, generator.uniform(*DARKNESS), generator.uniform(*SOFTNESS))


def _scale(back: Affine) -> float:
    """Return the frame pixels per image pixel along each side."""
    return float(1 / np.sqrt(abs(np.linalg.det(back[:2, :2]))))


def prepare(picture: UInt8[np.ndarray, "H W 4"], scale: float) -> tuple[Layer, Affine]:
    """Return an image resampled for drawing at `scale`, with a border, and the map into it."""
    layer = picture.astype(np.float32) / 255
    layer[..., :3] *= layer[..., 3:]
    height, width = layer.shape[:2]
    shrink = min(scale, 1.0)
    size = max(round(width * shrink), 1), max(round(height * shrink), 1)
    if shrink < 1:
        layer = cv2.resize(layer, size, interpolation=cv2.INTER_AREA)
    margin = int(np.ceil(MARGIN * max(size)))
    layer = np.pad(layer, ((margin, margin), (margin, margin), (0, 0)))
    into = np.diag([size[0] / width, size[1] / height, 1.0])
    into[:2, 2] = margin
    return layer, into


def _paint(image: UInt8[np.ndarray, "H W 3"], layer: Layer) -> None:
    """Blend a layer over an image in place."""
    seen = layer[..., 3] > 0
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    if not len(rows):
        return
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    colours, alpha = layer[box][..., :3], layer[box][..., 3:]
    image[box] = np.rint(image[box] * (1 - alpha) + 255 * colours).clip(0, 255).astype(np.uint8)


def _as_clip(
    images: UInt8[np.ndarray, "T H W 3"], labels: Integer[np.ndarray, "T H W"], name: str, under: VideoClip
) -> VideoClip:
    """Return the composited clip; distances are unknown where a cut-out covers it."""
    ids = torch.from_numpy(labels)
    distance = None if under.distance is None else under.distance.masked_fill(ids != under.labels, float("nan"))
    return VideoClip(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), ids, name, distance)
