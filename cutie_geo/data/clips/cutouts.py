"""Cut-outs: pictures of one thing with nothing around it, which move over the clips of other sources."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Integer, UInt8
from PIL import Image as Pillow
from torchvision.transforms import v2

from cutie_geo.config import ClipConfig, require
from cutie_geo.data.clips.augment import lit, torch_draws_from
from cutie_geo.data.clips.footage import readable
from cutie_geo.data.clips.merge import LAST_ID
from cutie_geo.data.clips.sources import ClipSource, Mixture, VideoClip
from cutie_geo.data.clips.warp import Affine, Layer, bend_layer, draw_bend, shift_layer

LARGEST = 1 << 24
"""Pixels of a file at most: some drawings were saved at a hundred times what is drawn, and take seconds to read."""
SIZES = (0.12, 0.75)
"""Square root of the area of a cut-out's box, as a share of the crop's side."""
ENLARGED = 2.0
"""How many times as large as its file a cut-out is at most drawn."""
AWAY = 0.2
"""Chance that one is out of sight somewhere in the middle of the clip."""
DRIFT, TURN, GROWTH, SQUASH = 0.25, 20.0, 0.3, 0.15
"""Standard deviations of what changes from the first frame to the last: place (share of the crop), angle (degrees), and
the logarithms of size and of the ratio of its sides."""
SHAKE = 0.01
"""The same of what each frame adds to the place."""
BEND = 0.03
"""The same of how far control points of the bend have moved in the last frame, as a share of the picture's sides."""
SHADOW = 0.5
"""Chance that one casts a shadow, which is no part of the object: training clips without would teach that what moves
along with a thing belongs to it."""
DARKNESS, LENGTH, LEAN, SOFTNESS = (0.25, 0.7), (-0.6, 0.6), 0.6, (0.005, 0.035)
"""Of a shadow: the share of the light that is gone; its height as a share of the picture's, below zero if it falls
towards the camera; standard deviation of how far it leans for each pixel of that; its blur as a share of the picture's
longer side, a third of `MARGIN` at most, where a blur has come to its end."""
MARGIN = 0.1
"""Empty room around a cut-out, as a share of its sides, for it to bend into."""


class Cutout(NamedTuple):
    """A file with one thing in it, around which it is transparent."""

    name: str
    """Its path in its set, without suffix."""
    path: Path


def index_cutouts(root: Path) -> list[Cutout]:
    """All PNG and WebP files below a folder, by name. None is opened.

    Raises ValueError if there is none.
    """
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in (".png", ".webp"))
    require(bool(paths), f"{root}: no PNG or WebP file in it, wanted pictures with transparency around one thing each")
    return [Cutout(path.relative_to(root).with_suffix("").as_posix(), path) for path in paths]


def read_cutout(path: Path) -> UInt8[np.ndarray, "H W 4"]:
    """RGBA within the box of all that isn't transparent. Raises ValueError naming the file for one without
    transparency, without anything else, of more than `LARGEST` pixels, and where it can't be read."""
    try:
        with Pillow.open(path) as image:
            width, height = image.size
            clear = "A" in image.getbands() or "transparency" in image.info
            pixels = np.asarray(image.convert("RGBA")).copy() if width * height <= LARGEST else None
    except Exception as error:  # on damaged bytes Pillow's readers raise nearly anything
        raise ValueError(f"{path}: can't be read as a picture ({type(error).__name__})") from error
    if pixels is None:
        raise ValueError(f"{path}: picture is {width}x{height}, wanted at most {LARGEST} pixels")
    require(clear and bool((pixels[..., 3] == 0).any()), f"{path}: nothing transparent in it, wanted a cut-out")
    solid = pixels[..., 3] >= 128
    require(bool(solid.any()), f"{path}: all of it is transparent, wanted a cut-out")
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


class CutoutSource:
    """Clips of other sources with cut-outs over them, each on a path of its own that the clip knows nothing of.

    An item is a cut-out. Up to `max_objects` more come with it, so that some are not among the objects of a sample but
    look as if they could be. What the clip beneath shows keeps its ids and may be the object, behind or beside them.
    """

    merges = False

    def __init__(self, cutouts: Sequence[Cutout], beneath: Sequence[ClipSource], config: ClipConfig) -> None:
        """Raises ValueError if there is no cut-out, and nothing that it could lie over."""
        require(bool(cutouts), "cutouts: got none, wanted at least one")
        require(bool(beneath), "cutouts: nothing to lie over, wanted videos or rendered scenes among the data")
        self.cutouts, self.beneath, self.config = list(cutouts), Mixture(beneath), config
        jitter = config.image.clip_jitter
        self._light = v2.Compose([v2.ColorJitter(*jitter), v2.RandomGrayscale(config.image.grey_probability)])

    def __len__(self) -> int:
        """Cut-outs."""
        return len(self.cutouts)

    def draw(self, item: int, progress: float, rng: random.Random) -> VideoClip:
        """A clip with cut-out `item` in its first frame. Raises UnusableFile."""
        source, under = self.beneath.place(rng.randrange(len(self.beneath)))
        clip = source.draw(under, progress, rng)
        chosen = [self.cutouts[item]]
        chosen += [rng.choice(self.cutouts) for _ in range(rng.randrange(self.config.max_objects + 1))]
        rng.shuffle(chosen)
        images, labels = clip.images.permute(0, 2, 3, 1).numpy().copy(), clip.labels.numpy().copy()
        for new, cutout in zip(range(int(labels.max()) + 1, LAST_ID + 1), chosen):
            self._lay(images, labels, self._picture(cutout, rng), new, rng)
        name = f"{' + '.join(f'cutouts/{cutout.name}' for cutout in chosen)} over {clip.name}"
        return _as_clip(images, labels, name, clip)

    def contents(self) -> list[str]:
        """Its cut-outs, and all that they may lie over."""
        lines = [f"cutouts/{cutout.name}" for cutout in self.cutouts]
        return lines + [f"over {line}" for source in self.beneath.sources for line in source.contents()]

    def _picture(self, cutout: Cutout, rng: random.Random) -> UInt8[np.ndarray, "H W 4"]:
        """A cut-out as it looks in this clip: under a light of its own, perhaps mirrored."""
        pixels = readable(read_cutout, cutout.path)
        with torch_draws_from(rng):
            colours = torch.from_numpy(pixels[..., :3].copy()).permute(2, 0, 1)
            pixels[..., :3] = lit(colours, self._light).permute(1, 2, 0).numpy()
        return pixels[:, ::-1] if rng.random() < 0.5 else pixels

    def _lay(
        self,
        images: UInt8[np.ndarray, "T H W 3"],
        labels: Integer[np.ndarray, "T H W"],
        picture: UInt8[np.ndarray, "H2 W2 4"],
        new: int,
        rng: random.Random,
    ) -> None:
        """Change images, and labels where the cut-out is, frame by frame."""
        length, size = len(images), (images.shape[1], images.shape[2])
        draws = np.random.default_rng(rng.getrandbits(63))
        path = draw_path(length, (picture.shape[0], picture.shape[1]), size, draws)
        layer, into_layer = prepare(picture, max(_scale(back) for back in path if back is not None))
        shape = layer.shape[0], layer.shape[1]
        x, y = draw_bend(shape, min(self.config.image.warp_points, *shape), BEND, draws)
        shadow = draw_shadow((picture.shape[0], picture.shape[1]), draws) if draws.random() < SHADOW else None
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
    length: int, picture: tuple[int, int], size: tuple[int, int], draws: np.random.Generator
) -> list[Affine | None]:
    """For each frame of `size` (H, W), the map from it back to a picture of (H, W) pixels; None where that is away.

    In the first frame it is there, and in the last.
    """
    side = min(size)
    first = min(side * np.exp(draws.uniform(*np.log(SIZES))) / np.sqrt(picture[0] * picture[1]), ENLARGED)
    start, drift = draws.uniform(0.15, 0.85, 2), draws.normal(0, DRIFT, 2)
    angle, turn = draws.normal(0, TURN, 2)
    growth, squash = draws.normal(0, (GROWTH, SQUASH))
    gone = range(0)
    if length > 2 and draws.random() < AWAY:
        begin = int(draws.integers(1, length - 1))
        gone = range(begin, int(draws.integers(begin + 1, length)))
    path: list[Affine | None] = []
    for t in range(length):
        part, shake = t / max(length - 1, 1), draws.normal(0, SHAKE, 2)
        scale = first * np.exp(part * (growth + squash * np.array([0.5, -0.5])))
        centre = (start + part * drift + shake) * size[::-1]
        path.append(None if t in gone else _back(picture, scale, np.radians(angle + part * turn), centre))
    return path


def _back(picture: tuple[int, int], scale: np.ndarray, angle: float, centre: np.ndarray) -> Affine:
    """From frame to picture: the picture's middle at `centre` (x, y), turned, its sides scaled each by its own."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = np.eye(3)
    forward[:2, :2] = turn * scale
    forward[:2, 2] = centre - forward[:2, :2] @ (np.array(picture[::-1]) / 2)
    return np.linalg.inv(forward)


class Shadow(NamedTuple):
    """What a picture casts on the ground that its lower edge stands on."""

    back: Affine
    """From where it lies, in the picture's own pixels, to what casts it."""
    darkness: float
    softness: float

    def of(self, layer: Layer) -> Layer:
        """Its share of the light, as a layer of the size of that which casts it."""
        sigma = max(self.softness * max(layer.shape[:2]) / (1 + 2 * MARGIN), 0.1)
        dark = np.zeros_like(layer)
        dark[..., 3] = cv2.GaussianBlur(layer[..., 3], (0, 0), sigma) * self.darkness
        return dark


def draw_shadow(picture: tuple[int, int], draws: np.random.Generator) -> Shadow:
    """The shadow of a picture of (H, W) pixels."""
    length, lean = draws.uniform(*LENGTH), draws.normal(0, LEAN)
    length = np.copysign(max(abs(length), 0.05), length)  # a line would have no way back
    forward = np.array([[1.0, -lean * abs(length), 0], [0, length, 0], [0, 0, 1]])
    foot = np.eye(3)
    foot[1, 2] = picture[0]
    back = np.linalg.inv(foot @ forward @ np.linalg.inv(foot))
    return Shadow(back, draws.uniform(*DARKNESS), draws.uniform(*SOFTNESS))


def _scale(back: Affine) -> float:
    """Pixels of the frame for one of the picture, along each side."""
    return float(1 / np.sqrt(abs(np.linalg.det(back[:2, :2]))))


def prepare(picture: UInt8[np.ndarray, "H W 4"], scale: float) -> tuple[Layer, Affine]:
    """A picture to be drawn at `scale`, no larger than that needs and with room around it, and the map into it."""
    layer = picture.astype(np.float32) / 255
    layer[..., :3] *= layer[..., 3:]
    height, width = layer.shape[:2]
    shrink = min(scale, 1.0)
    size = max(round(width * shrink), 1), max(round(height * shrink), 1)
    if shrink < 1:
        layer = cv2.resize(layer, size, interpolation=cv2.INTER_AREA)
    room = int(np.ceil(MARGIN * max(size)))
    layer = np.pad(layer, ((room, room), (room, room), (0, 0)))
    into = np.diag([size[0] / width, size[1] / height, 1.0])
    into[:2, 2] = room
    return layer, into


def _paint(image: UInt8[np.ndarray, "H W 3"], layer: Layer) -> None:
    """Lay a layer over an image."""
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
    """The painted clip; distances aren't known where something was laid over it."""
    ids = torch.from_numpy(labels)
    distance = None if under.distance is None else under.distance.masked_fill(ids != under.labels, float("nan"))
    return VideoClip(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), ids, name, distance)
