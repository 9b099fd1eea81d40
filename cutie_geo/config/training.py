"""Training: which clips, seen how, with which losses, for how long. Defaults are those of Cutie's main training."""

from dataclasses import dataclass, field, replace
from typing import Literal

from cutie_geo.config.loading import require

Range = tuple[float, float]
Jitter = tuple[float, float, float, float]
"""Strengths of brightness, contrast, saturation and hue, as torchvision's ColorJitter takes them."""


def _share(name: str, value: int | float) -> None:
    require(0 <= value <= 1, f"{name}: got {value}, wanted 0 to 1")


def _positive(name: str, value: int | float) -> None:
    require(value > 0, f"{name}: got {value}, wanted a positive number")


def _rising(name: str, value: Range) -> None:
    require(0 < value[0] <= value[1], f"{name}: got {value}, wanted a rising range")


# -------------------------------------------------------------------------------------------------------------- data
@dataclass(frozen=True)
class SourceConfig:
    """One data set of a mixture."""

    name: str
    """`rendered`, `static`, `cutouts`, `backgrounds` for these, or a data set with all of its masks (mose-train)."""
    times: int = 1
    """How often one epoch lists each of its items."""
    root: str = ""
    """Where its files are. Empty: under the run's data root."""
    frame_interval: int = 1
    """Frames of the video between two that have masks; the largest skip is divided by it."""
    only: tuple[str, ...] = ()
    """Take these videos or sets of images. Empty: all."""
    exclude: tuple[str, ...] = ()
    """Leave these out."""
    still: bool = False
    """Of videos: take each frame that has a mask as a still image."""
    crop_scale: Range | None = None
    """Share of a frame's area that a crop covers, where it isn't that of `clips.video`. Rendered frames are as large as
    crops."""
    clips: int = 1000
    """Of `rendered`: clips that one epoch lists."""
    scene: tuple[str, ...] = ()
    """Of `rendered`: key=value for fields of data.render.SceneConfig; size and length come from the clips."""

    def __post_init__(self) -> None:
        _positive("times", self.times)
        _positive("frame_interval", self.frame_interval)
        _positive("clips", self.clips)
        if self.crop_scale is not None:
            _rising("crop_scale", self.crop_scale)


@dataclass(frozen=True)
class VideoAugmentConfig:
    """How clips of videos are varied. Source: Cutie specification, section 8.2.2."""

    kind: Literal["random", "none"] = "random"
    """none: frames are only shrunk and cut to their middle, the same in every epoch."""
    flip_probability: float = 0.5
    degrees: float = 25.0
    shear: float = 20.0
    """Degrees, along x only."""
    crop_scale: Range = (0.36, 1.0)
    """Share of the frame's area that a crop covers."""
    crop_ratio: Range = (3 / 4, 4 / 3)
    jitter: Jitter = (0.1, 0.03, 0.03, 0.0)
    """Of the clip as a whole."""
    grey_probability: float = 0.05
    frame_jitter: Jitter = (0.1, 0.05, 0.05, 0.0)
    frame_jitter_varies: bool = False
    """Draw the last jitter anew for each frame. Cutie meant to and draws it once for the clip, as is done here."""

    def __post_init__(self) -> None:
        _share("flip_probability", self.flip_probability)
        _share("grey_probability", self.grey_probability)
        _rising("crop_scale", self.crop_scale)
        _rising("crop_ratio", self.crop_ratio)


@dataclass(frozen=True)
class ImageAugmentConfig:
    """How still images become clips. Source: Cutie specification, section 8.2.1."""

    clip_scale: Range = (0.5, 2.0)
    flip_probability: float = 0.5
    clip_jitter: Jitter = (0.1, 0.05, 0.05, 0.05)
    grey_probability: float = 0.05
    degrees: float = 20.0
    scale: Range = (0.5, 2.0)
    shear: float = 10.0
    """Degrees, along x only."""
    jitter: Jitter = (0.1, 0.05, 0.05, 0.0)
    warp_probability: float = 0.33
    """Chance that a frame is bent by a thin-plate spline."""
    warp_points: int = 12
    warp_strength: float = 0.02
    """Standard deviation of a control point's movement, as a share of the image's sides."""

    def __post_init__(self) -> None:
        for name in ("flip_probability", "grey_probability", "warp_probability"):
            _share(name, getattr(self, name))
        require(self.warp_points >= 3, f"warp_points: got {self.warp_points}, wanted at least 3")


@dataclass(frozen=True)
class ClipConfig:
    """What one training sample is. Source: Cutie specification, section 8."""

    length: int = 8
    """Frames T."""
    crop: int = 480
    """Height and width in pixels."""
    max_objects: int = 3
    max_skip: tuple[tuple[float, int], ...] = ((0.0, 5), (0.1, 10), (0.3, 15), (0.8, 5))
    """From which share of the steps on, how far apart in frames of the video two neighbours of a clip may be."""
    short_videos: Literal["drop", "bounce"] = "drop"
    """Videos with fewer frames than a clip: leave them out, or walk them forth and back."""
    reverse_probability: float = 0.5
    merge_probability: float = 0.5
    """Chance that the objects of a second clip are pasted into one that has room for more."""
    video: VideoAugmentConfig = field(default_factory=VideoAugmentConfig)
    image: ImageAugmentConfig = field(default_factory=ImageAugmentConfig)

    def __post_init__(self) -> None:
        require(self.length >= 2, f"length: got {self.length}, wanted at least 2 frames")
        require(
            self.crop >= 32 and self.crop % 16 == 0, f"crop: got {self.crop}, wanted a multiple of 16 from 32 pixels on"
        )
        require(1 <= self.max_objects <= 254, f"max_objects: got {self.max_objects}, wanted 1 to 254")
        _share("reverse_probability", self.reverse_probability)
        _share("merge_probability", self.merge_probability)
        starts = [start for start, _ in self.max_skip]
        good = bool(starts) and starts[0] == 0 and starts == sorted(starts) and all(0 <= start <= 1 for start in starts)
        require(good, f"max_skip: got starts {starts}, wanted shares of the steps that rise from 0")
        require(all(skip >= 1 for _, skip in self.max_skip), f"max_skip: got {self.max_skip}, wanted skips from 1 on")

    def skip_at(self, progress: float) -> int:
        """The largest skip when the share `progress` of all steps is done."""
        return [skip for start, skip in self.max_skip if start <= progress][-1]


# ------------------------------------------------------------------------------------------------------------- learning
@dataclass(frozen=True)
class UnrollConfig:
    """How a clip goes through the network. Source: Cutie specification, section 8.3."""

    reference_frames: int = 3
    """Past frames whose memory a frame reads; drawn at random where there are more."""
    deep_update_probability: float = 0.2
    """Chance that memorising a frame other than the first updates sensory memory."""
    checkpointing: bool = False
    """Compute each frame again for its gradients instead of keeping what it computed: less memory, more time."""
    encode_at_once: int = 0
    """Frames that go through frozen encoders together; 0 for all."""

    def __post_init__(self) -> None:
        require(self.reference_frames >= 1, f"reference_frames: got {self.reference_frames}, wanted 1 or more")
        require(self.encode_at_once >= 0, f"encode_at_once: got {self.encode_at_once}, wanted 0 or more")
        _share("deep_update_probability", self.deep_update_probability)


@dataclass(frozen=True)
class LossConfig:
    """Cross-entropy and dice at sampled points. Source: Cutie specification, section 8.4."""

    points: int = 12544
    """Points of a frame that count."""
    oversample: float = 3.0
    """How many times `points` are drawn for the most uncertain to be chosen among them."""
    importance: float = 0.75
    """Share of `points` that are chosen for their uncertainty."""
    sensory_weight: float = 0.01
    """Weight of the auxiliary loss of the sensory memory."""
    query_weight: float = 0.01
    """Weight of the auxiliary loss of each of the object transformer's masks."""
    match_weight: float = 0.0
    """Weight of the loss of the keys by themselves, without which an encoder that starts at random hardly learns to
    find anything again; 0 for an encoder that knows how to see."""
    depth_weight: float = 0.0
    """Weight of the loss of the geometry encoder's depth in clips whose distances are known, which are rendered ones;
    0 for an encoder that knows depth already."""

    def __post_init__(self) -> None:
        _positive("points", self.points)
        require(self.oversample >= 1, f"oversample: got {self.oversample}, wanted 1 or more")
        _share("importance", self.importance)
        for name in ("match_weight", "depth_weight"):
            require(getattr(self, name) >= 0, f"{name}: got {getattr(self, name)}, wanted 0 or more")


@dataclass(frozen=True)
class Sam2Config:
    """What only SAM 2 has when it is fine-tuned. Source: the configuration that its authors published for that,
    sam2.1_hiera_b+_MOSE_finetune.yaml of the package."""

    focal_weight: float = 20.0
    dice_weight: float = 1.0
    iou_weight: float = 1.0
    """Weight of the loss of the IoUs that it predicts for its own masks."""
    score_weight: float = 1.0
    """Weight of the loss of its score for an object being in the frame at all."""
    focal_alpha: float = 0.25
    """Share that pixels of the object have in the focal loss."""
    focal_gamma: float = 2.0
    """How much less a pixel counts that is right already."""
    layer_decay: float = 0.9
    """Each block of the trunk learns this much more slowly than the one behind it; 1: all alike."""
    freeze: tuple[str, ...] = ()
    """Starts of the names of weights that stay as they are, such as image_encoder.trunk."""

    def __post_init__(self) -> None:
        for name in ("focal_weight", "dice_weight", "iou_weight", "score_weight", "focal_gamma"):
            require(getattr(self, name) >= 0, f"{name}: got {getattr(self, name)}, wanted 0 or more")
        require(self.focal_weight + self.dice_weight > 0, "focal_weight, dice_weight: got 0, wanted one above 0")
        _share("focal_alpha", self.focal_alpha)
        require(0 < self.layer_decay <= 1, f"layer_decay: got {self.layer_decay}, wanted more than 0 and at most 1")


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW, and how its learning rate changes. Source: Cutie specification, section 8.1."""

    learning_rate: float = 1e-4
    schedule: Literal["steps", "cosine"] = "steps"
    """steps: divided by `factor` at each of `drops`; cosine: down to `floor` at the last step."""
    floor: float | None = None
    """Where a cosine ends, as a share of where it starts. None: 0."""
    drops: tuple[float, ...] = (0.8, 0.92)
    """Shares of the steps at which the rate drops."""
    factor: float = 10.0
    warm_up: int = 0
    """Steps in which the rate rises from 0."""
    weight_decay: float = 1e-3
    encoder_factor: float = 0.1
    """The pixel encoder's learning rate, where it is trained, is that of the rest times this; fusion counts as rest."""
    epsilon: float | None = None
    """Of AdamW. None: 1e-6 in half precision, else 1e-8."""
    clip_norm: float = 3.0
    """Gradients longer than this are shortened to it."""
    ema: float = 0.0
    """Decay of a moving average of the weights, which is then what checkpoints offer; 0 for none."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "factor", "clip_norm"):
            _positive(name, getattr(self, name))
        require(self.weight_decay >= 0, f"weight_decay: got {self.weight_decay}, wanted 0 or more")
        require(self.encoder_factor >= 0, f"encoder_factor: got {self.encoder_factor}, wanted 0 or more")
        require(self.warm_up >= 0, f"warm_up: got {self.warm_up}, wanted 0 or more steps")
        _share("floor", self.floor or 0.0)
        require(0 <= self.ema < 1, f"ema: got {self.ema}, wanted 0 or more and less than 1")
        require(
            all(0 < share <= 1 for share in self.drops) and list(self.drops) == sorted(self.drops),
            f"drops: got {self.drops}, wanted rising shares of the steps",
        )


@dataclass(frozen=True)
class ValidationConfig:
    """Scores during training, on videos that are not trained on."""

    every: int = 0
    """Steps between two; 0 for never."""
    data: tuple[SourceConfig, ...] = ()
    """Videos with all masks, or `rendered`, whose first clips are drawn from seeds that training never uses."""
    size: int = 480
    """Shorter side that larger frames are shrunk to, and both sides of rendered ones, in pixels."""
    length: int = 24
    """Frames of a rendered clip."""

    def __post_init__(self) -> None:
        require(self.every >= 0, f"every: got {self.every}, wanted 0 or more steps")
        require(not self.every or bool(self.data), "data: got none, wanted something to validate on")
        require(self.size >= 32, f"size: got {self.size}, wanted at least 32 pixels")
        require(self.length >= 3, f"length: got {self.length}, wanted at least 3 frames")


@dataclass(frozen=True)
class TrainConfig:
    """One stage of training."""

    stage: str
    """Its name, in logs and folders."""
    model: str
    """A preset of the model, or a SAM 2."""
    data: tuple[SourceConfig, ...]
    steps: int = 0
    epochs: float | None = None
    """In place of steps: how often all of the data is seen."""
    model_options: tuple[str, ...] = ()
    """key=value for the model, laid over the preset."""
    after: str = ""
    """The stage whose weights it starts from."""
    start: Literal["encoders", "published", "none"] = "encoders"
    """Where no stage comes before: published encoders and all else at random, the model's own published weights, or
    nothing but random numbers."""
    batch: int = 16
    """Clips of one step, over all processes."""
    accumulate: int = 1
    """Parts in which a process takes its share of the batch, one after the other."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp16"
    """auto: bf16 on devices that have it, else fp32."""
    seed: int = 14159265
    clips: ClipConfig = field(default_factory=ClipConfig)
    unroll: UnrollConfig = field(default_factory=UnrollConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    sam2: Sam2Config | None = None
    """For a SAM 2, in place of `loss`. None: as it comes."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    save_every: int = 10000
    """Steps between two checkpoints."""
    keep: int = 3
    """Checkpoints that are kept, the newest."""
    log_every: int = 100
    pictures_every: int = 1500
    """Steps between two pictures of predictions in the log; 0 for none."""
    max_bad_steps: int = 50
    """Steps skipped for losses that are no number after which training stops."""
    max_bad_files: int = 100
    """Files that can't be read after which training stops."""

    def __post_init__(self) -> None:
        if self.epochs is None:
            _positive("steps", self.steps)
        else:
            _positive("epochs", self.epochs)
            require(self.steps == 0, f"steps, epochs: got {self.steps} and {self.epochs:g}, wanted one of them")
        for name in ("batch", "accumulate", "save_every", "keep", "log_every"):
            _positive(name, getattr(self, name))
        for name in ("pictures_every", "max_bad_steps", "max_bad_files"):
            require(getattr(self, name) >= 0, f"{name}: got {getattr(self, name)}, wanted 0 or more")
        require(bool(self.data), "data: got none, wanted at least one data set")
        plain = bool(self.stage) and self.stage.replace("-", "").replace("_", "").isalnum()
        require(plain, f"stage: got {self.stage!r}, wanted letters, digits, - and _")

    def with_steps(self, items: int) -> "TrainConfig":
        """The same with its epochs as steps, for `items` clips an epoch; what doesn't fill a batch is left out."""
        if self.epochs is None:
            return self
        steps = round(self.epochs * (items // self.batch))
        require(
            steps > 0, f"epochs: got {self.epochs:g} of {items} clips with a batch of {self.batch}, which is no step"
        )
        return replace(self, steps=steps, epochs=None)
