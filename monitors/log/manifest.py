"""The manifest: what is sealed and projected, in one SQLite file beside the writers' folders, `manifest.db`.

    segments    each sealed segment: which numbers and times, how many records, its size and digest; `projected` is the
                form of its Parquet files, 0 while it has none, and -1 when it is to be looked at again
    files       each Parquet file: of which segment, which model and day, rows, times, size and digest
    bundles     which bundles the records of a segment name
    removed     of each writer, what retention has removed so far
    gaps        what retention removed before a follower had read it

A Parquet file counts when it is here, and a segment's are entered all at once: so every record is in exactly one place
for whoever asks, sealed or not, whatever died when. Only the holder of the sealing lock writes here. The manifest can
be made again from the segments (`log seal --rebuild`), but for `removed` and `gaps`.
"""

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import apsw

FILE = "manifest.db"
BUSY_MS = 5_000
NEVER_MS = (1 << 63) - 1
"""The largest number that SQLite knows; the times of an empty segment lie beyond it."""
SCHEMA = """
PRAGMA user_version = 1;
CREATE TABLE IF NOT EXISTS segments (
    writer TEXT NOT NULL, number INTEGER NOT NULL, first_seq INTEGER NOT NULL, end_seq INTEGER NOT NULL,
    first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL, answered INTEGER NOT NULL, refused INTEGER NOT NULL,
    shadow INTEGER NOT NULL, tensor_files INTEGER NOT NULL, last_offset INTEGER NOT NULL, bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL, projected INTEGER NOT NULL, damage TEXT,
    PRIMARY KEY (writer, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS segments_by_time ON segments (last_ms, first_ms);
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, writer TEXT NOT NULL, number INTEGER NOT NULL, model TEXT NOT NULL, date TEXT NOT NULL,
    rows INTEGER NOT NULL, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL, bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_by_segment ON files (writer, number);
CREATE TABLE IF NOT EXISTS bundles (
    digest TEXT NOT NULL, writer TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (digest, writer, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS removed (
    writer TEXT PRIMARY KEY, segments INTEGER NOT NULL, end_seq INTEGER NOT NULL, answered INTEGER NOT NULL,
    refused INTEGER NOT NULL, shadow INTEGER NOT NULL, bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gaps (
    time TEXT NOT NULL, cursor TEXT NOT NULL, writer TEXT NOT NULL, number INTEGER NOT NULL, first_seq INTEGER NOT NULL,
    end_seq INTEGER NOT NULL, PRIMARY KEY (cursor, writer, number)
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Sealed:
    """One sealed segment. Times are milliseconds since the epoch; `end_seq` is the number behind its last record.

    `last_offset` is its end as cursors count, `bytes` what it takes on the disk, `damage` what of it can't be read.
    """

    writer: str
    number: int
    first_seq: int
    end_seq: int
    first_ms: int
    last_ms: int
    answered: int
    refused: int
    shadow: int
    tensor_files: int
    last_offset: int
    bytes: int
    sha256: str
    projected: int = 0
    damage: str | None = None


@dataclass(frozen=True, slots=True)
class ParquetFile:
    """One file of the projection; `path` is relative to the log's folder `parquet`."""

    path: str
    writer: str
    number: int
    model: str
    date: str
    rows: int
    first_ms: int
    last_ms: int
    bytes: int
    sha256: str


class Manifest:
    """The manifest of one log. Reading is safe beside the sealer."""

    def __init__(self, directory: Path, *, writable: bool = False) -> None:
        """Open it; one that is not there is empty. Raises apsw.Error: it is damaged, or busy for too long."""
        path = directory / FILE
        if writable or path.exists():
            # Readers too must be able to write: they take back what a killed sealer had half done.
            self._connection = apsw.Connection(str(path))
            self._connection.set_busy_timeout(BUSY_MS)
            if writable:
                path.chmod(0o640)
                self._ask("PRAGMA synchronous = FULL")
                self._make()
            elif self._ask("PRAGMA user_version") == [(0,)]:
                self._connection.close()  # A sealer died before it had made anything.
                self._connection = apsw.Connection(":memory:")
                self._make()
        else:
            self._connection = apsw.Connection(":memory:")
            self._make()

    def _make(self) -> None:
        with self._connection:
            self._connection.execute(SCHEMA)

    def put(self, segment: Sealed, files: Iterable[ParquetFile], bundles: Iterable[str]) -> None:
        """Enter a segment with all that belongs to it, in the place of what was known of it."""
        key = (segment.writer, segment.number)
        with self._connection:
            self._delete(*key)
            self._insert("segments", [astuple(segment)])
            self._insert("files", [astuple(one) for one in files])
            self._insert("bundles", [(digest, *key) for digest in bundles])

    def withdraw(self, writer: str, number: int) -> list[str]:
        """Take a segment's files out of the projection, and return their paths; the sealer makes them anew."""
        paths = [one.path for one in self.files(writer, number)]
        with self._connection:
            self._ask("DELETE FROM files WHERE writer = ? AND number = ?", writer, number)
            self._ask("UPDATE segments SET projected = -1 WHERE writer = ? AND number = ?", writer, number)
        return paths

    def remove(self, segments: Iterable[Sealed], gaps: Iterable[tuple[str, str, Sealed]]) -> None:
        """Note that retention removes segments, and which followers (time, cursor, segment) had not read them."""
        with self._connection:
            for one in segments:
                self._delete(one.writer, one.number)
                counts = (one.end_seq, one.answered, one.refused, one.shadow, one.bytes)
                self._ask(
                    "INSERT INTO removed VALUES (?, 1, ?, ?, ?, ?, ?) ON CONFLICT (writer) DO UPDATE SET "
                    "segments = segments + 1, end_seq = excluded.end_seq, answered = answered + excluded.answered, "
                    "refused = refused + excluded.refused, shadow = shadow + excluded.shadow, "
                    "bytes = bytes + excluded.bytes",
                    one.writer,
                    *counts,
                )
            for time, cursor, one in gaps:
                row = (time, cursor, one.writer, one.number, one.first_seq, one.end_seq)
                self._ask("INSERT OR IGNORE INTO gaps VALUES (?, ?, ?, ?, ?, ?)", *row)

    def segments(self) -> list[Sealed]:
        """List the sealed segments, each writer's in their order."""
        return [Sealed(*row) for row in self._ask("SELECT * FROM segments ORDER BY writer, number")]

    def covering(self, milliseconds: int) -> list[tuple[str, int]]:
        """List the segments (writer, number) with ids around a time."""
        asked = "SELECT writer, number FROM segments WHERE last_ms >= ? AND first_ms <= ?"
        return self._ask(asked, milliseconds, milliseconds)

    def known(self) -> set[tuple[str, int]]:
        """Return which segments (writer, number) are here."""
        return set(self._ask("SELECT writer, number FROM segments"))

    def unprojected(self, form: int) -> list[tuple[str, int]]:
        """List the segments (writer, number) whose Parquet files are of an older form, or not there."""
        return self._ask("SELECT writer, number FROM segments WHERE projected < ? ORDER BY writer, number", form)

    def projected(self, since_ms: int = 0, model: str | None = None) -> tuple[set[tuple[str, int]], list[ParquetFile]]:
        """Return the segments that are in Parquet, and the files with records since a time, as of one moment."""
        asked = "SELECT * FROM files WHERE last_ms >= ? AND (? IS NULL OR model = ?) ORDER BY path"
        self._ask("BEGIN")
        try:
            segments = set(self._ask("SELECT writer, number FROM segments WHERE projected > 0"))
            files = [ParquetFile(*row) for row in self._ask(asked, since_ms, model, model)]
        finally:
            self._ask("COMMIT")
        return segments, files

    def files(self, writer: str, number: int) -> list[ParquetFile]:
        """List the Parquet files of one segment."""
        asked = "SELECT * FROM files WHERE writer = ? AND number = ? ORDER BY path"
        return [ParquetFile(*row) for row in self._ask(asked, writer, number)]

    def file_bytes(self) -> dict[tuple[str, int], int]:
        """Return what the Parquet files of each segment (writer, number) take."""
        rows = self._ask("SELECT writer, number, sum(bytes) FROM files GROUP BY writer, number")
        return {(writer, number): size for writer, number, size in rows}

    def paths(self) -> set[str]:
        """Return the paths of all Parquet files that count."""
        return {path for (path,) in self._ask("SELECT path FROM files")}

    def bundles(self) -> set[str]:
        """Return the digests of the bundles that records in sealed segments name."""
        return {digest for (digest,) in self._ask("SELECT DISTINCT digest FROM bundles")}

    def totals(self) -> dict[str, int]:
        """Return what there is in all, and what was removed: numbers by name."""
        row = self._ask(
            "SELECT (SELECT count(*) FROM segments), (SELECT coalesce(sum(bytes), 0) FROM segments), "
            "(SELECT count(*) FROM files), (SELECT coalesce(sum(bytes), 0) FROM files), "
            "(SELECT coalesce(sum(rows), 0) FROM files), (SELECT coalesce(sum(segments), 0) FROM removed), "
            "(SELECT coalesce(sum(answered + refused + shadow), 0) FROM removed), "
            "(SELECT coalesce(sum(end_seq - first_seq), 0) FROM gaps)"
        )[0]
        names = ("segments", "segment_bytes", "files", "file_bytes", "rows")
        return dict(zip((*names, "removed_segments", "removed_records", "gap_records"), row, strict=True))

    def removed(self) -> list[dict[str, Any]]:
        """List what retention has removed of each writer, in numbers."""
        names = ("writer", "segments", "end_seq", "answered", "refused", "shadow", "bytes")
        return [dict(zip(names, row, strict=True)) for row in self._ask("SELECT * FROM removed ORDER BY writer")]

    def gaps(self) -> list[dict[str, Any]]:
        """List what followers will not find any more, newest first."""
        names = ("time", "cursor", "writer", "number", "first_seq", "end_seq")
        rows = self._ask("SELECT * FROM gaps ORDER BY time DESC, cursor, writer, number")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _delete(self, writer: str, number: int) -> None:
        for table in ("segments", "files", "bundles"):
            self._ask(f"DELETE FROM {table} WHERE writer = ? AND number = ?", writer, number)  # noqa: S608 - ours

    def _insert(self, table: str, rows: list[tuple[Any, ...]]) -> None:
        for row in rows:
            self._ask(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", *row)  # noqa: S608 - ours

    def _ask(self, statement: str, *values: Any) -> list[Any]:
        return self._connection.execute(statement, values).fetchall()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
