"""Every protocol gives the numbers of its official program, and its odd cases are what the program means by them."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from cutie_geo.data.masks import write_labels
from cutie_geo.evaluation.folders import EvaluationError, Reader, listed_names, sequence_names
from cutie_geo.evaluation.metrics import (
    SOFT_THRESHOLD,
    boundary,
    contour_accuracy,
    region_similarity,
    statistics,
)
from cutie_geo.evaluation.mosev2 import disappearance
from cutie_geo.evaluation.protocols import PROTOCOLS, Settings, find_meta, find_unseen, read_meta
from cutie_geo.evaluation.report import Report, build_report
from cutie_geo.evaluation.scoring import jobs, score_sequences

DAVIS_KEYS = {
    "J&F": "J&F-Mean",
    "J": "J-Mean",
    "J_recall": "J-Recall",
    "J_decay": "J-Decay",
    "F": "F-Mean",
    "F_recall": "F-Recall",
    "F_decay": "F-Decay",
}
TOLERANCE = 1e-7
"""In percent."""
VARIANTS = {
    "davis2017": ("davis2017", False),
    "visor_variant": ("visor", False),
    "vos_benchmark_skip": ("vos-benchmark", False),
    "vos_benchmark_all": ("vos-benchmark", True),
}
"""Blocks of official numbers: our protocol, and whether all frames are scored."""


@pytest.fixture(scope="module")
def fixtures(test_data: Path) -> Path:
    return test_data / "metric_fixtures"


@pytest.fixture(scope="module")
def official(fixtures: Path) -> dict[str, Any]:
    return json.loads((fixtures / "expected.json").read_text())


def evaluate(truth: Path, masks: Path, protocol: str = "davis2017", names: list[str] | None = None, **rest) -> Report:
    settings = Settings(protocol, **rest)
    return build_report(list(score_sequences(jobs(truth, masks, names or sequence_names(truth), settings))), settings)


def objects_of(report: Report) -> dict[str, dict[str, Any]]:
    return {f"{name}_{i}": own for name, entry in report["sequences"].items() for i, own in entry["objects"].items()}


def assert_davis(report: Report, expected: dict[str, Any], per_object: dict[str, Any]) -> None:
    for ours, theirs in DAVIS_KEYS.items():
        assert report[ours] == pytest.approx(100 * expected[theirs], abs=TOLERANCE), ours
    objects = objects_of(report)
    assert objects.keys() == per_object.keys()
    for key, numbers in per_object.items():
        for measure in ("J", "F"):
            own = [objects[key][name] for name in (measure, f"{measure}_recall", f"{measure}_decay")]
            wanted = [100 * numbers[measure][name] for name in ("mean", "recall", "decay")]
            assert own == pytest.approx(wanted, abs=TOLERANCE), key
            if "per_frame" in numbers[measure]:
                frames = [100 * value for value in numbers[measure]["per_frame"]]
                assert objects[key][f"{measure}_per_frame"] == pytest.approx(frames, abs=TOLERANCE)


def assert_benchmark(report: Report, expected: dict[str, Any]) -> None:
    for name in ("J&F", "J", "F"):
        assert report[name] == pytest.approx(expected["global"][name], abs=TOLERANCE)
    wanted = {f"{name}_{i}": own for name, objects in expected["per_object"].items() for i, own in objects.items()}
    objects = objects_of(report)
    assert objects.keys() == wanted.keys()
    for key, numbers in wanted.items():
        assert (objects[key]["J"], objects[key]["F"]) == pytest.approx((numbers["J"], numbers["F"]), abs=TOLERANCE)


# --------------------------------------------------------------------------------------------------- official numbers
@pytest.mark.parametrize("variant", ["davis2017", "visor_variant"])
def test_davis_and_visor_are_the_official_ones(fixtures: Path, official: dict[str, Any], variant: str) -> None:
    root, block = fixtures / "vos" / "main", official["main"][variant]
    report = evaluate(root / "Annotations" / "480p", root / "predictions" / "noisy", VARIANTS[variant][0])
    assert_davis(report, block["global"], block["per_object"])


@pytest.mark.parametrize("variant", ["vos_benchmark_skip", "vos_benchmark_all"])
def test_vos_benchmark_is_the_official_one(fixtures: Path, official: dict[str, Any], variant: str) -> None:
    root, (protocol, all_frames) = fixtures / "vos" / "main", VARIANTS[variant]
    report = evaluate(root / "Annotations" / "480p", root / "predictions" / "noisy", protocol, all_frames=all_frames)
    assert_benchmark(report, official["main"][variant])


def test_davis_2016_is_the_official_one(fixtures: Path, official: dict[str, Any]) -> None:
    root, block = fixtures / "vos" / "davis2016", official["davis2016"]
    report = evaluate(root / "Annotations" / "480p", root / "predictions" / "binary", "davis2016")
    assert_davis(report, block["global"], block["per_sequence"])


@pytest.mark.parametrize("with_meta", [True, False])
def test_mose_v2_is_the_official_one(fixtures: Path, official: dict[str, Any], with_meta: bool) -> None:
    root, block = fixtures / "vos" / "main", official["main"]["mosev2"]
    meta = read_meta(root / "mosev2_meta.json") if with_meta else {}
    report = evaluate(root / "Annotations" / "480p", root / "predictions" / "noisy", "mosev2", meta=meta)
    assert bool(report["warnings"]) == (not with_meta)
    for name, wanted in block["global"].items():
        assert report[name] == pytest.approx(wanted, abs=0.011), name
    objects = objects_of(report)
    assert objects.keys() == block["per_object"].keys()
    for key, numbers in block["per_object"].items():
        for name, wanted in numbers.items():
            assert objects[key][name] == (None if wanted is None else pytest.approx(wanted, abs=0.011)), (key, name)


def test_lvos_is_the_official_one(fixtures: Path, official: dict[str, Any]) -> None:
    truth, block = fixtures / "vos" / "lvos" / "Annotations", official["lvos"]
    meta, unseen = find_meta(truth, "lvos"), find_unseen(truth, "lvos")
    assert meta is not None
    assert unseen is not None
    names = frozenset(listed_names(unseen))
    report = evaluate(truth, truth.parent / "predictions", "lvos", meta=read_meta(meta), unseen=names)
    for name in ("J", "F", "V", "J&F"):
        assert report[name] == pytest.approx(100 * block["global"][f"{name}-Mean"], abs=TOLERANCE)
    for group in ("seen", "unseen"):
        for name in ("J", "F", "V"):
            wanted = 100 * block["global"][f"{name}-{group}-Mean"]
            assert report["groups"][group][name] == pytest.approx(wanted, abs=TOLERANCE)
    objects = objects_of(report)
    assert objects.keys() == block["per_object"].keys()
    for key, numbers in block["per_object"].items():
        assert [objects[key][name] for name in "JFV"] == pytest.approx([100 * numbers[n] for n in "JFV"], abs=TOLERANCE)


def test_odd_sequences_score_as_officially_or_stop_with_a_name(fixtures: Path, official: dict[str, Any]) -> None:
    """Where the official program gives numbers, we give the same; where it exits, raises or hangs, we raise."""
    root, outcomes = fixtures / "vos" / "quirks", {"scored": 0, "refused": 0}
    for name, blocks in official["quirks"].items():
        for variant, (protocol, all_frames) in VARIANTS.items():
            block = blocks[variant]
            arguments = (root / "Annotations" / "480p", root / "predictions" / "p", protocol, [name])
            numbers = block["outcome"] == "ok" and any(v is not None for v in block["global"].values())
            if numbers:
                outcomes["scored"] += 1
                report = evaluate(*arguments, all_frames=all_frames)
                if protocol == "vos-benchmark":
                    assert_benchmark(report, block)
                else:
                    assert_davis(report, block["global"], block["per_object"])
                continue
            outcomes["refused"] += 1
            with pytest.raises(ValueError, match=f"^{name}[:/]|no object to score") as caught:
                evaluate(*arguments, all_frames=all_frames)
            if block["outcome"] != "ok":  # officially fine, but without a single object
                assert isinstance(caught.value, EvaluationError)
                assert caught.value.sequence == name
    assert min(outcomes.values()) > 5


def test_statistics_are_the_official_ones(official: dict[str, Any]) -> None:
    for case in official["functions"]["db_statistics"]:
        wanted = (case["mean"], case["recall"], case["decay"])
        assert tuple(statistics(case["values"])) == pytest.approx(wanted, abs=1e-9)


def test_decay_of_long_sequences_does_not_wrap_around_as_the_official_one_does(official: dict[str, Any]) -> None:
    for case in official["functions"]["db_statistics_uint8_overflow"]:
        values = np.round(np.linspace(1, 0, case["n"]), 4).tolist()
        found = statistics(values)
        assert (found.mean, found.recall) == pytest.approx((case["mean"], case["recall"]), abs=1e-9)
        assert found.decay == pytest.approx(0.75, abs=0.01)


def test_void_and_other_tolerances_are_the_official_ones(official: dict[str, Any]) -> None:
    for case in official["functions"]["frame_metrics"]:
        truth, mask, void = (np.array([[c == "1" for c in row] for row in case[k]]) for k in ("gt", "pred", "void"))
        assert contour_accuracy(truth, mask, bound=case["bound_th"]) == pytest.approx(case["F"], abs=1e-9)
        assert region_similarity(truth, mask, void) == pytest.approx(case["J_void"], abs=1e-9)
        found = contour_accuracy(truth, mask, void, case["bound_th"])
        assert found == pytest.approx(case["F_void"], abs=1e-9)


# ------------------------------------------------------------------------------------------------------- by hand
SIZE = (40, 50)


def square(left: int, value: int = 1, top: int = 5) -> np.ndarray:
    labels = np.zeros(SIZE, np.int32)
    labels[top : top + 10, left : left + 10] = value
    return labels


def write(folder: Path, maps: list[np.ndarray], step: int = 1, digits: int = 5) -> None:
    for t, labels in enumerate(maps):
        write_labels(folder / f"{t * step:0{digits}d}.png", labels)


def both(tmp_path: Path, truth: list[np.ndarray], masks: list[np.ndarray] | None = None) -> tuple[Path, Path]:
    write(tmp_path / "truth" / "one", truth)
    write(tmp_path / "masks" / "one", truth if masks is None else masks)
    return tmp_path / "truth", tmp_path / "masks"


def test_soft_masks_are_cut_above_one_half() -> None:
    truth = square(5) > 0
    soft = np.where(truth, 0.51, SOFT_THRESHOLD).astype(np.float32)
    assert region_similarity(truth, soft) == contour_accuracy(truth, soft) == 1
    assert np.array_equal(boundary(soft), boundary(truth))
    assert region_similarity(truth, soft - np.float32(0.02)) == 0


def test_exactly_one_half_is_not_recalled() -> None:
    assert statistics([0.5, 0.5, 0.500001]).recall == pytest.approx(1 / 3)


@pytest.mark.parametrize(("values", "decay"), [([0.7], 0), ([0.8, 0.5], 0.3), ([0.9, 0.6, 0.3], 0.45)])
def test_one_two_and_three_frames_have_a_decay(values: list[float], decay: float) -> None:
    """Of three frames the first two are the first quarter and the third is the last."""
    assert statistics(values).decay == pytest.approx(decay)


def test_no_frame_has_no_statistics() -> None:
    with pytest.raises(ValueError, match="no scored frames"):
        statistics([])


def test_visor_scores_the_last_of_two_frames_and_davis_has_none_left(tmp_path: Path) -> None:
    truth, masks = both(tmp_path, [square(5), square(6)])
    assert evaluate(truth, masks, "visor")["J&F"] == 100
    with pytest.raises(
        EvaluationError, match="one: 2 true masks leave none to score: first and last frames are not scored"
    ):
        evaluate(truth, masks, "davis2017")
    with pytest.raises(ValueError, match="no object to score"):
        evaluate(truth, masks, "davis2017", lenient=True)


def test_a_lenient_davis_leaves_out_what_is_too_short(tmp_path: Path) -> None:
    truth, masks = both(tmp_path, [square(5), square(6)])
    for root in (truth, masks):
        write(root / "two", [square(5)] * 3)
    report = evaluate(truth, masks, lenient=True)
    assert report["counts"] == {"sequences": 2, "objects": 1, "frames": 1, "without_objects": ["one"]}
    assert report["J&F"] == 100
    assert [(item["sequence"], item["treated_as"]) for item in report["treated"]] == [("one", "left out")]


def test_a_gap_in_the_first_labels_is_a_phantom_object_of_davis_and_said_so(tmp_path: Path) -> None:
    truth, masks = both(tmp_path, [square(5) + square(20, 3)] * 3)
    report = evaluate(truth, masks)
    assert list(report["sequences"]["one"]["objects"]) == ["1", "2", "3"]
    assert report["warnings"] == ["one: labels 2 are missing in the first true frame and count as objects, as in DAVIS"]
    assert list(evaluate(truth, masks, "vos-benchmark")["sequences"]["one"]["objects"]) == ["1", "3"]


def test_a_sequence_without_objects_is_listed_and_counts_for_nothing(tmp_path: Path) -> None:
    truth, masks = both(tmp_path, [square(5, 0)] * 4)
    for root in (truth, masks):
        write(root / "two", [square(5)] * 4)
    report = evaluate(truth, masks)
    assert report["J&F"] == 100
    assert report["counts"]["without_objects"] == ["one"]
    assert report["sequences"]["one"]["J"] is None
    assert "one: no object in the first true frame: contributes nothing" in report["warnings"]


def test_vos_benchmark_counts_an_object_from_where_it_is_first_seen(tmp_path: Path) -> None:
    """In the truth or in the prediction; a label that only predictions hold is no object but takes pixels."""
    nothing, first, second = square(0, 0), square(5), square(30, 2)
    truth, masks = both(
        tmp_path, [first, first, first, first + second, first], [first, first, first + second, first + second, first]
    )
    report = evaluate(truth, masks, "vos-benchmark")
    assert report["sequences"]["one"]["objects"]["2"]["J_per_frame"] == [0, 100]
    write(tmp_path / "masks" / "one", [nothing, first + square(30, 9), first, first + second, first])
    assert list(evaluate(truth, masks, "vos-benchmark")["sequences"]["one"]["objects"]) == ["1", "2"]


def test_davis_2016_takes_any_label_as_the_object(tmp_path: Path) -> None:
    truth, masks = both(tmp_path, [square(5, 255) + square(20, 3)] * 3, [square(5) + square(20, 255)] * 3)
    assert evaluate(truth, masks, "davis2016")["J&F"] == 100


def test_youtube_vos_scores_an_object_after_its_own_first_frame(tmp_path: Path) -> None:
    early, late = square(5), square(30, 2)
    maps = [early, early, early + late, early + late]
    write(tmp_path / "truth" / "one", maps, 5)
    write(tmp_path / "masks" / "one", [early, early, early, early], 5)
    roots = tmp_path / "truth", tmp_path / "masks"
    report = evaluate(*roots, "youtubevos")
    assert report["sequences"]["one"]["objects"]["1"]["frames"] == ["00005", "00010", "00015"]
    assert report["sequences"]["one"]["objects"]["2"]["frames"] == ["00015"]

    stems = ["00000", "00005", "00010", "00015"]
    objects = {"1": {"category": "cat", "frames": stems[:3]}, "2": {"category": "dog", "frames": stems[2:]}}
    report = evaluate(*roots, "youtubevos", meta={"one": {"objects": objects}}, unseen=frozenset({"dog"}))
    assert report["sequences"]["one"]["objects"]["1"]["frames"] == ["00005", "00010"]
    assert report["groups"]["seen"]["J"] == 100
    assert report["groups"]["unseen"]["J"] == 0
    assert report["J&F"] == 50


def test_seen_and_unseen_weigh_the_same_however_many_objects_they_have(tmp_path: Path) -> None:
    for name, good in (("a", True), ("b", True), ("c", False)):
        write(tmp_path / "truth" / name, [square(5)] * 4)
        write(tmp_path / "masks" / name, [square(5) if good else square(30)] * 4)
    roots = tmp_path / "truth", tmp_path / "masks"
    assert evaluate(*roots, "lvos", unseen=frozenset("c"))["J"] == 50
    lone = evaluate(*roots, "lvos", unseen=frozenset("abc"))
    assert lone["J"] == pytest.approx(200 / 3)
    assert lone["warnings"][-1] == "no seen objects: the numbers are those of the others"
    assert evaluate(*roots, "lvos")["J"] == pytest.approx(200 / 3)


def test_lvos_leaves_out_both_ends_of_an_objects_range_and_fills_up_with_zeros(tmp_path: Path) -> None:
    for root in ("truth", "masks"):
        for number in range(1, 32, 5):
            write_labels(tmp_path / root / "one" / f"{number:08d}.png", square(5))

    def scored(start: int, end: int, count: int) -> tuple[list[str], list[float]]:
        span = {"frame_range": {"start": f"{start:08d}", "end": f"{end:08d}", "frame_nums": count}}
        meta = {"one": {"objects": {"1": span}}}
        own = evaluate(tmp_path / "truth", tmp_path / "masks", "lvos", meta=meta)["sequences"]["one"]["objects"]["1"]
        return own["frames"], own["J_per_frame"]

    assert scored(6, 26, 5) == (["00000011", "00000016", "00000021"], [100] * 3)
    assert scored(6, 26, 6) == (["00000011", "00000016", "00000021"], [100] * 3 + [0])
    assert scored(6, 26, 4) == (["00000011", "00000016"], [100] * 2)


def test_runs_of_absence_and_what_follows_them_are_told_apart() -> None:
    scores = [1.0, 0.2, 0.4, 0.6, 0.8, 0.0]
    assert disappearance(scores, [False, True, True, False, False, True]) == pytest.approx((0.15, 0.7))
    assert disappearance(scores, [True, True, False, False, False, False]) == (None, pytest.approx(0.45))
    assert disappearance(scores, [False] * 6) == (None, None)


def test_mose_v2_gives_nothing_for_a_missing_sequence(tmp_path: Path) -> None:
    truth, masks = both(tmp_path, [square(5)] * 4)
    write(truth / "two", [square(5)] * 4)
    with pytest.raises(EvaluationError, match="two/00001: the folder of predictions is missing"):
        evaluate(truth, masks, "mosev2")
    report = evaluate(truth, masks, "mosev2", lenient=True)
    assert report["sequences"]["two"]["J"] == report["sequences"]["two"]["F"] == 0
    assert report["J"] == 50


def test_unknown_protocols_and_options_of_others_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one of davis2016, davis2017"):
        Settings("davis")
    with pytest.raises(ValueError, match="expected vos-benchmark"):
        Settings("visor", all_frames=True)
    assert {"davis2016", "davis2017", "visor", "youtubevos", "mose", "mosev2", "lvos", "vos-benchmark"} == set(
        PROTOCOLS
    )


# ----------------------------------------------------------------------------------------------------- odd files
def test_void_in_the_truth_is_background_and_in_a_prediction_an_unknown_label(tmp_path: Path) -> None:
    truth, masks = both(tmp_path, [square(5) + square(20, 255)] * 3, [square(5)] * 3)
    assert evaluate(truth, masks)["J&F"] == 100
    write(tmp_path / "masks" / "one", [square(5) + square(20, 255)] * 3)
    with pytest.raises(EvaluationError, match="one/00001: the prediction holds unknown labels 255; the objects are 1"):
        evaluate(truth, masks)


@pytest.mark.parametrize("wrong", ["label", "frame", "size"])
def test_what_is_wrong_stops_the_evaluation_or_is_treated_and_marked(tmp_path: Path, wrong: str) -> None:
    truth, masks = both(tmp_path, [square(5)] * 4)
    path = masks / "one" / "00002.png"
    if wrong == "label":
        write_labels(path, square(5) + square(20, 7))
    elif wrong == "frame":
        path.unlink()
    else:
        write_labels(path, np.kron(square(5), np.ones((2, 2), np.int32)))
    with pytest.raises(EvaluationError) as caught:
        evaluate(truth, masks)
    assert (caught.value.sequence, caught.value.frame) == ("one", "00002")
    assert str(caught.value).startswith("one/00002: the prediction ")

    report = evaluate(truth, masks, lenient=True)
    assert report["lenient"] is True
    assert report["J"] == (50 if wrong == "frame" else 100)
    treated = {"label": "background", "frame": "empty", "size": "resized"}[wrong]
    assert [(item["frame"], item["treated_as"]) for item in report["treated"]] == [("00002", treated)]


def test_a_clean_lenient_report_is_marked_too(tmp_path: Path) -> None:
    report = evaluate(*both(tmp_path, [square(5)] * 3), lenient=True)
    assert (report["lenient"], report["treated"]) == (True, [])


def test_a_missing_folder_is_named_and_if_lenient_noted_once(tmp_path: Path) -> None:
    truth, masks = both(tmp_path, [square(5)] * 5)
    for path in (masks / "one").iterdir():
        path.unlink()
    (masks / "one").rmdir()
    with pytest.raises(EvaluationError, match="one/00001: the folder of predictions is missing"):
        evaluate(truth, masks)
    report = evaluate(truth, masks, lenient=True)
    assert report["J&F"] == 0
    assert [item["frame"] for item in report["treated"]] == [None]


def test_unscored_and_extra_frames_and_hidden_and_other_files_do_not_matter(tmp_path: Path) -> None:
    truth, masks = both(tmp_path, [square(5)] * 4)
    for name in ("00000.png", "00003.png"):
        (masks / "one" / name).unlink()
    write_labels(masks / "one" / "00009.png", square(5, 9))
    write_labels(masks / "extra" / "00000.png", square(5))
    for folder in (truth / "one", masks / "one"):
        (folder / ".00001.png").write_bytes(b"")
        (folder / "notes.txt").write_text("no mask")
    assert evaluate(truth, masks)["J&F"] == 100


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "1", "I;16"])
@pytest.mark.parametrize("lenient", [False, True])
def test_only_indexed_and_grey_masks_of_8_bits_are_scored(tmp_path: Path, mode: str, lenient: bool) -> None:
    truth, masks = both(tmp_path, [square(5)] * 3)
    values = np.uint16 if mode == "I;16" else np.uint8
    image = Image.fromarray(square(5).astype(values))
    (image if mode == "I;16" else image.convert(mode)).save(masks / "one" / "00001.png")
    with pytest.raises(EvaluationError, match=f"one/00001: the prediction is {mode} .* expected palette or grey"):
        evaluate(truth, masks, lenient=lenient)


def test_a_damaged_mask_is_named(tmp_path: Path) -> None:
    truth, masks = both(tmp_path, [square(5)] * 3)
    path = masks / "one" / "00001.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(EvaluationError, match="one/00001: the prediction"):
        evaluate(truth, masks)
    path.write_bytes(b"no picture")
    with pytest.raises(EvaluationError, match="one/00001: the prediction"):
        evaluate(truth, masks)


@pytest.mark.parametrize("mode", ["P", "L"])
@pytest.mark.parametrize("filters", [False, True])
def test_masks_read_the_same_with_and_without_row_filters(tmp_path: Path, mode: str, filters: bool) -> None:
    """OpenCV filters the rows of what it writes, Pillow those of grey masks only."""
    labels = np.add.outer(np.arange(40), np.arange(50)).astype(np.uint8)
    path = tmp_path / "masks" / "one" / "00000.png"
    path.parent.mkdir(parents=True)
    if filters:
        cv2.imwrite(str(path), labels, [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_FILTERED])
    else:
        image = Image.fromarray(labels)
        if mode == "P":
            image.putpalette(bytes(768))
        image.save(path)
    reader = Reader("one", tmp_path, path.parent, lenient=False)
    assert np.array_equal(reader.labels("00000", (40, 50), None), labels)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(EvaluationError, match="one/00000: the prediction"):
        reader.labels("00000", (40, 50), None)


def test_greys_and_masks_of_few_bits_keep_their_labels(tmp_path: Path) -> None:
    truth, masks = both(tmp_path, [square(5) + square(20, 2)] * 3)
    path = masks / "one" / "00001.png"
    Image.fromarray((square(5) + square(20, 2)).astype(np.uint8)).save(path)
    assert evaluate(truth, masks)["J&F"] == 100
    few = Image.fromarray((square(5) + square(20, 2)).astype(np.uint8))
    few.putpalette([0, 0, 0, 9, 9, 9, 8, 8, 8, 7, 7, 7])
    few.save(path, bits=2)
    assert evaluate(truth, masks)["J&F"] == 100


def test_nothing_to_score_is_an_error_and_not_a_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folders of PNG masks"):
        sequence_names(tmp_path)
    truth, masks = both(tmp_path, [square(5, 0)] * 3)
    with pytest.raises(ValueError, match="no object to score in 1 sequences"):
        evaluate(truth, masks)


def test_lists_and_meta_files_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("a\n\nb \na\n")
    assert listed_names(path) == ["a", "b"]
    path.write_text("/JPEGImages/a/0.jpg /Annotations/a/0.png\n")
    with pytest.raises(ValueError, match="expected one name a line"):
        listed_names(path)
    path.write_text("\n")
    assert listed_names(path) == [], "an empty list lists nothing"
    path.write_text("a\nb\n", encoding="utf-8-sig")
    assert listed_names(path) == ["a", "b"], "a byte-order mark is no part of a name"
    for text in ("no json", "[]", '{"videos": []}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"list\.txt"):
            read_meta(path)


def test_a_meta_file_is_found_beside_the_masks_unless_there_are_two(tmp_path: Path) -> None:
    truth = tmp_path / "Annotations"
    truth.mkdir()
    assert find_meta(truth, "mosev2") is None
    (tmp_path / "train_meta.json").write_text("{}")
    assert find_meta(truth, "mosev2") == tmp_path / "train_meta.json"
    assert find_meta(truth, "davis2017") is None
    (tmp_path / "valid_meta.json").write_text("{}")
    with pytest.raises(ValueError, match="several meta files"):
        find_meta(truth, "lvos")
