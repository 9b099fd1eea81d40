"""The prompt head follows clicks, boxes and the mask so far; a model has one if its configuration says so."""

import math
from pathlib import Path

import pytest
import torch
from tiny import TINY_YAML, tiny_config
from torch import Tensor

from cutie_geo.checkpoints.load import load_model
from cutie_geo.checkpoints.saving import save_checkpoint
from cutie_geo.model.network import CutieGeo
from cutie_geo.model.prompt_head import MATCH_GROUPS, PromptBatch, PromptHead, prompt_maps, region, similarities

CHANNELS = (24, 16, 12)
NOTHING = math.nan


def batch(
    points: list[tuple[float, float, int]] = [],  # noqa: B006
    box: tuple[float, float, float, float] | None = None,
    mask: Tensor | None = None,
    size: tuple[int, int] = (16, 16),
) -> PromptBatch:
    clicks = points or [(0.0, 0.0, -1)]
    return PromptBatch(
        torch.tensor([[click[:2] for click in clicks]]),
        torch.tensor([[click[2] for click in clicks]]),
        torch.tensor([box or [NOTHING] * 4]),
        torch.full((1, *size), NOTHING) if mask is None else mask[None],
    )


def features(size: int = 64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, c, size // s, size // s, generator=generator) for c, s in zip(CHANNELS, (16, 8, 4))]


def test_clicks_fade_with_distance_by_label() -> None:
    maps = prompt_maps(batch([(10.0, 10.0, 1), (50.0, 50.0, 0)]), (16, 16))[0]
    assert maps.shape == (9, 16, 16)
    assert maps[0].argmax() == 2 * 16 + 2
    assert maps[3].argmax() == 12 * 16 + 12
    assert maps[0, 2, 2] == pytest.approx(1, abs=1e-3)
    assert maps[0, 2, 3] == pytest.approx(math.exp(-4 / 8))
    assert maps[2, 2, 3] == pytest.approx(math.exp(-4 / 128))
    assert (maps[6:] == 0).all()


def test_absent_prompts_leave_no_trace() -> None:
    assert (prompt_maps(batch(), (16, 16)) == 0).all()


def test_a_box_and_a_mask_have_signs() -> None:
    mask = torch.zeros(16, 16)
    mask[4:8, 4:8] = 1
    maps = prompt_maps(batch(box=(16.0, 16.0, 32.0, 32.0), mask=mask), (16, 16))[0]
    assert torch.equal(maps[6] > 0, mask > 0)
    assert torch.equal(maps[8], 2 * mask - 1)
    assert maps[7, 5, 5] == pytest.approx(6 / 32)
    assert maps[7, 0, 0] == pytest.approx(-14 / 32)


def test_similarity_is_highest_at_the_click_itself() -> None:
    noise = torch.randn(1, MATCH_GROUPS, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    match = torch.nn.functional.normalize(noise, dim=2)
    found = similarities(match, batch([(28.0, 12.0, 1)]))[0]
    positive, negative = found[:MATCH_GROUPS], found[MATCH_GROUPS : 2 * MATCH_GROUPS]
    assert positive[:, 1, 3].tolist() == pytest.approx([1.0] * MATCH_GROUPS, abs=1e-5)
    assert (negative == -1).all()


def test_the_region_is_the_mask_or_else_the_box() -> None:
    box = (0.0, 0.0, 32.0, 64.0)
    found, known = region(batch(box=box), (8, 8))
    assert bool(known)
    assert torch.equal(found[0, 0], torch.tensor([1.0] * 4 + [0.0] * 4))
    found, known = region(batch(box=box, mask=torch.full((16, 16), 0.25)), (8, 8))
    assert torch.equal(found, torch.full((1, 8, 8), 0.25))
    assert not bool(region(batch(), (8, 8))[1])


def test_unused_entries_change_nothing() -> None:
    torch.manual_seed(0)
    head = PromptHead(CHANNELS, 32).eval()
    prepared = head.prepare(*features())
    alone = head(prepared, batch([(20.0, 20.0, 1)]))
    padded = head(prepared, batch([(20.0, 20.0, 1), (50.0, 3.0, -1)]))
    assert torch.allclose(alone.logits, padded.logits, atol=1e-6)
    assert alone.logits.shape == (1, 16, 16)


@pytest.mark.slow
def test_a_fitted_head_follows_the_click() -> None:
    """Two objects that look alike: the head must find the clicked one, and the one that a box or a mask shows."""
    torch.manual_seed(0)
    head = PromptHead(CHANNELS, 32)
    left, right = torch.zeros(16, 16), torch.zeros(16, 16)
    left[4:12, 1:7], right[4:12, 9:15] = 1, 1
    planes = [torch.nn.functional.avg_pool2d((left + right)[None, None], s // 4) for s in (16, 8, 4)]
    frame = [plane.repeat(1, channels, 1, 1) for plane, channels in zip(planes, CHANNELS)]
    cases = [
        (batch([(16.0, 32.0, 1)]), left), (batch([(48.0, 32.0, 1)]), right),
        (batch(box=(4.0, 16.0, 28.0, 48.0)), left), (batch(box=(36.0, 16.0, 60.0, 48.0)), right),
        (batch([(48.0, 32.0, 0)], mask=left + right), left), (batch([(16.0, 32.0, 0)], mask=left + right), right),
    ]  # fmt: skip
    prompts = PromptBatch(*(torch.cat(each) for each in zip(*(case for case, _ in cases))))
    truth = torch.stack([wanted for _, wanted in cases])
    optimiser = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(60):
        prepared = head.prepare(*frame).rows(torch.zeros(len(cases), dtype=torch.long))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head(prepared, prompts).logits, truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = head(head.prepare(*frame).rows(torch.zeros(len(cases), dtype=torch.long)), prompts).logits > 0
    overlap = (found & (truth > 0)).sum((1, 2)) / (found | (truth > 0)).sum((1, 2))
    assert overlap.min() > 0.8


def test_a_head_of_128_channels_is_small() -> None:
    head = PromptHead((256, 128, 64), 128)
    assert 500_000 < sum(weight.numel() for weight in head.parameters()) < 1_000_000


def test_the_width_is_checked() -> None:
    with pytest.raises(ValueError, match="prompt_channels: got 20, expected 0 or a multiple of 32"):
        tiny_config(prompt_channels=20)


@pytest.mark.slow
def test_checkpoints_keep_a_head_and_load_without_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain, headed = CutieGeo(tiny_config()), CutieGeo(tiny_config(prompt_channels=32))
    for name, model in (("plain", plain), ("headed", headed)):
        save_checkpoint(model, tmp_path / name)
    preset = tmp_path / "tiny.yaml"
    preset.write_text(TINY_YAML)
    loaded = load_model(str(tmp_path / "plain"), device="cpu", precision="fp32")
    assert loaded.prompt_head is None
    for place in (load_model(str(tmp_path / "headed"), device="cpu", precision="fp32"),
                  load_model(str(preset), tmp_path / "headed", "cpu", "fp32")):  # fmt: skip
        assert place.prompt_head is not None
        assert place.prompt_head.trained
        assert all(torch.equal(w, headed.state_dict()[name]) for name, w in place.state_dict().items())
    fresh = load_model(str(tmp_path / "plain"), "auto", "cpu", "fp32", ["prompt_channels=32"])
    assert fresh.prompt_head is not None
    assert not fresh.prompt_head.trained
    other = f"weights.prompt_head={tmp_path / 'headed'}"
    joined = load_model(str(tmp_path / "plain"), "auto", "cpu", "fp32", ["prompt_channels=32", other])
    assert joined.prompt_head is not None
    assert joined.prompt_head.trained
    own = headed.prompt_head.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(w, own[name]) for name, w in joined.prompt_head.state_dict().items())
    assert torch.equal(joined.pixel_projection.weight, plain.pixel_projection.weight)


@pytest.mark.slow
def test_a_head_from_a_checkpoint_without_one_is_refused(tmp_path: Path) -> None:
    save_checkpoint(CutieGeo(tiny_config()), tmp_path / "plain")
    own = f"weights.prompt_head={tmp_path / 'plain'}"
    with pytest.raises(ValueError, match="has no prompt head, expected a checkpoint of its training"):
        load_model(str(tmp_path / "plain"), "auto", "cpu", "fp32", ["prompt_channels=32", own])
    with pytest.raises(ValueError, match="a model without a prompt head, expected prompt_channels"):
        load_model(str(tmp_path / "plain"), "auto", "cpu", "fp32", [own])
