"""The classifier of masklets, in and out of its folder."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cutie_geo.vss.classifier import (
    ClassifierDescription,
    FeatureSource,
    MaskletClassifier,
    load_classifier,
)

CPU = torch.device("cpu")
SOURCE = FeatureSource("sam2.1-hiera-tiny", -1, "0123456789abcdef")


@pytest.fixture
def model() -> MaskletClassifier:
    torch.manual_seed(0)
    return MaskletClassifier(ClassifierDescription(("wall", "sky", "cat"), 8, (5,), SOURCE)).eval()


def test_it_is_linear_layers_with_rectifiers_between(model: MaskletClassifier) -> None:
    features = torch.randn(4, 8)
    weights = model.state_dict()
    inner = (features @ weights["layers.0.weight"].T + weights["layers.0.bias"]).clamp(min=0)
    torch.testing.assert_close(model(features), inner @ weights["layers.2.weight"].T + weights["layers.2.bias"])
    assert model(features.bfloat16()).dtype == torch.float32
    assert len(MaskletClassifier(ClassifierDescription(("a", "b"), 8, (), SOURCE)).layers) == 1


def test_a_folder_brings_it_back(model: MaskletClassifier, tmp_path: Path) -> None:
    model.save(tmp_path / "final")
    again = load_classifier(tmp_path / "final", 124, CPU)
    assert again.described == model.described
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    told = json.loads((tmp_path / "final" / "config.json").read_text())["classifier"]
    assert told["classes"] == ["wall", "sky", "cat"]
    assert (told["dim"], told["hidden"], told["encoder"]["model"]) == (8, [5], "sam2.1-hiera-tiny")


def test_features_of_other_weights_or_levels_are_refused(model: MaskletClassifier) -> None:
    model.require_encoder(FeatureSource("renamed", -1, SOURCE.digest), "final")
    words = (
        r"final: got features of sam2.1-hiera-tiny \(level -1, weights ffff\), expected those that it was trained with"
    )
    with pytest.raises(ValueError, match=words):
        model.require_encoder(FeatureSource("sam2.1-hiera-tiny", -1, "ffff"), "final")
    with pytest.raises(ValueError, match="level 0"):
        model.require_encoder(FeatureSource("sam2.1-hiera-tiny", 0, SOURCE.digest), "final")


def test_folders_of_something_else_are_refused(model: MaskletClassifier, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder, expected a masklet classifier"):
        load_classifier(tmp_path / "nowhere", 124, CPU)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no model\.safetensors in this folder"):
        load_classifier(tmp_path / "empty", 124, CPU)
    file = model.save(tmp_path / "final")
    with pytest.raises(ValueError, match="has 3 classes, expected at most 2"):
        load_classifier(tmp_path / "final", 2, CPU)
    save_file(load_file(file), tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match=r"plain\.safetensors: not a masklet classifier"):
        load_classifier(tmp_path / "plain.safetensors", 124, CPU)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dim": "8"}, r"model\.safetensors\.dim: got '8'"),
        ({"hidden": [0]}, r"widths: got \(8, 0\)"),
        ({"hidden": [6]}, "do not fit a masklet classifier"),
        ({"classes": []}, "classes: got none"),
        ({"extra": 1}, "unknown extra"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(
    model: MaskletClassifier, tmp_path: Path, change: dict, words: str
) -> None:
    file = model.save(tmp_path / "final")
    told = json.loads((tmp_path / "final" / "config.json").read_text())
    told["classifier"] |= change
    (tmp_path / "final" / "config.json").unlink()
    save_file(load_file(file), file, metadata={"cutie_geo": json.dumps(told)})
    with pytest.raises(ValueError, match=words):
        load_classifier(tmp_path / "final", 124, CPU)
