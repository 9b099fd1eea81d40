"""`cutie-geo download`: names of files and models in, files and their particulars out."""

import argparse
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cutie_geo.__main__ import main
from cutie_geo.checkpoints.catalogue import CATALOGUE, NON_COMMERCIAL, WeightFile
from cutie_geo.commands import download

CONTENT = b"weights" * 100
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("X-Linked-Etag", DIGEST)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT)


@pytest.fixture(autouse=True)
def _catalogue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A server on this machine has everything in the catalogue, and two files more, one of them damaged."""
    monkeypatch.setenv("CUTIE_GEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{http.server_port}"
        for name, file in list(CATALOGUE.items()):
            sha256 = None if file.stated_by_hub else DIGEST
            monkeypatch.setitem(CATALOGUE, name, replace(file, url=f"{url}/{file.file}", md5=None, sha256=sha256))
        monkeypatch.setitem(
            CATALOGUE, "bad", WeightFile("bad.pth", f"{url}/bad.pth", "MIT", md5="0" * 32, note="hearsay")
        )
        monkeypatch.setitem(CATALOGUE, "good", WeightFile("good.pth", f"{url}/good.pth", "MIT", sha256=DIGEST))
        yield
        http.shutdown()
        thread.join()


def run(*argv: str) -> int:
    return main(["download", *argv])


def cached(tmp_path: Path) -> set[str]:
    """The files that were downloaded."""
    return {path.name for path in (tmp_path / "cache").glob("*") if path.suffix not in (".ok", ".lock")}


# ------------------------------------------------------------------------------------------------------ single files
def test_a_download_prints_path_licence_and_digest(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert run("good") == 0
    out = capsys.readouterr().out
    assert f"good: {tmp_path / 'cache' / 'good.pth'}" in out
    assert "licence  MIT" in out
    assert f"sha256   {DIGEST}" in out
    assert "for " not in out.splitlines()[1]
    assert (tmp_path / "cache/good.pth").read_bytes() == CONTENT


def test_a_digest_that_the_hub_stated_is_printed_too(capsys: pytest.CaptureFixture[str]):
    assert run("hiera-tiny-mae") == 0
    assert f"sha256   {DIGEST} (digest stated by the hub at download)" in capsys.readouterr().out


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
    assert cached(tmp_path) == {file.file for name, file in CATALOGUE.items() if name != "bad"}


def test_force_replaces_what_is_there(tmp_path: Path):
    assert run("good") == 0
    before = (tmp_path / "cache/good.pth").stat().st_ino
    assert run("good") == 0
    assert (tmp_path / "cache/good.pth").stat().st_ino == before
    assert run("good", "--force") == 0
    assert (tmp_path / "cache/good.pth").stat().st_ino != before


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["good", "nope"], "nope: no such weights and no such model; expected one of cutie-base, "),
        (["good", "cutie-geo-huge"], "cutie-geo-huge: no such weights and no such model"),
        ([], "got no names, expected --all, --list or one of cutie-base, "),
        (["good", "encoder.vision_init=mae"], "encoder.vision_init=mae: changes a model, but got none"),
        (["encoder.vision_init=mae"], "got no names"),
        (["cutie-geo-small", "encoder.vision_init=mea"], "encoder.vision_init: got 'mea', expected one of 'sam2.1'"),
        (["cutie-geo-small", "encoder.depth=3"], "unknown depth"),
        (["none.yaml"], "none.yaml: no such model"),
    ],
)
def test_bad_names_are_refused_before_anything_is_downloaded(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    assert run(*argv) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert not (tmp_path / "cache").exists()


# ------------------------------------------------------------------------------------------------------------ models
def test_a_model_of_cutie_is_one_file(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert run("cutie-base") == 0
    assert cached(tmp_path) == {"cutie-base-mega.pth"}
    out = capsys.readouterr().out
    assert "for      all of cutie-base" in out
    assert "no trained weights" not in out
    assert out.splitlines()[-1] == "licences: MIT, free for commercial use too"


def test_a_preset_brings_its_parts_and_says_what_each_is_for(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert run("cutie-geo-large") == 0
    assert cached(tmp_path) == {"sam2.1_hiera_large.pt", "depth_anything_v2_vitl.pth"}
    lines = capsys.readouterr().out.splitlines()
    cache = tmp_path / "cache"
    assert lines == [
        f"sam2.1-hiera-large: {cache / 'sam2.1_hiera_large.pt'}",
        "  for      vision of cutie-geo-large",
        "  licence  Apache-2.0",
        f"  sha256   {DIGEST}",
        f"depth-anything-v2-large: {cache / 'depth_anything_v2_vitl.pth'}",
        "  for      geometry of cutie-geo-large",
        "  licence  CC BY-NC 4.0",
        f"  sha256   {DIGEST}",
        "cutie-geo-large: no trained weights of it are published yet; weights.warm_start=FILE takes cutie-base's file "
        "for all behind its encoders (cutie-geo download cutie-base)",
        "licences: depth-anything-v2-large is CC BY-NC 4.0: whatever holds it is for non-commercial use only",
    ]


def test_models_share_their_parts(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """And what is named as a file is not downloaded twice either."""
    (tmp_path / "mine.yaml").write_text("encoder: {vision: hiera-small}\nnum_blocks: 2\n")
    mine = str(tmp_path / "mine.yaml")
    assert run("sam2.1-hiera-small", "cutie-geo-small", mine, "cutie-geo-small") == 0
    out = capsys.readouterr().out
    assert f"for      vision of cutie-geo-small, vision of {mine}" in out
    assert out.count("sam2.1-hiera-small: ") == 1
    assert f"{mine}: no trained weights of it are published yet" in out
    assert out.splitlines()[-1] == "licences: Apache-2.0, free for commercial use too"
    assert cached(tmp_path) == {"sam2.1_hiera_small.pt", "depth_anything_v2_vits.pth"}


def test_changes_of_the_model_change_its_files(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert run("cutie-geo-small", "encoder.vision_init=mae", "weights.geometry=mine.pth") == 0
    assert cached(tmp_path) == {"hiera_small_224.mae.safetensors"}
    assert "licences: hiera-small-mae is CC BY-NC 4.0" in capsys.readouterr().out.splitlines()[-1]


def test_a_model_that_needs_no_file_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert run("cutie-geo-small", "encoder.vision_init=none", "encoder.geometry_init=none") == 0
    assert not (tmp_path / "cache").exists()
    assert capsys.readouterr().out.splitlines()[-1] == "licences: nothing needed, so none"


def test_several_files_for_non_commercial_use_are_all_named(capsys: pytest.CaptureFixture[str]):
    assert run("cutie-geo-base", "encoder.vision_init=mae") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"hiera-base-plus-mae, depth-anything-v2-base are {NON_COMMERCIAL}: whatever holds them is" in last


# -------------------------------------------------------------------------------------------------------- list and help
def test_the_list_says_what_is_here_and_downloads_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert run("good", "sam2.1-hiera-small") == 0
    capsys.readouterr()
    assert run("--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "good: ready, good.pth" in lines
    assert "bad: missing, bad.pth" in lines
    assert any("hearsay" in line for line in lines)
    assert cached(tmp_path) == {"good.pth", "sam2.1_hiera_small.pt"}


def test_the_list_shows_models_with_their_parts(capsys: pytest.CaptureFixture[str]):
    assert run("sam2.1-hiera-small") == 0
    capsys.readouterr()
    assert run("--list") == 0
    models = capsys.readouterr().out.split("models:\n")[1]
    assert "cutie-base: model cutie-base (missing)\n  licences: MIT" in models
    parts = "vision sam2.1-hiera-small (ready), geometry depth-anything-v2-small (missing)"
    assert f"cutie-geo-small: {parts}\n  licences: Apache-2.0, free for commercial use too\n" in models
    assert "licences: depth-anything-v2-base is CC BY-NC 4.0" in models
    assert models.count("no trained weights of it are published yet") == 4
    assert (
        "cutie-geo-tiny: \n  licences: nothing needed, so none\n  its trained weights come with the package\n" in models
    )


def test_the_help_names_what_there_is():
    parser = argparse.ArgumentParser()
    download.add_arguments(parser)
    text = " ".join(parser.format_help().split())
    for name in ("cutie-base", "cutie-geo-large", "sam2-hiera-tiny", "hiera-tiny-mae", "good"):
        assert name in text
