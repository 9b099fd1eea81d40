"""What rendered clips promise: the same bytes for a seed, exact labels, depth that agrees with them, variety."""

import time
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from cutie_geo.data.render import SceneConfig, frame_layers, render_clip, render_frames
from cutie_geo.data.render.camera import DEPTH_RANGE
from cutie_geo.data.render.plan import arrange

SMALL = SceneConfig(height=72, width=96, frames=16)
CROWD = replace(SMALL, min_objects=6, max_objects=6, min_size=0.2, max_size=0.4, depth_motion=1.0, motion=1.0)


@pytest.fixture(scope="module")
def clips():
    return [render_clip(seed, SMALL) for seed in range(24)]


def equal(a, b) -> bool:
    return all(x.tobytes() == y.tobytes() and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


def test_a_seed_gives_the_same_bytes_whatever_the_global_generator_does():
    np.random.seed(0)  # noqa: NPY002
    first = render_clip(3, SMALL)
    np.random.seed(1)  # noqa: NPY002
    np.random.rand(5)  # noqa: NPY002
    before = np.random.get_state()[2]  # noqa: NPY002
    assert equal(render_clip(3, SMALL), first)
    assert np.random.get_state()[2] == before  # noqa: NPY002


@pytest.mark.slow
def test_seeds_differ(clips):
    assert len({clip.images.tobytes() for clip in clips}) == len(clips)
    assert len({clip.labels.tobytes() for clip in clips}) == len(clips)


def test_shapes_types_and_ranges(clips):
    near, far = DEPTH_RANGE
    for clip in clips:
        assert clip.images.shape == (16, 72, 96, 3)
        assert clip.labels.shape == clip.depth.shape == (16, 72, 96)
        assert (clip.images.dtype, clip.labels.dtype, clip.depth.dtype) == (np.uint8, np.uint8, np.float32)
        assert near < clip.depth.min()
        assert clip.depth.max() < far
        assert clip.images.std() > 5


def test_ids_run_from_1_to_n_and_the_first_frame_shows_some(clips):
    for clip in clips:
        ids = np.unique(clip.labels)
        assert ids.tolist() == list(range(len(ids)))
        assert SMALL.min_objects <= ids[-1] <= SMALL.max_objects
        assert clip.labels[0].any()


def test_without_late_comers_the_first_frame_shows_every_object():
    config = replace(SMALL, late_probability=0.0, min_objects=4, max_objects=4)
    for seed in range(8):
        first = next(render_frames(seed, config))
        assert np.unique(first.labels).tolist()[-4:] == [1, 2, 3, 4]


@pytest.mark.slow
def test_with_late_comers_the_first_frame_lacks_some():
    config = replace(SMALL, late_probability=1.0, min_objects=4, max_objects=4)
    for seed in range(8):
        clip = render_clip(seed, config)
        assert 1 <= len(np.setdiff1d(clip.labels[0], [0])) < 4
        assert len(np.setdiff1d(clip.labels, [0])) == 4


@pytest.mark.parametrize("seed", range(4))
def test_the_nearest_layer_that_covers_a_pixel_owns_it(seed):
    """Against the obvious way: every layer drawn alone over the whole frame, then the nearest taken at each pixel."""
    contested = 0
    for t, frame in enumerate(islice(render_frames(seed, CROWD), 0, None, 5)):
        ids, coverage, distance = (np.stack(x) for x in zip(*frame_layers(seed, CROWD, 5 * t), strict=True))
        distance = np.where(coverage >= 128, distance, np.inf)
        nearest = distance.argmin(0)
        solid = np.isfinite(distance.min(0))
        np.testing.assert_array_equal(frame.labels, np.where(solid, ids[nearest], 0))
        np.testing.assert_array_equal(frame.depth[solid], distance.min(0)[solid])
        contested += (np.isfinite(distance).sum(0) > 1).sum()
    assert contested > 100  # the crowd does overlap


def test_the_backdrop_is_behind_everything(clips):
    for clip in clips:
        if (labelled := clip.labels > 0).any():
            assert clip.depth[labelled].max() < 10 < clip.depth.max()


def test_an_owner_shows_its_own_colours():
    """A label edge is where the picture changes: with one plain object the colours of the two sides differ."""
    plain = SceneConfig(
        height=96, width=96, frames=1, max_objects=1, min_size=0.25, max_size=0.3, texture=0.0, light=0.0, shadow=0.0,
        noise=0.0, blur=0.0, max_occluders=0, max_distractors=0, lookalike_probability=0.0,
    )  # fmt: skip
    contrasts = []
    for seed in range(12):
        clip = render_clip(seed, plain)
        mask, image = clip.labels[0] > 0, clip.images[0].astype(int)
        across = np.abs(np.diff(image, axis=1)).sum(-1)
        edge = mask[:, 1:] != mask[:, :-1]
        contrasts.append(np.median(across[edge]) / (np.median(across[~edge]) + 1))
    assert np.median(contrasts) > 5


def test_clips_vary(clips):
    counts = {int(clip.labels.max()) for clip in clips}
    coverage = [(clip.labels > 0).mean() for clip in clips]
    brightness = [clip.images.mean() for clip in clips]
    moved = [np.abs(clip.images[0].astype(int) - clip.images[-1]).mean() for clip in clips]
    assert len(counts) >= 5
    assert max(coverage) > 4 * min(coverage)
    assert np.ptp(brightness) > 50
    assert max(moved) > 3 * min(moved)


def test_in_some_clips_an_object_leaves_and_returns(clips):
    def returns(present: np.ndarray) -> bool:
        return not present.all() and bool(present[0] and present[np.argmin(present) :].any())

    assert sum(returns((c.labels == i).any((1, 2))) for c in clips for i in range(1, c.labels.max() + 1)) >= 3


def test_the_depth_order_of_objects_changes_within_some_clip():
    """Some pair has the one order in one frame and the other in another."""
    orders = set()
    for seed in range(12):
        plan = arrange(seed, CROWD)
        for t in range(0, CROWD.frames, 3):
            view = plan.camera.at(t)
            distances = np.array([a.pose(t, view).distance for a in plan.actors[: plan.num_objects]])
            orders |= {(seed, int(i), int(j)) for i, j in np.argwhere(distances[:, None] < distances)}
    assert any((seed, j, i) in orders for seed, i, j in orders)


def test_frame_by_frame_is_the_same_as_at_once(clips):
    for seed in (0, 7):
        for t, frame in enumerate(render_frames(seed, SMALL)):
            assert equal(frame, [field[t] for field in clips[seed]])


def test_a_stream_of_a_million_frames_starts_at_once():
    endless = replace(SMALL, frames=1_000_000)
    began = time.process_time()
    frames = list(islice(render_frames(1, endless), 3))
    assert len(frames) == 3
    assert time.process_time() - began < 5


def test_a_single_frame_and_odd_sizes_render():
    for height, width, frames in ((16, 16, 1), (33, 71, 2), (71, 33, 5)):
        clip = render_clip(5, SceneConfig(height=height, width=width, frames=frames, max_objects=2, min_size=0.15))
        assert clip.images.shape == (frames, height, width, 3)
        assert clip.labels[0].any()


@pytest.mark.parametrize(
    "knob", ["texture", "camera", "light", "motion", "deformation", "depth_motion", "shadow", "noise"]
)
def test_every_knob_changes_the_picture(knob):
    off, on = (render_clip(2, replace(SMALL, frames=6, **{knob: value})) for value in (0.0, 1.0))
    assert not np.array_equal(off.images, on.images)


def test_a_still_scene_is_still():
    restless = ("motion", "depth_motion", "deformation", "camera", "light", "noise", "leave_probability")
    still = replace(SMALL, frames=4, late_probability=0.0, **dict.fromkeys(restless, 0.0))
    clip = render_clip(4, still)
    assert (clip.images == clip.images[0]).all()
    assert (clip.labels == clip.labels[0]).all()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"camera": 1.5}, r"SceneConfig.camera: got 1.5, expected 0 to 1"),
        ({"noise": float("nan")}, r"SceneConfig.noise: got nan"),
        ({"leave_probability": -0.1}, r"SceneConfig.leave_probability: got -0.1"),
        ({"height": 8}, r"SceneConfig.height: got 8, expected at least 16"),
        ({"frames": 0}, r"SceneConfig.frames: got 0, expected at least 1"),
        ({"min_objects": 4, "max_objects": 3}, r"SceneConfig.max_objects: got 3, expected 4"),
        ({"max_objects": 255}, r"SceneConfig.max_objects: got 255"),
        ({"min_size": 0.3, "max_size": 0.2}, r"SceneConfig.min_size: got 0.3"),
    ],
)
def test_a_knob_that_cannot_work_is_refused_by_name(knobs, message):
    with pytest.raises(ValueError, match=message):
        SceneConfig(**knobs)


@pytest.mark.slow
def test_a_negative_seed_and_a_hopeless_config_are_refused_at_the_call():
    with pytest.raises(ValueError, match="render seed: got -1"):
        render_frames(-1, SMALL)
    with pytest.raises(ValueError, match=r"render seed 0: got .* arrangements"):
        render_frames(0, replace(SMALL, frames=1, min_objects=2, late_probability=1.0))  # no time left to come in


@pytest.mark.slow
def test_rendering_keeps_up_with_training():
    """A loose bound, of processor time, and the best of three, so that a busy machine does not fail it."""
    config = SceneConfig(min_objects=4, max_objects=4)
    seconds = []
    for seed in range(3):
        began = time.process_time()
        render_clip(seed, config)
        seconds.append(time.process_time() - began)
    assert config.frames / min(seconds) >= 20
