"""`cutie-geo download`: names in, files and their particulars out."""

import argparse
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cutie_geo.commands import download
from cutie_geo.model.weights import CATALOGUE, WeightFile

CONTENT = b"weights" * 100
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT)


@pytest.fixture(autouse=True)
def _catalogue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Two files that a server on this machine has, one of them damaged."""
    monkeypatch.setenv("CUTIE_GEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{http.server_port}"
        monkeypatch.setattr("cutie_geo.model.weights.CATALOGUE", toys := {})
        monkeypatch.setattr(download, "CATALOGUE", toys)
        toys["bad"] = WeightFile("bad.pth", f"{url}/bad.pth", "MIT", md5="0" * 32, note="hearsay")
        toys["good"] = WeightFile("good.pth", f"{url}/good.pth", "CC-BY-NC-4.0", sha256=DIGEST)
        yield
        http.shutdown()
        thread.join()


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    download.add_arguments(parser)
    return download.run(parser.parse_args(argv))


def test_a_download_prints_path_licence_and_digest(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert run("good") == 0
    out = capsys.readouterr().out
    assert f"good: {tmp_path / 'cache' / 'good.pth'}" in out
    assert "CC-BY-NC-4.0" in out
    assert DIGEST in out
    assert (tmp_path / "cache/good.pth").read_bytes() == CONTENT


def test_a_folder_can_be_chosen(tmp_path: Path):
    assert run("good", "--dir", str(tmp_path / "here")) == 0
    assert (tmp_path / "here/good.pth").is_file()
    assert not (tmp_path / "cache").exists()


def test_a_failure_is_one_line_and_does_not_stop_the_others(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert run("--all") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: http://127.0.0.1")
    assert captured.err.count("\n") == 1
    assert "hearsay" in captured.err
    assert (tmp_path / "cache/good.pth").is_file()


def test_the_list_says_what_is_here_and_downloads_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert run("good") == 0
    capsys.readouterr()
    assert run("--list") == 0
    out = capsys.readouterr().out
    assert "good: ready" in out
    assert "bad: missing" in out
    assert "hearsay" in out
    assert not (tmp_path / "cache/bad.pth").exists()


@pytest.mark.parametrize(("argv", "says"), [(["good", "nope"], "nope: no such weights"), ([], "nothing asked for")])
def test_bad_names_are_refused_before_anything_is_downloaded(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    assert run(*argv) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_force_replaces_what_is_there(tmp_path: Path):
    assert run("good") == 0
    before = (tmp_path / "cache/good.pth").stat().st_ino
    assert run("good") == 0
    assert (tmp_path / "cache/good.pth").stat().st_ino == before
    assert run("good", "--force") == 0
    assert (tmp_path / "cache/good.pth").read_bytes() == CONTENT


def test_the_help_names_what_there_is():
    parser = argparse.ArgumentParser()
    download.add_arguments(parser)
    assert "bad, good" in parser.format_help()
    assert set(CATALOGUE) >= {"cutie-base", "cutie-small"}
