"""Options of an inference run."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cutie_geo.config import TrackerConfig, require, to_dict
from cutie_geo.data.live import LiveOptions
from cutie_geo.inference.ensemble import FEEDBACKS, View, views_of
from cutie_geo.inference.postprocess import Cleaning

DIRECTIONS = ("forward", "backward", "both", "auto")
"""Forward from the first frame; backward from the last one; forward and, for the frames before the first mask, also
backward from it; auto, which is `both` if the first mask is not on the first frame.
"""


@dataclass(frozen=True)
class RunOptions:
    """Options for every video of a run.

    Raises:
        ValueError: For invalid values.
    """

    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    """Options of every tracker. Frames are read at `max_internal_size`; results have the size of the files."""
    default_size: int = -1
    """Fallback for `tracker.max_internal_size` if neither the user nor the model sets it; -1 disables resizing."""
    scales: tuple[float, ...] = (1.0,)
    """Scales of the resized frames; each is a separate view."""
    flip: bool = False
    """Add the horizontal flip of every scale as a view."""
    feedback: str = "own"
    """Predictions that each view commits: "own" or "merged"."""
    coefficients: tuple[float, ...] | None = None
    """Weights of several models, in their order; None for equal weights."""
    devices: tuple[str, ...] = ()
    """Devices of views or of several models; empty for the models' devices."""
    view_workers: int | None = None
    """Number of threads for views or for several models; None for one per device."""
    cleaning: Cleaning = field(default_factory=Cleaning)
    """Post-processing of label maps before they are written."""
    overlay: bool = False
    save_probs: bool = False
    save_depth: bool = False
    lookahead: int = 1
    """Number of frames encoded as one batch."""
    encode_threads: int = 0
    """Number of torch's CPU threads that encode the next frames while the others segment; 0 encodes sequentially."""
    fps: float | None = None
    """Frame rate of overlays; None for the video's frame rate."""
    workers: int = 2
    """Number of reading threads, and of writing threads."""
    overwrite: bool = False
    """Segment complete videos again, including those with other settings."""
    direction: str = "forward"
    """One of `DIRECTIONS`: order in which frames are segmented."""
    corrections: bool = False
    """Treat masks of tracked objects as corrections of their predictions."""
    single_object: bool = False
    """Merge all labels of a mask to one object."""
    live: LiveOptions | None = None
    """Options of a live source; None for sources with an end."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Other settings that determine the masks, such as model and weights."""

    def __post_init__(self) -> None:
        views_of(self.scales, self.flip)
        require(self.feedback in FEEDBACKS, f"feedback: got {self.feedback!r}, expected {' or '.join(FEEDBACKS)}")
        known = self.direction in DIRECTIONS
        require(known, f"direction: got {self.direction!r:.20}, expected {', '.join(DIRECTIONS)}")
        few = self.view_workers
        require(few is None or few >= 1, f"view_workers: got {few}, expected 1 or more")
        require(self.workers >= 1, f"workers: got {self.workers}, expected 1 or more")
        require(self.lookahead >= 1, f"lookahead: got {self.lookahead}, expected 1 or more")
        threads = self.encode_threads
        require(threads >= 0, f"encode_threads: got {threads}, expected 0 or more")
        good_rate = self.fps is None or (self.fps > 0 and math.isfinite(self.fps))
        require(good_rate, f"fps: got {self.fps}, expected a positive number")

    @property
    def views(self) -> tuple[View, ...]:
        """Views of each frame."""
        return views_of(self.scales, self.flip)

    @property
    def is_ensemble(self) -> bool:
        """True if there is any view besides the unscaled, unflipped one."""
        return self.views != (View(),)

    def fingerprint(self) -> dict[str, Any]:
        """Return all settings that determine the masks, apart from the video, as JSON-compatible values."""
        shown = {"tracker": to_dict(self.tracker), "single_object": self.single_object}
        if self.tracker.max_internal_size is None:
            shown |= {"default_size": self.default_size}
        if self.is_ensemble:
            shown |= {"ensemble": {"scales": self.scales, "flip": self.flip, "feedback": self.feedback}}
        if self.coefficients:
            shown |= {"models": {"weights": self.coefficients}}
        if self.corrections:
            shown |= {"corrections": True}
        if self.direction in ("backward", "both"):
            shown |= {"direction": self.direction}
        if self.cleaning:
            shown |= {"cleaning": to_dict(self.cleaning)}
        return json.loads(json.dumps({**self.settings, **shown}))
