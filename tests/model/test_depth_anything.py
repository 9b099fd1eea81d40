"""Geometry is transformers' Depth Anything, cut behind the last fusion stage that is needed."""

import pytest
import torch
import torch.nn.functional as F
from early_names import name_as_early
from tiny import randomised
from torch import Tensor, nn
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

from cutie_geo.model.depth_anything import DEPTH_SIZES, DepthAnythingFeatures, depth_config
from cutie_geo.model.tensor_names import attention_name

PUBLISHED = {
    "depth-anything-v2-large": (1024, 16, [5, 12, 18, 24], [256, 512, 1024, 1024], 256),
    "depth-anything-v2-base": (768, 12, [3, 6, 9, 12], [96, 192, 384, 768], 128),
    "depth-anything-v2-small": (384, 6, [3, 6, 9, 12], [48, 96, 192, 384], 64),
}
"""Width and heads of DINOv2, blocks that are read, widths of the four maps and of the fused ones."""


def published_config(name: str) -> DepthAnythingConfig:
    """The configuration that Depth Anything V2 is published with for transformers."""
    hidden, heads, taps, neck, fusion = PUBLISHED[name]
    backbone = Dinov2Config(
        hidden_size=hidden,
        num_attention_heads=heads,
        num_hidden_layers=taps[-1],
        image_size=518,
        patch_size=14,
        out_features=[f"stage{tap}" for tap in taps],  # type: ignore[call-arg]
        reshape_hidden_states=False,
    )
    return DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=14,
        reassemble_hidden_size=hidden,
        reassemble_factors=[4, 2, 1, 0.5],
        neck_hidden_sizes=neck,
        fusion_hidden_size=fusion,
        head_in_index=-1,
        head_hidden_size=32,
        depth_estimation_type="relative",
    )


def patch_size_image(image: Tensor) -> Tensor:
    """14 pixels for every 16."""
    size = (image.shape[-2] // 16 * 14, image.shape[-1] // 16 * 14)
    return F.interpolate(image, size=size, mode="bicubic", align_corners=False)


def recorded(module: nn.Module) -> list:
    """What `module` will return, call by call."""
    outputs: list = []
    module.register_forward_hook(lambda _, __, output: outputs.append(output))
    return outputs


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(2, 3, 96, 160, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["depth-nano", "depth-anything-v2-small"])
def pair(request: pytest.FixtureRequest) -> tuple[DepthAnythingFeatures, DepthAnythingForDepthEstimation]:
    """Ours and transformers' own network with the same weights, which make depth positive somewhere."""
    name = request.param
    ours = randomised(DepthAnythingFeatures(DEPTH_SIZES[name]))
    config = published_config(name) if name in PUBLISHED else depth_config(DEPTH_SIZES[name])
    theirs = DepthAnythingForDepthEstimation(config).eval()
    ours.model.head.conv3.bias.data.fill_(0.1)
    theirs.load_state_dict(ours.model.state_dict())
    return ours, theirs


@pytest.fixture
def nano() -> DepthAnythingFeatures:
    return randomised(DepthAnythingFeatures(DEPTH_SIZES["depth-nano"]))


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name: str) -> None:
    ours, published = depth_config(DEPTH_SIZES[name]), published_config(name)
    assert ours.to_dict() == published.to_dict()
    with torch.device("meta"):
        model = DepthAnythingForDepthEstimation(ours)
    assert model.backbone.embeddings.position_embeddings.shape[1] == 1 + 37 * 37


@pytest.mark.slow
@torch.inference_mode()
def test_features_equal_the_first_three_fusion_stages_of_transformers(
    pair: tuple[DepthAnythingFeatures, DepthAnythingForDepthEstimation], image: Tensor
) -> None:
    ours, theirs = pair
    fused = recorded(theirs.neck)
    theirs(patch_size_image(image))
    features, depth = ours(image)
    assert depth is None
    assert all(torch.equal(got, wanted) for got, wanted in zip(features, fused[0][:3], strict=True))


@torch.inference_mode()
def test_depth_equals_that_of_transformers_and_changes_no_feature(
    pair: tuple[DepthAnythingFeatures, DepthAnythingForDepthEstimation], image: Tensor
) -> None:
    ours, theirs = pair
    wanted = theirs(patch_size_image(image)).predicted_depth
    alone, _ = ours(image)
    features, depth = ours(image, with_depth=True)
    assert wanted.shape == (2, 84, 140)
    assert wanted.std() > 0
    assert torch.equal(depth, wanted)
    assert all(torch.equal(got, other) for got, other in zip(features, alone, strict=True))


@torch.inference_mode()
def test_what_only_depth_needs_runs_for_depth_only(nano: DepthAnythingFeatures, image: Tensor) -> None:
    neck, head = nano.model.neck, nano.model.head
    only_depth = [
        recorded(m) for m in (neck.reassemble_stage.layers[0], neck.convs[0], neck.fusion_stage.layers[3], head)
    ]
    always = [recorded(m) for m in (*neck.reassemble_stage.layers[1:], *neck.convs[1:], *neck.fusion_stage.layers[:3])]
    nano(image)
    assert [len(outputs) for outputs in only_depth] == [0] * 4
    assert [len(outputs) for outputs in always] == [1] * 9
    nano(image, with_depth=True)
    assert [len(outputs) for outputs in only_depth] == [1] * 4


@torch.inference_mode()
def test_there_is_one_patch_for_every_sixteen_pixels(nano: DepthAnythingFeatures, image: Tensor) -> None:
    patches = recorded(nano.model.backbone.embeddings.patch_embeddings.projection)
    features, _ = nano(image)
    assert patches[0].shape[-2:] == (6, 10)
    assert [tuple(x.shape) for x in features] == [(2, 32, 6, 10), (2, 32, 12, 20), (2, 32, 24, 40)]
    assert nano.channels == (32, 32, 32)


# early releases of transformers 5 named tensors as transformers 4 did, and files are to fit all of them
def test_names_of_tensors_are_those_of_late_transformers_whatever_is_installed(nano: DepthAnythingFeatures) -> None:
    layer = "model.backbone.encoder.layer.0.attention."
    names = {name for name in nano.state_dict() if name.startswith(layer)}
    assert names == {f"{layer}{part}_proj.{kind}" for part in "qkvo" for kind in ("weight", "bias")}
    old = ("attention.query", "attention.key", "attention.value", "output.dense")
    early = [f"encoder.layer.7.attention.{part}.bias" for part in old]
    assert [attention_name(f"x.{name}") for name in early] == [
        f"x.encoder.layer.7.attention.{part}_proj.bias" for part in "qkvo"
    ]


def test_tensors_under_old_names_are_offered_under_the_new_and_are_still_the_weights(
    nano: DepthAnythingFeatures,
) -> None:
    attention = nano.model.backbone.encoder.layer[0].attention
    name_as_early(attention)
    name = "model.backbone.encoder.layer.0.attention.q_proj.weight"
    with torch.no_grad():
        nano.state_dict()[name].fill_(3.0)
    assert float(attention.attention.query.weight.detach().min()) == 3.0
    assert not any(".attention.attention." in name for name in nano.state_dict())
