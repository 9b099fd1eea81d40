"""Charts of the logs of training runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cutie_geo.config import parse_json, require
from cutie_geo.data.io_threads import atomic_write
from cutie_geo.evaluation.plots import new_figure
from cutie_geo.runs.training_run import LOG_FILE

Log = list[dict[str, Any]]
"""Lines of a run's log, each with its step."""


def draw_curves(runs: Sequence[str], values: Sequence[str], output: Path, smooth: int = 1) -> None:
    """Draw logged values over steps, one chart for each value and one curve for each run.

    Args:
        runs: folders of runs as `[LABEL=]FOLDER`.
        smooth: draw means over this many lines of the log.
        output: PNG or SVG file.

    Raises:
        ValueError: for runs without a log, values that no run logged, and without matplotlib.
    """
    require(smooth >= 1, f"--smooth: got {smooth}, expected 1 or more")
    require(output.suffix in (".png", ".svg"), f"--output: got {output}, expected a name with .png or .svg")
    logs = [_labelled(text) for text in runs]
    for value in values:
        known = sorted({name for _, log in logs for line in log for name in line})
        require(value in known, f"--values: no run logged {value}, expected one of {', '.join(known)}")
    figure = new_figure(6.0 * len(values), 4.0)
    for place, value in enumerate(values):
        axes = figure.add_subplot(1, len(values), place + 1)
        for label, log in logs:
            steps, means = points(log, value, smooth)
            if steps:
                axes.plot(steps, means, label=label, marker="o" if len(steps) < 20 else "", markersize=3)
        axes.set(title=value, xlabel="step")
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_write(output) as part:
        figure.savefig(part, format=output.suffix[1:])


def _labelled(text: str) -> tuple[str, Log]:
    """Return a run's label, by default the name of its folder, and its log. Raises ValueError."""
    label, equals, place = text.rpartition("=")
    folder = Path(place).expanduser()
    path = folder / LOG_FILE
    require(path.is_file(), f"{path}: no such log, expected the folder of a run")
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            lines.append(parse_json(line, str(path)))
        except ValueError:
            raise ValueError(f"{path}: line {number} is not JSON") from None
    return (label if equals else folder.name), lines


def points(log: Log, value: str, smooth: int = 1) -> tuple[list[int], list[float]]:
    """Return steps and means of `value` over each `smooth` lines that have it; the last mean may have fewer lines."""
    found = [(line["step"], line[value]) for line in log if value in line]
    parts = [found[i : i + smooth] for i in range(0, len(found), smooth)]
    return [part[-1][0] for part in parts], [sum(y for _, y in part) / len(part) for part in parts]
