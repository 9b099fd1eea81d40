"""Frames in memory: every form gives the same tensor."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cutie_geo.data.frames import image_pixels, image_tensor
from cutie_geo.data.video import read_image, to_tensor

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
EXPECTED = torch.from_numpy(PIXELS).permute(2, 0, 1).float() / 255
ALPHA = np.full((5, 7, 1), 9, np.uint8)


@pytest.mark.parametrize(
    ("frame", "color"),
    [
        (PIXELS, "rgb"),
        (np.asfortranarray(PIXELS), "rgb"),
        (PIXELS[..., ::-1], "bgr"),
        (np.concatenate([PIXELS, ALPHA], 2), "rgb"),
        (np.concatenate([PIXELS[..., ::-1], ALPHA], 2), "bgr"),
        (Image.fromarray(PIXELS), "rgb"),
        (Image.fromarray(PIXELS), "bgr"),
        (Image.fromarray(np.concatenate([PIXELS, ALPHA], 2)), "rgb"),
        (torch.from_numpy(PIXELS).permute(2, 0, 1), "rgb"),
        (torch.from_numpy(PIXELS).permute(2, 0, 1).flip(0), "bgr"),
        (EXPECTED, "rgb"),
        (EXPECTED.flip(0), "bgr"),
        (torch.cat([EXPECTED, torch.rand(1, 5, 7)]), "rgb"),
    ],
)
def test_all_forms_of_a_frame_are_equal(frame: object, color: str) -> None:
    assert torch.equal(image_tensor(frame, color), EXPECTED)
    assert np.array_equal(image_pixels(frame, color), PIXELS)


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_grey_is_repeated(color: str) -> None:
    grey = PIXELS[..., 0]
    expected = EXPECTED[:1].expand(3, -1, -1)
    for frame in (grey, grey[..., None], Image.fromarray(grey), torch.from_numpy(grey), EXPECTED[:1], EXPECTED[0]):
        assert torch.equal(image_tensor(frame, color), expected)
        assert np.array_equal(image_pixels(frame, color), np.repeat(grey[..., None], 3, 2))


def test_a_pil_image_is_read_as_its_file_is(tmp_path: Path) -> None:
    """Rotation by EXIF and palettes too."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(PIXELS).quantize(8).save(tmp_path / "palette.png")
    for path in sorted(tmp_path.iterdir()):
        with Image.open(path) as image:
            assert torch.equal(image_tensor(image), to_tensor(read_image(path)))
    assert image_tensor(Image.open(tmp_path / "turned.png")).shape == (3, 7, 5)


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        (PIXELS.astype(np.float32), r"image: got \(5, 7, 3\) of float32"),
        (PIXELS[..., :2], r"image: got \(5, 7, 2\) of uint8"),
        (PIXELS[None], r"image: got \(1, 5, 7, 3\)"),
        (PIXELS[:0], r"image: got \(0, 7, 3\)"),
        (torch.from_numpy(PIXELS), r"image: got \(5, 7, 3\) of torch.uint8"),
        (EXPECTED.long(), r"image: got \(3, 5, 7\) of torch.int64"),
        (Image.fromarray(np.zeros((4, 4), np.uint16)), "image is I;16"),
        ("frame.png", "image: got str"),
        (None, "image: got NoneType"),
    ],
)
def test_other_things_are_refused(frame: object, problem: str) -> None:
    for convert in (image_tensor, image_pixels):
        with pytest.raises(ValueError, match=problem):
            convert(frame)


def test_an_unknown_order_of_colours_is_refused() -> None:
    for convert in (image_tensor, image_pixels):
        with pytest.raises(ValueError, match="color: got 'BGR', expected 'rgb' or 'bgr'"):
            convert(PIXELS, "BGR")
