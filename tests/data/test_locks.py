"""Locks: one writer at a time, the second learns who has it, and the dead hold nothing."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cutie_geo.config import HIDDEN, hidden_name
from cutie_geo.data import locks
from cutie_geo.data.io_threads import atomic_write
from cutie_geo.data.locks import Busy, exclusive

HOLD = """
import sys, time
from pathlib import Path
from cutie_geo.data.locks import exclusive
with exclusive(Path(sys.argv[1]), "v"):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(path: Path) -> subprocess.Popen:
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_learns_who_holds_it_and_the_dead_hold_nothing(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "v.lock"
    with hold(path) as process:
        told = rf"^out: v: another process is writing it: pid {process.pid} on {socket.gethostname()}, since \d{{4}}-"
        with pytest.raises(Busy, match=told), exclusive(path, "out: v"):
            raise AssertionError("two hold one lock")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert json.loads(path.with_name("v.lock.json").read_text())["pid"] == process.pid  # it could not clean up
    with exclusive(path, "out: v"):
        assert json.loads(path.with_name("v.lock.json").read_text())["pid"] == os.getpid()
    assert not path.with_name("v.lock.json").exists()


@pytest.mark.slow
def test_a_dead_holder_s_workers_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was killed leaves children, who share its locks until they notice."""
    monkeypatch.setattr(locks, "PATIENCE", 20.0)
    path = tmp_path / "v.lock"
    with hold(path) as process:
        gone = {"pid": 2**22 + 1, "host": socket.gethostname(), "since": 1.0}
        path.with_name("v.lock.json").write_text(json.dumps(gone))
        timer = threading.Timer(0.5, process.kill)
        timer.start()
        with exclusive(path, "v"):
            pass
        timer.join()


def test_half_written_files_have_names_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with atomic_write(path) as first, atomic_write(path) as second:
        assert first != second
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert [other.name for other in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == b"first"  # the one that ended last


@pytest.mark.parametrize("name", ["a", "x" * 255, "ü" * 127, "\U0001f600" * 63, "a\nb"])
def test_a_hidden_name_fits_and_is_known(name: str, tmp_path: Path) -> None:
    hidden = hidden_name(tmp_path / name)
    assert HIDDEN.fullmatch(hidden.name)
    hidden.write_bytes(b"")
    assert hidden.parent == tmp_path
