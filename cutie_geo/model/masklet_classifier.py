"""A class for each masklet from its mean feature: a multi-layer perceptron, and the folder that it is kept in.

    model.safetensors   its weights; the header repeats config.json
    config.json         {"format": 1, "classifier": what `ClassifierDescription` has}

It has learnt from one encoder's features, and refuses those of any other.
"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutie_geo.config import build, require
from cutie_geo.model.saving import ENTRY, FORMAT, checkpoint_file, write_described
from cutie_geo.model.tensor_files import fill, read_metadata, read_tensors
from cutie_geo.ops import full_precision
from cutie_geo.structures import FrozenFile

CLASSIFIER_ENTRY = "classifier"
"""What stands in the description of a classifier in place of our model."""


@dataclass(frozen=True)
class FeatureSource:
    """Whose features: those of others mean nothing to a classifier."""

    model: str
    """Its name, for people."""
    level: int
    """Which of its maps."""
    digest: str
    """Of its weights, and of what else decides its features."""

    def __str__(self) -> str:
        return f"{self.model} (level {self.level}, weights {self.digest[:12]})"


@dataclass(frozen=True)
class ClassifierDescription:
    """What a classifier is. Raises ValueError for what can't work."""

    classes: tuple[str, ...]
    """Names, in the order of the numbers."""
    dim: int
    """Width of the features."""
    hidden: tuple[int, ...]
    """Widths of its inner layers."""
    encoder: FeatureSource
    """From whose features it has learnt."""

    def __post_init__(self) -> None:
        require(bool(self.classes), "classes: got none, wanted 1 or more")
        widths = (self.dim, *self.hidden)
        require(min(widths) >= 1, f"widths: got {widths}, wanted 1 or more each")


class MaskletClassifier(nn.Module):
    """Linear layers with rectifiers between them, from features to the logits of classes."""

    def __init__(self, described: ClassifierDescription) -> None:
        super().__init__()
        self.described = described
        widths = [described.dim, *described.hidden, len(described.classes)]
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        self.frozen_files: dict[str, FrozenFile] = {}
        """Parts that a checkpoint names instead of storing: none."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(self, features: Float[Tensor, "K C"]) -> Float[Tensor, "K classes"]:
        """The logits of masklets, in float32."""
        with full_precision(features):
            return self.layers(features.float())

    def require_encoder(self, own: FeatureSource, where: str) -> None:
        """Raises ValueError unless features are of the encoder that this classifier has learnt from."""
        told = self.described.encoder
        same = (own.digest, own.level) == (told.digest, told.level)
        require(same, f"{where}: got features of {own}, wanted those that it has learnt from, of {told}")


def save_classifier(model: MaskletClassifier, folder: Path) -> Path:
    """Write a classifier to `folder`; return the weights file. Raises OSError if that can't be done."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    told = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(model.described).items()}
    return write_described(tensors, {"format": FORMAT, CLASSIFIER_ENTRY: told}, folder)


def load_classifier(path: Path, classes: int, device: torch.device) -> MaskletClassifier:
    """The classifier in a folder, or in its weights file. classes: it may know no more than these.

    Raises ValueError for a folder without one, for anything else in it, and for weights that don't fit in every entry.
    """
    require(path.exists(), f"{path}: no such folder, wanted a classifier of masklets")
    file = checkpoint_file(path)
    content = read_metadata(file, ENTRY) or {}
    require(CLASSIFIER_ENTRY in content, f"{file}: no classifier of masklets, wanted what its training has left")
    made_by = content.get("format")
    require(made_by == FORMAT, f"{file}: format {made_by!r}, wanted {FORMAT}; a newer cutie_geo may read it")
    described = build(ClassifierDescription, content[CLASSIFIER_ENTRY], str(file))
    known = len(described.classes)
    require(known <= classes, f"{file}: knows {known} classes, wanted at most {classes}")
    model = MaskletClassifier(described)
    fill(model, read_tensors(file), str(file), "a classifier of masklets")
    return model.eval().to(device)
