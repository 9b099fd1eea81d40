"""What a tracker promises about objects, masks, memory and time."""

import copy
import dataclasses
import inspect
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Unpack, get_type_hints

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity_rules import SMALL_LONG_TERM, synthetic_video
from PIL import Image
from torch import Tensor

from cutie_geo.config import TrackerConfig, TrackerOptions
from cutie_geo.data.video import resize_shorter
from cutie_geo.inference.ensemble import Ensemble
from cutie_geo.inference.tracker import Tracker
from cutie_geo.memory import bank as bank_module
from cutie_geo.memory.bank import MAX_PROMPTED_FRAMES
from cutie_geo.model.network import CutieGeo
from cutie_geo.ops import nearest_labels
from cutie_geo.regions import internal_size
from cutie_geo.structures import MAX_OBJECT_ID

SIZE = (61, 93)
LONG: dict[str, Any] = {"mem_every": 2, "use_long_term": True, "long_term": SMALL_LONG_TERM}


def clip(frames: int) -> tuple[Tensor, Tensor]:
    images, labels = synthetic_video(*SIZE, frames)
    return torch.from_numpy(images), torch.from_numpy(labels)


def run(tracker: Tracker, images: Tensor) -> list[Tensor]:
    return [tracker.step(image) for image in images]


def started(model: CutieGeo, frames: int = 3, ids: Sequence[int] = (1, 2, 3), **options: Any) -> Tracker:
    """A tracker that has seen some frames of the synthetic clip, the first with a mask."""
    tracker = Tracker(model, **({"mem_every": 2} | options))
    images, labels = clip(frames)
    tracker.step(images[0], torch.stack([labels[0] == i for i in (1, 2, 3)]).float()[: len(ids)], ids)
    run(tracker, images[1:])
    return tracker


# --------------------------------------------------------------------------------------------------------- output
def test_probabilities_have_the_frames_size_and_sum_to_one(tiny_model: CutieGeo) -> None:
    tracker = Tracker(tiny_model)
    images, labels = clip(4)
    for t, image in enumerate(images):
        probs = tracker.step(image, labels[0] if t == 0 else None)
        assert probs.shape == (4, *SIZE)
        torch.testing.assert_close(probs.sum(0), torch.ones(SIZE))
        assert set(tracker.labels(probs).unique().tolist()) <= {0, 1, 2, 3}


def test_predicting_changes_nothing(tiny_model: CutieGeo) -> None:
    tracker = started(tiny_model, **LONG)
    features = tracker.encode(clip(4)[0][3])
    before = tracker.state_dict()
    first, second = tracker.predict(features), tracker.predict(features)
    assert torch.equal(first.probs, second.probs)
    assert_same_state(before, tracker.state_dict())


@pytest.mark.slow
def test_four_parts_make_a_step(tiny_model: CutieGeo) -> None:
    images, labels = clip(6)
    whole, parts = started(tiny_model), started(tiny_model)
    for t in (3, 4, 5):
        mask = torch.where(labels[t] == 2, 2, 0) if t == 4 else None
        expected = whole.step(images[t], mask)
        features = parts.encode(images[t])
        prediction = parts.predict(features)
        if mask is not None:
            prediction = parts.accept(prediction, mask)
        parts.commit(features, prediction)
        assert torch.equal(parts.restore(prediction), expected)
    assert_same_state(whole.state_dict(), parts.state_dict())


def test_before_any_object_all_is_background(tiny_model: CutieGeo) -> None:
    tracker = Tracker(tiny_model)
    images, labels = clip(5)
    for image in images[:3]:
        assert torch.equal(tracker.step(image), torch.ones(1, *SIZE))
    late = tracker.step(images[3], labels[3])
    fresh = Tracker(tiny_model).step(images[3], labels[3])
    assert torch.equal(late, fresh)
    assert tracker.step(images[4]).shape == (4, *SIZE)


def test_larger_frames_are_shrunk_inside_only(tiny_model: CutieGeo) -> None:
    tracker = Tracker(tiny_model, max_internal_size=32)
    images, labels = clip(2)
    tracker.step(images[0], labels[0])
    assert tracker.memory.banks[0].frame_tokens == 2 * 3
    assert tracker.step(images[1]).shape == (4, *SIZE)


def test_frames_are_shrunk_to_the_size_that_the_model_is_for(tiny_model: CutieGeo) -> None:
    sized = copy.copy(tiny_model)
    sized.config = replace(tiny_model.config, max_internal_size=32)
    own, never, asked = Tracker(sized), Tracker(sized, max_internal_size=-1), Tracker(sized, max_internal_size=40)
    by_hand = Tracker(tiny_model)
    images, labels = clip(2)
    for tracker in (own, never, asked):
        tracker.step(images[0], labels[0])
    small = [resize_shorter(image, 32) for image in images]
    by_hand.step(small[0], nearest_labels(labels[0], (small[0].shape[-2], small[0].shape[-1])))
    assert own.geometry is not None and never.geometry is not None and asked.geometry is not None
    assert [t.geometry.internal[0] for t in (own, never, asked)] == [32, 61, 40]
    assert torch.equal(own.predict(own.encode(images[1])).probs, by_hand.predict(by_hand.encode(small[1])).probs)
    assert own.step(images[1]).shape == (4, *SIZE)


def test_small_frames_are_enlarged_to_the_size_that_the_model_is_for(tiny_model: CutieGeo) -> None:
    sized = copy.copy(tiny_model)
    sized.config = replace(tiny_model.config, max_internal_size=96, min_internal_size=80)
    asked: list[tuple[TrackerOptions, int]] = [
        ({}, 80), ({"min_internal_size": 70}, 70), ({"min_internal_size": -1}, 61), ({"max_internal_size": 70}, 70),
        ({"max_internal_size": 48}, 48), ({"max_internal_size": -1}, 61),
        ({"max_internal_size": -1, "min_internal_size": 64}, 64),
    ]  # fmt: skip
    images, labels = clip(2)
    for options, shorter in asked:
        tracker = Tracker(sized, **options)
        tracker.step(images[0], labels[0])
        assert tracker.step(images[1]).shape == (4, *SIZE)
        assert tracker.geometry is not None
        assert min(tracker.geometry.internal) == shorter
    large = F.interpolate(images[1][None], internal_size(SIZE, -1, 80), mode="bilinear")[0]
    torch.testing.assert_close(Tracker(sized).encode(images[1]).image, Tracker(tiny_model).encode(large).image)


@pytest.mark.slow
def test_memory_is_written_and_read_as_the_model_says_unless_the_tracker_is_told(tiny_model: CutieGeo) -> None:
    own = copy.copy(tiny_model)
    own.config = replace(tiny_model.config, mem_every=2, top_k=3)
    told = Tracker(own, mem_every=4, top_k=9)
    assert [(t.config.mem_every, t.config.top_k) for t in (Tracker(own), told, Tracker(tiny_model))] == [
        (2, 3),
        (4, 9),
        (5, 30),
    ]
    told.load_state_dict(Tracker(own).state_dict())
    assert (told.config.mem_every, told.config.top_k) == (2, 3)
    images, _ = clip(5)
    said = [run(started(model, **options), images)[-1] for model, options in (
        (own, {"mem_every": None}), (tiny_model, {"mem_every": 2, "top_k": 3}), (tiny_model, {"mem_every": 2}),
    )]  # fmt: skip
    assert torch.equal(said[0], said[1])
    assert not torch.equal(said[0], said[2])


# ------------------------------------------------------------------------------------------------------------ ids
@pytest.mark.parametrize("ids", [[7, 3, MAX_OBJECT_ID], np.array([7, 3, 9]), torch.tensor([7, 3, 9])])
def test_ids_of_any_kind_and_order_are_kept(tiny_model: CutieGeo, ids: Any) -> None:
    tracker = Tracker(tiny_model)
    images, labels = clip(2)
    lookup = torch.tensor([0, *[int(i) for i in ids]])
    probs = tracker.step(images[0], lookup[labels[0]], ids)
    assert tracker.object_ids == [int(i) for i in ids]
    assert torch.equal(tracker.labels(probs), lookup[labels[0]])


def test_ids_above_float32_survive_the_internal_resize(tiny_model: CutieGeo) -> None:
    near = [2**24 + 1, 2**24 + 2]
    tracker = Tracker(tiny_model, max_internal_size=32)
    images, labels = clip(1)
    tracker.step(images[0], torch.where(labels[0] == 1, near[0], torch.where(labels[0] == 2, near[1], 0)))
    assert tracker.object_ids == near
    assert (tracker.last_mask[0] > 0.5).any(dim=(1, 2)).all()  # type: ignore[index]


@pytest.mark.parametrize("bad", [0, -1, MAX_OBJECT_ID + 1, 1.5, "1"])
def test_impossible_ids_are_refused(tiny_model: CutieGeo, bad: Any) -> None:
    with pytest.raises(ValueError, match="object id"):
        Tracker(tiny_model).step(torch.rand(3, *SIZE), torch.ones(SIZE, dtype=torch.long), [bad])


def test_the_order_of_known_ids_in_a_later_mask_does_not_matter(tiny_model: CutieGeo) -> None:
    images, labels = clip(4)
    one, other = started(tiny_model), started(tiny_model)
    assert torch.equal(one.step(images[3], labels[3], [1, 2, 3]), other.step(images[3], labels[3], [3, 1, 2]))
    assert one.object_ids == other.object_ids == [1, 2, 3]


# ---------------------------------------------------------------------------------------------------------- masks
def test_a_mask_of_some_known_objects_leaves_the_others_predicted(tiny_model: CutieGeo) -> None:
    images, labels = clip(4)
    predicted = started(tiny_model).step(images[3])
    tracker = started(tiny_model)
    given = torch.where(labels[3] == 2, 2, 0)
    probs = tracker.step(images[3], given)
    free = given == 0
    assert bool((tracker.labels(probs)[~free] == 2).all())
    assert not bool((tracker.labels(probs)[free] == 2).any())
    # where nothing was given the other objects keep the order of their probabilities
    assert torch.equal((probs[1] > probs[3])[free], (predicted[1] > predicted[3])[free])


def test_a_soft_mask_may_bring_a_new_object_among_known_ones(tiny_model: CutieGeo) -> None:
    images, labels = clip(5)
    tracker = started(tiny_model, ids=(1, 2))
    probs = tracker.step(images[3], (labels[3] == 3)[None].float(), [9])
    assert tracker.object_ids == [1, 2, 9]
    assert bool((tracker.labels(probs)[labels[3] == 3] == 9).all())
    hard = started(tiny_model, ids=(1, 2))
    assert torch.equal(hard.step(images[3], torch.where(labels[3] == 3, 9, 0)), probs)
    assert torch.equal(hard.step(images[4]), tracker.step(images[4]))


@pytest.mark.parametrize("objects", [None, []])
def test_an_empty_mask_is_no_mask(tiny_model: CutieGeo, objects: list[int] | None) -> None:
    image = clip(4)[0][3]
    plain, empty = started(tiny_model), started(tiny_model)
    assert torch.equal(plain.step(image), empty.step(image, torch.zeros(SIZE, dtype=torch.long), objects))
    assert_same_state(plain.state_dict(), empty.state_dict())


def test_labels_that_are_not_listed_erase_but_are_no_objects(tiny_model: CutieGeo) -> None:
    images, labels = clip(4)
    tracker = started(tiny_model, ids=(1, 2))
    probs = tracker.step(images[3], labels[3], [1])
    assert tracker.object_ids == [1, 2]
    assert bool((tracker.labels(probs)[labels[3] == 3] == 0).all())


def test_replacing_all_objects_gives_the_mask_back(tiny_model: CutieGeo) -> None:
    images, labels = clip(4)
    tracker = started(tiny_model)
    assert torch.equal(tracker.labels(tracker.step(images[3], labels[3])), labels[3])


@pytest.mark.parametrize(
    ("mask", "objects", "complaint"),
    [
        (torch.zeros(10, 10, dtype=torch.long), None, "mask: got size"),
        (torch.zeros(SIZE), None, "label map: got"),
        (torch.zeros(2, *SIZE), [1], "one for each of the 1 objects"),
        (torch.full((1, *SIZE), 1.5), [1], "outside"),
        (torch.full((1, *SIZE), float("nan")), [1], "outside"),
        (torch.ones(SIZE, dtype=torch.long), [1, 1], "each id once"),
        (None, [1], "without a mask"),
    ],
)
def test_masks_that_make_no_sense_are_refused_and_change_nothing(
    tiny_model: CutieGeo, mask: Tensor | None, objects: list[int] | None, complaint: str
) -> None:
    tracker = started(tiny_model)
    before = tracker.state_dict()
    with pytest.raises(ValueError, match=complaint):
        tracker.step(clip(4)[0][3], mask, objects)
    assert_same_state(before, tracker.state_dict())


def test_frames_of_another_size_or_kind_are_refused(tiny_model: CutieGeo) -> None:
    tracker = started(tiny_model)
    with pytest.raises(ValueError, match="the size changed within a video"):
        tracker.step(torch.rand(3, 64, 64))
    for bad in (torch.rand(2, *SIZE), torch.randint(0, 255, (3, *SIZE)), np.zeros((3, *SIZE), np.float32)):
        with pytest.raises(ValueError, match="expected a tensor"):
            tracker.step(bad)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------- removal
@pytest.mark.slow
@pytest.mark.parametrize("options", [{"mem_every": 2}, LONG], ids=["working", "long term"])
@pytest.mark.parametrize("gone", [[1], [2], [3], [1, 3]])
def test_a_removed_object_leaves_no_trace(tiny_model: CutieGeo, options: dict[str, Any], gone: list[int]) -> None:
    """No trace: every store of the survivors equals the full store without the removed objects' rows, and so the next
    prediction is that of a tracker whose stores never had such rows."""
    images, labels = clip(12)
    tracker, never = Tracker(tiny_model, **options), Tracker(tiny_model, **options)
    for t in range(10):
        mask = torch.where(labels[t] < 3, labels[t], 0) if t == 0 else None
        if t == 5:
            mask = torch.where(labels[t] == 3, 3, 0)
        tracker.step(images[t], mask)
    state = tracker.state_dict()
    stay = [slot for slot, i in enumerate(tracker.object_ids) if i not in gone]
    never.load_state_dict(without_rows(state, stay))
    tracker.remove(gone)
    assert tracker.object_ids == [i for i in (1, 2, 3) if i not in gone]
    for image in images[10:]:
        assert torch.equal(tracker.step(image), never.step(image))
    assert all(set(bank.ids).isdisjoint(gone) and bank.ids for bank in tracker.memory.banks)


def without_rows(state: dict[str, Any], stay: list[int]) -> dict[str, Any]:
    """A state from which the rows of all slots but `stay` are cut out by hand."""
    ids = [state["objects"][slot] for slot in stay]
    memory = state["memory"]
    banks = []
    for bank in memory["banks"]:
        rows = [row for row, i in enumerate(bank["ids"]) if i in ids]
        if rows:
            tokens = bank["tokens"] | {"value": bank["tokens"]["value"][:, rows]}
            banks.append(bank | {"ids": [bank["ids"][row] for row in rows], "tokens": tokens})
    parts = {"sensory": memory["sensory"][:, stay], "summary": memory["summary"][:, stay]}
    return state | {
        "objects": ids,
        "last_mask": state["last_mask"][:, stay],
        "memory": {"ids": ids, "banks": banks, **parts},
    }


def test_a_removed_and_given_again_object_starts_afresh(tiny_model: CutieGeo) -> None:
    images, labels = clip(5)
    tracker = started(tiny_model)
    tracker.remove([1, 2, 3])
    assert tracker.object_ids == []
    assert torch.equal(tracker.step(images[3]), torch.ones(1, *SIZE))
    again = tracker.step(images[4], labels[4])
    fresh = Tracker(tiny_model)
    assert torch.equal(again, fresh.step(images[4], labels[4]))
    assert_same_state(tracker.memory.state_dict(), fresh.memory.state_dict())


def test_removing_what_is_not_there_is_an_error_that_changes_nothing(tiny_model: CutieGeo) -> None:
    tracker = started(tiny_model)
    with pytest.raises(ValueError, match=r"\[8\]"):
        tracker.remove([1, 8])
    assert tracker.object_ids == [1, 2, 3]


# ------------------------------------------------------------------------------------------------ chunks and reads
@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 2])
def test_chunks_of_objects_change_no_value(tiny_model: CutieGeo, chunk: int) -> None:
    images, labels = clip(6)
    whole, chunked = Tracker(tiny_model, mem_every=2), Tracker(tiny_model, mem_every=2, chunk_size=chunk)
    for t, image in enumerate(images):
        mask = labels[0] if t == 0 else None
        torch.testing.assert_close(whole.step(image, mask), chunked.step(image, mask), rtol=0, atol=1e-5)


def test_fewer_tokens_than_top_k_are_all_read(tiny_model: CutieGeo) -> None:
    images, labels = torch.rand(2, 3, 32, 32), torch.ones(32, 32, dtype=torch.long)
    probs = []
    for top_k in (4, 30, 10**6):
        tracker = Tracker(tiny_model, top_k=top_k)
        tracker.step(images[0], labels)
        probs.append(tracker.step(images[1]))
    assert all(torch.equal(p, probs[0]) for p in probs)


# ----------------------------------------------------------------------------------------------------------- state
@pytest.mark.slow
@pytest.mark.parametrize("options", [{"mem_every": 2}, LONG], ids=["working", "long term"])
def test_a_resumed_video_goes_on_bit_for_bit(tiny_model: CutieGeo, options: dict[str, Any]) -> None:
    images, labels = clip(14)
    straight = Tracker(tiny_model, **options)
    expected = [straight.step(image, labels[0] if t == 0 else None) for t, image in enumerate(images)]
    first = Tracker(tiny_model, **options)
    for t, image in enumerate(images[:9]):
        first.step(image, labels[0] if t == 0 else None)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = Tracker(tiny_model)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.memory_report() == first.memory_report()
    for t in range(9, 14):
        assert torch.equal(second.step(images[t]), expected[t])


def test_a_saved_state_does_not_follow_the_tracker(tiny_model: CutieGeo) -> None:
    tracker = started(tiny_model, **LONG)
    state = tracker.state_dict()
    file = io.BytesIO()
    torch.save(state, file)
    run(tracker, clip(8)[0][3:])
    file.seek(0)
    assert_same_state(state, torch.load(file, weights_only=True))


def test_states_that_are_none_are_refused(tiny_model: CutieGeo) -> None:
    tracker = started(tiny_model)
    state = tracker.state_dict()
    with pytest.raises(ValueError, match="missing memory"):
        tracker.load_state_dict({name: value for name, value in state.items() if name != "memory"})
    other = state | {"memory": state["memory"] | {"summary": torch.zeros(1, 3, 16, 257)}}
    with pytest.raises(ValueError, match="another model"):
        tracker.load_state_dict(other)
    assert tracker.object_ids == [1, 2, 3]


@pytest.mark.slow
def test_streaming_and_two_runs_agree_bit_for_bit(tiny_model: CutieGeo) -> None:
    first, second = (run(started(tiny_model), clip(8)[0][3:]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


# ----------------------------------------------------------------------------------------------- clearing and options
def test_reset_forgets_objects_too(tiny_model: CutieGeo) -> None:
    tracker = started(tiny_model)
    tracker.reset()
    image, mask = torch.rand(3, 40, 50), torch.ones(40, 50, dtype=torch.long)
    fresh = Tracker(tiny_model, mem_every=2)
    assert torch.equal(tracker.step(image, mask), fresh.step(image, mask))
    assert tracker.object_ids == [1]


def test_forgetting_recent_frames_keeps_the_permanent_one(tiny_model: CutieGeo) -> None:
    tracker = started(tiny_model, frames=7, **LONG)
    tracker.forget_recent()
    (bank,) = tracker.memory.banks
    assert (bank.num_long, bank.num_permanent, bank.num_recent) == (0, 24, 0)
    assert tracker.step(clip(8)[0][7]).shape == (4, *SIZE)


def test_forgetting_sensory_memory_is_followed_by_a_prediction(tiny_model: CutieGeo) -> None:
    tracker = started(tiny_model)
    tracker.forget_sensory()
    assert not tracker.memory.sensory.any()  # type: ignore[union-attr]
    assert tracker.step(clip(4)[0][3]).shape == (4, *SIZE)


def test_a_changed_interval_changes_the_sensory_frames(tiny_model: CutieGeo) -> None:
    tracker = Tracker(tiny_model, mem_every=5)
    assert tracker._sensory_frames() == {1, 2, 3, 4, 5}
    tracker.configure(mem_every=10)
    assert tracker._sensory_frames() == {1, 3, 6, 8, 10}
    tracker.configure(mem_every=15)
    assert tracker._sensory_frames() == {1, 4, 8, 12, 15}


def test_long_term_memory_can_not_be_switched_in_mid_video(tiny_model: CutieGeo) -> None:
    with pytest.raises(ValueError, match="use_long_term"):
        started(tiny_model).configure(use_long_term=True)


@pytest.mark.parametrize(
    "options",
    [{"mem_evry": 3}, {"mem_every": 0}, {"top_k": 2.5}, {"use_long_term": 1}, {"long_term": {"min_mem_frames": 1}}],
)
def test_options_that_make_no_sense_are_refused(tiny_model: CutieGeo, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Tracker"):
        Tracker(tiny_model, **options)


def test_objects_given_on_the_last_frame_can_not_be_followed(tiny_model: CutieGeo) -> None:
    tracker = Tracker(tiny_model)
    images, labels = clip(2)
    tracker.step(images[0], labels[0], last=True)
    assert tracker.memory_report()["working"] == 0
    with pytest.raises(ValueError, match="last=True"):
        tracker.step(images[1])


def assert_same_state(one: Any, other: Any) -> None:
    """Equal in structure and, for tensors, bit for bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_same_state(one[name], other[name])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other):
            assert_same_state(a, b)
    elif isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


# ------------------------------------------------------------------------------------------- what review brought up
def test_a_result_is_the_callers_own(tiny_model: CutieGeo) -> None:
    image = clip(5)[0][3:]
    tracker, other = started(tiny_model), started(tiny_model)
    tracker.step(image[0]).mul_(0)  # in place, outside inference mode
    other.step(image[0])
    assert torch.equal(tracker.step(image[1]), other.step(image[1]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 255.0, -1.0])
def test_images_outside_the_range_are_refused_and_change_nothing(tiny_model: CutieGeo, bad: float) -> None:
    tracker = started(tiny_model)
    before, image = tracker.state_dict(), clip(4)[0][3].clone()
    image[0, 0, 0] = bad
    with pytest.raises(ValueError, match="expected 0 to 1"):
        tracker.step(image)
    assert_same_state(before, tracker.state_dict())


def test_four_parts_make_a_step_of_a_complete_mask_too(tiny_model: CutieGeo) -> None:
    images, labels = clip(5)
    whole, parts = started(tiny_model, **LONG), started(tiny_model, **LONG)
    whole.step(images[3], labels[3])
    features = parts.encode(images[3])
    parts.commit(features, parts.accept(parts.predict(features), labels[3]))
    assert_same_state(whole.state_dict(), parts.state_dict())


def test_a_prediction_of_removed_objects_can_not_be_committed(tiny_model: CutieGeo) -> None:
    tracker = started(tiny_model)
    features = tracker.encode(clip(4)[0][3])
    prediction = tracker.predict(features)
    tracker.remove([1])
    with pytest.raises(ValueError, match="commit"):
        tracker.commit(features, prediction)
    assert tracker.object_ids == [2, 3]


def test_a_mask_of_some_objects_needs_a_prediction_of_the_others(tiny_model: CutieGeo) -> None:
    images, labels = clip(4)
    tracker = started(tiny_model)
    tracker.encode(images[3])
    with pytest.raises(ValueError, match="no prediction"):
        tracker.accept(None, torch.where(labels[3] == 1, 1, 0))


def test_the_internal_size_can_not_change_within_a_video(tiny_model: CutieGeo) -> None:
    for name in ("max_internal_size", "min_internal_size"):
        with pytest.raises(ValueError, match=f"Tracker.configure: {name}: got a change within a video"):
            started(tiny_model).configure(**{name: 32})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "damage",
    [{"memory": None}, {"memory": {}}, {"objects": ["a"]}, {"objects": [1, 2]}, {"frame": None}, {"size": "ab"}],
)
def test_damaged_states_are_refused_and_change_nothing(tiny_model: CutieGeo, damage: dict[str, Any]) -> None:
    tracker = started(tiny_model)
    before = tracker.state_dict()
    with pytest.raises(ValueError, match=r"tracker state|object id|invalid literal"):
        tracker.load_state_dict(before | damage)
    assert_same_state(before, tracker.state_dict())


def test_label_maps_of_any_memory_order_and_byte_order_are_read(tiny_model: CutieGeo) -> None:
    images, labels = clip(1)
    plain = labels[0].numpy().astype(np.int32)
    expected = Tracker(tiny_model).step(images[0], plain)
    mirrored, swapped = plain[:, ::-1].copy()[:, ::-1], plain.astype(">i4")
    for mask in (mirrored, swapped, plain.astype(np.uint8), plain.astype(np.uint16)):
        assert torch.equal(Tracker(tiny_model).step(images[0], mask), expected)


def test_long_term_bytes_are_reported_as_soon_as_there_are_long_term_tokens(tiny_model: CutieGeo) -> None:
    tracker = started(tiny_model, frames=8, mem_every=1, use_long_term=True, long_term=SMALL_LONG_TERM)
    assert tracker.memory.banks[0].num_long > 0
    assert tracker.memory_report()["long_term"] > 0


def test_a_model_made_half_precision_is_refused_with_what_to_do(tiny_model):
    tracker = Tracker(copy.deepcopy(tiny_model).half())
    with pytest.raises(ValueError, match=r'trained weights are torch\.float16.*load_model\(\.\.\., precision="bf16"\)'):
        tracker.step(torch.rand(3, 64, 96), torch.ones(64, 96, dtype=torch.long))


# ------------------------------------------------------------------------------------------------ ids of probabilities
def test_old_probabilities_are_painted_with_their_own_ids(tiny_model: CutieGeo) -> None:
    tracker = started(tiny_model, ids=(1, 2))
    images, labels = clip(5)
    old = tracker.step(images[3])
    before = tracker.labels(old)
    tracker.remove([1])
    tracker.step(images[4], labels[4] == 3, objects=[1])  # a new object of the removed one's id, in another slot
    assert tracker.object_ids == [2, 1]
    assert torch.equal(tracker.labels(old), before)
    assert torch.equal(tracker.labels(old.clone(), [1, 2]), before)


def test_probabilities_of_which_the_ids_are_not_clear_are_refused(tiny_model: CutieGeo) -> None:
    tracker = started(tiny_model, ids=(1, 2))
    images, labels = clip(6)
    old = tracker.step(images[3])
    assert torch.equal(tracker.labels(old.clone()), tracker.labels(old))  # there is one choice
    tracker.remove([1])
    tracker.step(images[4], (labels[4] == 3) * 7, objects=[7])
    new = tracker.step(images[5])
    for probs in (old.clone(), new.clone()):
        with pytest.raises(ValueError, match=r"labels: .*may be \[1, 2\] or \[2, 7\].*objects="):
            tracker.labels(probs)
    assert set(tracker.labels(new.clone(), tracker.object_ids).unique().tolist()) <= {0, 2, 7}
    with pytest.raises(ValueError, match="got 3 channels, expected background \\+ 1 objects"):
        tracker.labels(new, [7])
    with pytest.raises(ValueError, match="got 9 channels"):
        tracker.labels(torch.rand(9, *SIZE))


def test_probabilities_of_a_video_before_keep_their_ids(tiny_model: CutieGeo) -> None:
    tracker = started(tiny_model, ids=(1, 2))
    images, labels = clip(4)
    old = tracker.step(images[3])
    before = tracker.labels(old)
    tracker.reset()
    new = tracker.step(images[0], torch.stack([labels[0] == 2, labels[0] == 3]).float(), [8, 9])
    assert torch.equal(tracker.labels(old), before)
    assert tracker.labels(new.clone()).unique().tolist() == [0, 8, 9]


# --------------------------------------------------------------------------------------------------------- corrections
def others_memory(tracker: Tracker, object_id: int) -> list[Tensor]:
    """All that one object has in memory."""
    memory, slot = tracker.memory, tracker.object_ids.index(object_id)
    (bank,) = [bank for bank in memory.banks if object_id in bank.ids]
    assert memory.sensory is not None
    return [memory.sensory[:, slot], *bank.tokens.objects(torch.tensor([bank.ids.index(object_id)]))]


def test_a_correction_leaves_no_trace_of_what_was_wrong(tiny_model: CutieGeo) -> None:
    """It is as if the object had been removed and given anew on that frame."""
    images, labels = clip(8)
    wrong = (torch.arange(SIZE[1]) < 9).expand(SIZE)
    corrected, anew = (Tracker(tiny_model, **LONG) for _ in range(2))
    for tracker in (corrected, anew):
        tracker.step(images[0], wrong, [1])
        run(tracker, images[1:5])
    anew.remove([1])
    right = labels[5] == 1
    assert torch.equal(corrected.step(images[5], right, [1], correction=True), anew.step(images[5], right, [1]))
    for image in images[6:]:
        assert torch.equal(corrected.step(image), anew.step(image))


def test_a_correction_keeps_the_order_of_ids_and_other_objects_memory(tiny_model: CutieGeo) -> None:
    images, labels = clip(6)
    corrected, plain = (started(tiny_model, 5, **LONG) for _ in range(2))
    right = labels[5] == 1
    corrected.step(images[5], right, objects=[1], correction=True)
    plain.step(images[5], right, objects=[1])
    assert corrected.object_ids == plain.object_ids == [1, 2, 3]
    for object_id in (2, 3):
        for ours, theirs in zip(others_memory(corrected, object_id), others_memory(plain, object_id), strict=True):
            torch.testing.assert_close(ours, theirs)
    (bank,) = [bank for bank in corrected.memory.banks if 1 in bank.ids]
    assert (bank.ids, bank.num_long, bank.num_recent) == ([1], 0, 0)


def test_an_object_that_is_said_to_be_out_of_sight_keeps_its_prompts(tiny_model: CutieGeo) -> None:
    tracker = started(tiny_model, 4)
    tracker.step(clip(5)[0][4], torch.zeros(SIZE, dtype=torch.long), objects=[2], correction=True)
    (bank,) = [bank for bank in tracker.memory.banks if 2 in bank.ids]
    assert bank.num_permanent == 2 * bank.frame_tokens


def test_memory_stays_bounded_however_often_an_object_is_corrected(
    tiny_model: CutieGeo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_module, "AGREEMENT", 0.0)  # every correction confirms the ones before
    images, labels = clip(1)
    tracker = Tracker(tiny_model, mem_every=1)
    for _ in range(MAX_PROMPTED_FRAMES + 4):
        tracker.step(images[0], labels[0], correction=bool(tracker.object_ids))
    for bank in tracker.memory.banks:
        assert bank.num_permanent == (MAX_PROMPTED_FRAMES + 1) * bank.frame_tokens
    assert tracker.object_ids == [1, 2, 3]


def test_a_tracker_goes_on_from_a_saved_correction(tiny_model: CutieGeo) -> None:
    images, labels = clip(8)
    tracker, other = started(tiny_model, 4), Tracker(tiny_model)
    tracker.step(images[4], labels[4] == 1, objects=[1], correction=True)
    saved = io.BytesIO()
    torch.save(tracker.state_dict(), saved)
    saved.seek(0)
    other.load_state_dict(torch.load(saved, weights_only=True))
    for t in (5, 6, 7):
        mask = {"mask": labels[6] == 2, "objects": [2], "correction": True} if t == 6 else {}
        assert torch.equal(tracker.step(images[t], **mask), other.step(images[t], **mask))


def test_a_correction_without_a_mask_is_refused(tiny_model: CutieGeo) -> None:
    tracker = started(tiny_model)
    before = tracker.state_dict()
    with pytest.raises(ValueError, match="correction: got no mask that names an object"):
        tracker.step(clip(4)[0][3], correction=True)
    assert_same_state(before, tracker.state_dict())


def test_a_step_takes_every_form_of_a_frame(tiny_model: CutieGeo) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
    mask = np.zeros((48, 64), np.uint8)
    mask[8:30, 10:40] = 3

    def run(form: Callable[[np.ndarray], object], **options: str) -> list[torch.Tensor]:
        tracker = Tracker(tiny_model, mem_every=1)
        return [
            tracker.step(form(image), mask if t == 0 else None, **options)  # type: ignore[arg-type]
            for t, image in enumerate(pixels)
        ]

    expected = run(lambda image: torch.from_numpy(image).permute(2, 0, 1).float() / 255)
    for form, options in [
        (lambda image: image, {}),
        (lambda image: image[..., ::-1], {"color": "bgr"}),
        (Image.fromarray, {}),
        (lambda image: torch.from_numpy(image).permute(2, 0, 1), {}),
    ]:
        assert all(torch.equal(a, b) for a, b in zip(run(form, **options), expected, strict=True))


def test_options_are_typed_as_the_configuration() -> None:
    """Editors complete them, and type checkers find misspelt ones."""
    hints = get_type_hints(TrackerOptions)
    fields = {field.name: field.type for field in dataclasses.fields(TrackerConfig)}
    assert hints.keys() == fields.keys()
    assert {name: hints[name] for name in fields if name != "long_term"} == {
        name: hint for name, hint in fields.items() if name != "long_term"
    }
    for function in (Tracker.__init__, Tracker.configure, Ensemble.__init__):
        assert inspect.signature(function).parameters["options"].annotation == Unpack[TrackerOptions]
