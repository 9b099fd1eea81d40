"""From frames to label maps."""

import numpy as np
import torch
from parity_rules import synthetic_video

from cutie_geo.inference.segment import segment_video
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.network import CutieGeo
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
