"""Following under a name: every record once behind the last commit, whatever was rotated, sealed, removed or killed.

    follower = LogReader(directory).follow("export")
    records = follower.read()
    ...                         # do something with them
    follower.commit()           # and never see them again

Who dies between the two sees them again. Numbers without gaps are the log's promise, so the follower checks them: where
the next record is not the next number, because retention was quicker or because of damage, that is a `LogGap`, counted
and kept in the standing, and the follower goes on behind it.
"""

import time
from pathlib import Path

from monitors.log.contract import LogFollower
from monitors.log.cursors import LogGap, Standing, write_standing
from monitors.log.errors import LogCorrupt
from monitors.log.record import Record

MISSING = "missing records"


class Follower:
    """Reads on from a standing; `LogReader.follow` makes one. Not to be shared between threads."""

    def __init__(self, reader: LogFollower, directory: Path, name: str, standing: Standing) -> None:
        self.name = name
        self.standing = standing
        self.damage: LogCorrupt | None = None
        """What was met last that could not be read."""
        self._reader = reader
        self._directory = directory
        self._reasons: dict[str, str] = {}

    def read(self, limit: int = 10_000, *, with_payload: bool = False) -> list[Record]:
        """Return about `limit` records behind those that were read last; never waits.

        What can't be read is gone past, and noted. A record whose payload is damaged comes without it.
        """
        while True:
            places = self.standing.places
            try:
                records, self.standing.places = self._reader.read(places, limit, with_payload=with_payload)
            except LogCorrupt as damage:
                self.damage = damage
                self._reasons[damage.writer] = damage.kind
                self.standing.places = self._reader.skip(places, damage)
                if self.standing.places == places:
                    return []  # Its writer may make it good, or begin another segment.
                continue
            self._check(records)
            self.standing.records += len(records)
            return records

    def _check(self, records: list[Record]) -> None:
        """Find what is missing by the numbers."""
        next_seqs = self.standing.next_seqs
        for record in records:
            expected = next_seqs.get(record.writer, 0)
            if record.seq > expected:
                reason = self._reasons.pop(record.writer, MISSING)
                self.standing.pass_over(LogGap(record.writer, expected, record.seq - 1, reason, time.time()))
            next_seqs[record.writer] = record.seq + 1

    def commit(self) -> None:
        """Make the standing durable, for oneself and for all to see. Raises OSError."""
        self.standing.time = time.time()
        write_standing(self._directory, self.name, self.standing)
