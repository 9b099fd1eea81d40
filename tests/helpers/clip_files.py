"""Small data sets on disk whose pictures tell where their pixels come from."""

from pathlib import Path

import numpy as np
from PIL import Image

from cutie_geo.config import ClipConfig, ImageAugmentConfig, VideoAugmentConfig
from cutie_geo.data.index import LabelledVideo, frame_files, mask_files

STILL = (0.0, 0.0, 0.0, 0.0)
"""Light that doesn't change."""


def blob(size: tuple[int, int], ids: dict[int, tuple[int, int, int, int]]) -> np.ndarray:
    """A mask (H, W) with a filled box (top, left, bottom, right) for each id."""
    mask = np.zeros(size, np.uint8)
    for object_id, (top, left, bottom, right) in ids.items():
        mask[top:bottom, left:right] = object_id
    return mask


def write_mask(path: Path, mask: np.ndarray) -> None:
    """A mask as palette file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    image.putpalette([i // 3 for i in range(768)])
    image.save(path)


def write_image(path: Path, mask: np.ndarray, blue: int = 0) -> None:
    """An image whose red shows where the mask is, whose green is the column, and whose blue is `blue`; lossless."""
    path.parent.mkdir(parents=True, exist_ok=True)
    green = np.broadcast_to(np.linspace(0, 255, mask.shape[1]).astype(np.uint8), mask.shape)
    image = np.stack([np.where(mask > 0, 255, 0).astype(np.uint8), green, np.full_like(mask, blue)], axis=-1)
    Image.fromarray(image).save(path)


def write_cutout(path: Path, colour: tuple[int, int, int], box: tuple[int, int, int, int] = (5, 10, 45, 40)) -> Path:
    """A picture of 60x70 pixels that is transparent but for a box (top, left, bottom, right)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((60, 70, 4), np.uint8)
    pixels[box[0] : box[2], box[1] : box[3]] = (*colour, 255)
    Image.fromarray(pixels).save(path)
    return path


def write_video(root: Path, name: str, masks: list[np.ndarray], suffix: str = ".png") -> LabelledVideo:
    """A video of the generic layout; the blue of frame t is 10 t."""
    for t, mask in enumerate(masks):
        write_image(root / "JPEGImages" / name / f"{t:05d}{suffix}", mask, 10 * t % 250)
        write_mask(root / "Annotations" / name / f"{t:05d}.png", mask)
    return video_at(root, name)


def video_at(root: Path, name: str) -> LabelledVideo:
    """The record of a video that `write_video` wrote."""
    return LabelledVideo(name, frame_files(root / "JPEGImages" / name), mask_files(root / "Annotations" / name))


def small(**changes: object) -> ClipConfig:
    """Small clips under light that doesn't change."""
    video = VideoAugmentConfig(jitter=STILL, grey_probability=0.0, frame_jitter=STILL)
    image = ImageAugmentConfig(clip_jitter=STILL, grey_probability=0.0, jitter=STILL)
    given = {"length": 3, "crop": 64, "max_skip": ((0.0, 2),), "video": video, "image": image} | changes
    return ClipConfig(**given)  # type: ignore[arg-type]
