"""What one video's memory keeps, sums up and drops."""

import math
from typing import Any

import pytest
import torch
from parity_rules import SMALL_LONG_TERM, synthetic_video
from torch import Tensor

from cutie_geo.config import LongTermConfig, TrackerConfig
from cutie_geo.inference.tracker import Tracker
from cutie_geo.memory.bank import TokenBank
from cutie_geo.memory.long_term import NEWBORN_LIFE, consolidate, fresh, ranked
from cutie_geo.memory.objects import ObjectRegistry, paint
from cutie_geo.memory.video_memory import VideoMemory
from cutie_geo.model.network import CutieGeo
from cutie_geo.structures import FrameFeatures, Memorised, MemoryTokens

CPU = torch.device("cpu")
KEY, VALUE, QUERIES = 4, 3, 2
GRID = (2, 3)
PLACES = GRID[0] * GRID[1]
"""Tokens of one frame."""
LONG = TrackerConfig(use_long_term=True, long_term=LongTermConfig(**SMALL_LONG_TERM))
"""Consolidation at 3 frames, 16 prototypes, at most 48 long-term tokens."""


def random(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def tokens(frame: int, count: int = PLACES, objects: int = 1) -> MemoryTokens:
    """Tokens that tell where they come from: the first key channel is frame + place / 1000."""
    key = random(frame, 1, count, KEY)
    key[0, :, 0] = frame + torch.arange(count) / 1000
    value = random(frame + 100, 1, objects, count, VALUE)
    return fresh(key, 1 + random(frame + 200, 1, count, 1), random(frame + 300, 1, count, KEY), value)


def frames_of(table: MemoryTokens) -> list[int]:
    """The frame of every token, in order."""
    return table.key[0, :, 0].floor().int().tolist()


def sizes(bank: TokenBank) -> tuple[int, int, int]:
    return bank.num_long, bank.num_permanent, bank.num_recent


def filled(frames: int, config: TrackerConfig, count: int = PLACES, objects: int = 1) -> TokenBank:
    bank = TokenBank(range(1, objects + 1), config)
    for frame in range(frames):
        bank.write(tokens(frame, count, objects), permanent=False)
    return bank


def used(bank: TokenBank, seed: int) -> TokenBank:
    """Read once, by a random amount."""
    bank.count_usage(random(seed, 1, bank.count))
    return bank


# ------------------------------------------------------------------------------------------------------ working memory
@pytest.mark.parametrize("limit", [1, 2, 3, 5])
def test_the_first_frame_is_permanent_and_the_last_frames_follow_it(limit: int) -> None:
    bank = TokenBank([1], TrackerConfig(max_mem_frames=limit))
    for frame in range(9):
        bank.write(tokens(frame), permanent=False)
        recent = list(range(1, frame + 1))[-(limit - 1) :] if limit > 1 else []
        assert frames_of(bank.tokens) == [f for f in [0, *recent] for _ in range(PLACES)]
        assert sizes(bank) == (0, PLACES, len(recent) * PLACES)
        assert bank.count == bank.tokens.count


def test_kept_tokens_are_whole_rows_of_what_was_written() -> None:
    bank = filled(7, TrackerConfig(max_mem_frames=3), objects=2)
    expected = [tokens(frame, objects=2) for frame in (0, 5, 6)]
    for column, pieces in zip(bank.tokens, zip(*expected)):
        assert torch.equal(column, torch.cat(pieces, dim=-2))


def test_permanent_frames_come_first_the_newest_before_the_older_and_never_leave() -> None:
    bank = TokenBank([1], TrackerConfig(max_mem_frames=3))
    for frame in range(12):
        bank.write(tokens(frame), permanent=frame in (4, 7))
    assert frames_of(bank.tokens)[::PLACES] == [7, 4, 0, 10, 11]
    assert sizes(bank) == (0, 3 * PLACES, 2 * PLACES)


def test_permanent_frames_stand_between_long_term_and_recent_ones() -> None:
    bank = filled(3, LONG)
    bank.write(tokens(50), permanent=True)
    assert sizes(bank) == (6, 12, 6)
    assert frames_of(bank.tokens)[::PLACES] == [1, 50, 0, 2]
    for frame in range(51, 80):
        bank.write(tokens(frame), permanent=False)
    start = bank.num_long
    assert frames_of(bank.tokens.rows(start, bank.count))[: 2 * PLACES : PLACES] == [50, 0]


def test_forgetting_recent_tokens_leaves_the_permanent_ones() -> None:
    bank = filled(8, LONG)
    bank.write(tokens(20), permanent=True)
    bank.forget_recent()
    assert sizes(bank) == (0, 2 * PLACES, 0)
    assert frames_of(bank.tokens)[::PLACES] == [20, 0]
    bank.write(tokens(21), permanent=False)
    assert frames_of(bank.tokens)[::PLACES] == [20, 0, 21]


def test_a_smaller_limit_is_met_at_the_next_write() -> None:
    bank = filled(6, TrackerConfig(max_mem_frames=5))
    bank.config = TrackerConfig(max_mem_frames=2)
    assert sizes(bank) == (0, PLACES, 4 * PLACES)
    bank.write(tokens(9), permanent=False)
    assert frames_of(bank.tokens)[::PLACES] == [0, 9]


def test_a_bank_counts_no_long_term_bytes_without_long_term_memory() -> None:
    bank = filled(6, TrackerConfig(max_mem_frames=5))
    bank.config = TrackerConfig(max_mem_frames=2)
    bank.write(tokens(9), permanent=False)
    assert bank.bytes()[1] == 0


# ----------------------------------------------------------------------------------------------------- consolidation
def test_a_long_video_has_the_sizes_of_the_worked_example() -> None:
    """Cutie specification, section 5.9: 48 tokens a frame, a memory frame every 3 frames."""
    bank, history = TokenBank([1], LONG), []
    for frame in range(18):
        if frame:
            used(bank, frame)
        if frame % 3 == 0:
            bank.write(tokens(frame, 48), permanent=False)
        history.append((bank.num_permanent + bank.num_recent, bank.num_long))
    expected = [(48, 0)] * 3 + [(96, 0)] * 3 + [(96, 16)] * 3 + [(96, 32)] * 3 + [(96, 40)] * 6
    assert history == expected
    assert frames_of(bank.tokens.rows(40, 136))[::48] == [0, 15]


@pytest.mark.parametrize(("most", "least"), [(3, 2), (6, 2), (6, 5), (10, 5)])
def test_a_consolidation_leaves_the_newest_frames(most: int, least: int) -> None:
    limits = LongTermConfig(max_mem_frames=most, min_mem_frames=least, num_prototypes=4)
    bank = TokenBank([1], TrackerConfig(use_long_term=True, long_term=limits))
    for frame in range(most - 1):
        bank.write(tokens(frame), permanent=False)
        assert sizes(bank) == (0, PLACES, frame * PLACES)
    bank.write(tokens(most - 1), permanent=False)
    assert sizes(bank) == (4, PLACES, (least - 1) * PLACES)
    kept = [0, *range(most - least + 1, most)]
    assert frames_of(bank.tokens.rows(4, bank.count))[::PLACES] == kept
    assert set(frames_of(bank.tokens.rows(0, 4))) <= set(range(1, most - least + 1))


def slow_consolidation(candidates: MemoryTokens, count: int) -> list[tuple[int, list[float], list[list[float]], float]]:
    """For each prototype: the row of its key, the affinities, its values by object, its shrinkage."""
    rate = [float(candidates.use[0, i, 0] / candidates.life[0, i, 0]) for i in range(candidates.count)]
    result = []
    for i in sorted(range(candidates.count), key=lambda i: -rate[i])[:count]:
        scores = []
        for j in range(candidates.count):
            difference = candidates.key[0, j] - candidates.key[0, i]
            square = float((candidates.selection[0, i] * difference**2).sum())
            scores.append(-float(candidates.shrinkage[0, j, 0]) * square / math.sqrt(KEY))
        total = sum(math.exp(score) for score in scores)
        affinity = [math.exp(score) / total for score in scores]
        value = [
            [sum(a * float(candidates.value[0, n, j, c]) for j, a in enumerate(affinity)) for c in range(VALUE)]
            for n in range(candidates.value.shape[1])
        ]
        shrinkage = sum(a * float(candidates.shrinkage[0, j, 0]) for j, a in enumerate(affinity))
        result.append((i, affinity, value, shrinkage))
    return result


@pytest.mark.parametrize("seed", range(3))
def test_prototypes_copy_keys_and_average_values_and_shrinkages(seed: int) -> None:
    candidates = tokens(seed, 14, objects=2)
    lives = 1 + torch.arange(14).remainder(3).float().view(1, 14, 1)
    candidates = candidates._replace(use=random(seed + 7, 1, 14, 1) * lives, life=lives)
    prototypes = consolidate(candidates, 5)
    assert prototypes.count == 5
    for row, (source, _, value, shrinkage) in enumerate(slow_consolidation(candidates, 5)):
        assert torch.equal(prototypes.key[0, row], candidates.key[0, source])
        assert torch.equal(prototypes.selection[0, row], candidates.selection[0, source])
        torch.testing.assert_close(prototypes.value[0, :, row], torch.tensor(value), rtol=1e-4, atol=1e-4)
        assert float(prototypes.shrinkage[0, row, 0]) == pytest.approx(shrinkage, rel=1e-4)
    assert not prototypes.use.any()
    assert torch.equal(prototypes.life, torch.full((1, 5, 1), NEWBORN_LIFE))


def test_the_most_used_per_frame_rank_first() -> None:
    table = tokens(0, 4)._replace(
        use=torch.tensor([4.0, 3.0, 9.0, 0.0]).view(1, 4, 1), life=torch.tensor([4.0, 1.0, 4.5, 1.0]).view(1, 4, 1)
    )
    assert ranked(table, 3).tolist() == [1, 2, 0]
    assert ranked(table, 99).tolist() == [1, 2, 0, 3]


def test_what_was_never_read_ranks_behind_what_was() -> None:
    table = tokens(0, 4)
    table.use[0, 2], table.life[0, 2] = 0.25, 1 + NEWBORN_LIFE
    assert ranked(table, 1).tolist() == [2]
    assert not (table.use / table.life).isnan().any()


def test_more_prototypes_than_candidates_means_all_of_them() -> None:
    candidates = tokens(0, 5)
    prototypes = consolidate(candidates, 128)
    assert prototypes.count == 5
    assert sorted(frames_of(prototypes)) == [0] * 5
    limits = LongTermConfig(max_mem_frames=3, min_mem_frames=2, num_prototypes=1000)
    bank = filled(4, TrackerConfig(use_long_term=True, long_term=limits))
    assert sizes(bank) == (2 * PLACES, PLACES, PLACES)


# ------------------------------------------------------------------------------------------------- usage and eviction
def test_usage_is_counted_for_all_but_permanent_tokens() -> None:
    bank = filled(3, LONG)
    assert sizes(bank) == (6, 6, 6)
    reads = [random(seed, 1, 18) for seed in (1, 2)]
    for usage in reads:
        bank.count_usage(usage)
    use, life = bank.tokens.use[0, :, 0], bank.tokens.life[0, :, 0]
    counted = torch.cat([torch.ones(6), torch.zeros(6), torch.ones(6)])
    torch.testing.assert_close(use, (reads[0] + reads[1])[0] * counted)
    torch.testing.assert_close(life, NEWBORN_LIFE + 2 * counted)


def test_a_token_that_nothing_could_have_read_yet_has_no_usage() -> None:
    bank = used(filled(2, LONG), 1)
    bank.write(tokens(5), permanent=False)
    newest = bank.tokens.rows(bank.count - PLACES, bank.count)
    assert set(frames_of(newest)) == {5}
    assert not newest.use.any()
    assert torch.equal(newest.life, torch.full((1, PLACES, 1), NEWBORN_LIFE))


def test_usage_is_not_counted_without_long_term_memory() -> None:
    bank = used(filled(3, TrackerConfig()), 1)
    assert not bank.tokens.use.any()


def test_counting_usage_leaves_a_table_handed_out_before_alone() -> None:
    bank = filled(3, LONG)
    table = bank.tokens
    used(bank, 1)
    assert not table.use.any()


def eviction(count_usage: bool) -> tuple[MemoryTokens, MemoryTokens, int]:
    """Long-term tokens before and after a write that has to make room, and how many prototypes it added.

    48 tokens a frame; the threshold is 48 - 16 = 32, and 24 tokens survive.
    """
    limits = LongTermConfig(**(SMALL_LONG_TERM | {"count_usage": count_usage}))
    bank = TokenBank([1], TrackerConfig(use_long_term=True, long_term=limits))
    for frame in range(4):
        bank.write(tokens(frame, 48), permanent=False)
        used(bank, frame)
    assert bank.num_long == 32
    before = bank.tokens.rows(0, 32).map(torch.clone)
    bank.write(tokens(4, 48), permanent=False)
    assert bank.num_long == 40
    return before, bank.tokens.rows(0, 40), 16


def test_eviction_keeps_the_most_used_tokens() -> None:
    before, after, added = eviction(count_usage=True)
    rate = (before.use / before.life)[0, :, 0]
    best = rate.argsort(descending=True)[:24]
    assert not torch.equal(best.sort().values, torch.arange(8, 32))
    survivors = after.rows(0, 40 - added)
    for old, new in zip(before, survivors):
        assert torch.equal(new, old.index_select(-2, best))


def test_eviction_without_counts_keeps_the_newest_tokens() -> None:
    before, after, added = eviction(count_usage=False)
    assert not before.use.any()
    for old, new in zip(before, after.rows(0, 40 - added)):
        assert torch.equal(new, old[..., 8:, :])
    assert set(frames_of(after.rows(40 - added, 40))) == {3}


@pytest.mark.parametrize("count_usage", [True, False])
def test_long_term_memory_never_exceeds_its_limit(count_usage: bool) -> None:
    limits = LongTermConfig(max_mem_frames=4, min_mem_frames=2, num_prototypes=5, max_num_tokens=17, buffer_tokens=3)
    limits = LongTermConfig(**(vars(limits) | {"count_usage": count_usage}))
    bank, most = TokenBank([1], TrackerConfig(use_long_term=True, long_term=limits)), 0
    for frame in range(60):
        bank.write(tokens(frame), permanent=False)
        used(bank, frame)
        most = max(most, bank.num_long)
        assert bank.num_long <= 17
        assert bank.num_recent < 3 * PLACES
    assert most >= 12


# ------------------------------------------------------------------------------------------------------------ storage
def allocated(bank: TokenBank) -> int:
    """Bytes behind the bank's table."""
    return sum(column.untyped_storage().nbytes() for column in bank.tokens)


@pytest.mark.parametrize("config", [TrackerConfig(max_mem_frames=4), LONG], ids=["working", "long term"])
def test_a_table_grows_to_its_bound_and_no_further(config: TrackerConfig) -> None:
    bank, history = TokenBank([1, 2], config), []
    for frame in range(60):
        bank.write(tokens(frame, objects=2), permanent=False)
        used(bank, frame)
        history.append(allocated(bank))
        masks = 0 if bank.prompt_masks is None else bank.prompt_masks.numel() * bank.prompt_masks.element_size()
        assert sum(bank.bytes()) == allocated(bank) + masks
    row = sum(column[..., :1, :].numel() * 4 for column in tokens(0, objects=2))
    bound = PLACES + (3 if config is not LONG else 2) * PLACES + (48 if config is LONG else 0)
    assert history == sorted(history)
    assert history[-1] <= bound * row
    assert len(set(history[-30:])) == 1
    assert bank.bytes()[1] == (0 if config is not LONG else history[-1] - 3 * PLACES * row)


def test_more_permanent_frames_make_the_table_larger() -> None:
    bank = filled(6, TrackerConfig(max_mem_frames=3))
    before = allocated(bank)
    for frame in range(6, 9):
        bank.write(tokens(frame), permanent=True)
    assert bank.count == 6 * PLACES
    assert allocated(bank) == 2 * before


@pytest.mark.parametrize("config", [TrackerConfig(max_mem_frames=4), LONG], ids=["working", "long term"])
def test_a_bank_goes_on_from_its_saved_state(config: TrackerConfig) -> None:
    straight = TokenBank([4, 7], config)
    for frame in range(9):
        straight.write(tokens(frame, 48, objects=2), permanent=frame == 5)
        used(straight, frame)
    state = straight.state_dict()
    other = TokenBank.from_state(state, config, CPU)
    for frame in range(9, 15):
        for bank in (straight, other):
            bank.write(tokens(frame, 48, objects=2), permanent=False)
            used(bank, frame)
    assert other.ids == [4, 7]
    assert (sizes(other), other.frame_tokens, other.bytes()) == (sizes(straight), 48, straight.bytes())
    assert all(torch.equal(a, b) for a, b in zip(straight.tokens, other.tokens))
    assert int(state["tokens"]["key"][0, -1, 0]) == 8


def test_a_saved_state_has_no_room_to_spare_and_shares_nothing() -> None:
    bank = filled(5, LONG)
    assert bank.tokens.key.untyped_storage().nbytes() > bank.count * KEY * 4
    for name, column in bank.state_dict()["tokens"].items():
        assert column.untyped_storage().nbytes() == column.numel() * 4
        assert column.data_ptr() != getattr(bank.tokens, name).data_ptr()


def test_dropping_objects_keeps_the_others_values_and_all_keys() -> None:
    bank = filled(3, LONG, objects=3)
    before = bank.tokens.map(torch.clone)
    bank.keep_objects([3, 1, 9])
    assert bank.ids == [1, 3]
    assert torch.equal(bank.tokens.value, before.value[:, [0, 2]])
    assert torch.equal(bank.tokens.key, before.key)
    assert sizes(bank) == (6, 6, 6)


# --------------------------------------------------------------------------------------------------------- whole video
def seen(frame: int) -> FrameFeatures:
    """A frame whose first key channel tells its number, as in `tokens`."""
    row = tokens(frame)
    small, image = torch.zeros(1, 1, *GRID), torch.zeros(1, 3, GRID[0] * 16, GRID[1] * 16)
    return FrameFeatures(image, small, small, small, small, row.key, row.shrinkage, row.selection)


def left(frame: int, objects: int) -> Memorised:
    """What a frame leaves of its objects, all of them different."""
    value, sensory = random(frame + 1, 1, objects, PLACES, VALUE), random(frame + 2, 1, objects, VALUE, *GRID)
    summary, logits = random(frame + 3, 1, objects, QUERIES, 5), random(frame + 4, 1, objects, *GRID, QUERIES)
    return Memorised(value, sensory, summary, logits)


def story(config: TrackerConfig, frames: int = 6) -> VideoMemory:
    """Objects 5 and 2 enter on frame 0, 9 on frame 2, 1 and 4 on frame 3."""
    memory, ids = VideoMemory(config), [5, 2]
    for frame in range(frames):
        ids = ids + {2: [9], 3: [1, 4]}.get(frame, [])
        memory.write(seen(frame), left(frame, len(ids)), ids, permanent=False)
    return memory


def test_objects_that_enter_together_share_a_bank() -> None:
    memory = story(TrackerConfig())
    assert memory.ids == [5, 2, 9, 1, 4]
    assert [bank.ids for bank in memory.banks] == [[5, 2], [9], [1, 4]]
    assert [frames_of(bank.tokens)[::PLACES] for bank in memory.banks] == [[0, 2, 3, 4, 5], [2, 3, 4, 5], [3, 4, 5]]
    assert [bank.num_permanent for bank in memory.banks] == [PLACES] * 3


def test_every_object_finds_its_own_values_and_state() -> None:
    memory, masks = story(TrackerConfig()), random(9, 1, 5, 32, 48)
    assert memory.sensory is not None
    assert memory.summary is not None
    for slots, view in memory.views(masks):
        for place, slot in enumerate(slots.tolist()):
            assert torch.equal(view.value[:, place, -PLACES:], left(5, 5).value[:, slot])
            assert torch.equal(view.sensory[:, place], left(5, 5).sensory[:, slot])
            assert torch.equal(view.mask[:, place], masks[:, slot])
            assert torch.equal(view.summary[:, place], memory.summary[:, slot])
        assert view.key.shape[1] == view.value.shape[2] == view.shrinkage.shape[1]
    assert [slots.tolist() for slots, _ in memory.views(masks)] == [[0, 1], [2], [3, 4]]


def test_summaries_add_up_from_each_objects_first_frame_on() -> None:
    memory = story(TrackerConfig())
    assert memory.summary is not None
    for slot, start in enumerate([0, 0, 2, 3, 3]):
        counts = [2, 2, 3, 5, 5, 5]
        expected = sum(left(frame, counts[frame]).summary[:, slot] for frame in range(start, 6))
        torch.testing.assert_close(memory.summary[:, slot], expected)


def test_new_objects_start_with_empty_sensory_memory() -> None:
    memory, empty = VideoMemory(TrackerConfig()), torch.zeros(1, 3, VALUE, *GRID)
    assert memory.sensory_with(empty) is empty
    memory.write(seen(0), left(0, 2), [5, 2], permanent=False)
    sensory = memory.sensory_with(empty)
    assert torch.equal(sensory[:, :2], left(0, 2).sensory)
    assert not sensory[:, 2].any()


def test_every_bank_counts_the_usage_of_its_own_tokens() -> None:
    memory = story(LONG)
    usage = [random(i, 1, bank.count) for i, bank in enumerate(memory.banks)]
    memory.count_usage(usage)
    for bank, own in zip(memory.banks, usage):
        recent = slice(bank.num_long + bank.num_permanent, None)
        torch.testing.assert_close(bank.tokens.use[0, recent, 0], own[0, recent])
    with pytest.raises(ValueError, match="zip"):
        memory.count_usage(usage[:-1])


@pytest.mark.parametrize("config", [TrackerConfig(), LONG], ids=["working", "long term"])
def test_removed_objects_leave_no_row_and_no_empty_bank(config: TrackerConfig) -> None:
    memory = story(config)
    assert memory.sensory is not None
    assert memory.summary is not None
    sensory, summary, values = memory.sensory, memory.summary, memory.banks[2].tokens.value.clone()
    memory.keep(torch.tensor([0, 4]), [5, 4])
    assert memory.ids == [5, 4]
    assert [bank.ids for bank in memory.banks] == [[5], [4]]
    assert torch.equal(memory.sensory, sensory[:, [0, 4]])
    assert torch.equal(memory.summary, summary[:, [0, 4]])
    assert torch.equal(memory.banks[1].tokens.value, values[:, 1:])
    memory.write(seen(9), left(9, 3), [5, 4, 2], permanent=False)
    assert [bank.ids for bank in memory.banks] == [[5], [4], [2]]


def test_a_memory_without_objects_is_as_new() -> None:
    memory = story(LONG)
    memory.keep(torch.zeros(0, dtype=torch.long), [])
    assert memory.state_dict() == VideoMemory(LONG).state_dict()
    assert sum(memory.bytes().values()) == 0


@pytest.mark.parametrize("config", [TrackerConfig(max_mem_frames=3), LONG], ids=["working", "long term"])
def test_a_bank_with_permanent_tokens_only_can_go(config: TrackerConfig) -> None:
    memory = story(config, frames=4)
    assert sizes(memory.banks[2]) == (0, PLACES, 0)
    memory.keep(torch.tensor([0, 1, 2]), [5, 2, 9])
    assert [bank.ids for bank in memory.banks] == [[5, 2], [9]]
    memory.write(seen(7), left(7, 3), [5, 2, 9], permanent=False)
    assert [frames_of(bank.tokens)[-1] for bank in memory.banks] == [7, 7]


@pytest.mark.parametrize("gone", [[3], [3, 1]])
def test_a_tracker_forgets_an_object_that_has_only_its_first_frame(tiny_model: CutieGeo, gone: list[int]) -> None:
    images, labels = (torch.from_numpy(x) for x in synthetic_video(48, 64, 8))
    tracker = Tracker(tiny_model, mem_every=2, use_long_term=True, long_term=SMALL_LONG_TERM)
    tracker.step(images[0], torch.where(labels[0] == 3, 0, labels[0]))
    for image in images[1:5]:
        tracker.step(image)
    tracker.step(images[5], torch.where(labels[5] == 3, 3, 0))
    assert [sizes(bank)[2] for bank in tracker.memory.banks] != [0, 0]
    assert sizes(tracker.memory.banks[1]) == (0, 12, 0)
    tracker.remove(gone)
    assert [bank.ids for bank in tracker.memory.banks] == [[i for i in (1, 2) if i not in gone]]
    for image in images[6:]:
        assert tracker.step(image).shape == (4 - len(gone), 48, 64)


def test_the_values_of_memory_are_float32_whatever_the_network_runs_in() -> None:
    memory, memorised = VideoMemory(TrackerConfig()), left(0, 2)
    memory.write(seen(0), memorised._replace(value=memorised.value.bfloat16()), [1, 2], permanent=False)
    assert {column.dtype for column in memory.banks[0].tokens} == {torch.float32}


def test_new_limits_reach_every_bank() -> None:
    memory = story(TrackerConfig())
    memory.configure(TrackerConfig(max_mem_frames=2))
    memory.write(seen(6), left(6, 5), memory.ids, permanent=False)
    assert [frames_of(bank.tokens)[::PLACES] for bank in memory.banks] == [[0, 6], [2, 6], [3, 6]]


@pytest.mark.parametrize("config", [TrackerConfig(max_mem_frames=3), LONG], ids=["working", "long term"])
def test_a_memory_goes_on_from_its_saved_state(config: TrackerConfig) -> None:
    straight, other = story(config), VideoMemory(config)
    state = straight.state_dict()
    other.load_state_dict(state, CPU)
    for frame in range(6, 10):
        for memory in (straight, other):
            memory.write(seen(frame), left(frame, 6), [5, 2, 9, 1, 4, 3], permanent=frame == 7)
            memory.count_usage([random(frame, 1, bank.count) for bank in memory.banks])
    assert_same(straight.state_dict(), other.state_dict())
    assert straight.bytes() == other.bytes()
    assert_same(state, story(config).state_dict())


def test_a_memory_that_has_seen_nothing_can_be_saved_too() -> None:
    memory = story(LONG)
    memory.load_state_dict(VideoMemory(LONG).state_dict(), CPU)
    assert (memory.ids, memory.banks, memory.sensory, memory.summary) == ([], [], None, None)


def assert_same(one: Any, other: Any) -> None:
    """Equal in structure and, for tensors, bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_same(one[name], other[name])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other):
            assert_same(a, b)
    else:
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


# ------------------------------------------------------------------------------------------------------------ objects
def test_new_objects_take_the_last_slots_and_known_ones_keep_theirs() -> None:
    registry = ObjectRegistry([7])
    registry.add([3, 7, 9, 3])
    assert registry.ids == [7, 3, 9]
    assert len(registry) == 3


def test_removal_tells_which_slots_stay() -> None:
    registry = ObjectRegistry([7, 3, 9, 4])
    assert registry.remove([9, 7, 9]).tolist() == [1, 3]
    assert registry.ids == [3, 4]
    assert registry.remove([]).tolist() == [0, 1]
    stay = registry.remove(iter([3, 4]))
    assert (stay.tolist(), stay.dtype, registry.ids) == ([], torch.int64, [])


def test_removing_an_unknown_object_is_an_error_that_changes_nothing() -> None:
    registry = ObjectRegistry([7, 3])
    with pytest.raises(ValueError, match=r"remove: got ids \[1, 8\], expected some of \[7, 3\]"):
        registry.remove([8, 3, 1])
    assert registry.ids == [7, 3]


def test_painting_gives_each_pixel_the_id_of_its_most_probable_object() -> None:
    probs = torch.tensor([[0.6, 0.2, 0.1], [0.3, 0.5, 0.2], [0.1, 0.3, 0.7]]).view(3, 1, 3)
    painted = paint(probs, [2**31 - 1, 5])
    assert painted.tolist() == [[0, 2**31 - 1, 5]]
    assert painted.dtype == torch.int64


# ---------------------------------------------------------------------------------------------------------- corrections
def features_at(key: Tensor) -> FrameFeatures:
    """Features of a frame of which only the keys matter."""
    nothing, flat = torch.zeros(1, 1, 1, 1), torch.ones(1, key.shape[1], 1)
    return FrameFeatures(nothing, nothing, nothing, nothing, nothing, key, flat, torch.ones_like(key))


def test_a_correction_keeps_the_pinned_frames_that_it_confirms() -> None:
    """Two objects on three pinned frames and a recent one; positions are found again by their keys."""
    positions, draws = 12, torch.Generator().manual_seed(0)
    key = 20 * torch.randn(1, positions, 4, generator=draws)
    left = (torch.arange(positions) < 6).float().reshape(1, 1, positions, 1)
    bank = TokenBank([7, 8], TrackerConfig(max_mem_frames=5))
    for frame, mask in enumerate((left, 1 - left, left, left)):
        value = torch.full((1, 2, positions, 3), float(frame))
        tokens = fresh(key, torch.ones(1, positions, 1), torch.ones_like(key), value)
        bank.write(tokens, permanent=frame < 3, masks=torch.cat([mask, 1 - mask], dim=1))
    corrected = bank.corrected(7, features_at(key), left)
    assert (corrected.ids, corrected.num_long, corrected.num_recent) == ([7], 0, 0)
    assert corrected.num_permanent == 2 * positions
    assert corrected.tokens.value[0, 0, :, 0].unique().tolist() == [0.0, 2.0]
    assert torch.equal(corrected.tokens.key, torch.cat([key, key], dim=1))
    nowhere = bank.corrected(7, features_at(key), torch.zeros_like(left))
    assert nowhere.num_permanent == 3 * positions
    other = bank.corrected(8, features_at(key), left)
    assert other.tokens.value[0, 0, :, 0].unique().tolist() == [1.0]
    elsewhere = bank.corrected(7, features_at(-key), left)
    assert elsewhere.num_permanent < 2 * positions
    assert bank.ids == [7, 8]
    assert bank.count == 4 * positions
