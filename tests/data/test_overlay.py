"""Promises of data/overlay.py: objects show in their own colours, tags can be found, videos play or don't exist."""

import errno
import os
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from cutie_geo.data import overlay
from cutie_geo.data.overlay import NEGATIVE, POSITIVE, OverlayWriter, colour, draw, draw_prompts
from cutie_geo.structures import Prompt


def grey(height=120, width=160, value=100):
    return np.full((height, width, 3), value, np.uint8)


def boxes(height=120, width=160, **ids_and_boxes):
    """A label map: `i7=(y0, y1, x0, x1)` paints id 7."""
    labels = np.zeros((height, width), np.int32)
    for name, (y0, y1, x0, x1) in ids_and_boxes.items():
        labels[y0:y1, x0:x1] = int(name[1:])
    return labels


def plate_centre(picture, object_id):
    """Mean (y, x) of the pixels in the pure colour of an id: those of its tag, where no outline is drawn."""
    rows, columns = np.nonzero((picture == colour(object_id)).all(-1))
    assert len(rows) > 20, "no tag to be seen"
    return rows.mean(), columns.mean()


@pytest.fixture
def no_outlines(monkeypatch):
    monkeypatch.setattr(overlay, "_outline", lambda *_, **__: None)


@pytest.fixture
def no_tags(monkeypatch):
    monkeypatch.setattr(overlay, "_tag", lambda *_: None)


# ----------------------------------------------------------------------------------------------------------- colours
def test_ids_have_colours_of_their_own():
    """Neighbours on the list and the first dozen are far apart; no two of the first hundred are the same."""
    colours = np.array([colour(i) for i in range(1, 101)], float)
    apart = np.linalg.norm(colours[:, None] - colours, axis=-1) + 1e9 * np.eye(100)
    assert apart[:12, :12].min() > 60
    assert np.diagonal(apart, 1).min() > 60
    assert apart.min() > 0


@pytest.mark.parametrize("object_id", [1, 12, 13, 255, 70000, 2**31 - 1])
def test_any_id_has_a_colour_that_shows_on_dark_and_bright(object_id):
    red, green, blue = colour(object_id)
    assert all(isinstance(channel, int) and 0 <= channel <= 255 for channel in (red, green, blue))
    assert max(red, green, blue) > 180
    assert max(red, green, blue) - min(red, green, blue) > 80


# ----------------------------------------------------------------------------------------------------------- drawing
def test_objects_are_tinted_and_the_rest_is_left_alone(no_tags):
    image, labels = grey(), boxes(i1=(20, 60, 20, 60), i300=(70, 110, 80, 150))
    before = image.copy()
    picture = draw(image, labels)
    assert picture.shape == image.shape
    assert picture.dtype == np.uint8
    assert np.array_equal(image, before), "the caller's image was drawn on"
    assert (picture[:15] == 100).all()
    assert (picture[:65, 70:] == 100).all()
    for object_id, inside in ((1, picture[40, 40]), (300, picture[90, 110])):
        wanted = 0.55 * 100 + 0.45 * np.array(colour(object_id))
        assert np.abs(inside - wanted).max() <= 1


def test_texture_shows_through_the_tint(no_tags):
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3)).astype(np.uint8)
    picture = draw(image, boxes(i5=(10, 110, 10, 150)))
    inside = (slice(20, 100), slice(20, 140))
    for channel in range(3):
        assert np.corrcoef(image[inside][..., channel].ravel(), picture[inside][..., channel].ravel())[0, 1] > 0.99


def test_only_the_ids_asked_for_are_drawn():
    image, labels = grey(), boxes(i1=(10, 50, 10, 70), i2=(60, 110, 80, 150))
    assert np.array_equal(draw(image, labels, ids=[]), image)
    only = draw(image, labels, ids=[2, 9])
    assert (only[:55] == 100).all()
    assert (only[60:110, 80:150] != 100).any()
    assert np.array_equal(draw(image, labels, ids=[1, 2]), draw(image, labels))


def test_a_frame_without_objects_is_unchanged():
    assert np.array_equal(draw(grey(), boxes()), grey())


def test_an_object_is_outlined_with_a_dark_rim_outside(no_tags):
    picture = draw(grey(value=200), boxes(i1=(30, 90, 40, 120))).astype(int)
    row = picture[60, 30:60]
    line = np.abs(row - colour(1)).sum(-1).argmin() + 30
    assert np.abs(picture[60, line] - colour(1)).max() <= 20
    assert 38 <= line <= 41
    assert picture[60, 38:40].min() < 90
    assert (picture[60, :36] == 200).all()


def test_the_stairs_of_a_slanted_edge_become_a_line():
    y, x = np.mgrid[:120, :160]
    shape = overlay._shape_of(((y - 60) * 3 < (x - 80)).astype(np.int32), 1, overlay._style(480, 854))
    points = shape.outlines[0] / 2.0**overlay.SUBPIXEL_BITS
    edge = points[(np.abs(points[:, 0] - 80) < 60) & (np.abs(points[:, 1] - 60) < 40)]
    away = edge[:, 1] - 60 - (edge[:, 0] - 80) / 3
    assert len(edge) > 20
    assert np.ptp(away) < 0.3  # of a pixel; the stairs themselves are 2/3 high


def test_outlines_have_soft_edges(no_tags):
    y, x = np.mgrid[:120, :160]
    picture = draw(grey(value=0), ((y - 60) * 3 < (x - 80)).astype(np.int32))
    assert len(np.unique(picture[20:100, 20:140, 0])) > 10, "more than background, rim, line and tint"


def test_the_tag_is_at_the_middle_of_an_object(no_outlines):
    y, x = plate_centre(draw(grey(), boxes(i3=(20, 100, 40, 140))), 3)
    assert abs(y - 60) < 4
    assert abs(x - 90) < 4


def test_the_tag_is_on_the_largest_part(no_outlines):
    y, x = plate_centre(draw(grey(), boxes(i3=(60, 110, 90, 150)) + boxes(i3=(5, 35, 5, 35))), 3)
    assert abs(y - 85) < 4
    assert abs(x - 120) < 4


def test_the_tag_of_a_hollow_object_is_on_the_object(no_outlines):
    labels = boxes(240, 320, i3=(20, 220, 20, 300))
    labels[50:190, 80:270] = 0
    y, x = plate_centre(draw(grey(240, 320), labels), 3)
    assert labels[round(y), round(x)] == 3


def test_the_tag_of_a_small_object_is_beside_it(no_outlines):
    picture = draw(grey(), boxes(i3=(60, 66, 80, 86)))
    y, x = plate_centre(picture, 3)
    assert y < 58
    assert abs(x - 83) < 4
    assert np.abs(picture[60:66, 80:86].astype(int) - picture[63, 83]).max() == 0, "the object itself stays in sight"


@pytest.mark.parametrize("corner", [(0, 3, 0, 3), (0, 3, 157, 160), (117, 120, 0, 3), (117, 120, 157, 160)])
def test_a_tag_never_leaves_the_frame(no_outlines, corner):
    picture = draw(grey(), boxes(i12345=corner))
    patch, alpha = overlay._tag_patch(12345, overlay._style(120, 160).text)
    shown = (picture == colour(12345)).all(-1).sum()
    assert shown == (np.round(100 + alpha * (patch - 100)) == colour(12345)).all(-1).sum() > 20


@pytest.mark.parametrize("size", [(48, 64), (270, 480), (480, 854), (1080, 1920)])
def test_letters_are_readable_at_any_resolution(size):
    style = overlay._style(*size)
    patch, alpha = overlay._tag_patch(8, style.text)
    assert 11 <= patch.shape[0] <= max(20, size[0] / 14)
    ink = np.abs(patch - np.array(colour(8), np.float32)).sum(-1)[alpha[..., 0] == 1]
    assert ink.max() > 300


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (16, 200), (200, 16)])
def test_tiny_and_narrow_frames_are_drawn(size):
    labels = np.ones(size, np.int64)
    labels[0, 0] = 2**31 - 1
    assert draw(grey(*size), labels).shape == (*size, 3)


def test_many_objects_and_single_pixels_are_drawn():
    labels = np.arange(40 * 60, dtype=np.int32).reshape(40, 60) // 10 * (np.arange(60) % 2).astype(np.int32)
    assert draw(grey(40, 60), labels).shape == (40, 60, 3)


# ------------------------------------------------------------------------------------------------------------ videos
def read_back(path):
    """Frames, frame rate, codec and pixel format of a video."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return frames, stream.average_rate, stream.codec_context.name, stream.codec_context.pix_fmt


def striped(height, width, shift):
    """Broad coloured stripes, which survive the halved resolution of colour."""
    colours = np.array([colour(1 + shift), colour(2), colour(3), (20, 20, 20)], np.uint8)
    return np.ascontiguousarray(np.broadcast_to(colours[np.arange(width) * 4 // width], (height, width, 3)))


def write_all(path, pictures, fps=25):
    with OverlayWriter(path, fps) as writer:
        for picture in pictures:
            writer.write(picture)


def test_a_video_comes_back_as_it_was_written(tmp_path):
    pictures = [striped(96, 128, i % 5) for i in range(12)]
    write_all(tmp_path / "new" / "a.mp4", pictures, fps=30000 / 1001)
    frames, rate, codec, pixels = read_back(tmp_path / "new" / "a.mp4")
    assert (rate, codec, pixels) == (Fraction(30000, 1001), "h264", "yuv420p")
    assert len(frames) == 12
    for got, wanted in zip(frames, pictures):
        middles = slice(16, None, 32)
        assert np.abs(got[:, middles].astype(int) - wanted[:, middles]).max() <= 10
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(
    ("times", "used"),
    [
        ([0.0, 0.04, 0.08, 0.12], False),
        ([0.0, 0.041, 0.079, 0.12], False),
        ([0.0, 0.04, 0.5, 0.54], True),
        ([0.0, 0.5, 0.4, 0.6], False),
        ([0.0, 0.5], True),
    ],
)
def test_times_are_used_if_they_leave_the_constant_rate(tmp_path, times, used):
    constant = [0.0, 0.04, 0.08, 0.12]
    with OverlayWriter(tmp_path / "a.mp4", 25, times=times) as writer:
        for index in range(4):
            writer.write(striped(96, 128, index))
    with av.open(str(tmp_path / "a.mp4")) as container:
        shown = [frame.time for frame in container.decode(video=0)]
    expected = (times + [times[-1] + 0.04 * k for k in (1, 2, 3)])[:4] if used else constant
    assert shown == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(480, 854), (180, 320)])
def test_a_video_has_the_same_bytes_however_many_cores_there_are(tmp_path, monkeypatch, size):
    pictures = [np.random.default_rng(t).integers(0, 256, (*size, 3)).astype(np.uint8) for t in range(6)]
    written = []
    for cores in (1, 8):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        with OverlayWriter(tmp_path / f"{cores}.mp4", 24) as writer:
            for picture in pictures:
                writer.write(picture)
            assert writer._stream.codec_context.thread_count == 1
        written.append((tmp_path / f"{cores}.mp4").read_bytes())
    assert written[0] == written[1]


def test_a_video_has_the_same_bytes_whatever_was_in_memory(tmp_path):
    """x264's MB-tree, with AVX-512 and moving images, reads memory that it has not written."""
    numbers = np.random.default_rng(0)
    still = cv2.resize(numbers.integers(0, 256, (12, 16, 3), np.uint8), (854, 480), interpolation=cv2.INTER_CUBIC)
    used, written = [], set()
    for _ in range(5):
        with OverlayWriter(tmp_path / "a.mp4", 24) as writer:
            for frame in range(14):
                used.append(numbers.bytes(int(numbers.integers(1, 3_000_000))))
                del used[:-20]
                writer.write(np.roll(still, 3 * frame, axis=1))
        written.add((tmp_path / "a.mp4").read_bytes())
    assert len(written) == 1


@pytest.mark.parametrize("size", [(120, 160), (480, 640)])
def test_points_and_boxes_show_where_they_are_given(size):
    height, width = size
    prompts = {
        1: Prompt(((20.0, 30.0, 1), (width - 1.0, height - 1.0, 0))),
        7: Prompt((), (width / 2, height / 2, width / 2 + 40, height / 2 + 30)),
    }
    image = grey(*size)
    picture = draw_prompts(image, prompts)
    assert (image == 100).all()
    assert tuple(picture[30, 20]) == POSITIVE
    assert tuple(picture[-1, -1]) == NEGATIVE
    top, left = height // 2, width // 2
    assert (picture[top, left + 5 : left + 35] == colour(7)).all(-1).mean() > 0.9
    assert (picture[top + 15, left + 5 : left + 30] == 100).all()
    assert (draw_prompts(image, {}) == image).all()


@pytest.mark.parametrize("size", [(95, 127), (96, 127), (95, 128), (1, 1)])
def test_odd_sizes_grow_to_even_ones(tmp_path, size):
    picture = striped(*size, 0)
    write_all(tmp_path / "a.mp4", [picture] * 2)
    frames, *_ = read_back(tmp_path / "a.mp4")
    assert frames[0].shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    if size != (1, 1):
        assert np.abs(frames[0][: size[0], 16 : size[1] : 32].astype(int) - picture[:, 16::32]).max() <= 10
        assert np.abs(frames[0][-1].astype(int) - frames[0][-2]).max() <= 6, "the new row repeats the last"


def test_without_x264_the_video_is_mpeg4(tmp_path, monkeypatch):
    monkeypatch.setattr(overlay.av, "codecs_available", {"mpeg4"})
    write_all(tmp_path / "a.mp4", [striped(96, 128, 0)] * 3)
    frames, _, codec, _ = read_back(tmp_path / "a.mp4")
    assert codec == "mpeg4"
    assert len(frames) == 3


def test_nothing_shows_before_the_end_and_nothing_stays_after_an_error(tmp_path):
    def run():
        with OverlayWriter(tmp_path / "a.mp4", 25) as writer:
            writer.write(striped(96, 128, 0))
            assert not (tmp_path / "a.mp4").exists()
            assert all(path.name.startswith(".") for path in tmp_path.iterdir())
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        run()
    assert list(tmp_path.iterdir()) == []


def test_pictures_of_differing_sizes_are_an_error(tmp_path):
    wanted = r"a\.mp4: image is \(H, W\) = \(96, 126\), expected \(96, 128\) like the first"
    with pytest.raises(ValueError, match=wanted):
        write_all(tmp_path / "a.mp4", [striped(96, 128, 0), striped(96, 126, 0)])
    assert list(tmp_path.iterdir()) == []


def test_a_video_without_pictures_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"a\.mp4: got no image"):
        write_all(tmp_path / "a.mp4", [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_not_positive_is_an_error(tmp_path, fps):
    with pytest.raises(ValueError, match=r"a\.mp4: got fps="):
        OverlayWriter(tmp_path / "a.mp4", fps)


def test_another_suffix_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"a\.avi: got a video named \.avi, expected \.mp4"):
        OverlayWriter(tmp_path / "a.avi", 25)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("count", [2, 200])
def test_a_full_disk_is_an_error_naming_the_video(tmp_path, count, monkeypatch):
    """The hidden file is a link to the full device, so that FFmpeg itself meets the error, early or at the end."""
    monkeypatch.setattr("cutie_geo.data.io_threads.hidden_name", lambda path: path.with_name(f".{path.name}.part"))
    (tmp_path / ".a.mp4.part").symlink_to("/dev/full")
    rng = np.random.default_rng(0)
    pictures = (rng.integers(0, 256, (96, 128, 3)).astype(np.uint8) for _ in range(count))
    with pytest.raises(OSError, match=r"'.*/a\.mp4'") as raised:
        write_all(tmp_path / "a.mp4", pictures)
    assert raised.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
