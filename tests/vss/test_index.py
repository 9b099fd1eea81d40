"""Clips of VSPW and VIPSeg: where they are found, how their masks encode classes, and what the check says of them."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cutie_geo.data.check import Findings, check
from cutie_geo.data.index import LABELLED
from cutie_geo.vss.index import SEMANTIC_DATASETS, VIPSEG, VSPW

STEMS = ("00000001", "00000002")


def put(path: Path, *values: int, dtype: type = np.uint8) -> None:
    """An image of 6 x 8 pixels whose first row begins with `values`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((6, 8), dtype)
    pixels[0, : len(values)] = values
    Image.fromarray(pixels).save(path)


def put_vspw(home: Path, split: str = "val", values: Iterable[int] | None = (1, 124, 255)) -> None:
    for stem in STEMS:
        put(home / f"data/v/origin/{stem}.jpg")
        if values is not None:
            put(home / f"data/v/mask/{stem}.png", *values)
    (home / f"{split}.txt").write_text("v\n")


def put_vipseg(home: Path, listed: str, values: Iterable[int] = (1, 6100, 6101, 12403)) -> None:
    for name in ("v", "w"):
        for stem in STEMS:
            put(home / f"images/{name}/{stem}.jpg")
            put(home / f"panomasks/{name}/{stem}.png", *values, dtype=np.uint16)
    (home / listed).write_text("w\n" if listed == "val.txt" else json.dumps({"videos": [{"video_id": "w"}]}))


def found(name: str, root: Path) -> Findings:
    return check([name], root, deep=True, labelled={**LABELLED, **SEMANTIC_DATASETS})[name]


# -------------------------------------------------------------------------------------------------------------- clips
@pytest.mark.parametrize("place", ["", "VSPW_480p", "VSPW/VSPW_480p"])
def test_vspw_has_frames_and_masks_below_each_clip(tmp_path: Path, place: str) -> None:
    put_vspw(tmp_path / place)
    (clip,) = SEMANTIC_DATASETS["vspw-val"].index(tmp_path)
    assert clip.frames["00000002"] == tmp_path / place / "data/v/origin/00000002.jpg"
    assert clip.masks["00000002"] == tmp_path / place / "data/v/mask/00000002.png"
    assert clip.encoding == VSPW
    with pytest.raises(ValueError, match="v: masks hold classes, expected object ids"):
        _ = clip.starts


def test_only_the_test_clips_of_vspw_may_lack_masks(tmp_path: Path) -> None:
    put_vspw(tmp_path, "test", values=None)
    (tmp_path / "val.txt").write_text("v")
    assert SEMANTIC_DATASETS["vspw-test"].index(tmp_path)[0].problem is None
    assert "mask: no masks" in (SEMANTIC_DATASETS["vspw-val"].index(tmp_path)[0].problem or "")


@pytest.mark.parametrize("listed", ["val.txt", "panoptic_gt_VIPSeg_val.json"])
def test_vipseg_is_listed_in_a_text_file_or_in_its_panoptic_json(tmp_path: Path, listed: str) -> None:
    put_vipseg(tmp_path / "VIPSeg_720P", listed)
    (clip,) = SEMANTIC_DATASETS["vipseg-val"].index(tmp_path)
    assert (clip.name, clip.encoding, list(clip.masks)) == ("w", VIPSEG, list(STEMS))


@pytest.mark.parametrize("text", ["[]", '{"videos": [{"id": 1}]}', '{"videos": 3}'])
def test_a_panoptic_json_of_another_form_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "panomasks").mkdir()
    (tmp_path / "panoptic_gt_VIPSeg_val.json").write_text(text)
    with pytest.raises(ValueError, match=r"panoptic_gt_VIPSeg_val\.json: expected"):
        SEMANTIC_DATASETS["vipseg-val"].index(tmp_path)


@pytest.mark.parametrize("name", list(SEMANTIC_DATASETS))
def test_a_root_that_holds_something_else_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"nothere: no such folder, expected a dataset's root"):
        SEMANTIC_DATASETS[name].index(tmp_path / "nothere")
    with pytest.raises(ValueError, match="not the layout of this dataset, expected one of the folders"):
        SEMANTIC_DATASETS[name].index(tmp_path)


# -------------------------------------------------------------------------------------------------------------- check
def test_classes_of_vspw_are_counted_and_other_values_are_named(tmp_path: Path) -> None:
    put_vspw(tmp_path)
    findings = found("vspw-val", tmp_path)
    assert (findings.videos, findings.frames, findings.masks, findings.objects) == (1, 2, 2, 2)
    assert findings.problems == []
    put_vspw(tmp_path, values=(1, 125, 254))
    (problem,) = found("vspw-val", tmp_path).problems
    assert "ids 125, 254, expected classes 1 to 124 (2 of 2" in problem


def test_classes_of_vipseg_are_counted_and_other_values_are_named(tmp_path: Path) -> None:
    put_vipseg(tmp_path, "val.txt")
    findings = found("vipseg-val", tmp_path)
    assert (findings.videos, findings.frames, findings.masks, findings.objects) == (1, 2, 2, 3)
    assert findings.problems == []
    put_vipseg(tmp_path, "val.txt", values=(125, 12500, 60_000))
    (problem,) = found("vipseg-val", tmp_path).problems
    assert "ids 12500, 60000, expected classes 1 to 124 (2 of 2" in problem


def test_the_check_knows_semantic_data_sets_only_where_they_are_passed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vspw-val: no such dataset"):
        check(["vspw-val"], tmp_path)
