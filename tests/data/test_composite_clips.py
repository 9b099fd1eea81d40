"""Composed clips of several objects: every object is there, and what is pasted last covers the others."""

import sys
from pathlib import Path

import composite_clips
import numpy as np
import pytest
from PIL import Image

SIZE, FRAMES = (120, 160), 5


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three videos in DAVIS's layout: a square of one colour each that moves one pixel to the right a frame."""
    for number, name in enumerate(("a", "b", "c")):
        folders = [tmp_path / "davis" / kind / "480p" / name for kind in ("JPEGImages", "Annotations")]
        for folder in folders:
            folder.mkdir(parents=True)
        for frame in range(FRAMES):
            image, mask = np.full((*SIZE, 3), 40, np.uint8), np.zeros(SIZE, np.uint8)
            mask[30:90, 40 + frame : 100 + frame] = 255
            image[mask > 0] = np.eye(3, dtype=np.uint8)[number] * 220
            Image.fromarray(image).save(folders[0] / f"{frame:05d}.jpg", quality=95)
            Image.fromarray(mask).save(folders[1] / f"{frame:05d}.png")
    return tmp_path / "davis"


def test_frames_and_masks_agree(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(output: Path) -> None:
        words = ["composite_clips", "--data-root", str(root), "--output", str(output), "--clips", "2"]
        monkeypatch.setattr(sys, "argv", [*words, "--videos", "a", "b", "c"])
        composite_clips.main()

    make(tmp_path / "one")
    make(tmp_path / "two")
    for name in ("composite00", "composite01"):
        folders = [tmp_path / "one" / kind / name for kind in ("JPEGImages", "Annotations")]
        frames, masks = (sorted(folder.iterdir()) for folder in folders)
        assert [path.stem for path in frames] == [path.stem for path in masks] == [f"{k:05d}" for k in range(FRAMES)]
        first = np.asarray(Image.open(masks[0]))
        assert np.array_equal(first, np.asarray(Image.open(tmp_path / "one" / "first" / f"{name}.png")))
        ids = sorted(np.unique(first))
        assert ids == list(range(len(ids))) and 3 <= len(ids) <= 4
        for path, mask in zip(frames, masks):
            labels, image = np.asarray(Image.open(mask)), np.asarray(Image.open(path)).astype(int)
            colours = [np.median(image[labels == i], axis=0) for i in ids if (labels == i).sum() > 50]
            assert len({int(colour.argmax()) for colour in colours[1:]}) == len(colours) - 1, "one colour an object"
            assert np.abs(colours[0] - 40).max() < 30
        for path in [*frames, *masks]:
            assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_objects_that_cannot_be_seen_are_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composite_clips, "LEAST_AREA", 10**6)
    numbers, videos = np.random.default_rng(0), composite_clips.Videos(root)
    with pytest.raises(ValueError, match="clip: none of 200 compositions shows every object"):
        composite_clips.write_clip(tmp_path, "clip", numbers, videos, ("a", "b", "c"))
