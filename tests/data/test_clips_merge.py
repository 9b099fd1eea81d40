"""Pasting and choosing objects."""

import random
from collections import Counter

import pytest
import torch

from cutie_geo.data.clips.merge import first_ids, paste, paste_twin, to_slots


def clip(value: int, boxes: dict[int, tuple[slice, slice]], frames: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames of one colour, with boxes of ids in all of them."""
    labels = torch.zeros(frames, 24, 32, dtype=torch.int32)
    for object_id, box in boxes.items():
        labels[:, *box] = object_id
    return torch.full((frames, 3, 24, 32), value, dtype=torch.uint8), labels


LEFT, RIGHT = (slice(4, 14), slice(2, 10)), (slice(6, 18), slice(18, 28))


def test_pasted_objects_get_ids_of_their_own():
    images, labels = paste(*clip(50, {7: LEFT}), *clip(200, {7: RIGHT, 9: (slice(0, 3), slice(0, 3))}))
    assert first_ids(labels) == (7, 8, 9)
    assert (labels[:, *LEFT] == 7).all()
    assert (labels[:, *RIGHT] == 8).all()
    assert (images[:, :, 9:15, 21:25] == 200).all()
    assert (images[:, :, 22, 20] == 50).all()


def test_no_pasted_object_becomes_background():
    for object_id in (1, 244, 245, 254):  # (245 + 10) mod 255 is 0
        _, labels = paste(*clip(50, {1: LEFT}), *clip(200, {object_id: RIGHT}))
        assert (labels[:, *RIGHT] == 2).all()
        assert (labels[:, *LEFT] == 1).all()


def test_a_pasted_object_hides_what_lies_under_it():
    _, labels = paste(*clip(50, {3: RIGHT}), *clip(200, {1: RIGHT}))
    assert first_ids(labels) == (4,)


def test_edges_are_blended_and_the_inputs_stay():
    below, above = clip(50, {1: LEFT}), clip(200, {1: RIGHT})
    images, _ = paste(*below, *above)
    assert 50 < images[0, 0, 10, 17] < images[0, 0, 10, 18] < 200  # without and within the mask
    assert (below[0] == 50).all()
    assert (below[1] <= 1).all()


def test_objects_that_appear_later_are_not_pasted_nor_kept():
    late, labels = clip(200, {1: RIGHT})
    labels[1, :3, :3] = 5
    images, merged = paste(*clip(50, {1: LEFT}), late, labels)
    assert set(merged.unique().tolist()) == {0, 1, 2}
    assert (images[1, :, 0, 0] == 50).all()
    slots, count = to_slots(labels, 3, random.Random(0))
    assert count == 1
    assert set(slots.unique().tolist()) == {0, 1}


def test_where_ids_run_out_nothing_more_is_pasted():
    _, labels = paste(*clip(50, {254: LEFT}), *clip(200, {1: RIGHT}))
    assert set(labels.unique().tolist()) == {0, 254}


def test_slots_count_up_without_gaps():
    _, labels = clip(50, {30: LEFT, 200: RIGHT})
    slots, count = to_slots(labels, 3, random.Random(0))
    assert count == 2
    assert slots.dtype == torch.uint8
    assert (slots[:, *LEFT] == 1).all()
    assert (slots[:, *RIGHT] == 2).all()


@pytest.mark.slow
def test_of_too_many_objects_each_is_as_likely_kept():
    _, labels = clip(50, {i: (slice(4 * i, 4 * i + 4), slice(0, 8)) for i in range(1, 6)})
    rng, kept = random.Random(0), Counter[int]()
    for _ in range(500):
        slots, count = to_slots(labels, 2, rng)
        assert count == 2
        kept.update(labels[slots > 0].unique().tolist())
    assert sorted(kept) == [1, 2, 3, 4, 5]
    assert all(150 < number < 250 for number in kept.values())


def test_an_empty_clip_has_no_slots():
    slots, count = to_slots(clip(50, {})[1], 3, random.Random(0))
    assert count == 0
    assert not slots.any()


@pytest.mark.slow
def test_a_twin_looks_like_its_object_and_is_one_of_its_own_or_background():
    images, labels = clip(50, {1: (slice(8, 16), slice(10, 20))})
    images[:, :, 8:16, 10:20] = 200
    own = hidden = 0
    for seed in range(40):
        pasted, ids = paste_twin(images, labels, 1, random.Random(seed))
        assert set(ids.unique().tolist()) <= {0, 1, 2}
        twin = ids[0] == 2
        own += bool(twin.any())
        assert (pasted[0, 0][twin] > 100).all()
        bright_background = (pasted[0, 0] > 190) & (ids[0] == 0)
        hidden += bool(bright_background.any())
    assert own >= 8
    assert hidden >= 8
    assert (images[:, :, 0, 0] == 50).all()
    for seed in range(20):  # no room: never an object of its own
        assert set(paste_twin(images, labels, 0, random.Random(seed))[1].unique().tolist()) <= {0, 1}


def test_what_leaves_on_one_side_does_not_come_in_on_the_other():
    images, labels = clip(50, {1: (slice(0, 24), slice(0, 32))})
    images[:] = 200
    for seed in range(10):
        _, ids = paste_twin(images, labels, 1, random.Random(seed))
        twin = (ids[0] == 2).float()
        if twin.any():
            assert twin.mean() < 0.95
