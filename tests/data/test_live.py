"""Sources without an end: a bounded queue, dropped frames, latency, and lost connections."""

import io
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import pytest
from own_threads import own_threads
from PIL import Image
from servers import SYSTEM_PYTHON, RtspServer, camera, half_served, served
from toy_videos import pictures, write_film, write_frames, write_mjpeg

from cutie_geo.data import sources
from cutie_geo.data.live import LiveOptions, LiveVideo
from cutie_geo.data.sources import MemoryFrames, StreamAddress, parse_source
from cutie_geo.data.video import FrameFolder, VideoFile


def numbered(count: int, pause: float = 0.0, start: int = 0) -> Iterator[np.ndarray]:
    """Tiny frames, each filled with its number."""
    for number in range(start, start + count):
        time.sleep(pause)
        yield np.full((8, 8, 3), number % 256, np.uint8)


def watched(live: LiveVideo, pause: float = 0.0) -> list[int]:
    """Numbers of the frames that a slow consumer gets."""
    names = []
    for name, image in live:
        assert image[0, 0, 0] == int(name) % 256
        time.sleep(pause)
        live.finished(name)
        names.append(int(name))
    return names


def test_a_live_source_waits_for_a_slow_consumer() -> None:
    live = LiveVideo(MemoryFrames(numbered(12)), LiveOptions(queue=2))
    assert watched(live, 0.005) == list(range(12))
    report = live.report()
    assert report["captured"] == 12
    assert report["dropped"] == 0
    assert report["queue"] == {"size": 2, "longest": 2}
    latency = report["latency_seconds"]
    assert 0.005 <= latency["p50"] <= latency["p95"] <= latency["p99"] < 5


def test_a_slow_consumer_drops_frames_but_never_those_with_masks() -> None:
    live = LiveVideo(
        MemoryFrames(numbered(200, 0.001)), LiveOptions(drop_frames=True, queue=2), kept=("00050", "00051")
    )
    names = watched(live, 0.02)
    assert names == sorted(set(names))
    assert {0, 50, 51, 199} <= set(names)
    assert live.dropped == 200 - len(names) > 0
    assert live.longest <= 2
    assert live.captured == 200


def test_a_fast_consumer_drops_nothing() -> None:
    """The camera never gets further ahead than the queue is long, however slow the machine is."""
    options = LiveOptions(drop_frames=True)
    places = threading.Semaphore(options.queue)

    def camera() -> Iterator[np.ndarray]:
        for image in numbered(20):
            assert places.acquire(timeout=60)
            yield image

    live, names = LiveVideo(MemoryFrames(camera()), options), []
    for name, _ in live:
        places.release()
        names.append(int(name))
    assert names == list(range(20))
    assert live.dropped == 0


def test_a_file_plays_at_its_frame_rate(tmp_path: Path) -> None:
    live = LiveVideo(VideoFile(write_film(tmp_path / "film.mp4", 4)), LiveOptions())
    started = time.monotonic()
    assert [name for name, _ in live] == ["00000", "00001", "00002", "00003"]
    assert time.monotonic() - started >= 0.3  # 10 frames a second


def test_errors_come_after_the_frames_before_them() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield from numbered(3)
        raise RuntimeError("the program behind it failed")

    for frames, kind in ((broken(), RuntimeError), ([*numbered(3), np.zeros((4, 4, 3), np.uint8)], ValueError)):
        live, names = LiveVideo(MemoryFrames(frames), LiveOptions()), []
        with pytest.raises(kind):
            names += [name for name, _ in live]
        assert live.captured == 3


def test_a_stop_ends_it_after_the_frames_that_wait() -> None:
    stop = threading.Event()
    live = LiveVideo(MemoryFrames(numbered(10**9, 0.001)), LiveOptions(queue=3), stop=stop)
    names = []
    for name, _ in live:
        names.append(int(name))
        if len(names) == 5:
            time.sleep(0.05)  # the queue fills
            stop.set()
    assert names == list(range(len(names)))
    assert 5 <= len(names) <= 5 + 3 + 1


def test_a_closed_iterator_ends_its_thread() -> None:
    live = LiveVideo(MemoryFrames(numbered(10**9, 0.001)), LiveOptions())
    images = iter(live)
    next(images)
    images.close()
    assert not own_threads("live")


def test_invalid_options_and_folders_are_refused(tmp_path: Path) -> None:
    for options, problem in (({"queue": 0}, "--queue: got 0"), ({"reconnect": float("inf")}, "--reconnect: got inf")):
        with pytest.raises(ValueError, match=problem):
            LiveOptions(**options)
    with pytest.raises(ValueError, match="--live: got the images"):
        LiveVideo(FrameFolder(write_frames(tmp_path / "clip")), LiveOptions())


def test_a_file_on_a_server_has_an_end(tmp_path: Path) -> None:
    write_film(tmp_path / "film.mp4", 5)
    with served(tmp_path) as url:
        address = parse_source(f"{url}/film.mp4")
        assert isinstance(address, StreamAddress)
        live = LiveVideo(address.open(), LiveOptions(), address)
        assert len(list(live)) == 5
    assert (live.reconnections, live.lost) == (0, None)


def jpegs(count: int) -> list[bytes]:
    """The bytes of some images."""
    images = []
    for image in pictures(count):
        with io.BytesIO() as file:
            Image.fromarray(image).save(file, format="JPEG")
            images.append(file.getvalue())
    return images


@pytest.mark.slow
def test_servers_that_say_nothing_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "OPEN_SECONDS", 0.3)
    monkeypatch.setattr(sources, "READ_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for scheme in ("http", "rtsp"):
            with pytest.raises(ValueError, match=r"/x: cannot be opened as a video: no answer within 0.3 s"):
                parse_source(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/x").open()  # type: ignore[union-attr]
    monkeypatch.setattr(sources, "OPEN_SECONDS", 10.0)
    names = []
    with camera(jpegs(4), stall=1.5) as (url, _):
        video = parse_source(url).open()  # type: ignore[union-attr]
        with pytest.raises(ValueError, match=r"/live: no data within 0.5 s"):
            names.extend(name for name, _ in video)


@pytest.mark.slow
def test_a_camera_over_http_is_read_again_after_it_was_lost(caplog: pytest.LogCaptureFixture) -> None:
    with camera(jpegs(4)) as (url, turn_off):
        address = parse_source(url)
        assert isinstance(address, StreamAddress)
        assert not address.is_endless
        live = LiveVideo(address.open(), LiveOptions(reconnect=3.0), address)
        names = []
        for name, image in live:
            assert image.shape == (64, 96, 3)
            live.finished(name)
            names.append(name)
            if len(names) == 6:
                turn_off()
    assert names == [f"{t:05d}" for t in range(len(names))]
    assert len(names) == 4 * (1 + live.reconnections) >= 8
    assert live.lost is not None
    assert f"lost after {len(names)} frames" in live.lost
    assert caplog.messages[-1] == f"{live.lost}; the results end there"


def test_a_server_that_breaks_off_is_an_error_after_its_frames(tmp_path: Path) -> None:
    film = write_mjpeg(tmp_path / "film.mkv", 12)
    with half_served(film) as url:
        address = parse_source(url)
        assert isinstance(address, StreamAddress)
        for video in (address.open(), LiveVideo(address.open(), LiveOptions(reconnect=5.0), address)):
            names = []
            with pytest.raises(ValueError, match=r"film.mkv: cannot be decoded near frame \d+: Input/output error"):
                names.extend(name for name, _ in video)


@pytest.fixture
def rtsp() -> type[RtspServer]:
    """The server, where Debian's packages for it are installed."""
    found = "from gi import require_version as r; r('GstRtspServer', '1.0')"
    if not Path(SYSTEM_PYTHON).exists() or subprocess.run([SYSTEM_PYTHON, "-c", found], capture_output=True).returncode:
        pytest.skip("no GStreamer RTSP server; Debian: gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-good")
    return RtspServer


@pytest.mark.slow
def test_rtsp_is_read_again_after_it_was_lost(rtsp: type[RtspServer], caplog: pytest.LogCaptureFixture) -> None:
    with ExitStack() as opened:
        first = rtsp.start(1000)
        opened.callback(first.end)
        address = parse_source(first.url)
        assert isinstance(address, StreamAddress)
        assert address.is_endless
        live = LiveVideo(address.open(), LiveOptions(reconnect=4.0), address)
        names = []
        for name, image in live:
            assert image.shape == (64, 96, 3)
            live.finished(name)
            names.append(int(name))
            if len(names) == 10:
                first.end()
                second = rtsp.start(20, first.port)
                opened.callback(second.end)
                assert second.url == first.url
            if len(names) == 25:
                second.end()
    assert names == list(range(len(names)))
    assert len(names) > 25
    report = live.report()
    assert report["reconnections"] == 1
    assert f"lost after {len(names)} frames" in report["lost"]
    assert "not back within 4 s" in report["lost"]
    assert sum("connecting again" in text for text in caplog.messages) == 2
    assert caplog.messages[-1].endswith("the results end there")


@pytest.mark.slow
def test_a_stream_that_comes_back_in_another_size_is_an_error(rtsp: type[RtspServer]) -> None:
    with ExitStack() as opened:
        first = rtsp.start(1000)
        opened.callback(first.end)
        address = parse_source(first.url)
        assert isinstance(address, StreamAddress)
        live = LiveVideo(address.open(), LiveOptions(reconnect=10.0), address)
        images = iter(live)
        assert all(next(images)[1].shape == (64, 96, 3) for _ in range(5))
        first.end()
        opened.callback(rtsp.start(1000, first.port, 32).end)
        with pytest.raises(ValueError, match=r"came back as \(H, W\) = \(32, 96\), expected \(64, 96\)"):
            list(images)


@pytest.mark.slow
def test_an_absent_server_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"rtsp://127.0.0.1:9/x: cannot be opened as a video: Connection refused"):
        parse_source("rtsp://127.0.0.1:9/x").open()  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.parametrize("drop", [False, True])
def test_memory_is_flat_over_3000_frames(drop: bool) -> None:
    """A camera faster than its consumer: neither the queue nor the process grows."""
    size, memory = (240, 320, 3), []
    frames = (np.full(size, number % 256, np.uint8) for number in range(3000))
    live = LiveVideo(MemoryFrames(frames), LiveOptions(drop_frames=drop, queue=4))
    process = psutil.Process()
    for number, (name, _) in enumerate(live):
        live.finished(name)
        if number % 100 == 0:
            memory.append(process.memory_info().rss)
    assert live.captured == 3000
    assert live.longest <= 4
    assert drop or live.dropped == 0
    assert max(memory[len(memory) // 2 :]) - max(memory[: len(memory) // 2]) < 5 * 2**20  # 22 frames
    assert sys.getsizeof(live.latencies) < 100_000
