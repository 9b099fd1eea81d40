"""What a run does with each of its videos."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cutie_geo.config import TrackerConfig, require, to_dict
from cutie_geo.inference.clean import Cleaning
from cutie_geo.inference.ensemble import FEEDBACKS, View, views_of


@dataclass(frozen=True)
class RunOptions:
    """What is done with each video. Raises ValueError for numbers that can't work."""

    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    size: int = -1
    """Frames whose shorter side is longer are shrunk to it; results are written at the files' size. -1 for never."""
    scales: tuple[float, ...] = (1.0,)
    """Of the frames after `size`: each is a view of its own."""
    flip: bool = False
    """Every scale is seen mirrored too."""
    feedback: str = "own"
    """What each view goes on from: "own" or "merged" predictions."""
    model_weights: tuple[float, ...] | None = None
    """Of several models, in their order; None for equal ones."""
    model_sizes: tuple[int, ...] | None = None
    """Shorter side that frames are shrunk to for each of several models, after `size`; -1: not. None: for none."""
    devices: tuple[str, ...] = ()
    """Where views, or several models, are spread over; none for where the models are."""
    view_workers: int | None = None
    """Threads that views, or several models, share; None for one on each device."""
    cleaning: Cleaning = field(default_factory=Cleaning)
    """What is done to label maps before they are written."""
    overlay: bool = False
    save_probs: bool = False
    save_depth: bool = False
    lookahead: int = 1
    """Frames that go through the encoder as one batch."""
    encode_threads: int = 0
    """Of torch's threads on a CPU, those that encode the next frames while the others segment; 0: one by one."""
    fps: float | None = None
    """Of overlays; None for the video's own."""
    workers: int = 2
    """Threads that read and as many that write."""
    overwrite: bool = False
    """Segment complete videos again, and those of other settings."""
    single_object: bool = False
    """All labels of a mask are one object."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else decides what the masks will be, such as model and weights."""

    def __post_init__(self) -> None:
        require(self.size == -1 or self.size >= 16, f"size: got {self.size}, wanted -1 or at least 16 pixels")
        views_of(self.scales, self.flip)
        require(self.feedback in FEEDBACKS, f"feedback: got {self.feedback!r}, wanted {' or '.join(FEEDBACKS)}")
        few = self.view_workers
        require(few is None or few >= 1, f"view_workers: got {few}, wanted 1 or more")
        require(self.workers >= 1, f"workers: got {self.workers}, wanted 1 or more")
        require(self.lookahead >= 1, f"lookahead: got {self.lookahead}, wanted 1 or more")
        threads = self.encode_threads
        require(threads >= 0, f"encode_threads: got {threads}, wanted 0 or more")
        good_rate = self.fps is None or (self.fps > 0 and math.isfinite(self.fps))
        require(good_rate, f"fps: got {self.fps}, wanted a positive number")

    @property
    def views(self) -> tuple[View, ...]:
        """How each frame is looked at."""
        return views_of(self.scales, self.flip)

    @property
    def is_ensemble(self) -> bool:
        """Whether a frame is looked at in any other way than as it is."""
        return self.views != (View(),)

    def fingerprint(self) -> dict[str, Any]:
        """All that decides what the masks will be, but for the video itself, as it reads after a trip through JSON."""
        shown = {"size": self.size, "tracker": to_dict(self.tracker), "single_object": self.single_object}
        if self.is_ensemble:
            shown |= {"ensemble": {"scales": self.scales, "flip": self.flip, "feedback": self.feedback}}
        if self.model_weights or self.model_sizes:
            shown |= {"models": {"weights": self.model_weights, "sizes": self.model_sizes}}
        if self.cleaning:
            shown |= {"cleaning": to_dict(self.cleaning)}
        return json.loads(json.dumps({**self.settings, **shown}))
