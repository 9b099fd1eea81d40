"""Training of the prompt head: prompts are drawn as they should be, and a stopped run is the same run."""

import math
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY_YAML, tiny_config
from training import outcome, run_folder, same, write_stage

from cutie_geo.__main__ import run_one
from cutie_geo.checkpoints.load import load_model
from cutie_geo.checkpoints.saving import save_checkpoint
from cutie_geo.config import PromptConfig, SourceConfig, TrainConfig
from cutie_geo.data.clicks import box_of
from cutie_geo.model.network import CutieGeo
from cutie_geo.runs.trainables import trainable_for
from cutie_geo.structures import ClipBatch
from cutie_geo.training.prompts import (
    GRAIN,
    Draft,
    PromptTrainable,
    damaged,
    draw_targets,
    first_prompts,
    frozen_but_head,
    ious,
    jittered,
    prompt_losses,
    to_batch,
)

CONFIG = TrainConfig(
    stage="s", model="m", steps=9, data=(SourceConfig("rendered"),), prompts=PromptConfig(), precision="fp32"
)


def disc(side: int = 48, radius: int = 10) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return (y - side // 2) ** 2 + (x - side // 2) ** 2 < radius**2


def kinds(count: int = 300, **changes: float) -> list[Draft]:
    config = PromptConfig(**changes)
    return [first_prompts(disc(), random.Random(n), config) for n in range(count)]


def test_first_prompts_have_their_shares() -> None:
    drafts = kinds()
    boxes, masks = sum(d.box is not None for d in drafts), sum(d.mask is not None for d in drafts)
    assert 50 < boxes < 105
    assert 25 < masks < 70
    counts = [len(d.clicks) for d in drafts if d.box is None and d.mask is None]
    assert set(counts) == {1, 2, 3}
    assert 0.55 < counts.count(1) / len(counts) < 0.85


def test_clicks_are_on_the_side_that_their_label_says() -> None:
    truth = disc()
    for draft in kinds(box_probability=0.0, mask_probability=0.0):
        assert draft.clicks[0][2] == 1
        for x, y, label in draft.clicks:
            assert truth[int(y // GRAIN), int(x // GRAIN)] == bool(label)


def test_a_box_is_jittered_in_pixels_of_the_frame() -> None:
    box = box_of(disc())
    for seed in range(50):
        moved = jittered(box, random.Random(seed), 0.1)
        assert all(abs(a - GRAIN * b) <= 0.1 * GRAIN * 20 for a, b in zip(moved, box))
    assert jittered(box, random.Random(0), 0.0) == tuple(GRAIN * side for side in box)


def test_a_damaged_mask_has_errors_but_shows_the_object() -> None:
    overlaps = []
    for seed in range(40):
        mask = damaged(disc(), random.Random(seed))
        overlaps.append((mask & disc()).sum() / (mask | disc()).sum())
    assert max(overlaps) < 1
    assert np.median(overlaps) > 0.4


def test_a_correction_clicks_on_the_error() -> None:
    truth, draft = disc(), Draft()
    found = np.zeros((24, 24), np.float32)
    found[:, 12:] = disc()[::2, ::2][:, 12:]
    draft.correct(truth, found, random.Random(0))
    (x, _, label) = draft.clicks[0]
    assert label == 1
    assert x < 24 * GRAIN
    assert draft.mask is found


def test_targets_are_objects_that_are_there() -> None:
    labels = np.zeros((2, 96, 96), np.int64)
    labels[0, :40, :40], labels[0, 60:, 60:] = 1, 2
    labels[0, 50:52, 50:52] = 3  # too small
    config = PromptConfig(per_frame=30, union_probability=0.2)
    targets = draw_targets(labels, [random.Random(n) for n in range(60)], config)
    sizes = {int(target.mask.sum()) for target in targets[:30]}
    assert sizes == {400, 324, 724}
    assert not any(target.mask.any() for target in targets[30:])
    assert [target.frame for target in targets] == [0] * 30 + [1] * 30


def test_prompts_are_collated_with_gaps() -> None:
    batch = to_batch([Draft([(1.0, 2.0, 1)]), Draft([], (0.0, 0.0, 4.0, 4.0))], (4, 4), torch.device("cpu"))
    assert batch.labels.tolist() == [[1], [-1]]
    assert batch.boxes[0].isnan().all()
    assert batch.masks.isnan().all()


def test_losses_are_zero_for_what_is_not_there_and_small_for_what_is_right() -> None:
    truth = torch.zeros(3, 8, 8)
    truth[:2, 2:6, 2:6] = 1
    masks = torch.nn.functional.avg_pool2d((truth[:, None] - 0.5) * 40, 2)[:, 0]
    masks[1] *= -1
    quality = torch.tensor([9.0, -9.0, 0.0])
    found = prompt_losses(masks, quality, truth, PromptConfig())
    total = sum(found.values())
    assert total[2] == 0
    assert total[0] < 0.3 * total[1]
    assert found["quality"][0] < 0.05
    assert torch.equal(ious(truth > 0, truth > 0), torch.tensor([1.0, 1.0, 0.0]))


def toy_batch() -> ClipBatch:
    images = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(2, 2, 64, 64, dtype=torch.long)
    labels[:, :, 16:48, 16:48] = 1
    return ClipBatch(images, labels, torch.tensor([1, 1]), torch.tensor([3, 4]), ("a", "b"))


def test_only_the_head_is_trained_and_all_of_it() -> None:
    torch.manual_seed(0)
    trainable = PromptTrainable(CONFIG)
    model = CutieGeo(tiny_config(prompt_channels=32))
    frozen_but_head(model)
    outputs = trainable.module(model)(toy_batch(), [True, True])
    losses, totals = trainable.losses(outputs, toy_batch(), torch.device("cpu"))
    losses["total"].backward()
    assert totals.shape == (2,)
    assert torch.equal(losses["total"].detach(), totals.detach().mean())
    reached = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert reached == {name for name, _ in model.named_parameters() if name.startswith("prompt_head.")}
    assert outputs.logits.shape == (2, 1, 2, 64, 64)


def test_a_model_without_a_head_is_refused(tmp_path: Path) -> None:
    save_checkpoint(CutieGeo(tiny_config()), tmp_path / "plain")
    with pytest.raises(ValueError, match="prompt_channels: got 0, expected the width"):
        PromptTrainable(CONFIG).load(str(tmp_path / "plain"), torch.device("cpu"), "fp32", [])
    model = PromptTrainable(CONFIG).load(str(tmp_path / "plain"), torch.device("cpu"), "fp32", ["prompt_channels=32"])
    assert model.prompt_head is not None


def test_the_stage_chooses_what_is_trained() -> None:
    assert isinstance(trainable_for(CONFIG), PromptTrainable)
    wrong = TrainConfig(stage="s", model="sam2.1-hiera-tiny", steps=9, data=CONFIG.data, prompts=PromptConfig())
    with pytest.raises(ValueError, match=r"prompts: got settings with sam2\.1-hiera-tiny"):
        trainable_for(wrong)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"per_frame": 0}, "per_frame: got 0"),
        ({"box_probability": 0.7, "mask_probability": 0.6}, "a sum of 1.3, expected at most 1"),
        ({"rounds": ()}, r"rounds: got \(\), expected probabilities"),
    ],
)
def test_settings_are_checked(changes: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        PromptConfig(**changes)


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_bit(tmp_path: Path) -> None:
    changes = {"prompts": {"per_frame": 2}, "steps": 4, "batch": 2, "log_every": 2, "optimiser": {"ema": 0.9},
               "model_options": ["prompt_channels=32"]}  # fmt: skip
    arguments = write_stage(tmp_path, TINY_YAML, **changes)
    assert run_one("train", [*arguments, "--output", str(tmp_path / "whole")]) == 0
    folder = run_folder(tmp_path / "stopped")
    shutil.copytree(run_folder(tmp_path / "whole"), folder)
    shutil.rmtree(folder / "final")
    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    assert run_one("train", [*arguments, "--output", str(tmp_path / "stopped")]) == 0
    assert same(outcome(tmp_path / "whole"), outcome(tmp_path / "stopped"))
    start, end = (load_model(str(folder / "checkpoints" / "step-00000002"), device="cpu", precision="fp32"),
                  load_model(str(folder / "final"), device="cpu", precision="fp32"))  # fmt: skip
    moved = {name for name, w in start.state_dict().items() if not torch.equal(w, end.state_dict()[name])}
    assert moved
    assert all(name.startswith("prompt_head.") for name in moved)
    assert math.isfinite(outcome(tmp_path / "whole")[2][-1]["loss/total"])
