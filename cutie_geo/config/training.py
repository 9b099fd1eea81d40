"""Configuration of training: data, clips, losses, optimiser and schedule. Defaults are Cutie's main training."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cutie_geo.config.loading import require
from cutie_geo.config.names import is_name

Range = tuple[float, float]
Jitter = tuple[float, float, float, float]
"""Strengths of brightness, contrast, saturation and hue jitter, as in torchvision's ColorJitter."""


def _share(name: str, value: int | float) -> None:
    require(0 <= value <= 1, f"{name}: got {value}, expected 0 to 1")


def _positive(name: str, value: int | float) -> None:
    require(value > 0, f"{name}: got {value}, expected a positive number")


def _rising(name: str, value: Range) -> None:
    require(0 < value[0] <= value[1], f"{name}: got {value}, expected a rising range")


# -------------------------------------------------------------------------------------------------------------- data
@dataclass(frozen=True)
class SourceConfig:
    """Configuration of one data set of a mixture."""

    name: str
    """`rendered`, `static`, `cutouts`, `backgrounds`, or a fully annotated video data set such as `mose-train`."""
    times: int = 1
    """Number of times each item is in an epoch."""
    root: str = ""
    """Folder of the data set. Empty means the default folder under the run's data root."""
    frame_interval: int = 1
    """Interval between annotated frames of the video, in frames; the largest skip is divided by it."""
    only: tuple[str, ...] = ()
    """Videos or image sets to include. Empty means all."""
    exclude: tuple[str, ...] = ()
    """Videos or image sets to exclude."""
    hold_out: int = 0
    """Number of files of each set of `static` to exclude, the last by name."""
    still: bool = False
    """Use each annotated frame of videos as a static image with synthetic motion."""
    crop_scale: Range | None = None
    """Range of the fraction of a frame's area that a crop covers; None means that of `clips.video`. Rendered frames
    have the size of crops."""
    clips: int = 1000
    """Number of clips per epoch, for `rendered`."""
    scene: tuple[str, ...] = ()
    """key=value overrides of data.render.SceneConfig, for `rendered`; size and length come from the clips."""

    def __post_init__(self) -> None:
        _positive("times", self.times)
        _positive("frame_interval", self.frame_interval)
        _positive("clips", self.clips)
        require(self.hold_out >= 0, f"hold_out: got {self.hold_out}, expected 0 or more files")
        static = self.name == "static"
        require(static or not self.hold_out, f"hold_out: got {self.hold_out} with {self.name}, expected it with static")
        if self.crop_scale is not None:
            _rising("crop_scale", self.crop_scale)


@dataclass(frozen=True)
class VideoAugmentConfig:
    """Augmentation of video clips. Source: Cutie specification, section 8.2.2."""

    kind: Literal["random", "none"] = "random"
    """`none` only resizes frames and crops their centre, the same in every epoch."""
    flip_probability: float = 0.5
    degrees: float = 25.0
    shear: float = 20.0
    """Largest shear along x, in degrees."""
    crop_scale: Range = (0.36, 1.0)
    """Range of the fraction of the frame's area that a crop covers."""
    crop_ratio: Range = (3 / 4, 4 / 3)
    jitter: Jitter = (0.1, 0.03, 0.03, 0.0)
    """Colour jitter with one sample per clip."""
    grey_probability: float = 0.05
    frame_jitter: Jitter = (0.1, 0.05, 0.05, 0.0)
    frame_jitter_varies: bool = False
    """Sample `frame_jitter` for each frame. False samples it once per clip, as Cutie's code does unintentionally."""

    def __post_init__(self) -> None:
        _share("flip_probability", self.flip_probability)
        _share("grey_probability", self.grey_probability)
        _rising("crop_scale", self.crop_scale)
        _rising("crop_ratio", self.crop_ratio)


@dataclass(frozen=True)
class ImageAugmentConfig:
    """Synthetic motion of static images. Source: Cutie specification, section 8.2.1."""

    clip_scale: Range = (0.5, 2.0)
    flip_probability: float = 0.5
    clip_jitter: Jitter = (0.1, 0.05, 0.05, 0.05)
    grey_probability: float = 0.05
    degrees: float = 20.0
    scale: Range = (0.5, 2.0)
    shear: float = 10.0
    """Largest shear along x, in degrees."""
    jitter: Jitter = (0.1, 0.05, 0.05, 0.0)
    warp_probability: float = 0.33
    """Probability of warping a frame by a thin-plate spline."""
    warp_points: int = 12
    warp_strength: float = 0.02
    """Standard deviation of a control point's displacement, as a fraction of the image's sides."""

    def __post_init__(self) -> None:
        for name in ("flip_probability", "grey_probability", "warp_probability"):
            _share(name, getattr(self, name))
        require(self.warp_points >= 3, f"warp_points: got {self.warp_points}, expected at least 3")


@dataclass(frozen=True)
class ClipConfig:
    """Configuration of training clips. Source: Cutie specification, section 8."""

    length: int = 8
    """Number of frames T."""
    crop: int = 480
    """Height and width in pixels."""
    max_objects: int = 3
    max_skip: tuple[tuple[float, int], ...] = ((0.0, 5), (0.1, 10), (0.3, 15), (0.8, 5))
    """Schedule of the largest skip between consecutive frames of a clip: (fraction of the steps, frames) pairs."""
    short_videos: Literal["drop", "bounce"] = "drop"
    """Treatment of videos with fewer frames than a clip: skip them, or play them forwards and backwards."""
    reverse_probability: float = 0.5
    merge_probability: float = 0.5
    """Probability of copy-paste augmentation with the objects of a second clip, up to `max_objects`."""
    twin_probability: float = 0.0
    """Probability that a clip's own objects are pasted into it again, flipped and shifted: with probability 0.5 as
    objects of their own, if `max_objects` allows, else as background.
    """
    camera_probability: float = 0.0
    """Probability of synthetic camera motion (rotation, zoom, pan) through the clip."""
    away_probability: float = 0.0
    """Probability that the synthetic camera looks away for some of the frames."""
    video: VideoAugmentConfig = field(default_factory=VideoAugmentConfig)
    image: ImageAugmentConfig = field(default_factory=ImageAugmentConfig)

    def __post_init__(self) -> None:
        require(self.length >= 2, f"length: got {self.length}, expected at least 2 frames")
        require(
            self.crop >= 32 and self.crop % 16 == 0,
            f"crop: got {self.crop}, expected a multiple of 16 from 32 pixels on",
        )
        require(1 <= self.max_objects <= 254, f"max_objects: got {self.max_objects}, expected 1 to 254")
        _share("reverse_probability", self.reverse_probability)
        for name in ("merge_probability", "twin_probability", "camera_probability", "away_probability"):
            _share(name, getattr(self, name))
        starts = [start for start, _ in self.max_skip]
        good = bool(starts) and starts[0] == 0 and starts == sorted(starts) and all(0 <= start <= 1 for start in starts)
        require(good, f"max_skip: got starts {starts}, expected shares of the steps that rise from 0")
        require(all(skip >= 1 for _, skip in self.max_skip), f"max_skip: got {self.max_skip}, expected skips from 1 on")

    def skip_at(self, progress: float) -> int:
        """Return the largest skip after the fraction `progress` of all steps."""
        return [skip for start, skip in self.max_skip if start <= progress][-1]


# ------------------------------------------------------------------------------------------------------------- learning
@dataclass(frozen=True)
class UnrollConfig:
    """Configuration of the unrolled forward pass over a clip. Source: Cutie specification, section 8.3."""

    reference_frames: int = 3
    """Number of past frames whose memory a frame reads, sampled at random if there are more."""
    deep_update_probability: float = 0.2
    """Probability of the deep update of sensory memory on frames after the first."""
    checkpointing: bool = False
    """Use activation checkpointing for each frame: less memory, more time."""
    encode_at_once: int = 0
    """Number of frames encoded at once; 0 for all."""

    def __post_init__(self) -> None:
        require(self.reference_frames >= 1, f"reference_frames: got {self.reference_frames}, expected 1 or more")
        require(self.encode_at_once >= 0, f"encode_at_once: got {self.encode_at_once}, expected 0 or more")
        _share("deep_update_probability", self.deep_update_probability)


@dataclass(frozen=True)
class LossConfig:
    """Configuration of the losses at sampled points. Source: Cutie specification, section 8.4."""

    points: int = 12544
    """Number of points of a frame in the losses."""
    oversample: float = 3.0
    """Ratio of candidate points, among which the most uncertain are selected, to `points`."""
    importance: float = 0.75
    """Fraction of `points` selected by uncertainty."""
    sensory_weight: float = 0.01
    """Weight of the auxiliary loss of the sensory memory."""
    query_weight: float = 0.01
    """Weight of the auxiliary loss of each of the object transformer's masks."""
    match_weight: float = 0.0
    """Weight of the matching loss of keys, which randomly initialised encoders need; 0 for pre-trained encoders."""
    depth_weight: float = 0.0
    """Weight of the depth loss in clips with known distances (rendered clips); 0 for pre-trained geometry encoders."""

    def __post_init__(self) -> None:
        _positive("points", self.points)
        require(self.oversample >= 1, f"oversample: got {self.oversample}, expected 1 or more")
        _share("importance", self.importance)
        for name in ("match_weight", "depth_weight"):
            require(getattr(self, name) >= 0, f"{name}: got {getattr(self, name)}, expected 0 or more")


@dataclass(frozen=True)
class Sam2Config:
    """Configuration of fine-tuning SAM 2. Source: sam2.1_hiera_b+_MOSE_finetune.yaml of the sam2 package."""

    focal_weight: float = 20.0
    dice_weight: float = 1.0
    iou_weight: float = 1.0
    """Weight of the loss of predicted IoUs."""
    score_weight: float = 1.0
    """Weight of the loss of the object score (presence of the object in the frame)."""
    focal_alpha: float = 0.25
    """Weight of object pixels in the focal loss."""
    focal_gamma: float = 2.0
    """Focusing parameter of the focal loss."""
    layer_decay: float = 0.9
    """Factor of a trunk block's learning rate relative to the next block's; 1 disables the decay."""
    freeze: tuple[str, ...] = ()
    """Name prefixes of frozen weights, such as image_encoder.trunk."""

    def __post_init__(self) -> None:
        for name in ("focal_weight", "dice_weight", "iou_weight", "score_weight", "focal_gamma"):
            require(getattr(self, name) >= 0, f"{name}: got {getattr(self, name)}, expected 0 or more")
        require(self.focal_weight + self.dice_weight > 0, "focal_weight, dice_weight: got 0, expected one above 0")
        _share("focal_alpha", self.focal_alpha)
        require(0 < self.layer_decay <= 1, f"layer_decay: got {self.layer_decay}, expected more than 0 and at most 1")


@dataclass(frozen=True)
class PromptConfig:
    """Configuration of training the prompt head with simulated clicks, boxes and masks. Source: RITM (Sofiiuk et al.,
    2021), and SAM (Kirillov et al., 2023) for boxes and the estimate of quality."""

    per_frame: int = 2
    """Number of prompted objects of each frame."""
    box_probability: float = 0.25
    """Probability of a box as the first prompt."""
    mask_probability: float = 0.15
    """Probability of a damaged true mask to be corrected as the first prompt."""
    union_probability: float = 0.1
    """Probability of all objects of a frame as one."""
    box_jitter: float = 0.08
    """Largest shift of a box's side, as a fraction of the box's size."""
    first_clicks: tuple[float, ...] = (0.7, 0.2, 0.1)
    """Probabilities of 1, 2, ... first clicks."""
    middle_probability: float = 0.5
    """Probability that a positive first click lies in the middle of the object."""
    rounds: tuple[float, ...] = (0.5, 0.3, 0.2)
    """Probabilities of 0, 1, ... rounds of predicting without gradients and clicking on the largest error."""
    dice_weight: float = 1.0
    quality_weight: float = 0.3
    """Weight of the loss of estimated IoUs."""
    focal_gamma: float = 0.0
    """Focusing parameter of the normalised focal loss, RITM's 2; 0 for cross-entropy, which learns faster in few steps.
    """

    def __post_init__(self) -> None:
        _positive("per_frame", self.per_frame)
        for name in ("box_probability", "mask_probability", "union_probability", "box_jitter", "middle_probability"):
            _share(name, getattr(self, name))
        share = self.box_probability + self.mask_probability
        require(share <= 1, f"box_probability, mask_probability: got a sum of {share:g}, expected at most 1")
        for name in ("first_clicks", "rounds"):
            shares = getattr(self, name)
            good = bool(shares) and min(shares) >= 0 and sum(shares) > 0
            require(good, f"{name}: got {shares}, expected probabilities")
        for name in ("dice_weight", "quality_weight", "focal_gamma"):
            require(getattr(self, name) >= 0, f"{name}: got {getattr(self, name)}, expected 0 or more")


@dataclass(frozen=True)
class OptimiserConfig:
    """Configuration of AdamW and its learning rate schedule. Source: Cutie specification, section 8.1."""

    learning_rate: float = 1e-4
    schedule: Literal["steps", "cosine"] = "steps"
    """Schedule: `steps` divides the learning rate by `factor` at each of `drops`, `cosine` anneals it to `floor`."""
    floor: float | None = None
    """Final learning rate of the cosine schedule, as a fraction of the initial one. None means 0."""
    drops: tuple[float, ...] = (0.8, 0.92)
    """Fractions of the steps at which the learning rate drops."""
    factor: float = 10.0
    warm_up: int = 0
    """Number of steps of linear warm-up of the learning rate."""
    weight_decay: float = 1e-3
    encoder_factor: float = 0.1
    """Factor of the learning rate of trained pixel encoders; it does not apply to their fusion."""
    encoder_from: float = 0.0
    """Fraction of the steps from which pixel encoders are trained; before it they are frozen."""
    epsilon: float | None = None
    """Epsilon of AdamW. None means 1e-6 in half precision, else 1e-8."""
    clip_norm: float = 3.0
    """Maximum gradient norm; larger gradients are clipped."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which checkpoints then contain; 0 disables it."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "factor", "clip_norm"):
            _positive(name, getattr(self, name))
        require(self.weight_decay >= 0, f"weight_decay: got {self.weight_decay}, expected 0 or more")
        require(self.encoder_factor >= 0, f"encoder_factor: got {self.encoder_factor}, expected 0 or more")
        _share("encoder_from", self.encoder_from)
        require(self.warm_up >= 0, f"warm_up: got {self.warm_up}, expected 0 or more steps")
        _share("floor", self.floor or 0.0)
        require(0 <= self.ema < 1, f"ema: got {self.ema}, expected 0 or more and less than 1")
        require(
            all(0 < share <= 1 for share in self.drops) and list(self.drops) == sorted(self.drops),
            f"drops: got {self.drops}, expected rising shares of the steps",
        )


@dataclass(frozen=True)
class ValidationConfig:
    """Configuration of validation during training, on a held-out set."""

    every: int = 0
    """Number of steps between validations; 0 disables validation."""
    data: tuple[SourceConfig, ...] = ()
    """Fully annotated videos, or `rendered` clips with seeds that training never uses."""
    size: int = 480
    """Shorter side to which larger frames are resized, and both sides of rendered frames, in pixels."""
    length: int = 24
    """Number of frames of a rendered clip."""
    max_frames: int = 0
    """Number of frames of a video that are segmented, from its first mask on; 0 for all."""
    keep_best: bool = False
    """Score the initial weights too, and end with the best weights of all validations instead of the last ones."""
    patience: int = 0
    """With `keep_best`: stop after this many validations without a better score; 0 never stops."""

    def __post_init__(self) -> None:
        require(self.every >= 0, f"every: got {self.every}, expected 0 or more steps")
        require(self.max_frames >= 0, f"max_frames: got {self.max_frames}, expected 0 or more")
        require(self.patience >= 0, f"patience: got {self.patience}, expected 0 or more validations")
        require(
            bool(self.every) or not self.keep_best, "keep_best: expected every=N with it, the steps between validations"
        )
        require(self.keep_best or not self.patience, "patience: expected keep_best=true with it")
        require(not self.every or bool(self.data), "data: got none, expected at least one data set")
        require(self.size >= 32, f"size: got {self.size}, expected at least 32 pixels")
        require(self.length >= 3, f"length: got {self.length}, expected at least 3 frames")


RENAMED = {"pictures_every": "images_every"}
"""Settings of stages that files and checkpoints of earlier versions have under another name."""


def with_current_names(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a stage with today's names."""
    return {RENAMED.get(name, name): value for name, value in content.items()}


@dataclass(frozen=True)
class TrainConfig:
    """Configuration of one training stage."""

    stage: str
    """Name of the stage, for logs and folders."""
    model: str
    """Name of a model preset or of a SAM 2 model."""
    data: tuple[SourceConfig, ...]
    steps: int = 0
    epochs: float | None = None
    """Number of epochs, instead of `steps`."""
    model_options: tuple[str, ...] = ()
    """key=value overrides of the model preset."""
    after: str = ""
    """Name of the stage whose weights initialise this one."""
    start: Literal["encoders", "published", "none"] = "encoders"
    """Initial weights without an earlier stage: published encoders with random other weights, the model's published
    weights, or random weights."""
    batch: int = 16
    """Number of clips per step, over all processes."""
    accumulate: int = 1
    """Gradient accumulation steps per optimiser step."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp16"
    """Precision of training; `auto` means bf16 on devices that support it, else fp32."""
    seed: int = 14159265
    clips: ClipConfig = field(default_factory=ClipConfig)
    unroll: UnrollConfig = field(default_factory=UnrollConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    sam2: Sam2Config | None = None
    """SAM 2 loss settings, used instead of `loss` for SAM 2 models. None uses the published defaults."""
    prompts: PromptConfig | None = None
    """Train the prompt head only, with these prompts. None trains the tracker."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    save_every: int = 10000
    """Number of steps between checkpoints."""
    keep: int = 3
    """Number of newest checkpoints to keep."""
    log_every: int = 100
    images_every: int = 1500
    """Number of steps between figures of predictions in the log; 0 disables them."""
    max_bad_steps: int = 50
    """Stop training after more than this many steps with a non-finite loss."""
    max_bad_files: int = 100
    """Stop training after more than this many unreadable files."""

    def __post_init__(self) -> None:
        if self.epochs is None:
            _positive("steps", self.steps)
        else:
            _positive("epochs", self.epochs)
            require(self.steps == 0, f"steps, epochs: got {self.steps} and {self.epochs:g}, expected one of them")
        for name in ("batch", "accumulate", "save_every", "keep", "log_every"):
            _positive(name, getattr(self, name))
        for name in ("images_every", "max_bad_steps", "max_bad_files"):
            require(getattr(self, name) >= 0, f"{name}: got {getattr(self, name)}, expected 0 or more")
        require(bool(self.data), "data: got none, expected at least one data set")
        plain = bool(self.stage) and self.stage.replace("-", "").replace("_", "").isalnum()
        require(plain, f"stage: got {self.stage!r}, expected letters, digits, - and _")
        require(not self.after or is_name(self.after), f"after: got {self.after!r}, expected the name of a stage")

    def with_steps(self, items: int) -> "TrainConfig":
        """Convert epochs to steps for `items` clips per epoch; an incomplete last batch is dropped."""
        if self.epochs is None:
            return self
        steps = round(self.epochs * (items // self.batch))
        require(
            steps > 0,
            f"epochs: got {self.epochs:g} of {items} clips with a batch of {self.batch}, which is less than one step",
        )
        return replace(self, steps=steps, epochs=None)
