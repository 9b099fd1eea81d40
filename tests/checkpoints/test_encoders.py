"""The published encoders' weights, in every form in which they are published, become the published networks."""

import argparse
import copy
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from sam2.build_sam import build_sam2
from sam2.modeling.sam2_base import SAM2Base
from tiny import randomised, tiny_config
from torch import Tensor, nn
from transformers import DepthAnythingForDepthEstimation, Sam2VideoConfig, Sam2VideoModel

from cutie_geo.checkpoints.cutie import our_name, warm_start
from cutie_geo.checkpoints.encoders import PartLoaded, load_part, split_positions
from cutie_geo.config import EncoderConfig, ModelConfig, build
from cutie_geo.model.depth_anything import DEPTH_SIZES, depth_config
from cutie_geo.model.encoder import MAE_GRID, FusedEncoder
from cutie_geo.model.hiera import HIERA_SIZES, HieraFeatures
from cutie_geo.model.network import CutieGeo

Weights = dict[str, Tensor]

VISION = {"vision": "hiera-tiny"}
GEOMETRY = {"vision": "hiera-nano", "vision_init": "none", "geometry": "depth-anything-v2-small"}
NANO = {"vision": "hiera-nano", "vision_init": "none", "geometry": "depth-nano", "geometry_init": "none"}

NO_VISION = "expected SAM 2 as published by sam2 or transformers or timm"
NO_GEOMETRY = "expected Depth Anything V2 as published by depth-anything or transformers"

WINDOW_DIFFERENCE = 0.3
"""Share of the largest number by which the padding of windows may move the third stage of the large masked autoencoder
with random weights."""


class Published(NamedTuple):
    """A file, and what the network that it was saved from says about a frame."""

    file: Path
    form: str
    features: list[Tensor]
    """Finest first, as in `pyramid`."""
    pyramid: list[Tensor]


def frame(height: int = 96, width: int = 160) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def encoder(**changes: Any) -> tuple[FusedEncoder, EncoderConfig]:
    config = EncoderConfig(**{"channels": (24, 16, 8), **changes})
    return FusedEncoder(config).eval(), config


shared_encoder = functools.cache(encoder)
"""For files that must not change it."""


def loaded(path: Path, part: str = "vision", **changes: Any) -> tuple[FusedEncoder, PartLoaded]:
    """An encoder with the file in one of its parts, and what came of loading it."""
    ours, config = encoder(**changes)
    return ours, load_part(ours, config, part, path)


def refusal(path: Path, part: str = "vision", **changes: Any) -> str:
    """What the ValueError says, which always begins with the file; the encoder is unchanged."""
    ours, config = shared_encoder(**changes)
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(ValueError, match=re.escape(f"{path}: ")) as caught:
        load_part(ours, config, part, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())
    return str(caught.value)


def saved(content: Any, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in content.items()}, path)
    else:
        torch.save(content, path)
    return path


def tensors_of(path: Path) -> Weights:
    content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    return content.get("model", content)


def renamed(weights: Weights, *names: tuple[str, str]) -> Weights:
    """Every pattern that matches is applied, in order."""
    out = {}
    for name, tensor in weights.items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        out[name] = tensor
    return out


def share(got: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest number."""
    assert got.shape == wanted.shape
    return float((got - wanted).abs().max() / wanted.abs().max())


def assert_close(got: Sequence[Tensor], wanted: Sequence[Tensor], bound: float) -> None:
    assert all(share(x, y) < bound for x, y in zip(got, wanted, strict=True))


# ------------------------------------------------------------------------------------------------------------- SAM 2
def sam2_model(release: str) -> SAM2Base:
    """The sam2 package's own network."""
    config = f"configs/{release}/{release}_hiera_t.yaml"
    return randomised(build_sam2(config, device="cpu", apply_postprocessing=False))


@pytest.fixture(scope="module")
def sam2() -> SAM2Base:
    """Its image encoder's weights are those of all vision files that fit."""
    return sam2_model("sam2.1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
@torch.inference_mode()
def published_by_sam2(sam2: SAM2Base, folder: Path) -> Published:
    file = saved({"model": sam2.state_dict()}, folder / "sam2.1.pt")
    features = sam2.image_encoder.trunk(frame())
    return Published(file, "sam2", features[:3], sam2.image_encoder(frame())["backbone_fpn"])


@pytest.fixture(scope="module")
@torch.inference_mode()
def published_by_transformers(sam2: SAM2Base, folder: Path) -> Published:
    model = Sam2VideoModel(Sam2VideoConfig()).eval()
    names = [
        (r"^trunk\.", "backbone."),
        (r"^(neck\.convs\.\d)\.conv\.", r"\1."),
        (r"patch_embed\.proj\.", "patch_embed.projection."),
        (r"\.norm(\d)\.", r".layer_norm\1."),
        (r"mlp\.layers\.0\.", "mlp.proj_in."),
        (r"mlp\.layers\.1\.", "mlp.proj_out."),
    ]
    model.vision_encoder.load_state_dict(renamed(sam2.image_encoder.state_dict(), *names))
    model.save_pretrained(folder / "transformers")
    features = model.vision_encoder.backbone(frame()).intermediate_hidden_states[:3]
    pyramid = model.vision_encoder(frame()).fpn_hidden_states
    file = folder / "transformers" / "model.safetensors"
    return Published(file, "transformers", [x.movedim(-1, 1) for x in features], sorted(pyramid, key=torch.numel)[::-1])


@pytest.fixture(scope="module")
@torch.inference_mode()
def published_by_timm(sam2: SAM2Base, folder: Path) -> Published:
    model = timm.create_model("sam2_hiera_tiny").eval()
    trunk = renamed(
        sam2.image_encoder.trunk.state_dict(), (r"mlp\.layers\.0", "mlp.fc1"), (r"mlp\.layers\.1", "mlp.fc2")
    )
    model.load_state_dict(model.state_dict() | trunk)
    file = saved(model.state_dict(), folder / "timm.safetensors")
    return Published(file, "timm", model.forward_intermediates(frame(), intermediates_only=True)[:3], [])


@pytest.fixture(scope="module", params=["sam2", "transformers", "timm"])
def published(request: pytest.FixtureRequest) -> Published:
    return request.getfixturevalue(f"published_by_{request.param}")


@pytest.mark.slow
@torch.inference_mode()
def test_every_form_of_sam2_becomes_the_trunk_that_it_was_saved_from(published: Published, sam2: SAM2Base) -> None:
    ours, report = loaded(published.file, **VISION)
    wanted = sam2.image_encoder.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in ours.vision.state_dict().items())
    assert_close(ours.vision(frame())[::-1], published.features, 1e-5)
    assert (report.form, report.loaded) == (published.form, len(ours.vision.state_dict()))
    assert report.loaded + report.aside == len(tensors_of(published.file))
    assert f"{report.loaded} tensors loaded from {published.file.name} ({published.form}), " in str(report)


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize("published", ["sam2", "transformers"], indirect=True)
def test_forms_with_a_pyramid_become_the_one_that_they_were_saved_from(published: Published) -> None:
    ours, report = loaded(published.file, vision_features="fpn", **VISION)
    assert_close(ours.vision(frame())[::-1], published.pyramid, 1e-5)
    assert report.loaded == len(ours.vision.state_dict())
    assert report.loaded + report.aside == len(tensors_of(published.file))


def test_a_trunk_of_timm_has_no_pyramid(published_by_timm: Published) -> None:
    message = refusal(published_by_timm.file, vision_features="fpn", **VISION)
    assert "8 entries do not fit hiera-tiny: missing neck.convs.0.conv.weight" in message


@pytest.mark.slow
@torch.inference_mode()
def test_a_trunk_of_timm_may_be_wrapped_for_features(tmp_path: Path) -> None:
    """timm's `features_only` networks hold the trunk as `model`."""
    net = timm.create_model("sam2_hiera_tiny", features_only=True)
    ours, _ = loaded(saved(net.state_dict(), tmp_path / "net.safetensors"), **VISION)
    assert torch.equal(ours.vision.trunk.blocks[0].mlp.layers[1].bias, net.model.blocks[0].mlp.fc2.bias)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["sam2", "transformers"])
def test_the_releases_of_sam2_are_told_apart(form: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if form == "sam2":
        first = saved({"model": sam2_model("sam2").state_dict()}, tmp_path / "w.pt")
    else:
        config = Sam2VideoConfig(enable_occlusion_spatial_embedding=False)
        first = saved(Sam2VideoModel(config).state_dict(), tmp_path / "w.safetensors")
    _, report = loaded(first, vision_init="sam2", **VISION)
    assert report.form == form
    second = request.getfixturevalue(f"published_by_{form}").file
    for path, got, wanted in ((first, "sam2", "sam2.1"), (second, "sam2.1", "sam2")):
        message = refusal(path, vision_init=wanted, **VISION)
        assert f"got weights of {got}, expected {wanted} (encoder.vision_init={got} takes the file)" in message


# --------------------------------------------------------------------------------------------------- Depth Anything V2
@pytest.fixture(scope="module")
def depth_anything() -> DepthAnythingForDepthEstimation:
    return randomised(DepthAnythingForDepthEstimation(depth_config(DEPTH_SIZES["depth-anything-v2-small"])))


def authors_names(weights: Weights) -> Weights:
    """The names of Depth Anything V2's own files, from those of transformers 5."""
    weights = dict(weights)
    for name in [name for name in weights if ".attention.q_proj." in name]:
        parts = [weights.pop(name.replace("q_proj", f"{letter}_proj")) for letter in "qkv"]
        weights[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
    fusion = [(rf"^neck\.fusion_stage\.layers\.{i}\.", f"depth_head.scratch.refinenet{4 - i}.") for i in range(4)]
    maps = [(rf"^neck\.convs\.{i}\.", f"depth_head.scratch.layer{i + 1}_rn.") for i in range(4)]
    return renamed(
        weights,
        (r"^backbone\.embeddings\.position_embeddings$", "pretrained.pos_embed"),
        (r"^backbone\.embeddings\.patch_embeddings\.projection\.", "pretrained.patch_embed.proj."),
        (r"^backbone\.embeddings\.", "pretrained."),
        (r"^backbone\.layernorm\.", "pretrained.norm."),
        (r"^backbone\.encoder\.layer\.", "pretrained.blocks."),
        (r"attention\.o_proj\.", "attn.proj."),
        (r"layer_scale(\d)\.lambda1$", r"ls\1.gamma"),
        (r"^neck\.reassemble_stage\.layers\.(\d)\.projection\.", r"depth_head.projects.\1."),
        (r"^neck\.reassemble_stage\.layers\.(\d)\.resize\.", r"depth_head.resize_layers.\1."),
        *fusion,
        *maps,
        (r"\.residual_layer(\d)\.convolution(\d)\.", r".resConfUnit\1.conv\2."),
        (r"(refinenet\d)\.projection\.", r"\1.out_conv."),
        (r"^head\.conv1\.", "depth_head.scratch.output_conv1."),
        (r"^head\.conv2\.", "depth_head.scratch.output_conv2.0."),
        (r"^head\.conv3\.", "depth_head.scratch.output_conv2.2."),
    )


@pytest.fixture(scope="module")
def depth_files(depth_anything: DepthAnythingForDepthEstimation, folder: Path) -> dict[str, Path]:
    """The same network in the form of its authors, as transformers 4 and 5 write it, and as transformers 5 names it."""
    depth_anything.save_pretrained(folder / "depth")
    return {
        "authors": saved(authors_names(depth_anything.state_dict()), folder / "depth_anything_v2_vits.pth"),
        "hub": folder / "depth" / "model.safetensors",
        "transformers 5": saved(depth_anything.state_dict(), folder / "depth.safetensors"),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "names"),
    [
        (
            "authors",
            {
                "pretrained.mask_token",
                "pretrained.blocks.11.attn.qkv.bias",
                "pretrained.blocks.11.ls2.gamma",
                "depth_head.resize_layers.3.weight",
                "depth_head.scratch.layer1_rn.weight",
                "depth_head.scratch.refinenet4.resConfUnit1.conv2.bias",
            },
        ),
        ("hub", {"backbone.encoder.layer.11.attention.attention.query.bias"}),
        ("transformers 5", {"backbone.encoder.layer.11.attention.q_proj.bias"}),
    ],
)
def test_the_forms_of_depth_anything_have_the_published_names(
    form: str, names: set[str], depth_files: dict[str, Path]
) -> None:
    assert names <= tensors_of(depth_files[form]).keys()


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize(
    ("form", "reported"), [("authors", "depth-anything"), ("hub", "transformers"), ("transformers 5", "transformers")]
)
def test_every_form_of_depth_anything_becomes_the_network_that_it_was_saved_from(
    form: str, reported: str, depth_files: dict[str, Path], depth_anything: DepthAnythingForDepthEstimation
) -> None:
    ours, report = loaded(depth_files[form], "geometry", **GEOMETRY)
    got, wanted = ours.geometry.model.state_dict(), depth_anything.state_dict()  # type: ignore[union-attr]
    assert [name for name in wanted if not torch.equal(got[name], wanted[name])] == []
    small = nn.functional.interpolate(frame(), size=(84, 140), mode="bicubic")
    fused = depth_anything.neck(depth_anything.backbone(small).feature_maps, 6, 10)
    assert_close(ours.geometry(frame())[0], fused[:3], 1e-5)  # type: ignore[misc]
    assert (report.form, report.loaded, report.aside) == (reported, len(tensors_of(depth_files[form])), 0)


# --------------------------------------------------------------------------------------------------------- strictness
def spoilt(how: str, weights: Weights, name: str) -> Weights:
    """`weights` with something wrong about the tensor `name`."""
    tensor = weights[name].clone()
    if how == "missing":
        return {other: weights[other] for other in weights if other != name}
    if how == "extra":
        return weights | {name.replace("bias", "bogus"): tensor}
    if how == "shape":
        return weights | {name: tensor[:-1]}
    tensor[0] = torch.nan
    return weights | {name: tensor}


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("missing", "missing {}bias"),
        ("extra", "extra {}bogus"),
        ("shape", "shape of {}bias: got ({},), expected ({},)"),
        ("not finite", "non-finite numbers in {}bias"),
    ],
)
@pytest.mark.parametrize(
    ("part", "network", "prefix", "name"),
    [
        ("vision", "hiera-nano", "image_encoder.", "trunk.patch_embed.proj."),
        ("geometry", "depth-nano", "", "backbone.embeddings.patch_embeddings.projection."),
    ],
)
def test_a_file_fits_in_every_tensor_or_changes_nothing(
    part: str, network: str, prefix: str, name: str, how: str, problem: str, tmp_path: Path
) -> None:
    ours, _ = shared_encoder(**NANO)
    module = ours.vision if part == "vision" else ours.geometry.model  # type: ignore[union-attr]
    weights = {f"{prefix}{entry}": tensor for entry, tensor in module.state_dict().items()}
    channels = len(weights[f"{prefix}{name}bias"])
    path = saved(spoilt(how, weights, f"{prefix}{name}bias"), tmp_path / "w.pt")
    expected = f"1 entries do not fit {network}: {problem.format(name, channels - 1, channels)}"
    assert refusal(path, part, **NANO) == f"{path}: {expected}"


def test_a_damaged_file_and_one_with_code_are_refused(tmp_path: Path) -> None:
    weights = {"image_encoder.trunk.pos_embed": torch.zeros(1, 96, 7, 7)}
    path = saved({"model": weights, "args": argparse.Namespace()}, tmp_path / "w.pt")
    assert "holds pickled code or objects, refused" in refusal(path, **NANO)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "damaged or no weights" in refusal(path, **NANO)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "wanted"), [("small", "tiny"), ("small", "base-plus"), ("tiny", "small"), ("base-plus", "tiny")]
)
def test_a_trunk_of_another_size_is_named(given: str, wanted: str, tmp_path: Path) -> None:
    other = HieraFeatures(HIERA_SIZES[f"hiera-{given}"]).state_dict()
    path = saved({"model": {f"image_encoder.{name}": tensor for name, tensor in other.items()}}, tmp_path / "w.pt")
    message = refusal(path, vision=f"hiera-{wanted}")
    assert f"entries do not fit hiera-{wanted} (the file looks like hiera-{given}): " in message


@pytest.mark.slow
def test_a_depth_network_of_another_size_is_named(depth_files: dict[str, Path]) -> None:
    other = "depth-anything-v2-base"
    message = refusal(depth_files["authors"], "geometry", **(GEOMETRY | {"geometry": other}))
    assert f"entries do not fit {other} (the file looks like depth-anything-v2-small): " in message


@pytest.mark.parametrize("form", ["authors", "hub"])
def test_a_depth_network_is_no_vision_encoder(form: str, depth_files: dict[str, Path]) -> None:
    assert NO_VISION in refusal(depth_files[form], **VISION)


@pytest.mark.slow
def test_a_file_of_sam2_is_no_depth_network_and_no_masked_autoencoder(published: Published) -> None:
    assert NO_GEOMETRY in refusal(published.file, "geometry", **GEOMETRY)
    message = refusal(published.file, vision_init="mae", **VISION)
    if published.form == "timm":
        assert "positions of shape (1, 96, 7, 7), expected (1, 3136, channels)" in message
    else:
        assert "expected Hiera's masked autoencoder as published by timm" in message


def test_a_cutie_checkpoint_is_neither(tmp_path: Path) -> None:
    path = saved(CutieGeo(tiny_config()).state_dict(), tmp_path / "cutie.pth")
    assert "got a file with encoder.features.body.conv1.weight, encoder.features.body.bn1.weight, " in refusal(
        path, **VISION
    )
    assert NO_VISION in refusal(path, **VISION)
    assert NO_GEOMETRY in refusal(path, "geometry", **GEOMETRY)


def test_a_file_for_a_part_that_is_not_there_is_refused(depth_files: dict[str, Path]) -> None:
    message = refusal(depth_files["authors"], "geometry", **VISION)
    assert "a geometry file for a network without geometry encoder" in message


# ------------------------------------------------------------------------------------------------- masked autoencoder
@torch.inference_mode()
def masked_autoencoder(size: str, folder: Path) -> Published:
    """timm's own network and its features of a frame of its own size."""
    torch.manual_seed(0)  # how far windows matter depends on the weights
    model = randomised(timm.create_model(f"hiera_{size.replace('-', '_')}_224.mae"))
    file = saved(model.state_dict(), folder / f"{size}.safetensors")
    features = model.forward_intermediates(frame(224, 224), indices=[0, 1, 2], intermediates_only=True)
    return Published(file, "timm", features, [])


@torch.inference_mode()
@pytest.mark.parametrize("size", ["small", pytest.param("base-plus", marks=pytest.mark.slow)])
def test_the_masked_autoencoder_becomes_the_trunk_that_it_was_saved_from(size: str, tmp_path: Path) -> None:
    theirs = masked_autoencoder(size, tmp_path)
    ours, report = loaded(theirs.file, vision=f"hiera-{size}", vision_init="mae")
    assert_close(ours.vision(frame(224, 224))[::-1], theirs.features, 1e-5)
    assert report.loaded + report.aside == len(tensors_of(theirs.file))
    # the table of positions becomes two
    assert report.loaded == len(ours.vision.state_dict()) - 1


@pytest.mark.slow
@torch.inference_mode()
def test_the_large_masked_autoencoder_differs_by_the_padding_of_its_windows_only(tmp_path: Path) -> None:
    """The third stage of SAM 2's large trunk has windows of 16, where the masked autoencoder attended to its whole grid
    of 14: what fills up the windows takes part in attention."""
    theirs = masked_autoencoder("large", tmp_path)
    ours, _ = loaded(theirs.file, vision="hiera-large", vision_init="mae")
    features = ours.vision(frame(224, 224))[::-1]
    assert_close(features[:2], theirs.features[:2], 1e-5)
    assert 0.01 < share(features[2], theirs.features[2]) < WINDOW_DIFFERENCE

    size = HIERA_SIZES["hiera-large"]._replace(windows=(8, 4, 14, 7))
    same_windows = HieraFeatures(size, background=MAE_GRID).eval()
    same_windows.load_state_dict(ours.vision.state_dict())
    assert_close(same_windows(frame(224, 224))[::-1], theirs.features, 1e-5)


def test_split_positions_add_up_to_the_table_on_its_own_grid() -> None:
    table = torch.randn(1, MAE_GRID**2, 5)
    background, window = split_positions(table)
    assert background.shape == (1, 5, MAE_GRID, MAE_GRID)
    assert window.shape == (1, 5, 8, 8)
    summed = background + window.tile(1, 1, MAE_GRID // 8, MAE_GRID // 8)
    torch.testing.assert_close(summed.flatten(2).mT, table, rtol=0, atol=1e-6)


def test_the_window_of_split_positions_is_the_tile_that_fits_best() -> None:
    side, window = 6, 3
    table = torch.randn(1, side**2, 2, dtype=torch.float64)
    rows, columns = torch.meshgrid(torch.arange(side) % window, torch.arange(side) % window, indexing="ij")
    repeat = nn.functional.one_hot((rows * window + columns).flatten()).double()
    best = torch.linalg.lstsq(repeat, table[0]).solution
    _, tile = split_positions(table, window)
    torch.testing.assert_close(tile[0].flatten(1).mT, best)


@pytest.mark.slow
def test_positions_of_another_grid_are_refused(tmp_path: Path) -> None:
    weights = timm.create_model("hiera_tiny_224.mae").state_dict()
    weights["pos_embed"] = weights["pos_embed"][:, :100]
    path = saved(weights, tmp_path / "w.safetensors")
    message = refusal(path, vision="hiera-tiny", vision_init="mae")
    assert "positions of shape (1, 100, 96), expected (1, 3136, channels)" in message


# --------------------------------------------------------------------------------------------------------- warm start
@pytest.mark.slow
@pytest.mark.parametrize("variant", ["base"], indirect=True)
def test_all_behind_the_encoder_starts_from_a_cutie_checkpoint(official_file: Path) -> None:
    model = CutieGeo(build(ModelConfig, {"encoder": NANO}))
    encoder = copy.deepcopy(model.encoder.state_dict())
    report = warm_start(model, official_file)
    tensors = torch.load(official_file, weights_only=True)
    behind = [name for name in tensors if not name.startswith("pixel_encoder.")]
    state = model.state_dict()
    assert [name for name in behind if not torch.equal(state[our_name(name)], tensors[name])] == []
    assert all(torch.equal(tensor, encoder[name]) for name, tensor in model.encoder.state_dict().items())
    assert report == (len(behind), len(tensors) - len(behind), len(encoder))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "channels", "problem"),
    [
        ("base", (512, 512, 256), "shape of pixel_projection.weight: got (256, 1024, 1, 1), expected (256, 512, 1, 1)"),
        ("small", (1024, 512, 256), "what lies behind the encoder (the file looks like cutie-small): "),
    ],
    indirect=["variant"],
)
def test_a_checkpoint_behind_other_features_changes_nothing(
    official_file: Path, channels: tuple[int, int, int], problem: str
) -> None:
    model = CutieGeo(build(ModelConfig, {"encoder": NANO | {"channels": channels}}))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=re.escape(problem)) as caught:
        warm_start(model, official_file)
    assert str(caught.value).startswith(f"{official_file}: ")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
