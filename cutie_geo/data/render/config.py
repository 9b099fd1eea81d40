"""Configuration of rendered scenes, and the settings sampled for one clip."""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float

MAX_ID = 254  # 255 is the ignore label


@dataclass(frozen=True)
class SceneConfig:
    """Scene settings. Those from 0 to 1 that are not probabilities are upper bounds: each clip samples its own
    strength.
    """

    height: int = 256
    """Pixels, at least 16."""
    width: int = 256
    """Pixels, at least 16."""
    frames: int = 24
    """Frames of a clip."""
    cycle: int = 48
    """Frames over which objects enter, leave and swap places, at most `frames`. Longer streams repeat with
    variations.
    """
    min_objects: int = 1
    """Minimum number of labelled objects."""
    max_objects: int = 6
    """Maximum number of labelled objects, at most 254."""
    min_size: float = 0.07
    """Minimum object radius at its mean distance, in screen units."""
    max_size: float = 0.26
    """Maximum object radius at its mean distance, in screen units."""
    texture: float = 0.8
    """Texture richness: 0 for plain gradients, 1 for layered patterns and clutter."""
    motion: float = 0.6
    """Strength of the motion and rotation of objects."""
    depth_motion: float = 0.5
    """Strength of motion in depth, which changes size and occlusion."""
    deformation: float = 0.5
    """Strength of the deformation of outlines and limbs."""
    camera: float = 0.5
    """Strength of pan, zoom, roll and shake."""
    light: float = 0.5
    """Strength of changes of exposure and colour, vignette and passing shade."""
    shadow: float = 0.6
    """Darkness of the soft shadow below an object."""
    noise: float = 0.4
    """Sensor noise; 1 is a standard deviation of about 12 of 255."""
    blur: float = 0.4
    """Lens blur; 1 is a Gaussian of 1.2 pixels at 256 lines."""
    leave_probability: float = 0.35
    """Probability that an object leaves the frame and returns (clips of 12 frames or more)."""
    late_probability: float = 0.3
    """Probability that some objects of a clip enter late. Otherwise the first frame shows all of them."""
    lookalike_probability: float = 0.25
    """Probability that an object has the colours of another object or of the backdrop."""
    hole_probability: float = 0.2
    """Probability that an object has holes."""
    limb_probability: float = 0.3
    """Probability that an object has one or two swinging limbs."""
    max_occluders: int = 2
    """Maximum number of unlabelled occluders close to the camera."""
    max_distractors: int = 3
    """Maximum number of unlabelled distractors; they have an object's colours, and some its shape."""

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is float and not 0 <= value <= 1:
                raise ValueError(f"SceneConfig.{field.name}: got {value}, expected 0 to 1")
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
                raise ValueError(f"SceneConfig.{name}: got {getattr(self, name)}, expected at least {bound}")
        if not self.min_objects <= self.max_objects <= MAX_ID:
            raise ValueError(
                f"SceneConfig.max_objects: got {self.max_objects}, "
                f"expected {self.min_objects} (min_objects) to {MAX_ID}"
            )
        if not 0.01 <= self.min_size <= self.max_size:
            raise ValueError(f"SceneConfig.min_size: got {self.min_size}, expected 0.01 to {self.max_size} (max_size)")


@dataclass(frozen=True)
class Stage:
    """Settings shared by the actors of one clip."""

    config: SceneConfig
    cycle: float  # frames
    corner: Float[np.ndarray, "2"]  # half the frame, screen units
    pixels: float  # per screen unit
    motion: float  # strengths of this clip, each at most the config's
    depth_motion: float
    deformation: float
    shadow: float


def draw_stage(rng: np.random.Generator, config: SceneConfig) -> Stage:
    size = np.array([config.width, config.height])
    strengths = rng.uniform(0.2, 1, 4) * [config.motion, config.depth_motion, config.deformation, config.shadow]
    return Stage(
        config, float(min(config.cycle, config.frames)), size / size.min() / 2, float(size.min()), *strengths.tolist()
    )
