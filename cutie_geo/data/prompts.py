"""Point and box prompts from the command line and from JSON files."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cutie_geo.config import parse_json, require
from cutie_geo.structures import MAX_OBJECT_ID, ObjectId, Prompt

FramePrompts = dict[ObjectId, Prompt]
"""Prompts of one frame by object id."""
FIRST = ""
"""Key of the first frame, used instead of a frame name."""
FIRST_OBJECT = 1
"""Default object id of points and boxes."""


def prompts_of_words(words: Iterable[tuple[str, str]]) -> dict[str, FramePrompts]:
    """Return prompts by frame from pairs of option name and value, in command-line order.

    `frame` and `object` apply to the `point` and `box` options after them. Defaults are the first frame (`FIRST`) and
    object 1.

    Raises:
        ValueError: with the option, for an invalid value, a frame without prompts, a repeated object on a frame,
            several boxes of an object, or an object without prompts.
    """
    words = list(words)
    for (name, text), (following, _) in zip(words, [*words[1:], ("frame", "")]):
        require(name != "frame" or following != "frame", f"--frame {text}: got no --point or --box after it; expected "
                "--frame before its prompts")  # fmt: skip
    found: dict[str, dict[ObjectId, tuple[list[tuple[float, float, int]], list[Any]]]] = {}
    frame, object_id = FIRST, FIRST_OBJECT
    for name, text in words:
        if name == "frame":
            frame, object_id = text, FIRST_OBJECT
        elif name == "object":
            object_id = _object_id(text, "--object")
            require(
                object_id not in found.get(frame, {}), f"--object: got {text} twice{_on(frame)}, expected each once"
            )
            found.setdefault(frame, {})[object_id] = ([], [])
        else:
            points, boxes = found.setdefault(frame, {}).setdefault(object_id, ([], []))
            if name == "point":
                points.append(_point(_numbers(text, "--point"), f"--point {text}"))
            else:
                boxes.append(_box(_numbers(text, "--box"), f"--box {text}"))
    prompts = {
        frame: {i: _prompt(points, boxes, f"--object {i}{_on(frame)}") for i, (points, boxes) in objects.items()}
        for frame, objects in found.items()
    }
    return _shown(prompts, lambda frame, object_id: f"--object {object_id}{_on(frame)}")


def first_frame_prompts(points: Any = None, boxes: Any = None) -> dict[str, FramePrompts]:
    """Return prompts of the first frame; none without points and boxes.

    Args:
        points: points of each object by id: (x, y) or (x, y, label) each; a single point may stand alone.
        boxes: box (x0, y0, x1, y1) of each object by id.

    Raises:
        ValueError: as `prompts_of_words`, with the object.
    """
    for name, given in (("points", points), ("boxes", boxes)):
        good = given is None or isinstance(given, Mapping)
        require(good, f"{name}: got {type(given).__name__}, expected a mapping from object ids")
    found: FramePrompts = {}
    for object_id in dict.fromkeys([*(points or {}), *(boxes or {})]):
        where = f"object {object_id}"
        clicks = _rows((points or {}).get(object_id, ()), f"points: {where}")
        box = (boxes or {}).get(object_id)
        prompt = _prompt(
            [_point(row, f"points: {where}") for row in clicks],
            [] if box is None else [_box(_row(box, f"boxes: {where}"), f"boxes: {where}")],
            f"points, boxes: {where}",
        )
        require(shows(prompt), f"points: {where}: got negative points only, expected a positive point or a box")
        found[_object_id(str(object_id), "points, boxes")] = prompt
    return {FIRST: found} if found else {}


def _rows(content: Any, where: str) -> list[list[float]]:
    """Return points as rows of numbers."""
    require(
        isinstance(content, Iterable) and not isinstance(content, str), f"{where}: got {content!r}, expected points"
    )
    points = list(content)
    alone = bool(points) and not isinstance(points[0], Iterable)
    return [_row(points, where)] if alone else [_row(point, where) for point in points]


def _row(content: Any, where: str) -> list[float]:
    try:
        return [float(value) for value in content]
    except (TypeError, ValueError):
        raise ValueError(f"{where}: got {content!r}, expected numbers") from None


def read_prompts(path: str | Path) -> dict[str, FramePrompts]:
    """Read prompts by frame and object from a JSON file.

        {"00000": {"1": {"points": [[x, y, label], ...], "box": [x0, y0, x1, y1]}}}

    A label is 1 for a positive point (the default) and 0 for a negative one. An object needs points, a box, or both.

    Raises:
        ValueError: with the file and the place in it, for other content and for repeated frames or objects.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f"{path}: cannot be read as prompts: {reason}") from None
    content = parse_json(text, f"{path}: cannot be read as prompts", object_pairs_hook=lambda pairs: _once(pairs, path))
    require(isinstance(content, dict) and bool(content), f"{path}: expected an object of frames, each with its objects")
    prompts = {frame: _frame_prompts(objects, f"{path}: {frame}") for frame, objects in content.items()}
    return _shown(prompts, lambda frame, object_id: f"{path}: {frame}: {object_id}")


def require_inside(prompts: Mapping[str, FramePrompts], size: tuple[int, int], where: str) -> None:
    """Raise ValueError for a point or a box outside frames of `size` (height, width)."""
    height, width = size
    for frame, objects in prompts.items():
        for object_id, prompt in objects.items():
            corners = [] if prompt.box is None else [prompt.box[:2], prompt.box[2:]]
            for x, y in [*((x, y) for x, y, _ in prompt.points), *corners]:
                require(
                    0 <= x <= width and 0 <= y <= height,
                    f"{where}: object {object_id}{_on(frame)}: got ({x:g}, {y:g}), expected it within {width}x{height}",
                )


# ------------------------------------------------------------------------------------------------------------- reading
def _once(pairs: list[tuple[str, Any]], path: str | Path) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    require(twice is None, f"{path}: got {twice} twice, expected each frame and object once")
    return dict(pairs)


def _frame_prompts(content: Any, where: str) -> FramePrompts:
    require(isinstance(content, dict) and bool(content), f"{where}: expected an object of object ids")
    found: FramePrompts = {}
    for name, what in content.items():
        object_id = _object_id(name, where)
        require(object_id not in found, f"{where}: got object {object_id} twice, expected each once")
        require(isinstance(what, dict), f"{where}: {name}: expected points, or a box, or both")
        strange = sorted(set(what) - {"points", "box"})
        require(not strange, f"{where}: {name}: unknown {', '.join(strange)}; expected points and box")
        points, box = what.get("points", []), what.get("box")
        require(isinstance(points, list), f"{where}: {name}: points: expected a list of [x, y, label]")
        found[object_id] = _prompt(
            [_point(_plain(point, f"{where}: {name}: points"), f"{where}: {name}: points") for point in points],
            [] if box is None else [_box(_plain(box, f"{where}: {name}: box"), f"{where}: {name}: box")],
            f"{where}: {name}",
        )
    return found


def _prompt(points: Sequence[tuple[float, float, int]], boxes: Sequence[Any], where: str) -> Prompt:
    require(len(boxes) < 2, f"{where}: got {len(boxes)} boxes, expected one")
    require(bool(points or boxes), f"{where}: got no prompt, expected a point or a box")
    return Prompt(tuple(points), boxes[0] if boxes else None)


def _shown(prompts: dict[str, FramePrompts], where: Callable[[str, ObjectId], str]) -> dict[str, FramePrompts]:
    """Return prompts. Raises ValueError for an object with negative points only on all its frames."""
    seen = {i for objects in prompts.values() for i, prompt in objects.items() if shows(prompt)}
    for frame, objects in prompts.items():
        for i in objects:
            text = f"{where(frame, i)}: got negative points only, expected a positive point or a box"
            require(i in seen, f"{text} on this frame or on another")
    return prompts


def shows(prompt: Prompt) -> bool:
    """Return True if a prompt says where the object is; negative points only correct a mask."""
    return prompt.box is not None or any(label for _, _, label in prompt.points)


def _object_id(text: str, where: str) -> ObjectId:
    good = text.isascii() and text.isdecimal() and 1 <= int(text) <= MAX_OBJECT_ID
    require(good, f"{where}: got object {text!r}, expected a number from 1 to {MAX_OBJECT_ID}")
    return int(text)


def _numbers(text: str, where: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"{where}: got {text!r}, expected numbers with commas between them") from None


def _plain(content: Any, where: str) -> list[float]:
    good = isinstance(content, list) and all(type(value) in (int, float) for value in content)
    require(good, f"{where}: got {content!r}, expected a list of numbers")
    try:
        return [float(value) for value in content]
    except OverflowError:  # JSON's whole numbers have no bounds
        raise ValueError(f"{where}: expected finite numbers") from None


def _point(values: Sequence[float], where: str) -> tuple[float, float, int]:
    require(len(values) in (2, 3), f"{where}: expected x,y or x,y,label")
    _require_finite(values, where)
    label = values[2] if len(values) == 3 else 1
    require(label in (0, 1), f"{where}: got label {label:g}, expected 1 for positive or 0 for negative")
    return values[0], values[1], int(label)


def _box(values: Sequence[float], where: str) -> tuple[float, float, float, float]:
    require(len(values) == 4, f"{where}: expected x0,y0,x1,y1")
    _require_finite(values, where)
    x0, y0, x1, y1 = values
    require(x0 < x1 and y0 < y1, f"{where}: expected the upper left corner first, then the lower right one")
    return x0, y0, x1, y1


def _require_finite(values: Sequence[float], where: str) -> None:
    require(all(math.isfinite(value) for value in values), f"{where}: expected finite numbers")


def _on(frame: str) -> str:
    return f" on frame {frame}" if frame else ""
