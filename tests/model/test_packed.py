"""Kept weights of convolutions and linear layers: the same values, noticed changes, unchanged parameters."""

import copy
import io

import pytest
import torch
from torch import nn

import cutie_geo
from cutie_geo.model import packed
from cutie_geo.model.packed import Derived, KeptLinear, PackedConv2d, pack, with_fused_activations
from cutie_geo.model.timm_backbone import TimmFeatures


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


half = pytest.mark.skipif(torch.bfloat16 not in packed.PACKED_TYPES, reason="this CPU does not compute in bfloat16")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.act = nn.ReLU6()
        self.deep = nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=16, bias=False)
        self.linear = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.deep(self.act(self.conv(x))).mean((2, 3)))


def both() -> tuple[Net, Net]:
    plain = Net()
    kept = copy.deepcopy(plain)
    pack(kept)
    return plain, kept


def run(net: nn.Module, x: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype is not None):
        return net(x)


@half
def test_bfloat16_values_are_those_of_plain_layers() -> None:
    plain, kept = both()
    for size in (8, 13):  # the layout was chosen for the first size
        x = torch.randn(2, 3, size, size)
        wanted = run(plain, x, torch.bfloat16)
        assert (run(kept, x, torch.bfloat16) - wanted).abs().max() < 0.02 * wanted.abs().max()


def test_float32_values_are_exactly_those_of_plain_layers() -> None:
    plain, kept = both()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(run(kept, x), run(plain, x))
    kept(x).sum().backward()
    assert all(weight.grad is not None for weight in kept.parameters())


@half
def test_changed_weights_are_noticed() -> None:
    plain, kept = both()
    x = torch.randn(1, 3, 8, 8)
    before = run(kept, x, torch.bfloat16)
    with torch.no_grad():
        for net in (plain, kept):
            net.conv.weight.mul_(2)
    wanted = run(plain, x, torch.bfloat16)
    assert (run(kept, x, torch.bfloat16) - wanted).abs().max() < 0.02 * wanted.abs().max()
    assert not torch.allclose(run(kept, x, torch.bfloat16), before, rtol=0.05)
    kept.load_state_dict({name: torch.zeros_like(weight) for name, weight in plain.state_dict().items()})
    assert not run(kept, x, torch.bfloat16).any()


@half
def test_parameters_keep_their_names_and_copies_work() -> None:
    plain, kept = both()
    x = torch.randn(1, 3, 8, 8)
    wanted = run(kept, x, torch.bfloat16)
    assert list(kept.state_dict()) == list(plain.state_dict())
    assert isinstance(kept.conv, PackedConv2d) and isinstance(kept.linear, KeptLinear)
    file = io.BytesIO()
    torch.save(kept, file)
    file.seek(0)
    for again in (copy.deepcopy(kept), torch.load(file, weights_only=False)):
        assert torch.equal(run(again, x, torch.bfloat16), wanted)


@pytest.mark.skipif(not packed.PACKED_TYPES, reason="torch has no fused convolutions here")
def test_fused_activations_keep_the_values() -> None:
    plain = Net()
    other = with_fused_activations(plain)
    x = 10 * torch.randn(1, 3, 8, 8)
    assert torch.allclose(run(other, x), run(plain, x), atol=1e-4)
    assert plain.conv.weight is other.conv.weight  # type: ignore[union-attr]


def test_a_backbone_gives_the_same_features_in_inference_and_training() -> None:
    backbone = TimmFeatures("tf_efficientnet_lite0")
    assert backbone.fuses == (torch.float32 in packed.PACKED_TYPES)
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        inferred = backbone(image)
    trained = backbone(image)
    trained[0].sum().backward()
    for got, wanted in zip(inferred, trained):
        assert torch.allclose(got, wanted, atol=1e-4 * float(wanted.detach().abs().max()))


def test_activations_behind_additions_are_not_fused() -> None:
    """ResNet's last activation of a block is registered behind a convolution, but follows the addition."""
    assert not TimmFeatures("resnet10t").fuses


def test_a_value_is_computed_once_for_each_state_of_its_tensors() -> None:
    weight, calls = torch.zeros(2), []
    kept = Derived[int]()
    values = [kept.get([weight, None], lambda: calls.append(0) or len(calls), key) for key in ("a", "a", "b")]
    weight.add_(1)
    assert [*values, kept.get([weight, None], lambda: 7, "b")] == [1, 1, 2, 7]


def test_the_network_keeps_the_weights_of_its_layers() -> None:
    model = cutie_geo.load_model("cutie-geo-tiny", device="cpu", precision="fp32")
    plain = [name for name, module in model.named_modules() if type(module) in (nn.Conv2d, nn.Linear)]
    assert all(name.startswith("encoder.vision") for name in plain)
