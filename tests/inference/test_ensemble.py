"""Views see what they should, are undone, advance together, and their sum is the answer."""

import copy
import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_threads import own_threads
from parity_rules import synthetic_video
from tiny import randomised, tiny_geo_config
from toy_videos import SIZE as TOY_SIZE
from toy_videos import contents, read_ids, regions, summary, tiny_options, write_frames, write_mask

from cutie_geo.__main__ import run_one
from cutie_geo.data.masks import read_probs
from cutie_geo.inference.ensemble import Ensemble, View, ViewTracker, views_of
from cutie_geo.inference.memory_estimate import held_bytes
from cutie_geo.inference.options import RunOptions
from cutie_geo.inference.prefetch import Prefetch
from cutie_geo.inference.segment import segment_frames
from cutie_geo.inference.segmenter import Segmenter
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.network import CutieGeo
from cutie_geo.runs.calls import segment_video
from cutie_geo.structures import Decoded, Frame, FrameFeatures

SIZE = (50, 67)
"""Both sides want an odd border."""
OPTIONS: dict[str, Any] = {"mem_every": 2, "max_mem_frames": 3}
LONG_TERM = {"max_mem_frames": 3, "min_mem_frames": 2, "num_prototypes": 8, "max_num_tokens": 32, "buffer_tokens": 8}
Said = pytest.CaptureFixture[str]


def video(length: int, masks: tuple[int, ...] = (0,)) -> list[Frame]:
    """Frames of which some come with their masks."""
    images, labels = synthetic_video(*SIZE, length)
    return [Frame(f"{t}", torch.from_numpy(images[t]), given=labels[t] if t in masks else None) for t in range(length)]


def given(frame: Frame) -> np.ndarray | None:
    """The label map of a frame of `video`."""
    assert frame.given is None or isinstance(frame.given, np.ndarray)
    return frame.given


def all_probs(segmenter: Segmenter, frames: list[Frame]) -> list[torch.Tensor]:
    return [segmenter.step(frame.image, given(frame)) for frame in frames]


# -------------------------------------------------------------------------------------------------------------- views
def test_views_are_every_scale_straight_and_flipped() -> None:
    assert views_of() == (View(),)
    assert views_of((1.2, 1.4)) == (View(1.2), View(1.4))
    assert views_of((1.2, 1.4), flip=True) == (View(1.2), View(1.2, True), View(1.4), View(1.4, True))
    assert View(1.3).size((480, 854)) == (624, 1110)


@pytest.mark.parametrize("scale", [0.0, -1.2, float("nan"), float("inf")])
def test_scales_that_are_none_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=r"--ms: got .*, expected a positive number"):
        views_of((1.2, scale), name="--ms")


def test_views_that_make_no_sense_together_are_refused(tiny_model: CutieGeo) -> None:
    with pytest.raises(ValueError, match=r"scales: got 1\.2 more than once"):
        Ensemble(tiny_model, scales=(1.2, 1.0, 1.2))
    with pytest.raises(ValueError, match="scales: got none"):
        Ensemble(tiny_model, scales=())
    with pytest.raises(ValueError, match="views: got none"):
        Ensemble(tiny_model, views=[])
    with pytest.raises(ValueError, match="feedback: got 'others', expected own or merged"):
        Ensemble(tiny_model, feedback="others")
    with pytest.raises(ValueError, match="unknown mem_evry"):
        Ensemble(tiny_model, mem_evry=3)


def test_a_mirror_undone_is_what_it_was() -> None:
    image = torch.rand(3, *SIZE)
    assert torch.equal(View(1, True).back(View(1, True).of(image), SIZE), image)
    assert torch.equal(View(1, True).of(image), image.flip(-1))
    assert View().of(image) is image


@pytest.mark.parametrize("scale", [1.2, 1.3, 1.4, 2.0])
@pytest.mark.parametrize("flipped", [False, True])
def test_an_enlargement_undone_is_off_by_no_more_than_neighbours_differ(scale: float, flipped: bool) -> None:
    """Each of the two interpolations reaches for half a pixel on the average, at most: one pixel along each axis."""
    image, view = torch.rand(3, *SIZE), View(scale, flipped)
    bound = image.diff(dim=1).abs().max() + image.diff(dim=2).abs().max()
    assert (view.back(view.of(image), SIZE) - image).abs().max() <= bound
    smooth = torch.linspace(0, 1, SIZE[1]).expand(1, *SIZE)
    assert (view.back(view.of(smooth), SIZE) - smooth).abs().max() <= 1 / (SIZE[1] - 1)


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.3])
def test_label_maps_keep_ids_of_any_size_and_soft_masks_their_range(scale: float) -> None:
    labels = torch.from_numpy(regions((2**31 - 1, 2**24 + 1), SIZE)).long()
    straight, flipped = View(scale).of_mask(labels), View(scale, True).of_mask(labels)
    assert straight.shape == View(scale).size(SIZE)
    assert set(straight.unique().tolist()) == {0, 2**24 + 1, 2**31 - 1}
    assert torch.equal(flipped, straight.flip(-1))
    soft = View(scale, True).of_mask(torch.ones(2, *SIZE, dtype=torch.bool))
    assert soft.dtype == torch.float32
    assert 1 - 1e-6 <= soft.min() <= soft.max() <= 1


@pytest.mark.parametrize("size", [SIZE, (48, 64), (49, 66), (51, 71)])
def test_a_flipped_view_is_the_mirror_image_of_the_padded_frame(tiny_model: CutieGeo, size: tuple[int, int]) -> None:
    image = torch.rand(3, *size)
    straight, flipped = Ensemble(tiny_model, flip=True).encode(image)
    assert torch.equal(flipped.image, straight.image.flip(-1))


def test_the_model_s_own_size_is_that_of_frames_and_scales_go_on_from_it(tiny_model: CutieGeo) -> None:
    sized = copy.copy(tiny_model)
    sized.config = replace(tiny_model.config, max_internal_size=32)
    views = Ensemble(sized, scales=(1.0, 1.5), flip=True).trackers
    assert [tracker.geometry_at(SIZE).internal for tracker in views] == [(32, 42), (32, 42), (48, 64), (48, 64)]
    views = Ensemble(sized, scales=(1.0, 1.5), max_internal_size=-1).trackers
    assert [tracker.geometry_at(SIZE).internal for tracker in views] == [SIZE, (75, 100)]
    sized.config = replace(tiny_model.config, min_internal_size=100)
    views = Ensemble(sized, scales=(1.0, 1.5)).trackers
    assert [tracker.geometry_at(SIZE).internal for tracker in views] == [(100, 134), (150, 200)]


def test_frames_that_a_scale_makes_too_small_are_refused(tiny_model: CutieGeo) -> None:
    ensemble = Ensemble(tiny_model, scales=(1.0, 0.5))
    with pytest.raises(ValueError, match=r"scale 0\.5: makes 25x34 of frames of 50x67, expected at least 32 pixels"):
        ensemble.step(torch.rand(3, *SIZE))
    assert ensemble.encode_ahead([torch.rand(3, *SIZE)]) == []
    assert ensemble.frame_size is None
    assert Ensemble(tiny_model).step(torch.rand(3, 20, 20)).shape == (1, 20, 20)  # small, but not made so


# ----------------------------------------------------------------------------------------------------------- the sum
@pytest.mark.slow
@pytest.mark.parametrize("feedback", ["own", "merged"])
@pytest.mark.parametrize("long_term", [False, True])
def test_an_ensemble_of_one_view_is_a_tracker(tiny_model: CutieGeo, feedback: str, long_term: bool) -> None:
    options = OPTIONS | {"use_long_term": long_term, "long_term": LONG_TERM}
    frames = [*video(9, (1, 5)), Frame("on", torch.rand(3, *SIZE))]
    tracker, ensemble = Tracker(tiny_model, **options), Ensemble(tiny_model, feedback=feedback, **options)
    for ours, wanted in zip(all_probs(ensemble, frames), all_probs(tracker, frames)):
        assert torch.equal(ours, wanted)
    assert ensemble.memory_report() == tracker.memory_report()
    assert ensemble.object_ids == tracker.object_ids == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("feedback", ["own", "merged"])
def test_two_equal_views_say_what_one_says(feedback: str) -> None:
    model = randomised(CutieGeo(tiny_geo_config())).eval()
    twice, once = Ensemble(model, views=[View(), View()], feedback=feedback, **OPTIONS), Tracker(model, **OPTIONS)
    for frame in video(6):
        ours, wanted = (segmenter.step(frame.image, given(frame)) for segmenter in (twice, once))
        torch.testing.assert_close(ours, wanted, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("feedback", ["own", "merged"])
def test_two_equal_views_differ_from_one_by_the_rounding_of_a_batch(tiny_model: CutieGeo, feedback: str) -> None:
    """This network's logits are twenty times as large: against one image at a time rounding is just seen. Encoded by
    twos, one view's numbers are met within 1e-6 here too."""
    twice = Ensemble(tiny_model, views=[View(), View()], feedback=feedback, **OPTIONS)
    once, by_twos = Tracker(tiny_model, **OPTIONS), Tracker(tiny_model, **OPTIONS)
    for frame in video(6):
        ours = twice.step(frame.image, given(frame))
        features = by_twos.encode_ahead([frame.image, frame.image])[0]
        torch.testing.assert_close(ours, by_twos.step(frame.image, given(frame), features=features), atol=1e-6, rtol=0)
        torch.testing.assert_close(ours, once.step(frame.image, given(frame)), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("feedback", ["own", "merged"])
def test_the_order_of_views_changes_nothing(tiny_model: CutieGeo, feedback: str) -> None:
    views = views_of((1.0, 1.2), flip=True)
    frames = video(5, (0, 3))
    first = all_probs(Ensemble(tiny_model, views=views, feedback=feedback, **OPTIONS), frames)
    second = all_probs(Ensemble(tiny_model, views=views[::-1], feedback=feedback, **OPTIONS), frames)
    for ours, wanted in zip(first, second):
        torch.testing.assert_close(ours, wanted, atol=1e-6, rtol=0)


def test_probabilities_are_summed_and_the_largest_sum_wins(
    tiny_model: CutieGeo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three views say background on the left, and are outvoted by the third, which is surer."""
    left, right = [(0.6, 0.4), (0.6, 0.4), (0.1, 0.9)], [(0.2, 0.8), (0.9, 0.1), (0.5, 0.5)]
    maps = {}
    ensemble = Ensemble(tiny_model, views=[View(), View(1, True), View(1.2)])
    for tracker, a, b in zip(ensemble.trackers, left, right):
        halves = [torch.tensor(p)[:, None, None].expand(2, SIZE[0], n) for p, n in ((a, 30), (b, 37))]
        maps[tracker] = torch.cat(halves, dim=2)
    monkeypatch.setattr(ViewTracker, "answer", lambda tracker, *_: maps[tracker])
    mask = torch.zeros(SIZE, dtype=torch.long)
    mask[5:40, 5:40] = 4
    probs = ensemble.step(torch.rand(3, *SIZE), mask)
    torch.testing.assert_close(probs[1, 0, [0, 66]], torch.tensor([1.7 / 3, 1.4 / 3]))
    labels = ensemble.labels(probs)
    assert labels[:, :30].unique().tolist() == [4]
    assert labels[:, 30:].unique().tolist() == [0]


@pytest.mark.slow
def test_every_view_goes_on_by_itself_or_from_the_merged_prediction(tiny_model: CutieGeo) -> None:
    frames = video(3)
    alone = [ViewTracker(tiny_model, view, **OPTIONS) for view in views_of((1.0, 1.2), True)]
    for feedback in ("own", "merged"):
        ensemble = Ensemble(tiny_model, (1.0, 1.2), True, feedback, **OPTIONS)
        ensemble.step(frames[0].image, given(frames[0]))
        features = ensemble.encode(frames[1].image)
        predictions = [tracker.predict(seen) for tracker, seen in zip(ensemble.trackers, features)]
        every = sum(tracker.answer(p, SIZE) for tracker, p in zip(ensemble.trackers, predictions)) / 4
        probs = ensemble.step(frames[1].image, features=features)
        assert isinstance(every, torch.Tensor)
        for tracker, single, prediction in zip(ensemble.trackers, alone, predictions):
            assert tracker.last_mask is not None
            assert tracker.geometry is not None
            if feedback == "own":
                assert torch.equal(tracker.last_mask[0], prediction.probs[1:])
                single.step(single.view.of(frames[0].image), single.view.of_mask(torch.from_numpy(given(frames[0]))))
                wanted = single.step(single.view.of(frames[1].image))
                torch.testing.assert_close(tracker.restore(prediction), wanted, atol=1e-5, rtol=0)
            else:
                inside = tracker.view.back(tracker.geometry.leave(tracker.last_mask[0]), SIZE)
                bound = (
                    1e-6 if tracker.view.scale == 1 else every.diff(dim=1).abs().max() + every.diff(dim=2).abs().max()
                )
                assert (inside - every[1:]).abs().max() <= bound
                assert tracker.last_mask.sum(1).max() <= 1 + 1e-5
        torch.testing.assert_close(probs.sum(0), torch.ones(SIZE))
        if feedback == "own":
            torch.testing.assert_close(probs, every)


# ------------------------------------------------------------------------------------------------------------ objects
@pytest.mark.parametrize("feedback", ["own", "merged"])
def test_objects_that_appear_later_and_go_are_the_same_in_every_view(tiny_model: CutieGeo, feedback: str) -> None:
    images, labels = synthetic_video(*SIZE, 6)
    ensemble = Ensemble(tiny_model, (1.0, 1.2), True, feedback, **OPTIONS)
    assert ensemble.step(torch.from_numpy(images[0])).shape == (1, *SIZE)
    probs = ensemble.step(torch.from_numpy(images[1]), np.where(labels[1] == 1, 5, 0))
    assert ensemble.labels(probs).unique().tolist() == [0, 5]
    probs = ensemble.step(torch.from_numpy(images[2]), np.stack([labels[2] == 2]).astype(np.float32), [300])
    assert probs.shape == (3, *SIZE)
    assert (ensemble.labels(probs)[torch.from_numpy(labels[2] == 2)] == 300).float().mean() > 0.9
    ensemble.step(torch.from_numpy(images[3]), labels[3], [1, 300], permanent=True)
    assert [tracker.object_ids for tracker in ensemble.trackers] == [[5, 300, 1]] * 4
    ensemble.remove([300])
    assert ensemble.step(torch.from_numpy(images[4])).shape == (3, *SIZE)
    with pytest.raises(ValueError, match=r"remove: got ids \[7\]"):
        ensemble.remove([5, 7])
    assert [tracker.object_ids for tracker in ensemble.trackers] == [[5, 1]] * 4
    assert {tracker.frame for tracker in ensemble.trackers} == {4}


def test_an_object_without_a_pixel_left_in_a_smaller_view_is_there_in_all(tiny_model: CutieGeo) -> None:
    mask = torch.zeros(64, 96, dtype=torch.uint8)
    mask[20:40, 30:60], mask[10, 10] = 3, 9
    ensemble = Ensemble(tiny_model, scales=(0.5, 1.0))
    assert 9 not in ensemble.views[0].of_mask(mask)
    probs = ensemble.step(torch.rand(3, 64, 96), mask)
    assert probs.shape == ensemble.step(torch.rand(3, 64, 96)).shape == (3, 64, 96)
    assert [tracker.object_ids for tracker in ensemble.trackers] == [[3, 9]] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image", "mask", "objects", "words"),
    [
        (torch.rand(3, 32, 32), None, None, "image: the size changed within a video"),
        (torch.full((3, *SIZE), 7.0), None, None, "image: got values"),
        (torch.rand(3, *SIZE), torch.ones(3, 3).long(), None, "mask: got size"),
        (torch.rand(3, *SIZE), torch.ones(SIZE), None, "label map: got"),
        (torch.rand(3, *SIZE), torch.ones(SIZE).long(), [0], "object id: got 0"),
        (torch.rand(3, *SIZE), None, [1], "objects: got ids without a mask, expected both"),
        (torch.rand(3, *SIZE), torch.full((1, *SIZE), 1.5), None, "mask: got values outside"),
    ],
)
def test_a_frame_that_is_refused_changes_nothing(
    tiny_model: CutieGeo, image: torch.Tensor, mask: torch.Tensor | None, objects: list[int] | None, words: str
) -> None:
    frames = video(3)
    ensemble, other = (Ensemble(tiny_model, (1.0, 1.2), **OPTIONS) for _ in range(2))
    wanted = all_probs(other, frames)
    assert torch.equal(all_probs(ensemble, frames[:2])[1], wanted[1])
    with pytest.raises(ValueError, match=words):
        ensemble.step(image, mask, objects)
    assert torch.equal(all_probs(ensemble, frames[2:])[0], wanted[2])


# ------------------------------------------------------------------------------------------------------------- memory
def living_bytes() -> int:
    """Bytes of all tensors that anything still refers to, but for weights packed by oneDNN, whose storage is hidden."""
    gc.collect()
    tensors = [
        thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter) and not thing.is_mkldnn
    ]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def held_after(segmenter: Segmenter, frames: list[Frame], before: int) -> list[int]:
    """What is held between two frames, whoever holds it, beyond what there was `before` there was a segmenter."""
    return [living_bytes() - before for frame in frames if len(all_probs(segmenter, [frame]))]


@pytest.mark.slow
def test_memory_is_that_of_the_views_and_no_more(tiny_model: CutieGeo) -> None:
    """k views hold at most k times what one holds, and one frame's features; with long-term memory it stops growing."""
    options, frames = OPTIONS | {"use_long_term": True, "long_term": LONG_TERM}, video(16)
    all_probs(Tracker(tiny_model, **options), frames[:3])  # what is made once for all is there before
    before = living_bytes()
    single = held_after(Tracker(tiny_model, **options), frames, before)
    before = living_bytes()
    ensemble = Ensemble(tiny_model, (1.0,), True, **options)
    held = held_after(ensemble, frames, before)
    seen = ensemble.encode(frames[0].image)[0]
    features = sum(field.numel() * field.element_size() for field in seen if isinstance(field, torch.Tensor))
    assert 0 < single[-1] < held[-1]
    assert all(both <= 2 * one + features for both, one in zip(held, single))
    assert held[-1] == held[-3]


@pytest.mark.slow
@pytest.mark.parametrize("feedback", ["own", "merged"])
def test_a_saved_ensemble_goes_on_with_the_same_numbers(tiny_model: CutieGeo, feedback: str, tmp_path: Path) -> None:
    frames = video(6, (1, 4))
    whole = all_probs(Ensemble(tiny_model, (1.2, 1.0), True, feedback, **OPTIONS), frames)
    first = Ensemble(tiny_model, (1.2, 1.0), True, feedback, **OPTIONS)
    all_probs(first, frames[:3])
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = Ensemble(tiny_model)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (second.views, second.feedback, second.frame_size) == (first.views, feedback, SIZE)
    for ours, wanted in zip(all_probs(second, frames[3:]), whole[3:]):
        assert torch.equal(ours, wanted)
    second.reset()
    for ours, wanted in zip(all_probs(second, frames), whole):
        assert torch.equal(ours, wanted)


def test_states_that_are_none_are_refused(tiny_model: CutieGeo) -> None:
    ensemble = Ensemble(tiny_model, flip=True, **OPTIONS)
    all_probs(ensemble, video(2))
    state = ensemble.state_dict()
    tracker = Tracker(tiny_model)
    with pytest.raises(ValueError, match="ensemble state: missing views, feedback"):
        ensemble.load_state_dict(tracker.state_dict())
    with pytest.raises(ValueError, match="ensemble state: damaged"):
        ensemble.load_state_dict(state | {"views": [3]})
    with pytest.raises(ValueError, match=r"ensemble state: a view of \(50, 67\), expected \(100, 134\)"):
        ensemble.load_state_dict(state | {"views": [[2.0, False], [2.0, True]]})
    with pytest.raises(ValueError, match="at frames and objects"):
        ensemble.load_state_dict(state | {"trackers": [state["trackers"][0], state["trackers"][1] | {"frame": 7}]})
    assert ensemble.object_ids == [1, 2, 3]
    assert len(ensemble.views) == 2


# -------------------------------------------------------------------------------------------------------- whole videos
@pytest.mark.slow
@pytest.mark.parametrize("lookahead", [1, 3])
def test_a_video_is_segmented_by_an_ensemble_as_by_a_tracker(tiny_model: CutieGeo, lookahead: int) -> None:
    frames = video(6, (1, 4))
    make = lambda: Ensemble(tiny_model, (1.0, 1.2), True, chunk_size=2, **OPTIONS)  # noqa: E731
    results = list(segment_video(make(), frames, lookahead))
    assert [name for name, _ in results] == [frame.name for frame in frames]
    steps = make()
    for (_, ours), probs in zip(results, all_probs(steps, frames)):
        assert (ours == steps.labels(probs)).float().mean() > 0.999
    assert isinstance(steps, Segmenter)
    assert isinstance(Tracker(tiny_model), Segmenter)


def test_views_of_one_size_and_their_frames_go_through_the_encoder_at_once(tiny_model: CutieGeo) -> None:
    batches: list[tuple[int, int]] = []
    hook = tiny_model.encoder.register_forward_pre_hook(
        lambda _, args: batches.append((len(args[0]), args[0].shape[-1]))
    )
    list(segment_frames(Ensemble(tiny_model, (1.0, 1.4), True), video(6, (2,)), Prefetch(4)))
    hook.remove()
    assert batches == [(4, 80), (4, 96), (4, 80), (4, 96)]


def test_features_of_other_views_are_refused(tiny_model: CutieGeo) -> None:
    frames = video(1)
    others = Ensemble(tiny_model, (1.4,)).encode(frames[0].image)
    with pytest.raises(ValueError, match="features: got those of images"):
        Ensemble(tiny_model).step(frames[0].image, given(frames[0]), features=others)


@pytest.mark.slow
def test_depth_is_that_of_the_first_view() -> None:
    torch.manual_seed(0)
    model, frames = randomised(CutieGeo(tiny_geo_config())), video(2)
    ensemble, tracker = Ensemble(model, (1.0, 1.3), True), Tracker(model)
    for ours, plain in zip(
        segment_frames(ensemble, frames, Prefetch(2, True)), segment_frames(tracker, frames, Prefetch(2, True))
    ):
        assert ours.depth is not None
        assert plain.depth is not None
        torch.testing.assert_close(ours.depth, plain.depth, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="no depth was kept"):
        ensemble.restore_depth(ensemble.encode(frames[0].image))
    with pytest.raises(ValueError, match="no frame was encoded"):
        Ensemble(model).restore_depth([])


def test_an_ensemble_is_part_of_what_decides_the_masks() -> None:
    plain = RunOptions().fingerprint()
    assert RunOptions(scales=(1.0,)).fingerprint() == plain
    different = [{"scales": (1.2,)}, {"flip": True}, {"flip": True, "feedback": "merged"}]
    shown = [RunOptions(**change).fingerprint() for change in different]  # type: ignore[arg-type]
    assert all(one != other for i, one in enumerate(shown) for other in [plain, *shown[:i]])
    with pytest.raises(ValueError, match="scales: got 0"):
        RunOptions(scales=(0.0,))
    with pytest.raises(ValueError, match="feedback: got"):
        RunOptions(feedback="none")


# ------------------------------------------------------------------------------------------------- together and apart
@pytest.mark.slow
@pytest.mark.parametrize("feedback", ["own", "merged"])
@pytest.mark.parametrize(("devices", "workers"), [((), 2), (("cpu", "cpu"), None), ((), 8)])
def test_views_may_be_spread_over_threads(
    tiny_model: CutieGeo, feedback: str, devices: tuple[str, ...], workers: int | None
) -> None:
    """All of them give what one thread gives, objects that come later and a saved state included."""
    frames, options = video(6, masks=(0, 2)), OPTIONS | {"feedback": feedback}
    wanted = all_probs(Ensemble(tiny_model, (1.0, 1.2), True, **options), frames)
    spread = Ensemble(tiny_model, (1.0, 1.2), True, devices=devices, workers=workers, **options)
    found = all_probs(spread, frames[:4])
    assert len(own_threads("share")) >= 2
    later = Ensemble(tiny_model, (1.0,))
    later.load_state_dict(spread.state_dict())
    found += all_probs(later, frames[4:])
    assert all(torch.allclose(ours, theirs, atol=1e-6) for ours, theirs in zip(found, wanted))


def test_a_frame_and_its_mirror_are_decoded_as_one_batch(tiny_model: CutieGeo, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    decode = tiny_model.decode

    def counting(features: FrameFeatures, *args: Any, **kwargs: Any) -> Decoded:
        batches.append(len(features.image))
        return decode(features, *args, **kwargs)

    monkeypatch.setattr(tiny_model, "decode", counting)
    all_probs(Ensemble(tiny_model, (1.0, 1.5), flip=True), video(2))
    assert batches == [2, 2]


def test_the_same_device_twice_needs_one_copy_and_an_unknown_one_is_refused(tiny_model: CutieGeo) -> None:
    spread = Ensemble(tiny_model, flip=True, devices=("cpu", "cpu"))
    assert all(tracker.model is tiny_model for tracker in spread.trackers)
    with pytest.raises(ValueError, match="device nowhere"):
        Ensemble(tiny_model, flip=True, devices=("nowhere",))
    with pytest.raises(ValueError, match="workers: got 0"):
        Ensemble(tiny_model, flip=True, workers=0)


def test_more_views_than_memory_allows_are_refused_before_anything_changes(
    tiny_model: CutieGeo, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensemble, (frame,) = Ensemble(tiny_model, (1.0, 1.5), **OPTIONS), video(1)
    sizes = [tracker.geometry_at(SIZE).padded for tracker in ensemble.trackers]
    needed = sum(held_bytes(tiny_model, size, 3, ensemble.trackers[0].config) for size in sizes)
    monkeypatch.setattr("cutie_geo.inference.memory_estimate.free_bytes", lambda device: needed)
    with pytest.raises(ValueError, match=r"2 views of 3 objects: need about .* GiB more on cpu.*cutie-geo fuse"):
        ensemble.step(frame.image, given(frame))
    assert (ensemble.frame_size, ensemble.object_ids) == (None, [])
    monkeypatch.setattr("cutie_geo.inference.memory_estimate.free_bytes", lambda device: 10 * needed)
    ensemble.step(frame.image, given(frame))


def test_views_that_no_machine_holds_are_refused_before_a_frame_is_brought_into_them(
    tiny_model: CutieGeo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoded ahead or in its turn, with a mask or to make one of prompts."""
    (frame,) = video(1)
    monkeypatch.setattr(View, "of", lambda *_: pytest.fail("a view of terabytes is made"))
    for scales in ((1.0, 1e4), (1e4,)):
        ensemble = Ensemble(tiny_model, scales, **OPTIONS)
        assert ensemble.encode_ahead([frame.image] * 2) == []
        with pytest.raises(ValueError, match=r"views? of 1 object: need about .* GiB more on cpu"):
            ensemble.encode(frame.image)
        with pytest.raises(ValueError, match=r"views? of 3 objects: need about .* GiB more on cpu"):
            ensemble.step(frame.image, given(frame))


@pytest.mark.slow
@pytest.mark.parametrize("long_term", [False, True])
def test_what_a_view_will_hold_is_known_beforehand(tiny_model: CutieGeo, long_term: bool) -> None:
    """The estimate is an upper bound, and no more than a quarter too high once memory is full."""
    limits = {"max_mem_frames": 3, "min_mem_frames": 2, "num_prototypes": 8, "max_num_tokens": 24, "buffer_tokens": 8}
    tracker = Tracker(tiny_model, mem_every=1, max_mem_frames=3, use_long_term=long_term, long_term=limits)
    all_probs(tracker, video(16))
    held = sum(tracker.memory_report().values())
    assert tracker.geometry is not None
    bound = held_bytes(tiny_model, tracker.geometry.padded, 3, tracker.config)
    assert held <= bound <= 1.25 * held


# ----------------------------------------------------------------------------------------------------------- infer.py
def infer(tmp_path: Path, *argv: object) -> int:
    """infer.py in this process on three frames."""
    frames = tmp_path / "bear"
    if not frames.exists():
        write_frames(frames, 3)
        write_mask(tmp_path / "masks" / "00000.png", regions((1, 0)))
        write_mask(tmp_path / "masks" / "00001.png", regions((0, 7)))
    what = ["--video", str(frames), "--mask", str(tmp_path / "masks"), "--output", str(tmp_path / "out")]
    return run_one("infer", [*what, *tiny_options(tmp_path), *map(str, argv)])


@pytest.mark.slow
def test_infer_runs_the_paper_s_ensemble_and_resumes_it(tmp_path: Path, capsys: Said) -> None:
    paper = ("--ms", 1.2, 1.3, 1.4, "--flip")
    assert infer(tmp_path, *paper, "--save-probs", "--overlay", "--lookahead", 2) == 0
    written = contents(tmp_path / "out" / "Annotations" / "bear")
    assert list(written) == ["00000.png", "00001.png", "00002.png"]
    assert (tmp_path / "out" / "overlays" / "bear.mp4").is_file()
    probs, ids = read_probs(tmp_path / "out" / "probs" / "bear" / "00002.npz")
    assert (probs.shape, ids) == ((3, *TOY_SIZE), (1, 7))
    slots = np.searchsorted([0, 1, 7], read_ids(tmp_path / "out" / "Annotations" / "bear" / "00002.png"))
    chosen = np.take_along_axis(probs, slots[None], axis=0)[0]
    assert (chosen >= probs.max(axis=0) - 1.01 / 255).all()  # the file's probabilities are rounded
    told = summary(tmp_path / "out")
    assert told["settings"]["ensemble"] == {"scales": [1.2, 1.3, 1.4], "flip": True, "feedback": "own"}
    assert told["videos"]["bear"]["processed_size"] == list(TOY_SIZE)
    capsys.readouterr()

    assert infer(tmp_path, *paper) == 0
    assert "1 already complete" in capsys.readouterr().out
    for other, named in (
        ((), "ensemble.feedback, ensemble.flip, ensemble.scales"),
        (("--flip",), "ensemble.scales"),
        ((*paper, "--ensemble-feedback", "merged"), "ensemble.feedback"),
    ):
        assert infer(tmp_path, *other) == 2
        assert f"bear was made with other {named};" in capsys.readouterr().err
    assert contents(tmp_path / "out" / "Annotations" / "bear") == written


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--ms", 0), "--ms: got 0, expected a positive number"),
        (("--ms", 1.2, -1), "--ms: got -1"),
        (("--ms", "nan"), "--ms: got nan"),
        (("--ms", "inf"), "--ms: got inf"),
        (("--ms", 1.2, 1.3, 1.2), "--ms: got 1.2 more than once"),
        (("--ensemble-feedback", "merged"), "--ensemble-feedback: expected --ms or --flip with it"),
        (("--ms", 0.4), "bear: scale 0.4: makes 26x38 of frames of 64x96"),
        (("--ms-workers", 2), "--ms-workers: expected --ms, --flip or several --models with it"),
        (("--flip", "--ms-workers", 0), "--ms-workers: got 0, expected 1 or more"),
        (("--devices", "cpu"), "--devices: expected --ms, --flip or several --models with it"),
        (("--flip", "--devices", "cpu", "--device", "cpu"), "--device and --devices: expected one of them"),
        (("--flip", "--devices", "cpu", "nowhere", "--device", "auto"), "device nowhere:"),
        (("--models", "cutie-small"), "--model and --models: expected one of them"),
        (("--coefficients", 1), "--coefficients: expected several --models with it"),
        (("--min-confidence", 2), "min_confidence: got 2, expected 0 to 1"),
        (("--remove-small", -1), "small_components: got -1"),
    ],
)
def test_infer_refuses_views_that_make_no_sense(
    tmp_path: Path, capsys: Said, argv: tuple[object, ...], words: str
) -> None:
    assert infer(tmp_path, *argv) == 2
    assert words in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- corrections, and whose ids
@pytest.mark.slow
@pytest.mark.parametrize("feedback", ["own", "merged"])
def test_a_correction_reaches_every_view(tiny_model: CutieGeo, feedback: str) -> None:
    frames = video(7)
    labels = synthetic_video(*SIZE, 7)[1]
    ensemble, alone = (
        Ensemble(tiny_model, scales, flip, feedback, **OPTIONS)
        for scales, flip in (((1.0, 1.2), True), ((1.0,), False))
    )
    single = Tracker(tiny_model, **OPTIONS)
    for t, frame in enumerate(frames):
        mask = {"mask": labels[4] == 1, "objects": [1], "correction": True} if t == 4 else {"mask": given(frame)}
        seen = [each.step(frame.image, **mask) for each in (ensemble, alone, single)]
        assert torch.allclose(seen[1], seen[2], atol=1e-5)
    for tracker in ensemble.trackers:
        (bank,) = [bank for bank in tracker.memory.banks if 1 in bank.ids]
        assert bank.ids == [1]
        assert bank.num_recent == 0 or bank.num_permanent
    assert ensemble.object_ids == single.object_ids


def test_old_probabilities_of_an_ensemble_keep_their_ids(tiny_model: CutieGeo) -> None:
    frames, labels = video(4), synthetic_video(*SIZE, 4)[1]
    ensemble = Ensemble(tiny_model, flip=True, **OPTIONS)
    ensemble.step(frames[0].image, labels[0], [1, 2])
    old = ensemble.step(frames[1].image)
    before = ensemble.labels(old)
    ensemble.remove([1])
    ensemble.step(frames[2].image, labels[2] == 3, [1])
    assert ensemble.object_ids == [2, 1]
    assert torch.equal(ensemble.labels(old), before)
    with pytest.raises(ValueError, match=r"may be \[1, 2\] or \[2, 1\]"):
        ensemble.labels(old.clone())
