"""Messages of the page, as dataclasses with checked fields."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from cutie_geo.config import build, parse_json, require
from cutie_geo.config.loading import require_small
from cutie_geo.export.masks import FORMATS
from cutie_geo.export.options import Effect, Style
from cutie_geo.structures import MAX_OBJECT_ID, ObjectId

LONGEST_TEXT = 12 * 2**20
"""Largest number of bytes of a message: the mask of a frame with fine detail."""
LONGEST_NAME = 100
MOST_POINTS = 1000
MAX_FRAME = 2**31 - 1
Direction = Literal["forward", "backward", "both"]
Point = tuple[float, float]
Box = tuple[float, float, float, float]


def _require_object(value: ObjectId) -> None:
    require(1 <= value <= MAX_OBJECT_ID, f"object: got {value}, expected 1 to {MAX_OBJECT_ID}")


def _require_frame(value: int | None, name: str = "frame") -> None:
    require(value is None or 0 <= value <= MAX_FRAME, f"{name}: got {value}, expected 0 or more")


def _require_finite(values: tuple[float, ...], name: str) -> None:
    require(all(map(math.isfinite, values)), f"{name}: expected finite numbers")


# --------------------------------------------------------------------------------------------------------------- edits
@dataclass(frozen=True)
class Prompt:
    """Add points or a box to an object on a frame."""

    changes: ClassVar[bool] = True
    frame: int
    object: ObjectId
    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()
    box: Box | None = None

    def __post_init__(self) -> None:
        _require_frame(self.frame)
        _require_object(self.object)
        require(len(self.points) == len(self.labels), "points: expected a label for each")
        require(len(self.points) <= MOST_POINTS, f"points: got {len(self.points)}, expected at most {MOST_POINTS}")
        require(all(label in (0, 1) for label in self.labels), "labels: expected 1 (add) or 0 (subtract)")
        require(bool(self.points) or self.box is not None, "prompt: expected points or a box")
        _require_finite(tuple(value for point in self.points for value in point), "points")
        _require_finite(self.box or (), "box")


@dataclass(frozen=True)
class SetMask:
    """Replace an object's mask on a frame by a drawn one."""

    changes: ClassVar[bool] = True
    frame: int
    object: ObjectId
    mask: str
    """Runs (`runs.py`) in base64; all ids in it are the object."""

    def __post_init__(self) -> None:
        _require_frame(self.frame)
        _require_object(self.object)


@dataclass(frozen=True)
class Clear:
    """Remove an object's prompts and mask from a frame."""

    changes: ClassVar[bool] = True
    frame: int
    object: ObjectId

    def __post_init__(self) -> None:
        _require_frame(self.frame)
        _require_object(self.object)


@dataclass(frozen=True)
class Remove:
    """Remove an object from the video."""

    changes: ClassVar[bool] = True
    object: ObjectId

    def __post_init__(self) -> None:
        _require_object(self.object)


@dataclass(frozen=True)
class Undo:
    """Undo the last change."""

    changes: ClassVar[bool] = True


@dataclass(frozen=True)
class Redo:
    """Redo the change that was undone last."""

    changes: ClassVar[bool] = True


@dataclass(frozen=True)
class Approve:
    """Lock frames as approved, or unlock them."""

    changes: ClassVar[bool] = True
    start: int
    stop: int
    """First and last frame, both included."""
    locked: bool

    def __post_init__(self) -> None:
        _require_frame(self.start, "start")
        _require_frame(self.stop, "stop")
        require(self.start <= self.stop, f"stop: got {self.stop}, expected {self.start} or more")


# ------------------------------------------------------------------------------------------------------------ tracking
@dataclass(frozen=True)
class Track:
    """Track all objects over frames."""

    changes: ClassVar[bool] = True
    direction: Direction = "forward"
    start: int | None = None
    """First frame, or the frame to begin at; None for the session's choice."""
    stop: int | None = None
    """Last frame, included."""

    def __post_init__(self) -> None:
        _require_frame(self.start, "start")
        _require_frame(self.stop, "stop")


@dataclass(frozen=True)
class Stop:
    """Stop tracking; what is done stays."""

    changes: ClassVar[bool] = False


# ---------------------------------------------------------------------------------------------------------------- view
@dataclass(frozen=True)
class Describe:
    """Name, show or guard an object; None leaves a property as it is. An unknown object is added to the list."""

    changes: ClassVar[bool] = False
    object: ObjectId
    name: str | None = None
    colour: str | None = None
    """#rrggbb."""
    hidden: bool | None = None
    guarded: bool | None = None
    """The object is protected against clicks, brush and removal."""

    def __post_init__(self) -> None:
        _require_object(self.object)
        if self.name is not None:
            fine = bool(self.name.strip()) and self.name.isprintable() and len(self.name) <= LONGEST_NAME
            require(fine, f"name: expected 1 to {LONGEST_NAME} printable characters")
        if self.colour is not None:
            require(is_colour(self.colour), f"colour: got {self.colour[:20]!r}, expected #rrggbb")


@dataclass(frozen=True)
class View:
    """Remember the frame that is shown, for the next time the video is opened."""

    changes: ClassVar[bool] = False
    frame: int

    def __post_init__(self) -> None:
        _require_frame(self.frame)


@dataclass(frozen=True)
class Export:
    """Write the masks in one of the formats, to be downloaded."""

    changes: ClassVar[bool] = False
    format: str
    objects: tuple[ObjectId, ...] = ()
    shapes: Literal["masks", "polygons"] | None = None
    style: Style | None = None
    ids: bool | None = None
    effect: Effect | None = None
    trails: int = 0
    container: Literal["png", "mov", "webm"] = "png"

    def __post_init__(self) -> None:
        require(self.format in FORMATS, f"format: got {self.format[:20]!r}, expected one of {', '.join(FORMATS)}")


Command = (
    Prompt | SetMask | Clear | Remove | Undo | Redo | Approve | Track | Stop | Describe | View | Export
)  # fmt: skip
KINDS: dict[str, type[Command]] = {kind.__name__.lower(): kind for kind in get_args(Command)}
"""Commands by the value of `do` in a message."""


def is_colour(text: str) -> bool:
    """Return True for #rrggbb."""
    return len(text) == 7 and text[0] == "#" and all(digit in "0123456789abcdefABCDEF" for digit in text[1:])


def read_command(text: str) -> tuple[int, Command]:
    """Return the number of a message, which its answer repeats, and its command.

        {"id": 7, "do": "prompt", "frame": 0, "object": 1, "points": [[410, 222]], "labels": [1]}

    Raises:
        BadMessage: for anything else.
    """
    require(len(text) <= LONGEST_TEXT, f"message: got {len(text)} characters, expected at most {LONGEST_TEXT}")
    content: Any = parse_json(text, "message")
    require_small(content, "message")
    require(isinstance(content, dict), "message: expected an object")
    number, kind = content.pop("id", None), content.pop("do", None)
    good = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**53
    require(good, "message: expected a number as id")
    try:
        known = isinstance(kind, str) and kind in KINDS
        require(known, f"message: got do={kind!r:.40}, expected one of {', '.join(KINDS)}")
        return number, build(KINDS[kind], content, kind)
    except ValueError as error:
        raise BadMessage(number, str(error)) from None


class BadMessage(ValueError):
    """An invalid message whose number is known, so that the page can tell which one failed."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number
