"""The tracker gives the official program's numbers, run by run. Limits: Cutie specification, section 12.4."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from parity_rules import OPTIONS, RUNS, Run, synthetic_video

from cutie_geo.inference.ensemble import Ensemble
from cutie_geo.inference.tracker import Tracker
from cutie_geo.model.network import CutieGeo

Given = tuple[torch.Tensor | None, list[int] | None, bool]


def given_masks(run: Run, labels: np.ndarray) -> Iterator[Given]:
    """For each frame: mask, ids, permanent."""
    for t, truth in enumerate(torch.from_numpy(labels)):
        if run.story == "soft" and t in (0, 3):
            channels = torch.stack([truth == 1, truth == 2]).float()
            yield 0.9 * channels + 0.05, None, t == 3
        elif run.story == "add and delete" and t == 0:
            yield (truth == 1) * 1 + (truth == 2) * 5, [1, 5], False
        elif run.story == "add and delete" and t == 5:
            yield (truth == 3) * 9, [9], False
        elif run.story == "plain" and t == 0:
            yield truth, [1, 2, 3], False
        else:
            yield None, None, False


@pytest.mark.parametrize("name", RUNS)
def test_run_gives_the_official_numbers(
    name: str, parity_model: CutieGeo, parity_numbers: dict[str, np.ndarray]
) -> None:
    run = RUNS[name]
    images, labels = synthetic_video(*run.size, run.frames)
    options = OPTIONS | dict(run.options)
    # official flip augmentation is the ensemble of a frame and its mirror that goes on from what both say together
    flipped = Ensemble(parity_model, flip=True, feedback="merged", **options)
    tracker = flipped if run.flip else Tracker(parity_model, **options)
    wanted = {kind: parity_numbers[f"{name}_{kind}"] for kind in ("prob", "mean", "nch", "ids", "tokens")}
    for t, (mask, ids, permanent) in enumerate(given_masks(run, labels)):
        if run.story == "add and delete" and t == 8:
            tracker.remove([run.delete])
        probs = tracker.step(torch.from_numpy(images[t]), mask, ids, permanent=permanent, last=t == run.frames - 1)
        count = int(wanted["nch"][t])
        assert probs.shape == (count, *run.size)
        sampled = probs[:, :: run.stride, :: run.stride].double().numpy() * 65535
        assert np.abs(np.round(sampled) - wanted["prob"][t, :count].astype(int)).max() <= 4
        assert np.abs(probs.double().mean((1, 2)).numpy() - wanted["mean"][t, :count]).max() <= 1e-5
        other = torch.from_numpy(tracker.labels(probs).numpy() != wanted["ids"][t])
        assert other.float().mean() <= 5e-4
        # another processor rounds otherwise, which decides where the two best are as close as probabilities must be
        if other.any():
            first, second = probs.topk(2, dim=0).values
            assert (first - second)[other].max() <= 2 * 4 / 65535
        for one in tracker.trackers if isinstance(tracker, Ensemble) else [tracker]:
            assert token_counts(one) == wanted["tokens"][t].tolist()


def token_counts(tracker: Tracker) -> list[int]:
    counts = []
    for bank in tracker.memory.banks:
        counts += [bank.num_permanent + bank.num_recent, bank.num_permanent, bank.num_long]
    return counts + [0] * (6 - len(counts))
