"""The videos that the app shows: those of the opened file or folder, uploaded ones, and the bundled example."""

import hashlib
import logging
import os
import re
import unicodedata
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from anyio import to_thread

from cutie_geo.config import require
from cutie_geo.data.example import EXAMPLE_CLIP, example_frames
from cutie_geo.data.index import discover
from cutie_geo.data.io_threads import atomic_write
from cutie_geo.data.listing import visible
from cutie_geo.data.video import is_video, open_source

log = logging.getLogger(__name__)

UPLOADS, SESSIONS = "uploads", "sessions"
"""Folders inside the work folder: uploaded videos, and a session for each video."""
UPLOAD_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".ogv", ".gif"})
LONGEST_STEM = 80
HEAD_BYTES = 16
SIGNATURES = (
    (0, b"\x1a\x45\xdf\xa3"),  # Matroska, WebM
    (0, b"RIFF"),
    (0, b"OggS"),
    (0, b"GIF8"),
    (0, b"\x00\x00\x01\xba"),  # MPEG program stream
    (0, b"\x00\x00\x01\xb3"),  # MPEG video
    (0, b"\x47"),  # MPEG transport stream
    *((4, name) for name in (b"ftyp", b"moov", b"wide", b"mdat", b"free", b"skip")),  # MP4, QuickTime
)
"""Offset and bytes at the start of the containers that may be uploaded.

FFmpeg decides by content and would follow playlists to other files, so they are refused before it sees them."""

Kind = Literal["opened", "uploaded", "example"]


@dataclass(frozen=True)
class Video:
    """One video of the library."""

    id: str
    """Opaque name in addresses."""
    name: str
    path: Path
    kind: Kind
    session: Path
    """Folder of its session."""


class Library:
    """Videos below the opened paths, and the folder of their sessions and uploads.

    Raises:
        ValueError: when constructed, if `source` is missing or has no video.
    """

    def __init__(self, source: Path | None, work: Path) -> None:
        """Find the videos.

        Args:
            source: a video file, a folder of frames, or a folder of either. None: uploads and the example only.
            work: folder for sessions and uploads.
        """
        self.work = work
        self.source = source
        self.videos: dict[str, Video] = {}
        self._reserved: set[Path] = set()
        if source is not None:
            for record in discover(source):
                self._add(record.source, "opened", record.name)
            require(bool(self.videos), f"{source}: no video below it; links to other folders are left out")
            if self.first is not None:
                open_source(self.first.path)  # reports errors before the program starts
        for path in visible(self.uploads) if self.uploads.is_dir() else []:
            if path.suffix.lower() in UPLOAD_SUFFIXES and path.is_file():
                self._add(path, "uploaded")
        self._add(example_frames(), "example", EXAMPLE_CLIP)

    @property
    def uploads(self) -> Path:
        """Folder of uploaded videos."""
        return self.work / UPLOADS

    @property
    def first(self) -> Video | None:
        """The video to show first, if a single one was opened."""
        opened = [video for video in self.videos.values() if video.kind == "opened"]
        return opened[0] if len(opened) == 1 else None

    def _add(self, path: Path, kind: Kind, name: str | None = None) -> Video | None:
        """Add a video; None, with a warning, for one outside of its root."""
        root = {"opened": self.source, "uploaded": self.uploads, "example": path}[kind]
        place = path.resolve()
        if root is None or not place.is_relative_to(root.resolve()):
            log.warning("%s: left out, because it is a link to a place outside of %s", path, root)
            return None
        code = hashlib.sha256(os.fsencode(place)).hexdigest()[:12]
        name = name or path.stem
        video = Video(code, name, path, kind, self.work / SESSIONS / f"{_plain(name)}-{code[:6]}")
        self.videos[code] = video
        return video

    def find(self, code: str) -> Video | None:
        """Return the video with an id."""
        return self.videos.get(code)

    async def upload(self, name: str, chunks: AsyncIterator[bytes], limit: int) -> Path:
        """Write an uploaded video to a hidden file that is renamed once it is complete and known to be a video.

        Args:
            name: the browser's name of the file; only its letters, digits and known suffix are used.
            chunks: its content.
            limit: largest number of bytes.

        Raises:
            ValueError: for another suffix, too many bytes, and content that is not a video.
            OSError: if it cannot be written.
        """
        suffix = Path(name).suffix.lower()
        known = ", ".join(sorted(UPLOAD_SUFFIXES))
        got = suffix[:12] or "without suffix"
        require(suffix in UPLOAD_SUFFIXES, f"{name[:LONGEST_STEM]}: got a file {got}, expected a video: {known}")
        path = self._free(_plain(Path(name).stem), suffix)
        self._reserved.add(path)
        with atomic_write(path) as part:
            size = 0
            with part.open("wb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    require(size <= limit, f"{path.name}: got more than {limit} bytes; --max-upload raises the limit")
                    file.write(chunk)
            await to_thread.run_sync(require_video, part, path.name)
        return path

    def add_upload(self, path: Path) -> Video:
        """Add a file of `upload` to the list."""
        video = self._add(path, "uploaded")
        assert video is not None, "uploads lie in their own folder"
        return video

    def _free(self, stem: str, suffix: str) -> Path:
        """Return a path for an upload that no file has."""
        for number in range(1, 10_000):
            path = self.uploads / (f"{stem}{suffix}" if number == 1 else f"{stem}_{number}{suffix}")
            if not path.exists() and path not in self._reserved:
                return path
        raise ValueError(f"{stem}{suffix}: too many uploads of this name")


def require_video(path: Path, name: str) -> None:
    """Raise ValueError unless a file is a video in one of the containers that may be uploaded."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    known = any(head[start : start + len(text)] == text for start, text in SIGNATURES)
    require(known and is_video(path), f"{name}: the content is not a video that can be read")


def _plain(name: str) -> str:
    """Return a file name's letters, digits, - and _, at least one character."""
    text = unicodedata.normalize("NFKC", name)
    return re.sub(r"[^\w-]+", "_", text).strip("_.-")[:LONGEST_STEM].strip("_") or "video"
