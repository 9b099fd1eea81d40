"""`cutie-geo curves`: the logs of training runs as one picture."""

import argparse
import json
from pathlib import Path
from typing import Any

from cutie_geo.commands.training_run import LOG_FILE
from cutie_geo.config import require
from cutie_geo.data.background import atomic_write

HELP = "draw what training runs logged"
RESUMES = False
VALUES = ("loss/mask_dice", "validation/J&F")
"""What is drawn where nothing else is asked for."""
EXTRA = "pip install 'cutie_geo[plots]'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "runs", nargs="+", metavar="[LABEL=]RUN", help="folders of runs, such as runs/MODEL/STAGE, each with a label"
    )
    parser.add_argument("--values", nargs="+", default=list(VALUES), metavar="NAME", help="one drawing for each")
    parser.add_argument("--smooth", type=int, default=1, metavar="N", help="means over N lines of the log")
    parser.add_argument("--output", type=Path, required=True, help="the picture, PNG or SVG")


def run(args: argparse.Namespace) -> int:
    """Draw; return 0. Raises ValueError for runs without a log and for values that no log has."""
    require(args.smooth >= 1, f"--smooth: got {args.smooth}, wanted 1 or more")
    require(args.output.suffix in (".png", ".svg"), f"--output: got {args.output}, wanted a name with .png or .svg")
    logs = [_labelled(text) for text in args.runs]
    for value in args.values:
        known = sorted({name for _, log in logs for line in log for name in line})
        require(value in known, f"--values: no run logged {value}, wanted one of {', '.join(known)}")
    _draw(logs, args.values, args.smooth, args.output)
    print(args.output)
    return 0


def _labelled(text: str) -> tuple[str, list[dict[str, Any]]]:
    """A run's label, which is the name of its folder if none is given, and the lines of its log."""
    label, equals, place = text.rpartition("=")
    folder = Path(place).expanduser()
    path = folder / LOG_FILE
    require(path.is_file(), f"{path}: no such log, wanted the folder of a run")
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            lines.append(json.loads(line))
        except ValueError:
            raise ValueError(f"{path}: line {number} is no JSON") from None
    return (label if equals else folder.name), lines


def points(log: list[dict[str, Any]], value: str, smooth: int = 1) -> tuple[list[int], list[float]]:
    """Steps and means of `value` over `smooth` lines that have it; what is left over at the end is a shorter mean."""
    found = [(line["step"], line[value]) for line in log if value in line]
    parts = [found[i : i + smooth] for i in range(0, len(found), smooth)]
    return [part[-1][0] for part in parts], [sum(y for _, y in part) / len(part) for part in parts]


def _draw(logs: list[tuple[str, list[dict[str, Any]]]], values: list[str], smooth: int, output: Path) -> None:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError(f"curves: matplotlib is not installed; {EXTRA}") from None
    figure = Figure(figsize=(6 * len(values), 4), layout="constrained")
    FigureCanvasAgg(figure)
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
        figure.savefig(part, format=output.suffix[1:], dpi=100)
