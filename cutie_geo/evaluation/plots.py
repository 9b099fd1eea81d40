"""Pictures of a report: bars for each sequence, J over time, the best and the worst frame beside the truth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from cutie_geo.data.background import atomic_write
from cutie_geo.data.masks import read_labels, resize_labels
from cutie_geo.data.overlay import COLOURS, draw

INK, PAPER, GRID = (40, 40, 40), (255, 255, 255), (215, 215, 215)
ROW, CHART = 22, 640
"""Pixels: height of a bar's row, width of the axis from 0 to 100."""
PLOT = (760, 320)
"""Pixels: width and height of the axes of J over time."""
MARGIN = 48
TICKS = range(0, 101, 20)
GREY = 70
"""Of the ground that label maps are drawn on."""
BARS = "sequences.png"


def write_plots(folder: Path, report: Mapping[str, Any], truth: Path, masks: Path) -> list[Path]:
    """Write all pictures of a report; return their paths. Raises OSError.

    `sequences.png`; and for each sequence with objects `<sequence>/j_over_time.png`, `best.png` and `worst.png`, the
    frames by their mean J over objects, truth left and prediction right.
    """
    sequences = {name: entry for name, entry in report["sequences"].items() if entry["objects"]}
    written = [save(folder / BARS, bars(sequences))]
    for name, entry in sequences.items():
        written.append(save(folder / name / "j_over_time.png", curves(name, entry["objects"])))
        for kind, (frame, j) in zip(("best", "worst"), best_and_worst(entry["objects"])):
            picture = side_by_side(truth / name / f"{frame}.png", masks / name / f"{frame}.png")
            written.append(save(folder / name / f"{kind}.png", titled(picture, f"{name}/{frame}: J {j:.1f}")))
    return written


def save(path: Path, picture: Image.Image) -> Path:
    """Write a picture, whole or not at all, and return its path. Raises OSError."""
    with atomic_write(path) as part:
        picture.save(part, format="PNG")
    return path


def best_and_worst(objects: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[str, float], tuple[str, float]]:
    """The frames of highest and of lowest mean J over the objects scored on them, with it; the earlier of equals."""
    scores: dict[str, list[float]] = {}
    for own in objects.values():
        for frame, j in zip(own["frames"], own["J_per_frame"]):
            scores.setdefault(frame, []).append(j)
    means = {frame: sum(values) / len(values) for frame, values in sorted(scores.items())}
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    return (best, means[best]), (worst, means[worst])


# ------------------------------------------------------------------------------------------------------------ charts
def bars(
    rows: Mapping[str, Mapping[str, Any]], measures: Sequence[str] = ("J", "F"), written: str = "J&F"
) -> Image.Image:
    """Two measures of each row, or one, as bars from 0 to 100, and one of its numbers; None is no bar and no number."""
    font = ImageFont.load_default()
    left = 16 + max((int(font.getlength(name)) for name in rows), default=0)
    picture = Image.new("RGB", (left + CHART + MARGIN, ROW * len(rows) + MARGIN), PAPER)
    pen = ImageDraw.Draw(picture)
    for tick in TICKS:
        x = left + tick * CHART // 100
        pen.line([(x, 0), (x, ROW * len(rows) + 4)], GRID)
        pen.text((x, ROW * len(rows) + 6), str(tick), INK, font, anchor="ma")
    for row, (name, entry) in enumerate(rows.items()):
        top = row * ROW
        pen.text((left - 6, top + ROW // 2), name, INK, font, anchor="rm")
        for place, value in enumerate(entry[measure] for measure in measures):
            y = top + 3 + place * (ROW // 2 - 2)
            if value is not None:
                pen.rectangle([left, y, left + round(value * CHART / 100), y + ROW // 2 - 4], COLOURS[place])
        if entry[written] is not None:
            pen.text((left + CHART + 4, top + ROW // 2), f"{entry[written]:.1f}", INK, font, anchor="lm")
    _legend(pen, (left, ROW * len(rows) + 22), measures)
    return picture


def curves(name: str, objects: Mapping[str, Mapping[str, Any]]) -> Image.Image:
    """J of each object over the sequence's scored frames."""
    font = ImageFont.load_default()
    frames = sorted({frame for own in objects.values() for frame in own["frames"]})
    width, height = PLOT
    picture = Image.new("RGB", (width + 2 * MARGIN, height + 2 * MARGIN), PAPER)
    pen = ImageDraw.Draw(picture)
    for tick in TICKS:
        y = MARGIN + height - tick * height // 100
        pen.line([(MARGIN, y), (MARGIN + width, y)], GRID)
        pen.text((MARGIN - 6, y), str(tick), INK, font, anchor="rm")
    for frame, x, anchor in ((frames[0], MARGIN, "la"), (frames[-1], MARGIN + width, "ra")):
        pen.text((x, MARGIN + height + 6), frame, INK, font, anchor=anchor)
    place = {frame: MARGIN + t * width / max(len(frames) - 1, 1) for t, frame in enumerate(frames)}
    for k, own in enumerate(objects.values()):
        points = [(place[f], MARGIN + height * (1 - j / 100)) for f, j in zip(own["frames"], own["J_per_frame"])]
        _curve(pen, points, COLOURS[k % len(COLOURS)])
    pen.text((MARGIN, 8), f"{name}: J over time", INK, font)
    _legend(pen, (MARGIN, MARGIN + height + 26), [f"object {i}" for i in objects])
    return picture


def _curve(pen: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], colour: tuple[int, int, int]) -> None:
    """A line through the points, or a dot at a single one."""
    if len(points) > 1:
        pen.line(points, colour, 2)
    for x, y in points[:1]:
        pen.ellipse([x - 2, y - 2, x + 2, y + 2], colour)


def _legend(pen: ImageDraw.ImageDraw, corner: tuple[int, int], names: Sequence[str]) -> None:
    x, y = corner
    for k, name in enumerate(names):
        pen.rectangle([x, y, x + 10, y + 10], COLOURS[k % len(COLOURS)])
        pen.text((x + 14, y + 5), name, INK, ImageFont.load_default(), anchor="lm")
        x += 24 + int(ImageFont.load_default().getlength(name))


# ------------------------------------------------------------------------------------------------------------ frames
def side_by_side(truth: Path, mask: Path) -> Image.Image:
    """A frame's true label map left, the predicted one right; a missing one is empty."""
    true_labels = read_labels(truth).labels
    labels = read_labels(mask).labels if mask.is_file() else np.zeros_like(true_labels)
    parts = [painted(true_labels), painted(resize_labels(labels, true_labels.shape))]
    gap = np.full((true_labels.shape[0], 4, 3), PAPER, np.uint8)
    return Image.fromarray(np.concatenate([parts[0], gap, parts[1]], axis=1))


def titled(picture: Image.Image, title: str) -> Image.Image:
    """A picture under a line of text."""
    out = Image.new("RGB", (picture.width, picture.height + ROW), PAPER)
    out.paste(picture, (0, ROW))
    ImageDraw.Draw(out).text((4, ROW // 2), title, INK, ImageFont.load_default(), anchor="lm")
    return out


def painted(labels: Integer[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """A label map as a picture on grey, an id in the same colour everywhere."""
    return draw(np.full((*labels.shape, 3), GREY, np.uint8), labels)
