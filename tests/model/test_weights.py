"""What the weight cache promises, against a real server on this machine."""

import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cutie_geo.model import weights
from cutie_geo.model.weights import CATALOGUE, WeightFile, cache_dir, fetch, find, location, state

CONTENT = bytes(range(256)) * 5000
FILE = "toy.pth"


@dataclass
class Behaviour:
    """How the server treats the next requests, and what was asked."""

    content: bytes = CONTENT
    ranges: bool = True
    status: int = 200
    cuts: list[int] = field(default_factory=list)
    """For each coming answer, the bytes sent before the connection is cut."""
    asked: list[str | None] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    def __init__(self, behaviour: Behaviour, *args: object) -> None:
        self.behaviour = behaviour
        super().__init__(*args)

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        wants = self.headers.get("Range")
        self.behaviour.asked.append(wants)
        if self.behaviour.status != 200 or self.path != f"/{FILE}":
            return self.send_error(self.behaviour.status if self.behaviour.status != 200 else 404)
        start = int(wants.removeprefix("bytes=").rstrip("-")) if wants and self.behaviour.ranges else 0
        body = self.behaviour.content[start:]
        if start and not body:
            self.send_response(416)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.behaviour.cuts.pop(0)] if self.behaviour.cuts else body)
        return None


@pytest.fixture(autouse=True)
def _toy_catalogue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    toy = WeightFile(FILE, f"http://example.invalid/{FILE}", "MIT", md5=hashlib.md5(CONTENT).hexdigest(), note="a toy")
    monkeypatch.setitem(CATALOGUE, "toy", toy)
    monkeypatch.setenv("CUTIE_GEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[tuple[str, Behaviour]]:
    behaviour = Behaviour()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, behaviour)) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", behaviour
        http.shutdown()
        thread.join()


@pytest.fixture
def closed_port() -> str:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as http:
        port = http.server_port
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def count_digests(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    calls: list[Path] = []
    original: Callable = weights.digest
    monkeypatch.setattr(weights, "digest", lambda path, name: calls.append(path) or original(path, name))
    return calls


def part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def test_the_catalogue_holds_both_models_of_cutie_with_the_published_digests():
    assert CATALOGUE["cutie-base"].digest == ("md5", "a6071de6136982e396851903ab4c083a")
    assert CATALOGUE["cutie-small"].digest == ("md5", "6abf53b4058228babc3686274bc136cc")
    assert "third party" in CATALOGUE["cutie-small"].note
    base = CATALOGUE["cutie-base"]
    assert base.url == "https://github.com/hkchengrex/Cutie/releases/download/v1.0/cutie-base-mega.pth"
    assert base.licence == "MIT"


def test_a_file_without_any_digest_is_refused():
    with pytest.raises(ValueError, match=r"x\.pth: no digest"):
        WeightFile("x.pth", "http://x", "MIT")


def test_a_sha256_goes_before_an_md5():
    assert WeightFile("x", "u", "MIT", md5="1", sha256="2").digest == ("sha256", "2")


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("CUTIE_GEO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "cutie_geo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "cutie_geo"


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    for function in (find, fetch, state, location):
        with pytest.raises(ValueError, match=r"nope: no such weights; wanted one of cutie-base, cutie-small"):
            function("nope")


def test_a_download_lands_in_the_cache_under_its_name(server: tuple[str, Behaviour]):
    url, behaviour = server
    assert state("toy") == "missing"
    assert find("toy") is None
    path = fetch("toy", base_url=url)
    assert path == cache_dir() / FILE
    assert path.read_bytes() == CONTENT
    assert find("toy") == path
    assert state("toy") == "ready"
    assert behaviour.asked == [None]
    assert not part_of(path).exists()


def test_a_cached_file_needs_no_network(server: tuple[str, Behaviour], closed_port: str):
    path = fetch("toy", base_url=server[0])
    assert fetch("toy", base_url=closed_port) == path


def test_another_folder_is_another_cache(server: tuple[str, Behaviour], tmp_path: Path):
    path = fetch("toy", tmp_path / "elsewhere", base_url=server[0] + "/")
    assert path == tmp_path / "elsewhere" / FILE
    assert find("toy", tmp_path / "elsewhere") == path
    assert find("toy") is None


def test_force_downloads_what_is_there(server: tuple[str, Behaviour]):
    fetch("toy", base_url=server[0])
    fetch("toy", base_url=server[0], force=True)
    assert server[1].asked == [None, None]


def test_force_does_not_go_on_from_an_earlier_start(server: tuple[str, Behaviour]):
    path = fetch("toy", base_url=server[0])
    part_of(path).write_bytes(b"x" * 100)
    fetch("toy", base_url=server[0], force=True)
    assert server[1].asked[-1] is None
    assert path.read_bytes() == CONTENT


def test_a_cut_connection_is_taken_up_where_it_broke(server: tuple[str, Behaviour]):
    url, behaviour = server
    behaviour.cuts = [700_000, 300_000]
    assert fetch("toy", base_url=url).read_bytes() == CONTENT
    assert behaviour.asked == [None, "bytes=700000-", "bytes=1000000-"]


def test_a_download_goes_on_in_a_later_call(server: tuple[str, Behaviour]):
    url, behaviour = server
    behaviour.cuts = [1000, 0]
    with pytest.raises(ValueError, match=r"the connection was cut; 1000 bytes are kept for another try"):
        fetch("toy", base_url=url)
    assert state("toy") == "partial"
    assert fetch("toy", base_url=url).read_bytes() == CONTENT
    assert behaviour.asked[-1] == "bytes=1000-"


def test_a_complete_part_is_checked_and_used(server: tuple[str, Behaviour]):
    location("toy").parent.mkdir(parents=True)
    part_of(location("toy")).write_bytes(CONTENT)
    assert fetch("toy", base_url=server[0]).read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(server: tuple[str, Behaviour]):
    url, behaviour = server
    behaviour.ranges = False
    location("toy").parent.mkdir(parents=True)
    part_of(location("toy")).write_bytes(b"x" * 1000)
    assert fetch("toy", base_url=url).read_bytes() == CONTENT
    assert behaviour.asked == ["bytes=1000-"]


def test_a_wrong_digest_is_an_error_and_leaves_nothing_behind(server: tuple[str, Behaviour]):
    url, behaviour = server
    behaviour.content = CONTENT[:-1] + b"!"
    with pytest.raises(ValueError, match=rf"/{FILE}: got {len(CONTENT)} bytes with md5 .* wanted .*\(a toy\).*removed"):
        fetch("toy", base_url=url)
    assert state("toy") == "missing"


def test_a_failed_forced_download_keeps_the_good_file(server: tuple[str, Behaviour]):
    url, behaviour = server
    path = fetch("toy", base_url=url)
    behaviour.content = b"broken"
    with pytest.raises(ValueError, match="md5"):
        fetch("toy", base_url=url, force=True)
    assert find("toy") == path


def test_without_a_network_the_error_is_one_line_that_says_what_to_do(closed_port: str):
    with pytest.raises(ValueError, match="can't be downloaded") as caught:
        fetch("toy", base_url=closed_port)
    text = str(caught.value)
    assert "\n" not in text
    assert f"{closed_port}/{FILE}" in text
    assert f"by hand and put it at {location('toy')}" in text


def test_a_refusal_of_the_server_is_named(server: tuple[str, Behaviour]):
    server[1].status = 404
    with pytest.raises(ValueError, match="the server answered 404"):
        fetch("toy", base_url=server[0])
    assert len(server[1].asked) == 1


def test_a_full_disk_is_an_error_before_anything_is_written(
    server: tuple[str, Behaviour], monkeypatch: pytest.MonkeyPatch
):
    usage = weights.shutil.disk_usage(".")
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(ValueError, match=rf"10 bytes free, wanted {len(CONTENT)} for {FILE}"):
        fetch("toy", base_url=server[0])
    assert state("toy") == "missing"


def test_a_disk_that_refuses_is_not_blamed_on_the_network(
    server: tuple[str, Behaviour], monkeypatch: pytest.MonkeyPatch
):
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ValueError, match=r"toy\.pth: can't be written: Read-only file system"):
        fetch("toy", base_url=server[0])


def test_a_file_put_there_by_hand_is_found(count_digests: list[Path]):
    path = location("toy")
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert find("toy") == path
    assert find("toy") == path
    assert count_digests == [path], "the digest is computed once"


def test_a_file_that_changed_is_checked_again(count_digests: list[Path]):
    path = location("toy")
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    find("toy")
    path.write_bytes(CONTENT[:-1] + b"!")
    os.utime(path, ns=(1, 1))
    assert find("toy") is None
    assert state("toy") == "damaged"
    assert len(count_digests) > 1


def test_the_note_holds_for_one_digest_only(monkeypatch: pytest.MonkeyPatch):
    path = location("toy")
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    find("toy")
    note = json.loads(path.with_name(path.name + ".ok").read_text())
    assert note["size"] == len(CONTENT)
    monkeypatch.setitem(CATALOGUE, "toy", replace(CATALOGUE["toy"], md5="0" * 32))
    assert find("toy") is None


def test_an_unreadable_note_is_ignored():
    path = location("toy")
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    path.with_name(path.name + ".ok").write_text("{")
    assert find("toy") == path


def test_a_damaged_file_is_replaced(server: tuple[str, Behaviour], caplog: pytest.LogCaptureFixture):
    path = location("toy")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not it")
    assert fetch("toy", base_url=server[0]).read_bytes() == CONTENT
    assert "wrong md5" in caplog.text


def test_two_callers_at_once_download_once(server: tuple[str, Behaviour]):
    threads = [threading.Thread(target=fetch, args=("toy",), kwargs={"base_url": server[0]}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server[1].asked == [None]
    assert find("toy")
