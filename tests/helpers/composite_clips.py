"""Clips of several objects, composed of annotated videos of one object each: frames, masks and first masks.

    python tests/helpers/composite_clips.py --data-root DATA/davis2016-train-480p --output SET
    python infer.py --video SET/JPEGImages --mask SET/first --output RESULTS
    cutie-geo evaluate --protocol davis2017 --gt SET/Annotations --pred RESULTS

Each clip is a stretch of one video, into which one to three objects of other videos are pasted with their own motion.
They are moved, scaled, perhaps mirrored, and drift through the frame, so they cover each other and leave the frame. The
default is 20 clips of the eleven sequences of DAVIS 2016 train that `configs/training/tiny_large.yaml` excludes.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from cutie_geo.data.masks import write_labels

VIDEOS = (
    "bmx-bumps", "breakdance-flare", "car-turn", "dance-jump", "dog-agility", "drift-turn", "hike", "motocross-bumps",
    "rhino", "scooter-gray", "swing",
)  # fmt: skip
LENGTH = 40
"""Frames of a clip; shorter videos give shorter clips."""
LEAST_AREA = 1500
"""Minimum number of visible pixels of each object on the first frame."""
DRAWS = 200
"""Maximum number of compositions that are drawn for a clip until each object is visible on the first frame."""


@dataclass(frozen=True)
class Pasted:
    """An object of another video: where it starts, its scale, how far it drifts in a frame, and if it is mirrored."""

    video: str
    first: int
    middle: tuple[float, float]
    scale: float
    drift: tuple[float, float]
    mirrored: bool


class Videos:
    """Frames and masks in the layout of DAVIS at 480 lines."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def length(self, video: str) -> int:
        return len(list((self.root / "Annotations/480p" / video).glob("*.png")))

    def image(self, video: str, frame: int) -> Image.Image:
        return Image.open(self.root / "JPEGImages/480p" / video / f"{frame:05d}.jpg").convert("RGB")

    def mask(self, video: str, frame: int) -> Image.Image:
        path = self.root / "Annotations/480p" / video / f"{frame:05d}.png"
        return Image.fromarray((np.asarray(Image.open(path)) > 0).astype(np.uint8) * 255)


def draw(numbers: np.random.Generator, videos: Videos, names: Sequence[str]) -> tuple[str, int, int, list[Pasted]]:
    """Draw a composition: the video behind, its first frame, the number of frames, and what is pasted."""
    behind, *others = numbers.permutation(names)[: int(numbers.integers(2, 5))]
    chosen = [str(behind), *map(str, others)]
    length = min(LENGTH, *(videos.length(name) for name in chosen))
    firsts = [int(numbers.integers(videos.length(name) - length + 1)) for name in chosen]
    pasted = [
        Pasted(
            name, first, (float(numbers.uniform(0.15, 0.85)), float(numbers.uniform(0.25, 0.8))),
            float(numbers.uniform(0.5, 1.0)), (float(numbers.uniform(-6, 6)), float(numbers.uniform(-2, 2))),
            bool(numbers.integers(2)),
        )
        for name, first in zip(chosen[1:], firsts[1:])
    ]  # fmt: skip
    return chosen[0], firsts[0], length, pasted


def compose(
    videos: Videos, behind: str, first: int, pasted: Sequence[Pasted], frame: int
) -> tuple[Image.Image, np.ndarray]:
    """Return a frame and its label map: 1 for the object of the video behind, 2 and on in the order of pasting."""
    image = videos.image(behind, first + frame)
    labels = (np.asarray(videos.mask(behind, first + frame)) > 0).astype(np.uint8)
    for label, item in enumerate(pasted, 2):
        cut, mask = videos.image(item.video, item.first + frame), videos.mask(item.video, item.first + frame)
        if item.mirrored:
            cut, mask = (part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for part in (cut, mask))
        size = (round(cut.width * item.scale), round(cut.height * item.scale))
        cut, mask = cut.resize(size, Image.Resampling.LANCZOS), mask.resize(size, Image.Resampling.BILINEAR)
        # the object's middle on its first frame comes to `middle`; from there it moves as in its own video, and drifts
        rows, columns = np.nonzero(np.asarray(videos.mask(item.video, item.first)))
        start = (columns.mean() if not item.mirrored else image.width - columns.mean(), rows.mean())
        left, top = (
            round(share * side - at * item.scale + step * frame)
            for share, side, at, step in zip(item.middle, image.size, start, item.drift)
        )
        image.paste(cut, (left, top), mask.filter(ImageFilter.GaussianBlur(0.7)))
        placed = Image.new("L", image.size)
        placed.paste(mask, (left, top))
        labels[np.asarray(placed) > 127] = label
    return image, labels


def write_clip(output: Path, name: str, numbers: np.random.Generator, videos: Videos, names: Sequence[str]) -> str:
    """Write one clip; return what it is made of. Raises ValueError if no drawn composition shows every object."""
    for _ in range(DRAWS):
        behind, first, length, pasted = draw(numbers, videos, names)
        areas = np.bincount(compose(videos, behind, first, pasted, 0)[1].ravel(), minlength=len(pasted) + 2)
        if areas[1 : len(pasted) + 2].min() >= LEAST_AREA:
            break
    else:
        raise ValueError(f"{name}: none of {DRAWS} compositions shows every object on the first frame")
    for frame in range(length):
        image, labels = compose(videos, behind, first, pasted, frame)
        paths = [output / kind / name / f"{frame:05d}" for kind in ("JPEGImages", "Annotations")]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        image.save(paths[0].with_suffix(".jpg"), quality=95)
        write_labels(paths[1].with_suffix(".png"), labels)
        if frame == 0:
            write_labels(output / "first" / f"{name}.png", labels)
    return f"{name}: {length} frames of {behind} with " + ", ".join(item.video for item in pasted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="DAVIS with JPEGImages/480p and Annotations/480p")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--videos", nargs="+", default=VIDEOS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    videos, numbers = Videos(args.data_root), np.random.default_rng(args.seed)
    (args.output / "first").mkdir(parents=True, exist_ok=True)
    for clip in range(args.clips):
        print(write_clip(args.output, f"composite{clip:02d}", numbers, videos, args.videos), flush=True)


if __name__ == "__main__":
    main()
