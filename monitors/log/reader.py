"""Reading: following with a cursor, finding by id, walking everything.

A reader needs nothing from the writers but their files. It goes up to each segment's durable mark and no further.
"""

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from monitors.log.errors import LogCorrupt, LogError
from monitors.log.record import Record, id_milliseconds
from monitors.log.segment import (
    FRAME,
    HEADER_BYTES,
    WRITTEN,
    FrameHeader,
    decode_records,
    frame_digest,
    frame_header,
    next_frame,
    read_frame,
    read_header,
    recover,
    segment_path,
    segments,
)

SLACK_MS = 600_000
"""How long after its admission a record may be written: the longest deadline that the settings accept, ten minutes."""

Cursor = Mapping[str, tuple[int, int]]
"""Where a follower stands in each writer's series: (segment number, offset). Empty is the beginning. JSON-able."""


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify` found."""

    records: int = 0
    answered: int = 0
    refused: int = 0
    shadow: int = 0
    tombstones: int = 0
    first_bad: dict[str, Any] | None = None


@dataclass(slots=True)
class _Chain:
    """Where one writer's chain stands."""

    seq: int | None = None
    digest: bytes = b""
    counts: dict[str, int] = field(default_factory=dict)


class LogReader:
    """Reads the log in a directory, beside its writers."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, cursor: Cursor, limit: int = 10_000) -> tuple[list[Record], dict[str, tuple[int, int]]]:
        """Read what is durable behind the cursor, without payloads: about `limit` records, in each writer's order.

        Returns the records and the cursor behind them; returns at once when there is nothing.

        Raises:
            LogCorrupt: a durable frame is damaged. `skip` gives the cursor behind it.
        """
        found: list[Record] = []
        moved = {writer: (place[0], place[1]) for writer, place in cursor.items()}
        if not self._directory.is_dir():
            return found, moved
        for writer, numbers in segments(self._directory).items():
            number, offset = moved.get(writer, (numbers[0], HEADER_BYTES))
            for current in numbers[bisect_right(numbers, number) - 1 :]:
                if current > number:
                    number, offset = current, HEADER_BYTES
                offset = self._read_segment(writer, number, offset, found, limit)
                moved[writer] = (number, offset)
                if len(found) >= limit:
                    return found, moved
        return found, moved

    def _read_segment(self, writer: str, number: int, offset: int, found: list[Record], limit: int) -> int:
        path = segment_path(self._directory, writer, number)
        with path.open("rb") as file:
            # Read after the listing: a segment that already had a successor then is at its last mark now.
            header = read_header(file, path)
            while offset < header.mark and len(found) < limit:
                frame = read_frame(file, offset)
                if frame is None:
                    seq = header.first_seq if not found else found[-1].seq + 1
                    raise LogCorrupt(path, writer, seq, offset, "damaged frame", next_frame(file, offset))
                found.extend(decode_records(*frame, with_payload=False))
                offset = frame[0].end
        return offset

    def skip(self, cursor: Cursor, damage: LogCorrupt) -> dict[str, tuple[int, int]]:
        """Give the cursor behind damage: at the next good frame of the segment, or at its end."""
        number, _offset = cursor.get(damage.writer, (segments(self._directory)[damage.writer][0], HEADER_BYTES))
        path = segment_path(self._directory, damage.writer, number)
        with path.open("rb") as file:
            resume = damage.resume if damage.resume is not None else read_header(file, path).mark
        return {**cursor, damage.writer: (number, resume)}

    def end(self) -> dict[str, tuple[int, int]]:
        """Return the cursor behind all that is durable now."""
        ends = {}
        for writer, numbers in segments(self._directory).items() if self._directory.is_dir() else ():
            path = segment_path(self._directory, writer, numbers[-1])
            with path.open("rb") as file:
                ends[writer] = (numbers[-1], read_header(file, path).mark)
        return ends

    def find(self, prediction_id: str) -> Record | None:
        """Find one record, with its payload, by the time that its id tells: only frame headers are walked.

        Raises:
            ValueError: this is no prediction id.
        """
        milliseconds = id_milliseconds(prediction_id)
        if not self._directory.is_dir():
            return None
        for writer, numbers in segments(self._directory).items():
            for file, header, end_ms in self._opened(writer, numbers):
                if header.epoch_ns // 1_000_000 > milliseconds + SLACK_MS:
                    break
                if end_ms is not None and end_ms < milliseconds:
                    continue
                for frame in _frame_headers(file, header.mark):
                    if frame.first_ms <= milliseconds <= frame.last_ms:
                        record = _in_frame(file, frame, prediction_id)
                        if record is not None:
                            return record
        return None

    def _opened(self, writer: str, numbers: list[int]) -> Iterator[tuple[BinaryIO, Any, int | None]]:
        """Open each segment in turn, with its header and the time when the next one was begun (milliseconds)."""
        with ExitStack() as files:
            opened = []
            for number in numbers:
                path = segment_path(self._directory, writer, number)
                file = files.enter_context(path.open("rb"))
                opened.append((file, read_header(file, path)))
            for position, (file, header) in enumerate(opened):
                last = position + 1 == len(opened)
                yield file, header, None if last else opened[position + 1][1].epoch_ns // 1_000_000

    def records(self, *, since: float | None = None, with_payload: bool = False) -> Iterator[Record]:
        """Walk all durable records from `since` (seconds since the epoch) on, writer by writer.

        Raises:
            LogCorrupt: a durable frame is damaged.
        """
        since_ms = 0 if since is None else int(since * 1_000)
        for writer, numbers in segments(self._directory).items() if self._directory.is_dir() else ():
            for file, header, end_ms in self._opened(writer, numbers):
                if end_ms is not None and end_ms < since_ms:
                    continue
                offset = HEADER_BYTES
                while offset < header.mark:
                    frame = read_frame(file, offset)
                    if frame is None:
                        path = segment_path(self._directory, writer, header.number)
                        raise LogCorrupt(path, writer, -1, offset, "damaged frame", next_frame(file, offset))
                    offset = frame[0].end
                    if frame[0].last_ms >= since_ms:
                        found = decode_records(*frame, with_payload=with_payload)
                        yield from (one for one in found if since is None or one.time >= since)

    def verify(self) -> Report:
        """Walk every frame of every writer: sums, gapless numbers, chain. Says what the first bad thing is."""
        counts: dict[str, int] = {}
        for writer, numbers in segments(self._directory).items() if self._directory.is_dir() else ():
            chain = _Chain()
            for file, header, _end_ms in self._opened(writer, numbers):
                bad = _verify_segment(file, header, chain)
                if bad is not None:
                    return _report(counts, {"writer": writer, "segment": header.number, **bad})
            for kind, count in chain.counts.items():
                counts[kind] = counts.get(kind, 0) + count
        return _report(counts, None)


def recover_all(directory: Path) -> list[LogCorrupt]:
    """Mend all segments that no writer has open; call it before any writer starts. Returns the damage that it found."""
    damage = []
    for writer, numbers in segments(directory).items() if directory.is_dir() else ():
        until: int | None = None
        for number in reversed(numbers):
            path = segment_path(directory, writer, number)
            with path.open("rb") as file:
                header = read_header(file, path)
            if header.state == WRITTEN:
                try:
                    recover(path, until)
                except LogCorrupt as error:
                    damage.append(error)
            until = header.first_seq
    return damage


def _frame_headers(file: BinaryIO, mark: int) -> Iterator[FrameHeader]:
    offset = HEADER_BYTES
    while offset < mark:
        header = frame_header(os.pread(file.fileno(), FRAME.size, offset), offset)
        if header is None:
            resume = next_frame(file, offset)
            if resume is None:
                return
            offset = resume
            continue
        yield header
        offset = header.end


def _in_frame(file: BinaryIO, header: FrameHeader, prediction_id: str) -> Record | None:
    frame = read_frame(file, header.offset)
    if frame is None:
        msg = f"{file.name}: the frame at byte {header.offset}, which may hold {prediction_id}, is damaged"
        raise LogError(msg)
    for record in decode_records(*frame, with_payload=True):
        if record.id == prediction_id:
            return record
    return None


def _verify_segment(file: BinaryIO, header: Any, chain: _Chain) -> dict[str, Any] | None:
    if chain.seq is None:
        chain.seq, chain.digest = header.first_seq, header.previous
    if (header.first_seq, header.previous) != (chain.seq, chain.digest):
        return {
            "seq": chain.seq,
            "kind": "missing",
            "message": "the segment does not go on from the one before",
        }
    offset = HEADER_BYTES
    while offset < header.mark:
        frame = read_frame(file, offset)
        if frame is None:
            return {"seq": chain.seq, "kind": "altered", "message": f"damaged frame at byte {offset}"}
        if frame[0].first_seq != chain.seq or frame[0].previous != chain.digest:
            return {
                "seq": chain.seq,
                "kind": "reordered",
                "message": f"the frame at byte {offset} is not the next one",
            }
        for record in decode_records(*frame, with_payload=False):
            chain.counts[record.kind] = chain.counts.get(record.kind, 0) + 1
        chain.seq += frame[0].count
        chain.digest = frame_digest(*frame)
        offset = frame[0].end
    return None


def _report(counts: dict[str, int], first_bad: dict[str, Any] | None) -> Report:
    return Report(
        records=sum(counts.values()),
        answered=counts.get("answered", 0),
        refused=counts.get("refused", 0),
        shadow=counts.get("shadow", 0),
        first_bad=first_bad,
    )
