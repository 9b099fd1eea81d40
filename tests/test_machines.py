"""Launches on several machines: two network namespaces that share nothing but a cable and the file system."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import psutil
import pytest
import torch
from programs import CONFIG, PATIENCE
from toy_videos import contents, summary, tiny_options, write_videos
from training import outcome, write_stage

from cutie_geo.__main__ import run_one
from cutie_geo.runs import distributed
from cutie_geo.runs.distributed import INTERFACE, choose_interface, connected, join, local_processes

REPOSITORY = Path(__file__).parents[1]
SLURM = REPOSITORY / "docs" / "slurm"
ADDRESSES = ("10.231.90.1", "10.231.90.2")


class Machines(NamedTuple):
    """Names of two network namespaces."""

    first: str
    second: str


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    """Two namespaces, connected by a pair of virtual interfaces."""
    ip = shutil.which("ip")
    names = Machines(f"cg{os.getpid()}a", f"cg{os.getpid()}b")

    def call(*argv: str) -> bool:
        return ip is not None and subprocess.run([ip, *argv], capture_output=True).returncode == 0

    try:
        made = all(call("netns", "add", name) for name in names)
        ends = ("cable0", "cable1")
        made = made and call("link", "add", ends[0], "netns", names.first, "type", "veth", "peer", "name", ends[1],
                             "netns", names.second)  # fmt: skip
        for name, end, address in zip(names, ends, ADDRESSES):
            made = made and call("-n", name, "address", "add", f"{address}/24", "dev", end)
            made = made and all(call("-n", name, "link", "set", link, "up") for link in (end, "lo"))
        if not made:
            pytest.skip("network namespaces cannot be made here")
        yield names
    finally:
        for name in names:
            call("netns", "delete", name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(machines: Machines, *argv: object) -> list[tuple[int, str]]:
    """Run a program by one `accelerate launch` on each machine; return status and output of each."""
    port = free_port()
    started = []
    for rank, name in enumerate(machines):
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "accelerate.commands.launch"]
        command += ["--config_file", str(CONFIG), "--num_machines", "2", "--num_processes", "2"]
        command += ["--machine_rank", str(rank), "--main_process_ip", ADDRESSES[0], "--main_process_port", str(port)]
        command += ["--num_cpu_threads_per_process", "1", *map(str, argv)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    return finished(started)


def finished(started: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Return status and output of each program; end them all, with what they started, if one hangs."""
    try:
        said = [process.communicate(timeout=PATIENCE)[0] for process in started]
    except subprocess.TimeoutExpired:
        for process in started:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.communicate()
        raise
    return [(process.returncode, text) for process, text in zip(started, said)]


# ------------------------------------------------------------------------------------------------------- real launches
@pytest.mark.slow
def test_two_machines_share_the_videos_and_write_what_one_would(machines: Machines, tmp_path: Path) -> None:
    videos, masks = write_videos(tmp_path, ["ant", "bear", "cat"], frames=2)
    common = [str(videos), "--mask", str(masks), *tiny_options(tmp_path)]
    assert run_one("infer", [*common, "-o", str(tmp_path / "one")]) == 0
    ends = launch(machines, REPOSITORY / "infer.py", *common, "-o", tmp_path / "two")
    assert [status for status, _ in ends] == [0, 0], ends
    assert [text.count("results: ") for _, text in ends] == [1, 0]
    assert [("ant: " in text, "bear: " in text) for _, text in ends] == [(True, False), (False, True)]
    assert contents(tmp_path / "two" / "Annotations") == contents(tmp_path / "one" / "Annotations")
    assert list(summary(tmp_path / "two")["videos"]) == ["ant", "bear", "cat"]


@pytest.mark.slow
def test_two_machines_train_as_one_does_by_the_script_for_slurm(machines: Machines, tmp_path: Path) -> None:
    """The script runs as it is; only the programs of Slurm are replaced, by ones that reach both namespaces."""
    arguments = write_stage(tmp_path, steps=2, log_every=1)
    assert run_one("train", [*arguments, "-o", str(tmp_path / "one")]) == 0
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "scontrol").write_text(f"#!/bin/bash\n[ \"$1 $2\" = 'show hostnames' ] && echo {ADDRESSES[0]}\n")
    nodes = "".join(f'SLURM_NODEID={i} ip netns exec {name} "$@" &\n' for i, name in enumerate(machines))
    (programs / "srun").write_text(f"#!/bin/bash\n{nodes}wait -n && wait -n\n")
    (programs / "accelerate").write_text(
        f'#!/bin/bash\nshift\nexec {sys.executable} -m accelerate.commands.launch "$@"\n'
    )
    for program in programs.iterdir():
        program.chmod(0o755)
    job = {"SLURM_NNODES": "2", "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "node[1-2]", "PER_NODE": "1"}
    environment = os.environ | job | {"CONFIG": str(CONFIG), "PATH": f"{programs}:{os.environ['PATH']}"}
    command = [
        "bash",
        str(SLURM / "launch.sbatch"),
        str(REPOSITORY / "train.py"),
        *arguments,
        "-o",
        str(tmp_path / "two"),
    ]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    ((status, said),) = finished([process])
    assert status == 0, said
    first, second = (outcome(tmp_path / name)[2] for name in ("one", "two"))
    assert [line["step"] for line in second] == [1, 2]
    for a, b in zip(first, second, strict=True):
        assert a["loss/total"] == pytest.approx(b["loss/total"], rel=1e-3)


@pytest.mark.slow
def test_a_machine_that_dies_ends_the_others_with_one_line(tmp_path: Path) -> None:
    program = f"""
import os, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from cutie_geo.runs.distributed import Processes
processes = Processes("cpu")
if processes.index == 1:
    os.kill(os.getpid(), 9)
try:
    processes.wait()
except ValueError as error:
    print("error:", error)
"""
    rank = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "LOCAL_WORLD_SIZE": "2"}
    ends = finished([
        subprocess.Popen([sys.executable, "-c", program], env=os.environ | rank | {"RANK": i, "LOCAL_RANK": i},
                         stdout=subprocess.PIPE, text=True)
        for i in ("0", "1")
    ])  # fmt: skip
    assert ends[1][0] == -signal.SIGKILL
    assert ends[0][1].startswith("error: another process of this launch has ended early: ")
    assert "the same command resumes" in ends[0][1]


# ---------------------------------------------------------------------------------------------------------- job arrays
def test_the_script_for_job_arrays_gives_each_task_its_shard(tmp_path: Path) -> None:
    program = tmp_path / "cutie-geo"
    program.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    for first, task, shard in ((0, 0, "1/3"), (1, 3, "3/3"), (5, 6, "2/3")):
        array = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_MIN": first, "SLURM_ARRAY_TASK_COUNT": 3}
        environment = os.environ | {name: str(value) for name, value in array.items()}
        environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
        argv = ["bash", str(SLURM / "array.sbatch"), "evaluate", "--gt", "a b", "--json", "part{I}.json"]
        said = subprocess.run(argv, capture_output=True, text=True, env=environment, check=True).stdout
        own = shard.partition("/")[0]
        assert said.splitlines() == ["evaluate", "--shard", shard, "--gt", "a b", "--json", f"part{own}.json"]


# ---------------------------------------------------------------------------------------------------------- connecting
Routes = Callable[[str], str | None]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Pretend to be on a machine of a launch, with two interfaces and the routes that are given."""
    for name in (INTERFACE, "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "RANK"):
        monkeypatch.delenv(name, raising=False)
    addresses = {"lo": "127.0.0.1", "eth0": "10.0.0.7", "ib0": "192.168.1.7"}
    found = {name: [SimpleNamespace(address=address)] for name, address in addresses.items()}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: found)

    def set_routes(routes: dict[str, str]) -> None:
        monkeypatch.setattr(distributed, "_own_address", routes.get)

    return set_routes


@pytest.mark.parametrize(
    ("environment", "routes", "chosen"),
    [
        ({"MASTER_ADDR": "192.168.1.1"}, {"192.168.1.1": "192.168.1.7", distributed.ELSEWHERE: "10.0.0.7"}, "ib0"),
        ({"MASTER_ADDR": "localhost"}, {distributed.ELSEWHERE: "10.0.0.7"}, "eth0"),  # of the host name: the loopback
        ({"MASTER_ADDR": "192.168.1.1"}, {}, None),
        ({"MASTER_ADDR": "192.168.1.1", INTERFACE: "mine"}, {"192.168.1.1": "192.168.1.7"}, "mine"),
        ({"MASTER_ADDR": "192.168.1.1", "LOCAL_WORLD_SIZE": "4"}, {"192.168.1.1": "192.168.1.7"}, None),
    ],
)
def test_gloo_uses_the_interface_towards_the_main_process(
    network: Callable[[dict[str, str]], None],
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    routes: dict[str, str],
    chosen: str | None,
) -> None:
    for name, value in ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"} | environment).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(INTERFACE, environment.get(INTERFACE, "none"))  # restored after the test
    if INTERFACE not in environment:
        monkeypatch.delenv(INTERFACE)
    network(routes)
    choose_interface()
    assert os.environ.get(INTERFACE) == chosen


def test_an_address_on_the_loopback_or_without_a_route_is_none() -> None:
    assert distributed._own_address("127.0.0.1") is None
    assert distributed._own_address("no.such.host.invalid") is None


@pytest.mark.slow
def test_processes_that_do_not_come_are_an_error_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "JOIN_PATIENCE", timedelta(seconds=1))
    port = free_port()
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    for name, value in (place | {"MASTER_PORT": str(port)}).items():
        monkeypatch.setenv(name, value)
    started = time.monotonic()
    with pytest.raises(
        ValueError, match=r"process 0 of 2: cannot reach the others, main process at 127\.0\.0\.1:"
    ) as error:
        join(lambda timeout: torch.distributed.TCPStore("127.0.0.1", 0, 2, True, timeout), timedelta(days=1))
    assert time.monotonic() - started < 30
    assert "\n" not in str(error.value)
    assert INTERFACE in str(error.value)


def test_errors_of_one_process_alone_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: timedelta) -> None:
        raise RuntimeError("a bug")

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(RuntimeError, match="a bug"):
        join(fail, timedelta(days=1))
    with pytest.raises(RuntimeError, match="a bug"), connected():
        fail(timedelta())
    with pytest.raises(ValueError, match=r"has ended early: .*Connection closed by peer"), connected():
        raise RuntimeError("[pair.cc:561] Connection closed by peer [10.0.0.2]:1227")


def test_cores_are_divided_among_the_processes_of_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert local_processes(8) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert local_processes(8) == 2
