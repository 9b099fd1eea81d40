"""Augmentation of training clips. Source: Cutie specification, sections 8.2.1 and 8.2.2.

Flip, affine map and crop are sampled as in torchvision and applied as one warp directly to the crop. The geometry is
the same, pixels are interpolated once instead of twice, and only the crop is computed.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor
from torchvision import transforms as v1

from cutie_geo.config import ImageAugmentConfig, VideoAugmentConfig
from cutie_geo.data.clips.light import Light, draw_light, shine
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
"""Maximum number of views sampled to find one with a visible object."""


@contextmanager
def torch_draws_from(rng: random.Random) -> Iterator[None]:
    """Seed torch's CPU generator from `rng` within the block; restore its state afterwards.

    `torch.manual_seed` is not used because it also seeds the GPUs.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(rng.getrandbits(63))
        yield


def stack(
    images: Sequence[Image], labels: Sequence[Labels]
) -> tuple[UInt8[Tensor, "T 3 H W"], Integer[Tensor, "T H W"]]:
    """Stack frames of one size into the tensors of a clip."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return pixels, torch.from_numpy(np.stack(labels).astype(np.int32))


class VideoAugment:
    """Augmentation of a video clip: one random camera for all frames, then colour jitter."""

    def __init__(self, config: VideoAugmentConfig, crop: int) -> None:
        self.config, self.crop = config, crop

    def view(self, first: Labels, rng: random.Random) -> tuple[Affine, bool]:
        """Sample a view of a clip whose first label map is `first`.

        Views are sampled until one shows an object, at most VIEW_TRIES times.

        Returns:
            The view, and whether it shows an object.
        """
        if self.config.kind == "none":
            view = self._centre_crop(first.shape)
            return view, self._shows(first, view)
        view = np.eye(3)
        with torch_draws_from(rng):
            for _ in range(VIEW_TRIES):
                view = self._draw(first.shape)
                if self._shows(first, view):
                    return view, True
        return view, False

    def apply(
        self,
        images: Sequence[Image],
        labels: Sequence[Labels],
        view: Affine,
        rng: random.Random,
        path: Sequence[Affine] | None = None,
    ) -> tuple[UInt8[Tensor, "T 3 crop crop"], Integer[Tensor, "T crop crop"]]:
        """Return frames of one size warped to `view` and along `path`, with colour jitter sampled from `rng`."""
        size, config = (self.crop, self.crop), self.config
        views = _along(view, path, len(images))
        seen = [shift_image(image, each, size) for image, each in zip(images, views)]
        if config.kind != "none":
            with torch_draws_from(rng):
                clip_light = draw_light(config.jitter, config.grey_probability)
                lights = [draw_light(config.frame_jitter) for _ in (seen if config.frame_jitter_varies else (0,))]
            last = lights * len(seen) if len(lights) == 1 else lights
            seen = [shine(image, (clip_light, light)) for image, light in zip(seen, last)]
        return stack(seen, [shift_labels(each, back, size) for each, back in zip(labels, views)])

    def distances(
        self, found: Sequence[Distance | None], view: Affine, path: Sequence[Affine] | None = None
    ) -> Float[Tensor, "T crop crop"] | None:
        """Return the distance maps of a clip warped to `view` and along `path`; None if a frame has none."""
        size, views = (self.crop, self.crop), _along(view, path, len(found))
        seen = [None if each is None else shift_distance(each, back, size) for each, back in zip(found, views)]
        known = [each for each in seen if each is not None]
        return torch.from_numpy(np.stack(known)) if len(known) == len(seen) else None

    def _shows(self, labels: Labels, view: Affine) -> bool:
        return bool(shift_labels(labels, view, (self.crop, self.crop)).any())

    def _draw(self, size: tuple[int, ...]) -> Affine:
        """Sample flip, affine map and crop as one backward map."""
        height, width = size
        config = self.config
        flips = torch.rand(()).item() < config.flip_probability
        degrees, scale, shear = _draw_affine((height, width), config.degrees, None, config.shear)
        box = v1.RandomResizedCrop.get_params(
            torch.empty(1, height, width), list(config.crop_scale), list(config.crop_ratio)
        )
        view = turn_and_shear((height, width), degrees, scale, shear) @ crop_box(*box, self.crop)
        return mirror((height, width)) @ view if flips else view

    def _centre_crop(self, size: tuple[int, ...]) -> Affine:
        """Return the central square crop of the frame."""
        height, width = size
        side = min(height, width)
        return crop_box((height - side) / 2, (width - side) / 2, side, side, self.crop)


class StillAugment:
    """Synthetic motion of a static image: zoom and colour jitter shared by all frames, then camera and colour
    jitter of each frame.

    All maps of a frame are applied as one warp to the crop, and all colour jitter as one change.
    """

    def __init__(self, config: ImageAugmentConfig, crop: int) -> None:
        self.config, self.crop = config, crop

    def apply(
        self,
        image: Image,
        labels: Labels,
        length: int,
        rng: random.Random,
        path: Sequence[Affine] | None = None,
    ) -> tuple[UInt8[Tensor, "T 3 crop crop"], Integer[Tensor, "T crop crop"]]:
        """Return `length` views of an image and its label map, moved along `path`."""
        size = image.shape[0], image.shape[1]
        with torch_draws_from(rng):
            shared, light = self._common(size)
            frames = [
                self._frame(image, labels, shared, moved, light, rng) for moved in _along(np.eye(3), path, length)
            ]
        return stack([frame for frame, _ in frames], [each for _, each in frames])

    def _common(self, size: tuple[int, int]) -> tuple[Affine, Light]:
        """Return the zoom and flip, and the colour jitter, that frames share."""
        view = turn_and_shear(size, *_draw_affine(size, 0.0, self.config.clip_scale, 0.0))
        if torch.rand(()).item() < self.config.flip_probability:
            view = view @ mirror(size)
        return view, draw_light(self.config.clip_jitter, self.config.grey_probability)

    def _frame(
        self, image: Image, labels: Labels, shared: Affine, moved: Affine, light: Light, rng: random.Random
    ) -> tuple[Image, Labels]:
        """Return one frame: affine map, crop, colour jitter and, at random, a thin-plate-spline bend."""
        config, size, crop = self.config, (image.shape[0], image.shape[1]), (self.crop, self.crop)
        degrees, scale, shear = _draw_affine(size, config.degrees, config.scale, config.shear)
        view = shared @ turn_and_shear(size, degrees, scale, shear) @ self._cut(size) @ moved
        image, labels = shift_image(image, view, crop), shift_labels(labels, view, crop)
        image = shine(image, (light, draw_light(config.jitter)))
        if rng.random() < config.warp_probability:
            numbers = np.random.default_rng(rng.getrandbits(63))
            x, y = draw_bend(crop, config.warp_points, config.warp_strength, numbers)
            image, labels = bend_image(image, x, y), bend_labels(labels, x, y)
        return image, labels

    def _cut(self, size: tuple[int, int]) -> Affine:
        """Return a random square crop of the full shorter side."""
        side = min(size)
        top, left = (int(torch.randint(full - side + 1, ())) for full in size)
        return crop_box(top, left, side, side, self.crop)


def _along(view: Affine, path: Sequence[Affine] | None, length: int) -> list[Affine]:
    """Return the view of each frame."""
    return [view] * length if path is None else [view @ moved for moved in path]


def _draw_affine(
    size: tuple[int, int], degrees: float, scale: tuple[float, float] | None, shear: float
) -> tuple[float, float, float]:
    """Sample angle, scale and shear along x as torchvision's RandomAffine does."""
    height, width = size
    slant = [-shear, shear] if shear else None
    angle, _, zoom, (shear_x, _) = v1.RandomAffine.get_params(
        [-degrees, degrees], None, list(scale) if scale else None, slant, [width, height]
    )
    return angle, zoom, shear_x
