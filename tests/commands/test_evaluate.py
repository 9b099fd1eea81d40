"""`cutie-geo evaluate`: what it prints and writes, what it refuses, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

import cutie_geo
from cutie_geo.__main__ import main
from cutie_geo.data.masks import write_labels
from cutie_geo.evaluation.report import MAIN

Said = pytest.CaptureFixture[str]


@pytest.fixture
def roots(tmp_path: Path) -> list[str]:
    """True and predicted masks of two sequences; the second is seen too far to the right."""
    labels = np.zeros((48, 64), np.int32)
    labels[8:24, 8:24] = 1
    for name, shift in (("fine", 0), ("shifted", 8)):
        for t in range(4):
            write_labels(tmp_path / "truth" / name / f"{t:05d}.png", labels)
            write_labels(tmp_path / "masks" / name / f"{t:05d}.png", np.roll(labels, shift, axis=1))
    return ["--gt", str(tmp_path / "truth"), "--pred", str(tmp_path / "masks")]


def evaluate(*argv: object) -> int:
    return main(["evaluate", *map(str, argv)])


def test_a_table_and_a_file_say_the_same(roots: list[str], tmp_path: Path, capsys: Said) -> None:
    file = tmp_path / "deep" / "r.json"
    assert evaluate(*roots, "--protocol", "visor", "--json", file) == 0
    report = json.loads(file.read_text())
    assert report["J"] == pytest.approx(100 * (1 + 1 / 3) / 2)
    assert set(MAIN) <= report.keys()
    assert report["protocol"] == "visor"
    assert report["lenient"] is False
    assert report["counts"] == {"sequences": 2, "objects": 2, "frames": 6, "without_objects": []}
    assert report["sequences"]["shifted"]["objects"]["1"]["frames"] == ["00001", "00002", "00003"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == list(MAIN)
    assert [line.split()[0] for line in printed[1:4]] == ["fine", "shifted", "overall"]
    assert printed[3].split()[2] == f"{report['J']:.1f}"
    assert printed[-1] == f"results: {file}"


def write_sequence(folder: Path, values: list[int], suffix: str = "png", name: str = "{:05d}") -> None:
    """A square of one value on each frame."""
    folder.mkdir(parents=True, exist_ok=True)
    for t, value in enumerate(values):
        labels = np.zeros((48, 64), np.uint8)
        labels[8:24, 8:24] = value
        Image.fromarray(labels).save(folder / f"{name.format(t)}.{suffix}", format="PNG")


@pytest.mark.parametrize("upper", ["truth", "masks"])
def test_masks_count_whatever_the_case_of_their_suffix(tmp_path: Path, upper: str, capsys: Said) -> None:
    write_sequence(tmp_path / "truth" / "s", [1] * 8)
    write_sequence(tmp_path / "masks" / "s", [1] * 4 + [0] * 4)
    for t in range(4, 8):
        path = tmp_path / upper / "s" / f"{t:05d}.png"
        path.rename(path.with_suffix(".PNG"))
    assert evaluate("--gt", tmp_path / "truth", "--pred", tmp_path / "masks", "--json", tmp_path / "r.json") == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["counts"]["frames"] == 6
    assert report["J"] == pytest.approx(50)


def test_unpadded_frames_are_scored_in_natural_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: Said
) -> None:
    for kind in ("truth", "masks"):
        write_sequence(tmp_path / kind / "s", [1] * 12, name="{:d}")
    assert evaluate("--gt", tmp_path / "truth", "--pred", tmp_path / "masks", "--json", tmp_path / "r.json") == 0
    scored = json.loads((tmp_path / "r.json").read_text())["sequences"]["s"]["objects"]["1"]["frames"]
    assert scored == [str(t) for t in range(1, 11)], "all but the first and the last"
    assert "in the order of their numbers, 2 before 10" in caplog.text


def test_true_masks_in_white_point_at_the_protocol_that_scores_them(tmp_path: Path, capsys: Said) -> None:
    write_sequence(tmp_path / "truth" / "s", [255] * 4)
    write_sequence(tmp_path / "masks" / "s", [1] * 4)
    roots = ["--gt", str(tmp_path / "truth"), "--pred", str(tmp_path / "masks")]
    assert evaluate(*roots) == 2
    assert "the true masks hold 0 and 255 only, which --protocol davis2016 scores" in capsys.readouterr().err
    assert evaluate(*roots, "--protocol", "davis2016") == 0
    write_sequence(tmp_path / "masks" / "s", [0] * 4)
    assert evaluate(*roots) == 2
    assert "which --protocol davis2016 scores" in capsys.readouterr().err


def test_an_empty_list_of_unseen_sequences_means_none(tmp_path: Path, capsys: Said) -> None:
    for kind in ("VISOR/Annotations/480p", "masks"):
        write_sequence(tmp_path / kind / "s", [1] * 4)
    unseen = tmp_path / "VISOR/ImageSets/2022/val_unseen.txt"
    unseen.parent.mkdir(parents=True)
    unseen.write_bytes(b"")
    roots = ["--gt", str(tmp_path / "VISOR/Annotations/480p"), "--pred", str(tmp_path / "masks")]
    assert evaluate(*roots, "--protocol", "visor") == 0
    assert "100.0" in capsys.readouterr().out
    assert evaluate(*roots, "--sequences", unseen) == 2
    assert "val_unseen.txt: the list is empty" in capsys.readouterr().err


@pytest.mark.slow
def test_a_table_survives_a_console_that_lacks_its_letters(tmp_path: Path) -> None:
    for kind in ("truth", "masks"):
        write_sequence(tmp_path / kind / "視頻", [1] * 4)
    command = [sys.executable, "-m", "cutie_geo", "evaluate", "--gt", "truth", "--pred", "masks", "--workers", "1"]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONPATH": str(Path(cutie_geo.__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert rb"\u8996\u983b" in done.stdout
    assert b"overall" in done.stdout


@pytest.mark.slow
def test_processes_write_the_same_bytes(roots: list[str], tmp_path: Path) -> None:
    for workers in (1, 2):
        assert evaluate(*roots, "--workers", workers, "--json", tmp_path / f"{workers}.json") == 0
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_a_list_chooses_the_sequences(roots: list[str], tmp_path: Path, capsys: Said) -> None:
    names = tmp_path / "list.txt"
    names.write_text("fine")
    assert evaluate(*roots, "--sequences", names) == 0
    assert "1 sequences, 1 objects, 2 frames" in capsys.readouterr().out
    names.write_text("fine\nlost\n")
    assert evaluate(*roots, "--sequences", names) == 2
    assert "has no ground truth for lost" in capsys.readouterr().err


def test_lenient_scores_are_marked_on_the_screen_and_in_the_file(
    roots: list[str], tmp_path: Path, capsys: Said
) -> None:
    (tmp_path / "masks" / "fine" / "00001.png").unlink()
    assert evaluate(*roots) == 2
    assert "error: fine/00001: the prediction is missing" in capsys.readouterr().err
    assert evaluate(*roots, "--lenient", "--json", tmp_path / "r.json") == 0
    printed = capsys.readouterr().out
    assert "LENIENT: not comparable with official scores" in printed
    assert "warning: fine/00001: the prediction is missing" in printed
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["lenient"] is True
    assert [item["treated_as"] for item in report["treated"]] == ["empty"]


def test_two_reports_are_compared(roots: list[str], tmp_path: Path, capsys: Said) -> None:
    first, second, file = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "c.json"
    assert evaluate(*roots, "--json", first) == 0
    assert evaluate("--gt", roots[1], "--pred", roots[1], "--json", second) == 0
    assert evaluate("--compare", first, second, "--json", file) == 0
    printed = capsys.readouterr().out
    assert f"{second} minus {first}" in printed
    assert "J: +33.33, from +0.00 to +66.67" in printed
    assert "seed 0" in printed
    outcome = json.loads(file.read_text())
    assert outcome["sequences"]["shifted"]["J"] == pytest.approx(200 / 3)


def test_pictures_are_written_where_asked_for(roots: list[str], tmp_path: Path, capsys: Said) -> None:
    assert evaluate(*roots, "--plots", tmp_path / "plots") == 0
    assert f"figures: {tmp_path / 'plots'}" in capsys.readouterr().out
    found = {str(path.relative_to(tmp_path / "plots")) for path in (tmp_path / "plots").rglob("*.png")}
    assert {"sequences.png", "fine/j_over_time.png", "fine/best.png", "shifted/worst.png"} <= found


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "--gt: expected a folder of masks"),
        (["--gt", "nowhere", "--pred", "nowhere"], "--gt nowhere: no such folder"),
        (["--protocol", "davis"], "--protocol: got davis, expected one of davis2016"),
        (["--all-frames"], "expected vos-benchmark"),
        (["--meta", "m.json"], "--meta: got protocol davis2017, expected one of youtubevos, mosev2, lvos"),
        (["--workers", "0"], "--workers: got 0"),
        (["--compare", "a.json", "b.json"], "--compare: expected no --gt"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(
    roots: list[str], argv: list[str], complaint: str, capsys: Said
) -> None:
    assert evaluate(*([] if not argv or "--gt" in argv else roots), *argv) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert complaint in said[0]


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The scoring processes of a command that runs: the children of its server for them."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if child.ppid() != process.pid]


def is_about_to_start_workers(process: subprocess.Popen[str]) -> bool:
    return len(psutil.Process(process.pid).children()) == 2  # resource tracker and server, which is still importing


def has_busy_workers(process: subprocess.Popen[str]) -> bool:
    return sum(worker.cpu_times().user for worker in workers_of(process)) > 2


@pytest.mark.slow
@pytest.mark.parametrize("moment", [is_about_to_start_workers, has_busy_workers])
def test_an_interruption_ends_it_at_once_and_writes_nothing(
    moment: Callable[[subprocess.Popen[str]], bool], tmp_path: Path
) -> None:
    labels = np.random.default_rng(0).integers(0, 40, (600, 800)).astype(np.int32)
    labels[0, :40] = np.arange(40)
    write_labels(tmp_path / "frame.png", labels)
    for folder in ("truth/one", "truth/two", "masks/one", "masks/two"):
        (tmp_path / folder).mkdir(parents=True)
        for t in range(150):
            (tmp_path / folder / f"{t:05d}.png").hardlink_to(tmp_path / "frame.png")
    roots = ["--gt", str(tmp_path / "truth"), "--pred", str(tmp_path / "masks")]
    file = tmp_path / "r.json"
    command = [sys.executable, "-m", "cutie_geo", "evaluate", *roots, "--workers", "2", "--json", str(file)]
    where = Path(__file__).parents[2]
    process = subprocess.Popen(command, cwd=where, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while process.poll() is None and not moment(process):
        time.sleep(0.02)
    assert process.poll() is None
    workers = workers_of(process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    started = time.perf_counter()
    _, said = process.communicate(timeout=240)
    assert process.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    assert not file.exists()
    assert not any(worker.is_running() for worker in workers)
    if moment is has_busy_workers:
        assert len(workers) == 2
        assert time.perf_counter() - started < 45  # one that goes on to the end of its sequence takes minutes
