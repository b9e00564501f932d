"""Live state in one SQLite file: nothing to set up, safe between processes and threads.

SQLite by apsw, which brings its own recent build: releases from 3.7.0 to 3.51.2 can corrupt a write-ahead log that
several processes use, and the interpreter's own `sqlite3` is often one of them.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
import orjson

from state import Change, Conflict, Document

BUSY_MILLISECONDS = 10_000
"""How long a commit waits for another process's; a commit takes one sync, some milliseconds on a slow disk."""
SCHEMA = """
create table if not exists documents (key text primary key, revision integer not null, body blob not null)
    without rowid;
create table if not exists counter (one integer primary key check (one = 1), revision integer not null);
insert or ignore into counter values (1, 0);
"""


class SqliteState:
    """The embedded implementation of `State`."""

    def __init__(self, path: Path) -> None:
        """Open the file, and make it when it is not there. Raises apsw.CantOpenError when neither can be done."""
        self._lock = threading.Lock()
        self._connection = apsw.Connection(str(path))
        self._connection.set_busy_timeout(BUSY_MILLISECONDS)
        self._connection.execute("pragma journal_mode = wal")
        self._connection.execute("pragma synchronous = full")
        # Immediate: several processes open a new home at once, and a transaction that begins with a read and then
        # finds another's write is refused without waiting.
        self._connection.execute("begin immediate;" + SCHEMA + "commit")

    def get(self, key: str) -> Document | None:
        """Return the document, or None."""
        with self._lock:
            row = self._connection.execute("select revision, body from documents where key = ?", (key,)).fetchone()
        return None if row is None else _document((key, *row))

    def list(self, prefix: str) -> list[Document]:
        """Return all documents whose key begins with `prefix`, sorted by key."""
        # The next string after all that begin with the prefix: the index serves the range, no scan.
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else "\U0010ffff"
        with self._lock:
            rows = self._connection.execute(
                "select key, revision, body from documents where key >= ? and key < ? order by key",
                (prefix, end),
            ).fetchall()
        return [_document(row) for row in rows]

    def commit(self, *changes: Change) -> int:
        """Make all changes or none, durably, and return the store's new revision."""
        bodies = [None if change.body is None else orjson.dumps(change.body) for change in changes]
        with self._lock:
            self._connection.execute("begin immediate")
            try:
                revision = self._apply(changes, bodies)
                self._connection.execute("commit")
            except BaseException:
                # A full disk makes SQLite roll back by itself.
                if self._connection.in_transaction:
                    self._connection.execute("rollback")
                raise
        return revision

    def _apply(self, changes: tuple[Change, ...], bodies: Sequence[bytes | None]) -> int:
        execute = self._connection.execute
        (revision,) = _row(execute("update counter set revision = revision + 1 returning revision").fetchone())
        for change, body in zip(changes, bodies, strict=True):
            if change.expected is not None:
                row = execute("select revision from documents where key = ?", (change.key,)).fetchone()
                found = 0 if row is None else row[0]
                if found != change.expected:
                    raise Conflict(change.key, change.expected, found)
            if body is None:
                execute("delete from documents where key = ?", (change.key,))
            else:
                execute("insert or replace into documents values (?, ?, ?)", (change.key, revision, body))
        return int(revision)

    def version(self) -> int:
        """Return a number that differs from the last one iff anybody committed since."""
        with self._lock:
            return int(_row(self._connection.execute("select revision from counter").fetchone())[0])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()


def _document(row: Any) -> Document:
    key, revision, body = row
    return Document(key, revision, orjson.loads(body))


def _row(row: Any) -> tuple[Any, ...]:
    assert row is not None, "the counter's row is made with the schema"
    return tuple(row)
