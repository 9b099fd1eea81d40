"""Masklets and their classes: how masks are found, and how the classifier of masklets is trained."""

from dataclasses import dataclass, field
from typing import Literal

from cutie_geo.config.loading import require
from cutie_geo.config.training import OptimiserConfig

TASK = "masklet-classifier"
"""What a file of training says that it is about; files of stages say nothing."""
SAM2_ENCODER = "sam2"
"""As an encoder: that of the SAM 2 which finds the masks."""


@dataclass(frozen=True)
class GridOptions:
    """How masks are found. The defaults are those of "Evaluating SAM2 for Video Semantic Segmentation", section 3.1.

    Raises ValueError for numbers that can't work.
    """

    points: int = 16
    """Points on each side of the grid; each is a prompt of its own."""
    predicted_iou: float = 0.6
    """Masks that SAM 2 itself expects to be worse are left out; 0: none is."""
    stability: float = 0.8
    """Masks whose IoU between a higher and a lower threshold is below this are left out; 0: none is."""
    stability_offset: float = 0.9
    """By how much, in logits, those two thresholds lie above and below."""
    batch: int = 64
    """Points that go through the mask decoder together; bounds memory."""

    def __post_init__(self) -> None:
        require(self.points >= 1, f"grid: got {self.points} points a side, wanted 1 or more")
        require(self.batch >= 1, f"points per batch: got {self.batch}, wanted 1 or more")
        for name, value in (("predicted IoU", self.predicted_iou), ("stability", self.stability)):
            require(0 <= value < 1, f"{name}: got {value}, wanted 0 or more, and less than 1")
        require(self.stability_offset > 0, f"stability offset: got {self.stability_offset}, wanted more than 0")


@dataclass(frozen=True)
class MaskletSource:
    """Clips with a class for every pixel."""

    name: Literal["vspw", "vipseg"] = "vspw"
    clips: str = "train.txt"
    """The list of clips: a file, or its name in the data set's root or above it."""


@dataclass(frozen=True)
class MaskletValidation:
    """Scores during training, on the masklets of clips that are not trained on."""

    every: int = 0
    """Steps between two; 0 for never."""
    data: MaskletSource = MaskletSource(clips="val.txt")

    def __post_init__(self) -> None:
        require(self.every >= 0, f"every: got {self.every}, wanted 0 or more steps")


@dataclass(frozen=True)
class ClassifierConfig:
    """Training of the classifier of masklets. What isn't from "Evaluating SAM2 for Video Semantic Segmentation", which
    says no more than that it is a multi-layer perceptron, is decided here."""

    stage: str
    """Its name, in logs and folders."""
    task: Literal["masklet-classifier"] = TASK
    data: MaskletSource = field(default_factory=MaskletSource)
    model: str = "sam2.1-hiera-large"
    """The SAM 2 that finds and follows masks."""
    model_options: tuple[str, ...] = ()
    """Changes of its configuration, model.key=value."""
    encoder: str = SAM2_ENCODER
    """Whose features the masklets have: that SAM 2, or an encoder of `transformers`, a folder or a name on the hub."""
    level: int = -1
    """Which of the encoder's maps: -1 is the last. SAM 2's last, at stride 16, is the one as wide as its decoder."""
    window: int = 32
    """Frames through which masks are followed before they are found anew."""
    scope: Literal["window", "frame"] = "window"
    """What has one feature and one class: a masklet, or each of its masks."""
    grid: GridOptions = field(default_factory=GridOptions)
    chunk_size: int = 16
    """Masklets that go through SAM 2 together: bounds memory."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of SAM 2 and the encoder; the classifier is trained in float32."""
    hidden: tuple[int, ...] | None = None
    """Widths of the classifier's inner layers. None: one, as wide as the features."""
    class_weights: Literal["balanced", "sqrt", "none"] = "balanced"
    """Weight of a class in the loss: one over how many masklets have it, the root of that, or the same for all."""
    epochs: int = 30
    """How often all masklets are seen."""
    batch: int = 256
    """Masklets of one step."""
    seed: int = 14159265
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    validation: MaskletValidation = field(default_factory=MaskletValidation)
    save_every: int = 10000
    """Steps between two checkpoints."""
    keep: int = 3
    """Checkpoints that are kept, the newest."""
    log_every: int = 100

    def __post_init__(self) -> None:
        for name in ("window", "epochs", "batch", "save_every", "keep", "log_every"):
            require(getattr(self, name) >= 1, f"{name}: got {getattr(self, name)}, wanted 1 or more")
        few = self.chunk_size
        require(few == -1 or few >= 1, f"chunk_size: got {few}, wanted -1 or at least 1")
        require(all(width >= 1 for width in self.hidden or ()), f"hidden: got {self.hidden}, wanted 1 or more each")
        require(not self.optimiser.ema, f"optimiser.ema: got {self.optimiser.ema}, wanted 0: no average is kept")
        plain = bool(self.stage) and self.stage.replace("-", "").replace("_", "").isalnum()
        require(plain, f"stage: got {self.stage!r}, wanted letters, digits, - and _")
