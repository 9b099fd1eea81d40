"""Names from notes, archives, lists and JSON lead nowhere but into the folder that they are about."""

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutie_geo.__main__ import run_one
from cutie_geo.config import is_name, require_name
from cutie_geo.data.convert.frames import FrameStore
from cutie_geo.data.convert.ledger import Ledger
from cutie_geo.data.index.layouts import object_frames
from cutie_geo.data.masks import write_labels, write_probs
from cutie_geo.evaluation.folders import listed_names
from cutie_geo.inference.results import Results
from cutie_geo.vss.semantic_maps import read_panoptic

ELSEWHERE = ["../x", "..", ".", "", "/etc/x", "a/b", "a\\b", "..\\x", "C:x", "C:\\x", "a\0b", "x" * 256, "ü" * 128]
INSIDE = ["00000", "frame 1", "12:30:01", "..x", "x..", ".hidden", "输出", "P01_107_frame_0000000000", "a" * 255]
NOT_TEXT: list[Any] = [None, 3, ["a"], {"a": 1}, True]


@pytest.mark.parametrize("name", [*ELSEWHERE, *NOT_TEXT], ids=repr)
def test_names_that_lead_elsewhere_are_refused(name: Any) -> None:
    assert not is_name(name)
    with pytest.raises(ValueError, match=r"^here: got .*expected a plain name") as caught:
        require_name(name, "here")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", INSIDE)
def test_plain_names_pass(name: str) -> None:
    assert require_name(name, "here") == name


def write_run(root: Path, frames: list[Any], **entries: Any) -> Path:
    """A finished run of one video `v` with the probabilities of two frames; its note names `frames`."""
    results, labels = Results(root), np.zeros((4, 6), np.int32)
    labels[1:3, 1:3] = 1
    for name in ("0", "1"):
        write_labels(results.labels("v", name), labels)
        write_probs(results.probs("v", name), np.stack([labels == 0, labels == 1]).astype(np.float32), [1])
    results.keep({"video": "v", "frames": frames, "settings": {}, "input": {}, **entries})
    return root


def fuse(tmp_path: Path, frames: list[Any], **entries: Any) -> int:
    runs = [str(write_run(tmp_path / name, frames, **entries)) for name in "AB"]
    return run_one("fuse", [*runs, "--output", str(tmp_path / "deep" / "out")], "fuse")


def test_a_run_is_fused(tmp_path: Path) -> None:
    assert fuse(tmp_path, ["0", "1"]) == 0


@pytest.mark.parametrize("frame", ["../../ESCAPED", "/ESCAPED", "..", 3, None, "a\0b"], ids=repr)
def test_fuse_writes_nothing_outside_its_output(frame: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run in "AB":  # what such a name leads to is there to be read
        (tmp_path / run).mkdir()
        write_run(tmp_path / run, [])
        shutil.copy(tmp_path / run / "probs" / "v" / "1.npz", tmp_path / run / "ESCAPED.npz")
    assert fuse(tmp_path, ["0", frame]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "v.json: frames: got " in said[0]
    assert not [path for path in tmp_path.rglob("*ESCAPED*") if path.suffix == ".png"]
    assert {path.name for path in tmp_path.iterdir()} == {"A", "B", "deep"}
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"out"}


@pytest.mark.parametrize(
    ("entry", "value"),
    [("settings", []), ("settings", 3), ("input", "x"), ("presence", [1]), ("frames", {"0": 1}), ("frames", "01")],
)
def test_a_note_of_other_types_is_one_line(
    entry: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = {"frames": ["0", "1"], entry: value}
    assert fuse(tmp_path, entries.pop("frames"), **entries) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert f"v.json: {entry}: got {type(value).__name__}, expected" in said[0]


def test_notes_nested_deeply_are_no_notes(tmp_path: Path) -> None:
    results = Results(write_run(tmp_path, ["0"]))
    results.note("v").write_text("[" * 100_000, encoding="utf-8")
    assert results.report("v") is None
    results.note("v").write_text('{"video": "v", "settings": ' + '{"a":' * 300 + "1" + "}" * 301, encoding="utf-8")
    with pytest.raises(ValueError, match=r"v\.json: nested too deeply"):
        results.report("v")
    assert results.reports() == {}


def test_members_of_archives_are_read_by_plain_names_only(tmp_path: Path) -> None:
    path = tmp_path / "v.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("P01/a.jpg", "../../b.jpg", "x\\..\\..\\c.jpg", "/abs/d.jpg", "C:e.jpg", "..", "f/.."):
            archive.writestr(name, b"x")
    with FrameStore(path) as store:
        assert store.images() == ["a.jpg", "b.jpg", "d.jpg"]


def test_lists_and_json_name_frames_plainly(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"meta: v: frames: got '\.\./x'"):
        object_frames({"objects": {"1": {"frames": ["00000", "../x"]}}}, "meta: v")
    (tmp_path / "list.txt").write_text("a\n..\\b\n", encoding="utf-8")
    with pytest.raises(ValueError, match="is not a sequence name"):
        listed_names(tmp_path / "list.txt")
    segment = {"id": 1, "category_id": 1}
    frame = {"file_name": "0.png", "segments_info": [segment]}
    path = tmp_path / "pred.json"
    path.write_text(json.dumps({"annotations": [{"video_id": "../x", "annotations": [frame]}]}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"pred\.json: got '\.\./x'"):
        read_panoptic(path)


def test_a_ledger_removes_nothing_outside_its_folder(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "notes").mkdir(parents=True)
    outside = tmp_path / "keep.png"
    outside.write_bytes(b"x")
    ledger = Ledger(root, root / "notes")
    for name in ("../keep.png", str(outside), "a/../../keep.png"):
        ledger.finish("v", "f", [name], {})
        assert ledger.finished("v", "f") is None
        ledger.remove_stale("v", [])
        assert outside.exists()


@pytest.mark.parametrize("ids", [[-1], [0], [1, 1], [2**40], [1.5]], ids=repr)
def test_probabilities_of_objects_that_can_not_be_are_refused(ids: list[Any], tmp_path: Path) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, probs=np.zeros((len(ids) + 1, 4, 6), np.uint8), ids=np.asarray(ids))
    root = write_run(tmp_path / "A", ["0", "1"])
    (root / "probs" / "v" / "1.npz").write_bytes(content.getvalue())
    other = write_run(tmp_path / "B", ["0", "1"])
    assert run_one("fuse", [str(root), str(other), "--output", str(tmp_path / "out")], "fuse") == 2
