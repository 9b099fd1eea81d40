"""Configuration of a tracker: memory and internal size."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from cutie_geo.config.loading import require
from cutie_geo.config.memory import LongTermConfig
from cutie_geo.config.model import ModelConfig

MEM_EVERY = 5
"""Default of `mem_every`, from Cutie."""
TOP_K = 30
"""Default of `top_k`, from Cutie."""
SMALLEST_INTERNAL_SIZE = 16
"""Stride of memory tokens, in pixels: a smaller frame has less than one token."""


@dataclass(frozen=True)
class TrackerConfig:
    """Configuration of a tracker, with Cutie's names and defaults.

    None means the model's default, the field of the same name in `ModelConfig`.

    >>> from cutie_geo import TrackerConfig
    >>> TrackerConfig(mem_every=3, use_long_term=True).long_term.num_prototypes
    128
    """

    mem_every: int | None = None
    """Number of frames from one memory frame to the next. None: the model's, or 5."""
    stagger_updates: int = 5
    """Number of frames between two memory frames on which the decoder updates sensory memory."""
    max_mem_frames: int = 5
    """Number of frames in working memory without long-term memory, including one frame of permanent memory."""
    top_k: int | None = None
    """Number of memory tokens that each query position reads. None: the model's, or 30."""
    full_frame_every: int | None = None
    """Number of frames from one on which every object is decoded in the whole frame to the next; on the others it is
    decoded around its last and its coarse mask, which saves time. With several objects, masks are encoded around each
    object, too. 1 always processes whole frames, as Cutie does. Several views that are processed as one batch are
    always decoded as a whole. None: the model's, or 1."""
    chunk_size: int = -1
    """Number of objects that the network processes at once; -1 for all. Bounds memory; changes values by rounding only,
    about 1e-6 in float32."""
    max_internal_size: int | None = None
    """Shorter side, in pixels, to which larger frames are resized for the network; -1 disables resizing. None: the
    model's, or -1."""
    min_internal_size: int | None = None
    """Shorter side, in pixels, to which smaller frames are enlarged for the network; -1 disables it. None: the model's,
    but at most `max_internal_size`, and -1 if that is -1."""
    antialias: bool = False
    """Resize to `max_internal_size` with antialiasing. False in Cutie; always True for the model's own size."""
    use_long_term: bool = False
    """Consolidate old frames into long-term memory, as Cutie does for long videos."""
    long_term: LongTermConfig = field(default_factory=LongTermConfig)
    """Limits of long-term memory. Cutie's mean the model's, if it has some."""

    def for_model(self, model: ModelConfig) -> "TrackerConfig":
        """Replace options that are None by the model's default, or Cutie's."""
        resolved = replace(
            self,
            mem_every=self.mem_every or model.mem_every or MEM_EVERY,
            top_k=self.top_k or model.top_k or TOP_K,
            full_frame_every=self.full_frame_every or model.full_frame_every or 1,
            long_term=model.long_term if model.long_term and self.long_term == LongTermConfig() else self.long_term,
        )
        most, least = self.max_internal_size, model.min_internal_size or -1
        if most is None:
            resolved = replace(resolved, max_internal_size=model.max_internal_size or -1, antialias=True)
        else:
            least = min(least, most)
        return replace(resolved, min_internal_size=least) if self.min_internal_size is None else resolved

    def __post_init__(self) -> None:
        for name in ("mem_every", "stagger_updates", "top_k", "full_frame_every"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name}: got {value}, expected 1 or more")
        require(self.max_mem_frames >= 1, f"max_mem_frames: got {self.max_mem_frames}, expected 1 or more")
        require(
            self.chunk_size == -1 or self.chunk_size >= 1,
            f"chunk_size: got {self.chunk_size}, expected -1 or a positive number",
        )
        for name in ("max_internal_size", "min_internal_size"):
            size = getattr(self, name)
            require(
                size in (None, -1) or size >= SMALLEST_INTERNAL_SIZE,
                f"{name}: got {size}, expected -1 or at least {SMALLEST_INTERNAL_SIZE} pixels",
            )


class TrackerOptions(TypedDict, total=False):
    """The fields of `TrackerConfig` as keyword arguments, for type checkers and editors."""

    mem_every: int | None
    stagger_updates: int
    max_mem_frames: int
    top_k: int | None
    full_frame_every: int | None
    chunk_size: int
    max_internal_size: int | None
    min_internal_size: int | None
    antialias: bool
    use_long_term: bool
    long_term: LongTermConfig | Mapping[str, Any]
