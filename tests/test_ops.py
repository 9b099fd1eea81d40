"""Pure tensor functions against their slow, obvious forms."""

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cutie_geo import ops
from cutie_geo.ops import (
    Padding,
    area,
    bilinear,
    grouped,
    in_object_chunks,
    inverse_frequencies,
    nearest_labels,
    others,
    padding_to,
    read_dense,
    read_sparse,
    similarity,
    sine_positions,
    soft_aggregate,
    strongest,
    to_map,
    to_tokens,
    top_k_affinity,
    upsample,
)
from cutie_geo.regions import internal_size
from cutie_geo.structures import MAX_OBJECT_ID

SEEDS = range(4)


def uniform(seed: int, *shape: int) -> Tensor:
    """Numbers in [0, 1)."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------------------- sizes
@pytest.mark.parametrize(
    ("size", "multiple", "padding"),
    [
        ((480, 854), 16, (0, 0, 5, 5)),
        ((91, 121), 16, (2, 3, 3, 4)),
        ((16, 32), 16, (0, 0, 0, 0)),
        ((1, 15), 16, (7, 8, 0, 1)),
        ((17, 18), 16, (7, 8, 7, 7)),
        ((5, 7), 2, (0, 1, 0, 1)),
    ],
)
def test_an_odd_border_has_its_extra_pixel_at_the_bottom_and_right(
    size: tuple[int, int], multiple: int, padding: tuple[int, int, int, int]
) -> None:
    assert padding_to(size, multiple) == Padding(*padding)


@pytest.mark.parametrize("size", [(30, 41), (1, 1), (32, 48), (33, 31)])
def test_padding_adds_zeros_up_to_a_multiple_and_cropping_takes_them_off(size: tuple[int, int]) -> None:
    padding = padding_to(size, 16)
    x = uniform(0, 2, 3, *size) + 1
    padded = padding.pad(x)
    assert padded.shape[-2] % 16 == 0
    assert padded.shape[-1] % 16 == 0
    assert max(padded.shape[-2] - size[0], padded.shape[-1] - size[1]) < 16
    assert torch.equal(padding.crop(padded), x)
    assert padded.count_nonzero() == x.numel()
    assert torch.equal(padded[..., padding.top, padding.left], x[..., 0, 0])


@pytest.mark.parametrize(
    ("size", "most", "expected"),
    [
        ((1080, 1920), 480, (480, 853)),
        ((1920, 1080), 480, (853, 480)),
        ((137, 181), 96, (96, 126)),
        ((480, 854), 480, (480, 854)),
        ((480, 854), 481, (480, 854)),
        ((480, 854), -1, (480, 854)),
        ((480, 854), 0, (480, 854)),
        ((2, 2), 1, (1, 1)),
    ],
)
def test_only_a_longer_shorter_side_is_cut_and_the_other_is_rounded_down(
    size: tuple[int, int], most: int, expected: tuple[int, int]
) -> None:
    assert internal_size(size, most) == expected


@pytest.mark.parametrize(
    ("size", "most", "least", "expected"),
    [
        ((180, 320), -1, 288, (288, 512)),
        ((320, 180), 288, 288, (512, 288)),
        ((240, 426), 480, 288, (288, 511)),
        ((300, 400), 480, 288, (300, 400)),
        ((720, 1280), 288, 288, (288, 512)),
        ((180, 320), 288, -1, (180, 320)),
        ((20, 600), -1, 288, (80, 2400)),
    ],
)
def test_a_short_shorter_side_is_enlarged_four_times_at_most(
    size: tuple[int, int], most: int, least: int, expected: tuple[int, int]
) -> None:
    assert internal_size(size, most, least) == expected


def test_a_bilinear_resize_to_the_same_size_is_no_resize() -> None:
    x = uniform(0, 1, 2, 5, 6)
    assert bilinear(x, (5, 6)) is x
    expected = F.interpolate(x, size=(3, 9), mode="bilinear", align_corners=False, antialias=False)
    assert torch.equal(bilinear(x, (3, 9)), expected)


def test_enlarging_is_bilinear_between_pixel_centres() -> None:
    x = torch.tensor([[[[0.0, 4.0]]]])
    assert upsample(x, 2)[0, 0].tolist() == [[0, 1, 3, 4], [0, 1, 3, 4]]


# ----------------------------------------------------------------------------------------------------------- labels
SIZES = [((10, 7), (10, 7)), ((17, 23), (31, 9)), ((45, 63), (15, 9)), ((3, 5), (64, 61)), ((96, 128), (61, 93))]


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_labels_are_resized_as_torch_does_with_small_ids(old: tuple[int, int], new: tuple[int, int]) -> None:
    """But where a new pixel's centre lies on the border of two old pixels, which are equally near."""
    labels = torch.randint(0, 250, old, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(labels[None, None].float(), size=new, mode="nearest-exact")[0, 0].long()
    clear = ~torch.logical_or(border(old[0], new[0])[:, None], border(old[1], new[1]))
    assert clear.float().mean() > 0.3
    resized = nearest_labels(labels, new)
    assert torch.equal(resized[clear], expected[clear])


def border(old: int, new: int) -> Tensor:
    """Where on one axis a new pixel's centre lies between two old pixels."""
    return torch.tensor([(2 * i + 1) * old % (2 * new) == 0 for i in range(new)])


def test_a_label_map_of_half_the_size_takes_the_lower_right_of_four_pixels_as_torch_does() -> None:
    labels = torch.arange(48).view(6, 8)
    expected = F.interpolate(labels[None, None].float(), size=(3, 4), mode="nearest-exact")[0, 0].long()
    assert torch.equal(nearest_labels(labels, (3, 4)), expected)
    assert torch.equal(expected, labels[1::2, 1::2])


@pytest.mark.parametrize(("old", "new"), [(1920, 854), (2, 49), (854, 480), (7, 50), (50, 7), (1, 5), (5, 1)])
def test_every_label_comes_from_a_nearest_pixel(old: int, new: int) -> None:
    picked = nearest_labels(torch.arange(old)[:, None], (new, 1))[:, 0].tolist()
    for i, source in enumerate(picked):
        centre = (2 * i + 1) * old  # in units of 1 / (2 * new) old pixels
        distance = abs((2 * source + 1) * new - centre)
        assert distance == min(abs((2 * other + 1) * new - centre) for other in range(old))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_the_largest_ids_survive_a_resize(dtype: torch.dtype) -> None:
    labels = torch.tensor([[MAX_OBJECT_ID, MAX_OBJECT_ID - 1], [2**24 + 1, 0]], dtype=dtype)
    resized = nearest_labels(labels, (4, 6))
    assert resized.dtype == dtype
    assert torch.equal(resized, labels.repeat_interleave(2, 0).repeat_interleave(3, 1))


# ---------------------------------------------------------------------------------------------------------- objects
def slow_aggregate(probs: Tensor) -> list[float]:
    """Of the probabilities of N objects at one pixel; float32 steps as the specification orders them."""
    one = torch.tensor(1.0)
    background = one
    for p in probs:
        background = background * (one - p)
    logits = []
    for p in [background, *probs]:
        p = min(max(p, torch.tensor(1e-7)), one - 1e-7)
        logits.append(float((p / (one - p)).log()))
    return logits


@pytest.mark.parametrize("seed", SEEDS)
def test_the_strongest_channel_is_the_first_of_the_largest(seed: int) -> None:
    x = uniform(seed, 5, 7, 9).mul(4).round()  # many are equal
    assert torch.equal(strongest(x), x.argmax(dim=0))
    assert torch.equal(strongest(x[None], dim=1), x[None].argmax(dim=1))


@pytest.mark.parametrize("seed", SEEDS)
def test_aggregation_is_the_log_odds_of_clamped_probabilities(seed: int) -> None:
    probs = uniform(seed, 2, 3, 4, 5).mul(1.4).sub(0.2).clamp(0, 1)
    logits = soft_aggregate(probs)
    assert logits.shape == (2, 4, 4, 5)
    for b in range(2):
        for y in range(4):
            for x in range(5):
                expected = torch.tensor(slow_aggregate(probs[b, :, y, x]))
                torch.testing.assert_close(logits[b, :, y, x], expected, rtol=1e-5, atol=1e-5)


def test_aggregated_logits_have_the_extremes_of_float32() -> None:
    logits = soft_aggregate(torch.tensor([[1.0, 0.0]]))[0]
    torch.testing.assert_close(logits, torch.tensor([-16.118, 15.942, -16.118]), rtol=0, atol=1e-3)
    # close to 1 the distance to 1 is a multiple of 2^-24, and weights were trained with that
    near = torch.tensor([[1 - 2**-22]])
    torch.testing.assert_close(soft_aggregate(near)[0, 1], torch.tensor(math.log(2**22 - 1)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_aggregated_probabilities_sum_to_one_and_keep_the_order(seed: int) -> None:
    given = uniform(seed, 1, 5, 8, 8)
    probs = soft_aggregate(given).softmax(1)
    torch.testing.assert_close(probs.sum(1), torch.ones(1, 8, 8))
    assert torch.equal(probs[:, 1:].argmax(1), given.argmax(1))


def test_a_lone_object_keeps_its_probability_against_the_background() -> None:
    given = torch.linspace(0.01, 0.99, 9).view(1, 1, 9)
    odds = given / (1 - given)
    torch.testing.assert_close(soft_aggregate(given).softmax(1)[:, 1:], odds**2 / (1 + odds**2))


def test_aggregation_is_in_float32_under_autocast_too() -> None:
    given = uniform(0, 1, 3, 4, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = soft_aggregate(given)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, soft_aggregate(given.float()))


@pytest.mark.parametrize("seed", SEEDS)
def test_others_are_the_sum_of_all_other_masks_up_to_one(seed: int) -> None:
    masks = uniform(seed, 2, 4, 3, 5)
    result = others(masks)
    for n in range(4):
        expected = sum(masks[:, m] for m in range(4) if m != n)
        torch.testing.assert_close(result[:, n], torch.as_tensor(expected).clamp(max=1))
    assert result.min() >= 0
    assert not others(masks[:, :1]).any()


@pytest.mark.parametrize("chunk", [-1, 0, 1, 2, 3, 4, 5, 9])
def test_chunks_of_objects_are_put_together_in_order(chunk: int) -> None:
    x, y = normal(0, 2, 5, 3), normal(1, 2, 5, 4, 3, 2)
    sizes = []

    def fn(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append((a.shape[1], b.shape[1]))
        return a * 2, b + a.sum(2)[..., None, None, None]

    for got, expected in zip(in_object_chunks(fn, x, y, chunk=chunk), fn(x, y)):
        assert torch.equal(got, expected)
    used = 5 if chunk < 1 else min(chunk, 5)
    assert sizes[0] == (used, used)
    assert sum(a for a, _ in sizes[:-1]) == 5


def test_a_small_object_that_is_alone_gives_one_object_back() -> None:
    x = normal(0, 1, 3, 4)
    (result,) = in_object_chunks(lambda a: (a + 1,), x, chunk=1)
    assert torch.equal(result, x + 1)


def test_grouped_treats_every_object_by_itself() -> None:
    layer = torch.nn.Conv2d(3, 2, 3, stride=2)
    x = normal(0, 2, 4, 3, 7, 9)
    result = grouped(layer, x)
    assert result.shape == (2, 4, 2, 3, 4)
    torch.testing.assert_close(result[1, 2], layer(x[1, 2][None])[0])


def test_tokens_are_the_rows_of_a_map() -> None:
    x = normal(0, 2, 3, 4, 5, 6)
    tokens = to_tokens(x)
    assert tokens.shape == (2, 3, 30, 4)
    assert torch.equal(tokens[1, 2, 2 * 6 + 3], x[1, 2, :, 2, 3])
    assert torch.equal(to_map(tokens, (5, 6)), x)


@pytest.mark.parametrize("shape", [(3, 8, 12), (2, 3, 8, 12), (1, 2, 3, 8, 12), (1, 2, 1, 3, 8, 12)])
@pytest.mark.parametrize("factor", [2, 4])
def test_area_is_pytorchs_area_interpolation(shape: tuple[int, ...], factor: int) -> None:
    x = normal(0, *shape)
    flat = x.reshape(-1, 1, 8, 12)
    expected = F.interpolate(flat, size=(8 // factor, 12 // factor), mode="area")
    torch.testing.assert_close(area(x, factor), expected.view(*shape[:-2], 8 // factor, 12 // factor))


# -------------------------------------------------------------------------------------------------------- positions
@pytest.mark.parametrize(
    ("size", "channels", "scale", "temperature"), [((3, 5), 16, 32.0, 128.0), ((4, 2), 8, 7.0, 9.0)]
)
def test_sine_positions_follow_the_formula(
    size: tuple[int, int], channels: int, scale: float, temperature: float
) -> None:
    positions = sine_positions(size, channels, scale, temperature, torch.device("cpu"))
    assert positions.shape == (size[0] * size[1], channels)
    half = channels // 2
    for y in range(size[0]):
        for x in range(size[1]):
            expected = []
            for i, count in ((x, size[1]), (y, size[0])):
                for j in range(half // 2):
                    angle = i / (count - 1 + 1e-6) * scale / temperature ** (2 * j / half)
                    expected += [math.sin(angle), math.cos(angle)]
            torch.testing.assert_close(positions[y * size[1] + x], torch.tensor(expected), rtol=0, atol=2e-5)


def test_positions_of_a_single_cell_are_those_of_the_origin() -> None:
    positions = sine_positions((1, 1), 8, 32.0, 128.0, torch.device("cpu"))
    assert positions.tolist() == [[0, 1] * 4]


def test_positions_first_asked_for_in_inference_can_be_used_in_training() -> None:
    with torch.inference_mode():
        sine_positions((2, 3), 12, 5.0, 9.0, torch.device("cpu"))
    weight = torch.ones(12, requires_grad=True)
    (sine_positions((2, 3), 12, 5.0, 9.0, torch.device("cpu")) * weight).sum().backward()
    assert weight.grad is not None


def test_frequencies_fall_from_one_towards_the_inverse_temperature() -> None:
    expected = torch.tensor([1 / 128 ** (2 * j / 128) for j in range(64)])
    torch.testing.assert_close(inverse_frequencies(128, 128.0), expected)


# ----------------------------------------------------------------------------------------------------------- memory
Keys = tuple[Tensor, Tensor, Tensor, Tensor]


def keys(seed: int, batch: int = 2, positions: int = 9, tokens: int = 13, spread: float = 1.0) -> Keys:
    """Queries, selections in [0, 1], keys, and shrinkages of at least 1."""
    query, key = normal(seed, batch, positions, 6), normal(seed + 100, batch, tokens, 6)
    selection, shrinkage = uniform(seed + 200, batch, positions, 6), 1 + uniform(seed + 300, batch, tokens, 1)
    return query * spread, selection, key * spread, shrinkage


@pytest.mark.parametrize("seed", SEEDS)
def test_similarity_is_the_double_loop(seed: int) -> None:
    query, selection, key, shrinkage = keys(seed)
    result = similarity(query, selection, key, shrinkage)
    assert result.shape == (2, 9, 13)
    for b in range(2):
        for p in range(9):
            for m in range(13):
                square = sum(float(selection[b, p, c] * (key[b, m, c] - query[b, p, c]) ** 2) for c in range(6))
                expected = -float(shrinkage[b, m, 0]) * square / math.sqrt(6)
                assert float(result[b, p, m]) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert result.max() <= 1e-4


def test_a_token_is_most_similar_to_itself() -> None:
    query, selection, _, _ = keys(0)
    result = similarity(query, selection + 0.1, query, torch.ones(2, 9, 1))
    assert torch.equal(result.argmax(-1), torch.arange(9).expand(2, -1))
    torch.testing.assert_close(result.diagonal(dim1=1, dim2=2), torch.zeros(2, 9), rtol=0, atol=1e-5)


def masked_affinity(given: Keys, k: int) -> Tensor:
    """The softmax of each position's k largest similarities, everything else masked."""
    scores = similarity(*given)
    least = scores.sort(-1, descending=True).values[..., k - 1 : k]
    return scores.masked_fill(scores < least, -torch.inf).softmax(-1)


def dense(weight: Tensor, index: Tensor, tokens: int) -> Tensor:
    return weight.new_zeros(*weight.shape[:2], tokens).scatter(2, index, weight)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("k", [1, 4, 13])
@pytest.mark.parametrize("at_once", [None, 1, 60, 26 * 4])
def test_a_sparse_read_is_a_dense_one_with_all_but_the_best_masked(
    monkeypatch: pytest.MonkeyPatch, seed: int, k: int, at_once: int | None
) -> None:
    if at_once is not None:
        monkeypatch.setitem(ops.SCORES_AT_ONCE, "cpu", at_once)
    given, value = keys(seed), normal(seed, 2, 3, 13, 5)
    weight, index = top_k_affinity(*given, k)
    assert weight.shape == index.shape == (2, 9, k)
    expected = masked_affinity(given, k)
    torch.testing.assert_close(dense(weight, index, 13), expected, rtol=1e-4, atol=1e-5)
    for got, wanted in zip(read_sparse(weight, index, value), read_dense(expected, value)):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_positions_are_taken_in_blocks_so_that_not_all_scores_are_there_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    matmul: Callable[..., Tensor] = torch.Tensor.__matmul__

    def watched(a: Tensor, b: Tensor) -> Tensor:
        result = matmul(a, b)
        seen.append(result.numel())
        return result

    monkeypatch.setitem(ops.SCORES_AT_ONCE, "cpu", 60)
    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    top_k_affinity(*keys(0), 4)
    assert max(seen) <= 60
    assert sum(seen) == 2 * 9 * 13


def test_more_than_all_tokens_means_all() -> None:
    given = keys(0)
    weight, index = top_k_affinity(*given, 10**6)
    assert weight.shape == (2, 9, 13)
    torch.testing.assert_close(dense(weight, index, 13), similarity(*given).softmax(-1))


def test_very_low_similarities_are_read_without_nan() -> None:
    given = keys(0, spread=200.0)
    assert similarity(*given).max() < -1000
    weight, index = top_k_affinity(*given, 4)
    assert torch.isfinite(weight).all()
    torch.testing.assert_close(weight.sum(-1), torch.ones(2, 9))
    best = similarity(*given).argmax(-1)
    assert torch.equal(dense(weight, index, 13).argmax(-1), best)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("k", [1, 5, 99])
def test_every_position_hands_out_an_affinity_of_one(seed: int, k: int) -> None:
    weight, index = top_k_affinity(*keys(seed), k)
    read, usage = read_sparse(weight, index, torch.ones(2, 1, 13, 2))
    torch.testing.assert_close(usage.sum(-1), torch.full((2,), 9.0))
    torch.testing.assert_close(read, torch.ones(2, 1, 9, 2))
    torch.testing.assert_close(usage, dense(weight, index, 13).sum(1))


def test_a_dense_read_is_the_weighted_sum_of_values() -> None:
    affinity, value = similarity(*keys(0)).softmax(-1), normal(0, 2, 3, 13, 5)
    read, usage = read_dense(affinity, value)
    torch.testing.assert_close(read, torch.einsum("bpm,bnmc->bnpc", affinity, value))
    torch.testing.assert_close(usage, affinity.sum(1))
    torch.testing.assert_close(usage.sum(-1), torch.full((2,), 9.0))


def test_two_sparse_reads_agree_bit_for_bit() -> None:
    given, value = keys(0, positions=64, tokens=200), normal(0, 2, 3, 200, 5)
    first, second = (read_sparse(*top_k_affinity(*given, 30), value) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


@pytest.mark.parametrize(("old", "new"), [(1920, 854), (89, 34), (7, 3), (5, 13)])
def test_the_nearest_label_is_that_of_the_pixel_which_holds_the_centre(old: int, new: int) -> None:
    """Exactly, with fractions; torch's own rounding gets some sizes wrong."""
    expected = [math.floor(Fraction(2 * i + 1, 2) * Fraction(old, new)) for i in range(new)]
    assert nearest_labels(torch.arange(old)[None], (1, new))[0].tolist() == expected
