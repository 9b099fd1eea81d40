"""Classification of masklets: features, painting and training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from classifying import Hooks, state_of
from stock_sam2 import tiny_sam2
from tinted import CLASSES as TINTED
from tinted import tinted_clip

from cutie_geo.config import OptimiserConfig
from cutie_geo.data.render import SceneConfig
from cutie_geo.sam2.automatic_masks import FoundMasks
from cutie_geo.sam2.networks import Sam2Model
from cutie_geo.structures import VOID
from cutie_geo.vss.classifier import ClassifierDescription, FeatureSource, MaskletClassifier
from cutie_geo.vss.classifier_training import ClassifierTraining, new_classifier
from cutie_geo.vss.config import ClassifierConfig, RefineOptions, Scope
from cutie_geo.vss.index import CLASSES
from cutie_geo.vss.masklet_files import MaskletTable
from cutie_geo.vss.masklet_tracking import Sam2Masklets, SeenFrame
from cutie_geo.vss.metrics import main_numbers, score_clip
from cutie_geo.vss.refine import no_base, refine_frames
from cutie_geo.vss.semantic_segmenter import SemanticSegmenter, WindowFeatures, encode_with_sam2, labelled_masklets

SCENE = SceneConfig(height=64, width=96, frames=2, min_objects=3, max_objects=4, min_size=0.2, max_occluders=0)
SIZE = (4, 6)
NAMES = tuple(map(str, range(CLASSES)))


@pytest.fixture(scope="module")
def model() -> Sam2Model:
    return tiny_sam2()


class Fixed:
    """Finder and propagator of known masks, (T, K, H, W) of a clip that is processed from start to end, repeatedly."""

    def __init__(self, masks: np.ndarray) -> None:
        self.masks, self.t = masks, -1

    def find(self, image: np.ndarray) -> FoundMasks:
        self.t = (self.t + 1) % len(self.masks)
        return FoundMasks(self.masks[self.t], (0.5,) * self.masks.shape[1])

    def start(self, image: np.ndarray, masks: np.ndarray, order: Sequence[int]) -> np.ndarray:
        return masks

    def follow(self, image: np.ndarray) -> np.ndarray:
        self.t += 1
        return self.masks[self.t]

    def memory_report(self) -> dict[str, int]:
        return {}


def brightness(image: np.ndarray) -> torch.Tensor:
    """Two features of each pixel: its red, and one."""
    red = torch.from_numpy(image[..., 0].astype(np.float32))
    return torch.stack([red, torch.ones_like(red)])


def bright(*values: int) -> list[tuple[str, np.ndarray]]:
    """Frames of one brightness each."""
    return [(f"{t}", np.full((*SIZE, 3), value, np.uint8)) for t, value in enumerate(values)]


def threshold(least: float) -> SemanticSegmenter:
    """Class 9 for features brighter than `least`, else class 4."""
    described = ClassifierDescription(NAMES, 2, (), FeatureSource("red", -1, "0"))
    classifier = MaskletClassifier(described).eval()
    with torch.no_grad():
        for value in classifier.parameters():
            value.zero_()
        linear = classifier.layers[0]
        linear.weight[9], linear.bias[9] = torch.tensor([1.0, 0.0]), -least  # type: ignore[index, operator]
        linear.bias[:4], linear.bias[10:] = -1e6, -1e6  # type: ignore[index, operator]
        linear.bias[5:9] = -1e6  # type: ignore[index, operator]
    return SemanticSegmenter(brightness, classifier)


# ----------------------------------------------------------------------------------------------------------- features
def test_a_masklet_s_feature_is_the_mean_over_its_pixels_in_all_frames() -> None:
    """Equation 3 by hand: two pixels of 10 and six of 50 have a mean of 40."""
    masks = np.zeros((2, 2, *SIZE), bool)
    masks[0, 0, 0, :2] = masks[1, 0, 1, :] = masks[1, 1, 2, 2] = True
    frames = bright(10, 50)
    window, frame = WindowFeatures(brightness, "window"), WindowFeatures(brightness, "frame")
    for features in (window, frame):
        for (_, image), own in zip(frames, masks):
            features.add(image, own)
    assert [means.tolist() for means in window.means()] == [[[40, 1], [50, 1]]]
    assert [means.tolist() for means in frame.means()] == [[[10, 1], [0, 0]], [[50, 1], [50, 1]]]


def test_each_frame_is_encoded_once_for_the_masks_and_for_their_classes(
    model: Sam2Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, truth = tinted_clip(0, SCENE)
    masks = truth[0] == np.unique(truth[0])[1:, None, None]
    seen: list[int] = []
    encode = model.network.forward_image
    monkeypatch.setattr(model.network, "forward_image", lambda batch: (seen.append(len(batch)), encode(batch))[1])
    propagator = Sam2Masklets(model)
    frames = [(f"{t}", image) for t, image in enumerate(images)]
    segmenter = SemanticSegmenter(encode_with_sam2(propagator.seen), classifier_of(64))
    options = RefineOptions(window=2)
    found = list(refine_frames(frames, no_base, lambda _: FoundMasks(masks, ()), propagator, options, segmenter))
    assert len(found) == 2
    assert seen == [1] * 2


def classifier_of(dim: int) -> MaskletClassifier:
    described = ClassifierDescription(NAMES, dim, (dim,), FeatureSource("tiny", -1, "0"))
    return new_classifier(MaskletClassifier(described), 0)


# ----------------------------------------------------------------------------------------------------------- painting
def painted(masks: np.ndarray, values: tuple[int, ...], base: object = no_base, **options: object) -> list[np.ndarray]:
    """The maps of frames of these brightnesses, with a classifier that tells 30 and more from less."""
    fixed = Fixed(masks)
    settings = RefineOptions(window=len(values), **options)  # type: ignore[arg-type]
    found = refine_frames(bright(*values), base, fixed.find, fixed, settings, threshold(30))  # type: ignore[arg-type]
    return [one.labels for one in found]


def test_masklets_are_painted_with_their_classes_and_the_rest_has_none() -> None:
    masks = np.zeros((2, 2, *SIZE), bool)
    masks[:, 0, :, :3] = True
    masks[0, 1, 0, 5] = True
    first, second = painted(masks, (20, 60))  # a mean of 40, and one of 20
    assert first[0].tolist() == [9, 9, 9, VOID, VOID, 4]
    assert second[0].tolist() == [9, 9, 9, VOID, VOID, VOID]
    first, second = painted(masks, (20, 60), scope="frame")
    assert first[0].tolist() == [4, 4, 4, VOID, VOID, 4]
    assert second[0].tolist() == [9, 9, 9, VOID, VOID, VOID]


def test_smaller_masklets_lie_on_top_whatever_their_class() -> None:
    masks = np.zeros((1, 2, *SIZE), bool)
    masks[0, 0, 1, 1] = masks[0, 1] = True
    masks[0, 1, 3, 5] = False
    (labels,) = painted(masks, (60,))
    assert (labels == 9).sum() == 23
    assert labels[3, 5] == VOID


def test_the_base_prediction_fills_uncovered_pixels_and_no_others() -> None:
    masks = np.zeros((2, 1, *SIZE), bool)
    masks[:, 0, :, :3] = True

    def base(name: str, image: np.ndarray) -> np.ndarray:
        labels = np.full(SIZE, 70 + int(name), np.uint8)
        labels[0] = VOID
        return labels

    alone, filled = painted(masks, (20, 60)), painted(masks, (20, 60), base)
    for t, (one, other) in enumerate(zip(alone, filled)):
        np.testing.assert_array_equal(other, np.where(one == VOID, base(f"{t}", one), one))
        assert set(np.unique(other)) == {9, 70 + t, VOID}


def test_without_masks_there_is_the_base_alone() -> None:
    none = np.zeros((2, 0, *SIZE), bool)
    assert all((labels == VOID).all() for labels in painted(none, (1, 2)))


# ---------------------------------------------------------------------------------------------------------- training
def test_masklets_have_the_true_pixels_inside_them_and_those_on_void_are_left_out() -> None:
    masks = np.zeros((2, 3, *SIZE), bool)
    masks[:, 0, 0] = masks[:, 1, 1] = True
    masks[0, 2, 0, :3] = True
    truth = np.full((2, *SIZE), VOID, np.uint8)
    truth[0, 0], truth[1, 0, :2] = 7, 3
    fixed = Fixed(masks)

    def table(scope: Scope) -> MaskletTable:
        return labelled_masklets(
            bright(10, 50), lambda name, _: truth[int(name)], fixed.find, fixed, brightness, 2, scope
        )  # type: ignore[arg-type]

    whole = table("window")
    assert whole.votes.nonzero().tolist() == [[0, 3], [0, 7], [1, 7]]
    assert whole.votes[0, [3, 7]].tolist() == [2, 6]
    assert whole.labels().tolist() == [7, 7]
    assert whole.features.tolist() == [[30, 1], [10, 1]]
    each = table("frame")
    assert each.labels().tolist() == [7, 7, 3]
    assert each.features[:, 0].tolist() == [10, 10, 50]


def test_a_trained_classifier_segments_other_clips(tmp_path: Path) -> None:
    """Rendered clips of five classes, each with a colour; true masks, and features of a random SAM 2.

    The background has no masklet, in training or in painting.
    """
    encode = encode_with_sam2(SeenFrame(tiny_sam2(overrides=["model.image_size=128"])))  # a map of 8 x 8
    config = ClassifierConfig("toy", epochs=120, batch=64, log_every=10, optimiser=OptimiserConfig(learning_rate=1e-2))

    def clip(seed: int) -> tuple[list[tuple[str, np.ndarray]], np.ndarray, Fixed]:
        images, truth = tinted_clip(seed, SCENE)
        masks = np.stack([truth == number for number in np.unique(truth)[1:]], axis=1)
        return [(f"{t}", image) for t, image in enumerate(images)], truth, Fixed(masks)

    tables = []
    for frames, truth, known in map(clip, range(12)):
        maps = dict(zip(map(str, range(len(truth))), truth))
        tables.append(
            labelled_masklets(frames, lambda name, _, maps=maps: maps[name], known.find, known, encode, 2, "window")
        )
    table = MaskletTable.joined(tables)
    assert set(table.labels().tolist()) == set(TINTED[1:].tolist())
    classifier = classifier_of(table.features.shape[1])
    hooks = Hooks(tmp_path, config)
    assert ClassifierTraining(config, state_of(classifier, config), table, hooks).train()
    (_, first), (_, last) = hooks.lines[0], hooks.lines[-1]
    assert last["loss"] < 0.1 * first["loss"]
    assert last["top1"] > 95 > 80 > first["top1"]  # means over ten steps; chance is a quarter

    alone, filled = [], []
    for seed in range(12, 16):
        frames, truth, known = clip(seed)
        segmenter, options = SemanticSegmenter(encode, classifier.eval()), RefineOptions(window=2)
        labels = [one.labels for one in refine_frames(frames, no_base, known.find, known, options, segmenter)]
        assert all(((own == VOID) == (true == TINTED[0])).all() for own, true in zip(labels, truth))
        alone.append(score_clip(str(seed), truth, labels, CLASSES, (2,)))
        backdrop = [np.where(own == VOID, TINTED[0], own) for own in labels]
        filled.append(score_clip(str(seed), truth, backdrop, CLASSES, (2,)))
    score, with_base = main_numbers(alone), main_numbers(filled)
    assert (score["mIoU"] or 0) > 60  # of 80, the backdrop's being 0; chance is a quarter of that
    assert (with_base["mIoU"] or 0) == pytest.approx((score["mIoU"] or 0) + 20)
