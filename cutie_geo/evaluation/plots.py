"""Figures of a report: bars for each sequence, J over time, the best and worst frame beside the ground truth."""

import glob
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from cutie_geo.config import require
from cutie_geo.data.index.records import ANNOTATIONS
from cutie_geo.data.io_threads import atomic_write
from cutie_geo.data.listing import mask_path, natural_order
from cutie_geo.data.masks import read_labels, resize_labels
from cutie_geo.data.overlay import COLOURS, draw
from cutie_geo.data.video import IMAGE_SUFFIXES, read_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, PAPER = (40, 40, 40), (255, 255, 255)
DPI = 100
WIDTH, ROW_HEIGHT = 8.0, 0.24
"""Width of a chart and height of a bar's row, in inches."""
TITLE_HEIGHT = 22
"""Height in pixels of the title above a frame."""
GREY = 70
"""Background of painted label maps."""
BARS = "sequences.png"
FRAMES = "JPEGImages"
"""Folder of the frames in a benchmark, beside its masks."""
INSTALL = "pip install 'cutie_geo[plots]'"


def write_plots(
    folder: Path, report: Mapping[str, Any], truth: Path, masks: Path, frames: Path | None = None
) -> list[Path]:
    """Write all figures of a report and return their paths.

    These are `sequences.png` and, for each sequence with objects, `j_over_time.png`, `best.png` and `worst.png`. The
    last two show the frames with the highest and lowest mean J over objects, ground truth left and prediction right.

    Args:
        frames: folder of the videos' folders of frames, over which masks are drawn. None: on grey.

    Raises:
        ValueError: if matplotlib is not installed, and for unreadable frames.
        OSError: if a file cannot be written.
    """
    sequences = {name: entry for name, entry in report["sequences"].items() if entry["objects"]}
    written = [save(folder / BARS, bars(sequences))]
    for name, entry in sequences.items():
        written.append(save(folder / name / "j_over_time.png", rendered(j_over_time(name, entry["objects"]))))
        for kind, (frame, j) in zip(("best", "worst"), best_and_worst(entry["objects"])):
            file = None if frames is None else frame_of(frames / name, frame)
            picture = side_by_side(mask_path(truth / name, frame), mask_path(masks / name, frame), file)
            written.append(save(folder / name / f"{kind}.png", titled(picture, f"{name}/{frame}: J {j:.1f}")))
    return written


def find_frames(truth: Path) -> Path | None:
    """Return the folder of frames of a ground truth: its path with `JPEGImages` for the last `Annotations`, or None."""
    parts = list(truth.resolve().parts)
    if ANNOTATIONS not in parts:
        return None
    place = len(parts) - 1 - parts[::-1].index(ANNOTATIONS)
    found = Path(*parts[:place], FRAMES, *parts[place + 1 :])
    return found if found.is_dir() else None


def frame_of(folder: Path, frame: str) -> Path | None:
    """Return the image of a frame; None if there is none, or several."""
    found = [path for path in folder.glob(f"{glob.escape(frame)}.*") if path.suffix.lower() in IMAGE_SUFFIXES]
    return found[0] if len(found) == 1 else None


def save(path: Path, picture: Image.Image) -> Path:
    """Write an image atomically as PNG and return its path. Raises OSError."""
    with atomic_write(path) as part:
        picture.save(part, format="PNG")
    return path


def best_and_worst(objects: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[str, float], tuple[str, float]]:
    """Return the frames with the highest and lowest mean J over the scored objects; the earlier one of ties."""
    scores: dict[str, list[float]] = {}
    for own in objects.values():
        for frame, j in zip(own["frames"], own["J_per_frame"]):
            scores.setdefault(frame, []).append(j)
    means = {frame: sum(scores[frame]) / len(scores[frame]) for frame in natural_order(scores)}
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    return (best, means[best]), (worst, means[worst])


# ------------------------------------------------------------------------------------------------------------ charts
def has_matplotlib() -> bool:
    """Return True if charts can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


def require_matplotlib(where: str) -> None:
    """Raise ValueError unless charts can be drawn."""
    require(has_matplotlib(), f"{where}: matplotlib is not installed; {INSTALL}")


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches. Raises ValueError if matplotlib is not installed."""
    require_matplotlib("figures")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def rendered(figure: "Figure") -> Image.Image:
    """Return a figure as an image."""
    canvas: Any = figure.canvas
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def colour_of(place: int) -> tuple[float, float, float]:
    """Return the overlay's colour of an object, as matplotlib takes it."""
    red, green, blue = COLOURS[place % len(COLOURS)]
    return red / 255, green / 255, blue / 255


def bar_chart(groups: Mapping[str, Sequence[float | None]], labels: Sequence[str], numbers: Sequence[str]) -> "Figure":
    """Return a chart of horizontal bars from 0 to 100.

    Args:
        groups: one value for each row by the name in the legend; None draws no bar.
        labels: name of each row.
        numbers: text at the right of each row.
    """
    require_matplotlib("figures")
    from matplotlib.patches import Patch

    rows, thick = len(labels), 0.8 / max(len(groups), 1)
    figure = new_figure(WIDTH, 0.9 + ROW_HEIGHT * max(len(groups), 1.5) / 1.5 * rows)
    axes = figure.add_subplot()
    for k, (name, values) in enumerate(groups.items()):
        drawn = [(row, value) for row, value in enumerate(values) if value is not None]
        places = [row + (k - (len(groups) - 1) / 2) * thick for row, _ in drawn]
        axes.barh(places, [value for _, value in drawn], thick, label=name, color=colour_of(k))
    for row, text in enumerate(numbers):
        axes.text(101, row, text, va="center", clip_on=False)
    axes.set(xlim=(0, 100), ylim=(rows - 0.4, -0.6), yticks=range(rows))
    axes.set_yticklabels(labels)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    handles = [Patch(color=colour_of(k), label=name) for k, name in enumerate(groups)]  # of empty series, too
    figure.legend(handles=handles, loc="outside lower center", ncols=max(len(groups), 1))
    return figure


def bars(
    rows: Mapping[str, Mapping[str, Any]], measures: Sequence[str] = ("J", "F"), written: str = "J&F"
) -> Image.Image:
    """Draw measures of each row as bars from 0 to 100, and write one of its numbers; None is left out."""
    groups = {measure: [entry[measure] for entry in rows.values()] for measure in measures}
    numbers = ["" if entry[written] is None else f"{entry[written]:.1f}" for entry in rows.values()]
    return rendered(bar_chart(groups, list(rows), numbers))


def j_over_time(name: str, objects: Mapping[str, Mapping[str, Any]]) -> "Figure":
    """Return a chart of the J of each object over the scored frames of a sequence."""
    frames = natural_order({frame for own in objects.values() for frame in own["frames"]})
    place = {frame: t for t, frame in enumerate(frames)}
    figure = new_figure(WIDTH, 4.0)
    axes = figure.add_subplot()
    for k, (i, own) in enumerate(objects.items()):
        marker = "o" if len(own["frames"]) == 1 else ""
        steps = [place[frame] for frame in own["frames"]]
        axes.plot(steps, own["J_per_frame"], marker=marker, label=f"object {i}", color=colour_of(k))
    axes.set(title=f"{name}: J over time", xlabel="frame", ylabel="J", ylim=(-2, 102))
    ends = sorted({0, len(frames) - 1})
    axes.set_xticks(ends, [frames[t] for t in ends])
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=6)
    return figure


# ------------------------------------------------------------------------------------------------------------ frames
def side_by_side(truth: Path, mask: Path, frame: Path | None = None) -> Image.Image:
    """Draw a frame's true label map left and the predicted one right; a missing prediction is empty.

    Args:
        frame: image below the masks. None: grey.

    Raises:
        ValueError: for a file that cannot be read.
    """
    true_labels = read_labels(truth).labels
    labels = read_labels(mask).labels if mask.is_file() else np.zeros_like(true_labels)
    ground = None if frame is None else _fitted(read_image(frame), true_labels.shape)
    parts = [painted(own, ground) for own in (true_labels, resize_labels(labels, true_labels.shape))]
    gap = np.full((true_labels.shape[0], 4, 3), PAPER, np.uint8)
    return Image.fromarray(np.concatenate([parts[0], gap, parts[1]], axis=1))


def titled(picture: Image.Image, title: str) -> Image.Image:
    """Return an image with a line of text above it."""
    out = Image.new("RGB", (picture.width, picture.height + TITLE_HEIGHT), PAPER)
    out.paste(picture, (0, TITLE_HEIGHT))
    ImageDraw.Draw(out).text((4, TITLE_HEIGHT // 2), title, INK, ImageFont.load_default(), anchor="lm")
    return out


def painted(
    labels: Integer[np.ndarray, "H W"], ground: UInt8[np.ndarray, "H W 3"] | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Paint a label map over an image, or on grey, each id in the overlay's colour."""
    return draw(np.full((*labels.shape, 3), GREY, np.uint8) if ground is None else ground, labels)


def _fitted(image: UInt8[np.ndarray, "H W 3"], size: tuple[int, ...]) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Return a frame at the size of its label maps."""
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))
