"""Who does what, and that it all gets done."""

import threading

import pytest
import torch

from cutie_geo.inference.parallel_views import Partition, on_each, partition
from cutie_geo.model.network import CutieGeo


@pytest.mark.parametrize(
    ("costs", "count", "wanted"),
    [
        ([1.0, 1.0, 1.0, 1.0], 2, [[0, 2], [1, 3]]),
        ([1.0, 4.0, 2.0, 1.0], 2, [[1], [0, 2, 3]]),
        ([1.0], 3, [[0]]),
    ],
)
def test_costs_are_dealt_out_evenly(costs: list[float], count: int, wanted: list[list[int]]) -> None:
    assert partition(costs, count) == wanted


def test_a_network_is_on_each_device_once(tiny_model: CutieGeo) -> None:
    assert on_each(tiny_model, []) == [tiny_model]
    assert all(model is tiny_model for model in on_each(tiny_model, ["cpu", torch.device("cpu")]))
    with pytest.raises(ValueError, match="device nowhere"):
        on_each(tiny_model, ["nowhere"])


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_items(tiny_model: CutieGeo, workers: int) -> None:
    shares = Partition([[0, 3], [1, 2]], workers, tiny_model)
    calls: list[list[int]] = []

    def work(same: list[int]) -> list[str]:
        calls.append(same)
        return [f"{item}" for item in same]

    assert shares.run(work, ["a", "b", "a", "a"]) == ["0", "1", "2", "3"]
    assert sorted(calls) == [[0, 3], [1], [2]]  # by share and kind


def test_shares_run_at_the_same_time(tiny_model: CutieGeo) -> None:
    both = threading.Barrier(2)
    shares = Partition([[0], [1]], 2, tiny_model)
    assert shares.run(lambda same: [both.wait(timeout=20) >= 0], [0, 0]) == [True, True]


def test_an_error_comes_out_once_all_have_ended(tiny_model: CutieGeo) -> None:
    ended: list[int] = []

    def work(same: list[int]) -> list[int]:
        if same == [0]:
            raise ValueError("no")
        ended.append(same[0])
        return same

    with pytest.raises(ValueError, match="no"):
        Partition([[0], [1]], 2, tiny_model).run(work, [0, 0])
    assert ended == [1]
