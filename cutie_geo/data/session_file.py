"""File of a session, read only: prompts, propagated masks and approved label maps of one video in a SQLite database."""

import sqlite3
import threading
import weakref
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32

from cutie_geo.config import parse_json, require
from cutie_geo.structures import ObjectId

FILE = "session.sqlite"
"""Name of a session's file in its folder."""
FORMAT, VERSION = "cutie_geo session", 1
"""Name and version of the format, both written to the file."""
MAGIC = b"SQLite format 3\0"
TABLES = {
    "meta": "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "cells": "CREATE TABLE cells (kind TEXT, frame INTEGER, object INTEGER, info TEXT NOT NULL, mask BLOB, "
    "PRIMARY KEY (kind, frame, object))",
    "changes": "CREATE TABLE changes (step INTEGER, kind TEXT, frame INTEGER, object INTEGER, info TEXT, mask BLOB, "
    "PRIMARY KEY (step, kind, frame, object))",
    "steps": "CREATE TABLE steps (step INTEGER PRIMARY KEY, action TEXT NOT NULL, mask BLOB)",
}
"""Tables. A change has the cell's content before the step, after an undo that of after the step; `info` is NULL where
there is no cell.
"""

Info = dict[str, Any]


class Key(NamedTuple):
    """Place of a cell."""

    kind: str
    """`object`, `anchor` (prompt or mask of the user), `layer` (propagated mask) or `lock`."""
    frame: int = -1
    object: int = 0


KINDS = ("object", "anchor", "layer", "lock")


class SessionFile:
    """Cells of a session on disk. All infos are in memory, packed masks are read on request.

    Args:
        path: File to open, read only.

    Raises:
        ValueError: If the file cannot be read as a session, or has a later version.
    """

    def __init__(self, path: Path) -> None:
        require_session(path)
        with readable(path):
            uri = f"{path.absolute().as_uri()}?mode=ro"
            self._attach(path, sqlite3.connect(uri, uri=True, check_same_thread=False, timeout=10))
            self._read()

    def _attach(self, path: Path, db: sqlite3.Connection) -> None:
        self.path, self._db = path, db
        self.lock = threading.RLock()
        weakref.finalize(self, db.close)
        db.execute("PRAGMA trusted_schema = OFF")

    def _read(self) -> None:
        """Read meta entries and infos. Raises ValueError for other databases and later versions."""
        self._require_tables()
        self.meta: Info = {
            str(name): parse_json(value, f"{self.path}: {name}")
            for name, value in self._db.execute("SELECT name, value FROM meta")
        }
        self._require_version()
        self.infos: dict[Key, Info] = {}
        self._read_infos()

    def mask(self, key: Key) -> bytes | None:
        """Return the packed mask of a cell; None if there is no cell, or no mask in it."""
        with self.lock, readable(self.path):
            row = self._db.execute(
                "SELECT mask FROM cells WHERE kind = ? AND frame = ? AND object = ?", tuple(key)
            ).fetchone()
        return row[0] if row and isinstance(row[0], bytes) else None

    def object_ids(self) -> list[ObjectId]:
        """Return the objects in the order of creation."""
        ids = [key.object for key in self.infos if key.kind == "object"]
        return sorted(ids, key=lambda i: (self.infos[Key("object", object=i)]["order"], i))

    def labels(self, index: int, size: tuple[int, int], ids: Iterable[ObjectId]) -> Int32[np.ndarray, "H W"]:
        """Return the label map of a frame: the approved one, else its masks, those of the user first.

        Args:
            index: Frame.
            size: Height and width of the frames.
            ids: All objects, in the order of creation.

        Raises:
            ValueError: If a mask is damaged.
        """
        lock = Key("lock", index)
        if lock in self.infos:
            return unpack_labels(self.mask(lock) or b"", size, f"{self.path}: locked {index}")
        ids = list(ids)
        prompted = [i for i in ids if Key("anchor", index, i) in self.infos]
        masks: dict[ObjectId, Bool[np.ndarray, "H W"]] = {}
        over: dict[ObjectId, list[ObjectId]] = {}
        for object_id in [*prompted, *(i for i in ids if i not in prompted)]:
            key = Key("anchor" if object_id in prompted else "layer", index, object_id)
            data = self.mask(key) if key in self.infos else None
            if data is not None:
                where = f"{self.path}: frame {index}, object {object_id}"
                masks[object_id], over[object_id] = unpack_mask(data, size, where), self.infos[key]["over"]
        covered = {i: mask.copy() for i, mask in masks.items()}
        for object_id, others in over.items():
            for other in others:
                if other in covered and not (other in prompted and object_id not in prompted):
                    covered[other] &= ~masks[object_id]
        labels = np.zeros(size, np.int32)
        for object_id, mask in covered.items():
            labels[mask & (labels == 0)] = object_id
        return labels

    def close(self) -> None:
        """Close the file. Later calls fail."""
        with self.lock:
            self._db.close()

    # ----------------------------------------------------------------------------------------------------- details
    def _require_tables(self) -> None:
        """Raise ValueError unless the file has exactly the tables of this format; triggers and views could run SQL."""
        found = self._db.execute("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_autoindex_%'")
        require(
            set(found) == {("table", name) for name in TABLES},
            f"{self.path}: is another database, expected the file of a session",
        )

    def _require_version(self) -> None:
        named = self.meta.get("format")
        require(named == FORMAT, f"{self.path}: got format {named!r:.40}, expected {FORMAT!r}")
        version = self.meta.get("version")
        require(version == VERSION, f"{self.path}: got format version {version!r:.20}, expected {VERSION}")
        cursor = self.meta.get("cursor")
        require(type(cursor) is int and 0 <= cursor <= self._last(), f"{self.path}: got cursor {cursor!r:.20}")

    def _read_infos(self) -> None:
        for kind, frame, object_id, info in self._db.execute("SELECT kind, frame, object, info FROM cells"):
            where = f"{self.path}: {kind} {frame} {object_id}"
            good = kind in KINDS and type(frame) is int and type(object_id) is int
            require(good, f"{where}: unknown cell")
            content = parse_json(info, where)
            require(isinstance(content, dict), f"{where}: expected an object")
            self.infos[Key(kind, frame, object_id)] = content

    def _last(self) -> int:
        return int(self._db.execute("SELECT COALESCE(MAX(step), 0) FROM steps").fetchone()[0])


def require_session(path: Path) -> None:
    """Raise ValueError unless a file is a SQLite database."""
    require(path.is_file(), f"{path}: no such file, expected a session that was made before")
    with path.open("rb") as file:
        require(file.read(len(MAGIC)) == MAGIC, f"{path}: cannot be read as a session: not a SQLite database")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raise errors of SQLite as ValueError with the file's name, or as OSError if the disk is full."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(0, str(error), str(path)) from error
    except sqlite3.Error as error:
        raise ValueError(f"{path}: cannot be read as a session: {error}") from error


# ------------------------------------------------------------------------------------------------------------- masks
def pack_mask(mask: Bool[np.ndarray, "H W"]) -> bytes:
    """Return a mask as compressed bits."""
    return zlib.compress(np.packbits(mask).tobytes(), 1)


def unpack_mask(data: bytes, size: tuple[int, int], where: str) -> Bool[np.ndarray, "H W"]:
    """Return the mask of `pack_mask`.

    Raises:
        ValueError: beginning with `where`, if the data are damaged or of another size.
    """
    pixels = size[0] * size[1]
    bits = np.frombuffer(_unpacked(data, (pixels + 7) // 8, where), np.uint8)
    return np.unpackbits(bits, count=pixels).view(bool).reshape(size)


def pack_labels(labels: Int32[np.ndarray, "H W"]) -> bytes:
    """Return a label map as compressed 32-bit numbers."""
    return zlib.compress(labels.astype("<i4").tobytes(), 1)


def unpack_labels(data: bytes, size: tuple[int, int], where: str) -> Int32[np.ndarray, "H W"]:
    """Return the label map of `pack_labels`.

    Raises:
        ValueError: beginning with `where`, if the data are damaged or of another size.
    """
    return np.frombuffer(_unpacked(data, size[0] * size[1] * 4, where), "<i4").reshape(size).astype(np.int32)


def _unpacked(data: bytes, count: int, where: str) -> bytes:
    try:
        found = zlib.decompressobj().decompress(data, count + 1)
    except zlib.error as error:
        raise ValueError(f"{where}: damaged mask: {error}") from None
    require(len(found) == count, f"{where}: damaged mask, got {len(found)} bytes or more, expected {count}")
    return found
