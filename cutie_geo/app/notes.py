"""How a video is shown: colours of objects, which are hidden or protected, and the frame that was shown last."""

import logging
from pathlib import Path
from typing import Any

from cutie_geo.app.messages import LONGEST_NAME, is_colour
from cutie_geo.config import read_json
from cutie_geo.data.io_threads import write_json
from cutie_geo.data.overlay import colour
from cutie_geo.structures import MAX_OBJECT_ID, ObjectId

log = logging.getLogger(__name__)

FILE = "app.json"
"""Name of the file in a session's folder. It holds the view only: no mask depends on it."""
MOST_OBJECTS = 1000


class Notes:
    """The view of one video, saved with each change. A damaged file is ignored with a warning."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.frame = 0
        self.objects: dict[ObjectId, dict[str, Any]] = {}
        """By object: `colour`, `hidden`, `guarded`, `listed` (also without a mask), `name`, `pending` (the name waits
        for the first mask) and `auto` (the name that was given with it).
        """
        try:
            self._read(read_json(self.path))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            log.warning("%s: ignored: %s", self.path, error)

    def _read(self, content: Any) -> None:
        if not isinstance(content, dict) or not isinstance(content.get("objects"), dict):
            raise ValueError("expected the app's notes")
        frame = content.get("frame")
        self.frame = frame if type(frame) is int and 0 <= frame < 2**31 else 0
        for text, given in list(content["objects"].items())[:MOST_OBJECTS]:
            good = text.isascii() and text.isdecimal() and len(text) <= 10 and 1 <= int(text) <= MAX_OBJECT_ID
            if good and isinstance(given, dict):
                self.objects[int(text)] = {name: value for name, value in given.items() if _is_valid(name, value)}

    def describe(self, object_id: ObjectId, **changes: Any) -> None:
        """Change and save properties of an object; None leaves one as it is."""
        known = {name: value for name, value in changes.items() if value is not None}
        self.objects.setdefault(object_id, {}).update(known)
        self.save()

    def remove(self, object_id: ObjectId) -> None:
        """Forget an object that has no mask."""
        if self.objects.pop(object_id, None) is not None:
            self.save()

    def show(self, frame: int) -> None:
        """Remember the frame that is shown."""
        if frame != self.frame:
            self.frame = frame
            self.save()

    def save(self) -> None:
        """Write the file atomically. Raises OSError with its name."""
        write_json(self.path, {"frame": self.frame, "objects": {str(i): given for i, given in self.objects.items()}})

    def colour(self, object_id: ObjectId) -> str:
        """Return the colour of an object as #rrggbb: the chosen one, or the same as in overlays."""
        chosen = self.objects.get(object_id, {}).get("colour")
        return chosen or "#{:02x}{:02x}{:02x}".format(*colour(object_id))

    def flag(self, object_id: ObjectId, name: str) -> bool:
        """Return True if an object is `hidden` or `guarded`."""
        return bool(self.objects.get(object_id, {}).get(name, False))


def _is_valid(name: str, value: Any) -> bool:
    if name in ("name", "auto"):
        return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and value.isprintable()
    if name == "colour":
        return isinstance(value, str) and is_colour(value)
    return name in ("hidden", "guarded", "listed", "pending") and isinstance(value, bool)
