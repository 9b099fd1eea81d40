"""Choices listed by `--help`, duplicated here so that help does not import torch.

A test compares each with the original table.
"""

DATASETS = (
    "davis2016-train", "davis2016-val", "davis2017-train", "davis2017-val", "davis2017-test-dev",
    "youtubevos2018-valid", "youtubevos2019-valid", "mose-valid", "lvos-valid", "lsvos2024-valid", "lvos-test",
    "visor-train", "visor-val", "visor-val-unseen", "visor-test", "burst-val", "burst-test", "generic", "own",
)  # fmt: skip
"""Benchmarks of `infer --dataset` (`cutie_geo.data.index.DATASETS`)."""
VSPW_SPLITS = ("vspw-train", "vspw-val", "vspw-test")
"""Data sets of `refine` and `segment`."""
PROTOCOLS = ("davis2016", "davis2017", "visor", "youtubevos", "mose", "mosev2", "lvos", "vos-benchmark")
"""Protocols for object masks (`cutie_geo.evaluation.protocols.PROTOCOLS`)."""
SEMANTIC_PROTOCOLS = ("vspw", "vipseg")
"""Protocols for semantic maps."""
CLICK_PROTOCOL = "clicks"
"""Protocol for masks from clicks and boxes, which runs a model (`cutie_geo.runs.clicks.PROTOCOL`)."""
SEMANTIC_MEASURES = ("mIoU", "wIoU", "mBIoU", "mVC8", "mVC16")
"""Main scores of semantic maps, in percent."""
SAM2_MODELS = tuple(
    f"{release}-hiera-{size}" for release in ("sam2.1", "sam2") for size in ("tiny", "small", "base-plus", "large")
)
"""Published SAM 2 models (`cutie_geo.sam2.networks.SAM2_MODELS`)."""
SERVER_SPLITS = {
    "visor": ("val",),
    "davis": ("test-dev", "val"),
    "youtubevos": ("valid", "2019-valid", "2018-valid"),
    "mose": ("valid",),
    "lsvos": ("valid",),
    "lvos": ("valid", "test"),
}
"""Servers of `submit` and their splits, the default first (`cutie_geo.data.submission.servers.SERVERS`)."""
FEEDBACKS = ("own", "merged")
"""Predictions that each view of an ensemble commits (`cutie_geo.inference.ensemble.FEEDBACKS`)."""
TRACKERS = ("auto", "wandb", "tensorboard", "none")
"""Experiment trackers of training (`cutie_geo.runs.training_run.TRACKERS`)."""
IMAGE_MODES = ("symlink", "hardlink", "copy")
"""Ways in which `convert` links or copies images (`cutie_geo.data.convert.vos.ImageMode`)."""
DEFAULT_MODEL = "cutie-geo-tiny"
"""Default model of `infer`, `prompt` and `bench`; its weights are part of the package."""
CARD_FIELDS = ("title", "data", "licence", "training", "scores", "limits")
"""Fields of a model card for `export --card`."""
PROMPT_MODEL = "sam2.1-hiera-tiny"
"""SAM 2 model that converts prompts to masks for models without a prompt head and without a SAM 2 trunk."""
