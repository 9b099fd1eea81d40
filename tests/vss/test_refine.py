"""Windows of masklets: masks are found at each start, propagated, voted and released."""

import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest
import torch
from stock_sam2 import tiny_sam2
from toy_videos import contents, torn_files, write_rgb_mask

from cutie_geo.checkpoints.load import load_model
from cutie_geo.config import TrackerConfig
from cutie_geo.data.example import example_frames, example_masks
from cutie_geo.data.index import VideoRecord, mask_files
from cutie_geo.data.masks import read_labels
from cutie_geo.data.video import FrameFolder, to_tensor
from cutie_geo.inference.results import Results
from cutie_geo.model.network import CutieGeo
from cutie_geo.sam2.automatic_masks import AutomaticMasks, FoundMasks
from cutie_geo.sam2.grid import GridOptions
from cutie_geo.sam2.networks import Sam2Model
from cutie_geo.sam2.tracker import Sam2Tracker
from cutie_geo.vss import refine
from cutie_geo.vss.config import RefineOptions
from cutie_geo.vss.index import CLASSES
from cutie_geo.vss.masklet_tracking import LabelMasklets, Propagator, Sam2Masklets, propagator_for
from cutie_geo.vss.mislabel import mislabel
from cutie_geo.vss.refine import Job, Refiner, SavedBase, input_of, refine_frames, refine_videos
from cutie_geo.vss.semantic_maps import SemanticClip, write_semantic
from cutie_geo.vss.voting import Window, refine_window

ALL = GridOptions(points=4, predicted_iou=0.0, stability=0.0)
"""Keep all masks: random weights give arbitrary ones."""
FEW = GridOptions(points=2, predicted_iou=0.0, stability=0.0)
OBJECTS = 4
"""Labels of the bundled clip, the wall counted."""


@pytest.fixture(scope="module")
def model() -> Sam2Model:
    return tiny_sam2()


@pytest.fixture(scope="module")
def cutie() -> CutieGeo:
    return load_model("cutie-geo-tiny", device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def clip() -> list[tuple[str, np.ndarray]]:
    """The first frames of the bundled clip."""
    return [frame for frame, _ in zip(FrameFolder(example_frames()), range(10))]


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """Their true labels."""
    paths = list(mask_files(example_masks()).values())[:10]
    return np.stack([read_labels(path).labels for path in paths]).astype(np.uint8)


@pytest.fixture(scope="module")
def masks_of(model: Sam2Model) -> Callable[[np.ndarray], FoundMasks]:
    """The automatic masks of an image, computed once."""
    find, known = AutomaticMasks(model, FEW), dict[bytes, FoundMasks]()

    def masks(image: np.ndarray) -> FoundMasks:
        key = image.tobytes()
        if key not in known:
            known[key] = find(image)
        return known[key]

    return masks


def accuracy(labels: np.ndarray, truth: np.ndarray) -> float:
    return float((labels == truth).mean())


# -------------------------------------------------------------------------------------------------------------- masks
def test_masks_are_found_on_the_network_that_tracks(model: Sam2Model, clip: list[tuple[str, np.ndarray]]) -> None:
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    found = AutomaticMasks(model, ALL)(clip[0][1])
    assert len(found.masks) == len(found.scores) > 1
    assert found.masks.shape[1:] == clip[0][1].shape[:2]
    assert found.masks.any((1, 2)).all()
    assert all(torch.equal(before[name], value) for name, value in model.network.state_dict().items())


def test_masks_below_the_thresholds_are_dropped(model: Sam2Model, clip: list[tuple[str, np.ndarray]]) -> None:
    scores = sorted(AutomaticMasks(model, ALL)(clip[0][1]).scores)
    middle = (scores[0] + scores[-1]) / 2
    fewer = AutomaticMasks(model, GridOptions(points=4, predicted_iou=middle, stability=0.0))(clip[0][1])
    assert 0 < len(fewer.masks) < len(scores)
    assert min(fewer.scores) > middle
    model = tiny_sam2()
    network: Any = model.network
    with torch.no_grad():
        network.sam_mask_decoder.iou_prediction_head.layers[-1].bias.sub_(100)  # so that no mask passes
    none = AutomaticMasks(model, GridOptions(points=4, stability=0.0))(clip[0][1])
    assert none.masks.shape == (0, *clip[0][1].shape[:2])
    assert none.scores == ()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"points": 0}, "grid: got 0 points"),
        ({"predicted_iou": 1.0}, "predicted IoU: got 1.0"),
        ({"stability": -0.1}, "stability: got -0.1"),
        ({"stability_offset": 0.0}, "stability offset: got 0.0"),
        ({"batch": 0}, "points per batch: got 0"),
    ],
)
def test_invalid_grids_are_refused(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GridOptions(**wrong)


# ------------------------------------------------------------------------------------------------------------ windows
@pytest.mark.parametrize("order", ["size", "score"])
def test_windows_are_independent(
    model: Sam2Model,
    masks_of: Callable[[np.ndarray], FoundMasks],
    clip: list[tuple[str, np.ndarray]],
    truth: np.ndarray,
    order: str,
) -> None:
    """Against the direct way: each window's masks in one array, propagated by a tracker of its own."""
    clip, base = clip[:5], mislabel(truth[:5], OBJECTS, 0)
    wanted = []
    for start in range(0, 5, 2):
        part = slice(start, min(start + 2, 5))
        found, tracker = masks_of(clip[start][1]), Sam2Tracker(model)
        masks = [found.masks]
        tracker.step_logits(to_tensor(clip[start][1]), torch.from_numpy(found.masks))
        masks += [(tracker.step_logits(to_tensor(image)) > 0).numpy() for _, image in clip[part][1:]]
        scores = found.scores if order == "score" else None
        wanted.append(refine_window(base[part], np.stack(masks, axis=1), CLASSES, scores))
    numbers = count()
    options = RefineOptions(window=2, order="score" if order == "score" else "size")
    refined = list(
        refine_frames(iter(clip), lambda name, image: base[next(numbers)], masks_of, Sam2Masklets(model), options)
    )
    assert [one.name for one in refined] == [name for name, _ in clip]
    assert [t for t, one in enumerate(refined) if one.first] == [0, 2, 4]
    np.testing.assert_array_equal([one.labels for one in refined], np.concatenate(wanted))
    assert any((one.labels != own).any() for one, own in zip(refined, base))


def test_a_window_of_one_frame_needs_no_propagator(
    model: Sam2Model,
    masks_of: Callable[[np.ndarray], FoundMasks],
    clip: list[tuple[str, np.ndarray]],
    truth: np.ndarray,
) -> None:
    propagator, options = Sam2Masklets(model), RefineOptions(window=1)
    refined = list(refine_frames(clip[:3], lambda name, image: truth[int(name)], masks_of, propagator, options))
    for (_, image), own, one in zip(clip, truth, refined):
        np.testing.assert_array_equal(one.labels, refine_window(own[None], masks_of(image).masks[:, None], CLASSES)[0])
    assert propagator.tracker.object_ids == []


def test_without_masks_the_base_prediction_stays(
    model: Sam2Model, cutie: CutieGeo, clip: list[tuple[str, np.ndarray]], truth: np.ndarray
) -> None:
    nothing = FoundMasks(np.zeros((0, *truth.shape[1:]), bool), ())
    for propagator in (Sam2Masklets(model), LabelMasklets(cutie, TrackerConfig(), 96)):
        options = RefineOptions(window=2)
        refined = refine_frames(clip[:3], lambda name, _: truth[int(name)], lambda _: nothing, propagator, options)
        np.testing.assert_array_equal([one.labels for one in refined], truth[:3])


def test_memory_does_not_grow_with_windows(
    model: Sam2Model,
    masks_of: Callable[[np.ndarray], FoundMasks],
    clip: list[tuple[str, np.ndarray]],
    truth: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One frame over and over: every window has the same masklets."""
    propagator, held, windows = Sam2Masklets(model, 4), [], []
    alive: WeakSet[Window] = WeakSet()

    class Counted(Window):
        def __init__(self, classes: int) -> None:
            super().__init__(classes)
            alive.add(self)

    monkeypatch.setattr(refine, "Window", Counted)

    def endless() -> Iterator[tuple[str, np.ndarray]]:
        for t in range(9):
            yield f"{t}", clip[0][1]

    options = RefineOptions(window=3)
    for one in refine_frames(endless(), lambda *_: truth[0].copy(), masks_of, propagator, options):
        if one.first:
            held.append(sum(propagator.memory_report().values()))
            windows.append(len(alive))
    assert len(held) == 3
    assert set(held) == {held[0]}
    assert windows == [1] * 3


# -------------------------------------------------------------------------------------------------------- propagators
def test_a_cutie_model_propagates_masks_too(
    cutie: CutieGeo, clip: list[tuple[str, np.ndarray]], truth: np.ndarray
) -> None:
    """With its own weights, from true masks at the start of each window: better than the noisy base prediction."""
    propagator = propagator_for(cutie, TrackerConfig(), 96)
    base, starts = mislabel(truth, OBJECTS, 0), iter((0, 5))

    def find(image: np.ndarray) -> FoundMasks:
        labels = truth[next(starts)]
        return FoundMasks(np.stack([labels == i for i in range(1, OBJECTS)]), (0.9,) * (OBJECTS - 1))

    refined = refine_frames(clip, lambda name, _: base[int(name)], find, propagator, RefineOptions(window=5))
    labels = np.stack([one.labels for one in refined])
    inside = truth > 0  # the wall has no masklet
    assert accuracy(labels[inside], truth[inside]) > accuracy(base[inside], truth[inside]) + 0.02
    assert isinstance(propagator, LabelMasklets)
    assert isinstance(propagator, Propagator)


def test_overlaps_are_resolved_before_cutie_sees_them(cutie: CutieGeo, clip: list[tuple[str, np.ndarray]]) -> None:
    propagator = LabelMasklets(cutie, TrackerConfig(), 96)
    size = clip[0][1].shape[:2]
    masks = np.zeros((3, *size), bool)
    masks[0, 20:120, 20:200] = masks[1, 40:80, 40:100] = True
    masks[2, 50:60, 50:60] = True
    seen = propagator.start(clip[0][1], masks, [2, 0, 1])  # the last one lies below all
    np.testing.assert_array_equal(seen[0], masks[0] & ~masks[1])
    np.testing.assert_array_equal(seen[1], masks[1])
    assert not seen[2].any()
    followed = propagator.follow(clip[1][1])
    assert followed.shape == masks.shape
    assert not followed[2].any()
    assert (followed.sum(0) <= 1).all()


# --------------------------------------------------------------------------------------------------- base predictions
def test_saved_maps_must_be_there_and_fit(tmp_path: Path, truth: np.ndarray) -> None:
    write_semantic(tmp_path / "00000.png", truth[0])
    base = SavedBase(SemanticClip("wall", tmp_path, {"00000": tmp_path / "00000.png"}))
    image = np.zeros((*truth.shape[1:], 3), np.uint8)
    np.testing.assert_array_equal(base("00000", image), truth[0])
    with pytest.raises(ValueError, match=r"no map for frame 00001; expected 00001\.png"):
        base("00001", image)
    with pytest.raises(ValueError, match=r"00000\.png: map is \(H, W\) = \(180, 320\), expected \(90, 320\)"):
        base("00000", image[:90])
    with pytest.raises(ValueError, match="no map for 2 of 3 frames: 00001, 00002"):
        base.require_all(["00000", "00001", "00002"])


def test_panoptic_results_are_base_predictions_by_the_classes_of_their_segments(tmp_path: Path) -> None:
    ids = np.zeros((4, 6), np.int64)
    ids[:, 2:4], ids[:, 4:] = 300, 70000
    path = write_rgb_mask(tmp_path / "00000.png", ids)

    def clip(number: int) -> SemanticClip:
        return SemanticClip(
            "wall", tmp_path, {"00000": path}, "panoptic", {"00000": {300: 17, 70000: number}, "00001": {300: 1}}
        )

    labels = SavedBase(clip(123))("00000", np.zeros((4, 6, 3), np.uint8))
    np.testing.assert_array_equal(labels[0], [255, 255, 17, 17, 123, 123])
    record = VideoRecord("wall", tmp_path, {"00000": path})
    told = [input_of(Job(record, clip(number))) for number in (123, 123, 122)]
    assert told[0] == told[1] != told[2]


# ------------------------------------------------------------------------------------------------------------ videos
def test_an_interrupted_video_is_processed_again_with_equal_maps(
    model: Sam2Model, masks_of: Callable[[np.ndarray], FoundMasks], truth: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "wall").mkdir()
    for path in sorted(example_frames().iterdir())[:4]:
        shutil.copy(path, tmp_path / "wall")
    jobs, options = [Job(VideoRecord("wall", tmp_path / "wall"), None)], RefineOptions(window=2)
    interrupted = iter((False, False, False, True))

    def base(name: str, image: np.ndarray) -> np.ndarray:
        if next(interrupted, False):
            raise KeyboardInterrupt
        return truth[int(name)].copy()

    refiner = Refiner(masks_of, Sam2Masklets(model), base, [model])
    halted, whole = Results(tmp_path / "halted"), Results(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        refine_videos(jobs, refiner, halted, options)
    assert halted.report("wall") == {"video": "wall", "unfinished": True}
    assert set(contents(halted.root)) <= {"Annotations/wall/00000.png", "Annotations/wall/00001.png"}
    assert torn_files(halted.root) == []
    for results in (halted, whole):
        (report,) = refine_videos(jobs, refiner, results, options)
        assert report["frames"] == [f"0000{t}" for t in range(4)]
    assert contents(halted.root) == contents(whole.root)
    assert len(contents(whole.root)) == 4
    (again,) = refine_videos(jobs, refiner, whole, options)
    assert again["skipped"]


def test_a_window_of_no_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="window: got 0, expected 1 frame or more"):
        RefineOptions(window=0)
