"""Damage and bombs: what is opened as an image is whole, and not too large."""

import ast
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_videos import write_film

import cutie_geo
from cutie_geo.__main__ import main
from cutie_geo.data.check import Task, look_at
from cutie_geo.data.masks import read_labels, read_probs, write_labels, write_probs
from cutie_geo.data.video import VideoFile, read_image
from cutie_geo.evaluation.folders import read_bytes_mask
from cutie_geo.limits import MAX_PIXELS_VARIABLE, max_pixels

Reader = Callable[[Path], object]


def scored(path: Path) -> object:
    return read_bytes_mask(path, "video", "00000", "the mask")


READERS: dict[str, Reader] = {"mask": read_labels, "frame": read_image, "scored": scored}


def disc(side: int = 24) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return ((x - side / 2) ** 2 + (y - side / 2) ** 2 < side).astype(np.int32) * 3


def png_bomb(path: Path, width: int, height: int) -> Path:
    """A grey PNG whose pixels are all 0, its rows compressed without ever being in memory."""
    packer, data, row = zlib.compressobj(9), b"", bytes(width + 1)
    for _ in range(height):
        data += packer.compress(row)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", data + packer.flush()), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in parts]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_any_changed_byte_of_a_png_is_an_error_that_names_the_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "00000.png"
    if kind == "frame":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 11, 3), np.uint8)).save(path)
    else:
        write_labels(path, disc())
    whole = path.read_bytes()
    READERS[kind](path)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(bytes(damaged))
        with pytest.raises(ValueError, match=r"00000\.png"):
            READERS[kind](path)


@pytest.mark.parametrize("kind", READERS)
def test_a_png_that_is_cut_off_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "00000.png"
    write_labels(path, disc())
    whole = path.read_bytes()
    for size in range(0, len(whole), 3):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"00000\.png"):
            READERS[kind](path)


def test_bytes_after_the_end_of_a_png_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "00000.png"
    write_labels(path, disc())
    path.write_bytes(path.read_bytes() + b"more")
    assert np.array_equal(read_labels(path).labels, disc())
    assert np.array_equal(read_bytes_mask(path, "video", "00000", "the mask"), disc())


@pytest.mark.parametrize("kind", READERS)
def test_a_png_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, kind: str) -> None:
    path = png_bomb(tmp_path / "bomb.png", 8192, 8193)
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"bomb\.png.*8192x8193.*expected at most 67108864; --max-pixels"):
        READERS[kind](path)


def test_pillows_own_limit_does_not_hide_ours(tmp_path: Path) -> None:
    for height in (11_000, 22_000):  # Pillow warns of the first, and raises for the second
        path = tmp_path / f"{height}.bmp"
        path.write_bytes(b"BM" + struct.pack("<IIIIiiHHIIiiII", 70, 0, 62, 40, 10_000, height, 1, 1, 0, 0, 1, 1, 2, 2))
        with pytest.raises(ValueError, match=rf"{height}\.bmp.*--max-pixels"):
            read_image(path)


def test_the_limit_can_be_raised_and_lowered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "00000.png"
    write_labels(path, disc())
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "575")
    for read in READERS.values():
        with pytest.raises(ValueError, match="24x24 = 576 pixels, expected at most 575"):
            read(path)
    assert "--max-pixels" in str(look_at(Task(path, "head")).problem)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "576")
    for read in READERS.values():
        read(path)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "many")
    with pytest.raises(ValueError, match="CUTIE_GEO_MAX_PIXELS: got 'many'"):
        max_pixels()


def test_an_image_above_pillows_limit_can_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "576")
    path = tmp_path / "00000.png"
    write_labels(path, disc())
    assert read_labels(path).labels.shape == (24, 24)


def test_a_video_of_larger_frames_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clip.mp4"
    write_film(path)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "100")
    with pytest.raises(ValueError, match=r"clip\.mp4: got .* pixels, expected at most 100"):
        VideoFile(path)


def test_probabilities_that_unpack_to_gigabytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "00000.npz"
    write_probs(path, np.full((3, 64, 64), 1 / 3, np.float32), [1, 2])
    assert read_probs(path)[1] == (1, 2)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "3000")
    with pytest.raises(ValueError, match=r"00000\.npz: .*probs\.npy of \d+ bytes, expected at most 12000; --max-pix"):
        read_probs(path)


def test_probabilities_that_claim_more_than_they_hold_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "00000.npz"
    array = np.zeros((1, 4, 4), np.uint8)
    np.savez_compressed(path, probs=array, ids=np.zeros(0, np.int64))
    with zipfile.ZipFile(path, "w") as file:
        for name, shape in (("probs", (3, 2**20, 2**20)), ("ids", (2,))):
            out = io.BytesIO()
            np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})
            file.writestr(f"{name}.npy", out.getvalue() + bytes(16))
    with pytest.raises(ValueError, match=r"00000\.npz: .*probs\.npy of shape \(3, 1048576, 1048576\)"):
        read_probs(path)


@pytest.mark.slow
def test_images_are_opened_in_one_place() -> None:
    package = Path(cutie_geo.__file__).parent
    where = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and called.attr in ("open", "imread"):
                owner = called.value.id if isinstance(called.value, ast.Name) else ""
                if owner in ("Image", "Pillow", "PIL", "cv2"):
                    where.add(path.relative_to(package).as_posix())
    assert where == {"data/images.py"}


def test_every_command_raises_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "1")  # so that it is as before after the test
    for folder in ("truth", "masks"):
        (tmp_path / folder / "bear").mkdir(parents=True)
        for t in range(3):
            write_labels(tmp_path / folder / "bear" / f"{t:05d}.png", disc())
    scored = ["evaluate", "--gt", str(tmp_path / "truth"), "--pred", str(tmp_path / "masks"), "--workers", "1"]
    assert main(scored) == 2
    assert "--max-pixels raises the limit" in capsys.readouterr().err
    assert main([*scored, "--max-pixels", "1000"]) == 0
    assert main([*scored, "--max-pixels", "0"]) == 2
    assert "--max-pixels: got 0, expected 1 or more" in capsys.readouterr().err
