"""Plan of a propagation: which frames of which objects are computed, from where, in what order."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from cutie_geo.config import require
from cutie_geo.structures import ObjectId

Direction = Literal["forward", "backward", "both"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward", "both")
MAX_PERMANENT = 10
"""Maximum number of prompted frames that are in permanent memory before a pass begins."""


@dataclass(frozen=True)
class Request:
    """Requested propagation: frames `start` to `stop` (exclusive), and the direction."""

    start: int
    stop: int
    direction: Direction


@dataclass(frozen=True)
class Pass:
    """One run of a tracker over consecutive frames, forward or backward."""

    number: int
    """Number of the pass, stored with its masks."""
    request: Request
    backward: bool
    source: int
    """First frame of the run, which has input masks."""
    last: int
    """Last frame of the run."""
    permanent: tuple[tuple[int, tuple[ObjectId, ...]], ...]
    """Other frames for permanent memory, with the objects of their input masks; the nearest to the source is last."""
    given: Mapping[int, tuple[ObjectId, ...]]
    """Objects whose propagated masks are used as input masks besides the user's, by frame."""
    frames: Mapping[ObjectId, frozenset[int]]
    """Frames to compute, by object."""

    def order(self) -> range:
        """Return the frames of the run in their order."""
        return range(self.source, self.last - 1, -1) if self.backward else range(self.source, self.last + 1)

    def to_json(self) -> dict[str, Any]:
        """Return the pass as JSON content."""
        request = self.request
        return {
            "number": self.number,
            "request": [request.start, request.stop, request.direction],
            "backward": self.backward,
            "source": self.source,
            "last": self.last,
            "permanent": [[frame, list(ids)] for frame, ids in self.permanent],
            "given": [[frame, list(ids)] for frame, ids in self.given.items()],
            "frames": [[i, ranges_of(frames)] for i, frames in self.frames.items()],
        }

    @classmethod
    def from_json(cls, content: Any, where: str) -> "Pass":
        """Return the pass of `to_json`.

        Raises:
            ValueError: beginning with `where`, for other content.
        """
        try:
            start, stop, direction = content["request"]
            read = cls(
                int(content["number"]),
                Request(int(start), int(stop), direction),
                bool(content["backward"]),
                int(content["source"]),
                int(content["last"]),
                tuple((int(frame), tuple(map(int, ids))) for frame, ids in content["permanent"]),
                {int(frame): tuple(map(int, ids)) for frame, ids in content["given"]},
                {int(i): frozenset(f for a, b in runs for f in range(a, b)) for i, runs in content["frames"]},
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{where}: damaged: {type(error).__name__}: {error}") from None
        require(direction in DIRECTIONS, f"{where}: got direction {direction!r:.20}")
        return read


@dataclass(frozen=True)
class Marks:
    """State of a session's frames that planning needs."""

    anchors: Mapping[ObjectId, Sequence[int]]
    """Frames with a mask of the user (prompted or locked), ascending, by object in the order of creation."""
    locked: frozenset[int]
    is_valid: Callable[[ObjectId, int], bool]
    """True if a propagated mask exists that is not stale."""

    def needed(self, object_id: ObjectId, request: Request) -> list[int]:
        """Return the frames in the requested range whose mask is missing or stale."""
        fixed = self.locked | set(self.anchors[object_id])
        frames = range(request.start, request.stop)
        return [f for f in frames if f not in fixed and not self.is_valid(object_id, f)]

    def has_mask(self, object_id: ObjectId, frame: int) -> bool:
        """Return True if an object has a mask of the user or a valid propagated mask on a frame."""
        return frame in self.anchors[object_id] or self.is_valid(object_id, frame)


@dataclass(frozen=True)
class _Job:
    """Frames of one object that are computed from one side."""

    object_id: ObjectId
    backward: bool
    source: int
    frames: tuple[int, ...]
    """Frames in the order of the run."""


def next_pass(marks: Marks, request: Request, number: int) -> Pass | None:
    """Return the first pass of those that are needed, forward ones first; None if nothing is left.

    A frame is computed from the prompted frame before it or from the one behind it. With `both`, it is the nearer one,
    so that runs from both sides meet in the middle between two prompted frames.
    """
    jobs = [job for object_id in marks.anchors for job in _jobs(marks, object_id, request)]
    for backward in (False, True):
        sign = -1 if backward else 1
        own = sorted((job for job in jobs if job.backward == backward), key=lambda job: sign * job.source)
        if own:
            together, last = [own[0]], own[0].frames[-1]
            for job in own[1:]:
                if sign * job.source > sign * last:
                    break
                together.append(job)
                last = max(last, job.frames[-1], key=lambda frame: sign * frame)
            return _pass(marks, request, number, together, last)
    return None


def _jobs(marks: Marks, object_id: ObjectId, request: Request) -> list[_Job]:
    """Return the jobs of one object."""
    anchors = marks.anchors[object_id]
    found: dict[tuple[bool, int], list[int]] = {}
    for frame in marks.needed(object_id, request):
        before, behind = neighbours(anchors, frame)
        if request.direction == "forward":
            behind = None
        elif request.direction == "backward":
            before = None
        if before is not None and (behind is None or frame - before <= behind - frame):
            found.setdefault((False, before), []).append(frame)
        elif behind is not None:
            found.setdefault((True, behind), []).append(frame)
    jobs = []
    for (backward, origin), frames in found.items():
        ordered = tuple(reversed(frames)) if backward else tuple(frames)
        back = 1 if backward else -1
        source = ordered[0] + back
        while source != origin and not marks.is_valid(object_id, source):
            source += back
        jobs.append(_Job(object_id, backward, source, ordered))
    return jobs


def _pass(marks: Marks, request: Request, number: int, jobs: Sequence[_Job], last: int) -> Pass:
    backward, source = jobs[0].backward, jobs[0].source
    targets = list(dict.fromkeys(job.object_id for job in jobs))
    present = [i for i in marks.anchors if marks.has_mask(i, source)]
    given: dict[int, list[ObjectId]] = {source: present}
    for job in jobs[1:]:
        given.setdefault(job.source, [])
        if job.object_id not in given[job.source]:
            given[job.source].append(job.object_id)
    frames: dict[ObjectId, set[int]] = {}
    for job in jobs:
        frames.setdefault(job.object_id, set()).update(job.frames)
    tracked = [i for i in marks.anchors if i in present or i in targets]
    permanent = []
    for frame in _permanent_frames(marks, targets, source, backward, request.direction):
        if all(marks.has_mask(i, frame) for i in targets):
            permanent.append((frame, tuple(i for i in tracked if marks.has_mask(i, frame))))
    return Pass(
        number,
        request,
        backward,
        source,
        last,
        tuple(permanent),
        {frame: tuple(ids) for frame, ids in given.items() if ids},
        {i: frozenset(own) for i, own in frames.items()},
    )


def _permanent_frames(
    marks: Marks, targets: Sequence[ObjectId], source: int, backward: bool, direction: Direction
) -> list[int]:
    """Return prompted frames of the objects besides the source, the nearest last."""
    frames = {frame for i in targets for frame in marks.anchors[i]} - {source}
    if direction != "both":  # only what lies before the source in the order of the run
        frames = {frame for frame in frames if (frame > source if backward else frame < source)}
    nearest = sorted(frames, key=lambda frame: (abs(frame - source), frame))[:MAX_PERMANENT]
    return nearest[::-1]


def neighbours(anchors: Sequence[int], frame: int) -> tuple[int | None, int | None]:
    """Return the nearest of ascending `anchors` before and behind a frame; None where there is none."""
    low, high = bisect_left(anchors, frame), bisect_right(anchors, frame)
    return (anchors[low - 1] if low > 0 else None), (anchors[high] if high < len(anchors) else None)


def ranges_of(frames: Iterable[int]) -> list[list[int]]:
    """Return sorted frames as [start, stop) ranges."""
    ordered = sorted(set(frames))
    if not ordered:
        return []
    cuts = [i for i, (a, b) in enumerate(pairwise(ordered), start=1) if b != a + 1]
    return [[ordered[a], ordered[b - 1] + 1] for a, b in zip([0, *cuts], [*cuts, len(ordered)])]
