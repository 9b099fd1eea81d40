"""How fast the command line starts: help imports nothing heavy, and its names are those of the library."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from toy_videos import tiny_options, write_frames, write_mask

from cutie_geo import __version__
from cutie_geo.__main__ import COMMANDS, main
from cutie_geo.config import choices as names
from cutie_geo.config import model_config
from cutie_geo.config.choices import DEFAULT_MODEL

HEAVY = {"torch", "numpy", "cv2", "PIL", "av", "jaxtyping", "transformers", "sam2", "timm", "accelerate", "wandb",
         "matplotlib", "hydra", "huggingface_hub", "pycocotools"}  # fmt: skip
PROGRAM = f"""
import contextlib, io, sys
from cutie_geo.__main__ import COMMANDS, main
for argv in (["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main(argv)
    heavy = sorted({HEAVY!r} & set(sys.modules))
    print(*argv, len(said.getvalue().split()), *heavy, sep=",")
"""
BUDGET = 1.0
"""Seconds of processor time for --help of one command, on a machine of two slow cores."""


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("COV")}


def test_help_of_no_command_imports_anything_heavy() -> None:
    said = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment())
    assert said.returncode == 0, said.stderr
    lines = [line.split(",") for line in said.stdout.splitlines()]
    assert [line[0] for line in lines] == ["--help", "--version", *COMMANDS]
    assert [line for line in lines if any(word in HEAVY for word in line)] == []
    assert min(int(line[2]) for line in lines[2:]) > 20  # words of help


@pytest.mark.slow
def test_a_model_is_built_without_wandb_and_training_can_import_it_later() -> None:
    program = "import sys; from cutie_geo.model.blocks import ResNetFeatures; assert 'timm' not in sys.modules; "
    program += "ResNetFeatures('resnet-nano'); assert 'wandb' not in sys.modules; import wandb; wandb.init"
    subprocess.run([sys.executable, "-c", program], check=True)


RUN = """
import sys
from cutie_geo.__main__ import main
assert main(["infer", "--device", "cpu", "--cpu-threads", "1", *sys.argv[1:]]) == 0
print(*sorted({"wandb", "accelerate", "hydra", "sam2"} & {name for name, module in sys.modules.items() if module}))
"""


def imported(*arguments: str) -> set[str]:
    """Packages of training and of SAM 2 that a run of `infer` imports."""
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_inference_imports_neither_training_nor_sam2(tmp_path: Path) -> None:
    video, mask = write_frames(tmp_path / "clip", 2), write_mask(tmp_path / "first.png")
    arguments = ["--video", str(video), "--mask", str(mask), "--output", str(tmp_path / "out")]
    assert imported(*arguments, *tiny_options(tmp_path)[:4]) == set()


@pytest.mark.slow
def test_inference_with_the_bundled_model_imports_what_it_needs(tmp_path: Path) -> None:
    video, mask = write_frames(tmp_path / "clip", 2), write_mask(tmp_path / "first.png")
    arguments = ["--video", str(video), "--mask", str(mask), "--output", str(tmp_path / "out")]
    of_hiera = {"hydra", "sam2"} if model_config(DEFAULT_MODEL).encoder.vision.startswith("hiera") else set()
    assert imported(*arguments) == of_hiera


@pytest.mark.parametrize("command", ["infer", "train", "evaluate"])
def test_help_comes_within_a_second_of_processor_time(command: str) -> None:
    least = 10 * BUDGET
    for _ in range(3):  # the best of three: a busy machine only adds
        before = os.times()
        subprocess.run([sys.executable, "-m", "cutie_geo", command, "--help"], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        assert spent > 0
        least = min(least, spent)
        if least < BUDGET:
            break
    assert least < BUDGET


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"cutie-geo {__version__}\n"


def test_the_names_in_help_are_those_of_the_library() -> None:
    from cutie_geo.data.convert.vos import ImageMode
    from cutie_geo.data.index import dataset_names
    from cutie_geo.data.submission.servers import SERVERS
    from cutie_geo.evaluation.protocols import PROTOCOLS
    from cutie_geo.inference.ensemble import FEEDBACKS
    from cutie_geo.runs.benchmark.throughput import PEAK_TFLOPS
    from cutie_geo.runs.training_run import TRACKERS
    from cutie_geo.sam2.networks import SAM2_MODELS

    assert list(names.DATASETS) == dataset_names()
    assert tuple(PROTOCOLS) == names.PROTOCOLS
    assert list(names.SAM2_MODELS) == list(SAM2_MODELS)
    assert {name: tuple(server.splits) for name, server in SERVERS.items()} == names.SERVER_SPLITS
    assert names.FEEDBACKS == FEEDBACKS
    assert names.TRACKERS == TRACKERS
    assert get_args(ImageMode) == names.IMAGE_MODES
    assert PEAK_TFLOPS == 790.0
