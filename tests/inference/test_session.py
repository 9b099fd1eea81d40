"""Sessions: prompts, propagation, corrections, approval, undo, and what is on disk."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_videos import SIZE, write_film, write_frames

import cutie_geo
from cutie_geo.config import TrackerConfig
from cutie_geo.data.masks import read_labels
from cutie_geo.data.video import open_source, to_tensor
from cutie_geo.inference.prompting import PromptedMask
from cutie_geo.inference.session.session import _bytes
from cutie_geo.structures import Frame

FRAMES = 12


class ColourPrompter:
    """Segments what has the colour of the positive clicks, within a box if there is one."""

    encoded = 0

    def encode(self, image):
        self.encoded += 1
        return image

    def predict(self, encoded, prompt, mask=None, from_prompts=False):
        height, width = encoded.shape[-2:]
        found = torch.zeros(height, width, dtype=torch.bool) if mask is None else mask > 0.5
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        for px, py, label in prompt.points:
            near = (x - px) ** 2 + (y - py) ** 2 <= 14**2
            place = (min(int(py), height - 1), min(int(px), width - 1))
            same = (encoded - encoded[:, place[0], place[1]][:, None, None]).abs().sum(0) < 0.5
            found = found | (near & same) if label else found & ~(near & same)
        if prompt.box is not None:
            x0, y0, x1, y1 = prompt.box
            inside = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
            found = found & inside if prompt.points else inside
        return PromptedMask(found.float() * 20 - 10, 1.0)


def block(top, left, height=20, width=24):
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


LEFT, RIGHT = block(10, 10), block(30, 60)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_frames(tmp_path_factory.mktemp("clip") / "drift", FRAMES)


@pytest.fixture
def start(clip, tiny_model, tmp_path):
    """Make a session in a new folder, or open it again."""

    def make(name="work", **options):
        options = {"prompter": ColourPrompter(), "tracker": TrackerConfig(mem_every=3, max_internal_size=-1), **options}
        return cutie_geo.Session(clip, tiny_model, tmp_path / name, **options)

    return make


def maps(session):
    """All label maps, as bytes."""
    return [session.labels(i).tobytes() for i in range(len(session))]


def run(session, **options):
    return [index for index, _ in session.propagate(**options)]


# --------------------------------------------------------------------------------------------------------- propagation
@pytest.mark.slow
def test_propagation_equals_segmenting_the_video(start, clip, tiny_model):
    session = start()
    session.set_mask(0, 1, LEFT)
    session.set_mask(0, 7, RIGHT)
    assert run(session) == list(range(1, FRAMES))
    labels = LEFT.astype(np.int32) + 7 * RIGHT
    tracker = cutie_geo.Tracker(tiny_model, mem_every=3, max_internal_size=-1)
    frames = [frame._replace(given=labels if i == 0 else None) for i, frame in enumerate(unmasked(clip))]
    expected = [found.numpy() for _, found in cutie_geo.segment_video(tracker, frames)]
    assert np.array_equal(session.labels(0), labels)
    for index in range(1, FRAMES):
        assert np.array_equal(session.labels(index), expected[index])
    assert session.labels(3).dtype == np.int32
    assert {i for found in expected for i in np.unique(found)} == {0, 1, 7}


def unmasked(clip):
    return [Frame(name, to_tensor(image), image.shape[:2]) for name, image in open_source(clip)]


@pytest.mark.slow
def test_backward_equals_forward_on_the_reversed_video(start, clip, tmp_path, tiny_model):
    files = sorted(clip.iterdir())
    turned = tmp_path / "turned"
    turned.mkdir()
    for k, path in enumerate(reversed(files)):
        (turned / f"{k:05d}.jpg").write_bytes(path.read_bytes())
    session = start()
    session.set_mask(FRAMES - 1, 1, LEFT)
    other = cutie_geo.Session(
        turned, tiny_model, tmp_path / "other", tracker=TrackerConfig(mem_every=3, max_internal_size=-1)
    )
    other.set_mask(0, 1, LEFT)
    assert run(session, direction="forward") == []
    assert run(session, direction="backward") == list(range(FRAMES - 2, -1, -1))
    run(other)
    assert maps(session) == maps(other)[::-1]


def test_forward_and_backward_meet_in_the_middle(start):
    session = start()
    session.set_mask(0, 1, LEFT)
    session.set_mask(10, 1, RIGHT)
    assert run(session) == [1, 2, 3, 4, 5, 11, 9, 8, 7, 6]
    status = session.status()
    assert status.missing == () and status.stale == ()
    assert status.propagated.ranges == [(1, 10), (11, 12)]
    assert run(session) == []


@pytest.mark.slow
def test_a_range_and_a_closed_generator_leave_the_rest(start):
    session = start()
    session.set_mask(4, 1, LEFT)
    assert run(session, start=2, stop=7) == [5, 6, 3, 2]
    assert session.status().missing.ranges == [(0, 2), (7, FRAMES)]
    whole = start("whole")
    whole.set_mask(4, 1, LEFT)
    run(whole)
    again = start("again")
    again.set_mask(4, 1, LEFT)
    steps = again.propagate()
    assert [next(steps)[0] for _ in range(3)] == [5, 6, 7]
    steps.close()
    assert again.status().propagated == (5, 6, 7)
    assert run(again) == [8, 9, 10, 11, 3, 2, 1, 0]
    assert maps(again) == maps(whole)


# --------------------------------------------------------------------------------------------------------- corrections
@pytest.mark.slow
def test_only_masks_that_depend_on_a_correction_are_computed_again(start):
    session = start()
    for object_id, mask in ((1, LEFT), (2, RIGHT)):
        session.set_mask(0, object_id, mask)
    session.set_mask(9, 1, LEFT)
    run(session)
    before = [session.labels(i) for i in range(FRAMES)]
    session.set_mask(5, 1, block(20, 20))
    status = session.status()
    assert status.stale.ranges == [(1, 5), (6, 9)], "up to the next prompted frames of the object"
    assert sorted(run(session)) == list(status.stale)
    after = [session.labels(i) for i in range(FRAMES)]
    for index in (0, 9, 10, 11):
        assert np.array_equal(before[index], after[index])
    assert np.array_equal(after[5] == 1, block(20, 20)), "the corrected frame is as corrected"
    for index in range(FRAMES):  # the other object keeps its masks, but where the correction lies over them
        assert not ((after[index] == 2) & (before[index] != 2) & (before[index] != 1)).any()
    assert any(not np.array_equal(before[i], after[i]) for i in status.stale)


def every_mask_agrees(monkeypatch):
    for name in ("AGREEMENT", "MOST_DIFFERENCE"):
        monkeypatch.setattr(f"cutie_geo.inference.session.session.{name}", 1e6)


@pytest.mark.slow
@pytest.mark.parametrize("interrupted", [False, True])
def test_masks_beyond_those_that_agree_with_a_correction_are_kept(start, monkeypatch, interrupted):
    every_mask_agrees(monkeypatch)
    session = start()
    session.set_mask(0, 1, LEFT)
    run(session)
    before = maps(session)
    session.set_mask(FRAMES - 1, 1, RIGHT)
    done = []
    if interrupted:
        steps = session.propagate()
        done += [next(steps)[0] for _ in range(6)]
        steps.close()
        session = start()
    # from frame 0, all is computed again with the correction as memory; from the correction, until two frames agree
    assert done + run(session) == [1, 2, 3, 4, 5, 10, 9]
    assert session.status().stale == () and run(session) == []
    assert maps(session)[6:9] == before[6:9]
    for _ in range(3 if interrupted else 2):  # a propagation that was interrupted is an action of its own
        session.undo()
    assert maps(session) == before


@pytest.mark.slow
def test_masks_of_a_changed_prompt_are_not_kept(start, monkeypatch):
    every_mask_agrees(monkeypatch)
    session = start()
    session.set_mask(0, 1, LEFT)
    run(session)
    session.set_mask(0, 1, block(12, 12))
    session.set_mask(FRAMES - 1, 1, RIGHT)
    assert sorted(run(session)) == list(range(1, FRAMES - 1))


@pytest.mark.slow
def test_beyond_a_correction_all_masks_of_an_earlier_prompt_are_computed_again(start, monkeypatch):
    every_mask_agrees(monkeypatch)
    session = start()
    session.set_mask(0, 1, LEFT)
    run(session)
    session.set_mask(5, 1, RIGHT)
    assert sorted(run(session)) == [i for i in range(1, FRAMES) if i != 5]


@pytest.mark.slow
def test_with_one_direction_only_frames_behind_depend_on_a_correction(start):
    session = start()
    session.set_mask(0, 1, LEFT)
    run(session, direction="forward")
    before = maps(session)
    session.set_mask(5, 1, RIGHT)
    assert session.status().stale.ranges == [(6, FRAMES)]
    assert run(session, direction="forward") == list(range(6, FRAMES))
    assert maps(session)[:5] == before[:5]


@pytest.mark.slow
def test_a_new_object_leaves_the_masks_of_others(start):
    session = start()
    session.set_mask(0, 1, LEFT)
    run(session)
    before = [session.mask(i, 1) for i in range(FRAMES)]
    session.set_mask(6, 2, block(40, 70, 10, 10) & ~before[6])
    assert session.status().stale == ()
    assert sorted(run(session)) == [i for i in range(FRAMES) if i != 6]
    assert all(np.array_equal(before[i], session.mask(i, 1)) for i in range(FRAMES))


def test_an_object_drawn_on_another_lies_above_it_until_it_is_removed(start):
    session = start()
    session.set_mask(0, 1, block(5, 5, 50, 80))
    before = session.labels(0)
    session.set_mask(0, 2, LEFT)
    assert np.array_equal(session.mask(0, 2), LEFT)
    session.set_mask(0, 1, block(5, 5, 50, 80))
    assert not session.mask(0, 2).any(), "the last word of the user counts"
    session.remove(2)
    assert np.array_equal(session.labels(0), before)
    assert session.objects == {1: "object 1"}


@pytest.mark.slow
def test_locked_frames_never_change_and_hold_corrections(start):
    session = start()
    session.set_mask(0, 1, LEFT)
    run(session)
    session.lock(6)
    locked = session.labels(6).tobytes()
    assert session.status().stale == (), "approval changes no mask"
    with pytest.raises(ValueError, match=r"frame 6 is locked; unlock\(6\)"):
        session.set_mask(6, 1, RIGHT)
    session.set_mask(3, 1, RIGHT)
    assert session.status().stale.ranges == [(1, 3), (4, 6)]
    session.set_mask(3, 2, block(0, 0, 9, 9))
    assert 6 not in run(session)
    assert session.labels(6).tobytes() == locked
    after = maps(session)
    session.unlock(6)
    assert session.status().stale, "the correction now reaches behind the frame"
    session.undo()
    assert maps(session) == after
    assert session.status().locked == (6,)


@pytest.mark.slow
def test_clearing_a_prompt_makes_what_it_made_stale_or_removes_it(start):
    session = start()
    session.set_mask(0, 1, LEFT)
    session.set_mask(6, 1, RIGHT)
    run(session)
    session.clear(6, 1)
    assert session.status().prompted == {1: (0,)}
    assert session.status().stale.ranges == [(1, FRAMES)]
    run(session)
    session.clear(0, 1)
    assert session.status().propagated == ()
    assert not any(session.labels(i).any() for i in range(FRAMES))
    with pytest.raises(ValueError, match="no object is prompted"):
        session.propagate()


# ---------------------------------------------------------------------------------------------------------------- undo
@pytest.mark.slow
def test_undo_after_anything_restores_all_label_maps(start):
    session = start()
    actions = [
        lambda: session.set_mask(0, 1, LEFT),
        lambda: session.prompt(0, 2, [(70, 40)]),
        lambda: run(session, stop=8),
        lambda: session.prompt(4, 1, [(20, 20), (70, 40)], labels=[1, 0]),
        lambda: session.lock(6),
        lambda: run(session),
        lambda: session.rename(2, "knife"),
        lambda: session.set_mask(8, 3, RIGHT),
        lambda: run(session, direction="backward"),
        lambda: session.unlock(6),
        lambda: session.clear(4, 1),
        lambda: session.remove(2),
        lambda: run(session),
    ]
    seen = [(maps(session), session.status())]
    for act in actions:
        act()
        seen.append((maps(session), session.status()))
    assert len({tuple(labels) for labels, _ in seen}) > 6
    for expected, status in reversed(seen[:-1]):
        assert session.undo() is not None
        assert maps(session) == expected
        assert session.status() == status
    assert session.undo() is None
    for expected, status in seen[1:]:
        assert session.redo() is not None
        assert maps(session) == expected
        assert session.status() == status
    assert session.redo() is None
    session.undo()
    session.undo()
    session.rename(1, "hand")
    assert session.redo() is None, "another action followed"


# ------------------------------------------------------------------------------------------------------------- prompts
def test_prompts_add_up_and_correct_the_mask(start):
    session = start()
    first = session.prompt(frame=0, object=4, points=[(70, 40)])
    assert first.dtype == bool and first.shape == SIZE and first[40, 70]
    second = session.prompt(0, 4, points=[(20, 20)])
    assert second[40, 70] and second[20, 20]
    assert session.prompts(0)[4].points == ((70.0, 40.0, 1), (20.0, 20.0, 1))
    third = session.prompt(0, 4, points=[(70, 40)], labels=[0])
    assert not third[40, 70]
    assert np.array_equal(session.mask(0, 4), third)
    boxed = session.prompt(0, 5, box=(60, 5, 90, 25))
    assert boxed.sum() == 30 * 20
    assert session._prompter is not None and session._prompter.encoded == 1, "a frame is encoded once"


def test_only_masks_that_came_from_prompts_alone_are_predicted_afresh(start, monkeypatch):
    told = []
    predict = ColourPrompter.predict

    def called(self, encoded, prompt, mask=None, from_prompts=False):
        told.append((len(prompt.points), mask is not None, from_prompts))
        return predict(self, encoded, prompt, mask)

    monkeypatch.setattr(ColourPrompter, "predict", called)
    session = start()
    session.prompt(0, 4, points=[(70, 40)])
    session.prompt(0, 4, points=[(72, 42)])
    session.set_mask(0, 5, LEFT)
    session.prompt(0, 5, points=[(20, 20)])
    session.prompt(0, 5, points=[(22, 22)])
    run(session)
    session.prompt(3, 4, points=[(72, 40)])
    session.prompt(3, 4, points=[(74, 42)])
    assert told == [
        (1, False, True), (2, True, True),
        (1, True, False), (2, True, False),  # drawn
        (1, True, False), (2, True, False),  # tracked
    ]  # fmt: skip


class SharingPrompter(ColourPrompter):
    """Takes the tracker's features."""

    def __init__(self, model):
        self.model, self.shared = model, []

    def encode_shared(self, image, features):
        self.shared.append(features)
        return image


def test_a_frame_is_encoded_once_for_prompts_and_propagation(start, tiny_model, monkeypatch):
    prompter, seen = SharingPrompter(tiny_model), []
    encode = tiny_model.encode
    monkeypatch.setattr(tiny_model, "encode", lambda *args: (seen.append(len(args[0])), encode(*args))[1])
    session = start(prompter=prompter)
    session.prompt(0, 1, [(70, 40)])
    session.prompt(0, 1, [(20, 20)])
    assert len(prompter.shared) == 1 and prompter.encoded == 0
    run(session, stop=3)
    assert seen == [1, 1, 1], "frames 0, 1 and 2"


def test_the_same_model_is_the_same_after_loading(tmp_path, tiny_model, monkeypatch, caplog):
    """Settings are compared in the form in which they are stored, where tuples are lists."""
    monkeypatch.setattr("cutie_geo.runs.session.load_any", lambda *args: tiny_model)
    monkeypatch.setattr("cutie_geo.runs.session.model_settings", lambda *args: {"model": {"channels": (1, 2)}})
    clip = write_frames(tmp_path / "clip", 4)
    for turn in range(2):
        with cutie_geo.Session(clip, "cutie-geo-tiny", tmp_path / "work") as session:
            session.set_mask(turn, 1, LEFT)
            next(session.propagate(start=turn, direction="forward"))
            assert session._store.meta["pending"]
    with cutie_geo.Session(clip, "cutie-geo-tiny", tmp_path / "work") as session:
        session._network()
        assert session._store.meta["pending"], "an interrupted propagation goes on"
    assert "other weights or settings" not in caplog.text


def test_a_prepared_frame_is_not_encoded_by_its_prompts(start, tiny_model, monkeypatch):
    seen = []
    encode = tiny_model.encode
    monkeypatch.setattr(tiny_model, "encode", lambda *args: (seen.append(len(args[0])), encode(*args))[1])
    session = start(prompter=SharingPrompter(tiny_model))
    session.prepare(2)
    assert seen == [1]
    session.prompt(2, 1, [(70, 40)])
    run(session, start=2, stop=4)
    assert seen == [1, 1], "frames 2 and 3"
    with pytest.raises(ValueError, match="frame: got 99"):
        session.prepare(99)


def test_another_thread_prepares_a_frame_while_the_session_is_in_use(start):
    session, done = start(), threading.Event()

    def prepare():
        session.prepare(3)
        done.set()

    with session._lock:  # as during a step of a propagation
        thread = threading.Thread(target=prepare)
        thread.start()
        assert done.wait(60)
    thread.join()


def test_frames_that_were_encoded_for_prompts_leave_their_cache(start, monkeypatch):
    monkeypatch.setattr("cutie_geo.inference.session.session.PROMPT_BYTES", 1)
    session = start()
    for frame in range(4):
        session.prepare(frame)
    assert [frame for frame in range(4) if session._encoded.get(frame) is not None] == [2, 3]


def test_the_size_of_encoded_frames_counts_all_their_tensors():
    @dataclass
    class Encoded:
        image: torch.Tensor
        views: list[tuple[torch.Tensor, ...]]

    encoded = Encoded(torch.zeros(3, 4), [(torch.zeros(2, dtype=torch.int64), torch.zeros(1))])
    assert _bytes({"a": encoded, "b": np.zeros(2)}) == 48 + 16 + 4 + 16


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda s: s.prompt(0, 1, [(200, 3)]), r"object 1 on frame 00000: got \(200, 3\), expected it within 96x64"),
        (lambda s: s.prompt(99, 1, [(2, 3)]), "frame: got 99, expected 0 to 11"),
        (lambda s: s.prompt(0, 1, [(2, 3)], [0]), "got negative points only"),
        (lambda s: s.prompt(0, 1), "got no prompt"),
        (lambda s: s.prompt(0, 1, [(2, 3)], [1, 1]), "got 2 labels for 1 points"),
        (lambda s: s.prompt(0, 0, [(2, 3)]), "object id: got 0, expected 1 to"),
        (lambda s: s.set_mask(0, 1, np.zeros((3, 3), bool)), r"got shape \(3, 3\), expected \(64, 96\)"),
        (lambda s: s.set_mask(0, 1, np.full(SIZE, 7)), "expected bool or 0 and 1"),
        (lambda s: s.clear(0, 1), "object 1: unknown; the session has none yet"),
        (lambda s: s.lock(0), "frame 0: no object has a mask there"),
        (lambda s: s.propagate(), "no object is prompted"),
        (lambda s: s.propagate(stop=13), "stop: got 13, expected 0 to 12"),
        (lambda s: s.export("x"), "no frame has a mask"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(start, act, message):
    session = start()
    with pytest.raises(ValueError, match=message):
        act(session)
    assert session.undo() is None and session.objects == {}


# ---------------------------------------------------------------------------------------------------------------- disk
def test_a_session_is_on_disk_at_any_time(start, tmp_path, tiny_model):
    session = start()
    session.set_mask(0, 1, LEFT)
    session.rename(1, "cup")
    run(session, stop=5)
    session.lock(3)
    session.save()
    other = cutie_geo.Session.load(tmp_path / "work", model=tiny_model)
    assert maps(other) == maps(session) and other.status() == session.status()
    assert [path.name for path in (tmp_path / "work").iterdir() if path.suffix == ".sqlite"] == ["session.sqlite"]
    assert run(other) == list(range(5, FRAMES))


KILLED = """
import sys, torch, os, signal
sys.path[:0] = {paths}
from conftest import tiny_model
import cutie_geo
from cutie_geo.config import TrackerConfig
torch.set_num_threads(1)  # as the tests: the number of threads changes rounding
session = cutie_geo.Session.load({folder!r}, model=tiny_model.__wrapped__())
for count, (index, labels) in enumerate(session.propagate()):
    print(index, flush=True)
    if count == {count}:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 8])
def test_a_killed_session_goes_on_with_equal_numbers(start, tmp_path, tiny_model, count):
    tests = Path(__file__).parents[1]
    whole, killed = start("whole"), start("killed")
    for session in (whole, killed):
        session.set_mask(4, 1, LEFT)
        session.set_mask(0, 2, RIGHT)
    killed.close()
    program = KILLED.format(paths=[str(tests), str(tests / "helpers")], folder=str(tmp_path / "killed"), count=count)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    again = cutie_geo.Session.load(tmp_path / "killed", model=tiny_model)
    assert len(again.status().propagated) == count + 1
    run(whole)
    run(again)
    assert maps(again) == maps(whole)


def test_a_second_session_of_one_folder_is_told_of_changes(start):
    one, other = start(), start()
    one.set_mask(0, 1, LEFT)
    with pytest.raises(ValueError, match="changed by another session since it was opened; load it again"):
        other.set_mask(0, 1, RIGHT)
    assert np.array_equal(start().mask(0, 1), LEFT)


def test_another_video_is_refused(start, tmp_path, tiny_model):
    start().set_mask(0, 1, LEFT)
    other = write_frames(tmp_path / "other", FRAMES, seed=1)
    with pytest.raises(ValueError, match=r"is the session of another video, .*drift; got .*other"):
        cutie_geo.Session(other, tiny_model, tmp_path / "work")
    with pytest.raises(ValueError, match="is the session of another video"):
        cutie_geo.Session.load(tmp_path / "work", other)
    with pytest.raises(ValueError, match="no such file, expected a session"):
        cutie_geo.Session.load(tmp_path / "nothing")


def damage_version(db):
    db.execute("UPDATE meta SET value = '2' WHERE name = 'version'")


def damage_frame(db):
    db.execute("UPDATE cells SET frame = 99 WHERE kind = 'anchor'")


def damage_info(db):
    db.execute("UPDATE cells SET info = ? WHERE kind = 'layer'", (json.dumps({"stale": 3}),))


def damage_trigger(db):
    db.execute("CREATE TRIGGER t AFTER INSERT ON steps BEGIN DELETE FROM cells; END")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_version, "got format version 2, expected 1"),
        (damage_frame, "anchor 99 1: no such frame"),
        (damage_info, "layer 1 1: damaged"),
        (damage_trigger, "is another database"),
    ],
)
def test_a_damaged_file_is_one_line(start, tmp_path, tiny_model, damage, message):
    session = start()
    session.set_mask(0, 1, LEFT)
    run(session, stop=2)
    session.close()
    with sqlite3.connect(tmp_path / "work" / "session.sqlite") as db:
        damage(db)
    with pytest.raises(ValueError, match=message):
        cutie_geo.Session.load(tmp_path / "work", model=tiny_model)


def test_masks_that_are_damaged_are_named(start, tmp_path, tiny_model):
    session = start()
    session.set_mask(0, 1, LEFT)
    session.close()
    for data in (b"nonsense", __import__("zlib").compress(bytes(10**6))):
        with sqlite3.connect(tmp_path / "work" / "session.sqlite") as db:
            db.execute("UPDATE cells SET mask = ? WHERE kind = 'anchor'", (data,))
        with pytest.raises(ValueError, match="frame 0, object 1: damaged mask"):
            cutie_geo.Session.load(tmp_path / "work", model=tiny_model).labels(0)
    (tmp_path / "work" / "session.sqlite").write_bytes(b"something else")
    with pytest.raises(ValueError, match="not a SQLite database"):
        cutie_geo.Session.load(tmp_path / "work")


# ------------------------------------------------------------------------------------------------------------- threads
@pytest.mark.slow
def test_two_sessions_in_two_threads(start):
    sessions = [start("one"), start("two")]
    expected = start("three")
    for session in (*sessions, expected):
        session.set_mask(0, 1, LEFT)
    threads = [threading.Thread(target=run, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run(expected)
    assert maps(sessions[0]) == maps(sessions[1]) == maps(expected)


def test_a_change_ends_a_propagation_under_way(start):
    session = start()
    session.set_mask(0, 1, LEFT)
    steps = session.propagate()
    assert next(steps)[0] == 1
    session.set_mask(5, 1, RIGHT)
    assert list(steps) == []
    assert session.status().propagated == (1,)
    assert sorted(run(session)) == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11]


def test_another_propagation_ends_the_one_under_way(start):
    session = start()
    session.set_mask(0, 1, LEFT)
    first = session.propagate()
    next(first)
    second = session.propagate()
    assert next(second)[0] == 2
    assert list(first) == []
    assert [index for index, _ in second] == list(range(3, FRAMES))


def test_video_files_are_annotated_too(tmp_path, tiny_model):
    film = write_film(tmp_path / "drift.mp4", 6)
    frames = tmp_path / "frames"
    frames.mkdir()
    for name, image in open_source(film):
        Image.fromarray(image).save(frames / f"{name}.png")
    labels = []
    for source in (film, frames):
        session = cutie_geo.Session(source, tiny_model, tmp_path / f"work {source.name}")
        session.set_mask(3, 1, LEFT)
        assert run(session) == [4, 5, 2, 1, 0]
        labels.append(maps(session))
    assert labels[0] == labels[1]


# -------------------------------------------------------------------------------------------------------------- export
def test_masks_are_exported_under_the_names_of_the_objects(start, tmp_path):
    session = start()
    session.set_mask(2, 3, RIGHT)
    session.rename(3, "knife")
    run(session, stop=4)
    files = session.export(tmp_path / "davis")
    assert [path.relative_to(tmp_path).as_posix() for path in files] == [f"davis/drift/{i:05d}.png" for i in range(4)]
    assert all(np.array_equal(read_labels(path).labels, session.labels(i)) for i, path in enumerate(files))
    session.export(tmp_path / "coco", "coco")
    content = json.loads((tmp_path / "coco" / "instances.json").read_text())
    assert [category["name"] for category in content["categories"]] == ["knife"]
    assert os.listdir(tmp_path / "coco") == ["instances.json"]
