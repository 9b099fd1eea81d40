"""Many sequences at a time give what one after the other gives, and leave nothing running."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from cutie_geo.data.masks import write_labels
from cutie_geo.evaluation.folders import EvaluationError
from cutie_geo.evaluation.protocols import Settings
from cutie_geo.evaluation.scoring import jobs, score_sequences


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("masks")
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        for t in range(5):
            labels = np.kron(rng.integers(0, 3, (6, 8)), np.ones((8, 8), int)).astype(np.int32)
            write_labels(root / "truth" / name / f"{t:05d}.png", labels)
            write_labels(root / "masks" / name / f"{t:05d}.png", np.roll(labels, 3, axis=1))
    return root / "truth", root / "masks"


def children() -> int:
    return len(multiprocessing.active_children())


@pytest.mark.slow
def test_processes_change_no_number_and_no_order(roots: tuple[Path, Path]) -> None:
    todo = jobs(*roots, ["c", "a", "b"], Settings())
    serial = list(score_sequences(todo))
    assert [item.sequence for item in serial] == ["c", "a", "b"]
    assert 0 < np.mean(serial[0].objects[1].j) < 1
    assert list(score_sequences(todo, workers=2)) == serial


def test_an_error_in_a_process_arrives_with_its_names_and_ends_all(roots: tuple[Path, Path]) -> None:
    todo = jobs(*roots, ["a", "lost", "c"], Settings())
    todo[1] = todo[1]._replace(truth=todo[0].truth)
    found = score_sequences(todo, workers=2)
    assert next(found).sequence == "a"
    with pytest.raises(EvaluationError, match="lost/00001: the folder of predictions is missing") as caught:
        list(found)
    assert (caught.value.sequence, caught.value.frame) == ("lost", "00001")
    assert children() == 0


def test_leaving_early_leaves_no_process(roots: tuple[Path, Path]) -> None:
    found = score_sequences(jobs(*roots, ["a", "b", "c"], Settings()), workers=2)
    next(found)
    assert children() > 0
    found.close()  # type: ignore[attr-defined]
    assert children() == 0


def test_no_process_is_not_enough(roots: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="workers: got 0"):
        list(score_sequences(jobs(*roots, ["a"], Settings()), workers=0))
