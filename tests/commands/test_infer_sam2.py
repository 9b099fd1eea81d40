"""SAM 2 segments what infer.py is given, alone and beside our own model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_videos import contents, read_ids, regions, summary, write_film, write_frames, write_mask

from cutie_geo.__main__ import run_one
from cutie_geo.data.masks import read_probs
from cutie_geo.inference.factory import method_for
from cutie_geo.inference.segmenter import Method
from cutie_geo.sam2.tracker import Sam2Tracker

Said = pytest.CaptureFixture[str]
SMALL = ("model.image_size=128",)
"""A square that a CPU sees quickly."""


def infer(folder: Path, output: str, *argv: object) -> int:
    """infer.py in this process on four frames; the second object comes later."""
    if not (folder / "bear").exists():
        write_frames(folder / "bear", 4)
        one = np.zeros((64, 96), np.uint8)
        one[10:40, 10:50] = 3
        write_mask(folder / "masks" / "00000.png", one)
        write_mask(
            folder / "masks" / "00002.png",
            np.where(np.arange(96) > 70, 8, 0).astype(np.uint8) * np.ones((64, 1), np.uint8),
        )
    words = ["--video", folder / "bear", "--mask", folder / "masks", "--output", folder / output, *argv]
    small = SMALL if "sam2.1-hiera-tiny" in argv else ()
    return run_one("infer", [str(word) for word in [*words, "--precision", "fp32", "--cpu-threads", 1, *small]])


@pytest.mark.slow
def test_sam2_is_a_model_like_any_other(tmp_path: Path, capsys: Said) -> None:
    sam2 = ("--model", "sam2.1-hiera-tiny", "--weights", "none")
    assert infer(tmp_path, "out", *sam2, "--overlay", "--save-probs") == 0
    assert list(contents(tmp_path / "out" / "Annotations" / "bear")) == [f"0000{t}.png" for t in range(4)]
    assert read_ids(tmp_path / "out" / "Annotations" / "bear" / "00000.png").shape == (64, 96)
    told = summary(tmp_path / "out")
    assert told["videos"]["bear"]["objects"] == [3, 8]
    assert told["settings"]["tracker"]["max_internal_size"] == -1  # SAM 2 stretches the file's own frames
    assert told["settings"]["model"] == {"name": "sam2.1-hiera-tiny", "overrides": list(SMALL)}
    capsys.readouterr()
    assert infer(tmp_path, "out", *sam2) == 0
    assert "1 already complete" in capsys.readouterr().out
    assert infer(tmp_path, "out", *sam2, "model.sigmoid_scale_for_mem_enc=10.0") == 2
    assert "bear was made with other model.overrides" in capsys.readouterr().err


@pytest.mark.slow
def test_sam2_is_told_how_many_frames_a_folder_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its package scales distances in time by the length of clips that are short, and so knows it."""
    told = []

    def watched(*args: Any) -> Method:
        method = method_for(*args)
        assert isinstance(method, Sam2Tracker)
        told.append(method.num_frames)
        return method

    monkeypatch.setattr("cutie_geo.inference.one_video.method_for", watched)
    assert infer(tmp_path, "out", "--model", "sam2.1-hiera-tiny", "--weights", "none") == 0
    film = ["infer", "--video", write_film(tmp_path / "film.mp4"), "--mask", tmp_path / "masks" / "00000.png"]
    film += [
        "--model",
        "sam2.1-hiera-tiny",
        "--weights",
        "none",
        "--output",
        tmp_path / "film",
        "--precision",
        "fp32",
        *SMALL,
    ]
    assert run_one(film[0], [*map(str, film[1:])]) == 0
    assert told == [4, None]


@pytest.mark.slow
def test_a_benchmark_of_several_objects_that_come_later_is_run(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_frames(tmp_path / "valid" / "JPEGImages" / name, 3)
        write_mask(tmp_path / "valid" / "Annotations" / name / "00000.png", regions((1, 2)))
    write_mask(tmp_path / "valid" / "Annotations" / "two" / "00001.png", regions((1, 2, 3)))
    words = ["--dataset", "lsvos2024-valid", "--data-root", tmp_path, "--output", tmp_path / "out", "--weights", "none"]
    words += ["--model", "sam2.1-hiera-tiny", *SMALL, "--precision", "fp32", "--cpu-threads", 1]
    assert run_one("infer", [str(word) for word in words]) == 0
    told = summary(tmp_path / "out")["videos"]
    assert (told["one"]["objects"], told["two"]["objects"]) == ([1, 2], [1, 2, 3])
    assert told["two"]["presence"]["3"][0] is None


@pytest.mark.slow
def test_sam2_and_our_model_are_summed(tmp_path: Path) -> None:
    """Each as it would be alone: ours at its own size, SAM 2 on the file's frames."""
    assert infer(tmp_path, "ours", "--weights", "none", "--save-probs") == 0
    assert infer(tmp_path, "theirs", "--model", "sam2.1-hiera-tiny", "--weights", "none", "--save-probs") == 0
    both = ("--models", "cutie-geo-tiny", "sam2.1-hiera-tiny", "--coefficients", 3, 1)
    assert infer(tmp_path, "both", *both, "--save-probs", "--weights", "none") == 0
    for t in range(4):
        probs = [
            read_probs(tmp_path / run / "probs" / "bear" / f"0000{t}.npz")[0] for run in ("ours", "theirs", "both")
        ]
        assert np.abs(0.75 * probs[0] + 0.25 * probs[1] - probs[2]).max() <= 2.01 / 255


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--model", "sam2.1-hiera-tiny", "--flip"), "--ms, --flip: SAM 2 stretches each frame"),
        (("--model", "sam2.1-hiera-tiny", "--save-depth"), "sam2.1-hiera-tiny has no geometry encoder"),
        (("--model", "sam2.1-hiera-tiny", "--compile"), "compile: this model has no parts that torch can compile"),
        (("--model", "sam2.1-hiera-tiny", "model.nonsense=3"), "sam2.1-hiera-tiny: overrides"),
        (("--model", "sam2.1-hiera-tiny", "nonsense=3"), "unknown nonsense"),
    ],
)
def test_what_sam2_cannot_do_is_refused(tmp_path: Path, capsys: Said, argv: tuple[object, ...], words: str) -> None:
    assert infer(tmp_path, "out", *argv, "--weights", "none") == 2
    assert words in capsys.readouterr().err
