"""Ctrl-C and SIGTERM at any moment of a program's start: one line, and the exit status that shells give."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PROGRAMS = {
    "infer.py": [str(REPOSITORY / "infer.py")],
    "train.py": [str(REPOSITORY / "train.py"), "--stage", "tiny_rendered", "--device", "cpu", "--tracker", "none"],
    "-m cutie_geo": ["-m", "cutie_geo", "infer"],
}
BREAK = """
import builtins, os, signal, sys
wanted, number, honest = {module!r}, {number}, builtins.__import__
def watched(name, *rest, **more):
    if name.partition(".")[0] == wanted and not watched.sent:
        watched.sent = True
        os.kill(os.getpid(), number)
    return honest(name, *rest, **more)
watched.sent = False
builtins.__import__ = watched
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("module", ["argparse", "torch"])
def test_a_signal_while_a_program_imports_is_one_line(
    module: str, program: str, number: int, status: int, tmp_path: Path
) -> None:
    """The signal comes when the program asks for `module`, whatever the machine's speed."""
    (tmp_path / "sitecustomize.py").write_text(BREAK.format(module=module, number=int(number)), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}
    told = subprocess.run(
        [sys.executable, *PROGRAMS[program]], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert told.stderr.splitlines()[-1].startswith("interrupted"), told.stderr
    assert "Traceback" not in told.stderr
    assert told.returncode == status


def test_signals_that_are_ignored_stay_ignored() -> None:
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); from cutie_geo.interrupts import leave_at_once; "
        "leave_at_once(); import os; os.kill(os.getpid(), signal.SIGINT); print('alive')"
    )
    told = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert (told.stdout, told.returncode) == ("alive\n", 0)


def test_the_answer_is_there_before_anything_heavy() -> None:
    program = "import sys; import cutie_geo.__main__; sys.exit(any(m in sys.modules for m in ('torch', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("seconds", [0.2, 1.0, 3.0])
def test_a_signal_at_any_time_is_one_line(seconds: float, number: int, status: int, tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "infer.py"), "--output", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as run:
        time.sleep(seconds)
        run.send_signal(number)
        said = run.communicate(timeout=120)[1]
    assert run.returncode == status
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("interrupted")
