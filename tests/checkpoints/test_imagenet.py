"""ResNets start from a classifier's weights, as torchvision and timm publish them."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny import TINY_GEO_YAML, TINY_YAML

from cutie_geo.checkpoints.encoders import load_resnet
from cutie_geo.checkpoints.load import load_model


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-18 with a classifier, with weights that nothing else has, as a file."""
    torch.manual_seed(1)
    tensors = timm.create_model("resnet18", pretrained=False).state_dict()
    moved = {name: x + 0.01 * torch.rand_like(x) if x.is_floating_point() else x for name, x in tensors.items()}
    path = tmp_path_factory.mktemp("imagenet") / "resnet18.safetensors"
    save_file(moved, path)
    return path


def preset(folder: Path, text: str = TINY_YAML) -> str:
    path = folder / "tiny.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.slow
def test_both_resnets_are_filled_and_new_channels_are_orthogonal(classifier: Path, tmp_path: Path) -> None:
    files = [f"weights.pixel_encoder={classifier}", f"weights.mask_encoder={classifier}"]
    model = load_model(preset(tmp_path), "none", "cpu", "fp32", files)
    plain = load_model(preset(tmp_path), "none", "cpu", "fp32")
    image = torch.rand(1, 3, 64, 64)
    wanted = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3))
    load_resnet_into(wanted, classifier)
    ours = model.encoder.features.body(image)  # type: ignore[union-attr]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(ours, wanted.eval()(image)))
    first = model.mask_encoder.features.body.state_dict()["conv1.weight"]
    assert torch.equal(first[:, :3], model.encoder.features.body.state_dict()["conv1.weight"])  # type: ignore[union-attr]
    extra = first[:, 3:].flatten(1)
    assert torch.allclose(extra @ extra.T, torch.eye(len(extra)), atol=1e-4)
    assert torch.equal(model.decoder.predict.weight, plain.decoder.predict.weight), "all else is as random as before"


def load_resnet_into(model: torch.nn.Module, path: Path) -> None:
    from safetensors.torch import load_file

    model.load_state_dict({k: v for k, v in load_file(path).items() if not k.startswith(("layer4.", "fc."))})


@pytest.mark.slow
def test_training_starts_from_what_the_catalogue_has(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(name: str) -> Path:
        asked.append(name)
        return classifier

    monkeypatch.setattr("cutie_geo.checkpoints.load.catalogue.fetch", fetch)
    load_model(preset(tmp_path), "encoders", "cpu", "fp32")
    assert sorted(asked) == ["resnet18-imagenet", "resnet18-imagenet"]
    asked.clear()
    load_model(preset(tmp_path, TINY_GEO_YAML), "encoders", "cpu", "fp32")
    assert asked == ["resnet18-imagenet"], "a Hiera that starts at random has no file"
    asked.clear()
    load_model(preset(tmp_path), "none", "cpu", "fp32")
    assert asked == []


@pytest.mark.slow
def test_another_networks_file_is_refused(classifier: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file(timm.create_model("resnet34", pretrained=False).state_dict(), other)
    with pytest.raises(ValueError, match=r"other\.safetensors: .* entries do not fit resnet18: extra"):
        load_model(preset(tmp_path), "none", "cpu", "fp32", [f"weights.mask_encoder={other}"])
    model = load_model(preset(tmp_path), "none", "cpu", "fp32")
    with pytest.raises(ValueError, match="no such weights file"):
        load_resnet(model.mask_encoder.features, tmp_path / "nowhere.pth", "resnet18")


@pytest.mark.parametrize(
    ("text", "weights", "message"),
    [
        (TINY_GEO_YAML, "weights.pixel_encoder=x.pth", "pixel_encoder: got x.pth with hiera-nano, expected a ResNet"),
        (TINY_YAML, "weights.mask_encoder=x.pth", "x.pth: no such weights file"),
    ],
)
def test_files_for_parts_that_are_not_there_are_refused(tmp_path: Path, text: str, weights: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(preset(tmp_path, text), "none", "cpu", "fp32", [weights])
