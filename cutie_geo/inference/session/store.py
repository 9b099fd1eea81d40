"""File of a session with every change: the earlier content of changed cells is kept for undo."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cutie_geo.config import parse_json, require
from cutie_geo.data.session_file import FORMAT, TABLES, VERSION, Info, Key, SessionFile, readable, require_session

HISTORY = 500
"""Number of actions that can be undone; the content of older ones is removed."""


class Step(NamedTuple):
    """An action of the user."""

    number: int
    action: Info
    mask: bytes | None


class SessionStore(SessionFile):
    """Cells of a session on disk, with undo and redo.

    A cell has a JSON object `info` and, in some kinds, a packed mask. All infos are in memory, masks are read on
    request. Every change is part of a transaction: a process that is killed leaves the file as it was before or after.

    Args:
        path: File to open, or to create.
        meta: JSON content of a new file; None to open an existing one.

    Raises:
        ValueError: If the file cannot be read as a session, or has a later version.
    """

    def __init__(self, path: Path, meta: Info | None = None) -> None:
        if meta is None:
            require_session(path)
        with readable(path):
            self._attach(path, sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10))
            if meta is not None:
                self._create(meta)
            self._require_tables()
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._read()
            self._version = self._data_version()
        self._changed: dict[Key, Info | None] = {}

    # ------------------------------------------------------------------------------------------------------ reading
    @property
    def cursor(self) -> int:
        """Number of the last action that is not undone."""
        return int(self.meta["cursor"])

    def steps(self) -> list[Step]:
        """Return all actions that are not undone, oldest first."""
        with self.lock, readable(self.path):
            rows = self._db.execute(
                "SELECT step, action, mask FROM steps WHERE step <= ? ORDER BY step", (self.cursor,)
            ).fetchall()
        return [Step(int(n), parse_json(action, f"{self.path}: step {n}"), mask) for n, action, mask in rows]

    # ------------------------------------------------------------------------------------------------------ writing
    @contextmanager
    def step(self, action: Info, mask: bytes | None = None, keep_pending: bool = False) -> Iterator[int]:
        """Make all changes within the block one new action, which can be undone; drop actions that were undone.

        An error undoes the changes of the block.

        Args:
            action: What the user did, as JSON content.
            mask: Packed mask that belongs to it.
            keep_pending: Keep the entry `pending`, which every other action, undo and redo remove.
        """
        with self._transaction():
            number = self.cursor + 1
            if not keep_pending:
                self.set_meta(pending=None)
            self._db.execute("DELETE FROM steps WHERE step >= ?", (number,))
            self._db.execute("DELETE FROM changes WHERE step >= ? OR step <= ?", (number, number - HISTORY))
            text = json.dumps(action)
            self._db.execute("INSERT INTO steps (step, action, mask) VALUES (?, ?, ?)", (number, text, mask))
            self.set_meta(cursor=number)
            yield number

    @contextmanager
    def more_of(self, number: int) -> Iterator[None]:
        """Make the changes within the block part of the last action."""
        with self._transaction():
            require(number == self.cursor, f"{self.path}: another action followed")
            yield

    @contextmanager
    def notes(self) -> Iterator[None]:
        """Write meta entries within the block, which undo does not change."""
        with self._transaction():
            yield

    def put(self, key: Key, info: Info, mask: bytes | None) -> None:
        """Write a cell, within a transaction."""
        self._remember(key)
        self._db.execute("INSERT OR REPLACE INTO cells VALUES (?, ?, ?, ?, ?)", (*key, json.dumps(info), mask))
        self.infos[key] = info

    def put_info(self, key: Key, info: Info) -> None:
        """Write the info of a cell and keep its mask, within a transaction."""
        self._remember(key)
        self._db.execute(
            "UPDATE cells SET info = ? WHERE kind = ? AND frame = ? AND object = ?", (json.dumps(info), *key)
        )
        self.infos[key] = info

    def delete(self, key: Key) -> None:
        """Remove a cell, within a transaction."""
        self._remember(key)
        self._db.execute("DELETE FROM cells WHERE kind = ? AND frame = ? AND object = ?", tuple(key))
        self.infos.pop(key, None)

    def set_meta(self, **values: Any) -> None:
        """Write meta entries, within a transaction; None removes one."""
        for name, value in values.items():
            if value is None:
                self._db.execute("DELETE FROM meta WHERE name = ?", (name,))
                self.meta.pop(name, None)
            else:
                self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, json.dumps(value)))
                self.meta[name] = value

    def undo(self) -> Info | None:
        """Undo the last action and return it; None if there is none."""
        with self._transaction():
            number = self.cursor
            if number == 0 or number <= self._last() - HISTORY:
                return None
            self._swap(number)
            self.set_meta(cursor=number - 1, pending=None)
            return self._action(number)

    def redo(self) -> Info | None:
        """Redo the last undone action and return it; None if there is none."""
        with self._transaction():
            number = self.cursor + 1
            if number > self._last():
                return None
            self._swap(number)
            self.set_meta(cursor=number, pending=None)
            return self._action(number)

    def flush(self) -> None:
        """Move everything into the one file, so that it can be copied."""
        with self.lock, readable(self.path):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    # ----------------------------------------------------------------------------------------------------- details
    def _create(self, meta: Info) -> None:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for statement in TABLES.values():
                self._db.execute(statement)
            content = {"format": FORMAT, "version": VERSION, "cursor": 0, **meta}
            for name, value in content.items():
                self._db.execute("INSERT INTO meta VALUES (?, ?)", (name, json.dumps(value)))

    def _data_version(self) -> int:
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def _action(self, number: int) -> Info:
        text = self._db.execute("SELECT action FROM steps WHERE step = ?", (number,)).fetchone()[0]
        return parse_json(text, f"{self.path}: step {number}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self.lock, readable(self.path):
            meta = dict(self.meta)
            self._db.execute("BEGIN IMMEDIATE")
            self._changed = {}
            try:
                require(
                    self._data_version() == self._version,
                    f"{self.path}: was changed by another session since it was opened; load it again",
                )
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                for key, info in self._changed.items():
                    if info is None:
                        self.infos.pop(key, None)
                    else:
                        self.infos[key] = info
                self.meta = meta
                raise
            finally:
                self._changed = {}

    def _remember(self, key: Key) -> None:
        """Keep the content of a cell before its first change in this action."""
        self._changed.setdefault(key, self.infos.get(key))
        select = "SELECT ?, kind, frame, object, info, mask FROM cells WHERE kind = ? AND frame = ? AND object = ?"
        found = self._db.execute(f"INSERT OR IGNORE INTO changes {select}", (self.cursor, *key)).rowcount
        if not found:
            self._db.execute("INSERT OR IGNORE INTO changes VALUES (?, ?, ?, ?, NULL, NULL)", (self.cursor, *key))

    def _swap(self, number: int) -> None:
        """Exchange the changed cells of an action with their other content."""
        rows = self._db.execute("SELECT kind, frame, object, info, mask FROM changes WHERE step = ?", (number,))
        for kind, frame, object_id, info, mask in rows.fetchall():
            key = Key(kind, frame, object_id)
            self._changed.setdefault(key, self.infos.get(key))
            now = self._db.execute(
                "SELECT info, mask FROM cells WHERE kind = ? AND frame = ? AND object = ?", tuple(key)
            ).fetchone() or (None, None)
            self._db.execute(
                "UPDATE changes SET info = ?, mask = ? WHERE step = ? AND kind = ? AND frame = ? AND object = ?",
                (*now, number, *key),
            )
            if info is None:
                self._db.execute("DELETE FROM cells WHERE kind = ? AND frame = ? AND object = ?", tuple(key))
                self.infos.pop(key, None)
            else:
                self._db.execute("INSERT OR REPLACE INTO cells VALUES (?, ?, ?, ?, ?)", (*key, info, mask))
                self.infos[key] = parse_json(info, f"{self.path}: {key}")
