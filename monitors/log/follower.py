"""Following under a name: every record once behind the last commit, whatever was rotated, sealed, removed or killed.

    follower = LogReader(directory).follow("export")
    records = follower.read()
    ...                         # do something with them
    follower.commit()           # and never see them again

Who dies between the two sees them again. Numbers without gaps are the log's promise, so the follower checks them: where
the next frame does not begin with the next number, because retention was quicker or because of damage, that is a
`LogGap`, counted and kept in the standing, and the follower goes on behind it.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from monitors.log import tensors
from monitors.log.contract import Cursor, Place
from monitors.log.cursors import LogGap, Standing, write_standing
from monitors.log.errors import LogCorrupt
from monitors.log.frame import Frame
from monitors.log.record import Record
from monitors.log.segment import Segment

MISSING = "missing records"
Form = TypeVar("Form")
Take = Callable[[Segment, Frame], list[Form]]
"""Makes something of a frame."""


class Frames(Protocol):
    """What a follower needs of a reader; see `LogReader`."""

    def read_frames(self, take: Take[Form], cursor: Cursor, limit: int) -> tuple[list[Form], dict[str, Place]]:
        """Read on behind a cursor. Raises LogCorrupt."""
        ...

    def skip(self, cursor: Cursor, damage: LogCorrupt) -> dict[str, Place]:
        """Return the cursor behind damage."""
        ...


class Follower:
    """Reads on from a standing; `LogReader.follow` makes one. Not to be shared between threads."""

    def __init__(self, frames: Frames, directory: Path, name: str, standing: Standing) -> None:
        self.name = name
        self.standing = standing
        self.damage: LogCorrupt | None = None
        """What was met last that could not be read."""
        self._frames = frames
        self._directory = directory
        self._reasons: dict[str, str] = {}

    def read(self, limit: int = 10_000, *, with_payload: bool = False) -> list[Record]:
        """Return about `limit` records behind those that were read last; never waits.

        What can't be read is gone past, and noted. A record whose payload is damaged comes without it.
        """
        return self._read(whole if with_payload else headers, limit)

    def read_as(self, form: type[Form], limit: int = 10_000) -> list[Form]:
        """As `read`, in another form; see `LogReader.read_as`."""
        return self._read(headers_as(form), limit)

    def _read(self, take: Take[Form], limit: int) -> list[Form]:
        runs: list[tuple[str, int, int]] = []

        def taken(segment: Segment, frame: Frame) -> list[Form]:
            runs.append((segment.writer, frame.start.first_seq, frame.start.end_seq))
            return take(segment, frame)

        while True:
            places = self.standing.places
            try:
                found, self.standing.places = self._frames.read_frames(taken, places, limit)
            except LogCorrupt as damage:
                self.damage = damage
                self._reasons[damage.writer] = damage.kind
                self.standing.places = self._frames.skip(places, damage)
                if self.standing.places == places:
                    return []  # Its writer may make it good, or begin another segment.
                continue
            for writer, first_seq, end_seq in runs:
                self._check(writer, first_seq, end_seq)
            self.standing.records += len(found)
            return found

    def _check(self, writer: str, first_seq: int, end_seq: int) -> None:
        """Find what is missing by the numbers."""
        expected = self.standing.next_seqs.get(writer, 0)
        if first_seq > expected:
            reason = self._reasons.pop(writer, MISSING)
            self.standing.pass_over(LogGap(writer, expected, first_seq - 1, reason, time.time()))
        self.standing.next_seqs[writer] = end_seq

    def commit(self) -> None:
        """Make the standing durable, for oneself and for all to see. Raises OSError."""
        self.standing.time = time.time()
        write_standing(self._directory, self.name, self.standing)


def headers(segment: Segment, frame: Frame) -> list[Record]:
    """Take the records without their payloads."""
    return [segment.record(entry) for entry in frame.entries()]


def whole(segment: Segment, frame: Frame) -> list[Record]:
    """Take the records with their payloads; one that is damaged is left out, and `verify` names it."""
    found = []
    for entry in frame.entries():
        record = segment.record(entry)
        with suppress(LogCorrupt):
            tensors.complete(segment, entry, record)
        found.append(record)
    return found


def headers_as(form: type[Form]) -> Take[Form]:
    """Return what takes all headers of a frame at one stroke."""
    decode = msgspec.msgpack.Decoder(list[form]).decode  # type: ignore[valid-type]
    return lambda _segment, frame: frame.decoded(decode)
