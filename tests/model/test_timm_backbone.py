"""Backbones of timm as vision: the same features as timm's own, from every place that weights come from."""

from pathlib import Path

import pytest
import timm
import torch
from tiny import TINY_YAML, randomised
from torch import Tensor, nn

from cutie_geo.checkpoints.catalogue import weight_file
from cutie_geo.checkpoints.encoders import load_part, weights_path
from cutie_geo.checkpoints.load import load_model, needed_files
from cutie_geo.checkpoints.saving import save_checkpoint
from cutie_geo.config import EncoderConfig, ModelConfig, OptimiserConfig, build
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.blocks import normalise
from cutie_geo.model.encoder import FusedEncoder
from cutie_geo.model.network import CutieGeo
from cutie_geo.model.timm_backbone import TimmFeatures
from cutie_geo.training.optimiser import groups

LITE = "tf_efficientnet_lite0"
SMALL = "mobilenetv2_035"
YAML = TINY_YAML.replace(
    "{vision: resnet18}", f"{{vision: timm/{SMALL}, vision_init: imagenet, freeze: false, channels: [48, 32, 24]}}"
).replace("key_dim", "mask_encoder: resnet-nano\nkey_dim")


def image(height: int = 64, width: int = 96) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def lively(model: nn.Module, seed: int = 3) -> nn.Module:
    """A network of timm whose batch norms are no identity, as after training."""
    model = randomised(model, seed)
    numbers = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.add_(torch.randn(module.num_features, generator=numbers), alpha=0.1)
            module.running_var.mul_(0.5 + torch.rand(module.num_features, generator=numbers))
    return model


def published(name: str, folder: Path) -> tuple[nn.Module, Path]:
    """A network as timm builds it, and the file of its weights."""
    whole = lively(timm.create_model(name))
    path = folder / f"{name}.pth"
    torch.save(whole.state_dict(), path)
    return whole, path


def encoder(name: str = SMALL, **changes: object) -> tuple[FusedEncoder, EncoderConfig]:
    given = {"vision": f"timm/{name}", "vision_init": "imagenet", "channels": [48, 32, 24]} | changes
    config = build(EncoderConfig, given)
    torch.manual_seed(0)
    return FusedEncoder(config).eval(), config


@torch.no_grad()
def timms_own(whole: nn.Module, x: Tensor, strides: tuple[int, ...] = (16, 8, 4)) -> list[Tensor]:
    """The last map at each stride that the whole network computes on its way."""
    config = whole.pretrained_cfg
    own = (x - torch.tensor(config["mean"]).view(3, 1, 1)) / torch.tensor(config["std"]).view(3, 1, 1)
    maps = whole.forward_intermediates(own, intermediates_only=True)  # type: ignore[operator]
    return [next(each for each in maps[::-1] if each.shape[-1] == x.shape[-1] // stride) for stride in strides]


# ------------------------------------------------------------------------------------------------------------ features
@pytest.mark.slow
@pytest.mark.parametrize("name", [LITE, SMALL, "resnet10t", "convnext_atto"])
def test_features_are_those_of_the_whole_network_in_evaluation_mode(name: str, tmp_path: Path) -> None:
    whole, path = published(name, tmp_path)
    ours, config = encoder(name)
    loaded = load_part(ours, config, "vision", path)
    x = image()
    with torch.no_grad():
        got = ours.vision(normalise(x))
    wanted = timms_own(whole, x)
    for mine, theirs in zip(got, wanted, strict=True):
        assert (mine - theirs).abs().max() < 1e-3 * theirs.abs().max()
    assert [each.shape[1] for each in got] == list(ours.vision.channels)
    assert loaded.form == "timm"
    assert loaded.aside > 0


def test_stages_behind_stride_16_and_batch_norms_are_not_there() -> None:
    vision = TimmFeatures(LITE)
    assert vision.folds
    assert not any(isinstance(module, nn.BatchNorm2d) for module in vision.modules())
    assert sum(weight.numel() for weight in vision.parameters()) < 700_000  # of 4.7 million
    assert vision.channels == (112, 40, 24)


def test_a_backbone_whose_norms_come_before_its_convolutions_keeps_them() -> None:
    vision = TimmFeatures("resnetv2_18")
    assert not vision.folds
    norms = [module for module in vision.train().modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)


def test_the_backbones_own_mean_and_deviation_are_taken() -> None:
    vision = TimmFeatures(LITE)
    x = image()
    own = torch.addcmul(vision.shift, normalise(x), vision.scale)
    assert torch.allclose(own, (x - 0.5) / 0.5, atol=1e-6)


@pytest.mark.slow
def test_the_stage_at_stride_32_is_added_from_zero_and_trained_beside_a_frozen_backbone(tmp_path: Path) -> None:
    _, path = published(SMALL, tmp_path)
    plain, config = encoder()
    load_part(plain, config, "vision", path)
    deep, config = encoder(vision_features="fpn", freeze=True)
    load_part(deep, config, "vision", path)
    deep.fusion.load_state_dict(plain.fusion.state_dict())
    x = normalise(image())
    assert (deep.multiple, plain.multiple) == (32, 16)
    with torch.no_grad():
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain(x)[:3], deep(x)[:3]))
    deep.train()(x).f16.square().mean().backward()
    assert deep.top_down is not None
    assert deep.top_down.project.weight.grad is not None
    assert all(weight.grad is None for weight in deep.vision.parameters())


def test_geometry_may_stand_beside_it() -> None:
    ours, _ = encoder(geometry="depth-nano", geometry_init="none")
    encoded = ours(normalise(image(48, 80)), with_depth=True)
    assert encoded.f16.shape == (1, 48, 3, 5)
    assert encoded.depth is not None


# ------------------------------------------------------------------------------------------------------------- weights
@pytest.mark.slow
def test_a_file_under_other_names_is_taken_by_its_order(tmp_path: Path) -> None:
    whole, path = published(LITE, tmp_path)
    kept = {name: value for name, value in whole.state_dict().items() if not name.endswith("num_batches_tracked")}
    other = tmp_path / "other.pth"
    torch.save({f"layer{i}": value for i, value in enumerate(kept.values())}, other)
    (ours, config), (same, _) = encoder(LITE), encoder(LITE)
    load_part(ours, config, "vision", path)
    assert load_part(same, config, "vision", other).form == "in timm's order"
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), same.state_dict().values()))


@pytest.mark.slow
def test_files_that_do_not_fit_change_nothing(tmp_path: Path) -> None:
    whole, _ = published(SMALL, tmp_path)
    ours, config = encoder()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    state = whole.state_dict()
    named = {**state, "conv_stem.weight": torch.zeros(1, 2)}
    unnamed = {f"layer{i}": value for i, value in enumerate(list(state.values())[:-1])}
    turned = {f"layer{i}": v for i, v in enumerate(v for n, v in state.items() if not n.endswith("tracked"))}
    turned["layer0"] = turned["layer0"].transpose(0, 1)
    for content, problem in (
        (named, "shape of conv_stem"),
        (unnamed, "tensors, expected the"),
        (turned, "shape of conv"),
    ):
        path = tmp_path / "wrong.pth"
        torch.save(content, path)
        with pytest.raises(ValueError, match=problem):
            load_part(ours, config, "vision", path)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def put_package(folder: Path, name: str, *files: str) -> None:
    """An installed package with some files, none of which can be imported."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("raise RuntimeError('imported')")


def test_weights_come_out_of_an_installed_package_that_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_package(tmp_path, "bringsone", "bringsone/__init__.py", "bringsone/models/net.pth")
    put_package(tmp_path, "bringsnone", "bringsnone/__init__.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert weights_path("package:bringsone") == tmp_path / "bringsone/models/net.pth"
    assert weights_path("net.pth") == Path("net.pth")
    with pytest.raises(ValueError, match="package:bringsnone: got weights files none, expected one"):
        weights_path("package:bringsnone")
    with pytest.raises(ValueError, match="no such package is installed; `pip install is-not-there`"):
        weights_path("package:is-not-there")


def test_a_name_of_timm_is_in_the_catalogue() -> None:
    file = weight_file(f"timm/{LITE}.in1k")
    assert file.url == f"https://huggingface.co/timm/{LITE}.in1k/resolve/main/model.safetensors"
    assert file.licence == "apache-2.0"
    assert file.stated_by_hub
    with pytest.raises(ValueError, match="names no weights on the hub"):
        weight_file("timm/not_a_network")


# --------------------------------------------------------------------------------------------------------- whole models
@pytest.mark.slow
def test_a_model_starts_from_a_file_and_is_saved_with_its_trained_encoder(tmp_path: Path) -> None:
    _, weights = published(SMALL, tmp_path)
    config = tmp_path / "model.yaml"
    config.write_text(YAML)
    assert needed_files(str(config)) == {"vision": f"timm/{SMALL}"}
    model = load_model(str(config), "encoders", "cpu", "fp32", [f"weights.vision={weights}"])
    x = image(70, 90)[0]
    wanted = Tracker(model).encode(x).f16
    save_checkpoint(model, tmp_path / "saved")
    again = load_model(str(tmp_path / "saved"), device="cpu", precision="fp32")
    assert torch.equal(Tracker(again).encode(x).f16, wanted)
    rates = {group.name: group.factor for group in groups(model, OptimiserConfig(encoder_factor=0.3))}
    names = {group.name: set(group.weights) for group in groups(model, OptimiserConfig())}
    assert rates == {"encoder": 0.3, "queries": 1.0, "rest": 1.0}
    assert names["encoder"] == {f"encoder.vision.{name}" for name, _ in model.encoder.part("vision").named_parameters()}


@pytest.mark.slow
def test_a_frozen_backbone_stays_in_its_own_file(tmp_path: Path) -> None:
    _, weights = published(SMALL, tmp_path)
    config = tmp_path / "model.yaml"
    config.write_text(YAML.replace("freeze: false", "freeze: true"))
    model = load_model(str(config), "encoders", "cpu", "fp32", [f"weights.vision={weights}"])
    folder = tmp_path / "saved"
    save_checkpoint(model, folder)
    given = [f"weights.vision={weights}"]
    again = load_model(str(folder), device="cpu", precision="fp32", overrides=given)
    x = image(64, 64)[0]
    assert torch.equal(Tracker(again).encode(x).f8, Tracker(model).encode(x).f8)
    other = tmp_path / "other.pth"
    torch.save(lively(timm.create_model(SMALL), seed=9).state_dict(), other)
    with pytest.raises(ValueError, match="was trained beside the vision encoder"):
        load_model(str(folder), device="cpu", precision="fp32", overrides=[f"weights.vision={other}"])


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"vision": "timm/"}, r"vision: got 'timm/', expected one of .* or 'timm/<name>'"),
        ({"vision": f"timm/{SMALL}", "vision_init": "sam2"}, "vision_init: got sam2 with timm/.*, expected imagenet"),
        ({"vision": "hiera-tiny", "vision_init": "imagenet"}, "vision_init: got imagenet with hiera-tiny"),
    ],
)
def test_configurations_that_can_not_be_are_refused(given: dict[str, str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        build(EncoderConfig, given)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("no_such_network", "timm/no_such_network: timm cannot build it"),
        ("vit_tiny_patch16_224", r"timm/vit_tiny_patch16_224: (no features at stride|timm cannot build it)"),
    ],
)
def test_backbones_that_can_not_be_are_refused(name: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        CutieGeo(build(ModelConfig, {"encoder": {"vision": f"timm/{name}", "vision_init": "none"}}))
