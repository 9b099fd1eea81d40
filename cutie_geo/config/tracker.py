"""What a tracker remembers of a video."""

from dataclasses import dataclass, field, replace

from cutie_geo.config.loading import require


@dataclass(frozen=True)
class LongTermConfig:
    """Long-term memory: when working memory is consolidated, and how many tokens are kept."""

    max_mem_frames: int = 10
    """Working memory is consolidated when it holds this many frames, the pinned one counted."""
    min_mem_frames: int = 5
    """Frames left in working memory by a consolidation, the pinned one counted."""
    num_prototypes: int = 128
    """Tokens that one consolidation adds."""
    max_num_tokens: int = 10000
    """Tokens that long-term memory never exceeds, for each group of objects that share tokens."""
    buffer_tokens: int = 2000
    """Tokens freed beyond the need when the least used ones are dropped."""
    count_usage: bool = True
    """Rank long-term tokens by usage; otherwise the oldest are dropped first."""

    def __post_init__(self) -> None:
        # with one frame left, the frame just written, which nothing has read yet, would be ranked by a usage of zero
        require(self.min_mem_frames >= 2, f"long_term.min_mem_frames: got {self.min_mem_frames}, wanted at least 2")
        require(
            self.max_mem_frames > self.min_mem_frames,
            f"long_term.max_mem_frames: got {self.max_mem_frames}, "
            f"wanted more than min_mem_frames={self.min_mem_frames}",
        )
        require(
            self.num_prototypes > 0, f"long_term.num_prototypes: got {self.num_prototypes}, wanted a positive number"
        )
        require(self.buffer_tokens >= 0, f"long_term.buffer_tokens: got {self.buffer_tokens}, wanted 0 or more")
        require(
            self.max_num_tokens >= self.num_prototypes + self.buffer_tokens,
            f"long_term.max_num_tokens: got {self.max_num_tokens}, wanted at least num_prototypes + buffer_tokens = "
            f"{self.num_prototypes + self.buffer_tokens}",
        )


MEM_EVERY = 5
"""Cutie's own `mem_every`."""
TOP_K = 30
"""Cutie's own `top_k`."""


@dataclass(frozen=True)
class TrackerConfig:
    """What one video's tracker remembers, and how it reads it. Source: spec of Cutie's inference options."""

    mem_every: int | None = None
    """A frame enters memory every this many frames. None: the model's own number, `memory_interval`, or else 5."""
    stagger_updates: int = 5
    """The decoder updates sensory memory on this many of the frames between two memory frames."""
    max_mem_frames: int = 5
    """Frames in working memory without long-term memory, the pinned one counted."""
    top_k: int | None = None
    """Memory tokens that each query position reads. None: the model's own number, `tokens_read`, or else 30."""
    chunk_size: int = -1
    """Objects that go through the network together; -1 for all. Bounds memory; changes values by rounding only, about
    1e-6 in float32."""
    max_internal_size: int | None = None
    """Frames whose shorter side is longer than this are shrunk to it for the network, as Cutie does, without smoothing;
    -1 for never. None: to the model's own `frame_size`, if it has one, smoothed first as files are."""
    use_long_term: bool = False
    long_term: LongTermConfig = field(default_factory=LongTermConfig)

    def for_model(self, memory_interval: int | None, tokens_read: int | None) -> "TrackerConfig":
        """The same with what was left to the model filled in; None where it has nothing to say."""
        every, tokens = self.mem_every or memory_interval or MEM_EVERY, self.top_k or tokens_read or TOP_K
        return replace(self, mem_every=every, top_k=tokens)

    def at_given_size(self) -> "TrackerConfig":
        """The same where frames come at the size that is wanted: the model's own no longer counts."""
        return self if self.max_internal_size is not None else replace(self, max_internal_size=-1)

    def __post_init__(self) -> None:
        for name in ("mem_every", "stagger_updates", "top_k"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name}: got {value}, wanted 1 or more")
        require(self.max_mem_frames >= 1, f"max_mem_frames: got {self.max_mem_frames}, wanted 1 or more")
        for name in ("chunk_size", "max_internal_size"):
            value = getattr(self, name)
            require(value in (None, -1) or value >= 1, f"{name}: got {value}, wanted -1 or a positive number")
