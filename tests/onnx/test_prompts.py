"""Masks from clicks and boxes without torch: those of the prompt head, and clear errors."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import cutie_geo
from cutie_geo.__main__ import main
from cutie_geo.data.masks import read_labels
from cutie_geo.inference.head_prompter import HeadPrompter
from cutie_geo.model.network import CutieGeo
from cutie_geo.onnx import OnnxTracker
from cutie_geo.onnx.prompts import components, read_probabilities, read_prompt
from cutie_geo.regions import Prompt

SIZE = (40, 60)


# ------------------------------------------------------------------------------------------------- steps in numpy
@pytest.mark.parametrize("density", [0.0, 0.1, 0.35, 0.6, 1.0])
def test_components_are_those_of_opencv(density: float) -> None:
    mask = np.random.default_rng(0).random(SIZE) < density
    labels, count = components(mask)
    number, expected = cv2.connectedComponents(mask.astype(np.uint8))
    assert count == number - 1
    assert ((labels > 0) == mask).all()
    pairs = set(zip(labels.ravel().tolist(), expected.ravel().tolist()))
    assert len(pairs) == number - int(mask.all()), "one label of ours for each of OpenCV's"


@pytest.mark.parametrize(
    ("points", "labels", "box", "message"),
    [
        ((), None, None, "prompt: got neither points nor a box"),
        ([(1, 2, 3)], None, None, r"points: got .*, expected finite numbers \(x, y\) of each click"),
        ([(1, np.nan)], None, None, "points: got .*, expected finite numbers"),
        ([(1, 2)], [1, 0], None, "labels: got .*, expected 1 or 0 for each of the 1 points"),
        ([(1, 2)], [2], None, "labels: got"),
        ([(1, 2)], [0], None, "points: got negative points only"),
        ([(61, 2)], None, None, r"points: got \(61, 2\), expected it within 60x40"),
        ((), None, (5, 5, 5, 9), "box: got .* with x0 < x1 and y0 < y1"),
        ((), None, (5, 5, 9), r"box: got .*, expected finite numbers \(x0, y0, x1, y1\)"),
        ((), None, (-5, 5, 9, 9), "box: got"),
    ],
)
def test_wrong_prompts_are_refused(points: object, labels: object, box: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_prompt(points, labels, box, SIZE, corrects=False)


def test_prompts_are_read() -> None:
    assert read_prompt([(1, 2), (3, 4.5)], [1, 0], None, SIZE, False) == (((1, 2, 1), (3, 4.5, 0)), None)
    assert read_prompt((), None, [0, 0, 60, 40], SIZE, False) == ((), (0, 0, 60, 40))
    assert read_prompt(np.array([[1, 2]]), [0], None, SIZE, True).points == ((1, 2, 0),)


def test_masks_are_read_as_probabilities() -> None:
    np.testing.assert_array_equal(read_probabilities(np.eye(3) > 0, (3, 3)), np.eye(3))
    np.testing.assert_allclose(read_probabilities(np.full((3, 3), -2.0), (3, 3)), 1 / (1 + np.exp(2)), rtol=1e-5)
    with pytest.raises(ValueError, match=r"mask: got \(2, 2\) of float64, expected \(3, 3\)"):
        read_probabilities(np.eye(2), (3, 3))
    with pytest.raises(ValueError, match="mask: got non-finite values"):
        read_probabilities(np.full((3, 3), np.nan), (3, 3))


def test_a_model_without_a_prompt_head_is_named(tiny_folder: Path) -> None:
    tracker = OnnxTracker(tiny_folder, threads=1)
    assert tracker.about.prompt_points == 0
    with pytest.raises(ValueError, match="prompt: tiny was exported without a prompt head, expected a model that has"):
        tracker.prompt(np.zeros((60, 106, 3), np.uint8), points=[(5, 5)])


# ------------------------------------------------------------------------------------------------- the bundled model
@pytest.mark.slow
@pytest.mark.parametrize("size", [(180, 320), (360, 640)])
def test_masks_are_those_of_the_prompt_head(bundled: CutieGeo, bundled_folder: Path, size: tuple[int, int]) -> None:
    tracker = OnnxTracker(bundled_folder, threads=1)
    prompter = HeadPrompter(bundled, max_internal_size=180)
    equal, zoomed = [], 0
    for i in (0, 20):
        image = Image.open(cutie_geo.example_frames() / f"{i:05d}.jpg").resize(size[::-1], Image.Resampling.BILINEAR)
        labels = read_labels(cutie_geo.example_masks() / f"{i:05d}.png").labels
        labels = np.repeat(np.repeat(labels, size[0] // 180, axis=0), size[1] // 320, axis=1)
        picture = np.array(image)
        encoded = prompter.encode(torch.from_numpy(picture).permute(2, 0, 1).float() / 255)
        features = tracker.encode(picture)
        for object_id in (1, 2, 3):
            rows, columns = np.nonzero(labels == object_id)
            if not len(rows):
                continue
            middle = len(rows) // 2
            box = (float(columns.min()), float(rows.min()), float(columns.max()) + 1, float(rows.max()) + 1)
            click, beside = (float(columns[middle]), float(rows[middle])), (5.0, 5.0)
            one = prompter.predict(encoded, Prompt(((*click, 1),), None))
            own = tracker.prompt(picture, [click], features=features)
            asked = [
                (one, own),
                (
                    prompter.predict(encoded, Prompt(((*click, 1), (*beside, 0)), None), one.logits),
                    tracker.prompt(picture, [click, beside], [1, 0], mask=own.logits, features=features),
                ),
                (
                    prompter.predict(encoded, Prompt(((*click, 1), (*beside, 0)), None), one.logits, from_prompts=True),
                    tracker.prompt(
                        picture, [click, beside], [1, 0], mask=own.logits, features=features, from_prompts=True
                    ),
                ),
                (
                    prompter.predict(encoded, Prompt((), box)),
                    tracker.prompt(picture, box=box, features=features),
                ),
            ]
            zoomed += len(features.zoomed)
            for expected, found in asked:
                equal.append(float(((expected.logits > 0).numpy() == (found.logits > 0)).mean()))
                assert found.quality == pytest.approx(expected.quality, abs=1e-3)
    assert len(equal) >= 12
    assert zoomed, "small objects are enlarged"
    assert np.mean(equal) >= 0.999
    assert tracker.object_ids == []
    with pytest.raises(ValueError, match="points: got 17, expected at most 16, the capacity of the export"):
        tracker.prompt(picture, [click] * 17, features=features)


@pytest.mark.slow
def test_infer_makes_masks_of_points_with_exported_graphs(bundled_folder: Path, tmp_path: Path) -> None:
    video, output = tmp_path / "clip", tmp_path / "out"
    video.mkdir()
    for path in sorted(cutie_geo.example_frames().glob("*.jpg"))[:3]:
        shutil.copy(path, video)
    labels = read_labels(cutie_geo.example_masks() / "00000.png").labels
    rows, columns = np.nonzero(labels == 1)
    box = ",".join(str(side) for side in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    command = ["infer", "--model", str(bundled_folder), "--video", str(video), "--output", str(output), "--box", box]
    assert main(command) == 0
    report = json.loads((output / "run.json").read_text())
    assert report["settings"]["prompts"]["model"] == "prompt head"
    first = read_labels(next(output.rglob("00000.png"))).labels
    expected = OnnxTracker(bundled_folder, threads=1).prompt(
        np.array(Image.open(video / "00000.jpg")), box=[int(side) for side in box.split(",")]
    )
    assert ((first == 1) == (expected.logits > 0)).mean() >= 0.999
