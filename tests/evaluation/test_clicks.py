"""Clicks are counted as RITM counts them, on cases whose numbers are known."""

import numpy as np
import pytest

from cutie_geo.data.clicks import border_distance, box_of, next_click
from cutie_geo.evaluation.clicks import MOST_CLICKS, ObjectScore, iou, score_object, summaries, summary
from cutie_geo.structures import Prompt


def square(side: int, start: int = 10, size: int = 40) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[start : start + side, start : start + side] = True
    return mask


def test_the_first_click_is_in_the_middle_of_the_object() -> None:
    assert next_click(square(9), np.zeros((40, 40), bool)) == (14.5, 14.5, 1)


def test_a_click_corrects_the_deeper_of_both_errors() -> None:
    truth = square(20)
    too_much = truth.copy()
    too_much[32:39, 2:9] = True  # 7 by 7, beside the object
    too_much[10:13, 10:13] = False  # 3 by 3, within it
    assert next_click(truth, too_much) == (5.5, 35.5, 0)
    too_little = truth.copy()
    too_little[12:25, 12:25] = False
    assert next_click(truth, too_little) == (18.5, 18.5, 1)


def test_nobody_clicks_where_nothing_is_wrong_or_known() -> None:
    truth = square(9)
    assert next_click(truth, truth) is None
    assert next_click(truth, np.zeros((40, 40), bool), ignore=truth) is None


def test_the_border_of_the_image_is_a_border_of_regions() -> None:
    assert border_distance(np.ones((5, 5), bool))[0, 0] == 1
    assert border_distance(np.ones((5, 5), bool)).max() == 3


def test_a_box_is_half_open_and_needs_a_pixel() -> None:
    assert box_of(square(9)) == (10.0, 10.0, 19.0, 19.0)
    with pytest.raises(ValueError, match="empty mask"):
        box_of(np.zeros((4, 4), bool))


def test_iou_leaves_out_what_is_not_known() -> None:
    truth, found = square(10), square(10, start=15)
    assert iou(found, truth) == 25 / 175
    assert iou(found, truth, ignore=found & ~truth) == 25 / 100
    assert iou(np.zeros((4, 4), bool), np.zeros((4, 4), bool)) == 1


def grows_by_rows(truth: np.ndarray, calls: list[Prompt]):
    """A predictor that finds a fifth more of the object's rows with every click, and all of it in a box."""

    def predict(prompt: Prompt, logits: np.ndarray | None) -> np.ndarray:
        calls.append(prompt)
        assert (logits is None) == (len(prompt.points) <= 1)
        share = 1.0 if prompt.box is not None else min(0.2 * len(prompt.points), 1.0)
        rows = np.flatnonzero(truth.any(1))
        keep = np.zeros_like(truth)
        keep[rows[: round(share * len(rows))]] = True
        return np.where(truth & keep, 3.0, -3.0).astype(np.float32)

    return predict


def test_clicks_are_counted_until_the_mask_is_good() -> None:
    truth, calls = square(20), list[Prompt]()
    score, masks = score_object(grows_by_rows(truth, calls), truth)
    assert score.ious == pytest.approx((0.2, 0.4, 0.6, 0.8, 1.0))
    assert (score.needed(0.55), score.needed(0.85), score.needed(0.9)) == (3, 5, 5)
    assert (score.after(1), score.after(3), score.after(5), score.after(9)) == pytest.approx((0.2, 0.6, 1.0, 1.0))
    assert score.box == 1
    assert len(masks) == 6
    assert calls[-1] == Prompt(box=(10.0, 10.0, 30.0, 30.0))
    assert [len(prompt.points) for prompt in calls] == [1, 2, 3, 4, 5, 0]
    assert calls[2].points[-1][1] > 10 + 8  # on the rows that are missing


def test_an_object_that_is_never_found_counts_as_all_clicks() -> None:
    truth = square(20)
    score, _ = score_object(lambda prompt, logits: np.full(truth.shape, -1.0, np.float32), truth)
    assert len(score.ious) == MOST_CLICKS
    assert score.needed(0.85) == MOST_CLICKS
    assert score.box == 0


def test_the_report_has_means_of_sets_and_their_mean() -> None:
    quick = ObjectScore((0.95,), 0.8, ((1.0, 1.0, 1),))
    slow = ObjectScore((0.5, 0.86, 0.86, 0.88), 0.6, ((1.0, 1.0, 1),) * 4)
    found = summaries({"a": [quick, slow], "b": [quick]})
    assert found["a"] == {
        "objects": 2, "NoC@85": 1.5, "failures@85": 0, "NoC@90": 10.5, "failures@90": 1,
        "IoU@1": pytest.approx(0.725), "IoU@3": pytest.approx(0.905), "IoU@5": pytest.approx(0.915), "box": 0.7,
    }  # fmt: skip
    assert found["mean"]["NoC@85"] == 1.25
    assert found["mean"]["objects"] == 3
    assert found["mean"]["failures@90"] == 1
    with pytest.raises(ValueError, match="no objects"):
        summary([])
