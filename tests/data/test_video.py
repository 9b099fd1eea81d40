"""Promises of data/video.py: every frame once and in order, masks on their own frames, damage reported by name."""

import logging
import struct
import threading
import time
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.functional import to_tensor as to_tensor_of_torchvision

from cutie_geo.data import video
from cutie_geo.data.masks import write_labels
from cutie_geo.data.video import (
    FrameFolder,
    VideoFile,
    open_source,
    read_frames,
    read_image,
    resize_shorter,
    to_tensor,
)

QUADRANTS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))


def noise(height=24, width=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def quadrants(height=48, width=64):
    """Red, green over blue, yellow: which way is up shows."""
    image = np.zeros((height, width, 3), np.uint8)
    for i, colour in enumerate(QUADRANTS):
        rows, columns = (
            slice(*(0, height // 2) if i < 2 else (height // 2, height)),
            slice(*((0, width // 2), (width // 2, width))[i % 2]),
        )
        image[rows, columns] = colour
    return image


def corners(image):
    """Which quadrant colour (0 to 3) each corner has: top left, top right, bottom left, bottom right."""
    points = image[[5, 5, -5, -5], [5, -5, 5, -5]].astype(int)
    return [int(np.abs(np.array(QUADRANTS) - point).sum(1).argmin()) for point in points]


def folder_of(tmp_path, names, **size):
    """A folder of PNG frames with different content each."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for i, name in enumerate(names):
        Image.fromarray(noise(**size, seed=i)).save(folder / name)
    return folder


def write_video(path, images, rate=25, **muxer):
    """An H.264 MP4 of `images`."""
    with av.open(str(path), "w", format="mp4", options=muxer) as container:
        stream = container.add_stream("libx264", rate=Fraction(rate), options={"crf": "8", "g": "5"})
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def grey_steps(count, height=48, width=64):
    """Frames of one grey each, 10 apart, so that each can be told from its neighbours."""
    return [np.full((height, width, 3), 10 + 10 * i, np.uint8) for i in range(count)]


def mask_file(path, labels, **options):
    path.parent.mkdir(exist_ok=True)
    write_labels(path, np.asarray(labels), **options)
    return path


def square(height=24, width=32, value=1, at=(0, 0), side=10):
    labels = np.zeros((height, width), np.int32)
    labels[at[0] : at[0] + side, at[1] : at[1] + side] = value
    return labels


# ------------------------------------------------------------------------------------------------------ FrameFolder
def test_a_folder_yields_its_images_in_string_order_of_stems(tmp_path):
    folder = folder_of(tmp_path, ["10.png", "9.png", "a.PNG", "00002.bmp", "1.tif"])
    (folder / ".00000.png").write_bytes(b"hidden")
    (folder / "notes.txt").write_text("not a frame")
    (folder / "00003.png.part").write_bytes(b"half")
    source = FrameFolder(folder)
    assert source.names == ("00002", "1", "10", "9", "a")
    assert len(source) == source.frames == 5
    assert source.name == "frames"
    frames = list(source)
    assert [name for name, _ in frames] == list(source.names)
    for (_, image), seed in zip(frames, (3, 4, 0, 1, 2)):
        assert np.array_equal(image, noise(seed=seed))
    assert [name for name, _ in source] == list(source.names), "a second pass"


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "webp", "tiff"])
def test_common_formats_are_read(tmp_path, suffix):
    folder = folder_of(tmp_path, [f"0.{suffix}"])
    [(name, image)] = FrameFolder(folder)
    assert name == "0"
    assert image.shape == (24, 32, 3)
    assert image.dtype == np.uint8


def test_stems_order_by_stem_and_not_by_file_name(tmp_path):
    """As names, "a-1.png" comes before "a.png"; as stems, "a" comes first."""
    assert FrameFolder(folder_of(tmp_path, ["a-1.png", "a.png"])).names == ("a", "a-1")


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=f"^frames: no images in {tmp_path}$"):
        FrameFolder(tmp_path)


def test_two_images_of_one_stem_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"0\.png: second image of that name, beside 0\.jpg"):
        FrameFolder(folder_of(tmp_path, ["0.jpg", "0.png"]))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cut_jpeg_is_an_error_in_its_place(tmp_path, workers):
    folder = folder_of(tmp_path, ["0.jpg", "1.jpg", "2.jpg"], height=200, width=200)
    data = (folder / "1.jpg").read_bytes()
    (folder / "1.jpg").write_bytes(data[: len(data) // 2])
    frames = iter(FrameFolder(folder, workers))
    assert next(frames)[0] == "0"
    with pytest.raises(ValueError, match=r"1\.jpg: can't be read as an image: .*truncated"):
        next(frames)


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0"])
def test_a_file_that_is_no_image_is_an_error(tmp_path, content):
    (tmp_path / "0.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=r"0\.jpg: can't be read as an image: not an image$"):
        list(FrameFolder(tmp_path))


def test_another_size_is_an_error_naming_the_file(tmp_path):
    folder = folder_of(tmp_path, ["0.png", "1.png"])
    Image.fromarray(noise(24, 30)).save(folder / "1.png")
    with pytest.raises(ValueError, match=r"1\.png: frame is \(H, W\) = \(24, 30\), wanted \(24, 32\)"):
        list(FrameFolder(folder))


def test_exif_orientation_is_not_applied(tmp_path):
    """Masks of datasets are drawn on the stored pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(quadrants()).save(tmp_path / "0.png", exif=exif)
    [(_, image)] = FrameFolder(tmp_path)
    assert np.array_equal(image, quadrants())


def test_greys_palettes_and_transparency_become_rgb(tmp_path):
    grey = noise()[..., 0]
    Image.fromarray(grey).save(tmp_path / "l.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "p.png", transparency=bytes(range(256)))
    Image.fromarray(np.dstack([noise(), grey])).save(tmp_path / "rgba.png")
    assert np.array_equal(read_image(tmp_path / "l.png"), np.dstack([grey] * 3))
    assert np.array_equal(read_image(tmp_path / "p.png"), np.dstack([grey] * 3))
    assert np.array_equal(read_image(tmp_path / "rgba.png"), noise())


def test_16_bit_images_are_refused_rather_than_clipped(tmp_path):
    Image.fromarray(np.full((4, 5), 1000, np.uint16)).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match=r"0\.png: .*image is I;16, wanted 8 bits a channel"):
        read_image(tmp_path / "0.png")


def test_decoding_threads_change_nothing(tmp_path):
    source = folder_of(tmp_path, [f"{i:05d}.png" for i in range(12)])
    plain, threaded = list(FrameFolder(source)), list(FrameFolder(source, workers=3))
    assert [name for name, _ in threaded] == [name for name, _ in plain]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(plain, threaded))


def test_decoding_threads_stay_close_and_stop(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(video, "read_image", lambda file: read.append(file.stem) or noise())
    frames = iter(FrameFolder(folder_of(tmp_path, [f"{i:05d}.png" for i in range(40)]), workers=2))
    next(frames)
    time.sleep(0.05)
    assert len(read) <= 4
    frames.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("map-ahead")]


# -------------------------------------------------------------------------------------------------------- VideoFile
def test_a_video_file_yields_every_frame_in_order(tmp_path):
    images = grey_steps(20)
    source = VideoFile(write_video(tmp_path / "clip.mp4", images, rate=12))
    assert source.name == "clip"
    assert source.fps == 12
    assert source.frames == 20
    assert source.names is None
    for _ in range(2):
        frames = list(source)
        assert [name for name, _ in frames] == [f"{i:05d}" for i in range(20)]
        for (_, got), wanted in zip(frames, images):
            assert got.dtype == np.uint8
            assert np.abs(got.astype(int) - wanted).max() <= 4


def test_colours_come_as_rgb(tmp_path):
    [(_, image)] = VideoFile(write_video(tmp_path / "a.mp4", [quadrants()]))
    assert corners(image) == [0, 1, 2, 3]


# the display matrix (a, b, c, d) of a phone held each way, and the quadrants as they must appear
@pytest.mark.parametrize(
    ("matrix", "wanted"),
    [
        ((1, 0, 0, 1), [0, 1, 2, 3]),
        ((0, 1, -1, 0), [2, 0, 3, 1]),
        ((-1, 0, 0, -1), [3, 2, 1, 0]),
        ((0, -1, 1, 0), [1, 3, 0, 2]),
    ],
)
def test_rotation_is_honoured(tmp_path, matrix, wanted):
    path = write_video(tmp_path / "a.mp4", [quadrants()] * 2)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # ISO 14496-12, version 0: the matrix follows 40 bytes of other fields
    a, b, c, d = (x << 16 for x in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    frames = [image for _, image in VideoFile(path)]
    assert [corners(image) for image in frames] == [wanted] * 2
    assert frames[0].shape == ((64, 48, 3) if matrix[0] == 0 else (48, 64, 3))
    assert to_tensor(frames[0]).shape[1:] == frames[0].shape[:2]


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_file_that_is_no_video_is_an_error(tmp_path, keep):
    data = write_video(tmp_path / "a.mp4", [noise(96, 128, i) for i in range(10)]).read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[:keep])
    with pytest.raises(ValueError, match=r"a\.mp4: can't be opened as a video: ") as raised:
        VideoFile(tmp_path / "a.mp4")
    assert "\n" not in str(raised.value)


def noisy_video(path):
    """A video with its index in front, so that the start plays whatever happens to the rest."""
    return write_video(path, [noise(96, 128, i) for i in range(30)], movflags="+faststart")


def read_until_error(path):
    """The number of good frames, and the error after them."""
    count = 0
    with pytest.raises(ValueError) as raised:  # noqa: PT011, PT012
        for _ in VideoFile(path):
            count += 1
    return count, str(raised.value)


def test_a_video_cut_in_the_middle_is_an_error_naming_file_and_frame(tmp_path):
    path = noisy_video(tmp_path / "a.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    count, message = read_until_error(path)
    assert 5 < count < 20
    assert message == f"{path}: cut off or damaged near frame {count}"


def test_a_video_damaged_in_the_middle_is_an_error_naming_file_and_frame(tmp_path):
    path = noisy_video(tmp_path / "a.mp4")
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    data[half : half + 30000] = bytes(30000)
    path.write_bytes(data)
    count, message = read_until_error(path)
    assert 5 < count < 20
    assert message.startswith(f"{path}: can't be decoded near frame {count}: ")


def test_a_video_cut_between_frames_is_a_warning(tmp_path, caplog):
    """Half of a 4 s video, cut exactly where a frame ends: nothing is damaged, but much is missing."""
    path = write_video(tmp_path / "a.mp4", [noise(48, 64, i) for i in range(40)], rate=10, movflags="+faststart")
    assert len(list(VideoFile(path))) == 40
    assert not caplog.records
    with av.open(str(path)) as container:
        packets = sorted((p.pos, p.size) for p in container.demux(video=0) if p.size)
    path.write_bytes(path.read_bytes()[: sum(packets[19])])
    assert 15 <= len(list(VideoFile(path))) <= 20
    assert "ends after" in caplog.text
    assert "declares 4.0 s" in caplog.text


def test_a_file_without_a_video_stream_is_an_error(tmp_path):
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match=r"a\.wav: no video stream, only audio"):
        VideoFile(tmp_path / "a.wav")


@pytest.fixture
def clip(tmp_path):
    """A video of ten frames, written before `containers` watches."""
    return write_video(tmp_path / "a.mp4", grey_steps(10))


@pytest.fixture
def containers(monkeypatch):
    """The containers opened during a test, each with a note of its closing."""
    opened = []

    class Noted:
        def __init__(self, container):
            self.container, self.closed = container, False
            opened.append(self)

        def __getattr__(self, name):
            return getattr(self.container, name)

        def close(self):
            self.closed = True
            self.container.close()

    true_open = av.open
    monkeypatch.setattr(video.av, "open", lambda *args, **kwargs: Noted(true_open(*args, **kwargs)))
    return opened


def test_the_file_is_closed_when_iteration_is_abandoned(clip, containers):
    frames = iter(VideoFile(clip))
    next(frames)
    assert [c.closed for c in containers] == [True, False]
    frames.close()
    assert [c.closed for c in containers] == [True, True]
    frames = read_frames(VideoFile(clip))
    next(frames)
    frames.close()
    assert len(containers) == 4
    assert all(c.closed for c in containers)


# ------------------------------------------------------------------------------------------------------ open_source
def test_a_source_is_what_lies_at_its_path(tmp_path):
    folder = folder_of(tmp_path, ["0.png"])
    assert isinstance(open_source(folder), FrameFolder)
    assert isinstance(open_source(str(write_video(tmp_path / "a.mp4", [noise()]))), VideoFile)
    with pytest.raises(ValueError, match="nowhere: no such file or folder"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"0\.png: is a single image"):
        open_source(folder / "0.png")


# ----------------------------------------------------------------------------------------------------------- tensors
def test_to_tensor_is_exact_and_a_copy():
    image = noise()
    image.flags.writeable = False
    tensor = to_tensor(image)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    assert torch.equal((tensor * 255).round().byte(), torch.tensor(image).permute(2, 0, 1))
    assert torch.equal(tensor, to_tensor_of_torchvision(noise()))
    tensor.zero_()
    assert image.any()


@pytest.mark.parametrize("shape", [(48, 85), (85, 48), (40, 40), (33, 100), (100, 31)])
@pytest.mark.parametrize("size", [20, 31])
def test_resizing_equals_torchvision(shape, size):
    image = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    got, wanted = resize_shorter(image, size), v2.Resize(size, antialias=True)(image)
    assert got.shape == wanted.shape
    assert torch.equal(got, wanted)
    assert min(got.shape[1:]) == size


@pytest.mark.parametrize("size", [-1, 0, 48, 49])
def test_resizing_never_enlarges(size):
    image = torch.rand(3, 48, 85)
    assert resize_shorter(image, size) is image


# ------------------------------------------------------------------------------------------------------- read_frames
def test_frames_come_with_the_masks_of_their_names(tmp_path):
    source = FrameFolder(folder_of(tmp_path, ["0.png", "1.png", "2.png"]))
    masks = {
        "0": mask_file(tmp_path / "m" / "0.png", square(value=3)),
        "2": mask_file(tmp_path / "m" / "2.png", square(value=200, at=(5, 5)) + square(value=1, at=(0, 20))),
    }
    frames = list(read_frames(source, masks))
    assert [frame.name for frame in frames] == ["0", "1", "2"]
    assert [frame.size for frame in frames] == [(24, 32)] * 3
    assert torch.equal(frames[1].image, to_tensor(noise(seed=1)))
    assert frames[0].given.ids == (3,)
    assert np.array_equal(frames[0].given.labels, square(value=3))
    assert frames[1].given is None
    assert frames[2].given.ids == (1, 200)
    assert all(frame.source is None for frame in frames)


def test_frames_need_no_masks_and_keep_their_pixels_if_asked(tmp_path):
    source = FrameFolder(folder_of(tmp_path, ["0.png", "1.png"]))
    frames = list(read_frames(source, size=12, keep_source=True))
    assert [frame.given for frame in frames] == [None, None]
    assert frames[1].image.shape == (3, 12, 16)
    assert frames[1].size == (24, 32)
    assert np.array_equal(frames[1].source, noise(seed=1))


def test_a_mask_shrinks_with_its_frame_and_its_ids_are_those_that_remain(tmp_path, caplog):
    labels = square(48, 64, value=4, side=20)
    labels[47, 63] = 9  # not among the pixels that a shrunk mask keeps
    mask = mask_file(tmp_path / "m" / "0.png", labels)
    source = FrameFolder(folder_of(tmp_path, ["0.png"], height=48, width=64))
    [frame] = read_frames(source, {"0": mask}, size=16)
    wanted = np.array(Image.fromarray(labels.astype(np.uint8)).resize((21, 16), Image.Resampling.NEAREST))
    assert frame.image.shape == (3, 16, 21)
    assert np.array_equal(frame.given.labels, wanted)
    assert frame.given.ids == (4,)
    assert "objects [9] have no pixel left" in caplog.text


def test_a_mask_of_another_size_is_an_error_with_both(tmp_path):
    source = FrameFolder(folder_of(tmp_path, ["0.png"]))
    mask = mask_file(tmp_path / "m" / "0.png", square(20, 30))
    wanted = r"m/0\.png: mask is \(H, W\) = \(20, 30\), wanted \(24, 32\), the size of its frame"
    with pytest.raises(ValueError, match=wanted):
        list(read_frames(source, {"0": mask}))


def test_keep_ids_turns_other_objects_into_background(tmp_path):
    source = FrameFolder(folder_of(tmp_path, ["0.png", "1.png", "2.png"]))
    labels = square(value=1) + square(value=2, at=(12, 12))
    masks = {str(i): mask_file(tmp_path / "m" / f"{i}.png", labels) for i in range(3)}
    frames = list(read_frames(source, masks, keep_ids={"0": {2}, "1": {7}}))
    assert frames[0].given.ids == (2,)
    assert np.array_equal(frames[0].given.labels, square(value=2, at=(12, 12)))
    assert frames[1].given is None
    assert frames[2].given.ids == (1, 2), "a mask that isn't named is taken whole"


def test_a_first_mask_without_objects_is_an_error_and_a_later_one_is_none(tmp_path):
    source = FrameFolder(folder_of(tmp_path, ["0.png", "1.png"]))
    full = mask_file(tmp_path / "m" / "full.png", square())
    empty = mask_file(tmp_path / "m" / "empty.png", np.zeros((24, 32), int))
    assert [frame.given is None for frame in read_frames(source, {"0": full, "1": empty})] == [False, True]
    for masks in ({"0": empty, "1": full}, {"1": empty}):
        with pytest.raises(ValueError, match=r"empty\.png: mask without objects"):
            list(read_frames(source, masks))


def test_long_ids_are_read_if_asked(tmp_path):
    source = FrameFolder(folder_of(tmp_path, ["0.png"]))
    mask = mask_file(tmp_path / "m" / "0.png", square(value=70000))
    assert next(read_frames(source, {"0": mask}, long_ids=True)).given.ids == (70000,)
    with pytest.raises(ValueError, match=r"0\.png: mask is RGB"):
        next(read_frames(source, {"0": mask}))


def test_a_mask_without_a_frame_is_an_error_at_the_call(tmp_path):
    source = FrameFolder(folder_of(tmp_path, ["00.png"]))
    mask = mask_file(tmp_path / "m" / "0.png", square())
    with pytest.raises(ValueError, match=r"m/0\.png: no frame of that name in .*frames$"):
        read_frames(source, {"0": mask})


@pytest.mark.parametrize(("stem", "frame"), [("first", "0"), ("1", "1")])
def test_a_first_mask_belongs_to_its_namesake_or_the_first_frame(tmp_path, stem, frame):
    source = FrameFolder(folder_of(tmp_path, ["0.png", "1.png"]))
    mask = mask_file(tmp_path / "m" / f"{stem}.png", square())
    frames = read_frames(source, first_mask=mask)
    assert [f.name for f in frames if f.given] == [frame]


def test_two_masks_for_one_frame_are_an_error(tmp_path):
    source = FrameFolder(folder_of(tmp_path, ["0.png"]))
    one, other = (mask_file(tmp_path / "m" / f"{name}.png", square()) for name in ("0", "first"))
    with pytest.raises(ValueError, match=r"first\.png: second mask for frame 0"):
        read_frames(source, {"0": one}, first_mask=other)


@pytest.mark.parametrize("stem", ["2", "002", "00002", "0000002"])
def test_frames_of_a_video_file_take_numbers_of_any_padding(tmp_path, stem):
    source = VideoFile(write_video(tmp_path / "a.mp4", grey_steps(4)))
    mask = mask_file(tmp_path / "m" / f"{stem}.png", square(48, 64) + square(48, 64, value=5, at=(20, 20)))
    assert [f.name for f in read_frames(source, {stem: mask}) if f.given] == ["00002"]
    assert [f.name for f in read_frames(source, first_mask=mask) if f.given] == ["00002"]
    [given] = [f.given for f in read_frames(source, {stem: mask}, keep_ids={stem: {5}}) if f.given]
    assert given.ids == (5,)


@pytest.mark.parametrize("stem", ["hand", "4"])
def test_a_first_mask_of_a_video_file_without_a_namesake_is_for_the_first_frame(tmp_path, stem):
    source = VideoFile(write_video(tmp_path / "a.mp4", grey_steps(4)))
    mask = mask_file(tmp_path / "m" / f"{stem}.png", square(48, 64))
    assert [f.name for f in read_frames(source, first_mask=mask) if f.given] == ["00000"]


def test_a_mask_whose_frame_never_comes_in_a_video_file_is_an_error_at_the_end(tmp_path):
    source = VideoFile(write_video(tmp_path / "a.mp4", grey_steps(4)))
    frames = read_frames(source, {"4": mask_file(tmp_path / "m" / "4.png", square(48, 64))})
    assert len([next(frames) for _ in range(4)]) == 4
    with pytest.raises(ValueError, match=r"m/4\.png: no frame of that name in .*a\.mp4$"):
        next(frames)


def test_reading_warns_of_nothing_in_a_sound_video(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    list(read_frames(VideoFile(write_video(tmp_path / "a.mp4", grey_steps(8)))))
    assert not caplog.records
