"""What the losses reward, and what they must not depend on."""

import pytest
import torch
from torch import Tensor

from cutie_geo.config import LossConfig
from cutie_geo.structures import ClipBatch
from cutie_geo.training.losses import (
    batch_losses,
    cross_entropy_loss,
    depth_loss,
    dice_loss,
    draw_points,
    match_loss,
    sample,
    uncertain_points,
)
from cutie_geo.training.sampling import generators
from cutie_geo.training.unroll import Unrolled

CONFIG = LossConfig(points=256)


def made_up(clips: int = 2, frames: int = 3, objects: int = 2, certainty: float = 0.0) -> tuple[Unrolled, ClipBatch]:
    """Random logits, or logits that are right with some certainty, for random masks."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, objects + 1, (clips, frames + 1, 4, 4), generator=generator)
    labels = coarse.repeat_interleave(16, 2).repeat_interleave(16, 3)

    def logits(at: Tensor) -> Tensor:
        truth = torch.nn.functional.one_hot(at, objects + 1).movedim(-1, 2).float()
        noise = torch.randn(truth.shape, generator=generator)
        return certainty * truth + (0.0 if certainty else 1.0) * noise

    queries = torch.stack([logits(coarse[:, 1:]) for _ in range(3)], dim=3)
    keys = [torch.rand(clips, frames + 1, 16, channels, generator=generator) for channels in (8, 1, 8)]
    said = Unrolled(
        logits(labels[:, 1:]), logits(coarse[:, 1:]), queries, torch.zeros(1, 1, 1, 1, 1), keys[0], keys[1], keys[2]
    )
    batch = ClipBatch(
        torch.zeros(clips, frames + 1, 3, 64, 64),
        labels,
        torch.full((clips,), objects),
        torch.arange(clips),
        ("a", "b"),
    )
    return said, batch


def test_right_masks_cost_much_less_than_random_ones() -> None:
    right, random = (
        batch_losses(*made_up(certainty=certainty), CONFIG, generators([0, 1], torch.device("cpu")))[0]
        for certainty in (20.0, 0.0)
    )
    assert float(right["mask_dice"]) < 0.1 * float(random["mask_dice"])
    assert float(right["mask_ce"]) < 0.4 * float(random["mask_ce"]), "what is left are soft targets between blocks"


def test_the_total_is_the_sum_of_all_others_and_the_mean_of_the_clips() -> None:
    said, batch = made_up()
    losses, totals = batch_losses(said, batch, CONFIG, generators([0, 1], torch.device("cpu")))
    parts = sum(value for name, value in losses.items() if name != "total")
    assert float(losses["total"]) == pytest.approx(float(parts), rel=1e-5)
    assert float(losses["total"]) == pytest.approx(float(totals.mean()), rel=1e-6)
    assert set(losses) == {
        f"{name}_{kind}" for name in ("mask", "sensory", "query0", "query1", "query2") for kind in ("ce", "dice")
    } | {"total"}


def test_auxiliary_losses_weigh_what_the_configuration_says() -> None:
    said, batch = made_up()
    one, _ = batch_losses(said, batch, CONFIG, generators([0, 1], torch.device("cpu")))
    more = LossConfig(points=256, sensory_weight=0.05, query_weight=0.02)
    other, _ = batch_losses(said, batch, more, generators([0, 1], torch.device("cpu")))
    assert float(other["sensory_ce"] / one["sensory_ce"]) == pytest.approx(5, rel=1e-5)
    assert float(other["query1_dice"] / one["query1_dice"]) == pytest.approx(2, rel=1e-5)
    assert float(other["mask_ce"]) == float(one["mask_ce"])


def test_a_clips_loss_depends_on_its_own_seed_and_slots_only() -> None:
    said, batch = made_up()
    both = batch_losses(said, batch, CONFIG, generators([3, 4], torch.device("cpu")))[1]
    second = Unrolled(*(field[1:] for field in said[:3]), said.sensory, *(field[1:] for field in said[4:7]))
    rest = (batch.images[1:], batch.labels[1:], batch.num_objects[1:], batch.seeds[1:])
    alone = batch_losses(second, ClipBatch(*rest, ("b",)), CONFIG, generators([4], torch.device("cpu")))[1]
    assert torch.equal(both[1:], alone)
    # one object less: the channel of the other, and its pixels, are background
    fewer = batch._replace(num_objects=torch.tensor([1, 2]))
    less = batch_losses(said, fewer, CONFIG, generators([3, 4], torch.device("cpu")))[1]
    assert less[0] != both[0]
    assert less[1] == both[1]


def test_points_gather_where_the_network_is_unsure() -> None:
    logits = torch.full((1, 2, 32, 32), 8.0)
    logits[:, 0] = -8.0
    logits[:, :, :, 14:18] = 0.0  # an unsure stripe, an eighth of the picture
    config = LossConfig(points=400)
    points = uncertain_points(logits, config, draw_points(1, config, torch.Generator().manual_seed(0)))[0]
    assert points.shape == (400, 2)
    assert float(points.min()) >= 0
    assert float(points.max()) < 1
    inside = ((points[:, 0] > 13 / 32) & (points[:, 0] < 19 / 32)).float().mean()
    assert 0.3 < inside < 0.6, "most that fall there are taken, a quarter comes from anywhere"


def test_samples_lie_between_pixel_centres() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    centre = torch.tensor([[[0.125, 0.125], [0.5, 0.5], [0.875, 0.625]]])
    assert sample(x, centre)[0, 0].tolist() == [0.0, 7.5, 11.0]


def test_losses_of_one_point_by_hand() -> None:
    logits = torch.tensor([[[0.0], [0.0]]])  # one frame, background and one object, one point, both equally likely
    truth = torch.tensor([[[0.25], [0.75]]])
    assert float(cross_entropy_loss(logits, truth)) == pytest.approx(0.6931472)
    assert float(dice_loss(logits, truth)) == pytest.approx(1 - (2 * 0.5 * 0.75 + 1) / (0.5 + 0.75 + 1))


# --------------------------------------------------------------------------------------------------------------- depth
def test_depth_is_right_up_to_scale_and_shift() -> None:
    distance = 1 + 9 * torch.rand(32, 48, generator=torch.Generator().manual_seed(0))
    nearness = 1 / distance
    assert float(depth_loss(nearness[None], distance[None])) == pytest.approx(0, abs=1e-3)
    assert float(depth_loss((7 * nearness + 3)[None], distance[None])) == pytest.approx(0, abs=1e-3)
    assert float(depth_loss((-nearness)[None], distance[None])) == pytest.approx(2, abs=1e-3)
    assert float(depth_loss(torch.ones_like(distance)[None], distance[None])) == 1
    noise = torch.rand(32, 48, generator=torch.Generator().manual_seed(1))
    assert float(depth_loss(noise[None], distance[None])) == pytest.approx(1, abs=0.1)


def test_unknown_distances_count_for_nothing() -> None:
    distance = 1 + 9 * torch.rand(32, 48, generator=torch.Generator().manual_seed(0))
    depth = (1 / distance).requires_grad_()
    spoilt = torch.where(torch.arange(48) < 24, depth.detach(), 100.0)
    half = torch.where(torch.arange(48) < 24, distance, torch.nan)
    assert float(depth_loss(spoilt[None], half[None])) == pytest.approx(0, abs=1e-3)
    nothing = depth_loss(depth[None], torch.full_like(distance, torch.nan)[None])
    nothing.backward()
    assert nothing.item() == 0
    assert depth.grad is not None
    assert float(depth.grad.abs().max()) == 0


@pytest.mark.parametrize("shape", [(16, 24), (28, 42)])
def test_depth_at_a_size_of_its_own_is_compared_with_distances_at_theirs(shape: tuple[int, int]) -> None:
    rows = torch.linspace(1, 2, 32)[:, None].expand(32, 48)
    depth = torch.linspace(1, 0.5, shape[0])[:, None].expand(shape).clone().requires_grad_()
    loss = depth_loss(depth[None], rows[None])
    assert loss.item() < 0.05
    loss.backward()
    assert depth.grad is not None
    assert bool(depth.grad.isfinite().all())


def test_the_loss_of_depth_is_weighted_and_only_for_clips_that_know_distances() -> None:
    said, batch = made_up()
    distance = torch.full((2, 4, 64, 64), torch.nan)
    distance[1] = torch.rand(4, 64, 64, generator=torch.Generator().manual_seed(2)) + 1
    depth = torch.rand(1, 20, 20, generator=torch.Generator().manual_seed(3))
    config = LossConfig(points=256, depth_weight=0.5)
    draws = generators([0, 1], torch.device("cpu"))
    losses, totals = batch_losses(said._replace(depth=depth), batch._replace(distance=distance), config, draws)
    own = 0.5 * depth_loss(depth, distance[1:, 0])
    assert float(losses["depth"]) == pytest.approx(float(own) / 2)
    _, without = batch_losses(said, batch, CONFIG, generators([0, 1], torch.device("cpu")))
    assert (totals - without).tolist() == pytest.approx([0, float(own)], abs=1e-5)
    parts = sum(value for name, value in losses.items() if name != "total")
    assert float(losses["total"]) == pytest.approx(float(parts), rel=1e-5)


# ---------------------------------------------------------------------------------------------------------------- keys
def keys_of(labels: Tensor, certainty: float) -> tuple[Tensor, Tensor, Tensor]:
    """Keys (1, T, P, 3), shrinkage and selection that tell the objects of coarse label maps (T, h, w) apart."""
    key = certainty * torch.nn.functional.one_hot(labels, 3).float().flatten(1, 2)[None]
    return key, torch.ones(*key.shape[:3], 1), torch.ones_like(key)


def test_keys_that_tell_objects_apart_cost_nothing_and_others_a_mean_over_memory() -> None:
    coarse = torch.tensor([[[0, 1], [1, 2]], [[1, 0], [2, 1]]])
    truth = torch.nn.functional.one_hot(coarse, 3).movedim(-1, 1).float()
    truth = truth.repeat_interleave(16, 2).repeat_interleave(16, 3)[None]
    assert float(match_loss(*keys_of(coarse, 20.0), truth)) == pytest.approx(0, abs=2e-3)
    same = match_loss(*keys_of(coarse, 0.0), truth)
    shares = torch.tensor([0.25, 0.5, 0.25])  # of the first frame's positions
    wanted = -(shares * (shares + 1e-3).log()).sum()
    assert float(same) == pytest.approx(float(wanted), abs=1e-4)


def test_keys_get_gradients_that_bring_like_to_like() -> None:
    coarse = torch.randint(0, 3, (3, 4, 4), generator=torch.Generator().manual_seed(0))
    truth = torch.nn.functional.one_hot(coarse, 3).movedim(-1, 1).float()
    truth = truth.repeat_interleave(16, 2).repeat_interleave(16, 3)[None]
    key, shrinkage, selection = keys_of(coarse, 0.5)
    key.requires_grad_()
    before = match_loss(key, shrinkage, selection, truth)
    before.backward()
    assert key.grad is not None
    assert float(key.grad[0, 0].abs().max()) > 0, "the first frame is read"
    assert float(key.grad[0, -1].abs().max()) > 0, "the last one asks"
    with torch.no_grad():
        assert float(match_loss(key - 5 * key.grad, shrinkage, selection, truth)) < before.item()


def test_the_loss_of_keys_is_weighted_and_part_of_the_total() -> None:
    said, batch = made_up()
    config = LossConfig(points=256, match_weight=2.0)
    losses, totals = batch_losses(said, batch, config, generators([0, 1], torch.device("cpu")))
    _, without = batch_losses(said, batch, CONFIG, generators([0, 1], torch.device("cpu")))
    assert float(losses["match"]) == pytest.approx(float((totals - without).mean()), rel=1e-4)
    assert float(losses["match"]) > 0
