"""How frames become varied training clips. Source: Cutie specification, sections 8.2.1 and 8.2.2.

Flip, affine map and crop are drawn as torchvision draws them and applied as one warp straight to the crop: the geometry
is that of the three in a row, the pixels are interpolated once instead of twice, and only those that stay are computed.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor, nn
from torchvision import transforms as v1
from torchvision.transforms import v2

from cutie_geo.config import ImageAugmentConfig, VideoAugmentConfig
from cutie_geo.data.clips.warp import (
    Affine,
    Distance,
    Image,
    Labels,
    bend_image,
    bend_labels,
    crop_box,
    draw_bend,
    mirror,
    shift_distance,
    shift_image,
    shift_labels,
    turn_and_shear,
)

VIEW_TRIES = 5
"""Views of a clip that are drawn for one that shows an object."""


@contextmanager
def torch_draws_from(rng: random.Random) -> Iterator[None]:
    """Within the block torch's CPU draws follow from `rng` alone; afterwards they go on as if nothing had been drawn.

    `torch.manual_seed` won't do: it seeds the GPUs of the process too.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(rng.getrandbits(63))
        yield


def stack(
    images: Sequence[Image], labels: Sequence[Labels]
) -> tuple[UInt8[Tensor, "T 3 H W"], Integer[Tensor, "T H W"]]:
    """Frames of one size as the tensors of a clip."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return pixels, torch.from_numpy(np.stack(labels).astype(np.int32))


def lit(pixels: UInt8[Tensor, "*lead 3 H W"], *lights: nn.Module) -> UInt8[Tensor, "*lead 3 H W"]:
    """Pixels under one light after another. In floats, which takes half the time that bytes take, and rounded once:
    torchvision cuts bytes off after each change, and a handful of them darken a frame by three levels."""
    bright = pixels.float().div_(255)
    for light in lights:
        bright = light(bright)
    return bright.mul(255).round_().clamp_(0, 255).to(torch.uint8)


class VideoAugment:
    """One random camera for a whole clip, then light."""

    def __init__(self, config: VideoAugmentConfig, crop: int) -> None:
        self.config, self.crop = config, crop
        self.clip_light = v2.Compose([v2.ColorJitter(*config.jitter), v2.RandomGrayscale(config.grey_probability)])
        self.frame_light = v2.ColorJitter(*config.frame_jitter)

    def view(self, first: Labels, rng: random.Random) -> tuple[Affine, bool]:
        """A view of a clip whose first label map is `first`, and whether an object shows in it.

        Views are drawn until one does, or the tries are used up.
        """
        if self.config.kind == "none":
            view = self._middle(first.shape)
            return view, self._shows(first, view)
        view = np.eye(3)
        with torch_draws_from(rng):
            for _ in range(VIEW_TRIES):
                view = self._draw(first.shape)
                if self._shows(first, view):
                    return view, True
        return view, False

    def apply(
        self, images: Sequence[Image], labels: Sequence[Labels], view: Affine, rng: random.Random
    ) -> tuple[UInt8[Tensor, "T 3 crop crop"], Integer[Tensor, "T crop crop"]]:
        """Frames of one size as they are seen in `view`, under light drawn from `rng`."""
        size = (self.crop, self.crop)
        pixels, ids = stack(
            [shift_image(image, view, size) for image in images], [shift_labels(each, view, size) for each in labels]
        )
        if self.config.kind == "none":
            return pixels, ids
        with torch_draws_from(rng):
            if self.config.frame_jitter_varies:
                return torch.stack([lit(frame, self.frame_light) for frame in lit(pixels, self.clip_light)]), ids
            return lit(pixels, self.clip_light, self.frame_light), ids

    def distances(self, found: Iterable[Distance | None], view: Affine) -> Float[Tensor, "T crop crop"] | None:
        """Distances in the frames of a clip as they are seen in `view`; None if a frame has none."""
        size = (self.crop, self.crop)
        seen = [None if each is None else shift_distance(each, view, size) for each in found]
        known = [each for each in seen if each is not None]
        return torch.from_numpy(np.stack(known)) if len(known) == len(seen) else None

    def _shows(self, labels: Labels, view: Affine) -> bool:
        return bool(shift_labels(labels, view, (self.crop, self.crop)).any())

    def _draw(self, size: tuple[int, ...]) -> Affine:
        """Flip, turn and shear, cut out: backwards, as maps go from the result to the source."""
        height, width = size
        config = self.config
        flips = torch.rand(()).item() < config.flip_probability
        degrees, scale, shear = _draw_affine((height, width), config.degrees, None, config.shear)
        box = v1.RandomResizedCrop.get_params(
            torch.empty(1, height, width), list(config.crop_scale), list(config.crop_ratio)
        )
        view = turn_and_shear((height, width), degrees, scale, shear) @ crop_box(*box, self.crop)
        return mirror((height, width)) @ view if flips else view

    def _middle(self, size: tuple[int, ...]) -> Affine:
        """The largest square in the middle of the frame."""
        height, width = size
        side = min(height, width)
        return crop_box((height - side) / 2, (width - side) / 2, side, side, self.crop)


class StillAugment:
    """A clip from one picture: a zoom and light that frames share, then each frame with its own camera and light."""

    def __init__(self, config: ImageAugmentConfig, crop: int) -> None:
        self.config, self.crop = config, crop
        self.clip_light = v2.Compose([v2.ColorJitter(*config.clip_jitter), v2.RandomGrayscale(config.grey_probability)])
        self.frame_light = v2.ColorJitter(*config.jitter)

    def apply(
        self, image: Image, labels: Labels, length: int, rng: random.Random
    ) -> tuple[UInt8[Tensor, "T 3 crop crop"], Integer[Tensor, "T crop crop"]]:
        """`length` views of a picture and its label map."""
        with torch_draws_from(rng):
            image, labels = self._common(image, labels)
            frames = [self._frame(image, labels, rng) for _ in range(length)]
        pixels = torch.stack([frame for frame, _ in frames])
        return pixels, torch.from_numpy(np.stack([each for _, each in frames]).astype(np.int32))

    def _common(self, image: Image, labels: Labels) -> tuple[Image, Labels]:
        """The picture at its own size, zoomed, perhaps mirrored, and lit."""
        size = image.shape[0], image.shape[1]
        view = turn_and_shear(size, *_draw_affine(size, 0.0, self.config.clip_scale, 0.0))
        if torch.rand(()).item() < self.config.flip_probability:
            view = view @ mirror(size)
        image, labels = shift_image(image, view, size, nearest=True), shift_labels(labels, view, size)
        bright = lit(torch.from_numpy(image).permute(2, 0, 1).contiguous(), self.clip_light)
        return np.ascontiguousarray(bright.permute(1, 2, 0).numpy()), labels

    def _frame(self, image: Image, labels: Labels, rng: random.Random) -> tuple[Tensor, Labels]:
        """One frame: turned, zoomed and sheared, cut to the crop, lit, and now and then bent."""
        config, size, crop = self.config, (image.shape[0], image.shape[1]), (self.crop, self.crop)
        degrees, scale, shear = _draw_affine(size, config.degrees, config.scale, config.shear)
        view = turn_and_shear(size, degrees, scale, shear) @ self._cut(size)
        image, labels = shift_image(image, view, crop), shift_labels(labels, view, crop)
        frame = lit(torch.from_numpy(image).permute(2, 0, 1).contiguous(), self.frame_light)
        if rng.random() < config.warp_probability:
            numbers = np.random.default_rng(rng.getrandbits(63))
            x, y = draw_bend(crop, config.warp_points, config.warp_strength, numbers)
            bent = bend_image(np.ascontiguousarray(frame.permute(1, 2, 0).numpy()), x, y)
            frame, labels = torch.from_numpy(bent).permute(2, 0, 1).contiguous(), bend_labels(labels, x, y)
        return frame, labels

    def _cut(self, size: tuple[int, int]) -> Affine:
        """A random square of the whole shorter side."""
        side = min(size)
        top, left = (int(torch.randint(full - side + 1, ())) for full in size)
        return crop_box(top, left, side, side, self.crop)


def _draw_affine(
    size: tuple[int, int], degrees: float, scale: tuple[float, float] | None, shear: float
) -> tuple[float, float, float]:
    """Angle, scale and shear along x as torchvision's RandomAffine draws them."""
    height, width = size
    slant = [-shear, shear] if shear else None
    angle, _, zoom, (shear_x, _) = v1.RandomAffine.get_params(
        [-degrees, degrees], None, list(scale) if scale else None, slant, [width, height]
    )
    return angle, zoom, shear_x
