"""A scene's knobs, and the strengths that one clip draws below them."""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float

MAX_ID = 254  # 255 is the ignore label


@dataclass(frozen=True)
class SceneConfig:
    """What a scene may contain. Knobs from 0 to 1 that are not chances are upper bounds: each clip draws its own
    strength below them, so that clips differ.
    """

    height: int = 256
    """Pixels, at least 16."""
    width: int = 256
    """Pixels, at least 16."""
    frames: int = 24
    """Frames of a clip; a stream may be as long as one likes."""
    cycle: int = 48
    """Frames over which things come, go and swap places; at most `frames` is used. Longer streams repeat, varied."""
    min_objects: int = 1
    """Fewest labelled objects."""
    max_objects: int = 6
    """Most labelled objects, at most 254."""
    min_size: float = 0.07
    """Smallest object radius at its mean distance, in screen units."""
    max_size: float = 0.26
    """Largest object radius at its mean distance, in screen units."""
    texture: float = 0.8
    """Richness of surfaces and backdrop: 0 plain gradients, 1 layered patterns and clutter."""
    motion: float = 0.6
    """How far objects wander and turn."""
    depth_motion: float = 0.5
    """How far objects come and go in distance; this changes their size and who hides whom."""
    deformation: float = 0.5
    """How far outlines bend and limbs swing."""
    camera: float = 0.5
    """Pan, zoom, roll and shake."""
    light: float = 0.5
    """Changes of exposure and colour, vignette, passing shade."""
    shadow: float = 0.6
    """Darkness of the soft shadow below an object."""
    noise: float = 0.4
    """Sensor noise; 1 is a standard deviation of about 12 of 255."""
    blur: float = 0.4
    """Lens blur; 1 is a Gaussian of 1.2 pixels at 256 lines."""
    leave_probability: float = 0.35
    """Chance that an object leaves the frame and returns (clips of 12 frames or more)."""
    late_probability: float = 0.3
    """Chance that a clip starts with some objects still out of view. Otherwise all of them show in its first frame."""
    lookalike_probability: float = 0.25
    """Chance that an object wears the colours of another object or of the backdrop."""
    hole_probability: float = 0.2
    """Chance that an object has holes."""
    limb_probability: float = 0.3
    """Chance that an object has one or two swinging limbs."""
    max_occluders: int = 2
    """Most unlabelled things that stand close to the camera."""
    max_distractors: int = 3
    """Most unlabelled things among the objects; they wear an object's colours, some its shape."""

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is float and not 0 <= value <= 1:
                raise ValueError(f"SceneConfig.{field.name}: got {value}, wanted 0 to 1")
        least = {
            "height": 16,
            "width": 16,
            "frames": 1,
            "cycle": 1,
            "min_objects": 1,
            "max_occluders": 0,
            "max_distractors": 0,
        }
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"SceneConfig.{name}: got {getattr(self, name)}, wanted at least {bound}")
        if not self.min_objects <= self.max_objects <= MAX_ID:
            raise ValueError(
                f"SceneConfig.max_objects: got {self.max_objects}, wanted {self.min_objects} (min_objects) to {MAX_ID}"
            )
        if not 0.01 <= self.min_size <= self.max_size:
            raise ValueError(f"SceneConfig.min_size: got {self.min_size}, wanted 0.01 to {self.max_size} (max_size)")


@dataclass(frozen=True)
class Stage:
    """What the actors of one clip share."""

    config: SceneConfig
    cycle: float  # frames
    corner: Float[np.ndarray, "2"]  # half the frame, screen units
    pixels: float  # a screen unit
    motion: float  # this clip's strengths, each within the config's
    depth_motion: float
    deformation: float
    shadow: float


def draw_stage(rng: np.random.Generator, config: SceneConfig) -> Stage:
    size = np.array([config.width, config.height])
    strengths = rng.uniform(0.2, 1, 4) * [config.motion, config.depth_motion, config.deformation, config.shadow]
    return Stage(
        config, float(min(config.cycle, config.frames)), size / size.min() / 2, float(size.min()), *strengths.tolist()
    )
