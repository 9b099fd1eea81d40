"""The bundled clip is small, complete, and what the renderer makes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cutie_geo.data.example import (
    EXAMPLE_CONFIG,
    example_frames,
    example_masks,
    example_root,
    write_example,
)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.stack([read(path) for path in sorted(example_masks().iterdir())])


def test_the_files_are_in_the_layout_of_davis_and_under_900_kb():
    names = [f"{t:05d}" for t in range(EXAMPLE_CONFIG.frames)]
    assert sorted(path.name for path in example_frames().iterdir()) == [f"{name}.jpg" for name in names]
    assert sorted(path.name for path in example_masks().iterdir()) == [f"{name}.png" for name in names]
    assert sum(path.stat().st_size for path in example_root().rglob("*") if path.is_file()) < 900_000


def test_frames_and_masks_have_the_clip_s_size():
    size = (EXAMPLE_CONFIG.width, EXAMPLE_CONFIG.height)
    for path in [*example_frames().iterdir(), *example_masks().iterdir()]:
        with Image.open(path) as image:
            assert image.size == size, path


def test_masks_wear_the_palette_of_davis():
    with Image.open(example_masks() / "00000.png") as image:
        assert image.mode == "P"
        palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
    assert palette[:5].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert palette[255].tolist() == [224, 224, 192]


def test_three_objects_show_in_the_first_frame_and_one_leaves_and_returns(labels):
    present = np.stack([(labels == i).any((1, 2)) for i in (1, 2, 3)])
    assert sorted(np.unique(labels)) == [0, 1, 2, 3]
    assert present[:, 0].all()
    assert present[:, -1].all()
    assert sum(not row.all() for row in present) == 1


def test_an_object_is_mostly_hidden_while_the_others_stay(labels):
    areas = np.stack([(labels == i).sum((1, 2)) for i in (1, 2, 3)])
    assert (areas.min(1) < 0.5 * areas.max(1)).sum() >= 2  # the one that leaves, and the one that is hidden


@pytest.mark.slow
def test_writing_the_example_anew_gives_the_same_labels_and_nearly_the_same_images(tmp_path):
    write_example(tmp_path)
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    assert written == sorted(path.relative_to(example_root()) for path in example_root().rglob("*.*"))
    for path in written:
        old, new = read(example_root() / path), read(tmp_path / path)
        if path.suffix == ".png":
            np.testing.assert_array_equal(new, old, str(path))
        else:
            assert np.abs(new.astype(int) - old).mean() < 2, path
