"""Rendered clips in which a class can be seen: each has a colour of its own."""

from pathlib import Path

import numpy as np
from PIL import Image

from cutie_geo.data.masks import write_labels
from cutie_geo.data.render import SceneConfig, render_clip

COLOURS = np.array([[40, 40, 40], [230, 40, 40], [40, 230, 40], [60, 60, 240], [230, 230, 60]], np.uint8)
"""Of the classes in the order of their numbers."""
CLASSES = np.array([0, 17, 64, 90, 123], np.uint8)
"""Of VSPW's numbers, from 0 on: the backdrop's first."""
STRENGTH = 0.7
"""Share of a pixel's colour that its class decides."""


def tinted_clip(seed: int, scene: SceneConfig) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, H, W, 3) and true maps (T, H, W) of a clip whose objects, at most four, have classes drawn anew."""
    clip = render_clip(seed, scene)
    order = np.concatenate([[0], 1 + np.random.default_rng(seed).permutation(len(CLASSES) - 1)])
    kinds = order[clip.labels]
    images = (1 - STRENGTH) * clip.images + STRENGTH * COLOURS[kinds]
    return images.astype(np.uint8), CLASSES[kinds]


def write_vspw(root: Path, lists: dict[str, range], scene: SceneConfig) -> None:
    """Clips as VSPW publishes its own, a list of them in each file of `lists`, whose numbers are seeds."""
    for listed, seeds in lists.items():
        for seed in seeds:
            images, truth = tinted_clip(seed, scene)
            folder = root / "data" / f"clip{seed}"
            (folder / "origin").mkdir(parents=True)
            for t, (image, labels) in enumerate(zip(images, truth)):
                Image.fromarray(image).save(folder / "origin" / f"{t:08d}.png")
                write_labels(folder / "mask" / f"{t:08d}.png", labels.astype(np.int32) + 1)
        (root / listed).write_text("\n".join(f"clip{seed}" for seed in seeds) + "\n")
