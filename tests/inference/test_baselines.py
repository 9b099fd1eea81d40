"""Floors do what their names say, wherever a tracker stands."""

import numpy as np
import pytest
import torch
from torch import Tensor

from cutie_geo.inference.baselines import CopyMask, FlowMask
from cutie_geo.inference.segmenter import Segmenter
from cutie_geo.runs.calls import segment_video
from cutie_geo.structures import Frame


def moving(step: int = 3, frames: int = 5) -> tuple[list[Tensor], list[Tensor]]:
    """A textured disc that moves to the right over a textured ground, and where it is."""
    rng = np.random.default_rng(0)
    ground, disc = (torch.from_numpy(rng.random((3, 24, 32), np.float32)) for _ in range(2))
    ground, disc = (
        torch.nn.functional.interpolate(x[None], (96, 128), mode="bicubic")[0].clamp(0, 1) for x in (ground, disc)
    )
    y, x = torch.meshgrid(torch.arange(96), torch.arange(128), indexing="ij")
    images, labels = [], []
    for t in range(frames):
        inside = (y - 48) ** 2 + (x - 40 - step * t) ** 2 < 20**2
        images.append(torch.where(inside, disc.roll(step * t, -1), ground))
        labels.append(torch.where(inside, 7, 0))
    return images, labels


def overlap(a: Tensor, b: Tensor) -> float:
    return float(((a > 0) & (b > 0)).sum() / ((a > 0) | (b > 0)).sum())


def test_both_stand_where_a_tracker_does() -> None:
    images, labels = moving()
    for method in (CopyMask(), FlowMask()):
        assert isinstance(method, Segmenter)
        frames = [Frame(f"{t}", image, given=labels[0] if t == 0 else None) for t, image in enumerate(images)]
        results = dict(segment_video(method, frames))
        assert list(results) == ["0", "1", "2", "3", "4"]
        assert torch.equal(results["0"], labels[0])
        assert method.object_ids == [7]


def test_copies_stay_and_flow_follows() -> None:
    images, labels = moving()
    copy, flow = CopyMask(), FlowMask()
    for t, image in enumerate(images):
        copied, carried = (each.labels(each.step(image, labels[0] if t == 0 else None)) for each in (copy, flow))
    assert torch.equal(copied, labels[0])
    assert overlap(carried, labels[-1]) > overlap(copied, labels[-1]) + 0.15


def test_objects_may_come_later_and_replace_themselves_only() -> None:
    image, method = torch.rand(3, 32, 32), CopyMask()
    first, second = torch.zeros(32, 32, dtype=torch.long), torch.zeros(32, 32, dtype=torch.long)
    first[:16] = 3
    second[8:24, :16] = 9
    assert method.step(image).shape == (1, 32, 32), "nothing given yet"
    method.step(image, first)
    probs = method.step(image, second)
    assert method.object_ids == [3, 9]
    assert torch.equal(probs.sum(0), torch.ones(32, 32))
    labels = method.labels(probs)
    assert labels[0, 0] == 3
    assert labels[10, 10] == 9
    moved = torch.zeros(32, 32, dtype=torch.long)
    moved[24:] = 3
    labels = method.labels(method.step(image, moved, objects=[3]))
    assert labels[0, 0] == 0
    assert labels[30, 0] == 3
    assert labels[10, 10] == 9


@pytest.mark.parametrize("method", [CopyMask, FlowMask])
def test_bad_input_is_a_clear_error(method: type[CopyMask]) -> None:
    one = method()
    with pytest.raises(ValueError, match="image: got"):
        one.step(torch.rand(2, 8, 8))
    with pytest.raises(ValueError, match="mask: got size"):
        one.step(torch.rand(3, 8, 8), torch.ones(4, 4, dtype=torch.long))
    one.step(torch.rand(3, 32, 32), torch.ones(32, 32, dtype=torch.long))
    with pytest.raises(ValueError, match="image: got"):
        one.step(torch.rand(3, 16, 16))
    with pytest.raises(ValueError, match="no geometry encoder"):
        one.restore_depth(None)
