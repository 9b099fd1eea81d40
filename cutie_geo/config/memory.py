"""Configuration of long-term memory."""

from dataclasses import dataclass

from cutie_geo.config.loading import require


@dataclass(frozen=True)
class LongTermConfig:
    """Configuration of long-term memory; defaults are Cutie's."""

    max_mem_frames: int = 10
    """Number of frames in working memory at which it is consolidated, including one frame of permanent memory."""
    min_mem_frames: int = 5
    """Number of frames in working memory after a consolidation, including one frame of permanent memory."""
    num_prototypes: int = 128
    """Number of tokens added by one consolidation."""
    max_num_tokens: int = 10000
    """Maximum number of long-term tokens of each group of objects that share tokens."""
    buffer_tokens: int = 2000
    """Number of tokens removed beyond the need when the least used ones are dropped."""
    count_usage: bool = True
    """Rank long-term tokens by usage; otherwise the oldest are dropped first."""

    def __post_init__(self) -> None:
        # with one frame left, the frame just written would be ranked by a usage of zero, since it was never read
        require(self.min_mem_frames >= 2, f"long_term.min_mem_frames: got {self.min_mem_frames}, expected at least 2")
        require(
            self.max_mem_frames > self.min_mem_frames,
            f"long_term.max_mem_frames: got {self.max_mem_frames}, "
            f"expected more than min_mem_frames={self.min_mem_frames}",
        )
        require(
            self.num_prototypes > 0, f"long_term.num_prototypes: got {self.num_prototypes}, expected a positive number"
        )
        require(self.buffer_tokens >= 0, f"long_term.buffer_tokens: got {self.buffer_tokens}, expected 0 or more")
        require(
            self.max_num_tokens >= self.num_prototypes + self.buffer_tokens,
            f"long_term.max_num_tokens: got {self.max_num_tokens}, expected at least num_prototypes + buffer_tokens = "
            f"{self.num_prototypes + self.buffer_tokens}",
        )
