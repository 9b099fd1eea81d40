"""Interruptions wait where workers start, and workers don't hear them."""

import os
import signal
import threading

import pytest

from cutie_geo.multiprocessing import clean_processes, uninterrupted


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interruption_is_answered_at_the_end_of_the_block() -> None:
    before = signal.getsignal(signal.SIGINT)
    done = []

    def block() -> None:
        with uninterrupted():
            interrupt()
            interrupt()
            done.append(1)

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is before
    with uninterrupted():
        pass  # it is answered once


def test_whoever_answers_signals_is_asked_then() -> None:
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    try:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            assert told == []
        assert told == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_error_of_the_block_leaves_it() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="no"), uninterrupted():
        raise ValueError("no")
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_pass_through() -> None:
    passed = []

    def enter() -> None:
        with uninterrupted():
            passed.append(1)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(10)
    assert passed == [1]


def is_blocked() -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no masks of signals")
def test_workers_start_deaf_to_ctrl_c_and_their_parent_is_not() -> None:
    context = clean_processes("cutie_geo.multiprocessing")
    with context.Pool(1) as pool:  # type: ignore[attr-defined]
        assert pool.apply(is_blocked)
    assert not is_blocked()
