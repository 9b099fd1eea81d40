"""Frames by index are those of reading in order, whatever the order of requests."""

import av
import numpy as np
import pytest
from toy_videos import pictures, write_film, write_frames

from cutie_geo.data.random_access import RandomAccess, video_digest
from cutie_geo.data.video import FrameFolder, VideoFile


def write_long_film(path, frames=40, group=12, codec="libx264", **options):
    """A video whose key frames are `group` frames apart, with B-frames between."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"bf": "2", "threads": "1", **options})
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 64, 96, "yuv420p", group
        for image in pictures(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.mpg", "mpeg2video"), ("a.ts", "libx264")],
)
def test_frames_of_a_file_in_any_order_are_those_of_reading_it(tmp_path, name, codec):
    source = VideoFile(write_long_film(tmp_path / name, codec=codec))
    expected = [image for _, image in source]
    frames = RandomAccess(source, cache_bytes=0)
    assert len(frames) == len(expected) == 40
    assert frames.names == tuple(name for name, _ in source)
    for index in (0, 30, 31, 7, 39, 12, 11, 24, 23):
        assert np.array_equal(frames.frame(index), expected[index]), index
    backward = list(frames.backward())
    assert [name for name, _ in backward] == list(reversed(frames.names))
    assert all(np.array_equal(image, wanted) for (_, image), wanted in zip(backward, reversed(expected), strict=True))


def test_memory_is_bounded_and_blocks_are_decoded_once(tmp_path, monkeypatch):
    frames = RandomAccess(VideoFile(write_long_film(tmp_path / "a.mp4", group=6)), cache_bytes=0)
    restarts = []
    restart = frames._restart
    monkeypatch.setattr(frames, "_restart", lambda start: (restarts.append(start), restart(start)))
    for _, _ in frames.backward():
        assert len(frames._cache) <= frames.capacity == 8
    assert restarts == sorted(set(restarts), reverse=True)
    restarts.clear()
    for index in range(40):
        frames.frame(index)
    assert len(restarts) <= 2


def test_a_folder_is_read_by_index_too(tmp_path):
    folder = FrameFolder(write_frames(tmp_path / "clip", 5))
    frames = RandomAccess(folder)
    assert frames.size == (64, 96)
    expected = dict(folder)
    assert all(np.array_equal(frames.frame(i), expected[name]) for i, name in enumerate(frames.names))
    with pytest.raises(ValueError, match="no frame 5, expected 0 to 4"):
        frames.frame(5)


def test_the_digest_is_of_names_and_contents(tmp_path):
    one = write_frames(tmp_path / "one", 3)
    same = write_frames(tmp_path / "same", 3)
    other = write_frames(tmp_path / "other", 3, seed=1)
    digests = [video_digest(FrameFolder(folder)) for folder in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]
    film = write_film(tmp_path / "a.mp4")
    assert video_digest(VideoFile(film)) not in digests
