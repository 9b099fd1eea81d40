"""The plan of a propagation: what is computed from where."""

import json

import pytest

from cutie_geo.inference.session.plan import MAX_PERMANENT, Marks, Pass, Request, next_pass, ranges_of


def marks(anchors, valid=(), locked=()):
    known = set(valid)
    return Marks(anchors, frozenset(locked), lambda i, f: (i, f) in known)


def passes(anchors, request, locked=()):
    """All passes of a propagation, one after the other."""
    valid, found = set(), []
    while (one := next_pass(marks(anchors, valid, locked), request, len(found) + 1)) is not None:
        found.append(one)
        valid |= {(i, f) for i, frames in one.frames.items() for f in frames}
        assert len(found) < 20
    return found


def shown(one):
    return one.backward, one.source, one.last, {i: ranges_of(frames) for i, frames in one.frames.items()}


def test_runs_from_both_sides_meet_in_the_middle():
    found = passes({1: [0, 9]}, Request(0, 12, "both"))
    assert [shown(one) for one in found] == [
        (False, 0, 4, {1: [[1, 5]]}),
        (False, 9, 11, {1: [[10, 12]]}),
        (True, 9, 5, {1: [[5, 9]]}),
    ]
    assert [one.permanent for one in found] == [((9, (1,)),), ((0, (1,)),), ((0, (1,)),)]


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ("forward", [(False, 3, 6, {1: [[4, 7]]}), (False, 7, 9, {1: [[8, 10]]})]),
        ("backward", [(True, 7, 4, {1: [[4, 7]]}), (True, 3, 0, {1: [[0, 3]]})]),
    ],
)
def test_one_direction_uses_the_prompts_before_it_in_that_direction(direction, expected):
    found = passes({1: [3, 7]}, Request(0, 10, direction))
    assert [shown(one) for one in found] == expected
    assert found[0].permanent == ()
    assert found[1].permanent == ((found[0].source, (1,)),)


def test_objects_that_overlap_share_a_run_and_others_do_not():
    found = passes({1: [0], 2: [3]}, Request(0, 8, "both"))
    assert shown(found[0]) == (False, 0, 7, {1: [[1, 8]], 2: [[4, 8]]})
    assert found[0].given == {0: (1,), 3: (2,)}
    assert shown(found[1]) == (True, 3, 0, {2: [[0, 3]]})
    assert found[1].given == {3: (1, 2)}, "the other object is tracked along"
    valid = [(1, f) for f in range(20) if f not in (3, 12)] + [(2, f) for f in range(20)]
    first = next_pass(marks({1: [2, 11], 2: [0]}, valid), Request(0, 20, "forward"), 1)
    assert first is not None and shown(first) == (False, 2, 3, {1: [[3, 4]]})


def test_a_run_begins_at_the_last_valid_frame():
    valid = [(1, f) for f in range(1, 6)]
    one = next_pass(marks({1: [0]}, valid), Request(0, 9, "both"), 4)
    assert one is not None and shown(one) == (False, 5, 8, {1: [[6, 9]]})
    assert one.given == {5: (1,)} and one.permanent == ((0, (1,)),)


def test_locked_frames_are_permanent_memory_and_never_computed():
    found = passes({1: [0, 4, 6]}, Request(0, 9, "forward"), locked=[4, 6])
    assert all(not {4, 6} & frames for one in found for frames in one.frames.values())
    assert found[-1].source == 6 and [frame for frame, _ in found[-1].permanent] == [0, 4]
    late = passes({1: [0], 2: [3]}, Request(0, 9, "forward"), locked=[5])
    assert all(5 not in frames for one in late for frames in one.frames.values())


def test_permanent_memory_is_bounded_and_has_whole_frames():
    anchors = {1: list(range(0, 40, 2)), 2: [39]}
    one = next_pass(marks(anchors), Request(39, 60, "both"), 1)
    assert one is not None and one.source == 38
    assert one.permanent == (), "the second object has no mask on the other prompted frames"
    one = next_pass(marks({1: anchors[1]}), Request(39, 60, "both"), 1)
    assert one is not None and [frame for frame, _ in one.permanent] == list(range(18, 38, 2))
    assert len(one.permanent) == MAX_PERMANENT


def test_a_plan_survives_json():
    one = passes({1: [0], 2: [3]}, Request(0, 8, "both"))[1]
    assert Pass.from_json(json.loads(json.dumps(one.to_json())), "file") == one
    for content in (None, {}, one.to_json() | {"request": [0, 1]}, one.to_json() | {"frames": 3}):
        with pytest.raises(ValueError, match="file"):
            Pass.from_json(content, "file")
    with pytest.raises(ValueError, match=r"(?s)file: .*direction"):
        Pass.from_json(one.to_json() | {"request": [0, 8, "up"]}, "file")


def test_ranges_are_half_open():
    assert ranges_of([]) == []
    assert ranges_of([5, 1, 2, 3, 9]) == [[1, 4], [5, 6], [9, 10]]
