"""Order, shares and workers."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from clip_files import blob, small, write_video

from cutie_geo.data.clips import ClipDataset, VideoSource, clip_loader, collate, steps_of
from cutie_geo.structures import ClipBatch

MASK = blob((64, 72), {1: (10, 10, 50, 40), 2: (20, 45, 50, 70)})


@pytest.fixture
def data(tmp_path: Path) -> ClipDataset:
    config = small(crop=32)
    return ClipDataset([VideoSource([write_video(tmp_path, "a", [MASK] * 11)], config)], config, 3)


def flat(steps: Iterator[list[ClipBatch]]) -> list[ClipBatch]:
    return [part for step in steps for part in step]


def equal(a: list[ClipBatch], b: list[ClipBatch]) -> bool:
    return len(a) == len(b) and all(
        all(torch.equal(x, y) for x, y in zip(one[:4], other[:4])) and one[4:] == other[4:] for one, other in zip(a, b)
    )


def joined(parts: list[ClipBatch]) -> ClipBatch:
    tensors = [torch.cat([part[i] for part in parts]) for i in range(4)]
    return ClipBatch(*tensors, tuple(name for part in parts for name in part.names))  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------------- order
def test_an_epoch_takes_each_item_at_most_once_and_drops_what_fills_no_batch():
    steps = list(steps_of(11, 4, 3, 0, 6))
    assert [len(step) for step in steps] == [4] * 6
    epochs = [[key for step in steps for key in step if key.epoch == epoch] for epoch in range(3)]
    assert all(len({key.index for key in epoch}) == 8 for epoch in epochs)
    assert len({tuple(key.index for key in epoch) for epoch in epochs}) == 3
    assert all(0 <= key.index < 11 for epoch in epochs for key in epoch)
    assert [step[0].progress for step in steps] == [step / 6 for step in range(6)]
    assert list(steps_of(11, 4, 4, 0, 6)) != steps


def test_a_later_start_gives_the_same_steps():
    assert list(steps_of(11, 4, 3, 3, 9)) == list(steps_of(11, 4, 3, 0, 9))[3:]


def test_too_few_items_for_a_batch_are_an_error(data: ClipDataset):
    with pytest.raises(ValueError, match="got 11 items an epoch, expected at least one batch of 12"):
        clip_loader(data, batch=12, total_steps=2)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batch": 6, "processes": 2, "accumulate": 2}, "batch: got 6, expected a multiple of 4, which is 2 processes"),
        ({"batch": 4, "process": 2, "processes": 2}, "process: got 2 of 2, expected 0 to 1"),
        ({"batch": 4, "workers": -1}, "workers: got -1"),
        ({"batch": 4, "accumulate": 0}, "accumulate: got 0"),
        ({"batch": 0}, "batch: got 0"),
    ],
)
def test_shares_that_do_not_come_out_even_are_errors(data: ClipDataset, options: dict[str, int], match: str):
    with pytest.raises(ValueError, match=match):
        clip_loader(data, total_steps=2, **options)


# -------------------------------------------------------------------------------------------------------------- shares
def test_the_loader_gives_the_samples_of_the_order(data: ClipDataset):
    for keys, (batch,) in zip(steps_of(11, 4, 3, 0, 3), clip_loader(data, batch=4, total_steps=3)):
        assert equal([batch], [collate([data[key] for key in keys])])
    assert batch.images.shape == (4, 3, 3, 32, 32)
    assert batch.labels.shape == (4, 3, 32, 32)
    assert batch.num_objects.dtype == batch.seeds.dtype == torch.int64


def test_the_shares_of_all_processes_and_parts_are_the_batch_of_one(data: ClipDataset):
    whole = list(clip_loader(data, batch=8, total_steps=2))
    shares = [clip_loader(data, batch=8, total_steps=2, process=p, processes=2, accumulate=2) for p in range(2)]
    for (batch,), *parts in zip(whole, *shares):
        assert [len(part) for part in parts] == [2, 2]
        assert equal([batch], [joined([each for part in parts for each in part])])


def test_a_resumed_run_sees_the_clips_of_one_that_never_stopped(data: ClipDataset):
    whole = flat(clip_loader(data, batch=4, total_steps=5))
    assert equal(flat(clip_loader(data, batch=4, total_steps=5, first_step=3)), whole[3:])
    assert flat(clip_loader(data, batch=4, total_steps=5, first_step=5)) == []


def test_problems_of_a_batch_are_gathered(data: ClipDataset, tmp_path: Path):
    (tmp_path / "JPEGImages/a/00005.png").write_bytes(b"")
    batches = flat(clip_loader(data, batch=4, total_steps=4))
    assert any("00005.png" in problem for batch in batches for problem in batch.problems)


# ------------------------------------------------------------------------------------------------------------- workers
@pytest.mark.slow
def test_workers_change_no_sample(data: ClipDataset):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    wanted = flat(clip_loader(data, batch=4, total_steps=5, accumulate=2))
    for workers in (1, 2):
        assert equal(flat(clip_loader(data, batch=4, total_steps=5, accumulate=2, workers=workers)), wanted)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
def test_closing_ends_the_workers_and_ctrl_c_is_not_theirs(data: ClipDataset):
    before = {child.pid for child in multiprocessing.active_children()}
    with closing(clip_loader(data, batch=1, total_steps=1000, workers=1)) as steps:  # type: ignore[type-var]
        next(steps)
        (worker,) = [child for child in multiprocessing.active_children() if child.pid not in before]
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGINT)
        for _ in range(5):
            next(steps)
        assert worker.is_alive()
    deadline = time.monotonic() + 60
    while worker.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not worker.is_alive()


def test_what_goes_wrong_in_a_worker_is_told(data: ClipDataset, tmp_path: Path):
    for path in (tmp_path / "JPEGImages/a").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"draws for one sample met files that cannot be used, the last: .*\.png"):
        flat(clip_loader(data, batch=2, total_steps=2, workers=1))
