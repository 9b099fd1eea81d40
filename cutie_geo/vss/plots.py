"""Plots of a report: bars for classes and clips, and frames before and after refinement beside the truth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cutie_geo.data.masks import voc_palette
from cutie_geo.data.video import read_image
from cutie_geo.evaluation.plots import GREY, PAPER, bars, save, titled
from cutie_geo.structures import VOID
from cutie_geo.vss.metrics import Labels
from cutie_geo.vss.scoring import Rules, SemanticReader
from cutie_geo.vss.semantic_maps import Predictions, SemanticClip

GAP = 4
"""Pixels between two panels."""
SHARE = 0.6
"""Opacity of class colours over the frame."""
BETTER, WORSE, OTHER = (60, 200, 80), (230, 60, 50), (240, 200, 60)
"""Colours of differing pixels: correct only after, correct only before, and wrong in both or without a true class."""


class Choice(NamedTuple):
    """A frame to draw."""

    clip: str
    frame: str
    title: str


# ------------------------------------------------------------------------------------------------------------- bars
def write_bars(folder: Path, report: Mapping[str, Any]) -> list[Path]:
    """Write `classes.png`, the IoU of the true classes, and `clips.png`; return their paths. Raises OSError."""
    with_base = "base" in report
    classes = {
        (i if entry["name"] == i else f"{i} {entry['name']}"): {
            "IoU": entry["IoU"],
            "before": entry.get("base_IoU"),
            "after": entry["IoU"],
        }
        for i, entry in report["classes"].items()
        if entry["accuracy"] is not None
    }
    return [
        save(folder / "classes.png", bars(classes, ("before", "after") if with_base else ("IoU",), "IoU")),
        save(folder / "clips.png", bars(report["clips"], ("mIoU", "mVC8"), "mIoU")),
    ]


# ------------------------------------------------------------------------------------------------------------ frames
def choose_frames(report: Mapping[str, Any], base: Mapping[str, Any] | None, number: int) -> list[Choice]:
    """Choose at most `number` frames, one of each clip: the largest change from the base, or the lowest accuracy."""
    ranked = []
    for clip, entry in report["clips"].items():
        before = base["clips"][clip]["accuracy_per_frame"] if base else entry["accuracy_per_frame"]
        for frame, own, old in zip(entry["frames"], entry["accuracy_per_frame"], before):
            if own is not None and old is not None:
                title = (
                    f"{clip}/{frame}: accuracy {old:.1f} to {own:.1f}"
                    if base
                    else f"{clip}/{frame}: accuracy {own:.1f}"
                )
                ranked.append((-abs(own - old) if base else own, Choice(clip, frame, title)))
    chosen: dict[str, Choice] = {}
    for _, choice in sorted(ranked):
        chosen.setdefault(choice.clip, choice)
    return list(chosen.values())[:number]


def write_pictures(
    folder: Path,
    choices: Sequence[Choice],
    truth: Sequence[SemanticClip],
    predictions: Predictions,
    base: Predictions | None,
) -> list[Path]:
    """Write `frames/<clip>_<frame>.png` for each choice and return the paths.

    Panels from left to right: the base prediction if there is one, the prediction, truth, and the differences between
    prediction and base, or prediction and truth.

    Raises:
        OSError: if a file cannot be written.
        EvaluationError: if a map cannot be read.
    """
    clips = {clip.name: clip for clip in truth}
    lenient = Rules(lenient=True)  # invalid predictions were refused before, unless scoring was lenient
    written = []
    for choice in choices:
        clip = clips[choice.clip]
        readers = [SemanticReader(clip, root.clip(clip.name), lenient) for root in (predictions, base) if root]
        true_labels = readers[0].true_labels(choice.frame)
        after, *before = (reader.labels(choice.frame, true_labels.shape) for reader in readers)
        image = (clip.images or {}).get(choice.frame)
        picture = panels(true_labels, after, before[0] if before else None, _image(image, true_labels.shape))
        written.append(save(folder / "frames" / f"{choice.clip}_{choice.frame}.png", titled(picture, choice.title)))
    return written


def panels(
    truth: Labels, after: Labels, before: Labels | None = None, image: UInt8[np.ndarray, "H W 3"] | None = None
) -> Image.Image:
    """Draw before, after, truth and difference side by side, over the frame if it is given."""
    parts = [("after", painted(after, image)), ("ground truth", painted(truth, image))]
    if before is None:
        parts[0] = ("prediction", parts[0][1])
        parts.append(("wrong", differences(truth, np.where(truth == VOID, after, truth), after)))
    else:
        parts.insert(0, ("before", painted(before, image)))
        parts.append(("differ: green better, red worse", differences(truth, before, after)))
    pictures = [titled(Image.fromarray(part), name) for name, part in parts]
    width, height = pictures[0].size
    whole = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height), PAPER)
    for place, picture in enumerate(pictures):
        whole.paste(picture, (place * (width + GAP), 0))
    return whole


def painted(classes: Labels, image: UInt8[np.ndarray, "H W 3"] | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """Draw classes in colours, over the frame if it is given; VOID shows grey or the frame."""
    colours = np.frombuffer(voc_palette(), np.uint8).reshape(256, 3)
    ground = np.full((*classes.shape, 3), GREY, np.uint8) if image is None else image
    tints = np.roll(colours, -1, axis=0)[classes]  # the first colour is black
    mixed = tints if image is None else np.round(SHARE * tints + (1 - SHARE) * ground).astype(np.uint8)
    return np.where((classes == VOID)[..., None], ground, mixed)


def differences(truth: Labels, before: Labels, after: Labels) -> UInt8[np.ndarray, "H W 3"]:
    """Draw the pixels in which two maps differ as BETTER, WORSE or OTHER; others are black."""
    out = np.zeros((*truth.shape, 3), np.uint8)
    differ = before != after
    out[differ] = OTHER
    for labels, colour in ((after, BETTER), (before, WORSE)):
        out[differ & (truth != VOID) & (labels == truth)] = colour
    return out


def _image(path: Path | None, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"] | None:
    """Read a frame at the size of its maps; None without a path."""
    if path is None:
        return None
    image = Image.fromarray(read_image(path))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
