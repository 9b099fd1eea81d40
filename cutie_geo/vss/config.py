"""Options of semantic segmentation and of its training. Importing them loads no network."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cutie_geo.config import (
    OptimiserConfig,
    build,
    is_hydra,
    merge,
    parse_overrides,
    require,
    require_plain,
    stage_settings,
)
from cutie_geo.config.choices import SAM2_MODELS
from cutie_geo.config.presets import take_model_options
from cutie_geo.limits import require_threads
from cutie_geo.sam2.grid import GridOptions

TASK = "masklet-classifier"
"""Value of `task` in the training files of classifiers."""
SAM2_ENCODER = "sam2"
"""Name of an encoder: the image encoder of the SAM 2 that finds the masks."""
SAME = "sam2"
"""Name of a propagator: the SAM 2 that finds the masks."""
WINDOW, CHUNK_SIZE = 32, 16

Scope = Literal["window", "frame"]
"""Frames that share one class for each masklet."""
Order = Literal["size", "score"]
"""Order of painting: smaller masklets last, or those with a higher predicted IoU last."""


# ------------------------------------------------------------------------------------------------------ segmentation
@dataclass(frozen=True)
class RefineOptions:
    """How each video is processed. Raises ValueError for invalid numbers."""

    window: int = WINDOW
    """Number of frames through which masks are propagated before new ones are found."""
    scope: Scope = "window"
    order: Order = "size"
    workers: int = 2
    """Number of threads that read frames, and as many that write maps."""
    overwrite: bool = False
    """Process complete videos again, and those made with other settings."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Everything else that the maps depend on, such as models and thresholds."""

    def __post_init__(self) -> None:
        require(self.window >= 1, f"window: got {self.window}, expected 1 frame or more")
        require(self.workers >= 1, f"workers: got {self.workers}, expected 1 or more")

    def fingerprint(self) -> dict[str, Any]:
        """Return all that the maps depend on, except the video, as it reads after a round trip through JSON."""
        own = {"window": self.window, "scope": self.scope, "order": self.order}
        return json.loads(json.dumps({**self.settings, **own}))


@dataclass(frozen=True)
class VideoSelection:
    """Videos to process: a path, or a split of VSPW. Raises ValueError for both or neither."""

    video: Path | None = None
    """A video file, a folder of frames, a folder of such, or VSPW's root."""
    dataset: str | None = None
    """A split of VSPW."""
    data_root: Path | None = None
    sequences: Path | None = None
    """A file that lists clips. None: VSPW's val.txt, or all videos."""
    names: tuple[str, ...] | None = None
    """Process only these videos."""

    def __post_init__(self) -> None:
        require((self.video is None) != (self.dataset is None), "--video and --dataset: expected one of them")
        together = (self.dataset is None) == (self.data_root is None)
        require(together, "--dataset and --data-root: expected both or none")
        listed = self.dataset is None or self.sequences is None
        require(listed, "--sequences: expected --video with it; --dataset has a list of its own")


@dataclass(frozen=True)
class MaskletModels:
    """Networks that find masks and propagate them. Raises ValueError for invalid combinations."""

    model: str = "sam2.1-hiera-large"
    """The SAM 2 that finds the masks."""
    weights: str = "auto"
    propagator: str = SAME
    """Network that propagates the masks: `sam2` for the same one, or any model of `infer`."""
    propagator_weights: str = "auto"
    size: int | None = None
    """Shorter side, in pixels, to which frames are shrunk for a Cutie propagator; -1: never. None: the model's."""
    chunk_size: int = CHUNK_SIZE
    """Masklets propagated at once; -1 for all. Bounds memory."""
    device: str = "auto"
    precision: str = "auto"
    overrides: tuple[str, ...] = ()
    """`key=value` items: `model.` of SAM 2, others of the propagator."""

    def __post_init__(self) -> None:
        require(self.model in SAM2_MODELS, f"--model: got {self.model}, expected one of {', '.join(SAM2_MODELS)}")
        same = self.propagator == SAME
        own = not same or self.propagator_weights == "auto"
        require(own, "--propagator-weights: expected another --propagator with it")
        cutie = not same and self.propagator not in SAM2_MODELS
        require(cutie or self.size is None, "--size: expected a Cutie --propagator; SAM 2 has its own square")
        others = " ".join(self.propagator_overrides)
        require(cutie or not others, f"{others}: expected model.key=value, or a Cutie --propagator")
        count = self.chunk_size
        require(count == -1 or count >= 1, f"--chunk-size: got {count}, expected -1 or at least 1")
        side = self.size
        require(side in (None, -1) or side >= 16, f"--size: got {side}, expected -1 or at least 16 pixels")

    @property
    def sam2_overrides(self) -> list[str]:
        """Items that change SAM 2's configuration."""
        return [item for item in self.overrides if is_hydra(item)]

    @property
    def propagator_overrides(self) -> list[str]:
        """Items that change a Cutie propagator and its tracker."""
        return [item for item in self.overrides if not is_hydra(item)]


@dataclass(frozen=True)
class SemanticRun:
    """One call of `refine` or, with a classifier, of `segment`. Raises ValueError for invalid combinations."""

    videos: VideoSelection
    output: Path
    models: MaskletModels = field(default_factory=MaskletModels)
    grid: GridOptions = field(default_factory=GridOptions)
    options: RefineOptions = field(default_factory=RefineOptions)
    base: Path | None = None
    """Base predictions: `<video>/<frame>.png`, or panoptic results."""
    segformer: str | None = None
    """A SegFormer that computes the base predictions: a folder, or a name on the hub."""
    classifier: Path | None = None
    """Folder of a masklet classifier. None: the base predictions vote."""
    encoder: str | None = None
    """Encoder of the classifier's features. None: the one it was trained with."""
    cpu_threads: int | None = None
    command: tuple[str, ...] = ()
    """Command line, for run.json."""

    def __post_init__(self) -> None:
        count = (self.base is not None) + (self.segformer is not None)
        if self.classifier is None:
            require(count == 1, "--semantic and --segformer: expected one of them, for the base predictions")
        require(count <= 1, "--base and --segformer: expected one of them, or none")
        require_threads(self.cpu_threads)


# -------------------------------------------------------------------------------------------------------- evaluation
@dataclass(frozen=True)
class EvaluateOptions:
    """One call of `evaluate` with a protocol of semantic maps. Raises ValueError for invalid combinations."""

    protocol: Literal["vspw", "vipseg"]
    truth: Path
    predictions: Path
    base: Path | None = None
    """Predictions before refinement: scored too, with the gain."""
    sequences: Path | None = None
    """A file that lists the clips. None: the data set's."""
    consistency: tuple[int, ...] = ()
    """Further window lengths n of mVC_n, beside 8 and 16."""
    allow_void: bool = False
    """Accept pixels without a label in predictions, and count them as wrong."""
    lenient: bool = False
    """Score missing, odd-sized and unknown predictions instead of raising."""
    workers: int | None = None
    """Number of processes. None: one for each core, or one for few clips."""
    plots: Path | None = None
    """Folder of the plots."""
    pictures: int | None = None
    """Maximum number of frames that are drawn into it."""

    def __post_init__(self) -> None:
        for name, root in (("--gt", self.truth), ("--pred", self.predictions), ("--base", self.base)):
            require(root is None or root.is_dir(), f"{name} {root}: no such folder")
        few = self.pictures
        require(few is None or few >= 1, f"--pictures: got {few}, expected 1 or more")
        require(few is None or self.plots is not None, "--pictures: expected --plots DIR with it")
        odd = [n for n in self.consistency if not 1 <= n <= 2**15]
        require(not odd, f"--vc: got {odd}, expected window lengths from 1 on")


# ---------------------------------------------------------------------------------------------------------- training
@dataclass(frozen=True)
class MaskletSource:
    """Clips with a class for every pixel."""

    name: Literal["vspw", "vipseg"] = "vspw"
    clips: str = "train.txt"
    """File that lists the clips: a path, or its name in the data set's root or above it."""


@dataclass(frozen=True)
class MaskletValidation:
    """Scores on the masklets of held-out clips during training."""

    every: int = 0
    """Steps between two validations; 0 for never."""
    data: MaskletSource = MaskletSource(clips="val.txt")

    def __post_init__(self) -> None:
        require(self.every >= 0, f"every: got {self.every}, expected 0 or more steps")


@dataclass(frozen=True)
class ClassifierConfig:
    """Training of a masklet classifier.

    Defaults are those of "Evaluating SAM2 for Video Semantic Segmentation" where it states them. It says no more about
    the classifier than that it is a multi-layer perceptron; the other defaults are this project's.
    """

    stage: str
    """Name of the training, in logs and folders."""
    task: Literal["masklet-classifier"] = TASK
    data: MaskletSource = field(default_factory=MaskletSource)
    model: str = "sam2.1-hiera-large"
    """The SAM 2 that finds and propagates masks."""
    model_options: tuple[str, ...] = ()
    """Changes of its configuration, model.key=value."""
    encoder: str = SAM2_ENCODER
    """Encoder of the masklets' features: `sam2`, or an encoder of `transformers`, a folder or a name on the hub."""
    level: int = -1
    """Feature map of the encoder; -1 is the last. SAM 2's last, at stride 16, is the one as wide as its decoder."""
    window: int = WINDOW
    """Number of frames through which masks are propagated before new ones are found."""
    scope: Scope = "window"
    """One feature and one class for a masklet, or for its mask on each frame."""
    grid: GridOptions = field(default_factory=GridOptions)
    chunk_size: int = CHUNK_SIZE
    """Masklets propagated at once; bounds memory."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of SAM 2 and the encoder. The classifier is trained in float32."""
    hidden: tuple[int, ...] | None = None
    """Widths of the hidden layers. None: one, as wide as the features."""
    class_weights: Literal["balanced", "sqrt", "none"] = "balanced"
    """Weight of a class in the loss: one over its number of masklets, the square root of that, or equal weights."""
    epochs: int = 30
    batch: int = 256
    """Masklets of one step."""
    seed: int = 14159265
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    validation: MaskletValidation = field(default_factory=MaskletValidation)
    save_every: int = 10000
    """Steps between two checkpoints."""
    keep: int = 3
    """Number of checkpoints that are kept, the newest."""
    log_every: int = 100

    def __post_init__(self) -> None:
        for name in ("window", "epochs", "batch", "save_every", "keep", "log_every"):
            require(getattr(self, name) >= 1, f"{name}: got {getattr(self, name)}, expected 1 or more")
        count = self.chunk_size
        require(count == -1 or count >= 1, f"chunk_size: got {count}, expected -1 or at least 1")
        require(all(width >= 1 for width in self.hidden or ()), f"hidden: got {self.hidden}, expected 1 or more each")
        average = self.optimiser.ema
        require(not average, f"optimiser.ema: got {average}, expected 0; classifiers keep no moving average")
        plain = bool(self.stage) and self.stage.replace("-", "").replace("_", "").isalnum()
        require(plain, f"stage: got {self.stage!r}, expected letters, digits, - and _")


def is_classifier(name: str) -> bool:
    """Return True if a training file describes a masklet classifier. Raises ValueError if it cannot be read."""
    return stage_settings(name).get("task") == TASK


def classifier_config(
    name: str, overrides: Iterable[str] = (), changes: Mapping[str, Any] | None = None
) -> ClassifierConfig:
    """Load the configuration of a classifier's training.

    Args:
        name: path of the YAML file.
        overrides: `key=value` items; those of SAM 2, `model.key=value`, go to `model_options`.
        changes: settings that replace the file's before the overrides.

    Raises:
        ValueError: if the file or an item is invalid.
    """
    items = list(overrides)
    given = merge(changes or {}, parse_overrides(item for item in items if not is_hydra(item)))
    content = merge(stage_settings(name), given)
    options = [*take_model_options(content, name), *filter(is_hydra, items)]
    content["model_options"] = tuple(require_plain(options, Path(name).name))
    return build(ClassifierConfig, content, Path(name).name)


@dataclass(frozen=True)
class ClassifierRunOptions:
    """One training run of a classifier. Raises ValueError for an unknown SAM 2."""

    config: ClassifierConfig
    data_root: Path
    output: Path = Path("runs")
    """Folder of all runs."""
    weights: str = "auto"
    """Weights of the SAM 2."""
    cache: Path | None = None
    """Folder of the masklet files. None: `masklets` in `output`."""
    resume: str = "auto"
    tracker: str = "auto"
    group: str = ""
    device: str = "auto"
    cpu_threads: int | None = None
    command: str = ""
    """Command line, for config.yaml."""

    def __post_init__(self) -> None:
        name = self.config.model
        require(name in SAM2_MODELS, f"model: got {name}, expected one of {', '.join(SAM2_MODELS)}")
