"""Points and boxes that say where objects are, from the command line and from JSON files."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cutie_geo.config import require
from cutie_geo.structures import MAX_OBJECT_ID, ObjectId, Prompt

FramePrompts = dict[ObjectId, Prompt]
"""Of one frame."""
FIRST = ""
"""Instead of a frame's name: the first frame."""
FIRST_OBJECT = 1
"""What is pointed at before any object is named."""


def prompts_of_words(words: Iterable[tuple[str, str]]) -> dict[str, FramePrompts]:
    """Prompts by frame, from pairs of an option's name and its value, in the order in which they were given.

    `frame` and `object` say what the `point`s and `box`es after them belong to: the first frame (`FIRST`) and object 1
    until they do. Raises ValueError naming the option for anything that isn't such a value, and for an object that is
    named twice on a frame, or has two boxes, or nothing.
    """
    found: dict[str, dict[ObjectId, tuple[list[tuple[float, float, int]], list[Any]]]] = {}
    frame, object_id = FIRST, FIRST_OBJECT
    for name, text in words:
        if name == "frame":
            frame, object_id = text, FIRST_OBJECT
        elif name == "object":
            object_id = _object_id(text, "--object")
            require(object_id not in found.get(frame, {}), f"--object: got {text} twice{_on(frame)}, wanted each once")
            found.setdefault(frame, {})[object_id] = ([], [])
        else:
            points, boxes = found.setdefault(frame, {}).setdefault(object_id, ([], []))
            if name == "point":
                points.append(_point(_numbers(text, "--point"), f"--point {text}"))
            else:
                boxes.append(_box(_numbers(text, "--box"), f"--box {text}"))
    return {
        frame: {i: _prompt(points, boxes, f"--object {i}{_on(frame)}") for i, (points, boxes) in objects.items()}
        for frame, objects in found.items()
    }


def read_prompts(path: str | Path) -> dict[str, FramePrompts]:
    """Prompts by frame from a JSON file:

        {"00000": {"1": {"points": [[x, y, label], ...], "box": [x0, y0, x1, y1]}}}

    that is, by frame and object. A label is 1 on the object (which may be left out) and 0 beside it; points or the box
    may be missing, not both. Raises ValueError naming the file, and where in it, for anything else, and for a frame or
    an object that is there twice.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=lambda pairs: _once(pairs, path))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f"{path}: can't be read as prompts: {reason}") from None
    require(isinstance(content, dict) and bool(content), f"{path}: wanted an object of frames, each with its objects")
    return {frame: _frame_prompts(objects, f"{path}: {frame}") for frame, objects in content.items()}


def require_inside(prompts: Mapping[str, FramePrompts], size: tuple[int, int], where: str) -> None:
    """Raise ValueError for a point or a box that leaves frames of `size` (height, width)."""
    height, width = size
    for frame, objects in prompts.items():
        for object_id, prompt in objects.items():
            corners = [] if prompt.box is None else [prompt.box[:2], prompt.box[2:]]
            for x, y in [*((x, y) for x, y, _ in prompt.points), *corners]:
                require(
                    0 <= x <= width and 0 <= y <= height,
                    f"{where}: object {object_id}{_on(frame)}: got ({x:g}, {y:g}), wanted it within {width}x{height}",
                )


# ------------------------------------------------------------------------------------------------------------- reading
def _once(pairs: list[tuple[str, Any]], path: str | Path) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    require(twice is None, f"{path}: got {twice} twice, wanted each frame and object once")
    return dict(pairs)


def _frame_prompts(content: Any, where: str) -> FramePrompts:
    require(isinstance(content, dict) and bool(content), f"{where}: wanted an object of object ids")
    found: FramePrompts = {}
    for name, what in content.items():
        object_id = _object_id(name, where)
        require(object_id not in found, f"{where}: got object {object_id} twice, wanted each once")
        require(isinstance(what, dict), f"{where}: {name}: wanted points, or a box, or both")
        strange = sorted(set(what) - {"points", "box"})
        require(not strange, f"{where}: {name}: unknown {', '.join(strange)}; wanted points and box")
        points, box = what.get("points", []), what.get("box")
        require(isinstance(points, list), f"{where}: {name}: points: wanted a list of [x, y, label]")
        found[object_id] = _prompt(
            [_point(_plain(point, f"{where}: {name}: points"), f"{where}: {name}: points") for point in points],
            [] if box is None else [_box(_plain(box, f"{where}: {name}: box"), f"{where}: {name}: box")],
            f"{where}: {name}",
        )
    return found


def _prompt(points: Sequence[tuple[float, float, int]], boxes: Sequence[Any], where: str) -> Prompt:
    require(len(boxes) < 2, f"{where}: got {len(boxes)} boxes, wanted one")
    require(bool(points or boxes), f"{where}: nothing points at it, wanted a point or a box")
    inside = bool(boxes) or any(label for _, _, label in points)
    require(inside, f"{where}: got points beside it only, wanted one on it, or a box")
    return Prompt(tuple(points), boxes[0] if boxes else None)


def _object_id(text: str, where: str) -> ObjectId:
    good = text.isascii() and text.isdecimal() and 1 <= int(text) <= MAX_OBJECT_ID
    require(good, f"{where}: got object {text!r}, wanted a number from 1 to {MAX_OBJECT_ID}")
    return int(text)


def _numbers(text: str, where: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"{where}: got {text!r}, wanted numbers with commas between them") from None


def _plain(content: Any, where: str) -> list[float]:
    good = isinstance(content, list) and all(type(value) in (int, float) for value in content)
    require(good, f"{where}: got {content!r}, wanted a list of numbers")
    return [float(value) for value in content]


def _point(values: Sequence[float], where: str) -> tuple[float, float, int]:
    require(len(values) in (2, 3), f"{where}: wanted x,y or x,y,label")
    _require_finite(values, where)
    label = values[2] if len(values) == 3 else 1
    require(label in (0, 1), f"{where}: got label {label:g}, wanted 1 on the object or 0 beside it")
    return values[0], values[1], int(label)


def _box(values: Sequence[float], where: str) -> tuple[float, float, float, float]:
    require(len(values) == 4, f"{where}: wanted x0,y0,x1,y1")
    _require_finite(values, where)
    x0, y0, x1, y1 = values
    require(x0 < x1 and y0 < y1, f"{where}: wanted the upper left corner first, then the lower right one")
    return x0, y0, x1, y1


def _require_finite(values: Sequence[float], where: str) -> None:
    require(all(math.isfinite(value) for value in values), f"{where}: wanted finite numbers")


def _on(frame: str) -> str:
    return f" on frame {frame}" if frame else ""
