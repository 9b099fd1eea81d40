"""Options of SAM 2's automatic mask generator, without importing the network."""

from dataclasses import dataclass

from cutie_geo.config import require


@dataclass(frozen=True)
class GridOptions:
    """Grid of point prompts and filters of the predicted masks.

    Defaults: "Evaluating SAM2 for Video Semantic Segmentation", section 3.1.
    """

    points: int = 16
    """Number of points on each side of the grid; each is a separate prompt."""
    predicted_iou: float = 0.6
    """Minimum predicted IoU of a mask; 0 keeps all masks."""
    stability: float = 0.8
    """Minimum stability score: the IoU of the masks at a higher and a lower threshold; 0 keeps all masks."""
    stability_offset: float = 0.9
    """Distance of these two thresholds from 0, in logits."""
    batch: int = 64
    """Number of points decoded at once; bounds memory."""

    def __post_init__(self) -> None:
        require(self.points >= 1, f"grid: got {self.points} points a side, expected 1 or more")
        require(self.batch >= 1, f"points per batch: got {self.batch}, expected 1 or more")
        for name, value in (("predicted IoU", self.predicted_iou), ("stability", self.stability)):
            require(0 <= value < 1, f"{name}: got {value}, expected 0 or more, and less than 1")
        require(self.stability_offset > 0, f"stability offset: got {self.stability_offset}, expected more than 0")
