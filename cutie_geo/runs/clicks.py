"""Measure a model's prompts on images with masks: clicks and boxes, simulated as an annotator gives them."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from cutie_geo.config import require
from cutie_geo.config.choices import DEFAULT_MODEL
from cutie_geo.data.clips.frame_readers import read_still
from cutie_geo.data.index import index_static, labelled
from cutie_geo.data.io_threads import atomic_write
from cutie_geo.data.masks import object_ids, read_labels
from cutie_geo.data.overlay import draw, draw_prompts
from cutie_geo.data.video import read_image
from cutie_geo.evaluation.clicks import MOST_CLICKS, ObjectScore, score_object, summaries
from cutie_geo.evaluation.tables import table_lines
from cutie_geo.inference.head_prompter import HeadPrompter
from cutie_geo.inference.prompting import FramePrompter
from cutie_geo.runs.models import load_any
from cutie_geo.runs.prompts import HEAD, load_frame_prompter
from cutie_geo.structures import VOID, Prompt

LEAST_PIXELS = 100
"""Smallest object that is scored, in pixels."""
MOST_OBJECTS = 5
"""Largest number of objects of an image that are scored, the largest ones."""
SHOWN_CLICKS = (1, 3, 5)
"""Numbers of clicks whose masks are drawn."""
PROTOCOL = "clicks"

Watch = Callable[[Iterable[Any], int], Iterable[Any]]


@dataclass(frozen=True)
class ClickOptions:
    """Model and images of a measurement."""

    model: str = DEFAULT_MODEL
    weights: str = "auto"
    prompt_model: str | None = None
    """SAM 2 to measure instead of the model's prompt head."""
    prompt_weights: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    max_internal_size: int | None = None
    static: Path | None = None
    """Folder of sets of still images with masks."""
    sets: tuple[str, ...] = ()
    """Names of these sets; NAME:N takes the last N images by name. Empty: all sets."""
    dataset: str | None = None
    """Data set of videos with masks, whose frames are scored as images."""
    data_root: Path | None = None
    videos: tuple[str, ...] = ()
    """Names of videos. Empty: all."""
    every: int = 10
    """Interval of scored frames."""
    limit: int | None = None
    """Largest number of images of each set, evenly spaced. None: all."""
    most: int = MOST_CLICKS
    """Largest number of clicks of an object."""
    pictures: Path | None = None
    """Folder for images of the best and worst objects."""
    overrides: tuple[str, ...] = ()
    """`key=value` changes of the model."""

    def __post_init__(self) -> None:
        require(self.static is not None or self.dataset is not None, "clicks: expected --static DIR, or --dataset NAME")
        require(self.dataset is None or self.data_root is not None, "--dataset: expected --data-root with it")
        require(not self.sets or self.static is not None, "--sets: expected --static with it")
        require(not self.videos or self.dataset is not None, "--videos: expected --dataset with it")
        for name, value in (("--every", self.every), ("--limit", self.limit), ("--clicks", self.most)):
            require(value is None or value >= 1, f"{name}: got {value}, expected 1 or more")


class Item(NamedTuple):
    """An image with a mask of objects."""

    group: str
    """Set whose mean it enters."""
    name: str
    image: Path
    mask: Path
    still: bool


class Scored(NamedTuple):
    """Scores of one object of an image."""

    item: Item
    object_id: int
    pixels: int
    score: ObjectScore


def measure_clicks(
    options: ClickOptions,
    watch: Watch = lambda results, count: results,
    keep: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """Return the report of a model's prompts, ready for JSON.

    Args:
        options: Model and images.
        watch: Wraps the results to draw a progress bar.
        keep: Called with the report before images are drawn, which takes a while.

    Raises:
        ValueError: for missing images, models without prompts, and masks without objects.
    """
    items = list_items(options)
    model = load_any(options.model, options.weights, options.device, options.precision, options.overrides)
    prompter = load_frame_prompter(model, options.prompt_model, options.prompt_weights, options.max_internal_size)
    maker = HEAD if isinstance(prompter, HeadPrompter) else str(options.prompt_model)
    found: list[Scored] = []
    for scored in watch(_score_items(prompter, items, options.most), len(items)):
        found += scored
    groups: dict[str, list[ObjectScore]] = defaultdict(list)
    for each in found:
        groups[each.item.group].append(each.score)
    require(bool(groups), f"clicks: no object of {LEAST_PIXELS} pixels in {len(items)} images, expected at least one")
    report = {
        "protocol": PROTOCOL,
        "model": options.model,
        "prompts": maker,
        "settings": {
            "most_clicks": options.most, "least_pixels": LEAST_PIXELS, "most_objects": MOST_OBJECTS,
            "every": options.every, "limit": options.limit,
        },
        "sets": summaries(groups),
        "objects": [
            {
                "name": each.item.name, "object": each.object_id, "pixels": each.pixels, "ious": each.score.ious,
                "box": each.score.box, "clicks": each.score.clicks,
            }
            for each in found
        ],
    }  # fmt: skip
    keep(report)
    if options.pictures is not None:
        write_pictures(options.pictures, prompter, found)
    return report


def click_lines(report: dict[str, Any]) -> list[str]:
    """Return a report as a table of sets."""
    sets = report["sets"]
    first = next(iter(sets.values()))
    rows = {name: {key: row[key] for key in first} for name, row in sets.items()}
    return [f"masks by {report['prompts']} of {report['model']}", *table_lines(first, rows, ".3g")]


def list_items(options: ClickOptions) -> list[Item]:
    """Return the images to score. Raises ValueError for missing sets and videos."""
    items: list[Item] = []
    if options.static is not None:
        counts = dict(_set_and_count(name) for name in options.sets)
        pairs = {pair.name: pair for pair in index_static(options.static, counts)}
        groups: dict[str, list[str]] = defaultdict(list)
        for name in sorted(pairs):
            groups[name.partition("/")[0]].append(name)
        for group, names in groups.items():
            chosen = names[-(counts.get(group) or len(names)) :]
            for name in _spaced(chosen, options.limit):
                items.append(Item(group, name, pairs[name].image, pairs[name].mask, still=True))
    if options.dataset is not None:
        assert options.data_root is not None, "required by ClickOptions"
        videos = {video.name: video for video in labelled(options.dataset, options.data_root)}
        missing = [name for name in options.videos if name not in videos]
        require(not missing, f"--videos: no {', '.join(missing)} among {len(videos)} videos")
        frames = []
        for name in options.videos or videos:
            video = videos[name]
            require(video.problem is None, f"{name}: {video.problem}")
            frames += [
                Item(options.dataset, f"{name}/{stem}", video.frames[stem], mask, still=False)
                for stem, mask in list(video.masks.items())[:: options.every]
                if stem in video.frames
            ]
        items += _spaced(frames, options.limit)
    return items


def _set_and_count(text: str) -> tuple[str, int | None]:
    """Split NAME:N. Raises ValueError for another form."""
    name, colon, count = text.partition(":")
    good = bool(name) and (not colon or (count.isascii() and count.isdecimal() and int(count) > 0))
    require(good, f"--sets: got {text!r}, expected NAME, or NAME:N for the last N images")
    return name, int(count) if colon else None


def _spaced(items: Sequence[Any], limit: int | None) -> list[Any]:
    if limit is None or len(items) <= limit:
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]


def _read(item: Item) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and label map of an image. Raises ValueError for unreadable files."""
    if item.still:
        return read_still(item.image, item.mask)
    image, labels = read_image(item.image), read_labels(item.mask).labels
    require(image.shape[:2] == labels.shape, f"{item.mask}: got size {labels.shape}, expected {image.shape[:2]}")
    return image, labels


def _objects(labels: np.ndarray) -> list[int]:
    """Return the ids of the objects to score, the largest first; a mask with one value has one object."""
    counts = {i: int((labels == i).sum()) for i in object_ids(labels)}
    if VOID in counts and len(counts) > 1:
        counts.pop(VOID)
    large = [i for i in counts if counts[i] >= LEAST_PIXELS]
    return sorted(large, key=lambda i: (-counts[i], i))[:MOST_OBJECTS]


def _score_items(prompter: FramePrompter, items: Sequence[Item], most: int) -> Iterator[list[Scored]]:
    for item in items:
        image, labels = _read(item)
        encoded = prompter.encode(_tensor(image))
        found = []
        for object_id in _objects(labels):
            ignore = (labels == VOID) if object_id != VOID else None
            truth = labels == object_id
            score, _ = score_object(predictor(prompter, encoded), truth, ignore, most)
            found.append(Scored(item, object_id, int(truth.sum()), score))
        yield found


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.tensor(image).permute(2, 0, 1).float() / 255


def predictor(prompter: FramePrompter, encoded: Any) -> Callable[[Prompt, np.ndarray | None], np.ndarray]:
    """Return a function from a prompt and the logits so far to logits, for one encoded frame."""

    def predict(prompt: Prompt, logits: np.ndarray | None) -> np.ndarray:
        mask = None if logits is None else torch.from_numpy(logits)
        return prompter.predict(encoded, prompt, mask, from_prompts=mask is not None).logits.float().cpu().numpy()

    return predict


def write_pictures(folder: Path, prompter: FramePrompter, found: Sequence[Scored], count: int = 3) -> None:
    """Write, for each set, images of objects with the best and the worst mean IoU of first click and box.

    Each shows, from left to right: the true mask, the masks after 1, 3 and 5 clicks, and that of the box.
    """
    groups: dict[str, list[Scored]] = defaultdict(list)
    for each in found:
        groups[each.item.group].append(each)
    for group, members in groups.items():
        members = sorted(members, key=lambda each: each.score.after(1) + each.score.box)
        chosen = {f"worst{n}": each for n, each in enumerate(members[:count], 1)}
        chosen |= {f"best{n}": each for n, each in enumerate(members[::-1][:count], 1)}
        chosen |= {f"middle{n}": members[len(members) * n // (count + 1)] for n in range(1, count + 1)}
        once = {id(each): name for name, each in reversed(chosen.items())}  # small sets show an object once
        for name, each in [(name, each) for name, each in chosen.items() if once[id(each)] == name]:
            with atomic_write(folder / f"{group}_{name}.jpg") as part:
                Image.fromarray(_picture(prompter, each)).save(part, format="JPEG", quality=90)


def _picture(prompter: FramePrompter, each: Scored) -> np.ndarray:
    image, labels = _read(each.item)
    truth = labels == each.object_id
    most = min(len(each.score.clicks), SHOWN_CLICKS[-1])
    score, masks = score_object(predictor(prompter, prompter.encode(_tensor(image))), truth, None, most)
    tiles = [draw(image, truth.astype(np.int32), tags=False)]
    for clicks in SHOWN_CLICKS:
        n = min(clicks, len(score.clicks))
        tile = draw(image, masks[n - 1].astype(np.int32), tags=False)
        tiles.append(draw_prompts(tile, {1: Prompt(score.clicks[:n])}))
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    tiles.append(draw_prompts(draw(image, masks[-1].astype(np.int32), tags=False), {1: Prompt(box=box)}))
    return np.concatenate(tiles, axis=1)
