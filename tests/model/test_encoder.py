"""The paper's encoder: two networks, frozen where they come from published weights, and a fusion that is trained."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import TINY_GEO_YAML, randomised, tiny_config, tiny_geo_config
from torch import Tensor, nn

from cutie_geo.config import EncoderConfig, build
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.encoder import FusedEncoder, ScaleFusion
from cutie_geo.model.network import CutieGeo
from cutie_geo.ops import similarity

NANO = tiny_geo_config().encoder

HALF_ERROR = 0.03
"""Share of the largest value by which bfloat16 in frozen parts with random weights may move features and depth."""

IMPORTS = """
import sys
import torch
import cutie_geo

for name in sys.argv[1:]:
    model = cutie_geo.load_model(name, weights="none", device="cpu")
    cutie_geo.Tracker(model).encode(torch.rand(3, 64, 96))
    print(*sorted({"sam2", "transformers"} & sys.modules.keys()))
"""


def encoder_config(**changes: Any) -> EncoderConfig:
    """Of the tiny network with the paper's encoder, changed."""
    return tiny_geo_config(encoder={**vars(NANO), **changes}).encoder


def starts_from_files(**changes: Any) -> FusedEncoder:
    """An encoder whose parts are those of published weights, with random numbers in their place."""
    published = {
        "vision": "hiera-tiny",
        "vision_init": "sam2.1",
        "geometry": "depth-anything-v2-small",
        "geometry_init": "depth-anything-v2",
    }
    torch.manual_seed(0)
    return randomised(FusedEncoder(encoder_config(**(published | changes))))


def noise(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(1))


def trained(encoder: FusedEncoder) -> set[str]:
    """The parts that have parameters with gradients after a backward pass."""
    encoded = encoder.train()(noise(1, 3, 64, 64))
    (encoded.f16.square().mean() + encoded.f8.square().mean() + encoded.f4.square().mean()).backward()
    return {name.split(".")[0] for name, p in encoder.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.fixture(scope="module")
def nano() -> CutieGeo:
    torch.manual_seed(0)
    return randomised(CutieGeo(tiny_geo_config()))


@pytest.fixture(scope="module")
def published() -> FusedEncoder:
    return starts_from_files()


# ------------------------------------------------------------------------------------------------------------ frames
@pytest.mark.slow
@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [
        (480, 854, 30, 54),
        (576, 1025, 36, 66),
        (624, 1110, 40, 70),
        (672, 1196, 42, 76),
        (97, 131, 8, 10),
        (854, 480, 54, 30),
        (480, 480, 30, 30),
    ],
)
def test_frames_of_any_size_become_features_at_strides_16_8_and_4(
    nano: CutieGeo, height: int, width: int, rows: int, columns: int
) -> None:
    features = Tracker(nano).encode(torch.rand(3, height, width))
    assert features.image.shape[-2:] == (16 * rows, 16 * columns)
    assert features.f16.shape == (1, 48, rows, columns)
    assert features.f8.shape == (1, 32, 2 * rows, 2 * columns)
    assert features.f4.shape == (1, 24, 4 * rows, 4 * columns)
    assert features.key.shape[1] == rows * columns


def test_a_frame_is_padded_on_all_sides_to_a_multiple_of_32(nano: CutieGeo) -> None:
    """Of an odd border the bottom and the right get one pixel more."""
    image = torch.rand(3, 624, 99)
    by_hand = F.pad(image, (14, 15, 8, 8))[None]
    with torch.inference_mode():
        wanted = nano.encode(by_hand)
    got = Tracker(nano).encode(image)
    assert all(torch.equal(x, y) for x, y in zip(got[:-1], wanted[:-1], strict=True))  # type: ignore[arg-type]


@torch.inference_mode()
def test_a_batch_gives_what_its_frames_give_alone(nano: CutieGeo) -> None:
    images = noise(2, 3, 96, 160)
    together = nano.encoder(images, True)
    for i in range(2):
        alone = nano.encoder(images[i : i + 1], True)
        for x, y in zip(together, alone, strict=True):
            torch.testing.assert_close(x[i : i + 1], y, rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- depth
@torch.inference_mode()
def test_depth_comes_only_when_asked_for_and_changes_no_feature(nano: CutieGeo) -> None:
    image = torch.rand(1, 3, 96, 160)
    without, with_depth = nano.encode(image), nano.encode(image, with_depth=True)
    assert without.depth is None
    assert with_depth.depth is not None and with_depth.depth.shape == (1, 84, 140)
    assert all(torch.equal(x, y) for x, y in zip(without[:-1], with_depth[:-1], strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("config", [tiny_config(), tiny_geo_config(encoder={**vars(NANO), "geometry": "none"})])
def test_depth_of_an_encoder_without_geometry_is_refused(config: Any) -> None:
    with pytest.raises(ValueError, match="depth: this model has no geometry encoder, expected one such as cutie-geo-"):
        CutieGeo(config).encode(torch.rand(1, 3, 64, 64), with_depth=True)


# ----------------------------------------------------------------------------------------------------------- imports
@pytest.mark.slow
def test_an_encoder_imports_only_the_packages_that_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "vision.yaml"
    path.write_text(TINY_GEO_YAML.replace("geometry: depth-nano", "geometry: none"))
    command = [sys.executable, "-c", IMPORTS, "cutie-small", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["", "sam2"]


# ------------------------------------------------------------------------------------------------------------ fusion
@torch.inference_mode()
@pytest.mark.parametrize("louder", [0, 1])
def test_a_source_with_larger_numbers_does_not_drown_the_other(louder: int) -> None:
    fusion = randomised(ScaleFusion((32, 16), 24))
    sources = [noise(1, 32, 6, 10), noise(1, 16, 6, 10) + 1]
    before = fusion(*sources)
    sources[louder] = 100 * sources[louder]
    torch.testing.assert_close(fusion(*sources), before, rtol=0, atol=1e-4)


def test_fusion_reads_every_source() -> None:
    fusion = randomised(ScaleFusion((32, 16), 24))
    sources = [noise(1, 32, 6, 10).requires_grad_(), noise(1, 16, 6, 10).requires_grad_()]
    fusion(*sources).square().sum().backward()
    assert all(source.grad is not None and bool(source.grad.any()) for source in sources)


# ------------------------------------------------------------------------------------------------------ frozen parts
@pytest.mark.slow
def test_frozen_parts_are_left_as_they_are_and_fusion_is_trained(published: FusedEncoder) -> None:
    assert published.frozen == ("vision", "geometry")
    assert trained(published) == {"fusion"}
    assert not any(p.requires_grad for name in published.frozen for p in published.part(name).parameters())
    assert all(p.grad is not None for p in published.fusion.parameters())


def test_frozen_parts_stay_in_evaluation_mode(published: FusedEncoder) -> None:
    network = nn.Sequential(published).train()
    modes = {name: {m.training for m in published.part(name).modules()} for name in ("vision", "geometry", "fusion")}
    assert modes == {"vision": {False}, "geometry": {False}, "fusion": {True}}
    network.eval()
    assert not published.fusion.training


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"freeze": False}, {"vision", "geometry", "fusion"}),
        ({"vision": "hiera-nano", "vision_init": "none"}, {"vision", "fusion"}),
        ({"geometry": "depth-nano", "geometry_init": "none"}, {"geometry", "fusion"}),
        ({"geometry": "none"}, {"fusion"}),
    ],
)
def test_parts_that_start_at_random_or_are_not_frozen_are_trained(changes: dict[str, Any], wanted: set[str]) -> None:
    encoder = starts_from_files(**changes)
    assert trained(encoder) == wanted
    assert {m.training for name in wanted for m in getattr(encoder, name).modules()} == {True}


# --------------------------------------------------------------------------------------------------------- precision
@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize("features", ["trunk", "fpn"])
def test_frozen_parts_in_half_precision_say_nearly_the_same(features: str) -> None:
    encoder, image = starts_from_files(vision_features=features), noise(1, 3, 96, 160)
    encoder.geometry.model.head.conv3.bias.fill_(0.1)  # type: ignore[union-attr]
    full = encoder(image, True)
    encoder.cast(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(image, True)
    assert half.depth is not None and half.depth.dtype == torch.float32
    for x, y in zip(half, full, strict=True):
        assert (x - y).abs().max() < HALF_ERROR * y.abs().max()


def test_half_precision_is_for_frozen_parts_only_and_can_not_be_undone() -> None:
    encoder = starts_from_files(geometry="depth-nano", geometry_init="none")
    encoder.cast(torch.float32)
    encoder.cast(torch.bfloat16)
    encoder.cast(torch.bfloat16)
    types = {name.split(".")[0]: parameter.dtype for name, parameter in encoder.named_parameters()}
    assert types == {"vision": torch.bfloat16, "geometry": torch.float32, "fusion": torch.float32}
    for dtype in (torch.float32, torch.float16):
        with pytest.raises(ValueError, match=r"the vision encoder is in torch\.bfloat16; load the model again"):
            encoder.cast(dtype)
    assert {p.dtype for p in encoder.vision.parameters()} == {torch.bfloat16}


# ----------------------------------------------------------------------------------------------------- configuration
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"vision": "resnet50", "geometry": "depth-anything-v2-small"},
            "geometry: got depth-anything-v2-small with resnet50, expected it with a Hiera trunk",
        ),
        (
            {"vision": "hiera-large", "vision_init": "mae", "vision_features": "fpn"},
            "vision_features: got fpn with vision_init mae, which has no feature pyramid; expected trunk",
        ),
        (
            {"vision": "hiera-nano", "vision_init": "sam2.1"},
            "vision_init: got sam2.1 with hiera-nano, which is not published; expected none",
        ),
        (
            {"vision": "hiera-tiny", "geometry": "depth-nano"},
            "geometry_init: got depth-anything-v2 with depth-nano, which is not published; expected none",
        ),
        ({"vision": "hiera-huge"}, "encoder: vision: got 'hiera-huge', expected one of 'resnet50', .*'hiera-large'"),
        ({"geometry": "midas"}, "encoder.geometry: got 'midas', expected one of 'none', 'depth-anything-v2-large'"),
        ({"channels": [64, 0, 16]}, r"channels: got \(64, 0, 16\), expected positive numbers"),
        ({"visions": "resnet50"}, "encoder: unknown visions; known are vision,"),
    ],
)
def test_an_encoder_that_can_not_be_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(EncoderConfig, given, "encoder")


def test_memory_is_not_read_evenly_before_training() -> None:
    """Keys behind a random fusion start apart: else there is nothing to learn matching from."""
    torch.manual_seed(0)
    model = CutieGeo(tiny_geo_config()).eval()
    with torch.inference_mode():
        frames = model.encode(F.interpolate(torch.rand(2, 3, 8, 8), size=(96, 96), mode="bicubic").clamp(0, 1))
        first, second = frames.frames()
        weights = similarity(second.key, second.selection, first.key, first.shrinkage).softmax(-1)
    even = 1 / weights.shape[-1]
    assert float(weights.amax(-1).mean()) > 1.2 * even
