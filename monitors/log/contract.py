"""What any prediction log offers, whatever it is kept in: a writer for each worker, and readers beside them.

Segment files are the embedded implementation (`writer`, `reader`). The promises behind these signatures are tested by
`tests/contracts/test_log.py`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from monitors.log.cursors import Standing
from monitors.log.errors import LogCorrupt
from monitors.log.record import Record

OnDurable = Callable[[list[Any], OSError | None], None]
"""Called once for each batch, on a thread of the writer's: its tokens, and None or why they count as not written.
Without tokens, with None: after an error the log can be written again."""
Place = tuple[int, int]
Cursor = Mapping[str, Place]
"""Where a follower stands with each writer; empty is the beginning. It goes through JSON as it is."""


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify` found.

    Each record counts once: records = answered + refused + shadow + tombstones. A tombstone's payload was erased; it
    does not count as what it was before. Records count when their header can be read.

    `bad` counts the places where something is wrong; `first_bad` is the first of them as `writer`, `segment`, `seq`,
    `kind` ("altered", "missing", "reordered") and `message`; with `until_seq` where it can only be said that it is one
    of several. `checkpoint` is the newest that counts: its `time`, `number`, the id of the `key` that signed it (None
    where signatures were not checked), `seqs` up to which it vouches for each writer, and `records_behind` it.

    `counted` are the calls that share a record with others (`Record.calls`), beside the one for which it counts.
    """

    records: int = 0
    answered: int = 0
    refused: int = 0
    shadow: int = 0
    tombstones: int = 0
    counted: int = 0
    bad: int = 0
    first_bad: dict[str, Any] | None = None
    checkpoint: dict[str, Any] | None = None


class LogWriter(Protocol):
    """Writes one worker's records."""

    def append(self, record: Record, token: Any) -> None:
        """Queue a record, from any thread, without waiting; its token comes back through `OnDurable`.

        Raises:
            LogFull: too much waits already, or the writer is closed.
        """
        ...

    def close(self) -> None:
        """Make durable what waits, and end."""
        ...


class NamedFollower(Protocol):
    """Reads on from where it stood when it last committed, under its name."""

    standing: Standing
    """Where it stands, and what it could not read."""

    def read(self, limit: int = 10_000, *, with_payload: bool = False) -> list[Record]:
        """Return about `limit` records behind those that were read last; what can't be read is noted as a gap."""
        ...

    def commit(self) -> None:
        """Make the standing durable. Raises OSError."""
        ...


class LogFollower(Protocol):
    """Reads what all writers have made durable."""

    def read(
        self, cursor: Cursor, limit: int = 10_000, *, with_payload: bool = False
    ) -> tuple[list[Record], dict[str, Place]]:
        """Return about `limit` records behind the cursor, and the cursor behind them; never waits.

        Raises:
            LogCorrupt: what comes next is damaged or missing; `skip` gives the cursor behind it.
        """
        ...

    def skip(self, cursor: Cursor, damage: LogCorrupt) -> dict[str, Place]:
        """Return the cursor behind damage that `read` met."""
        ...

    def follow(self, name: str, standing: Standing | None = None) -> NamedFollower:
        """Follow under a name, from its last commit on; `standing` is where the follower stands by its own account."""
        ...

    def find(self, prediction_id: str) -> Record | None:
        """Return one record with its payload. Raises ValueError for what is no id, LogCorrupt for damage."""
        ...

    def records(self, *, since: float | None = None, with_payload: bool = False) -> Iterator[Record]:
        """Walk all records from a moment on (seconds since the epoch). Raises LogCorrupt."""
        ...

    def verify(self) -> Report:
        """Check everything, and count."""
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...
