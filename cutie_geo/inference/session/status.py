"""Status of the frames of a session."""

from typing import NamedTuple

from cutie_geo.inference.session.plan import ranges_of
from cutie_geo.structures import ObjectId


class Frames(tuple[int, ...]):
    """Ascending frame indices."""

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The frames as [start, stop) ranges."""
        return [(start, stop) for start, stop in ranges_of(self)]


class SessionStatus(NamedTuple):
    """State of the frames of a session."""

    frames: int
    """Number of frames of the video."""
    objects: dict[ObjectId, str]
    """Names of the objects."""
    prompted: dict[ObjectId, Frames]
    """Frames with prompts or a mask of the user, by object."""
    locked: Frames
    propagated: Frames
    """Frames with a propagated mask of any object."""
    stale: Frames
    """Frames with a propagated mask that depends on prompts which changed since."""
    missing: Frames
    """Frames without a mask of an object that is prompted elsewhere."""
    presence: dict[ObjectId, list[float | None]]
    """Mean probability over the object's mask on each frame; 1 where the user gave the mask, None where there is none.
    """
