"""The image trunk is SAM 2's own, cut behind the last stage that is needed."""

from importlib.resources import files
from inspect import signature
from typing import Any, Literal

import pytest
import torch
import yaml
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from tiny import randomised
from torch import Tensor

from cutie_geo.model.hiera import HIERA_SIZES, PYRAMID_CHANNELS, HieraFeatures, HieraSize

PUBLISHED = {"hiera-large": "l", "hiera-base-plus": "b+", "hiera-small": "s", "hiera-tiny": "t"}
"""Sizes, and how the sam2 package's configurations abbreviate them."""

SHORT = {"stages": (1, 1, 2, 1), "global_att_blocks": (3,)}
"""Of a trunk with as few blocks as there can be of every kind."""


def published(name: str, release: str) -> dict[str, Any]:
    """The sam2 package's own configuration of an image encoder."""
    text = files("sam2").joinpath(f"configs/{release}/{release}_hiera_{PUBLISHED[name]}.yaml").read_text()
    return yaml.safe_load(text)["model"]["image_encoder"]


def arguments(config: dict[str, Any]) -> dict[str, Any]:
    """What a configuration hands to a constructor."""
    return {name: value for name, value in config.items() if name != "_target_"}


def sam2_encoder(name: str, **changes: Any) -> ImageEncoder:
    """The sam2 package's own image encoder, built from its own configuration."""
    config = published(name, "sam2.1")
    neck = arguments(config["neck"])
    neck["position_encoding"] = PositionEmbeddingSine(**arguments(neck["position_encoding"]), warmup_cache=False)
    return ImageEncoder(Hiera(**(arguments(config["trunk"]) | changes)), FpnNeck(**neck), config["scalp"])


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(2, 3, 96, 160, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["hiera-tiny", *(f"{name} cut short" for name in PUBLISHED)])
def pair(request: pytest.FixtureRequest) -> tuple[ImageEncoder, HieraSize]:
    """The sam2 package's encoder, and the size that ours has to be."""
    name, _, short = request.param.partition(" ")
    size = HIERA_SIZES[name]
    if short:
        size = size._replace(stages=SHORT["stages"], global_blocks=SHORT["global_att_blocks"])
    return randomised(sam2_encoder(name, **(SHORT if short else {}))), size


@pytest.mark.parametrize("release", ["sam2", "sam2.1"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_those_of_the_sam2_package(name: str, release: str) -> None:
    defaults = {name: parameter.default for name, parameter in signature(Hiera).parameters.items()}
    config = published(name, release)
    wanted = defaults | arguments(config["trunk"])
    size = HIERA_SIZES[name]
    assert size.embed_dim == wanted["embed_dim"]
    assert size.num_heads == wanted["num_heads"]
    assert size.stages == tuple(wanted["stages"])
    assert size.global_blocks == tuple(wanted["global_att_blocks"])
    assert size.windows == tuple(wanted["window_spec"])
    assert [size.background] * 2 == list(wanted["window_pos_embed_bkg_spatial_size"])
    assert config["neck"]["d_model"] == PYRAMID_CHANNELS


@torch.inference_mode()
def test_trunk_features_equal_the_ends_of_the_stages_of_sam2(
    pair: tuple[ImageEncoder, HieraSize], image: Tensor
) -> None:
    theirs, ours = pair[0].trunk, HieraFeatures(pair[1]).eval()
    weights = theirs.state_dict()
    ours.trunk.load_state_dict({name: weights[name] for name in ours.trunk.state_dict()})
    f4, f8, f16, _ = theirs(image)
    assert all(torch.equal(got, wanted) for got, wanted in zip(ours(image), (f16, f8, f4), strict=True))


@torch.inference_mode()
def test_fpn_features_equal_the_pyramid_of_sam2(pair: tuple[ImageEncoder, HieraSize], image: Tensor) -> None:
    theirs, ours = pair[0], HieraFeatures(pair[1], "fpn").eval()
    ours.load_state_dict(theirs.state_dict())
    f4, f8, f16 = theirs(image)["backbone_fpn"]
    assert all(torch.equal(got, wanted) for got, wanted in zip(ours(image), (f16, f8, f4), strict=True))


@torch.inference_mode()
@pytest.mark.parametrize(("kind", "stages"), [("trunk", 3), ("fpn", 4)])
def test_the_last_stage_is_held_and_run_for_the_pyramid_only(
    kind: Literal["trunk", "fpn"], stages: int, image: Tensor
) -> None:
    size, ran = HIERA_SIZES["hiera-nano"], []
    features = HieraFeatures(size, kind)
    for block in features.trunk.blocks:
        block.register_forward_hook(lambda *_: ran.append(1))
    features(image)
    assert len(ran) == len(features.trunk.blocks) == sum(size.stages[:stages])
    assert list(features.left_out) == list(range(len(ran), sum(size.stages)))


@torch.inference_mode()
@pytest.mark.parametrize(
    ("kind", "channels"), [("trunk", (128, 64, 32)), ("fpn", (PYRAMID_CHANNELS, PYRAMID_CHANNELS, PYRAMID_CHANNELS))]
)
def test_features_have_the_strides_and_channels_that_they_say(
    kind: Literal["trunk", "fpn"], channels: tuple[int, ...], image: Tensor
) -> None:
    features = HieraFeatures(HIERA_SIZES["hiera-nano"], kind)
    assert features.channels == channels
    assert [tuple(x.shape[1:]) for x in features(image)] == [
        (channels[0], 6, 10),
        (channels[1], 12, 20),
        (channels[2], 24, 40),
    ]
