"""Time from a click to a mask by a model's prompt head, with and without encoding the frame."""

import statistics
import time
from typing import Any

from cutie_geo.config import require
from cutie_geo.inference.head_prompter import HeadPrompter
from cutie_geo.model.network import CutieGeo
from cutie_geo.regions import Region
from cutie_geo.runs.benchmark.inputs import dtype_name, rendered_images, synchronise
from cutie_geo.structures import Prompt

REPEATS = 15
"""Number of measured frames, after one that is not measured."""
CHANNELS = 128
"""Width of the head with random weights that presets without a head get; that of the bundled model."""
PART = 4
"""The clicked object fills this fraction of each side, so that it is enlarged."""

Row = dict[str, Any]


def measure_prompts(model: CutieGeo, size: tuple[int, int], repeats: int = REPEATS) -> Row:
    """Time the parts of prompting on rendered frames; the object's enlarged view is encoded for its first click.

    Raises:
        ValueError: If the model has no prompt head.
    """
    advice = f"--weights none measures one with random weights, prompt_channels={CHANNELS}"
    require(model.prompt_head is not None, f"--prompts: the weights have no prompt head; {advice}")
    prompter, whole = HeadPrompter(model), HeadPrompter(model, zoom=False)
    height, width = size
    region = Region(width // 2, height // 2, width // 2 + width // PART, height // 2 + height // PART)
    click = (width / 2 + width / PART / 2, height / 2 + height / PART / 2, 1)
    first, second = Prompt((click,)), Prompt((click, (1.0, 1.0, 0)))
    spent: dict[str, list[float]] = {"encode": [], "first": [], "next": []}
    cpu: list[tuple[float, float]] = []
    for image in rendered_images(size, repeats + 1):
        times, busy = [time.perf_counter()], [time.process_time()]
        encoded, found = prompter.encode(image), None
        for prompt in (None, first, second):
            if prompt is not None:
                # a further click corrects the mask of the one before, and predicts it afresh, too
                for logits in (None,) if found is None else (found.logits, None):
                    found = prompter.refine(encoded, prompt, whole.predict(encoded, prompt, logits), region)
            synchronise(model.device)
            times.append(time.perf_counter())
            busy.append(time.process_time())
        cpu.append((busy[1] - busy[0], busy[2] - busy[1]))
        for name, start, end in zip(spent, times, times[1:]):
            spent[name].append(end - start)
    medians = {name: statistics.median(values[1:]) for name, values in spent.items()}
    with_encoding = [encode + first for encode, first in zip(spent["encode"], spent["first"])]
    return {
        "precision": dtype_name(model.precision),
        "size": list(size),
        "internal_size": min(encoded.whole.geometry.internal),
        "encode_seconds": medians["encode"],
        "first_click_seconds": medians["first"],
        "next_click_seconds": medians["next"],
        "with_encoding_seconds": statistics.median(with_encoding[1:]),
        "encode_cpu_seconds": statistics.median(encode for encode, _ in cpu[1:]),
        "first_click_cpu_seconds": statistics.median(first for _, first in cpu[1:]),
    }


HEADER = "precision      size encode ms first click ms next click ms with encoding ms CPU: encode ms first click ms"


def row_text(row: Row) -> str:
    """Return a row of the table under HEADER."""
    size = "x".join(map(str, row["size"]))
    names = ("encode", "first_click", "next_click", "with_encoding", "encode_cpu", "first_click_cpu")
    cells = "".join(
        f"{row[f'{name}_seconds'] * 1000:>{width}.0f}" for name, width in zip(names, (10, 15, 14, 17, 15, 15))
    )
    return f"{row['precision']:>9} {size:>9}{cells}"
