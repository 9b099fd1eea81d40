"""The Hugging Face hub: its own client against a small server of the same habits on this machine."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import close_session
from tiny import randomised, tiny_config, tiny_geo_config
from torch import nn

from cutie_geo.checkpoints.catalogue import CATALOGUE
from cutie_geo.checkpoints.hub import download, model_card, push_to_hub, save_pretrained
from cutie_geo.checkpoints.load import load_model
from cutie_geo.config import EncoderConfig
from cutie_geo.model.network import CutieGeo
from cutie_geo.structures import FrozenFile

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Repositories = dict[str, dict[str, bytes]]
"""Files by name, of repositories by theirs."""


class Hub(BaseHTTPRequestHandler):
    """What the client asks the hub for when it downloads a repository, makes one, or commits to one."""

    def __init__(self, repositories: Repositories, *args: object) -> None:
        self.repositories = repositories
        super().__init__(*args)  # type: ignore[arg-type]

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.strip("/").split("/")
        name = "/".join(path[2:4] if path[0] == "api" else path[:2])
        if name == "me/broken":
            return self.answer(403, {"error": "The storage is being moved.\nTry later."})
        if name not in self.repositories:
            return self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        files = self.repositories[name]
        revision = path[5] if path[0] == "api" else path[3]
        if revision not in ("main", COMMIT):
            return self.answer(404, {"error": "Invalid rev"}, {"X-Error-Code": "RevisionNotFound"})
        if path[:2] == ["api", "models"] and path[4] == "revision":
            return self.answer(200, {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]})
        if path[:2] == ["api", "models"] and path[4] == "tree":
            entries = [{"type": "file", "path": f, "size": len(files[f]), "oid": blob(files[f])} for f in files]
            return self.answer(200, entries)
        content = files[path[4]]
        return self.answer(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{blob(content)}"'})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        url, path = f"http://{self.headers['Host']}", urlsplit(self.path).path.strip("/").split("/")
        if path[1:] == ["repos", "create"]:
            asked = json.loads(body)
            name = f"{asked.get('organization', 'me')}/{asked['name']}"
            self.repositories.setdefault(name, {})
            return self.answer(200, {"url": f"{url}/{name}"})
        if path[1:] == ["validate-yaml"]:
            return self.answer(200, {"errors": [], "warnings": []})
        name = "/".join(path[2:4])
        if path[4] == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        assert path[4] == "commit"
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self.answer(200, {"commitUrl": f"{url}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def answer(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def blob(content: bytes) -> str:
    """Git's name for a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def point_at(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """Make the client believe that the hub is at `url`; it reads that from the environment only once."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    monkeypatch.setenv("HF_TOKEN", "hf_only_for_tests")
    close_session()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Repositories]:
    """The repositories of a hub on this machine."""
    repositories: Repositories = {}
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, repositories)) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        point_at(monkeypatch, f"http://127.0.0.1:{http.server_port}", tmp_path / "hub")
        yield repositories
        close_session()
        http.shutdown()
        thread.join()


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as http:
        port = http.server_port
    point_at(monkeypatch, f"http://127.0.0.1:{port}", tmp_path / "hub")


@pytest.fixture(scope="module")
def model() -> CutieGeo:
    torch.manual_seed(1)
    return randomised(CutieGeo(tiny_geo_config())).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@pytest.fixture
def on_hub(hub: Repositories, model: CutieGeo, tmp_path: Path) -> str:
    """The name of a repository that holds the model."""
    save_pretrained(model, tmp_path / "saved")
    hub["me/nano"] = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    return "me/nano"


def assert_same(one: nn.Module, other: nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def loaded(folder: str | Path) -> CutieGeo:
    return load_model(str(folder), device="cpu", precision="fp32")


# ------------------------------------------------------------------------------------------------------------ folders
@pytest.mark.slow
def test_a_saved_folder_comes_back_on_the_cpu_in_float32_ready_to_track(model: CutieGeo, tmp_path: Path) -> None:
    save_pretrained(model, tmp_path / "a" / "b")
    assert sorted(path.name for path in (tmp_path / "a/b").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    for place in (tmp_path / "a/b", str(tmp_path / "a/b")):
        again = loaded(place)
        assert type(again) is CutieGeo
        assert (again.precision, again.device.type, again.training) == (torch.float32, "cpu", False)
        assert_same(again, model)


@pytest.mark.slow
def test_a_folder_named_like_a_preset_does_not_hide_the_preset(
    model: CutieGeo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_pretrained(model, "cutie-small")
    assert_same(loaded("./cutie-small"), model)
    assert load_model("cutie-small", "none", "cpu").config.encoder.vision == "resnet18"


def test_the_files_of_frozen_parts_may_be_given(model: CutieGeo, tmp_path: Path) -> None:
    save_pretrained(model, tmp_path)
    for part in ("vision", "geometry"):
        with pytest.raises(ValueError, match=rf"weights\.{part}: got x\.pt, but this model has no {part} encoder that"):
            load_model(str(tmp_path), overrides=[f"weights.{part}=x.pt"])


def test_saving_again_keeps_a_card_unless_there_is_more_to_say(model: CutieGeo, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("My own words.")
    save_pretrained(model, tmp_path)
    assert (tmp_path / "README.md").read_text() == "My own words."
    save_pretrained(model, tmp_path, {"data": "MOSE"})
    assert "MOSE" in (tmp_path / "README.md").read_text()


# ----------------------------------------------------------------------------------------------------------- download
@pytest.mark.slow
def test_a_model_on_the_hub_comes_back(on_hub: str, model: CutieGeo) -> None:
    assert_same(load_model(f"hf://{on_hub}", device="cpu", precision="fp32"), model)
    assert_same(load_model(f"hf://{on_hub}@{COMMIT}", device="cpu", precision="fp32"), model)


def test_weights_on_the_hub_fill_a_model_of_the_same_configuration(
    on_hub: str, model: CutieGeo, tmp_path: Path
) -> None:
    (tmp_path / "nano.yaml").write_text((tmp_path / "saved/README.md").read_text().split("```")[1].removeprefix("yaml"))
    assert_same(load_model(str(tmp_path / "nano.yaml"), f"hf://{on_hub}", "cpu", "fp32"), model)
    with pytest.raises(ValueError, match="not a checkpoint of cutie-small"):
        load_model("cutie-small", f"hf://{on_hub}", "cpu")


def test_what_was_downloaded_needs_no_network(
    on_hub: str, model: CutieGeo, hub: Repositories, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = download(on_hub)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    point_at(monkeypatch, "http://127.0.0.1:9", tmp_path / "hub")
    assert download(on_hub) == folder
    assert_same(loaded(download(on_hub, local_files_only=True)), model)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("me/nothing", "no such repository, or one that needs a login"),
        ("me/nano@v9", "no revision v9 in this repository"),
        ("me/broken", "no answer, and not all of it was downloaded before .*403 Forbidden.*being moved. Try later"),
        ("a/b/c", "Repo id must be in the form"),
        ("me/empty", r"has no model\.safetensors, expected a model saved by cutie_geo"),
    ],
)
def test_what_is_not_on_the_hub_is_said_in_one_line(on_hub: str, hub: Repositories, name: str, complaint: str) -> None:
    hub["me/empty"] = {"config.json": b"{}"}
    for load in (download, lambda name: load_model(f"hf://{name}", device="cpu")):
        with pytest.raises(ValueError, match=complaint) as caught:
            load(name)
        assert str(caught.value).startswith(f"hf://{name.partition('@')[0]}: ")
        assert "\n" not in str(caught.value)


def test_a_repository_without_anything_of_ours_is_named(hub: Repositories) -> None:
    hub["me/other"] = {"pytorch_model.bin": b"x"}
    with pytest.raises(ValueError, match=r"^hf://me/other: has no model\.safetensors"):
        download("me/other")


@pytest.mark.usefixtures("no_hub")
def test_without_a_network_the_error_is_one_line() -> None:
    for load in (download, lambda name: load_model(f"hf://{name}", device="cpu")):
        with pytest.raises(ValueError, match=r"^hf://me/nano: cannot be downloaded .*: no answer, .*refused") as caught:
            load("me/nano")
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("no_hub")
def test_without_a_network_there_are_only_local_files() -> None:
    with pytest.raises(ValueError, match="only local files were allowed"):
        download("me/nano", local_files_only=True)


# ------------------------------------------------------------------------------------------------------------- upload
@pytest.mark.slow
def test_a_pushed_model_comes_back(hub: Repositories, model: CutieGeo) -> None:
    address = push_to_hub(model, "me/new", {"data": "DAVIS 2017", "title": "Nano"})
    assert address.endswith(f"/me/new/commit/{COMMIT}")
    assert sorted(hub["me/new"]) == ["README.md", "config.json", "model.safetensors"]
    assert b"# Nano" in hub["me/new"]["README.md"]
    assert_same(load_model("hf://me/new", device="cpu", precision="fp32"), model)


# --------------------------------------------------------------------------------------------------------------- card
def card_of(encoder: EncoderConfig | None, files: dict[str, FrozenFile] | None = None, **said: object) -> ModelCard:
    """The card of a small network that is said to have an encoder which would be large."""
    network = CutieGeo(tiny_config())
    if encoder is not None:
        network.config = tiny_config(encoder=encoder)
    network.frozen_files = files or {}
    return model_card(network, **said)  # type: ignore[arg-type]


def section(card: ModelCard, title: str) -> str:
    return card.text.split(f"\n## {title}\n")[1].split("\n## ")[0].strip()


def test_a_card_states_data_licence_configuration_and_scores() -> None:
    said = {"data": "MOSE, then VISOR.", "licence": "Apache-2.0", "scores": {"DAVIS 2017 val J&F": 88.8, "VISOR": 0.9}}
    card = card_of(None, title="My tracker", **said)
    assert section(card, "Data") == "MOSE, then VISOR."
    assert section(card, "Licence") == "Apache-2.0"
    assert card.data.license == "apache-2.0"
    assert card.text.startswith("\n# My tracker\n")
    assert section(card, "Frozen parts") == "None: all tensors are in this repository."
    assert "| DAVIS 2017 val J&F | 88.8 |\n| VISOR | 0.9 |" in section(card, "Scores")
    stated = yaml.safe_load(section(card, "Configuration").removeprefix("```yaml").removesuffix("```"))
    assert stated["encoder"]["vision"] == "resnet18"
    assert stated["key_dim"] == 16
    assert "weights" not in stated


def test_a_card_says_what_nobody_stated() -> None:
    card = card_of(None)
    assert section(card, "Data") == "Not stated."
    assert section(card, "Licence") == "Not stated."
    assert section(card, "Scores") == "None stated."
    assert card.data.license == "other"
    assert card.data.library_name == "cutie_geo"
    assert card.data.pipeline_tag == "image-segmentation"


def test_a_card_names_frozen_parts_with_source_licence_and_digest() -> None:
    known = CATALOGUE["sam2.1-hiera-small"]
    files = {"vision": FrozenFile(known.file, str(known.sha256)), "geometry": FrozenFile("mine.pth", "ab" * 32)}
    card = card_of(EncoderConfig("hiera-small", geometry="depth-anything-v2-small"), files, licence="MIT")
    lines = section(card, "Frozen parts").splitlines()
    assert lines[-2] == f"- vision: [{known.file}]({known.url}), Apache-2.0, SHA-256 `{known.sha256}`"
    assert lines[-1] == f"- geometry: mine.pth, SHA-256 `{'ab' * 32}`"
    assert card.data.license == "mit"


@pytest.mark.parametrize(
    ("encoder", "bound"),
    [
        (EncoderConfig("hiera-large", geometry="depth-anything-v2-large"), "depth_anything_v2_vitl.pth"),
        (EncoderConfig("hiera-base-plus", geometry="depth-anything-v2-base"), "depth_anything_v2_vitb.pth"),
        (EncoderConfig("hiera-small", "mae"), "hiera_small_224.mae.safetensors"),
        (EncoderConfig("hiera-small", "mae", freeze=False), "hiera_small_224.mae.safetensors"),
        (EncoderConfig("hiera-small", geometry="depth-anything-v2-small"), None),
        (EncoderConfig("hiera-large", geometry="depth-anything-v2-large", geometry_init="none"), None),
        (EncoderConfig("resnet50"), None),
    ],
)
def test_a_part_for_non_commercial_use_makes_the_whole_such(encoder: EncoderConfig, bound: str | None) -> None:
    card = card_of(encoder, licence="MIT")
    if bound:
        said = f"CC BY-NC 4.0, for non-commercial use only, as {bound} is. The trained tensors by themselves: MIT."
        assert section(card, "Licence") == said
        assert card.data.license == "cc-by-nc-4.0"
    else:
        assert section(card, "Licence") == "MIT"
        assert card.data.license == "mit"
