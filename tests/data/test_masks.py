"""Promises of data/masks.py: ids survive every file, odd files are refused by name, no file is ever half written."""

import errno
import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from cutie_geo.data import masks
from cutie_geo.data.masks import (
    object_ids,
    read_input_labels,
    read_labels,
    read_probs,
    resize_labels,
    voc_palette,
    write_labels,
    write_probs,
)
from cutie_geo.data.video import read_video


def random_labels(height=31, width=45, largest=255, seed=0):
    labels = np.random.default_rng(seed).integers(0, largest, (height, width), endpoint=True)
    labels[0, 0], labels[0, 1] = largest, 0
    return labels


def raw_png(path, width, height, depth, colour_type, rows):
    """A PNG with exactly this bit depth, which Pillow would not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return path


# ---------------------------------------------------------------------------------------------------------- palette
def test_the_default_palette_is_that_of_voc_and_davis():
    """First entries as published with PASCAL VOC, and the last."""
    colours = np.frombuffer(voc_palette(), np.uint8).reshape(256, 3)
    names = [bytes(colour).hex() for colour in colours]
    assert " ".join(names[:9]) == "000000 800000 008000 808000 000080 800080 008080 808080 400000"
    assert (names[20], names[255]) == ("004080", "e0e0c0")
    assert len(set(names)) == 256


def test_every_8_bit_id_and_the_palette_survive_a_file(tmp_path):
    labels = np.arange(256).reshape(16, 16)
    palette = bytes(reversed(range(256))) * 3
    write_labels(tmp_path / "a.png", labels, palette)
    back = read_labels(tmp_path / "a.png")
    assert np.array_equal(back.labels, labels)
    assert back.labels.dtype == np.int32
    assert back.palette == palette
    assert not back.long_ids
    with Image.open(tmp_path / "a.png") as image:  # what any other reader sees
        assert image.mode == "P"
        assert np.array_equal(np.array(image), labels)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64])
def test_labels_of_any_integer_type_are_written_with_the_default_palette(tmp_path, dtype):
    labels = np.array([[0, 1], [2, 100]], dtype)
    write_labels(tmp_path / "a.png", labels)
    back = read_labels(tmp_path / "a.png")
    assert np.array_equal(back.labels, labels)
    assert back.palette == voc_palette()


def test_a_short_palette_is_kept_and_filled_up_for_larger_ids(tmp_path):
    labels = random_labels(largest=200)
    write_labels(tmp_path / "a.png", labels, palette=bytes([0, 0, 0, 9, 8, 7]))
    back = read_labels(tmp_path / "a.png")
    assert np.array_equal(back.labels, labels)
    assert back.palette == bytes([0, 0, 0, 9, 8, 7]) + voc_palette()[6:]


def test_a_file_with_four_colours_passes_its_palette_on(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8))
    image.putpalette(list(range(12)))
    image.save(tmp_path / "a.png")
    first = read_labels(tmp_path / "a.png")
    assert first.labels.tolist() == [[0, 1, 2, 3]]
    assert first.palette == bytes(range(12))
    write_labels(tmp_path / "b.png", first.labels, first.palette)
    assert read_labels(tmp_path / "b.png").palette[:12] == bytes(range(12))


# --------------------------------------------------------------------------------------------------------- long ids
def test_long_ids_survive_an_rgb_file(tmp_path):
    labels = random_labels(largest=2**24 - 1)
    labels[1, :3] = [255, 256, 65536]
    write_labels(tmp_path / "a.png", labels)
    back = read_labels(tmp_path / "a.png", long_ids=True)
    assert np.array_equal(back.labels, labels)
    assert back.long_ids
    assert back.palette is None
    with Image.open(tmp_path / "a.png") as image:  # r + 256 g + 65536 b
        assert image.getpixel((1, 1)) == (0, 1, 0)
        assert image.getpixel((2, 1)) == (0, 0, 1)


def test_small_ids_can_be_written_as_long_ones(tmp_path):
    write_labels(tmp_path / "a.png", np.array([[0, 7]]), long_ids=True)
    assert read_labels(tmp_path / "a.png", long_ids=True).long_ids
    assert read_labels(tmp_path / "a.png", long_ids=True).labels.tolist() == [[0, 7]]


def test_an_indexed_file_is_read_as_such_where_long_ids_are_allowed(tmp_path):
    write_labels(tmp_path / "a.png", np.array([[0, 7]]))
    back = read_labels(tmp_path / "a.png", long_ids=True)
    assert back.labels.tolist() == [[0, 7]]
    assert not back.long_ids


@pytest.mark.parametrize("bad", [2**24, -1])
def test_ids_that_no_file_holds_are_refused_before_writing(tmp_path, bad):
    with pytest.raises(ValueError, match=rf"a\.png: got ids from .*{bad}.* expected 0 to 16777215"):
        write_labels(tmp_path / "a.png", np.array([[0, bad]]))
    assert list(tmp_path.iterdir()) == []


def test_a_mask_without_pixels_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.png: mask is empty"):
        write_labels(tmp_path / "a.png", np.zeros((0, 5), int))


# -------------------------------------------------------------------------------------------------------- greys
def test_an_8_bit_grey_is_ids(tmp_path):
    labels = random_labels()
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "a.png")
    back = read_labels(tmp_path / "a.png")
    assert np.array_equal(back.labels, labels)
    assert back.palette is None


def test_a_16_bit_grey_is_ids(tmp_path):
    labels = random_labels(largest=65535)
    Image.fromarray(labels.astype(np.uint16)).save(tmp_path / "a.png")
    assert np.array_equal(read_labels(tmp_path / "a.png").labels, labels)


def test_a_1_bit_mask_is_ids_0_and_1(tmp_path):
    shape = np.random.default_rng(0).random((9, 13)) > 0.5
    Image.fromarray(shape).save(tmp_path / "a.png")
    back = read_labels(tmp_path / "a.png")
    assert np.array_equal(back.labels, shape)
    assert back.labels.dtype == np.int32


@pytest.mark.parametrize(("depth", "row", "ids"), [(2, b"\x1b", [0, 1, 2, 3]), (4, b"\x01\x2f", [0, 1, 2, 15])])
def test_greys_of_few_bits_are_not_stretched(tmp_path, depth, row, ids):
    assert read_labels(raw_png(tmp_path / "a.png", 4, 1, depth, 0, [row])).labels.tolist() == [ids]


# ---------------------------------------------------------------------------------------------------- refused files
def test_an_rgb_mask_is_refused_unless_asked_for(tmp_path):
    Image.new("RGB", (854, 480)).save(tmp_path / "00000.png")
    wanted = r"00000\.png: mask is RGB \(480, 854, 3\), expected palette or grey \(H, W\)$"
    with pytest.raises(ValueError, match=wanted):
        read_labels(tmp_path / "00000.png")


@pytest.mark.parametrize("long_ids", [False, True])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_refused(tmp_path, mode, long_ids):
    Image.new(mode, (5, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=rf"a\.png: mask is {mode} \(4, 5, {len(mode)}\), expected"):
        read_labels(tmp_path / "a.png", long_ids)


def test_an_rgb_mask_of_16_bits_a_channel_is_refused(tmp_path):
    raw_png(tmp_path / "a.png", 1, 1, 16, 2, [bytes(6)])
    with pytest.raises(ValueError, match=r"a\.png: mask is RGB of 16 bits"):
        read_labels(tmp_path / "a.png", long_ids=True)


def test_a_lossy_mask_is_refused(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg: mask is a JPEG file, expected PNG"):
        read_labels(tmp_path / "a.jpg")


@pytest.mark.parametrize("keep", [0, 7, 60, 900, -100])
def test_a_cut_mask_is_an_error_naming_it(tmp_path, keep):
    write_labels(tmp_path / "a.png", random_labels())
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"a\.png: cannot be read as a mask: ") as raised:
        read_labels(tmp_path / "a.png")
    assert "\n" not in str(raised.value)


def test_flipped_bytes_never_give_other_ids(tmp_path):
    """Whatever byte breaks: an error naming the file, or (in a checksum, a palette) the same ids."""
    labels = random_labels()
    write_labels(tmp_path / "a.png", labels)
    good = (tmp_path / "a.png").read_bytes()
    start, fine, tried = good.index(b"IDAT") + 4, 0, 0
    for at in range(start, len(good) - 24, 29):
        broken = bytearray(good)
        broken[at] ^= 0x55
        (tmp_path / "a.png").write_bytes(broken)
        try:
            back = read_labels(tmp_path / "a.png").labels
        except ValueError as error:
            fine += "a.png: cannot be read" in str(error)
        else:
            fine += np.array_equal(back, labels)
        tried += 1
    assert fine == tried > 20


def test_a_missing_mask_is_an_error_naming_it(tmp_path):
    with pytest.raises(ValueError, match=r"a\.png: cannot be read as a mask: No such file"):
        read_labels(tmp_path / "a.png")


def test_text_is_not_a_mask(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ValueError, match=r"a\.png: cannot be read as a mask: not an image$"):
        read_labels(tmp_path / "a.png")


# --------------------------------------------------------------------------------------------------------- atomicity
def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FullDisk(io.FileIO):
    """A file that takes 20 bytes."""

    def write(self, data):
        if self.tell() + len(data) > 20:
            super().write(bytes(data)[:20])
            no_space()
        return super().write(data)


@pytest.fixture
def full_disk(monkeypatch):
    """Pillow and Path.open write to a full disk."""
    monkeypatch.setattr("builtins.open", lambda path, mode="r", *_, **__: FullDisk(path, mode.replace("b", "")))
    monkeypatch.setattr("pathlib.Path.open", lambda path, mode="r", *_, **__: FullDisk(path, mode.replace("b", "")))


@pytest.mark.parametrize("what", ["labels", "long", "probs"])
def test_a_full_disk_is_an_error_naming_the_target_and_leaves_no_torn_file(tmp_path, full_disk, what):
    write = {
        "labels": lambda path: write_labels(path, random_labels()),
        "long": lambda path: write_labels(path, random_labels(largest=1000)),
        "probs": lambda path: write_probs(path, np.full((2, 9, 9), 0.5, np.float32), [1]),
    }[what]
    with pytest.raises(OSError, match=r"00000\.x") as raised:
        write(tmp_path / "00000.x")
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.filename == str(tmp_path / "00000.x")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_rename_leaves_the_old_file(tmp_path, monkeypatch):
    write_labels(tmp_path / "a.png", np.array([[0, 1]]))
    monkeypatch.setattr("os.replace", no_space)
    with pytest.raises(OSError, match=r"a\.png"):
        write_labels(tmp_path / "a.png", np.array([[0, 2]]))
    assert read_labels(tmp_path / "a.png").labels.tolist() == [[0, 1]]
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


# ------------------------------------------------------------------------------------------------------------ resize
@pytest.mark.parametrize("size", [(31, 45), (15, 22), (7, 7), (1, 1), (62, 90), (100, 33), (30, 44), (11, 45)])
def test_resizing_picks_the_pixels_that_pillow_picks(size):
    labels = random_labels()
    wanted = np.array(Image.fromarray(labels.astype(np.uint8)).resize(size[::-1], Image.Resampling.NEAREST))
    got = resize_labels(labels, size)
    assert got.dtype == np.int32
    assert np.array_equal(got, wanted)


def test_resizing_a_whole_frame_matches_pillow():
    labels = random_labels(720, 1280)
    wanted = np.array(Image.fromarray(labels.astype(np.uint8)).resize((853, 480), Image.Resampling.NEAREST))
    assert np.array_equal(resize_labels(labels, (480, 853)), wanted)


def test_resizing_keeps_ids_that_a_float32_would_round():
    ids = np.array([[2**31 - 1, 2**24 + 1, 2**30 + 1, 0]])
    assert resize_labels(ids, (2, 8)).tolist() == np.repeat(np.repeat(ids, 2, 0), 2, 1).tolist()


@pytest.mark.parametrize("bad", [2**31, -1])
def test_resizing_refuses_what_is_no_id(bad):
    with pytest.raises(ValueError, match="expected 0 to 2147483647"):
        resize_labels(np.array([[0, bad]]), (1, 1))


# --------------------------------------------------------------------------------------------------------------- ids
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_object_ids_are_sorted_python_ints_without_background(dtype):
    ids = object_ids(np.array([[9, 0, 3], [3, 200, 0]], dtype))
    assert ids == (3, 9, 200)
    assert all(type(i) is int for i in ids)


def test_object_ids_of_large_ids_and_of_nothing():
    assert object_ids(np.array([[2**31 - 1, 70000, 5, 0]])) == (5, 70000, 2**31 - 1)
    assert object_ids(np.zeros((3, 4), int)) == ()
    assert object_ids(np.zeros((0, 4), int)) == ()


# ------------------------------------------------------------------------------------------------------------- probs
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, lambda p: torch.as_tensor(p).bfloat16()])
def test_probabilities_survive_a_file_to_one_part_in_510(tmp_path, kind):
    probs = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 8, 9)).astype(np.float32)).softmax(0).numpy()
    given = kind(probs)
    write_probs(tmp_path / "a.npz", given, [5, 2**31 - 1])
    back, ids = read_probs(tmp_path / "a.npz")
    assert ids == (5, 2**31 - 1)
    assert back.dtype == np.float32
    wanted = np.asarray(torch.as_tensor(given).float())
    assert np.abs(back - wanted).max() <= 1 / 510 + 1e-6
    with np.load(tmp_path / "a.npz", allow_pickle=False) as content:
        assert np.array_equal(content["probs"], np.round(255 * wanted).astype(np.uint8))


def test_probabilities_of_background_alone(tmp_path):
    write_probs(tmp_path / "a.npz", np.ones((1, 4, 5), np.float32), [])
    back, ids = read_probs(tmp_path / "a.npz")
    assert ids == ()
    assert (back == 1).all()


@pytest.mark.parametrize("bad", [1.1, -0.1, float("nan"), float("inf")])
def test_what_is_no_probability_is_refused(tmp_path, bad):
    probs = np.full((2, 3, 3), 0.5, np.float32)
    probs[1, 1, 1] = bad
    with pytest.raises(ValueError, match=r"a\.npz: got probabilities that are not numbers from 0 to 1"):
        write_probs(tmp_path / "a.npz", probs, [1])
    assert list(tmp_path.iterdir()) == []


def test_channels_and_ids_must_agree(tmp_path):
    with pytest.raises(ValueError, match=r"a\.npz: got 3 channels for 1 ids"):
        write_probs(tmp_path / "a.npz", np.zeros((3, 2, 2), np.float32), [1])


def bad_probs_files():
    good = {"probs": np.zeros((2, 3, 3), np.uint8), "ids": np.array([1])}
    return {
        "no ids": {"probs": good["probs"]},
        "floats": {**good, "probs": np.zeros((2, 3, 3))},
        "other count": {**good, "ids": np.array([1, 2])},
        "pickle": {**good, "ids": np.array([object()])},
    }


@pytest.mark.parametrize("content", bad_probs_files().values(), ids=bad_probs_files())
def test_another_npz_is_refused_by_name(tmp_path, content):
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(ValueError, match=r"a\.npz: "):
        read_probs(tmp_path / "a.npz")


@pytest.mark.parametrize("keep", [None, 0, 3, 50, -40])
def test_a_damaged_or_missing_probs_file_is_refused_by_name(tmp_path, keep):
    if keep is not None:
        write_probs(tmp_path / "a.npz", np.full((2, 9, 9), 0.5, np.float32), [1])
        (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"a\.npz: cannot be read as probabilities"):
        read_probs(tmp_path / "a.npz")


def test_opencv_does_not_read_masks():
    assert not hasattr(masks, "cv2")


# ------------------------------------------------------------------------------------------------------ soft objects
def ellipse(height: int = 90, width: int = 160) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (((x - width / 2) / (width / 5)) ** 2 + ((y - height / 2) / (height / 4)) ** 2 < 1).astype(np.uint8)


def soft_masks() -> dict[str, Image.Image]:
    """A mask of 0 and 255 as it comes out of drawing programs and of lossy formats."""
    hard = Image.fromarray(ellipse() * np.uint8(255))
    jpeg = io.BytesIO()
    fine = io.BytesIO()
    hard.save(jpeg, format="JPEG", quality=70)  # all of the background becomes 1
    hard.save(fine, format="JPEG", quality=95)
    return {
        "fine jpeg": Image.open(fine),
        "resized": hard.resize((320, 180), Image.Resampling.BICUBIC).resize((160, 90), Image.Resampling.BICUBIC),
        "enlarged": hard.resize((40, 22)).resize((160, 90), Image.Resampling.BILINEAR),
        "jpeg": Image.open(jpeg),
    }


@pytest.mark.parametrize("kind", ["resized", "enlarged", "jpeg", "fine jpeg"])
def test_a_grey_mask_of_one_object_with_soft_edges_is_one_object(tmp_path, caplog, kind):
    path = tmp_path / "soft.png"
    soft_masks()[kind].save(path)
    assert len(object_ids(read_labels(path).labels)) >= 8  # or there is nothing to see
    labels = read_input_labels(path).labels
    (found,) = object_ids(labels)
    assert found == read_labels(path).labels.max()
    wanted = ellipse() > 0
    assert ((labels > 0) & wanted).sum() / ((labels > 0) | wanted).sum() > 0.9
    assert f"{path}: grey values with soft edges; read as one object, {found}" in caplog.text


def test_a_soft_mask_is_warned_of_once(tmp_path, caplog):
    frames, mask = tmp_path / "frames", tmp_path / "soft.png"
    frames.mkdir()
    soft_masks()["resized"].save(mask)
    for t in range(2):
        Image.new("RGB", soft_masks()["resized"].size).save(frames / f"{t:05d}.png")
    list(read_video(frames, first_mask=mask))
    assert caplog.text.count("soft edges") == 1


def test_many_tiny_ids_are_refused_with_advice(tmp_path):
    path = tmp_path / "noise.png"
    rng = np.random.default_rng(0)
    labels = np.where(rng.random((60, 80)) < 0.05, rng.integers(1, 120, (60, 80)), 0).astype(np.uint8)
    Image.fromarray(labels).save(path)
    with pytest.raises(ValueError, match=r"noise\.png: got \d+ ids, \d+ of them with fewer than 16 .*indexed PNG"):
        read_input_labels(path)
    soft = np.array(soft_masks()["resized"])
    write_labels(path, soft.astype(np.int32))  # indexed: its numbers are ids whatever they look like
    with pytest.raises(ValueError, match="save the mask as an indexed PNG"):
        read_input_labels(path)


@pytest.mark.parametrize("ids", [range(1, 31), range(8, 256, 8), (1, 2, 3, 4, 5, 6, 7, 255), range(25, 255, 25)])
def test_many_objects_stay_as_they_are(tmp_path, caplog, ids):
    path = tmp_path / "many.png"
    blocks = np.array([*ids, *[0] * (35 - len(ids))], np.uint8).reshape(5, 7)
    labels = np.kron(blocks, np.ones((12, 12), np.uint8))
    Image.fromarray(labels).save(path)
    assert np.array_equal(read_input_labels(path).labels, labels)
    assert not caplog.text


def test_ids_of_16_bits_are_never_shades(tmp_path):
    path = tmp_path / "deep.png"
    labels = np.kron(np.arange(1, 21, dtype=np.uint16).reshape(4, 5) * 3000, np.ones((8, 8), np.uint16))
    Image.fromarray(labels).save(path)
    assert len(object_ids(read_input_labels(path).labels)) == 20


@pytest.mark.parametrize(
    ("colours", "warned"),
    [
        ([(255, 0, 0), (0, 0, 0)], True),
        ([(0, 0, 0), (255, 0, 0)], False),
        ([(9, 9, 9), (255, 0, 0)], False),
        ([(0, 0, 0), (0, 0, 0)], False),
    ],
)
def test_a_palette_with_black_behind_another_colour_is_warned_of(tmp_path, caplog, colours, warned):
    """Drawing programs order their palettes as they like."""
    image = Image.fromarray(np.eye(6, 9, dtype=np.uint8))
    image.putpalette([channel for colour in colours for channel in colour])
    image.save(tmp_path / "m.png")
    assert np.array_equal(read_input_labels(tmp_path / "m.png").labels, np.eye(6, 9))
    said = f"{tmp_path / 'm.png'}: the palette shows id 1 in black and id 0 in a colour"
    assert (said in caplog.text) == warned


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_an_input_mask_in_colours_is_refused_with_advice(tmp_path, mode):
    Image.new(mode, (9, 6)).save(tmp_path / "m.png")
    with pytest.raises(ValueError, match=rf"mask is {mode} .*Save it as a grey or an indexed PNG") as error:
        read_input_labels(tmp_path / "m.png")
    assert "\n" not in str(error.value)
