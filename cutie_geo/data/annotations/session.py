"""Masks of a session: frames that a person approved, or prompted with all other masks valid."""

import logging
from collections import defaultdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from cutie_geo.config import require
from cutie_geo.data.annotations.shapes import Annotations, Shape, collect
from cutie_geo.data.random_access import video_digest
from cutie_geo.data.session_file import FILE, Key, SessionFile
from cutie_geo.data.video import FrameFolder, VideoFile
from cutie_geo.structures import ObjectId

log = logging.getLogger(__name__)


def is_session(path: Path) -> bool:
    """Return True for the folder of a session."""
    return (path / FILE).is_file()


def session_video(folder: Path) -> Path:
    """Return the video of a session. Raises ValueError if it is missing, or for a damaged file."""
    session = SessionFile(folder / FILE)
    try:
        path = _video(session).get("path")
    finally:
        session.close()
    good = isinstance(path, str) and Path(path).exists()
    require(
        good,
        f"{session.path}: its video {str(path)[:200]} is missing; expected it where it was annotated, or "
        "videos/<name> and masks/<name>/session.sqlite",
    )
    return Path(str(path))


def read_session(folder: Path, source: FrameFolder | VideoFile) -> Annotations:
    """Return the masks of the approved and prompted frames of a session.

    A prompted frame counts if every other object has a valid mask there: prompted, or propagated and not stale.

    Raises:
        ValueError: For the session of another video, a damaged file, and a session without such frames.
    """
    session = SessionFile(folder / FILE)
    known = _video(session)
    require(
        known.get("digest") == video_digest(source),
        f"{session.path}: is the session of another video, {str(known.get('path'))[:200]}; got {source.path}, "
        "expected the same contents",
    )
    _, image = next(iter(source))
    size = (image.shape[0], image.shape[1])  # not that of the file, which may be damaged
    try:
        ids = session.object_ids()
        frames, left_out = _finished(session, ids)
        names = {i: str(session.infos[Key("object", object=i)]["name"]) for i in ids}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{session.path}: damaged: {type(error).__name__}: {error}") from None
    count = None if source.names is None else len(source.names)
    inside = all(index >= 0 and (count is None or index < count) for index in frames)
    require(inside, f"{session.path}: damaged: has frames that the video does not have")
    advice = "propagate, or approve these frames (A in the app, Session.lock)"
    if left_out:
        log.warning(
            "%s: %d prompted frames are left out, because masks of other objects are missing or stale there; %s",
            session.path, len(left_out), advice,
        )  # fmt: skip
    require(
        bool(frames),
        f"{session.path}: no frame is approved, or prompted with valid masks of all objects; {advice}",
    )

    @lru_cache(maxsize=1)
    def labels(index: int) -> np.ndarray:
        try:
            return session.labels(index, size, ids)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{session.path}: frame {index}: damaged: {type(error).__name__}: {error}") from None

    def draw(index: int, object_id: ObjectId) -> Bool[np.ndarray, "H W"]:
        return labels(index) == object_id

    shapes = (
        Shape(
            source.names[index] if source.names else f"{index:05d}",
            object_id,
            names[object_id],
            size,
            partial(draw, index, object_id),
        )
        for index in frames
        for object_id in ids
    )
    return collect(shapes, str(session.path))


def _finished(session: SessionFile, ids: list[ObjectId]) -> tuple[list[int], list[int]]:
    """Return the frames that count as annotated, and prompted ones that do not."""
    locked: set[int] = set()
    valid: dict[int, set[ObjectId]] = defaultdict(set)
    prompted: set[int] = set()
    for key, info in session.infos.items():
        if key.kind == "lock":
            locked.add(key.frame)
        elif key.kind == "anchor":
            prompted.add(key.frame)
            valid[key.frame].add(key.object)
        elif key.kind == "layer" and info["stale"] is False:
            valid[key.frame].add(key.object)
    whole = {index for index in prompted if valid[index] >= set(ids)}
    return sorted(locked | whole), sorted(prompted - whole - locked)


def _video(session: SessionFile) -> dict[str, Any]:
    known = session.meta.get("video")
    if not isinstance(known, dict):
        raise ValueError(f"{session.path}: video: got {known!r:.40}, expected an object")
    return known
