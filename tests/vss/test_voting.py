"""The refiner's vote, on cases small enough to be seen."""

import numpy as np
import pytest

from cutie_geo.vss.voting import VOID, Window, cut, majority, paint_order, refine_window


def grid(*rows: str) -> np.ndarray:
    """A map by digits; a dot is VOID."""
    return np.array([[VOID if c == "." else int(c) for c in row] for row in rows], np.uint8)


def masks(*rows: str) -> np.ndarray:
    """A mask of one row for each argument: x is inside. (K, 1, W)"""
    return np.array([[[c == "x" for c in row]] for row in rows])


def refined(base: str, *masklets: str, **options: object) -> str:
    """One frame of one row."""
    out = refine_window(grid(base)[None], masks(*masklets)[:, None], 10, **options)[0, 0]  # type: ignore[arg-type]
    return "".join("." if c == VOID else str(c) for c in out)


def test_a_masklet_takes_the_class_of_most_of_its_pixels_and_the_rest_stays() -> None:
    assert refined("1123344", "xxxx---") == "1111344"


def test_of_classes_with_equal_votes_the_smallest_wins() -> None:
    assert refined("7722", "xxxx") == "2222"
    assert refined("9", "x") == "9"


def test_an_empty_masklet_changes_nothing() -> None:
    assert refined("1234", "----", "xxx-") == refined("1234", "xxx-") == "1114"
    assert refined("1234", "----") == "1234"


def test_without_masklets_the_base_prediction_stays() -> None:
    base = grid("12", "34")[None]
    assert np.array_equal(refine_window(base, np.zeros((0, 1, 2, 2), bool), 10), base)


def test_void_casts_no_vote_and_is_painted_over() -> None:
    assert refined("...5", "xxxx") == "5555"
    assert refined("..5.", "xx--") == "..5."


def test_a_masklet_without_a_vote_hides_no_other() -> None:
    assert refined("..3336", "xx----", "xxxxxx") == "333333"


def test_small_masklets_lie_on_large_ones_however_they_are_ordered() -> None:
    for order in (("xxxxxxxx", "--xx----"), ("--xx----", "xxxxxxxx")):
        assert refined("11551111", *order) == "11551111"
        assert refined("11521111", *order) == "11221111"


def test_pixels_under_another_masklet_vote_for_both() -> None:
    assert refined("1555", "xxxx", "-xxx") == "5555"


def test_of_masklets_of_one_size_the_first_lies_on_top() -> None:
    assert refined("1133", "xxx-", "-xxx") == "1113"
    assert refined("1133", "-xxx", "xxx-") == "1333"


def test_scores_put_the_best_on_top_instead() -> None:
    assert refined("11551111", "xxxxxxxx", "--xx----", scores=[0.9, 0.8]) == "11111111"
    assert refined("11551111", "xxxxxxxx", "--xx----", scores=[0.8, 0.9]) == "11551111"
    assert refined("1133", "xxx-", "-xxx", scores=[0.5, 0.5]) == "1113"
    with pytest.raises(ValueError, match="scores: got 1, expected 2"):
        refined("11", "x-", "-x", scores=[0.5])


def test_all_frames_of_a_window_vote_together_and_with_the_scope_frame_each_for_itself() -> None:
    base = np.stack([grid("112"), grid("222"), grid("233")])
    masklets = np.ones((1, 3, 1, 3), bool)
    assert refine_window(base, masklets, 10)[:, 0].tolist() == [[2, 2, 2]] * 3
    own = refine_window(base, masklets, 10, scope="frame")[:, 0].tolist()
    assert own == [[1, 1, 1], [2, 2, 2], [3, 3, 3]]


def test_a_class_goes_where_only_its_masklet_sees_it() -> None:
    base = np.stack([grid("0770"), grid("0770"), grid("0000")])  # the last frame's prediction has lost class 7
    masklet = np.stack([masks("-xx-")[0], masks("-xx-")[0], masks("--xx")[0]])[None]
    assert refine_window(base, masklet, 10)[:, 0].tolist() == [[0, 7, 7, 0], [0, 7, 7, 0], [0, 0, 7, 7]]


def test_a_class_that_is_a_minority_in_every_masklet_is_gone_from_them() -> None:
    assert refined("11811", "xxxxx") == "11111"
    assert refined("118118", "xxxxx-") == "111118"


def test_size_is_counted_over_the_whole_window() -> None:
    base = np.stack([grid("111222"), grid("111222")])
    first = np.stack([masks("xxxx--")[0], masks("------")[0]])
    second = np.stack([masks("--xxx-")[0], masks("--xxx-")[0]])
    out = refine_window(base, np.stack([first, second]), 10)
    assert out[0, 0].tolist() == [1, 1, 1, 1, 2, 2]  # the first is larger in this frame, but not in the window
    assert out[1, 0].tolist() == [1, 1, 2, 2, 2, 2]


def slow(base: np.ndarray, masklets: np.ndarray, classes: int) -> np.ndarray:
    """The rules pixel by pixel."""
    voted = {}
    for k, masklet in enumerate(masklets):
        votes = [int(c) for c in base[masklet] if c != VOID]
        if votes:
            voted[k] = min(range(classes), key=lambda c: (-votes.count(c), c))
    out = base.copy()
    for place in np.ndindex(*base.shape):
        over = [k for k in voted if masklets[(k, *place)]]
        if over:
            out[place] = voted[min(over, key=lambda k: (masklets[k].sum(), k))]
    return out


@pytest.mark.parametrize("seed", range(5))
def test_any_window_is_refined_as_the_rules_say_pixel_by_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.choice([0, 1, 2, 3, VOID], (3, 9, 11)).astype(np.uint8)
    masklets = np.zeros((6, 3, 9, 11), bool)
    for masklet in masklets[:-1]:
        for mask in masklet[rng.random(3) < 0.8]:
            y, x, h, w = rng.integers(1, 8, 4)
            mask |= (rng.random((9, 11)) < 0.8) & (abs(np.arange(9)[:, None] - y) < h) & (abs(np.arange(11) - x) < w)
    for masklet, kept in zip(masklets, rng.random(6) < 0.5):
        base[masklet & kept & (rng.random(base.shape) < 0.5)] = VOID
    before = base.copy()
    assert np.array_equal(refine_window(base, masklets, 4), slow(base, masklets, 4))
    assert np.array_equal(base, before)


def test_a_patch_gives_its_mask_back() -> None:
    mask = np.random.default_rng(0).random((13, 21)) < 0.1
    patch = cut(mask)
    assert patch is not None
    out = np.zeros_like(mask)
    out[patch.rows, patch.columns] = patch.mask()
    assert np.array_equal(out, mask)
    assert cut(np.zeros((3, 3), bool)) is None


def test_a_window_holds_boxes_of_bits_not_masks() -> None:
    window = Window(4)
    for _ in range(3):
        some = np.zeros((5, 240, 320), bool)
        some[:, 10:50, 20:60] = True
        window.add(np.zeros((240, 320), np.uint8), some)
    held = [patch.bits.nbytes for _, patches in window._frames for patch in patches if patch]
    assert held == [40 * 40 // 8] * 15


def test_a_majority_of_no_masklets_or_no_votes_is_there_too() -> None:
    assert majority(np.zeros((0, 3), np.int64)).tolist() == []
    assert majority(np.array([[0, 0], [1, 3], [2, 2]])).tolist() == [VOID, 1, 0]
    assert paint_order([3, 9, 3]) == [1, 2, 0]
    assert list(Window(3).refined()) == []


def test_frames_that_do_not_fit_the_window_are_refused() -> None:
    window = Window(3)
    window.add(grid("012"), masks("xx-"))
    with pytest.raises(ValueError, match="masklets: got 2 on frame 1, expected 1"):
        window.add(grid("012"), masks("xx-", "--x"))
    with pytest.raises(ValueError, match=r"window: got sizes \[\(1, 2\), \(1, 3\)\] on frame 1, expected one"):
        window.add(grid("01"), masks("xx"))
    with pytest.raises(ValueError, match="base prediction: got label 7, expected 0 to 2, or 255 for none"):
        window.add(grid("072"), masks("xx-"))
    with pytest.raises(ValueError, match="classes: got 255, expected 1 to 254"):
        Window(255)
    empty = Window(3)
    empty.add(grid("012"), np.zeros((0, 1, 3), bool))
    with pytest.raises(ValueError, match="masklets: got 1 on frame 1, expected 0"):
        empty.add(grid("012"), masks("xx-"))
