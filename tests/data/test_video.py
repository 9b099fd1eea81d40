"""Promises of data/video.py: every frame once and in order, masks on their own frames, damage reported by name."""

import logging
import os
import struct
import time
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from own_threads import own_threads
from PIL import ExifTags, Image, features
from torchvision.transforms import v2
from torchvision.transforms.functional import to_tensor as to_tensor_of_torchvision

from cutie_geo.data import video
from cutie_geo.data.index.folders import videos_of
from cutie_geo.data.masks import read_labels, write_labels
from cutie_geo.data.sources import ImageFiles
from cutie_geo.data.video import (
    FrameFolder,
    VideoFile,
    open_source,
    read_frames,
    read_image,
    resize_shorter,
    to_tensor,
    upright_size,
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
def test_a_folder_yields_its_images_in_natural_order_of_stems(tmp_path):
    folder = folder_of(tmp_path, ["10.png", "9.png", "a.PNG", "00002.bmp", "1.tif"])
    (folder / ".00000.png").write_bytes(b"hidden")
    (folder / "notes.txt").write_text("not a frame")
    (folder / "00003.png.part").write_bytes(b"half")
    source = FrameFolder(folder)
    assert source.names == ("1", "00002", "9", "10", "a")
    assert len(source) == source.frames == 5
    assert source.name == "frames"
    frames = list(source)
    assert [name for name, _ in frames] == list(source.names)
    for (_, image), seed in zip(frames, (4, 3, 1, 0, 2)):
        assert np.array_equal(image, noise(seed=seed))
    assert [name for name, _ in source] == list(source.names), "a second pass"


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "webp", "tiff", "bmp", "ppm", "PGM", "tga", "jp2"])
def test_common_formats_are_read(tmp_path, suffix):
    folder = folder_of(tmp_path, [f"0.{suffix}"])
    [(name, image)] = FrameFolder(folder)
    assert name == "0"
    assert image.shape == (24, 32, 3)
    assert image.dtype == np.uint8


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_files_are_frames_and_no_videos(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    for i in range(2):
        Image.fromarray(noise(seed=i)).save(folder / f"{i}.avif")
    assert FrameFolder(folder).names == ("0", "1")
    assert list(videos_of(folder)) == ["clip"]


@pytest.mark.parametrize("suffix", ["tif", "webp", "png"])
def test_a_stack_of_images_in_one_file_is_no_frame(tmp_path, suffix):
    """Only the first image would be segmented."""
    folder = tmp_path / "clip"
    folder.mkdir()
    first, *others = (Image.fromarray(noise(seed=i)) for i in range(3))
    first.save(folder / f"stack.{suffix}", save_all=True, append_images=others)
    with pytest.raises(ValueError, match=rf"stack\.{suffix}: got 3 images in one file, expected a file for each frame"):
        FrameFolder(folder)
    with pytest.raises(ValueError, match=r"got 3 images in one file"):
        ImageFiles((folder / f"stack.{suffix}",))
    (folder / f"stack.{suffix}").unlink()
    first.save(folder / f"one.{suffix}")
    assert len(FrameFolder(folder)) == 1


def test_stems_order_by_stem_and_not_by_file_name(tmp_path):
    """As names, "a-1.png" comes before "a.png"; as stems, "a" comes first."""
    assert FrameFolder(folder_of(tmp_path, ["a-1.png", "a.png"])).names == ("a", "a-1")


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=f"^frames: no images in {tmp_path}$"):
        FrameFolder(tmp_path)


def test_two_images_of_one_stem_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="frames: two files for 0, expected one"):
        FrameFolder(folder_of(tmp_path, ["0.jpg", "0.png"]))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cut_jpeg_is_an_error_in_its_place(tmp_path, workers):
    folder = folder_of(tmp_path, ["0.jpg", "1.jpg", "2.jpg"], height=200, width=200)
    data = (folder / "1.jpg").read_bytes()
    (folder / "1.jpg").write_bytes(data[: len(data) // 2])
    frames = iter(FrameFolder(folder, workers))
    assert next(frames)[0] == "0"
    with pytest.raises(ValueError, match=r"1\.jpg: cannot be read as an image: .*truncated"):
        next(frames)


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0"])
def test_a_file_that_is_no_image_is_an_error(tmp_path, content):
    (tmp_path / "0.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=r"0\.jpg: cannot be read as an image: not an image$"):
        list(FrameFolder(tmp_path))


def test_another_size_is_an_error_naming_the_file(tmp_path):
    folder = folder_of(tmp_path, ["0.png", "1.png"])
    Image.fromarray(noise(24, 30)).save(folder / "1.png")
    with pytest.raises(ValueError, match=r"1\.png: frame is \(H, W\) = \(24, 30\), expected \(24, 32\)"):
        list(FrameFolder(folder))


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 9])
def test_frames_are_turned_as_viewers_show_them(tmp_path, orientation, suffix):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[2:5, 1:9] = (250, 120, 10)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = {2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
              6: np.rot90(upright), 7: np.rot90(upright, 2).transpose(1, 0, 2),
              8: np.rot90(upright, 3)}.get(orientation, upright)  # fmt: skip
    lossless = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"0.{suffix}", exif=exif, **lossless)
    [(_, image)] = FrameFolder(tmp_path)
    assert np.array_equal(image, upright)
    with Image.open(tmp_path / f"0.{suffix}") as opened:
        assert upright_size(opened) == (16, 32)


def test_damaged_exif_data_leaves_a_picture_as_stored(tmp_path):
    Image.fromarray(quadrants()).save(tmp_path / "0.png", exif=b"Exif\x00\x00broken")
    [(_, image)] = FrameFolder(tmp_path)
    assert np.array_equal(image, quadrants())


def test_a_mask_of_turned_sides_is_told_that_frames_are_upright(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    folder = tmp_path / "clip"
    folder.mkdir()
    Image.fromarray(noise(24, 32)).save(folder / "0.png", exif=exif)
    write_labels(tmp_path / "m.png", np.ones((24, 32), np.int32))
    with pytest.raises(ValueError, match=r"mask is \(H, W\) = \(24, 32\), expected \(32, 24\), .*turned upright"):
        list(read_frames(FrameFolder(folder), first_mask=tmp_path / "m.png"))
    write_labels(tmp_path / "m.png", np.ones((32, 24), np.int32))
    (frame,) = read_frames(FrameFolder(folder), first_mask=tmp_path / "m.png")
    assert frame.size == (32, 24)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system")
def test_a_pipe_is_an_error_and_no_hang(tmp_path):
    folder = folder_of(tmp_path, ["0.png"])
    os.mkfifo(folder / "1.png")
    os.mkfifo(tmp_path / "m.png")
    os.mkfifo(tmp_path / "clip.mp4")
    told = "not a regular file; got a pipe, a device or a socket, expected a file"
    for read, path in ((FrameFolder, folder), (read_image, folder / "1.png"), (read_labels, tmp_path / "m.png"),
                       (VideoFile, tmp_path / "clip.mp4")):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            read(path)


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
    with pytest.raises(ValueError, match=r"0\.png: .*image is I;16, expected 8 bits a channel"):
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
    assert not own_threads("map-ahead")


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
    if matrix[0] == 0:
        mask = mask_file(tmp_path / "masks" / "first.png", square(48, 64))
        with pytest.raises(ValueError, match=r"expected \(64, 48\), .* turned upright as the video's rotation says"):
            list(read_frames(VideoFile(path), first_mask=mask))


def test_a_video_file_knows_when_its_frames_are_shown(tmp_path):
    path = write_video(tmp_path / "a.mp4", grey_steps(7), rate=10)
    assert open_source(path).times == pytest.approx([k / 10 for k in range(7)])


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_file_that_is_no_video_is_an_error(tmp_path, keep):
    data = write_video(tmp_path / "a.mp4", [noise(96, 128, i) for i in range(10)]).read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[:keep])
    with pytest.raises(ValueError, match=r"a\.mp4: cannot be opened as a video: ") as raised:
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
    assert message.startswith(f"{path}: cannot be decoded near frame {count}: ")


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
    assert "announces 40" in caplog.text


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
    wanted = r"m/0\.png: mask is \(H, W\) = \(20, 30\), expected \(24, 32\), the size of its frame"
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


def test_a_mask_without_objects_is_none_and_nothing_but_such_masks_an_error(tmp_path):
    source = FrameFolder(folder_of(tmp_path, ["0.png", "1.png"]))
    full = mask_file(tmp_path / "m" / "full.png", square())
    empty = mask_file(tmp_path / "m" / "empty.png", np.zeros((24, 32), int))
    assert [frame.given is None for frame in read_frames(source, {"0": full, "1": empty})] == [False, True]
    assert [frame.given is None for frame in read_frames(source, {"0": empty, "1": full})] == [True, False]
    for masks, ids in (({"1": empty}, {}), ({"0": full}, {"0": {7}})):
        with pytest.raises(ValueError, match=r"png: the mask has no objects"):
            read_frames(source, masks, keep_ids=ids)


def test_long_ids_are_read_if_asked(tmp_path):
    source = FrameFolder(folder_of(tmp_path, ["0.png"]))
    mask = mask_file(tmp_path / "m" / "0.png", square(value=70000))
    assert next(read_frames(source, {"0": mask}, long_ids=True)).given.ids == (70000,)
    with pytest.raises(ValueError, match=r"0\.png: mask is RGB"):
        next(read_frames(source, {"0": mask}))


def test_a_mask_without_a_frame_is_an_error_at_the_call(tmp_path):
    source = FrameFolder(folder_of(tmp_path, ["00.png"]))
    mask = mask_file(tmp_path / "m" / "1.png", square())
    with pytest.raises(ValueError, match=r"m/1\.png: no frame of that name in .*frames; frames are named 00 to 00$"):
        read_frames(source, {"1": mask})


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


@pytest.mark.parametrize("stem", ["hand", "a"])
def test_a_first_mask_of_a_video_file_without_a_namesake_is_for_the_first_frame(tmp_path, stem):
    source = VideoFile(write_video(tmp_path / "a.mp4", grey_steps(4)))
    mask = mask_file(tmp_path / "m" / f"{stem}.png", square(48, 64))
    assert [f.name for f in read_frames(source, first_mask=mask) if f.given] == ["00000"]


def test_a_mask_whose_frame_never_comes_in_a_video_file_is_an_error_at_the_end_at_the_latest(tmp_path):
    source = VideoFile(write_video(tmp_path / "a.mp4", grey_steps(4)))
    source.frames = 5  # a container may claim more than can be decoded
    frames = read_frames(source, {"4": mask_file(tmp_path / "m" / "4.png", square(48, 64))})
    assert len([next(frames) for _ in range(4)]) == 4
    with pytest.raises(ValueError, match=r"m/4\.png: no frame of that name in .*a\.mp4$"):
        next(frames)


def test_reading_warns_of_nothing_in_a_sound_video(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    list(read_frames(VideoFile(write_video(tmp_path / "a.mp4", grey_steps(8)))))
    assert not caplog.records


# ------------------------------------------------------------------------------------------- masks and frames of users
def bright_square(value, height=24, width=32):
    return square(height, width, value)


def given_ids(frames):
    """By frame name, the ids that are given there."""
    return {frame.name: frame.given.ids if frame.given else () for frame in frames}


@pytest.mark.parametrize("value", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_frames_are_turned_as_their_exif_orientation_says(tmp_path, value, suffix):
    back = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[value]  # what undoes the turn
    image = Image.fromarray(quadrants())
    stored = image if back == 1 else image.transpose(video._TURNS[back])
    exif = stored.getexif()
    exif[274] = value
    stored.save(tmp_path / f"0.{suffix}", exif=exif, **({"quality": 95} if suffix in ("jpg", "webp") else {}))
    assert corners(read_image(tmp_path / f"0.{suffix}")) == [0, 1, 2, 3]
    with Image.open(tmp_path / f"0.{suffix}") as opened:
        assert video.upright_size(opened) == (48, 64)
    raw = read_image(tmp_path / f"0.{suffix}", upright=False)
    assert suffix == "tif" or corners(raw) == corners(np.asarray(stored))


def test_a_mask_drawn_on_pixels_as_stored_is_refused_with_the_reason(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    image = Image.fromarray(noise())
    exif = image.getexif()
    exif[274] = 6
    image.save(folder / "0.jpg", exif=exif)
    mask = mask_file(tmp_path / "m" / "first.png", square())
    with pytest.raises(ValueError, match=r"expected \(32, 24\), the size of its frame, turned upright as its EXIF"):
        list(video.read_video(folder, mask))


def test_damaged_exif_leaves_the_pixels_as_they_are(tmp_path):
    Image.fromarray(quadrants()).save(tmp_path / "0.png", exif=b"Exif\0\0no TIFF at all")
    assert corners(read_image(tmp_path / "0.png")) == [0, 1, 2, 3]


def test_a_mask_among_the_frames_is_no_frame(tmp_path):
    folder = folder_of(tmp_path, ["00000.png", "00001.png"])
    mask = mask_file(folder / "mask.png", square())
    assert given_ids(video.read_video(folder, mask)) == {"00000": (1,), "00001": ()}


@pytest.mark.parametrize("name", ["5", "00005", "0000005"])
@pytest.mark.parametrize("of_a_video", [False, True])
def test_a_mask_s_number_is_that_of_its_frame_whatever_the_zeros(tmp_path, name, of_a_video):
    images = grey_steps(8, 24, 32)
    source = tmp_path / "v.mp4"
    if of_a_video:
        write_video(source, images)
    else:
        source = folder_of(tmp_path, [f"{i:05d}.png" for i in range(8)])
    mask = mask_file(tmp_path / "m" / f"{name}.png", square())
    for options in ({"first_mask": mask}, {"masks": {name: mask}}):
        shown = [frame for frame, ids in given_ids(video.read_video(source, **options)).items() if ids]
        assert shown == ["00005"]


@pytest.mark.parametrize("of_a_video", [False, True])
def test_a_number_that_no_frame_has_is_an_error_before_a_frame_is_read(tmp_path, of_a_video):
    source = tmp_path / "v.mp4"
    if of_a_video:
        write_video(source, grey_steps(8, 24, 32))
    else:
        source = folder_of(tmp_path, [f"{i:05d}.png" for i in range(8)])
    mask = mask_file(tmp_path / "m" / "00042.png", square())
    with pytest.raises(ValueError, match=r"00042\.png: no frame 00042 in .*00000 to 00007.* such as first\.png"):
        video.read_video(source, mask)
    with pytest.raises(ValueError, match=r"00042\.png: no frame of that name"):
        video.read_video(source, masks={"00042": mask})


def test_a_mask_of_a_video_file_that_is_no_number_is_an_error_before_a_frame_is_read(tmp_path):
    path = write_video(tmp_path / "v.mp4", grey_steps(2, 24, 32))
    mask = mask_file(tmp_path / "m" / "mask_00000.png", square())
    with pytest.raises(ValueError, match=r"mask_00000\.png: no frame of that name.*numbers, 00000 to 00001"):
        video.read_video(path, masks={"mask_00000": mask})


def test_frames_are_counted_where_a_file_claims_too_few(tmp_path):
    path = write_video(tmp_path / "v.mp4", grey_steps(8))
    source = VideoFile(path)
    source.frames = 3
    assert source.may_hold(7)
    assert not source.may_hold(8)


def test_a_first_mask_with_other_digits_in_its_name_is_taken_for_the_first_frame_and_that_is_said(tmp_path, caplog):
    folder = folder_of(tmp_path, ["00000.png", "00001.png"])
    mask = mask_file(tmp_path / "m" / "bear2.png", square())
    assert given_ids(video.read_video(folder, mask)) == {"00000": (1,), "00001": ()}
    assert "taken for the mask of the first frame, 00000" in caplog.text


def test_blank_masks_are_skipped_until_one_shows_an_object(tmp_path):
    folder = folder_of(tmp_path, [f"{i:05d}.png" for i in range(4)])
    masks = {f"{i:05d}": mask_file(tmp_path / "m" / f"{i}.png", square(value=int(i > 1))) for i in range(3)}
    assert given_ids(video.read_video(folder, masks=masks)) == {"00000": (), "00001": (), "00002": (1,), "00003": ()}


def test_masks_that_are_all_blank_are_an_error_before_a_frame_is_read(tmp_path):
    folder = folder_of(tmp_path, ["00000.png", "00001.png"])
    masks = {f"{i:05d}": mask_file(tmp_path / "m" / f"{i}.png", square(value=0)) for i in range(2)}
    with pytest.raises(ValueError, match=r"0\.png: the mask has no objects; expected at least one non-zero id\. Blank"):
        video.read_video(folder, masks=masks)


def test_void_is_background_in_masks_and_said_where_it_may_be_meant(tmp_path, caplog):
    folder = folder_of(tmp_path, ["00000.png", "00001.png"])
    labels = square()
    labels[12:, 12:] = 255
    mask = mask_file(tmp_path / "m" / "0.png", labels)
    (first, _) = read_frames(FrameFolder(folder), {"0": mask}, void=255)
    assert first.given.ids == (1,)
    assert not (first.given.labels == 255).any()
    assert not caplog.records
    (first, _) = read_frames(FrameFolder(folder), {"0": mask})
    assert first.given.ids == (1, 255)
    assert "255 is read as an object, beside 1; paint it 0 if it is void" in caplog.text


def test_files_that_are_no_frames_are_named(tmp_path, caplog):
    folder = folder_of(tmp_path, ["00000.png", "00001.png"])
    (folder / "Thumbs.db").write_bytes(b"")
    (folder / "a.heic").write_bytes(b"")
    FrameFolder(folder)
    (record,) = caplog.records
    assert "no frames, left out: a.heic" in record.message


def test_what_moves_is_a_video_and_text_pictures_and_songs_are_not(tmp_path):
    film = write_video(tmp_path / "v.mp4", grey_steps(3))
    film.rename(tmp_path / "odd.clip")
    Image.fromarray(noise()).save(tmp_path / "still.png")
    (tmp_path / "still.png").rename(tmp_path / "still.odd")
    (tmp_path / "notes.txt").write_text("words\n" * 100)
    (tmp_path / "song.wav").write_bytes(b"RIFF")
    found = {name: video.is_video(tmp_path / name) for name in ("odd.clip", "still.odd", "notes.txt", "song.wav")}
    assert found == {"odd.clip": True, "still.odd": False, "notes.txt": False, "song.wav": False}


@pytest.mark.parametrize("name", ["1", "7", "bear"])
def test_a_mask_named_after_its_video_belongs_to_the_first_frame_whatever_the_number(tmp_path, name):
    folder = folder_of(tmp_path, ["0.png", "1.png"]).rename(tmp_path / name)
    mask = mask_file(tmp_path / "m" / f"{name}.png", square())
    assert given_ids(video.read_video(folder, mask)) == {"0": (1,), "1": ()}


# ------------------------------------------------------------------------------------------------------------- cut off
@pytest.mark.parametrize(("suffix", "kept"), [("mp4", 21), ("mkv", 12)])
def test_a_video_cut_off_between_two_frames_is_warned_of(tmp_path, caplog, suffix, kept):
    path = tmp_path / f"clip.{suffix}"
    images = [np.full((48, 64, 3), 8 * t, np.uint8) for t in range(24)]
    with av.open(str(path), "w", options={"movflags": "faststart"} if suffix == "mp4" else {}) as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 48, 64, "yuv420p", 1
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    assert len(list(VideoFile(path))) == 24
    assert not caplog.text
    with av.open(str(path)) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.pos]
    path.write_bytes(path.read_bytes()[: ends[kept - 1]])
    frames = len(list(VideoFile(path)))
    assert kept - 1 <= frames <= kept
    assert (f"ends after {frames} frames, but announces 24" if suffix == "mp4" else "declares 3.0 s") in caplog.text
    assert str(path) in caplog.text
