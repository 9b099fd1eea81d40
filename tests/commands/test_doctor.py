"""`cutie-geo doctor`: what it says about this machine and about folders of data, and what it returns."""

import argparse
import hashlib
import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from cutie_geo.checkpoints import catalogue as weights
from cutie_geo.checkpoints.load import needed_files
from cutie_geo.commands import doctor as command
from cutie_geo.config import preset_names
from cutie_geo.runs import doctor


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUTIE_GEO_CACHE", str(tmp_path / "cache"))


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(argv))


def without(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """As if the module `missing` weren't installed."""
    original = importlib.import_module

    def importer(name: str, *args: Any) -> Any:
        if name == missing:
            raise ImportError(f"No module named '{name}'")
        return original(name, *args)

    monkeypatch.setattr(doctor.importlib, "import_module", importer)


def put_video(root: Path, name: str, frames: int = 3, masks: int = 1) -> None:
    picture, mask = Image.new("RGB", (8, 6)), Image.new("P", (8, 6), 1)
    for kind, suffix, count, image in (("JPEGImages", ".jpg", frames, picture), ("Annotations", ".png", masks, mask)):
        (root / kind / name).mkdir(parents=True)
        for i in range(count):
            image.save(root / kind / name / f"{i:05d}{suffix}")


# ---------------------------------------------------------------------------------------------------------- machine
def test_a_healthy_machine_is_reported_in_full(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert run("--json", str(tmp_path / "report.json")) == 0
    out = capsys.readouterr().out
    for word in (
        "device",
        "cpu",
        "cores",
        "python",
        "torch",
        "libx264",
        "cutie-base",
        str(tmp_path / "cache"),
        "example",
    ):
        assert word in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["ok"] is True
    assert report["versions"]["facts"]["torch"] == importlib.import_module("torch").__version__.split("+")[0]
    assert report["weights"]["facts"]["cutie-base"] == "needs cutie-base"
    assert report["weights"]["facts"]["files here"] == []


def test_missing_weights_are_advised_on_by_model_in_one_line():
    section = doctor.check_weights()
    models = ", ".join(name for name in preset_names() if needed_files(name))
    wanted = f"cutie-geo download MODEL gets the missing files of {models}; you need those of your model only"
    assert section.advice == [wanted]
    assert section.facts["cutie-geo-small"] == "needs sam2.1-hiera-small, depth-anything-v2-small"
    assert not section.broken


def test_a_model_whose_files_are_here_is_ready(monkeypatch: pytest.MonkeyPatch):
    """And a file that no preset needs is mentioned only where it is."""
    for name in ("cutie-small", "sam2.1-hiera-small", "hiera-tiny-mae"):
        content = name.encode()
        toy = weights.WeightFile(name, "http://x", "MIT", sha256=hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(weights.CATALOGUE, name, toy)
        weights.cache_dir().mkdir(exist_ok=True)
        weights.location(name).write_bytes(content)
    section = doctor.check_weights()
    assert section.facts["files here"] == ["cutie-small", "sam2.1-hiera-small", "hiera-tiny-mae"]
    assert section.facts["cutie-small"] == "ready"
    assert section.facts["cutie-geo-small"] == "needs depth-anything-v2-small"
    assert len(section.advice) == 1
    assert "cutie-small" not in section.advice[0].replace("cutie-geo-small", "")


def test_a_download_that_was_cut_is_advised_on_by_name():
    weights.cache_dir().mkdir()
    weights.location("hiera-tiny-mae").with_name("hiera_tiny_224.mae.safetensors.part").write_bytes(b"half")
    section = doctor.check_weights()
    assert "hiera-tiny-mae is partial: cutie-geo download hiera-tiny-mae" in section.advice
    assert not section.broken


def test_a_damaged_weight_is_broken():
    path = weights.location("cutie-base")
    path.parent.mkdir()
    path.write_bytes(b"half a file")
    section = doctor.check_weights()
    assert section.broken
    assert "cutie-base is damaged: cutie-geo download cutie-base --force" in section.advice


def test_little_space_is_warned_of(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    assert "little space" in doctor.check_weights().advice[0]


def test_every_dependency_of_the_project_is_checked():
    project = (Path(doctor.__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    facts = doctor.check_versions().facts
    assert {"torch", "numpy", "av", "pillow"} <= set(facts)
    assert all(f'"{name}' in project for name in facts if name not in ("python", "cutie_geo"))
    assert "pytest" not in facts, "extras are no needs"


@pytest.mark.parametrize(
    ("requirement", "broken"),
    [("numpy>=1.0", False), ("numpy>=999", True), ("no-such-package>=1", True), ("numpy", False)],
)
def test_old_and_missing_packages_are_broken(monkeypatch: pytest.MonkeyPatch, requirement: str, broken: bool):
    monkeypatch.setattr(doctor, "_requirements", lambda: [requirement])
    section = doctor.check_versions()
    assert section.broken is broken
    assert bool(section.advice) is broken
    if broken:
        assert f"pip install '{requirement}'" in section.advice[0]


@pytest.mark.parametrize(("older", "newer"), [("1.9", "1.10"), ("2", "2.0.1"), ("2.4.0rc1", "2.4.1")])
def test_versions_are_compared_as_numbers(older: str, newer: str):
    assert doctor._release(older) < doctor._release(newer)
    assert doctor._release("1.0") == doctor._release("1")


@pytest.mark.parametrize(
    "missing",
    ["torch", "av", "cutie_geo.data.example", "cutie_geo.checkpoints.catalogue", "cutie_geo.checkpoints.load"],
)
def test_the_doctor_speaks_where_a_package_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
):
    without(monkeypatch, missing)
    assert run() == 1
    assert f"{missing} cannot be imported: No module named" in capsys.readouterr().out


def test_the_doctor_of_data_speaks_where_a_package_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    without(monkeypatch, "cutie_geo.data.check")
    assert run("--data", "--data-root", str(tmp_path)) == 1
    assert "cannot be imported" in capsys.readouterr().out


def test_a_missing_encoder_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "_has_codec", lambda av, name, mode: mode == "r")
    section = doctor.check_video()
    assert section.facts["write mp4 (libx264)"] is False
    assert any("libx264" in line for line in section.advice)


def test_an_unknown_codec_is_absent():
    av = importlib.import_module("av")
    assert doctor._has_codec(av, "mpeg4", "r")
    assert not doctor._has_codec(av, "nosuchcodec", "r")


def test_a_missing_example_is_advised_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("cutie_geo.data.example.example_root", lambda: tmp_path)
    section = doctor.check_example()
    assert section.facts == {"frames": 0, "masks": 0}
    assert "install the package again" in section.advice[0]


def test_a_gpu_that_torch_cannot_use_is_told_apart_from_none(monkeypatch: pytest.MonkeyPatch):
    torch = importlib.import_module("torch")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert "no GPU found" in doctor.check_device().advice[0]
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "cannot use this machine's NVIDIA GPU" in doctor.check_device().advice[0]


# ------------------------------------------------------------------------------------------------------------- data
def test_a_dataset_is_counted(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    put_video(tmp_path, "a", 3)
    put_video(tmp_path, "b", 4)
    report = tmp_path / "r.json"
    assert run("--data", "--data-root", str(tmp_path), "--dataset", "generic", "--json", str(report)) == 0
    counts = json.loads(report.read_text())["data"]["facts"]["generic"]
    assert counts == {"videos": 2, "frames": 7, "masks": 2, "objects": 2, "problems": []}
    assert ["generic", "2", "7", "2", "2", "0"] in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_problems_are_listed_up_to_ten_and_make_a_named_dataset_broken(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    put_video(tmp_path, "good")
    for i in range(12):
        put_video(tmp_path, f"bad{i:02d}", masks=0)
    assert run("--data", "--data-root", str(tmp_path), "--dataset", "generic") == 1
    out = capsys.readouterr().out
    assert "bad09: " in out
    assert "bad10: " not in out
    assert "and 2 more" in out


def test_without_a_name_the_readable_datasets_are_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    put_video(tmp_path / "valid", "a")
    assert run("--data", "--data-root", str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "mose-valid" in out
    assert "lvos-valid" in out
    assert "davis" not in out


def test_a_reading_with_problems_gives_way_to_one_without(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """A benchmark with first masks only isn't a training set that lacks the others."""
    put_video(tmp_path, "a")
    report = tmp_path / "r.json"
    assert run("--data", "--data-root", str(tmp_path), "--json", str(report)) == 0
    facts = json.loads(report.read_text())["data"]["facts"]
    assert "generic" in facts
    assert "mose-train" not in facts
    assert run("--data", "--data-root", str(tmp_path), "--dataset", "mose-train") == 1
    assert "2 of 3 frames without a mask: 00001, 00002" in capsys.readouterr().out


def test_a_fault_beside_a_sound_dataset_is_still_told(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    put_video(tmp_path, "a")
    put_video(tmp_path / "valid", "b")
    put_video(tmp_path / "valid", "c")
    (tmp_path / "valid/Annotations/c/00000.png").write_bytes(b"")
    assert run("--data", "--data-root", str(tmp_path)) == 1
    out = capsys.readouterr().out
    assert "c/00000.png: cannot be read as a mask" in out
    assert "generic" in out


@pytest.mark.parametrize("deep", [False, True])
def test_a_truncated_frame_is_found_by_decoding_every_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, deep: bool
):
    put_video(tmp_path, "a")
    path = tmp_path / "JPEGImages/a/00002.jpg"
    path.write_bytes(path.read_bytes()[:-20])
    argv = ["--data", "--data-root", str(tmp_path), "--dataset", "generic", *(["--deep"] if deep else [])]
    assert run(*argv) == int(deep)
    out, err = capsys.readouterr()
    assert ("00002.jpg: cannot be read as an image" in out) == deep
    assert ("--deep decodes every one" in out) != deep
    assert ("files: 4/4 files" in err) == deep


def test_datasets_that_find_the_same_share_a_row(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    put_video(tmp_path / "valid", "a")
    run("--data", "--data-root", str(tmp_path))
    assert capsys.readouterr().out.count("valid ") == 1


def test_an_unknown_layout_is_broken_and_says_why(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert run("--data", "--data-root", str(tmp_path)) == 1
    out = capsys.readouterr().out
    assert "docs/data.md has the layouts; --dataset NAME says what one lacks" in out
    assert run("--data", "--data-root", str(tmp_path), "--dataset", "mose-valid") == 1
    assert "not the layout of this dataset" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--data"], "--data: got no root"),
        (["--data-root", "x"], "expected --data with them"),
        (["--deep"], "expected --data with them"),
        (["--data", "--data-root", "nothere"], "nothere: no such folder"),
        (["--data", "--data-root", ".", "--dataset", "nope"], "nope: no such dataset"),
        (["--data", "--data-root", ".", "--json", "no/such/place.json"], "place.json: cannot be written"),
    ],
)
def test_options_that_make_no_sense_are_one_line(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert run(*argv) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
