"""Reading: following with a cursor, finding by id, walking everything.

A reader needs nothing from the writers but their files. It goes up to each segment's durable mark and no further, and
what it can't read it reports: no record is passed over in silence.
"""

from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from heapq import merge
from pathlib import Path
from typing import TypeVar

from monitors.log import tensors
from monitors.log.contract import Cursor, Place, Report
from monitors.log.cursors import Standing, end_of, read_standing
from monitors.log.errors import LogCorrupt
from monitors.log.follower import Follower, Take, headers, headers_as, whole
from monitors.log.lookup import candidates, in_segment
from monitors.log.record import Record, id_milliseconds
from monitors.log.segment import (
    HEADER_BYTES,
    Mark,
    Segment,
    numbers,
    segment_path,
    writers,
)
from monitors.log.signed import Envelope, Notary
from monitors.log.verify import Progress, verify

Form = TypeVar("Form")


class LogReader:
    """Reads the log in a directory, beside its writers. Not to be shared between threads.

    A cursor's place is (segment number, offset of a frame).
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._followed: dict[str, Segment] = {}
        self._turn = 0

    def read(
        self, cursor: Cursor, limit: int = 10_000, *, with_payload: bool = False
    ) -> tuple[list[Record], dict[str, Place]]:
        """Read what is durable behind the cursor, each writer's records in their order.

        Whole frames are read until there are `limit` records, so there may be some more. Returns the records and the
        cursor behind them, at once when there is nothing new. Costs microseconds a writer, and what the new records
        take. With `with_payload`, a record whose payload is damaged comes without it.

        Raises:
            LogCorrupt: the next durable frame is damaged, or records are missing; `skip` gives the cursor behind it.
        """
        return self.read_frames(whole if with_payload else headers, cursor, limit)

    def read_as(self, form: type[Form], cursor: Cursor, limit: int = 10_000) -> tuple[list[Form], dict[str, Place]]:
        """As `read`, in another form: a `msgspec.Struct` with some of a record's fields.

        To decode what nobody looks at, a record at a time, is most of what reading costs.
        """
        return self.read_frames(headers_as(form), cursor, limit)

    def read_frames(self, take: Take[Form], cursor: Cursor, limit: int) -> tuple[list[Form], dict[str, Place]]:
        """As `read`, with what `take` makes of each frame."""
        found: list[Form] = []
        moved = {writer: (place[0], place[1]) for writer, place in cursor.items()}
        names = writers(self._directory)
        # Another one is first each time, or a busy writer would starve the others when the follower lags.
        self._turn += 1
        first = self._turn % len(names) if names else 0
        for writer in names[first:] + names[:first]:
            if len(found) >= limit:
                break
            self._follow(writer, moved, found, limit, take)
        return found, moved

    def _follow(self, writer: str, moved: dict[str, Place], found: list[Form], limit: int, take: Take[Form]) -> None:
        number, offset = moved.get(writer) or (next(iter(numbers(self._directory, writer)), 0), HEADER_BYTES)
        try:
            while (segment := self._segment(writer, number)) is not None:
                mark = segment.mark()
                while offset < mark.end and len(found) < limit:
                    frame = segment.frame(offset, mark.end)
                    if frame is None:
                        raise segment.damage(offset, mark.end)
                    found += take(segment, frame)
                    offset = frame.start.end
                    moved[writer] = (number, offset)
                if offset < mark.end or not self._succeeded(segment, mark):
                    return
                number, offset = number + 1, HEADER_BYTES
                moved[writer] = (number, offset)
        except LogCorrupt:
            # What was read before the damage is returned first; the next call begins at the damage and raises.
            if not found:
                raise

    def _segment(self, writer: str, number: int) -> Segment | None:
        segment = self._followed.get(writer)
        if segment is not None and segment.number == number and not segment.removed():
            return segment
        if segment is not None:
            segment.close()
            del self._followed[writer]
        try:
            segment = self._followed[writer] = Segment(self._directory, writer, number)
        except FileNotFoundError:
            later = [one for one in numbers(self._directory, writer) if one > number]
            if later:
                raise self._gap(writer, number, -1, later[0]) from None
            return None
        return segment

    def _succeeded(self, segment: Segment, mark: Mark) -> bool:
        """Say whether the writer has gone on to the next segment, and whether that begins where this one ends."""
        number = segment.number + 1
        try:
            with Segment(self._directory, segment.writer, number) as successor:
                first_seq = successor.header.first_seq
        except FileNotFoundError:
            # While a segment is written it has no successor, and there is no need to look for a later one.
            later = [one for one in numbers(self._directory, segment.writer) if one > number] if mark.closed else []
            if later:
                raise self._gap(segment.writer, number, mark.next_seq, later[0]) from None
            return False
        if segment.mark().end != mark.end:
            # It was written on between our look at the mark and the beginning of the successor.
            return False
        if first_seq != mark.next_seq:
            raise self._gap(segment.writer, number, mark.next_seq, number)
        return True

    def _gap(self, writer: str, number: int, seq: int, resume: int) -> LogCorrupt:
        path = segment_path(self._directory, writer, number)
        return LogCorrupt(path, writer, seq, 0, "missing records", (resume, HEADER_BYTES))

    def skip(self, cursor: Cursor, damage: LogCorrupt) -> dict[str, Place]:
        """Give the cursor behind damage that `read` met: at the next good frame, or where the series goes on."""
        moved = {writer: (place[0], place[1]) for writer, place in cursor.items()}
        return moved if damage.resume is None else {**moved, damage.writer: damage.resume}

    def end(self) -> dict[str, Place]:
        """Return the cursor behind all that is durable now. Raises LogCorrupt."""
        return end_of(self._directory).places

    def follow(self, name: str, standing: Standing | None = None) -> Follower:
        """Follow under a name, from its last commit on; from the beginning when there was none.

        `standing` is where the follower stands by its own account, which then counts. Raises LogError.
        """
        known = standing or read_standing(self._directory, name) or Standing()
        return Follower(self, self._directory, name, known)

    def find(self, prediction_id: str) -> Record | None:
        """Find one record, with its payload, by the time that its id tells.

        Each segment and each frame knows the smallest and largest id in it, so there is nothing to guess about how long
        after its admission a prediction was written.

        Raises:
            ValueError: this is no prediction id.
            LogCorrupt: its payload is damaged, or it was not found and may be in a damaged frame.
        """
        prediction_id = prediction_id.lower()
        milliseconds = id_milliseconds(prediction_id)
        damage: LogCorrupt | None = None
        for writer, number in candidates(self._directory, milliseconds):
            try:
                with Segment(self._directory, writer, number) as segment:
                    record = in_segment(segment, prediction_id, milliseconds)
                    if record is not None:
                        return record
            except FileNotFoundError:
                continue  # Retention was here.
            except LogCorrupt as error:
                if error.kind.startswith("damaged payload"):
                    raise
                damage = error
        if damage is not None:
            raise damage
        return None

    def records(
        self, *, since: float | None = None, with_payload: bool = False, without: Container[tuple[str, int]] = ()
    ) -> Iterator[Record]:
        """Walk all durable records from `since` (seconds since the epoch) on, but those of segments in `without`.

        The writers' series are merged by time; within one of them it is the order of writing.

        Raises:
            LogCorrupt: a durable frame is damaged.
        """
        names = writers(self._directory)
        series = [self._series(writer, since or 0.0, without, with_payload=with_payload) for writer in names]
        return merge(*series, key=lambda record: record.time)

    def _series(
        self, writer: str, since: float, without: Container[tuple[str, int]], *, with_payload: bool
    ) -> Iterator[Record]:
        since_ms = int(since * 1_000)
        for number in numbers(self._directory, writer):
            if (writer, number) in without:
                continue
            # One that is not there any more: retention was here.
            with suppress(FileNotFoundError), Segment(self._directory, writer, number) as segment:
                mark = segment.mark()
                if mark.last_ms < since_ms:
                    continue
                for frame in segment.frames(HEADER_BYTES, mark.end):
                    if frame.start.last_ms < since_ms:
                        continue
                    for entry in frame.entries():
                        record = segment.record(entry)
                        if record.time < since:
                            continue
                        if with_payload:
                            tensors.complete(segment, entry, record)
                        yield record

    def verify(
        self, notary: Notary | None = None, kept: Iterable[Envelope] = (), progress: Progress | None = None
    ) -> Report:
        """Walk every frame of every writer: sums, gapless numbers, chain, payloads, and what was signed of them.

        With a `notary` the signatures of checkpoints are checked; `kept` are checkpoints from elsewhere.
        """
        return verify(self._directory, notary, kept, progress)

    def close(self) -> None:
        """Close the files that are followed; the reader may be used again."""
        for segment in self._followed.values():
            segment.close()
        self._followed.clear()
