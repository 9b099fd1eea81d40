"""What the parts of the network promise by themselves, and what training needs of the whole."""

import copy

import pytest
import torch
from fitting import clip_loss
from parity_rules import synthetic_video
from tiny import tiny_config
from torch import Tensor, nn

from cutie_geo.model.blocks import (
    Attention,
    ChannelGatedBlock,
    ObjectFusion,
    ResidualBlock,
    ResNetFeatures,
    SensoryUpdate,
    normalise,
)
from cutie_geo.model.mask_encoder import with_extra_channel
from cutie_geo.model.network import CutieGeo
from cutie_geo.model.object_transformer import blocked_positions, foreground_masks
from cutie_geo.ops import soft_aggregate
from cutie_geo.structures import FrameFeatures, MemoryView, Readout


def lively(network: nn.Module) -> nn.Module:
    """Normalisations as training leaves them; at birth half of a ResNet's are zero and hide what is before them."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.0)
                module.bias.normal_(0, 0.1)
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return network


@pytest.fixture
def resnet() -> ResNetFeatures:
    torch.manual_seed(0)
    network = lively(ResNetFeatures("resnet18", in_channels=5)).eval()
    assert isinstance(network, ResNetFeatures)
    return network


@pytest.fixture(scope="module")
def network() -> CutieGeo:
    torch.manual_seed(0)
    network = lively(CutieGeo(tiny_config()))
    assert isinstance(network, CutieGeo)
    return network


@pytest.fixture(scope="module")
def clip() -> tuple[Tensor, Tensor]:
    images, labels = synthetic_video(48, 64, 4)
    return torch.from_numpy(images), torch.from_numpy(labels)


# ------------------------------------------------------------------------------------------------------------ images
def test_an_image_of_the_mean_colour_is_zero_and_one_deviation_more_is_one() -> None:
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for times in (0.0, 1.0):
        image = (mean + times * deviation).view(1, 3, 1, 1).expand(1, 3, 2, 2)
        torch.testing.assert_close(normalise(image), torch.full((1, 3, 2, 2), times))


# ----------------------------------------------------------------------------------------------------------- resnets
def test_normalisations_keep_to_their_statistics_in_training_too(resnet: ResNetFeatures) -> None:
    x = torch.rand(2, 5, 32, 32)
    before, expected = copy.deepcopy(resnet.state_dict()), resnet(x)[-1]
    resnet.train()
    norms = [module for module in resnet.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    assert torch.equal(resnet(x)[-1], expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in resnet.state_dict().items())
    assert all(norm.weight.requires_grad and norm.bias.requires_grad for norm in norms)


def test_normalisations_keep_to_their_statistics_from_birth() -> None:
    resnet = ResNetFeatures("resnet18")
    assert not any(module.training for module in resnet.modules())
    with torch.inference_mode():
        assert len(resnet(torch.rand(1, 3, 16, 16))) == 3


def test_a_whole_network_in_training_has_its_normalisations_in_evaluation_mode(network: CutieGeo) -> None:
    network.train()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 30
    assert not any(norm.training for norm in norms)
    assert network.training
    assert network.object_transformer.training


def folded_error(resnet: ResNetFeatures, x: Tensor) -> float:
    """The largest difference between features with and without folding."""
    with torch.no_grad():
        plain = resnet(x)
    with torch.inference_mode():
        folded = resnet(x)
    assert len(plain) == len(folded) == 3
    return max(float((a - b).abs().max()) for a, b in zip(plain, folded))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet-nano"])
def test_folded_normalisations_give_the_same_features(name: str) -> None:
    torch.manual_seed(0)
    resnet = lively(ResNetFeatures(name)).eval()
    assert isinstance(resnet, ResNetFeatures)
    x = torch.rand(1, 3, 64, 48)
    assert resnet(x)[-1].std() > 0.01
    assert folded_error(resnet, x) < 1e-4
    assert [f.shape[-1] for f in resnet(x)] == [12, 6, 3]
    assert tuple(f.shape[1] for f in resnet(x)) == resnet.channels


def test_inference_goes_through_convolutions_without_normalisations(resnet: ResNetFeatures) -> None:
    ran: list[str] = []
    hook = nn.modules.module.register_module_forward_hook(lambda module, *_: ran.append(type(module).__name__))
    try:
        with torch.inference_mode():
            resnet(torch.rand(1, 5, 16, 16))
    finally:
        hook.remove()
    assert ran.count("PackedConv2d") == 15
    assert not any("Norm" in name for name in ran)


def test_folding_follows_weights_that_are_changed_in_place(resnet: ResNetFeatures) -> None:
    x = torch.rand(1, 5, 32, 32)
    assert folded_error(resnet, x) < 1e-4
    with torch.no_grad():
        resnet.body.layer2[0].bn2.bias.add_(1)
    assert folded_error(resnet, x) < 1e-4
    with torch.no_grad():
        resnet.body.bn1.running_mean.add_(1)
    assert folded_error(resnet, x) < 1e-4
    with torch.inference_mode():
        resnet.body.layer3[1].conv1.weight.mul_(-1)
    assert folded_error(resnet, x) < 1e-4


def test_folding_follows_weights_that_an_optimiser_changes(resnet: ResNetFeatures) -> None:
    x = torch.rand(1, 5, 32, 32)
    assert folded_error(resnet, x) < 1e-4
    optimizer = torch.optim.SGD(resnet.parameters(), 0.1)
    resnet(x)[-1].square().mean().backward()
    optimizer.step()
    assert folded_error(resnet, x) < 1e-4


@pytest.mark.parametrize("assign", [False, True])
def test_folding_follows_weights_that_are_loaded(resnet: ResNetFeatures, assign: bool) -> None:
    x = torch.rand(1, 5, 32, 32)
    with torch.inference_mode():
        before = resnet(x)[-1].clone()
    other = {name: t * 0.9 if t.is_floating_point() else t for name, t in resnet.state_dict().items()}
    resnet.load_state_dict(other, assign=assign)
    assert folded_error(resnet, x) < 1e-4
    with torch.inference_mode():
        assert not torch.allclose(resnet(x)[-1], before)


def test_folding_follows_weights_that_only_moved(resnet: ResNetFeatures) -> None:
    """Two sets of new tensors, neither ever changed in place."""
    x = torch.rand(1, 5, 32, 32)
    for factor in (1.0, 0.9):
        new = {name: t * factor if t.is_floating_point() else t.clone() for name, t in resnet.state_dict().items()}
        resnet.load_state_dict(new, assign=True)
        assert folded_error(resnet, x) < 1e-4


def test_folding_follows_weights_to_another_type(resnet: ResNetFeatures) -> None:
    x = torch.rand(1, 5, 32, 32)
    assert folded_error(resnet, x) < 1e-4
    assert folded_error(resnet.to(torch.float64), x.double()) < 1e-10
    with torch.inference_mode():
        assert resnet(x.double())[-1].dtype == torch.float64


def test_folding_is_done_once_for_unchanged_weights(resnet: ResNetFeatures) -> None:
    x = torch.rand(1, 5, 16, 16)
    with torch.inference_mode():
        resnet(x)
        first = resnet._folded_body()
        resnet(x)
        assert resnet._folded_body() is first


def test_folding_adds_nothing_to_what_is_saved_or_trained(resnet: ResNetFeatures) -> None:
    names, count = list(resnet.state_dict()), sum(1 for _ in resnet.parameters())
    modules, buffers = len(list(resnet.modules())), len(list(resnet.buffers()))
    with torch.inference_mode():
        resnet(torch.rand(1, 5, 16, 16))
    assert list(resnet.state_dict()) == names
    assert sum(1 for _ in resnet.parameters()) == count
    assert (len(list(resnet.modules())), len(list(resnet.buffers()))) == (modules, buffers)
    assert any("bn1" in name for name in names)


def test_a_copy_of_a_network_folds_its_own_weights(resnet: ResNetFeatures) -> None:
    x = torch.rand(1, 5, 32, 32)
    folded_error(resnet, x)
    other = copy.deepcopy(resnet)
    with torch.no_grad():
        other.body.conv1.weight.mul_(2)
    assert folded_error(other, x) < 1e-4
    assert folded_error(resnet, x) < 1e-4


# --------------------------------------------------------------------------------------------------------- attention
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_pytorchs_with_one_mask_for_all_heads(masked: bool) -> None:
    torch.manual_seed(0)
    ours, reference = Attention(24, 3), nn.MultiheadAttention(24, 3, batch_first=True)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(0, 0.3)
    reference.load_state_dict(ours.state_dict())
    query, key, value = torch.randn(2, 5, 24), torch.randn(2, 7, 24), torch.randn(2, 7, 24)
    blocked = torch.rand(2, 5, 7) < 0.5 if masked else None
    if blocked is not None:
        blocked[..., 0] = False
    mask = None if blocked is None else blocked.repeat_interleave(3, dim=0)
    expected, _ = reference(query, key, value, attn_mask=mask, need_weights=False)
    torch.testing.assert_close(ours(query, key, value, blocked), expected, rtol=1e-4, atol=1e-5)


def test_what_is_blocked_has_no_influence() -> None:
    torch.manual_seed(0)
    attention, query, pixels = Attention(8, 2), torch.randn(1, 3, 8), torch.randn(1, 4, 8)
    blocked = torch.zeros(1, 3, 4, dtype=torch.bool)
    blocked[:, 1, 2] = True
    first = attention(query, pixels, pixels, blocked)
    pixels[:, 2] += 1
    second = attention(query, pixels, pixels, blocked)
    torch.testing.assert_close(first[:, 1], second[:, 1])
    assert (first - second).abs().amax(-1)[0, [0, 2]].min() > 1e-3


def test_an_object_is_foreground_where_it_is_at_least_as_likely_as_all_else() -> None:
    logits = torch.tensor([[3.0, 2.0, -1.0, 0.0], [2.0, 2.0, -2.0, -200.0]]).view(1, 2, 1, 4)
    # ties: the second column between the objects, the fourth between the first object and the background
    tied = soft_aggregate(logits.sigmoid())[0, :, 0, 3]
    assert tied[0] == tied[1] > tied[2]
    foreground = foreground_masks(logits, None)
    assert foreground[0, 0, 0].tolist() == [True, True, False, True]
    assert foreground[0, 1, 0].tolist() == [False, True, False, False]


def test_a_slot_without_an_object_is_nowhere_foreground_and_takes_nothing_away() -> None:
    logits = torch.tensor([1.0, 9.0]).view(1, 2, 1, 1)
    assert foreground_masks(logits, None).flatten().tolist() == [False, True]
    assert foreground_masks(logits, torch.tensor([[1.0, 0.0]])).flatten().tolist() == [True, False]


def test_foreground_carries_no_gradient() -> None:
    assert not foreground_masks(torch.zeros(1, 2, 3, 3, requires_grad=True), None).requires_grad


def test_half_the_queries_look_at_foreground_and_half_at_background() -> None:
    foreground = torch.tensor([[True, False, False], [False, True, True]]).view(1, 1, 2, 3)
    blocked = blocked_positions(foreground, 6)
    assert blocked.shape == (1, 1, 6, 6)
    inside = foreground.flatten()
    for query in range(6):
        assert torch.equal(blocked[0, 0, query], ~inside if query < 3 else inside)


@pytest.mark.parametrize("everything", [False, True])
def test_a_query_that_would_see_nothing_sees_everything(everything: bool) -> None:
    foreground = torch.full((2, 3, 2, 2), everything)
    foreground[1, 2, 0, 1] = not everything
    blocked = blocked_positions(foreground, 4)
    assert not blocked[0].any()
    assert not blocked[1, :2].any()
    assert blocked[1, 2].sum(-1).tolist() == ([3, 3, 1, 1] if not everything else [1, 1, 3, 3])
    assert not blocked.all(dim=-1).any()


# ------------------------------------------------------------------------------------------------------ other blocks
def test_the_channel_gate_scales_the_convolutions_output_and_not_the_shortcut() -> None:
    torch.manual_seed(0)
    block, x = ChannelGatedBlock(16), torch.randn(2, 16, 5, 6)
    y = block.conv2(block.conv1(x.relu()).relu())
    weight = block.gate.weight.flatten()
    mean = y.mean(dim=(2, 3))
    expected = x.clone()
    for c in range(16):
        near = sum(
            weight[j] * mean[:, c + j - len(weight) // 2]
            for j in range(len(weight))
            if 0 <= c + j - len(weight) // 2 < 16
        )
        expected[:, c] += y[:, c] * torch.as_tensor(near).sigmoid()[:, None, None]
    torch.testing.assert_close(block(x), expected)


def test_the_channel_gate_keeps_its_shortcut_under_autocast() -> None:
    torch.manual_seed(0)
    block, x = ChannelGatedBlock(16), torch.randn(2, 16, 5, 6)
    expected = block(x)
    for given in (x, x.bfloat16()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = block(given)
        assert result.dtype == given.dtype
        torch.testing.assert_close(result.float(), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("channels", "width"), [(256, 5), (128, 5), (64, 3), (32, 3), (16, 3)])
def test_the_gate_is_as_wide_as_the_channels_ask(channels: int, width: int) -> None:
    assert ChannelGatedBlock(channels).gate.weight.shape == (1, 1, width)


@pytest.mark.parametrize("out", [4, 6])
def test_a_residual_block_has_a_projection_only_where_widths_differ(out: int) -> None:
    block, x = ResidualBlock(4, out), torch.randn(1, 4, 5, 5)
    assert isinstance(block.shortcut, nn.Identity) == (out == 4)
    assert block(x).shape == (1, out, 5, 5)
    torch.testing.assert_close(block(x), block.conv2(block.conv1(x.relu()).relu()) + block.shortcut(x))


def test_fusion_shares_the_frame_and_keeps_objects_apart() -> None:
    torch.manual_seed(0)
    fusion, shared, objects = ObjectFusion(3, 5, 8), torch.randn(2, 3, 4, 6), torch.randn(2, 3, 5, 4, 6)
    fused = fusion(shared, objects)
    assert fused.shape == (2, 3, 8, 4, 6)
    torch.testing.assert_close(fusion(shared, objects[:, 1:2]), fused[:, 1:2])


def test_the_sensory_update_forgets_and_renews_as_its_gates_say() -> None:
    torch.manual_seed(0)
    update, x, sensory = SensoryUpdate(3, 4), torch.randn(1, 2, 3, 5, 5), torch.randn(1, 2, 4, 5, 5)
    result = update(x, sensory)
    for n in range(2):
        gates = update.transform(torch.cat([x[:, n], sensory[:, n]], 1))
        forget, renew, candidate = gates[:, :4].sigmoid(), gates[:, 4:8].sigmoid(), gates[:, 8:].tanh()
        torch.testing.assert_close(result[:, n], forget * sensory[:, n] * (1 - renew) + renew * candidate)


def test_sensory_memory_is_float32_under_autocast_too() -> None:
    torch.manual_seed(0)
    update, x, sensory = SensoryUpdate(3, 4), torch.randn(1, 2, 3, 5, 5).bfloat16(), torch.randn(1, 2, 4, 5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = update(x, sensory)
    assert result.dtype == torch.float32
    wanted = update(x.float(), sensory)
    assert (result - wanted).abs().max() < 0.02 * wanted.abs().max()  # the convolution of the gates is in bfloat16
    kept = torch.full_like(sensory, 1.0 + 2**-12)  # what a state in bfloat16 would lose
    update.transform.weight.data.zero_()
    update.transform.bias.data.copy_(torch.tensor([30.0] * 4 + [-30.0] * 4 + [0.0] * 4))  # type: ignore[union-attr]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(update(x, kept), kept)


def test_weights_are_widened_and_cut_at_the_end() -> None:
    weight = torch.randn(6, 4, 3, 3)
    wider = with_extra_channel(weight, 6)
    assert wider.shape == (6, 6, 3, 3)
    assert torch.equal(wider[:, :4], weight)
    new = wider[:, 4:].flatten(1)
    torch.testing.assert_close(new @ new.T, torch.eye(6), rtol=0, atol=1e-5)
    assert torch.equal(with_extra_channel(weight, 3), weight[:, :3])


# ---------------------------------------------------------------------------------------------------------- training
def remembered(network: CutieGeo, images: Tensor, labels: Tensor) -> tuple[FrameFeatures, MemoryView]:
    """A frame, and what the frame before it left of its three objects."""
    masks = torch.stack([labels[:1] == i for i in (1, 2, 3)], dim=1).float()
    first, second = network.encode(images[:1]), network.encode(images[1:2])
    memory = network.memorise(first, masks, network.empty_sensory(first, 3))
    return second, MemoryView(first.key, first.shrinkage, memory.value, memory.sensory, memory.summary, masks)


@pytest.mark.parametrize("top_k", [None, 5])
def test_a_read_is_the_same_in_training_and_in_evaluation(
    network: CutieGeo, clip: tuple[Tensor, Tensor], top_k: int | None
) -> None:
    results: list[Readout] = []
    for mode in (True, False):
        network.train(mode)
        features, view = remembered(network, *clip)
        results.append(network.read(features, view, top_k=top_k))
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_by_default_every_token_is_read(network: CutieGeo, clip: tuple[Tensor, Tensor]) -> None:
    with torch.no_grad():
        features, view = remembered(network, *clip)
        every, best = network.read(features, view), network.read(features, view, top_k=5)
        all_by_number = network.read(features, view, top_k=12)
    torch.testing.assert_close(every.features, all_by_number.features, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(every.usage, all_by_number.usage)
    assert (every.usage - best.usage).abs().max() > 1e-3


def without_gradient(network: CutieGeo) -> set[str]:
    """The owners of parameters that no gradient, or only zeros, reached; every gradient is finite."""
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in network.parameters())
    idle = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    return {name.rsplit(".", 1)[0] for name in idle}


@pytest.mark.slow
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_the_loss_of_a_clip_reaches_every_parameter_but_the_auxiliary_heads(
    network: CutieGeo, clip: tuple[Tensor, Tensor], mode: bool
) -> None:
    """The object transformer's masks only say where queries look, which carries no gradient: like the sensory head
    they learn from the auxiliary losses."""
    network.train(mode).zero_grad()
    clip_loss(network, *clip).backward()
    masks = {f"object_transformer.masks.{i}" for i in range(3)}
    assert without_gradient(network) == {"sensory_head", *masks}


def test_the_auxiliary_logits_reach_their_heads(network: CutieGeo, clip: tuple[Tensor, Tensor]) -> None:
    network.zero_grad()
    features, view = remembered(network, *clip)
    readout = network.read(features, view)
    logits, query_logits = network.auxiliary_logits(features, view.sensory, readout.query_logits)
    assert logits.shape == (1, 4, 3, 4)
    assert query_logits.shape == (1, 4, 3, 3, 4)
    (logits.log_softmax(1)[:, 0].mean() + query_logits.log_softmax(1)[:, 0].mean()).backward()
    idle = without_gradient(network)
    assert not any(name.startswith(("sensory_head", "object_transformer")) for name in idle)
    assert "decoder.predict" in idle


def test_eval_folds_anew_after_a_change_that_torch_does_not_count() -> None:
    torch.manual_seed(0)
    features, x = ResNetFeatures("resnet18"), torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        before = features(x)[-1]
    for parameter in features.parameters():
        parameter.data.mul_(1.5)
    features.eval()
    with torch.inference_mode():
        folded_result = features(x)[-1]
    with torch.no_grad():
        plain = features(x)[-1]
    assert not torch.allclose(folded_result, before)
    torch.testing.assert_close(folded_result, plain, rtol=1e-4, atol=1e-4)
