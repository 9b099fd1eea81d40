"""What the weight cache promises, against a real server on this machine."""

import errno
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cutie_geo.checkpoints import catalogue as weights
from cutie_geo.checkpoints.catalogue import CATALOGUE, WeightFile, cache_dir, fetch, find, known_digest, location, state
from cutie_geo.checkpoints.load import needed_files
from cutie_geo.config import preset_names

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
    stated: str | None = None
    """The SHA-256 that requests for the header alone are told, on the way to the file."""
    redirect: str = ""
    """Where such requests are sent: to the storage, which states nothing."""
    heads: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    def __init__(self, behaviour: Behaviour, *args: object) -> None:
        self.behaviour = behaviour
        super().__init__(*args)

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.behaviour.heads.append(self.path)
        if self.path == "/renamed.pth":  # the hub answers to old names too
            self.send_response(307)
            self.send_header("Location", f"/{FILE}")
        else:
            self.send_response(302 if self.behaviour.redirect and self.path == f"/{FILE}" else 200)
            if self.behaviour.stated is not None and self.path == f"/{FILE}":
                self.send_header("X-Linked-Etag", f'"{self.behaviour.stated}"')
            if self.behaviour.redirect:
                self.send_header("Location", self.behaviour.redirect)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        wants = self.headers.get("Range")
        self.behaviour.asked.append(wants)
        if self.behaviour.status != 200 or self.path not in (f"/{FILE}", "/renamed.pth"):
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


@pytest.mark.parametrize("preset", preset_names())
def test_all_that_a_preset_starts_from_is_in_the_catalogue(preset: str):
    parts = needed_files(preset)
    assert bool(parts) == (preset not in ("cutie-geo-nano", "cutie-geo-tiny"))  # which start from random weights
    assert set(parts.values()) <= set(CATALOGUE)


@pytest.mark.parametrize(
    ("preset", "changes", "parts"),
    [
        ("cutie-base", [], {"model": "cutie-base"}),
        ("cutie-geo-large", [], {"vision": "sam2.1-hiera-large", "geometry": "depth-anything-v2-large"}),
        ("cutie-geo-base", ["encoder.geometry=none"], {"vision": "sam2.1-hiera-base-plus"}),
        ("cutie-geo-base", ["encoder.vision_init=sam2", "encoder.geometry=none"], {"vision": "sam2-hiera-base-plus"}),
        ("cutie-geo-base", ["encoder.vision_init=mae", "encoder.geometry=none"], {"vision": "hiera-base-plus-mae"}),
        ("cutie-geo-small", ["encoder.vision_init=none"], {"geometry": "depth-anything-v2-small"}),
        ("cutie-geo-small", ["weights.geometry=my.pth"], {"vision": "sam2.1-hiera-small"}),
        ("cutie-geo-small", ["encoder.vision_init=none", "encoder.geometry_init=none"], {}),
    ],
)
def test_what_a_preset_needs_follows_its_changes(preset: str, changes: list[str], parts: dict[str, str]):
    assert needed_files(preset, changes) == parts


@pytest.mark.parametrize("init", ["sam2.1", "sam2", "mae"])
@pytest.mark.parametrize("size", ["large", "base-plus", "small", "tiny"])
def test_every_start_of_every_trunk_is_in_the_catalogue(size: str, init: str):
    changes = [f"encoder.vision=hiera-{size}", f"encoder.vision_init={init}", "encoder.geometry=none"]
    assert set(needed_files("cutie-geo-small", changes).values()) <= set(CATALOGUE)


@pytest.mark.parametrize("name", [name for name in CATALOGUE if name != "toy"])
def test_digests_are_whole_and_licences_are_those_that_were_published(name: str):
    file = CATALOGUE[name]
    algorithm, known = file.digest
    assert re.fullmatch({"md5": "[0-9a-f]{32}", "sha256": "[0-9a-f]{64}"}[algorithm], known) or file.stated_by_hub
    assert file.stated_by_hub == name.endswith(("-mae", "-imagenet"))
    if name.endswith("-mae") or name in ("depth-anything-v2-large", "depth-anything-v2-base"):
        assert file.licence == "CC BY-NC 4.0"
    elif name.endswith("-imagenet"):
        assert file.licence == "BSD-3-Clause"
    else:
        assert file.licence == ("MIT" if name.startswith("cutie") else "Apache-2.0")


def test_addresses_file_names_and_digests_of_the_catalogue_are_all_different():
    for facts in ([f.url for f in CATALOGUE.values()], [f.file for f in CATALOGUE.values()]):
        assert len(set(facts)) == len(facts)
    digests = [file.digest[1] for file in CATALOGUE.values() if not file.stated_by_hub]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("sam2.1-hiera-base-plus", "facebook/sam2.1-hiera-base-plus/resolve/main/sam2.1_hiera_base_plus.pt"),
        ("sam2-hiera-tiny", "facebook/sam2-hiera-tiny/resolve/main/sam2_hiera_tiny.pt"),
        (
            "depth-anything-v2-large",
            "depth-anything/Depth-Anything-V2-Large/resolve/main/depth_anything_v2_vitl.pth",
        ),
        ("hiera-base-plus-mae", "timm/hiera_base_plus_224.mae/resolve/main/model.safetensors"),
    ],
)
def test_encoders_come_from_their_publishers(name: str, url: str):
    assert CATALOGUE[name].url == f"https://huggingface.co/{url}"


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
        with pytest.raises(ValueError, match=r"nope: no such weights; expected one of cutie-base, cutie-small"):
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
    with pytest.raises(ValueError, match=rf"/{FILE}: got {len(CONTENT)} bytes with md5 .* expected .*toy\).*removed"):
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
    with pytest.raises(ValueError, match="cannot be downloaded") as caught:
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
    with pytest.raises(ValueError, match=rf"10 bytes free, expected {len(CONTENT)} for {FILE}"):
        fetch("toy", base_url=server[0])
    assert state("toy") == "missing"


def test_a_disk_that_refuses_is_not_blamed_on_the_network(
    server: tuple[str, Behaviour], monkeypatch: pytest.MonkeyPatch
):
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ValueError, match=r"toy\.pth: cannot be written: Read-only file system"):
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


# ------------------------------------------------------------------------------------- digests that the hub states
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def stated(monkeypatch: pytest.MonkeyPatch, server: tuple[str, Behaviour]) -> Behaviour:
    """The toy without a known digest, on a hub that states one and sends those who ask for the header elsewhere."""
    url, behaviour = server
    toy = WeightFile(FILE, f"{url}/{FILE}", "MIT", stated_by_hub=True, note="as the hub states")
    monkeypatch.setitem(CATALOGUE, "toy", toy)
    behaviour.stated, behaviour.redirect = SHA256, "/storage"
    return behaviour


def refused_download(complaint: str) -> None:
    """The download fails in one line, and nothing is left of it."""
    with pytest.raises(ValueError, match=complaint) as caught:
        fetch("toy")
    assert "\n" not in str(caught.value)
    assert state("toy") == "missing"
    assert [path.name for path in cache_dir().iterdir() if path.suffix != ".lock"] == []


def test_a_digest_that_the_hub_states_is_checked_and_kept(stated: Behaviour):
    assert known_digest("toy") == ("sha256", "")
    path = fetch("toy")
    assert path.read_bytes() == CONTENT
    assert stated.heads == [f"/{FILE}"], "the answer that states it is not left for the storage behind it"
    assert known_digest("toy") == ("sha256", SHA256)
    assert state("toy") == "ready"
    path.write_bytes(CONTENT[:-1] + b"!")
    assert state("toy") == "damaged"


def test_a_hub_that_sends_the_file_itself_states_the_digest_too(stated: Behaviour):
    stated.redirect = ""
    assert fetch("toy").read_bytes() == CONTENT


def test_a_repository_that_was_renamed_is_followed(stated: Behaviour, monkeypatch: pytest.MonkeyPatch):
    renamed = CATALOGUE["toy"].url.replace(FILE, "renamed.pth")
    monkeypatch.setitem(CATALOGUE, "toy", replace(CATALOGUE["toy"], url=renamed))
    assert fetch("toy").read_bytes() == CONTENT
    assert stated.heads == ["/renamed.pth", f"/{FILE}"]


def test_a_file_other_than_stated_is_refused(stated: Behaviour):
    stated.stated = "0" * 64
    refused_download(rf"with sha256 {SHA256}, expected {'0' * 64} \(as the hub states\); the download was removed")


@pytest.mark.parametrize("header", [None, "", "abc", "0" * 63, "0" * 40])
def test_without_a_stated_digest_nothing_is_downloaded(stated: Behaviour, header: str | None):
    stated.stated = header
    refused_download(r"states no SHA-256 \(X-Linked-Etag is .*could not be checked and was not downloaded")
    assert stated.asked == []


def test_without_a_network_a_digest_can_not_be_stated(
    stated: Behaviour, closed_port: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(CATALOGUE, "toy", replace(CATALOGUE["toy"], url=f"{closed_port}/{FILE}"))
    refused_download(rf"cannot be downloaded: .*refused; or fetch it by hand and put it at .*{FILE}")


def test_a_hub_that_refuses_to_state_a_digest_is_named(stated: Behaviour):
    stated.stated, stated.redirect = None, f"/{FILE}"  # which leads nowhere
    refused_download("cannot be downloaded: the server answered 302")


def test_a_file_put_there_by_hand_is_taken_with_a_warning_and_must_stay_what_it_is(
    stated: Behaviour, caplog: pytest.LogCaptureFixture
):
    path = location("toy")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    mine = hashlib.sha256(b"mine").hexdigest()
    assert fetch("toy") == path
    assert stated.heads == []
    assert f"no digest to check; its digest from now on is {mine}" in caplog.text
    assert known_digest("toy") == ("sha256", mine)
    caplog.clear()
    assert find("toy") == path
    assert caplog.text == ""
    path.write_bytes(b"other")
    assert state("toy") == "damaged"
    assert fetch("toy").read_bytes() == CONTENT


@pytest.mark.parametrize("note", ["[]", "3", '"x"', "{}"])
def test_a_note_of_another_form_is_ignored(note: str):
    path = location("toy")
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    path.with_name(path.name + ".ok").write_text(note)
    assert find("toy") == path
