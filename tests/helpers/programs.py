"""Programs that tests start, wait for and interrupt."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

PATIENCE = 240.0
"""Seconds after which a program counts as hung."""
CONFIG = Path(__file__).parents[2] / "configs" / "accelerate" / "cpu.yaml"
LAUNCHER = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIG), "--num_cpu_threads_per_process", "1"]
LAUNCHER += ["--main_process_port", "0"]
"""Of two processes on the CPU; what it runs comes after it."""


def start(*argv: object, **options: object) -> subprocess.Popen[str]:
    """A program, which tells what it says in one stream."""
    command = [sys.executable, *map(str, argv)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)  # type: ignore[call-overload]


def finish(process: subprocess.Popen[str], patience: float = PATIENCE) -> tuple[int, str]:
    """Exit status and all that was said. Ends a program that hangs."""
    try:
        said, _ = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, said


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Return once `path` is there."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.01)


def small_disk(folder: Path, size: str) -> bool:
    """Mount a file system of `size` at `folder`, to be unmounted by the caller; False where that isn't allowed."""
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return bool(mount) and subprocess.run(command, capture_output=True).returncode == 0
