"""`cutie-geo refine` on a tiny random SAM 2: results, resuming and errors."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from stock_sam2 import TINY, tiny_sam2
from toy_videos import contents, read_ids, summary, torn_files
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from cutie_geo.__main__ import run_one
from cutie_geo.data.example import example_frames, example_masks
from cutie_geo.data.video import FrameFolder, to_tensor
from cutie_geo.vss.run import find_jobs
from cutie_geo.vss.segformer import load_segformer
from cutie_geo.vss.semantic_maps import write_semantic

Said = pytest.CaptureFixture[str]
FRAMES = 5
ODD = ("--grid", 4, "--predicted-iou", 0, "--stability", 0, "--window", 2)
"""Keep all masks: random weights give arbitrary ones. Two and a half windows."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a tiny SAM 2, in a file."""
    path = tmp_path_factory.mktemp("sam2") / "tiny.safetensors"
    save_file({name: value.contiguous() for name, value in tiny_sam2().network.state_dict().items()}, path)
    return path


@pytest.fixture
def wall(tmp_path: Path) -> Path:
    """A folder with the bundled clip's first frames and, as base predictions, its true masks."""
    copy_clip(tmp_path / "videos" / "wall", tmp_path / "base" / "wall")
    return tmp_path


def copy_clip(frames: Path, maps: Path, count: int = FRAMES) -> None:
    for source, target in ((example_frames(), frames), (example_masks(), maps)):
        target.mkdir(parents=True)
        for path in sorted(source.iterdir())[:count]:
            shutil.copy(path, target)


def refine(weights: Path, folder: Path, *argv: object, video: str = "videos/wall", odd: Sequence[object] = ODD) -> int:
    """Run the command in this process, into `folder`/out."""
    what = ["--video", folder / video, "--semantic", folder / "base", "--output", folder / "out"]
    model = ["--model", "sam2.1-hiera-tiny", "--weights", weights, "--device", "cpu", "--precision", "fp32", *TINY]
    return run_one("refine", [str(word) for word in [*what, *odd, *argv, "--cpu-threads", 1, *model]])


@pytest.mark.slow
def test_a_clip_is_refined_once_and_only_with_the_same_settings(weights: Path, wall: Path, capsys: Said) -> None:
    assert refine(weights, wall) == 0
    told = summary(wall / "out")
    assert told["videos"]["wall"]["frames"] == [f"0000{t}" for t in range(FRAMES)]
    assert len(told["videos"]["wall"]["masklets"]) == 3
    assert min(told["videos"]["wall"]["masklets"]) > 0
    assert told["settings"]["masks"]["grid"]["points"] == 4
    said = capsys.readouterr().out
    assert "frames/s" in said
    assert "MiB at most" in said
    first = contents(wall / "out" / "Annotations" / "wall")
    assert list(first) == [f"0000{t}.png" for t in range(FRAMES)]
    base = [read_ids(wall / "base" / "wall" / name) for name in first]
    assert any((read_ids(wall / "out" / "Annotations" / "wall" / name) != own).any() for name, own in zip(first, base))

    assert refine(weights, wall) == 0
    assert "0 refined; 1 already complete" in capsys.readouterr().out
    assert refine(weights, wall, "--scope", "frame") == 2
    assert "wall was made with other scope" in capsys.readouterr().err
    write_semantic(wall / "base" / "wall" / "00004.png", np.full((180, 320), 9, np.uint8))
    assert refine(weights, wall) == 2
    assert "wall was made with other masks" in capsys.readouterr().err
    assert refine(weights, wall, "--overwrite") == 0
    again = contents(wall / "out" / "Annotations" / "wall")
    assert again["00000.png"] == first["00000.png"]
    assert (read_ids(wall / "out" / "Annotations" / "wall" / "00004.png") == 9).all()


@pytest.mark.slow
def test_an_invalid_clip_fails_alone_and_is_processed_again(weights: Path, wall: Path, capsys: Said) -> None:
    copy_clip(wall / "videos" / "other", wall / "base" / "other", 3)
    small = wall / "base" / "other" / "00002.png"
    good = small.read_bytes()
    write_semantic(small, np.zeros((90, 320), np.uint8))
    assert refine(weights, wall, video="videos") == 2
    said = capsys.readouterr()
    assert "00002.png: map is (H, W) = (90, 320), expected (180, 320)" in said.err
    assert "1 refined; 1 of 2 FAILED" in said.out
    assert torn_files(wall / "out") == []
    assert json.loads((wall / "out" / ".cutie_geo" / "other.json").read_text())["error"]
    wall_before = (wall / "out" / "Annotations" / "wall" / "00000.png").stat().st_mtime_ns
    small.write_bytes(good)
    assert refine(weights, wall, video="videos") == 0
    assert "1 refined; 1 already complete" in capsys.readouterr().out
    assert len(contents(wall / "out" / "Annotations" / "other")) == 3
    assert (wall / "out" / "Annotations" / "wall" / "00000.png").stat().st_mtime_ns == wall_before


@pytest.mark.slow
def test_a_cutie_model_can_propagate_the_masks(weights: Path, wall: Path) -> None:
    assert refine(weights, wall, "--propagator", "cutie-geo-tiny", "--size", 64, "mem_every=2") == 0
    tracking = summary(wall / "out")["settings"]["tracking"]
    assert (tracking["size"], tracking["mem_every"]) == (64, 2)
    assert len(contents(wall / "out" / "Annotations" / "wall")) == FRAMES


@pytest.mark.slow
def test_a_segformer_makes_the_base_predictions(weights: Path, wall: Path) -> None:
    """Where no mask is good enough, they come out as they are."""
    torch.manual_seed(0)
    sizes = {"depths": [1] * 4, "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 1, 2, 2]}
    config = SegformerConfig.from_dict(sizes | {"num_labels": 124})
    SegformerForSemanticSegmentation(config).save_pretrained(wall / "segformer")
    model = load_segformer(str(wall / "segformer"), 124, "cpu", "fp32")
    base = ("--segformer", wall / "segformer", "--video", wall / "videos" / "wall", "--output", wall / "out")
    blind = load_file(weights)
    blind["sam_mask_decoder.iou_prediction_head.layers.2.bias"] -= 100  # so that it trusts no mask
    save_file(blind, wall / "blind.safetensors")
    few = ("--model", "sam2.1-hiera-tiny", "--weights", wall / "blind.safetensors", "--grid", 2)
    words = [*base, *few, "--device", "cpu", "--precision", "fp32", "--cpu-threads", 1, *TINY]
    assert run_one("refine", [str(word) for word in words]) == 0
    for name, image in FrameFolder(wall / "videos" / "wall"):
        np.testing.assert_array_equal(
            read_ids(wall / "out" / "Annotations" / "wall" / f"{name}.png"), model(to_tensor(image))
        )
    assert "segformer" in summary(wall / "out")["settings"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--window", 0), "window: got 0, expected 1 frame or more"),
        (("--grid", 0), "grid: got 0 points a side"),
        (("--predicted-iou", 1.5), "predicted IoU: got 1.5"),
        (("--chunk-size", 0), "--chunk-size: got 0"),
        (("--segformer", "nowhere"), "--semantic and --segformer: expected one of them"),
        (("--size", 64), "--size: expected a Cutie --propagator"),
        (("mem_every=2",), "mem_every=2: expected model.key=value"),
        (("--propagator-weights", "none"), "--propagator-weights: expected another --propagator"),
        (("--videos", "bear"), "no bear there"),
        (("--model", "cutie-geo-tiny"), "--model: got cutie-geo-tiny, expected one of sam2.1-hiera-tiny"),
    ],
)
def test_invalid_options_are_refused(wall: Path, capsys: Said, argv: tuple[object, ...], words: str) -> None:
    plain = ["--video", wall / "videos/wall", "--semantic", wall / "base", "--output", wall / "out", *argv]
    assert run_one("refine", [str(word) for word in plain]) == 2
    assert words in capsys.readouterr().err
    assert not (wall / "out").exists()


def test_frames_without_a_map_are_named_before_anything_is_written(weights: Path, wall: Path, capsys: Said) -> None:
    (wall / "base" / "wall" / "00003.png").unlink()
    assert refine(weights, wall) == 2
    assert "no map for 1 of 5 frames: 00003" in capsys.readouterr().err
    assert contents(wall / "out") == {}


def test_base_predictions_are_not_overwritten(weights: Path, wall: Path, capsys: Said) -> None:
    before = contents(wall / "base")
    assert refine(weights, wall, "--output", wall / "base") == 2
    assert "results would be inside the input" in capsys.readouterr().err
    assert refine(weights, wall, "--output", wall / "videos" / "out", video="videos") == 2
    assert "results would be inside the input" in capsys.readouterr().err
    assert not (wall / "videos" / "out").exists()
    assert contents(wall / "base") == before


def test_vspw_s_clips_are_those_of_its_list(tmp_path: Path) -> None:
    home = tmp_path / "VSPW" / "VSPW_480p"
    for name in ("one", "two", "three"):
        copy_clip(home / "data" / name / "origin", home / "data" / name / "mask", 1)
        (tmp_path / "base" / name).mkdir(parents=True)
        shutil.copy(home / "data" / name / "mask" / "00000.png", tmp_path / "base" / name)
    (home / "val.txt").write_text("two\none\n")
    (tmp_path / "list.txt").write_text("three\n")
    jobs = find_jobs(tmp_path, tmp_path / "base")
    assert [job.record.name for job in jobs] == ["two", "one"]
    assert jobs[0].record.source == home / "data" / "two" / "origin"
    assert [job.record.problem for job in jobs] == [None, None]
    assert [job.record.name for job in find_jobs(tmp_path, tmp_path / "base", tmp_path / "list.txt")] == ["three"]
    shutil.rmtree(tmp_path / "base" / "one")
    assert "base/one: no maps" in str(find_jobs(tmp_path, tmp_path / "base")[1].record.problem)
    (home / "val.txt").write_text("two\nfour\n")
    with pytest.raises(ValueError, match="no folder for 1 of 2 listed clips: four"):
        find_jobs(tmp_path, tmp_path / "base")


def test_one_video_s_maps_may_lie_in_the_folder_itself(wall: Path) -> None:
    (job,) = find_jobs(wall / "videos" / "wall", wall / "base" / "wall")
    assert job.record.problem is None
    assert len(job.record.masks) == FRAMES
