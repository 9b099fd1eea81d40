"""Defaults for threads and batch sizes of inference."""

from collections.abc import Sequence

import torch

from cutie_geo.config import require
from cutie_geo.runs.models import VideoModel

GPU_LOOKAHEAD = 4
"""Number of frames encoded as one batch on a GPU."""
SMALL = 20_000_000
"""Parameter count below which operations are too short for many threads."""


def default_lookahead(models: Sequence[VideoModel]) -> int:
    """Return the default number of frames per batch: several on a GPU, one on a CPU."""
    return GPU_LOOKAHEAD if any(model.device.type == "cuda" for model in models) else 1


def require_encode_threads(wanted: int | None, compiled: bool, view_workers: int | None) -> None:
    """Validate --encode-threads before a model is loaded.

    Raises:
        ValueError: for a number that exceeds torch's threads, or with options that exclude it.
    """
    threads = torch.get_num_threads()
    if wanted is None:
        return
    require(0 <= wanted < threads, f"--encode-threads: got {wanted}, expected 0 to {threads - 1} of {threads} threads")
    for option, given in (("--compile", compiled), ("--ms-workers", (view_workers or 1) > 1)):
        require(not (wanted and given), f"--encode-threads: got {wanted} with {option}, expected one of them")


def default_encode_threads(wanted: int | None, models: Sequence[VideoModel], batched: bool) -> int:
    """Return the number of threads that encode ahead on a CPU; 0 encodes in sequence.

    The default is half of the threads for one small network, whose operations are too short for more threads.

    Args:
        wanted: the user's number. None: default.
        models: models of the run.
        batched: frames have several views, or the network is compiled.

    Raises:
        ValueError: for encoding threads with a GPU.
    """
    on_cpu = all(model.device.type == "cpu" for model in models)
    if wanted is not None:
        require(on_cpu or not wanted, f"--encode-threads: got {wanted} with a model on a GPU, expected a CPU")
        return wanted
    if not on_cpu or len(models) > 1 or batched:
        return 0
    small = sum(weight.numel() for weight in models[0].parameters()) < SMALL
    return torch.get_num_threads() // 2 if small else 0
