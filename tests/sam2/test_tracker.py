"""SAM 2 as a stream: the package's own masks, in memory that stops growing."""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from stock_sam2 import SIZE, Stock, tensors, tiny_sam2, video
from torch import Tensor

from cutie_geo.inference.segmenter import Segmenter
from cutie_geo.ops import soft_aggregate
from cutie_geo.runs.calls import segment_video
from cutie_geo.sam2.networks import Sam2Model
from cutie_geo.sam2.tracker import Sam2Tracker, to_probs
from cutie_geo.structures import Frame, GivenMask

LOGITS = 1e-4
"""By how much logits may differ from the package's."""


@pytest.fixture(scope="module")
def model() -> Sam2Model:
    return tiny_sam2()


def beside(model: Sam2Model, images: Tensor, folder: Path, overrides: Iterable[str] = ()) -> Stock:
    """The package's predictor, which sees the very squares that our tracker sees."""
    stock = Stock(model, folder, overrides)
    stock.see(model.encode(image[None])[0].image for image in images)
    return stock


def started(model: Sam2Model, images: Tensor, labels: Tensor, frames: int = 3, chunk_size: int = 1) -> Sam2Tracker:
    """A tracker of three objects that has seen some frames."""
    tracker = Sam2Tracker(model, chunk_size)
    for t in range(frames):
        tracker.step(images[t], labels[0] if t == 0 else None)
    return tracker


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    for t, (a, b) in enumerate(zip(ours, theirs)):
        torch.testing.assert_close(a, b, atol=LOGITS, rtol=0, msg=lambda text, t=t: f"frame {t}: {text}")


# ------------------------------------------------------------------------------------------------- the stock predictor
@pytest.mark.slow
@pytest.mark.parametrize(("release", "frames"), [("sam2.1", 60), ("sam2", 24)])
def test_frames_of_three_objects_have_the_masks_of_the_package(release: str, frames: int, tmp_path: Path) -> None:
    model = tiny_sam2(f"{release}-hiera-tiny")
    images, labels = video(frames, tmp_path)
    stock = beside(model, images, tmp_path)
    stock.give(0, labels[0], (1, 2, 3))
    theirs = list(stock.follow(0, frames))
    tracker = Sam2Tracker(model)
    ours = [tracker.step_logits(image, labels[0] if t == 0 else None) for t, image in enumerate(images)]
    assert_same(ours, theirs)
    followed = torch.stack(theirs)[1:]
    absent = (followed < -1000).all(-1).all(-1)
    assert 0.02 < absent.float().mean() < 0.98, "objects come and go"
    seen = followed[~absent]
    assert seen.std() > 1, "masks are more than noise"
    assert 0.05 < (seen > 0).float().mean() < 0.95


@pytest.mark.slow
def test_objects_that_come_are_corrected_and_leave_have_the_masks_of_the_package(
    model: Sam2Model, tmp_path: Path
) -> None:
    images, labels = video(30, tmp_path)
    given = {2: (1,), 8: (2,), 15: (1, 3), 22: (2,)}
    stock, theirs = beside(model, images, tmp_path), []
    for start, stop in zip(given, [*list(given)[1:], 26]):
        stock.give(start, labels[start], given[start])
        theirs += stock.follow(start, stop)
    stock.network.remove_object(stock.state, 2)
    theirs += stock.follow(26, 30)
    tracker, ours = Sam2Tracker(model), []
    for t, image in enumerate(images):
        if t == 26:
            tracker.remove([2])
        ours.append(tracker.step_logits(image, labels[t] if t in given else None, given.get(t)))
    assert [len(logits) for logits in ours] == [0] * 2 + [1] * 6 + [2] * 7 + [3] * 11 + [2] * 4
    assert tracker.object_ids == [1, 3]
    assert_same(ours[2:], theirs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("+model.memory_temporal_stride_for_eval=3",),
        ("+model.max_cond_frames_in_attn=2",),
        ("+model.max_cond_frames_in_attn=3", "+model.memory_temporal_stride_for_eval=4", "model.num_maskmem=5"),
        ("model.num_maskmem=1",),
        ("+model.max_obj_ptrs_in_encoder=4",),
    ],
)
def test_other_ways_to_remember_are_the_packages_too(overrides: tuple[str, ...], tmp_path: Path) -> None:
    model = tiny_sam2(overrides=overrides)
    images, labels = video(26, tmp_path)
    stock, theirs = beside(model, images, tmp_path, overrides), []
    given = (0, 5, 7, 8, 16)
    for start, stop in zip(given, (*given[1:], 26)):
        stock.give(start, labels[start], (1, 2))
        theirs += stock.follow(start, stop)
    tracker = Sam2Tracker(model)
    ours = [
        tracker.step_logits(image, *((labels[t], (1, 2)) if t in given else (None, None)))
        for t, image in enumerate(images)
    ]
    assert_same(ours, theirs)


@pytest.mark.slow
def test_nothing_is_forgotten_that_is_still_read(model: Sam2Model, tmp_path: Path) -> None:
    images, labels = video(20, tmp_path)
    tracker, hasty = Sam2Tracker(model), Sam2Tracker(model)
    hasty.reach = hasty.reach._replace(pointers=15)
    differ = []
    for t, image in enumerate(images):
        a, b = (each.step_logits(image, labels[0] if t == 0 else None) for each in (tracker, hasty))
        differ.append(not torch.equal(a, b))
    assert not any(differ[:16]), "no frame before has fifteen found ones behind it"
    assert any(differ[16:])
    hasty.reach = hasty.reach._replace(maps=6)
    hasty.step(images[0])
    with pytest.raises(AttributeError):  # the package looks for a map that is gone
        hasty.step(images[1])


@pytest.mark.slow
def test_a_short_clip_of_known_length_has_the_masks_of_the_package(model: Sam2Model, tmp_path: Path) -> None:
    images, labels = video(9, tmp_path)
    stock = beside(model, images, tmp_path)
    stock.give(0, labels[0], (1, 2, 3))
    tracker = Sam2Tracker(model, num_frames=9)
    ours = [tracker.step_logits(image, labels[0] if t == 0 else None) for t, image in enumerate(images)]
    assert_same(ours, list(stock.follow(0, 9)))


@pytest.mark.slow
def test_half_precision_rounds_as_it_does_in_the_package(tmp_path: Path) -> None:
    model = tiny_sam2()
    model.precision = torch.bfloat16
    images, labels = video(10, tmp_path)
    tracker = Sam2Tracker(model, num_frames=10)
    with model.autocast():
        stock = beside(model, images, tmp_path)
        stock.give(0, labels[0], (1, 2))
        theirs = list(stock.follow(0, 10))
    ours = [
        tracker.step_logits(image, labels[0] if t == 0 else None, (1, 2) if t == 0 else None)
        for t, image in enumerate(images)
    ]
    assert_same(ours, theirs)


def test_frames_in_a_folder_look_the_same_to_both(model: Sam2Model, tmp_path: Path) -> None:
    images, _ = video(5, tmp_path)
    theirs = Stock(model, tmp_path).state["images"]
    ours = torch.cat([one.image for one in model.encode(images)])
    step = 1 / 255 / 0.224
    assert float((ours - theirs).abs().max()) < 1.1 * step
    assert float((ours == theirs).float().mean()) > 0.999


# --------------------------------------------------------------------------------------------------------------- memory
@pytest.mark.slow
def test_memory_is_full_after_fifteen_frames_and_holds_what_is_read(model: Sam2Model, tmp_path: Path) -> None:
    images, labels = video(24, tmp_path)
    stock = beside(model, images, tmp_path)
    stock.give(0, labels[0], (1, 2, 3))
    tracker, reports, held = Sam2Tracker(model), [], []
    for t, (image, _) in enumerate(zip(images, stock.follow(0, 24))):
        tracker.step(image, labels[0] if t == 0 else None)
        reports.append(tracker.memory_report())
        held.append(stock.held())
    assert all(report == reports[15] for report in reports[15:])
    assert reports[14] != reports[15]
    one_map, pointer = 16 * 4 * 4 * 2, 64 * 4
    wanted = {"given": one_map, "recent": 6 * one_map, "pointers": 16 * pointer}
    assert reports[-1] == {kind: 3 * size for kind, size in wanted.items()} | {"positions": 16 * 4 * 4 * 4}
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in held_by(tracker)}
    assert sum(storages.values()) - 3 * 4 == sum(reports[-1].values()), "the report leaves out three scores only"
    growth = [b - a for a, b in pairwise(held)]
    assert min(growth) > 3 * one_map, "the package keeps every frame's map"


def held_by(tracker: Sam2Tracker) -> Iterable[Tensor]:
    """Every tensor in the tracker's own attributes, but for the model."""
    memories = [
        list(one)
        for memory in tracker.memories.values()
        for part in (memory.given, memory.recent)
        for one in part.values()
    ]
    rest = {name: value for name, value in vars(tracker).items() if name not in ("model", "memories")}
    return tensors([memories, rest])


@pytest.mark.slow
def test_a_thousand_frames_take_no_more_memory_than_a_hundred(model: Sam2Model, tmp_path: Path) -> None:
    images, labels = video(1000, tmp_path)
    stock = beside(model, images, tmp_path)
    stock.give(0, labels[0], (1,))
    tracker, ours, theirs = Sam2Tracker(model), [], []
    for t, (image, logits) in enumerate(zip(images, stock.follow(0, 1000))):
        probs = tracker.step(image, labels[0] if t == 0 else None, (1,) if t == 0 else None)
        assert torch.equal(probs, to_probs(logits)), f"frame {t}"
        if t + 1 in (100, 500, 1000):
            ours.append(sum(tracker.memory_report().values()))
            theirs.append(stock.held())
            print(f"after {t + 1} frames: {ours[-1]:,} bytes, the package's predictor {theirs[-1]:,}")
    assert ours[0] == ours[1] == ours[2]
    frame = 3 * 64 * 64 * 4
    assert theirs[0] > 1000 * frame, "all frames, before the first is segmented"
    assert theirs[2] - theirs[1] > 500 * (16 * 4 * 4 * 2 + 16 * 16 * 4)


@pytest.mark.slow
def test_masks_on_many_frames_cost_memory_unless_it_is_limited(tmp_path: Path) -> None:
    images, labels = video(16, tmp_path)
    sizes = []
    for overrides in ((), ("+model.max_cond_frames_in_attn=3",)):
        tracker = Sam2Tracker(tiny_sam2(overrides=overrides))
        for image, mask in zip(images, labels):
            tracker.step(image, mask)
        sizes.append(tracker.memory_report()["given"] / (3 * 16 * 4 * 4 * 2))
    assert sizes == [16, 6], "the limit counts frames that are read beside the six newest"


def test_removing_an_object_frees_its_memory(model: Sam2Model, tmp_path: Path) -> None:
    images, labels = video(4, tmp_path)
    tracker = started(model, images, labels, chunk_size=-1)
    before = tracker.memory_report()
    tracker.remove([1, 3])
    after = tracker.memory_report()
    assert all(after[kind] * 3 == before[kind] for kind in ("given", "recent", "pointers"))
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in held_by(tracker)}
    assert sum(storages.values()) - 4 == sum(after.values()), "nothing of the others is held along"
    assert list(tracker.presence) == [2]
    with pytest.raises(ValueError, match=r"remove: got ids \[1\], expected some of \[2\]"):
        tracker.remove([1])


# ---------------------------------------------------------------------------------------------------------- several
def test_objects_that_go_together_have_the_masks_that_they_have_alone(model: Sam2Model, tmp_path: Path) -> None:
    images, labels = video(6, tmp_path)
    calls: list[int] = []
    run = model.network._run_single_frame_inference
    alone, together = Sam2Tracker(model), Sam2Tracker(model, chunk_size=-1)
    for t, image in enumerate(images):
        mask, ids = (labels[t], {0: (1, 2), 2: (3,)}[t]) if t in (0, 2) else (None, None)
        expected = alone.step_logits(image, mask, ids)
        model.network._run_single_frame_inference = lambda *args, **kw: (
            calls.append(kw["batch_size"]) or run(*args, **kw)
        )
        got = together.step_logits(image, mask, ids)
        model.network._run_single_frame_inference = run
        # a rounding may decide how a number of the memory is rounded to bfloat16
        torch.testing.assert_close(got, expected, atol=0.05, rtol=0.01)
    assert calls == [2, 2, 1, 2, 2, 1, 2, 1, 2, 1], "who came together goes together"


def test_features_made_ahead_change_nothing(model: Sam2Model, tmp_path: Path) -> None:
    images, labels = video(5, tmp_path)
    plain, ahead = started(model, images, labels), started(model, images, labels)
    features = ahead.encode_ahead([*images[3:5], torch.rand(3, 8, 8), images[0]])
    assert [one.size for one in features] == [SIZE, SIZE]
    single = ahead.encode_ahead([images[3]])[0]
    assert torch.equal(plain.step(images[3]), ahead.step(images[3], features=single))
    torch.testing.assert_close(
        plain.step_logits(images[4]), ahead.step_logits(images[4], features=features[1]), atol=0.05, rtol=0.01
    )


def test_the_image_encoder_runs_once_for_all_objects(model: Sam2Model, tmp_path: Path) -> None:
    images, labels = video(4, tmp_path)
    calls: list[int] = []
    handle = model.network.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    started(model, images, labels, frames=4)
    handle.remove()
    assert len(calls) == 4


# ------------------------------------------------------------------------------------------------------ probabilities
def test_label_maps_are_those_of_the_packages_script(model: Sam2Model) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 50, 70, generator=generator) * torch.tensor([0.1, 3, 12, 25])[:, None, None]
    logits[3, :10] = -1024
    logits[:, 20:25] = logits[:, 20:25].clamp(max=-0.1)
    # as tools/vos_inference.py of SAM 2 does: overlaps are taken out, each mask is cut at 0, lower ids lie on top
    alone = model.network._apply_non_overlapping_constraints(logits[:, None])[:, 0] > 0
    wanted = torch.zeros(50, 70, dtype=torch.long)
    for k in reversed(range(4)):
        wanted[alone[k]] = k + 1
    probs = to_probs(logits)
    torch.testing.assert_close(probs.sum(0), torch.ones(50, 70))
    assert torch.equal(probs.argmax(0), wanted)
    assert not torch.equal(soft_aggregate(logits.sigmoid()[None])[0].argmax(0), wanted), "hence not soft aggregation"
    torch.testing.assert_close(to_probs(logits[:1])[1], logits[0].sigmoid())


def test_probabilities_have_the_frames_size_and_belong_to_the_caller(model: Sam2Model, tmp_path: Path) -> None:
    images, labels = video(3, tmp_path)
    tracker, other = Sam2Tracker(model), Sam2Tracker(model)
    for t, image in enumerate(images):
        mask = 10 * labels[0] if t == 0 else None
        probs = tracker.step(image, mask)
        assert torch.equal(probs, to_probs(other.step_logits(image, mask)))
        assert probs.shape == (4, *SIZE)
        torch.testing.assert_close(probs.sum(0), torch.ones(SIZE))
        assert set(tracker.labels(probs).unique().tolist()) <= {0, 10, 20, 30}
        assert not probs.is_inference()
        probs.zero_()
    assert tracker.object_ids == [10, 20, 30]


def test_a_given_mask_is_seen_at_the_networks_size(model: Sam2Model, tmp_path: Path) -> None:
    images, labels = video(1, tmp_path)
    tracker = Sam2Tracker(model)
    shown = tracker.labels(tracker.step(images[0], labels[0]))
    assert float((shown == labels[0]).float().mean()) > 0.9
    soft = Sam2Tracker(model)
    channels = torch.stack([labels[0] == i for i in (1, 2, 3)]).float()
    assert torch.equal(soft.labels(soft.step(images[0], channels)), shown)


@pytest.mark.slow
def test_presence_is_the_packages_object_score(model: Sam2Model, tmp_path: Path) -> None:
    images, labels = video(12, tmp_path)
    tracker, found = Sam2Tracker(model), []
    tracker.step(images[0], torch.where(labels[0] == 2, 2, 0), objects=[2, 5])
    assert tracker.presence == pytest.approx({2: 1, 5: 0}, abs=1e-4), "5 was said to be invisible"
    for image in images[1:]:
        logits = tracker.step_logits(image)
        found += [(present > 0.5, bool((one > -1000).any())) for present, one in zip(tracker.presence.values(), logits)]
    assert all(present == shown for present, shown in found)
    assert {present for present, _ in found} == {True, False}


# -------------------------------------------------------------------------------------------------------- as a method
def test_it_stands_where_a_tracker_does(model: Sam2Model, tmp_path: Path) -> None:
    images, labels = video(6, tmp_path)
    masks = {1: GivenMask(labels[1].numpy(), (1, 2)), 3: labels[3]}
    frames = [Frame(f"{t}", image, (30, 40), masks.get(t)) for t, image in enumerate(images)]
    tracker = Sam2Tracker(model)
    assert isinstance(tracker, Segmenter)
    results = dict(segment_video(tracker, frames, lookahead=4))
    assert list(results) == ["0", "1", "2", "3", "4", "5"]
    assert results["0"].shape == (30, 40)
    assert not results["0"].any()
    assert set(results["1"].unique().tolist()) == {0, 1, 2}
    assert tracker.object_ids == [1, 2, 3]


def test_before_any_object_all_is_background(model: Sam2Model, tmp_path: Path) -> None:
    images, labels = video(5, tmp_path)
    tracker = Sam2Tracker(model)
    for image in images[:3]:
        assert torch.equal(tracker.step(image), torch.ones(1, *SIZE))
    assert torch.equal(tracker.step(images[3], torch.zeros(SIZE, dtype=torch.long)), torch.ones(1, *SIZE))
    assert tracker.presence == {}
    assert sum(tracker.memory_report().values()) == 0
    assert torch.equal(tracker.step(images[4], labels[4]), Sam2Tracker(model).step(images[4], labels[4]))


@pytest.mark.slow
def test_pinning_and_the_last_frame_change_nothing(model: Sam2Model, tmp_path: Path) -> None:
    images, labels = video(6, tmp_path)
    plain, marked = started(model, images, labels), started(model, images, labels)
    for image in images[3:]:
        assert torch.equal(plain.step(image), marked.step(image, permanent=True, last=True))


def test_a_reset_tracker_is_a_new_one(model: Sam2Model, tmp_path: Path) -> None:
    images, labels = video(3, tmp_path)
    tracker = started(model, images, labels)
    tracker.reset()
    assert (tracker.object_ids, tracker.frame_size, tracker.presence) == ([], None, {})
    small, fresh = images[:, :, :40], Sam2Tracker(model)
    for t in range(3):
        mask = labels[0][:40] if t == 0 else None
        assert torch.equal(tracker.step(small[t], mask), fresh.step(small[t], mask))


def test_bad_input_is_refused_and_changes_nothing(model: Sam2Model, tmp_path: Path) -> None:
    images, labels = video(4, tmp_path)
    tracker, untouched = started(model, images, labels), started(model, images, labels)
    good = tracker.encode_ahead([images[3]])[0]
    for arguments, problem in [
        ({"image": images[3][:2]}, r"image: got \(2, 61, 93\)"),
        ({"image": images[3] * 255}, "image: got values from"),
        ({"image": images[3][:, :40]}, r"the size changed within a video; got \(H, W\) = \(40, 93\)"),
        ({"image": images[3], "mask": labels[3][:5]}, r"mask: got size \(5, 93\)"),
        ({"image": images[3], "mask": labels[3], "objects": [0]}, "object id: got 0"),
        ({"image": images[3], "objects": [1]}, "objects: got ids without a mask, expected both"),
        ({"image": images[3], "features": good._replace(size=(5, 5))}, r"features: got those of \(\(5, 5\)"),
        ({"image": images[3], "features": good._replace(image=torch.rand(1, 3, 8, 8))}, "features: got those of"),
    ]:
        with pytest.raises(ValueError, match=problem):
            tracker.step(**arguments)
    for ask in (lambda: tracker.restore_depth(good), lambda: tracker.encode_ahead([images[3]], with_depth=True)):
        with pytest.raises(ValueError, match=r"sam2\.1-hiera-tiny has no geometry encoder"):
            ask()
    with pytest.raises(ValueError, match="labels: got 2 channels, expected background \\+ 3 objects"):
        tracker.labels(torch.rand(2, 4, 4))
    assert tracker.memory_report() == untouched.memory_report()
    assert torch.equal(tracker.step(images[3]), untouched.step(images[3]))


def test_options_that_can_not_work_are_refused(model: Sam2Model) -> None:
    for options in ({"chunk_size": 0}, {"num_frames": 0}):
        with pytest.raises(ValueError, match="expected"):
            Sam2Tracker(model, **options)
    with pytest.raises(ValueError, match="would mix the objects; expected 1"):
        Sam2Tracker(tiny_sam2(overrides=["+model.non_overlap_masks_for_mem_enc=true"]), chunk_size=2)
    with pytest.raises(ValueError, match="max_cond_frames_in_attn: got 1, expected -1 or at least 2"):
        Sam2Tracker(tiny_sam2(overrides=["+model.max_cond_frames_in_attn=1"]))


def test_a_correction_forgets_all_but_corrections(model: Sam2Model, tmp_path: Path) -> None:
    images, labels = video(6, tmp_path)
    tracker, anew = Sam2Tracker(model), Sam2Tracker(model)
    for each in (tracker, anew):
        each.step(images[0], labels[0], [1, 2])
        each.step(images[1])
    tracker.step(images[2], labels[2] == 1, [1], correction=True)
    anew.remove([1])
    anew.step(images[2], labels[2] == 1, [1])
    assert (list(tracker.memories[1].given), tracker.memories[1].recent) == ([2], {})
    assert (list(tracker.memories[2].given), list(tracker.memories[2].recent)) == ([0], [1, 2])
    ours, theirs = tracker.step_logits(images[3]), anew.step_logits(images[3])
    assert tracker.object_ids == [1, 2]
    torch.testing.assert_close(ours, theirs.flip(0))
    tracker.step(images[4], labels[4] == 1, [1], correction=True)
    assert list(tracker.memories[1].given) == [2, 4]


def test_old_probabilities_of_sam2_keep_their_ids(model: Sam2Model, tmp_path: Path) -> None:
    images, labels = video(4, tmp_path)
    tracker = Sam2Tracker(model)
    tracker.step(images[0], labels[0], [1, 2])
    old = tracker.step(images[1])
    before = tracker.labels(old)
    tracker.remove([1])
    tracker.step(images[2], labels[2] == 3, [1])
    assert tracker.object_ids == [2, 1]
    assert torch.equal(tracker.labels(old), before)
    with pytest.raises(ValueError, match=r"may be \[1, 2\] or \[2, 1\]"):
        tracker.labels(old.clone())
