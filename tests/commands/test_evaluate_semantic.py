"""`cutie-geo evaluate --protocol vspw|vipseg`: numbers, files, plots and errors."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cutie_geo.__main__ import main
from cutie_geo.data.masks import write_labels
from cutie_geo.data.render import SceneConfig, render_clip
from cutie_geo.vss.metrics import main_numbers, score_clip
from cutie_geo.vss.mislabel import mislabel
from cutie_geo.vss.plots import BETTER, OTHER, WORSE, choose_frames, differences, painted, panels
from cutie_geo.vss.report import MAIN
from cutie_geo.vss.semantic_maps import write_semantic
from cutie_geo.vss.voting import refine_window

Said = pytest.CaptureFixture[str]
SCENE = SceneConfig(height=48, width=64, frames=20, min_objects=2, max_objects=3)
CLIPS = ("one", "two")
CLASSES = 4


@pytest.fixture(scope="module")
def maps() -> dict[str, dict[str, np.ndarray]]:
    """True maps, a base prediction and its refinement, of two rendered clips, with a bar of void in truth."""
    found = {}
    for seed, name in enumerate(CLIPS):
        clip = render_clip(seed, SCENE)
        base = mislabel(clip.labels, CLASSES, seed)
        masklets = np.stack([clip.labels == i for i in range(1, CLASSES)])
        truth = clip.labels.copy()
        truth[:, :4] = 255
        found[name] = {"truth": truth, "base": base, "refined": refine_window(base, masklets, CLASSES)}
        found[name]["images"] = clip.images
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, maps: dict[str, dict[str, np.ndarray]]) -> Path:
    """The clips in VSPW's layout, and both predictions, written once."""
    root = tmp_path_factory.mktemp("written")
    for name, own in maps.items():
        folder = root / "VSPW_480p" / "data" / name
        (folder / "origin").mkdir(parents=True)
        for t, true_labels in enumerate(own["truth"]):
            raw = np.where(true_labels == 255, 0 if t % 2 else 255, true_labels + 1)
            write_labels(folder / "mask" / f"{t:08d}.png", raw)
            Image.fromarray(own["images"][t]).save(folder / "origin" / f"{t:08d}.jpg")
            for kind in ("base", "refined"):
                write_semantic(root / kind / name / f"{t:08d}.png", own[kind][t])
    (root / "VSPW_480p" / "val.txt").write_text("\n".join(CLIPS))
    (root / "VSPW_480p" / "label_num_dic_final.json").write_text('{"others": "0", "wall": "1", "ceiling": "2"}')
    return root


@pytest.fixture
def roots(tmp_path: Path, written: Path) -> list[str]:
    """A copy of the files, which tests may damage."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return ["--protocol", "vspw", "--gt", str(tmp_path / "VSPW_480p"), "--pred", str(tmp_path / "refined")]


def evaluate(*argv: object) -> int:
    return main(["evaluate", *map(str, argv)])


def report_of(path: Path, *argv: object) -> dict[str, Any]:
    assert evaluate(*argv, "--json", path) == 0
    return json.loads(path.read_text())


# ------------------------------------------------------------------------------------------------------------ numbers
@pytest.mark.parametrize("clip_list", ["val.txt", "val_with_extras.txt"])
def test_the_official_numbers_come_out_of_the_command(test_data: Path, tmp_path: Path, clip_list: str) -> None:
    root = test_data / "metric_fixtures"
    roots = ["--protocol", "vspw", "--gt", root / "vss" / "VSPW_480p", "--pred", root / "vss" / "predictions"]
    named = [] if clip_list == "val.txt" else ["--sequences", root / "vss" / "VSPW_480p" / clip_list]
    report = report_of(tmp_path / "r.json", *roots, *named)
    expected = json.loads((root / "expected_vss.json").read_text())[clip_list]
    script, own, variants = expected["cffm_script"], expected["own_formulas"], report["variants"]
    over16 = variants["clips_over_16_frames"]
    assert over16["mIoU"] == pytest.approx(100 * script["mIoU"], abs=1e-6)
    assert over16["wIoU"] == pytest.approx(100 * script["FWIoU"], abs=1e-6)
    assert report["mBIoU"] == pytest.approx(100 * own["mBIoU_paper_pixelwise"], abs=1e-6)
    for n in (8, 16):
        assert over16[f"mVC{n}"] == pytest.approx(100 * script[f"VC{n}"], abs=1e-6)
        assert report[f"mVC{n}"] == pytest.approx(100 * expected[f"vspw_script_{n}"][f"VC{n}"], abs=1e-6)
        strict = own["strict_paper_mVC"][f"mVC{n}_mean_of_clip_means"]
        assert variants[f"mVC{n}_strict"] == pytest.approx(100 * strict, abs=1e-6)
    assert variants["mIoU_with_predicted"] == pytest.approx(100 * expected["mmseg"]["mIoU_nanmean"], abs=1e-6)
    assert variants["accuracy"] == pytest.approx(100 * expected["mmseg"]["aAcc"], abs=1e-6)
    if clip_list == "val.txt":
        assert {name: report[name] for name in MAIN} == {name: over16[name] for name in MAIN}
        assert variants["mAcc"] == pytest.approx(100 * script["mean_class_accuracy"], abs=1e-6)


@pytest.mark.slow
def test_files_score_as_the_maps_do_in_memory(
    roots: list[str], tmp_path: Path, maps: dict[str, dict[str, np.ndarray]], capsys: Said
) -> None:
    report = report_of(tmp_path / "deep" / "r.json", *roots)
    scores = [score_clip(name, own["truth"], own["refined"], 124) for name, own in maps.items()]
    for name, value in main_numbers(scores).items():
        assert report[name] == pytest.approx(value, abs=1e-9)
    for item in scores:
        assert report["clips"][item.clip]["mVC8"] == pytest.approx(main_numbers([item])["mVC8"])
        assert len(report["clips"][item.clip]["frames"]) == len(item.frames) == 20
    assert report["counts"]["windows"] == {"8": 24, "16": 8}
    assert report["classes"]["1"]["name"] == "ceiling"
    assert "480 pixels high" in report["warnings"][0]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == list(MAIN)
    assert [line.split()[0] for line in printed[1:4]] == ["one", "two", "overall"]
    assert printed[3].split()[1] == f"{report['mIoU']:.1f}"


@pytest.mark.slow
def test_processes_write_the_same_bytes(roots: list[str], tmp_path: Path) -> None:
    for workers in (1, 2):
        report_of(tmp_path / f"{workers}.json", *roots, "--workers", workers)
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_the_base_is_scored_too_and_every_number_of_the_refinement_is_above_it(
    roots: list[str], tmp_path: Path, capsys: Said
) -> None:
    report = report_of(tmp_path / "r.json", *roots, "--base", tmp_path / "base", "--vc", 3)
    alone = report_of(tmp_path / "b.json", *roots[:-1], tmp_path / "base", "--vc", 3)
    names = [*MAIN, "mVC3"]
    assert report["base"] == {name: alone[name] for name in report["base"]}
    assert set(report["base"]) == set(names)
    for name in names:
        assert report["gain"][name] == pytest.approx(report[name] - alone[name])
        assert report["gain"][name] > 0
    assert report["clips"]["one"]["base"]["mIoU"] == alone["clips"]["one"]["mIoU"]
    assert report["classes"]["1"]["base_IoU"] == alone["classes"]["1"]["IoU"]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[3:6]] == ["overall", "base", "gain"]


def test_vipseg_is_scored_from_its_16_bit_masks_against_panoptic_results(tmp_path: Path) -> None:
    home, results = tmp_path / "VIPSeg_720P", tmp_path / "results"
    (home / "panomasks" / "v").mkdir(parents=True)
    frames = []
    for t in range(18):
        ids = np.zeros((6, 8), np.uint16)
        ids[:, 2:] = 14  # stuff, class 13
        ids[2:4, 3:5] = 6100 + t  # things, class 60
        Image.fromarray(ids).save(home / "panomasks" / "v" / f"{t:05d}.png")
        predicted = np.where(ids >= 6100, 300, 7)
        write_labels(results / "pan_pred" / "v" / f"{t:05d}.png", predicted, long_ids=True)
        segments = [{"id": 7, "category_id": 13}, {"id": 300, "category_id": 60}]
        frames.append({"file_name": f"{t:05d}.jpg", "segments_info": segments})
    (home / "val.txt").write_text("v\n")
    (results / "pred.json").write_text(json.dumps({"annotations": [{"video_id": "v", "annotations": frames}]}))
    report = report_of(tmp_path / "r.json", "--protocol", "vipseg", "--gt", home, "--pred", results)
    assert {name: report[name] for name in MAIN} == dict.fromkeys(MAIN, 100)
    assert report["classes"].keys() == {"13", "60"}
    assert report["counts"]["pixels"] == 18 * 6 * 6


# --------------------------------------------------------------------------------------------------------- errors
def remove(folder: Path) -> None:
    (folder / "two" / "00000003.png").unlink()


def remove_all(folder: Path) -> None:
    for path in (folder / "two").iterdir():
        path.unlink()


def add(folder: Path) -> None:
    write_semantic(folder / "one" / "00000077.png", np.zeros((48, 64), np.uint8))


def shrink(folder: Path) -> None:
    write_semantic(folder / "one" / "00000005.png", np.zeros((24, 32), np.uint8))


def invent(folder: Path) -> None:
    write_labels(folder / "one" / "00000005.png", np.full((48, 64), 124))


def leave_out(folder: Path) -> None:
    labels = np.zeros((48, 64), np.uint8)
    labels[:12] = 255
    write_semantic(folder / "one" / "00000005.png", labels)


def colour(folder: Path) -> None:
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(folder / "one" / "00000005.png")


Damage = Callable[[Path], None]


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (
            remove,
            "two/00000003: the prediction is missing, expected {}/two/00000003.png; got 19 predictions for 20",
        ),
        (remove_all, "two: no predictions, expected 20 masks in {}/two"),
        (add, "one/00000077: no true mask for the prediction {}/one/00000077.png, expected "),
        (
            shrink,
            "one/00000005: the prediction, {}/one/00000005.png, is (24, 32), expected (48, 64), the size of the",
        ),
        (invent, "one/00000005: the prediction, {}/one/00000005.png: got values 124, expected classes 0 to 123"),
        (
            leave_out,
            "{}/one/00000005.png, has no label (255) on 25.0% of its pixels, expected a class everywhere, or --allow",
        ),
        (colour, "one/00000005: the prediction is RGB (48, 64, 3), expected palette or grey (H, W) of 8 bits"),
    ],
)
def test_predictions_that_do_not_fit_are_named_with_what_was_expected(
    roots: list[str], tmp_path: Path, damage: Damage, complaint: str, capsys: Said
) -> None:
    damage(tmp_path / "refined")
    assert evaluate(*roots, "--json", tmp_path / "r.json") == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert complaint.format(tmp_path / "refined") in said[0]
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("damage", "treated"),
    [(remove, "no label"), (remove_all, "no label"), (add, "ignored"), (shrink, "resized"), (invent, "no label")],
)
def test_lenient_scores_them_and_marks_the_report(
    roots: list[str], tmp_path: Path, damage: Damage, treated: str, capsys: Said
) -> None:
    whole = report_of(tmp_path / "whole.json", *roots)
    damage(tmp_path / "refined")
    report = report_of(tmp_path / "r.json", *roots, "--lenient")
    assert report["lenient"] is True
    assert [item["treated_as"] for item in report["treated"]] == [treated]
    assert (report["mIoU"] < whole["mIoU"]) == (damage is not add)
    assert "LENIENT" in capsys.readouterr().out


def test_pixels_without_a_label_are_wrong_where_that_is_allowed(roots: list[str], tmp_path: Path) -> None:
    whole = report_of(tmp_path / "whole.json", *roots)
    leave_out(tmp_path / "refined")
    report = report_of(tmp_path / "r.json", *roots, "--allow-void")
    assert report["variants"]["accuracy"] < whole["variants"]["accuracy"]
    assert (report["allow_void"], report["treated"]) == (True, [])


def test_an_invalid_true_mask_is_an_error_even_if_lenient(roots: list[str], tmp_path: Path, capsys: Said) -> None:
    path = tmp_path / "VSPW_480p" / "data" / "one" / "mask" / "00000002.png"
    for labels, complaint in (
        (np.full((48, 64), 200), f"the true mask, {path}: got values 200, expected classes 1 to 124"),
        (np.full((24, 64), 1), "one/00000002: the true mask is (24, 64), expected (48, 64), as the first of the clip"),
    ):
        write_labels(path, labels)
        assert evaluate(*roots, "--lenient") == 2
        assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--protocol", "vspw"], "--gt: expected a folder of masks"),
        (["--base", "nowhere"], "--base nowhere: no such folder"),
        (["--all-frames"], "--all-frames: got protocol vspw, which has no such option"),
        (["--meta", "m.json"], "--meta: got protocol vspw"),
        (["--pictures", "2"], "--pictures: expected --plots DIR with it"),
        (["--pictures", "0", "--plots", "p"], "--pictures: got 0, expected 1 or more"),
        (["--vc", "0"], "--vc: got [0], expected window lengths from 1 on"),
        (["--workers", "0"], "--workers: got 0"),
        (["--sequences", "none.txt"], "none.txt: cannot be read"),
        (["--protocol", "visor", "--vc", "3"], "--vc: got protocol visor, expected one of vspw, vipseg"),
        (["--compare", "a", "b", "--allow-void"], "--allow-void: got --compare, expected one of vspw, vipseg"),
        (["--protocol", "vpsw"], "--protocol: got vpsw, expected one of davis2016"),
    ],
)
def test_invalid_options_are_one_line(roots: list[str], argv: list[str], complaint: str, capsys: Said) -> None:
    given = argv if argv == ["--protocol", "vspw"] else [*roots, *argv]
    assert evaluate(*given) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert complaint in said[0]


# -------------------------------------------------------------------------------------------------------------- plots
def test_pictures_show_classes_clips_and_the_frames_that_changed_most(roots: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "plots"
    argv = [*roots, "--base", tmp_path / "base", "--plots", folder, "--pictures", 5]
    report = report_of(tmp_path / "r.json", *argv)
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    assert found[:2] == ["classes.png", "clips.png"]
    assert [name.rsplit("_", 1)[0] for name in found[2:]] == ["frames/one", "frames/two"]  # one of a clip
    with Image.open(folder / found[2]) as picture:
        assert picture.width == 4 * 64 + 3 * 4
    with Image.open(folder / "clips.png") as picture:
        bars = (np.asarray(picture) == (255, 88, 72)).all(2).sum(1)
    lengths = {int(length) for length in bars if length > 20}  # the legend's mark is shorter
    ratio = report["clips"]["one"]["mIoU"] / report["clips"]["two"]["mIoU"]
    assert any(abs(first / second - ratio) < 0.02 for first in lengths for second in lengths)
    assert max(lengths) > 50 * report["clips"]["one"]["mIoU"] / 100


def test_frames_are_chosen_by_change_or_by_low_accuracy() -> None:
    def entry(*accuracy: float | None) -> dict[str, Any]:
        return {"frames": ["a", "b", "c"], "accuracy_per_frame": list(accuracy)}

    after = {"clips": {"x": entry(90, 80, None), "y": entry(50, 60, 70)}}
    before = {"clips": {"x": entry(90, 20, None), "y": entry(60, 60, 68)}}
    assert [choice[:2] for choice in choose_frames(after, before, 2)] == [("x", "b"), ("y", "a")]
    assert [choice[:2] for choice in choose_frames(after, None, 1)] == [("y", "a")]
    assert choose_frames(after, None, 0) == []


def test_differences_have_the_colour_of_the_correct_map() -> None:
    truth = np.array([[1, 1, 1, 255, 1]], np.uint8)
    before = np.array([[0, 1, 2, 2, 1]], np.uint8)
    after = np.array([[1, 0, 3, 3, 1]], np.uint8)
    assert differences(truth, before, after).tolist() == [[[*BETTER], [*WORSE], [*OTHER], [*OTHER], [0, 0, 0]]]


def test_without_a_base_the_last_panel_shows_what_is_wrong_and_void_is_not() -> None:
    truth = np.array([[1, 1, 255]], np.uint8)
    after = np.array([[1, 2, 2]], np.uint8)
    picture = np.asarray(panels(truth, after))
    assert picture.shape[1] == 3 * 3 + 2 * 4
    assert picture[-1, -3:].tolist() == [[0, 0, 0], [*WORSE], [0, 0, 0]]


def test_classes_are_painted_over_the_frame_and_void_leaves_it() -> None:
    classes = np.array([[0, 0, 7, 255]], np.uint8)
    image = np.full((1, 4, 3), 200, np.uint8)
    alone, over = painted(classes)[0].tolist(), painted(classes, image)[0].tolist()
    assert alone[0] == alone[1] != alone[2]
    assert alone[3] == [70, 70, 70]
    assert over[3] == [200, 200, 200]
    assert over[0] == [round(0.6 * value + 0.4 * 200) for value in alone[0]]
