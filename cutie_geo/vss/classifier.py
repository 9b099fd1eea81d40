"""Classifier of masklets by their mean features: a multi-layer perceptron, and its files.

    model.safetensors   weights; the header repeats config.json
    config.json         {"format": 1, "classifier": fields of `ClassifierDescription`}

A classifier accepts only features of the encoder that it was trained with.
"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutie_geo.checkpoints.saving import ENTRY, FORMAT, checkpoint_file, write_described
from cutie_geo.checkpoints.tensor_files import fill, read_metadata, read_tensors
from cutie_geo.config import build, require
from cutie_geo.ops import full_precision
from cutie_geo.structures import FrozenFile

CLASSIFIER_ENTRY = "classifier"
"""Entry of the description in config.json, in place of a model's."""


@dataclass(frozen=True)
class FeatureSource:
    """Source of features: an encoder, down to a digest of its weights."""

    model: str
    """Name of the encoder."""
    level: int
    """Index of the feature map."""
    digest: str
    """Digest of its weights and of everything else that its features depend on."""

    def __str__(self) -> str:
        return f"{self.model} (level {self.level}, weights {self.digest[:12]})"


@dataclass(frozen=True)
class ClassifierDescription:
    """Architecture of a classifier and source of its features. Raises ValueError for invalid values."""

    classes: tuple[str, ...]
    """Class names, in the order of the class numbers."""
    dim: int
    """Width of the features."""
    hidden: tuple[int, ...]
    """Widths of the hidden layers."""
    encoder: FeatureSource
    """Source of the features that it was trained with."""

    def __post_init__(self) -> None:
        require(bool(self.classes), "classes: got none, expected 1 or more")
        widths = (self.dim, *self.hidden)
        require(min(widths) >= 1, f"widths: got {widths}, expected 1 or more each")


class MaskletClassifier(nn.Module):
    """Multi-layer perceptron with ReLU from masklet features to class logits."""

    def __init__(self, described: ClassifierDescription) -> None:
        super().__init__()
        self.described = described
        widths = [described.dim, *described.hidden, len(described.classes)]
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        self.frozen_files: dict[str, FrozenFile] = {}
        """Frozen parts that a checkpoint refers to instead of storing them: none."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def forward(self, features: Float[Tensor, "K C"]) -> Float[Tensor, "K classes"]:
        """Classify masklet features. Returns: float32 logits."""
        with full_precision(features):
            return self.layers(features.float())

    def save(self, folder: Path) -> Path:
        """Write the classifier to a folder and return the weights file. Raises OSError."""
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        described = asdict(self.described).items()
        entry = {key: list(value) if isinstance(value, tuple) else value for key, value in described}
        return write_described(tensors, {"format": FORMAT, CLASSIFIER_ENTRY: entry}, folder)

    def require_encoder(self, own: FeatureSource, where: str) -> None:
        """Raise ValueError unless features come from the encoder that this classifier was trained with."""
        trained = self.described.encoder
        same = (own.digest, own.level) == (trained.digest, trained.level)
        require(same, f"{where}: got features of {own}, expected those that it was trained with, of {trained}")


def load_classifier(path: Path, classes: int, device: torch.device) -> MaskletClassifier:
    """Load a classifier.

    Args:
        path: its folder, or its weights file.
        classes: maximum number of classes.
        device: device of the weights.

    Raises:
        ValueError: if there is no classifier, or its weights do not fit its description.
    """
    require(path.exists(), f"{path}: no such folder, expected a masklet classifier")
    file = checkpoint_file(path)
    content = read_metadata(file, ENTRY) or {}
    require(
        CLASSIFIER_ENTRY in content, f"{file}: not a masklet classifier; expected the folder `final` of its training"
    )
    made_by = content.get("format")
    require(made_by == FORMAT, f"{file}: format {made_by!r}, expected {FORMAT}; a newer cutie_geo may read it")
    described = build(ClassifierDescription, content[CLASSIFIER_ENTRY], str(file))
    known = len(described.classes)
    require(known <= classes, f"{file}: has {known} classes, expected at most {classes}")
    model = MaskletClassifier(described)
    fill(model, read_tensors(file), str(file), "a masklet classifier")
    return model.eval().to(device)
