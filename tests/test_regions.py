"""Parts of a frame: enlarged views, what prompts point at, and no torch."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from cutie_geo.regions import Prompt, Region, enlarged_region, on_view, pointed_at


def test_regions_overlap_as_rectangles() -> None:
    assert Region(0, 0, 10, 10).iou(Region(5, 0, 15, 10)) == 50 / 150
    assert Region(0, 0, 10, 10).iou(Region(20, 20, 30, 30)) == 0


def test_small_objects_are_enlarged() -> None:
    mask = np.zeros((180, 320), bool)
    mask[50:60, 100:130] = True
    region = enlarged_region(mask, Prompt(((110, 55, 1),)), 1.0)
    assert region == (94, 39, 137, 72)
    assert region.enlarged() == (196, 256)
    assert enlarged_region(np.ones((180, 320), bool), Prompt(((110, 55, 1),)), 1.0) is None
    assert enlarged_region(mask & False, Prompt(((110, 55, 0),)), 1.0) is None


def test_prompts_are_converted_to_pixels_of_a_view() -> None:
    prompt = Prompt(((110, 50, 1), (5, 5, 0), (130, 45, 0)), (100, 40, 140, 60))
    found = on_view(prompt, Region(90, 40, 150, 70), (30, 60), (60, 240), (8, 2))
    assert found.points.tolist() == [[20 * 4 + 8, 10 * 2 + 2], [40 * 4 + 8, 5 * 2 + 2]]
    assert found.labels.tolist() == [1, 0]
    assert found.box is not None
    assert found.box.tolist() == [10 * 4 + 8, 2, 50 * 4 + 8, 20 * 2 + 2]
    nothing = on_view(Prompt(((5, 5, 1),)), Region(90, 40, 150, 70), (30, 60), (60, 240), (8, 2))
    assert nothing.points.shape == (0, 2)
    assert nothing.box is None


@pytest.mark.parametrize(
    ("prompt", "before", "stay"),
    [
        (Prompt(((10, 10, 1),)), None, [1]),
        (Prompt(((10, 10, 1), (45, 30, 0))), None, [1]),
        (Prompt(((30, 5, 1),)), None, None),  # on no component
        (Prompt((), (38, 22, 52, 38)), None, [3]),
        (Prompt(((10, 10, 1),), (38, 22, 52, 38)), None, [1, 3]),
        (Prompt(((10, 10, 0),)), (30, 45), [3]),
        (Prompt(((10, 10, 1), (45, 30, 1), (50, 8, 1))), None, None),
    ],
)
def test_only_what_prompts_point_at_stays(
    prompt: Prompt, before: tuple[int, int] | None, stay: list[int] | None
) -> None:
    y, x = np.mgrid[:40, :60]
    places = {1: (10, 10), 2: (50, 8), 3: (45, 30)}
    discs = {name: np.hypot(y - cy, x - cx) < 5.3 for name, (cx, cy) in places.items()}
    count, labels = cv2.connectedComponents(sum(discs.values()).astype(np.uint8))
    so_far = None
    if before is not None:
        so_far = np.zeros((40, 60), bool)
        so_far[before] = True
    kept = pointed_at(labels, count - 1, prompt, so_far)
    if stay is None:
        assert kept is None
    else:
        assert kept is not None
        assert [name for name, disc in discs.items() if kept[disc].all()] == stay
        assert kept[labels == 0].all()


@pytest.mark.slow
def test_torch_is_not_needed() -> None:
    program = "import cutie_geo.regions\nimport sys\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
