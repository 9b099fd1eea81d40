"""Promises of data/io_threads.py: order, bounds, errors in their place, no hang, no torn file."""

import errno
import itertools
import json
import threading
import time
from pathlib import Path

import pytest
from own_threads import own_threads

from cutie_geo.data.io_threads import Writer, append_text, atomic_write, map_ahead, read_ahead


def in_time(fn, seconds=60.0):
    """What `fn` returns or raises, or a failed test where it takes longer than `seconds`."""
    result = []

    def run():
        try:
            result.append((fn(), None))
        except BaseException as error:
            result.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert result, f"still running after {seconds} s"
    value, error = result[0]
    if error is not None:
        raise error
    return value


def wait_until(condition, seconds=30.0):
    """Return when `condition()` holds; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


# ----------------------------------------------------------------------------------------------------- atomic_write
def test_an_atomic_write_appears_whole_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "a.json"
    with atomic_write(path) as part:
        part.write_text(json.dumps([1, 2]))
        assert not path.exists()
        assert part.parent == path.parent
        assert part.name.startswith(".")
    assert json.loads(path.read_text()) == [1, 2]
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def write_half(path, error):
    with atomic_write(path) as part:
        part.write_text("half")
        raise error


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OSError),
        (PermissionError(errno.EACCES, "Permission denied"), PermissionError),
        (OSError("encoder error -2"), OSError),
    ],
)
def test_a_failed_write_names_the_target_and_keeps_the_old_file(tmp_path, error, wanted):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(wanted, match=r"a\.txt") as raised:
        write_half(path, error)
    assert raised.value.filename == str(path)
    assert raised.value.errno == (error.errno or errno.EIO)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_text_that_finds_no_room_is_an_error_naming_the_file():
    with pytest.raises(OSError, match="No space left") as error:
        append_text(Path("/dev/full"), "a line\n")
    assert error.value.filename == "/dev/full"


def test_text_is_added_to_a_file(tmp_path):
    for line in ("one\n", "two\n"):
        append_text(tmp_path / "log", line)
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), ValueError("bad"), PermissionError(errno.EACCES, "Permission denied", "other")]
)
def test_an_interrupted_write_leaves_nothing(tmp_path, error):
    with pytest.raises(type(error)):
        write_half(tmp_path / "a.txt", error)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error_naming_the_target(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"a\.txt"), atomic_write(tmp_path / "file" / "a.txt"):
        pass


# ------------------------------------------------------------------------------------------------------- read_ahead
@pytest.mark.parametrize("depth", [1, 3, 100])
def test_items_come_in_order(depth):
    assert in_time(lambda: list(read_ahead(range(50), depth))) == list(range(50))
    assert in_time(lambda: list(read_ahead([None, None], depth))) == [None, None]
    assert in_time(lambda: list(read_ahead([], depth))) == []


def test_an_error_comes_after_the_items_before_it():
    def source():
        yield 1
        yield 2
        raise ValueError("torn.jpg")

    seen = []

    def consume():
        for item in read_ahead(source(), 4):
            seen.append(item)

    with pytest.raises(ValueError, match=r"torn\.jpg"):
        in_time(consume)
    assert seen == [1, 2]


def test_an_iterable_that_cannot_start_is_an_error():
    with pytest.raises(TypeError):
        in_time(lambda: list(read_ahead(5)))  # type: ignore[arg-type]


def test_a_depth_of_nothing_is_an_error_at_the_call():
    with pytest.raises(ValueError, match="depth=0"):
        read_ahead([1], 0)


def test_no_more_than_depth_items_are_fetched_ahead():
    fetched = []

    def source():
        for i in itertools.count():
            fetched.append(i)
            yield i

    ahead = read_ahead(source(), 3)
    assert next(ahead) == 0
    wait_until(lambda: len(fetched) == 4)  # the one handed out and three ahead
    time.sleep(0.05)
    assert len(fetched) == 4
    ahead.close()


def test_closing_early_stops_the_thread_and_closes_the_source():
    closed = []

    def source():
        try:
            yield from itertools.count()
        finally:
            closed.append(threading.current_thread().name)

    ahead = read_ahead(source(), 2)
    assert next(ahead) == 0
    in_time(ahead.close)
    wait_until(lambda: not own_threads("read-ahead"))
    assert closed == ["read-ahead"]


def test_an_unread_reader_starts_no_thread():
    read_ahead(itertools.count())
    assert not own_threads("read-ahead")


@pytest.mark.slow
def test_closing_does_not_wait_for_a_source_that_is_stuck():
    release = threading.Event()

    def source():
        yield 0
        release.wait(40)

    ahead = read_ahead(source(), 2)
    next(ahead)
    in_time(ahead.close, 20)
    release.set()
    wait_until(lambda: not own_threads("read-ahead"))


def test_reading_overlaps_with_the_consumer():
    """The next item is made while the consumer still holds the last: without a thread this waits in vain."""
    made = threading.Event()

    def source():
        yield 0
        made.set()
        yield 1

    ahead = read_ahead(source())
    assert next(ahead) == 0
    assert made.wait(60)
    assert list(ahead) == [1]


# -------------------------------------------------------------------------------------------------------- map_ahead
def test_a_threaded_map_keeps_order_and_bounds():
    started = []

    def slow_first(i):
        started.append(i)
        time.sleep(0.03 if i == 0 else 0.0)
        return i * i

    results = map_ahead(slow_first, range(20), workers=3, ahead=4)
    assert next(results) == 0
    assert max(started) <= 4
    assert in_time(lambda: list(results)) == [i * i for i in range(1, 20)]


def test_a_threaded_map_raises_in_place_and_closes():
    def fail_on_three(i):
        if i == 3:
            raise ValueError("three")
        return i

    results = map_ahead(fail_on_three, itertools.count(), workers=2, ahead=8)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        in_time(lambda: next(results))
    wait_until(lambda: not own_threads("map-ahead"))


# ----------------------------------------------------------------------------------------------------------- Writer
def test_leaving_the_block_waits_for_every_call():
    done = []

    def work(i):
        time.sleep(0.002)
        done.append(i)

    with Writer(workers=3, pending=4) as writer:
        for i in range(30):
            writer.submit(work, i)
    assert sorted(done) == list(range(30))
    assert not own_threads("writer")


def test_one_worker_keeps_the_order():
    done = []
    with Writer(workers=1) as writer:
        for i in range(30):
            writer.submit(done.append, i)
    assert done == list(range(30))


def test_no_more_than_pending_calls_are_held():
    gate, held = threading.Event(), []

    def produce(writer):
        for i in range(10):
            writer.submit(gate.wait, 60)
            held.append(i)

    with Writer(workers=1, pending=3) as writer:
        thread = threading.Thread(target=produce, args=(writer,), daemon=True)
        thread.start()
        wait_until(lambda: len(held) == 3)
        time.sleep(0.05)
        assert len(held) == 3
        gate.set()
        thread.join(60)
        assert len(held) == 10


def fail(text="disk full"):
    raise OSError(errno.ENOSPC, text)


def test_a_failure_is_raised_by_the_next_submit():
    later = []

    def run():
        with Writer() as writer:
            writer.submit(fail)
            wait_until(lambda: writer._failures)
            writer.submit(later.append, 1)

    with pytest.raises(OSError, match="disk full"):
        in_time(run)
    assert later == []


def test_a_failure_of_the_last_call_is_raised_at_the_end():
    def run():
        with Writer() as writer:
            writer.submit(fail)

    with pytest.raises(OSError, match="disk full"):
        in_time(run)


def test_a_submit_that_waits_for_room_sees_the_failure():
    """With every slot taken by calls that fail, submitting must raise and not wait for ever."""

    def run():
        with Writer(workers=1, pending=1) as writer:
            for _ in range(100):
                writer.submit(fail)

    with pytest.raises(OSError, match="disk full"):
        in_time(run)


def test_no_failure_is_swallowed(caplog):
    def run():
        with Writer(workers=1) as writer:
            writer.submit(time.sleep, 0.05)
            writer.submit(fail, "first")
            writer.submit(fail, "second")

    with pytest.raises(OSError, match="first"):
        in_time(run)
    assert "second" in caplog.text


def test_an_error_in_the_block_wins_and_drops_what_waits(caplog):
    begun, gate, dropped = threading.Event(), threading.Event(), []

    def run():
        with Writer(workers=1) as writer:
            writer.submit(lambda: (begun.set(), gate.wait(5), fail()))
            for i in range(5):
                writer.submit(dropped.append, i)
            begun.wait(5)
            threading.Timer(0.05, gate.set).start()
            raise KeyError("the block's own")

    with pytest.raises(KeyError, match="the block's own"):
        in_time(run)
    assert dropped == []
    assert "disk full" in caplog.text


def test_a_writer_without_workers_is_an_error():
    with pytest.raises(ValueError, match="workers=0"):
        Writer(workers=0)
