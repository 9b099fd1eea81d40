"""Sources besides files and folders: what names them, what they yield, and how they fail."""

import io
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from servers import served
from toy_videos import SIZE, pictures, write_film, write_frames, write_mask

from cutie_geo.data.index import discover
from cutie_geo.data.sources import (
    Camera,
    ImageFiles,
    MemoryFrames,
    RawFormat,
    StreamAddress,
    parse_source,
    without_secrets,
)
from cutie_geo.data.video import VideoFile, read_image


# ------------------------------------------------------------------------------------------------------- addresses
@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("0", "camera0"),
        ("12", "camera12"),
        ("-", "stdin"),
        ("rtsp://user:secret@10.0.0.7:554/live/cam 1.sdp?token=x", "cam_1"),
        ("https://example.org/a/clip.mp4", "clip"),
        ("http://example.org", "example.org"),
        ("http://example.org/../..", "example.org"),
    ],
)
def test_addresses_have_a_name_that_is_a_folder(text: str, name: str) -> None:
    address = parse_source(text)
    assert isinstance(address, StreamAddress)
    assert address.name == name


def test_everything_else_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "7").mkdir()
    for text in ("clip.mp4", "a/b", "7", "12345", "c:/x.mp4"):
        assert parse_source(text) == Path(text)


@pytest.mark.parametrize(
    ("text", "raw", "problem"),
    [
        ("ftp://host/a.mp4", None, "ftp://host/a.mp4: got ftp://, expected rtsp, rtsps, http, https"),
        ("file:///etc/passwd", None, "got file://"),
        ("concat:a|b", "640x480", "--raw: got 640x480 for concat:a|b"),
        ("rtsp://", None, "got no host"),
        ("-", "640", "--raw: got '640', expected WIDTHxHEIGHT"),
        ("-", "0x4", "expected positive numbers"),
        ("-", "640x480,rgb25", "--raw: got rgb25, expected a pixel format"),
        ("-", "99999x99999", "pixels"),
    ],
)
def test_invalid_addresses_are_refused(text: str, raw: str | None, problem: str) -> None:
    with pytest.raises(ValueError, match=problem.replace("|", r"\|")):
        parse_source(text, raw)


def test_passwords_are_not_shown() -> None:
    url = "rtsp://me:secret@10.0.0.7:554/live?token=secret"
    assert without_secrets(url) == "rtsp://***@10.0.0.7:554/live?***" == str(parse_source(url))
    assert without_secrets("clip.mp4") == "clip.mp4"


# ---------------------------------------------------------------------------------------------------------- images
def test_a_pattern_and_a_list_of_images_are_one_video(tmp_path: Path) -> None:
    frames = write_frames(tmp_path / "clip", 11)
    (frames / "00003.jpg").rename(frames / "3.jpg")
    mask = write_mask(tmp_path / "first.png")
    (record,) = discover(frames / "*.jpg", mask)
    assert (record.name, record.first_mask, record.is_stream) == ("clip", mask, False)
    assert record.reader is not None
    video = record.reader.open()
    assert video.names == (*(f"{t:05d}" for t in range(3)), "3", *(f"{t:05d}" for t in range(4, 11)))
    chosen = [frames / "00009.jpg", frames / "00001.jpg"]
    (record,) = discover(chosen, mask)
    assert record.reader is not None
    assert [(n, i.tolist()) for n, i in record.reader.open(2)] == [(p.stem, read_image(p).tolist()) for p in chosen]


def test_a_pattern_of_videos_is_several(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_film(tmp_path / "films" / f"{name}.mp4", 2)
        write_mask(tmp_path / "masks" / f"{name}.png")
    records = discover(tmp_path / "films" / "*.mp4", tmp_path / "masks")
    assert [(r.name, r.first_mask, r.problem) for r in records] == [
        (name, tmp_path / "masks" / f"{name}.png", None) for name in ("a", "b")
    ]
    assert discover([tmp_path / "films" / "b.mp4"], tmp_path / "masks" / "b.png")[0].name == "b"


def test_lists_that_fit_no_video_are_refused(tmp_path: Path) -> None:
    film, frames = write_film(tmp_path / "a.mp4", 2), write_frames(tmp_path / "f", 2)
    same = write_frames(tmp_path / "g", 1) / "00000.jpg"
    for video, problem in [
        (tmp_path / "none*", "no such file or folder, and no match as a pattern"),
        ([film, frames / "00000.jpg"], "a.mp4: listed with the image"),
        ([frames / "00000.jpg", same], "two files for frame 00000"),
        ([tmp_path / "absent.jpg"], "absent.jpg: no such file"),
        ([film, film], "second video named a"),
    ]:
        with pytest.raises(ValueError, match=problem):
            discover(video, write_mask(tmp_path / "m.png"))
    assert "no mask given" in str(discover([same])[0].problem)


def test_frames_in_memory_are_numbered_and_checked() -> None:
    images = pictures(3)
    found = list(MemoryFrames((image[..., ::-1] for image in images), "bgr"))
    assert [name for name, _ in found] == ["00000", "00001", "00002"]
    assert all(np.array_equal(got, image) for (_, got), image in zip(found, images, strict=True))
    with pytest.raises(ValueError, match=r"frame 1: frame is \(H, W\) = \(32, 96\), expected \(64, 96\)"):
        list(MemoryFrames([images[0], images[1][:32]]))
    with pytest.raises(ValueError, match="frame 1: image: got str"):
        list(MemoryFrames([images[0], "next.png"]))


# --------------------------------------------------------------------------------------------------------- streams
def test_a_video_over_http_is_that_file(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", 6)
    expected = list(VideoFile(film))
    with served(tmp_path) as url:
        address = parse_source(f"{url}/film.mp4?token=x")
        assert isinstance(address, StreamAddress)
        video = address.open()
        assert (video.name, video.fps, video.declares_end) == ("film", 10, True)
        for _ in range(2):  # a URL may be read again
            assert all(a == b and np.array_equal(x, y) for (a, x), (b, y) in zip(video, expected, strict=True))
        with pytest.raises(ValueError, match=r"none.mp4: cannot be opened as a video: Server returned 404 Not Found"):
            parse_source(f"{url}/none.mp4").open()  # type: ignore[union-attr]


def test_a_playlist_opens_no_local_file(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", 3)
    (tmp_path / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{film}\n#EXT-X-ENDLIST\n"
    )
    (tmp_path / "list.ffconcat").write_text(f"ffconcat version 1.0\nfile '{film}'\n")
    with served(tmp_path) as url:
        for name in ("list.m3u8", "list.ffconcat"):
            with pytest.raises(ValueError, match=name):
                list(parse_source(f"{url}/{name}").open())  # type: ignore[union-attr]


@pytest.mark.parametrize("form", ["container", "raw", "playlist"])
def test_standard_input_is_a_container_or_raw(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = write_film(tmp_path / "film.mp4", 4)
    content, raw = film.read_bytes(), None
    expected = [image for _, image in VideoFile(film)]
    if form == "raw":
        expected, raw = pictures(4), f"{SIZE[1]}x{SIZE[0]},bgr24,12"
        content = b"".join(image[..., ::-1].tobytes() for image in expected)
        assert RawFormat.parse(raw) == RawFormat(SIZE[1], SIZE[0], "bgr24", 12.0)
    if form == "playlist":
        content = f"ffconcat version 1.0\nfile '{film}'\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    address = parse_source("-", raw)
    assert isinstance(address, StreamAddress)
    if form == "playlist":
        with pytest.raises(ValueError, match="standard input"):
            list(address.open())
        return
    video = address.open()
    assert video.fps == (12 if raw else 10)
    assert all(np.array_equal(got, image) for (_, got), image in zip(video, expected, strict=True))
    with pytest.raises(ValueError, match="standard input: can be read only once"):
        list(video)


@pytest.mark.slow
def test_a_camera_that_is_not_there_is_one_line() -> None:
    """In a process of its own: OpenCV writes to its standard error too."""
    code = "from cutie_geo.data.sources import parse_source; parse_source('93').open()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    *trace, last = done.stderr.splitlines()
    assert last == "ValueError: camera 93: cannot be opened; no such camera, or another program uses it"
    assert not any("OPENCV" in line or "WARN" in line for line in trace)


def test_a_camera_gives_rgb_until_it_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV's capture of a file stands in for the device, which test machines lack."""
    film, capture = write_film(tmp_path / "film.mp4", 3), cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: capture(str(film)))
    camera = StreamAddress("0").open()
    assert isinstance(camera, Camera)
    images = iter(camera)
    assert all(np.array_equal(next(images)[1], image) for _, image in VideoFile(film))
    with pytest.raises(ValueError, match="camera 0: no more frames after 3"):
        next(images)


def test_images_are_files_only(tmp_path: Path) -> None:
    Image.fromarray(pictures(1)[0]).save(tmp_path / "a.png")
    assert ImageFiles((tmp_path / "a.png",)).name == tmp_path.name
