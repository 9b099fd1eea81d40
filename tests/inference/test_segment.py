"""From frames to label maps."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np
import pytest
import torch
from own_threads import own_threads
from parity_rules import synthetic_video
from tiny import randomised, tiny_geo_config

from cutie_geo.inference.prefetch import Prefetch
from cutie_geo.inference.segment import segment_frames
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.network import CutieGeo
from cutie_geo.runs.calls import segment_video
from cutie_geo.structures import Frame, GivenMask

SIZE = (48, 64)


def test_frames_made_by_hand_are_segmented_as_by_steps(tiny_model: CutieGeo) -> None:
    images, labels = synthetic_video(*SIZE, 3)
    frames = [Frame(f"{t}", torch.from_numpy(image)) for t, image in enumerate(images)]
    tracker = Tracker(tiny_model)
    expected = [
        tracker.labels(tracker.step(frame.image, labels[0] if t == 0 else None)) for t, frame in enumerate(frames)
    ]
    for given in (labels[0], torch.from_numpy(labels[0]), GivenMask(labels[0], (1, 2, 3))):
        first = frames[0]._replace(given=given)
        results = list(segment_video(Tracker(tiny_model), [first, *frames[1:]]))
        assert [name for name, _ in results] == ["0", "1", "2"]
        assert all(torch.equal(ours, wanted) for (_, ours), wanted in zip(results, expected))


def test_results_have_the_size_of_the_file_and_the_ids_of_the_mask(tiny_model: CutieGeo) -> None:
    images, labels = synthetic_video(*SIZE, 2)
    given = GivenMask(np.where(labels[0] == 1, 300, 0), (300,))
    frames = [Frame(f"{t}", torch.from_numpy(image), (96, 130)) for t, image in enumerate(images)]
    results = list(segment_video(Tracker(tiny_model), [frames[0]._replace(given=given), frames[1]]))
    assert all(found.shape == (96, 130) for _, found in results)
    assert set(results[0][1].unique().tolist()) == {0, 300}


def test_a_frame_is_segmented_before_the_next_is_asked_for(tiny_model: CutieGeo) -> None:
    """A camera's frames come one at a time."""
    images, labels = synthetic_video(*SIZE, 3)
    asked: list[int] = []

    def camera():
        for t, image in enumerate(images):
            asked.append(t)
            yield Frame(f"{t}", torch.from_numpy(image), given=labels[0] if t == 0 else None)

    for t, _ in enumerate(segment_video(Tracker(tiny_model), camera())):
        assert asked == list(range(t + 1))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


# --------------------------------------------------------------------------------------------------------- lookahead
@pytest.fixture(scope="module")
def geo_model() -> CutieGeo:
    torch.manual_seed(0)
    return randomised(CutieGeo(tiny_geo_config()))


def video(length: int, masks: tuple[int, ...] = (0,)) -> list[Frame]:
    """Frames of which some come with their masks."""
    images, labels = synthetic_video(*SIZE, length)
    return [
        Frame(f"{t}", torch.from_numpy(image), given=labels[t] if t in masks else None)
        for t, image in enumerate(images)
    ]


@pytest.mark.parametrize("lookahead", [2, 3, 7, 50])
@pytest.mark.parametrize("masks", [(0,), (2, 4)])
def test_frames_encoded_together_are_segmented_as_one_by_one(
    tiny_model: CutieGeo, lookahead: int, masks: tuple[int, ...]
) -> None:
    one_by_one = list(segment_frames(Tracker(tiny_model), video(7, masks)))
    together = list(segment_frames(Tracker(tiny_model), video(7, masks), Prefetch(lookahead)))
    assert [result.frame.name for result in together] == [result.frame.name for result in one_by_one]
    for ours, wanted in zip(together, one_by_one):
        torch.testing.assert_close(ours.probs, wanted.probs, atol=1e-4, rtol=0)


def test_frames_of_one_batch_go_through_the_encoder_at_once_and_those_before_the_first_object_not_at_all(
    tiny_model: CutieGeo,
) -> None:
    batches: list[int] = []
    hook = tiny_model.encoder.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    list(segment_frames(Tracker(tiny_model), video(10, (2,)), Prefetch(4)))
    hook.remove()
    assert batches == [2, 4, 2]


@pytest.mark.slow
@pytest.mark.parametrize(("lookahead", "encode_threads"), [(6, 0), (1, 1), (6, 1)])
@pytest.mark.parametrize("bad", [torch.full((3, *SIZE), torch.nan), torch.rand(3, 32, 32), torch.rand(3, *SIZE) + 5])
def test_a_bad_frame_spoils_none_of_those_encoded_before_it(
    tiny_model: CutieGeo, two_threads: None, bad: torch.Tensor, lookahead: int, encode_threads: int
) -> None:
    frames = video(6)
    frames[4] = frames[4]._replace(image=bad)
    results = segment_frames(Tracker(tiny_model), frames, Prefetch(lookahead, threads=encode_threads))
    assert [next(results).frame.name for _ in range(4)] == ["0", "1", "2", "3"]
    with pytest.raises(ValueError, match="image: "):
        next(results)


@pytest.mark.parametrize(("lookahead", "encode_threads"), [(4, 0), (1, 1), (4, 1)])
def test_frames_read_before_a_reading_error_are_segmented_before_it_is_raised(
    tiny_model: CutieGeo, two_threads: None, lookahead: int, encode_threads: int
) -> None:
    def torn() -> Iterator[Frame]:
        yield from video(5)
        raise OSError("the disk is gone")

    results = segment_frames(Tracker(tiny_model), torn(), Prefetch(lookahead, threads=encode_threads))
    assert [next(results).frame.name for _ in range(5)] == ["0", "1", "2", "3", "4"]
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)


def test_features_serve_every_tracker_of_the_model_that_sees_the_same_image(tiny_model: CutieGeo) -> None:
    frames = video(4)
    maker, user, alone = Tracker(tiny_model), Tracker(tiny_model), Tracker(tiny_model)
    for frame in frames:
        shared = maker.encode(frame.image)
        ours = user.step(frame.image, frame.given, features=shared)
        assert torch.equal(ours, alone.step(frame.image, frame.given))
    with pytest.raises(ValueError, match=r"features: got those of images \(1, 3, 64, 64\)"):
        user.step(frames[0].image, features=Tracker(tiny_model).encode(torch.rand(3, 64, 64)))


def test_lookahead_below_one_is_refused(tiny_model: CutieGeo) -> None:
    with pytest.raises(ValueError, match="lookahead: got 0"):
        next(segment_frames(Tracker(tiny_model), video(1), Prefetch(0)))


# ---------------------------------------------------------------------------------------------------- encoding ahead
@pytest.mark.slow
@pytest.mark.parametrize("lookahead", [1, 3])
@pytest.mark.parametrize("masks", [(0,), (2, 4)])
def test_frames_encoded_by_another_thread_are_segmented_as_one_by_one(
    tiny_model: CutieGeo, two_threads: None, lookahead: int, masks: tuple[int, ...]
) -> None:
    one_by_one = list(segment_frames(Tracker(tiny_model), video(7, masks)))
    seen: list[tuple[str, int]] = []
    hook = tiny_model.encoder.register_forward_pre_hook(
        lambda *_: seen.append((threading.current_thread().name, torch.get_num_threads()))
    )
    aside = list(segment_frames(Tracker(tiny_model), video(7, masks), Prefetch(lookahead, threads=1)))
    hook.remove()
    assert set(seen) == {("read-ahead", 1)}
    assert torch.get_num_threads() == 2
    assert [result.frame.name for result in aside] == [result.frame.name for result in one_by_one]
    for ours, wanted in zip(aside, one_by_one):
        torch.testing.assert_close(ours.probs, wanted.probs, atol=1e-4, rtol=0)


def test_the_next_frame_is_encoded_while_one_is_looked_at_and_closing_ends_it(
    tiny_model: CutieGeo, two_threads: None
) -> None:
    encoded = threading.Semaphore(0)
    hook = tiny_model.encoder.register_forward_hook(lambda *_: encoded.release())
    results = segment_frames(Tracker(tiny_model), video(9), Prefetch(threads=1))
    next(results)
    assert all(encoded.acquire(timeout=60) for _ in range(2)), "nothing was asked for a second frame"
    assert torch.get_num_threads() == 1
    results.close()
    hook.remove()
    assert torch.get_num_threads() == 2
    assert not own_threads("read-ahead")


def test_the_next_batch_is_encoded_while_the_first_frame_of_one_is_looked_at(
    tiny_model: CutieGeo, two_threads: None
) -> None:
    encoded = threading.Semaphore(0)
    hook = tiny_model.encoder.register_forward_hook(lambda *_: encoded.release())
    with closing(segment_frames(Tracker(tiny_model), video(9), Prefetch(3, threads=1))) as results:
        next(results)
        assert all(encoded.acquire(timeout=60) for _ in range(2)), "nothing was asked for a second batch"
    hook.remove()


def test_what_reads_and_what_surrounds_the_encoder_ends_in_its_own_thread(
    tiny_model: CutieGeo, two_threads: None
) -> None:
    told: list[tuple[str, str]] = []

    def tell(what: str) -> None:
        told.append((what, threading.current_thread().name))

    def camera() -> Iterator[Frame]:
        try:
            yield from video(9)
        finally:
            tell("camera off")

    @contextmanager
    def around() -> Iterator[None]:
        tell("in")
        try:
            yield
        finally:
            tell("out")

    results = segment_frames(Tracker(tiny_model), camera(), Prefetch(threads=1), precision=around)
    next(results)
    results.close()
    assert told == [("in", "read-ahead"), ("out", "read-ahead"), ("camera off", "read-ahead")]


@pytest.mark.parametrize("threads", [-1, 2])
def test_threads_that_are_not_there_are_refused(tiny_model: CutieGeo, two_threads: None, threads: int) -> None:
    with pytest.raises(ValueError, match=f"encode_threads: got {threads}, expected 0 to 1 of 2 threads"):
        next(segment_frames(Tracker(tiny_model), video(1), Prefetch(threads=threads)))


# ------------------------------------------------------------------------------------------------------------- depth
def test_depth_is_that_of_the_geometry_encoder_at_the_frame_s_size(geo_model: CutieGeo) -> None:
    frames = [frame._replace(size=(96, 128)) for frame in video(3, (1,))]
    for result in segment_frames(Tracker(geo_model), frames, Prefetch(2, with_depth=True)):
        assert result.depth is not None
        assert result.depth.shape == (96, 128)
        assert result.depth.std() > 0
    tracker = Tracker(geo_model)
    features = tracker.encode(frames[0].image, with_depth=True)
    assert features.depth is not None
    assert features.depth.shape == (1, 56, 56)  # 14/16 of the padded frame
    padding = tracker.geometry.padding if tracker.geometry else None
    assert padding is not None
    full = torch.nn.functional.interpolate(features.depth[None], (64, 64), mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(tracker.restore_depth(features), padding.crop(full))


def test_depth_that_was_not_kept_can_not_be_restored(geo_model: CutieGeo) -> None:
    tracker = Tracker(geo_model)
    with pytest.raises(ValueError, match="no depth was kept"):
        tracker.restore_depth(tracker.encode(torch.rand(3, *SIZE)))


@pytest.mark.slow
def test_masks_of_known_objects_are_corrections_where_a_user_means_them_so(tiny_model: CutieGeo) -> None:
    images, labels = synthetic_video(*SIZE, 6)
    masks = {0: GivenMask(labels[0], (1, 2)), 3: GivenMask(labels[3], (2, 3))}
    frames = [Frame(f"{t}", torch.from_numpy(image), given=masks.get(t)) for t, image in enumerate(images)]
    found = {}
    for corrections in (False, True):
        expected, tracker = Tracker(tiny_model, mem_every=1), Tracker(tiny_model, mem_every=1)
        results = list(segment_frames(tracker, frames, corrections=corrections))
        for frame, result in zip(frames, results):
            options = {"correction": corrections} if frame.given is not None else {}
            mask, ids = (frame.given.labels, frame.given.ids) if isinstance(frame.given, GivenMask) else (None, None)
            assert torch.equal(expected.step(frame.image, mask, ids, **options), result.probs)
        found[corrections] = [bank.ids for bank in tracker.memory.banks]
    assert found == {False: [[1, 2], [3]], True: [[1], [2], [3]]}
