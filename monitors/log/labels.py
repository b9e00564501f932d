"""Labels: what turned out to be true of a prediction, said later, kept with all that was said before.

One SQLite file beside the segments, `labels.db`: the gateway and the command line write it at once, nothing that was
acknowledged is lost to a kill, and a million labels take some 200 MB. Three tables:

    labels   said of a prediction that is in the log, numbered in the order in which they were joined
    waiting  said of one that was not found (yet), or of a client id that several predictions have
    clients  which prediction a client's own id means; only there once somebody has labelled by such an id

**Nothing that was said is changed.** The label that was said last of a row, under a name, is the one that holds; the
ones before are its history. Saying the same again is once: with a `time` when the same source has said the same of that
time, without one when it is what the source said last. So a file that is sent twice changes nothing, and does not undo
what somebody else has corrected since.

`read` gives labels in the order of their numbers: a follower keeps the last one, and misses none.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import apsw
import orjson

from monitors.log.columns import day
from monitors.log.label_schema import SAID, SCHEMA, TEXT

FILE = "labels.db"
LABEL = "label"
"""The name of a label that has no other: the truth about what the model predicts."""
RECENT_ROWS = 1_000
"""Labelled rows that the accuracy is counted over: a share of 90 % is then known to ±2 points."""
BUSY_MILLISECONDS = 10_000
"""How long a call waits for another process's: ten thousand labels take a third of a second."""
PROJECTED = "parquet"
"""Under this name is kept up to which number labels are in Parquet."""

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Label:
    """A label as it is given: of a prediction, or of what a client called its request.

    `row` is the row of a request with several; None means the whole request. `time` is when it was found out, in
    seconds since the epoch; None: when it comes. `source` is who says so.
    """

    value: Scalar
    prediction: str | None = None
    client_id: str | None = None
    row: int | None = None
    name: str = LABEL
    time: float | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """The prediction that a label is about, and what it says about the answer.

    It has so many `rows`. `correct` where a class was predicted, `loss` (squared error) where a value was; both None
    where neither was.
    """

    prediction: str
    row: int | None
    model: str
    version: str | None
    correct: bool | None = None
    loss: float | None = None
    rows: int = 1


@dataclass(frozen=True, slots=True)
class Held:
    """What is said of a row (None: of all `rows` of its prediction) and holds; `value` is text."""

    prediction: str
    row: int | None
    rows: int
    name: str
    value: str
    time: float
    source: str
    correct: bool | None
    loss: float | None


@dataclass(frozen=True, slots=True)
class Said:
    """A label as it is kept; `number` is its place in the order, `holds` says that nothing newer was said."""

    number: int
    label: Label
    target: Target
    received: float
    holds: bool


class LabelStore:
    """The labels of one home. Safe to use from several threads and processes."""

    def __init__(self, directory: Path) -> None:
        """Open the file in the log's folder, and make it when it is not there."""
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._connection = apsw.Connection(str(directory / FILE))
        self._connection.set_busy_timeout(BUSY_MILLISECONDS)
        self._connection.execute("pragma journal_mode = wal")
        # A label is on the disk before it is acknowledged, and one that is forgotten is overwritten.
        self._connection.execute("pragma synchronous = full")
        self._connection.execute("pragma secure_delete = on")
        self._connection.execute("begin immediate;" + SCHEMA + "commit")

    def add(self, found: Sequence[tuple[Label, Target | str]], now: float) -> list[str]:
        """Keep labels, durably, each with its target, or with why it has none.

        Returns of each `accepted`, `duplicate` or `unmatched`.
        """
        with self._writing():
            return [
                self._wait(label, target, now) if isinstance(target, str) else self._join(label, target, now)
                for label, target in found
            ]

    def join(self, found: Sequence[tuple[Label, Target, float]]) -> None:
        """Join labels that waited, each with when it had come."""
        with self._writing():
            for label, target, received in found:
                self._join(label, target, received)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock:
            # Immediate: one that begins with a read and then finds another's write is refused without waiting.
            self._connection.execute("begin immediate")
            try:
                yield
                self._connection.execute("commit")
            except BaseException:
                # A full disk makes SQLite roll back by itself.
                if self._connection.in_transaction:
                    self._connection.execute("rollback")
                raise

    def _join(self, label: Label, target: Target, now: float) -> str:
        execute, value = self._connection.execute, orjson.dumps(label.value).decode()
        # What waited for its prediction, and is now said again, waits no longer.
        execute(f"delete from waiting where {_waits(label)}", _key(label))  # noqa: S608
        key = (target.prediction, target.row, label.name, label.source)
        where = "prediction = ? and row is ? and name = ? and source = ?"
        if self._is_said(f"labels where {where}", key, value, label.time):
            return "duplicate"
        execute(
            "update labels set superseded = 1 where prediction = ? and row is ? and name = ? and superseded = 0",
            key[:3],
        )
        row = (*key[:2], label.client_id, label.name, value, now if label.time is None else label.time, label.source)
        judged = (target.model, target.version, target.correct, target.loss, target.rows)
        execute(f"insert into labels ({SAID}) values (null, {'?, ' * 12}?)", (*row, now, *judged))  # noqa: S608
        execute(
            "insert into totals values (?, ?, 1) on conflict do update set labels = labels + 1",
            (target.model, target.version or ""),
        )
        return "accepted"

    def _wait(self, label: Label, why: str, now: float) -> str:
        value = orjson.dumps(label.value).decode()
        if self._is_said(f"waiting where {_waits(label)}", _key(label), value, label.time):
            return "duplicate"
        client = None if label.client_id is None else hashed(label.client_id)
        self._connection.execute(
            f"insert into waiting values (null{', ?' * 10})",  # noqa: S608 - question marks, so many
            (
                label.prediction,
                label.row,
                label.client_id,
                client,
                label.name,
                value,
                label.time,
                label.source,
                now,
                why,
            ),
        )
        return "unmatched"

    def _is_said(self, among: str, key: tuple[Any, ...], value: str, time: float | None) -> bool:
        execute = self._connection.execute
        if time is not None:
            same = execute(f"select 1 from {among} and value = ? and time = ? limit 1", (*key, value, time))  # noqa: S608
            return same.fetchone() is not None
        last = execute(f"select value from {among} order by number desc limit 1", key).fetchone()  # noqa: S608
        return last is not None and last[0] == value

    def of(self, prediction: str) -> list[Said]:
        """Return all that was said of a prediction, in the order in which it was."""
        return self._said("prediction = ? order by number", (prediction,))

    def read(self, after: int, limit: int = 10_000) -> list[Said]:
        """Return the labels behind number `after` (0: from the first on): what a follower has not seen yet."""
        return self._said("number > ? order by number limit ?", (after, limit))

    def current(self, since: float = 0.0, rows: int = 100_000) -> Iterator[dict[str, list[Any]]]:
        """Yield the labels that hold, of predictions since a moment, as columns of so many rows each.

        They are the label's side of the inference table: `prediction_id`, `row` (null: all rows of the request),
        `label_name`, `label` (text), `label_time` (seconds since the epoch), `label_source`, `correct` and `loss`.
        """
        # An id begins with its time, so that ids sort by it.
        first, after = id_at(since), 0
        query = (
            f"select number, prediction, row, name, {TEXT}, time, source, correct, loss from labels "  # noqa: S608
            "where number > ? and superseded = 0 and prediction >= ? order by number limit ?"
        )
        while True:
            with self._lock:
                found = self._connection.execute(query, (after, first, rows)).fetchall()
            if not found:
                return
            numbers, *columns = (list(column) for column in zip(*found, strict=True))
            after = numbers[-1]
            names = ("prediction_id", "row", "label_name", "label", "label_time", "label_source", "correct", "loss")
            part = dict(zip(names, columns, strict=True))
            yield part | {"correct": [None if one is None else bool(one) for one in part["correct"]]}

    def changed(self, after: int) -> tuple[int, set[tuple[str, str]]]:
        """Return the newest label's number (0: none), and of which models and days (UTC) labels came behind `after`."""
        # An id begins with its milliseconds, in hexadecimal.
        query = "select distinct model, substr(prediction, 1, 13) from labels where number > ? and number <= ?"
        with self._lock:
            [(last,)] = self._connection.execute("select coalesce(max(number), 0) from labels").fetchall()
            rows: list[Any] = self._connection.execute(query, (after, last)).fetchall()
        assert isinstance(last, int), "a number is"
        return last, {(model, day(int(digits.replace("-", ""), 16) / 1_000)) for model, digits in rows}

    def holding(self, model: str, first: str, behind: str) -> list[Held]:
        """Return what holds of a model's predictions with ids in a range, what is said of whole ones first."""
        query = (
            f"select prediction, row, rows, name, {TEXT}, time, source, correct, loss from labels "  # noqa: S608
            "where prediction >= ? and prediction < ? and model = ? and superseded = 0 order by row is not null, number"
        )
        with self._lock:
            rows = self._connection.execute(query, (first, behind, model)).fetchall()
        return [_held(row) for row in rows]

    def _said(self, where: str, bindings: tuple[Any, ...]) -> list[Said]:
        with self._lock:
            rows = self._connection.execute(f"select {SAID}, superseded from labels where {where}", bindings).fetchall()  # noqa: S608
        return [_said(row) for row in rows]

    def waiting(self) -> int:
        """Return how many labels have no prediction."""
        with self._lock:
            [(count,)] = self._connection.execute("select count(*) from waiting").fetchall()
        assert isinstance(count, int), "a count is"
        return count

    def waiting_for(
        self, *, predictions: Iterable[str] = (), clients: Iterable[bytes] = ()
    ) -> list[tuple[Label, float]]:
        """Return the labels that wait for one of these (prediction ids, hashes of client ids), and when they came."""
        rows: list[Any] = []
        columns = "prediction, row, client_id, name, value, time, source, received"
        with self._lock:
            for column, values in (("prediction", predictions), ("client", clients)):
                query = f"select {columns} from waiting where {column} = ? order by number"  # noqa: S608
                for value in values:
                    rows += self._connection.execute(query, (value,)).fetchall()
        return [(_label(row[:-1]), row[-1]) for row in rows]

    def waiting_predictions(self, since: float) -> list[str]:
        """Return the ids, given since a moment, that labels wait for."""
        query = "select distinct prediction from waiting where prediction >= ?"
        with self._lock:
            rows = self._connection.execute(query, (id_at(since),))
            return [row[0] for row in rows]

    def by_client(self, client_id: str) -> list[str]:
        """Return the predictions that were called so by their client."""
        with self._lock:
            rows = self._connection.execute("select prediction from clients where client = ?", (hashed(client_id),))
            return [row[0] for row in rows]

    def place(self, name: str) -> Any:
        """Return where a reader of the log stands that keeps its place here, or None."""
        with self._lock:
            row = self._connection.execute("select body from places where name = ?", (name,)).fetchone()
        return None if row is None else orjson.loads(row[0])

    def move(self, name: str, body: Any, clients: Sequence[tuple[bytes, str]] = ()) -> None:
        """Keep a reader's place, together with what it found: hashes of client ids, and the prediction of each."""
        with self._writing():
            self._connection.executemany("insert or ignore into clients values (?, ?)", clients)
            self._connection.execute("insert or replace into places values (?, ?)", (name, orjson.dumps(body)))

    def forget(self, predictions: Iterable[str]) -> int:
        """Erase all that was said of some predictions, by whatever id; return how many labels it was."""
        execute, erased = self._connection.execute, 0
        gone = set(predictions)
        with self._writing():
            # What was made of them is made again, without them.
            execute("delete from places where name = ?", (PROJECTED,))
            # The index is by client: its rows of some predictions are found by one walk, for all of them together.
            indexed = execute("select client, prediction from clients").fetchall() if gone else []
            clients = {client for client, prediction in indexed if prediction in gone}
            for entry in [row for row in indexed if row[1] in gone]:
                execute("delete from clients where client = ? and prediction = ?", entry)
            for table, column, values in (
                ("labels", "prediction", gone),
                ("waiting", "prediction", gone),
                ("waiting", "client", clients),
            ):
                for value in values:
                    execute(f"delete from {table} where {column} = ?", (value,))  # noqa: S608
                    erased += self._connection.changes()
        with self._lock:
            # Else the pages as they were lie in the write-ahead log.
            execute("pragma wal_checkpoint(truncate)").fetchall()
        return erased

    def accuracy(self) -> list[dict[str, Any]]:
        """Return of each version its `labels`, and of its newest labelled rows `accuracy` and mean `loss` (or None)."""
        found = []
        with self._lock:
            execute = self._connection.execute
            for model, version, labels in execute("select model, version, labels from totals").fetchall():
                one = {"model": model, "version": version, "labels": labels}
                for column, name in (("correct", "accuracy"), ("loss", "loss")):
                    newest = (
                        f"select {column} as one from labels where model = ? and version = ? and {column} is not null "  # noqa: S608
                        "and superseded = 0 order by number desc limit ?"
                    )
                    [(mean, rows)] = execute(
                        f"select avg(one), count(*) from ({newest})",  # noqa: S608
                        (model, version, RECENT_ROWS),
                    ).fetchall()
                    one |= {name: mean, f"{name}_rows": rows}
                found.append(one)
        return found

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()


def _waits(label: Label) -> str:
    """The condition under which a label that waits is about the same, and from the same source; by an index."""
    return f"{'client' if label.prediction is None else 'prediction'} = ? and row is ? and name = ? and source = ?"


def _key(label: Label) -> tuple[Any, ...]:
    about = label.prediction if label.client_id is None else hashed(label.client_id)
    return about, label.row, label.name, label.source


def hashed(client_id: str) -> bytes:
    """Return what stands for a client's id in the index: sixteen bytes, however long the id is."""
    return blake2b(client_id.encode(errors="surrogatepass"), digest_size=16).digest()


def id_at(seconds: float) -> str:
    """Return what sorts before the id of every prediction from a moment on, and behind those of all before it.

    >>> id_at(1_700_000_000.123)
    '018bcfe5-687b'
    """
    digits = f"{int(seconds * 1_000):012x}"
    return f"{digits[:8]}-{digits[8:]}"


def _label(row: Any) -> Label:
    prediction, number, client_id, name, value, time, source = row
    return Label(orjson.loads(value), prediction, client_id, number, name, time, source)


def _held(row: Any) -> Held:
    prediction, number, rows, name, value, time, source, correct, loss = row
    return Held(prediction, number, rows, name, value, time, source, None if correct is None else bool(correct), loss)


def _said(row: Any) -> Said:
    number, *said, received, model, version, correct, loss, rows, superseded = row
    label = _label(said)
    target = Target(said[0], label.row, model, version, None if correct is None else bool(correct), loss, rows)
    return Said(number, label, target, received, not superseded)
