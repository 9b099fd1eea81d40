"""Stretched tables of positions are kept for as long as they are right, and no longer."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutie_geo.model.depth_anything import DEPTH_SIZES, DepthAnythingFeatures
from cutie_geo.model.hiera import HIERA_SIZES, HieraFeatures

BUILD = {
    "hiera": lambda: HieraFeatures(HIERA_SIZES["hiera-nano"]),
    "depth": lambda: DepthAnythingFeatures(DEPTH_SIZES["depth-nano"]),
}


def table_of(encoder: nn.Module) -> nn.Parameter:
    tables = [p for name, p in encoder.named_parameters() if name.endswith(("pos_embed", "position_embeddings"))]
    assert len(tables) == 1
    return tables[0]


def features(encoder: nn.Module, image: Tensor) -> list[Tensor]:
    found = encoder(image)
    return list(found[0] if isinstance(found[0], tuple) else found)


@pytest.fixture(params=sorted(BUILD))
def encoder(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    built = BUILD[request.param]()
    nn.init.normal_(table_of(built))
    return built.eval()


@pytest.fixture
def stretches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every bicubic enlargement of a table, which alone has another number of channels than an image."""
    seen, real = [], F.interpolate

    def counted(x: Tensor, *args, **options) -> Tensor:
        if options.get("mode") == "bicubic" and x.shape[1] != 3:
            seen.append(1)
        return real(x, *args, **options)

    monkeypatch.setattr(F, "interpolate", counted)
    return seen


def test_frames_of_one_size_share_a_table(encoder: nn.Module, stretches: list[int]) -> None:
    image, other = torch.rand(1, 3, 96, 128), torch.rand(1, 3, 64, 96)
    fresh = [features(copy.deepcopy(encoder), x) for x in (image, other)]
    stretches.clear()
    with torch.inference_mode():
        seen = [features(encoder, x) for x in (image, image, other)]
    assert len(stretches) == 2
    for ours, wanted in zip(seen, (fresh[0], fresh[0], fresh[1])):
        assert all(torch.equal(a, b) for a, b in zip(ours, wanted, strict=True))


def test_changed_weights_are_seen(encoder: nn.Module) -> None:
    image = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        before = features(encoder, image)
        table_of(encoder).mul_(3)
        after, wanted = features(encoder, image), features(copy.deepcopy(encoder), image)
    assert not torch.equal(before[0], after[0])
    assert all(torch.equal(a, b) for a, b in zip(after, wanted, strict=True))


def test_a_copy_has_a_table_of_its_own(encoder: nn.Module) -> None:
    image = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        before = features(encoder, image)
        twin = copy.deepcopy(encoder)
        table_of(twin).zero_()
        assert not torch.equal(features(twin, image)[0], before[0])
        assert torch.equal(features(encoder, image)[0], before[0])


def test_training_reaches_the_table_after_inference(encoder: nn.Module) -> None:
    image = torch.rand(1, 3, 96, 128)
    with torch.inference_mode():
        features(encoder, image)
    torch.stack([x.sum() for x in features(encoder, image)]).sum().backward()
    grad = table_of(encoder).grad
    assert grad is not None
    assert float(grad.abs().sum()) > 0


def test_a_frozen_table_that_inference_stretched_may_be_trained_through(encoder: nn.Module) -> None:
    encoder.requires_grad_(False)
    image = torch.rand(1, 3, 96, 128)
    with torch.inference_mode():
        features(encoder, image)
    image.requires_grad_()
    torch.stack([x.sum() for x in features(encoder, image)]).sum().backward()
    assert image.grad is not None


@pytest.mark.parametrize("name", sorted(BUILD))
def test_weights_born_in_inference_mode_are_stretched_every_time(name: str) -> None:
    image = torch.rand(1, 3, 96, 128)
    with torch.inference_mode():
        encoder = BUILD[name]().eval()
        before = features(encoder, image)
        nn.init.normal_(table_of(encoder))
        assert not torch.equal(features(encoder, image)[0], before[0])


def test_a_window_table_that_changes_is_seen() -> None:
    encoder = BUILD["hiera"]().eval()
    image = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        before = features(encoder, image)
        encoder.trunk.pos_embed_window.add_(1)
        assert not torch.equal(features(encoder, image)[0], before[0])
