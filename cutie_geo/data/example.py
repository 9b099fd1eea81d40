"""The bundled example: a short rendered clip in the layout of DAVIS, and the code that renders it.

All three objects are visible in the first frame. One passes in front of another, and one leaves the frame and returns.
"""

from pathlib import Path

from PIL import Image

from cutie_geo.data.masks import write_labels
from cutie_geo.data.render import SceneConfig, render_frames

EXAMPLE_CLIP = "toy_wall"
EXAMPLE_SEED = 120
EXAMPLE_CONFIG = SceneConfig(
    height=180,
    width=320,
    frames=48,
    min_objects=3,
    max_objects=3,
    min_size=0.13,
    max_size=0.28,
    leave_probability=0.4,
    late_probability=0.0,
    lookalike_probability=0.2,
    max_occluders=1,
    max_distractors=2,
    noise=0.15,
    blur=0.3,
)
JPEG_QUALITY = 90


def example_root() -> Path:
    """Return the folder that holds `JPEGImages` and `Annotations`."""
    return Path(__file__).parent / "example_clip"


def example_frames() -> Path:
    """Return the folder of the clip's frames, 00000.jpg and so on.

    >>> import cutie_geo
    >>> len(list(cutie_geo.example_frames().glob("*.jpg")))
    48
    """
    return example_root() / "JPEGImages" / EXAMPLE_CLIP


def example_masks() -> Path:
    """Return the folder of the clip's ground-truth masks, 00000.png and so on, one for each frame.

    >>> import cutie_geo
    >>> sorted(path.name for path in cutie_geo.example_masks().glob("*.png"))[0]
    '00000.png'
    """
    return example_root() / "Annotations" / EXAMPLE_CLIP


def write_example(root: str | Path) -> None:
    """Render the bundled files into `root`. Labels are identical; images differ only by the JPEG encoder."""
    frames, masks = (Path(root) / kind / EXAMPLE_CLIP for kind in ("JPEGImages", "Annotations"))
    frames.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    for t, frame in enumerate(render_frames(EXAMPLE_SEED, EXAMPLE_CONFIG)):
        Image.fromarray(frame.image).save(frames / f"{t:05d}.jpg", quality=JPEG_QUALITY)
        write_labels(masks / f"{t:05d}.png", frame.labels)
